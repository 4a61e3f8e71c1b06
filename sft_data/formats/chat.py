"""ShareGPT in its dialects and OpenAI messages: a list of turns under one key, tools and a system text beside it.

Turns say who speaks by `from` or `role` and what by `value` or `content`. Content may be a list of parts. Calls of
tools come as turns of their own (`function_call`) or inside an assistant turn (`tool_calls`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from operator import itemgetter

import numpy as np

from sft_data.formats.fields import Fields, kind_of, list_of, text_of
from sft_data.formats.tools import calls_of, parse_calls, tools_text
from sft_data.formats.turns import ROLE_CODE, Draft, NoTalk, Talk, Turn, draft_of
from sft_data.sources.decode import loads
from sft_data.sources.rows import Json

__all__ = ["FIELDS", "ROLE_OF", "convert", "turns_of"]

FIELDS: dict[str, tuple[str, ...]] = {
    "messages": ("messages", "conversations", "conversation", "dialogue", "dialog"),
    "system": ("system", "system_prompt"),
    "tools": ("tools", "functions"),
}

# Who speaks, by every name in use. CALL marks turns whose text is a call of a tool.
CALL = "call"
ROLE_OF: dict[str, str] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "bot", "chatgpt", "model", "ai", "bing", "bard", "chatbot"), "assistant"),
    **dict.fromkeys(
        ("tool", "observation", "observations", "function", "function_response", "tool_response", "ipython"), "tool"
    ),
    **dict.fromkeys(("function_call", "tool_call", "tool_calls"), CALL),
}
_CODE_OF = {name: ROLE_CODE[role] for name, role in ROLE_OF.items() if role != CALL}
_SPEAKER = ("role", "from", "speaker")
_TEXT = ("content", "value", "text")
_THOUGHTS = ("reasoning_content", "reasoning", "thinking", "thought")
_WEIGHTS = ("loss_weight", "weight", "train", "trainable")
_TURN_KEYS = frozenset(
    (*_SPEAKER, *_TEXT, *_THOUGHTS, *_WEIGHTS, "tool_calls", "tool_call_id", "name", "function_call")
)
_PLAIN_SHAPES = ({("from", "value")}, {("role", "content")}, {("value", "from")}, {("content", "role")})


def convert(values: Sequence[dict[str, Json]], fields: Fields) -> Draft:
    """A Draft of chat rows: whole columns where all turns are plain, row by row otherwise."""
    draft = _plain(values, fields)
    return draft if draft is not None else draft_of(_talk(value, fields) for value in values)


def _plain(values: Sequence[dict[str, Json]], fields: Fields) -> Draft | None:
    """Rows of plain turns: two keys, known speakers, texts; no loop here runs in Python per turn."""
    names = {fields.names(shape) for shape in set(map(tuple, values))}
    if len(names) != 1:
        return None
    messages, system, tools = names.pop()
    if not messages or system or tools:
        return None
    talks = list(map(itemgetter(messages), values))
    if set(map(type, talks)) != {list}:
        return None
    turns = list(chain.from_iterable(talks))
    if set(map(type, turns)) != {dict}:
        return None
    return _columns(talks, turns)


def _columns(talks: Sequence[list[Json]], turns: list[dict[str, Json]]) -> Draft | None:
    if (shapes := set(map(tuple, turns))) not in _PLAIN_SHAPES:
        return None
    speaker, text = ("from", "value") if "from" in next(iter(shapes)) else ("role", "content")
    said, contents = list(map(itemgetter(speaker), turns)), list(map(itemgetter(text), turns))
    if set(map(type, said)) | set(map(type, contents)) != {str}:
        return None
    if any(ROLE_OF.get(name, CALL) == CALL for name in set(said)):
        return None
    counts = np.fromiter(map(len, talks), np.int64, len(talks))
    return Draft(counts, np.fromiter(map(_CODE_OF.__getitem__, said), np.int8, len(said)), contents)


def _talk(value: dict[str, Json], fields: Fields) -> Talk | NoTalk:
    messages, system, tools = fields.names(tuple(value))
    try:
        if not messages:
            raise NoTalk("missing-field", fields.missing("messages", value))
        said = list_of(value[messages], messages)
        opening = text_of(value, system)
        turns = [Turn("system", opening)] if opening and opening.strip() else []
        turns += turns_of(said)
        return Talk(turns, tools_text(value[tools]) if tools else None, _rest(said))
    except NoTalk as refused:
        return refused


def turns_of(messages: Sequence[Json]) -> list[Turn]:
    """Turns of a list of messages; raises NoTalk."""
    return [_turn(message, f"turn {number} of {len(messages)}") for number, message in enumerate(messages, 1)]


def _rest(messages: Sequence[dict[str, Json]]) -> dict[str, Json] | None:
    """Fields of turns that no turn of the schema can hold, by turn number from 1."""
    rest = {
        str(number): {key: message[key] for key in message if key not in _TURN_KEYS}
        for number, message in enumerate(messages, 1)
        if not _TURN_KEYS.issuperset(message)
    }
    return {"turn_fields": rest} if rest else None


def _turn(message: Json, where: str) -> Turn:
    if not isinstance(message, dict):
        raise NoTalk("wrong-type", f"{where} is of type {kind_of(message)}, not an object")
    role = _role(message, where)
    given = next((message[key] for key in _TEXT if key in message), None)
    content, reasoning, calls = _content(given, where)
    if role == CALL:
        return Turn("assistant", "", reasoning, parse_calls(content) if isinstance(given, str) else calls_of(given))
    called = message.get("tool_calls") or message.get("function_call")
    if called:
        calls = parse_calls(called) if isinstance(called, str) else calls_of(called)
    if given is None and not calls:
        raise NoTalk("no-answer" if role == "assistant" else "missing-field", f"{where}, of {role}, has no text")
    return Turn(
        role,
        content,
        next((thought for key in _THOUGHTS if (thought := text_of(message, key)) is not None), reasoning),
        calls,
        text_of(message, "tool_call_id"),
        text_of(message, "name"),
        _weight(message, where),
    )


def _role(message: dict[str, Json], where: str) -> str:
    key = next((key for key in _SPEAKER if key in message), None)
    if key is None:
        raise NoTalk("wrong-role", f"{where} does not say who speaks: no `role` or `from`")
    role = ROLE_OF.get(message[key].strip().lower()) if isinstance(message[key], str) else None
    if role is None:
        raise NoTalk("wrong-role", f"{where} is of {str(message[key])[:60]!r}; known are {', '.join(sorted(ROLE_OF))}")
    return role


def _content(given: Json, where: str) -> tuple[str, str | None, str | None]:
    """Text, reasoning and calls of a content: a text, nothing, or a list of parts."""
    if given is None or isinstance(given, str):
        return given or "", None, None
    if not isinstance(given, list):
        raise NoTalk("wrong-type", f"the content of {where} is of type {kind_of(given)}, not text or a list of parts")
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[Json] = []
    for part in given:
        _sort_part(part, where, texts, thoughts, calls)
    return "".join(texts), "".join(thoughts) if thoughts else None, calls_of(calls) if calls else None


def _sort_part(part: Json, where: str, texts: list[str], thoughts: list[str], calls: list[Json]) -> None:
    if isinstance(part, str):
        texts.append(part)
        return
    kind = part.get("type") if isinstance(part, dict) else None
    if kind is None:
        raise NoTalk("wrong-type", f"a part of the content of {where} has no `type`")
    if kind in {"text", "input_text", "output_text"}:
        texts.append(_part_text(part, where))
    elif kind in {"reasoning", "thinking", "thought"}:
        thoughts.append(_part_text(part, where))
    elif kind in {"tool_call", "tool_calls", "tool_use", "function_call", "function"}:
        calls.append(_part_call(part))
    else:
        raise NoTalk("unsupported-content", f"{where} has a part of type {str(kind)[:40]!r}; only text can be held")


def _part_text(part: dict[str, Json], where: str) -> str:
    for key in ("text", "value", "content", "thinking", "reasoning"):
        if isinstance(part.get(key), str):
            found: str = part[key]
            return found
    raise NoTalk("wrong-type", f"a part of the content of {where} has no text")


def _part_call(part: dict[str, Json]) -> Json:
    value = next((part[key] for key in ("value", "tool_call") if key in part), None)
    if isinstance(value, str):
        parsed = parse_calls(value)
        return _first_call(parsed)
    return value if value is not None else part


def _first_call(text: str) -> Json:
    calls = loads(text)
    if len(calls) != 1:
        raise NoTalk("bad-tool-call", "a part holds several calls")
    return calls[0]


def _weight(message: dict[str, Json], where: str) -> float | None:
    key = next((key for key in _WEIGHTS if message.get(key) is not None), None)
    if key is None:
        return None
    weight = message[key]
    if not isinstance(weight, int | float) or not 0 <= weight < 1e30:
        raise NoTalk("wrong-type", f"`{key}` of {where} is {str(weight)[:40]!r}, not a number from 0 or true or false")
    return float(weight)
