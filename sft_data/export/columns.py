"""Columns that other trainers want beside or instead of `input_ids` and `labels`, made from flat arrays."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from sft_data.pack.shards import IGNORED, list_column

__all__ = ["Flat", "column", "fixed_width", "flat", "position_ids", "segment_index", "shifted_labels", "shifted_mask"]

Ints = NDArray[np.int64]


class Flat(NamedTuple):
    """Rows one behind the other: row i is [bounds[i], bounds[i + 1])."""

    ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    bounds: Ints
    segments: Ints  # bounds of the segments, over all rows; the rows' own bounds where nothing is packed
    segments_of_row: Ints  # how many segments each row has


def flat(frame: pl.DataFrame) -> Flat:
    """The columns of TOKENS or of packs."""
    lengths = frame["input_ids"].list.len().to_numpy().astype(np.int64)
    bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    ids, labels = (_values(frame[name]) for name in ("input_ids", "labels"))
    if "seq_lengths" not in frame.columns:
        return Flat(ids, labels, bounds, bounds, np.ones(frame.height, dtype=np.int64))
    sizes = _values(frame["seq_lengths"]).astype(np.int64)
    counts = frame["seq_lengths"].list.len().to_numpy().astype(np.int64)
    return Flat(ids, labels, bounds, np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]), counts)


def column(values: NDArray[Any], bounds: Ints) -> pl.Series:
    """A list column of 32-bit numbers, or of bytes where they are bytes."""
    return list_column(values, bounds)


def position_ids(rows: Flat) -> NDArray[np.int32]:
    """Place of each token in its segment."""
    sizes = np.diff(rows.segments)
    places: NDArray[np.int32] = (np.arange(len(rows.ids)) - np.repeat(rows.segments[:-1], sizes)).astype(np.int32)
    return places


def segment_index(rows: Flat) -> NDArray[np.int32]:
    """Number of each token's segment in its row, from 1."""
    first = np.cumsum(rows.segments_of_row) - rows.segments_of_row
    number = np.arange(len(rows.segments) - 1) - np.repeat(first, rows.segments_of_row) + 1
    index: NDArray[np.int32] = np.repeat(number, np.diff(rows.segments)).astype(np.int32)
    return index


def shifted_labels(rows: Flat) -> NDArray[np.int32]:
    """At each place the label of the next token of the same segment, -100 at the segment's end."""
    shifted = np.append(rows.labels[1:], np.int32(IGNORED)).astype(np.int32)
    shifted[rows.segments[1:] - 1] = IGNORED
    return shifted


def shifted_mask(rows: Flat) -> NDArray[np.int8]:
    """1 at each place whose next token in the same segment is learnt."""
    mask: NDArray[np.int8] = (shifted_labels(rows) != IGNORED).astype(np.int8)
    return mask


def fixed_width(values: NDArray[Any], bounds: Ints, width: int, filler: int) -> pl.Series:
    """Rows filled up to `width` on the right."""
    lengths = np.diff(bounds)
    out = np.full((len(lengths), width), filler, dtype=values.dtype)
    out[np.arange(width) < lengths[:, None]] = values
    return list_column(out.reshape(-1), np.arange(len(lengths) + 1) * width)


def _values(series: pl.Series) -> NDArray[np.int32]:
    values: NDArray[np.int32] = series.explode(empty_as_null=False).to_numpy().astype(np.int32)
    return values
