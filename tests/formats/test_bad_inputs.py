"""What happens to bad input, case by case: how many rows arrive, and which rows are rejected with which code."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from sft_data.errors import SourceError
from tests.formats.reading import read, why, written

A, B, C = ({"instruction": f"q{n}", "input": "", "output": f"a{n}"} for n in "abc")
a, b, c = (json.dumps(row).encode() for row in (A, B, C))
LINES = b"\n".join([a, b, c]) + b"\n"
LIST = b"[" + b", ".join([a, b, c]) + b"]"


def deep(levels: int) -> bytes:
    return b'{"instruction": "q", "output": "a", "x": ' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


def row(**more: Any) -> bytes:
    return json.dumps({"instruction": "q", "output": "a", **more}).encode()


def turns(*said: Any, **more: Any) -> bytes:
    pairs = [turn if isinstance(turn, dict) else {"role": turn[0], "content": turn[1]} for turn in said]
    return json.dumps({"messages": pairs, **more}).encode()


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tarred(name: str, data: bytes, **info: Any) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        for key, value in info.items():
            setattr(member, key, value)
        archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def arrow(**columns: Any) -> bytes:
    buffer = io.BytesIO()
    table = pa.table(columns)
    with pa.ipc.new_stream(buffer, table.schema) as stream:
        stream.write_table(table)
    return buffer.getvalue()


def parquet(**columns: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


TABLE = parquet(instruction=["q", "r"], output=["a", "b"])


def claiming(size: int) -> bytes:
    """A zip whose member claims to be so large."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.jsonl", LINES)
        archive.infolist()[0].file_size = size
    return buffer.getvalue()


def tar_claiming(size: int) -> bytes:
    """The same as a tar."""
    member = tarfile.TarInfo("x.jsonl")
    member.size = size
    return member.tobuf() + LINES.ljust(10_240, b"\0")


def named_twice() -> bytes:
    """A zip with two members of one name."""
    return zipped(**{"x.jsonl": LINES, "y.jsonl": LINES}).replace(b"y.jsonl", b"x.jsonl")


Q, AN = ("user", "q"), ("assistant", "a")
OK: list[tuple[int, str]] = []
BAD = "unreadable-row"

