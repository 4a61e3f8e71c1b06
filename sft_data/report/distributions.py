"""Histograms of a version: lengths, turns, tokens, trained share, of the kept rows and of those that left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from sft_data.report.model import Distribution
from sft_data.report.texts import conversation_of
from sft_data.store.layout import parquet_files, scan_table

__all__ = ["conversation_distributions", "token_distributions"]

# Five bins for a factor of ten, all equally wide on a scale of factors (Renard's R5 series): texts spread over five
# powers of ten, and bins of unequal width would show peaks that are none.
LENGTHS = [0.0, 1, 2, 3, 4, 6, *(float(step * 10**power) for power in range(4) for step in (10, 16, 25, 40, 63)), 1e5]
TURNS = [float(n) for n in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 20, 30, 50)]
SHARES = [round(n / 20, 2) for n in range(20)]

SLIM = {"answer": pl.Int64(), "prompt": pl.Int64(), "turns": pl.Int64()}


def conversation_distributions(folder: Path) -> list[Distribution]:
    """Characters of the last answer and of the prompts, and turns."""
    kept, gone = _kept(folder), _gone(folder)
    return [
        _histogram(
            ("answer_chars", "Length of the last answer", "characters"), LENGTHS, kept["answer"], gone["answer"]
        ),
        _histogram(
            ("prompt_chars", "Length of what the user says", "characters"), LENGTHS, kept["prompt"], gone["prompt"]
        ),
        _histogram(("turns", "Turns of a conversation", "turns"), TURNS, kept["turns"], gone["turns"]),
    ]


def token_distributions(folder: Path) -> list[Distribution]:
    """Tokens of a row, and the share of them that is trained on; empty without tokens."""
    side = scan_table(folder, "sidecar").select("tokens", "trained").collect()
    if side.height == 0:
        return []
    share = side["trained"] / side["tokens"]
    none = pl.Series([], dtype=pl.Float64)
    return [
        _histogram(("tokens", "Tokens of a row", "tokens"), LENGTHS, side["tokens"], none),
        _histogram(("trained_share", "Share of a row's tokens that is trained on", "share"), SHARES, share, none),
    ]


def _kept(folder: Path) -> pl.DataFrame:
    """Slim columns of the kept rows, shard by shard."""

    def contents(role: str) -> pl.Expr:
        turn = pl.element().struct
        return pl.col("messages").list.eval(
            pl.element().filter(turn.field("role") == role).struct.field("content").str.len_chars()
        )

    frames = [
        pl.read_parquet(path, columns=["messages"])
        .select(
            answer=contents("assistant").list.last(),
            prompt=contents("user").list.sum(),
            turns=pl.col("messages").list.len(),
        )
        .cast(SLIM)  # type: ignore[arg-type]  # polars' stubs want a narrower mapping
        for path in parquet_files(folder, "conversations")
    ]
    return pl.concat(frames) if frames else pl.DataFrame(schema=SLIM)


def _gone(folder: Path) -> pl.DataFrame:
    """The same of the rejected rows that ever were conversations. A row of the ledger is JSON of any shape."""
    rows: list[tuple[int | None, int, int]] = []
    for path in parquet_files(folder, "rejections"):
        for text in pl.read_parquet(path, columns=["text"])["text"]:
            messages = conversation_of(text)
            if messages is not None:
                answers = [len(m["content"]) for m in messages if m.get("role") == "assistant"]
                asked = sum(len(m["content"]) for m in messages if m.get("role") == "user")
                rows.append((answers[-1] if answers else None, asked, len(messages)))
    return pl.DataFrame(rows, schema=SLIM, orient="row")


def _histogram(label: tuple[str, str, str], edges: list[float], kept: pl.Series, rejected: pl.Series) -> Distribution:
    """Cut the empty bins at both ends; the figures are of the kept rows."""
    name, title, unit = label
    inside, outside = _counts(kept, edges), _counts(rejected, edges)
    filled = np.flatnonzero(inside + outside)
    first, last = (int(filled[0]), int(filled[-1])) if len(filled) else (0, 0)
    return Distribution(
        name=name,
        title=title,
        unit=unit,
        edges=edges[first : last + 2],
        kept=inside[first : last + 1].tolist(),
        rejected=outside[first : last + 1].tolist() if len(rejected) else [],
        figures=_figures(kept.drop_nulls()),
    )


def _counts(values: pl.Series, edges: list[float]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    numbers = values.drop_nulls().to_numpy()
    bins = np.clip(np.searchsorted(edges, numbers, side="right") - 1, 0, len(edges) - 1)
    return np.bincount(bins, minlength=len(edges)).astype(np.int64)


def _figures(values: pl.Series) -> dict[str, float]:
    if len(values) == 0:
        return {}
    ordered = np.sort(values.to_numpy()).astype(np.float64)
    at = {"min": 0.0, "p10": 0.1, "median": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    found = {name: float(ordered[round(share * (len(ordered) - 1))]) for name, share in at.items()}
    found["mean"] = float(ordered.mean())
    return {name: round(number, 4) for name, number in found.items()}
