"""The build: run the steps of a plan, reuse what is finished, publish the version.

    plan(pipeline) -> steps;  run_step(step, work, above) -> StepResult;  build(pipeline, call=run_step)

`call` runs each step: plainly here, as a Prefect task in `flows`. `curate` does the same to a frame in memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from sft_data import steps as work_of
from sft_data.against import older_sketches, pinned
from sft_data.cells import Cell, FileRef, Task, find_cell, step_record, write_step_record
from sft_data.dedup.older import Gathers, LooksUp
from sft_data.disk import at_work, disk_error
from sft_data.engine import Engine
from sft_data.errors import StageError
from sft_data.fingerprint import digest, library_versions
from sft_data.formats.ingest import REVISION, Unit
from sft_data.pipeline import Pipeline
from sft_data.plan import Step, plan
from sft_data.reuse import Outlook, outlook, remember
from sft_data.schema import EDITS, REJECTIONS, empty
from sft_data.sources.groups import grouped
from sft_data.sources.settings import NOT_CONTENT
from sft_data.stage import DatasetStage, Outcome, ShardStage, StageConfig, run_dataset_stage, run_stage
from sft_data.store.layout import CACHE, INDEX
from sft_data.store.place import open_store
from sft_data.store.read import find_by_fingerprint

__all__ = [
    "MEMORY",
    "BuildResult",
    "Shard",
    "StepResult",
    "Watch",
    "Work",
    "build",
    "curate",
    "forecast",
    "plan",
    "run_step",
]

# Rows of a working shard: 8,192 conversations of 1-2 kB are 10-20 MB, small beside what a process needs anyway.
SHARD_ROWS = 8_192
# Below this many rows in a step, starting processes costs more than they save.
LIGHT_ROWS = 4_096
# Memory of a portion of a dataset-wide decision: what a worker has at hand on any machine.
MEMORY = 512 << 20


@dataclass(frozen=True)
class Shard:
    """A working shard: its rows, and the tables that lie beside them."""

    rows: FileRef
    tables: Mapping[str, FileRef] = field(default_factory=dict)


@dataclass(frozen=True)
class StepResult:
    """What a finished step left: shards, ledgers, final files, counts. Holds paths and numbers, never rows."""

    name: str
    fingerprint: str
    shards: tuple[Shard, ...] = ()
    rejected: tuple[FileRef, ...] = ()
    edited: tuple[FileRef, ...] = ()
    files: Mapping[str, FileRef] = field(default_factory=dict)  # path in the version -> file
    rows_in: int = 0
    rows_kept: int = 0
    rejected_by: Mapping[str, int] = field(default_factory=dict)
    edited_by: Mapping[str, int] = field(default_factory=dict)
    told: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    reused: bool = False
    pieces: int = 0  # cells of a step that was done again
    pieces_reused: int = 0  # those of them that were there already
    why: tuple[str, ...] = ()  # why it was done again


class Watch(Protocol):
    """Is told how a build goes on; the command line draws a progress bar from it."""

    def begin(self, step: Step, cells: int) -> None: ...

    def advance(self) -> None: ...

    def finish(self, result: StepResult) -> None: ...


class Silence:
    """A watch that says nothing."""

    def begin(self, step: Step, cells: int) -> None: ...

    def advance(self) -> None: ...

    def finish(self, result: StepResult) -> None: ...


@dataclass(frozen=True)
class Work:
    """Where and how steps run: nothing in here decides a byte of the outcome."""

    store: Path
    engine: Engine
    watch: Watch = field(default_factory=Silence)
    shard_rows: int = SHARD_ROWS
    memory: int = MEMORY  # bytes that a portion of a dataset-wide decision may take
    why: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # why steps are done again, by step

    @property
    def cache(self) -> Path:
        """Folder of the step cache."""
        return self.store / CACHE


class BuildResult(BaseModel):
    """What `build` prints as JSON."""

    model_config = ConfigDict(frozen=True)

    version: str = Field(description="NAME@vN")
    fingerprint: str
    path: str = Field(description="the version's folder")
    rows_in: int
    rows_kept: int
    rows_rejected: int
    rejected: dict[str, int] = Field(description="rows by rejection code")
    tokens: int
    trained_tokens: int
    packs: int
    pack_fill: float | None = Field(description="tokens / pack slots over all splits; null without packs")
    seconds: float
    stages: list[dict[str, Any]] = Field(description="seconds, rows and reuse of each step, and why it was done again")
    reused: bool = Field(description="whether the version existed already")
    report: str = Field(description="the HTML report")


Call = Callable[[Step, Work, Sequence[StepResult]], StepResult]


def run_step(step: Step, work: Work, above: Sequence[StepResult]) -> StepResult:
    """Run one step on the results of the steps above it, or find it finished."""
    began = time.perf_counter()
    if step.kind == "publish":
        from sft_data.publishing import publish_version

        work.watch.begin(step, 1)
        result = publish_version(step, work, above)
    else:
        record = step_record(work.cache, step.fingerprint)
        result = _result(step, record) if record else _make(step, work, above)
    why = () if result.reused else work.why.get(step.name, ())
    timed = replace(result, seconds=round(time.perf_counter() - began, 3), why=why)
    work.watch.finish(timed)
    return timed


def build(
    pipeline: Pipeline,
    store: Path | str | None = None,
    *,
    engine: Engine | None = None,
    call: Call = run_step,
    watch: Watch | None = None,
    shard_rows: int = SHARD_ROWS,
    memory: int = MEMORY,
) -> BuildResult:
    """Curate and publish a version of `pipeline`'s dataset.

    `store` defaults to the pipeline's, then to ./store; `engine` to this process alone. Finished steps and shards are
    not redone. `memory` is what a portion of a dataset-wide decision may take, in bytes: less means more portions, and
    the same version. Raises GateError where the version fails a gate (it is kept as a draft).
    """
    from sft_data.engine import LocalEngine

    began = time.perf_counter()
    work = Work(
        store=open_store(store or pipeline.store, write=True),
        engine=engine or LocalEngine(workers=1),
        watch=watch or Silence(),
        shard_rows=shard_rows,
        memory=memory,
    )
    results: dict[str, StepResult] = {}
    with _on_disk(work.cache):
        pipeline = pinned(pipeline, work.store)
        steps = plan(pipeline)
    with _on_disk(work.cache), at_work(work.cache):
        work = replace(work, why=outlook(work.cache, pipeline.name, steps).reasons())
        remember(work.cache, pipeline.name, steps)
        for step in steps:
            results[step.name] = call(step, work, [results[name] for name in step.inputs])
    return _summary(list(results.values()), time.perf_counter() - began)


def forecast(pipeline: Pipeline, store: Path | str | None = None) -> Outlook:
    """What `build` would reuse and what it would do again, and why. Looks, and changes nothing."""
    place = open_store(store or pipeline.store)
    with _on_disk(place / CACHE):
        pipeline = pinned(pipeline, place)
        steps = plan(pipeline)
        known = find_by_fingerprint(place, pipeline.name, steps[-1].fingerprint)
        return outlook(place / CACHE, pipeline.name, steps, known.version if known else None)


def curate(frame: pl.DataFrame, stages: Iterable[ShardStage | DatasetStage]) -> Outcome:
    """Run stages over a frame of CONVERSATIONS in memory, as if it were the whole dataset.

    Takes anything with a `kind` and an `apply` (or `sketch` and `decide`); no registration is needed.
    """
    rejected, edited = [empty(REJECTIONS)], [empty(EDITS)]
    tables: dict[str, pl.DataFrame] = {}
    for stage in stages:
        outcome = run_dataset_stage(stage, frame) if isinstance(stage, DatasetStage) else run_stage(stage, frame)
        frame = outcome.kept
        rejected.append(outcome.rejected)
        edited.append(outcome.edited)
        tables |= outcome.tables
    return Outcome(frame, pl.concat(rejected), pl.concat(edited), tables)


@contextmanager
def _on_disk(cache: Path) -> Iterator[None]:
    """Turn what the disk does to a build into an error that says what to do."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, cache) or error from error


