"""How many bytes the texts of a row take: by this, files of a version are cut, so it depends on the row alone."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

__all__ = ["cuts", "row_bytes"]

_NUMBER = 8  # a number, a date, a truth value


def row_bytes(frame: pl.DataFrame) -> pl.Series:
    """Bytes of each row: those of its texts in UTF-8, at any depth, and eight for every number; nothing for null.

    >>> row_bytes(pl.DataFrame({"a": ["four", "你"], "b": [[1, 2], None]})).to_list()
    [20, 3]
    """
    sizes = [_bytes(pl.col(name), dtype) for name, dtype in frame.schema.items()]
    total = pl.sum_horizontal(pl.lit(0, pl.Int64), *sizes)
    return frame.select(bytes=total).to_series() if frame.height else pl.Series("bytes", [], pl.Int64)


def _bytes(values: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Bytes of each value of a column or of what is in it."""
    if isinstance(dtype, pl.String):
        size = values.str.len_bytes()
    elif isinstance(dtype, pl.Binary):
        size = values.bin.size()
    elif isinstance(dtype, pl.Struct):
        fields = [_bytes(values.struct.field(field.name), field.dtype) for field in dtype.fields]  # type: ignore[arg-type]
        size = pl.sum_horizontal(pl.lit(0, pl.Int64), *fields)
    elif isinstance(dtype, pl.List) and isinstance(dtype.inner, pl.String | pl.Struct | pl.List | pl.Binary):
        size = values.list.eval(_bytes(pl.element(), dtype.inner)).list.sum()
    elif isinstance(dtype, pl.List):
        size = values.list.len() * _NUMBER
    else:
        size = pl.when(values.is_not_null()).then(_NUMBER).otherwise(0)
    return size.cast(pl.Int64).fill_null(0)


def cuts(sizes: NDArray[np.int64], rows: int, size: int) -> list[int]:
    """Row numbers at which files begin that hold at most so many rows and bytes (more only where one row alone has
    more), then the number of rows.

    >>> cuts(np.array([3, 3, 3, 9, 1, 1]), rows=2, size=8)
    [0, 2, 3, 4, 6]
    """
    total = np.cumsum(sizes, dtype=np.int64)
    found = [0]
    while (start := found[-1]) < len(sizes):
        before = total[start] - sizes[start]
        fits = int(np.searchsorted(total, before + size, side="right"))
        found.append(min(len(sizes), start + rows, max(start + 1, fits)))
    return found
