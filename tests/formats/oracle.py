"""The formats told once more, as simply as possible: whole files by the standard library, one row at a time."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

Told = dict[str, Any]  # messages as (role, content, tool_calls, weight), tools

SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "observation": "tool",
    "tool": "tool",
}


def rows_of(path: Path) -> list[Any]:
    """All rows of a well-formed file."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    text = data.decode("utf-8")
    return (
        json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.split("\n") if line]
    )


def alpaca(row: Told) -> Told:
    prompt = row["instruction"]
    if row.get("input", "").strip():
        prompt = prompt + "\n" + row["input"] if prompt else row["input"]
    return {"messages": [("user", prompt, None, None), ("assistant", row["output"], None, None)], "tools": None}


def pair(row: Told) -> Told:
    return {
        "messages": [("user", row["question"], None, None), ("assistant", row["answer"], None, None)],
        "tools": None,
    }


def chat(row: Told) -> Told:
    turns = []
    for turn in row.get("conversations") or row["messages"]:
        said = turn.get("from") or turn["role"]
        content = turn["value"] if "value" in turn else turn["content"]
        if said == "function_call":
            calls = json.loads(content)
            turns.append(("assistant", "", calls if isinstance(calls, list) else [calls], None))
            continue
        if isinstance(content, list):
            content = "".join(part["value"] for part in content)
        turns.append((SPEAKERS[said], content, None, turn.get("loss_weight")))
    tools = json.loads(row["tools"]) if row.get("tools") else None
    return {"messages": turns, "tools": tools or None}


def told(frame_row: Told) -> Told:
    """A row of CONVERSATIONS in the same words."""
    turns = [
        (t["role"], t["content"], json.loads(t["tool_calls"]) if t["tool_calls"] else None, t["weight"])
        for t in frame_row["messages"]
    ]
    return {"messages": turns, "tools": json.loads(frame_row["tools"]) if frame_row["tools"] else None}
