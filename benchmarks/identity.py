"""The same million conversations built in several ways: is every byte of the version the same?

    python benchmarks/identity.py --rows 1000000 --ways 2x8192 1x3000 4x20000
    python benchmarks/identity.py --pipeline mine.yaml --ways 2x8192 2x100 ray

A way is WORKERSxSHARD_ROWS, or `ray` (two workers, shards of 8,192 rows). Each is built into a store of its own, from
the rows of `river.py` or by a pipeline of yours; then every file of the versions is hashed and compared, `build.json`
left out, which tells when and how long. Ends with exit code 1 where one differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

from river import PIPELINE, SHARED, perturbed

from sft_data.build import SHARD_ROWS, build
from sft_data.engine import LocalEngine
from sft_data.engine.ray import RayEngine
from sft_data.pipeline import load_pipeline


def main() -> None:
    """Build in each way; print each version's hash and what differs from the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--pipeline", type=Path, default=None, help="a pipeline file; default: the river over --rows")
    parser.add_argument("--ways", nargs="+", default=["2x8192", "1x3000"])
    parser.add_argument("--folder", type=Path, default=None, help="where to work; default: a temporary folder")
    options = parser.parse_args()
    first: dict[str, str] = {}
    differs = False
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        pipeline = options.pipeline or written(Path(folder), options.rows)
        for way in options.ways:
            began = time.perf_counter()
            files = built(pipeline, Path(folder) / "store", way)
            first = first or files
            others = sorted(name for name in first.keys() | files.keys() if first.get(name) != files.get(name))
            differs = differs or bool(others)
            whole = hashlib.sha256(json.dumps(sorted(files.items())).encode()).hexdigest()[:16]
            verdict = f"differs in {', '.join(others[:5])}" if others else "the same"
            print(f"{way:<10} {time.perf_counter() - began:7.1f} s  {len(files)} files  {whole}  {verdict}", flush=True)
    sys.exit(1 if differs else 0)


def written(folder: Path, rows: int) -> Path:
    """Write the rows and a pipeline over them."""
    data, pipeline = folder / "rows.jsonl", folder / "river.yaml"
    with data.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in perturbed(rows))
    pipeline.write_text(PIPELINE.format(data=data, tokenizer=SHARED / "tokenizers" / "gpt2_chatml"))
    return pipeline


def built(pipeline: Path, store: Path, way: str) -> dict[str, str]:
    """SHA-256 of every file of the version that is built in this way."""
    workers, shard_rows = (2, SHARD_ROWS) if way == "ray" else map(int, way.split("x"))
    with RayEngine(workers) if way == "ray" else LocalEngine(workers) as engine:
        result = build(load_pipeline(pipeline), store, engine=engine, shard_rows=shard_rows)
    path = Path(result.path)
    files = {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != "build.json"
    }
    shutil.rmtree(store)
    return files


if __name__ == "__main__":
    main()
