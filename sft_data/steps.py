"""The work of single cells: pure functions from files to files, run in worker processes.

Each takes the folder it writes into and returns what its record tells: rows in, rows kept, rejections and edits by
code. Settings arrive as frozen models, tables as paths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl

from sft_data.cells import map_arrow, write_arrow, write_batches, write_parquet
from sft_data.dedup.older import ComparesOlder, Gathers, LooksUp, Older, older_frames
from sft_data.formats.ingest import Unit, read_units
from sft_data.row_sizes import row_bytes
from sft_data.schema import EDITS, REJECTIONS, conform
from sft_data.sources.settings import Source
from sft_data.stage import DatasetStage, Decision, Outcome, ShardStage, apply_decision, run_stage

__all__ = [
    "Piece",
    "decide",
    "decided",
    "gather",
    "look_up",
    "measure",
    "read",
    "rechunk",
    "sketch",
    "sketch_older",
    "stage",
]

# What a decision's rejections hold, one row per rejected row of a shard.
_REJECTED = pl.Schema(
    {
        "row": pl.Int64(),
        "code": pl.String(),
        "detail": pl.String(),
        "twin": pl.String(),
        "score": pl.Float64(),
    }
)

# What files of a version are cut by.
_SIZES = pl.Schema({"bytes": pl.Int64(), "split": pl.String(), "tokens": pl.Int64()})


def read(folder: Path, units: Sequence[Unit], source: Source, format_name: str, shard_rows: int) -> dict[str, Any]:
    """Read some units of a source into as many shards as it takes: rows-00000.parquet, ..."""
    told = _Told()
    for number, outcome in enumerate(read_units(units, source, format_name, shard_rows)):
        _write_outcome(folder, outcome, told, f"-{number:05d}")
        told.rows_in += outcome.kept.height + outcome.rejected.height
    return told.record()


def stage(folder: Path, settings: ShardStage, shard: Path) -> dict[str, Any]:
    """Run a shard-scope stage on one shard."""
    frame = pl.read_parquet(shard)
    outcome = run_stage(settings, frame)
    told = _Told(rows_in=frame.height)
    _write_outcome(folder, outcome, told, "")
    return told.record()


def sketch(folder: Path, settings: DatasetStage, shard: Path) -> dict[str, Any]:
    """Take the slim columns that a dataset-scope stage decides on out of one shard."""
    write_arrow(settings.sketch(pl.read_parquet(shard)), folder / "sketch.arrow")
    return {}


def sketch_older(folder: Path, settings: ComparesOlder, file: Path, sha256: str) -> dict[str, Any]:
    """Sketch the rows of a published file, some thousand at a time: sketch-00000.arrow, ..."""
    for number, frame in enumerate(older_frames(file)):
        write_arrow(settings.sketch_older(frame), folder / f"sketch-{number:05d}.arrow")
    return {"of": sha256}


def gather(folder: Path, settings: Gathers, portion: tuple[str | int, ...], sketches: Sequence[Path]) -> dict[str, Any]:
    """Prepare a portion of a decision: what is found in the sketches of all rows, older ones first."""
    found = settings.gather([map_arrow(path) for path in sketches], portion)
    write_batches(found, folder / "gathered.arrow")
    return {}


def look_up(
    folder: Path, settings: LooksUp, rows: tuple[int, int], sketches: Sequence[Path], gathered: Sequence[Path]
) -> dict[str, Any]:
    """Look up the candidates of some rows in what all portions found."""
    found = settings.look_up([map_arrow(path) for path in sketches], [map_arrow(path) for path in gathered], *rows)
    write_batches(found, folder / "ahead.arrow")
    return {}


def decide(
    folder: Path,
    settings: DatasetStage,
    sketches: Sequence[Path],
    older: Sequence[tuple[str, Path]] = (),
    gathered: Sequence[Path] = (),
    ahead: Sequence[Path] = (),
) -> dict[str, Any]:
    """Decide over all sketches; write the part of each shard into a file of its own, with row numbers inside it."""
    frames = [map_arrow(path) for path in sketches]
    known = [Older(label, map_arrow(path)) for label, path in older]
    if ahead and isinstance(settings, LooksUp):
        found = [map_arrow(path) for path in gathered]
        decision = settings.decide(frames, known, found, [map_arrow(path) for path in ahead])
    elif gathered and isinstance(settings, Gathers):
        decision = settings.decide(frames, known, [map_arrow(path) for path in gathered])
    elif isinstance(settings, ComparesOlder):
        decision = settings.decide(frames, known)
    else:
        decision = settings.decide(frames)
    rejected = conform(decision.rejected, _REJECTED).sort("row")
    start = 0
    for number, frame in enumerate(frames):
        inside = rejected.filter(pl.col("row").is_between(start, start + frame.height, closed="left"))
        write_parquet(inside.with_columns(pl.col("row") - start), folder / f"rejected-{number:05d}.parquet")
        if decision.columns is not None:
            write_parquet(decision.columns.slice(start, frame.height), folder / f"columns-{number:05d}.parquet")
        start += frame.height
    return {}


def decided(folder: Path, settings: DatasetStage, shard: Path, rejected: Path, columns: Path | None) -> dict[str, Any]:
    """Apply a shard's part of a decision."""
    frame = pl.read_parquet(shard)
    decision = Decision(pl.read_parquet(rejected), None if columns is None else pl.read_parquet(columns))
    told = _Told(rows_in=frame.height)
    _write_outcome(folder, apply_decision(settings, frame, decision), told, "")
    return told.record()


