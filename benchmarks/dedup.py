"""Near-duplicate removal against its peers: CPU seconds on one thread from Parquet to removed ids, and what is removed.

    python benchmarks/dedup.py --rows 50000 200000 --data ../shared/data

Every tool runs in a process of its own on one thread and reads the same Parquet file. All judge the same
text, prompt and answer in one, at the same threshold by the same shingles (5 units; see sft_data/dedup/units.py);
`sft-data` is also timed with its default criterion, prompt and
answer each on its own. A removal counts as wrong where no row that the
tool kept is within the threshold, by exact Jaccard similarity; a sample of removals is checked in plain Python.
Tools that are not installed are left out: `pip install datasketch rensa datatrove`, here or in environments
whose interpreters are named by `--pythons`.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SHARD = 8192
ALONE = "\u0e00-\u0eff\u1000-\u11ff\u1780-\u17ff\u3040-\u318f\u3400-\u9fff\uac00-\ud7ff"
HAN = re.compile("[\u4e00-\u9fff]")
PARTS = (2, 3, 3, 4, 5, 5)  # halves of real rows that a new row is made of
UNIT = re.compile(rf"[{ALONE}]|[^\W{ALONE}]+")
ONE_THREAD = dict.fromkeys(
    ("POLARS_MAX_THREADS", "RAYON_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"
)


def shingles(text: str, n: int = 5) -> list[str]:
    """What the peers are given: the shingles as strings, as a user of theirs would make them."""
    units = UNIT.findall(text.lower())
    if len(units) < n:
        return [text.strip()]
    return [" ".join(units[at : at + n]) for at in range(len(units) - n + 1)]


# ------------------------------------------------------------------------------------------------- the corpus


def real_rows(data: Path) -> Iterator[tuple[str, str]]:
    """Prompt and answer of every row of the Alpaca-like JSON files and JSON lines under `data`."""
    for path in sorted(data.rglob("*.json*")):
        text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text(encoding="utf-8")
        try:
            rows = json.loads(text)
        except json.JSONDecodeError:
            rows = [json.loads(line) for line in text.splitlines() if line.startswith("{") and line.endswith("}")]
        for row in rows:
            asked = row.get("instruction") or row.get("question") if isinstance(row, dict) else None
            said = row.get("output") or row.get("answer") if isinstance(row, dict) else None
            if isinstance(asked, str) and isinstance(said, str):
                yield (f"{asked}\n{row['input']}" if row.get("input") else asked), said


def changed(draw: random.Random, text: str) -> str:
    """A near copy: words or characters replaced, removed or swapped, a cut tail, another case, other punctuation."""
    pieces = re.findall(r"[\u3040-\u9fff]|\s*[^\s\u3040-\u9fff]+", text) or [text]
    kind, many = draw.randrange(7), max(1, int(len(pieces) * draw.choice((0.0, 0.02, 0.05))))
    if kind == 0:
        return text.upper() if draw.random() < 0.5 else text.lower()
    if kind == 1:
        return re.sub(r"[,.;:!?，。；]", lambda found: "" if draw.random() < 0.5 else found[0], text)
    if kind == 2:
        return "".join(pieces[: max(1, len(pieces) - int(len(pieces) * draw.choice((0.05, 0.1, 0.2))))])
    for _ in range(many):
        at, other = draw.randrange(len(pieces)), draw.randrange(len(pieces))
        if kind < 5:
            pieces[at] = pieces[other]
        elif kind == 5:
            pieces[at] = ""
        else:
            pieces[at], pieces[other] = pieces[other], pieces[at]
    return "".join(pieces)


def half(draw: random.Random, text: str) -> str:
    """The first or the second half."""
    return text[: len(text) // 2] if draw.random() < 0.5 else text[len(text) // 2 :]


def make_corpus(data: Path, rows: int, path: Path) -> None:
    """Real rows (half of all at most), new rows of halves of two to five real ones of one language, near copies (45 %).

    A million of them are 614 MB of text.
    """
    import polars as pl

    draw = random.Random(rows)
    real = list(real_rows(data))
    real = draw.sample(real, min(len(real), rows // 2))
    alike = [[row for row in real if bool(HAN.search(row[1])) == han] for han in (False, True)]
    pairs = list(real)
    while len(pairs) < rows * 0.55:
        pool = alike[draw.random() < len(alike[1]) / len(real)]
        parts = [draw.choice(pool) for _ in range(draw.choice(PARTS))]
        pairs.append(tuple("\n".join(half(draw, part[side]) for part in parts) for side in (0, 1)))  # type: ignore[arg-type]
    while len(pairs) < rows:
        asked, said = pairs[draw.randrange(int(rows * 0.55))]
        pairs.append((changed(draw, asked) if draw.random() < 0.5 else asked, changed(draw, said)))
    frame = pl.DataFrame(pairs, schema=["asked", "said"], orient="row").select(
        id=pl.int_range(pl.len()).cast(pl.String),
        text=pl.concat_str("asked", "said", separator="\n"),
        asked="asked",
        said="said",
    )
    frame.select(
        "id", "text",
        whole=pl.concat_list(turn("user", "text")),
        messages=pl.concat_list(turn("user", "asked"), turn("assistant", "said")),
    ).write_parquet(path, row_group_size=SHARD)  # fmt: skip


def turn(role: str, column: str) -> object:
    """One message of the river's table."""
    import polars as pl

    sys.path.insert(0, str(ROOT))
    from sft_data.schema import MESSAGE

    given = {"role": pl.lit(role), "content": pl.col(column)}
    return pl.struct(
        given.get(field.name, pl.lit(None)).cast(field.dtype).alias(field.name) for field in MESSAGE.fields
    )


