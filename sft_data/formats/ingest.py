"""Files -> conversations: what every row of every file becomes, or the exact reason why it becomes nothing.

`units` cuts a source into pieces, `read_units` turns some into outcomes of at most `shard_rows` rows. Every row of a
file leaves once: as a conversation, or as a rejection with its file, line, byte offset and original text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from operator import itemgetter
from typing import Protocol

import numpy as np
import polars as pl

from sft_data.formats import alpaca, chat, evaluation, forest, pairs, tables, threads
from sft_data.formats.fields import Fields, kind_of
from sft_data.formats.rules import in_order, put_rows_in_order
from sft_data.formats.turns import Draft, NoTalk, frame_of, metadata
from sft_data.schema import CONVERSATIONS, EDITS, REJECTIONS, content_hash, empty
from sft_data.sources.columns import Texts
from sft_data.sources.decode import dump
from sft_data.sources.files import SourceFile
from sft_data.sources.rows import SHOWN_BYTES, Broken, Json, Rows, shown
from sft_data.sources.settings import Source
from sft_data.sources.units import BATCH, Unit, read_rows, units
from sft_data.stage import Outcome

__all__ = ["CODES", "CONVERTERS", "REVISION", "Unit", "read_unit", "read_units", "units", "units_of"]

# Bytes of a working shard: long conversations come in fewer rows, so that memory stays that of short ones.
SHARD_BYTES = 64 * 2**20
REVISION = 4  # bump when the same file becomes other conversations: part of the fingerprint


class Converter(Protocol):
    """A format: its fields under all their names, and how rows become a Draft."""

    @property
    def FIELDS(self) -> dict[str, tuple[str, ...]]: ...  # noqa: N802 - a constant of its module

    def convert(self, values: Sequence[dict[str, Json]], fields: Fields) -> Draft: ...


CONVERTERS: dict[str, Converter] = {
    "alpaca": alpaca,
    "sharegpt": chat,
    "messages": chat,
    "prompt-response": pairs,
    "turn-list": threads.TURN_LIST,
    "rounds": threads.ROUNDS,
    "moss": threads.MOSS,
    "transcript": threads.TRANSCRIPT,
    "oasst-tree": threads.TREE,
    "oasst-messages": forest.MESSAGE_TABLE,
    "table": tables,
    "evaluation": evaluation,
}

WHOLE_FILES = frozenset({"oasst-messages"})  # formats whose rows belong together wherever they stand in a file

CODES: Mapping[str, str] = {
    # stage "read": no row could be read there
    "unreadable-row": "The bytes are no JSON value, or the list around them is broken.",
    "invalid-encoding": "The row holds bytes that are not valid in the file's encoding.",
    "lone-surrogate": "An escape such as \\ud800 stands without its other half: it is no character.",
    "duplicate-key": "An object holds a key twice, so that one of the values would be lost.",
    "row-too-large": "The row is longer than `limits.max_row_bytes`.",
    "row-too-deep": "The row is nested deeper than `limits.max_nesting`.",
    "unreadable-file": "The file's compression is damaged or cut off: what stands behind cannot be read.",
    "unsafe-member": "The path of an archive's member leaves the archive's folder.",
    "broken-thread": "A message of a flat table has no id or one that stands twice, or no root leads to it.",
    "file-too-large": "The compressed file grows beyond `limits.max_inflation` times its size.",
    # stage "normalize": the row was read but is no conversation
    "not-an-object": "The row is a number, a text or a list, not an object with fields.",
    "missing-field": "The row lacks a field that its format needs.",
    "wrong-type": "A field holds another type than its format says.",
    "wrong-role": "A turn does not say who speaks, or names a speaker that is not known.",
    "no-answer": "There is no answer to learn: no assistant turn, or null in its place.",
    "no-prompt": "No user speaks: there is nothing that is answered.",
    "empty-conversation": "The list of turns has no turn in it.",
    "empty-turn": "A user turn, or an answer that is not the last, has no text (`rules.empty_turns`).",
    "consecutive-turns": "User or assistant speak twice in a row (`rules.consecutive_turns`).",
    "assistant-first": "An assistant or tool turn comes before any user turn (`rules.assistant_first`).",
    "system-inside": "A system turn stands behind the first turn (`rules.system_inside`).",
    "unanswered-turn": "Turns stand behind the last answer (`rules.after_last_answer`).",
    "unknown-label": "A table's column holds a value that `labels` does not name.",
    "evaluation-row": "The row belongs to an evaluation set: it is there to be kept out of training.",
    "placeholder": "A text holds what looks like a forgotten {{name}} (a note, or `rules.placeholders: reject`).",
    "bad-tool-call": "A call of a tool is not JSON, or has no name.",
    "bad-tools": "The offered tools are not a JSON list.",
    "unsupported-content": "A turn holds a part that is no text, such as an image.",
    # edits: the row was kept, changed by a rule
    "merged-turns": "Turns of one speaker in a row were joined by a blank line.",
    "dropped-turns": "Turns without an answer, before any prompt, or empty system turns were left out.",
    "split-thinking": "A <think> block at the start of an answer was moved to the turn's reasoning.",
}


def units_of(source: Source, files: Sequence[SourceFile], format_: str) -> list[Unit]:
    """The units of a source whose format is known: whole files where the rows of a file belong together."""
    pieces = units(source, files)
    return [replace(unit, end=None) for unit in pieces if not unit.start] if format_ in WHOLE_FILES else pieces


def read_unit(unit: Unit, source: Source, format_: str, shard_rows: int = 8192) -> Iterator[Outcome]:
    """All rows of one unit: see `read_units`."""
    return read_units([unit], source, format_, shard_rows)


def read_units(units: Sequence[Unit], source: Source, format_: str, shard_rows: int = 8192) -> Iterator[Outcome]:
    """All rows of some units, in their order, as outcomes of at most `shard_rows` rows, and of at most about
    SHARD_BYTES where a row is no larger. `format_` is known: see `detect`.
    """
    held: list[_Part] = []
    height = size = 0
    for unit in units:
        for part in _parts(unit, source, format_, shard_rows):
            if held and (height + part.height > shard_rows or size + part.size > SHARD_BYTES):
                yield _outcome(held)
                held, height, size = [], 0, 0
            held.append(part)
            height, size = height + part.height, size + part.size
    if held:
        yield _outcome(held)


def _parts(unit: Unit, source: Source, format_: str, shard_rows: int) -> Iterator[_Part]:
    """What becomes of a unit's rows, some of them at a time."""
    converter = CONVERTERS[format_]
    reading = _Reading(unit, source, converter, Fields(converter.FIELDS, source.fields))
    batch = max(1, min(BATCH, shard_rows // 2))
    pieces = read_rows(unit, source, batch)
    if format_ in WHOLE_FILES:
        pieces = forest.gather(pieces, reading.fields, batch)
    for rows in pieces:
        yield from _cut(reading.part(rows), shard_rows)


@dataclass(frozen=True)
class _Part:
    """What became of one batch of rows."""

    kept: pl.DataFrame
    rejected: list[dict[str, Json]]
    edited: list[dict[str, Json]]
    height: int

    @property
    def size(self) -> int:
        """Bytes of its conversations in memory, and of the texts of its rejections."""
        return int(self.kept.estimated_size()) + sum(len(row["text"] or "") for row in self.rejected)


def _outcome(parts: Sequence[_Part]) -> Outcome:
    kept = pl.concat([part.kept for part in parts])
    kept = kept.with_columns(content_hash(kept)) if kept.height else empty(CONVERSATIONS)
    rejected = pl.DataFrame([row for part in parts for row in part.rejected], schema=REJECTIONS)
    edited = pl.DataFrame([row for part in parts for row in part.edited], schema=EDITS)
    return Outcome(kept.select(*CONVERSATIONS), rejected, edited)


def _cut(part: _Part, shard_rows: int) -> Iterator[_Part]:
    """A part as it is, or in pieces where a row that became many, or long rows, made it too large."""
    if part.height <= shard_rows and part.size <= SHARD_BYTES:
        yield part
        return
    pieces = [part.kept] if part.size <= SHARD_BYTES else _by_size(part.kept)
    shards = [piece.slice(start, shard_rows) for piece in pieces for start in range(0, piece.height, shard_rows)]
    for number, kept in enumerate(shards):
        yield _Part(kept, [], part.edited if number == 0 else [], kept.height)
    for start in range(0, len(part.rejected), shard_rows):
        rejected = part.rejected[start : start + shard_rows]
        yield _Part(empty(CONVERSATIONS), rejected, [], len(rejected))


def _by_size(kept: pl.DataFrame) -> list[pl.DataFrame]:
    """Rows in pieces of about SHARD_BYTES of text; a row that is larger makes its piece that much larger."""
    size = pl.col("messages").list.eval(pl.element().struct.field("content").str.len_bytes()).list.sum()
    total = kept.select(size.cast(pl.Int64).cum_sum() - size).to_series().to_numpy()
    cuts = [0, *(np.flatnonzero(np.diff(total // SHARD_BYTES)) + 1).tolist(), kept.height]
    return [kept.slice(start, stop - start) for start, stop in pairwise(cuts)]


@dataclass(frozen=True)
class _Entries:
    """The objects among the rows of a batch: entry i was made of row `origin[i]`; a tree makes several entries."""

    values: Sequence[dict[str, Json]]
    origin: Sequence[int]
    ids: Sequence[str] | pl.Series
    texts: Texts | None = None  # the same as columns, where all values are texts


@dataclass(frozen=True)
class _Reading:
    """One unit being read."""

    unit: Unit
    source: Source
    converter: Converter
    fields: Fields

    def part(self, rows: Rows) -> _Part:
        """What becomes of one batch."""
        told = [((b.row, 0), self._broken(b)) for b in rows.broken]
        entries, strangers = self._entries(rows)
        kept, refused, edited = self._normalized(entries)
        lost = [*strangers, *((entries.origin[i], entries.ids[i], no) for i, no in refused.items())]
        places = rows.places([origin for origin, _, _ in lost])
        for order, ((origin, identity, no), place) in enumerate(zip(lost, places, strict=True)):
            raw = rows.raw(origin)
            text = dump(rows.values[origin])[:SHOWN_BYTES] if raw is None else shown(raw)
            rejection = self._rejection(identity, "normalize", (no.code, no.detail), place, text)
            told.append(((int(rows.number[origin]), order), rejection))
        told.sort(key=itemgetter(0))
        return _Part(kept, [rejection for _, rejection in told], edited, kept.height + len(told))

    def _entries(self, rows: Rows) -> tuple[_Entries, list[tuple[int, str, NoTalk]]]:
        """Objects, one entry each or as many as the format makes of one; and the rows that are no objects."""
        named = self._id("") + pl.Series(rows.number, dtype=pl.Int64).cast(pl.String)
        expand = getattr(self.converter, "expand", None)
        if expand is None and rows.texts is not None:
            return _Entries(rows.values, range(len(named)), named, rows.texts), []
        identity = named.to_list()
        if expand is None and set(map(type, rows.values)) <= {dict}:
            return _Entries(rows.values, range(len(identity)), identity), []
        values: list[dict[str, Json]] = []
        origin: list[int] = []
        ids: list[str] = []
        strangers = []
        for i, value in enumerate(rows.values):
            if type(value) is not dict:
                no = NoTalk("not-an-object", f"the row is of type {kind_of(value)}, not an object")
                strangers.append((i, identity[i], no))
                continue
            made = [value] if expand is None else expand(value)
            values.extend(made)
            origin.extend([i] * len(made))
            ids.extend([identity[i]] if len(made) == 1 else [f"{identity[i]}.{k}" for k in range(len(made))])
        return _Entries(values, origin, ids), strangers

    def _normalized(self, entries: _Entries) -> tuple[pl.DataFrame, dict[int, NoTalk], list[dict[str, Json]]]:
        """The conversations, which entries were refused and why, and the edits that the rules made."""
        if not len(entries.values):
            return empty(CONVERSATIONS), {}, []
        draft = self._draft(entries)
        good = in_order(draft, self.source.rules)
        refused = dict(draft.refused)
        edited: list[dict[str, Json]] = []
        if good.all():
            return self._complete(frame_of(draft), None, entries, draft), refused, edited
        frames = [frame_of(draft).with_columns(at=pl.int_range(pl.len())).filter(pl.Series(good))]
        odd = [i for i in np.flatnonzero(~good).tolist() if i not in refused]
        if odd:
            frame, broke, edits = put_rows_in_order(draft, odd, self.source.rules)
            frames.append(frame)
            refused |= broke
            edited = [self._edit(entries.ids[i], code, count) for i, code, count in edits]
        told = pl.concat(frames).sort("at") if odd else frames[0]
        return self._complete(told.drop("at"), told["at"], entries, draft), refused, edited

    def _draft(self, entries: _Entries) -> Draft:
        convert_texts = getattr(self.converter, "convert_texts", None)
        if entries.texts is not None and convert_texts is not None and self.source.format != "table":
            draft: Draft | None = convert_texts(entries.texts, self.fields)
            if draft is not None:
                return draft
        if self.source.format == "table":
            return tables.convert_rows(entries.values, list(entries.ids), self.source)
        return self.converter.convert(entries.values, self.fields)

    def _complete(self, told: pl.DataFrame, places: pl.Series | None, entries: _Entries, draft: Draft) -> pl.DataFrame:
        """`told` (messages and tools of the entries at `places`, or of all) with all other columns."""
        shapes = set(map(tuple, entries.values)) if entries.texts is None else {entries.texts.names}
        used = frozenset[str]().union(*(self.fields.used(shape) for shape in shapes))
        used |= tables.columns_of(self.source)
        more = metadata(entries.values, shapes, used, draft.rest).with_columns(
            id=pl.Series(entries.ids, dtype=pl.String),
            source=pl.lit(self.source.name),
            content_hash=pl.lit(None, dtype=pl.String),
        )
        return told.hstack(more if places is None else more[places]).select(*CONVERSATIONS)

    def _id(self, number: int | str) -> str:
        return f"{self.source.name}:{self.unit.name}:{number}"

    def _edit(self, identity: str, code: str, count: int) -> dict[str, Json]:
        return {"id": identity, "source": self.source.name, "stage": "normalize", "code": code, "count": count}

    def _broken(self, broken: Broken) -> dict[str, Json]:
        why, place = (broken.code, broken.detail), (broken.line, broken.byte)
        return self._rejection(self._id(broken.row), "read", why, place, broken.text)

    def _rejection(
        self, identity: str, stage: str, why: tuple[str, str], place: tuple[int | None, int | None], text: str | None
    ) -> dict[str, Json]:
        return {
            "id": identity,
            "source": self.source.name,
            "stage": stage,
            "code": why[0],
            "detail": why[1],
            "text": text,
            "file": self.unit.name,
            "line": place[0],
            "byte": place[1],
        }
