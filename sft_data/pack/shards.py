"""Token files: Arrow IPC streams that trainers open as they are, memory-mapped and gathered without a Python loop.

The layout is that of `datasets.load_from_disk`: `data-00000-of-0000N.arrow`, `state.json`, `dataset_info.json`. It is
written with pyarrow alone, uncompressed (compressed streams cannot be memory-mapped), with 32-bit lists.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from sft_data.errors import StoreError

__all__ = [
    "IGNORED",
    "TokenReader",
    "dataset_files",
    "list_column",
    "pack_frame",
    "row_of",
    "stream_names",
    "with_weights",
    "write_stream",
]

IGNORED = -100  # a label that is not learnt

# Rows of a record batch: large enough that a gather over a file touches few, small enough to stream.
BATCH_ROWS = 16_384


class TokenReader:
    """Rows of token files by number, over all files in their order. Opens by memory map; holds no rows."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._values: list[dict[str, NDArray[Any]]] = []
        starts: list[NDArray[np.int64]] = []
        sizes = [0]
        for path in paths:
            for batch in _batches(path):
                if batch.num_rows:
                    self._values.append({name: _flat(batch.column(name)) for name in batch.schema.names})
                    offsets = batch.column("input_ids").offsets.to_numpy().astype(np.int64)
                    starts.append(offsets)
                    sizes.append(batch.num_rows)
        self._offsets = starts
        self._firsts = np.cumsum(sizes)
        self.columns: tuple[str, ...] = tuple(self._values[0]) if self._values else ("input_ids", "labels")
        self.lengths: NDArray[np.int32] = np.concatenate(
            [np.diff(offsets).astype(np.int32) for offsets in starts] or [np.zeros(0, np.int32)]
        )

    def __len__(self) -> int:
        return len(self.lengths)

    def gather(self, rows: NDArray[np.integer]) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
        """Input ids and labels of these rows, one behind the other, and the rows' lengths."""
        flat, lengths = self.columns_of(rows, ("input_ids", "labels"))
        return flat["input_ids"], flat["labels"], lengths

    def columns_of(
        self, rows: NDArray[np.integer], names: Sequence[str]
    ) -> tuple[dict[str, NDArray[Any]], NDArray[np.int32]]:
        """The named columns of these rows, flat, and the rows' lengths."""
        rows = np.asarray(rows, dtype=np.int64)
        lengths = self.lengths[rows]
        targets = np.cumsum(lengths, dtype=np.int64) - lengths
        total = int(lengths.sum(dtype=np.int64))
        out = {name: np.empty(total, self._dtype(name)) for name in names}
        batch = np.searchsorted(self._firsts, rows, side="right") - 1
        for number in np.unique(batch).tolist():
            here = np.flatnonzero(batch == number)
            sizes = lengths[here].astype(np.int64)
            within = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
            source = np.repeat(self._offsets[number][rows[here] - self._firsts[number]], sizes) + within
            target = np.repeat(targets[here], sizes) + within
            for name in names:
                out[name][target] = self._values[number][name][source]
        return out, lengths

    def _dtype(self, name: str) -> Any:  # noqa: ANN401  # numpy's dtype-like
        return self._values[0][name].dtype if self._values else np.int32


def pack_frame(index: pl.DataFrame, reader: TokenReader) -> pl.DataFrame:
    """The packs of a slice of PACK_INDEX: `input_ids`, `labels`, `seq_lengths`, in the order of the index.

    Nothing is padded. The first label of every segment is -100: a model predicts the next token, so the first token of
    a row would otherwise be predicted from the end of another one.
    """
    names = [name for name in reader.columns if name in ("input_ids", "labels", "loss_weights")]
    flat, lengths = reader.columns_of(index["row"].to_numpy(), names)
    starts = np.cumsum(lengths, dtype=np.int64) - lengths
    flat["labels"][starts] = IGNORED
    if "loss_weights" in flat:
        flat["loss_weights"][starts] = 0.0
    firsts = np.flatnonzero(np.diff(index["pack"].to_numpy(), prepend=-1))
    rows = np.append(firsts, len(lengths))
    tokens = np.append(starts, lengths.sum(dtype=np.int64))[rows]
    columns = {name: list_column(values, tokens) for name, values in flat.items()}
    return pl.DataFrame({**columns, "seq_lengths": list_column(lengths, rows)})


