"""Builds killed with SIGKILL, started again: the same bytes as one that was never killed."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.trees import ROOT, hashes

PROGRAM = """
import sys
from sft_data import build as b
from sft_data.engine import LocalEngine
from sft_data.pipeline import load_pipeline
if __name__ == "__main__":
    b.LIGHT_ROWS = 0
    with LocalEngine(2) as engine:
        pipeline = load_pipeline("pipelines/quickstart.yaml")
        print(b.build(pipeline, sys.argv[1], engine=engine, shard_rows=50).path)
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "build.py"
    path.write_text(PROGRAM)
    return path


def start(program: Path, store: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(program), str(store)], cwd=ROOT, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def finish(program: Path, store: Path) -> Path:
    process = start(program, store)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    return Path(out.strip())


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_build_killed_again_and_again_ends_in_the_same_bytes(program: Path, tmp_path: Path):
    whole = hashes(finish(program, tmp_path / "whole"))
    began = time.monotonic()  # of the second build: the first one compiled
    assert hashes(finish(program, tmp_path / "again")) == whole
    length = time.monotonic() - began
    moments = random.Random(17)
    killed = 0
    for attempt in range(6):
        store = tmp_path / f"store{attempt}"
        for _ in range(2):
            process = start(program, store)
            try:
                process.wait(moments.uniform(0.1, 0.9) * length)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                killed += 1
            process.communicate()
        assert hashes(finish(program, store)) == whole
    assert killed >= 8
