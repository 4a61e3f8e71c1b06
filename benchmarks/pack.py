"""Packing against its peers: CPU seconds on one thread, packs and fill, on lengths like Alpaca's and on long ones.

    python benchmarks/pack.py --rows 52002 1000000 10000000

`bound` is ceil(tokens / room): no packing needs fewer packs. TRL's own best-fit decreasing runs on one table with one
column, as a whole ("trl, global") and as `pack_dataset` ships it, in batches of 1,000; it is left out where it is not
installed (`pip install trl`) and above a million rows.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

ONE_THREAD = ("POLARS_MAX_THREADS", "RAYON_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS")
os.environ.update(dict.fromkeys(ONE_THREAD, "1"))

import numpy as np  # noqa: E402  # the threads are set first
from numpy.typing import NDArray  # noqa: E402

from sft_data.pack.plan import lower_bound, plan_packs  # noqa: E402

Lengths = NDArray[np.int32]
# Median and spread of log-normal lengths: Alpaca's under GPT-2, and dialogues.
SHAPES = {"alpaca-like": (78.0, 0.47), "long": (500.0, 1.0)}


def draw(shape: str, rows: int, room: int) -> Lengths:
    """Lengths of `rows` rows, none longer than the room."""
    median, spread = SHAPES[shape]
    drawn = np.random.default_rng(rows).lognormal(np.log(median), spread, rows)
    return np.clip(drawn, 1, room).astype(np.int32)


def ours(lengths: Lengths, room: int) -> int:
    """Number of packs of this project's plan."""
    return int(plan_packs(lengths, room, seed=0)["pack"].max()) + 1


def trl(lengths: Lengths, room: int, batch: int) -> int:
    """Number of packs of TRL's best-fit decreasing in batches of so many rows."""
    import datasets
    import pyarrow as pa
    from trl import pack_dataset

    datasets.disable_progress_bars()
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
    ids = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(np.zeros(offsets[-1], dtype=np.int8)))
    table = datasets.Dataset(pa.table({"input_ids": ids}))
    return len(pack_dataset(table, room, "bfd", map_kwargs={"batch_size": batch, "load_from_cache_file": False}))


def main() -> None:
    """Print one line for every contender and setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=[52_002, 1_000_000, 10_000_000])
    parser.add_argument("--room", type=int, nargs="*", default=[2048, 8192])
    options = parser.parse_args()
    plan_packs(np.array([1], dtype=np.int32), 8, seed=0)
    print(
        f"{'lengths':12} {'rows':>11} {'room':>6} {'contender':14} {'CPU s':>8} {'packs':>9} {'bound':>9} {'fill %':>7}"
    )
    for shape in SHAPES:
        for rows in options.rows:
            for room in options.room:
                lengths = draw(shape, rows, room)
                contenders: dict[str, Callable[[], int]] = {"sft-data": lambda x=lengths, r=room: ours(x, r)}
                if rows <= 1_000_000:
                    contenders["trl, global"] = lambda x=lengths, r=room: trl(x, r, len(x))
                    contenders["trl, shipped"] = lambda x=lengths, r=room: trl(x, r, 1000)
                for name, run in contenders.items():
                    measure(name, run, lengths, shape, room)


def measure(name: str, run: Callable[[], int], lengths: Lengths, shape: str, room: int) -> None:
    """Best of two runs."""
    best, packs = float("inf"), 0
    try:
        for _ in range(2):
            began = time.process_time()
            packs = run()
            best = min(best, time.process_time() - began)
    except ImportError as error:
        print(f"{shape:12} {len(lengths):11,} {room:6} {name:14} left out: {error}")
        return
    total = int(lengths.sum(dtype=np.int64))
    bound, fill = lower_bound(lengths, room), 100 * total / (packs * room)
    print(f"{shape:12} {len(lengths):11,} {room:6} {name:14} {best:8.3f} {packs:9,} {bound:9,} {fill:7.2f}", flush=True)


if __name__ == "__main__":
    main()
