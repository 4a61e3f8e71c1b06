"""The three parts of a conversation that duplicates are judged by.

- context: the system turns and the offered tools, what every row of a source may share;
- prompt: what the model is asked (user turns and tool results);
- answer: what the assistant said, thought and called.

They are kept apart because a long shared context or prompt would drown the part that differs.
"""

from __future__ import annotations

from typing import Literal

import polars as pl

__all__ = ["PARTS", "Part", "part_texts", "side_texts", "text_length"]

Part = Literal["context", "prompt", "answer"]
PARTS: tuple[Part, ...] = ("context", "prompt", "answer")

# Turns are joined by a record separator: white space to every rule below, and never typed by a person.
_BETWEEN = "\n\x1e"


def part_texts() -> tuple[pl.Expr, pl.Expr, pl.Expr]:
    """Expressions over CONVERSATIONS: the texts of context, prompt and answer; "" where there is nothing."""
    role = pl.element().struct.field("role")
    content = pl.element().struct.field("content")
    said = pl.concat_str(
        pl.element().struct.field("reasoning").fill_null(""),
        content,
        pl.element().struct.field("tool_calls").fill_null(""),
        separator="",
    )
    system = _joined(pl.when(role == "system").then(content))
    context = pl.concat_str(system, pl.col("tools").fill_null(""), separator=_BETWEEN).str.strip_chars(_BETWEEN)
    prompt = _joined(
        pl.when(role == "user").then(content).when(role == "tool").then(pl.concat_str(pl.lit("\x1d"), content))
    )
    answer = _joined(pl.when(role == "assistant").then(said))
    return context.alias("context"), prompt.alias("prompt"), answer.alias("answer")


def side_texts() -> dict[str, pl.Expr]:
    """What vectors are made of: the prompt with its context, the answer, and the conversation as one."""
    context, prompt, answer = part_texts()
    asked = pl.concat_str(context, prompt, separator="\n")
    return {"prompt": asked, "answer": answer, "conversation": pl.concat_str(asked, answer, separator="\n")}


def _joined(turns: pl.Expr) -> pl.Expr:
    return pl.col("messages").list.eval(turns.drop_nulls()).list.join(_BETWEEN)


def text_length() -> pl.Expr:
    """Characters of all turns of a row."""
    contents = pl.col("messages").list.eval(pl.element().struct.field("content").str.len_chars())
    return contents.list.sum().cast(pl.UInt32)
