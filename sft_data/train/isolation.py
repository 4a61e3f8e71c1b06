"""The self-check before the first step: examples in a pack must not see each other in *this* model run *this* way.

Whether they do depends on architecture, attention code and library versions, and a leak raises no error and trains
well enough to go unnoticed. So it is measured, never looked up.
"""

from __future__ import annotations

import contextlib
import math
from typing import Any

import numpy as np
import torch

from sft_data.errors import TrainError
from sft_data.train.batches import NOT_FOR_THE_MODEL, Collator
from sft_data.train.packs import Row

__all__ = ["check_isolation", "isolation_limit", "leak"]

ALTERNATIVES = ("sdpa", "eager")
# Lengths of the examples of two packs of different length: one row is padded, examples of one token are the
# hardest to tell apart by their positions.
PACKS = ((23, 1, 47), (31,))


@torch.no_grad()
def leak(model: Any, collate: Collator, *, packed: bool = True, bf16: bool = False) -> tuple[float, float]:  # noqa: ANN401
    """Largest difference of a logit between packed and alone, and the largest logit."""
    device = next(model.parameters()).device
    vocabulary = model.get_input_embeddings().weight.shape[0]
    draw = np.random.Generator(np.random.PCG64(7))
    packs = [_row([draw.integers(0, vocabulary, n) for n in lengths]) for lengths in PACKS]
    if not packed:
        packs = [_row([example]) for pack in packs for example in _examples(pack)]
    was_training = model.training
    model.eval()
    together = _logits(model, collate(packs), device, bf16=bf16)
    differences, scales = [], []
    for pack, found in zip(packs, _rows_of(together, packs, collate), strict=True):
        alone = [_logits(model, collate([_row([e])]), device, bf16=bf16)[0, : len(e)] for e in _examples(pack)]
        expected = torch.cat(alone)
        differences.append((found - expected).abs().max())
        scales.append(expected.abs().max())
    model.train(was_training)
    return float(torch.stack(differences).max()), float(torch.stack(scales).max())  # a NaN stays one


def _row(examples: list[Any]) -> Row:
    lengths = np.array([len(example) for example in examples])
    ids = np.concatenate(examples)
    return Row(ids, np.full(len(ids), -100), lengths)


def _examples(row: Row) -> list[Any]:
    ends = np.cumsum(row.lengths)
    return [row.input_ids[end - n : end] for end, n in zip(ends, row.lengths, strict=True)]


def _logits(model: Any, batch: dict[str, Any], device: torch.device, *, bf16: bool) -> torch.Tensor:  # noqa: ANN401
    inputs = {
        name: value.to(device) if torch.is_tensor(value) else value
        for name, value in batch.items()
        if name not in NOT_FOR_THE_MODEL
    }
    arithmetic = torch.autocast(device.type, torch.bfloat16) if bf16 else contextlib.nullcontext()
    with arithmetic:
        logits: torch.Tensor = model(**inputs).logits
    return logits.float()


def _rows_of(logits: torch.Tensor, packs: list[Row], collate: Collator) -> list[torch.Tensor]:
    sizes = [len(pack.input_ids) for pack in packs]
    if collate.layout == "flat":
        return list(torch.split(logits[0], sizes))
    return [logits[i, :n] for i, n in enumerate(sizes)]


def isolation_limit(scale: float, *, bf16: bool) -> float:
    """Largest difference that is rounding: in float32 1e-4, for logits beyond 1 in proportion to them.

    Measured on ten models with fresh and trained weights: rounding is at most 9e-7 of the largest logit in float32
    and 6e-3 in bf16, while a leak is 0.2 to 1.3 of it in either.
    """
    return 5e-2 * scale if bf16 else 1e-4 * max(1.0, scale)


def check_isolation(model: Any, collate: Collator, *, packed: bool = True, bf16: bool = False) -> float:  # noqa: ANN401
    """Measured difference; TrainError where examples see each other, naming what was measured to work instead."""
    difference, scale = leak(model, collate, packed=packed, bf16=bf16)
    if difference <= isolation_limit(scale, bf16=bf16):
        return difference
    if not math.isfinite(difference):
        raise TrainError("the model's logits are no numbers before the first step: its weights are damaged")
    if not packed:
        raise TrainError(
            f"`{model.config.model_type}` answers otherwise when a shorter example is padded (difference "
            f"{difference:.2g}): it is no causal model, or its attention needs a mask. Set `batch_packs: 1`"
        )
    kind, attention = model.config.model_type, model.config._attn_implementation
    raise TrainError(
        f"packed examples see each other in `{kind}` with attention `{attention}`: the same example packed and alone "
        f"differs by {difference:.2g} in its logits (limit {isolation_limit(scale, bf16=bf16):.0e}), so that training "
        f"on packs would teach nonsense without any error. {_advice(model, collate, attention)}"
    )


def _advice(model: Any, collate: Collator, attention: str) -> str:  # noqa: ANN401
    unpacked = "set `rows: conversations` to train without packing"
    for other in ALTERNATIVES:
        if other == attention or collate.layout == "flat":
            continue
        try:
            model.set_attn_implementation(other)
            difference, scale = leak(model, collate)
        except (ValueError, ImportError, NotImplementedError):
            continue
        if difference <= isolation_limit(scale, bf16=False):
            return f"Set `attention: {other}`, which was measured to isolate them, or {unpacked}."
    return f"No attention code isolates them in this model: {unpacked}."
