"""Where each assistant turn lies in the rendered text, found in two independent ways.

- *marks*: what the template itself puts between `{% generation %}` and `{% endgeneration %}`.
- *slots*: the template is rendered once for every shape of conversation, with numbered stand-ins for texts. Filled
  with the row's texts, that skeleton must be the rendered text, character for character; then it says where they lie.
- *prefixes*: the conversation is rendered up to each turn, with and without the start of the next turn. Each of these
  must be a prefix of the whole. Used where a template treats texts by their content, so that a skeleton cannot fit.

A turn starts where the prompt for it ends and stops behind its stop token.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from sft_data.chat.marks import SLOT_END, SLOT_START, slot, split_turns
from sft_data.chat.template import RENDER_ERRORS, ChatTemplate
from sft_data.errors import TokenizerError

__all__ = ["Rendered", "Turn", "TurnFinder", "Unproved"]

Messages = Sequence[Mapping[str, Any]]

_SLOT = re.compile(f"{SLOT_START}([cr])([0-9]+){SLOT_END}")
_KEYS = {"c": "content", "r": "reasoning_content"}


class Unproved(Exception):  # noqa: N818  # a verdict on a row, not an error of the program
    """Why a row cannot be trained on: a rejection code and what was found."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class Turn(NamedTuple):
    """One assistant turn, in characters of the rendered text."""

    message: int  # its number in the conversation
    start: int  # where the prompt for it ends
    end: int  # behind its stop token
    answer: int  # where its content starts, behind reasoning and what a template puts before
    floor: int  # where the text of the turn before ends: a mark may not start earlier
    lost: bool  # whether it has reasoning that the template does not show


class Rendered(NamedTuple):
    """A conversation as text, with its assistant turns."""

    text: str
    turns: tuple[Turn, ...]
    proof: str  # the derivations that agree: "marks+slots", "marks+prefixes", "slots", "prefixes"
    specials: int | None  # special tokens that the template wrote; null where no skeleton tells


@dataclass(frozen=True)
class _Skeleton:
    """What a template makes of one shape of conversation: literals around slots, and the turns relative to slots."""

    literals: tuple[str, ...]
    slots: tuple[tuple[int, str], ...]  # message number, key of its text
    turns: tuple[tuple[int, int, int, int, int, bool], ...]  # message, first slot, start before it, slot, stop, lost
    specials: int


