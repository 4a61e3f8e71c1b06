"""The same bytes wherever and however a version is built: order of hashes, time zone, language, folder, workers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trees import ROOT, hashes

PROGRAM = """
import sys
from pathlib import Path
from sft_data import build as b
from sft_data.engine import LocalEngine
from sft_data.pipeline import load_pipeline
if __name__ == "__main__":
    workers, shard_rows, store = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    b.LIGHT_ROWS = 0
    with LocalEngine(workers) as engine:
        pipeline = load_pipeline(Path("pipelines/quickstart.yaml"))
        print(b.build(pipeline, store, engine=engine, shard_rows=shard_rows).path)
"""

HERE = {"PYTHONHASHSEED": "0", "TZ": "UTC", "LC_ALL": "C.UTF-8", "POLARS_MAX_THREADS": "1"}
ELSEWHERE = [
    (2, 90, {"PYTHONHASHSEED": "4711", "TZ": "Asia/Kathmandu", "LC_ALL": "C", "POLARS_MAX_THREADS": "3"}),
    (4, 60, {"PYTHONHASHSEED": "99", "TZ": "America/St_Johns", "LC_ALL": "POSIX", "PYTHONUTF8": "0"}),
]


def built(folder: Path, workers: int, shard_rows: int, settings: dict[str, str]) -> dict[str, str]:
    """Build the quick start in a folder of its own, where `samples` and `pipelines` lie in another order of listing."""
    folder.mkdir()
    program = folder / "program.py"
    program.write_text(PROGRAM)
    for name in sorted(("samples", "pipelines"), reverse=workers > 1):
        (folder / name).symlink_to(ROOT / name)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG"))}
    done = subprocess.run(
        [sys.executable, str(program), str(workers), str(shard_rows), "a store"],
        cwd=folder, capture_output=True, text=True, check=False, timeout=200,
        env={**environment, "PYTHONPATH": str(ROOT), **settings},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return hashes(folder / done.stdout.strip())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_version_is_the_same_bytes_wherever_and_however_it_is_built(tmp_path: Path):
    whole = built(tmp_path / "here", 1, 8192, HERE)
    assert len(whole) > 20
    for number, (workers, shard_rows, settings) in enumerate(ELSEWHERE):
        other = built(tmp_path / f"elsewhere {number}", workers, shard_rows, settings)
        assert {name for name in whole | other if whole.get(name) != other.get(name)} == set()
