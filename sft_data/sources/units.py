"""Files -> units of work, and a unit -> rows.

What a unit is depends on the files alone, never on how many workers there are: a file, or a range of a large plain
JSON Lines file, cut at line ends.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import orjson

from sft_data.sources.archives import is_archive, members
from sft_data.sources.files import SourceFile, plain_suffix
from sft_data.sources.json_lines import read_lines
from sft_data.sources.json_list import read_list
from sft_data.sources.rows import Broken, Rows
from sft_data.sources.settings import Source
from sft_data.sources.streams import Damage, Text, compression_of, encoding_of, read_pieces, unpacked
from sft_data.sources.tables import read_arrow, read_csv, read_parquet, read_yaml

__all__ = ["Unit", "read_rows", "units"]

Layout = Literal[
    "lines", "list", "wrapped", "values", "csv", "tsv", "yaml", "parquet", "arrow", "unsafe-member", "inner-archive"
]

RANGE = 64 * 2**20  # bytes of a plain JSON Lines file that are one unit
BATCH = 4096  # rows decoded at a time

# Members of archives that are not opened: code and reason.
_NOT_READ: dict[str, tuple[str, str]] = {
    "unsafe-member": ("unsafe-member", "its path leaves the archive's folder"),
    "inner-archive": ("unreadable-file", "an archive inside of an archive is not opened: unpack the outer one"),
}

# Keys under which whole data sets are wrapped: {"version": 1, "data": [{...}, ...]}.
_WRAPPING = rb"data|train|validation|valid|test|rows|examples|instances|items|records|samples|dataset|entries|results"
_SCALAR = rb'(?:"(?:[^"\\]|\\.){0,2000}"|[-+.\w]{1,40})'
_WRAPPED = re.compile(
    rb'\{\s*(?:"[^"\\]{0,200}"\s*:\s*' + _SCALAR + rb'\s*,\s*){0,50}"(?:' + _WRAPPING + rb')"\s*:\s*(\[)\s*'
    rb'\{(?!\s*"(?:from|role|value|content|speaker)"\s*:)'
)


@dataclass(frozen=True)
class Unit:
    """A piece of work: a file or a range of it. Small, picklable, the same on every machine but for `path`."""

    name: str  # of the file, as in row ids
    path: Path
    text: Text
    layout: Layout
    opening: int = 0  # byte of the text behind the list's opening bracket
    row: int = 0  # number of the first row
    start: int = 0
    end: int | None = None
    size: int = 0  # bytes as they lie in the file or in the list of its archive


def units(source: Source, files: Sequence[SourceFile]) -> list[Unit]:
    """The units of a source's files, in the order of the files."""
    return [unit for file in files for unit in _units_of(source, file)]


def read_rows(unit: Unit, source: Source, batch: int = BATCH) -> Iterator[Rows]:
    """The rows of a unit in small batches: broken ones too."""
    if unit.layout in {"parquet", "arrow"}:
        packed = unit.text.compression != "none" or unit.text.archive != "none"
        opened = unpacked(unit.path, unit.text, source.limits) if packed else unit.path
        return (read_parquet if unit.layout == "parquet" else read_arrow)(opened, batch)
    if unit.layout in _NOT_READ:
        broken = Broken(0, None, None, *_NOT_READ[unit.layout], unit.text.member[:1000])
        return iter([Rows([], np.zeros(0, np.int64), [broken])])
    return _read_text(unit, source, batch)


def _read_text(unit: Unit, source: Source, batch: int) -> Iterator[Rows]:
    pieces = read_pieces(unit.path, unit.text, source.limits, unit.start, unit.end)
    if unit.layout == "yaml":
        return read_yaml(pieces, batch)
    if unit.layout in {"csv", "tsv"}:
        return read_csv(pieces, source, "," if unit.layout == "csv" else "\t", batch)
    if unit.layout == "lines":
        return read_lines(pieces, source, unit.row, unit.start, batch)
    return read_list(pieces, source, unit.opening, batch, layout=unit.layout)


def _units_of(source: Source, file: SourceFile) -> Iterator[Unit]:
    with file.path.open("rb") as stream:
        head = stream.read(512)
    for name, place, size in members(file, head, source.limits):
        if place.archive != "none" and _unsafe(place.member):
            yield Unit(name, file.path, place, "unsafe-member", size=size)
            continue
        if place.archive != "none" and is_archive(place.member):
            yield Unit(name, file.path, place, "inner-archive", size=size)
            continue
        plain, first = _opened(source, file, place)
        if (binary := _binary(source, first, name)) is not None:
            yield Unit(name, file.path, plain, binary, size=size)
            continue
        text, sample = _look(source, plain, first)
        layout, opening = _layout(source, sample, name)
        if layout == "lines" and text == Text("none", "utf-8") and file.size > RANGE:
            yield from _ranges(file, text)
        else:
            yield Unit(name, file.path, text, layout, opening, size=size)


