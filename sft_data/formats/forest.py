"""Flat tables of messages, one row a message that names its parent (the Parquet form of OASST) -> threads.

Rows may stand in any order, but a tree lies in one file. Which row becomes what: every message without replies makes
one conversation, the path from its root down to it, under the id of its own row; the messages above it are in that
conversation, whose `extra` names all its rows in `rows`. A message that no root leads to (its parent is not in the
file, its parents run in a circle, its id stands twice) is one rejection, `broken-thread`. So every row of the file is
in a thread, or is rejected, and none is both.

Only ids and places are held: about 100 bytes a message. Texts go to a temporary file and are fetched thread by thread.
"""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import IO

import numpy as np
import orjson
from numpy.typing import NDArray

from sft_data.formats.fields import Fields, kind_of
from sft_data.formats.threads import RowFormat, thread_talk
from sft_data.sources.decode import dump, loads
from sft_data.sources.rows import Broken, Json, Rows, shown

__all__ = ["MESSAGE_TABLE", "gather", "is_message"]

_NO_ROWS = np.zeros(0, np.int64)
_NONE = bytes(16)  # no id, no parent
_DEEPEST = 200  # messages below each other
_ROOT, _NOWHERE = -1, -2

MESSAGE_TABLE = RowFormat(
    {
        "thread": ("thread",),
        "id": ("message_id",),
        "parent": ("parent_id",),
        "text": ("text",),
        "role": ("role",),
        "rank": ("rank",),
    },
    thread_talk,
)


def is_message(value: dict[str, Json], fields: Fields) -> bool:
    """Whether a row is a message with an id, a text and a speaker, as a flat table has them."""
    _, identity, _, text, role, _ = fields.names(tuple(value))
    return all(name is not None and isinstance(value[name], str) for name in (identity, text, role))


def gather(pieces: Iterator[Rows], fields: Fields, batch: int) -> Iterator[Rows]:
    """Rows of a file of messages as rows of threads, in the order of their last messages; broken rows as they are."""
    with tempfile.TemporaryFile() as texts:
        table = _Table(texts, fields)
        for rows in pieces:
            if broken := rows.broken + table.take(rows):
                yield Rows([], _NO_ROWS, broken)
        yield from table.threads(batch)


