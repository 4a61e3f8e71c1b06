"""A dry run: the first rows of every source through all stages in memory, and the funnel they leave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from sft_data.against import placed
from sft_data.build import curate
from sft_data.errors import NoSuchRowsError
from sft_data.formats.ingest import read_unit
from sft_data.pipeline import Pipeline
from sft_data.plan import Reading, plan_reading
from sft_data.schema import CONVERSATIONS, empty
from sft_data.stage import DatasetStage, ShardStage, StageConfig
from sft_data.store.place import open_store

__all__ = ["DryRun", "dry_run"]

_LOOKS_ALIKE = ("exact-dedup", "near-dedup", "semantic-dedup", "decontaminate")


class DryRun(BaseModel):
    """What `check` prints."""

    model_config = ConfigDict(frozen=True)

    ok: bool
    errors: list[str] = []
    sources: list[dict[str, Any]] = Field(default=[], description="name, format, files and bytes of each source")
    funnel: list[dict[str, Any]] = Field(default=[], description="rows in, kept and rejected by code of each step")
    notes: list[str] = Field(
        default=[], description="what the first rows could not tell, and what the order of the stages costs"
    )


def dry_run(pipeline: Pipeline, rows: int) -> DryRun:
    """Send the first `rows` rows of every source through the pipeline; nothing is written."""
    pipeline = placed(pipeline, open_store(pipeline.store))
    readings = [plan_reading(source) for source in pipeline.sources]
    frames, funnel = [], []
    for reading in readings:
        frame, line = _first_rows(reading, rows)
        frames.append(frame)
        funnel.append(line)
    frame, notes = pl.concat(frames), []
    whole = all(line["rows_in"] < rows for line in funnel)
    stages: list[ShardStage | DatasetStage] = [*pipeline.stages, pipeline.split]
    if pipeline.tokenize is not None:
        stages.append(pipeline.tokenize)
    for stage in stages:
        try:
            outcome = curate(frame, [stage])
        except NoSuchRowsError as error:
            if whole:
                raise
            notes += [f"{error.where}, left out here: among these rows {problem}" for problem in error.problems]
            continue
        funnel.append(_line(stage.kind, frame.height, outcome.kept.height, outcome.rejected, outcome.edited))
        frame = outcome.kept
    return DryRun(
        ok=True,
        sources=[
            {
                "name": reading.source.name,
                "format": reading.format,
                "files": len(reading.files),
                "bytes": sum(file.size for file in reading.files),
            }
            for reading in readings
        ],
        funnel=funnel,
        notes=[*notes, *_order_notes(pipeline.stages)],
    )


def _order_notes(stages: Sequence[StageConfig]) -> list[str]:
    """Orders that are allowed, but in which a later stage undoes a part of what an earlier one was put there for."""
    notes = []
    for number, stage in enumerate(stages):
        later = stages[number + 1 :]
        # An edit's codes tell of edits; what edits no text has codes for nothing but rejections.
        removing = [each.kind for each in later if each.codes and not each.edits and each.kind not in ("mix", "select")]
        editing = [each.kind for each in later if each.edits]
        selecting = [each.kind for each in later if each.kind == "select"]
        if stage.kind == "mix" and (told := _listed([*removing, *selecting])):
            notes.append(
                f"mix stands before {told}: its shares hold before rows go there, not in the result; put it last"
            )
        if stage.kind == "select" and removing:
            notes.append(f"select stands before {_listed(removing)}: a part of its budget goes to rows that go there")
        if stage.kind in _LOOKS_ALIKE and editing:
            notes.append(
                f"{_listed(editing)} behind {stage.kind}: rows that are alike only after an edit are not found; "
                f"put {stage.kind} behind it"
            )
    return notes


def _listed(kinds: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(kinds))


def _first_rows(reading: Reading, rows: int) -> tuple[pl.DataFrame, dict[str, Any]]:
    kept, rejected, left = [empty(CONVERSATIONS)], [], rows
    for unit in reading.units:
        for outcome in read_unit(unit, reading.source, reading.format, shard_rows=max(left, 1)):
            kept.append(outcome.kept.head(left))
            rejected.append(outcome.rejected.select("code").head(left - kept[-1].height))
            left -= kept[-1].height + rejected[-1].height
            if left <= 0:
                break
        if left <= 0:
            break
    frame = pl.concat(kept)
    ledger = pl.concat(rejected) if rejected else pl.DataFrame(schema={"code": pl.String})
    line = _line(f"read:{reading.source.name}", frame.height + ledger.height, frame.height, ledger, None)
    return frame, line


def _line(name: str, rows_in: int, kept: int, rejected: pl.DataFrame, edited: pl.DataFrame | None) -> dict[str, Any]:
    return {
        "step": name,
        "rows_in": rows_in,
        "rows_kept": kept,
        "rejected": _counts(rejected),
        "edited": {} if edited is None else _counts(edited),
    }


def _counts(ledger: pl.DataFrame) -> dict[str, int]:
    return dict(ledger.group_by("code").len().sort("code").iter_rows())
