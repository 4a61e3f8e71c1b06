"""What `against` names, and the index: sketches of published rows, kept in the store.

    against: [chats@v3, ../other/rows.parquet]

A version is pinned to its fingerprint when a build is planned, so that a pipeline against `chats` is another one when
`chats` has a new version. The sketches of each published file lie in STORE/.index, in cells named by the content of the
file and by the settings that decide a sketch: they are made when a version is first held against (its text is read
then, on all workers, and never again), serve every later pipeline and version that has the same file, are checked by
`verify` and dropped by `gc` when no version has the file any more. An index may be deleted at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sft_data import steps as work_of
from sft_data.cells import Cell, Task
from sft_data.dedup.older import ComparesOlder, OlderFile, older_files
from sft_data.errors import ConfigError, StoreError
from sft_data.fingerprint import digest, stage_identity, stamp
from sft_data.pipeline import Pipeline
from sft_data.stage import StageConfig
from sft_data.store.layout import INDEX
from sft_data.store.place import find_version
from sft_data.store.read import resolve

if TYPE_CHECKING:
    from sft_data.build import Work
    from sft_data.plan import Step

__all__ = ["older_sketches", "parents", "pinned", "placed"]


def pinned(pipeline: Pipeline, store: Path) -> Pipeline:
    """The pipeline with every version that a stage holds rows against named by its fingerprint.

    Raises ConfigError with all that is neither a path nor a version.
    """
    return _renamed(pipeline, lambda name: _pin(store, name))


def placed(pipeline: Pipeline, store: Path) -> Pipeline:
    """The pipeline with every such version named by its folder: for a dry run in memory."""
    return _renamed(pipeline, lambda name: str(_place(store, name)))


def _renamed(pipeline: Pipeline, rename: Callable[[str], str]) -> Pipeline:
    stages, problems = [], []
    for number, stage in enumerate(pipeline.stages):
        names = []
        for name in stage.against if isinstance(stage, ComparesOlder) else ():
            try:
                names.append(rename(name))
            except StoreError as error:
                problems.append(f"stages.{number}: `{stage.kind}` against {name!r}: no such file or folder; {error}")
        stages.append(stage.model_copy(update={"against": tuple(names)}) if names else stage)
    if problems:
        raise ConfigError(f"pipeline {pipeline.name}", problems)
    return pipeline.model_copy(update={"stages": tuple(stages)})


def _pin(store: Path, name: str) -> str:
    if Path(name).exists():
        return name
    found = resolve(store, name)
    return f"{found.name}@{found.manifest.fingerprint}"


def _place(store: Path, name: str) -> Path:
    return Path(name) if Path(name).exists() else find_version(store, name).folder


def parents(pipeline: Pipeline) -> list[str]:
    """Fingerprints of the versions that a pinned pipeline holds its rows against."""
    names = [name for stage in pipeline.stages if isinstance(stage, ComparesOlder) for name in stage.against]
    return list(dict.fromkeys(name.partition("@")[2] for name in names if "@" in name and not Path(name).exists()))


def older_sketches(step: Step, work: Work) -> list[tuple[OlderFile, Cell]]:
    """The index cells of all files that the step's stage holds rows against; those that are not there yet are made."""
    stage = step.stage
    if stage is None or not isinstance(stage, ComparesOlder):
        return []
    files = [file for name in stage.against for file in older_files(_place(work.store, name))]
    if not files:
        return []
    cells = work.engine.run(
        work.store / INDEX, list(_tasks(step.name, stage.plain(), files)), lambda _: None, light=len(files) == 1
    )
    return list(zip(files, cells, strict=True))


def _tasks(name: str, plain: StageConfig, files: list[OlderFile]) -> Iterator[Task]:
    identity = stage_identity(plain)
    for file in files:
        yield Task(
            digest("older", identity, file.sha256),
            f"{name}, index of {file.path}",
            work_of.sketch_older,
            (plain, file.path, file.sha256),
            unchanged=((file.path.absolute(), stamp(file.path)),),
            cost=file.path.stat().st_size,
        )
