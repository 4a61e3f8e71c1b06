"""Removes rows that hold what a model will be tested on."""

# Kernels take what numba infers, so they are not annotated.
# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: ANN001, ANN202

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal

import numba
import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field, field_validator

from sft_data.dedup.kernels import ngrams
from sft_data.dedup.shingles import utf8
from sft_data.dedup.units import unit_table
from sft_data.errors import SourceError
from sft_data.schema import REJECTIONS
from sft_data.sources.files import find_files
from sft_data.sources.settings import Source
from sft_data.sources.units import read_rows, units
from sft_data.stage import Outcome, StageConfig

__all__ = ["Decontaminate"]

I64 = npt.NDArray[np.int64]

# Fields of the well-known test sets, in the order in which they are looked for.
_PROMPTS = ("question", "prompt", "instruction", "problem", "query", "input", "text", "turns", "messages")
_FEWEST = 4  # units of the shortest prompt that is looked for
_ANSWERS = ("answer", "canonical_solution", "output", "response", "solution", "reference", "completion", "answers")


_FILTER_BITS = 22
_FILTER_SHIFT = np.uint64(64 - _FILTER_BITS)


class Decontaminate(StageConfig):
    """Remove rows that share too much of their text with an item of an evaluation set.

    A unit (a word; one character of Chinese and the like) of an item counts as known where it lies in `ngram` units
    that stand the same way in one turn of the row; the row goes where more than `overlap` of the item's units are
    known. The defaults are those of Tülu 3: 8 units, half of the item. `ngram: 13, overlap: 0` is the rule of GPT-3:
    one shared piece of 13 is enough. Case, punctuation and white space do not count.

    Prompts and reference answers of the items are looked for in all turns of the rows. A prompt of fewer than `ngram`
    units is found where one turn of the row is that prompt and nothing else; a reference answer that short ("B", "18")
    and a prompt below 4 units ("Continue.") stand in too many innocent rows and are not looked for.

    JSON and JSON lines are read, each also compressed; the usual names of fields are known, others are given by
    `fields`.
    """

    uses: ClassVar[tuple[str, ...]] = ("numba", "numpy", "unicode")
    files: ClassVar[tuple[str, ...]] = ("against",)
    codes: ClassVar[Mapping[str, str]] = {"evaluation-overlap": "shares text with an item of an evaluation set"}

    kind: Literal["decontaminate"] = "decontaminate"
    against: tuple[str, ...] = Field(min_length=1, description="files or folders of evaluation sets")
    ngram: int = Field(8, ge=1, le=64, description="units in a row that have to be the same")
    overlap: float = Field(0.5, ge=0.0, lt=1.0, description="share of an item's units above which the row goes")
    look_for: Literal["prompts", "prompts-and-answers"] = Field(
        "prompts-and-answers", description="what of the evaluation items is looked for"
    )
    fields: tuple[str, ...] = Field((), description="the items' fields to look for, where their names are not usual")

    @field_validator("against")
    @classmethod
    def _are_here(cls, against: tuple[str, ...]) -> tuple[str, ...]:
        """What stands behind an address may change, and the version would not tell: only files are fingerprinted."""
        if away := [place for place in against if "://" in place]:
            raise ValueError(f"{away[0]!r} is an address; fetch it and give the file or folder")
        return against

    def apply(self, frame: pl.DataFrame) -> Outcome:
        items = _items(tuple(map(_stamp, self.against)), self.ngram, self.look_for, self.fields)
        turns = (
            frame.select(
                text=pl.col("messages").list.eval(pl.element().struct.field("content")),
            )
            .with_row_index("row")
            .explode("text", empty_as_null=False)
        )
        found = _overlaps(items, turns["text"], turns["row"].to_numpy().astype(np.int64), self.ngram, frame.height)
        share = found.known / np.maximum(items.sizes[found.item], 1)
        rows = np.flatnonzero((found.known > 0) & (share > self.overlap))
        details = [_tell(items, found, row, self.overlap) for row in rows.tolist()]
        rejected = pl.DataFrame(
            {"id": frame["id"].gather(rows), "detail": pl.Series(details, dtype=pl.String), "score": share[rows]}
        ).with_columns(code=pl.lit("evaluation-overlap"))
        keeps = np.ones(frame.height, dtype=np.bool_)
        keeps[rows] = False
        return Outcome(frame.filter(pl.Series(keeps)), rejected.select(c for c in REJECTIONS if c in rejected.columns))


