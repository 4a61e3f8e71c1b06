"""Which rows share a key: found in portions, each a piece of work of its own.

Nearly all keys of a dataset belong to one row alone and say nothing. A portion looks at some bands of one relation (or,
where memory is short, at a range of one band's keys) in the sketches of all shards, and keeps the buckets in which two
or more rows stand. No bucket is split over portions, so what is found does not depend on how they are cut.

What a portion found lies in a memory-mapped file, both ways round: the buckets of each row, the rows of each bucket.
"""

# Kernels take what numba infers, so they are not annotated.
# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: ANN001, ANN202

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
import polars as pl

from sft_data.dedup.memory import list_of, one_list_of
from sft_data.errors import ConfigError

__all__ = ["LARGE", "Buckets", "Portion", "gather", "portions", "turned"]

# A bucket of more rows is large: whoever walks over it keeps a list of the rows in it that still matter.
LARGE = 16
# Bands of a portion, as long as memory allows: fewer portions read less, more of them keep more workers busy.
_BANDS = 8
_RANGES = 64
_PLACES = (1 << 31) - 1  # places in the buckets of a portion are counted in 4 bytes

_LOWER = np.uint64(0xFFFFFFFF)
_HEAP = 2048  # keys whose hash table fits the processor's first cache

I32 = npt.NDArray[np.int32]
Matrix = npt.NDArray[Any]


class Portion(NamedTuple):
    """One piece of the work: bands `first` to `end` of a relation; `part` of so many `ranges` of their keys."""

    relation: str
    first: int
    end: int
    part: int = 0
    ranges: int = 1


class Buckets(NamedTuple):
    """Which rows share a key; rows and places take 4 bytes.

    Row `i` stands in the buckets that begin at the places `buckets[offsets[i]:offsets[i + 1]]` of `rows`. A bucket has
    its rows in ascending order; its last one, `r`, is written as `~r`. The first `large` places of `rows` are those of
    buckets of more than LARGE rows.
    """

    offsets: I32
    buckets: I32
    rows: I32
    large: int

    def frame(self, relation: str) -> pl.DataFrame:
        """As a table of one row, to be written and memory-mapped."""
        told = [pl.Series("relation", [relation]), pl.Series("large", [self.large], dtype=pl.Int32)]
        return pl.DataFrame([*told, *(list_of(name, getattr(self, name)) for name in _ARRAYS)])

    @classmethod
    def of(cls, frame: pl.DataFrame) -> Buckets:
        """Where they lie."""
        offsets, buckets, rows = (one_list_of(frame[name], np.int32) for name in _ARRAYS)
        return cls(offsets, buckets, rows, frame["large"].item())


_ARRAYS = ("offsets", "buckets", "rows")


def portions(banded: Mapping[str, int], single: Sequence[str], rows: int, memory: int) -> list[Portion]:
    """How to cut the work so that a portion over `rows` rows takes about `memory` bytes (but 9 for a row at least).

    `banded` tells how many bands each relation has; those in `single` have one key of up to three numbers.
    """
    width = next((w for w in (_BANDS, 4, 2, 1) if rows * w < _PLACES and rows * (12 * w + 32) <= memory), 0)
    ranges = next((n for n in (1, 2, 4, 8, 16, 32) if rows * (64 / n + 8) <= memory), _RANGES)
    found = []
    for relation, bands in banded.items():
        if width:
            found += [Portion(relation, at, min(at + width, bands)) for at in range(0, bands, width)]
        else:
            found += [Portion(relation, at, at + 1, part, ranges) for at in range(bands) for part in range(ranges)]
    return found + [Portion(relation, 0, 1, part, ranges) for relation in single for part in range(ranges)]