class TurnFinder:
    """Finds the assistant turns of conversations rendered with one template."""

    def __init__(
        self, template: ChatTemplate, controls: re.Pattern[str], special: re.Pattern[str], eos: str | None
    ) -> None:
        self._template = template
        self._controls = controls
        self._special = special
        self._skeletons: dict[tuple[Any, ...], _Skeleton | None] = {}
        self.stops, self.header = self._probe(eos)

    def find(
        self, messages: Messages, tools: Sequence[Any] | None = None, *, wanted: Literal["all", "last"] = "all"
    ) -> Rendered:
        """Render and locate all turns, or the last one alone; raises Unproved."""
        text, marks = self._render_all(messages, tools)
        skeleton = self._skeleton_for(messages) if not tools else None
        turns = _fill(skeleton, messages, text) if skeleton else None
        how, specials = ("slots", skeleton.specials) if turns is not None and skeleton else ("prefixes", None)
        if turns is None:
            turns = self.by_prefixes(messages, tools, text, wanted=wanted)
        if wanted == "last":
            turns, marks = turns[-1:], None if marks is None else marks[-1:]
        if marks is None:
            return Rendered(text, turns, how, specials)
        return Rendered(text, _agree(turns, marks, text, self.stops), f"marks+{how}", specials)

    def render(self, messages: Messages, tools: Sequence[Any] | None = None, *, prompt: bool = False) -> str:
        """The text without turn marks; raises Unproved."""
        try:
            rendered = self._template.render(messages, tools, prompt=prompt)
        except RENDER_ERRORS as error:
            raise Unproved("template-error", f"the chat template failed: {str(error)[:200]}") from error
        return self._without_marks(rendered)[0]

    def by_prefixes(
        self, messages: Messages, tools: Sequence[Any] | None, text: str, *, wanted: Literal["all", "last"] = "all"
    ) -> tuple[Turn, ...]:
        """The turns, or the last one alone, by rendering the conversation up to each of them; raises Unproved."""
        turns = []
        last = max((n for n, message in enumerate(messages) if message["role"] == "assistant"), default=-1)
        _check_tools(tools, text)
        for number, message in enumerate(messages):
            if not _is_shown(message, text):
                raise Unproved("not-rendered", f"the template alters or leaves out turn {number} ({message['role']})")
            if message["role"] == "assistant" and (wanted == "all" or number == last):
                turns.append(self._turn_by_prefix(number, messages, tools, text))
        return tuple(turns)

    def _turn_by_prefix(self, number: int, messages: Messages, tools: Sequence[Any] | None, text: str) -> Turn:
        before, prompt = self._before(messages[:number], tools)
        after = self.render(messages[: number + 1], tools)
        if not text.startswith(before) or not text.startswith(after):
            raise Unproved("unproved-mask", f"turn {number}: the template renders earlier turns differently later on")
        end = len(after.rstrip())
        stop = next((stop for stop in self.stops if after.endswith(stop, 0, end)), None)
        if stop is None:
            raise Unproved("unproved-mask", f"turn {number} does not end in a stop token: {after[-20:]!r}")
        message = messages[number]
        content = message["content"].strip()
        answer = text.rfind(content, len(before), end - len(stop) + 1) if content else end - len(stop)
        start = _common(prompt, text)
        if prompt == before and not message.get("tool_calls"):  # some templates do not know prompts
            start = answer
        if answer < 0 or not len(before) <= start < end:
            raise Unproved("unproved-mask", f"turn {number} does not lie behind the prompt for it")
        answer = max(start, answer)  # an answer that opens with what the prompt has said already: "<think>"
        _check_calls(number, message, text[start:end])
        lost = (message.get("reasoning_content") or "").strip() not in text[start:end]
        return Turn(number, start, end, answer, len(before), lost)

    def _before(self, messages: Messages, tools: Sequence[Any] | None) -> tuple[str, str]:
        """The text of these messages without and with the prompt for a turn behind them."""
        try:
            return self.render(messages, tools), self.render(messages, tools, prompt=True)
        except Unproved:
            if messages:
                raise
            return "", ""  # many templates look at the first message without asking whether there is one

    def _render_all(self, messages: Messages, tools: Sequence[Any] | None) -> tuple[str, list[tuple[int, int]] | None]:
        try:
            rendered = self._template.render(messages, tools)
        except RENDER_ERRORS as error:
            raise Unproved("template-error", f"the chat template failed: {str(error)[:200]}") from error
        return self._without_marks(rendered)

    def _without_marks(self, rendered: str) -> tuple[str, list[tuple[int, int]] | None]:
        if not self._template.marked:
            return rendered, None
        split = split_turns(rendered)
        if split is None:
            raise Unproved("unproved-mask", "the template's generation blocks lie in one another")
        return split

    def _probe(self, eos: str | None) -> tuple[tuple[str, ...], str | None]:
        """The strings that end a turn, and the text before an answer that tells a token stream that one starts."""
        probe = [{"role": "user", "content": slot("c0")}, {"role": "assistant", "content": slot("c1")}]
        try:
            text = self.render(probe)
        except Unproved as problem:
            raise TokenizerError(f"the chat template cannot render a question and its answer: {problem}") from problem
        head, answer, tail = text.partition(slot("c1"))
        found = self._controls.search(tail)
        if not answer or found is None:
            raise TokenizerError(
                f"the chat template does not end an answer with a special token, but with {tail!r} (if that "
                "should be one, this tokenizer lacks it): a model trained on it would never stop; use a template that "
                "writes eos_token behind every answer"
            )
        stops = tuple(dict.fromkeys([found.group(), *([eos] if eos else [])]))
        before = head.partition(slot("c0"))[2]
        starts = [m for m in self._controls.finditer(before) if m.group() not in stops]
        if not starts:
            return stops, None
        return stops, before[starts[0].start() : starts[1].end() if len(starts) > 1 else len(before)]

    def _skeleton_for(self, messages: Messages) -> _Skeleton | None:
        """The skeleton of the messages' shape; None where one of them holds more than texts."""
        if any(len(message) > 2 for message in messages):
            if any(key not in _PLAIN_KEYS for message in messages for key in message):
                return None
            shape: tuple[Any, ...] = tuple((m["role"], "reasoning_content" in m) for m in messages)
        else:
            shape = tuple([message["role"] for message in messages])
        if shape not in self._skeletons:
            self._skeletons[shape] = self._build_skeleton(messages)
        return self._skeletons[shape]

    def _build_skeleton(self, shape: Messages) -> _Skeleton | None:
        messages = [_stand_in(number, message) for number, message in enumerate(shape)]
        try:
            text = self.render(messages)
            prompts = {
                number: self._before(messages[:number], None)
                for number, message in enumerate(messages)
                if message["role"] == "assistant"
            }
        except Unproved:
            return None
        found = list(_SLOT.finditer(text))
        names = [(int(m.group(2)), _KEYS[m.group(1)]) for m in found]
        contents = [number for number, key in names if key == "content"]
        if contents != list(range(len(messages))) or len(set(names)) != len(names):
            return None
        edges = [0, *(edge for m in found for edge in m.span()), len(text)]
        literals = tuple(text[low:high] for low, high in zip(edges[::2], edges[1::2], strict=True))
        turns = [self._turn_in_skeleton(shape[number], number, text, prompts[number]) for number in prompts]
        if any(turn is None for turn in turns):
            return None
        specials = sum(len(self._special.findall(literal)) for literal in literals)
        return _Skeleton(literals, tuple(names), tuple(turn for turn in turns if turn is not None), specials)

    def _turn_in_skeleton(
        self, message: Mapping[str, Any], number: int, text: str, prompts: tuple[str, str]
    ) -> tuple[int, int, int, int, int, bool] | None:
        found = list(_SLOT.finditer(text))
        names = [(int(m.group(2)), _KEYS[m.group(1)]) for m in found]
        before, prompt = prompts
        place = names.index((number, "content"))
        reasoned = (number, "reasoning_content") in names
        first = min(place, names.index((number, "reasoning_content"))) if reasoned else place
        start = found[first].start() if prompt == before else _common(prompt, text)
        behind = found[place + 1].start() if place + 1 < len(found) else len(text)
        stop = self._controls.search(text[found[place].end() : behind])
        floor = found[first - 1].end() if first else 0
        if stop is None or stop.group() not in self.stops or not floor <= start <= found[first].start():
            return None
        lost = "reasoning_content" in message and not reasoned
        return number, first, found[first].start() - start, place, stop.end(), lost