@dataclass(frozen=True)
class _Items:
    """All pieces of all evaluation items, and their n-grams by hash."""

    names: list[str]
    data: npt.NDArray[np.uint8]  # UTF-8 of all pieces
    sizes: I64  # units of each piece
    firsts: I64  # where a piece's units start in `starts` and `ends`
    starts: I64  # bytes of each unit
    ends: I64
    known: npt.NDArray[np.bool_]  # whether any n-gram's hash starts with these bits: most of the rows' do not
    hashes: npt.NDArray[np.uint64]  # n-grams of all pieces, sorted
    piece: I64  # ... of which piece
    place: I64  # ... from which unit on


@dataclass(frozen=True)
class _Found:
    """For each row the item it knows most of: its number, known units, and the longest run of them."""

    item: I64
    known: I64
    start: I64
    length: I64


def _stamp(path: str) -> tuple[str, int, int]:
    """A path and what tells whether its content changed, so that the cache below is never stale."""
    files = find_files(Source(name="evaluation", path=path))
    return path, sum(file.size for file in files), max(file.path.stat().st_mtime_ns for file in files)


@lru_cache(maxsize=4)
def _items(paths: tuple[tuple[str, int, int], ...], n: int, look_for: str, fields: tuple[str, ...]) -> _Items:
    pieces = [piece for path, _, _ in paths for piece in _read(path, look_for, fields)]
    names = [name for name, _, _ in pieces]
    texts = pl.Series([text for _, text, _ in pieces], dtype=pl.String)
    answers = np.array([answer for _, _, answer in pieces])
    data, bounds = utf8([texts])
    room = len(data) + len(texts)
    sizes, counts = np.zeros(len(texts), dtype=np.int64), np.zeros(len(texts), dtype=np.int64)
    starts, ends = np.empty(room, dtype=np.int64), np.empty(room, dtype=np.int64)
    grams = np.empty(room, dtype=np.uint64)
    used = ngrams(data, bounds, unit_table(), n, (sizes, counts, starts, ends, grams))
    piece = np.repeat(np.arange(len(texts)), counts)
    place = np.arange(used) - np.repeat(np.cumsum(counts) - counts, counts)
    innocent = np.where(answers, sizes < n, sizes < min(n, _FEWEST))[piece]
    order = np.argsort(grams[:used], kind="stable")
    order = order[~innocent[order]]
    hashes = grams[:used][order]
    known = np.zeros(1 << _FILTER_BITS, dtype=np.bool_)
    known[hashes >> _FILTER_SHIFT] = True
    return _Items(names, data, sizes, np.cumsum(sizes) - sizes, starts, ends, known, hashes, piece[order], place[order])


def _read(path: str, look_for: str, fields: tuple[str, ...]) -> Iterator[tuple[str, str, bool]]:
    """Every text that is looked for: its name for people (file, row and field), and whether it is an answer."""
    source = Source(name="evaluation", path=path)
    found = 0
    for unit in units(source, find_files(source)):
        for rows in read_rows(unit, source):
            for number, value in zip(rows.number.tolist(), rows.values, strict=True):
                for name, text, answer in _pieces(value, look_for, fields):
                    found += 1
                    yield f"{unit.name} row {number} {name}", text, answer
    if not found:
        wanted = ", ".join(fields or _PROMPTS)
        raise SourceError(f"{path}: no evaluation item has any of the fields {wanted}; name its fields in `fields`")


