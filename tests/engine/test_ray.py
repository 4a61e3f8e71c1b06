"""The Ray engine on a local cluster of two nodes. Every test is a program of its own: Ray keeps state and threads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trees import ROOT, hashes

pytest.importorskip("ray", reason="the Ray engine needs the extra `ray`")

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

CLUSTER = """
import sys, threading, time
from ray.cluster_utils import Cluster
from sft_data import build as b
from sft_data.engine import ray as ray_engine
from sft_data.engine.ray import RayEngine
from sft_data.pipeline import load_pipeline

store, kill = sys.argv[1], sys.argv[2] == "kill"
out = sys.stdout  # the engine keeps Ray's own words away from it
b.LIGHT_ROWS = 0
in_the_driver = ray_engine.execute

def refuse_portions(cache, task, *more):
    for part in ("portion", "rows from"):
        assert part not in task.label, "a portion of a decision was not made by a Ray task"
    return in_the_driver(cache, task, *more)

ray_engine.execute = refuse_portions
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
other = cluster.add_node(num_cpus=1)

class Watch(b.Silence):
    def __init__(self): self.cells = 0
    def advance(self):
        self.cells += 1
        if kill and self.cells == 20:
            cluster.remove_node(other, allow_graceful=False)
            print("killed", flush=True, file=out)

with RayEngine(address=cluster.address) as engine:
    result = b.build(load_pipeline("pipelines/quickstart.yaml"), store, engine=engine, shard_rows=40, watch=Watch())
print(result.path, flush=True)
cluster.shutdown()
"""

ERRORS = """
import os, signal, sys
from pathlib import Path
from sft_data.cells import Task
from sft_data.engine.ray import RayEngine
from sft_data.errors import EngineError, SourceError
from tests.engine.test_local import die, refuse, squares

cache, out = Path(sys.argv[1]), sys.stdout  # the engine keeps Ray's own words away from it
with RayEngine(2) as engine:
    cells = engine.run(cache, squares(5), lambda _: None)
    print([cell.told["square"] for cell in cells], flush=True, file=out)
    for task in (Task("e" * 64, "refused", refuse, ()), Task("d" * 64, "near-dedup, shard 7", die, ())):
        try:
            engine.run(cache, [task, *squares(2)], lambda _: None)
        except (EngineError, SourceError) as error:
            print(type(error).__name__, error, flush=True, file=out)
print("nothing else", file=out)
"""


def run(program: str, *arguments: str, folder: Path) -> str:
    script = folder / "program.py"
    script.write_text(program)
    # Ray's workers step back behind all other programs: beside some, a build of seconds took more than the time limit.
    ray = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    done = subprocess.run(
        [sys.executable, str(script), *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=500,
        env={**os.environ, **ray, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    from sft_data.build import build
    from sft_data.pipeline import load_pipeline

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        built = build(load_pipeline("pipelines/quickstart.yaml"), tmp_path_factory.mktemp("local"))
    return hashes(Path(built.path))


@pytest.mark.parametrize("fate", ["whole", "kill"])
def test_build_on_two_nodes_gives_the_same_bytes_also_when_one_dies(local: dict[str, str], tmp_path: Path, fate: str):
    out = run(CLUSTER, str(tmp_path / "store"), fate, folder=tmp_path).splitlines()
    assert ("killed" in out) == (fate == "kill")
    assert hashes(Path(out[-1])) == local
    portions = len(list((tmp_path / "store" / ".cache" / "cells").rglob("gathered.arrow")))
    assert list((tmp_path / "store" / ".cache" / "cells").rglob("ahead.arrow"))
    assert portions >= 15  # the bands of near-dedup's relations, by eights, and the keys of exact-dedup


def test_engine_keeps_order_passes_errors_on_and_names_the_shard_that_kills(tmp_path: Path):
    squares, refused, died, nothing_else = run(ERRORS, str(tmp_path / "cache"), folder=tmp_path).splitlines()
    assert squares == "[0, 1, 4, 9, 16]"
    assert refused == "SourceError cannot be read"
    assert nothing_else == "nothing else"
    assert died.startswith("EngineError near-dedup, shard 7 could not be finished")
