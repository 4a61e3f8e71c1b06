"""The final files of a version: every table cut anew into files whose bytes do not depend on the working shards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from sft_data import steps as work_of
from sft_data.cells import FileRef, Task, map_arrow, write_parquet
from sft_data.errors import StageError
from sft_data.fingerprint import digest, library_versions
from sft_data.pack.copies import copies, with_copies
from sft_data.pack.curriculum import values_of
from sft_data.pack.plan import Pack, plan
from sft_data.pack.shards import TokenReader, pack_frame, stream_names, write_stream
from sft_data.plan import LAYOUT
from sft_data.row_sizes import cuts
from sft_data.steps import Piece

if TYPE_CHECKING:
    from sft_data.build import Shard, StepResult, Work
    from sft_data.plan import Step

__all__ = ["SPLITS", "pack", "write"]

SPLITS = ("train", "validation", "test")

# Rows of a published Parquet file: 16,384 conversations are some ten megabytes.
FILE_ROWS = 16_384
# Bytes of its texts: long conversations come in fewer rows, so that a worker's memory stays that of short ones.
FILE_BYTES = 64 * 2**20
# Bytes (compressed) and number of the files that are measured together: a worker's share, and many small ledgers.
_MEASURED_BYTES, _MEASURED_FILES = 2**24, 256
# Tokens of a published Arrow file: 8 million of them, with their labels, are 64 MB.
FILE_TOKENS = 2**23
# What decides the bytes of these files besides their content: part of every cell's key.
_MADE_BY = [LAYOUT, library_versions(("numpy", "pyarrow"))]


@dataclass(frozen=True)
class _Table:
    """A table spread over the working shards."""

    files: tuple[FileRef, ...]  # one per shard
    splits: tuple[FileRef, ...]  # the files whose column `split` tells each row's split
    counts: tuple[int, ...]  # rows of the wanted split in each
    sizes: NDArray[np.int64]  # bytes of each of these rows


def write(step: Step, work: Work, above: Sequence[StepResult]) -> Mapping[str, FileRef]:
    """Conversations, tokens and sidecars by split, and the ledgers: path in the version -> file."""
    shards = above[-1].shards
    sidecars = [shard.tables["sidecar"] for shard in shards if "sidecar" in shard.tables]
    ledgers = {
        folder: [ref for result in above for ref in getattr(result, name)]
        for name, folder in (("rejected", "rejections"), ("edited", "edits"))
    }
    refs = [shard.rows for shard in shards]
    light = sum(ref.rows for ref in refs) < FILE_ROWS and sum(ref.bytes for ref in refs) < FILE_BYTES
    every = [*refs, *sidecars, *(ref for ledger in ledgers.values() for ref in ledger)]
    told = _measured(step, work, every, light=light)
    jobs: dict[str, list[Piece]] = {}
    named: dict[Path, FileRef] = {}
    for split in SPLITS:
        rows = _table(refs, told, split)
        jobs |= _by_size(work, rows, split, f"conversations/{split}", named)
        if sidecars:
            jobs |= _token_jobs(work, shards, told, split, named)
    for folder, ledger in ledgers.items():
        jobs |= _by_size(work, _table(ledger, told, None), None, folder, named)
    work.watch.begin(step, len(jobs))
    weighted = any(
        _has_weights(shard.tables["tokens"].path(work.cache)) for shard in shards if "tokens" in shard.tables
    )
    tasks = [_rechunk_task(path, pieces, named, weighted=weighted) for path, pieces in jobs.items()]
    cells = work.engine.run(work.cache, tasks, lambda _: work.watch.advance(), light=light)
    return {path: next(iter(cell.files.values())) for path, cell in zip(jobs, cells, strict=True)}


def pack(step: Step, work: Work, above: Sequence[StepResult]) -> Mapping[str, FileRef]:
    """Pack indexes and materialised packs by split: path in the version -> file."""
    settings = _settings(step)
    files: dict[str, FileRef] = {}
    for split in SPLITS:
        sidecars = _under(above[0].files, f"sidecar/{split}/")
        tokens = _under(above[0].files, f"tokens/{split}/")
        if not sidecars:
            continue
        weights = _weights(step) if split == "train" else {}
        mixed = _mixed(work, above[0].files) if split == "train" else []
        ordered = _under(above[0].files, "conversations/train/") if split == "train" and settings.order else []
        index = _index(work, settings, weights, sidecars, mixed, ordered)
        files[f"pack_index/{split}/00000.parquet"] = index
        files |= _packs(step, work, settings, split, index, tokens)
    return files


def _weights(step: Step) -> dict[str, float]:
    """Weights of the sources that are not packed once."""
    sources = step.pipeline.sources if step.pipeline is not None else ()
    return {source.name: source.weight for source in sources if source.weight != 1.0}


def _mixed(work: Work, files: Mapping[str, FileRef]) -> list[FileRef]:
    """The training conversations, where a mix says how often each of them is packed."""
    rows = _under(files, "conversations/train/")
    return rows if rows and "copies" in pl.scan_parquet(rows[0].path(work.cache)).collect_schema() else []


def _index(
    work: Work,
    settings: Pack,
    weights: Mapping[str, float],
    sidecars: Sequence[FileRef],
    mixed: Sequence[FileRef],
    ordered: Sequence[FileRef],
) -> FileRef:
    inputs = (*sidecars, *mixed, *ordered)
    parts = [settings, dict(weights), [ref.sha256 for ref in inputs], *([len(ordered)] if ordered else [])]
    paths, rows, told = ([ref.path(work.cache) for ref in refs] for refs in (sidecars, mixed, ordered))
    key, arguments = digest("pack-index", _MADE_BY, *parts), (paths, settings, weights, rows, told)
    task = Task(key, "pack index", pack_index, arguments, inputs=tuple(dict.fromkeys(inputs)))
    [cell] = work.engine.run(work.cache, [task], lambda _: None, light=True)
    return cell.files["00000.parquet"]


def _packs(
    step: Step, work: Work, settings: Pack, split: str, index: FileRef, tokens: Sequence[FileRef]
) -> dict[str, FileRef]:
    per_file = max(1, FILE_TOKENS // settings.max_length)
    packs = pl.scan_parquet(index.path(work.cache)).select(pl.col("pack").max() + 1).collect().item() or 0
    starts = range(0, packs, per_file)
    paths = [ref.path(work.cache) for ref in tokens]
    work.watch.begin(step, len(starts))
    tasks = [
        Task(
            digest(
                "packs",
                _MADE_BY,
                settings,
                index.sha256,
                [ref.sha256 for ref in tokens],
                start,
                per_file,
            ),
            f"packs of {split}, file {number}",
            materialise,
            (index.path(work.cache), start, start + per_file, paths),
            inputs=(index, *tokens),
        )
        for number, start in enumerate(starts)
    ]
    cells = work.engine.run(work.cache, tasks, lambda _: work.watch.advance())
    names = stream_names(len(cells))
    return {f"packs/{split}/{n}": cell.files["packs.arrow"] for n, cell in zip(names, cells, strict=True)}


def pack_index(
    folder: Path,
    sidecars: Sequence[Path],
    settings: Pack,
    weights: Mapping[str, float],
    mixed: Sequence[Path] = (),
    ordered: Sequence[Path] = (),
) -> dict[str, Any]:
    """Which rows share a pack; `weights` and the conversations `mixed` say how often a row is packed.

    The conversations `ordered` hold what a curriculum goes by.
    """
    rows = pl.concat([pl.read_parquet(path, columns=["id", "source", "tokens"]) for path in sidecars])
    lengths = rows["tokens"].to_numpy()
    values = values_of(rows, ordered, settings.order.by) if settings.order and ordered else None
    rows = with_copies(rows, mixed)
    if not weights and not mixed:
        index = plan(lengths, settings, values)
    else:
        packed = np.repeat(np.arange(rows.height), copies(rows, weights, settings.seed))
        index = plan(lengths[packed], settings, None if values is None else values[packed])
        index = index.with_columns(row=pl.Series(packed, dtype=pl.Int64).gather(index["row"]))
    write_parquet(index, folder / "00000.parquet")
    return {}


def materialise(folder: Path, index: Path, start: int, stop: int, tokens: Sequence[Path]) -> dict[str, Any]:
    """The packs from number `start` to `stop` as one Arrow stream."""
    chosen = pl.scan_parquet(index).filter(pl.col("pack").is_between(start, stop, closed="left")).collect()
    write_stream(folder / "packs.arrow", pack_frame(chosen, TokenReader(list(tokens))))
    return {}


def _settings(step: Step) -> Pack:
    if step.pipeline is None or step.pipeline.pack is None:
        raise StageError(f"step {step.name} has no pack settings")
    return step.pipeline.pack


def _under(files: Mapping[str, FileRef], prefix: str) -> list[FileRef]:
    return [ref for path, ref in sorted(files.items()) if path.startswith(prefix) and not path.endswith(".json")]


def _measured(step: Step, work: Work, refs: Sequence[FileRef], *, light: bool) -> dict[FileRef, pl.DataFrame]:
    """The bytes of every row of some files, with its split and tokens where the file tells them."""
    groups: list[list[FileRef]] = []
    size = 0
    for ref in dict.fromkeys(refs):
        if not groups or size + ref.bytes > _MEASURED_BYTES or len(groups[-1]) == _MEASURED_FILES:
            groups.append([])
            size = 0
        groups[-1].append(ref)
        size += ref.bytes
    tasks = [
        Task(
            digest("measure", _MADE_BY, [ref.sha256 for ref in group]),
            f"sizes of rows, {number}",
            work_of.measure,
            ([ref.path(work.cache) for ref in group],),
            inputs=tuple(group),
            cost=sum(ref.bytes for ref in group),
        )
        for number, group in enumerate(groups)
    ]
    work.watch.begin(step, len(tasks))
    cells = work.engine.run(work.cache, tasks, lambda _: work.watch.advance(), light=light)
    told: dict[FileRef, pl.DataFrame] = {}
    for group, cell in zip(groups, cells, strict=True):
        table, start = map_arrow(cell.files["sizes.arrow"].path(work.cache)), 0
        for ref in group:
            told[ref] = table.slice(start, ref.rows)
            start += ref.rows
    return told


def _table(
    files: Sequence[FileRef], told: Mapping[FileRef, pl.DataFrame], split: str | None, splits: Sequence[FileRef] = ()
) -> _Table:
    """The rows of a split (None: all) in `files`; `splits` tells it where they do not themselves."""
    splits = splits or files
    wanted = [_of_split(told[ref], told[teller], split) for ref, teller in zip(files, splits, strict=True)]
    sizes = np.concatenate([np.zeros(0, np.int64), *(rows["bytes"].to_numpy() for rows in wanted)])
    return _Table(tuple(files), tuple(splits), tuple(rows.height for rows in wanted), sizes)


def _of_split(rows: pl.DataFrame, teller: pl.DataFrame, split: str | None) -> pl.DataFrame:
    return rows if split is None else rows.filter(teller["split"] == split)


def _token_jobs(
    work: Work,
    shards: Sequence[Shard],
    told: Mapping[FileRef, pl.DataFrame],
    split: str,
    named: dict[Path, FileRef],
) -> dict[str, list[Piece]]:
    sidecars = [shard.tables["sidecar"] for shard in shards]
    sidecar = _table(sidecars, told, split)
    lengths = [_of_split(told[ref], told[ref], split)["tokens"].to_numpy() for ref in sidecars]
    tokens = _Table(tuple(shard.tables["tokens"] for shard in shards), tuple(sidecars), sidecar.counts, sidecar.sizes)
    begin = _token_cuts(np.concatenate(lengths))
    jobs = _by_size(work, sidecar, split, f"sidecar/{split}", named)
    for name, (start, stop) in zip(stream_names(len(begin) - 1), pairwise(begin), strict=True):
        jobs[f"tokens/{split}/{name}"] = list(_pieces(work, tokens, split, start, stop, named))
    return jobs


def _token_cuts(lengths: NDArray[Any]) -> list[int]:
    """Row numbers at which a new file of about FILE_TOKENS tokens starts, with 0 and the number of rows."""
    if len(lengths) == 0:
        return [0]
    file = (np.cumsum(lengths, dtype=np.int64) - lengths) // FILE_TOKENS
    return [0, *(np.flatnonzero(np.diff(file)) + 1).tolist(), len(lengths)]


def _by_size(
    work: Work, table: _Table, split: str | None, folder: str, named: dict[Path, FileRef]
) -> dict[str, list[Piece]]:
    """Files of at most FILE_ROWS rows and about FILE_BYTES: where they end follows from the rows alone."""
    return {
        f"{folder}/{number:05d}.parquet": list(_pieces(work, table, split, start, stop, named))
        for number, (start, stop) in enumerate(pairwise(cuts(table.sizes, FILE_ROWS, FILE_BYTES)))
    }


def _pieces(
    work: Work, table: _Table, split: str | None, start: int, stop: int, named: dict[Path, FileRef]
) -> Iterator[Piece]:
    """The pieces that rows `start`..`stop` of a table consist of."""
    first = 0
    for number, count in enumerate(table.counts):
        low, high = max(start, first), min(stop, first + count)
        if low < high:
            path = table.files[number].path(work.cache)
            named[path] = table.files[number]
            told = None
            if split is not None:
                told = table.splits[number].path(work.cache)
                named[told] = table.splits[number]
            yield Piece(path, low - first, high - low, told, split)
        first += count


def _has_weights(tokens: Path) -> bool:
    return "loss_weights" in map_arrow(tokens).columns


def _rechunk_task(path: str, pieces: Sequence[Piece], named: Mapping[Path, FileRef], *, weighted: bool) -> Task:
    name = "data.arrow" if path.endswith(".arrow") else "data.parquet"
    weighted = weighted and name == "data.arrow"
    parts = [
        [named[p.path].sha256, named[p.split].sha256 if p.split else None, p.start, p.count, p.name] for p in pieces
    ]
    inputs = {named[p] for piece in pieces for p in (piece.path, piece.split) if p is not None}
    key = digest("rechunk", _MADE_BY, name, parts, *(["loss_weights"] if weighted else []))
    cost = sum(p.count for p in pieces)
    return Task(key, path, work_of.rechunk, (pieces, name, weighted), inputs=tuple(inputs), cost=cost)
