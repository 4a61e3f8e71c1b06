"""The real data, against renderings written by hand in this file and against transformers where it is right."""

import json
import warnings
from collections.abc import Iterator
from itertools import islice
from typing import Any

import polars as pl
import pytest

from sft_data.stage import Outcome, run_stage
from sft_data.tokenize.stage import Tokenize
from tests.frames import SHARED, conversations, needs_shared, talk, turn
from tests.tokenize.reading import proofs, text_of, trained_texts

GPT2, MINIMIND, STORIES = (
    str(SHARED / "tokenizers" / "gpt2_chatml"),
    str(SHARED / "tokenizers" / "minimind"),
    str(SHARED / "models" / "stories260k_hf"),
)
ROLES = {"human": "user", "gpt": "assistant", "function_call": "assistant", "observation": "tool"}

pytestmark = needs_shared


def alpaca() -> Iterator[dict[str, Any]]:
    for number, row in enumerate(json.loads((SHARED / "data" / "alpaca_data.json").read_text())):
        asked = "\n".join(part for part in (row["instruction"], row.get("input")) if part)
        yield talk(f"alpaca:{number}", asked, row["output"])


def chinese() -> Iterator[dict[str, Any]]:
    for path in sorted((SHARED / "data" / "alpaca_zh").glob("*.json")):
        for number, row in enumerate(json.loads(path.read_text())):
            asked = "\n".join(part for part in (row["instruction"], row.get("input")) if part)
            yield talk(f"{path.name}:{number}", asked, row["output"])


def tool_calls() -> Iterator[dict[str, Any]]:
    rows = json.loads((SHARED / "data" / "sharegpt" / "glaive_toolcall_en_demo.json").read_text())
    for number, row in enumerate(rows):
        turns = []
        for said in row["conversations"]:
            call = said["from"] == "function_call"
            calls = json.dumps([json.loads(said["value"])]) if call else None
            turns.append(turn(ROLES[said["from"]], "" if call else said["value"], tool_calls=calls))
        yield talk(f"glaive:{number}", *turns, tools=row["tools"] or None)


def dialogues() -> Iterator[dict[str, Any]]:
    rows = json.loads((SHARED / "data" / "sharegpt" / "dummy_conversation.json").read_text())
    for number, row in enumerate(rows):
        turns = [turn(ROLES[said["from"]], said["value"]) for said in row["conversations"]]
        if any(t["role"] == "assistant" for t in turns):
            yield talk(f"dummy:{number}", *turns)


def weighted() -> Iterator[dict[str, Any]]:
    lines = (SHARED / "data" / "messages" / "v1_sft_demo.jsonl").read_text().splitlines()
    for number, line in enumerate(lines):
        turns = [
            turn(m["role"], "".join(p["value"] for p in m["content"]), weight=m["loss_weight"])
            for m in json.loads(line)["messages"]
            if all(p["type"] == "text" for p in m["content"])
        ]
        if any(t["role"] == "assistant" for t in turns):
            yield talk(f"v1:{number}", *turns)


def tokenize(folder: str, rows: list[dict[str, Any]]) -> Outcome:
    return run_stage(Tokenize(tokenizer=folder, max_length=2**20), conversations(*rows))


def answers(row: dict[str, Any]) -> list[str]:
    return [m["content"] for m in row["messages"] if m["role"] == "assistant" and m["weight"] != 0]


def by_id(rows: list[dict[str, Any]], outcome: Outcome) -> list[dict[str, Any]]:
    kept = set(outcome.kept["id"])
    return [row for row in rows if row["id"] in kept]


def check_chatml(rows: list[dict[str, Any]]) -> None:
    """ChatML by hand: every row's tokens are the text, its labels are the answers with <|im_end|>."""
    outcome = tokenize(GPT2, rows)
    assert outcome.rejected.height == 0
    learnt = trained_texts(GPT2, outcome)
    whole = outcome.tables["tokens"]["input_ids"].to_list()
    for row, ids, texts in zip(rows, whole, learnt, strict=True):
        said = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in row["messages"])
        assert text_of(GPT2, ids) == said, row["id"]
        assert texts == [answer + "<|im_end|>" for answer in answers(row)], row["id"]