_PLAIN_KEYS = frozenset(("role", "content", "reasoning_content", "thinking"))


def _stand_in(number: int, message: Mapping[str, Any]) -> dict[str, Any]:
    texts = {"role": message["role"], "content": slot(f"c{number}")}
    if "reasoning_content" in message:
        texts |= {"reasoning_content": slot(f"r{number}"), "thinking": slot(f"r{number}")}
    return texts


def _fill(skeleton: _Skeleton, messages: Messages, text: str) -> tuple[Turn, ...] | None:
    """The turns of a row whose text is its skeleton filled in; None where it is not."""
    literals = skeleton.literals
    parts, starts, ends, position = [literals[0]], [], [0], len(literals[0])
    for (number, key), literal in zip(skeleton.slots, literals[1:], strict=True):
        value = messages[number][key]
        starts.append(position)
        position += len(value)
        ends.append(position)
        position += len(literal)
        parts += (value, literal)
    if "".join(parts) != text:
        return None
    return tuple(
        [
            Turn(number, starts[first] - back, ends[place + 1] + stop, starts[place], ends[first], lost)
            for number, first, back, place, stop, lost in skeleton.turns
        ]
    )


def _agree(
    turns: Sequence[Turn], marks: Sequence[tuple[int, int]], text: str, stops: Sequence[str]
) -> tuple[Turn, ...]:
    """The turns with the starts that the template's marks give; raises Unproved where the two do not fit together."""
    if len(marks) != len(turns):
        raise Unproved("unproved-mask", f"the template marks {len(marks)} turns, the conversation has {len(turns)}")
    agreed = []
    for turn, (start, end) in zip(turns, marks, strict=True):
        if start == turn.start and end == turn.end:
            agreed.append(turn)
            continue
        # A mark may end before the stop token, or behind it in blanks: the turn ends with the stop token all the same.
        between = text[end : turn.end].strip() if end <= turn.end else text[turn.end : end].strip()
        allowed = ("", *stops) if end <= turn.end else ("",)
        if between not in allowed or not turn.floor <= start <= turn.answer <= end:
            raise Unproved(
                "unproved-mask",
                f"turn {turn.message}: the template marks {text[start:end][-40:]!r}, the turn is "
                f"{text[turn.start : turn.end][-40:]!r}",
            )
        agreed.append(turn if turn.start == start else turn._replace(start=start))
    return tuple(agreed)


def _is_shown(message: Mapping[str, Any], text: str) -> bool:
    """Whether the text holds a message's content; what a tool says may stand there as JSON."""
    content = message["content"].strip()
    if content in text or message["role"] != "tool":
        return content in text
    return any(json.dumps(content, ensure_ascii=ascii_only)[1:-1] in text for ascii_only in (False, True))


def _check_tools(tools: Sequence[Any] | None, text: str) -> None:
    for tool in tools or ():
        name = _function_name(tool)
        if name not in text:
            raise Unproved("not-rendered", f"the template does not show the tool {name!r}; choose one that knows tools")


def _check_calls(number: int, message: Mapping[str, Any], said: str) -> None:
    for call in message.get("tool_calls", ()):
        name = _function_name(call)
        if name not in said:
            raise Unproved(
                "not-rendered",
                f"turn {number}: the template does not show the call of {name!r}; choose one that knows tools",
            )


def _function_name(entry: Any) -> str:  # noqa: ANN401  # any plain data
    function = entry.get("function", entry) if isinstance(entry, dict) else entry
    return str(function.get("name", "")) if isinstance(function, dict) else str(function)


def _common(one: str, other: str) -> int:
    """Length of the common start of two texts."""
    return (
        len(one)
        if other.startswith(one)
        else next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(other))
    )
