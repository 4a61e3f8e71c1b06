"""What a training run sees of each group in one epoch: rows, tokens, effective epochs."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from sft_data.pack.copies import row_weights, weights_of
from sft_data.report.model import Mixture
from sft_data.store.layout import scan_table
from sft_data.store.manifest import Manifest

__all__ = ["mixture"]

# Groups shown of one column, those with the most tokens first.
MOST = 30
_EXACT = 1 << 20  # sums of such fractions do not depend on their order, so the report does not on the threads


def mixture(folder: Path, manifest: Manifest) -> list[Mixture]:
    """Effective epochs by source, and by each column that a `mix` goes by.

    They are counted in the training packs. Without packs it is told how often rows are to be seen, on average, where a
    mix or a source's weight says so; else there is nothing to tell.
    """
    rows = _packed(folder)
    if rows is None:
        rows = _to_be_seen(folder, manifest)
    if rows is None:
        return []
    found = _groups(rows, "source")
    for column in _mixed_by(manifest):
        table = scan_table(folder, "conversations", "train")
        if column not in rows.columns and column in table.collect_schema():
            named = table.select("id", pl.col(column).cast(pl.String).fill_null("(none)")).collect()
            found += _groups(rows.join(named, on="id", how="left", maintain_order="left"), column)
    return found


def _packed(folder: Path) -> pl.DataFrame | None:
    """Training rows with their tokens and how often they are `seen` in the packs."""
    seen = scan_table(folder, "pack_index", "train").group_by("row").agg(seen=pl.len().cast(pl.Float64)).collect()
    if seen.is_empty():
        return None
    rows = scan_table(folder, "sidecar", "train").select("id", "source", pl.col("tokens").cast(pl.Int64)).collect()
    rows = rows.with_columns(row=pl.int_range(pl.len(), dtype=pl.Int64))
    return rows.join(seen, on="row", how="left", maintain_order="left").with_columns(pl.col("seen").fill_null(0.0))


def _to_be_seen(folder: Path, manifest: Manifest) -> pl.DataFrame | None:
    """The same without packs, by the rows' weights."""
    table = scan_table(folder, "conversations", "train")
    mixed, weights = "copies" in table.collect_schema(), weights_of(manifest.pipeline)
    if not mixed and set(weights.values()) <= {1.0}:
        return None
    rows = table.select("id", "source", *(["copies"] if mixed else [])).collect()
    rows = rows.with_columns(seen=(row_weights(rows, weights) * _EXACT).round() / _EXACT)
    tokens = scan_table(folder, "sidecar", "train").select("id", pl.col("tokens").cast(pl.Int64)).collect()
    rows = rows.join(tokens, on="id", how="left", maintain_order="left").with_columns(pl.col("tokens").fill_null(0))
    return None if rows.is_empty() else rows


def _mixed_by(manifest: Manifest) -> list[str]:
    stages = manifest.pipeline.get("stages", [])
    mixes = [stage for stage in stages if isinstance(stage, dict) and stage.get("kind") == "mix"]
    return list(dict.fromkeys(str(stage.get("by", "source")) for stage in mixes))


def _groups(rows: pl.DataFrame, by: str) -> list[Mixture]:
    found = (
        rows.group_by(pl.col(by).alias("name"))
        .agg(
            rows=pl.len(),
            packed_rows=pl.col("seen").sum(),
            unseen_rows=(pl.col("seen") == 0).sum(),
            tokens=(pl.col("seen") * pl.col("tokens")).sum(),
        )
        .with_columns(part=pl.col("tokens") if rows["tokens"].sum() else pl.col("packed_rows"))
        .with_columns(share=pl.col("part") / pl.max_horizontal(pl.col("part").sum(), 1.0))
        .sort(["part", "name"], descending=[True, False])
        .head(MOST)
    )
    return [
        Mixture(
            by=by,
            name=group["name"],
            rows=group["rows"],
            packed_rows=round(group["packed_rows"]),
            unseen_rows=group["unseen_rows"],
            tokens=round(group["tokens"]),
            share=round(group["share"], 6),
            epochs=round(group["packed_rows"] / group["rows"], 4),
        )
        for group in found.iter_rows(named=True)
    ]
