"""Where rows begin and end in a piece of JSON text: two loops over bytes, compiled.

They look at quotes, brackets, commas and line ends only; whether a row is valid JSON is the decoder's business. On
the way they count what the decoder does not tell: keys (duplicates), nesting, numbers too long for 64 bits.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from sft_data.words import holds, load

__all__ = [
    "CLOSED",
    "COLONS",
    "COMMA",
    "DEEPEST",
    "DEPTH",
    "ELEMENT",
    "END",
    "ENDED",
    "EVEN",
    "FIELDS",
    "KEYS",
    "KIND",
    "LAST",
    "LONG",
    "LONGNUM",
    "NEST",
    "NOTHING",
    "NO_COMMA",
    "OPEN",
    "POS",
    "SOUND",
    "START",
    "STATE",
    "TRAILING",
    "WRONG",
    "new_state",
    "scan_elements",
    "scan_lines",
]

# A character eight times, to look for it in eight bytes at once.
QUOTES, BACKSLASHES, FEEDS = (np.uint64(0x0101010101010101 * code) for code in (34, 92, 10))

Bytes = NDArray[np.uint8]
Numbers = NDArray[np.int64]

# Columns of a found row.
START, END, COLONS, DEPTH, LONG, EVEN = range(6)
KIND = EVEN  # elements: what was found (below); lines: 1 where brackets and quotes are in balance
FIELDS = 6
ELEMENT, NOTHING, TRAILING, NO_COMMA = range(4)

# State of scan_elements, carried from piece to piece. Positions count from the buffer's begin.
POS, NEST, STRING, OPEN, LAST, KEYS, DEEPEST, LONGNUM, RUN, CLOSED, COMMA, ENDED, PREV, WRONG = range(14)
STATE = 14
SOUND = -1  # state[WRONG] until the scan meets what no valid element holds; below it, what follows is not looked at


def new_state() -> NDArray[np.int64]:
    """A state that stands before the first element."""
    state = np.zeros(STATE, np.int64)
    state[OPEN] = state[COMMA] = -1
    state[WRONG] = SOUND
    return state


def _scan_elements(buf: Bytes, stop: int, in_list: int, state: Numbers, out: Numbers) -> int:  # noqa: PLR0912, PLR0915
    """Elements of a list (`in_list`) or values one behind the other, from state[POS] to `stop`; how many were found.

    Ends early where `out` is full, where the list's closing bracket was read (state[ENDED]), and inside of an element
    where text stands beside a quote (state[WRONG], the place): of a quote too many, all text behind it is turned
    inside out, and without this the element would reach to the end of the file. One long loop: a state machine reads
    better in one piece than in twelve.
    """
    i, nest, string, begin, last = state[POS], state[NEST], state[STRING], state[OPEN], state[LAST]
    keys, deepest, long, run = state[KEYS], state[DEEPEST], state[LONGNUM], state[RUN]
    closed, comma, ended = state[CLOSED], state[COMMA], state[ENDED]
    prev, wrong = state[PREV], state[WRONG]
    n, room = 0, len(out) - 2
    while i < stop and n < room and not ended:
        if string:
            while i + 8 <= stop:
                word = load(buf, i)
                if holds(word, QUOTES) or holds(word, BACKSLASHES):
                    break
                i += 8
            if i >= stop:
                break
        c = buf[i]
        if string:
            if c == 92:  # backslash: the next byte says nothing
                if i + 1 >= stop:
                    break
                i += 2
                continue
            if c == 34:
                string = 0
                last = i + 1
                prev = np.int64(34)
            i += 1
            continue
        if c == 32 or c == 10 or c == 13 or c == 9:  # noqa: PLR1714
            run = 0
            i += 1
            continue
        if nest > 0:
            if prev == 34:
                beside_text = not (c == 44 or c == 58 or c == 125 or c == 93)  # noqa: PLR1714
            else:
                beside_text = c == 34 and not (prev == 44 or prev == 58 or prev == 123 or prev == 91)  # noqa: PLR1714
            if beside_text and wrong == SOUND:
                wrong = i
                break
        else:
            finish = c == 44 or (c == 93 and in_list)
            beside = closed and (c == 123 or c == 91)  # noqa: PLR1714
            if begin >= 0 and (finish or beside):
                out[n, 0], out[n, 1], out[n, 2], out[n, 3], out[n, 4], out[n, 5] = begin, last, keys, deepest, long, 0
                n += 1
                begin, closed, comma = np.int64(-1), np.int64(0), np.int64(-1)
                if beside and in_list:
                    out[n, 0], out[n, 1], out[n, 5] = i, i, 3
                    n += 1
            elif finish and (c == 44 or comma >= 0):
                where = i if c == 44 else comma
                out[n, 0], out[n, 1], out[n, 5] = where, where + 1, 1 if c == 44 else 2
                n += 1
            if finish:
                comma = i
                ended = np.int64(c == 93)
                i += 1
                continue
            if begin < 0:
                begin, keys, deepest, long, run = i, np.int64(0), np.int64(0), np.int64(0), np.int64(0)
                wrong = np.int64(SOUND)
        if c == 34:
            string = 1
            run = 0
        elif 48 <= c <= 57:
            run += 1
            if run >= 20:  # 2**64 has 20 digits
                long = np.int64(1)
        else:
            run = 0
            if c == 123 or c == 91:  # noqa: PLR1714
                nest += 1
                deepest = max(deepest, nest)
            elif (c == 125 or c == 93) and nest > 0:  # noqa: PLR1714
                nest -= 1
                if nest == 0:
                    closed = np.int64(1)
            elif c == 58:
                keys += 1
        prev = np.int64(c)
        i += 1
        last = i
    state[POS], state[NEST], state[STRING], state[OPEN], state[LAST] = i, nest, string, begin, last
    state[KEYS], state[DEEPEST], state[LONGNUM], state[RUN] = keys, deepest, long, run
    state[CLOSED], state[COMMA], state[ENDED] = closed, comma, ended
    state[PREV], state[WRONG] = prev, wrong
    return n


def _scan_lines(buf: Bytes, pos: int, stop: int, out: Numbers) -> tuple[int, int]:  # noqa: PLR0912, PLR0915
    """Lines that end in a line feed before `stop`: how many were found, and where to go on. Blank lines count."""
    n, i = 0, pos
    while i < stop and n < len(out):
        begin, last = i, i
        nest, deepest, keys, long, run = 0, 0, 0, 0, 0
        string, even = False, 1
        ended = False
        while i < stop:
            if string:
                while i + 8 <= stop:
                    word = load(buf, i)
                    if holds(word, QUOTES) or holds(word, BACKSLASHES) or holds(word, FEEDS):
                        break
                    i += 8
                if i >= stop:
                    break
            c = buf[i]
            if c == 10:
                ended = True
                break
            if string:
                if c == 92 and i + 1 < stop and buf[i + 1] != 10:
                    i += 2
                    continue
                if c == 34:
                    string = False
                    last = i + 1
                i += 1
                continue
            if c == 32 or c == 13 or c == 9:  # noqa: PLR1714
                run = 0
                i += 1
                continue
            if last == begin:
                begin = i
            if c == 34:
                string = True
                run = 0
            elif 48 <= c <= 57:
                run += 1
                if run >= 20:  # 2**64 has 20 digits
                    long = 1
            else:
                run = 0
                if c == 123 or c == 91:  # noqa: PLR1714
                    nest += 1
                    deepest = max(deepest, nest)
                elif c == 125 or c == 93:  # noqa: PLR1714
                    nest -= 1
                    if nest < 0:
                        even = 0
                elif c == 58:
                    keys += 1
                elif c == 44 and nest == 0:
                    even = 0
            i += 1
            last = i
        if not ended:
            return n, begin
        if string:
            last = i
        if string or nest != 0:
            even = 0
        out[n, 0], out[n, 1], out[n, 2], out[n, 3], out[n, 4], out[n, 5] = begin, last, keys, deepest, long, even
        n += 1
        i += 1
    return n, i


scan_elements = numba.njit(cache=True, nogil=True)(_scan_elements)
scan_lines = numba.njit(cache=True, nogil=True)(_scan_lines)
