"""What rows of each format become."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sft_data.formats.detect import detect
from sft_data.sources.files import find_files
from sft_data.sources.settings import Source
from sft_data.stage import Outcome
from tests.formats.reading import read, spoken, why, written
from tests.frames import SHARED, needs_shared

U, A, S, T = "user", "assistant", "system", "tool"


def one(tmp_path: Path, row: Any, **settings: Any) -> Outcome:
    return read(written(tmp_path, [row]), **settings)


def chat(*pairs: tuple[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in pairs], **more}


# format that is detected, row, what is said
SAID: dict[str, tuple[str, dict[str, Any], list[tuple[str, str]]]] = {
    "alpaca with input": ("alpaca", {"instruction": "q", "input": "i", "output": "a"}, [(U, "q\ni"), (A, "a")]),
    "alpaca, blank input": ("alpaca", {"instruction": "q", "input": " \n", "output": "a"}, [(U, "q"), (A, "a")]),
    "alpaca, placeholder input": (
        "alpaca",
        {"instruction": "q", "input": "<noinput>", "output": "a"},
        [(U, "q\n<noinput>"), (A, "a")],
    ),
    "alpaca, input alone": ("alpaca", {"instruction": "", "input": "i", "output": "a"}, [(U, "i"), (A, "a")]),
    "alpaca, system and history": (
        "alpaca",
        {"instruction": "q", "input": "", "output": "a", "system": "s", "history": [["q0", "a0"]]},
        [(S, "s"), (U, "q0"), (A, "a0"), (U, "q"), (A, "a")],
    ),
    "dolly": (
        "alpaca",
        {"instruction": "q", "context": "c", "response": "a", "category": "open_qa"},
        [(U, "q\nc"), (A, "a")],
    ),
    "firefly": ("alpaca", {"kind": "NLI", "input": "q", "target": "a"}, [(U, "q"), (A, "a")]),
    "sharegpt": (
        "sharegpt",
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        [(U, "q"), (A, "a")],
    ),
    "sharegpt, other names": (
        "sharegpt",
        {"conversation": [{"from": "User", "value": "q"}, {"from": "bing", "value": "a"}], "system": "s"},
        [(S, "s"), (U, "q"), (A, "a")],
    ),
    "sharegpt keys with roles": (
        "sharegpt",
        {"conversations": [{"role": "user", "content": "q"}, {"role": "model", "content": "a"}]},
        [(U, "q"), (A, "a")],
    ),
    "messages": ("messages", chat((S, "s"), (U, "q"), (A, "a")), [(S, "s"), (U, "q"), (A, "a")]),
    "messages in parts": (
        "messages",
        chat((U, [{"type": "text", "value": "q"}, {"type": "text", "text": "!"}]), (A, "a")),
        [(U, "q!"), (A, "a")],
    ),
    "developer is system": ("messages", chat(("developer", "s"), (U, "q"), (A, "a")), [(S, "s"), (U, "q"), (A, "a")]),
    "prompt and response": ("prompt-response", {"prompt": "q", "response": "a"}, [(U, "q"), (A, "a")]),
    "prompt and completion": ("prompt-response", {"prompt": "q", "completion": "a"}, [(U, "q"), (A, "a")]),
    "lists of messages": (
        "prompt-response",
        {"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]},
        [(U, "q"), (A, "a")],
    ),
    "preference": ("prompt-response", {"prompt": "q", "chosen": "a", "rejected": "b"}, [(U, "q"), (A, "a")]),
    "question, context, answers": (
        "prompt-response",
        {"question": "q", "context": "c", "answers": {"text": ["a", "b"], "answer_start": [1, 2]}},
        [(U, "q\nc"), (A, "a")],
    ),
    "ultrachat": ("turn-list", {"id": "1", "data": ["q", "a", "q2", "a2"]}, [(U, "q"), (A, "a"), (U, "q2"), (A, "a2")]),
    "rounds": (
        "rounds",
        {"conversation": [{"human": "q", "assistant": "a"}, {"human": "q2", "assistant": "a2"}]},
        [(U, "q"), (A, "a"), (U, "q2"), (A, "a2")],
    ),
    "moss": (
        "moss",
        {
            "meta_instruction": "s",
            "chat": {
                "turn_2": {"Human": "<|Human|>: q2<eoh>\n", "MOSS": "<|MOSS|>: a2<eom>\n"},
                "turn_1": {"Human": "<|Human|>: q<eoh>\n", "Inner Thoughts": "None", "MOSS": "<|MOSS|>: a<eom>\n"},
            },
        },
        [(S, "s"), (U, "q"), (A, "a"), (U, "q2"), (A, "a2")],
    ),
    "moss, plain text": (
        "moss",
        {"plain_text": "[Human]: q [MOSS]: r<eoh> [MOSS]: a\nb<eom> [Human]: q2<eoh> [MOSS]: a2<eom>", "prefix": "s"},
        [(S, "s"), (U, "q [MOSS]: r"), (A, "a\nb"), (U, "q2"), (A, "a2")],
    ),
    "moss, plain text with marks": (
        "moss",
        {"text": "<|Human|>: q<eoh>\n<|MOSS|>: a<eom>\n"},
        [(U, "q"), (A, "a")],
    ),
    "transcript": ("transcript", {"text": "### Human: q: r### Assistant: a\nb"}, [(U, "q: r"), (A, "a\nb")]),
    "belle, several rounds": (
        "transcript",
        {"instruction": "Human:q\nAssistant:a\nHuman:q2\nAssistant:", "output": "a2"},
        [(U, "q"), (A, "a"), (U, "q2"), (A, "a2")],
    ),
    "belle, one round": ("alpaca", {"instruction": "问\n", "input": "", "output": "答"}, [(U, "问\n"), (A, "答")]),
    "helpful and harmless": (
        "transcript",
        {"chosen": "\n\nHuman: q\n\nAssistant: a\n\nHuman: q2\n\nAssistant: a2", "rejected": "x"},
        [(U, "q"), (A, "a"), (U, "q2"), (A, "a2")],
    ),
}


@pytest.mark.parametrize("case", SAID)
def test_a_row_is_detected_and_says_what_it_should(tmp_path: Path, case: str) -> None:
    format_, row, said = SAID[case]
    path = written(tmp_path, [row])
    source = Source(name="s", path=str(path))
    assert detect(source, find_files(source)).format == format_
    result = read(path)
    assert why(result) == []
    assert spoken(result.kept) == [said]
    assert spoken(read(path, format=format_).kept) == [said]


@pytest.mark.parametrize("case", SAID)
def test_a_plain_column_and_a_single_row_say_the_same(tmp_path: Path, case: str) -> None:
    format_, row, said = SAID[case]
    odd = row | {"odd": 1}
    path = written(tmp_path, [row, odd, row, {"nothing": 1}])
    result = read(path, format=format_)
    assert spoken(result.kept) == [said] * 3
    assert why(result) == [(3, "missing-field")]


def test_an_instruction_that_only_begins_like_a_dialogue_is_alpaca(tmp_path: Path) -> None:
    row = {"instruction": "Human: q\nRewrite this line.", "input": "", "output": "a"}
    assert spoken(one(tmp_path, row).kept) == [[(U, row["instruction"]), (A, "a")]]


def test_a_field_mapping_reads_any_names(tmp_path: Path) -> None:
    row = {"ask": "q", "more": "i", "say": "a", "instruction": "no"}
    fields = {"instruction": "ask", "input": "more", "output": "say"}
    result = one(tmp_path, row, format="alpaca", fields=fields)
    assert spoken(result.kept) == [[(U, "q\ni"), (A, "a")]]
    assert json.loads(result.kept["extra"][0]) == {"instruction": "no"}
    source = Source(name="s", path=str(tmp_path / "a.jsonl"), fields=fields)
    assert detect(source, find_files(source)).format == "alpaca"


def test_metadata_goes_to_its_columns_and_the_rest_to_extra(tmp_path: Path) -> None:
    row = {
        "instruction": "q",
        "output": "a",
        "id": 7,
        "category": "x",
        "license": 5,
        "weight": 0.5,
        "metadata": {"source": "web", "difficulty": "hard", "language": "en"},
        "n": 2**70,
    }
    kept = one(tmp_path, row, format="alpaca").kept.to_dicts()[0]
    assert (kept["category"], kept["difficulty"], kept["language"], kept["license"]) == ("x", "hard", "en", None)
    assert kept["weight"] == 0.5
    assert json.loads(kept["extra"]) == {"id": 7, "license": 5, "metadata": {"source": "web"}, "n": 2**70}


def test_fields_of_turns_without_a_place_go_to_extra(tmp_path: Path) -> None:
    row = chat((U, "q"), (A, "a"))
    row["messages"][1] |= {"time": 5}
    kept = one(tmp_path, row).kept
    assert json.loads(kept["extra"][0]) == {"turn_fields": {"2": {"time": 5}}}


def test_all_answers_of_a_list_are_kept_in_extra(tmp_path: Path) -> None:
    kept = one(tmp_path, {"question": "q", "answers": ["a", "b"]}).kept
    assert json.loads(kept["extra"][0]) == {"answers": ["a", "b"]}


def test_tools_and_calls_are_json_text_without_invented_keys(tmp_path: Path) -> None:
    tools = [{"name": "f", "parameters": {"x": {"type": "int"}}}, {"name": "g"}]
    rows = [
        chat((U, "q"), tools=tools)
        | {
            "messages": [
                {"role": "user", "content": "q"},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
                        {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "not json"}},
                    ],
                },
                {"role": "tool", "content": "r", "tool_call_id": "c1", "name": "f"},
                {"role": "assistant", "content": "a", "reasoning_content": "so"},
            ]
        }
    ]
    kept = read(written(tmp_path, rows)).kept.to_dicts()[0]
    assert json.loads(kept["tools"]) == tools
    called = json.loads(kept["messages"][1]["tool_calls"])
    assert called == [
        {"name": "f", "arguments": {"x": 1}, "id": "c1"},
        {"name": "g", "arguments": "not json", "id": "c2"},
    ]
    assert kept["messages"][1]["content"] == ""
    assert (kept["messages"][2]["tool_call_id"], kept["messages"][2]["name"]) == ("c1", "f")
    assert kept["messages"][3]["reasoning"] == "so"


@pytest.mark.parametrize("given", ["[]", "", [], None])
def test_no_tools_are_null(tmp_path: Path, given: Any) -> None:
    assert one(tmp_path, chat((U, "q"), (A, "a"), tools=given)).kept["tools"].to_list() == [None]


@pytest.mark.parametrize(
    ("key", "given", "weight"),
    [
        ("loss_weight", 0.0, 0.0),
        ("weight", 1, 1.0),
        ("train", False, 0.0),
        ("train", True, 1.0),
        ("weight", None, None),
    ],
)
def test_train_flags_become_the_weight_of_a_turn(tmp_path: Path, key: str, given: Any, weight: float | None) -> None:
    row = chat((U, "q"), (A, "a"))
    row["messages"][1][key] = given
    assert one(tmp_path, row).kept["messages"][0][1]["weight"] == weight


def test_calls_as_json_text_are_read_as_tables_hold_them(tmp_path: Path) -> None:
    row = chat((U, "q"), (A, ""), (T, "r"), (A, "b"))
    row["messages"][1]["tool_calls"] = '[{"function": {"name": "f", "arguments": "{}"}}]'
    assert one(tmp_path, row).kept["messages"][0][1]["tool_calls"] == '[{"name":"f","arguments":{}}]'
    row["messages"][1]["tool_calls"] = "f()"
    assert one(tmp_path, row, format="messages").rejected["code"].to_list() == ["bad-tool-call"]


def test_parts_hold_reasoning_and_calls(tmp_path: Path) -> None:
    parts = [
        {"type": "reasoning", "value": "so"},
        {"type": "text", "value": "a"},
        {"type": "tool_call", "value": '{"name": "f", "arguments": {}}'},
    ]
    row = chat((U, "q"), (A, parts), (T, "r"), (A, "b"))
    said = one(tmp_path, row).kept["messages"][0][1]
    assert (said["content"], said["reasoning"], said["tool_calls"]) == ("a", "so", '[{"name":"f","arguments":{}}]')


def test_a_tree_becomes_its_threads_best_ranked_first(tmp_path: Path) -> None:
    def node(role: str, text: str, rank: int | None, *replies: Any) -> dict[str, Any]:
        return {"role": role, "text": text, "rank": rank, "replies": list(replies)}

    tree = node(
        "prompter",
        "q",
        None,
        node("assistant", "second", 1),
        node("assistant", "best", 0, node("prompter", "q2", None, node("assistant", "a2", 0))),
    )
    result = one(tmp_path, {"message_tree_id": "t", "prompt": tree})
    assert spoken(result.kept) == [[(U, "q"), (A, "best"), (U, "q2"), (A, "a2")], [(U, "q"), (A, "second")]]
    assert result.kept["id"].to_list() == ["s:a.jsonl:0.0", "s:a.jsonl:0.1"]
    assert [json.loads(extra)["ranks"] for extra in result.kept["extra"]] == [[0, None, 0], [1]]


@pytest.mark.parametrize(("limits", "longest"), [({}, 49), ({"max_nesting": 200}, 99)])
def test_a_tree_is_read_in_full_or_rejected_never_cut(tmp_path: Path, limits: dict[str, int], longest: int) -> None:
    def tree(length: int) -> dict[str, Any]:
        node: dict[str, Any] = {"role": "assistant", "text": "end"}
        for n in range(length - 1, 0, -1):
            node = {"role": "assistant" if n % 2 == 0 else "prompter", "text": str(n), "replies": [node]}
        return {"prompt": node}

    for name in ("a.jsonl", "a.json"):
        path = written(tmp_path, [tree(2 * (longest // 2)), tree(2 * longest)], name)
        result = read(path, format="oasst-tree", limits=limits)
        assert [len(said) for said in spoken(result.kept)] == [2 * (longest // 2)]
        assert why(result) == [(1, "row-too-deep")]


def test_many_threads_of_one_tree_still_fit_the_shards(tmp_path: Path) -> None:
    replies = [{"role": "assistant", "text": f"a{i}", "replies": []} for i in range(25)]
    tree = {"prompt": {"role": "prompter", "text": "q", "replies": replies}}
    result = read(written(tmp_path, [tree]), shard_rows=10)
    assert [row[1][1] for row in spoken(result.kept)] == [f"a{i}" for i in range(25)]


TEMPLATES = [
    {"prompt": "Good or bad? {text}", "response": "{label}"},
    {"prompt": "{text}\nVerdict:", "response": "It is {label} {{sic}}."},
]


def test_a_table_reads_through_templates_chosen_by_the_row(tmp_path: Path) -> None:
    rows = [{"text": f"t{i} {{label}}", "label": i % 2, "n": i} for i in range(60)]
    path = written(tmp_path, rows)
    settings: dict[str, Any] = {
        "format": "table",
        "templates": TEMPLATES,
        "labels": {"label": {"0": "bad", "1": "good"}},
    }
    result = read(path, **settings)
    said = spoken(result.kept)
    first = [turns for turns in said if turns[0][1].startswith("Good or bad?")]
    assert 15 < len(first) < 45
    assert said[0] in (
        [(U, "Good or bad? t0 {label}"), (A, "bad")],
        [(U, "t0 {label}\nVerdict:"), (A, "It is bad {sic}.")],
    )
    assert [json.loads(extra) for extra in result.kept["extra"]] == [{"n": i} for i in range(60)]
    again = read(written(tmp_path, rows[:7]), **settings)
    assert spoken(again.kept) == said[:7]
    assert spoken(read(path, **settings, seed=1).kept) != said


def test_a_table_row_without_its_columns_or_labels_is_rejected(tmp_path: Path) -> None:
    rows = [{"text": "t"}, {"text": "t", "label": "9"}, {"text": ["t"], "label": "0"}, {"text": "t", "label": None}]
    result = read(written(tmp_path, rows), format="table", templates=TEMPLATES, labels={"label": {"0": "bad"}})
    assert why(result) == [(0, "missing-field"), (1, "unknown-label"), (2, "wrong-type"), (3, "missing-field")]


@needs_shared
@pytest.mark.parametrize(("name", "rows"), [("HumanEval.jsonl.gz", 164), ("mt_bench_question.jsonl", 80)])
def test_evaluation_sets_are_recognised_and_give_no_training_rows(name: str, rows: int) -> None:
    result = read(SHARED / "data/eval" / name)
    assert result.kept.height == 0
    assert result.rejected["code"].to_list() == ["evaluation-row"] * rows
    assert "decontaminate" in result.rejected["detail"][0]
