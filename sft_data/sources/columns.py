"""Flat JSON rows whose values are all texts -> the texts, from bytes to Arrow without an object per row or value.

Most instruction data are rows such as `{"instruction": "...", "input": "...", "output": "..."}`: the same keys in the
same order in every row. Those are read here; `read_texts` gives up at the first row that is anything else, be it only
its spelling, and the decoder for everything takes the batch. What is read here is what orjson would read.
"""

# Kernels take what numba infers, so they are not annotated.
# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: ANN001, ANN202

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from sft_data.words import load, needs_escape, store

__all__ = ["Texts", "read_texts"]


@dataclass(frozen=True)
class Texts:
    """Rows of texts: value `c` of row `r`, whose key is `names[c]`, is `flat[r * len(names) + c]`."""

    names: tuple[str, ...]
    flat: pa.LargeStringArray

    @property
    def bounds(self) -> NDArray[np.int64]:
        """Where each text begins in `data`, and where the last one ends."""
        return np.frombuffer(self.flat.buffers()[1], np.int64)[: len(self.flat) + 1]

    @property
    def data(self) -> NDArray[np.uint8]:
        """The UTF-8 bytes of all texts."""
        data = self.flat.buffers()[2]
        return np.frombuffer(data, np.uint8) if data else np.zeros(0, np.uint8)


def read_texts(buffer: bytes, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Texts | None:
    """The rows `buffer[start:end]`, or None where any has other keys, another order or a value that is no text."""
    try:
        first = orjson.loads(buffer[starts[0] : ends[0]])
    except orjson.JSONDecodeError:
        return None
    if not isinstance(first, dict) or not first or set(map(type, first.values())) != {str}:
        return None
    spelt = [orjson.dumps(name) for name in first]
    key_bounds = np.cumsum([0, *map(len, spelt)])
    bounds = np.zeros(len(starts) * len(first) + 1, np.int64)
    data = np.empty(int((ends - starts).sum()), np.uint8)
    keys = np.frombuffer(b"".join(spelt), np.uint8)
    if not _read(np.frombuffer(buffer, np.uint8), starts, ends, keys, key_bounds, data, bounds):
        return None
    flat = pa.LargeStringArray.from_buffers(len(bounds) - 1, pa.py_buffer(bounds), pa.py_buffer(data[: bounds[-1]]))
    try:
        flat.validate(full=True)  # the bytes are UTF-8
    except pa.ArrowInvalid:
        return None
    return Texts(tuple(first), flat)


@numba.njit(cache=True, nogil=True, inline="always")
def _past_space(buf, i, end):
    while i < end and (buf[i] == 32 or buf[i] == 10 or buf[i] == 13 or buf[i] == 9):
        i += 1
    return i


@numba.njit(cache=True, nogil=True)
def _hex(buf, i):
    """The number that four hexadecimal digits write, or -1."""
    value = np.int64(0)
    for k in range(4):
        c = np.int64(buf[i + k])
        if 48 <= c <= 57:
            digit = c - 48
        elif 97 <= (c | 32) <= 102:
            digit = (c | 32) - 87
        else:
            return -1
        value = value * 16 + digit
    return value


@numba.njit(cache=True, nogil=True)
def _escape(buf, i, end, out, at):
    """The escape behind the backslash at `i - 1`: where to go on reading and writing; -1 where it is none."""
    if i >= end:
        return -1, at
    c = buf[i]
    if c == 34 or c == 92 or c == 47:  # noqa: PLR1714
        out[at] = c
    elif c == 110:
        out[at] = 10
    elif c == 116:
        out[at] = 9
    elif c == 114:
        out[at] = 13
    elif c == 98:
        out[at] = 8
    elif c == 102:
        out[at] = 12
    elif c == 117 and i + 5 <= end:
        return _unicode(buf, i + 1, end, out, at)
    else:
        return -1, at
    return i + 1, at + 1


@numba.njit(cache=True, nogil=True)
def _unicode(buf, i, end, out, at):
    r"""The character whose \u digits stand at `i`, as UTF-8; two halves of a surrogate pair are one character."""
    code = _hex(buf, i)
    i += 4
    if 0xD800 <= code < 0xDC00:
        low = _hex(buf, i + 2) if i + 6 <= end and buf[i] == 92 and buf[i + 1] == 117 else -1
        if not 0xDC00 <= low < 0xE000:
            return -1, at
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
        i += 6
    elif code < 0 or 0xDC00 <= code < 0xE000:
        return -1, at
    if code < 0x80:
        out[at] = code
        return i, at + 1
    if code < 0x800:
        out[at], out[at + 1] = 0xC0 | code >> 6, 0x80 | code & 63
        return i, at + 2
    if code < 0x10000:
        out[at], out[at + 1], out[at + 2] = 0xE0 | code >> 12, 0x80 | code >> 6 & 63, 0x80 | code & 63
        return i, at + 3
    out[at], out[at + 1] = 0xF0 | code >> 18, 0x80 | code >> 12 & 63
    out[at + 2], out[at + 3] = 0x80 | code >> 6 & 63, 0x80 | code & 63
    return i, at + 4


@numba.njit(cache=True, nogil=True)
def _text(buf, i, end, out, at):
    """The text whose opening quote stands at `i - 1`, unescaped: where to go on; -1 where it is no text."""
    while i < end:
        # `out` has room for as many bytes as all rows have, so eight more than were read of this one.
        while i + 8 <= end:
            word = load(buf, i)
            if needs_escape(word):
                break
            at = store(out, at, word)
            i += 8
        if i >= end:
            break
        c = buf[i]
        if c == 34:
            return i + 1, at
        if c == 92:
            i, at = _escape(buf, i + 1, end, out, at)
            if i < 0:
                return i, at
            continue
        if c < 32:
            return -1, at
        out[at] = c
        at += 1
        i += 1
    return -1, at


@numba.njit(cache=True, nogil=True)
def _key(buf, i, end, keys, begin, stop):
    """Whether a key spelt `keys[begin:stop]` stands at `i`, with its colon and a quote: the place behind, or -1."""
    if i + stop - begin > end:
        return -1
    for k in range(begin, stop):
        if buf[i] != keys[k]:
            return -1
        i += 1
    i = _past_space(buf, i, end)
    if i >= end or buf[i] != 58:
        return -1
    i = _past_space(buf, i + 1, end)
    return i + 1 if i < end and buf[i] == 34 else -1


@numba.njit(cache=True, nogil=True)
def _read(buf, starts, ends, keys, key_bounds, out, bounds):
    """Unescape all values of all rows into `out`. False at the first row that is not what it should be."""
    columns = len(key_bounds) - 1
    at, n = 0, 0
    for row in range(len(starts)):
        i, end = starts[row], ends[row]
        if i >= end or buf[i] != 123:
            return False
        i += 1
        for c in range(columns):
            i = _past_space(buf, i, end)
            if c:
                if i >= end or buf[i] != 44:
                    return False
                i = _past_space(buf, i + 1, end)
            i = _key(buf, i, end, keys, key_bounds[c], key_bounds[c + 1])
            if i < 0:
                return False
            i, at = _text(buf, i, end, out, at)
            if i < 0:
                return False
            n += 1
            bounds[n] = at
        i = _past_space(buf, i, end)
        if i + 1 != end or buf[i] != 125:
            return False
    return True
