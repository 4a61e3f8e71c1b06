"""Rows that an older version or another dataset already has: new rows are held against them.

What a stage needs to know of an old row is its sketch. A build keeps the sketches of published files in the store's
index (see `sft_data/against.py`), so that old text is read once and never again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import orjson
import polars as pl
import pyarrow.parquet as pq

from sft_data.errors import SourceError
from sft_data.fingerprint import file_sha256
from sft_data.schema import CONVERSATIONS
from sft_data.stage import Decision, StageConfig
from sft_data.store.layout import MANIFEST

__all__ = [
    "OLDER",
    "ComparesOlder",
    "Gathers",
    "LooksUp",
    "Older",
    "OlderFile",
    "name_of",
    "older_files",
    "older_frames",
    "read_older",
]

OLDER = (
    "what is there already: published versions (NAME@v3 of the same store, or a version's folder), or Parquet files of "
    "conversations"
)
_NEEDED = ("id", "messages", "tools")
_ROWS = 8192


class Older(NamedTuple):
    """Sketches of some rows that are there already."""

    label: str  # the version that has them, "" where they are in none
    sketch: pl.DataFrame

    def names(self) -> pl.Series:
        """What the ledger calls the rows: NAME@FINGERPRINT:id, so that a row of another version is told from an own."""
        ids = self.sketch["id"]
        return pl.select(pl.concat_str(pl.lit(f"{self.label}:"), ids)).to_series().alias("id") if self.label else ids


@runtime_checkable
class ComparesOlder(Protocol):
    """A dataset-scope stage that holds rows against older ones."""

    @property
    def against(self) -> tuple[str, ...]: ...

    def plain(self) -> StageConfig:
        """The same stage with all settings that no sketch depends on at their defaults."""
        ...

    def sketch_older(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The sketch of older rows (columns of `older_frames`)."""
        ...

    def decide(self, sketches: Sequence[pl.DataFrame], older: Sequence[Older] | None = None) -> Decision:
        """Decide over the rows of `sketches`; those of `older` stand before them and stay. None: `read_older`."""
        ...


@runtime_checkable
class Gathers(Protocol):
    """A stage whose decision is prepared in portions: pure functions of the sketches that know nothing of each other.

    How the work is cut decides nothing: any portions that make up the whole lead to the same decision, and a decision
    without any prepares them itself, in memory.
    """

    def portions(self, rows: int, memory: int) -> Sequence[tuple[str | int, ...]]:
        """The work on so many rows, cut so that each portion takes about `memory` bytes."""
        ...

    def gather(self, sketches: Sequence[pl.DataFrame], portion: Any) -> pl.DataFrame:  # noqa: ANN401  # the stage's own
        """What a portion finds in all sketches, those of older rows first."""
        ...

    def decide(
        self,
        sketches: Sequence[pl.DataFrame],
        older: Sequence[Older] | None = None,
        gathered: Sequence[pl.DataFrame] | None = None,
    ) -> Decision:
        """Decide with what the portions found."""
        ...


@runtime_checkable
class LooksUp(Protocol):
    """A stage that also looks the candidates of each row up before it decides, some rows at a time."""

    def ranges(self, first: int, end: int) -> Sequence[tuple[int, int]]:
        """The rows to be decided on, cut into ranges; none where nothing can be looked up ahead."""
        ...

    def look_up(
        self, sketches: Sequence[pl.DataFrame], gathered: Sequence[pl.DataFrame], first: int, end: int
    ) -> pl.DataFrame:
        """What the decision needs to know of the rows from `first` to `end`."""
        ...

    def decide(
        self,
        sketches: Sequence[pl.DataFrame],
        older: Sequence[Older] | None = None,
        gathered: Sequence[pl.DataFrame] | None = None,
        ahead: Sequence[pl.DataFrame] = (),
    ) -> Decision:
        """Decide with what was looked up ahead."""
        ...


@dataclass(frozen=True)
class OlderFile:
    """A Parquet file of conversations that are there already."""

    path: Path
    sha256: str
    label: str  # see Older


def older_files(place: Path) -> list[OlderFile]:
    """The files of a version, whose manifest knows their hashes, or other Parquet files."""
    inside = place / "conversations"
    files = [place] if place.is_file() else sorted((inside if inside.is_dir() else place).rglob("*.parquet"))
    if not files:
        raise SourceError(f"{place}: neither a published version nor Parquet files; name a version's folder or a file")
    if not (place / MANIFEST).is_file():
        return [OlderFile(file, file_sha256(file), "") for file in files]
    manifest = orjson.loads((place / MANIFEST).read_bytes())
    hashes = {entry["path"]: entry["sha256"] for entry in manifest["files"]}
    label = name_of(manifest["name"], manifest["fingerprint"])
    return [OlderFile(file, hashes[file.relative_to(place).as_posix()], label) for file in files]


def name_of(dataset: str, fingerprint: str) -> str:
    """How a version is named in a ledger: by content, since its number is another one in another store."""
    return f"{dataset}@{fingerprint[:12]}"


def older_frames(file: Path) -> Iterator[pl.DataFrame]:
    """Frames of some rows each: id, messages, tools, and the `cluster` of each row (its id where it has none)."""
    parquet = pq.ParquetFile(file)
    missing = [name for name in _NEEDED if name not in parquet.schema_arrow.names]
    if missing:
        raise SourceError(f"{file} holds no conversations: it has no column `{missing[0]}`")
    names = [*_NEEDED, *(name for name in ("cluster",) if name in parquet.schema_arrow.names)]
    for batch in parquet.iter_batches(_ROWS, columns=names):
        frame = pl.DataFrame(batch).with_columns(pl.col(name).cast(CONVERSATIONS[name]) for name in _NEEDED)
        known = pl.coalesce("cluster", "id") if "cluster" in names else pl.col("id")
        yield frame.with_columns(cluster=known)


def read_older(stage: ComparesOlder) -> list[Older]:
    """Sketches made from the text itself: for a stage that runs in memory, without a store and its index."""
    files: Sequence[OlderFile] = [file for place in stage.against for file in older_files(Path(place))]
    return [Older(file.label, stage.sketch_older(frame)) for file in files for frame in older_frames(file.path)]
