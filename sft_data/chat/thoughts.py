"""Turns without what the assistant thinks before it answers: shown to the model, not learnt."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sft_data.chat.spans import Turn

__all__ = ["without_thoughts"]

_CLOSED = re.compile(r"\s*</think>\s*")
_EMPTY = re.compile(r"\s*<think>\s*</think>\s*")


def without_thoughts(turns: Sequence[Turn], messages: Sequence[Mapping[str, Any]], text: str) -> tuple[Turn, ...]:
    """The turns, each from where its answer starts.

    A turn that only calls tools starts behind its reasoning and the `</think>` that closes it; an empty block of
    thoughts that the template writes is left out too.
    """
    return tuple(turn._replace(start=_answer(turn, messages[turn.message], text)) for turn in turns)


def _answer(turn: Turn, message: Mapping[str, Any], text: str) -> int:
    thought = (message.get("reasoning_content") or "").strip()
    empty = _EMPTY.match(text, turn.start, turn.end)
    if empty is not None and not thought:
        return empty.end()
    if not thought or turn.lost:
        return turn.start
    if message["content"].strip():
        return max(turn.start, turn.answer)
    behind = text.find(thought, turn.start, turn.end) + len(thought)
    closed = _CLOSED.match(text, behind, turn.end)
    return closed.end() if closed is not None else behind
