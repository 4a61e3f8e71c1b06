"""1,000 rows of Alpaca by each way of selecting: seconds, memory, and how well the choice covers the data.

    python benchmarks/select_rows.py ../shared/data/alpaca_data.json

Coverage is measured on the same vectors for every way: how near the rows that were not chosen are to their nearest
chosen row (mean and lowest cosine), and how near the chosen rows are to each other (mean cosine to the nearest other).
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl

from sft_data.formats.ingest import read_unit
from sft_data.mix import Mix
from sft_data.plan import plan_reading
from sft_data.selection.distances import Chosen, Space
from sft_data.selection.stage import Select
from sft_data.sources.settings import Source
from sft_data.stage import DatasetStage, apply_decision

SHARD = 8_192


def rows_of(path: Path) -> pl.DataFrame:
    """All conversations of a file."""
    reading = plan_reading(Source(name="data", path=str(path)))
    parts = [
        o.kept for unit in reading.units for o in read_unit(unit, reading.source, reading.format, shard_rows=SHARD)
    ]
    return pl.concat(parts)


def cover(frame: pl.DataFrame, kept: list[int], space: Space) -> str:
    """Mean and lowest cosine of the others to the choice; mean cosine inside it; words of the answers."""
    everything = np.arange(frame.height)
    chosen = Chosen(space, everything, np.ones(frame.height, dtype=bool))
    inside = np.full(len(kept), -1.0)
    products = np.zeros(frame.height, dtype=np.int64)
    for at, row in enumerate(kept):
        chosen.add(row)
        space.products(row, products)
        cosines = products[kept] / np.maximum(space.lengths[kept] * space.lengths[row], 1.0)
        cosines[at] = -1.0
        inside = np.maximum(inside, cosines)
    others = chosen.nearest[chosen.open]
    length = Select(budget=1).sketch(frame[kept])["score"]
    return (
        f"{others.mean():.3f} | {np.quantile(others, 0.05):.3f} | {others.min():.3f} | {inside.mean():.3f} | "
        f"{length.mean():,.0f}"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--criterion", default="prompt", help="what is compared: prompt, answer or conversation")
    parser.add_argument("--model", default="", help="vectors of this sentence-embedding model instead of TF-IDF")
    parser.add_argument("--first", type=int, help="only so many rows of the file")
    settings = parser.parse_args()
    frame, many = rows_of(settings.file).head(settings.first or sys.maxsize), settings.rows
    how = {"budget": many, "criterion": settings.criterion, "model": settings.model}
    parts = [frame.slice(at, SHARD) for at in range(0, frame.height, SHARD)]
    ways: dict[str, DatasetStage] = {
        "random (mix)": Mix(total=many),
        "score: longest answers": Select(budget=many),
        **{f"distant {d}": Select(method="distant", distance=d, **how) for d in (0.1, 0.3, 0.5, 0.7, 0.8)},
        "k-center": Select(method="k-center", **how),
        "round-robin, 100 clusters": Select(method="round-robin", **how),
        "round-robin, 1,000 clusters": Select(method="round-robin", clusters=1000, **how),
    }
    space = Select(method="k-center", **how).space([Select(method="k-center", **how).sketch(part) for part in parts])
    for stage in ways.values():  # compiled and loaded
        small = frame.head(3000)
        stage.decide([stage.sketch(small)])
    print(f"{frame.height:,} rows, {many:,} chosen\n")
    print("| way | CPU s sketch | CPU s decide | chosen | mean | 5 % below | lowest | inside | answer characters |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, stage in ways.items():
        began = time.process_time()
        sketches = [stage.sketch(part) for part in parts]
        middle = time.process_time()
        decision = stage.decide(sketches)
        ended = time.process_time()
        kept = apply_decision(stage, frame, decision).kept["id"]
        places = frame.with_row_index("at").filter(pl.col("id").is_in(kept.implode()))["at"].to_list()
        seconds = f"{middle - began:.2f} | {ended - middle:.2f} | {len(places):,}"
        print(f"| {name} | {seconds} | {cover(frame, places, space)} |", flush=True)
    print(f"\npeak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
