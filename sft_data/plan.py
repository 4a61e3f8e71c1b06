"""What will be done: a pipeline as a list of steps, each with the fingerprint of all that decides its outcome."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sft_data.fingerprint import Fetches, Stamp, digest, library_versions, stage_identity, stage_stamps, stamp
from sft_data.formats import detect
from sft_data.formats.ingest import REVISION, Unit, units_of
from sft_data.pipeline import Pipeline
from sft_data.sources.files import SourceFile, find_files
from sft_data.sources.settings import NOT_CONTENT, Source
from sft_data.stage import StageConfig
from sft_data.store.manifest import InputFile

__all__ = ["Reading", "Step", "plan", "plan_reading"]

# Bump when the layout of the published files changes: it is part of every version's fingerprint.
LAYOUT = 3


@dataclass(frozen=True)
class Reading:
    """A source, resolved: its files, its format, and the units in which it is read."""

    source: Source
    format: str
    files: tuple[SourceFile, ...]
    hashes: tuple[str, ...]  # SHA-256 of each file
    units: tuple[Unit, ...]
    stamps: tuple[Stamp, ...]  # size and time of change of each file before it was hashed

    def inputs(self) -> list[InputFile]:
        """For the manifest."""
        return [
            InputFile(source=self.source.name, file=file.name, sha256=sha, bytes=file.size, origin=file.origin)
            for file, sha in zip(self.files, self.hashes, strict=True)
        ]


@dataclass(frozen=True)
class Step:
    """One step: what it does, on the results of which steps, and its identity."""

    name: str  # unique in the plan: "read:alpaca", "02:near-dedup", "tokenize"
    kind: str  # "read", "write", "pack", "publish", or a stage's kind
    fingerprint: str
    inputs: tuple[str, ...]  # names of the steps whose results it takes
    identity: Mapping[str, Any] = field(default_factory=dict)  # what decides its outcome, besides its input
    unchanged: tuple[tuple[Path, Stamp], ...] = ()  # files that settings name, as they were when they were hashed
    reading: Reading | None = None
    stage: StageConfig | None = None
    pipeline: Pipeline | None = None
    readings: tuple[Reading, ...] = ()  # for the manifest


def plan(pipeline: Pipeline) -> list[Step]:
    """The steps in the order in which the data flows. Looks at the input files (hashes, formats), reads no row."""
    stages = tuple(stage.fetched() if isinstance(stage, Fetches) else stage for stage in pipeline.stages)
    pipeline = pipeline.model_copy(update={"stages": stages})
    readings = tuple(plan_reading(source) for source in pipeline.sources)
    steps = [_reading_step(reading) for reading in readings]
    last = tuple(step.name for step in steps)
    staged: list[tuple[str, StageConfig]] = [
        (f"{number:02d}:{stage.kind}", stage) for number, stage in enumerate(pipeline.stages, start=1)
    ]
    staged.append(("split", pipeline.split))
    if pipeline.tokenize is not None:
        staged.append(("tokenize", pipeline.tokenize))
    for name, stage in staged:
        stamps = stage_stamps(stage)
        made = _step(name, stage.kind, steps, last, stage_identity(stage), stage=stage)
        steps.append(replace(made, unchanged=stamps))
        last = (name,)
    everything = tuple(step.name for step in steps)
    identity: dict[str, Any] = {"layout": LAYOUT, **_library("pyarrow")}
    steps.append(_step("write", "write", steps, everything, identity, pipeline=pipeline))
    if pipeline.pack is not None:
        weights = {source.name: source.weight for source in pipeline.sources}
        identity = {"layout": LAYOUT, "settings": pipeline.pack.model_dump(mode="json"), "weights": weights}
        identity |= _library("numpy", "pyarrow")
        steps.append(_step("pack", "pack", steps, ("write",), identity, pipeline=pipeline))
    everything = tuple(step.name for step in steps)
    publish = _step("publish", "publish", steps, everything, {}, pipeline=pipeline)
    return [*steps, replace(publish, readings=readings)]


def plan_reading(source: Source) -> Reading:
    """Find a source's files and settle its format."""
    files = find_files(source)
    name = source.format if source.format != "auto" else detect.detect(source, files).format
    stamps = tuple(stamp(file.path) for file in files)
    hashes = tuple(file.sha256() for file in files)
    return Reading(source, name, tuple(files), hashes, tuple(units_of(source, files, name)), stamps)


def _reading_step(reading: Reading) -> Step:
    settings = reading.source.model_dump(mode="json", exclude=set(NOT_CONTENT)) | {"format": reading.format}
    files = [[file.name, sha] for file, sha in zip(reading.files, reading.hashes, strict=True)]
    libraries = library_versions(("orjson",))
    fingerprint = digest("read", REVISION, settings, files, libraries)
    identity = {"revision": REVISION, "settings": settings, "files": files, "libraries": libraries}
    return Step(f"read:{reading.source.name}", "read", fingerprint, (), identity=identity, reading=reading)


def _step(
    name: str,
    kind: str,
    steps: Sequence[Step],
    inputs: tuple[str, ...],
    identity: Mapping[str, Any],
    *,
    stage: StageConfig | None = None,
    pipeline: Pipeline | None = None,
) -> Step:
    above = [step.fingerprint for step in steps if step.name in inputs]
    return Step(name, kind, digest(kind, identity, above), inputs, identity=identity, stage=stage, pipeline=pipeline)


def _library(*names: str) -> dict[str, Any]:
    return {"libraries": library_versions(names)}