def _pieces(value: Any, look_for: str, fields: tuple[str, ...]) -> Iterator[tuple[str, str, bool]]:  # noqa: ANN401 - JSON
    if not isinstance(value, dict):
        return
    wanted = fields or (_PROMPTS if look_for == "prompts" else _PROMPTS + _ANSWERS)
    if not fields and "instruction" in value and isinstance(value.get("input"), str):
        value = {**value, "instruction": f"{value['instruction']}\n{value['input']}", "input": None}
    for name in wanted:
        for place, text in enumerate(_texts(value.get(name))):
            yield (name if not place else f"{name} {place + 1}"), text, not fields and name in _ANSWERS


def _texts(value: Any) -> Iterator[str]:  # noqa: ANN401 - JSON
    if isinstance(value, str):
        if value.strip():
            yield value
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, dict):
        yield from _texts(value.get("content", value.get("value")))


def _overlaps(items: _Items, texts: pl.Series, rows: I64, n: int, height: int) -> _Found:
    """Compare all turns of a shard with all items."""
    data, bounds = utf8([texts])
    room = len(data) + len(texts)
    sizes, counts = np.zeros(len(texts), dtype=np.int64), np.zeros(len(texts), dtype=np.int64)
    grams, spare = np.empty(room, dtype=np.uint64), np.empty(room, dtype=np.int64)
    used = ngrams(data, bounds, unit_table(), n, (sizes, counts, spare, spare, grams))
    maybe = np.flatnonzero(items.known[grams[:used] >> _FILTER_SHIFT])
    row_of = np.repeat(rows, counts)[maybe]
    low = np.searchsorted(items.hashes, grams[maybe], side="left")
    high = np.searchsorted(items.hashes, grams[maybe], side="right")
    hits = high - low
    row, first = np.repeat(row_of, hits), np.repeat(low - np.cumsum(hits) + hits, hits)
    entry = first + np.arange(int(hits.sum()))
    piece, place = items.piece[entry], items.place[entry]
    order = np.lexsort((place, piece, row))
    found = tuple(np.zeros(height, dtype=np.int64) for _ in range(4))
    _cover(row[order], piece[order], place[order], items.sizes, n, found)
    return _Found(*found)


def _tell(items: _Items, found: _Found, row: int, limit: float) -> str:
    """Which item, how much of it, and the longest piece of text in common."""
    item = int(found.item[row])
    first = int(items.firsts[item] + found.start[row])
    text = items.data[items.starts[first] : items.ends[first + int(found.length[row]) - 1]].tobytes().decode()
    shown = " ".join(text.split())
    shown = shown if len(shown) <= 160 else shown[:159] + "…"
    size, known = int(items.sizes[item]), int(found.known[row])
    return f"{items.names[item]}: {known} of {size} units = {known / size:.2f} > {limit:g}: “{shown}”"


@numba.njit(cache=True, nogil=True)
def _cover(row, piece, place, sizes, n, found):
    """Of each row's hits, sorted by piece and place: the piece of which the largest share is known."""
    best_piece, best_known, best_start, best_length = found
    at = 0
    while at < len(row):
        known, start, length, reach = 0, 0, 0, -1
        run = place[at]
        end = at
        size = sizes[piece[at]]
        while end < len(row) and row[end] == row[at] and piece[end] == piece[at]:
            here, behind = place[end], min(place[end] + n, size)
            if here > reach:
                run = here
            known += behind - max(here, reach) if behind > reach else 0
            reach = max(reach, behind)
            if reach - run > length:
                start, length = run, reach - run
            end += 1
        r = row[at]
        if known * max(1, sizes[best_piece[r]]) > best_known[r] * size:
            best_piece[r], best_known[r], best_start[r], best_length[r] = piece[at], known, start, length
        at = end
