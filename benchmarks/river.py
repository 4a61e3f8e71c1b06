"""The whole river at 50,000, 200,000 and 1,000,000 conversations: seconds, CPU time and memory of each stage.

    python benchmarks/river.py --rows 50000 200000 1000000 --workers 2

Rows are the real files of ../shared/data, repeated with seeded changes (a word swapped, a sentence cut, another
number), so that there is something to deduplicate at every size. Memory is the proportional set size (PSS) of the
whole process tree, read every fifth of a second: pages that processes share are counted once. `memory` counts what
the processes hold for themselves; `with mapped files` adds pages of files that are mapped, which the system takes back
when it needs them. CPU seconds are those of the whole tree, user and system. The closing table is the curve: times and
microseconds a row by size, and the exponent of growth between sizes (1.00 is linear).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

SHARED = Path(__file__).resolve().parents[2] / "shared"
PIPELINE = """
name: river
seed: 17
sources: [{{name: rows, path: {data}, format: alpaca}}]
stages:
  - kind: repair-text
  - kind: exact-dedup
  - kind: near-dedup
  - kind: detect-language
  - {{kind: language, keep: [en, zh]}}
  - kind: answer-length
  - kind: refusal
split: {{validation: 0.02}}
tokenize: {{tokenizer: {tokenizer}, max_length: 2048}}
pack: {{max_length: 2048}}
"""


def main() -> None:
    """Print one table for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[50_000, 200_000, 1_000_000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=None, help="where to work; default: a temporary folder")
    options = parser.parse_args()
    runs = []
    for rows in options.rows:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            runs.append(measure(Path(folder), rows, options.workers))
    print(curve(runs))


@dataclass
class Use:
    """What one step, or the whole build, took."""

    seconds: float = 0.0
    cpu: float = 0.0
    memory: int = 0  # bytes, highest
    mapped: int = 0  # bytes with mapped files, highest


@dataclass
class Run:
    """A measured build."""

    rows: int
    megabytes: float
    whole: Use
    steps: dict[str, Use]


