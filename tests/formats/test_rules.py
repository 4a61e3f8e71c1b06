"""The order of turns: each rule with its default and its other values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.formats.reading import read, spoken, written

ROLE = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}


def said(text: str) -> list[tuple[str, str]]:
    """`u:hi a:ho` -> turns; an empty text is written `u:`."""
    return [(ROLE[part[0]], part[2:].replace("_", " ").replace("|", "\n")) for part in text.split(" ")]


# turns, rules, what is left (or the code of the rejection), edits
CASES: dict[str, tuple[str, dict[str, str], str, dict[str, int]]] = {
    "in order": ("s:x u:q a:b u:q2 a:b2", {}, "s:x u:q a:b u:q2 a:b2", {}),
    "two users merge": ("u:q u:r a:b", {}, "u:q||r a:b", {"merged-turns": 1}),
    "two answers merge": ("u:q a:b a:c a:d", {}, "u:q a:b||c||d", {"merged-turns": 2}),
    "two users stay": ("u:q u:r a:b", {"consecutive_turns": "keep"}, "u:q u:r a:b", {}),
    "two users refused": ("u:q u:r a:b", {"consecutive_turns": "reject"}, "consecutive-turns", {}),
    "question at the end goes": ("u:q a:b u:r", {}, "u:q a:b", {"dropped-turns": 1}),
    "question at the end stays": ("u:q a:b u:r", {"after_last_answer": "keep"}, "u:q a:b u:r", {}),
    "question at the end refused": ("u:q a:b u:r", {"after_last_answer": "reject"}, "unanswered-turn", {}),
    "answer first refused": ("a:x u:q a:b", {}, "assistant-first", {}),
    "answer first goes": ("s:y a:x u:q a:b", {"assistant_first": "drop"}, "s:y u:q a:b", {"dropped-turns": 1}),
    "answer first stays": ("a:x u:q a:b", {"assistant_first": "keep"}, "a:x u:q a:b", {}),
    "system inside refused": ("u:q s:x a:b", {}, "system-inside", {}),
    "system inside stays": ("u:q s:x a:b", {"system_inside": "keep"}, "u:q s:x a:b", {}),
    "empty system goes": ("s: u:q a:b", {}, "u:q a:b", {"dropped-turns": 1}),
    "empty question refused": ("u: a:b", {}, "empty-turn", {}),
    "empty question stays": ("u: a:b", {"empty_turns": "keep"}, "u: a:b", {}),
    "empty last answer stays": ("u:q a:", {}, "u:q a:", {}),
    "empty first answer refused": ("u:q a: u:r a:b", {}, "empty-turn", {}),
    "thinking is kept apart": ("u:q a:<think>|so|</think>||b", {}, "u:q a:b", {"split-thinking": 1}),
    "thinking stays in the text": ("u:q a:<think>so</think>b", {"thinking": "keep"}, "u:q a:<think>so</think>b", {}),
    "thinking that does not end stays": ("u:q a:<think>so", {}, "u:q a:<think>so", {}),
    "thinking inside of a text stays": ("u:q a:say_<think>so</think>", {}, "u:q a:say_<think>so</think>", {}),
    "placeholders are noted": (
        "u:q a:I_am_{{name}},_{{_x_y_}}",
        {},
        "u:q a:I_am_{{name}},_{{_x_y_}}",
        {"placeholder": 2},
    ),
    "placeholders refused": ("u:q a:{{name}}", {"placeholders": "reject"}, "placeholder", {}),
    "placeholders not looked for": ("u:q a:{{name}}", {"placeholders": "keep"}, "u:q a:{{name}}", {}),
    "braces of code are none": ("u:q a:{{1,2},{3}}", {}, "u:q a:{{1,2},{3}}", {}),
    "tools speak in a row": ("u:q t:r t:r a:b", {}, "u:q t:r t:r a:b", {}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_rule_does_what_the_table_says(tmp_path: Path, case: str) -> None:
    turns, rules, left, edits = CASES[case]
    row = {"messages": [{"role": role, "content": content} for role, content in said(turns)]}
    plain = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    result = read(written(tmp_path, [plain, row, plain]), format="messages", rules=rules)
    if ":" in left:
        assert spoken(result.kept)[1] == said(left)
        assert result.kept["id"].to_list() == [f"s:a.jsonl:{i}" for i in range(3)]
    else:
        assert result.rejected.select("id", "code").rows() == [("s:a.jsonl:1", left)]
    found = result.edited.select("id", "code", "count").rows()
    assert found == [("s:a.jsonl:1", code, count) for code, count in edits.items()]


def test_reasoning_of_a_split_answer_is_its_text_without_marks(tmp_path: Path) -> None:
    row = {"prompt": "q", "response": "<think>\nso it is\n</think>\n\nb"}
    [turn] = [turn for turn in read(written(tmp_path, [row])).kept["messages"][0] if turn["role"] == "assistant"]
    assert (turn["reasoning"], turn["content"]) == ("so it is", "b")


def test_turns_of_different_weights_are_not_merged(tmp_path: Path) -> None:
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a", "weight": 0},
        {"role": "assistant", "content": "b", "weight": 1},
    ]
    kept = read(written(tmp_path, [{"messages": turns}])).kept
    assert [turn["weight"] for turn in kept["messages"][0]] == [None, 0.0, 1.0]


def test_a_text_and_the_call_behind_it_become_one_turn(tmp_path: Path) -> None:
    turns = [("human", "q"), ("gpt", "wait"), ("function_call", '{"name": "f"}'), ("observation", "r"), ("gpt", "a")]
    row = {"conversations": [{"from": speaker, "value": value} for speaker, value in turns]}
    kept = read(written(tmp_path, [row])).kept["messages"][0]
    assert [(turn["role"], turn["content"], turn["tool_calls"]) for turn in kept] == [
        ("user", "q", None),
        ("assistant", "wait", '[{"name":"f"}]'),
        ("tool", "r", None),
        ("assistant", "a", None),
    ]
