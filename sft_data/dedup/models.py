"""Vectors of texts as stages ask for them: of a sentence-embedding model, or TF-IDF where none is named.

A model is a folder, or a name of the hub: hf://ORG/NAME, with @REVISION where another than today's is meant. A name
is resolved to a commit when a build is planned, and the commit stands in the manifest; the content decides the
fingerprint.
"""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import polars as pl

from sft_data.dedup.vectors import NEEDS_EXTRA, embed, features
from sft_data.errors import ConfigError
from sft_data.fingerprint import digest, library_versions, path_sha256

__all__ = ["MODEL_LIBRARIES", "checked_model", "model_contents", "model_copies", "pinned_model", "text_vectors"]

MODEL_LIBRARIES = ("sentence-transformers", "tokenizers", "torch", "transformers")

_NAME = re.compile(r"hf://(?!datasets/)(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
# What a model consists of: no pickles, no programs.
_FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]


def checked_model(model: str) -> str:
    """The setting as it is; ValueError where it is neither a folder nor a name of the hub in full.

    A bare ORG/NAME could as well be a folder that was mistyped.
    """
    if model and not _NAME.fullmatch(model) and not Path(model).is_dir():
        raise ValueError(f"no folder {model!r}; give the folder of a model, or a name of the hub as hf://ORG/NAME")
    return model


@lru_cache(maxsize=8)
def pinned_model(model: str) -> str:
    """A name of the hub with its revision resolved to a commit, its files on this machine; a folder as it is."""
    found = _NAME.fullmatch(model)
    if found is None:
        return model
    commit = found["revision"] or ""
    if not _COMMIT.fullmatch(commit):
        try:
            from huggingface_hub import HfApi
        except ImportError as error:
            raise ConfigError("model", [NEEDS_EXTRA]) from error
        try:
            commit = str(HfApi().model_info(found["name"], revision=found["revision"]).sha)
        except Exception as error:
            raise ConfigError("model", [_cannot(model, error)]) from error
    pinned = f"hf://{found['name']}@{commit}"
    _folder(pinned)
    return pinned


@lru_cache(maxsize=8)
def _folder(model: str) -> str:
    """Where a model lies: a folder as it is; of the hub, the copy on this machine, fetched where there is none."""
    found = _NAME.fullmatch(model)
    if found is None:
        return model
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError as error:
        raise ConfigError("model", [NEEDS_EXTRA]) from error
    name, commit = found["name"], found["revision"]
    try:
        try:
            return str(snapshot_download(name, revision=commit, allow_patterns=_FILES, local_files_only=True))
        except LocalEntryNotFoundError:
            return str(snapshot_download(name, revision=commit, allow_patterns=_FILES))
    except Exception as error:
        raise ConfigError("model", [_cannot(model, error)]) from error


def _cannot(model: str, error: Exception) -> str:
    why = " ".join(str(error).split())[:300] or type(error).__name__
    return f"{model} cannot be had from the hub: {why}; a private model needs HF_TOKEN, a folder needs no network"


def model_copies(model: str) -> tuple[Path, ...]:
    """The folder of a model that is named by the hub; none where the setting is the folder itself."""
    return (Path(_folder(pinned_model(model))),) if _NAME.fullmatch(model) else ()


def model_contents(model: str) -> dict[str, str]:
    """For a fingerprint: the libraries that decide what a model says, and the content of one of the hub."""
    if not model:
        return {}
    try:
        libraries = digest(library_versions(MODEL_LIBRARIES))
    except PackageNotFoundError as error:
        raise ConfigError("model", [NEEDS_EXTRA]) from error
    copies = model_copies(model)
    return {"model_libraries": libraries} | ({"model": path_sha256(copies[0])} if copies else {})


def text_vectors(text: pl.Series, model: str) -> pl.Series:
    """For a sketch: each text's features (see `rarity`), or the model's vector in signed bytes."""
    if not model:
        return features(text)
    vectors = embed(text, _folder(pinned_model(model))) if len(text) else np.zeros((0, 0), dtype=np.int8)
    return pl.Series(list(vectors), dtype=pl.List(pl.Int8))