def _make(step: Step, work: Work, above: Sequence[StepResult]) -> StepResult:
    from sft_data import assemble

    if step.kind == "read":
        cells = _read(step, work)
    elif step.kind == "write":
        return _finish(step, work, [], assemble.write(step, work, above))
    elif step.kind == "pack":
        return _finish(step, work, [], assemble.pack(step, work, above))
    elif _stage(step).scope == "dataset":
        cells = _decide(step, work, above)
    else:
        cells = _map(step, work, above)
    result = _finish(step, work, cells, {})
    _check_flow(step, result, above)
    return result


def _read(step: Step, work: Work) -> list[Cell]:
    reading = step.reading
    if reading is None:
        raise StageError(f"step {step.name} has nothing to read")
    # By path: a unit's name is that of its file, or of a member inside it.
    hashes = {file.path: sha for file, sha in zip(reading.files, reading.hashes, strict=True)}
    stamps = {file.path: (file.path, stamp) for file, stamp in zip(reading.files, reading.stamps, strict=True)}
    settings = reading.source.model_dump(mode="json", exclude=set(NOT_CONTENT))
    identity = [REVISION, library_versions(("orjson",)), settings, reading.format, work.shard_rows]
    tasks = [
        Task(
            digest("read", identity, [(hashes[unit.path], _span(unit)) for unit in group]),
            f"{step.name}, {_names(group)}",
            work_of.read,
            (group, reading.source, reading.format, work.shard_rows),
            unchanged=tuple({unit.path: stamps[unit.path] for unit in group}.values()),
            cost=sum(unit.size for unit in group),
        )
        for group in grouped(reading.units)
    ]
    return _run(step, work, tasks, light=sum(file.size for file in reading.files) < 4_000_000)


