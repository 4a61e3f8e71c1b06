"""Vectors of texts, made so that every comparison of two of them is exact arithmetic on whole numbers.

Without a model a text is the set of its words and word pairs (characters and pairs of them in Chinese and the like),
each weighted by how rare it is in the dataset (TF-IDF with the frequency left out); where a vector of fixed length is
wanted, a random projection makes 256 signed bytes of it. With a sentence-embedding model a text is the
model's vector in signed bytes. Products of bytes are summed exactly by 32-bit floats up to 1,024 dimensions, so a
result depends neither on the linear algebra library nor on the size of a block.
"""

# Kernels take what numba infers, so they are not annotated.
# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: ANN001, ANN202

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import orjson
import polars as pl

from sft_data.dedup.shingles import shingle_sets
from sft_data.errors import ConfigError

__all__ = ["NEEDS_EXTRA", "WIDTH", "Sets", "embed", "features", "projected", "quantised", "rarity", "stacked"]

NEEDS_EXTRA = "embedding models need the extra `semantic`: pip install 'sft-data[semantic]'"

WIDTH = 256  # dimensions of a projection: cosines of 0.9 are met within 0.012 (one standard deviation)
MOST_DIMENSIONS = 1024  # 127 * 127 * 1024 < 2**24, below which 32-bit floats hold every whole number
_BUCKETS = 1 << 20  # features are counted by their hash in so many places
_PAIR = np.uint32(0x9E3779B9)

Bytes = npt.NDArray[np.int8]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sets:
    """The features of all texts, text behind text, each text's sorted; and each feature's weight."""

    values: npt.NDArray[np.uint32]
    offsets: I64
    weights: I64  # of each place of the table of features, in thousandths
    norms: I64  # of each text: the sum of its squared weights


def features(texts: pl.Series) -> pl.Series:
    """Hashes of the units and pairs of units of each text: sorted, each once; none for an empty text."""
    single, double = (shingle_sets([texts], n) for n in (1, 2))
    counts = single.counts + double.counts
    owner = np.concatenate([np.repeat(np.arange(len(texts)), each.counts) for each in (single, double)])
    hashes = np.concatenate([single.values.astype(np.uint32), double.values.astype(np.uint32) ^ _PAIR])
    ordered = hashes[np.lexsort((hashes, owner))]
    groups = pl.DataFrame({"owner": np.repeat(np.arange(len(texts)), counts), "value": ordered}).unique(
        maintain_order=True
    )
    lists = groups.group_by("owner", maintain_order=True).agg("value")
    every = pl.DataFrame({"owner": np.arange(len(texts))}).join(lists, on="owner", how="left", maintain_order="left")
    none = pl.lit([], dtype=pl.List(pl.UInt32))
    return every.select(pl.col("value").cast(pl.List(pl.UInt32)).fill_null(none)).to_series()


def rarity(columns: list[pl.Series]) -> Sets:
    """The sets of all shards, weighted by log((1 + texts) / (1 + texts with the feature)) + 1."""
    sizes = np.concatenate([column.list.len().to_numpy() for column in columns]).astype(np.int64)
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])
    values, often, at = np.empty(int(offsets[-1]), dtype=np.uint32), np.zeros(_BUCKETS, dtype=np.int64), 0
    for column in columns:  # shard by shard: one copy of all features, and no more
        part = column.explode(empty_as_null=False).to_numpy()
        values[at : at + len(part)] = part
        often += np.bincount(values[at : at + len(part)] & (_BUCKETS - 1), minlength=_BUCKETS)
        at += len(part)
    weights = np.rint(1000 * (np.log((1 + len(sizes)) / (1 + np.minimum(often, len(sizes)))) + 1)).astype(np.int64)
    norms = np.zeros(len(sizes), dtype=np.int64)
    _norms(values, offsets, weights, norms)
    return Sets(values, offsets, weights, norms)


def projected(sets: Sets) -> Bytes:
    """The weighted sets in 256 signed bytes: each feature adds its weight at four places with signs of its own."""
    out = np.zeros((len(sets.norms), WIDTH), dtype=np.int8)
    _project(sets.values, sets.offsets, sets.weights, out)
    return out


def quantised(vectors: npt.NDArray[np.floating[Any]]) -> Bytes:
    """Each vector scaled so that its largest part is 127, in signed bytes."""
    largest = np.abs(vectors).max(axis=1, keepdims=True)
    return np.rint(vectors * (127.0 / np.where(largest > 0, largest, 1.0))).astype(np.int8)


