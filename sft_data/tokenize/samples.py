"""One conversation, one or several samples: a sample for every trained turn, or segments of a row that is too long.

A sample names its messages by their numbers in the conversation, so that a span of its tokens can always say which turn
of which row it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sft_data.tokenize.weights import Weights

__all__ = ["Exchange", "Sample", "Talk", "exchanges", "per_turn", "segments", "trimmed"]

_JOINT = 8  # tokens that an exchange may need less alone than behind another: line feeds, a separator


class Talk(NamedTuple):
    """A row of the frame as templates read it."""

    messages: list[dict[str, Any]]
    tools: str | None  # JSON text
    weights: Weights
    reserved: bool  # whether it holds a character that no text may hold
    steering: bool  # whether it holds a control string of the tokenizer


class Exchange(NamedTuple):
    """A question and all that answers it, up to the next question."""

    start: int  # number of its first message
    stop: int  # number behind its last message
    tokens: int  # in the whole row; the first one with all that stands before it


class Sample(NamedTuple):
    """What becomes one row of tokens."""

    row: int
    numbers: tuple[int, ...] | None = None  # numbers of its messages; null: all of them
    trains: int | None = None  # the only message that is learnt; null: what `train_on` says
    sizes: tuple[Exchange, ...] = ()  # its exchanges, in a segment of a row that was too long
    before: int = 0  # tokens it had before earlier exchanges were left out of it

    def number(self, place: int) -> int:
        """The number in the conversation of the message at a place of this sample."""
        return place if self.numbers is None else self.numbers[place]


def per_turn(row: int, talk: Talk, *, last: bool) -> list[Sample]:
    """A sample for each turn with a weight above 0 (`last`: for the last turn only): all before it, and itself."""
    turns = [number for number, message in enumerate(talk.messages) if message["role"] == "assistant"]
    wanted = [number for number in (turns[-1:] if last else turns) if talk.weights.of(number) > 0]
    return [Sample(row, tuple(range(number + 1)), number) for number in wanted] or [Sample(row)]


def exchanges(messages: Sequence[Mapping[str, Any]], ends: Mapping[int, int], length: int) -> list[Exchange]:
    """A row's exchanges. `ends`: number of an assistant's message -> where its tokens end; `length`: all tokens.

    System prompts at the front belong to no exchange; a last question that nobody answers is one.
    """
    starts, answered = [_head(messages)], False
    for number in range(starts[0], len(messages)):
        if messages[number]["role"] == "user" and answered:
            starts.append(number)
            answered = False
        answered = answered or messages[number]["role"] == "assistant"
    found, position = [], 0
    for start, stop in zip(starts, [*starts[1:], len(messages)], strict=True):
        end = max((ends.get(number, 0) for number in range(start, stop)), default=0) or length
        found.append(Exchange(start, stop, end - position))
        position = end
    return found


def segments(
    sample: Sample, talk: Talk, sizes: Sequence[Exchange], length: int, room: int, *, repeat: bool
) -> tuple[list[Sample], int]:
    """A sample of `length` tokens cut between exchanges so that each part may have `room`; and the tokens lost.

    An exchange that has no room even alone is lost, and so is a last question without an answer. How many tokens a part
    really has is only known when it is encoded: one that is still too long is cut again, and lost where it is one
    exchange. So an exchange near the limit is tried rather than given up.
    """
    overhead = max(0, length - sum(size.tokens for size in sizes))
    answered = [s for s in sizes if any(m["role"] == "assistant" for m in talk.messages[s.start : s.stop])]
    fitting = [size for size in answered if size.tokens - _JOINT <= room]
    groups: list[list[Exchange]] = []
    for size in fitting:
        follows = bool(groups) and groups[-1][-1].stop == size.start
        if not follows or sum(s.tokens for s in groups[-1]) + size.tokens + overhead > room:
            groups.append([])
        groups[-1].append(size)
    if len(groups) == 1 and len(groups[0]) == len(sizes):  # it was too long all the same
        groups = [groups[0][:-1], groups[0][-1:]] if len(sizes) > 1 else []
    kept = sum(size.tokens for group in groups for size in group)
    head = tuple(range(_head(talk.messages)))
    had_head = sample.numbers is None or sample.numbers[: len(head)] == head
    parts = []
    for number, group in enumerate(groups):
        front = head if repeat or (number == 0 and had_head) else ()
        numbers = tuple(n for size in group for n in range(size.start, size.stop))
        parts.append(Sample(sample.row, (*front, *numbers), None, tuple(group)))
    return parts, sum(size.tokens for size in sizes) - kept


def trimmed(sample: Sample, talk: Talk, length: int, room: int, *, repeat: bool) -> Sample | None:
    """A sample of one turn without its earliest exchanges; None where it has but one. Estimated by characters."""
    numbers = sample.numbers or ()
    head = tuple(range(_head(talk.messages)))
    kept = [number for number in numbers if number not in head]
    inside = [talk.messages[number] for number in kept]
    starts = [e.start for e in exchanges(inside, {}, 0)][1:]
    if not starts:
        return None
    sizes = [sum(len(text) for text in message.values() if isinstance(text, str)) + 16 for message in inside]
    scale = length / max(1, sum(sizes))
    start = next((s for s in starts if length - scale * sum(sizes[:s]) <= room), starts[-1])
    front = head if repeat else ()
    return sample._replace(numbers=(*front, *kept[start:]), before=sample.before or length)


def _head(messages: Sequence[Mapping[str, Any]]) -> int:
    """How many system prompts stand at the front."""
    return next((n for n, message in enumerate(messages) if message["role"] != "system"), len(messages))
