"""Files -> conversations: what every row of every file becomes, or the exact reason why it becomes nothing.

`units` cuts a source into pieces of work, `read_unit` turns one into outcomes of at most `shard_rows` rows. Every row
of a file leaves once: as a conversation, or as a rejection with its file, line, byte offset and original text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import polars as pl
from numpy.typing import NDArray

from sft_data.formats import alpaca, chat, pairs
from sft_data.formats.fields import Fields, kind_of
from sft_data.formats.rules import in_order, put_rows_in_order
from sft_data.formats.turns import Draft, NoTalk, frame_of, metadata
from sft_data.schema import CONVERSATIONS, EDITS, REJECTIONS, content_hash, empty
from sft_data.sources.rows import Json, Rows, shown
from sft_data.sources.settings import Source
from sft_data.sources.units import Unit, read_rows, units
from sft_data.stage import Outcome

__all__ = ["CODES", "CONVERTERS", "REVISION", "Unit", "read_unit", "units"]

REVISION = 1  # bump when the same file becomes other conversations: part of the fingerprint

CONVERTERS: dict[str, ModuleType] = {
    "alpaca": alpaca,
    "sharegpt": chat,
    "messages": chat,
    "prompt-response": pairs,
}

CODES: Mapping[str, str] = {
    # stage "read": no row could be read there
    "unreadable-row": "The bytes are no JSON value, or the list around them is broken.",
    "invalid-encoding": "The row holds bytes that are not valid in the file's encoding.",
    "lone-surrogate": "An escape such as \\ud800 stands without its other half: it is no character.",
    "duplicate-key": "An object holds a key twice, so that one of the values would be lost.",
    "row-too-large": "The row is longer than `limits.max_row_bytes`.",
    "row-too-deep": "The row is nested deeper than `limits.max_nesting`.",
    "unreadable-file": "The file's compression is damaged or cut off: what stands behind cannot be read.",
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
    "bad-tool-call": "A call of a tool is not JSON, or has no name.",
    "bad-tools": "The offered tools are not a JSON list.",
    "unsupported-content": "A turn holds a part that is no text, such as an image.",
    # edits: the row was kept, changed by a rule
    "merged-turns": "Turns of one speaker in a row were joined by a blank line.",
    "dropped-turns": "Turns without an answer, before any prompt, or empty system turns were left out.",
    "split-thinking": "A <think> block at the start of an answer was moved to the turn's reasoning.",
}


def read_unit(unit: Unit, source: Source, format_: str, shard_rows: int = 8192) -> Iterator[Outcome]:
    """All rows of a unit as outcomes of at most `shard_rows` rows. `format_` is known: see `detect`."""
    module = CONVERTERS[format_]
    reading = _Reading(unit, source, module, Fields(module.FIELDS, source.fields))
    held: list[_Part] = []
    for rows in read_rows(unit, source, batch=max(1, min(2048, shard_rows // 4))):
        part = reading.part(rows)
        if held and sum(other.height for other in held) + part.height > shard_rows:
            yield _outcome(held)
            held = []
        held.append(part)
    if held:
        yield _outcome(held)


@dataclass(frozen=True)
class _Part:
    """What became of one batch of rows."""

    kept: pl.DataFrame
    rejected: list[dict[str, Json]]
    edited: list[dict[str, Json]]
    height: int


def _outcome(parts: Sequence[_Part]) -> Outcome:
    kept = pl.concat([part.kept for part in parts])
    kept = kept.with_columns(content_hash(kept)) if kept.height else empty(CONVERSATIONS)
    rejected = pl.DataFrame([row for part in parts for row in part.rejected], schema=REJECTIONS)
    edited = pl.DataFrame([row for part in parts for row in part.edited], schema=EDITS)
    return Outcome(kept.select(*CONVERSATIONS), rejected, edited)


@dataclass(frozen=True)
class _Reading:
    """One unit being read."""

    unit: Unit
    source: Source
    module: ModuleType
    fields: Fields

    def part(self, rows: Rows) -> _Part:
        rejected = [self._rejection(b.row, "read", (b.code, b.detail), (b.line, b.byte), b.text) for b in rows.broken]
        refused: dict[int, NoTalk] = {}
        edited: list[dict[str, Json]] = []
        kept = self._kept(rows, refused, edited) if rows.values else empty(CONVERSATIONS)
        order = sorted(refused)
        for index, place in zip(order, rows.places(order), strict=True):
            raw = rows.raw(index)
            no, number = refused[index], int(rows.number[index])
            text = None if raw is None else shown(raw)
            rejected.append(self._rejection(number, "normalize", (no.code, no.detail), place, text))
        rejected.sort(key=lambda row: row["row"])
        for row in rejected:
            del row["row"]
        return _Part(kept, rejected, edited, rows.height)

    def _kept(self, rows: Rows, refused: dict[int, NoTalk], edited: list[dict[str, Json]]) -> pl.DataFrame:
        """The conversations of a batch; fills in what was refused and what was edited."""
        index, values = self._objects(rows.values, refused)
        if not values:
            return empty(CONVERSATIONS)
        draft = self.module.convert(values, self.fields)
        good = in_order(draft, self.source.rules)
        refused |= {index[i]: no for i, no in draft.refused.items()}
        frames = [frame_of(draft).with_columns(at=pl.int_range(pl.len())).filter(pl.Series(good))]
        odd = [i for i in np.flatnonzero(~good).tolist() if i not in draft.refused]
        if odd:
            frame, broke, edits = put_rows_in_order(draft, odd, self.source.rules)
            frames.append(frame)
            refused |= {index[i]: no for i, no in broke.items()}
            edited += [self._edit(int(rows.number[index[i]]), code, count) for i, code, count in edits]
        told = pl.concat(frames).sort("at") if odd else frames[0]
        return self._complete(told, values, draft, rows.number[index])

    def _objects(self, values: list[Json], refused: dict[int, NoTalk]) -> tuple[list[int], list[dict[str, Json]]]:
        if set(map(type, values)) == {dict}:
            return list(range(len(values))), values
        for i, value in enumerate(values):
            if type(value) is not dict:
                refused[i] = NoTalk("not-an-object", f"the row is of type {kind_of(value)}, not an object")
        index = [i for i, value in enumerate(values) if type(value) is dict]
        return index, [values[i] for i in index]

    def _edit(self, row: int, code: str, count: int) -> dict[str, Json]:
        return {"id": self._id(row), "source": self.source.name, "stage": "normalize", "code": code, "count": count}

    def _complete(
        self,
        told: pl.DataFrame,
        values: list[dict[str, Json]],
        draft: Draft,
        numbers: NDArray[np.int64],
    ) -> pl.DataFrame:
        used = frozenset[str]().union(*(self.fields.used(shape) for shape in set(map(tuple, values))))
        more = metadata(values, used, draft.rest)
        prefix = self._id("")
        number = pl.Series(numbers).cast(pl.String)
        more = more.with_columns(
            id=pl.lit(prefix) + number, source=pl.lit(self.source.name), content_hash=pl.lit(None, dtype=pl.String)
        )
        at = told["at"]
        return pl.concat([told.drop("at"), more[at]], how="horizontal").select(*CONVERSATIONS)

    def _id(self, number: int | str) -> str:
        return f"{self.source.name}:{self.unit.name}:{number}"

    def _rejection(
        self, row: int, stage: str, why: tuple[str, str], place: tuple[int | None, int | None], text: str | None
    ) -> dict[str, Json]:
        return {
            "row": row,
            "id": self._id(row),
            "source": self.source.name,
            "stage": stage,
            "code": why[0],
            "detail": why[1],
            "text": text,
            "file": self.unit.name,
            "line": place[0],
            "byte": place[1],
        }
