"""Loads a model and scores held-out conversations: the torch side of `evaluate`."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import torch

from sft_data.errors import TrainError
from sft_data.store.read import load_manifest
from sft_data.train.heldout import HeldOutRows, row_losses
from sft_data.train.model import calm_threads, check_tokenizer, load_model, quiet, tokenizer_of
from sft_data.train.packs import survey

__all__ = ["score"]


def score(model: str, version: Path, split: str, limit: int | None = None) -> tuple[pl.DataFrame, str]:
    """Row, source, summed loss and supervised tokens of each conversation; and the device that it ran on."""
    tokenizer_of(load_manifest(version), version)
    held_out = HeldOutRows(version, split, limit)
    found = survey(held_out.rows, f"{version}/tokens/{split}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with quiet():
        loaded = load_model(model, dtype=torch.float32).to(device)
    check_tokenizer(model, version)
    room = loaded.get_input_embeddings().weight.shape[0]
    if found.largest_id >= room:
        raise TrainError(
            f"the version's tokenizer has token {found.largest_id} but {model} only {room} tokens: the model was not "
            "made for this data"
        )
    with calm_threads(loaded):
        losses = row_losses(loaded, held_out.rows, held_out.numbers)
    return losses.insert_column(0, pl.Series("source", held_out.sources)).insert_column(
        0, pl.Series("row", held_out.numbers)
    ), device
