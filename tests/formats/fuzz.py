"""Throws damaged files at the readers. python -m tests.formats.fuzz 20000 [reader ...] prints what each did.

Each input is a good file with some of its bytes changed, cut, doubled or moved; the seed is its number. Whatever
comes: no exception, no hang, no row without a fate, no identity twice.
"""

from __future__ import annotations

import bz2
import gzip
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

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
    "yaml": ("a.yaml", "alpaca", lambda: json.dumps(ROWS[:3], indent=1).encode()),
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


def check(folder: Path, reader: str, seed: int) -> Counter[str]:
    """Read one damaged file; what became of its rows, by code."""
    name, format_, make = READERS[reader]
    path = folder / name
    path.write_bytes(damaged(make(), seed))
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
