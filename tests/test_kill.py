"""Builds killed with SIGKILL at seeded moments, started again: the same bytes as one that was never killed.

python -m tests.test_kill 100        # a hundred kills, told one by one; the tests do fewer
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest

from sft_data.store import manage
from sft_data.store.log import check_log, read_log
from sft_data.store.verify import verify
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

# Where a build is killed: at any moment, or when a folder of a publish in progress is there.
ANYWHERE, PUBLISHING = "anywhere", "publishing"


class Killer:
    """Builds in stores below `folder`, kills them, and compares what comes out with `whole`."""

    def __init__(self, folder: Path, seed: int = 17) -> None:
        self.folder, self.chance = folder, random.Random(seed)
        self.program = folder / "build.py"
        self.program.write_text(PROGRAM)
        self.whole_store = folder / "whole"
        self.whole = hashes(self.finish(self.whole_store))
        began = time.monotonic()  # of the second build: the first one compiled
        assert hashes(self.finish(folder / "again")) == self.whole
        self.length = time.monotonic() - began
        self.killed: Counter[str] = Counter()

    def start(self, store: Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(self.program), str(store)], cwd=ROOT, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    def finish(self, store: Path) -> Path:
        process = self.start(store)
        out, err = process.communicate(timeout=200)
        assert process.returncode == 0, err
        return Path(out.strip())

    def kill(self, store: Path, where: str) -> bool:
        """Start a build and kill it; False where it was finished first. Sometimes its workers outlive it a little."""
        process = self.start(store)
        if where == ANYWHERE:
            self._wait(process, self.chance.uniform(0.1, 0.95) * self.length)
        else:
            while process.poll() is None and not list(store.glob("quickstart/.publish-*")):
                time.sleep(0.002)
            self._wait(process, self.chance.uniform(0.0, 0.1))
        was_at_it = process.poll() is None
        if was_at_it:
            where = PUBLISHING if list(store.glob("quickstart/.publish-*")) else ANYWHERE
            self.killed[where] += 1
            (os.kill if self.chance.random() < 0.3 else os.killpg)(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()
        return was_at_it

    @staticmethod
    def _wait(process: subprocess.Popen[str], seconds: float) -> None:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            return

    def round(self, store: Path, *where: str) -> None:
        """Kill a build and those that resume it, finish it, and look at every byte of what is there."""
        for each in where:
            self.kill(store, each)
            if (version := store / "quickstart" / "v1").exists():
                # A reader between the kill and the next build sees all of the version, or none.
                assert [p for p in verify(version).problems if "log.jsonl does not know" not in p] == []
        path = self.finish(store)
        assert path.name == "v1"
        assert hashes(path) == self.whole
        assert verify(path).ok
        assert [entry["what"] for entry in read_log(store)] == ["publish"]
        assert check_log(store) == []
        manage.gc(store, remove=True)
        (store / "log.jsonl").write_bytes((self.whole_store / "log.jsonl").read_bytes())
        assert names(store) == names(self.whole_store)


def names(store: Path) -> set[str]:
    """Every file of a store: versions, step cache, references, log."""
    return {path.relative_to(store).as_posix() for path in store.rglob("*")}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_build_killed_again_and_again_ends_in_the_same_bytes_and_leaves_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(manage, "ABANDONED", -1.0)
    killer = Killer(tmp_path)
    # A build that is done before its moment comes is not killed: how many are depends on the machine.
    for number in range(8):
        killer.round(tmp_path / f"store{number}", ANYWHERE, ANYWHERE, PUBLISHING)
        if sum(killer.killed.values()) >= 4 and killer.killed[PUBLISHING]:
            break
    assert sum(killer.killed.values()) >= 4
    assert killer.killed[PUBLISHING] >= 1


def main(kills: int) -> None:
    """Kill so many builds, each resumed; ends at the first difference."""
    manage.ABANDONED = -1.0
    with tempfile.TemporaryDirectory() as folder:
        killer = Killer(Path(folder))
        print(f"a build takes {killer.length:.1f} s", flush=True)  # noqa: T201
        number = 0
        while sum(killer.killed.values()) < kills:
            plan = [(ANYWHERE,), (PUBLISHING,), (ANYWHERE, PUBLISHING)][number % 3]
            killer.round(Path(folder) / f"store{number}", *plan)
            number += 1
            print(f"{number} versions the same bytes, kills: {dict(killer.killed)}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main(int(sys.argv[1]))
