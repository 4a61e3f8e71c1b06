"""One flow: build and publish a pipeline's version, then train on it where the pipeline says so.

    python -m flows.curate pipelines/quickstart.yaml        # the same as: sft-data run pipelines/quickstart.yaml

Each step of the plan is one task run. A task gets paths and settings, never rows; the step cache of the store is the
only cache, so results are neither hashed nor persisted by Prefect.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event
from prefect.logging import get_logger

from sft_data.build import MEMORY, StepResult, Work, build, run_step
from sft_data.engine import open_engine
from sft_data.errors import SftDataError
from sft_data.pipeline import load_pipeline
from sft_data.plan import Step
from sft_data.progress import line_of
from sft_data.store.read import load_manifest
from sft_data.train.config import load_train_config
from sft_data.train.run import run_folder, train

__all__ = ["PUBLISHED", "curate", "dataset_resource", "run_step_task", "train_task"]

PUBLISHED = "sft-data.version.published"  # the event of a new version, for automations and `sft-data deploy --after`


def dataset_resource(name: str) -> str:
    """What the event is about: all versions of a dataset."""
    return f"sft-data.dataset.{name}"


class _Plain(logging.Filter):
    """Errors that a user can mend say so in their message: their traceback is left out of the log."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], SftDataError):
            record.exc_info = None
        return True


for _name in ("flow_runs", "task_runs"):
    get_logger(_name).addFilter(_Plain())


@task(task_run_name="{step.name}", cache_policy=NO_CACHE, persist_result=False)
def run_step_task(step: Step, work: Work, above: Sequence[StepResult]) -> StepResult:
    """One step of the plan."""
    result = run_step(step, work, above)
    get_run_logger().info("%s", line_of(result))
    return result


@task(task_run_name="train", cache_policy=NO_CACHE, persist_result=False)
def train_task(config: str, version: str, runs: str) -> dict[str, Any]:
    """The training stage on a published version."""
    settings = load_train_config(Path(config))
    folder = run_folder(settings, load_manifest(Path(version)), base=Path(runs))
    return train(settings, Path(version), folder, progress=get_run_logger().info).model_dump(mode="json")


@flow(name="sft-data", persist_result=False)
def curate(
    pipeline: str,
    store: str | None = None,
    workers: int = 1,
    overrides: list[str] | None = None,
    runs: str = "runs",
    engine: str = "local",
    address: str | None = None,
    memory: int = MEMORY,
) -> dict[str, Any]:
    """Build `pipeline`, publish the version, train on it; returns what `sft-data run --json` prints."""
    settings = load_pipeline(Path(pipeline), overrides or [])
    with open_engine(engine, workers, address) as opened:
        built = build(settings, store, engine=opened, call=run_step_task, memory=memory)
    if not built.reused:
        told = {"version": built.version, "fingerprint": built.fingerprint, "path": built.path}
        emit_event(PUBLISHED, {"prefect.resource.id": dataset_resource(settings.name)}, payload=told)
    training = train_task(settings.train, built.path, runs) if settings.train else None
    return built.model_dump(mode="json") | {"flow_run": runtime.flow_run.id, "training": training}


if __name__ == "__main__":
    curate(sys.argv[1])
