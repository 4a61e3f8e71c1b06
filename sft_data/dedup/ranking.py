"""Which of two equal rows is kept: the order in which rows are offered a place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from sft_data.dedup.parts import text_length
from sft_data.errors import ConfigError

__all__ = ["Keep", "rank_columns", "ranked_by", "ranking"]

Keep = Literal["first", "longest", "best"]


def ranked_by(keep: Keep, score: str) -> dict[str, str]:
    """The setting that names the column which decides, and the column."""
    return {"score": score} if keep == "best" else {}


def rank_columns(frame: pl.DataFrame, keep: Keep, score: str, sources: Sequence[str]) -> list[pl.Expr]:
    """The columns that a sketch carries for `ranking`; the smaller value goes first."""
    columns = []
    if sources:
        place = {name: at for at, name in enumerate(sources)}
        known = pl.col("source").replace_strict(place, default=len(place), return_dtype=pl.Int32)
        columns.append(known.alias("rank_source"))
    if keep == "longest":
        columns.append((-text_length().cast(pl.Int64)).alias("rank"))
    elif keep == "best":
        if score not in frame.columns:
            raise ConfigError("keep: best", [f"there is no column `{score}`; put the stage that adds it before"])
        columns.append((-pl.col(score).cast(pl.Float64)).fill_null(float("inf")).alias("rank"))
    return columns


def ranking(sketches: Sequence[pl.DataFrame]) -> npt.NDArray[np.int64]:
    """Row numbers over all sketches in the order of their claim: source, then rank, then row."""
    names = [name for name in ("rank_source", "rank") if name in sketches[0].columns]
    if not names:
        return np.arange(sum(sketch.height for sketch in sketches), dtype=np.int64)
    slim = pl.concat([sketch.select(names) for sketch in sketches]).with_row_index("row")
    return slim.sort(*names, "row")["row"].to_numpy().astype(np.int64)
