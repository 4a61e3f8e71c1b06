"""What an export writes reads back as the same conversations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sft_data.formats.exports import EXPORTS, Exported, ExportFormat, export_rows, write_export
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
        turns.append(turn("user", draw(texts)))
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


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.sampled_from(sorted(EXPORTS)), st.sampled_from(["a.jsonl", "a.parquet"]))
def test_what_an_export_writes_reads_back_the_same(
    tmp_path: Path, data: st.DataObject, format_: ExportFormat, name: str
) -> None:
    frame = conversations(*[data.draw(rows(number)) for number in range(data.draw(st.integers(1, 6)))])
    exported = write_export(frame, format_, tmp_path / name)
    assert exported.rows + len(exported.left_out) == frame.height
    held = frame.filter(~pl.col("id").is_in(list(exported.left_out)))
    if not exported.rows:
        return
    back = read(tmp_path / name, format=READ_AS.get(format_, format_))
    assert back.rejected.height == 0
    assert back.kept["content_hash"].to_list() == held["content_hash"].to_list()
    if format_ != "record":
        assert back.kept.select("category", "weight").equals(held.select("category", "weight"))
        if name == "a.jsonl":
            assert back.kept["extra"].to_list() == held["extra"].to_list()


def only(frame: pl.DataFrame, format_: ExportFormat) -> dict[str, Any]:
    [row] = export_rows(frame, format_, Exported())
    return row


def test_each_format_looks_as_others_write_it() -> None:
    frame = conversations(
        talk("s:a:0", turn("system", "be kind"), turn("user", "q"), turn("assistant", "a"), category="x")
    )
    assert only(frame, "alpaca") == {
        "instruction": "q",
        "input": "",
        "output": "a",
        "system": "be kind",
        "category": "x",
    }
    assert only(frame, "prompt-completion") == {"prompt": "q", "completion": "a", "system": "be kind", "category": "x"}
    assert only(frame, "sharegpt") == {
        "conversations": [
            {"from": "system", "value": "be kind"},
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
        ("messages", talk("r", "q", "a", extra='{"system":"x"}'), "`system`"),
    ],
)
def test_what_a_format_cannot_hold_is_named(format_: ExportFormat, row: dict[str, Any], reason: str) -> None:
    exported = Exported()
    assert list(export_rows(conversations(row), format_, exported)) == []
    assert reason in exported.left_out["r"]


@needs_shared
@pytest.mark.parametrize("format_", ["messages", "sharegpt"])
def test_real_tool_conversations_survive_an_export(tmp_path: Path, format_: ExportFormat) -> None:
    frame = read(SHARED / "data/sharegpt/glaive_toolcall_en_demo.json").kept
    exported = write_export(frame, format_, tmp_path / "a.jsonl")
    assert exported.left_out == {}
    assert read(tmp_path / "a.jsonl").kept["content_hash"].equals(frame["content_hash"])