@dataclass(frozen=True)
class Piece:
    """Some rows of a file: those of `split` (all where None), from `start`, `count` of them."""

    path: Path
    start: int
    count: int
    split: Path | None = None  # file whose column `split` tells each row's split
    name: str | None = None  # the split asked for

    def frame(self) -> pl.DataFrame:
        """The rows."""
        table = map_arrow(self.path) if self.path.suffix == ".arrow" else pl.read_parquet(self.path)
        whole = table.estimated_size()
        if self.split is not None:
            table = table.filter(pl.read_parquet(self.split, columns=["split"])["split"] == self.name)
        table = table.slice(self.start, self.count)
        return _alone(table) if table.estimated_size() * 2 < whole else table


def _alone(frame: pl.DataFrame) -> pl.DataFrame:
    """A copy that does not hold on to the rows beside its own: in polars a few rows keep all texts of their table."""
    copy = BytesIO()
    frame.write_ipc(copy)
    copy.seek(0)
    return pl.read_ipc(copy)


def measure(folder: Path, files: Sequence[Path]) -> dict[str, Any]:
    """The bytes of every row of some files, one behind the other, with the split and the tokens that the files tell."""
    told = [pl.DataFrame(schema=_SIZES)]
    for file in files:
        frame = pl.read_parquet(file)
        told.append(pl.DataFrame([row_bytes(frame), *(frame[name] for name in ("split", "tokens") if name in frame)]))
    write_arrow(pl.concat(told, how="diagonal_relaxed").select(*_SIZES), folder / "sizes.arrow")
    return {}


def rechunk(folder: Path, pieces: Sequence[Piece], name: str, weighted: bool) -> dict[str, Any]:  # noqa: FBT001
    """Put pieces of files one behind the other into one file, whose bytes do not depend on how they were cut before.

    `weighted` asks for the column `loss_weights`, which working shards have only where they hold such a weight.
    """
    from sft_data.pack.shards import with_weights, write_stream

    frames = [piece.frame() for piece in pieces]
    frame = pl.concat([with_weights(frame) for frame in frames] if weighted else frames)
    if name.endswith(".arrow"):
        write_stream(folder / name, frame)
    else:
        write_parquet(frame, folder / name)
    return {}


@dataclass
class _Told:
    """Counts of a cell's record."""

    rows_in: int = 0
    rows_kept: int = 0

    def __post_init__(self) -> None:
        self.rejected: dict[str, int] = {}
        self.edited: dict[str, int] = {}

    def add(self, outcome: Outcome) -> None:
        """Count an outcome."""
        self.rows_kept += outcome.kept.height
        for counts, ledger in ((self.rejected, outcome.rejected), (self.edited, outcome.edited)):
            for code, number in ledger["code"].value_counts().iter_rows():
                counts[code] = counts.get(code, 0) + number

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "rows_in": self.rows_in,
            "rows_kept": self.rows_kept,
            "rejected": self.rejected,
            "edited": self.edited,
        }


def _write_outcome(folder: Path, outcome: Outcome, told: _Told, number: str) -> None:
    told.add(outcome)
    write_parquet(outcome.kept, folder / f"rows{number}.parquet")
    if outcome.rejected.height:
        write_parquet(conform(outcome.rejected, REJECTIONS), folder / f"rejected{number}.parquet")
    if outcome.edited.height:
        write_parquet(conform(outcome.edited, EDITS), folder / f"edited{number}.parquet")
    for name, table in outcome.tables.items():
        write = write_arrow if name == "tokens" else write_parquet
        write(table, folder / f"{name}{number}{'.arrow' if name == 'tokens' else '.parquet'}")
