"""Targets that take tokens: one file of the version becomes one file of the export, so memory follows one file."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from sft_data.errors import StoreError
from sft_data.export.columns import (
    Flat,
    column,
    fixed_width,
    flat,
    position_ids,
    segment_index,
    shifted_labels,
    shifted_mask,
)
from sft_data.pack.shards import IGNORED, dataset_files, stream_names, write_stream
from sft_data.store.layout import arrow_batches, splits_of, stream_files
from sft_data.store.manifest import Manifest, TokenizerEntry

__all__ = ["axolotl", "llama_factory", "llama_factory_packed", "megatron", "nemo", "olmo", "trl", "trl_packed"]


def trl(folder: Path, manifest: Manifest, out: Path) -> None:
    """Unpacked rows: input_ids and labels."""
    _folders(folder, manifest, out, "tokens", lambda frame: frame.select("input_ids", "labels"))


def trl_packed(folder: Path, manifest: Manifest, out: Path) -> None:
    """Packs: input_ids, labels, seq_lengths."""
    _folders(folder, manifest, out, "packs", lambda frame: frame.select("input_ids", "labels", "seq_lengths"))


def axolotl(folder: Path, manifest: Manifest, out: Path) -> None:
    """Unpacked rows with a mask of ones: Axolotl takes rows as tokenized only where all three columns are there."""
    _folders(folder, manifest, out, "tokens", _with_ones)


def llama_factory(folder: Path, manifest: Manifest, out: Path) -> None:
    """The same as one DatasetDict, which `tokenized_path` names."""
    _folders(folder, manifest, out, "tokens", _with_ones)
    _write_json(out / "dataset_dict.json", {"splits": splits_of(folder, "tokens")})


def llama_factory_packed(folder: Path, manifest: Manifest, out: Path) -> None:
    """Packs of fixed width whose mask holds the number of each token's segment: the layout of `neat_packing`."""
    width, pad = _width(manifest), _pad(manifest)

    def neat(frame: pl.DataFrame) -> pl.DataFrame:
        rows = flat(frame)
        return pl.DataFrame(
            {
                "input_ids": fixed_width(rows.ids, rows.bounds, width, pad),
                "attention_mask": fixed_width(segment_index(rows), rows.bounds, width, 0),
                "labels": fixed_width(rows.labels, rows.bounds, width, IGNORED),
            }
        )

    _folders(folder, manifest, out, "packs", neat)
    _write_json(out / "dataset_dict.json", {"splits": splits_of(folder, "packs")})


def nemo(folder: Path, manifest: Manifest, out: Path) -> None:
    """Packs in the `thd` layout of NeMo Automodel: labels already shifted, everything of fixed width."""
    width, pad = _width(manifest), _pad(manifest)

    def thd(frame: pl.DataFrame) -> pl.DataFrame:
        rows = flat(frame)
        rest = width - np.diff(rows.bounds)
        padded = np.diff(rows.segments)
        padded[np.cumsum(rows.segments_of_row) - 1] += rest
        segments = np.concatenate([np.zeros(1, np.int64), np.cumsum(rows.segments_of_row)])
        return pl.DataFrame(
            {
                "input_ids": fixed_width(rows.ids, rows.bounds, width, pad),
                "labels": fixed_width(shifted_labels(rows), rows.bounds, width, IGNORED),
                "position_ids": fixed_width(position_ids(rows), rows.bounds, width, 0),
                "seq_lens": column(np.diff(rows.segments).astype(np.int32), segments),
                "seq_lens_padded": column(padded.astype(np.int32), segments),
            }
        )

    _folders(folder, manifest, out, "packs", thd)


def megatron(folder: Path, manifest: Manifest, out: Path) -> None:
    """Packs as `*.idx.parquet`: the mask is already shifted, segments are told by where they start."""

    def indexed(frame: pl.DataFrame) -> pl.DataFrame:
        rows = flat(frame)
        segments = np.concatenate([np.zeros(1, np.int64), np.cumsum(rows.segments_of_row)])
        first = np.repeat(rows.bounds[:-1], rows.segments_of_row)
        return pl.DataFrame(
            {
                "input_ids": column(rows.ids, rows.bounds),
                "loss_mask": column(shifted_mask(rows), rows.bounds),
                "seq_start_id": column((rows.segments[:-1] - first).astype(np.int32), segments),
            }
        )

    del manifest
    for split, number, frame in _parts(folder, "packs"):
        table = indexed(frame).to_arrow()
        (out / split).mkdir(parents=True, exist_ok=True)
        pq.write_table(table, out / split / f"packs_{number:05d}.idx.parquet", row_group_size=500)


