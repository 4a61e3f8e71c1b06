"""Best-fit decreasing row by row, and the orders around it: the compiled loops of `plan`.

They stand in one file because numba notices a changed source by file.
"""

# Kernels take what numba infers, so they are not annotated.
# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["best_fit", "laid_out", "long_to_short", "permutation"]

_NONE = np.int32(-1)
# The factors of SplitMix64 (Steele, Lea, Flood 2014).
_FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0x9E3779B97F4A7C15)
# Place of the only 1 in a 64-bit number, found by a De Bruijn sequence (Leiserson, Prokop, Randall 1998).
_DE_BRUIJN = np.uint64(0x03F79D71B4CB0A89)
_PLACES = np.zeros(64, dtype=np.int64)
for _place in range(64):
    _PLACES[((0x03F79D71B4CB0A89 << _place) % 2**64) >> 58] = _place
_S58, _S6 = np.uint64(58), np.uint64(6)
_ONE, _ALL, _ZERO = np.uint64(1), np.uint64(2**64 - 1), np.uint64(0)


def permutation(count: int, seed: int) -> NDArray[Any]:
    """A shuffle of 0..count-1 that depends on nothing but its arguments: no library's generator may change it.

    Every step maps the numbers below 2**bits one to one (odd factor; xor with a shifted self), so the numbers below
    `count` come in some order, each once.
    """
    bits = max(2, (count - 1).bit_length())
    mask, key = 2**bits - 1, seed * 0xD1B54A32D192ED03 + 0x9E3779B97F4A7C15
    keys = np.zeros(len(_FACTORS), dtype=np.uint64)
    for step, factor in enumerate(_FACTORS):
        keys[step] = key & mask
        key = (key * 0xD1B54A32D192ED03 + factor) % 2**64
    factors = np.array([factor & mask for factor in _FACTORS], dtype=np.uint64)
    out: NDArray[Any] = np.empty(count, dtype=np.int32 if count < 2**31 else np.int64)
    _permute(out, bits, keys, factors)
    return out


@numba.njit(cache=True, nogil=True)
def _permute(out, bits, keys, factors):
    mask, half = (_ONE << np.uint64(bits)) - _ONE, np.uint64((bits + 1) // 2)
    count, found = np.uint64(len(out)), 0
    for start in range(1 << bits if len(out) else 0):
        x = np.uint64(start)
        for step in range(3):
            x = ((x ^ keys[step]) * factors[step]) & mask
            x ^= x >> half
        if x < count:
            out[found] = x
            found += 1


@numba.njit(cache=True, nogil=True)
def long_to_short(lengths, order, room):
    """The rows in `order` by falling length, and for each length where its rows end."""
    ends = np.zeros(room + 2, dtype=np.int64)
    for row in range(len(lengths)):
        ends[lengths[row]] += 1
    total = 0
    for length in range(room, -1, -1):  # from here on: where the next row of this length goes
        count = ends[length]
        ends[length] = total
        total += count
    rows = np.empty_like(order)
    for row in order:
        length = lengths[row]
        rows[ends[length]] = row
        ends[length] += 1
    return rows, ends


@numba.njit(cache=True, nogil=True)
def best_fit(ends, room, bins):
    """Fill `bins` with the bin of every row in falling order, whose lengths `ends` tells; how many rows each bin holds.

    A row of length n goes to the bin with the least free space f >= n, among several to the one that has had this space
    the longest. Having taken it, that bin is again the best for the next row of length n as long as its free space
    allows: so each bin in turn takes f // n rows. Bins of one free space are a chain from `first` to `last`; which
    spaces have bins, the bits of `some` say, and which words of `some` are not 0, those of `any_of`.
    """
    first, last = np.full(room + 1, _NONE), np.full(room + 1, _NONE)
    behind = np.full(len(bins) + 1, _NONE)
    held = np.zeros(len(bins) + 1, dtype=np.int32)
    some = np.zeros((room >> 6) + 2, dtype=np.uint64)
    any_of = np.zeros((len(some) >> 6) + 2, dtype=np.uint64)
    opened, at = 0, 0
    for length in range(room, 0, -1):
        while at < ends[length]:
            space = _least(some, any_of, length)
            if space < 0:
                space, taken = room, opened
                opened += 1
            else:
                taken = first[space]
                first[space] = behind[taken]
                if first[space] == _NONE:
                    _forget(some, any_of, space)
            count = min(space // length, ends[length] - at)
            for place in range(at, at + count):
                bins[place] = taken
            at += count
            held[taken] += count
            space -= count * length
            if space > 0:
                behind[taken] = _NONE
                if first[space] == _NONE:
                    first[space] = taken
                    _note(some, any_of, space)
                else:
                    behind[last[space]] = taken
                last[space] = taken
    return held[:opened]


@numba.njit(cache=True, nogil=True, inline="always")
def _lowest(word):
    """Place of the lowest 1."""
    return _PLACES[((word & (~word + _ONE)) * _DE_BRUIJN) >> _S58]


@numba.njit(cache=True, nogil=True, inline="always")
def _least(some, any_of, length):
    """The least space of at least `length` that has bins; -1 where there is none."""
    word = length >> 6
    here = some[word] & (_ALL << np.uint64(length & 63))
    if here != _ZERO:
        return (word << 6) + _lowest(here)
    word += 1
    upper = word >> 6
    above = any_of[upper] & (_ALL << np.uint64(word & 63))
    while above == _ZERO:
        upper += 1
        if upper >= len(any_of):
            return np.int64(-1)
        above = any_of[upper]
    word = (upper << 6) + _lowest(above)
    return (word << 6) + _lowest(some[word])


@numba.njit(cache=True, nogil=True, inline="always")
def _note(some, any_of, space):
    some[space >> 6] |= _ONE << np.uint64(space & 63)
    any_of[space >> 12] |= _ONE << np.uint64((space >> 6) & 63)


@numba.njit(cache=True, nogil=True, inline="always")
def _forget(some, any_of, space):
    some[space >> 6] &= ~(_ONE << np.uint64(space & 63))
    if some[space >> 6] == _ZERO:
        any_of[space >> 12] &= ~(_ONE << np.uint64((space >> 6) & 63))


@numba.njit(cache=True, nogil=True)
def laid_out(rows, lengths, bins, held, order):
    """Pack, position, row and length of every row, pack after pack; pack number i is bin order[i]."""
    free = np.empty(len(held), dtype=np.int64)  # where the next row of a bin goes
    pack, position = np.empty(len(rows), dtype=np.int64), np.empty(len(rows), dtype=np.int32)
    at = 0
    for number in range(len(order)):
        free[order[number]] = at
        for place in range(held[order[number]]):
            pack[at], position[at] = number, place
            at += 1
    row, tokens = np.empty(len(rows), dtype=np.int64), np.empty(len(rows), dtype=np.int32)
    for i in range(len(rows)):
        at = free[bins[i]]
        free[bins[i]] += 1
        row[at], tokens[at] = rows[i], lengths[rows[i]]
    return pack, position, row, tokens