def check_minimind(rows: list[dict[str, Any]]) -> None:
    """The template of the Qwen3 kind writes an empty thought before each answer and takes line breaks off its front."""
    outcome = tokenize(MINIMIND, rows)
    assert outcome.rejected.height == 0
    for row, texts in zip(rows, trained_texts(MINIMIND, outcome), strict=True):
        assert texts == [answer.lstrip("\n") + "<|im_end|>" for answer in answers(row)], row["id"]


def test_alpaca_sample_learns_exactly_its_answers():
    rows = list(alpaca())[::40]
    check_chatml(rows)
    check_minimind(rows)


def test_chinese_sample_learns_exactly_its_answers():
    rows = list(chinese())[::40]
    check_chatml(rows)
    check_minimind(rows)


def test_dialogues_learn_exactly_their_answers():
    check_chatml(list(islice(dialogues(), 100)))
    check_minimind(list(islice(dialogues(), 100)))


def test_turns_of_weight_zero_are_not_learnt():
    rows = list(weighted())
    outcome = tokenize(GPT2, rows)
    assert set(outcome.rejected["code"]) <= {"nothing-to-train", "not-rendered"}
    for row, texts in zip(by_id(rows, outcome), trained_texts(GPT2, outcome), strict=True):
        assert texts == [answer + "<|im_end|>" for answer in answers(row)], row["id"]


def test_tool_calls_are_learnt_and_tool_output_is_not():
    rows = list(tool_calls())
    outcome = tokenize(MINIMIND, rows)
    assert outcome.rejected.height == 0
    assert proofs(outcome) <= {"slots+stops+bytes", "prefixes+stops+bytes", "prefixes+stops+pieces"}
    for row, texts in zip(rows, trained_texts(MINIMIND, outcome), strict=True):
        expected = []
        for m in row["messages"]:
            if m["role"] != "assistant":
                continue
            said = m["content"]
            for call in json.loads(m["tool_calls"] or "[]"):
                arguments = call["arguments"]
                told = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
                said += f'<tool_call>\n{{"name": "{call["name"]}", "arguments": {told}}}\n</tool_call>'
            expected.append(said + "<|im_end|>")
        assert texts == expected, row["id"]


def test_stories_tokenizer_starts_every_question_once_and_learns_the_answers():
    rows = list(islice(alpaca(), 0, 52_000, 400))
    outcome = tokenize(STORIES, rows)
    assert outcome.rejected.height == 0
    assert {ids.count(1) for ids in outcome.tables["tokens"]["input_ids"].to_list()} == {1}
    for row, texts in zip(rows, trained_texts(STORIES, outcome), strict=True):
        assert [text.lstrip(" ") for text in texts] == [(answer + "</s>").lstrip(" ") for answer in answers(row)]


def transformers_tokenizer(folder: str) -> Any:
    transformers = pytest.importorskip("transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return transformers.AutoTokenizer.from_pretrained(folder)


def check_transformers(folder: str, rows: list[dict[str, Any]], *, masked: bool) -> None:
    """Ids, and the mask where the template marks it, are those of apply_chat_template."""
    tokenizer = transformers_tokenizer(folder)
    tables = tokenize(folder, rows).tables["tokens"]
    for start in range(0, len(rows), 1000):
        chats = [
            [{"role": m["role"], "content": m["content"]} for m in row["messages"]]
            for row in rows[start : start + 1000]
        ]
        told = tokenizer.apply_chat_template(chats, return_dict=True, return_assistant_tokens_mask=masked)
        part = tables[start : start + 1000]
        assert part["input_ids"].to_list() == told["input_ids"]
        if masked:
            learnt = part.select(pl.col("labels").list.eval((pl.element() != -100).cast(pl.Int8)))["labels"].to_list()
            assert learnt == told["assistant_masks"]


@pytest.mark.parametrize(("folder", "masked"), [(GPT2, True), (MINIMIND, False), (STORIES, True)])
def test_tokens_of_a_sample_are_those_of_transformers(folder, masked):
    check_transformers(folder, list(alpaca())[::100] + list(islice(dialogues(), 50)), masked=masked)


@pytest.mark.slow
@pytest.mark.parametrize(("folder", "masked"), [(GPT2, True), (MINIMIND, False)])
def test_tokens_of_all_of_alpaca_are_those_of_transformers(folder, masked):
    check_transformers(folder, list(alpaca()), masked=masked)


@pytest.mark.slow
def test_all_real_rows_learn_exactly_their_answers():
    for rows in (alpaca, chinese, dialogues):
        check_chatml(list(rows()))
        check_minimind(list(rows()))