def olmo(folder: Path, manifest: Manifest, out: Path) -> None:
    """Raw arrays without headers, as open-instruct and OLMo-core map them, and the bounds of the documents."""
    entry = _entry(manifest)
    kind = next(t for t in (np.uint8, np.uint16, np.uint32) if entry.vocab_size <= np.iinfo(t).max + 1)
    counts: dict[str, dict[str, int]] = {}
    for split, number, frame in _parts(folder, "tokens"):
        rows = flat(frame)
        place = out / split
        place.mkdir(parents=True, exist_ok=True)
        rows.ids.astype(kind).tofile(place / f"token_ids_part_{number:04d}.npy")
        (rows.labels != IGNORED).tofile(place / f"labels_mask_part_{number:04d}.npy")
        bounds = "".join(f"{low},{high}\n" for low, high in zip(rows.bounds, rows.bounds[1:], strict=False))
        with gzip.GzipFile(place / f"token_ids_part_{number:04d}.csv.gz", "wb", mtime=0) as file:
            file.write(bounds.encode())
        count = counts.setdefault(split, {"documents": 0, "tokens": 0, "trained_tokens": 0})
        count["documents"] += frame.height
        count["tokens"] += len(rows.ids)
        count["trained_tokens"] += int((rows.labels != IGNORED).sum())
    for split, count in counts.items():
        _write_json(out / split / "dataset_statistics.json", {**count, "dtype": np.dtype(kind).name})


def _with_ones(frame: pl.DataFrame) -> pl.DataFrame:
    rows: Flat = flat(frame)
    return pl.DataFrame(
        {
            "input_ids": frame["input_ids"],
            "attention_mask": column(np.ones(len(rows.ids), dtype=np.int8), rows.bounds),
            "labels": frame["labels"],
        }
    )


def _folders(
    folder: Path, manifest: Manifest, out: Path, table: str, form: Callable[[pl.DataFrame], pl.DataFrame]
) -> None:
    """One folder per split that `datasets.load_from_disk` opens."""
    names: dict[str, list[str]] = {
        split: stream_names(len(stream_files(folder, table, split))) for split in splits_of(folder, table)
    }
    for split, number, frame in _parts(folder, table):
        (out / split).mkdir(parents=True, exist_ok=True)
        write_stream(out / split / names[split][number], form(frame))
    for split, files in names.items():
        for name, text in dataset_files(files, manifest.fingerprint, split).items():
            (out / split / name).write_text(text, encoding="utf-8")


def _parts(folder: Path, table: str) -> Iterator[tuple[str, int, pl.DataFrame]]:
    """Split, number and content of every file of a table."""
    splits = splits_of(folder, table)
    if not splits:
        section = {"tokens": "tokenize", "packs": "pack"}[table]
        raise StoreError(f"{folder} holds no {table}: its pipeline has no `{section}` section")
    for split in splits:
        for number, path in enumerate(stream_files(folder, table, split)):
            yield split, number, pl.concat(arrow_batches(path))


def _width(manifest: Manifest) -> int:
    width = _entry(manifest).pack_length
    if width is None:
        raise StoreError(f"{manifest.name} holds no packs: its pipeline has no `pack` section")
    return width


def _pad(manifest: Manifest) -> int:
    """What fills up a row; any token will do where the mask is 0 and the label -100."""
    return _entry(manifest).pad_token_id or 0


def _entry(manifest: Manifest) -> TokenizerEntry:
    if manifest.tokenizer is None:
        raise StoreError(f"{manifest.name} holds no tokens: its pipeline has no `tokenize` section")
    return manifest.tokenizer


def _write_json(path: Path, data: object) -> None:
    path.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")
