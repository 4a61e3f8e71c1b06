"""Arrays where they lie: columns of memory-mapped files as numpy arrays, and many of them as one window."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

__all__ = ["arrow_of", "list_of", "lists_of", "matrix_of", "numpy_of", "one_list_of", "window"]


def arrow_of(values: npt.NDArray[Any]) -> pa.Array:
    """An array as it lies in memory (`pyarrow.array` would import pandas to look at it: a quarter of a second)."""
    flat = np.ascontiguousarray(values).reshape(-1)
    return pa.Array.from_buffers(pa.from_numpy_dtype(flat.dtype), len(flat), [None, pa.py_buffer(flat)])


def numpy_of(array: pa.Array, kind: type[np.generic]) -> npt.NDArray[Any]:
    """The values of an array without nulls as they lie (its own `to_numpy` imports pandas too)."""
    buffer = array.buffers()[1]
    if buffer is None:
        return np.empty(0, dtype=kind)
    return np.frombuffer(buffer, dtype=kind)[array.offset : array.offset + len(array)]


def matrix_of(column: pl.Series) -> npt.NDArray[Any]:
    """A column of fixed-size arrays as a matrix, without a copy."""
    width = column.dtype.size  # type: ignore[attr-defined]
    return column.explode(empty_as_null=False).to_numpy().reshape(-1, width)


def lists_of(column: pl.Series, kind: type[np.generic]) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
    """Where the lists of a column start and end, and the values of all of them, without a copy."""
    array = column.rechunk().to_arrow()
    return numpy_of(array.offsets, np.int64), numpy_of(array.values, kind)


def list_of(name: str, values: npt.NDArray[Any]) -> pl.Series:
    """An array as a column of one row."""
    bounds = np.array([0, len(values)], dtype=np.int64)
    return pl.Series(name, pa.LargeListArray.from_arrays(arrow_of(bounds), arrow_of(values)))


def one_list_of(column: pl.Series, kind: type[np.generic]) -> npt.NDArray[Any]:
    """The array of a column of one row."""
    bounds, values = lists_of(column, kind)
    return values[bounds[0] : bounds[1]]


def window(arrays: Sequence[npt.NDArray[Any]], kind: type[np.generic]) -> tuple[npt.NDArray[Any], list[int]]:
    """One array over all memory from the first of `arrays` to the last, and where in it each of them starts.

    So rows are compared where they lie, in memory-mapped files: only pages that hold candidates are ever read, the
    system may drop them again, and nothing is copied. What lies between the arrays must not be touched.
    """
    places = [array.ctypes.data for array in arrays if array.size]
    if not places:
        return np.empty(0, dtype=kind), [0] * len(arrays)
    size = np.dtype(kind).itemsize
    first = min(places)
    end = max(array.ctypes.data + array.nbytes for array in arrays if array.size)
    if any((place - first) % size for place in places):
        raise ValueError(f"arrays in one window must lie at multiples of {size} bytes")
    if not all(array.flags.c_contiguous for array in arrays):
        raise ValueError("arrays in one window must lie in one piece")
    memory = (ctypes.c_char * (end - first)).from_address(first)
    memory.arrays = arrays  # type: ignore[attr-defined]  # they live as long as the window
    starts = [(array.ctypes.data - first) // size if array.size else 0 for array in arrays]
    return np.frombuffer(memory, dtype=kind), starts  # type: ignore[call-overload]