def gather(
    shards: Sequence[Matrix], height: int, portion: Portion, who: Sequence[I32] | None = None, *, banded: bool = False
) -> Buckets:
    """The buckets of a portion.

    `shards` holds the keys of each shard, a matrix each: rows are alike where all columns are, and where the keys are
    `banded`, each column of the portion is looked at on its own. The keys are those of all `height` rows in their
    order, or of the rows `who`, told for each shard.
    """
    if banded and portion.ranges == 1:
        chosen = np.concatenate(who) if who is not None else np.empty(0, dtype=np.int32)
        keys = _columns(shards, portion)
        out: I32 = keys.view(np.int32)  # a band's keys are read once: what is found of it takes their place
    else:
        columns = [shard[:, portion.first : portion.end] for shard in shards] if banded else shards
        picked, chosen = _picked(columns, portion, who)
        keys = picked.T if banded else picked[None]
        out = np.empty((1, len(picked)), dtype=np.int32)
    spread = np.empty(keys.shape[1], dtype=np.uint64)
    sizes: list[I32] = []
    used = 0
    for band, each in enumerate(keys):
        sizes.append(np.empty(len(each) // 2, dtype=np.int32))
        many = _group(each[:, None] if banded else each, spread, out[band], sizes[-1], used)
        sizes[-1] = sizes[-1][:many].copy()
        used += many
    del spread
    return _buckets(out, chosen, height, np.concatenate(sizes))


def _columns(shards: Sequence[Matrix], portion: Portion) -> Matrix:
    """The keys of some bands, each band in one piece. A shard is read once for all of them, not once for each."""
    keys = np.empty((portion.end - portion.first, sum(map(len, shards))), dtype=np.uint32)
    before = 0
    for shard in shards:
        keys[:, before : before + len(shard)] = shard[:, portion.first : portion.end].T
        before += len(shard)
    return keys


def _picked(shards: Sequence[Matrix], portion: Portion, who: Sequence[I32] | None) -> tuple[Matrix, I32]:
    """The keys of a range, and whose they are."""
    keys, rows, before = [], [], 0
    for number, shard in enumerate(shards):
        inside = _inside(np.ascontiguousarray(shard), portion.part, portion.ranges)
        keys.append(shard[inside])
        rows.append(who[number][inside] if who is not None else (inside + before).astype(np.int32))
        before += len(shard)
    return np.concatenate(keys), np.concatenate(rows)


def turned(offsets: npt.NDArray[np.int64], numbers: I32, used: int) -> Buckets:
    """Buckets both ways round, from the `used` buckets that each row stands in."""
    if len(numbers) > _PLACES:
        raise ConfigError(
            "candidates: exact",
            [f"the rows stand in {len(numbers)} buckets, at most {_PLACES} are possible; use candidates: minhash"],
        )
    sizes = np.bincount(numbers, minlength=used).astype(np.int32)
    large, states = _states(sizes)
    buckets, rows = np.empty(len(numbers), dtype=np.int32), np.empty(len(numbers), dtype=np.int32)
    _turn(offsets, numbers, states, large, buckets, rows)
    return Buckets(offsets.astype(np.int32), buckets, rows, large)


def _buckets(out: I32, who: I32, height: int, sizes: I32) -> Buckets:
    """From the bucket of each place in each band, -1 where it stands alone."""
    large, states = _states(sizes)
    offsets = np.zeros(height + 1, dtype=np.int32)
    buckets, rows = (np.empty(int(sizes.sum(dtype=np.int64)), dtype=np.int32) for _ in range(2))
    _lay(out, who, states, large, offsets, buckets, rows)
    return Buckets(offsets, buckets, rows, large)


def _states(sizes: I32) -> tuple[int, I32]:
    """How many places large buckets take; and the state of each bucket before its first row, see `_put`."""
    states = np.full((len(sizes), 3), -1, dtype=np.int32)
    states[:, 0] = sizes
    return int(sizes[sizes > LARGE].sum(dtype=np.int64)), states


@numba.njit(cache=True, nogil=True, inline="always")
def _hash(keys, place):
    """64 bits; the upper and the lower half are each well mixed at their upper end."""
    h = np.uint64(0)
    for column in range(keys.shape[1]):
        h = (h ^ (h >> np.uint64(32)) ^ np.uint64(keys[place, column])) * np.uint64(0x9E3779B97F4A7C15)
    return h


@numba.njit(cache=True, nogil=True)
def _inside(keys, part, ranges):
    """The places of the keys in one of several ranges. It goes by the upper half of the hash, `_group` by the lower."""
    found = np.empty(len(keys), dtype=np.int64)
    used = 0
    for place in range(len(keys)):
        if np.int64(((_hash(keys, place) >> np.uint64(32)) * np.uint64(ranges)) >> np.uint64(32)) == part:
            found[used] = place
            used += 1
    return found[:used].copy()


@numba.njit(cache=True, nogil=True)
def _equal(keys, left, right):
    for column in range(keys.shape[1]):  # noqa: SIM110  # compiled: a generator would not be
        if keys[left, column] != keys[right, column]:
            return False
    return True


@numba.njit(cache=True, nogil=True, inline="always")
def _bits_for(places):
    """Bits of the slots of a table that is at most half full."""
    width = 3
    while 1 << width < 2 * places:
        width += 1
    return width


@numba.njit(cache=True, nogil=True)
def _group(keys, spread, out, sizes, used):
    """Number the buckets of one band behind the `used` ones, and count their rows; `out` may lie where `keys` does.

    The hashes are first dealt into heaps that fit the processor's cache, where a hash table finds equal ones: a table
    over all rows would wait for memory twice with each row.
    """
    told = keys.shape[1] == 1 and keys.itemsize == 4  # such keys differ where the lower halves of their hashes do
    bits = 1
    while bits < 12 and len(keys) >> bits > _HEAP:
        bits += 1
    ends = np.zeros((1 << bits) + 1, dtype=np.int64)
    shift = np.uint64(32 - bits)
    for place in range(len(keys)):
        ends[np.int64((_hash(keys, place) & _LOWER) >> shift) + 1] += 1
    most = int(ends.max())
    ends = np.cumsum(ends)
    for place in range(len(keys)):
        h = _hash(keys, place) & _LOWER
        own = np.int64(h >> shift)
        spread[ends[own]] = h << np.uint64(32) | np.uint64(place)
        ends[own] += 1
    out[:] = -1
    table = np.empty(1 << _bits_for(most), dtype=np.int64)
    many = 0
    for heap in range(1 << bits):
        begin = int(ends[heap - 1]) if heap else 0
        width = _bits_for(ends[heap] - begin)
        mask = np.int64((1 << width) - 1)
        table[: mask + 1] = -1
        for at in range(begin, ends[heap]):
            h, row = spread[at] >> np.uint64(32), np.int64(spread[at] & _LOWER)
            slot = np.int64((h << np.uint64(bits) & _LOWER) >> np.uint64(max(0, 32 - width))) & mask
            while table[slot] >= 0 and (
                spread[table[slot]] >> np.uint64(32) != h
                or not (told or _equal(keys, np.int64(spread[table[slot]] & _LOWER), row))
            ):
                slot = (slot + 1) & mask
            if table[slot] < 0:
                table[slot] = at
                continue
            first = np.int64(spread[table[slot]] & _LOWER)
            if out[first] < 0:
                out[first] = used + many
                sizes[many] = 1
                many += 1
            out[row] = out[first]
            sizes[out[first] - used] += 1
    return many


@numba.njit(cache=True, nogil=True, inline="always")
def _put(row, state, begins, buckets, rows, at):
    """Put a row into a bucket. Buckets follow each other as their first rows do, so that most reading is in order.

    `begins` tells where the next small and the next large bucket begin; `state` how many rows the bucket lacks, where
    it begins (-1 before its first row), and where its next row goes.
    """
    if state[1] < 0:
        kind = 1 if state[0] > LARGE else 0
        state[1] = begins[kind]
        begins[kind] += state[0]
        state[2] = state[1]
    buckets[at] = state[1]
    state[0] -= 1
    rows[state[2]] = row if state[0] else ~row
    state[2] += 1


@numba.njit(cache=True, nogil=True)
def _lay(out, who, states, large, offsets, buckets, rows):
    """Write the buckets of each row and the rows of each bucket, band by band: the states of one lie together."""
    begins = np.array([large, 0], dtype=np.int64)
    for band in range(out.shape[0]):
        for place in range(out.shape[1]):
            if out[band, place] >= 0:
                offsets[(who[place] if len(who) else place) + 1] += 1
    for row in range(1, len(offsets)):
        offsets[row] += offsets[row - 1]
    for band in range(out.shape[0]):
        for place in range(out.shape[1]):
            if out[band, place] >= 0:
                row = who[place] if len(who) else place
                _put(row, states[out[band, place]], begins, buckets, rows, offsets[row])
                offsets[row] += 1
    for row in range(len(offsets) - 1, 0, -1):  # each has come to the end of its row
        offsets[row] = offsets[row - 1]
    offsets[0] = 0


@numba.njit(cache=True, nogil=True)
def _turn(offsets, numbers, states, large, buckets, rows):
    begins = np.array([large, 0], dtype=np.int64)
    for row in range(len(offsets) - 1):
        for at in range(offsets[row], offsets[row + 1]):
            _put(row, states[numbers[at]], begins, buckets, rows, at)