@dataclass
class _Table:
    """Messages by their order in the file: what decides on their place in the trees, and where their text lies."""

    texts: IO[bytes]
    fields: Fields
    ids: bytearray = field(default_factory=bytearray)  # 16 bytes each
    parents: bytearray = field(default_factory=bytearray)
    ends: array[int] = field(default_factory=lambda: array("q", [0]))  # in `texts`
    places: array[int] = field(default_factory=lambda: array("q"))  # row, line, byte; -1 where there is none

    def take(self, rows: Rows) -> list[Broken]:
        """Note a batch; rows that are no messages come back."""
        broken = []
        places = rows.places(range(len(rows.values)))
        for value, number, (line, byte) in zip(rows.values, rows.number.tolist(), places, strict=True):
            try:
                identity, parent = self._keys(value)
            except ValueError as why:
                text = shown(dump(value).encode())
                broken.append(Broken(number, line, byte, "broken-thread", str(why), text))
                continue
            self.ids += identity
            self.parents += parent
            written = dump(value).encode()
            self.texts.write(written)
            self.ends.append(self.ends[-1] + len(written))
            self.places.extend((number, -1 if line is None else line, -1 if byte is None else byte))
        return broken

    def _keys(self, value: Json) -> tuple[bytes, bytes]:
        if not isinstance(value, dict):
            raise ValueError(f"the row is of type {kind_of(value)}, not an object")
        _, identity, parent, _, _, _ = self.fields.names(tuple(value))
        if identity is None:
            raise ValueError(self.fields.missing("id", value))
        above = None if parent is None else value[parent]
        for name, key in ((identity, value[identity]), (parent, above)):
            if not isinstance(key, str | int) and (name == identity or key is not None):
                raise ValueError(f"`{name}` is of type {kind_of(key)}, not text")
        return _key(value[identity]), _NONE if above in {None, ""} else _key(above)

    def threads(self, batch: int) -> Iterator[Rows]:
        """All threads, and the messages that are in none."""
        parent, reached = self._places_in_trees()
        last = reached.copy()
        last[parent[reached & (parent >= 0)]] = False
        values: list[Json] = []
        numbers: list[int] = []
        broken: list[Broken] = []
        for i in np.flatnonzero(last | ~reached).tolist():
            if reached[i]:
                values.append(self._thread(i, parent))
                numbers.append(self.places[3 * i])
            else:
                broken.append(self._broken(i, int(parent[i])))
            if len(values) + len(broken) == batch:
                yield Rows(values, np.array(numbers, np.int64), broken)
                values, numbers, broken = [], [], []
        if values or broken:
            yield Rows(values, np.array(numbers, np.int64), broken)

    def _places_in_trees(self) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Each message's parent (its number, _ROOT, or _NOWHERE), and whether a root leads to it."""
        ids, above = (np.frombuffer(bytes(keys), "S16") for keys in (self.ids, self.parents))
        count = len(ids)
        known, first, number = np.unique(ids, return_index=True, return_inverse=True)
        place = np.minimum(np.searchsorted(known, above), max(0, len(known) - 1))
        parent = np.where(known[place] == above, first[place], _NOWHERE) if count else np.zeros(0, np.int64)
        parent[above == _NONE] = _ROOT
        parent[first[number] != np.arange(count)] = _NOWHERE  # an id for the second time
        children = np.argsort(parent, kind="stable")
        begins = np.searchsorted(parent[children], np.arange(count), "left")
        ends = np.searchsorted(parent[children], np.arange(count), "right")
        reached = np.zeros(count, np.bool_)
        layer = np.flatnonzero(parent == _ROOT)
        for _ in range(_DEEPEST):
            if not len(layer):
                break
            reached[layer] = True
            counts = ends[layer] - begins[layer]
            inside = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            layer = children[np.repeat(begins[layer], counts) + inside]
        return parent, reached

    def _thread(self, last: int, parent: NDArray[np.int64]) -> dict[str, Json]:
        path = [last]
        while parent[path[-1]] >= 0:
            path.append(int(parent[path[-1]]))
        path.reverse()
        rows = [self.places[3 * i] for i in path]
        return _thread_of([self._value(i) for i in path], rows, self.fields)

    def _value(self, message: int) -> dict[str, Json]:
        text = self._text(message)
        try:
            value: dict[str, Json] = orjson.loads(text)
        except orjson.JSONDecodeError:
            value = loads(text.decode())
        return value

    def _text(self, message: int) -> bytes:
        self.texts.seek(self.ends[message])
        return self.texts.read(self.ends[message + 1] - self.ends[message])

    def _broken(self, message: int, parent: int) -> Broken:
        number, line, byte = self.places[3 * message : 3 * message + 3]
        why = (
            "its id stands a second time, or its parent is not in the file"
            if parent == _NOWHERE
            else f"no message without a parent leads to it within {_DEEPEST} steps"
        )
        text = shown(self._text(message))
        return Broken(number, None if line < 0 else line, None if byte < 0 else byte, "broken-thread", why, text)


def _key(identity: str | int) -> bytes:
    return blake2b(str(identity).encode(), digest_size=16).digest()


def _thread_of(messages: Sequence[dict[str, Json]], rows: list[int], fields: Fields) -> dict[str, Json]:
    """The row of a thread: its turns, and beside them what all its messages share; what they do not share by turn."""
    turns, ranks, rests = [], [], []
    for message in messages:
        _, _, parent, text, role, rank = fields.names(tuple(message))
        turns.append({"role": message.get(role or ""), "text": message.get(text or "")})
        ranks.append(message.get(rank or ""))
        rests.append({key: message[key] for key in message if key not in {parent, text, role, rank}})
    shared = {
        key: value
        for key, value in rests[0].items()
        if key not in {"thread", "ranks", "rows", "turn_fields"}
        and all(key in rest and rest[key] == value for rest in rests)
    }
    own = {str(n): rest for n, rest in enumerate(({k: r[k] for k in r if k not in shared} for r in rests), 1) if rest}
    if isinstance(shared.get("lang"), str) and "language" not in shared:
        shared["language"] = shared.pop("lang")
    return shared | {"thread": turns, "ranks": ranks[1:], "rows": rows} | ({"turn_fields": own} if own else {})
