"""Many small files: CPU seconds of building the same rows from one file, a folder, a zip and a tar.gz of many.

    python benchmarks/members.py --data ../shared/data/alpaca_data.json --members 5000

The first 50,000 rows are written ten a file. Each build is a process of its own, with one worker and a fresh store:
reading, `repair-text`, `exact-dedup`, `answer-length`, the split and the published version.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

PIPELINE = """name: members
sources: [{{name: a, path: {path}, format: alpaca}}]
stages: [{{kind: repair-text}}, {{kind: exact-dedup}}, {{kind: answer-length}}]
"""


def texts(data: Path, members: int) -> Iterator[tuple[str, bytes]]:
    """Name and content of each member: JSON Lines, fifty folders."""
    rows = json.loads(data.read_bytes())[:50_000]
    per = -(-len(rows) // members)
    for number in range(members):
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows[number * per : (number + 1) * per]]
        yield f"{number * 50 // members:02d}/part-{number:05d}.jsonl", "".join(lines).encode()


def write(folder: Path, data: Path, members: int) -> list[Path]:
    """The same rows in four forms."""
    found = list(texts(data, members))
    (folder / "one.jsonl").write_bytes(b"".join(text for _, text in found))
    with (
        zipfile.ZipFile(folder / "many.zip", "w", zipfile.ZIP_DEFLATED) as archive,
        tarfile.open(folder / "many.tar.gz", "w:gz") as tar,
    ):
        for name, text in found:
            path = folder / "many" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text)
            archive.writestr(name, text)
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text))
    return [folder / name for name in ("one.jsonl", "many", "many.zip", "many.tar.gz")]


def main() -> None:
    """Write, build, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a JSON list of Alpaca rows")
    parser.add_argument("--members", type=int, default=5000, help="how many files the rows are cut into")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        for number, path in enumerate(write(Path(place), options.data, options.members)):
            pipeline = Path(place) / f"{number}.yaml"
            pipeline.write_text(PIPELINE.format(path=path))
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            command = [sys.executable, "-m", "sft_data.cli", "build", str(pipeline), "--workers", "1", "--json"]
            done = subprocess.run(
                [*command, "--store", f"{place}/store-{number}"], check=True, capture_output=True, text=True
            )
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            told = json.loads(done.stdout)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            stages = ", ".join(f"{stage['step'].split(':')[-1]} {stage['seconds']:.1f}" for stage in told["stages"])
            print(f"{path.name:12s} {told['rows_kept']:,} rows: {cpu:6.1f} CPU s ({stages} s of wall)")


if __name__ == "__main__":
    main()
