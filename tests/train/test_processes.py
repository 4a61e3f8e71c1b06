"""Runs in processes of their own: killed in the middle, and on two devices."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the extra `train`")

import torch
from transformers import AutoModelForCausalLM

from sft_data.train import TrainConfig, TrainResult, train

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import json, sys
from pathlib import Path
import torch
from sft_data.train import TrainConfig, train

torch.set_num_threads(1)
settings, version, out = sys.argv[1:]
train(TrainConfig(**json.loads(settings)), Path(version), Path(out), progress=lambda line: print(line, flush=True))
"""
SETTINGS: dict[str, Any] = {
    "model": {"hidden_size": 32, "intermediate_size": 64},
    "learning_rate": 1e-2,
    "warmup": 0,
    "eval_every": 1,
}


def command(settings: dict[str, Any], version: Path, out: Path) -> list[str]:
    return [PROGRAM, json.dumps(settings), str(version), str(out)]


def outcome(result: TrainResult) -> list[tuple[int, float, int, int]]:
    return [(s.step, s.loss, s.tokens, s.supervised_tokens) for s in result.history]


def weights(result: TrainResult) -> dict[str, torch.Tensor]:
    return dict(AutoModelForCausalLM.from_pretrained(result.model).state_dict())


@pytest.mark.slow
def test_run_that_is_killed_goes_on_to_the_same_losses(version: Path, tmp_path: Path):
    settings = SETTINGS | {"max_steps": 20, "gradient_accumulation": 2, "checkpoint_every": 3}
    unbroken = train(TrainConfig(**settings), version, tmp_path / "unbroken")
    program = [sys.executable, "-c", *command(settings, version, tmp_path / "r")]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, cwd=ROOT) as running:
        assert running.stdout is not None
        for line in running.stdout:
            if line.startswith("step 11/"):
                running.kill()
                break
    assert running.returncode == -signal.SIGKILL
    assert not (tmp_path / "r" / "training.json").exists()
    subprocess.run(program, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    result = TrainResult.model_validate_json((tmp_path / "r" / "training.json").read_bytes())
    assert outcome(result) == outcome(unbroken)
    before, after = weights(unbroken), weights(result)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.slow
def test_run_that_is_terminated_saves_first(version: Path, tmp_path: Path):
    settings = SETTINGS | {"max_steps": 5000, "gradient_accumulation": 1, "checkpoint_every": 5000}
    program = [sys.executable, "-c", *command(settings, version, tmp_path / "r")]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, cwd=ROOT) as running:
        assert running.stdout is not None
        for line in running.stdout:
            if line.startswith("step 5/"):
                running.terminate()
    assert running.returncode == 0
    checkpoints = list((tmp_path / "r" / "checkpoints").iterdir())
    assert len(checkpoints) == 1
    assert (checkpoints[0] / "trainer_state.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_two_processes_train_and_resume_as_one_does(version: Path, tmp_path: Path, method: str):
    settings = SETTINGS | {"max_steps": 5, "method": method, "checkpoint_every": 2, "eval_every": 2}
    alone = train(TrainConfig(**settings, gradient_accumulation=4), version, tmp_path / "one")
    program, *arguments = command(settings | {"gradient_accumulation": 2}, version, tmp_path / "two")
    (tmp_path / "program.py").write_text(program)
    together = two_processes(tmp_path, arguments)
    check_same(alone, together)
    (tmp_path / "two" / "training.json").unlink()
    shutil.rmtree(tmp_path / "two" / "checkpoints" / "checkpoint-5")
    resumed = two_processes(tmp_path, arguments)
    assert outcome(resumed) == outcome(together)
    check_same(alone, resumed)


# The first process looks at the folder and waits before it writes: the second one does all it does in between.
LATE = """
import os, time
from sft_data.train import run

look = run._recorded

def look_and_wait(out):
    found = look(out)
    time.sleep(3 if os.environ["RANK"] == "0" else 0)
    return found

run._recorded = look_and_wait
"""


@pytest.mark.slow
def test_processes_of_a_run_agree_on_its_folder_whichever_comes_first(version: Path, tmp_path: Path):
    settings = SETTINGS | {"max_steps": 2, "checkpoint_every": 1}
    program, *arguments = command(settings, version, tmp_path / "two")
    (tmp_path / "program.py").write_text(LATE + program)
    first = two_processes(tmp_path, arguments)
    (tmp_path / "program.py").write_text(LATE + program.replace("progress=", "resume=False, progress="))
    again = two_processes(tmp_path, arguments)
    assert len(again.history) == len(first.history) == 2
    assert outcome(again) == outcome(first)
    assert (again.path, again.reused) == (first.path, False)
    assert [step.seconds for step in again.history] != [step.seconds for step in first.history]  # it did start over


def two_processes(folder: Path, arguments: list[str]) -> TrainResult:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([*launcher, str(folder / "program.py"), *arguments], check=True, cwd=ROOT, env=environment)
    return TrainResult.model_validate_json((folder / "two" / "training.json").read_bytes())


def check_same(alone: TrainResult, together: TrainResult) -> None:
    """The same packs in the same steps, and so the same losses, gradients and weights up to rounding."""
    assert together.device == "2 x cpu"
    for one, two in zip(alone.history, together.history, strict=True):
        assert (two.tokens, two.supervised_tokens) == (one.tokens, one.supervised_tokens)
        assert two.loss == pytest.approx(one.loss, abs=1e-5)
        assert two.grad_norm == pytest.approx(one.grad_norm, rel=1e-4)
    for before, after in zip(alone.held_out, together.held_out, strict=True):
        assert (before.step, before.by_source.keys()) == (after.step, after.by_source.keys())
        assert after.loss == pytest.approx(before.loss, abs=1e-5)
    one_model, two_model = weights(alone), weights(together)
    assert max(float((one_model[name] - two_model[name]).abs().max()) for name in one_model) < 1e-4
