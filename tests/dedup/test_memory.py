"""More rows than memory: a decision needs some hundred bytes for a row, whatever the texts are long."""

import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from sft_data.cells import write_arrow
from sft_data.dedup.near import NearDedup
from sft_data.schema import CONVERSATIONS, MESSAGE

# Decides over the sketches in a folder with so many more bytes of private memory than the start took; the system
# refuses more (RLIMIT_DATA). Memory-mapped files do not count: the system may take their pages back at any time.
DECIDE = """
import re, resource, sys
from pathlib import Path
from sft_data.cells import map_arrow
from sft_data.dedup.near import NearDedup
folder, budget = Path(sys.argv[1]), int(sys.argv[2])
stage, paths = NearDedup(threshold=0.8), sorted(folder.iterdir())
stage.decide([map_arrow(paths[0]).head(50)])
if budget:
    taken = int(re.findall(r"VmData:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[0]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (taken + budget, taken + budget))
decision = stage.decide([map_arrow(path) for path in paths])
print(decision.rejected.height, decision.rejected.hash_rows(1).sum(), decision.columns.hash_rows(1).sum())
"""


def decide(folder: Path, budget: int) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", DECIDE, str(folder), str(budget)],
        check=False, capture_output=True, text=True, env={"POLARS_MAX_THREADS": "1", "PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    return done.returncode, done.stdout


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux refuses private memory and leaves mapped files alone")
def test_near_dedup_decides_the_same_within_a_third_of_the_memory_of_its_sketches(tmp_path: Path) -> None:
    rows, shards = 4_000, 6
    for shard in range(shards):
        first = pl.int_range(shard * rows, (shard + 1) * rows, eager=True)
        frame = pl.DataFrame({"id": first.cast(pl.String), "said": [sentence(number) for number in first.to_list()]})
        message = {"role": pl.lit("assistant"), "content": pl.col("said")}
        turn = pl.struct(message.get(f.name, pl.lit(None)).cast(f.dtype).alias(f.name) for f in MESSAGE.fields)
        shown = frame.select("id", messages=pl.concat_list(turn), tools=pl.lit(None, dtype=CONVERSATIONS["tools"]))
        write_arrow(NearDedup(threshold=0.8).sketch(shown), tmp_path / f"{shard}.arrow")
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert size > 150_000_000
    free, tight = decide(tmp_path, 0), decide(tmp_path, size // 3)
    assert free[0] == 0
    assert free[1].startswith(f"{rows * shards // 2} ")
    assert tight == free
    assert decide(tmp_path, size // 40)[0] != 0  # the limit is a limit


def sentence(number: int) -> str:
    """900 words of its own for every two rows, which differ in the last one."""
    pair = number // 2
    return " ".join(f"w{(pair * 900 + at) * 7919 % 1_000_003}" for at in range(900)) + f" end {'ab'[number % 2]}"
