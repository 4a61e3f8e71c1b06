"""How a row and its fault are written down."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

__all__ = ["Row", "alpaca", "broken", "chat", "messages"]


@dataclass(frozen=True)
class Row:
    """One row of a file: its JSON text, and where something is wrong with it what must become of it."""

    value: Any  # what is written as JSON; for a broken row the text itself
    fault: str = ""  # in words; "" where the row is sound
    fate: str = "kept"  # kept, edited or rejected
    stage: str = ""  # the stage that edits or rejects
    code: str = ""  # with which code

    @property
    def text(self) -> str:
        """The row as it stands in the file."""
        return self.value if isinstance(self.value, str) else json.dumps(self.value, ensure_ascii=False)


def alpaca(instruction: str, output: str, given: str = "", **planted: str) -> Row:
    """An Alpaca row."""
    return Row({"instruction": instruction, "input": given, "output": output}, **planted)


def chat(*turns: str, first: str = "human", **planted: str) -> Row:
    """A ShareGPT row: turns alternate between human and gpt."""
    speakers = ("human", "gpt") if first == "human" else ("gpt", "human")
    talk = [{"from": speakers[i % 2], "value": said} for i, said in enumerate(turns)]
    return Row({"conversations": talk}, **planted)


def messages(*turns: str | dict[str, Any], system: str = "", tools: list[Any] | None = None, **planted: str) -> Row:
    """A messages row: plain turns alternate between user and assistant."""
    talk: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    talk += [
        {"role": ("user", "assistant")[i % 2], "content": t} if isinstance(t, str) else t for i, t in enumerate(turns)
    ]
    return Row({"messages": talk} | ({"tools": tools} if tools else {}), **planted)


def broken(text: str, fault: str, code: str, stage: str = "read") -> Row:
    """A row that is no JSON, or no row: it is written as it stands."""
    return Row(text, fault, "rejected", stage, code)
