"""Semantic duplicates by TF-IDF: CPU seconds on one thread, peak memory, and what all pairs compared would have found.

    python benchmarks/semantic.py ../shared/data/alpaca/alpaca_data.json      # JSON list of instruction, input, output
    python benchmarks/semantic.py corpus-1000000.parquet                      # a corpus of benchmarks/dedup.py
    python benchmarks/semantic.py FILE --planted 2000 --sample 500

`--planted` adds that many copies with two words of each turn swapped, and tells how many of them were removed.
`--sample` takes rows by lot that stayed or went, and counts by the exact cosines with all others, in SciPy and without
any index, how many decisions are right: no kept row before it is near, or the twin is the nearest of them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
from dedup import ONE_THREAD, SHARD, turn  # noqa: E402

os.environ.update(ONE_THREAD)

import numpy as np  # noqa: E402
import polars as pl  # noqa: E402

from sft_data.dedup.semantic import SemanticDedup  # noqa: E402
from sft_data.dedup.vectors import rarity  # noqa: E402


def swapped(draw: random.Random, text: str) -> str:
    """Two of the text's words (characters in Chinese and the like) change places."""
    pieces = re.findall(r"[\u3040-\u9fff]|\s+|[^\s\u3040-\u9fff]+", text)
    words = [at for at, piece in enumerate(pieces) if not piece.isspace()]
    if len(words) > 1:
        one, two = draw.sample(words, 2)
        pieces[one], pieces[two] = pieces[two], pieces[one]
    return "".join(pieces)


def rows_of(path: Path, planted: int) -> pl.DataFrame:
    """Conversations of id and messages; the planted ones last, with ids `planted-<id of the original>`."""
    if path.suffix == ".parquet":
        return pl.read_parquet(path, columns=["id", "messages"]).with_columns(tools=pl.lit(None, dtype=pl.String))
    pairs = []
    for at, row in enumerate(json.loads(path.read_text(encoding="utf-8"))):
        asked = f"{row['instruction']}\n{row['input']}" if row.get("input") else row["instruction"]
        pairs.append((str(at), asked, row["output"]))
    draw = random.Random(7)
    long = [pair for pair in pairs if len(pair[1].split()) > 3 and len(pair[2].split()) > 3]
    for at, asked, said in draw.sample(long, planted):
        pairs.append((f"planted-{at}", swapped(draw, asked), swapped(draw, said)))
    frame = pl.DataFrame(pairs, schema=["id", "asked", "said"], orient="row")
    messages = pl.concat_list(turn("user", "asked"), turn("assistant", "said"))
    return frame.select("id", messages=messages, tools=pl.lit(None, dtype=pl.String))


def right_ones(sketches: list[pl.DataFrame], removed: dict[int, str], ids: pl.Series, stage: Any, many: int) -> int:  # noqa: ANN401
    """Of `many` rows, those whose decision is that of comparing with every kept row before it."""
    from scipy.sparse import csr_matrix

    sides = []
    for name in ("prompt", "answer"):
        sets = rarity([sketch[name] for sketch in sketches])
        numbers = np.concatenate([sketch[f"numbers_{name}"].to_numpy() for sketch in sketches])
        _, columns = np.unique(sets.values, return_inverse=True)
        weights = sets.weights[sets.values & np.uint32(len(sets.weights) - 1)].astype(np.float64)
        sides.append((csr_matrix((weights, columns, sets.offsets)), np.sqrt(sets.norms.astype(np.float64)), numbers))
    kept = np.ones(len(ids), dtype=bool)
    kept[list(removed)] = False
    draw, right = random.Random(11), 0
    gone = draw.sample(sorted(removed), min(len(removed), many // 2))
    stay = draw.sample(np.flatnonzero(kept).tolist(), many - len(gone))
    for row in gone + stay:
        near = np.ones(row)
        for matrix, lengths, numbers in sides:
            found = np.asarray((matrix[:row] @ matrix[row].T).todense()).ravel()
            found = found / np.maximum(lengths[:row] * lengths[row], 1.0)
            found[(lengths[:row] == 0) & (lengths[row] == 0)] = 1.0
            found[numbers[:row] != numbers[row]] = 0.0
            near = np.minimum(near, np.round(found, 9))
        near[~kept[:row]] = 0.0
        if sides[0][1][row] == 0 or not row or near.max() < stage.threshold:
            right += row not in removed
        else:
            right += removed.get(row) == ids[int(near.argmax())]
    return right


def main() -> None:
    """Print one JSON object of what was measured."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("file", type=Path)
    asked.add_argument("--planted", type=int, default=0)
    asked.add_argument("--sample", type=int, default=0)
    asked.add_argument("--threshold", type=float, default=0.7)
    given = asked.parse_args()
    stage = SemanticDedup(threshold=given.threshold)
    frame = rows_of(given.file, given.planted)
    warm = [stage.sketch(frame[:100])]
    stage.decide(warm)  # compiles, or loads what was compiled
    begun = time.process_time()
    sketches = [stage.sketch(frame[at : at + SHARD]) for at in range(0, frame.height, SHARD)]
    ids = frame["id"]
    del frame
    sketched = time.process_time()
    found = stage.decide(sketches).rejected
    decided = time.process_time()
    told = {
        "rows": len(ids),
        "removed": found.height,
        "sketch_cpu_s": round(sketched - begun, 1),
        "decide_cpu_s": round(decided - sketched, 1),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    }
    if given.planted:
        removed_ids = ids.gather(found["row"])
        pairs = dict(zip(removed_ids, found["twin"], strict=True))
        told["planted_removed"] = sum(each.startswith("planted-") for each in pairs)
        told["planted_by_their_original"] = sum(f"planted-{twin}" == each for each, twin in pairs.items())
    if given.sample:
        removed = dict(zip(found["row"].to_list(), found["twin"].to_list(), strict=True))
        told["sampled"], told["right"] = given.sample, right_ones(sketches, removed, ids, stage, given.sample)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
