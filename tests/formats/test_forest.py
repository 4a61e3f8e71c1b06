"""Flat tables of messages become threads; every row is in one, or is rejected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sft_data.formats.detect import detect
from sft_data.formats.ingest import units_of
from sft_data.sources import units as sources_units
from sft_data.sources.files import find_files
from sft_data.sources.settings import Source
from tests.formats.reading import read, spoken, written

U, A = "user", "assistant"


def message(identity: str, parent: str | None, role: str = "", **more: Any) -> dict[str, Any]:
    said = {"text": identity.upper(), "role": role or ("prompter" if identity[0] == "q" else "assistant")}
    return {"message_id": identity, "parent_id": parent, **said, **more}


FOREST = [
    message("a2", "q2", rank=0, lang="de", message_tree_id="q1"),
    message("a1", "q1", rank=1, lang="de", message_tree_id="q1"),
    message("q2", "a3", lang="de", message_tree_id="q1", note="n"),
    message("q1", None, lang="de", message_tree_id="q1"),
    message("a3", "q1", rank=0, lang="de", message_tree_id="q1"),
]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet"])
def test_messages_in_any_order_become_the_threads_of_their_last_ones(tmp_path: Path, name: str) -> None:
    if name == "a.parquet":
        pl.DataFrame(FOREST, infer_schema_length=None).write_parquet(tmp_path / name)
    path = tmp_path / name if name == "a.parquet" else written(tmp_path, FOREST, name)
    source = Source(name="s", path=str(path))
    assert detect(source, find_files(source)).format == "oasst-messages"
    result = read(path)
    assert result.rejected.height == 0
    assert spoken(result.kept) == [[(U, "Q1"), (A, "A3"), (U, "Q2"), (A, "A2")], [(U, "Q1"), (A, "A1")]]
    assert result.kept["id"].to_list() == [f"s:{name}:0", f"s:{name}:1"]
    assert result.kept["language"].to_list() == ["de", "de"]
    extra = [json.loads(extra) for extra in result.kept["extra"]]
    assert extra[0]["rows"] == [3, 4, 2, 0]
    assert extra[0]["ranks"] == [0, None, 0]
    assert extra[0]["message_tree_id"] == "q1"
    assert extra[0]["turn_fields"]["3"] == {"message_id": "q2", "note": "n"}


def test_other_names_of_the_columns_are_given_by_the_pipeline(tmp_path: Path) -> None:
    rows = [{"n": 2, "above": 1, "said": "a", "who": "assistant"}, {"n": 1, "above": None, "said": "q", "who": "user"}]
    fields = {"id": "n", "parent": "above", "text": "said", "role": "who"}
    assert spoken(read(written(tmp_path, rows), format="oasst-messages", fields=fields).kept) == [[(U, "q"), (A, "a")]]


def test_messages_that_no_root_leads_to_are_rejected_with_their_place(tmp_path: Path) -> None:
    rows = [
        message("q1", None),
        message("a1", "q1"),
        message("a1", "q1", note="again"),
        message("a5", "nowhere"),
        message("q6", "a5"),
        message("qx", "ax"),
        message("ax", "qx"),
        {"text": "t", "role": "prompter"},
    ]
    result = read(written(tmp_path, rows), format="oasst-messages")
    assert spoken(result.kept) == [[(U, "Q1"), (A, "A1")]]
    told = result.rejected.sort("line")
    assert told["line"].to_list() == [3, 4, 5, 6, 7, 8]
    assert set(told["code"]) == {"broken-thread"}
    assert json.loads(told["text"][1]) == rows[3]
    assert "no `message_id`" in told["detail"][5]


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_every_row_is_in_a_thread_or_is_rejected(tmp_path: Path, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 14))
    names = data.draw(st.lists(st.integers(0, 12), min_size=count, max_size=count))
    rows = []
    for name in names:
        parent = data.draw(st.none() | st.integers(0, 13))
        role = data.draw(st.sampled_from(["prompter", "assistant"]))
        rows.append(message(f"m{name}", None if parent is None else f"m{parent}", role))
    shard_rows = data.draw(st.sampled_from([2, 5, 100]))
    keep = {"consecutive_turns": "keep", "after_last_answer": "keep", "assistant_first": "keep"}
    result = read(written(tmp_path, rows), shard_rows, format="oasst-messages", rules=keep)
    whole = read(tmp_path / "a.jsonl", format="oasst-messages", rules=keep)
    assert result.kept.equals(whole.kept)
    refused = result.rejected.filter(stage="normalize")
    alone = [int(i.rsplit(":", 1)[1]) for i in result.rejected.filter(stage="read")["id"]]
    threads = [json.loads(told)["rows"] for told in [*result.kept["extra"], *refused["text"]]]
    inside = {row for thread in threads for row in thread}
    assert inside.isdisjoint(alone)
    assert inside | set(alone) == set(range(count))
    for thread in threads:
        above: Any = None
        for row in thread:
            assert rows[row]["parent_id"] == above
            above = rows[row]["message_id"]
        assert above not in {rows[row]["parent_id"] for row in inside}


def test_a_file_of_trees_is_never_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources_units, "RANGE", 100)
    path = written(tmp_path, FOREST)
    source = Source(name="s", path=str(path))
    assert len(units_of(source, find_files(source), "alpaca")) > 1
    assert len(units_of(source, find_files(source), "oasst-messages")) == 1
    assert len(read(path).kept) == 2
