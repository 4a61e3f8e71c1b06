"""The order of turns: which rows keep it is decided on whole columns, and only the others are looked at one by one.

A row is in order when at most one system turn comes first, a user turn follows, user and assistant never speak twice
in a row, every turn that needs text has some, and an answer comes last.
"""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import polars as pl
import pyarrow.compute as pc
from numpy.typing import NDArray

from sft_data.formats.turns import Draft, NoTalk, Talk, Turn, draft_of, frame_of
from sft_data.sources.settings import Rules

__all__ = ["in_order", "put_in_order", "put_rows_in_order"]

SYSTEM, USER, ASSISTANT, TOOL = range(4)
# {{name}}, {{ user_name }}: what a generator was to fill in. Code holds such marks on purpose: a note, by default.
_PLACEHOLDER = re.compile(r"\{\{\s*[A-Za-z_][\w .-]{0,40}\}\}")
_THINK = ("<think>", "</think>")


def in_order(draft: Draft, rules: Rules) -> NDArray[np.bool_]:
    """Which rows need no rule at all."""
    rows, role = len(draft.counts), draft.roles
    if not len(role):
        return np.zeros(rows, np.bool_)
    owner = np.repeat(np.arange(rows), draft.counts)
    first = np.concatenate([[True], owner[1:] != owner[:-1]])
    last = np.concatenate([first[1:], [True]])
    before = np.concatenate([[np.int8(-1)], role[:-1]])
    before[first] = SYSTEM
    opening = before == SYSTEM
    odd = (role == SYSTEM) & ~first
    odd |= opening & (role != USER) & ~(first & (role == SYSTEM))
    odd |= (role == before) & ((role == USER) | (role == ASSISTANT))
    odd |= last & (role != ASSISTANT)
    odd |= _empty(draft, role) & ~(last & (role == ASSISTANT))
    if rules.placeholders != "keep":
        odd |= _holding(draft, "{{")
    if rules.thinking == "split":
        odd |= (role == ASSISTANT) & (_holding(draft, "<think>") | _holding(draft, "</think>"))
    good = draft.counts > 0
    good[owner[odd]] = False
    return good


def _holding(draft: Draft, mark: str) -> NDArray[np.bool_]:
    """Turns whose text holds one of MARKS. Most files hold none: one search through all bytes tells."""
    if mark not in draft.marks:
        return np.zeros(len(draft.roles), np.bool_)
    return np.asarray(pc.match_substring(draft.texts, mark))


