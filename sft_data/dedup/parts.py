"""The three parts of a conversation that duplicates are judged by.

- context: the system turns and the offered tools, what every row of a source may share;
- prompt: what the model is asked (user turns and tool results);
- answer: what the assistant said, thought and called.

They are kept apart because a long shared context or prompt would drown the part that differs.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from sft_data.dedup.memory import arrow_of

__all__ = ["PARTS", "Part", "Side", "part_texts", "side_text", "text_length"]

Part = Literal["context", "prompt", "answer"]
Side = Literal["prompt", "answer", "conversation"]
PARTS: tuple[Part, ...] = ("context", "prompt", "answer")

# Turns are joined by a record separator: white space to every rule below, and never typed by a person.
_BETWEEN = "\n\x1e"


def part_texts(frame: pl.DataFrame) -> pl.DataFrame:
    """Columns `context`, `prompt` and `answer` of CONVERSATIONS; "" where there is nothing."""
    lists = frame["messages"]
    turns = lists.explode(empty_as_null=False).struct
    ends = lists.list.len().cum_sum().to_numpy()
    role, content = turns.field("role"), turns.field("content")
    prompt, tool = role.is_in(["user", "tool"]), role == "tool"
    asked = ("\x1d" + content).zip_with(tool, content) if tool.any() else content
    said, thought, called = content, turns.field("reasoning"), turns.field("tool_calls")
    if thought.null_count() + called.null_count() < 2 * len(content):
        said = thought.fill_null("") + content + called.fill_null("")
    system, tools = role == "system", frame["tools"]
    if system.any() or tools.null_count() < len(tools):
        context = _joined(content, system, ends) + _BETWEEN + tools.fill_null("")
        context = context.str.strip_chars(_BETWEEN)
    else:
        context = pl.Series([""], dtype=pl.String).new_from_index(0, len(lists))
    return pl.DataFrame(
        {
            "context": context,
            "prompt": _joined(asked, prompt, ends),
            "answer": _joined(said, role == "assistant", ends),
        }
    )


def side_text(frame: pl.DataFrame, side: Side) -> pl.Series:
    """What vectors are made of: the prompt with its context, the answer, or the conversation as one."""
    parts = part_texts(frame)
    if side == "answer":
        return parts["answer"]
    asked = parts["context"] + "\n" + parts["prompt"]
    return asked if side == "prompt" else asked + "\n" + parts["answer"]


def _joined(texts: pl.Series, chosen: pl.Series, ends: npt.NDArray[np.uint32]) -> pl.Series:
    """The chosen turns of each row as one text. Most rows have one turn of a kind, which is then not copied."""
    chosen &= texts.is_not_null()
    before = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(chosen.to_numpy(), dtype=np.int64)])
    bounds = before[np.concatenate([np.zeros(1, dtype=np.int64), ends])]
    texts = texts.filter(chosen)
    if (np.diff(bounds) == 1).all():
        return texts
    lists = pa.LargeListArray.from_arrays(arrow_of(bounds), texts.to_arrow())
    return pl.Series(lists, dtype=pl.List(pl.String)).list.join(_BETWEEN)


def text_length() -> pl.Expr:
    """Characters of all turns of a row."""
    contents = pl.col("messages").list.eval(pl.element().struct.field("content").str.len_chars())
    return contents.list.sum().cast(pl.UInt32)
