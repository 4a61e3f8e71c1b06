"""Conversations of a frame as the plain dicts that chat templates read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from sft_data.chat.marks import TEXT_END, TEXT_START

__all__ = ["TEXTS", "mark_texts", "template_messages", "template_tools", "texts_of"]

Message = dict[str, Any]

# Every text of a message that a template may write.
TEXTS = ("content", "reasoning", "tool_calls", "tool_call_id", "name")


def texts_of(frame: pl.DataFrame) -> pl.Expr:
    """All texts of each row in one string, for searching."""
    messages = pl.concat_str([pl.element().struct.field(name) for name in TEXTS], separator="\n", ignore_nulls=True)
    joined = pl.col("messages").list.eval(messages).list.join("\n", ignore_nulls=True)
    return joined if "tools" not in frame.columns else pl.concat_str([joined, pl.col("tools").fill_null("")])


def template_messages(frame: pl.DataFrame) -> list[list[Message]]:
    """The messages of every row with the keys that transformers gives a template; absent ones are left out.

    Tool calls become `{"type": "function", "function": {"name", "arguments"}}`; reasoning is `reasoning_content` and
    `thinking`. Raises ValueError nowhere: text that is no JSON stays text.
    """
    counts = frame["messages"].list.len().to_list()
    turns = frame.select(pl.col("messages").explode(empty_as_null=False)).unnest("messages")
    flat: list[Message] = [
        {"role": role, "content": content}
        for role, content in zip(turns["role"].to_list(), turns["content"].to_list(), strict=True)
    ]
    for name in ("reasoning", "tool_calls", "tool_call_id", "name"):
        for number in turns[name].is_not_null().arg_true().to_list():
            flat[number] |= _extra(name, turns[name][number])
    rows, start = [], 0
    for count in counts:
        rows.append(flat[start : start + count])
        start += count
    return rows


def template_tools(text: str | None) -> list[Any] | None:
    """Tools from their JSON text, in OpenAI's form: a bare `{"name", ...}` is wrapped as a function."""
    if text is None:
        return None
    tools = _parse(text)
    listed = tools if isinstance(tools, list) else [tools]
    return [
        {"type": "function", "function": tool} if isinstance(tool, dict) and "function" not in tool else tool
        for tool in listed
    ] or None


def mark_texts(value: Any, pattern: re.Pattern[str]) -> Any:  # noqa: ANN401  # any plain data
    """The same data with text marks around every string that `pattern` finds in its texts."""
    if isinstance(value, str):
        return pattern.sub(lambda found: f"{TEXT_START}{found.group()}{TEXT_END}", value)
    if isinstance(value, Mapping):
        return {key: entry if key == "role" else mark_texts(entry, pattern) for key, entry in value.items()}
    if isinstance(value, Sequence):
        return [mark_texts(entry, pattern) for entry in value]
    return value


def _extra(name: str, value: str) -> Message:
    if name == "reasoning":
        return {"reasoning_content": value, "thinking": value}
    if name == "tool_calls":
        calls = _parse(value)
        return {"tool_calls": [_call(call) for call in (calls if isinstance(calls, list) else [calls])]}
    return {name: value}


def _call(call: Any) -> Any:  # noqa: ANN401  # any plain data
    if not isinstance(call, dict) or "function" in call:
        return call
    more = {"id": call["id"]} if "id" in call else {}
    return more | {"type": "function", "function": {key: call[key] for key in call if key not in ("id", "type")}}


def _parse(text: str) -> Any:  # noqa: ANN401  # any plain data
    try:
        return json.loads(text)
    except ValueError:
        return text
