"""Conversations written the way a person says them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from sft_data.schema import CONVERSATIONS, MESSAGE, content_hash

SHARED = Path(__file__).resolve().parents[2] / "shared"

needs_shared = pytest.mark.skipif(
    not (SHARED / "data").is_dir(), reason="the real data lies in ../shared, which is absent"
)


def turn(role: str, content: str, **more: Any) -> dict[str, Any]:
    """One message with every field."""
    return dict.fromkeys(MESSAGE.to_schema()) | {"role": role, "content": content} | more


def talk(row_id: str, *turns: str | dict[str, Any], source: str = "s", **columns: Any) -> dict[str, Any]:
    """One conversation: plain texts alternate between user and assistant."""
    messages = [
        turn(("user", "assistant")[i % 2], said) if isinstance(said, str) else said for i, said in enumerate(turns)
    ]
    return {"id": row_id, "source": source, "messages": messages, "weight": 1.0} | columns


def conversations(*rows: dict[str, Any]) -> pl.DataFrame:
    """A CONVERSATIONS frame; extra keys of the rows become annotation columns."""
    extra = {key: None for row in rows for key in row if key not in CONVERSATIONS}
    schema: dict[str, Any] = {**CONVERSATIONS, **extra}
    full = [{name: row.get(name) for name in schema} for row in rows]
    frame = pl.DataFrame(full, schema=schema) if rows else pl.DataFrame(schema=dict(CONVERSATIONS))
    return frame.with_columns(content_hash(frame)) if rows else frame


def chat(row_id: str, answer: str, question: str = "What is it?", **columns: Any) -> dict[str, Any]:
    """One question and its answer."""
    return talk(row_id, question, answer, **columns)


def ids(frame: pl.DataFrame) -> list[str]:
    """The ids of a frame."""
    return frame["id"].to_list()


def codes(frame: pl.DataFrame) -> dict[str, str]:
    """Id -> code of a ledger."""
    return dict(zip(frame["id"], frame["code"], strict=True))


def texts(frame: pl.DataFrame) -> list[Sequence[str]]:
    """The contents of every conversation's turns."""
    return [[message["content"] for message in row] for row in frame["messages"].to_list()]
