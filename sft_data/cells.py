"""The step cache: finished pieces of work, each in a folder of its own, named by what it was made from.

A cell is the work of one function on one shard. Its key is a hash of the function's settings and of the *content* of
its inputs, so a cell is reused wherever the same work would be done again: by a rerun after a kill, by a pipeline in
which only a later stage changed, for the old shards when a source was added.

A cell is made in a temporary folder and renamed into place when its record is written: it is there whole, or not.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pyarrow as pa

from sft_data.disk import disk_error
from sft_data.errors import SftDataError, SourceError, StoreError
from sft_data.fingerprint import Stamp, file_sha256, stamp

__all__ = [
    "Cell",
    "FileRef",
    "Task",
    "cell_folder",
    "execute",
    "find_cell",
    "map_arrow",
    "read_file",
    "step_record",
    "write_arrow",
    "write_batches",
    "write_parquet",
    "write_step_record",
]

RECORD = "cell.json"
# A group of rows of a Parquet file has at most so many, and fewer where their texts exceed the limit for one page.
GROUP_ROWS = 32_768
_PAGE_LIMIT = 512 << 20
_ONE_PAGE = 1 << 40


@dataclass(frozen=True)
class FileRef:
    """One file of a cell."""

    key: str  # the cell's key
    name: str  # file name inside the cell
    sha256: str
    bytes: int
    rows: int
    made: Stamp | None = field(default=None, compare=False)  # of a file that was made just now: how it was then

    def path(self, cache: Path) -> Path:
        """Where the file lies."""
        return cell_folder(cache, self.key) / self.name


@dataclass(frozen=True)
class Cell:
    """The record of a finished cell: its files by name, what its function told, and how long it took."""

    key: str
    files: Mapping[str, FileRef]
    told: Mapping[str, Any]
    seconds: float
    fresh: bool = field(default=False, compare=False)  # made just now, not found


@dataclass(frozen=True)
class Task:
    """A cell to be made: `function(folder, *arguments)` writes files into `folder` and returns what it has to tell."""

    key: str
    label: str  # for people: "near-dedup, shard 3"
    function: Callable[..., dict[str, Any]]
    arguments: tuple[Any, ...]
    inputs: tuple[FileRef, ...] = ()  # the cells' files that it reads
    unchanged: tuple[tuple[Path, Stamp], ...] = ()  # other files that it reads, as they were when they were hashed
    cost: int = 0  # how long it takes compared with the others of its step, in any unit: long ones begin first


def cell_folder(cache: Path, key: str) -> Path:
    """Folder of a cell."""
    return cache / "cells" / key[:2] / key


def find_cell(cache: Path, key: str) -> Cell | None:
    """The finished cell of this key, or None where there is none, or one that a power cut or a person left incomplete.

    Cells are not flushed to the disk one by one (a build has thousands of them): after a power cut some are empty or
    short. Those count as not made; what is published is flushed, and hashed again before.
    """
    try:
        record = orjson.loads((cell_folder(cache, key) / RECORD).read_bytes())
        files = {name: FileRef(key=key, name=name, **entry) for name, entry in record["files"].items()}
        cell = Cell(key, files, record["told"], record["seconds"])
        whole = all(ref.path(cache).stat().st_size == ref.bytes for ref in files.values())
    except (FileNotFoundError, NotADirectoryError, orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return None
    return cell if whole else None


def execute(cache: Path, task: Task, mark: str = "") -> Cell:
    """Make a cell, or find it already made. `mark` begins the name of the folder that it is made in."""
    found = find_cell(cache, task.key)
    if found is not None:
        return found
    draft = cache / "tmp" / f"{mark}{task.key[:16]}-{uuid.uuid4().hex}"
    try:
        draft.mkdir(parents=True)
        began = time.perf_counter()
        for ref in task.inputs:
            _check_input(cache, ref)
        told = task.function(draft, *task.arguments)
        for path, before in task.unchanged:
            if stamp(path) != before:
                raise SourceError(f"{path} was changed while it was read; run the build again when it is finished")
        _write_record(draft, told, time.perf_counter() - began)
        return _move(cache, draft, task.key)
    except (SftDataError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        plain = disk_error(error, cache)
        if plain is not None:
            raise plain from error
        error.add_note(f"while making {task.label}")
        raise
    finally:
        _remove(draft)


def _remove(draft: Path) -> None:
    """Nothing of a draft stays, also where Ctrl-C comes twice (a library may raise it, and Python again behind it)."""
    try:
        shutil.rmtree(draft, ignore_errors=True)
    except (KeyboardInterrupt, SystemExit):
        shutil.rmtree(draft, ignore_errors=True)
        raise


# Files that this process has found whole, each with its stamp of then.
_whole: dict[Path, Stamp] = {}


def _check_input(cache: Path, ref: FileRef) -> None:
    """A file that lay in the step cache for days may have been damaged: it is hashed before it is used (1 GB/s).

    One that this build made and nobody changed since is used as it is.
    """
    path = ref.path(cache)
    now = stamp(path)
    if now in (_whole.get(path), ref.made):
        return
    if file_sha256(path) != ref.sha256:
        raise StoreError(
            f"{path} was changed after it was made, so nothing is published; "
            f"remove the folder {path.parent} and build again"
        )
    _whole[path] = now


def _move(cache: Path, draft: Path, key: str) -> Cell:
    """Put a finished cell into its place; where another process was faster, its cell holds the same bytes."""
    target = cell_folder(cache, key)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        draft.rename(target)
    except OSError:
        if find_cell(cache, key) is None and target.exists():
            # What is left of a broken cell gives way.
            shutil.rmtree(target)
            draft.rename(target)
        elif not target.exists():
            raise
    made = find_cell(cache, key)
    if made is None:
        raise StoreError(f"{target} vanished while it was written; is another program cleaning {cache}?")
    files = {name: replace(ref, made=stamp(ref.path(cache))) for name, ref in made.files.items()}
    return replace(made, files=files, fresh=True)


def _write_record(draft: Path, told: dict[str, Any], seconds: float) -> None:
    files = {}
    for path in sorted(draft.iterdir()):
        path.chmod(0o444)
        files[path.name] = {"sha256": file_sha256(path), "bytes": path.stat().st_size, "rows": _rows(path)}
    record = {"files": files, "told": told, "seconds": round(seconds, 4)}
    (draft / RECORD).write_bytes(orjson.dumps(record, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))


def _rows(path: Path) -> int:
    if path.suffix == ".parquet":
        return int(pl.scan_parquet(path).select(pl.len()).collect().item())
    if path.suffix == ".arrow":
        with pa.memory_map(str(path)) as source:
            if source.read(6) == b"ARROW1":
                file = pa.ipc.open_file(source)
                return sum(file.get_batch(i).num_rows for i in range(file.num_record_batches))
            source.seek(0)
            return sum(batch.num_rows for batch in pa.ipc.open_stream(source))
    return 0


def write_parquet(frame: pl.DataFrame, path: Path) -> None:
    """Write a table so that the same content gives the same bytes.

    Polars cuts a column into pages by how much memory its arrays hold on to, rows outside the table included: the same
    rows had other pages where they were a slice of a longer table. So a column is one page in each group of rows, and
    the rows of a group follow from the texts.
    """
    data = BytesIO()
    frame.rechunk().write_parquet(
        data, compression="zstd", compression_level=1, row_group_size=_group_rows(frame), data_page_size=_ONE_PAGE
    )
    _write(data, path)


def _group_rows(frame: pl.DataFrame) -> int:
    """Rows in a group: so few that no page comes near the 2 GiB that the format allows."""
    rows = GROUP_ROWS
    if frame.estimated_size() <= _PAGE_LIMIT:  # never less than the texts take
        return rows
    lengths = frame.select(pl.struct(pl.all()).struct.json_encode().str.len_bytes().cast(pl.Int64)).to_series()
    while rows > 1 and lengths.to_frame("n").select(_most_in_group(rows)).item() > _PAGE_LIMIT:
        rows //= 2
    return rows


def _most_in_group(rows: int) -> pl.Expr:
    """The largest sum of `n` over groups of so many rows."""
    return pl.col("n").sum().over(pl.int_range(pl.len()) // rows).max()


def write_arrow(frame: pl.DataFrame, path: Path) -> None:
    """Write a slim table that is memory-mapped when read again (Arrow IPC file, uncompressed)."""
    data = BytesIO()
    frame.rechunk().write_ipc(data, compression="uncompressed")
    _write(data, path)


def _write(data: BytesIO, path: Path) -> None:
    """Python tells when the disk is full; polars, writing to a path, may leave the end out and say nothing."""
    with path.open("wb") as file:
        file.write(data.getbuffer())


def write_batches(frame: pl.DataFrame, path: Path) -> None:
    """Write a large table in the same form out of the memory in which it lies, without a second copy."""
    table = frame.rechunk().to_arrow()
    with path.open("wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def map_arrow(path: Path) -> pl.DataFrame:
    """Memory-map a table that `write_arrow` wrote: pages come and go with the system's cache (polars would copy)."""
    with pa.memory_map(str(path)) as source:
        return pl.DataFrame(pa.ipc.open_file(source).read_all())


def read_file(cache: Path, ref: FileRef) -> pl.DataFrame:
    """Read a Parquet or Arrow file of a cell."""
    path = ref.path(cache)
    return map_arrow(path) if path.suffix == ".arrow" else pl.read_parquet(path)


def step_record(cache: Path, fingerprint: str) -> dict[str, Any] | None:
    """The record of a finished step, or None where it is not finished or one of its cells is gone or incomplete."""
    try:
        record: dict[str, Any] = orjson.loads((cache / "steps" / f"{fingerprint}.json").read_bytes())
        whole = all(find_cell(cache, key) is not None for key in record["cells"])
    except (FileNotFoundError, orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return record if whole else None


def write_step_record(cache: Path, fingerprint: str, record: dict[str, Any]) -> None:
    """Write a step's record, last of all and by rename."""
    folder = cache / "steps"
    draft = folder / f".{fingerprint}.{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(orjson.dumps(record, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))
        draft.rename(folder / f"{fingerprint}.json")
    except OSError as error:
        raise disk_error(error, cache) or error from error
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
