"""Tables -> rows: CSV and TSV, Parquet, Arrow, YAML lists.

A cell of CSV is text, whatever it looks like: 007 stays 007. Arrow gives every struct all keys of its column; keys
that are null are taken out again, so that no key is invented.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from sft_data.sources.decode import dump, loads
from sft_data.sources.rows import Broken, Json, Rows, shown
from sft_data.sources.settings import Source
from sft_data.sources.streams import Damage

__all__ = ["read_arrow", "read_csv", "read_parquet", "read_yaml"]

_NO_ROWS = np.zeros(0, np.int64)
_BATCH_BYTES = 16 * 2**20  # of a binary table that become rows at a time: long rows come fewer at a time
_YAML_BYTES = 256 * 2**20  # YAML is read whole: a larger file is refused
csv.field_size_limit(2**31 - 1)  # rows are bounded by max_row_bytes, not by a limit inside the csv module


# ---- CSV ------------------------------------------------------------------------------------------------------------


def read_csv(pieces: Iterator[bytes], source: Source, delimiter: str, batch: int) -> Iterator[Rows]:
    """Rows under a header. A row ends at a line feed outside of quotes; one with other than the header's number of
    cells is rejected, and reading goes on at the next line.
    """
    reader = _CsvReader(source, delimiter)
    damage = None
    try:
        for piece in pieces:
            yield from reader.feed(piece, batch, final=False)
    except Damage as caught:
        damage = caught
    yield from reader.feed(b"", batch, final=True)
    if damage is not None:
        broken = Broken(reader.row, None, reader.base + len(reader.held), damage.code, damage.detail, None)
        yield Rows([], _NO_ROWS, [broken])


class _CsvReader:
    def __init__(self, source: Source, delimiter: str) -> None:
        self.source, self.delimiter = source, delimiter
        self.header: list[str] | None = None
        self.headless = False  # the first row was no header: no row below it can be understood
        self.held, self.base, self.line, self.row = b"", 0, 1, 0
        self.counted = (0, 0)  # a place in what is held and the line feeds before it; places only grow

    def feed(self, piece: bytes, batch: int, *, final: bool) -> Iterator[Rows]:
        self.held += piece
        self.counted = (0, 0)
        place = 0
        found: list[tuple[int, int, int, Json]] = []
        broken: list[Broken] = []
        while (end := self._row_end(place, final=final)) is not None:
            self._take(place, end, found, broken)
            place = end
            if len(found) + len(broken) >= batch:
                yield self._rows(found, broken)
                found, broken = [], []
        if found or broken:
            yield self._rows(found, broken)
        self.line += self.held.count(b"\n", 0, place)
        self.base += place
        self.held = self.held[place:]

    def _row_end(self, place: int, *, final: bool) -> int | None:
        """The end of the row that begins at `place`, None where more must be read first."""
        end, quotes = place, 0
        while (feed := self.held.find(b"\n", end)) >= 0:
            quotes += self.held.count(b'"', end, feed)
            end = feed + 1
            if quotes % 2 == 0:
                return end
            if end - place > self.source.limits.max_row_bytes:
                break
        if not final and len(self.held) - place <= self.source.limits.max_row_bytes:
            return None
        first = self.held.find(b"\n", place) + 1  # a quote is never closed: this line alone is the row
        return first or (len(self.held) if place < len(self.held) else None)

    def _take(self, place: int, end: int, found: list[tuple[int, int, int, Json]], broken: list[Broken]) -> None:
        raw = self.held[place:end]
        if not raw.strip():
            return
        try:
            cells = self._cells(raw)
        except (ValueError, csv.Error) as error:
            code = "invalid-encoding" if isinstance(error, UnicodeDecodeError) else "unreadable-row"
            broken.append(self._broken(place, raw, code, str(error)))
            self.headless |= self.header is None
            self.row += 1
            return
        if self.header is None:
            self.header = cells
            return
        found.append((self.row, place, end, dict(zip(self.header, cells, strict=True))))
        self.row += 1

    def _cells(self, raw: bytes) -> list[str]:
        limit = self.source.limits.max_row_bytes
        if self.headless:
            raise ValueError("the header of the table could not be read")
        if len(raw) > limit:
            raise ValueError(f"{len(raw)} > {limit} bytes (max_row_bytes)")
        text = raw.decode("utf-8").rstrip("\r\n")
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=self.delimiter, strict=True))
        if len(rows) != 1:
            raise ValueError("the quotes of this row do not close")
        if self.header is None and len(set(rows[0])) != len(rows[0]):
            raise ValueError("the header names a column twice")
        if self.header is not None and len(rows[0]) != len(self.header):
            raise ValueError(f"{len(rows[0])} cells where the header has {len(self.header)}")
        return rows[0]

    def _broken(self, place: int, raw: bytes, code: str, detail: str) -> Broken:
        begin, feeds = self.counted
        feeds += self.held.count(b"\n", begin, place)
        self.counted = (place, feeds)
        line = self.line + feeds
        return Broken(self.row, line, self.base + place, code, detail, shown(raw.rstrip(b"\r\n")))

    def _rows(self, found: list[tuple[int, int, int, Json]], broken: list[Broken]) -> Rows:
        places = np.array([entry[:3] for entry in found], np.int64).reshape(-1, 3)
        values = [value for _, _, _, value in found]
        number, start, end = places[:, 0], places[:, 1], places[:, 2]
        return Rows(values, number, broken, self.held, start, end, self.base, self.line)


# ---- Parquet and Arrow ----------------------------------------------------------------------------------------------


Opened = Path | AbstractContextManager[IO[bytes]]  # a file, or the unpacked copy of one


def read_parquet(opened: Opened, batch: int) -> Iterator[Rows]:
    """Rows of a Parquet file, a batch at a time."""

    def batches() -> Iterator[pa.RecordBatch]:
        with nullcontext(opened) if isinstance(opened, Path) else _stream(opened) as stream:
            file = pq.ParquetFile(stream)
            yield from file.iter_batches(min(batch, _rows_at_a_time(file.metadata)))

    return _read_batches(batches)


def _rows_at_a_time(told: pq.FileMetaData) -> int:
    """Rows of about _BATCH_BYTES by what the file's own end says of its groups of rows, compression aside."""
    groups = [told.row_group(number) for number in range(told.num_row_groups)]
    longest = max((group.total_byte_size // max(1, group.num_rows) for group in groups), default=0)
    return max(1, _BATCH_BYTES // max(1, longest))


def read_arrow(opened: Opened, batch: int) -> Iterator[Rows]:
    """Rows of an Arrow IPC file or stream, as `save_to_disk` of Hugging Face's datasets writes them."""

    def batches() -> Iterator[pa.RecordBatch]:
        with _stream(opened) as stream:
            if stream.read(6) == b"ARROW1":
                stream.seek(0)
                file = pa.ipc.open_file(stream)
                yield from (file.get_batch(i) for i in range(file.num_record_batches))
                return
            stream.seek(0)
            yield from pa.ipc.open_stream(stream)

    def cut() -> Iterator[pa.RecordBatch]:
        for each in batches():
            yield from (each.slice(start, batch) for start in range(0, each.num_rows, batch))

    return _read_batches(cut)


@contextmanager
def _stream(opened: Opened) -> Iterator[pa.NativeFile]:
    if isinstance(opened, Path):
        with pa.OSFile(str(opened)) as stream:  # a memory map of a damaged file ends the process
            yield stream
    else:
        with opened as copy, pa.PythonFile(copy, mode="r") as stream:
            yield stream


def _read_batches(batches: Callable[[], Iterator[pa.RecordBatch]]) -> Iterator[Rows]:
    row = 0
    try:
        for batch in batches():
            batch.validate(full=True)  # damaged offsets would be followed to anywhere
            rows = max(1, batch.num_rows * _BATCH_BYTES // max(1, batch.nbytes))
            for start in range(0, batch.num_rows, rows):
                values = [_without_nulls(value) for value in batch.slice(start, rows).to_pylist()]
                yield Rows(values, np.arange(row, row + len(values), dtype=np.int64))
                row += len(values)
    except Damage as damage:
        yield Rows([], _NO_ROWS, [Broken(row, None, None, damage.code, damage.detail, None)])
    except (pa.ArrowException, OSError, ValueError) as error:
        broken = Broken(row, None, None, "unreadable-file", f"damaged behind row {row}: {error}"[:500], None)
        yield Rows([], _NO_ROWS, [broken])


def _without_nulls(value: Json) -> Json:
    """Structs without their null keys, at any depth; bytes as text."""
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_nulls(inner) for inner in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


# ---- YAML -----------------------------------------------------------------------------------------------------------


class _NoAliases(yaml.SafeLoader):
    """Safe YAML without aliases: a few lines of them can stand for gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "aliases are not read", self.get_mark())
        return super().compose_node(parent, index)


def read_yaml(pieces: Iterator[bytes], batch: int) -> Iterator[Rows]:
    """Rows of a YAML list, or the list under a file's only key. Small files: YAML cannot be read in pieces."""
    text = bytearray()
    try:
        for piece in pieces:
            text += piece
            if len(text) > _YAML_BYTES:
                raise Damage("file-too-large", f"a YAML file of more than {_YAML_BYTES} bytes; use JSON Lines")
        loader = _NoAliases(text.decode("utf-8"))
        node = loader.get_single_node()
    except (Damage, yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        yield Rows([], _NO_ROWS, [_not_yaml(error)])
        return
    yield from _yaml_rows(loader, node, batch)


def _not_yaml(error: Exception) -> Broken:
    mark = getattr(error, "problem_mark", None)
    line = None if mark is None else mark.line + 1
    code, detail = (error.code, error.detail) if isinstance(error, Damage) else ("unreadable-file", str(error)[:500])
    return Broken(0, line, None, code, detail, None)


def _yaml_rows(loader: _NoAliases, node: yaml.Node | None, batch: int) -> Iterator[Rows]:
    if isinstance(node, yaml.MappingNode) and len(node.value) == 1:
        node = node.value[0][1]
    items = node.value if isinstance(node, yaml.SequenceNode) else [] if node is None else [node]
    for start in range(0, len(items), batch):
        values, numbers, broken = [], [], []
        for number, item in enumerate(items[start : start + batch], start):
            try:
                values.append(loads(dump(_jsonable(loader.construct_object(item, deep=True)))))
                numbers.append(number)
            except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:
                broken.append(Broken(number, item.start_mark.line + 1, None, "unreadable-row", str(error)[:500], None))
        yield Rows(values, np.array(numbers, np.int64), broken)


def _jsonable(value: Json) -> Json:
    """YAML's own types (dates, sets, keys that are no text) as JSON has them."""
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(key): _jsonable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set):
        return [_jsonable(inner) for inner in value]
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