def _empty(draft: Draft, role: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Turns without text where one is needed: not for tools' results and not for turns that call tools."""
    blank = np.asarray(pc.equal(pc.binary_length(draft.texts), 0)) | np.asarray(pc.utf8_is_space(draft.texts))
    blank &= role != TOOL
    if (calls := draft.more.get("tool_calls")) is not None:
        blank &= pl.Series(calls, dtype=pl.String).is_null().to_numpy()
    return np.asarray(blank, np.bool_)


def put_rows_in_order(
    draft: Draft, odd: list[int], rules: Rules
) -> tuple[pl.DataFrame, dict[int, NoTalk], list[tuple[int, str, int]]]:
    """The rows `odd` one by one: a frame of those kept (their place in column `at`), the refused, the edits."""
    begins = np.concatenate([[0], np.cumsum(draft.counts)])
    kept: dict[int, Talk] = {}
    refused: dict[int, NoTalk] = {}
    edited: list[tuple[int, str, int]] = []
    for row in odd:
        try:
            kept[row], edits = put_in_order(draft.talk(row, int(begins[row])), rules)
        except NoTalk as no:
            refused[row] = no
        else:
            edited += [(row, code, count) for code, count in edits.items()]
    return frame_of(draft_of(kept.values())).with_columns(at=pl.Series(list(kept), dtype=pl.Int64)), refused, edited


def put_in_order(talk: Talk, rules: Rules) -> tuple[Talk, dict[str, int]]:
    """The row by the rules, and how many turns each edit changed; raises NoTalk where a rule rejects it."""
    edits: dict[str, int] = {}
    turns = list(talk.turns)
    if not turns:
        raise NoTalk("empty-conversation", "the row has no turns")
    turns = _split_thinking(turns, rules, edits)
    turns = _opening(turns, rules, edits)
    turns = _merge(turns, rules, edits)
    turns = _ending(turns, rules, edits)
    _check_empty(turns, rules)
    _note_placeholders(turns, rules, edits)
    return talk._replace(turns=turns), edits


def _count(edits: dict[str, int], code: str, number: int) -> None:
    if number:
        edits[code] = edits.get(code, 0) + number


def _split_thinking(turns: list[Turn], rules: Rules, edits: dict[str, int]) -> list[Turn]:
    if rules.thinking == "keep":
        return turns
    split = [_without_thinking(turn) for turn in turns]
    _count(edits, "split-thinking", sum(a is not b for a, b in zip(turns, split, strict=True)))
    return split


def _without_thinking(turn: Turn) -> Turn:
    """`<think>a</think>b` -> reasoning `a`, content `b`; the text of a block that is not closed stays as it is."""
    text = turn.content.lstrip()
    begin, end = _THINK
    if turn.role != "assistant" or turn.reasoning is not None or not text.startswith(begin) or end not in text:
        return turn
    thought, answer = text[len(begin) :].split(end, 1)
    return turn._replace(reasoning=thought.strip("\n"), content=answer.lstrip("\n"))


def _opening(turns: list[Turn], rules: Rules, edits: dict[str, int]) -> list[Turn]:
    """System turns first and one of them; then a user."""
    blank = [turn for turn in turns if turn.role == "system" and not turn.content.strip()]
    turns = [turn for turn in turns if turn.role != "system" or turn.content.strip()]
    _count(edits, "dropped-turns", len(blank))
    inside = [i for i, turn in enumerate(turns) if turn.role == "system" and i > 0]
    if inside and rules.system_inside == "reject":
        raise NoTalk("system-inside", f"turn {inside[0] + 1} of {len(turns)} is a system turn")
    start = 1 if turns and turns[0].role == "system" else 0
    user = next((i for i, turn in enumerate(turns) if turn.role == "user"), None)
    if user is None:
        raise NoTalk("no-prompt", f"no user turn among {len(turns)} turns")
    if user > start and rules.assistant_first == "reject":
        raise NoTalk("assistant-first", f"turn {start + 1} is of {turns[start].role}, before any user turn")
    if user > start and rules.assistant_first == "drop":
        _count(edits, "dropped-turns", user - start)
        return turns[:start] + turns[user:]
    return turns


def _merge(turns: list[Turn], rules: Rules, edits: dict[str, int]) -> list[Turn]:
    twice = [i for i, (a, b) in enumerate(pairwise(turns)) if a.role == b.role and a.role in {"user", "assistant"}]
    if not twice or rules.consecutive_turns == "keep":
        return turns
    if rules.consecutive_turns == "reject":
        raise NoTalk("consecutive-turns", f"turns {twice[0] + 1} and {twice[0] + 2} are both of {turns[twice[0]].role}")
    merged = [turns[0]]
    for turn in turns[1:]:
        if _joinable(merged[-1], turn):
            merged[-1] = _joined(merged[-1], turn)
        else:
            merged.append(turn)
    _count(edits, "merged-turns", len(turns) - len(merged))
    return merged


def _joinable(a: Turn, b: Turn) -> bool:
    """Two turns of one speaker and one weight; a call of tools must stay the end of its turn."""
    same = a.role == b.role and a.role in {"user", "assistant"} and (a.name, a.weight) == (b.name, b.weight)
    return same and a.tool_calls is None and (b.reasoning is None or not a.content)


def _joined(a: Turn, b: Turn) -> Turn:
    content = "\n\n".join(text for text in (a.content, b.content) if text)
    thoughts = [text for text in (a.reasoning, b.reasoning) if text is not None]
    reasoning = "\n\n".join(thoughts) if thoughts else None
    return a._replace(content=content, reasoning=reasoning, tool_calls=b.tool_calls)


def _ending(turns: list[Turn], rules: Rules, edits: dict[str, int]) -> list[Turn]:
    last = max((i for i, turn in enumerate(turns) if turn.role == "assistant"), default=None)
    if last is None:
        raise NoTalk("no-answer", f"no assistant turn among {len(turns)} turns")
    behind = len(turns) - 1 - last
    if behind and rules.after_last_answer == "reject":
        raise NoTalk("unanswered-turn", f"{behind} turns of {turns[-1].role} behind the last answer")
    if behind and rules.after_last_answer == "drop":
        _count(edits, "dropped-turns", behind)
        return turns[: last + 1]
    return turns


def _check_empty(turns: list[Turn], rules: Rules) -> None:
    if rules.empty_turns == "keep":
        return
    for number, turn in enumerate(turns, 1):
        last_answer = number == len(turns) and turn.role == "assistant"
        if turn.role != "tool" and not turn.content.strip() and turn.tool_calls is None and not last_answer:
            raise NoTalk("empty-turn", f"turn {number} of {len(turns)}, of {turn.role}, has no text")


def _note_placeholders(turns: list[Turn], rules: Rules, edits: dict[str, int]) -> None:
    if rules.placeholders == "keep":
        return
    found = [mark for turn in turns for mark in _PLACEHOLDER.findall(turn.content)]
    if found and rules.placeholders == "reject":
        raise NoTalk("placeholder", f"{len(found)} of the kind {found[0]}")
    _count(edits, "placeholder", len(found))
