"""Conversations in other shapes: lists of texts, rounds of question and answer, MOSS turns, transcripts, OASST trees.

Each format is a small reading of one row; none of them occurs in sizes where a loop over rows would hurt.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sft_data.formats.fields import Fields, kind_of, text_of
from sft_data.formats.turns import Draft, NoTalk, Talk, Turn, draft_of
from sft_data.sources.rows import Json

__all__ = ["MOSS", "ROUNDS", "TRANSCRIPT", "TREE", "TURN_LIST", "RowFormat", "is_open_transcript", "thread_talk"]

Reading = Callable[[dict[str, Json], Fields], Talk]


@dataclass(frozen=True)
class RowFormat:
    """A format that is read row by row. `expand` makes several rows of one (the threads of a tree)."""

    FIELDS: dict[str, tuple[str, ...]]
    talk: Reading
    expand: Callable[[dict[str, Json]], list[dict[str, Json]]] | None = None

    def convert(self, values: Sequence[dict[str, Json]], fields: Fields) -> Draft:
        """A Draft of all rows."""
        return draft_of(self._told(value, fields) for value in values)

    def _told(self, value: dict[str, Json], fields: Fields) -> Talk | NoTalk:
        try:
            return self.talk(value, fields)
        except NoTalk as refused:
            return refused


def _needed(value: dict[str, Json], fields: Fields, field: str, kind: type) -> Json:
    """The value of a field, which must be there and of a type."""
    name = dict(zip(fields.known, fields.names(tuple(value)), strict=True))[field]
    if name is None:
        raise NoTalk("missing-field", fields.missing(field, value))
    if not isinstance(value[name], kind):
        raise NoTalk("wrong-type", f"`{name}` is of type {kind_of(value[name])}, not {kind_of(kind())}")
    return value[name]


def _system(value: dict[str, Json], fields: Fields) -> list[Turn]:
    names = dict(zip(fields.known, fields.names(tuple(value)), strict=True))
    opening = text_of(value, names["system"])
    return [Turn("system", opening)] if opening and opening.strip() else []


# ---- UltraChat: {"data": ["question", "answer", ...]} -------------------------------------------------------------


def _turn_list(value: dict[str, Json], fields: Fields) -> Talk:
    texts = _needed(value, fields, "turns", list)
    for number, text in enumerate(texts, 1):
        if not isinstance(text, str):
            raise NoTalk("wrong-type", f"turn {number} of {len(texts)} is of type {kind_of(text)}, not text")
    speakers = ("user", "assistant")
    return Talk(_system(value, fields) + [Turn(speakers[i % 2], text) for i, text in enumerate(texts)])


TURN_LIST = RowFormat(
    {"turns": ("data", "dialog", "dialogue", "conversation", "utterances"), "system": ("system", "system_prompt")},
    _turn_list,
)

# ---- rounds: {"conversation": [{"human": "question", "assistant": "answer"}, ...]} ----------------------------------

_ASKED = ("human", "user", "question", "prompt", "query", "instruction", "input")
_ANSWERED = ("assistant", "gpt", "bot", "model", "answer", "response", "output")


def _rounds(value: dict[str, Json], fields: Fields) -> Talk:
    turns = _system(value, fields)
    rounds = _needed(value, fields, "rounds", list)
    for number, each in enumerate(rounds, 1):
        keys = set(each) if isinstance(each, dict) else set()
        asked = next((key for key in _ASKED if key in keys), None)
        answered = next((key for key in _ANSWERED if key in keys), None)
        if asked is None or answered is None:
            raise NoTalk("missing-field", f"round {number} of {len(rounds)} does not hold a question and an answer")
        question, answer = text_of(each, asked), text_of(each, answered)
        if question is None or answer is None:
            raise NoTalk("no-answer" if answer is None else "missing-field", f"a text of round {number} is null")
        turns += [Turn("user", question), Turn("assistant", answer)]
    return Talk(turns)


ROUNDS = RowFormat(
    {"rounds": ("conversation", "conversations", "rounds", "dialogue", "turns"), "system": ("system", "system_prompt")},
    _rounds,
)

# ---- MOSS: {"meta_instruction": ..., "chat": {"turn_1": {"Human": ..., "MOSS": ...}}}, or plain_text -----------------

_MOSS_MARK = re.compile(r"\A\s*<\|[\w ]+\|>\s*:\s*|\s*<eo[a-z]>\s*\Z")


# plain: "[Human]: question<eoh> [MOSS]: answer<eom>", also with <|Human|> for [Human]
_MOSS_SPEAKS = re.compile(r"(?:\A|<eo[a-z]>)\s*(?:\[(\w[\w ]*)\]|<\|(\w[\w ]*)\|>)[ \t]*:[ \t]*")
_MOSS_ROLE = {"human": "user", "moss": "assistant"}


def _moss(value: dict[str, Json], fields: Fields) -> Talk:
    _, text, _ = fields.names(tuple(value))
    if text is not None and isinstance(value[text], str):
        return Talk(_system(value, fields) + _moss_turns(value[text]))
    chat = _needed(value, fields, "chat", dict)
    turns = _system(value, fields)
    for name, each in sorted(chat.items(), key=lambda item: _trailing_number(item[0])):
        if (
            not isinstance(each, dict)
            or not isinstance(each.get("Human"), str)
            or not isinstance(each.get("MOSS"), str)
        ):
            raise NoTalk("missing-field", f"`{name[:40]}` does not hold the texts `Human` and `MOSS`")
        thought = _unmarked(each.get("Inner Thoughts"))
        turns += [
            Turn("user", _unmarked(each["Human"]) or ""),
            Turn("assistant", _unmarked(each["MOSS"]) or "", None if thought in {None, "", "None"} else thought),
        ]
    return Talk(turns)


def _moss_turns(text: str) -> list[Turn]:
    """The turns of a plain text: a speaker at the start or behind a mark such as <eoh>; what else is said is text."""
    marks = list(_MOSS_SPEAKS.finditer(text))
    if not marks or marks[0].start():
        raise NoTalk("wrong-role", "the text does not begin with a speaker such as `[Human]:`")
    turns = []
    for mark, end in zip(marks, [*(m.start() for m in marks[1:]), len(text)], strict=True):
        who = mark[1] or mark[2]
        role = _MOSS_ROLE.get(who.lower())
        if role is None:
            raise NoTalk("wrong-role", f"a turn is of {who[:40]!r}, neither Human nor MOSS")
        turns.append(Turn(role, (_unmarked(text[mark.end() : end]) or "").strip()))
    return turns


def _trailing_number(name: str) -> int:
    digits = re.search(r"(\d{1,9})\Z", name)
    return int(digits[1]) if digits else 0


def _unmarked(text: Json) -> str | None:
    """The text without MOSS's marks: `<|Human|>: Hello<eoh>` -> `Hello`."""
    return _MOSS_MARK.sub("", text) if isinstance(text, str) else None


