"""Targets that take conversations: JSON or Parquet files, written row by row from one shard after the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from sft_data.errors import StoreError
from sft_data.formats.exports import EXPORTS, CannotHold, columns_of, for_table
from sft_data.sources.decode import dump
from sft_data.store.layout import parquet_files, splits_of

__all__ = ["Files", "write_conversations"]

Row = dict[str, Any]
Files = Literal["jsonl", "json", "parquet"]
_BATCH = 4096  # rows of a row group: what is held at a time

# Our names of a turn's columns -> those of an exported message.
_TURN_FIELDS = {"reasoning": "reasoning_content"} | {n: n for n in ("tool_calls", "tool_call_id", "name", "weight")}


def write_conversations(folder: Path, out: Path, form: str, files: Files) -> Counter[str]:
    """Write one file per split of the version in `folder`; why rows are left out, and how many for each reason.

    StoreError where the version holds no conversations.
    """
    splits = splits_of(folder, "conversations")
    if not splits:
        raise StoreError(f"{folder} holds no conversations")
    left_out: Counter[str] = Counter()
    out.mkdir(parents=True, exist_ok=True)
    shards = {split: parquet_files(folder, "conversations", split) for split in splits}
    columns = columns_of(form, _turn_fields(chain.from_iterable(shards.values())))  # the same in every split
    for split in splits:
        rows = _told(shards[split], form, left_out)
        path = out / f"{split}.{files}"
        if files == "parquet":
            _write_parquet(path, rows, columns)
        else:
            _write_json(path, rows, files)
    return left_out


def _told(shards: list[Path], form: str, left_out: Counter[str]) -> Iterator[Row]:
    tell = EXPORTS[form]
    for path in shards:
        for row in pl.read_parquet(path).iter_rows(named=True):
            try:
                yield tell(row)
            except CannotHold as reason:
                left_out[str(reason)] += 1


def _write_json(path: Path, rows: Iterator[Row], files: Files) -> None:
    """JSON Lines, or one list with a row on each line."""
    opening, between, closing = (b"", b"\n", b"\n") if files == "jsonl" else (b"[\n", b",\n", b"\n]\n")
    with path.open("wb") as file:
        file.write(opening)
        number = -1
        for number, row in enumerate(rows):
            file.write((between if number else b"") + dump(row).encode())
        file.write(closing if number >= 0 or files == "json" else b"")


def _write_parquet(path: Path, rows: Iterator[Row], columns: pa.Schema) -> None:
    with pq.ParquetWriter(path, columns, compression="zstd") as file:
        batch: list[Row] = []
        for row in rows:
            batch.append(for_table(row))
            if len(batch) == _BATCH:
                file.write_table(pa.Table.from_pylist(batch, columns))
                batch = []
        file.write_table(pa.Table.from_pylist(batch, columns))


def _turn_fields(shards: Iterable[Path]) -> frozenset[str]:
    """What some turn of the shards has besides its role and its text."""
    found: set[str] = set()
    for path in shards:
        turns = pl.read_parquet(path, columns=["messages"])["messages"].explode(empty_as_null=False).struct.unnest()
        found |= {told for ours, told in _TURN_FIELDS.items() if turns[ours].null_count() < turns.height}
    return frozenset(found)