def row_of(paths: Sequence[Path], number: int) -> tuple[dict[str, NDArray[Any]] | None, int]:
    """One row's lists by column, None where there is no such row; and how many rows the files hold."""
    found, first = None, 0
    for path in paths:
        for batch in _batches(path):
            if first <= number < first + batch.num_rows:
                here = number - first
                found = {n: batch.column(n)[here].values.to_numpy(zero_copy_only=True) for n in batch.schema.names}
            first += batch.num_rows
    return found, first


def with_weights(tokens: pl.DataFrame) -> pl.DataFrame:
    """TOKENS with the column `loss_weights`: 1 for every supervised token where there is none yet."""
    if "loss_weights" in tokens.columns:
        return tokens
    ones = pl.col("labels").list.eval((pl.element() != IGNORED).cast(pl.Float32))
    return tokens.with_columns(loss_weights=ones)


def list_column(values: Any, offsets: NDArray[np.integer]) -> pl.Series:  # noqa: ANN401  # pyarrow ships no types
    """A list column over flat values (numpy or Arrow): row i holds values[offsets[i]:offsets[i + 1]]."""
    flat = pa.array(values) if isinstance(values, np.ndarray) else values
    array = pa.LargeListArray.from_arrays(pa.array(np.asarray(offsets, dtype=np.int64)), flat)
    series = pl.from_arrow(array)
    assert isinstance(series, pl.Series)  # noqa: S101  # a single array always becomes a series
    return series


def write_stream(path: Path, frame: pl.DataFrame) -> None:
    """Write a frame as an uncompressed Arrow IPC stream with 32-bit offsets; the same rows give the same bytes."""
    fields = frame.head(0).to_arrow().schema
    schema = pa.schema([pa.field(field.name, _narrow(field.type)) for field in fields])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for start in range(0, frame.height, BATCH_ROWS):
            part = frame[start : start + BATCH_ROWS].to_arrow().cast(schema)
            writer.write_batch(pa.record_batch([_alone(column) for column in part.columns], schema=schema))


def _alone(column: Any) -> Any:  # noqa: ANN401  # pyarrow ships no types
    """A column in buffers that end where it ends.

    Arrow pads what it writes with whatever stands behind in memory: the rows that follow, where the column is a slice.
    Only joining arrays copies, so the column is joined with an empty one.
    """
    return pa.concat_arrays([*column.chunks, column.chunk(0).slice(0, 0)])


def stream_names(number: int) -> list[str]:
    """Names of `number` data files, as `datasets` writes them.

    >>> stream_names(2)
    ['data-00000-of-00002.arrow', 'data-00001-of-00002.arrow']
    """
    return [f"data-{i:05d}-of-{number:05d}.arrow" for i in range(number)]


def dataset_files(names: Sequence[str], fingerprint: str, split: str | None = None) -> Mapping[str, str]:
    """File name -> content of the two JSON files that make a folder of data files one that `load_from_disk` opens.

    The features are left out: readers take them from the Arrow schema, which every release of `datasets` reads alike.
    `fingerprint` is what `datasets` takes as the name of the content in its caches.
    """
    state: dict[str, Any] = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": fingerprint[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": split,
    }
    info = {"citation": "", "description": "", "features": None, "homepage": "", "license": ""}
    return {
        "state.json": json.dumps(state, indent=2, sort_keys=True) + "\n",
        "dataset_info.json": json.dumps(info, indent=2, sort_keys=True) + "\n",
    }


def _batches(path: Path) -> list[pa.RecordBatch]:
    try:
        with pa.memory_map(str(path)) as source:
            return list(pa.ipc.open_stream(source))
    except (OSError, pa.ArrowInvalid) as error:
        raise StoreError(f"{path} is not a readable Arrow IPC stream: {error}; rebuild the version") from error


def _flat(column: Any) -> NDArray[Any]:  # noqa: ANN401  # pyarrow ships no types
    values: NDArray[Any] = column.values.to_numpy(zero_copy_only=True)
    return values


def _narrow(kind: Any) -> Any:  # noqa: ANN401  # pyarrow ships no types
    """The same type with 32-bit offsets, which every reader of Arrow accepts."""
    if pa.types.is_large_list(kind):
        return pa.list_(pa.field("item", _narrow(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(f.name, _narrow(f.type)) for f in kind])
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    return kind
