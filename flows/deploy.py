"""Deployments: a pipeline that a Prefect server starts by the clock, or when another dataset has a new version.

    sft-data deploy pipelines/quickstart.yaml --every 6h        # with PREFECT_API_URL naming the server

Who wants to watch sources gives a short interval: a build of unchanged sources reuses everything and publishes
nothing, and a finished training run is not done again.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, cast
from zoneinfo import ZoneInfo

import httpx
from prefect import serve
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import RunnerDeployment
from prefect.events import DeploymentEventTrigger
from prefect.exceptions import ObjectNotFound
from prefect.schedules import Cron, Interval, Schedule
from prefect.settings import get_current_settings
from prefect.types.entrypoint import EntrypointType

from flows.curate import PUBLISHED, curate, dataset_resource
from flows.server import reach_server
from sft_data.errors import ConfigError

__all__ = ["deployment_of", "register", "schedules_of", "serve_until_stopped"]


def schedules_of(crons: Sequence[str], every: timedelta | None, timezone: str) -> list[Schedule]:
    """When runs start: by cron expressions in a time zone, in an interval. Raises ConfigError for what is neither."""
    problems = []
    made: list[Schedule] = [Interval(every)] if every else []
    try:
        ZoneInfo(timezone)
    except (KeyError, ValueError, OSError):
        problems.append(f"there is no time zone {timezone!r}; write one such as UTC, Europe/Berlin or Asia/Shanghai")
    for cron in crons:
        try:
            made.append(Cron(cron, timezone=timezone))
        except ValueError:
            problems.append(f"{cron!r} is no cron expression (minute, hour, day, month, weekday), as '0 3 * * *'")
    if problems:
        raise ConfigError("deploy", problems)
    return made


def deployment_of(
    parameters: Mapping[str, Any],
    name: str,
    schedules: Sequence[Schedule] = (),
    after: Sequence[str] = (),
    pool: str | None = None,
    env: Mapping[str, str] | None = None,
) -> RunnerDeployment:
    """The flow with `parameters` as the deployment `name`; a run waits until the one before it has ended.

    `after` names datasets: each new version of one of them starts a run. Runs of a work pool start in the folder that
    is current now, with the variables `env`.
    """
    triggers = [
        DeploymentEventTrigger(
            name=f"{name} after {dataset}", expect={PUBLISHED}, match={"prefect.resource.id": dataset_resource(dataset)}
        )
        for dataset in after
    ]
    made = curate.to_deployment(
        name,
        schedules=list(schedules),
        triggers=list(triggers),
        parameters=dict(parameters),
        concurrency_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE),
        paused=False,  # it was, if it was served before and stopped
        tags=["sft-data"],
        entrypoint_type=EntrypointType.MODULE_PATH,
        work_pool_name=pool,
        job_variables={"working_dir": str(Path.cwd()), "env": dict(env or {})} if pool else None,
    )
    return cast("RunnerDeployment", made)


def register(deployment: RunnerDeployment) -> str:
    """Tell the server; returns the deployment's id. One of the same name is replaced.

    Raises ConfigError where no server is named or none answers, and where there is no such work pool of processes.
    """
    url = get_current_settings().api.url
    if not url:
        raise ConfigError(
            "deploy",
            [
                "no Prefect server is named: start one (prefect server start) and set PREFECT_API_URL to its address, "
                "such as http://127.0.0.1:4200/api"
            ],
        )
    reach_server()
    if deployment.work_pool_name:
        with get_client(sync_client=True) as client:
            _check_pool(client, deployment.work_pool_name)
    try:
        return str(deployment.apply())
    except httpx.HTTPError as error:
        raise ConfigError("deploy", [f"the Prefect server at {url} refuses: {error}"]) from error


def _check_pool(client: Any, name: str) -> None:  # noqa: ANN401  # Prefect's client of either kind
    try:
        pool = client.read_work_pool(name)
    except ObjectNotFound:
        made = f"prefect work-pool create {name!r} --type process"
        raise ConfigError("--pool", [f"there is no work pool {name!r}; make it: {made}"]) from None
    if pool.type != "process":
        raise ConfigError(
            "--pool", [f"work pool {name!r} is of type {pool.type}; runs read files of this machine: use type process"]
        )


def serve_until_stopped(deployment: RunnerDeployment) -> None:
    """Start the deployment's runs in this folder, each a process of its own, until Ctrl-C; schedules then pause."""
    # Prefect's own handler of SIGTERM stops its runner, and forgets to await another way to do so.
    warnings.filterwarnings("ignore", message="coroutine 'Runner.astop' was never awaited", category=RuntimeWarning)
    serve(deployment, print_starting_message=False)
