"""What was rejected and edited, grouped by code, with examples; and duplicates beside the rows kept instead."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from sft_data.report.model import EditGroup, Example, RejectionGroup, TwinPair
from sft_data.report.texts import rejected_plain, shorten, texts_of
from sft_data.store.layout import scan_table
from sft_data.store.manifest import Manifest

__all__ = ["duplicates", "edit_groups", "meaning_of", "rejection_groups"]

EXAMPLES = 3  # of each code: enough to see what it catches, little enough to read
PAIRS = 4  # of each duplicate code
CUT = 500  # characters of an example


def meaning_of(manifest: Manifest, stage: str, code: str) -> str:
    """A code's documented meaning, as the manifest holds it."""
    told = [step for step in manifest.steps if code in step.codes]
    exact = [step for step in told if step.kind == stage] or told
    return exact[0].codes[code] if exact else ""


def rejection_groups(folder: Path, manifest: Manifest) -> list[RejectionGroup]:
    """Rejections by stage and code, most rows first, each with examples from its beginning, middle and end."""
    slim = _slim(folder, "rejections")
    groups = slim.group_by("stage", "code").agg(pl.len().alias("rows"), pl.col("at")).sort(
        ["rows", "stage", "code"], descending=[True, False, False]
    )  # fmt: skip
    picked = _fetch(folder, "rejections", [at for places in groups["at"] for at in _spread(places.to_list())])
    total = max(1, manifest.counts.rows_in)
    return [
        RejectionGroup(
            stage=stage,
            code=code,
            meaning=meaning_of(manifest, stage, code),
            rows=rows,
            share=round(rows / total, 6),
            examples=[
                Example(
                    id=picked[at]["id"],
                    detail=picked[at]["detail"] or "",
                    text=shorten(rejected_plain(picked[at]["text"]), CUT),
                )
                for at in _spread(places)
            ],
        )
        for stage, code, rows, places in groups.iter_rows()
    ]


def edit_groups(folder: Path, manifest: Manifest) -> list[EditGroup]:
    """Edits by stage and code, most rows first."""
    slim = _slim(folder, "edits", "count", "id")
    groups = slim.group_by("stage", "code").agg(
        pl.col("id").n_unique().alias("rows"), pl.col("count").sum().alias("places"), pl.col("at")
    ).sort(["rows", "stage", "code"], descending=[True, False, False])  # fmt: skip
    picked = _fetch(folder, "edits", [at for places in groups["at"] for at in _spread(places.to_list())])
    return [
        EditGroup(
            stage=stage,
            code=code,
            meaning=meaning_of(manifest, stage, code),
            rows=rows,
            places=count,
            examples=[
                Example(id=picked[at]["id"], detail=shorten(picked[at]["detail"] or "", CUT), text="")
                for at in _spread(places)
            ],
        )
        for stage, code, rows, count, places in groups.iter_rows()
    ]


def duplicates(folder: Path) -> list[TwinPair]:
    """Rejected duplicates beside their twins: of each code the least similar pairs first, where doubt is greatest."""
    twins = _slim(folder, "rejections", "twin", "score").drop_nulls("twin")
    chosen = (
        twins.sort("stage", "code", pl.col("score").fill_null(2.0), "at")
        .group_by("stage", "code", maintain_order=True)
        .head(PAIRS)
    )
    picked = _fetch(folder, "rejections", chosen["at"].to_list())
    texts = texts_of(folder, set(chosen["twin"]))
    return [
        TwinPair(
            stage=row["stage"],
            code=row["code"],
            score=row["score"],
            id=picked[row["at"]]["id"],
            text=shorten(rejected_plain(picked[row["at"]]["text"]), CUT),
            twin=row["twin"],
            twin_text=shorten(texts.get(row["twin"], ""), CUT),
        )
        for row in chosen.iter_rows(named=True)
    ]


def _slim(folder: Path, table: str, *more: str) -> pl.DataFrame:
    """Row number over all shards, stage and code of a ledger."""
    return scan_table(folder, table).with_row_index("at").select("at", "stage", "code", *more).collect()


def _spread(places: Sequence[int]) -> list[int]:
    """First, middle and last: a stage's first victims are often all of one file."""
    steps = [places[i * (len(places) - 1) // (EXAMPLES - 1)] for i in range(EXAMPLES)]
    return sorted(set(steps))


def _fetch(folder: Path, table: str, places: Sequence[int]) -> dict[int, dict[str, str]]:
    """Whole rows of a ledger by row number."""
    wanted = pl.Series("at", sorted(set(places)), dtype=pl.get_index_type())
    frame = scan_table(folder, table).with_row_index("at").filter(pl.col("at").is_in(wanted.implode())).collect()
    return {row["at"]: row for row in frame.iter_rows(named=True)}
