"""Semantic duplicates by TF-IDF: CPU seconds on one thread, peak memory, and what all pairs compared would have found.

    python benchmarks/semantic.py ../shared/data/alpaca/alpaca_data.json      # JSON list of instruction, input, output
    python benchmarks/semantic.py corpus-1000000.parquet                      # a corpus of benchmarks/dedup.py
    python benchmarks/semantic.py FILE --planted 2000 --sample 500

`--planted` adds that many copies with two words of each turn swapped, and tells how many of them were removed.
`--sample` takes rows by lot that stayed or went, and counts by the exact cosines with all others, in SciPy and without
any index, how many decisions are right: no kept row before it is near, or the twin is the nearest of them.

    python benchmarks/semantic.py --vectors 50000 200000 --threshold 0.9

takes vectors like those of a sentence-embedding model instead (384 bytes, axes of falling length, half of the rows
near another one), and times the decision; with `--all` also by comparing all with all, which has to decide the same.
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
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
from dedup import ONE_THREAD, SHARD, turn  # noqa: E402

os.environ.update(ONE_THREAD)

import numpy as np  # noqa: E402
import polars as pl  # noqa: E402

from sft_data.dedup.cosines import Bound  # noqa: E402
from sft_data.dedup.semantic import SemanticDedup, _greedy, _Side  # noqa: E402
from sft_data.dedup.vectors import quantised, rarity  # noqa: E402


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


def vectors_like_a_models(rows: int) -> np.ndarray:
    """The spectrum is near that of all-MiniLM-L6-v2 on prompts of Alpaca: 64 of 384 axes hold three fifths."""
    chance = np.random.default_rng(rows)
    axes = (np.arange(384) + 6.0) ** -0.5
    first = rows - rows // 2
    made = np.empty((rows, 384), dtype=np.int8)
    for at in (*range(0, first, SHARD), *range(first, rows, SHARD)):
        end = min(at + SHARD, first if at < first else rows)
        new = chance.normal(size=(end - at, 384)) * axes
        if at >= first:  # turned by up to 35 degrees from one of the first half
            old = made[chance.integers(0, first, end - at)].astype(np.float64)
            old *= np.linalg.norm(new, axis=1, keepdims=True) / np.linalg.norm(old, axis=1, keepdims=True)
            new = old + chance.uniform(0, 0.7, (end - at, 1)) * new
        made[at:end] = quantised(new)
    return made


def by_vectors(sizes: list[int], threshold: float, *, compare: bool) -> None:
    """One JSON object a size. Prompts and answers have the same vectors, so that every near prompt is looked at."""
    for rows in sizes:
        vectors = vectors_like_a_models(rows)
        told: dict[str, Any] = {"rows": rows, "threshold": threshold}
        outcomes = []
        for name, near in (("cpu_s", Bound.near), ("all_with_all_cpu_s", lambda *_: None))[: 1 + compare]:
            with patch.object(Bound, "near", near):
                begun = time.process_time()
                sides = [_Side(vectors, np.zeros(rows, dtype=np.uint64)) for _ in range(2)]
                twin, score = np.full(rows, -1, dtype=np.int64), np.zeros(rows)
                _greedy(sides, np.arange(rows), threshold, twin, score)
                told[name] = round(time.process_time() - begun, 1)
            outcomes.append(twin)
        told |= {
            "removed": int((outcomes[0] >= 0).sum()),
            "the_same": all((outcomes[0] == each).all() for each in outcomes),
        }
        told["peak_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)
        print(json.dumps(told), flush=True)


def main() -> None:
    """Print one JSON object of what was measured."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("file", type=Path, nargs="?")
    asked.add_argument("--vectors", type=int, nargs="+", default=[])
    asked.add_argument("--all", action="store_true")
    asked.add_argument("--planted", type=int, default=0)
    asked.add_argument("--sample", type=int, default=0)
    asked.add_argument("--threshold", type=float, default=0.7)
    given = asked.parse_args()
    if given.vectors:
        by_vectors(given.vectors, given.threshold, compare=given.all)
        return
    if given.file is None:
        asked.error("a file or --vectors is needed")
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
