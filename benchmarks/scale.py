"""Near-dedup through the real engine with one worker and with several: seconds, CPU seconds and memory.

    python benchmarks/scale.py --rows 200000 1000000 --workers 1 2

Rows are those of `dedup.py`: real ones, new ones of their halves, near copies. They are read before; what is measured
is the one step near-dedup with its default settings, in a store on the disk. Every process computes on one thread;
memory is that of all processes, without and with the pages of mapped files. Behind the total stand the seconds of all
cells of a kind, one after the other; the decision is the only one that one process makes alone.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import polars as pl
from dedup import ONE_THREAD, ROOT, make_corpus
from river import Sample, by_step, watch

PIPELINE = """
name: scale
sources: [{{name: rows, path: {data}, format: messages}}]
stages: [{stages}]
"""
KINDS = {
    "sketch.arrow": "sketch",
    "gathered.arrow": "portions",
    "ahead.arrow": "candidates",
    "columns-00000.parquet": "decision",
}


def main() -> None:
    """Print one line for each size and number of workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[200_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--memory", default="512MiB")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=Path("/tmp/sft-data-bench"))  # noqa: S108
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    print(f"{'rows':>10}{'workers':>9}{'s':>8}{'CPU s':>8}{'GB':>7}{'mapped':>8}  of the cells")
    for rows in options.rows:
        corpus, data = (options.work / f"{name}-{rows}.parquet" for name in ("corpus", "messages"))
        if not corpus.exists():
            make_corpus(options.data, rows, corpus)
        turn = pl.struct(pl.element().struct.field("role", "content"))
        pl.scan_parquet(corpus).select(pl.col("messages").list.eval(turn)).sink_parquet(data, row_group_size=8192)
        read = options.work / "read"
        shutil.rmtree(read, ignore_errors=True)
        build(read, data, "", 2, options.memory)
        first = None
        for workers in options.workers:
            store = options.work / "store"
            shutil.rmtree(store, ignore_errors=True)
            shutil.copytree(read, store, copy_function=os.link)
            took = build(store, data, "{kind: near-dedup}", workers, options.memory)
            first = first or took
            print(f"{rows:10,}{workers:9}{took[1]}   {first[0] / took[0]:.2f}x", flush=True)


def build(store: Path, data: Path, stages: str, workers: int, memory: str) -> tuple[float, str]:
    """Build a version; seconds of the step near-dedup, and what is to be told of it."""
    pipeline = store.with_suffix(".yaml")
    pipeline.write_text(PIPELINE.format(data=data, stages=stages))
    command = [sys.executable, "-m", "sft_data.cli", "build", str(pipeline), "--store", str(store), "--json"]
    before, began = time.time_ns(), time.perf_counter()
    process = subprocess.Popen(
        [*command, "--workers", str(workers), "--memory", memory],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | ONE_THREAD | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    samples: list[Sample] = []
    threading.Thread(target=watch, args=(process.pid, began, samples), daemon=True).start()
    out, err = process.communicate()
    if process.returncode:
        sys.exit(err.decode())
    told = json.loads(out)
    use = by_step(told["stages"], told["seconds"], samples, time.perf_counter() - began).get("01:near-dedup")
    if use is None:
        return 0.0, ""
    shares = dict.fromkeys(KINDS.values(), 0.0)
    for record in (store / ".cache" / "cells").rglob("cell.json"):
        if record.stat().st_mtime_ns > before:
            cell = json.loads(record.read_bytes())
            kind = next((KINDS[name] for name in cell["files"] if name in KINDS), None)
            if kind:
                shares[kind] += cell["seconds"]
    parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in shares.items())
    sizes = f"{use.memory / 1e9:7.2f}{use.mapped / 1e9:8.2f}"
    return use.seconds, f"{use.seconds:8.1f}{use.cpu:8.1f}{sizes}  {parts}"


if __name__ == "__main__":
    main()
