"""Reading and normalising against its peers: CPU seconds on one thread and peak memory, from file to conversations.

    python benchmarks/read.py --data ../shared/data/alpaca_data.json --mb 1000 --llama-factory-python PYTHON

PYTHON is that of an environment in which LLaMA-Factory is installed; without it, its row says so. Two inputs: the file
as it is (a JSON list), and its rows repeated to so many megabytes of JSON Lines. Each contender runs in a process of
its own, imports first and reads a tiny file once before the clock starts. `sft-data` does the whole ingestion: places,
ids, hashes, rejections. The floors only parse: they make no conversations.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ONE_THREAD = dict.fromkeys(("POLARS_MAX_THREADS", "RAYON_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")

LLAMA_FACTORY = "LLaMA-Factory, its converter"


def sft_data(path: str) -> int:
    """The whole ingestion: conversations, ids, hashes, rejections."""
    from sft_data.formats.ingest import read_unit, units
    from sft_data.sources.files import find_files
    from sft_data.sources.settings import Source

    source = Source(name="a", path=path, format="alpaca")
    outcomes = (out for unit in units(source, find_files(source)) for out in read_unit(unit, source, "alpaca"))
    return sum(outcome.kept.height for outcome in outcomes)


def conversation(row: dict[str, Any]) -> dict[str, Any]:
    """What a user of datasets writes: one Python call per row."""
    prompt = row["instruction"] + ("\n" + row["input"] if row["input"] else "")
    return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": row["output"]}]}


def datasets_map(path: str) -> int:
    """load_dataset, then map, without a cache from before."""
    import datasets

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as cache:
        rows = datasets.load_dataset("json", data_files=path, split="train", cache_dir=cache)
        return len(rows.map(conversation, remove_columns=rows.column_names))


def llama_factory(path: str) -> int:
    """LLaMA-Factory's loading of a file: load_dataset, then its Alpaca converter through its own align_dataset."""
    import types
    from importlib.machinery import ModuleSpec

    try:
        import torchaudio  # noqa: F401
    except (ImportError, OSError):  # it only reads sound with it
        sys.modules["torchaudio"] = types.ModuleType("torchaudio")
        sys.modules["torchaudio"].__spec__ = ModuleSpec("torchaudio", None)
    import datasets
    from llamafactory.data.converter import align_dataset
    from llamafactory.data.parser import DatasetAttr

    datasets.disable_progress_bars()
    attributes = DatasetAttr("file", "alpaca")
    data = types.SimpleNamespace(streaming=False, preprocessing_num_workers=None, overwrite_cache=True, media_dir="")
    training = types.SimpleNamespace(local_process_index=0)
    with tempfile.TemporaryDirectory() as cache:
        rows = datasets.load_dataset("json", data_files=path, split="train", cache_dir=cache)
        return len(align_dataset(rows, attributes, data, training))


def standard_library(path: str) -> int:
    """The json module and one Python call per row."""
    text = Path(path)
    if path.endswith(".json"):
        return len([conversation(row) for row in json.loads(text.read_bytes())])
    with text.open("rb") as stream:
        return sum(len(conversation(json.loads(line))) for line in stream)


def orjson_floor(path: str) -> int:
    """Parsing alone, by orjson."""
    import orjson

    text = Path(path)
    if path.endswith(".json"):
        return len(orjson.loads(text.read_bytes()))
    with text.open("rb") as stream:
        return sum(1 for line in stream if orjson.loads(line))


def polars_floor(path: str) -> int:
    """Parsing alone, by polars."""
    import polars as pl

    return (pl.read_json(path) if path.endswith(".json") else pl.read_ndjson(path)).height


def pyarrow_floor(path: str) -> int:
    """Parsing alone, by pyarrow."""
    import pyarrow.json as pj

    if path.endswith(".json"):
        raise SystemExit("pyarrow reads no lists")
    return int(pj.read_json(path).num_rows)


CONTENDERS: dict[str, Callable[[str], int]] = {
    "sft-data": sft_data,
    "datasets, load_dataset + map": datasets_map,
    LLAMA_FACTORY: llama_factory,
    "json + a Python converter": standard_library,
    "floor: orjson": orjson_floor,
    "floor: polars": polars_floor,
    "floor: pyarrow.json": pyarrow_floor,
}


def measure(name: str, path: str, tiny: str) -> None:
    """Run one contender in this process and print what it took."""
    read = CONTENDERS[name]
    read(tiny)
    start = time.process_time()
    rows = read(path)
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"rows": rows, "seconds": seconds, "peak": peak}))


def compare(path: Path, tiny: Path, llama_factory_python: str | None) -> None:
    """One table for one file."""
    print(f"\n{path.name}, {path.stat().st_size / 1e6:.0f} MB")
    ours = 0.0
    for name in CONTENDERS:
        python = llama_factory_python if name == LLAMA_FACTORY else sys.executable
        if python is None:
            print(f"  {name:32} not measured: --llama-factory-python names no Python that has it")
            continue
        command = [python, __file__, "--one", name, str(path), str(tiny)]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | ONE_THREAD, check=False)
        if done.returncode:
            print(f"  {name:32} {(done.stderr.strip().splitlines() or ['failed'])[-1][:80]}")
            continue
        told = json.loads(done.stdout.splitlines()[-1])
        ours = ours or told["seconds"]
        ratio = told["seconds"] / ours
        print(
            f"  {name:32} {told['seconds']:7.2f} CPU s {ratio:6.2f} x {told['peak']:6.2f} GiB {told['rows']:>9,} rows"
        )


def repeated(rows: list[dict[str, Any]], target: Path, size: int) -> Path:
    """JSON Lines of at least so many bytes."""
    block = "".join(json.dumps(row) + "\n" for row in rows).encode()
    with target.open("wb") as stream:
        for _ in range(max(1, -(-size // len(block)))):
            stream.write(block)
    return target


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/alpaca_data.json"))
    parser.add_argument("--mb", type=int, default=1000)
    parser.add_argument("--llama-factory-python", help="Python of an environment that has LLaMA-Factory")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        measure(*options.one)
        return
    rows = json.loads(options.data.read_bytes())
    with tempfile.TemporaryDirectory() as folder:
        tiny = Path(folder, "tiny.json")
        tiny.write_text(json.dumps(rows[:20]))
        compare(options.data, tiny, options.llama_factory_python)
        lines = repeated(rows[:20], Path(folder, "tiny.jsonl"), 1)
        many = repeated(rows, Path(folder, "repeated.jsonl"), options.mb * 10**6)
        compare(many, lines, options.llama_factory_python)


if __name__ == "__main__":
    main()