# name: (file, bytes, rows that arrive, rejected rows)
CASES: dict[str, tuple[str, bytes, int, list[tuple[int, str]]]] = {
    # JSON Lines
    "lines, good": ("a.jsonl", LINES, 3, OK),
    "lines, no last line feed": ("a.jsonl", LINES[:-1], 3, OK),
    "lines, carriage returns": ("a.jsonl", LINES.replace(b"\n", b"\r\n"), 3, OK),
    "lines, blank lines keep their numbers": ("a.jsonl", a + b"\n\n  \n{\n" + b, 2, [(3, BAD)]),
    "lines, cut off": ("a.jsonl", LINES[:-9], 2, [(2, BAD)]),
    "lines, all of them broken": (
        "a.jsonl",
        LINES.replace(b'", "', b'" "'),
        0,
        [(0, BAD), (1, BAD), (2, BAD)],
    ),
    "lines, all of them cut": ("a.jsonl", b"\n".join([a[:-4], b[:-4], c[:-4]]), 0, [(0, BAD), (1, BAD), (2, BAD)]),
    "lines, two values on one": ("a.jsonl", a + b" " + b + b"\n" + c, 1, [(0, BAD)]),
    "lines, comma behind": ("a.jsonl", a + b",\n" + b + b"\n", 1, [(0, BAD)]),
    "lines, one value over two": (
        "a.jsonl",
        a + b'\n{"instruction": "q",\n"output": "a"}\n' + c,
        2,
        [(1, BAD), (2, BAD)],
    ),
    "lines, single quotes": ("a.jsonl", a + b"\n{'instruction': 'q'}\n" + b, 2, [(1, BAD)]),
    "lines, raw tab in a text": ("a.jsonl", a + b'\n{"instruction": "\t", "output": "a"}\n', 1, [(1, BAD)]),
    "lines, raw zero byte": ("a.jsonl", a + b'\n{"instruction": "\0", "output": "a"}\n', 1, [(1, BAD)]),
    "lines, escaped zero byte stays": ("a.jsonl", row(instruction="a\0b") + b"\n", 1, OK),
    "lines, zero bytes where a disk was full": ("a.jsonl", LINES + b"\0" * 500, 3, [(3, BAD)]),
    "lines, NaN": ("a.jsonl", a + b'\n{"instruction": "q", "output": "a", "x": NaN}\n', 1, [(1, BAD)]),
    "lines, infinity": ("a.jsonl", a + b'\n{"instruction": "q", "output": "a", "x": -Infinity}\n', 1, [(1, BAD)]),
    "lines, a float too large": ("a.jsonl", a + b'\n{"instruction": "q", "output": "a", "x": 1e999}\n', 1, [(1, BAD)]),
    "lines, an integer of 40 digits stays": ("a.jsonl", row(x=10**40) + b"\n", 1, OK),
    "lines, an integer of 5000 digits": (
        "a.jsonl",
        a + b'\n{"instruction": "q", "output": "a", "x": ' + b"9" * 5000 + b"}\n",
        1,
        [(1, BAD)],
    ),
    "lines, half a surrogate": (
        "a.jsonl",
        a + b'\n{"instruction": "\\ud800", "output": "a"}\n',
        1,
        [(1, "lone-surrogate")],
    ),
    "lines, a whole surrogate pair": ("a.jsonl", b'{"instruction": "\\ud83d\\ude00", "output": "a"}\n', 1, OK),
    "lines, a key twice": (
        "a.jsonl",
        a + b'\n{"instruction": "q", "output": "a", "output": "b"}\n',
        1,
        [(1, "duplicate-key")],
    ),
    "lines, an inner key twice": (
        "a.jsonl",
        a + b'\n{"instruction": "q", "output": "a", "x": {"y": 1, "y": 1}}\n',
        1,
        [(1, "duplicate-key")],
    ),
    "lines, invalid bytes": (
        "a.jsonl",
        a + b'\n{"instruction": "\xff\xfe", "output": "a"}\n',
        1,
        [(1, "invalid-encoding")],
    ),
    "lines, overlong bytes": (
        "a.jsonl",
        a + b'\n{"instruction": "\xc0\x80", "output": "a"}\n',
        1,
        [(1, "invalid-encoding")],
    ),
    "lines, nested just enough": ("a.jsonl", deep(100) + b"\n", 1, OK),
    "lines, nested too deep": ("a.jsonl", a + b"\n" + deep(101) + b"\n", 1, [(1, "row-too-deep")]),
    "lines, nested deeper than the stack": ("a.jsonl", a + b"\n" + deep(100_000) + b"\n" + b, 2, [(1, "row-too-deep")]),
    "lines, brackets without end": ("a.jsonl", a + b"\n" + b"[" * 100_000 + b"\n" + b, 2, [(1, "row-too-deep")]),
    "lines, line separators inside a text": (
        "a.jsonl",
        '{"instruction": "a\u2028b\x85c", "output": "a"}'.encode(),
        1,
        OK,
    ),
    "lines, other values": (
        "a.jsonl",
        a + b'\n1\n"x"\nnull\n[1]\ntrue\n',
        1,
        [(i, "not-an-object") for i in range(1, 6)],
    ),
    "lines, a bare word": ("a.jsonl", a + b"\nnone\n", 1, [(1, BAD)]),
    "lines, a page of HTML": ("a.jsonl", b"<html>\n<p>404</p>\n", 0, [(0, BAD), (1, BAD)]),
    "lines, a pointer to a large file": (
        "a.jsonl",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
        0,
        [(0, BAD), (1, BAD), (2, BAD)],
    ),
    "an empty file": ("a.jsonl", b"", 0, OK),
    "white space alone": ("a.json", b" \n\t\n", 0, OK),
    # JSON lists
    "list, good": ("a.json", LIST, 3, OK),
    "list, empty": ("a.json", b"[]", 0, OK),
    "list, in a file that says lines": ("a.jsonl", LIST, 3, OK),
    "list, trailing comma": ("a.json", LIST[:-1] + b",\n]\n", 3, [(3, BAD)]),
    "list, no end": ("a.json", LIST[:-1], 3, [(3, BAD)]),
    "list, cut in a row": ("a.json", LIST[:-9], 2, [(2, BAD)]),
    "list, only its beginning": ("a.json", b"[", 0, [(0, BAD)]),
    "list, comma missing": ("a.json", LIST.replace(b"}, ", b"} ", 1), 3, [(1, BAD)]),
    "list, comma twice": ("a.json", LIST.replace(b"}, ", b"},, ", 1), 3, [(1, BAD)]),
    "list, brace missing": ("a.json", LIST.replace(b"}, ", b", ", 1), 2, [(0, BAD)]),
    "list, quote missing": ("a.json", LIST.replace(b'"ab"', b'"ab'), 2, [(1, BAD)]),
    "list, quote inside": ("a.json", LIST.replace(b'"ab"', b'"a"b"'), 2, [(1, BAD)]),
    "list, comment": ("a.json", LIST.replace(b'"ab"', b'"ab" /* yes */'), 2, [(1, BAD)]),
    "list, text behind": ("a.json", LIST + b"\nxyz", 3, [(3, BAD), (4, BAD)]),
    "list, a second one": ("a.json", LIST + b"\n" + LIST, 6, [(3, BAD)]),
    "list, values of all kinds": (
        "a.json",
        b'[{"instruction": "q", "output": "a"}, 1, "x", null, [2]]',
        1,
        [(i, "not-an-object") for i in range(1, 5)],
    ),
    "list, a key twice": (
        "a.json",
        b"[" + a + b', {"instruction": "q", "instruction": "r", "output": "a"}]',
        1,
        [(1, "duplicate-key")],
    ),
    "list, invalid bytes": ("a.json", LIST.replace(b"ab", b"\xff\xfe"), 2, [(1, "invalid-encoding")]),
    "list, two lists of two kinds of bytes": ("a.json", LIST + LIST.decode().encode("utf-16"), 3, [(3, BAD), (4, BAD)]),
    "wrapped list": ("a.json", b'{"version": "1", "data": ' + LIST + b', "n": 3}', 3, OK),
    "wrapped lists": ("a.json", b'{"train": ' + LIST + b', "test": ' + LIST + b"}", 6, OK),
    "wrapped list, cut": ("a.json", b'{"data": ' + LIST[:-9], 2, [(2, BAD)]),
    "one object over many lines": ("a.json", json.dumps(A, indent=2).encode(), 1, OK),
    "objects over many lines": ("a.json", b"\n".join(json.dumps(r, indent=2).encode() for r in (A, B)), 2, OK),
    # encodings
    "mark": ("a.jsonl", b"\xef\xbb\xbf" + LINES, 3, OK),
    "mark before a list": ("a.json", b"\xef\xbb\xbf" + LIST, 3, OK),
    "utf-16 with a mark": ("a.json", LIST.decode().encode("utf-16"), 3, OK),
    "utf-16 without a mark": ("a.jsonl", LINES.decode().encode("utf-16-le"), 3, OK),
    "utf-16 cut in the middle of a character": (
        "a.jsonl",
        LINES.decode().encode("utf-16")[:-7],
        2,
        [(2, "invalid-encoding")],
    ),
    # compression
    "gzip under another name": ("a.json", gzip.compress(LINES), 3, OK),
    "plain under the name of gzip": ("a.jsonl.gz", LINES, 3, OK),
    "gzip, cut": ("a.jsonl.gz", gzip.compress(LINES)[:-12], 2, [(2, BAD), (3, "unreadable-file")]),
    "gzip, wrong checksum": ("a.jsonl.gz", gzip.compress(LINES)[:-8] + b"12345678", 3, [(3, "unreadable-file")]),
    "gzip, beginning alone": ("a.jsonl.gz", b"\x1f\x8b\x08", 0, [(0, "unreadable-file")]),
    "bz2, cut": ("a.jsonl.bz2", bz2.compress(LINES)[:-12], 0, [(0, "unreadable-file")]),
    "xz, cut": ("a.jsonl.xz", lzma.compress(LINES)[:-40], 2, [(2, BAD), (3, "unreadable-file")]),
    "zstd, cut": ("a.jsonl.zst", zstandard.compress(LINES)[:-12], 0, [(0, "unreadable-file")]),
    # archives
    "zip": ("a.zip", zipped(**{"x.jsonl": LINES, "sub/y.json": LIST, "README.md": b"#"}), 6, OK),
    "zip, a member packed again": ("a.zip", zipped(**{"x.jsonl.gz": gzip.compress(LINES)}), 3, OK),
    "zip, a path that leaves it": ("a.zip", zipped(**{"../x.jsonl": LINES}), 0, [(0, "unsafe-member")]),
    "tar": ("a.tar.gz", tarred("x.jsonl", LINES), 3, OK),
    "tar, an absolute path": ("a.tar.gz", tarred("/etc/x.jsonl", LINES), 0, [(0, "unsafe-member")]),
    "zip, a member without a name": ("a.zip", zipped(**{"x.jsonl": LINES, "qq": b""}).replace(b"qq", b"\0q"), 3, OK),
    "zip, an archive inside": (
        "a.zip",
        zipped(**{"x.jsonl": LINES, "y.zip": zipped(**{"z.jsonl": LINES})}),
        3,
        [(0, "unreadable-file")],
    ),
    "zip, what macOS puts beside": (
        "a.zip",
        zipped(**{"x.jsonl": LINES, "__MACOSX/._x.jsonl": b"\0\5\x16\7", ".x/y.jsonl": b"?"}),
        3,
        OK,
    ),
    "zip, a parquet file": ("a.zip", zipped(**{"x.parquet": TABLE, "y.jsonl": LINES}), 5, OK),
    "zip, a parquet file packed again": ("a.zip", zipped(**{"x.parquet.gz": gzip.compress(TABLE)}), 2, OK),
    "zip, a parquet file that is cut": ("a.zip", zipped(**{"x.parquet": TABLE[:-9]}), 0, [(0, "unreadable-file")]),
    "zip, text named parquet": ("a.zip", zipped(**{"x.parquet": LINES}), 3, OK),
    "zip, what save_to_disk writes": (
        "a.zip",
        zipped(**{"d/data-00000.arrow": arrow(instruction=["q"], output=["a"]), "d/state.json": b"{}"}),
        1,
        OK,
    ),
    "zip, csv": ("a.zip", zipped(**{"x.csv": b"instruction,output\nq,a\nq\n"}), 1, [(1, BAD)]),
    "tar, a parquet file": ("a.tgz", tarred("x.parquet", TABLE), 2, OK),
    "gzip, a parquet file": ("a.parquet.gz", gzip.compress(TABLE), 2, OK),
    "gzip, a parquet file that is cut": ("a.parquet.gz", gzip.compress(TABLE)[:-12], 0, [(0, "unreadable-file")]),
    "zstd, an arrow file": ("a.arrow.zst", zstandard.compress(arrow(instruction=["q"], output=["a"])), 1, OK),
    "arrow, cut": ("a.arrow", arrow(instruction=["q"], output=["a"])[:-60], 0, [(0, "unreadable-file")]),
    # tables
    "csv": ("a.csv", b'instruction,input,output\nq,,a\n"q\n2",,"a ""b"""\n', 2, OK),
    "csv, a cell too many": ("a.csv", b"instruction,output\nq,a,x\nq,a\n", 1, [(0, BAD)]),
    "csv, a cell too few": ("a.csv", b"instruction,output\nq\nq,a\n", 1, [(0, BAD)]),
    "csv, a quote that never closes": ("a.csv", b'instruction,output\n"q,a\nq,b\nq,c\n', 2, [(0, BAD)]),
    "csv, a column twice": ("a.csv", b"output,output\nq,a\n", 0, [(0, BAD), (1, BAD)]),
    "csv, header alone": ("a.csv", b"instruction,output\n", 0, OK),
    "csv, invalid bytes": ("a.csv", b"instruction,output\nq\xff,a\nq,a\n", 1, [(0, "invalid-encoding")]),
    "csv, an unnamed column": ("a.csv", b",instruction,output\n0,q,a\n", 1, OK),
    "tsv": ("a.tsv", b"instruction\toutput\nq\ta,b\n", 1, OK),
    "yaml": ("a.yaml", b"- {instruction: q, output: a}\n- 5\n", 1, [(1, "not-an-object")]),
    "yaml, broken": ("a.yaml", b"- {instruction: q\n- x", 0, [(0, "unreadable-file")]),
    "yaml, aliases": ("a.yaml", b"- &x {instruction: q, output: a}\n- *x\n", 0, [(0, "unreadable-file")]),
    "yaml, code": ("a.yaml", b"- !!python/object/apply:os.system [x]\n", 0, [(0, BAD)]),
    "parquet": ("a.parquet", parquet(instruction=["q", "q"], output=["a", None]), 1, [(1, "missing-field")]),
    "parquet, cut": ("a.parquet", parquet(instruction=["q"], output=["a"])[:-9], 0, [(0, "unreadable-file")]),
    "parquet, numbers for texts": ("a.parquet", parquet(instruction=["q"], output=[7]), 0, [(0, "wrong-type")]),
    # alpaca
    "alpaca, no output": ("a.jsonl", a + b'\n{"instruction": "q"}\n', 1, [(1, "missing-field")]),
    "alpaca, no instruction": ("a.jsonl", a + b'\n{"output": "a"}\n', 1, [(1, "missing-field")]),
    "alpaca, null output": ("a.jsonl", a + b"\n" + row(output=None), 1, [(1, "no-answer")]),
    "alpaca, null input": ("a.jsonl", row(input=None), 1, OK),
    "alpaca, empty output stays": ("a.jsonl", row(output=""), 1, OK),
    "alpaca, empty prompt": ("a.jsonl", a + b"\n" + row(instruction=" "), 1, [(1, "empty-turn")]),
    "alpaca, a number for a text": ("a.jsonl", a + b"\n" + row(output=5), 1, [(1, "wrong-type")]),
    "alpaca, a list for a text": ("a.jsonl", a + b"\n" + row(output=["x"]), 1, [(1, "wrong-type")]),
    "alpaca, history that is no list": ("a.jsonl", a + b"\n" + row(history="x"), 1, [(1, "wrong-type")]),
    "alpaca, history with triples": ("a.jsonl", a + b"\n" + row(history=[["a", "b", "c"]]), 1, [(1, "wrong-type")]),
    # messages
    "chat, no turns": ("m.jsonl", turns(), 0, [(0, "empty-conversation")]),
    "chat, turns that are no list": ("m.jsonl", b'{"messages": 5}', 0, [(0, "wrong-type")]),
    "chat, turns under no known key": ("m.jsonl", b'{"talk": []}', 0, [(0, "missing-field")]),
    "chat, a turn that is a text": ("m.jsonl", b'{"messages": ["hi"]}', 0, [(0, "wrong-type")]),
    "chat, unknown role": ("m.jsonl", turns(Q, ("narrator", "x"), AN), 0, [(0, "wrong-role")]),
    "chat, no role": ("m.jsonl", turns({"content": "x"}, AN), 0, [(0, "wrong-role")]),
    "chat, a number for a role": ("m.jsonl", turns((1, "x"), AN), 0, [(0, "wrong-role")]),
    "chat, no answer": ("m.jsonl", turns(Q), 0, [(0, "no-answer")]),
    "chat, no question": ("m.jsonl", turns(("system", "s"), AN), 0, [(0, "no-prompt")]),
    "chat, answer first": ("m.jsonl", turns(AN, Q, AN), 0, [(0, "assistant-first")]),
    "chat, system inside": ("m.jsonl", turns(Q, ("system", "s"), AN), 0, [(0, "system-inside")]),
    "chat, empty question": ("m.jsonl", turns(("user", ""), AN), 0, [(0, "empty-turn")]),
    "chat, empty first answer": ("m.jsonl", turns(Q, ("assistant", ""), Q, AN), 0, [(0, "empty-turn")]),
    "chat, empty last answer stays": ("m.jsonl", turns(Q, ("assistant", "")), 1, OK),
    "chat, null answer": ("m.jsonl", turns(Q, ("assistant", None)), 0, [(0, "no-answer")]),
    "chat, null question": ("m.jsonl", turns(("user", None), AN), 0, [(0, "missing-field")]),
    "chat, an image": (
        "m.jsonl",
        turns(("user", [{"type": "image_url", "image_url": "x"}]), AN),
        0,
        [(0, "unsupported-content")],
    ),
    "chat, a part without type": ("m.jsonl", turns(("user", [{"text": "x"}]), AN), 0, [(0, "wrong-type")]),
    "chat, an object for a text": ("m.jsonl", turns(("user", {"text": "x"}), AN), 0, [(0, "wrong-type")]),
    "chat, a call that is not JSON": ("m.jsonl", turns(Q, ("function_call", "f(x)"), AN), 0, [(0, "bad-tool-call")]),
    "chat, a call without a name": ("m.jsonl", turns(Q, ("function_call", '{"x": 1}'), AN), 0, [(0, "bad-tool-call")]),
    "chat, a call with half a surrogate": (
        "m.jsonl",
        turns(Q, ("function_call", '{"name": "\\ud800"}'), AN),
        0,
        [(0, "bad-tool-call")],
    ),
    "chat, tools that are not JSON": ("m.jsonl", turns(Q, AN, tools="[{"), 0, [(0, "bad-tools")]),
    "chat, tools that are a number": ("m.jsonl", turns(Q, AN, tools=7), 0, [(0, "bad-tools")]),
    "chat, a weight that is a text": (
        "m.jsonl",
        turns(Q, {"role": "assistant", "content": "a", "weight": "x"}),
        0,
        [(0, "wrong-type")],
    ),
    "chat, a negative weight": (
        "m.jsonl",
        turns(Q, {"role": "assistant", "content": "a", "weight": -1}),
        0,
        [(0, "wrong-type")],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_has_the_outcome_of_the_table(tmp_path: Path, case: str) -> None:
    name, data, arrive, rejected = CASES[case]
    result = read(written(tmp_path, data, name), format="messages" if name.startswith("m") else "alpaca")
    assert why(result) == rejected
    assert result.kept.height == arrive
    assert result.rejected["detail"].null_count() == 0
    assert result.rejected["file"].null_count() == 0


def test_the_table_is_large_enough() -> None:
    assert len(CASES) >= 120


def test_a_line_of_100_mb_is_one_rejection_with_its_size(tmp_path: Path) -> None:
    long = b'{"instruction": "q", "output": "' + b"x" * 100_000_000 + b'"}'
    result = read(written(tmp_path, a + b"\n" + long + b"\n" + b + b"\n"), format="alpaca")
    assert why(result) == [(1, "row-too-large")]
    assert result.kept.height == 2
    assert result.rejected["detail"].to_list() == [f"{len(long)} > {16 * 2**20} bytes (max_row_bytes)"]
    assert result.rejected["text"].str.len_bytes().to_list()[0] < 100_000
    listed = read(written(tmp_path, b"[" + a + b"," + long + b"," + b + b"]", "a.json"), format="alpaca")
    assert why(listed) == [(1, "row-too-large")]
    assert listed.kept.height == 2


def test_a_decompression_bomb_stops_at_its_limit(tmp_path: Path) -> None:
    bomb = gzip.compress((a + b"\n") * 2_000_000, 9)
    assert len(bomb) * 100 < 2_000_000 * len(a)
    result = read(written(tmp_path, bomb, "a.gz"), format="alpaca", limits={"max_inflation": 10})
    assert why(result)[-1][1] == "file-too-large"
    assert result.kept.height * (len(a) + 1) < 70 * 2**20


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("a.zip", zipped(**{"README.md": b"x"}), "holds no member"),
        ("a.zip", b"PK\x03\x04broken", "damaged zip"),
        ("a.tar", b"no archive", "damaged tar"),
        ("a.tgz", gzip.compress(b"no archive"), "damaged tar"),
        ("a.tar.gz", tarred("x.jsonl", LINES)[:60], "damaged tar"),
        ("a.tar", gzip.decompress(tarred("x.jsonl", LINES * 60))[:2000], "damaged tar"),
        ("a.zip", claiming(2**40), r"more than .* bytes when unpacked"),
        ("a.tar", tar_claiming(2**40), r"more than .* bytes when unpacked"),
        ("a.zip", named_twice(), "two members named 'x.jsonl'"),
    ],
    ids=range(9),  # the bytes hold the time at which they were made
)
def test_an_archive_without_rows_is_an_error_that_says_so(tmp_path: Path, name: str, data: bytes, told: str) -> None:
    with pytest.raises(SourceError, match=told):
        read(written(tmp_path, data, name), format="alpaca")


def test_an_unpacked_table_stops_at_its_limit(tmp_path: Path) -> None:
    path = written(tmp_path, zipped(**{"x.parquet": TABLE}), "a.zip")
    result = read(path, format="alpaca", limits={"max_unpacked_bytes": len(TABLE) - 1})
    assert (why(result), result.kept.height) == ([(0, "file-too-large")], 0)
    assert read(path, format="alpaca", limits={"max_unpacked_bytes": len(TABLE)}).kept.height == 2


def test_a_zip_with_a_password_is_one_rejection(tmp_path: Path) -> None:
    data = bytearray(zipped(**{"x.jsonl": LINES}))
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    assert why(read(written(tmp_path, bytes(data), "a.zip"), format="alpaca")) == [(0, "unreadable-file")]


def test_nan_is_null_where_the_source_says_so(tmp_path: Path) -> None:
    path = written(tmp_path, b'{"instruction": "q", "input": NaN, "output": "a"}\n')
    assert read(path, format="alpaca", nan="null").kept["extra"].to_list() == [None]