# ------------------------------------------------------------------------------------------------- the tools


def run_sft_data(path: Path, threshold: float, criterion: str, column: str) -> list[str]:
    """As a build does it: sketches shard by shard, written and memory-mapped again, then the decision."""
    import polars as pl
    import pyarrow.parquet as pq

    sys.path.insert(0, str(ROOT))
    from sft_data.cells import map_arrow, write_arrow
    from sft_data.dedup.near import NearDedup

    stage = NearDedup.model_validate({"threshold": threshold, "criterion": criterion, "same_numbers": False})
    folder = path.parent / f"sketches-{os.getpid()}"
    folder.mkdir()
    try:
        for number, batch in enumerate(
            pq.ParquetFile(path, pre_buffer=False).iter_batches(SHARD, columns=["id", column], use_threads=False)
        ):
            frame = pl.from_arrow(batch)
            assert isinstance(frame, pl.DataFrame)  # noqa: S101
            shard = frame.select("id", messages=column, tools=pl.lit(None, dtype=pl.String))
            write_arrow(stage.sketch(shard), folder / f"{number:05}.arrow")
        sketches = [map_arrow(file) for file in sorted(folder.iterdir())]
        decision = stage.decide(sketches)
        return pl.concat([sketch["id"] for sketch in sketches]).gather(decision.rejected["row"]).to_list()
    finally:
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


def run_datasketch(path: Path, threshold: float) -> list[str]:
    """The fast way its documentation shows: xxhash-like 32-bit hashes, bulk signatures, query before insert."""
    import zlib

    import polars as pl
    from datasketch import MinHash, MinHashLSH

    frame = pl.read_parquet(path, columns=["id", "text"])
    index = MinHashLSH(threshold=threshold, num_perm=128)
    tokens = ([shingle.encode() for shingle in set(shingles(text))] for text in frame["text"])
    removed = []
    for name, sign in zip(frame["id"], MinHash.generator(tokens, num_perm=128, hashfunc=zlib.crc32), strict=True):
        if index.query(sign):
            removed.append(name)
        else:
            index.insert(name, sign, check_duplication=False)
    return removed


def run_rensa(path: Path, threshold: float) -> list[str]:
    """Its deduplicator: keeps the first, unverified."""
    import polars as pl
    from rensa import RMinHash, RMinHashDeduplicator

    frame = pl.read_parquet(path, columns=["id", "text"])
    bands = 16 if threshold >= 0.75 else 32
    index = RMinHashDeduplicator(threshold=threshold, num_perm=128, use_lsh=True, num_bands=bands)
    removed = []
    for name, text in zip(frame["id"], frame["text"], strict=True):
        sign = RMinHash(num_perm=128, seed=42)
        sign.update(shingles(text))
        if index.is_duplicate(name, sign):
            removed.append(name)
        else:
            index.add(name, sign)
    return removed


