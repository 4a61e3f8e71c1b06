"""What a filter looks at: expressions that take texts out of a conversation."""

from __future__ import annotations

import polars as pl

__all__ = ["answers", "last_answer", "only_calls_tools"]


def answers() -> pl.Expr:
    """The assistant's turns of each row: a list of messages."""
    return pl.col("messages").list.filter(pl.element().struct.field("role") == "assistant")


def last_answer() -> pl.Expr:
    """Text of the assistant's last turn without white space around it; null where it never speaks."""
    return answers().list.last().struct.field("content").str.strip_chars()


def only_calls_tools() -> pl.Expr:
    """True where the assistant's last turn calls tools and says nothing."""
    last = answers().list.last().struct
    return last.field("tool_calls").is_not_null() & (last.field("content").str.strip_chars() == "")