def _names(group: Sequence[Unit]) -> str:
    return group[0].name if len(group) == 1 else f"{group[0].name} to {group[-1].name}"


def _span(unit: Unit) -> dict[str, Any]:
    """Which part of its file a unit is; where the file lies is left out."""
    return {name: value for name, value in asdict(unit).items() if name != "path"}


def _map(step: Step, work: Work, above: Sequence[StepResult]) -> list[Cell]:
    shards = _shards(above)
    tasks = [
        Task(
            digest("stage", step.identity, shard.rows.sha256),
            f"{step.name}, shard {number}",
            work_of.stage,
            (step.stage, shard.rows.path(work.cache)),
            inputs=(shard.rows,),
            unchanged=step.unchanged,
            cost=shard.rows.bytes,
        )
        for number, shard in enumerate(shards)
    ]
    return _run(step, work, tasks, light=_is_light(shards))


def _decide(step: Step, work: Work, above: Sequence[StepResult]) -> list[Cell]:
    stage, shards, cache = _stage(step), _shards(above), work.cache
    if not shards:  # all sources are empty files, with a format that is named: nothing to decide on
        return []
    identity, light = step.identity, _is_light(shards)
    older = [(file.label, ref) for file, cell in older_sketches(step, work) for _, ref in sorted(cell.files.items())]
    before = sum(ref.rows for _, ref in older)
    rows = before + sum(shard.rows.rows for shard in shards)
    portions = stage.portions(rows, work.memory) if isinstance(stage, Gathers) and rows >= LIGHT_ROWS else ()
    ranges = stage.ranges(before, rows) if isinstance(stage, LooksUp) and portions else ()
    sketches = _run(
        step,
        work,
        [
            Task(
                digest("sketch", identity, shard.rows.sha256),
                f"{step.name}, sketch of shard {number}",
                work_of.sketch,
                (stage, shard.rows.path(cache)),
                inputs=(shard.rows,),
                unchanged=step.unchanged,
                cost=shard.rows.bytes,
            )
            for number, shard in enumerate(shards)
        ],
        light=light,
        total=2 * len(shards) + 1 + len(portions) + len(ranges),
    )
    slim = [cell.files["sketch.arrow"] for cell in sketches]
    given = ([ref.sha256 for ref in slim], [(label, ref.sha256) for label, ref in older])
    known = [(label, ref.path(work.store / INDEX)) for label, ref in older]
    paths = [ref.path(cache) for ref in slim]
    key = digest("decide", identity, *given)  # it knows nothing of the portions: they decide nothing
    if find_cell(cache, key) is not None:
        for _ in (*portions, *ranges):
            work.watch.advance()
        portions = ranges = ()
    prepared = work.engine.run(
        cache,
        [
            Task(
                digest("gather", identity, given, list(portion)),
                f"{step.name}, portion {number}",
                work_of.gather,
                (stage, portion, [*(path for _, path in known), *paths]),
                inputs=tuple(slim),
                unchanged=step.unchanged,
            )
            for number, portion in enumerate(portions)
        ],
        lambda _: work.watch.advance(),
    )
    found = [cell.files["gathered.arrow"] for cell in prepared]
    looked_up = work.engine.run(
        cache,
        [
            Task(
                digest("look up", identity, given, list(one)),
                f"{step.name}, rows from {one[0]}",
                work_of.look_up,
                (stage, one, [*(path for _, path in known), *paths], [ref.path(cache) for ref in found]),
                inputs=(*slim, *found),
                unchanged=step.unchanged,
            )
            for one in ranges
        ],
        lambda _: work.watch.advance(),
    )
    ahead = [cell.files["ahead.arrow"] for cell in looked_up]
    decision = Task(
        key,
        f"{step.name}, decision",
        work_of.decide,
        (stage, paths, known, [ref.path(cache) for ref in found], [ref.path(cache) for ref in ahead]),
        inputs=(*slim, *found, *ahead),
        unchanged=step.unchanged,
    )
    [verdict] = work.engine.run(cache, [decision], lambda _: work.watch.advance(), light=True)
    tasks = []
    for number, shard in enumerate(shards):
        rejected = verdict.files[f"rejected-{number:05d}.parquet"]
        columns = verdict.files.get(f"columns-{number:05d}.parquet")
        parts = [shard.rows.sha256, rejected.sha256, columns.sha256 if columns else None]
        places = (shard.rows.path(cache), rejected.path(cache), columns.path(cache) if columns else None)
        key = digest("decided", identity, parts)
        inputs = (shard.rows, rejected, *((columns,) if columns else ()))
        label = f"{step.name}, shard {number}"
        tasks.append(Task(key, label, work_of.decided, (stage, *places), inputs=inputs, cost=shard.rows.bytes))
    return work.engine.run(cache, tasks, lambda _: work.watch.advance(), light=light)


