"""Removes rows that hold what a model will be tested on."""

# Kernels take what numba infers, so they are not annotated.
# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: ANN001, ANN202

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal

import numba
import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field, PrivateAttr, field_validator

from sft_data.dedup.kernels import ngrams
from sft_data.dedup.shingles import utf8
from sft_data.dedup.units import unit_table
from sft_data.evaluation_sets import (
    Files,
    LookFor,
    Named,
    check_address,
    files_of_sets,
    is_plain,
    pieces_of,
    pinned_set,
)
from sft_data.fingerprint import digest
from sft_data.schema import REJECTIONS
from sft_data.sources.files import SourceFile
from sft_data.stage import Outcome, StageConfig

__all__ = ["Decontaminate"]

I64 = npt.NDArray[np.int64]

_FEWEST = 4  # units of the shortest prompt that is looked for
_FILTER_BITS = 22
_FILTER_SHIFT = np.uint64(64 - _FILTER_BITS)
_MOST_HITS = 1 << 22  # places in the items that are looked at at once: some 60 bytes each while they are sorted


class Decontaminate(StageConfig):
    """Remove rows that share too much of their text with an item of an evaluation set.

    A unit (a word; one character of Chinese and the like) of an item counts as known where it lies in `ngram` units
    that stand the same way in one turn of the row; the row goes where more than `overlap` of the item's units are
    known. Case, punctuation and white space do not count.

    The defaults are those of Tülu 3 (arXiv 2411.15124, section 3.2): `ngram: 8, overlap: 0.5`, pieces of 8 that make
    up more than half of an item. `ngram: 13, overlap: 0` is the style of GPT-3 (arXiv 2005.14165, appendix C): one
    shared piece of 13 is enough. GPT-3 cut that piece out of long documents; here the row goes, since what is left of a
    conversation would teach half an answer.

    Prompts and reference answers of the items are looked for in all turns of the rows. A prompt of fewer than `ngram`
    units is found where one turn of the row is that prompt and nothing else; a reference answer that short ("B", "18")
    and a prompt below 4 units ("Continue.") stand in too many innocent rows and are not looked for.

    Evaluation sets are named as sources are: a file, a glob or a folder, an address of any of these (https, s3, gs),
    or a data set of the hub: `against: [eval/humaneval.jsonl.gz, s3://bucket/eval/*.jsonl]`. One of the hub with
    several splits or configurations says which: `{path: hf://datasets/openai/gsm8k, subset: main, split: test}`.

    What stands at an address is fetched once, when a build is planned. A name of the hub is resolved to a commit, which
    the version's manifest keeps; the content of all files is part of the fingerprint, so that another content is
    another version. No code of a data set is run. All kinds of files that sources have are read (JSON, JSON lines, CSV,
    Parquet, Arrow, YAML, compressed and in archives); the usual names of fields are known, others are given by
    `fields`. A set that cannot be read whole stops the build: an item that is not known would be spared without a word.
    """

    uses: ClassVar[tuple[str, ...]] = ("numba", "numpy", "unicode")
    files: ClassVar[tuple[str, ...]] = ("against",)
    codes: ClassVar[Mapping[str, str]] = {"evaluation-overlap": "shares text with an item of an evaluation set"}

    kind: Literal["decontaminate"] = "decontaminate"
    against: tuple[Named, ...] = Field(
        min_length=1,
        description="evaluation sets: files, globs, folders, addresses, or data sets of the hub "
        "(hf://datasets/ORG/NAME, with @REVISION where it is to stay as it is)",
    )
    ngram: int = Field(8, ge=1, le=64, description="units in a row that have to be the same")
    overlap: float = Field(0.5, ge=0.0, lt=1.0, description="share of an item's units above which the row goes")
    look_for: LookFor = Field("prompts-and-answers", description="what of the evaluation items is looked for")
    fields: tuple[str, ...] = Field((), description="the items' fields to look for, where their names are not usual")

    # Files of each set, once they were looked for: workers read the same files and ask no server.
    _files: Files | None = PrivateAttr(None)

    @field_validator("against")
    @classmethod
    def _are_addresses(cls, against: tuple[Named, ...]) -> tuple[Named, ...]:
        for each in against:
            if isinstance(each, str):
                check_address(each)
        return against

    def fetched(self) -> Decontaminate:
        """The stage with names of the hub resolved to commits, everything at addresses fetched, and globs settled."""
        if all(map(is_plain, self.against)):
            return self
        sets = tuple(map(pinned_set, self.against))
        stage = self.model_copy(update={"against": sets})
        stage._files = files_of_sets(sets)
        return stage

    def copies(self) -> tuple[Path, ...]:
        """Local files whose path stands in no setting: copies of what is at addresses, what a glob or a split names."""
        return tuple(file.path for files in self._files or () for file in files)

    def contents(self) -> dict[str, str]:
        if all(map(is_plain, self.against)):
            return {}  # the setting is one of `files`
        found = self._files or files_of_sets(self.against)
        return {"against": digest([[[file.name, file.sha256()] for file in files] for files in found])}

    def apply(self, frame: pl.DataFrame) -> Outcome:
        files = self._files or files_of_sets(self.against)
        items = _items(tuple(map(_stamped, files)), self.ngram, self.look_for, self.fields)
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