MOSS = RowFormat(
    {"chat": ("chat",), "text": ("plain_text", "text"), "system": ("meta_instruction", "prefix", "system")}, _moss
)

# ---- transcripts: "### Human: question ### Assistant: answer" --------------------------------------------------------

_SPEAKS = re.compile(
    r"(?:\A|(?<=\n)|(?=###))\s*(?:###\s*)?(Human|User|Assistant|GPT|Bot|System)\s*[:：][ \t]*", re.IGNORECASE
)
_WHO = {"human": "user", "user": "user", "system": "system"}


def _transcript(value: dict[str, Json], fields: Fields) -> Talk:
    text = _needed(value, fields, "text", str)
    names = dict(zip(fields.known, fields.names(tuple(value)), strict=True))
    marks = list(_SPEAKS.finditer(text))
    if not marks or text[: marks[0].start()].strip():
        raise NoTalk("wrong-role", "the text does not begin with a speaker such as `Human:`")
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    turns = [
        Turn(_WHO.get(mark[1].lower(), "assistant"), text[mark.end() : end].strip())
        for mark, end in zip(marks, ends, strict=True)
    ]
    answer = text_of(value, names["answer"])
    if answer is not None:
        if turns[-1].role == "assistant" and not turns[-1].content:
            turns.pop()
        turns.append(Turn("assistant", answer))
    return Talk(turns)


def is_open_transcript(text: Json) -> bool:
    r"""Whether a text is a dialogue that waits for its last answer, as BELLE's instructions are.

    >>> is_open_transcript("Human: Hello\nAssistant:")
    True
    """
    if not isinstance(text, str) or not (marks := list(_SPEAKS.finditer(text))):
        return False
    waits = _WHO.get(marks[-1][1].lower(), "assistant") == "assistant" and not text[marks[-1].end() :].strip()
    return waits and not text[: marks[0].start()].strip()


TRANSCRIPT = RowFormat({"text": ("text", "transcript", "chosen", "instruction"), "answer": ("output",)}, _transcript)

# ---- OASST: {"prompt": {"text": ..., "role": "prompter", "replies": [...]}} ------------------------------------------


def thread_talk(value: dict[str, Json], fields: Fields) -> Talk:
    """The turns of a thread: prompters are users."""
    turns = []
    for message in _needed(value, fields, "thread", list):
        role = {"prompter": "user", "user": "user", "assistant": "assistant"}.get(str(message.get("role")))
        text = message.get("text")
        if role is None:
            raise NoTalk("wrong-role", f"a message of the tree is of {str(message.get('role'))[:40]!r}")
        if not isinstance(text, str):
            raise NoTalk("wrong-type", f"the text of a message is of type {kind_of(text)}")
        turns.append(Turn(role, text))
    return Talk(turns)


def _threads_of(value: dict[str, Json]) -> list[dict[str, Json]]:
    """One row for every path from the prompt to a message without replies; `ranks` tells which reply was followed."""
    prompt = value.get("prompt")
    if not isinstance(prompt, dict):
        return [value]
    rest = {key: value[key] for key in value if key != "prompt"}
    return [
        rest | {"thread": messages, "ranks": [message.get("rank") for message in messages[1:]]}
        for messages in _paths(prompt)
    ]


def _paths(root: dict[str, Json]) -> Iterator[list[dict[str, Json]]]:
    """Depth first, the best-ranked reply first; without recursion, since trees come from outside.

    No path is cut: a row nested deeper than `limits.max_nesting` (two levels a message) was rejected when it was read.
    """
    stack: list[tuple[dict[str, Json], list[dict[str, Json]]]] = [(root, [])]
    while stack:
        node, above = stack.pop()
        path = [*above, node]
        replies = node.get("replies")
        below = [reply for reply in replies if isinstance(reply, dict)] if isinstance(replies, list) else []
        if not below:
            yield path
            continue
        below.sort(key=lambda reply: rank if isinstance(rank := reply.get("rank"), int) else 10**9)
        stack += [(reply, path) for reply in reversed(below)]


TREE = RowFormat({"thread": ("thread",)}, thread_talk, _threads_of)