def _run(step: Step, work: Work, tasks: Sequence[Task], *, light: bool, total: int | None = None) -> list[Cell]:
    work.watch.begin(step, len(tasks) if total is None else total)
    return work.engine.run(work.cache, tasks, lambda _: work.watch.advance(), light=light)


def _stage(step: Step) -> StageConfig:
    if step.stage is None:
        raise StageError(f"step {step.name} has no stage")
    return step.stage


def _shards(above: Sequence[StepResult]) -> list[Shard]:
    return [shard for result in above for shard in result.shards]


def _is_light(shards: Sequence[Shard]) -> bool:
    return sum(shard.rows.rows for shard in shards) < LIGHT_ROWS


def _finish(step: Step, work: Work, cells: Sequence[Cell], files: Mapping[str, FileRef]) -> StepResult:
    """Write the step's record, last of all, and read it back as its result."""
    record = {
        "cells": sorted({cell.key for cell in cells} | {ref.key for ref in files.values()}),
        "shards": [_shard_record(cell, name) for cell in cells for name in sorted(cell.files) if name[:4] == "rows"],
        "rejected": [_ref(cell.files[n]) for cell in cells for n in sorted(cell.files) if n.startswith("rejected")],
        "edited": [_ref(cell.files[n]) for cell in cells for n in sorted(cell.files) if n.startswith("edited")],
        "files": {path: _ref(ref) for path, ref in files.items()},
        "rows_in": sum(cell.told.get("rows_in", 0) for cell in cells),
        "rows_kept": sum(cell.told.get("rows_kept", 0) for cell in cells),
        "rejected_by": _added(cell.told.get("rejected", {}) for cell in cells),
        "edited_by": _added(cell.told.get("edited", {}) for cell in cells),
    }
    write_step_record(work.cache, step.fingerprint, record)
    found = sum(not cell.fresh for cell in cells)
    return replace(_result(step, record, reused=False), pieces=len(cells), pieces_reused=found)


def _shard_record(cell: Cell, name: str) -> dict[str, Any]:
    suffix = name.removeprefix("rows").removesuffix(".parquet")
    tables = {
        table: _ref(cell.files[file])
        for table, file in (("tokens", f"tokens{suffix}.arrow"), ("sidecar", f"sidecar{suffix}.parquet"))
        if file in cell.files
    }
    return {"rows": _ref(cell.files[name]), "tables": tables}


def _ref(ref: FileRef) -> dict[str, Any]:
    return {name: value for name, value in ref.__dict__.items() if name != "made"}


def _result(step: Step, record: Mapping[str, Any], *, reused: bool = True) -> StepResult:
    return StepResult(
        name=step.name,
        fingerprint=step.fingerprint,
        shards=tuple(
            Shard(FileRef(**shard["rows"]), {name: FileRef(**ref) for name, ref in shard["tables"].items()})
            for shard in record["shards"]
        ),
        rejected=tuple(FileRef(**ref) for ref in record["rejected"]),
        edited=tuple(FileRef(**ref) for ref in record["edited"]),
        files={path: FileRef(**ref) for path, ref in record["files"].items()},
        rows_in=record["rows_in"],
        rows_kept=record["rows_kept"],
        rejected_by=record["rejected_by"],
        edited_by=record["edited_by"],
        reused=reused,
    )


def _added(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for each in counts:
        for code, number in each.items():
            total[code] = total.get(code, 0) + number
    return dict(sorted(total.items()))


def _check_flow(step: Step, result: StepResult, above: Sequence[StepResult]) -> None:
    """Rows in are the rows that the steps above kept, and every one was kept or rejected."""
    arrived = result.rows_in if step.kind == "read" else sum(r.rows_kept for r in above)
    left = result.rows_kept + sum(result.rejected_by.values())
    if not arrived == result.rows_in == left:
        raise StageError(f"step {step.name}: {arrived} rows arrived, {result.rows_in} were seen, {left} left")


def _summary(results: Sequence[StepResult], seconds: float) -> BuildResult:
    told = results[-1].told
    stages = [
        {
            "step": result.name,
            "seconds": result.seconds,
            "reused": result.reused,
            "pieces": result.pieces,
            "pieces_reused": result.pieces_reused,
            "why": list(result.why),
            "rows_in": result.rows_in,
            "rows_kept": result.rows_kept,
            "rejected": dict(result.rejected_by),
        }
        for result in results
    ]
    return BuildResult(**told, seconds=round(seconds, 3), stages=stages)
