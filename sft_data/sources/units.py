"""Files -> units of work, and a unit -> rows.

What a unit is depends on the files alone, never on how many workers there are: a file, or a range of a large plain
JSON Lines file, cut at line ends.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import orjson

from sft_data.sources.files import SourceFile
from sft_data.sources.json_lines import read_lines
from sft_data.sources.json_list import read_list
from sft_data.sources.rows import Rows
from sft_data.sources.settings import Source
from sft_data.sources.streams import Damage, Text, compression_of, encoding_of, read_pieces

__all__ = ["Unit", "read_rows", "units"]

Layout = Literal["lines", "list", "wrapped", "values"]

RANGE = 64 * 2**20  # bytes of a plain JSON Lines file that are one unit
BATCH = 2048  # rows decoded at a time

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


def units(source: Source, files: Sequence[SourceFile]) -> list[Unit]:
    """The units of a source's files, in the order of the files."""
    return [unit for file in files for unit in _units_of(source, file)]


def read_rows(unit: Unit, source: Source, batch: int = BATCH) -> Iterator[Rows]:
    """The rows of a unit in small batches: broken ones too."""
    pieces = read_pieces(unit.path, unit.text, source.limits, unit.start, unit.end)
    if unit.layout == "lines":
        return read_lines(pieces, source, unit.row, unit.start, batch)
    return read_list(pieces, source, unit.opening, batch, layout=unit.layout)


def _units_of(source: Source, file: SourceFile) -> Iterator[Unit]:
    text, sample = _look(source, file)
    layout, opening = _layout(source, sample)
    if layout == "lines" and text == Text("none", "utf-8") and file.size > RANGE:
        yield from _ranges(file, text)
    else:
        yield Unit(file.name, file.path, text, layout, opening)


def _look(source: Source, file: SourceFile) -> tuple[Text, bytes]:
    """How a file's text is stored, and its first piece as UTF-8."""
    with file.path.open("rb") as stream:
        compression = compression_of(stream.read(16))
    raw = Text(compression, "utf-8")
    try:
        sample = next(read_pieces(file.path, raw, source.limits), b"")
    except Damage:
        sample = b""
    encoding = encoding_of(sample) if source.encoding == "auto" else source.encoding
    if encoding == "utf-8" and sample.startswith(codecs.BOM_UTF8):
        encoding = "utf-8-sig"
    if encoding != "utf-8":
        sample = codecs.getincrementaldecoder(encoding)("replace").decode(sample).encode()
    return Text(compression, encoding), sample


def _layout(source: Source, sample: bytes) -> tuple[Layout, int]:
    """How rows lie in a text that begins with `sample`, and where the first can begin."""
    body = sample.lstrip()
    place = len(sample) - len(body)
    if source.container == "jsonl" or (source.container == "auto" and _looks_like_lines(body)):
        return "lines", 0
    if wrapped := _WRAPPED.match(body):
        return "wrapped", place + wrapped.end(1)
    if body.startswith(b"["):
        return "list", place + 1
    return "values", place


def _looks_like_lines(body: bytes) -> bool:
    """Whether each line is a value of its own. One line alone is a list or a wrapped list where it looks like one."""
    lines = [line.strip() for line in body.split(b"\n", 200)[:200] if line.strip()]
    if not lines or body[:1] not in (b"[", b"{"):
        return True
    if len(lines) == 1:
        return body.startswith(b"{") and not _WRAPPED.match(body)
    if body.startswith(b"[") and not _is_value(lines[0]):
        return False
    return _is_value(lines[0]) or sum(map(_is_value, lines)) * 4 >= len(lines)


def _is_value(line: bytes) -> bool:
    if line[:1] not in (b"{", b"["):
        return False
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True


def _ranges(file: SourceFile, text: Text) -> Iterator[Unit]:
    """Ranges of about RANGE bytes that end at line ends, each with the number of its first row."""
    row = start = seen = lines = 0
    with file.path.open("rb", buffering=0) as stream:
        while piece := stream.read(4 * 2**20):
            cut = piece.find(b"\n") if seen - start >= RANGE else -1
            if cut >= 0:
                end = seen + cut + 1
                yield Unit(file.name, file.path, text, "lines", 0, row, start, end)
                lines += piece.count(b"\n", 0, cut + 1)
                row, start = lines, end
                lines += piece.count(b"\n", cut + 1)
            else:
                lines += piece.count(b"\n")
            seen += len(piece)
    if start < seen:
        yield Unit(file.name, file.path, text, "lines", 0, row, start, seen)