def measure(folder: Path, rows: int, workers: int) -> Run:
    """Build from `rows` rows and print what it took."""
    data, pipeline = folder / "rows.jsonl", folder / "river.yaml"
    with data.open("w", encoding="utf-8") as file:
        for row in perturbed(rows):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    pipeline.write_text(PIPELINE.format(data=data, tokenizer=SHARED / "tokenizers" / "gpt2_chatml"))
    store = folder / "store"
    command = [sys.executable, "-m", "sft_data.cli", "build", str(pipeline), "--store", str(store), "--json"]
    began = time.perf_counter()
    before = os.times()
    process = subprocess.Popen([*command, "--workers", str(workers)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    samples: list[Sample] = []
    watcher = threading.Thread(target=watch, args=(process.pid, began, samples), daemon=True)
    watcher.start()
    out, err = process.communicate()
    if process.returncode:
        sys.exit(err.decode())
    after = os.times()
    told = json.loads(out)
    whole = Use(
        time.perf_counter() - began,
        after.children_user + after.children_system - before.children_user - before.children_system,
        max(sample.memory for sample in samples),
        max(sample.mapped for sample in samples),
    )
    steps = by_step(told["stages"], told["seconds"], samples, whole.seconds)
    held = sum(path.stat().st_size for path in (store / ".cache" / "cells").rglob("*") if path.is_file()) / 1e6
    version = sum(path.stat().st_size for path in Path(told["path"]).rglob("*") if path.is_file()) / 1e6
    size = data.stat().st_size / 1e6
    print(
        f"\n{rows:,} rows, {size:,.0f} MB, {workers} workers: {whole.seconds:.1f} s, {whole.cpu:.1f} CPU s, "
        f"peak memory {whole.memory / 1e9:.2f} GB, with mapped files {whole.mapped / 1e9:.2f} GB"
    )
    print(f"{told['rows_kept']:,} kept, {told['rejected']}, {told['tokens']:,} tokens, {told['packs']:,} packs")
    print(f"the version holds {version:,.0f} MB, the step cache {held:,.0f} MB")
    print(f"  {'step':<20} {'s':>8} {'us/row':>8} {'CPU s':>8} {'GB':>6} {'mapped':>7}")
    for name, use in steps.items():
        print(
            f"  {name:<20} {use.seconds:8.1f} {1e6 * use.seconds / rows:8.1f} {use.cpu:8.1f} "
            f"{use.memory / 1e9:6.2f} {use.mapped / 1e9:7.2f}",
            flush=True,
        )
    shutil.rmtree(store)
    return Run(rows, size, whole, steps)


def by_step(stages: list[dict[str, Any]], built: float, samples: list[Sample], took: float) -> dict[str, Use]:
    """Share the samples out over the steps, which ran one after the other and ended with the build."""
    end = took - (built - sum(stage["seconds"] for stage in stages))
    steps = {stage["step"]: Use(stage["seconds"]) for stage in stages}
    for stage in reversed(stages):
        use, start = steps[stage["step"]], end - stage["seconds"]
        inside = [sample for sample in samples if start <= sample.at <= end]
        if inside:
            use.memory = max(sample.memory for sample in inside)
            use.mapped = max(sample.mapped for sample in inside)
            use.cpu = max(sample.cpu for sample in inside) - min(sample.cpu for sample in inside)
        end = start
    return steps


def curve(runs: list[Run]) -> str:
    """Microseconds a row at each size, and how the time grows: log(time ratio) / log(size ratio)."""
    lines = ["", "us/row               " + "".join(f"{run.rows:>12,}" for run in runs) + "   growth"]
    for name in ["whole", *runs[0].steps]:
        uses = [run.whole if name == "whole" else run.steps[name] for run in runs]
        cells = "".join(f"{1e6 * use.seconds / run.rows:12.1f}" for use, run in zip(uses, runs, strict=True))
        growth = [
            f"{math.log(b.seconds / a.seconds) / math.log(second.rows / first.rows):.2f}"
            for (a, first), (b, second) in pairwise(zip(uses, runs, strict=True))
            if a.seconds > 0 and b.seconds > 0 and first.rows != second.rows
        ]
        lines.append(f"{name:<20} {cells}   {' '.join(growth)}")
    return "\n".join(lines)


@dataclass(frozen=True)
class Sample:
    """One look at a tree of processes."""

    at: float  # seconds since the start
    memory: int
    mapped: int
    cpu: float  # seconds, of the processes that live and of those that were waited for


def watch(pid: int, began: float, samples: list[Sample]) -> None:
    """Look at a process and its descendants five times a second."""
    while Path(f"/proc/{pid}").exists():
        looks = [look(each) for each in tree(pid)]
        memory, mapped, cpu = (sum(part) for part in zip(*looks, strict=True))
        samples.append(Sample(time.perf_counter() - began, int(memory), int(mapped), cpu))
        time.sleep(0.2)


def tree(pid: int) -> Iterator[int]:
    """A process and all below it."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except OSError:
            continue
        for child in children:
            yield from tree(int(child))


def look(pid: int) -> tuple[int, int, float]:
    """Bytes of a process without and with mapped files, its share of shared pages, and its CPU seconds; 0: gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]
    except OSError:
        return 0, 0, 0.0
    sizes = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines if line.startswith("Pss")}
    cpu = sum(map(int, times)) / os.sysconf("SC_CLK_TCK")
    return sizes.get("Pss_Anon", 0), sizes.get("Pss", 0), cpu


def perturbed(rows: int) -> Iterator[dict[str, str]]:
    """The real rows, then changed copies of them, endlessly different and always the same."""
    files = [SHARED / "data" / "alpaca_data.json", *sorted((SHARED / "data" / "alpaca_zh").glob("*.json"))]
    real = [row for file in files for row in json.loads(file.read_text(encoding="utf-8"))]
    for number in range(rows):
        row = real[number % len(real)]
        yield row if number < len(real) else changed(row, random.Random(number))


def changed(row: dict[str, str], chance: random.Random) -> dict[str, str]:
    """A row with a few changes: some copies stay near duplicates, most become rows of their own."""
    answer = row["output"].split(" ")
    for _ in range(chance.choice([1, 1, 3, 8])):
        place = chance.randrange(len(answer))
        word = str(chance.randrange(10_000))
        answer[place] = chance.choice([word, answer[place - 1], "indeed", answer[place].upper()])
    asked = f"{row['instruction']} ({chance.randrange(1_000_000)})" if chance.random() < 0.7 else row["instruction"]
    return {**row, "instruction": asked, "output": " ".join(answer)}


if __name__ == "__main__":
    main()
