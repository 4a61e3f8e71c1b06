"""Nearness of one row to all others, for choosing rows one by one: what was chosen, and how near the rest is to it.

Cosines are those of semantic-dedup: exact arithmetic on whole numbers, so the outcome does not depend on the machine.
"""

# Kernels take what numba infers, so they are not annotated.
# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: ANN001, ANN202

from __future__ import annotations

from typing import Protocol

import numba
import numpy as np
import numpy.typing as npt

from sft_data.dedup.vectors import Bytes, Sets

__all__ = ["ByteSpace", "Chosen", "SetSpace", "Space"]

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


class Space(Protocol):
    """All rows, and the products of one of them with all."""

    lengths: F64  # of each row's vector; 0 for an empty text

    def products(self, row: int, out: I64) -> None: ...


class SetSpace:
    """Texts as weighted sets of features, with a list of the rows that have each feature.

    12 bytes for each feature of each row. A row's products cost as many additions as rows share each of its features.
    """

    def __init__(self, sets: Sets) -> None:
        self._sets = sets
        self.lengths: F64 = np.sqrt(sets.norms.astype(np.float64))
        often = np.bincount(sets.values & np.uint32(len(sets.weights) - 1), minlength=len(sets.weights))
        self._starts: I64 = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(often)])
        self._rows = np.empty(len(sets.values), dtype=np.int32)
        self._values = np.empty(len(sets.values), dtype=np.uint32)
        _post(sets.values, sets.offsets, self._starts[:-1].copy(), self._rows, self._values)

    def products(self, row: int, out: I64) -> None:
        """Sums of the squared weights of the features that `row` shares with each row."""
        sets = self._sets
        _shared(sets.values, sets.offsets, sets.weights, self._starts, self._rows, self._values, row, out)


class ByteSpace:
    """Texts as vectors of signed bytes: those of an embedding model."""

    def __init__(self, vectors: Bytes) -> None:
        self._vectors = vectors
        self.lengths: F64 = np.array([np.sqrt(float(v @ v)) for v in vectors.astype(np.int64)], dtype=np.float64)

    def products(self, row: int, out: I64) -> None:
        """The product of `row`'s vector with each row's."""
        _dots(self._vectors, row, out)


class Chosen:
    """Rows chosen so far, and for every open row the nearest of them.

    `nearest` is the cosine to it (-1 before anything is chosen, 1 between two empty texts), `who` its number.
    """

    def __init__(self, space: Space, place: I64, open_rows: Flags) -> None:
        self.space, self.open, self._place = space, open_rows.copy(), place
        self.nearest: F64 = np.full(len(place), -1.0)
        self.who: I64 = np.full(len(place), -1, dtype=np.int64)
        self._products: I64 = np.zeros(len(place), dtype=np.int64)

    def add(self, row: int) -> int:
        """Choose `row`; the open row that is now farthest from all chosen ones (the lower place wins a tie), or -1."""
        self.open[row] = False
        self.space.products(row, self._products)
        return int(_update(self._products, self.space.lengths, row, self.open, self._place, self.nearest, self.who))


@numba.njit(cache=True, nogil=True)
def _post(values, offsets, next_place, rows, out):
    """Each feature's rows, feature by feature (by their place in the table of weights)."""
    mask = np.uint32(len(next_place) - 1)
    for row in range(len(offsets) - 1):
        for at in range(offsets[row], offsets[row + 1]):
            place = next_place[values[at] & mask]
            rows[place] = row
            out[place] = values[at]
            next_place[values[at] & mask] += 1


@numba.njit(cache=True, nogil=True)
def _shared(values, offsets, weights, starts, rows, posted, row, out):
    mask = np.uint32(len(weights) - 1)
    out[:] = 0
    for at in range(offsets[row], offsets[row + 1]):
        value = values[at]
        bucket = value & mask
        square = weights[bucket] * weights[bucket]
        for place in range(starts[bucket], starts[bucket + 1]):
            if posted[place] == value:
                out[rows[place]] += square


@numba.njit(cache=True, nogil=True)
def _dots(vectors, row, out):
    for other in range(len(out)):
        total = np.int32(0)
        for at in range(vectors.shape[1]):
            total += np.int32(vectors[row, at]) * np.int32(vectors[other, at])
        out[other] = total


@numba.njit(cache=True, nogil=True)
def _update(products, lengths, chosen, is_open, place, nearest, who):
    farthest = -1
    for row in range(len(products)):
        if not is_open[row]:
            continue
        if lengths[row] == 0 or lengths[chosen] == 0:
            cosine = 1.0 if lengths[row] == lengths[chosen] else 0.0
        else:
            cosine = min(1.0, np.rint(products[row] / (lengths[row] * lengths[chosen]) * 1e9) / 1e9)
        if cosine > nearest[row]:
            nearest[row] = cosine
            who[row] = chosen
        if (
            farthest < 0
            or nearest[row] < nearest[farthest]
            or (nearest[row] == nearest[farthest] and place[row] < place[farthest])
        ):
            farthest = row
    return farthest