def _binary(source: Source, head: bytes, name: str) -> Layout | None:
    """Parquet and Arrow are known by their first bytes."""
    if source.container == "parquet" or (source.container == "auto" and head.startswith(b"PAR1")):
        return "parquet"
    stream = head.startswith(b"\xff\xff\xff\xff") and plain_suffix(PurePosixPath(name)) == ".arrow"
    if source.container == "arrow" or (source.container == "auto" and (head.startswith(b"ARROW1") or stream)):
        return "arrow"
    return None


def _unsafe(member: str) -> bool:
    path = PurePosixPath(member.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or ":" in path.parts[0]


def _opened(source: Source, file: SourceFile, place: Text) -> tuple[Text, bytes]:
    """How a text or table is compressed, and its first piece without that."""
    first = _first_piece(source, file, place)
    compression = compression_of(first)
    if compression == "none":
        return place, first
    inner = replace(place, compression=compression)
    return inner, _first_piece(source, file, inner)


def _look(source: Source, place: Text, sample: bytes) -> tuple[Text, bytes]:
    """How a text is encoded, and its first piece as UTF-8."""
    encoding = encoding_of(sample[: 2**20]) if source.encoding == "auto" else source.encoding
    if encoding == "utf-8" and sample.startswith(codecs.BOM_UTF8):
        encoding = "utf-8-sig"
    if encoding != "utf-8":
        sample = codecs.getincrementaldecoder(encoding)("replace").decode(sample).encode()
    return replace(place, encoding=encoding), sample


def _first_piece(source: Source, file: SourceFile, text: Text) -> bytes:
    try:
        with closing(read_pieces(file.path, text, source.limits)) as pieces:
            return next(pieces, b"")
    except Damage:
        return b""


def _layout(source: Source, sample: bytes, name: str) -> tuple[Layout, int]:
    """How rows lie in a text that begins with `sample`, and where the first can begin."""
    if (said := _said(source, name)) is not None:
        return said, 0
    body = sample.lstrip()
    place = len(sample) - len(body)
    if source.container == "jsonl" or (source.container == "auto" and _looks_like_lines(body)):
        return "lines", 0
    if wrapped := _WRAPPED.match(body):
        return "wrapped", place + wrapped.end(1)
    if body.startswith(b"["):
        return "list", place + 1
    return "values", place


def _said(source: Source, name: str) -> Layout | None:
    """CSV, TSV and YAML have no first bytes of their own: the pipeline or the file's ending says it."""
    endings = {".csv": "csv", ".tsv": "tsv", ".yaml": "yaml", ".yml": "yaml"}
    kind = endings.get(plain_suffix(PurePosixPath(name))) if source.container == "auto" else source.container
    table: dict[str, Layout] = {"csv": "csv", "tsv": "tsv", "yaml": "yaml"}
    return table.get(kind or "")


def _looks_like_lines(body: bytes) -> bool:
    """Whether each line is a value of its own. One line alone is a list or a wrapped list where it looks like one."""
    lines = [line.strip() for line in body.split(b"\n", 200)[:200] if line.strip()]
    if not lines or body[:1] not in (b"[", b"{"):
        return True
    begun = [line for line in lines if line.startswith(b"{")]
    objects = sum(map(_is_value, begun))
    if body.startswith(b"["):
        return objects * 2 > len(lines)
    if len(lines) == 1:
        return not _WRAPPED.match(body)
    # Of an object over several lines at most every second line begins with a brace; rows that are all broken are lines.
    return _is_value(lines[0]) or objects * 4 >= len(lines) or len(begun) * 5 >= len(lines) * 4


def _is_value(line: bytes) -> bool:
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True


def _ranges(file: SourceFile, text: Text) -> Iterator[Unit]:
    """Ranges of about RANGE bytes that end at line ends, each with the number of its first row."""
    row = start = 0
    with file.path.open("rb", buffering=0) as stream:
        while start < file.size:
            end = _line_end(stream, start + RANGE, file.size)
            yield Unit(file.name, file.path, text, "lines", 0, row, start, end, end - start)
            row, start = row + _count_lines(stream, start, end), end


def _line_end(stream: io.FileIO, place: int, size: int) -> int:
    """The end of the line that `place` stands in."""
    stream.seek(place)
    while place < size and (piece := stream.read(2**16)):
        if (feed := piece.find(b"\n")) >= 0:
            return place + feed + 1
        place += len(piece)
    return size


def _count_lines(stream: io.FileIO, start: int, end: int) -> int:
    stream.seek(start)
    lines, left = 0, end - start
    while left > 0 and (piece := stream.read(min(left, 2**20))):
        lines, left = lines + piece.count(b"\n"), left - len(piece)
    return lines
