"""A JSON list, or JSON values one behind the other, -> rows, in bounded memory and past every break.

The scan proposes where elements end; orjson decodes them all at once. Where that fails, elements are decoded one by
one, and behind a broken one the reader looks for the next place that starts like the rows it knows and decodes. What
lies between is one rejection. A missing or trailing comma, text behind the list or a missing end is one as well.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import orjson
from numpy.typing import NDArray

from sft_data.sources.columns import Texts, read_texts
from sft_data.sources.decode import Refused, decode_batch, decode_row
from sft_data.sources.rows import FEW, Broken, Json, Later, Rows, shown
from sft_data.sources.scan import (
    CLOSED,
    COLONS,
    COMMA,
    DEEPEST,
    DEPTH,
    ELEMENT,
    END,
    ENDED,
    FIELDS,
    KEYS,
    KIND,
    LAST,
    LONG,
    LONGNUM,
    NEST,
    NO_COMMA,
    NOTHING,
    OPEN,
    POS,
    SOUND,
    START,
    TRAILING,
    WRONG,
    new_state,
    scan_elements,
)
from sft_data.sources.settings import Source
from sft_data.sources.streams import Damage

__all__ = ["read_list"]

_BREAKS = {
    NOTHING: "a comma with no row before it",
    TRAILING: "a comma before the closing bracket, with no row behind it",
    NO_COMMA: "no comma between two rows",
}
_FIRST_KEY = re.compile(rb'\{\s*"([^"\\]{1,200})"\s*:')
_NEXT_LIST = re.compile(rb'\s*,\s*"[^"\\]{0,200}"\s*:\s*\[\s*(?=\{)')
_WRAPPED_END = re.compile(rb"\s*(?:,[^\[\]]*)?\}\s*", re.DOTALL)
_BETWEEN = re.compile(rb"[ \t\r\n,\[\]]*")  # what may stand between the end of a list and further rows
_ATTEMPTS = 200  # places tried behind one break before the rest of the buffer is given up: bounds hostile files
_NO_ROWS = np.zeros(0, np.int64)


@dataclass
class _Shape:
    """What the rows read so far have in common: the keys they may begin with, and those that all of them have."""

    known: set[str] = field(default_factory=set)
    required: set[str] | None = None
    pattern: re.Pattern[bytes] = _FIRST_KEY

    def learn(self, values: Sequence[Json]) -> None:
        for keys in {tuple(value) for value in values if type(value) is dict and value}:
            self.required = set(keys) if self.required is None else self.required & set(keys)
            if not self.known.issuperset(keys) and len(self.known) < 100:
                self.known.update(keys)
                self.pattern = _beginning(self.known)

    def fits(self, value: Json) -> bool:
        return isinstance(value, dict) and (self.required or set()) <= set(value)


def _beginning(keys: set[str]) -> re.Pattern[bytes]:
    names = b"|".join(re.escape(orjson.dumps(key)) for key in sorted(keys))
    return re.compile(rb"\{\s*(?:" + names + rb")\s*:")


class _MoreNeeded(Exception):  # noqa: N818
    """A place behind a break cannot be judged before more of the file is read."""


class _ListReader:
    """The reader's state: a buffer that starts at `base` (line `line`) of the text, and the scan's state in it."""

    def __init__(self, source: Source, opening: int, batch: int, layout: str) -> None:
        self.source, self.in_list, self.wrapped = source, layout != "values", layout == "wrapped"
        self.buffer, self.base, self.line, self.row = b"", 0, 1, 0
        self.state = new_state()
        self.state[POS] = opening
        self.found = np.zeros((batch + 2, FIELDS), np.int64)
        self.room = len(self.found)  # small behind a break, where what the scan finds may be wrong
        self.shape = _Shape()
        self.restarted = False  # whether the scan was sent to another place since the elements in hand were found
        self.hopeless = 0  # byte of the text up to which no row like the others begins
        self.known_line = (0, 0)  # a place in the buffer and the line feeds before it
        self.lost: tuple[bytes, int, int, int] | None = None  # head, line, byte, size of a row too long to hold

    def feed(self, piece: bytes) -> None:
        self.buffer = self.buffer + piece if self.buffer else piece
        self.view = np.frombuffer(self.buffer, np.uint8)

    def advance(self, *, final: bool) -> Iterator[Rows]:
        """All rows that are complete in the buffer."""
        again = True
        while again:
            yield from self._scan(final=final)
            again = yield from self._finish() if final else self._trim()

    def _scan(self, *, final: bool) -> Iterator[Rows]:
        """Rows up to the end of the buffer, or to where more must be read."""
        while self.state[POS] < len(self.buffer):
            before = int(self.state[POS])
            count = scan_elements(self.view, len(self.buffer), self.in_list, self.state, self.found[: self.room])
            self.room = min(len(self.found), 2 * self.room)
            try:
                if count:
                    yield from self._rows(self.found[:count].copy(), final=final)
                if self.state[WRONG] > SOUND:
                    yield from self._step_over(final=final)
                    continue
            except _MoreNeeded:
                return
            if self.state[ENDED]:
                yield from self._behind_the_end(final=final)
                if self.state[ENDED]:
                    return
            if not count and self.state[POS] == before:
                return

    # ---- decoding -------------------------------------------------------------------------------------------------

    def _rows(self, found: NDArray[np.int64], *, final: bool) -> Iterator[Rows]:
        """Rows of some elements: all at once where they are in order, otherwise piece by piece, at last one by one."""
        clean = None if self.lost is not None else self._decode_clean(found)
        if clean is not None:
            values, texts = clean
            self.shape.learn(values if texts is None else [dict.fromkeys(texts.names)])
            numbers = self.row + np.arange(len(found))
            self.row += len(found)
            yield self._batch(values, found, numbers, [], texts)
        elif len(found) > FEW:
            size = max(FEW, len(found) // 16)
            self.restarted = False
            for start in range(0, len(found), size):
                yield from self._rows(found[start : start + size], final=final)
                if self.restarted:  # the scan begins anew behind a broken row: what it found there is no more true
                    return
        else:
            yield self._one_by_one(found, final=final)

    def _decode_clean(self, found: NDArray[np.int64]) -> tuple[Sequence[Json], Texts | None] | None:
        limits = self.source.limits
        odd = (found[:, KIND] != ELEMENT) | (found[:, LONG] > 0) | (found[:, DEPTH] > limits.max_nesting)
        if odd.any() or (found[:, END] - found[:, START]).max() > limits.max_row_bytes:
            return None
        buffer = self.buffer
        if (texts := read_texts(buffer, found[:, START], found[:, END])) is not None:
            return Later(len(found), lambda: orjson.loads(self._joined(buffer, found))), texts
        values = decode_batch(self._joined(buffer, found), int(found[:, COLONS].sum()))
        return None if values is None else (values, None)

    def _joined(self, buffer: bytes, found: NDArray[np.int64]) -> bytes:
        """The elements as one JSON list."""
        if self.in_list:
            return b"[" + buffer[found[0, START] : found[-1, END]] + b"]"
        return b"[" + b",".join([buffer[start:end] for start, end in found[:, [START, END]].tolist()]) + b"]"

    def _one_by_one(self, found: NDArray[np.int64], *, final: bool) -> Rows:
        values: list[Json] = []
        good: list[int] = []
        numbers: list[int] = []
        broken: list[Broken] = []
        for index, element in enumerate(found.tolist()):
            start, end, kind = element[START], element[END], element[KIND]
            if kind != ELEMENT:
                broken.append(self._broken(start, end, "unreadable-row", _BREAKS[kind]))
            elif self.lost is not None:
                broken.append(self._too_long(end))
            else:
                try:
                    value = self._decode(element)
                except Refused as refused:
                    following = int(found[index + 1, START]) if index + 1 < len(found) else None
                    try:
                        resume = self._resume(start, end, following, refused, final=final)
                    except _MoreNeeded:
                        if not good and not broken:
                            self._restart(start)
                            raise
                        self._restart(start)
                        break
                    broken.append(self._broken(start, end if resume is None else resume, refused.code, refused.detail))
                    if resume is not None:
                        self.row += 1
                        self._restart(resume)
                        break
                else:
                    values.append(value)
                    good.append(index)
                    numbers.append(self.row)
                    self.shape.learn([value])
            self.row += 1
        return self._batch(values, found[good], np.array(numbers, np.int64), broken)

    def _decode(self, element: list[int]) -> Json:
        raw = self.buffer[element[START] : element[END]]
        limit = self.source.limits.max_row_bytes
        if len(raw) > limit:
            raise Refused("row-too-large", f"{len(raw)} > {limit} bytes (max_row_bytes)")
        return decode_row(raw, self.source, colons=element[COLONS], depth=element[DEPTH], long=bool(element[LONG]))

    def _batch(
        self,
        values: Sequence[Json],
        found: NDArray[np.int64],
        numbers: NDArray[np.int64],
        broken: list[Broken],
        texts: Texts | None = None,
    ) -> Rows:
        if not len(found):
            return Rows([], _NO_ROWS, broken)
        begin, stop = int(found[0, START]), int(found[-1, END])
        line = self._line_at(begin)
        starts, ends = found[:, START] - begin, found[:, END] - begin
        buffer = self.buffer[begin:stop]
        return Rows(values, numbers.astype(np.int64), broken, buffer, starts, ends, self.base + begin, line, texts)

    # ---- breaks ---------------------------------------------------------------------------------------------------

    def _broken(self, start: int, end: int, code: str, detail: str) -> Broken:
        raw = self.buffer[start:end]
        text = shown(raw.rstrip(b" \t\r\n,") or raw.strip())
        line = self._line_at(start)
        return Broken(self.row, line, self.base + start, code, detail, text)

    def _too_long(self, end: int) -> Broken:
        assert self.lost is not None  # noqa: S101
        head, line, byte, _ = self.lost
        self.lost = None
        size, limit = self.base + end - byte, self.source.limits.max_row_bytes
        text = f"{shown(head)} ... ({size} bytes in all)"
        return Broken(self.row, line, byte, "row-too-large", f"{size} > {limit} bytes (max_row_bytes)", text)

    def _resume(self, start: int, end: int, following: int | None, refused: Refused, *, final: bool) -> int | None:
        """Where to go on behind a broken element; None where the scan's own boundaries can be trusted."""
        if refused.code != "unreadable-row":
            return None  # the row is well-formed; something else is wrong with it
        wait = not final and len(self.buffer) - start <= self.source.limits.max_row_bytes
        place = self._next_row(start, wait=wait)
        if place is None and wait:
            raise _MoreNeeded
        return None if place == following else place

    def _step_over(self, *, final: bool) -> Iterator[Rows]:
        """Behind an element that the scan found wrong before its end, if a row begins there; else the scan goes on."""
        start = int(self.state[OPEN])
        wait = not final and self.lost is None and len(self.buffer) - start <= self.source.limits.max_row_bytes
        try:
            place = self._next_row(start, wait=wait)
        except _MoreNeeded:
            self._restart(start)
            raise
        if place is not None:
            yield self._one(self._unreadable(start, place))
            self._restart(place)
        elif wait:
            self._restart(start)
            raise _MoreNeeded
        else:
            self.state[WRONG] = SOUND - 1

    def _unreadable(self, start: int, end: int) -> Broken:
        """The rejection of a broken element: what was before the limit on a row's size came, else the decoder's."""
        if self.lost is not None:
            return self._too_long(end)
        raw = self.buffer[start:end].rstrip(b" \t\r\n,")
        try:
            self._decode([start, start + len(raw), *self.state[[KEYS, DEEPEST, LONGNUM]].tolist(), ELEMENT])
        except Refused as refused:
            return self._broken(start, end, refused.code, refused.detail)
        return self._broken(start, end, "unreadable-row", "the row does not end")

    def _next_row(self, start: int, *, wait: bool) -> int | None:
        """The first place behind `start` where a row like the others begins."""
        if self.base + start < self.hopeless:
            return None
        pattern = self.shape.pattern
        if not self.shape.known and (own := _FIRST_KEY.match(self.buffer, start)):
            pattern = re.compile(rb'\{\s*"' + re.escape(own[1]) + rb'"\s*:')
        column = self._column(start)
        for attempt, match in enumerate(pattern.finditer(self.buffer, start + 1)):
            place = match.start()
            if attempt >= _ATTEMPTS:
                self.hopeless = self.base + place
                return None
            if column is not None and self._column(place) == column and self._behind_a_row(place):
                return place
            state, found = new_state(), np.zeros((3, FIELDS), np.int64)
            state[POS] = place
            stop = min(len(self.buffer), place + self.source.limits.max_row_bytes)
            if not scan_elements(self.view, stop, 1, state, found):
                if wait and attempt == 0 and state[WRONG] == SOUND:
                    raise _MoreNeeded
                continue
            if self._readable(place, int(found[0, END])):
                return place
        return None

    def _readable(self, start: int, end: int) -> bool:
        try:
            return self.shape.fits(orjson.loads(self.buffer[start:end]))
        except orjson.JSONDecodeError:
            return False

    def _column(self, place: int) -> int | None:
        """How far a place is indented; None where other text stands before it on its line."""
        begin = self.buffer.rfind(b"\n", max(0, place - 200), place) + 1
        return place - begin if begin and not self.buffer[begin:place].strip() else None

    def _behind_a_row(self, place: int) -> bool:
        return re.search(rb"\}\s*,\s*\Z", self.buffer[max(0, place - 400) : place]) is not None

    def _restart(self, place: int) -> None:
        self.restarted = True
        self.state[:] = new_state()
        self.state[POS] = place
        self.room = min(len(self.found), 16)

    def _line_at(self, place: int) -> int:
        """The line of a place in the buffer, counted on, or back, from the place asked for before."""
        begin, feeds = self.known_line
        if place < begin:
            feeds -= self.buffer.count(b"\n", place, begin)
        else:
            feeds += self.buffer.count(b"\n", begin, place)
        self.known_line = (place, feeds)
        return self.line + feeds

    # ---- the end of the list and of the buffer ----------------------------------------------------------------------

    def _behind_the_end(self, *, final: bool) -> Iterator[Rows]:
        """Text behind the closing bracket is one break; rows in it are read all the same."""
        place = int(self.state[POS])
        if self.wrapped:
            rest = self.buffer[place:]
            if more := _NEXT_LIST.match(rest):
                self._restart(place + more.end())
                return
            if not final or _WRAPPED_END.fullmatch(rest):
                return
        between = _BETWEEN.match(self.buffer, place)
        begin = place if between is None else between.end()
        if begin == len(self.buffer):
            if final and self.buffer[place:].strip():
                yield self._one(self._broken(place, begin, "unreadable-row", "text behind the end of the list"))
            return
        yield self._one(self._broken(place, begin, "unreadable-row", "more rows behind the end of the list"))
        self._restart(begin)

    def _one(self, broken: Broken) -> Rows:
        self.row += 1
        return Rows([], _NO_ROWS, [broken])

    def _finish(self) -> Generator[Rows, None, bool]:
        """What is left where the text ends. True where a row was found in it, and the scan must go on from there."""
        begin = int(self.state[OPEN])
        if begin < 0:
            if self.in_list and not self.state[ENDED]:
                place = len(self.buffer)
                yield self._one(self._broken(place, place, "unreadable-row", "the list does not end with ]"))
            return False
        if self.lost is not None:
            yield self._one(self._too_long(len(self.buffer)))
            return False
        if self.state[NEST] == 0 and self.state[CLOSED] and (not self.in_list or self._readable_tail(begin)):
            self.found[0] = [*self.state[[OPEN, LAST, KEYS, DEEPEST, LONGNUM]], ELEMENT]
            self.state[OPEN] = -1
            yield from self._rows(self.found[:1].copy(), final=True)
            return True
        resume = self._next_row(begin, wait=False)
        end = len(self.buffer) if resume is None else resume
        yield self._one(self._broken(begin, end, "unreadable-row", "the row does not end"))
        if resume is not None:
            self._restart(resume)
        return resume is not None

    def _readable_tail(self, begin: int) -> bool:
        return self._readable(begin, int(self.state[LAST]))

    def _trim(self) -> Generator[Rows, None, bool]:
        """Drop what has been read; give up holding a row that is too long. True where the scan must go on."""
        begin = int(self.state[OPEN])
        keep = begin if begin >= 0 else int(self.state[POS])
        if begin >= 0 and len(self.buffer) - begin > self.source.limits.max_row_bytes:
            if (place := self._next_row(begin, wait=False)) is not None:
                broken = (
                    self._too_long(place)
                    if self.lost
                    else self._broken(begin, place, "unreadable-row", "the row does not end")
                )
                yield self._one(broken)
                self._restart(place)
                return True
            if self.lost is None:
                line = self._line_at(begin)
                self.lost = (self.buffer[begin : begin + 2**17], line, self.base + begin, 0)
            keep = int(self.state[POS])
        if keep <= 0:
            return False
        self.line, self.known_line = self._line_at(keep), (0, 0)
        self.base += keep
        self.buffer = self.buffer[keep:]
        for name in (POS, LAST, COMMA, OPEN):
            if self.state[name] >= 0:
                self.state[name] = max(0, self.state[name] - keep)
        return False


def read_list(pieces: Iterator[bytes], source: Source, opening: int, batch: int, *, layout: str) -> Iterator[Rows]:
    """Rows of a list whose first element stands behind byte `opening`, or of `values` one behind the other."""
    reader = _ListReader(source, opening, batch, layout)
    damage = None
    try:
        for piece in pieces:
            reader.feed(piece)
            yield from reader.advance(final=False)
    except Damage as caught:
        damage = caught
    reader.feed(b"")
    yield from reader.advance(final=True)
    if damage is not None:
        broken = Broken(reader.row, None, reader.base + len(reader.buffer), damage.code, damage.detail, None)
        yield Rows([], _NO_ROWS, [broken])
