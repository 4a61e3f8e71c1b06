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

__all__ = ["band_keys", "bands_for", "permutations", "recall_at", "signatures"]

U32 = npt.NDArray[np.uint32]


def recall_at(similarity: float, bands: int, rows: int) -> float:
    """Share of the pairs of that Jaccard similarity that agree in at least one band: 1 - (1 - s^rows)^bands.

    >>> round(recall_at(0.8, 9, 13), 2), round(recall_at(0.8, 21, 6), 3)
    (0.4, 0.998)
    """
    return 1.0 - (1.0 - similarity**rows) ** bands


def bands_for(threshold: float, num_perm: int, recall: float = 0.99) -> tuple[int, int]:
    """Bands and rows per band: the fewest bands that still find `recall` of the pairs exactly at the threshold.

    Pairs above the threshold are found more often still. Candidates are verified, so more bands cost time, never
    precision; that is why this aims at recall and not, as datasketch does, at the least area of both errors (9 x 13
    at 0.8, which finds 40 % of the pairs at 0.8).

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
        lowest = out[row]
        lowest[:] = np.uint32(0xFFFFFFFF)
        for _ in range(counts[row]):
            h = hashes[at]
            at += 1
            h ^= h >> np.uint32(16)
            h *= np.uint32(0x85EBCA6B)
            h ^= h >> np.uint32(13)
            h *= np.uint32(0xC2B2AE35)
            h ^= h >> np.uint32(16)
            for p in range(len(a)):
                value = np.uint32(np.uint32(a[p] * h) + b[p])
                lowest[p] = min(lowest[p], value)


def band_keys(signs: U32, bands: int, rows: int) -> U32:
    """One 32-bit key for each band of each signature.

    Keys of different bands are never compared. Unlike bands that share a key become candidates and fail verification.
    """
    out: U32 = np.empty((len(signs), bands), dtype=np.uint32)
    _fold(signs, rows, out)
    return out


@numba.njit(cache=True, nogil=True)
def _fold(signs, rows, out):
    for row in range(out.shape[0]):
        for band in range(out.shape[1]):
            key = np.uint64(0xCBF29CE484222325)
            for p in range(band * rows, (band + 1) * rows):
                key = (key ^ np.uint64(signs[row, p])) * np.uint64(0x9E3779B97F4A7C15)
                key ^= key >> np.uint64(32)
            out[row, band] = np.uint32(key >> np.uint64(16))
