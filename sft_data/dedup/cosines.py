"""Which vectors may be near: a bound on their cosine from a few numbers each.

Vectors are turned so that their first numbers say most (the axes along which a sample of them is longest); what is
left is cut into groups, of which only the lengths are kept. By the inequality of Cauchy and Schwarz the product of two
such short vectors is at least the cosine of the whole ones. So a product of short matrices, a fifth of the work, rules
out nearly all pairs of what a sentence-embedding model gives, and misses none. The axes decide nothing else.
"""

# Kernels take what numba infers, so they are not annotated.
# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: ANN001, ANN202

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

__all__ = ["Bound", "products"]

_LEADING, _GROUPS = 64, 16
_SAMPLE = 1 << 14  # vectors that the axes are found by
# Turning and multiplying in 32-bit floats is exact to about 1e-5 with a thousand dimensions.
_ROUNDING = 1e-3
_TOO_MANY = 32  # where one pair in so many may be near, the bound says too little


class Bound:
    """Short forms of some vectors, and the pairs of which they do not rule out that they are near."""

    def __init__(
        self, vectors: npt.NDArray[np.int8], lengths: npt.NDArray[np.float64], rows: npt.NDArray[np.int64]
    ) -> None:
        """Find the axes by some of the `rows`; `lengths` are those of all vectors."""
        self.vectors, self.lengths = vectors, lengths
        some = rows[:: max(1, len(rows) // _SAMPLE)]
        unit = vectors[some] / np.maximum(lengths[some], 1.0)[:, None]
        axes = np.linalg.eigh(unit.T @ unit)[1][:, ::-1]  # the longest first
        self.axes = np.ascontiguousarray(axes, dtype=np.float32)
        dimensions = vectors.shape[1]
        self.leading = dimensions if dimensions <= _LEADING + _GROUPS else _LEADING
        groups = _GROUPS if self.leading < dimensions else 0
        self.cuts = np.linspace(self.leading, dimensions, groups, endpoint=False).astype(np.int64)
        self.width = self.leading + groups

    def short(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """The short forms of some rows: (rows, width)."""
        unit = self.vectors[rows].astype(np.float32)
        unit /= np.maximum(self.lengths[rows], 1.0).astype(np.float32)[:, None]
        turned = unit @ self.axes
        if not len(self.cuts):
            return turned
        rest = np.sqrt(np.add.reduceat(turned**2, self.cuts, axis=1))
        return np.concatenate([turned[:, : self.leading], rest], axis=1)

    def near(
        self, left: npt.NDArray[np.float32], right: npt.NDArray[np.float32], threshold: float
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]] | None:
        """Pairs of short forms (places in both) whose cosine may reach the threshold; None where nearly all may."""
        may: npt.NDArray[np.bool_] = (left @ right.T) >= np.float32(threshold - _ROUNDING)
        found: Any = np.flatnonzero(may) if np.count_nonzero(may) * _TOO_MANY <= may.size else None
        return None if found is None else np.divmod(found, may.shape[1])


def products(
    vectors: npt.NDArray[np.int8], left: npt.NDArray[np.int64], right: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """The exact product of each pair of vectors, told by their numbers."""
    out = np.empty(len(left), dtype=np.int64)
    _products(vectors, left, right, out)
    return out


@numba.njit(cache=True, nogil=True)
def _products(vectors, left, right, out):
    for pair in range(len(left)):
        a, b = vectors[left[pair]], vectors[right[pair]]
        total = np.int32(0)  # up to 1,024 dimensions stay far below 2**31
        for at in range(len(a)):
            total += np.int32(np.int32(a[at]) * np.int32(b[at]))
        out[pair] = total
