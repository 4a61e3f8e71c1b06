"""Throws damaged files at the readers. python -m tests.formats.fuzz 20000 [reader ...] prints what each did.

Each input is a good file with some of its bytes changed, cut, doubled or moved; the seed is its number. Whatever
comes: no exception, no hang, no row without a fate, no identity twice.

Every reader was run with 20,000 inputs on 22 November 2026, nothing found at the end (40 to 230 s each). What it found
before was mended: a memory map of a damaged Arrow file ended the process, a zip that asks for an unknown version was
an exception.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import random
import sys
import tarfile
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from sft_data.errors import SourceError
from sft_data.formats.ingest import CODES, read_unit, units
from sft_data.sources.files import find_files
from sft_data.sources.settings import Limits, Source

ROWS = [
    {"instruction": f'say "{i}"', "input": "" if i % 3 else "in\nput", "output": "é你🙂\\" * (i % 4) + "done"}
    for i in range(8)
]
CHATS = [
    {
        "conversations": [
            {"from": "human", "value": f"hi {i}"},
            {"from": "function_call", "value": '{"name": "f", "arguments": {"x": [1, {"y": null}]}}'},
            {"from": "observation", "value": "[]"},
            {"from": "gpt", "value": "<think>a</think>b"},
        ],
        "tools": "[]",
        "id": i,
    }
    for i in range(4)
]


def lines(rows: list[dict[str, object]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def table() -> bytes:
    cells = [",".join('"' + row[key].replace('"', '""') + '"' for key in row) for row in ROWS]
    return ("instruction,input,output\n" + "\n".join(cells) + "\n").encode()


CHINESE = [{"instruction": f"第{i}个问题是什么？", "input": "", "output": "这是一个回答。" * (i % 3)} for i in range(8)]


def columns(kind: str) -> bytes:
    """The rows as a file of Parquet, of Arrow, or as the stream that `save_to_disk` writes."""
    rows, buffer = pa.Table.from_pylist(ROWS), io.BytesIO()
    if kind == "parquet":
        pq.write_table(rows, buffer)
    else:
        make = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
        with make(buffer, rows.schema) as writer:
            writer.write_table(rows)
    return buffer.getvalue()


def archive(kind: str) -> bytes:
    """Lines, a table and a compressed list in one archive."""
    members = {
        "x.jsonl": lines(ROWS[:4]),
        "d/y.parquet": columns("parquet"),
        "z.json.gz": gzip.compress(b"[1]", mtime=0),
    }
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, data in members.items():
                packed.writestr(zipfile.ZipInfo(name), data)
        return buffer.getvalue()
    with tarfile.open(fileobj=buffer, mode="w") as tape:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tape.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


READERS: dict[str, tuple[str, str, Callable[[], bytes]]] = {
    "lines": ("a.jsonl", "alpaca", lambda: lines(ROWS)),
    "chat lines": ("a.jsonl", "sharegpt", lambda: lines(CHATS)),
    "list": ("a.json", "alpaca", lambda: json.dumps(ROWS, ensure_ascii=False).encode()),
    "pretty list": ("a.json", "sharegpt", lambda: json.dumps(CHATS, indent=2).encode()),
    "wrapped": ("a.json", "alpaca", lambda: json.dumps({"version": "1", "data": ROWS, "test": ROWS[:2]}).encode()),
    "values": ("a.json", "alpaca", lambda: b"\n".join(json.dumps(row, indent=1).encode() for row in ROWS)),
    "utf-16": ("a.jsonl", "alpaca", lambda: lines(ROWS).decode().encode("utf-16")),
    "gzip": ("a.jsonl.gz", "alpaca", lambda: gzip.compress(lines(ROWS), mtime=0)),
    "bz2": ("a.json.bz2", "alpaca", lambda: bz2.compress(json.dumps(ROWS).encode())),
    "csv": ("a.csv", "alpaca", table),
    "tsv": (
        "a.tsv",
        "alpaca",
        lambda: table().replace(b'","', b'"\t"').replace(b"n,i", b"n\ti").replace(b"t,o", b"t\to"),
    ),
    "yaml": ("a.yaml", "alpaca", lambda: json.dumps(ROWS[:3], indent=1).encode()),
    "gb18030": ("a.jsonl", "alpaca", lambda: lines(CHINESE).decode().encode("gb18030")),
    "zstd": ("a.jsonl.zst", "alpaca", lambda: zstandard.compress(lines(ROWS))),
    "xz": ("a.jsonl.xz", "alpaca", lambda: lzma.compress(lines(ROWS))),
    "parquet": ("a.parquet", "alpaca", lambda: columns("parquet")),
    "arrow": ("a.arrow", "alpaca", lambda: columns("file")),
    "save_to_disk": ("data-00000-of-00001.arrow", "alpaca", lambda: columns("stream")),
    "zip": ("a.zip", "alpaca", lambda: archive("zip")),
    "tar": ("a.tar", "alpaca", lambda: archive("tar")),
    "tgz": ("a.tgz", "alpaca", lambda: gzip.compress(archive("tar"), mtime=0)),
}
SPICE = [b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"\n", b"\x00", b"\xff", b"\\u", b"\\ud800", b"NaN", b"1e999"]
SPICE += [b"9" * 30, b"{" * 200, b"[" * 200, b"null", b'"instruction":', b"\xef\xbb\xbf", b"\r\n", b"&a *a", b"\xc2"]


def damaged(good: bytes, seed: int) -> bytes:
    """A good file with one to four kinds of damage."""
    chance = random.Random(seed)
    data = bytearray(good)
    for _ in range(chance.randint(1, 4)):
        place, size = chance.randrange(len(data) + 1), chance.choice([1, 1, 2, 5, 40])
        kind = chance.randrange(7)
        if kind == 0:
            data[place:place] = chance.choice(SPICE)
        elif kind == 1:
            del data[place : place + size]
        elif kind == 2 and place < len(data):
            data[place] = chance.randrange(256)
        elif kind == 3:
            data[place:place] = data[chance.randrange(len(data) + 1) :][:size]
        elif kind == 4 and chance.random() < 0.3:
            del data[place:]
        elif kind == 5:
            data[place : place + size] = chance.choice(SPICE)
        elif place < len(data):
            data[place] ^= 1 << chance.randrange(8)
    return bytes(data)


@cache
def good(reader: str) -> bytes:
    """The file of a reader before it is damaged."""
    return READERS[reader][2]()


def check(folder: Path, reader: str, seed: int) -> Counter[str]:
    """Read one damaged file; what became of its rows, by code."""
    name, format_, _ = READERS[reader]
    path = folder / name
    path.write_bytes(damaged(good(reader), seed))
    limits = Limits(max_row_bytes=4000, max_nesting=60)
    source = Source(name="s", path=str(path), format=format_, limits=limits)  # type: ignore[arg-type]
    fates: Counter[str] = Counter()
    seen: list[str] = []
    try:
        for unit in units(source, find_files(source)):
            for outcome in read_unit(unit, source, format_, 60):
                assert outcome.kept.height + outcome.rejected.height <= 60
                fates.update(outcome.rejected["code"].to_list())
                fates["kept"] += outcome.kept.height
                seen += [*outcome.kept["id"], *outcome.rejected["id"]]
    except SourceError:
        fates["refused"] += 1
    assert len(set(seen)) == len(seen), "an identity twice"
    assert set(fates) <= {*CODES, "kept", "refused"}
    return fates


def main() -> None:
    """Run so many inputs through every reader, or through those that are named."""
    number = int(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        for reader in sys.argv[2:] or READERS:
            start = time.perf_counter()
            fates: Counter[str] = Counter()
            for seed in range(number):
                try:
                    fates += check(Path(folder), reader, seed)
                except Exception:
                    print(f"{reader}, seed {seed}")  # noqa: T201
                    raise
            print(f"{reader}: {number} inputs, {time.perf_counter() - start:.0f} s, {dict(fates)}")  # noqa: T201


if __name__ == "__main__":
    main()
