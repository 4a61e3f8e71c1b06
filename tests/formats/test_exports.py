"""What an export writes reads back as the same conversations."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sft_data.export.texts import Files, write_conversations
from sft_data.formats.exports import EXPORTS, CannotHold
from tests.formats.reading import read
from tests.frames import SHARED, conversations, needs_shared, talk, turn

READ_AS = {"prompt-completion": "prompt-response", "record": "alpaca"}

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda text: bool(text.strip())
)
calls = st.builds(
    lambda name, arguments: json.dumps(
        [{"name": name, "arguments": arguments}], separators=(",", ":"), ensure_ascii=False
    ),
    st.sampled_from(["f", "g"]),
    st.dictionaries(texts, st.integers(-(2**70), 2**70) | texts | st.none(), max_size=2),
)
TOOLS = '[{"name":"f","parameters":{"x":null}}]'


@st.composite
def rows(draw: st.DrawFn, number: int) -> dict[str, Any]:
    turns = [turn("system", draw(texts))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 2))):
        turns.append(turn("user", draw(texts), weight=draw(st.sampled_from([None, None, None, 0.0, 1.0]))))
        if draw(st.integers(0, 4)) == 0:
            turns += [turn("assistant", "", tool_calls=draw(calls)), turn("tool", draw(texts))]
        reasoning = draw(st.none() | st.none() | texts)
        weight = draw(st.sampled_from([None, None, None, 0.0, 1.0, 0.5]))
        turns.append(turn("assistant", draw(texts), reasoning=reasoning, weight=weight))
    columns = {
        "tools": draw(st.sampled_from([None, None, TOOLS])),
        "category": draw(st.none() | texts),
        "extra": draw(st.sampled_from([None, '{"n":36893488147419103232}', '{"kind":"x","y":[null]}'])),
        "weight": draw(st.sampled_from([1.0, 1.0, 0.25])),
    }
    return talk(f"s:a:{number}", *turns, **columns)


def exported(folder: Path, frame: pl.DataFrame, format_: str, files: Files) -> tuple[Path, Counter[str]]:
    """The rows in two shards of a version, written in a format; the file, and why rows were left out."""
    shards = folder / "version" / "conversations" / "train"
    shards.mkdir(parents=True, exist_ok=True)
    half = (frame.height + 1) // 2
    frame[:half].write_parquet(shards / "000.parquet")
    frame[half:].write_parquet(shards / "001.parquet")
    left_out = write_conversations(folder / "version", folder / "out", format_, files)
    return folder / "out" / f"train.{files}", left_out


def held_by(frame: pl.DataFrame, format_: str) -> pl.DataFrame:
    """The rows that a format can hold."""
    held = []
    for row in frame.iter_rows(named=True):
        try:
            EXPORTS[format_](row)
        except CannotHold:
            continue
        held.append(row["id"])
    return frame.filter(pl.col("id").is_in(held))


def default(turn: dict[str, Any]) -> float:
    """The weight that holds where a turn names none: answers are learnt."""
    return 1.0 if turn["role"] == "assistant" else 0.0


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.sampled_from(sorted(EXPORTS)), st.sampled_from(["jsonl", "json", "parquet"]))
def test_what_an_export_writes_reads_back_the_same(
    tmp_path: Path, data: st.DataObject, format_: str, files: Files
) -> None:
    frame = conversations(*[data.draw(rows(number)) for number in range(data.draw(st.integers(1, 6)))])
    path, left_out = exported(tmp_path, frame, format_, files)
    held = held_by(frame, format_)
    assert held.height + left_out.total() == frame.height
    if held.is_empty():
        return
    back = read(path, format=READ_AS.get(format_, format_))
    assert back.rejected.height == 0
    expected = held["messages"].to_list()
    if format_ != "messages":  # the others hold no weights: only those that repeat the default are left out
        assert not any(turn["weight"] not in {None, default(turn)} for turns in expected for turn in turns)
        expected = [[turn | {"weight": None} for turn in turns] for turns in expected]
    else:
        assert back.kept["content_hash"].to_list() == held["content_hash"].to_list()
    assert back.kept["messages"].to_list() == expected
    assert back.kept["tools"].to_list() == held["tools"].to_list()
    assert back.kept.select("category", "weight").equals(held.select("category", "weight"))
    assert [json.loads(extra)["id"] for extra in back.kept["extra"]] == held["id"].to_list()


@pytest.mark.parametrize("files", ["jsonl", "json", "parquet"])
@pytest.mark.parametrize("format_", sorted(EXPORTS))
def test_a_version_without_rows_that_fit_is_a_file_without_rows(tmp_path: Path, format_: str, files: Files) -> None:
    path, left_out = exported(tmp_path, conversations(talk("r", "q", "a"))[:0], format_, files)
    assert left_out.total() == 0
    if files == "parquet":
        assert pl.read_parquet(path).height == 0
    else:
        assert path.read_bytes().split() == ([b"[", b"]"] if files == "json" else [])


def test_turns_in_parquet_have_the_keys_that_some_turn_fills(tmp_path: Path) -> None:
    frame = conversations(talk("s:a:0", "q", "a"), talk("s:a:1", "q", turn("assistant", "a", weight=0.5)))
    path, _ = exported(tmp_path, frame, "messages", "parquet")
    assert pl.read_parquet(path)["messages"].to_list() == [
        [{"role": "user", "content": "q", "weight": None}, {"role": "assistant", "content": "a", "weight": None}],
        [{"role": "user", "content": "q", "weight": None}, {"role": "assistant", "content": "a", "weight": 0.5}],
    ]


def only(frame: pl.DataFrame, format_: str) -> dict[str, Any]:
    [row] = frame.to_dicts()
    return EXPORTS[format_](row)


def test_each_format_looks_as_others_write_it() -> None:
    frame = conversations(
        talk("s:a:0", turn("system", "be kind"), turn("user", "q"), turn("assistant", "a"), category="x")
    )
    labels = {"id": "s:a:0", "source": "s"}
    assert only(frame, "alpaca") == labels | {
        "instruction": "q",
        "input": "",
        "output": "a",
        "system": "be kind",
        "category": "x",
    }
    assert only(frame, "prompt-completion") == labels | {
        "prompt": "q",
        "completion": "a",
        "system": "be kind",
        "category": "x",
    }
    assert only(frame, "sharegpt") == labels | {
        "system": "be kind",
        "conversations": [
            {"from": "human", "value": "q"},
            {"from": "gpt", "value": "a"},
        ],
        "category": "x",
    }
    assert only(frame, "messages")["messages"][0] == {"role": "system", "content": "be kind"}
    plain = conversations(talk("s:a:0", "q", "a", language="en"))
    assert only(plain, "record") == {
        "id": "s:a:0",
        "instruction": "q",
        "input": "",
        "output": "a",
        "metadata": {"source": "s", "language": "en"},
    }


def test_a_call_of_a_tool_is_written_as_openai_writes_it() -> None:
    called = turn("assistant", "", tool_calls='[{"name":"f","arguments":{"x":1},"id":"c1"}]')
    frame = conversations(
        talk("s:a:0", turn("user", "q"), called, turn("tool", "r", tool_call_id="c1"), turn("assistant", "a"))
    )
    assert only(frame, "messages")["messages"][1:3] == [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}}],
        },
        {"role": "tool", "content": "r", "tool_call_id": "c1"},
    ]


@pytest.mark.parametrize(
    ("format_", "row", "reason"),
    [
        ("alpaca", talk("r", "q", "a", tools=TOOLS), "tools"),
        ("alpaca", talk("r", turn("user", "q"), turn("assistant", "a", weight=0.5)), "weight"),
        ("prompt-completion", talk("r", "q", "a", "q", "a"), "one question"),
        ("record", talk("r", turn("system", "s"), turn("user", "q"), turn("assistant", "a")), "one question"),
        ("record", talk("r", "q", "a", weight=0.5), "weight of a row"),
        ("sharegpt", talk("r", turn("user", "q"), turn("assistant", "a", weight=0.0)), "`weight`"),
    ],
)
def test_what_a_format_cannot_hold_is_named(tmp_path: Path, format_: str, row: dict[str, Any], reason: str) -> None:
    path, left_out = exported(tmp_path, conversations(row, talk("r2", "q", "a")), format_, "jsonl")
    [(told, count)] = left_out.items()
    assert (reason in told, count) == (True, 1)
    assert json.loads(path.read_text())["id"] == "r2"


@pytest.mark.parametrize("format_", ["alpaca", "sharegpt", "prompt-completion", "record"])
def test_weights_that_repeat_the_default_keep_no_row_out(tmp_path: Path, format_: str) -> None:
    said = [
        talk(f"r{n}", turn("user", "q", weight=u), turn("assistant", "a", weight=a))
        for n, (u, a) in enumerate([(0.0, 1.0), (None, 1.0), (0.0, None), (1.0, 1.0), (0.0, 0.0), (0.0, 0.5)])
    ]
    path, left_out = exported(tmp_path, conversations(*said), format_, "jsonl")
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["r0", "r1", "r2"]
    assert left_out == {f"{format_} has no place for `weight` of a turn": 3}
    back = read(path, format=READ_AS.get(format_, format_)).kept["messages"].to_list()
    assert back == [[turn("user", "q"), turn("assistant", "a")]] * 3


@needs_shared
@pytest.mark.parametrize("files", ["jsonl", "parquet"])
@pytest.mark.parametrize("format_", ["messages", "sharegpt"])
def test_real_tool_conversations_survive_an_export(tmp_path: Path, format_: str, files: Files) -> None:
    frame = read(SHARED / "data/sharegpt/glaive_toolcall_en_demo.json").kept
    path, left_out = exported(tmp_path, frame, format_, files)
    assert left_out.total() == 0
    assert read(path).kept["content_hash"].equals(frame["content_hash"])
