"""Turns and conversations on their way into the one schema.

A converter of a format fills a `Draft`: all turns of all rows, column by column, so that clean files never pass a
Python loop over messages. Rows that need a closer look go one by one as `Talk`s and end in a Draft as well.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from sft_data.formats.columns import marks_in, pairs_of
from sft_data.schema import CONVERSATIONS, MESSAGE, ROLES
from sft_data.sources.columns import Texts
from sft_data.sources.decode import dump
from sft_data.sources.rows import Json

__all__ = [
    "METADATA",
    "ROLE_CODE",
    "Draft",
    "NoTalk",
    "Talk",
    "Turn",
    "draft_of",
    "frame_of",
    "metadata",
    "pairs_draft",
    "texts_draft",
]

ROLE_CODE = {role: code for code, role in enumerate(ROLES)}
METADATA = ("category", "difficulty", "language", "license")
_NULLABLE = ("reasoning", "tool_calls", "tool_call_id", "name", "weight")


class Turn(NamedTuple):
    """One turn, as in schema.MESSAGE."""

    role: str
    content: str
    reasoning: str | None = None
    tool_calls: str | None = None
    tool_call_id: str | None = None
    name: str | None = None
    weight: float | None = None


class Talk(NamedTuple):
    """The turns of one row, the tools it offers, and what else they held (for `extra`)."""

    turns: list[Turn]
    tools: str | None = None
    rest: dict[str, Json] | None = None


class NoTalk(Exception):  # noqa: N818 - not an error of the program: it becomes a rejection
    """A row is no conversation."""

    def __init__(self, code: str, detail: str) -> None:
        self.code, self.detail = code, detail
        super().__init__(detail)


@dataclass
class Draft:
    """Rows as flat columns: row i has the next `counts[i]` turns. An absent nullable column is null throughout."""

    counts: NDArray[np.int64]
    roles: NDArray[np.int8]  # places in schema.ROLES
    contents: Sequence[str] | pa.LargeStringArray
    more: Mapping[str, Sequence[str | float | None]] = field(default_factory=dict)
    tools: Sequence[str | None] | None = None
    refused: Mapping[int, NoTalk] = field(default_factory=dict)  # rows that are no conversation; they have no turns
    rest: Mapping[int, dict[str, Json]] = field(default_factory=dict)  # what the schema has no place for: for `extra`

    @cached_property
    def texts(self) -> pa.LargeStringArray:
        """The contents as an array: made once, looked at by the rules and kept in the frame."""
        if isinstance(self.contents, pa.LargeStringArray):
            return self.contents
        return pa.array(self.contents, pa.large_string())

    @cached_property
    def marks(self) -> frozenset[str]:
        """Which of MARKS stand in any of the contents."""
        data = self.texts.buffers()[2]
        return marks_in(np.frombuffer(data, np.uint8)) if data else frozenset()

    def talk(self, row: int, begin: int) -> Talk:
        """One row taken out again; its turns begin at `begin`."""
        span = range(begin, begin + int(self.counts[row]))
        more = [self.more.get(name) for name in _NULLABLE]
        contents = self.texts[span.start : span.stop].to_pylist()
        turns = [
            Turn(ROLES[self.roles[i]], contents[i - begin], *[None if column is None else column[i] for column in more])  # type: ignore[arg-type]
            for i in span
        ]
        return Talk(turns, None if self.tools is None else self.tools[row], self.rest.get(row))


def draft_of(talks: Iterable[Talk | NoTalk]) -> Draft:
    """A Draft of rows that were looked at one by one."""
    rows = list(talks)
    refused = {i: row for i, row in enumerate(rows) if isinstance(row, NoTalk)}
    kept = [row if isinstance(row, Talk) else Talk([]) for row in rows]
    turns = list(chain.from_iterable(row.turns for row in kept))
    columns = list(zip(*turns, strict=True)) or [()] * len(Turn._fields)
    more = {name: column for name, column in zip(Turn._fields[2:], columns[2:], strict=True) if any(_given(column))}
    counts = np.fromiter((len(row.turns) for row in kept), np.int64, len(kept))
    tools = [row.tools for row in kept]
    rest = {i: row.rest for i, row in enumerate(kept) if row.rest}
    roles = np.fromiter(map(ROLE_CODE.__getitem__, columns[0]), np.int8, len(turns))
    return Draft(counts, roles, columns[1], more, tools if any(tools) else None, refused, rest)


def _given(column: Sequence[object]) -> Iterable[bool]:
    return (value is not None for value in column)


def pairs_draft(prompts: Sequence[str], answers: Sequence[str]) -> Draft:
    """A Draft of rows of one question and one answer each."""
    contents = [""] * (2 * len(prompts))
    contents[::2], contents[1::2] = prompts, answers
    roles = np.tile(np.array([ROLE_CODE["user"], ROLE_CODE["assistant"]], np.int8), len(prompts))
    return Draft(np.full(len(prompts), 2, np.int64), roles, contents)


def texts_draft(texts: Texts, prompt: str, context: str | None, answer: str) -> Draft:
    """The same of columns: `context`, where it is more than white space, stands behind a line feed in the question."""
    rows = len(texts.flat) // len(texts.names)
    roles = np.tile(np.array([ROLE_CODE["user"], ROLE_CODE["assistant"]], np.int8), rows)
    return Draft(np.full(rows, 2, np.int64), roles, pairs_of(texts, prompt, context, answer))


def frame_of(draft: Draft) -> pl.DataFrame:
    """Columns `messages` and `tools`, one row for every row of the draft."""
    size = len(draft.roles)
    arrays = [pa.array(ROLES, pa.large_string()).take(pa.array(draft.roles)), draft.texts]
    for name in _NULLABLE:
        kind = pa.float32() if name == "weight" else pa.large_string()
        column = draft.more.get(name)
        arrays.append(pa.nulls(size, kind) if column is None else pa.array(column, kind))
    turns = pa.StructArray.from_arrays(arrays, [field.name for field in MESSAGE.fields])
    offsets = np.concatenate([[0], np.cumsum(draft.counts)]).astype(np.int64)
    messages = pl.Series("messages", pa.LargeListArray.from_arrays(pa.array(offsets), turns))
    tools = pl.Series("tools", draft.tools or [None] * len(draft.counts), dtype=pl.String)
    return pl.DataFrame([messages, tools])


def metadata(
    values: Sequence[dict[str, Json]],
    shapes: Collection[tuple[str, ...]],
    used: frozenset[str],
    rest: Mapping[int, dict[str, Json]],
) -> pl.DataFrame:
    """Columns `weight`, `category` ... `license` and `extra` of rows whose keys `used` hold the conversation.

    `shapes` are the keys of the rows, every combination that occurs.

    A key that is neither used nor one of ours goes into `extra` as JSON text, with its value as it was; so does
    `rest`, what row i held inside of used keys that the schema has no place for.
    """
    order = ("weight", *METADATA, "extra")
    if not rest and used.issuperset(chain.from_iterable(shapes)):
        return pl.DataFrame(
            pl.Series(name, [1.0 if name == "weight" else None], CONVERSATIONS[name]).new_from_index(0, len(values))
            for name in order
        )
    columns: dict[str, list[str | float | None]] = {name: [None] * len(values) for name in (*METADATA, "extra")}
    columns["weight"] = [1.0] * len(values)
    for i, value in enumerate(values):
        extra = {key: value[key] for key in value if key not in used}
        for name, given in _own_metadata(extra):
            columns[name][i] = given
        if i in rest:
            extra |= {_free(key, extra): found for key, found in rest[i].items()}
        if extra:
            columns["extra"][i] = dump(extra)
    return pl.DataFrame({name: pl.Series(columns[name], dtype=CONVERSATIONS[name]) for name in order})


def _free(key: str, extra: dict[str, Json]) -> str:
    while key in extra:
        key += "_"
    return key


def _own_metadata(extra: dict[str, Json]) -> Iterable[tuple[str, str | float]]:
    """Take our own columns out of `extra`, from its top or from an object `metadata` in it."""
    inner = extra.get("metadata")
    inner = dict(inner) if isinstance(inner, dict) else None
    for place in (extra, inner):
        for name in METADATA if place is not None else ():
            if place is not None and isinstance(place.get(name), str):
                yield name, place.pop(name)
    if inner is not None and inner != extra["metadata"]:
        extra["metadata"] = inner
        if not inner:
            del extra["metadata"]
    weight = extra.get("weight")
    if isinstance(weight, int | float) and not isinstance(weight, bool) and 0 <= weight < 1e30:
        yield "weight", float(extra.pop("weight"))