def run_text_dedup(path: Path, threshold: float) -> list[str]:
    """Its command. It is given the units between blanks, so that its own splitting finds the same shingles."""
    import polars as pl
    from datasets import load_from_disk

    folder = path.parent / f"text-dedup-{os.getpid()}"
    folder.mkdir()
    frame = pl.read_parquet(path, columns=["id", "text"])
    spaced = [" ".join(UNIT.findall(text.lower())) for text in frame["text"]]
    frame.with_columns(pl.Series("text", spaced)).write_parquet(folder / "spaced.parquet")
    settings = {
        "--path": "parquet", "--data_files": folder / "spaced.parquet", "--split": "train", "--column": "text",
        "--cache_dir": folder / "cache", "--use_auth_token": False, "--num_proc": 1, "--output": folder / "out",
        "--ngram": 5, "--num_perm": 128, "--threshold": threshold, "--hash_func": "xxh3", "--hash_bits": 32,
        "--min_length": 1,
    }  # fmt: skip
    arguments = [str(part) for pair in settings.items() for part in pair]
    subprocess.run([sys.executable, "-m", "text_dedup.minhash", *arguments], check=True, capture_output=True)
    kept = set(load_from_disk(str(folder / "out"))["id"])
    shutil.rmtree(folder)
    return [name for name in frame["id"] if name not in kept]


def run_datatrove(path: Path, threshold: float) -> list[str]:
    """Its four steps with its own bands (14 of 8, which find half of the pairs at 0.72), in one process.

    Like text-dedup it is given the units between blanks, and a tokenizer that splits there.
    """
    import numpy as np
    import polars as pl
    from datatrove.data import Document
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.utils.text import TextNormConfig
    from datatrove.utils.word_tokenizers import WordTokenizer

    class Blanks(WordTokenizer):
        def word_tokenize(self, text: str) -> list[str]:
            return text.split()

        def sent_tokenize(self, text: str) -> list[str]:
            return [text]

        def span_tokenize(self, text: str) -> list[tuple[int, int]]:
            return [(0, len(text))]

    del threshold  # it follows from the bands
    folder = path.parent / f"datatrove-{os.getpid()}"
    frame = pl.read_parquet(path, columns=["id", "text"])
    told = zip(frame["id"], frame["text"], strict=True)
    documents = (Document(text=" ".join(UNIT.findall(text.lower())), id=name) for name, text in told)
    config = MinhashConfig(norm_config=TextNormConfig(norm_numbers=False))
    signs, pairs, gone = (str(folder / name) for name in ("signatures", "buckets", "remove"))
    MinhashDedupSignature(signs, config, language=Blanks()).run(documents, 0, 1)
    for bucket in range(config.num_buckets):
        MinhashDedupBuckets(signs, pairs, config=config).run(None, bucket, config.num_buckets)
    MinhashDedupCluster(pairs, gone, config).run(None, 0, 1)
    removed = np.fromfile(folder / "remove" / "000000.remove", dtype="<u4")
    shutil.rmtree(folder)
    return frame["id"].gather(removed).to_list()


TOOLS: dict[str, Callable[[Path, float], list[str]]] = {
    "sft-data": lambda path, threshold: run_sft_data(path, threshold, "conversation", "whole"),
    "sft-data, prompt and answer": lambda path, threshold: run_sft_data(
        path, threshold, "prompt-and-answer", "messages"
    ),
    "datasketch": run_datasketch,
    "rensa": run_rensa,
    "text-dedup": run_text_dedup,
    "datatrove": run_datatrove,
}
NEEDS = {"datasketch": "datasketch", "rensa": "rensa", "text-dedup": "text_dedup", "datatrove": "datatrove"}


# ------------------------------------------------------------------------------------------------- measuring


def measure(tool: str, python: str, path: Path, threshold: float) -> dict[str, Any] | None:
    """Run one tool in a process of its own; its CPU seconds, wall seconds, peak memory and removed ids."""
    out = path.parent / "removed.json"
    out.unlink(missing_ok=True)
    command = [python, __file__, "--worker", tool, "--file", str(path), "--threshold", str(threshold)]
    started = time.perf_counter()
    process = subprocess.Popen([*command, "--out", str(out)], env=os.environ | ONE_THREAD)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        print(f"{tool}: failed with exit code {process.returncode}", file=sys.stderr)
        return None
    return {
        "tool": tool,
        "cpu": usage.ru_utime + usage.ru_stime,
        "wall": time.perf_counter() - started,
        **json.loads(out.read_text()),
    }


