"""All pairs above a threshold, none missed: the prefix filter, in place of MinHash bands.

Order all shingles by how rare they are. Two sets with Jaccard similarity of at least `t` share at least one of the
`n - ceil(t * n) + 1` rarest shingles of each (n: its own size), so a bucket for each of those finds every pair. It
needs the shingles of all rows in memory; MinHash needs those of candidates only.
"""

# Kernels take what numba infers, so they are not annotated.
# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: ANN001, ANN202

from __future__ import annotations

import numba
import numpy as np

from sft_data.dedup.gathering import Buckets, turned
from sft_data.dedup.kernels import STEP, mix
from sft_data.dedup.matching import Sets, begins, place

__all__ = ["prefix_buckets"]

_COUNTERS = 1 << 24  # shingles that share a counter look more frequent than they are: any order is correct


def prefix_buckets(sets: Sets, parts: tuple[int, ...], threshold: float) -> Buckets:
    """The rows that could be near in the union of some parts, whose shingles count apart."""
    chosen = np.zeros(3, dtype=np.bool_)
    chosen[list(parts)] = True
    often = np.zeros(_COUNTERS, dtype=np.uint32)
    _count(sets, chosen, often)
    offsets = np.zeros(int(sets.firsts[-1]) + 1, dtype=np.int64)
    rare = np.empty(_room(sets, chosen, threshold), dtype=np.uint64)
    kept = _prefixes(sets, chosen, threshold, often, offsets, rare)
    numbers = np.empty(kept, dtype=np.int32)
    table = np.full(1 << max(3, int(2 * kept).bit_length()), -1, dtype=np.int64)
    return turned(offsets, numbers, _number(rare[:kept], table, numbers))


@numba.njit(cache=True, nogil=True, inline="always")
def _tagged(value, part):
    """A shingle's hash, told from the same shingle of another part."""
    return mix(value + np.uint64(part) * STEP)


@numba.njit(cache=True, nogil=True)
def _count(sets, chosen, often):
    for row in range(sets.firsts[-1]):
        here = place(sets, row)
        sizes, at = here[2], begins(sets, here)
        for part in range(3):
            for _ in range(sets.halves[sizes + part]):
                if chosen[part]:
                    often[np.int64(_tagged(sets.words[at], part) & np.uint64(len(often) - 1))] += 1
                at += 1


@numba.njit(cache=True, nogil=True)
def _size(sets, row, chosen):
    sizes = place(sets, row)[2]
    size = np.int64(0)
    for part in range(3):
        if chosen[part]:
            size += np.int64(sets.halves[sizes + part])
    return size


@numba.njit(cache=True, nogil=True, inline="always")
def _prefix(size, threshold):
    """Rarest shingles that are enough; one too many where `threshold * size` is a whole number but for rounding."""
    return size - np.int64(np.ceil(threshold * size - 1e-9)) + 1


@numba.njit(cache=True, nogil=True)
def _room(sets, chosen, threshold):
    room = np.int64(0)
    for row in range(sets.firsts[-1]):
        room += _prefix(_size(sets, row, chosen), threshold)
    return room


@numba.njit(cache=True, nogil=True)
def _prefixes(sets, chosen, threshold, often, offsets, rare):
    """Write each row's rarest shingles; those that no other row has are left out. Rows without any share bucket 0."""
    kept = 0
    for row in range(sets.firsts[-1]):
        size = _size(sets, row, chosen)
        order = np.empty(size, dtype=np.uint64)
        here = place(sets, row)
        sizes, at, used = here[2], begins(sets, here), 0
        for part in range(3):
            for _ in range(sets.halves[sizes + part] if size else 0):
                if chosen[part]:
                    value = _tagged(sets.words[at], part)
                    many = often[np.int64(value & np.uint64(len(often) - 1))]
                    # Frequency first, then the hash: 24 + 40 bits decide the order and tell shingles apart.
                    order[used] = np.uint64(min(many, np.uint32(0xFFFFFF))) << np.uint64(40) | value >> np.uint64(24)
                    used += 1
                at += 1
        order.sort()
        for rank in range(min(_prefix(size, threshold), size)):
            if order[rank] >> np.uint64(40) > 1:
                rare[kept] = order[rank]
                kept += 1
        if size == 0:
            rare[kept] = np.uint64(0)
            kept += 1
        offsets[row + 1] = kept
    return kept


@numba.njit(cache=True, nogil=True)
def _number(rare, table, numbers):
    """A number for each different value, in the order of appearance."""
    mask = np.int64(len(table) - 1)
    first_of = np.empty(len(rare), dtype=np.int64)
    used = 0
    for at in range(len(rare)):
        slot = np.int64(mix(rare[at]) >> np.uint64(1)) & mask
        while table[slot] >= 0 and rare[first_of[table[slot]]] != rare[at]:
            slot = (slot + 1) & mask
        if table[slot] < 0:
            table[slot] = used
            first_of[used] = at
            used += 1
        numbers[at] = table[slot]
    return used
