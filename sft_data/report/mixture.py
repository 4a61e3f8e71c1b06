"""What a training run sees of each group in one pass over the packs: rows, tokens, effective epochs."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from sft_data.report.model import Mixture
from sft_data.store.layout import scan_table
from sft_data.store.manifest import Manifest

__all__ = ["mixture"]

# Groups shown of one column, those with the most tokens first.
MOST = 30


def mixture(folder: Path, manifest: Manifest) -> list[Mixture]:
    """Effective epochs by source, and by each column that a `mix` goes by; empty without training packs."""
    index = scan_table(folder, "pack_index", "train")
    seen = index.group_by("row").agg(packed=pl.len().cast(pl.Int64)).collect()
    if seen.is_empty():
        return []
    rows = (
        scan_table(folder, "sidecar", "train")
        .select("id", "source", pl.col("tokens").cast(pl.Int64))
        .collect()
        .with_columns(row=pl.int_range(pl.len(), dtype=pl.Int64))
        .join(seen, on="row", how="left", maintain_order="left")
        .with_columns(pl.col("packed").fill_null(0))
    )
    found = _groups(rows, "source")
    for column in _mixed_by(manifest):
        table = scan_table(folder, "conversations", "train")
        if column not in rows.columns and column in table.collect_schema():
            named = table.select("id", pl.col(column).cast(pl.String).fill_null("(none)")).collect()
            found += _groups(rows.join(named, on="id", how="left", maintain_order="left"), column)
    return found


def _mixed_by(manifest: Manifest) -> list[str]:
    stages = manifest.pipeline.get("stages", [])
    mixes = [stage for stage in stages if isinstance(stage, dict) and stage.get("kind") == "mix"]
    return list(dict.fromkeys(str(stage.get("by", "source")) for stage in mixes))


def _groups(rows: pl.DataFrame, by: str) -> list[Mixture]:
    packed = pl.col("packed") * pl.col("tokens")
    whole = max(1, int(rows.select(packed.sum()).item()))
    found = (
        rows.group_by(pl.col(by).alias("name"))
        .agg(
            rows=pl.len(),
            packed_rows=pl.col("packed").sum(),
            unseen_rows=(pl.col("packed") == 0).sum(),
            tokens=packed.sum(),
        )
        .sort(["tokens", "name"], descending=[True, False])
        .head(MOST)
    )
    return [
        Mixture(
            by=by,
            **group,
            share=round(group["tokens"] / whole, 6),
            epochs=round(group["packed_rows"] / group["rows"], 4),
        )
        for group in found.iter_rows(named=True)
    ]
