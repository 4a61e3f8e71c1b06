"""Whole files: every row leaves once, with its place, and says the same as an independent reading."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sft_data.formats import ingest
from sft_data.formats.ingest import CODES
from sft_data.schema import content_hash
from sft_data.sources.settings import Source
from tests.formats import oracle
from tests.formats.reading import outcomes, read, spoken, why, written
from tests.frames import SHARED, needs_shared

REAL = {
    "alpaca_data.json": (oracle.alpaca, "alpaca"),
    "alpaca_zh/alpaca_zh-0-3252.json": (oracle.alpaca, "alpaca"),
    "alpaca_zh/alpaca_zh-12345-15323.json": (oracle.alpaca, "alpaca"),
    "alpaca_zh/alpaca_zh-15323-18280.json": (oracle.alpaca, "alpaca"),
    "alpaca_zh/alpaca_zh-18280-21320.json": (oracle.alpaca, "alpaca"),
    "alpaca_zh/alpaca_zh-3252-6382.json": (oracle.alpaca, "alpaca"),
    "alpaca_zh/alpaca_zh-6382-9407.json": (oracle.alpaca, "alpaca"),
    "code/code_alpaca_2k.json": (oracle.alpaca, "alpaca"),
    "odd/identity_placeholders.json": (oracle.alpaca, "alpaca"),
    "eval/gsm8k_train.jsonl": (oracle.pair, "prompt-response"),
    "eval/gsm8k_test.jsonl": (oracle.pair, "prompt-response"),
    "messages/v1_sft_demo.jsonl": (oracle.chat, "messages"),
    "sharegpt/dummy_conversation.json": (oracle.chat, "sharegpt"),
    "sharegpt/glaive_toolcall_en_demo.json": (oracle.chat, "sharegpt"),
}


@needs_shared
@pytest.mark.parametrize("name", REAL)
def test_real_files_say_the_same_as_a_simple_reading(name: str) -> None:
    path = SHARED / "data" / name
    simple, _ = REAL[name]
    rows = oracle.rows_of(path)
    result = read(path)
    assert result.rejected.height == 0
    assert result.kept["id"].to_list() == [f"s:{path.name}:{i}" for i in range(len(rows))]
    assert [oracle.told(row) for row in result.kept.to_dicts()] == [simple(row) for row in rows]
    assert result.kept["content_hash"].equals(content_hash(result.kept))


ALPACA = [{"instruction": f"q{i}", "input": "x" * (i % 2), "output": f"a{i}"} for i in range(40)]


def test_rows_get_their_identity_from_source_file_and_row(tmp_path: Path) -> None:
    written(tmp_path, ALPACA[:2], "b.jsonl")
    (tmp_path / "inner").mkdir()
    written(tmp_path / "inner", ALPACA[2:3], "a.jsonl")
    found = outcomes(Source(name="two", path=str(tmp_path)))
    assert [row for outcome in found for row in outcome.kept["id"]] == [
        "two:b.jsonl:0",
        "two:b.jsonl:1",
        "two:inner/a.jsonl:0",
    ]
    assert set(pl.concat([outcome.kept for outcome in found])["source"]) == {"two"}


@pytest.mark.parametrize("shard_rows", [1, 3, 7, 40])
def test_outcomes_hold_at_most_so_many_rows_and_together_the_same(tmp_path: Path, shard_rows: int) -> None:
    text = "".join(json.dumps(row) + "\n" + ("{broken\n" if i % 9 == 0 else "") for i, row in enumerate(ALPACA))
    path = written(tmp_path, text)
    whole, cut = read(path, format="alpaca"), read(path, shard_rows=shard_rows, format="alpaca")
    assert whole.kept.equals(cut.kept)
    assert whole.rejected.equals(cut.rejected)


def test_a_rejected_row_has_its_place_and_its_original_text(tmp_path: Path) -> None:
    lines = ['{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"é"}]}', "{oops", ""]
    lines += ['{"messages": [ {"role": "narrator", "content": "x"} ] }', "7"]
    path = written(tmp_path, "\n".join(lines))
    result = read(path, format="messages")
    assert why(result) == [(1, "unreadable-row"), (3, "wrong-role"), (4, "not-an-object")]
    assert result.rejected["stage"].to_list() == ["read", "normalize", "normalize"]
    assert result.rejected["file"].to_list() == ["a.jsonl"] * 3
    assert result.rejected["line"].to_list() == [2, 4, 5]
    size = len(lines[0].encode())
    assert result.rejected["byte"].to_list() == [size + 1, size + 8, size + 9 + len(lines[3])]
    assert result.rejected["text"].to_list() == [lines[1], lines[3], "7"]


@pytest.mark.parametrize(
    ("name", "pack"),
    [("a.jsonl.gz", gzip.compress), ("a.bz2", bz2.compress), ("a.jsonl", lzma.compress), ("zstd", zstandard.compress)],
)
def test_compressed_files_read_like_plain_ones_whatever_their_name(tmp_path: Path, name: str, pack: Any) -> None:
    plain = "".join(json.dumps(row) + "\n" for row in ALPACA).encode()
    assert spoken(read(written(tmp_path, pack(plain), name)).kept) == spoken(read(written(tmp_path, plain, "p")).kept)


def test_joined_gzip_members_are_one_file(tmp_path: Path) -> None:
    parts = [gzip.compress(json.dumps(row).encode() + b"\n") for row in ALPACA]
    assert read(written(tmp_path, b"".join(parts))).kept.height == 40


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zstandard.compress])
@pytest.mark.parametrize("as_list", [True, False])
def test_a_cut_off_compressed_file_gives_what_is_there_and_a_rejection(
    tmp_path: Path, pack: Any, as_list: bool
) -> None:
    rows = [{"instruction": f"q{i}", "input": "", "output": json.dumps(i * 7**50)} for i in range(3000)]
    plain = json.dumps(rows) if as_list else "".join(json.dumps(row) + "\n" for row in rows)
    packed = pack(plain.encode())
    result = read(
        written(tmp_path, packed[: len(packed) * 2 // 3]), format="alpaca", container="json" if as_list else "auto"
    )
    assert result.rejected["code"].to_list()[-1] == "unreadable-file"
    assert "damaged behind byte" in result.rejected["detail"].to_list()[-1]
    assert result.rejected.height <= 3
    turns = spoken(result.kept)
    assert turns == [[("user", f"q{i}"), ("assistant", rows[i]["output"])] for i in range(len(turns))]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "gb18030"])
def test_other_encodings_are_detected_and_read_exactly(tmp_path: Path, encoding: str) -> None:
    rows = [{"instruction": f"请介绍一下第{i}个问题。", "input": "", "output": "好的，这是回答。🙂"} for i in range(50)]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    result = read(written(tmp_path, text.encode(encoding)))
    assert spoken(result.kept) == [[("user", r["instruction"]), ("assistant", r["output"])] for r in rows]
    assert result.rejected.height == 0


def test_every_code_that_is_used_is_documented(tmp_path: Path) -> None:
    assert all(len(told) > 20 and told.endswith(".") for told in CODES.values())


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
filled = texts.filter(lambda text: bool(text.strip()))


@st.composite
def chats(draw: st.DrawFn) -> dict[str, Any]:
    words = draw(st.sampled_from([("from", "value", "human", "gpt"), ("role", "content", "user", "assistant")]))
    speaker, said, user, assistant = words
    turns = [
        turn
        for _ in range(draw(st.integers(1, 3)))
        for turn in ({speaker: user, said: draw(filled)}, {speaker: assistant, said: draw(filled)})
    ]
    if draw(st.booleans()):
        turns.insert(0, {speaker: "system", said: draw(filled)})
    row: dict[str, Any] = {"conversations" if speaker == "from" else "messages": turns}
    if draw(st.booleans()):
        row["id"] = draw(st.integers() | texts)
    return row


AS_TOLD = {"thinking": "keep"}  # the simple readings know no <think> blocks, which texts drawn at random may be


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(chats(), min_size=1, max_size=8), st.booleans())
def test_any_chats_say_the_same_as_a_simple_reading(tmp_path: Path, rows: list[dict[str, Any]], as_list: bool) -> None:
    rows = [row for row in rows if ("messages" in row) == ("messages" in rows[0])]
    path = written(tmp_path, rows, "a.json" if as_list else "a.jsonl")
    result = read(path, rules=AS_TOLD)
    assert result.rejected.height == 0
    assert [oracle.told(row) for row in result.kept.to_dicts()] == [oracle.chat(row) for row in rows]
    kept = [json.loads(extra) if extra else {} for extra in result.kept["extra"]]
    assert kept == [{"id": row["id"]} if "id" in row else {} for row in rows]


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.fixed_dictionaries({"instruction": filled, "input": texts, "output": texts}), min_size=1))
def test_any_alpaca_rows_say_the_same_as_a_simple_reading(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    result = read(written(tmp_path, rows), format="alpaca", rules=AS_TOLD)
    assert [oracle.told(row) for row in result.kept.to_dicts()] == [oracle.alpaca(row) for row in rows]


def test_outcomes_of_long_rows_hold_fewer_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = [10, 20_000, 10, 10, 50_000, 3_000, *[9_000] * 20, *[10] * 300]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"instruction": f"Row {n}.", "output": "x" * size} for n, size in enumerate(lengths)]))
    whole = read(path, format="alpaca")
    monkeypatch.setattr(ingest, "SHARD_BYTES", 40_000)
    found = outcomes(Source(name="s", path=str(path), format="alpaca"))
    assert pl.concat([outcome.kept for outcome in found]).equals(whole.kept)
    sizes = [outcome.kept["messages"].list.last().struct.field("content").str.len_bytes() for outcome in found]
    assert all(size[:-1].sum() <= 40_000 for size in sizes)
    assert len(sizes[-1]) >= 300 > max(len(size) for size in sizes[:-1])
    rows = [{"instruction": "?", "output": 3}, {"instruction": "Yes?", "output": "x" * 50_000}]
    mixed = read(written(tmp_path, rows), format="alpaca")
    assert (mixed.kept.height, mixed.rejected["code"].to_list()) == (1, ["wrong-type"])


def test_texts_of_rejected_rows_count_for_the_size_of_a_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "SHARD_BYTES", 40_000)
    monkeypatch.setattr("sft_data.sources.streams.PIECE", 5_000)
    lines = "".join("{broken " + "x" * (n % 700) + "\n" for n in range(1000))
    found = outcomes(Source(name="s", path=str(written(tmp_path, lines)), format="alpaca"))
    sizes = [int(outcome.rejected["text"].str.len_bytes().sum()) for outcome in found]
    assert sum(outcome.rejected.height for outcome in found) == 1000
    assert len(sizes) > 5
    assert max(sizes) <= 40_000
