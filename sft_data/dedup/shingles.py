"""Sets of shingles: what the similarity of two texts is measured on.

A shingle is `n` units in a row (see `units`). A text of fewer than `n` units has no shingles worth comparing: it is
one shingle, the whole stripped text as it stands. So distinct short texts are never near each other and identical
ones always are ("Yes." is neither "No." nor "Yes!"). The same holds for texts without units, such as "..." or emoji.
"""

# Kernels take what numba infers, so they are not annotated.
# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: ANN001, ANN201, ANN202, PLR0917

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt
import polars as pl

from sft_data.dedup.units import STEP, mix, read_units, unit_table, utf8

__all__ = ["ShingleSets", "roll", "shingle_sets"]

U64 = npt.NDArray[np.uint64]

CHUNK_ROWS = 16_384  # rows whose bytes and shingles are in memory together
_S32, _S33 = np.uint64(32), np.uint64(33)
_ONE = np.uint64(1)


@dataclass(frozen=True)
class ShingleSets:
    """Of each text: its set of shingles, its identity and its numbers."""

    values: U64  # 64-bit hashes; sorted and unique inside each text
    counts: npt.NDArray[np.int64]  # shingles of each text; 0 only where the text is empty
    keys: U64  # equal for texts with equal sets (short ones: equal stripped text); even for short texts
    numbers: U64  # equal for texts with the same numbers in the same order; 0 where there are none


def shingle_sets(columns: list[pl.Series], n: int) -> ShingleSets:
    """The shingle sets of all texts, row by row: text `i` of column `c` is number `i * len(columns) + c`."""
    width, height = len(columns), len(columns[0])
    if height > CHUNK_ROWS:
        starts = range(0, height, CHUNK_ROWS)
        return _joined([shingle_sets([column.slice(at, CHUNK_ROWS) for column in columns], n) for at in starts])
    data, bounds = utf8(columns)
    values = np.empty(len(data) + width * height, dtype=np.uint64)  # no text has more shingles than bytes, or than one
    counts = np.zeros(width * height, dtype=np.int64)
    keys = np.zeros(width * height, dtype=np.uint64)
    numbers = np.zeros(width * height, dtype=np.uint64)
    used = _shingle(data, bounds, unit_table(), n, values, counts, keys, numbers)
    return ShingleSets(values[:used].copy(), counts, keys, numbers)


def _joined(parts: list[ShingleSets]) -> ShingleSets:
    return ShingleSets(
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.counts for part in parts]),
        np.concatenate([part.keys for part in parts]),
        np.concatenate([part.numbers for part in parts]),
    )


@numba.njit(cache=True, nogil=True)
def roll(hashes, units, n, out, used):
    """Write the hash of every `n` units in a row to `out` behind `used`; return the new `used`."""
    leaves = np.uint64(1)  # STEP ** n: the weight with which a unit leaves the sum
    for _ in range(n):
        leaves *= STEP
    rolled = np.uint64(0)
    for at in range(units):
        rolled = rolled * STEP + hashes[at]
        if at >= n:
            rolled -= hashes[at - n] * leaves
        if at >= n - 1:
            out[used] = mix(rolled)
            used += 1
    return used


@numba.njit(cache=True, nogil=True)
def _hash_bytes(data, first, last):
    whole = mix(np.uint64(last - first) + STEP)
    for at in range(first, last):
        whole = (whole ^ np.uint64(data[at])) * STEP
        whole ^= whole >> _S33
    return mix(whole)


@numba.njit(cache=True, nogil=True)
def _sort_unique(values, first, end, spare, places):
    """Sort `values[first:end]` and drop repetitions in place; return the new end.

    Hashes are evenly spread, so one pass puts each value near its place and an insertion sort does the rest: linear
    time, three times as fast as a general sort of such short runs.
    """
    size = end - first
    if size > 24:
        places[: size + 1] = 0
        for at in range(first, end):
            places[np.int64(((values[at] >> _S32) * np.uint64(size)) >> _S32) + 1] += 1
        for at in range(size):
            places[at + 1] += places[at]
        for at in range(first, end):
            bucket = np.int64(((values[at] >> _S32) * np.uint64(size)) >> _S32)
            spare[places[bucket]] = values[at]
            places[bucket] += 1
        values[first:end] = spare[:size]
    for at in range(first + 1, end):
        value, back = values[at], at
        while back > first and values[back - 1] > value:
            values[back] = values[back - 1]
            back -= 1
        values[back] = value
    kept = first
    for at in range(first, end):
        if at == first or values[at] != values[kept - 1]:
            values[kept] = values[at]
            kept += 1
    return kept


@numba.njit(cache=True, nogil=True)
def _shingle(data, bounds, table, n, values, counts, keys, numbers):
    """Fill `values` with the sets of all texts one behind the other, and the other arrays; return the values used."""
    longest = np.int64(0)
    for doc in range(len(bounds)):
        longest = max(longest, bounds[doc, 1] - bounds[doc, 0])
    hashes, places = np.empty(longest + 2, dtype=np.uint64), np.empty(longest + 2, dtype=np.int64)
    starts, ends = np.empty(longest + 1, dtype=np.int64), np.empty(longest + 1, dtype=np.int64)
    used = 0
    for doc in range(len(bounds)):
        opened = used
        units, first, last, numbers[doc] = read_units(data, bounds[doc, 0], bounds[doc, 1], table, hashes, starts, ends)
        if units >= n:
            used = _sort_unique(values, opened, roll(hashes, units, n, values, used), hashes, places)
            for at in range(opened, used):
                keys[doc] += mix(values[at] ^ STEP)
            keys[doc] |= _ONE
        elif last > first:
            whole = _hash_bytes(data, first, last)
            keys[doc] = max(whole & ~_ONE, np.uint64(2))  # 0 is the empty text
            values[used] = mix(whole ^ STEP)
            used += 1
        counts[doc] = used - opened
    return used
