"""How often each training row is packed: its source's weight times what a mix says, decided row by row.

A row is stored once and may stand in several packs; so a source of weight 2 is seen twice in an epoch without a copy
in the dataset, and the split, the ledgers and the counts of rows know nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from sft_data.split import draw

__all__ = ["copies", "row_weights", "weights_of", "with_copies"]


def copies(rows: pl.DataFrame, weights: Mapping[str, float], seed: int) -> NDArray[np.int64]:
    """Copies of each row (columns `id`, `source`): the whole part of its weight (`row_weights`), one more by a draw.

    The draw is of the row's id and the seed, so the rows that are packed at weight 0.3 are among those at 0.5, and
    other rows do not matter. The expected number of copies is the weight.

    >>> rows = pl.DataFrame({"id": ["a:f:0", "b:f:0"], "source": ["a", "b"]})
    >>> copies(rows, {"a": 2.0, "b": 0.0}, seed=1).tolist()
    [2, 0]
    """
    weight = row_weights(rows, weights).to_numpy()
    whole = np.floor(weight).astype(np.int64)
    part = weight - whole
    drawn = np.ones(rows.height)
    undecided = np.flatnonzero(part > 0)
    drawn[undecided] = [draw(seed, f"copies:{name}") for name in rows["id"].gather(undecided)]
    return np.asarray(whole + (drawn < part), dtype=np.int64)


def row_weights(rows: pl.DataFrame, weights: Mapping[str, float]) -> pl.Series:
    """How often each row is to be seen: the weight of its source, times its `copies` where a mix has given it some."""
    weight = rows["source"].replace_strict(dict(weights), default=1.0, return_dtype=pl.Float64)
    return weight * rows["copies"].cast(pl.Float64).fill_null(1.0) if "copies" in rows.columns else weight


def weights_of(pipeline: Mapping[str, object]) -> dict[str, float]:
    """Source -> weight, as a pipeline's settings say it."""
    sources = pipeline.get("sources")
    entries = sources if isinstance(sources, list | tuple) else []
    return {str(entry["name"]): float(entry.get("weight", 1.0)) for entry in entries}


def with_copies(rows: pl.DataFrame, conversations: Sequence[Path]) -> pl.DataFrame:
    """`rows` (column `id`) with the column `copies` of their conversations, where a mix has given them one."""
    paths = list(conversations)
    if not paths or "copies" not in pl.scan_parquet(paths).collect_schema():
        return rows
    told = pl.scan_parquet(paths).select("id", "copies").collect()
    return rows.join(told, on="id", how="left", maintain_order="left")