def stacked(columns: list[pl.Series]) -> Bytes:
    """The vectors of a model in the sketches of several shards, none of them empty: (rows, dimensions)."""
    parts = [column.explode(empty_as_null=False).to_numpy().reshape(len(column), -1) for column in columns]
    return np.concatenate(parts)


def embed(texts: pl.Series, model: str) -> Bytes:
    """The model's vector of each text. Texts go through it one by one on one thread: a batch would change last bits.

    Raises ConfigError where the extra is not installed, and where the model is not there, too wide or damaged.
    """
    encoder = _load(model)
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    said = (texts.str.strip_chars() != "").to_numpy()  # some models fail on a text without any token
    try:
        every = [*texts.filter(said).to_list(), "a"]  # the last one tells the dimensions where all are empty
        vectors = encoder.encode(every, batch_size=1, show_progress_bar=False, convert_to_numpy=True)
    finally:
        torch.set_num_threads(threads)
    if vectors.shape[1] > MOST_DIMENSIONS:
        told = f"{model!r} has {vectors.shape[1]} dimensions; up to {MOST_DIMENSIONS} are possible"
        raise ConfigError("model", [told])
    found = np.zeros((len(texts), vectors.shape[1]))
    found[said] = vectors[:-1]
    if not np.isfinite(found).all():
        raise ConfigError("model", [f"{model!r} gives vectors that are not made of numbers (NaN): it is damaged"])
    return quantised(np.round(found, 5))


@lru_cache(maxsize=1)
def _load(model: str) -> Any:  # noqa: ANN401  # an optional library
    try:
        library = importlib.import_module("sentence_transformers")
    except ImportError as error:
        raise ConfigError("model", [NEEDS_EXTRA]) from error
    _check_modules(Path(model))
    try:
        return library.SentenceTransformer(
            model, device="cpu", trust_remote_code=False, model_kwargs={"use_safetensors": True}
        )
    except (OSError, ValueError, RuntimeError, ImportError, AttributeError, KeyError, TypeError) as error:
        told = f"{model!r} cannot be loaded as a sentence-embedding model: {str(error).splitlines()[0]}"
        raise ConfigError("model", [told]) from error


def _check_modules(folder: Path) -> None:
    """Refuse modules that are programs or pickles, whatever the library makes of them."""
    told = f"{str(folder)!r} cannot be loaded as a sentence-embedding model"
    try:
        modules = orjson.loads((folder / "modules.json").read_bytes())
        named = [(str(module["type"]), folder / str(module["path"])) for module in modules]
    except FileNotFoundError:  # a model without modules: the library makes them
        return
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError("model", [f"{told}: modules.json is not a list of modules: {error}"]) from error
    for kind, place in named:
        if not kind.startswith("sentence_transformers."):
            raise ConfigError("model", [f"{told}: its module {kind!r} is a program of its own, which is never run"])
        if list(place.glob("*.bin")) and not list(place.glob("*.safetensors")):
            raise ConfigError("model", [f"{told}: its module {kind!r} has only a pickle (.bin); safetensors are read"])


@numba.njit(cache=True, nogil=True)
def _norms(values, offsets, weights, norms):
    mask = np.uint32(len(weights) - 1)
    for text in range(len(norms)):
        for at in range(offsets[text], offsets[text + 1]):
            weight = weights[values[at] & mask]
            norms[text] += weight * weight


@numba.njit(cache=True, nogil=True)
def _project(values, offsets, weights, out):
    mask = np.uint32(len(weights) - 1)
    width = np.uint64(out.shape[1])
    sums = np.zeros(out.shape[1], dtype=np.int64)
    for text in range(out.shape[0]):
        sums[:] = 0
        for at in range(offsets[text], offsets[text + 1]):
            x = np.uint64(values[at]) * np.uint64(0x9E3779B97F4A7C15)
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            x = x ^ (x >> np.uint64(31))
            for turn in range(4):
                bits = x >> np.uint64(16 * turn)
                place = np.int64((bits >> np.uint64(1)) % width)
                weight = weights[values[at] & mask]
                sums[place] += weight if bits & np.uint64(1) else -weight
        largest = max(1, np.abs(sums).max())
        out[text] = np.rint(sums * 127 / largest).astype(np.int8)
