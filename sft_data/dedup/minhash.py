"""MinHash signatures and band keys.

The signatures are those of datasketch 2's scheme `affine32`, bit for bit: `min(a * fmix32(h) + b mod 2**32)` over the
32-bit hashes `h` of a set, with datasketch's own permutations of the seed.
"""

# Kernels take what numba infers, so they are not annotated.
# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: ANN001, ANN202

from __future__ import annotations

from functools import lru_cache

import numba
import numpy as np
import numpy.typing as npt

from sft_data.errors import MissingExtraError

__all__ = ["bands_by_datasketch", "bands_for", "bands_of_rows", "permutations", "recall_at", "signatures"]

U32 = npt.NDArray[np.uint32]
Joined = tuple[bool, ...]


def recall_at(similarity: float, bands: int, rows: int) -> float:
    """Share of the pairs of that Jaccard similarity that agree in at least one band: 1 - (1 - s^rows)^bands.

    >>> round(recall_at(0.8, 9, 13), 2), round(recall_at(0.8, 21, 6), 3)
    (0.4, 0.998)
    """
    return 1.0 - (1.0 - similarity**rows) ** bands


def bands_for(threshold: float, num_perm: int, recall: float = 0.995) -> tuple[int, int]:
    """Bands and rows per band: the fewest bands that still find `recall` of the pairs exactly at the threshold.

    Pairs above the threshold are found more often still; 0.995 leaves 0.99 where a pair is looked up in one relation
    that was chosen among several. Candidates are verified, so more bands cost time, never precision; that is why this
    aims at recall and not, as datasketch does, at the least area of both errors (9 x 13 at 0.8, which finds 40 % of
    the pairs at 0.8).

    >>> bands_for(0.8, 128), bands_for(0.7, 128)
    ((21, 6), (32, 4))
    """
    for rows in range(num_perm, 1, -1):
        if recall_at(threshold, num_perm // rows, rows) >= recall:
            return num_perm // rows, rows
    return num_perm, 1


@lru_cache(maxsize=8)
def permutations(num_perm: int, seed: int) -> tuple[U32, U32]:
    """The multipliers (odd) and offsets that datasketch 2 draws for this seed."""
    generator = np.random.RandomState(seed)  # frozen by numpy's compatibility promise, unlike default_rng
    a = generator.randint(0, 1 << 31, num_perm, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    b = generator.randint(0, 1 << 32, num_perm, dtype=np.uint32)
    return a, b


def signatures(hashes: U32, counts: npt.NDArray[np.int64], num_perm: int = 128, seed: int = 1) -> U32:
    """One row for each set of hashes; an empty set gives all ones.

    The signature of a union is the elementwise minimum of the signatures.
    """
    a, b = permutations(num_perm, seed)
    out: U32 = np.empty((len(counts), num_perm), dtype=np.uint32)
    _sign(hashes, counts, a, b, out)
    return out


@numba.njit(cache=True, nogil=True)
def _sign(hashes, counts, a, b, out):
    at = 0
    for row in range(len(counts)):
        out[row, :] = np.uint32(0xFFFFFFFF)
        _lower(hashes, at, counts[row], a, b, out[row])
        at += counts[row]


@numba.njit(cache=True, nogil=True)
def _lower(hashes, first, count, a, b, lowest):
    """Four hashes in each pass over the permutations, which are then loaded and stored a quarter as often."""
    fours = first + count // 4 * 4
    for at in range(first, fours, 4):
        h, i, j, k = _fmix32(hashes[at]), _fmix32(hashes[at + 1]), _fmix32(hashes[at + 2]), _fmix32(hashes[at + 3])
        for p in range(len(a)):
            left = min(np.uint32(np.uint32(a[p] * h) + b[p]), np.uint32(np.uint32(a[p] * i) + b[p]))
            right = min(np.uint32(np.uint32(a[p] * j) + b[p]), np.uint32(np.uint32(a[p] * k) + b[p]))
            lowest[p] = min(lowest[p], left, right)
    for at in range(fours, first + count):
        h = _fmix32(hashes[at])
        for p in range(len(a)):
            lowest[p] = min(lowest[p], np.uint32(np.uint32(a[p] * h) + b[p]))


@numba.njit(cache=True, nogil=True, inline="always")
def _fmix32(h):
    """The 32-bit finaliser of MurmurHash3. Every product is cut to 32 bits: numba widens them to 64."""
    h = np.uint32(h ^ np.uint32(h >> np.uint32(16)))
    h = np.uint32(h * np.uint32(0x85EBCA6B))
    h = np.uint32(h ^ np.uint32(h >> np.uint32(13)))
    h = np.uint32(h * np.uint32(0xC2B2AE35))
    return np.uint32(h ^ np.uint32(h >> np.uint32(16)))


def bands_of_rows(
    hashes: U32, counts: npt.NDArray[np.int64], joined: Joined, bands: tuple[int, int], num_perm: int, seed: int
) -> tuple[U32, U32]:
    """Band keys of rows of several sets each: of the union of a row's sets, and of each set alone.

    `counts` is (rows, sets) and `joined` tells which of the sets take part; the results are (rows, bands) and (rows,
    sets, bands). Keys of different bands are never compared. Unlike bands that share a 32-bit key become candidates
    and fail verification.
    """
    a, b = permutations(num_perm, seed)
    rows, sets = counts.shape
    union: U32 = np.empty((rows, bands[0]), dtype=np.uint32)
    alone: U32 = np.zeros((rows, sets, bands[0]), dtype=np.uint32)
    _band_rows(hashes, counts, np.array(joined), a, b, bands[1], union, alone)
    return union, alone


def bands_by_datasketch(
    hashes: U32, counts: npt.NDArray[np.int64], joined: Joined, bands: tuple[int, int], num_perm: int, seed: int
) -> tuple[U32, U32]:
    """The same as `bands_of_rows`, with the signatures made by datasketch itself: the slow reference."""
    try:
        from datasketch import MinHash
    except ImportError:
        raise MissingExtraError("near-dedup with backend: datasketch", "datasketch") from None
    rows, sets = counts.shape
    ends = np.cumsum(counts.reshape(-1)).tolist()
    pieces = [hashes[end - size : end].tolist() for end, size in zip(ends, counts.reshape(-1).tolist(), strict=True)]
    made = MinHash.generator(pieces, num_perm=num_perm, seed=seed, scheme="affine32", hashfunc=int)
    signs = np.array([sign.hashvalues for sign in made], dtype=np.uint32).reshape(rows, sets, num_perm)
    union: U32 = np.empty((rows, bands[0]), dtype=np.uint32)
    alone: U32 = np.empty((rows * sets, bands[0]), dtype=np.uint32)
    _fold_rows(signs[:, list(joined)].min(axis=1) if rows else np.empty((0, num_perm), np.uint32), bands[1], union)
    _fold_rows(signs.reshape(rows * sets, num_perm), bands[1], alone)
    return union, alone.reshape(rows, sets, bands[0]) * np.array(joined, dtype=np.uint32)[:, None]


@numba.njit(cache=True, nogil=True)
def _fold_rows(signs, size, out):
    for row in range(len(signs)):
        _fold(signs[row], size, out[row])


@numba.njit(cache=True, nogil=True)
def _band_rows(hashes, counts, joined, a, b, size, union, alone):
    lowest, all_lowest = np.empty(len(a), dtype=np.uint32), np.empty(len(a), dtype=np.uint32)
    at = 0
    for row in range(counts.shape[0]):
        all_lowest[:] = np.uint32(0xFFFFFFFF)
        for place in range(counts.shape[1]):
            lowest[:] = np.uint32(0xFFFFFFFF)
            count = counts[row, place]
            if not joined[place]:
                at += count
                continue
            _lower(hashes, at, count, a, b, lowest)
            at += count
            _fold(lowest, size, alone[row, place])
            if count:
                for p in range(len(a)):
                    all_lowest[p] = min(all_lowest[p], lowest[p])
        _fold(all_lowest, size, union[row])


@numba.njit(cache=True, nogil=True)
def _fold(lowest, size, out):
    for band in range(len(out)):
        key = np.uint64(0xCBF29CE484222325)
        for p in range(band * size, (band + 1) * size):
            key = (key ^ np.uint64(lowest[p])) * np.uint64(0x9E3779B97F4A7C15)
            key ^= key >> np.uint64(32)
        out[band] = np.uint32(key >> np.uint64(16))
