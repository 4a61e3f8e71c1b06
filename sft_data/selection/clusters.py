"""Clusters of rows by k-means over vectors of signed bytes: who takes turns where no column says so."""

# Kernels take what numba infers, so they are not annotated.
# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: ANN001, ANN202

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from sft_data.dedup.vectors import Bytes, quantised

__all__ = ["clusters"]

I64 = npt.NDArray[np.int64]

_ROUNDS = 10  # k-means rarely moves more than one row in a hundred afterwards
_BLOCK = 8192  # rows compared with all centres at once


def clusters(vectors: Bytes, order: I64, many: int) -> I64:
    """The cluster of every row, from 0: that of the nearest of `many` centres by cosine (spherical k-means).

    The first centres are the rows that come first in `order`, so a draw decides them. Sums and products are of whole
    numbers, centres are rounded to signed bytes again: the outcome does not depend on blocks or on the machine.

    >>> clusters(np.array([[9, 0], [0, 9], [8, 1], [1, 8]], dtype=np.int8), np.arange(4), 2).tolist()
    [0, 1, 0, 1]
    """
    centres = vectors[order[: min(many, len(vectors))]].copy()
    found = np.full(len(vectors), -1, dtype=np.int64)
    for _ in range(_ROUNDS if len(centres) else 0):
        before, found = found, _nearest(vectors, centres)
        if np.array_equal(before, found):
            break
        sums = np.zeros(centres.shape, dtype=np.int64)
        _add(vectors, found, sums)
        moved = quantised(sums.astype(np.float64))
        there = np.bincount(found, minlength=len(centres)) > 0
        centres[there] = moved[there]
    return found


def _nearest(vectors: Bytes, centres: Bytes) -> I64:
    """Number of the centre with the largest cosine; of equal ones the first."""
    wide = centres.astype(np.float32).T
    lengths = np.maximum(1.0, np.sqrt((centres.astype(np.int64) ** 2).sum(axis=1).astype(np.float64)))
    found = np.empty(len(vectors), dtype=np.int64)
    for start in range(0, len(vectors), _BLOCK):
        products = vectors[start : start + _BLOCK].astype(np.float32) @ wide  # whole numbers below 2**24: exact
        found[start : start + _BLOCK] = np.argmax(products.astype(np.float64) / lengths, axis=1)
    return found


@numba.njit(cache=True, nogil=True)
def _add(vectors, found, sums):
    for row in range(len(found)):
        for at in range(vectors.shape[1]):
            sums[found[row], at] += vectors[row, at]
