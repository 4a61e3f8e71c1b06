import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trees import ROOT, hashes

pytest.importorskip("prefect", reason="the flow needs the extra `prefect`")


def sft(*arguments: str, home: Path) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-m", "sft_data.cli", *arguments, "--json"],
        cwd=ROOT, capture_output=True, text=True, timeout=280, check=False,
        env={**os.environ, "PREFECT_HOME": str(home), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told: dict[str, object] = json.loads(done.stdout)
    return told


@pytest.mark.slow
def test_run_as_a_flow_publishes_the_same_bytes_as_build(tmp_path: Path):
    same = ("pipelines/quickstart.yaml", "--set", "train=null")
    flown = sft("run", *same, "--store", str(tmp_path / "a"), home=tmp_path)
    built = sft("build", *same, "--store", str(tmp_path / "b"), home=tmp_path)
    assert flown["flow_run"]
    assert flown["training"] is None
    assert flown["fingerprint"] == built["fingerprint"]
    assert hashes(Path(str(flown["path"]))) == hashes(Path(str(built["path"])))


@pytest.mark.slow
def test_run_starts_the_training_that_the_pipeline_names(tmp_path: Path):
    told = sft(
        "run", "pipelines/quickstart.yaml", "--store", str(tmp_path), "--runs", str(tmp_path / "runs"), home=tmp_path
    )
    training = told["training"]
    assert isinstance(training, dict)
    assert training["fingerprint"] == told["fingerprint"]
    assert training["train_loss_last"] < training["train_loss_first"]
    assert (Path(str(training["model"])) / "config.json").is_file()
    assert (Path(str(training["path"])) / "loss.svg").is_file()


@pytest.mark.slow
def test_flow_of_a_wrong_pipeline_ends_with_the_message_and_no_traceback(tmp_path: Path):
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("name: d\nsources: [{name: a, path: none.json}]\n")
    done = subprocess.run(
        [sys.executable, "-m", "sft_data.cli", "run", str(wrong)],
        cwd=ROOT, capture_output=True, text=True, timeout=200, check=False,
        env={**os.environ, "PREFECT_HOME": str(tmp_path / "home")},
    )  # fmt: skip
    assert done.returncode == 1
    assert "none.json" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "told"),
    [
        (("PREFECT_API_URL", "http://127.0.0.1:9/api"), "http://127.0.0.1:9/api does not answer"),
        (("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "0"), "no Prefect server could be started"),
    ],
)
def test_flow_without_a_server_ends_with_the_message_and_no_traceback(
    tmp_path: Path, setting: tuple[str, str], told: str
):
    done = subprocess.run(
        [sys.executable, "-m", "sft_data.cli", "run", "pipelines/quickstart.yaml", "--store", str(tmp_path / "store")],
        cwd=ROOT, capture_output=True, text=True, timeout=200, check=False,
        env={**os.environ, "PREFECT_HOME": str(tmp_path / "home"), setting[0]: setting[1]},
    )  # fmt: skip
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "store").exists()