def peak_memory() -> float:
    """GB that this process, or one that it started, had in memory at most (Linux). Not its parent's, as in wait4."""
    status = Path("/proc/self/status").read_text()
    own = int(re.findall(r"VmHWM:\s*(\d+) kB", status)[0])
    return max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1e6


def wrong_removals(path: Path, removed: list[str], threshold: float, sample: int = 300) -> tuple[int, int]:
    """Of a sample of removals, how many are not within the threshold of any row that was kept."""
    import polars as pl

    texts = dict(pl.read_parquet(path, columns=["id", "text"]).iter_rows())
    gone = set(removed)
    asked = random.Random(1).sample(removed, min(sample, len(removed)))
    sets = {name: set(shingles(texts[name])) for name in asked}
    holders: dict[str, list[str]] = {}
    for name, each in sets.items():
        for shingle in each:
            holders.setdefault(shingle, []).append(name)
    right = set()
    for name, text in texts.items():
        if name in gone:
            continue
        own = set(shingles(text))
        shared: dict[str, int] = {}
        for shingle in own:
            for other in holders.get(shingle, ()):
                shared[other] = shared.get(other, 0) + 1
        right |= {o for o, many in shared.items() if many / (len(own) + len(sets[o]) - many) >= threshold - 0.02}
    return len(asked) - len(right), len(asked)


def interpreter(tool: str, pythons: list[str]) -> str | None:
    """The first interpreter in which the tool can be imported; this one for the project's own."""
    if tool not in NEEDS:
        return sys.executable
    asked = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({NEEDS[tool]!r}) is None)"
    found = (each for each in pythons if subprocess.run([each, "-c", asked], check=False).returncode == 0)
    return next(found, None)


def main() -> None:
    """Run all tools on corpora of each size and print CPU seconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[50_000])
    parser.add_argument("--threshold", type=float, default=0.8)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=Path("/tmp/sft-data-bench"))  # noqa: S108
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--pythons", nargs="*", default=[], help="interpreters of environments that hold the peers")
    for name in ("--worker", "--file", "--out"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        removed = TOOLS[args.worker](Path(args.file), args.threshold)
        Path(args.out).write_text(json.dumps({"removed": removed, "rss": peak_memory()}))
        return
    args.work.mkdir(parents=True, exist_ok=True)
    for rows in args.rows:
        path = args.work / f"corpus-{rows}.parquet"
        if not path.exists():
            make_corpus(args.data, rows, path)
        pythons = {tool: interpreter(tool, [sys.executable, *args.pythons]) for tool in args.tools}
        compare(path, args.threshold, {tool: python for tool, python in pythons.items() if python})


def compare(path: Path, threshold: float, tools: dict[str, str]) -> None:
    """Print one table: every tool on one corpus."""
    import polars as pl

    megabytes = pl.scan_parquet(path).select(pl.col("text").str.len_bytes().sum()).collect().item() / 1e6
    rows = pl.scan_parquet(path).select(pl.len()).collect().item()
    print(f"\n{rows:,} rows, {megabytes:.0f} MB of text, threshold {threshold}, one thread")
    print(f"{'tool':30}{'CPU s':>8}{'wall s':>8}{'peak GB':>9}{'removed':>10}{'wrong':>12}{'x slower':>10}")
    first = None
    for tool, python in tools.items():
        found = measure(tool, python, path, threshold)
        if found is None:
            continue
        first = first or found["cpu"]
        wrong, asked = wrong_removals(path, found["removed"], threshold) if "answer" not in tool else (0, 0)
        told = f"{wrong}/{asked}" if asked else "-"
        print(
            f"{tool:30}{found['cpu']:8.1f}{found['wall']:8.1f}{found['rss']:9.2f}{len(found['removed']):10,}"
            f"{told:>12}{found['cpu'] / first:10.1f}"
        )


if __name__ == "__main__":
    main()
