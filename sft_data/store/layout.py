"""Where everything lies in a store and in a version. No other module spells these names.

STORE/
  access.json             who may do what where a server is in front; hashes of their tokens
  log.jsonl               who published, tagged, rolled back what and when; only ever appended to
  NAME/refs.json          latest and tags
  NAME/v1/ v2/ ...        published versions: never changed
  NAME/draft-<12 hex>/    built, but a gate failed
  NAME/.publish-<random>/ a publish in progress, or what a killed one left: `gc` removes it
  .cache/                 the step cache of builds
  .index/                 sketches of published rows, for stages that hold new rows against them
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa

from sft_data.schema import CONVERSATIONS, EDITS, LOSS_WEIGHTS, PACK_INDEX, REJECTIONS, SIDECAR, TOKENS

__all__ = [
    "ACCESS",
    "BUILD",
    "CACHE",
    "INDEX",
    "LOG",
    "MANIFEST",
    "NAME",
    "PARQUET",
    "REFS",
    "REPORT_HTML",
    "REPORT_JSON",
    "SPLITS",
    "STREAMS",
    "WEIGHTED",
    "arrow_batches",
    "draft_folder",
    "numbered",
    "parquet_files",
    "rows_where",
    "scan_table",
    "splits_of",
    "staging_prefix",
    "stream_files",
    "version_folder",
]

MANIFEST = "manifest.json"
BUILD = "build.json"
REPORT_JSON = "report.json"
REPORT_HTML = "report.html"
REFS = "refs.json"
LOG = "log.jsonl"
ACCESS = "access.json"
CACHE = ".cache"
INDEX = ".index"
SPLITS = ("train", "validation", "test")
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")

PACKS = pl.Schema({**TOKENS, "seq_lengths": pl.List(pl.Int32())})

# Tables in Parquet by their folder, and whether they are cut by split.
PARQUET: dict[str, tuple[pl.Schema, bool]] = {
    "conversations": (CONVERSATIONS, True),
    "rejections": (REJECTIONS, False),
    "edits": (EDITS, False),
    "sidecar": (SIDECAR, True),
    "pack_index": (PACK_INDEX, True),
}
# Tables as Arrow streams by their folder, all cut by split; LOSS_WEIGHTS stands behind `labels` where there are any.
STREAMS: dict[str, pl.Schema] = {"tokens": TOKENS, "packs": PACKS}
WEIGHTED: dict[str, pl.Schema] = {
    name: pl.Schema({**TOKENS, **LOSS_WEIGHTS, **schema}) for name, schema in STREAMS.items()
}

staging_prefix = ".publish-"


def version_folder(store: Path, name: str, number: int) -> Path:
    """Folder of a published version."""
    return store / name / f"v{number}"


def draft_folder(store: Path, name: str, fingerprint: str) -> Path:
    """Folder of a version that failed a gate."""
    return store / name / f"draft-{fingerprint[:12]}"


def numbered(folder: Path) -> int | None:
    """The number of a version's folder, None for any other folder."""
    match = re.fullmatch(r"v([1-9][0-9]{0,8})", folder.name)
    return int(match[1]) if match else None


def splits_of(folder: Path, table: str) -> list[str]:
    """Splits of a table that a version holds, in the order train, validation, test."""
    return [split for split in SPLITS if (folder / table / split).is_dir()]


def parquet_files(folder: Path, table: str, split: str | None = None) -> list[Path]:
    """A table's Parquet shards in row order: of one split, or of all splits one behind the other."""
    if not PARQUET[table][1]:
        return sorted((folder / table).glob("*.parquet"))
    wanted = splits_of(folder, table) if split is None else [split]
    return [path for name in wanted for path in sorted((folder / table / name).glob("*.parquet"))]


def scan_table(folder: Path, table: str, split: str | None = None) -> pl.LazyFrame:
    """A table of a version, lazily; with no shard, its empty frame."""
    files = parquet_files(folder, table, split)
    return pl.scan_parquet(files) if files else pl.LazyFrame(schema=PARQUET[table][0])


def rows_where(folder: Path, table: str, column: str, values: Collection[str]) -> pl.DataFrame:
    """Whole rows whose `column` is one of `values`.

    First the files are found by reading that column alone, then only those are decoded: 20 ms over a million
    conversations, where one filter over all columns takes 400.
    """
    files = parquet_files(folder, table)
    wanted = pl.Series(column, sorted(values), dtype=pl.String)
    here = pl.col(column).is_in(wanted.implode())
    if not files:
        return pl.DataFrame(schema=PARQUET[table][0])
    homes = pl.scan_parquet(files, include_file_paths="file path").select(column, "file path").filter(here).collect()
    found = [path for path in files if str(path) in set(homes["file path"])]
    return pl.scan_parquet(found or files[:1]).filter(here).collect()


def stream_files(folder: Path, table: str, split: str) -> list[Path]:
    """A split's Arrow stream shards in row order."""
    return sorted((folder / table / split).glob("*.arrow"))


def arrow_batches(path: Path) -> Iterator[pl.DataFrame]:
    """The record batches of an Arrow stream file, memory-mapped one after the other."""
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
        for batch in reader:
            frame = pl.from_arrow(batch)
            assert isinstance(frame, pl.DataFrame)  # noqa: S101 - a batch has columns, so it is a frame
            yield frame
