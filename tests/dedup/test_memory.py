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


# The same in portions, each piece of work with its own allowance; "whole" decides as a small dataset does, at once.
IN_PORTIONS = """
import re, resource, sys
from pathlib import Path
from sft_data.cells import map_arrow, write_batches
from sft_data.dedup.near import NearDedup
folder, work, budget, how = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
stage, paths = NearDedup(), sorted(folder.iterdir())
small = [map_arrow(paths[0]).head(500)]
rows = sum(map_arrow(path).height for path in paths)

def prepare(sketches, rows, memory, folder):
    found = []
    for number, portion in enumerate(stage.portions(rows, memory)):
        write_batches(stage.gather(sketches, portion), folder / f"{number}.portion")
        found.append(map_arrow(folder / f"{number}.portion"))
    for number, (first, end) in enumerate(stage.ranges(0, rows)):
        write_batches(stage.look_up(sketches, found, first, end), folder / f"{number}.range")
    return found, [map_arrow(folder / f"{n}.range") for n in range(len(stage.ranges(0, rows)))]

stage.decide(small, [], *prepare(small, 500, 1 << 20, work))
taken = int(re.findall(r"VmData:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[0]) * 1024
if budget:
    resource.setrlimit(resource.RLIMIT_DATA, (taken + budget, taken + budget))
sketches = [map_arrow(path) for path in paths]
prepared = prepare(sketches, rows, 40 * rows, work) if how == "portions" else ()
decision = stage.decide(sketches, [], *prepared)
print(decision.rejected.height, decision.rejected.hash_rows(1).sum(), decision.columns.hash_rows(1).sum())
"""


def run(program: str, *arguments: object) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        check=False, capture_output=True, text=True, env={"POLARS_MAX_THREADS": "1", "PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    return done.returncode, done.stdout


def decide(folder: Path, budget: int) -> tuple[int, str]:
    return run(DECIDE, folder, budget)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux refuses private memory and leaves mapped files alone")
def test_near_dedup_decides_the_same_within_a_third_of_the_memory_of_its_sketches(tmp_path: Path) -> None:
    rows, shards = 4_000, 6
    for shard in range(shards):
        first = pl.int_range(shard * rows, (shard + 1) * rows, eager=True)
        frame = pl.DataFrame({"id": first.cast(pl.String), "said": [sentence(number) for number in first.to_list()]})
        shown = frame.select(
            "id",
            messages=pl.concat_list(turn("assistant", pl.col("said"))),
            tools=pl.lit(None, dtype=CONVERSATIONS["tools"]),
        )
        write_arrow(NearDedup(threshold=0.8).sketch(shown), tmp_path / f"{shard}.arrow")
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert size > 150_000_000
    free, tight = decide(tmp_path, 0), decide(tmp_path, size // 3)
    assert free[0] == 0
    assert free[1].startswith(f"{rows * shards // 2} ")
    assert tight == free
    assert decide(tmp_path, size // 40)[0] != 0  # the limit is a limit


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux refuses private memory and leaves mapped files alone")
def test_near_dedup_in_portions_decides_the_same_within_150_bytes_a_row(tmp_path: Path) -> None:
    rows, shards = 8_000, 20
    (tmp_path / "sketches").mkdir()
    stage = NearDedup()
    for shard in range(shards):
        first = pl.int_range(shard * rows, (shard + 1) * rows, eager=True)
        words = [f"w{number % 7919} " * 2 + f"v{number // 3 % 90_001} x y z {number % 3}" for number in first.to_list()]
        frame = pl.DataFrame({"id": first.cast(pl.String), "said": words})
        turns = [turn("user", pl.col("id") + " asks for " + pl.col("said")), turn("assistant", pl.col("said"))]
        shown = frame.select("id", messages=pl.concat_list(turns), tools=pl.lit(None, dtype=CONVERSATIONS["tools"]))
        write_arrow(stage.sketch(shown), tmp_path / "sketches" / f"{shard:02}.arrow")
    work = tmp_path / "work"
    work.mkdir()
    budget = 150 * rows * shards
    tight = run(IN_PORTIONS, tmp_path / "sketches", work, budget, "portions")
    assert tight[0] == 0
    assert tight == run(IN_PORTIONS, tmp_path / "sketches", work, 0, "whole")
    assert run(IN_PORTIONS, tmp_path / "sketches", work, budget, "whole")[0] != 0  # the limit is a limit


def turn(role: str, content: pl.Expr) -> pl.Expr:
    given = {"role": pl.lit(role), "content": content}
    return pl.struct(given.get(f.name, pl.lit(None)).cast(f.dtype).alias(f.name) for f in MESSAGE.fields)


def sentence(number: int) -> str:
    """900 words of its own for every two rows, which differ in the last one."""
    pair = number // 2
    return " ".join(f"w{(pair * 900 + at) * 7919 % 1_000_003}" for at in range(900)) + f" end {'ab'[number % 2]}"
