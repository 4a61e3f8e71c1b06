"""A JSON list larger than memory should be: seconds and peak memory of reading it whole into conversations.

    python benchmarks/large_list.py --data ../shared/data/alpaca_data.json --mb 2000

The rows of the file are repeated into one list of so many megabytes, with a comma missing in its middle.
The reader runs in a process of its own; beside it, how much memory `json.load` of a tenth of the list takes.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def write_list(rows: list[object], path: Path, size: int) -> int:
    """How many rows stand in the list of about `size` bytes."""
    texts = [json.dumps(row, ensure_ascii=False).encode() for row in rows]
    block = b",\n".join(texts)
    written = count = 0
    with path.open("wb") as stream:
        stream.write(b"[")
        while written < size:
            comma = b"" if not written else b"\n" if written <= size // 2 < written + len(block) else b",\n"
            written += stream.write(comma + block)
            count += len(texts)
        stream.write(b"]")
    return count


def ours(path: str) -> None:
    """Read every row; print what came of them."""
    from sft_data.formats.ingest import read_unit, units
    from sft_data.sources.files import find_files
    from sft_data.sources.settings import Source

    source = Source(name="a", path=path, format="alpaca")
    began, kept, rejected = time.perf_counter(), 0, 0
    for unit in units(source, find_files(source)):
        for outcome in read_unit(unit, source, "alpaca"):
            kept, rejected = kept + outcome.kept.height, rejected + outcome.rejected.height
    report(began, f"{kept:,} conversations, {rejected} rejected")


def standard_library(path: str) -> None:
    """json.load, nothing else."""
    began = time.perf_counter()
    with Path(path).open(encoding="utf-8") as stream:
        report(began, f"{len(json.load(stream)):,} rows")


def report(began: float, told: str) -> None:
    """Print what was read, how long it took, and the most memory held."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(
        f"{told}; {time.perf_counter() - began:.1f} s, {usage.ru_utime + usage.ru_stime:.1f} CPU s, "
        f"peak {usage.ru_maxrss / 2**20:.2f} GiB"
    )


def main() -> None:
    """Write the lists and run the readers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/alpaca_data.json"))
    parser.add_argument("--mb", type=int, default=2000)
    parser.add_argument("--reader", choices=["ours", "json"])
    parser.add_argument("--file")
    options = parser.parse_args()
    if options.reader:
        (ours if options.reader == "ours" else standard_library)(options.file)
        return
    rows = json.loads(options.data.read_bytes())
    with tempfile.TemporaryDirectory() as folder:
        for size, reader in ((options.mb, "ours"), (options.mb // 10, "ours"), (options.mb // 10, "json")):
            path = Path(folder) / "list.json"
            count = write_list(rows, path, size * 10**6)
            if reader == "json":  # it cannot read past the missing comma
                path.write_bytes(path.read_bytes().replace(b"}\n{", b"},\n{"))
            print(f"{reader}, {path.stat().st_size / 1e6:,.0f} MB, {count:,} rows: ", end="", flush=True)
            subprocess.run([sys.executable, __file__, "--reader", reader, "--file", str(path)], check=True)


if __name__ == "__main__":
    main()
