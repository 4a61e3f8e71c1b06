"""Vectors of texts as stages ask for them: of a sentence-embedding model in a folder, or TF-IDF where none is named."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import polars as pl

from sft_data.dedup.vectors import NEEDS_EXTRA, embed, features
from sft_data.errors import ConfigError
from sft_data.fingerprint import digest, library_versions

__all__ = ["MODEL_LIBRARIES", "checked_folder", "model_contents", "text_vectors"]

MODEL_LIBRARIES = ("sentence-transformers", "tokenizers", "torch", "transformers")


def checked_folder(model: str) -> str:
    """The setting as it is; ValueError where it is no folder: a name could mean another model tomorrow, and the version
    would not tell.
    """
    if model and not Path(model).is_dir():
        raise ValueError(f"no folder {model!r}; download the model and give its folder")
    return model


def model_contents(model: str) -> dict[str, str]:
    """For a fingerprint: the libraries that decide what a model says; without a model they do not matter."""
    if not model:
        return {}
    try:
        return {"model_libraries": digest(library_versions(MODEL_LIBRARIES))}
    except PackageNotFoundError as error:
        raise ConfigError("model", [NEEDS_EXTRA]) from error


def text_vectors(text: pl.Series, model: str) -> pl.Series:
    """For a sketch: each text's features (see `rarity`), or the model's vector in signed bytes."""
    if not model:
        return features(text)
    vectors = embed(text, model) if len(text) else np.zeros((0, 0), dtype=np.int8)
    return pl.Series(list(vectors), dtype=pl.List(pl.Int8))
