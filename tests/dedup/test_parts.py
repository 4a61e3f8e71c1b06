"""Context, prompt and answer of conversations, against plain Python."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sft_data.dedup.parts import part_texts, side_text
from sft_data.schema import MESSAGE

TEXT = st.sampled_from(["", " ", "\n", "\x1e", "\nabout us\n", "how?", "是。", "so\nit is", "\x1d"])
TURN = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["system", "user", "assistant", "tool"]),
        "content": TEXT,
        "reasoning": st.none() | TEXT,
        "tool_calls": st.none() | TEXT,
    }
)
ROWS = st.lists(st.tuples(st.lists(TURN, max_size=5), st.none() | TEXT), max_size=6)
PLAIN = st.lists(
    st.tuples(st.just([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]), st.none())
)
BETWEEN = "\n\x1e"


def frame_of(rows: list[tuple[list[dict[str, Any]], str | None]]) -> pl.DataFrame:
    names = [field.name for field in MESSAGE.fields]
    messages = [[{name: turn.get(name) for name in names} for turn in turns] for turns, _ in rows]
    return pl.DataFrame(
        {
            "messages": pl.Series(messages, dtype=pl.List(MESSAGE)),
            "tools": pl.Series([t for _, t in rows], dtype=pl.String),
        }
    )


def by_hand(turns: list[dict[str, Any]], tools: str | None) -> tuple[str, str, str]:
    system = [turn["content"] for turn in turns if turn["role"] == "system"]
    asked = [
        ("\x1d" if turn["role"] == "tool" else "") + turn["content"]
        for turn in turns
        if turn["role"] in ("user", "tool")
    ]
    said = [
        (turn.get("reasoning") or "") + turn["content"] + (turn.get("tool_calls") or "")
        for turn in turns
        if turn["role"] == "assistant"
    ]
    context = (BETWEEN.join(system) + BETWEEN + (tools or "")).strip(BETWEEN)
    return context, BETWEEN.join(asked), BETWEEN.join(said)


@given(ROWS | PLAIN, st.integers(0, 3))
@settings(deadline=None, max_examples=150)
def test_the_parts_of_conversations_are_their_turns_by_role(
    rows: list[tuple[list[dict[str, Any]], str | None]], skipped: int
) -> None:
    frame = frame_of(rows).slice(skipped)  # a cut of a column keeps the values before it in memory
    expected = [by_hand(turns, tools) for turns, tools in rows[skipped:]]
    assert part_texts(frame).rows() == expected
    assert part_texts(frame).schema == dict.fromkeys(("context", "prompt", "answer"), pl.String)


@pytest.mark.parametrize(
    ("side", "expected"), [("prompt", "be kind\nwhy?"), ("answer", "so"), ("conversation", "be kind\nwhy?\nso")]
)
def test_a_side_is_the_prompt_with_its_context_or_the_answer_or_both(side: Any, expected: str) -> None:
    turns = [("system", "be kind"), ("user", "why?"), ("assistant", "so")]
    frame = frame_of([([{"role": role, "content": content} for role, content in turns], None)])
    assert side_text(frame, side).to_list() == [expected]
