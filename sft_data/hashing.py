"""BLAKE2b-128 of many rows of JSON at once: compiled loops in place of one call of `json` and `hashlib` a row.

The bytes that are hashed are those that `json.dumps(row, ensure_ascii=False, separators=(",", ":"))` would write.
BLAKE2b is that of RFC 7693, unkeyed, 16 bytes of digest: `hashlib.blake2b(text, digest_size=16)` gives the same.
"""

# Kernels take what numba infers, so they are not annotated.
# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: ANN001, ANN202

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from sft_data.words import load, needs_escape, store

__all__ = ["hash_structs"]

_IV = np.array(
    [
        0x6A09E667F3BCC908, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1,
        0x510E527FADE682D1, 0x9B05688C2B3E6C1F, 0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179,
    ],
    np.uint64,
)  # fmt: skip
_SIGMA = np.array(
    [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
        [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4],
        [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
        [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13],
        [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
        [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11],
        [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
        [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5],
        [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
    ],
    np.uint8,
)  # fmt: skip
_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)
_NULL = np.frombuffer(b"null    ", np.uint8)
# The letter that JSON escapes a control character with; 0 where it is \u00XX.
_SHORT = np.zeros(32, np.uint8)
_SHORT[[8, 9, 10, 12, 13]] = list(b"btnfr")
_QUOTE, _BACKSLASH = np.uint8(34), np.uint8(92)
_PARAMETERS = np.uint64(0x01010000 ^ 16)  # fan-out 1, depth 1, no key, 16 bytes of digest
_BLOCK = 128


@numba.njit(cache=True, nogil=True, inline="always")
def _turn(word, by):
    return (word >> np.uint64(by)) | (word << np.uint64(64 - by))


@numba.njit(cache=True, nogil=True, inline="always")
def _mix(a, b, c, d, x, y):
    a = a + b + x
    d = _turn(d ^ a, 32)
    c = c + d
    b = _turn(b ^ c, 24)
    a = a + b + y
    d = _turn(d ^ a, 16)
    c = c + d
    b = _turn(b ^ c, 63)
    return a, b, c, d


@numba.njit(cache=True, nogil=True)
def _compress(h, m, at, count, final):
    """One block of 16 words, `m[at:at+16]`, into the state `h`; `count`: bytes taken in, with this block."""
    at = np.uint64(at)  # an index that cannot be negative is not checked for it
    v0, v1, v2, v3, v4, v5, v6, v7 = h[0], h[1], h[2], h[3], h[4], h[5], h[6], h[7]
    v8, v9, v10, v11 = _IV[0], _IV[1], _IV[2], _IV[3]
    v12, v13, v14, v15 = _IV[4] ^ np.uint64(count), _IV[5], _IV[6] ^ final, _IV[7]
    for r in range(12):
        s = _SIGMA[r]
        v0, v4, v8, v12 = _mix(v0, v4, v8, v12, m[at + s[0]], m[at + s[1]])
        v1, v5, v9, v13 = _mix(v1, v5, v9, v13, m[at + s[2]], m[at + s[3]])
        v2, v6, v10, v14 = _mix(v2, v6, v10, v14, m[at + s[4]], m[at + s[5]])
        v3, v7, v11, v15 = _mix(v3, v7, v11, v15, m[at + s[6]], m[at + s[7]])
        v0, v5, v10, v15 = _mix(v0, v5, v10, v15, m[at + s[8]], m[at + s[9]])
        v1, v6, v11, v12 = _mix(v1, v6, v11, v12, m[at + s[10]], m[at + s[11]])
        v2, v7, v8, v13 = _mix(v2, v7, v8, v13, m[at + s[12]], m[at + s[13]])
        v3, v4, v9, v14 = _mix(v3, v4, v9, v14, m[at + s[14]], m[at + s[15]])
    h[0] ^= v0 ^ v8
    h[1] ^= v1 ^ v9
    h[2] ^= v2 ^ v10
    h[3] ^= v3 ^ v11
    h[4] ^= v4 ^ v12
    h[5] ^= v5 ^ v13
    h[6] ^= v6 ^ v14
    h[7] ^= v7 ^ v15


@numba.njit(cache=True, nogil=True)
def _digest(text, words, size, h, out, at):
    """BLAKE2b-128 of `text[:size]` as 32 hex digits in `out[at:]`. `words` is `text` as little-endian words."""
    for i in range(8):
        h[i] = _IV[i]
    h[0] ^= _PARAMETERS
    blocks = max(1, (size + _BLOCK - 1) // _BLOCK)
    for i in range(size, blocks * _BLOCK):
        text[i] = 0
    for b in range(blocks - 1):
        _compress(h, words, 16 * b, (b + 1) * _BLOCK, np.uint64(0))
    _compress(h, words, 16 * (blocks - 1), size, np.uint64(0xFFFFFFFFFFFFFFFF))
    for i in range(16):
        byte = (h[i >> 3] >> np.uint64(8 * (i & 7))) & np.uint64(0xFF)
        out[at + 2 * i] = _DIGITS[byte >> np.uint64(4)]
        out[at + 2 * i + 1] = _DIGITS[byte & np.uint64(15)]


@numba.njit(cache=True, nogil=True, inline="always")
def _put(target, at, source, begin, end):
    """`source[begin:end]`, and up to seven bytes more that the next ones overwrite: both have room for them."""
    for i in range(begin, end, 8):
        store(target, at + i - begin, load(source, i))
    return at + end - begin


@numba.njit(cache=True, nogil=True, inline="always")
def _put_text(target, at, data, begin, end):
    """A JSON text: quotes around it, control characters, quotes and backslashes escaped, all else as it is."""
    target[at] = _QUOTE
    at += 1
    i = begin
    while i < end:
        while i + 8 <= end:
            word = load(data, i)
            if needs_escape(word):
                break
            at = store(target, at, word)
            i += 8
        if i >= end:
            break
        c = data[i]
        i += 1
        if c >= 32 and c != _QUOTE and c != _BACKSLASH:  # noqa: PLR1714 - numba compiles no sets
            target[at] = c
            at += 1
            continue
        target[at] = _BACKSLASH
        at += 1
        letter = c if c >= 32 else _SHORT[c]
        if letter:
            target[at] = letter
            at += 1
            continue
        target[at], target[at + 1], target[at + 2] = 117, 48, 48  # u00
        target[at + 3], target[at + 4] = _DIGITS[c >> 4], _DIGITS[c & 15]
        at += 5
    target[at] = _QUOTE
    return at + 1


@numba.njit(cache=True, nogil=True, inline="always")
def _put_value(target, at, data, bounds, valid, row):
    if len(valid) and not valid[row]:
        return _put(target, at, _NULL, 0, 4)
    return _put_text(target, at, data, bounds[row], bounds[row + 1])


@numba.njit(cache=True, nogil=True)
def _hash_rows(turns, datas, bounds, valids, keys, key_bounds, tools, tool_bounds, tool_valid, out):
    """Row i holds the turns `turns[i]:turns[i + 1]`; column c of a turn has its texts in `datas[c]`.

    `keys` are the bytes between the values: one before each column and those behind the last; then the row's.
    """
    columns = len(datas)
    h = np.zeros(8, np.uint64)
    text = np.zeros(1 << 16, np.uint8)
    words = text.view(np.uint64)
    for row in range(len(turns) - 1):
        first, last = turns[row], turns[row + 1]
        size = tool_bounds[row + 1] - tool_bounds[row]
        for c in range(columns):
            size += bounds[c][last] - bounds[c][first]
        room = 6 * size + (last - first) * (len(keys) + 8 * columns) + len(keys) + 2 * _BLOCK
        if room > len(text):
            text = np.zeros(-(-2 * room // _BLOCK) * _BLOCK, np.uint8)
            words = text.view(np.uint64)
        at = _put(text, 0, keys, key_bounds[columns + 1], key_bounds[columns + 2])
        for turn in range(first, last):
            if turn > first:
                text[at] = 44
                at += 1
            for c in range(columns):
                at = _put(text, at, keys, key_bounds[c], key_bounds[c + 1])
                at = _put_value(text, at, datas[c], bounds[c], valids[c], turn)
            at = _put(text, at, keys, key_bounds[columns], key_bounds[columns + 1])
        at = _put(text, at, keys, key_bounds[columns + 2], key_bounds[columns + 3])
        at = _put_value(text, at, tools, tool_bounds, tool_valid, row)
        text[at] = 125
        _digest(text, words, at + 1, h, out, 32 * row)


def hash_structs(messages: pa.LargeListArray, names: Sequence[str], tools: pa.LargeStringArray) -> pa.LargeStringArray:
    """Hex BLAKE2b-128 of `{"messages":[{...}],"tools":...}` for each row.

    `messages`: lists of structs, none of them null, whose fields `names` are large strings; further fields are
    written as null. `tools`: large strings, one a row.
    """
    turns = np.frombuffer(messages.buffers()[1], np.int64)[messages.offset :][: len(messages) + 1]
    structs = messages.values
    kinds = structs.type
    texts = [structs.field(name) for name in names]
    later = [field.name for field in kinds if field.name not in names]
    pieces = [f'{"{" if i == 0 else ","}"{name}":' for i, name in enumerate(names)]
    pieces.append("".join(f',"{name}":null' for name in later) + "}")
    pieces += ['{"messages":[', '],"tools":']
    keys = np.frombuffer("".join([*pieces, " " * 8]).encode(), np.uint8)
    key_bounds = np.cumsum([0, *(len(piece.encode()) for piece in pieces)])
    columns = [_column(text) for text in texts]
    out = np.empty(32 * len(messages), np.uint8)
    _hash_rows(
        _frozen(turns),
        tuple(data for data, _, _ in columns),
        tuple(bounds for _, bounds, _ in columns),
        tuple(valid for _, _, valid in columns),
        _frozen(keys),
        _frozen(key_bounds),
        *_column(tools),
        out,
    )
    offsets = np.arange(0, 32 * len(messages) + 1, 32, dtype=np.int64)
    return pa.LargeStringArray.from_buffers(len(messages), pa.py_buffer(offsets), pa.py_buffer(out))


def _column(texts: pa.LargeStringArray) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.bool_]]:
    """Bytes, bounds and validity (empty where nothing is null) of an array of texts."""
    _, bounds, data = texts.buffers()
    offsets = np.frombuffer(bounds or b"", np.int64)[texts.offset : texts.offset + len(texts) + 1]
    return (
        _frozen(np.frombuffer(data, np.uint8) if data else np.zeros(0, np.uint8)),
        _frozen(offsets if len(offsets) else np.zeros(len(texts) + 1, np.int64)),
        _frozen(pl.Series(texts.is_valid()).to_numpy() if texts.null_count else np.zeros(0, np.bool_)),
    )


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    """Read-only, as what lies in Arrow's memory: a kernel is compiled for one kind of array, not for both."""
    array = array[:]
    array.flags.writeable = False
    return array
