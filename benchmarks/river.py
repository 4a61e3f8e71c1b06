"""The whole river at 50,000, 200,000 and 1,000,000 conversations: seconds of each stage, memory of all processes.

    python benchmarks/river.py --rows 50000 200000 1000000 --workers 2

Rows are the real files of ../shared/data, repeated with seeded changes (a word swapped, a sentence cut, another
number), so that there is something to deduplicate at every size. Memory is the proportional set size (PSS) of the
whole process tree, read every fifth of a second: pages that processes share are counted once.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

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
    for rows in options.rows:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            measure(Path(folder), rows, options.workers)


def measure(folder: Path, rows: int, workers: int) -> None:
    """Build from `rows` rows and print what it took."""
    data, pipeline = folder / "rows.jsonl", folder / "river.yaml"
    with data.open("w", encoding="utf-8") as file:
        for row in perturbed(rows):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    pipeline.write_text(PIPELINE.format(data=data, tokenizer=SHARED / "tokenizers" / "gpt2_chatml"))
    command = [sys.executable, "-m", "sft_data.cli", "build", str(pipeline), "--store", str(folder / "store"), "--json"]
    began = time.perf_counter()
    process = subprocess.Popen([*command, "--workers", str(workers)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    peaks: list[int] = [0]
    watcher = threading.Thread(target=watch, args=(process.pid, peaks), daemon=True)
    watcher.start()
    out, err = process.communicate()
    if process.returncode:
        sys.exit(err.decode())
    told = json.loads(out)
    took = time.perf_counter() - began
    size, peak = data.stat().st_size / 1e6, peaks[0] / 1e9
    print(f"\n{rows:,} rows, {size:,.0f} MB, {workers} workers: {took:.1f} s, peak {peak:.2f} GB")
    print(f"{told['rows_kept']:,} kept, {told['rejected']}, {told['tokens']:,} tokens, {told['packs']:,} packs")
    for stage in told["stages"]:
        print(f"  {stage['step']:<20} {stage['seconds']:8.1f} s  {1e6 * stage['seconds'] / rows:8.1f} us/row")
    shutil.rmtree(folder / "store")


def watch(pid: int, peaks: list[int]) -> None:
    """Keep the highest sum of PSS over a process and its descendants."""
    while Path(f"/proc/{pid}").exists():
        peaks[0] = max(peaks[0], sum(pss(each) for each in tree(pid)))
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


def pss(pid: int) -> int:
    """Bytes of a process, its share of shared pages included; 0 where it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss_Anon:"))


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