_Stamped = tuple[tuple[SourceFile, int], ...]


def _stamped(files: Sequence[SourceFile]) -> _Stamped:
    """Files with what tells whether their content changed, so that the cache below is never stale."""
    return tuple((file, file.path.stat().st_mtime_ns) for file in files)


@lru_cache(maxsize=4)
def _items(sets: tuple[_Stamped, ...], n: int, look_for: LookFor, fields: tuple[str, ...]) -> _Items:
    pieces = [piece for files in sets for piece in pieces_of([file for file, _ in files], look_for, fields)]
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


def _overlaps(items: _Items, texts: pl.Series, rows: I64, n: int, height: int) -> _Found:
    """Compare all turns of a shard with all items."""
    data, bounds = utf8([texts])
    room = len(data) + len(texts)
    sizes, counts = np.zeros(len(texts), dtype=np.int64), np.zeros(len(texts), dtype=np.int64)
    grams, spare = np.empty(room, dtype=np.uint64), np.empty(room, dtype=np.int64)
    used = ngrams(data, bounds, unit_table(), n, (sizes, counts, spare, spare, grams))
    maybe = np.flatnonzero(items.known[grams[:used] >> _FILTER_SHIFT])
    row_of, gram = _once(np.repeat(rows, counts)[maybe], grams[maybe])
    low = np.searchsorted(items.hashes, gram, side="left")
    hits = np.searchsorted(items.hashes, gram, side="right") - low
    found = tuple(np.zeros(height, dtype=np.int64) for _ in range(4))
    for part in _portions(row_of, hits):
        many = hits[part]
        row = np.repeat(row_of[part], many)
        entry = np.repeat(low[part] - np.cumsum(many) + many, many) + np.arange(len(row))
        piece, place = items.piece[entry], items.place[entry]
        order = np.lexsort((place, piece, row))
        _cover(row[order], piece[order], place[order], items.sizes, n, found)
    return _Found(*found)


def _once(rows: I64, grams: npt.NDArray[np.uint64]) -> tuple[I64, npt.NDArray[np.uint64]]:
    """Each row's n-grams, each once: in "0 0 0 0 ..." one stands thousands of times, and as often in such an item."""
    order = np.lexsort((grams, rows))
    rows, grams = rows[order], grams[order]
    new = np.ones(len(rows), dtype=np.bool_)
    new[1:] = (rows[1:] != rows[:-1]) | (grams[1:] != grams[:-1])
    return rows[new], grams[new]


def _portions(rows: I64, hits: I64) -> Iterator[slice]:
    """Runs of whole rows with at most `_MOST_HITS` together; one row alone has as many as the items have n-grams."""
    ends = np.flatnonzero(np.diff(rows, append=-1)) + 1
    sums = np.cumsum(hits)[ends - 1]
    begin = first = before = 0
    while first < len(ends):
        last = max(first, int(np.searchsorted(sums, before + _MOST_HITS, side="right")) - 1)
        yield slice(begin, int(ends[last]))
        begin, before, first = int(ends[last]), int(sums[last]), last + 1


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
