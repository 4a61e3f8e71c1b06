"""Losses of a model on a version's held-out conversations: over all, per source, per row, and against another model."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from sft_data.errors import MissingExtraError, TrainError
from sft_data.store.read import load_manifest
from sft_data.train.result import SourceLoss

if TYPE_CHECKING:
    import polars as pl

__all__ = ["EvalResult", "ModelLosses", "evaluate", "row_table"]


class ModelLosses(BaseModel):
    """One model on the held-out conversations."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(description="as it was named")
    loss: float = Field(description="mean negative log likelihood of a supervised token, in nats")
    weighted_loss: float | None = Field(
        default=None, description="the same with each token's loss weight: sum(weight x loss) / sum(weight)"
    )
    perplexity: float = Field(description="exp(loss)")
    by_source: dict[str, SourceLoss] = Field(description="the same for each source alone")


class EvalResult(BaseModel):
    """A model's losses, beside another model's where one was named."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    fingerprint: str
    split: str
    rows: int = Field(description="conversations")
    tokens: int = Field(description="supervised tokens")
    device: str
    metrics: ModelLosses
    base: ModelLosses | None = Field(default=None, description="the model to compare with")
    better_rows: float | None = Field(
        default=None, description="share of the conversations that the model predicts better than the base"
    )


def evaluate(
    model: str | Path,
    version: Path,
    split: str = "validation",
    *,
    base: str | Path | None = None,
    rows: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> EvalResult:
    """Losses of `model` (a folder, a run's folder or a cached hub model) on a split of the version in folder `version`.

    Each conversation is scored alone, never packed. `rows` limits how many, spread evenly over the split.
    """
    say = progress or (lambda _line: None)
    manifest = load_manifest(version)
    table, device = row_table(model, version, split, rows)
    say(f"{model}: {table.height} conversations on {device}")
    other = None if base is None else row_table(base, version, split, rows)[0]
    better = None if other is None else float((table["nll"] < other["nll"]).mean() or 0.0)  # type: ignore[arg-type]
    return EvalResult(
        dataset=manifest.name,
        fingerprint=manifest.fingerprint,
        split=split,
        rows=table.height,
        tokens=int(table["tokens"].sum()),
        device=device,
        metrics=_losses(str(model), table),
        base=None if other is None else _losses(str(base), other),
        better_rows=better,
    )


def row_table(model: str | Path, version: Path, split: str, rows: int | None = None) -> tuple[pl.DataFrame, str]:
    """Row number in the split, source, summed loss and supervised tokens of each conversation; and the device."""
    if any(find_spec(name) is None for name in ("torch", "transformers")):
        raise MissingExtraError("Evaluation", "train")
    from sft_data.train.scoring import score

    return score(str(model), version, split, rows)


def _losses(name: str, table: pl.DataFrame) -> ModelLosses:
    from sft_data.train.heldout import by_source, total

    whole = total(table)
    if not whole.tokens:
        raise TrainError("no token of the held-out conversations is supervised: there is nothing to measure")
    perplexity = math.exp(whole.loss) if whole.loss < 700 else math.inf
    return ModelLosses(
        model=name,
        loss=whole.loss,
        weighted_loss=whole.weighted_loss,
        perplexity=perplexity,
        by_source=by_source(table),
    )
