"""Losses of held-out conversations, each by itself: the same code during training and after it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from sft_data.errors import TrainError
from sft_data.store.layout import scan_table, stream_files
from sft_data.train.batches import Collator
from sft_data.train.packs import IGNORED, Rows, open_rows
from sft_data.train.result import SourceLoss

__all__ = ["HeldOutRows", "by_source", "has_rows", "row_losses", "supervised_nll", "takes", "total"]


_SUMS = ("nll", "tokens", "weighted_nll", "weights")


class HeldOutRows:
    """Conversations of a split with their sources; at most `limit`, evenly spread over the split."""

    def __init__(self, version: Path, split: str, limit: int | None = None) -> None:
        self.rows: Rows = open_rows(version, split, "tokens")
        sidecar = scan_table(version, "sidecar", split).select("source").collect()
        if sidecar.height != len(self.rows):
            raise TrainError(
                f"{version}: split {split!r} has {len(self.rows)} rows of tokens but {sidecar.height} in its sidecar; "
                "`sft-data verify` checks the version"
            )
        count = len(self.rows) if limit is None else min(limit, len(self.rows))
        self.numbers = np.arange(count) * len(self.rows) // max(count, 1)
        self.sources: list[str] = sidecar["source"].gather(self.numbers).to_list()

    def __len__(self) -> int:
        return len(self.numbers)


def has_rows(version: Path, split: str) -> bool:
    """Whether a version has held-out tokens of this split."""
    return bool(stream_files(version, "tokens", split))


def supervised_nll(model: Any, inputs: Mapping[str, Any], labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # noqa: ANN401
    """Negative log likelihood of each supervised token, in float32, and the mask [B, L - 1] of where they are.

    The vocabulary is scored only in columns in which some row learns something, where the model can be told so:
    in instruction data a third to a half of all tokens are prompts, and the scores are the largest tensor of a step.
    """
    learnt = labels[:, 1:] != IGNORED
    columns = learnt.any(0).nonzero()[:, 0]
    if takes(model, "logits_to_keep"):
        logits = model(**inputs, logits_to_keep=columns).logits
    else:
        logits = model(**inputs).logits[:, columns]
    targets = labels[:, 1:][learnt]
    return torch.nn.functional.cross_entropy(logits[learnt[:, columns]].float(), targets, reduction="none"), learnt


def takes(model: Any, name: str) -> bool:  # noqa: ANN401
    """Whether the forward pass of a model, under adapters and wrappers too, has an argument of that name."""
    inner = getattr(model, "module", model)
    inner = inner.get_base_model() if hasattr(inner, "peft_config") and hasattr(inner, "get_base_model") else inner
    return name in inspect.signature(type(inner).forward).parameters


@torch.no_grad()  # not inference_mode: a buffer that a model fills here must stay usable in training
def row_losses(model: Any, rows: Rows, numbers: Sequence[int] | npt.NDArray[Any], slots: int = 8192) -> pl.DataFrame:  # noqa: ANN401
    """Summed loss and supervised tokens of each conversation, both also weighted, in the order of `numbers`.

    Sorted by length and padded on the right, without any mask: in a causal model padding behind an example cannot
    reach it. A batch holds at most `slots` positions.
    """
    device = next(model.parameters()).device
    collate = Collator(pad_token_id=0, position_ids=False)
    counts = np.zeros(len(numbers), dtype=np.int64)
    sums, weighted, weights = (np.zeros(len(numbers)) for _ in range(3))
    was_training = model.training
    model.eval()
    for batch in _batches([len(rows[int(n)].input_ids) for n in numbers], slots):
        inputs = collate([rows[int(numbers[i])] for i in batch])
        labels = inputs["labels"].to(device)
        nll, learnt = supervised_nll(model, {"input_ids": inputs["input_ids"].to(device), "use_cache": False}, labels)
        row_of, losses = learnt.nonzero()[:, 0].cpu().numpy(), nll.cpu().double().numpy()
        sums[batch] = np.bincount(row_of, weights=losses, minlength=len(batch))
        counts[batch] = np.bincount(row_of, minlength=len(batch))
        weight = inputs["weights"][:, 1:][learnt.cpu()].double().numpy()
        weighted[batch] = np.bincount(row_of, weights=losses * weight, minlength=len(batch))
        weights[batch] = np.bincount(row_of, weights=weight, minlength=len(batch))
    model.train(was_training)
    return pl.DataFrame({"nll": sums, "tokens": counts, "weighted_nll": weighted, "weights": weights})


def _batches(lengths: list[int], slots: int) -> list[list[int]]:
    batches: list[list[int]] = []
    longest = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not batches or (len(batches[-1]) + 1) * longest > slots:
            batches.append([])
            longest = lengths[i]
        batches[-1].append(i)
    return batches


def by_source(losses: pl.DataFrame) -> dict[str, SourceLoss]:
    """Figures of each source; `losses` has the columns of `row_losses` and source."""
    sums = losses.group_by("source").agg(pl.len().alias("rows"), pl.col(_SUMS).sum())
    return {row["source"]: _figures(row) for row in sums.sort("source").iter_rows(named=True) if row["tokens"]}


def total(losses: pl.DataFrame) -> SourceLoss:
    """Figures over all rows: the mean over tokens, not over rows or sources."""
    return _figures({"rows": losses.height} | {name: losses[name].sum() for name in _SUMS})


def _figures(sums: dict[str, Any]) -> SourceLoss:
    loss = sums["nll"] / sums["tokens"] if sums["tokens"] else float("nan")
    weighted = sums["weighted_nll"] / sums["weights"] if sums["weights"] else float("nan")
    return SourceLoss(rows=sums["rows"], tokens=sums["tokens"], loss=loss, weighted_loss=weighted)
