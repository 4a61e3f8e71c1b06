"""Deployments: what the server is told, and one that runs by a trigger."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.trees import ROOT

pytest.importorskip("prefect", reason="the flow needs the extra `prefect`")

from flows.curate import curate
from flows.deploy import deployment_of, register, schedules_of
from sft_data.errors import ConfigError

SFT = [sys.executable, "-m", "sft_data.cli"]


def test_schedules_are_cron_expressions_in_a_time_zone_and_an_interval() -> None:
    made = schedules_of(["0 3 * * *", "0 15 * * mon"], timedelta(hours=6), "Asia/Shanghai")
    assert [(each.interval, each.cron, each.timezone) for each in made] == [
        (timedelta(hours=6), None, None), (None, "0 3 * * *", "Asia/Shanghai"), (None, "0 15 * * mon", "Asia/Shanghai"),
    ]  # fmt: skip
    with pytest.raises(ConfigError) as told:
        schedules_of(["61 * * * *", "daily at three"], None, "Mars/Olympus")
    for wrong in ("61 * * * *", "daily at three", "Mars/Olympus"):
        assert wrong in str(told.value)


def test_deployment_runs_one_at_a_time_and_by_the_events_of_other_datasets() -> None:
    made = deployment_of({"pipeline": "/p.yaml", "workers": 2}, "mine", after=["base", "chats"], env={"A": "b"})
    assert curate.validate_parameters(made.parameters)["pipeline"] == "/p.yaml"
    assert (made.concurrency_limit, made.concurrency_options.collision_strategy) == (1, "ENQUEUE")
    assert [(trigger.match.model_dump(), trigger.expect) for trigger in made.triggers] == [
        ({"prefect.resource.id": f"sft-data.dataset.{name}"}, {"sft-data.version.published"})
        for name in ("base", "chats")
    ]
    assert made.entrypoint == "flows.curate.curate"
    assert made.job_variables == {}


def test_runs_of_a_work_pool_start_in_this_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = deployment_of({"pipeline": "/p.yaml"}, "mine", pool="curators", env={"SFT_DATA_KEY_FILE": "/key"})
    assert made.work_pool_name == "curators"
    assert made.job_variables == {"working_dir": str(tmp_path), "env": {"SFT_DATA_KEY_FILE": "/key"}}


def test_deploy_without_a_server_says_how_to_have_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    made = deployment_of({"pipeline": "/p.yaml"}, "mine")
    with (
        temporary_settings(restore_defaults={PREFECT_API_URL}),
        pytest.raises(ConfigError, match="prefect server start"),
    ):
        register(made)
    nobody = {PREFECT_API_URL: f"http://127.0.0.1:{_free_port()}/api"}
    with temporary_settings(nobody), pytest.raises(ConfigError, match="does not answer"):
        register(made)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A Prefect server of this test alone: the environment of those who talk to it."""
    port = str(_free_port())
    env = {
        **os.environ, "PREFECT_HOME": str(tmp_path / "home"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
    }  # fmt: skip
    log = (tmp_path / "server.log").open("wb")
    started = subprocess.Popen(
        [sys.executable, "-m", "prefect", "server", "start", "--port", port, "--no-ui"], env=env, stdout=log, stderr=log
    )
    try:
        yield env
    finally:
        started.send_signal(signal.SIGINT)
        started.wait(30)
        log.close()


def _wait(what: str, until: Any, seconds: int = 90) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, what
        time.sleep(0.5)


@pytest.mark.slow
def test_a_new_version_of_one_dataset_starts_the_deployment_of_another(server: dict[str, str], tmp_path: Path) -> None:
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    def healthy() -> bool:
        with temporary_settings({PREFECT_API_URL: server["PREFECT_API_URL"]}), get_client(sync_client=True) as client:
            return client.api_healthcheck() is None

    _wait("the server does not start", healthy)
    store, source = tmp_path / "store", tmp_path / "rows.jsonl"
    source.write_text('{"instruction": "Name a colour.", "output": "Green is one."}\n')
    served: dict[str, subprocess.Popen[bytes]] = {}
    for name, when in (("base", ["--every", "6h"]), ("later", ["--after", "base"])):
        pipeline = tmp_path / f"{name}.yaml"
        pipeline.write_text(f"name: {name}\nsources: [{{name: a, path: {source}}}]\n")
        command = [*SFT, "deploy", str(pipeline), "--store", str(store), "--workers", "1", *when, "--json"]
        with (tmp_path / f"{name}.out").open("wb") as out:
            served[name] = subprocess.Popen(command, env=server, stdout=out, stderr=subprocess.DEVNULL, cwd=ROOT)

    def told(name: str) -> dict[str, Any] | None:
        text = (tmp_path / f"{name}.out").read_text()
        return json.loads(text) if text.endswith("}\n") else None

    try:
        _wait("deploy says nothing", lambda: all(map(told, served)))
        base, later = told("base"), told("later")
        assert base is not None
        assert later is not None
        assert (base["deployment"], base["when"]) == ("sft-data/base", ["every 6h"])
        assert (later["deployment"], later["when"]) == ("sft-data/later", ["after each new version of base"])
        with temporary_settings({PREFECT_API_URL: server["PREFECT_API_URL"]}):
            with pytest.raises(ConfigError, match="prefect work-pool create 'none' --type process"):
                register(deployment_of({"pipeline": str(source)}, "base", pool="none"))
            with get_client(sync_client=True) as client:
                client.create_flow_run_from_deployment(base["id"])
        _wait("the trigger started nothing", (store / "later" / "v1" / "manifest.json").is_file)
        assert (store / "base" / "v1" / "manifest.json").is_file()
    finally:
        for each in served.values():
            each.send_signal(signal.SIGINT)
        assert [each.wait(30) for each in served.values()] == [0, 0]
