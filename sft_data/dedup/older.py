"""Rows that an older version or another dataset already has: new rows are held against them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from sft_data.errors import SourceError
from sft_data.schema import CONVERSATIONS

__all__ = ["OLDER", "older_rows"]

OLDER = "published versions (their folders) or Parquet files of conversations whose rows are there already"
_NEEDED = ("id", "messages", "tools")


def older_rows(paths: Sequence[str], rows: int = 8192) -> Iterator[pl.DataFrame]:
    """Frames of at most `rows` rows: id, messages, tools, and the `cluster` of each row (its id where it has none)."""
    for path in paths:
        for file in _files(Path(path)):
            parquet = pq.ParquetFile(file)
            missing = [name for name in _NEEDED if name not in parquet.schema_arrow.names]
            if missing:
                raise SourceError(f"{file} holds no conversations: it has no column `{missing[0]}`")
            names = [*_NEEDED, *(name for name in ("cluster",) if name in parquet.schema_arrow.names)]
            for batch in parquet.iter_batches(rows, columns=names):
                frame = pl.DataFrame(batch).with_columns(pl.col(name).cast(CONVERSATIONS[name]) for name in _NEEDED)
                known = pl.coalesce("cluster", "id") if "cluster" in names else pl.col("id")
                yield frame.with_columns(cluster=known)


def _files(path: Path) -> list[Path]:
    inside = path / "conversations"
    files = [path] if path.is_file() else sorted((inside if inside.is_dir() else path).rglob("*.parquet"))
    if not files:
        raise SourceError(f"{path}: neither a published version nor Parquet files; name a version's folder or a file")
    return files
