"""What becomes of every row by the stage's settings: kept with its samples, or rejected with a reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sft_data.chat.spans import Turn, Unproved
from sft_data.tokenize.drawing import Drawn, Loaded, draw
from sft_data.tokenize.labels import Encoded
from sft_data.tokenize.samples import Sample, Talk, exchanges, per_turn, segments, trimmed
from sft_data.tokenize.tables import Story, Verdict
from sft_data.tokenize.weights import HEAVIEST, Span, everything

if TYPE_CHECKING:
    from sft_data.tokenize.stage import Tokenize

__all__ = ["stories_of"]


class _Kept(NamedTuple):
    """A sample that is kept."""

    verdict: Verdict
    lost: int  # tokens cut off
    earlier: tuple[str, ...]


class _Again(NamedTuple):
    """A sample that is left, for other ones (or none) that are drawn in its place."""

    samples: list[Sample]
    lost: int = 0
    split: bool = False


def stories_of(settings: Tokenize, loaded: Loaded, talks: Sequence[Talk]) -> list[Story | Unproved]:
    """What becomes of every row: drawn whole at first, and again in parts where one round is not enough."""
    kept: list[list[Verdict]] = [[] for _ in talks]
    lost, split = [0] * len(talks), [False] * len(talks)
    earlier: dict[int, tuple[str, ...]] = {}
    problems: dict[int, Unproved] = {}
    samples = [sample for row, talk in enumerate(talks) for sample in _first(settings, row, talk)]
    while samples:
        drawn = draw(loaded, talks, samples, learn_thoughts=settings.reasoning == "learnt")
        again: list[Sample] = []
        for sample, found in zip(samples, drawn, strict=True):
            row = sample.row
            try:
                judged = _judge(settings, sample, talks[row], found)
            except Unproved as problem:
                problems.setdefault(row, problem)
                continue
            if isinstance(judged, _Again):
                again += judged.samples
                lost[row] += judged.lost
                split[row] |= judged.split
                continue
            kept[row].append(judged.verdict)
            lost[row] += judged.lost
            if judged.earlier:
                earlier[row] = judged.earlier
        samples = again
    nowhere = Unproved("too-long", f"no part of it that may be kept has {settings.max_length} tokens or fewer")
    for row, verdicts in enumerate(kept):
        if not verdicts:
            problems.setdefault(row, nowhere)
        elif len(verdicts) > 1:
            verdicts.sort(key=_place)
    return [
        problems[row] if row in problems else Story(verdicts, lost[row], split[row], earlier.get(row, ()))
        for row, verdicts in enumerate(kept)
    ]


def _first(settings: Tokenize, row: int, talk: Talk) -> list[Sample]:
    return per_turn(row, talk, last=settings.train_on == "last-answer") if settings.samples == "turn" else [Sample(row)]


def _judge(settings: Tokenize, sample: Sample, talk: Talk, drawn: Drawn | Unproved) -> _Kept | _Again:
    """What becomes of a sample; raises Unproved where its row is rejected."""
    if settings.samples == "turn-where-needed" and sample.numbers is None and _needs_turns(talk, drawn):
        parts = per_turn(sample.row, talk, last=settings.train_on == "last-answer")
        if parts[0].numbers is not None:
            return _Again(parts)
    if isinstance(drawn, Unproved):
        raise drawn
    tokens, turns = drawn.tokens, drawn.rendered.turns
    length = len(tokens.ids)
    if length > settings.max_length:
        if settings.too_long == "split":
            return _split(settings, sample, talk, drawn)
        shorter = _cut(settings, tokens)
        if shorter is None and (settings.too_long == "reject" or sample.trains is None):
            raise Unproved("too-long", f"{length} > {settings.max_length} tokens")
        if shorter is None:
            return _Again([], length)
        tokens = shorter
    spans, lost = _chosen(settings, sample, talk, turns[: len(tokens.turns)], tokens)
    silent = not spans and not sample.sizes
    if lost and (settings.lost_reasoning == "reject" or (settings.lost_reasoning == "mask" and silent)):
        raise Unproved("not-rendered", f"turn {lost[0]}: the template does not show its reasoning")
    if any(not span.weight <= HEAVIEST for span in spans):
        raise Unproved("weight-too-large", f"weight of the row: {talk.weights.row:g}")
    if silent:
        raise Unproved("nothing-to-train", "no assistant turn with a weight above 0")
    if not spans:
        return _Again([], sum(size.tokens for size in sample.sizes))  # a segment in which nothing is learnt
    last = len(talk.messages) - 1 if sample.numbers is None else sample.numbers[-1]
    was = max(length, sample.before)
    return _Kept(Verdict(last, tokens, spans), was - len(tokens.ids), _earlier(talk, turns, sample))


def _needs_turns(talk: Talk, drawn: Drawn | Unproved) -> bool:
    """Whether the whole row cannot be shown as one sample: its turns are not proved, or their reasoning is gone."""
    if isinstance(drawn, Unproved):
        return drawn.code in ("unproved-mask", "not-rendered", "template-error")
    return any(turn.lost and talk.weights.of(turn.message) > 0 for turn in drawn.rendered.turns)


def _earlier(talk: Talk, turns: Sequence[Turn], sample: Sample) -> tuple[str, ...]:
    """Reasoning of turns before the last that the template shows."""
    if sample.trains is not None or len(turns) < 2:
        return ()
    told = [talk.messages[sample.number(t.message)].get("reasoning_content") for t in turns[:-1] if not t.lost]
    return tuple(text for text in told if text)


def _split(settings: Tokenize, sample: Sample, talk: Talk, drawn: Drawn) -> _Again:
    length, repeat = len(drawn.tokens.ids), settings.split_system == "repeat"
    if sample.trains is not None:
        shorter = trimmed(sample, talk, length, settings.max_length, repeat=repeat)
        return _Again([shorter]) if shorter is not None else _Again([], max(length, sample.before))
    ends = {turn.message: end for turn, (_, end) in zip(drawn.rendered.turns, drawn.tokens.turns, strict=True)}
    sizes = sample.sizes or exchanges(talk.messages, ends, length)
    return _Again(*segments(sample, talk, sizes, length, settings.max_length, repeat=repeat), split=True)


def _cut(settings: Tokenize, tokens: Encoded) -> Encoded | None:
    """The row cut to `max_length`: it ends in a stop token, and every turn that is left is whole or says so."""
    whole = [turn for turn in tokens.turns if turn[1] <= settings.max_length]
    partial = [turn for turn in tokens.turns if turn[0] < settings.max_length - 1 and turn[1] > settings.max_length]
    if settings.too_long == "cut-answer" and partial:
        start, end = partial[0]
        ids = np.append(tokens.ids[: settings.max_length - 1], tokens.ids[end - 1])
        return tokens._replace(ids=ids, turns=(*whole, (start, settings.max_length)))
    if settings.too_long == "reject" or not whole:
        return None
    return tokens._replace(ids=tokens.ids[: whole[-1][1]], turns=tuple(whole))


def _chosen(
    settings: Tokenize, sample: Sample, talk: Talk, turns: Sequence[Turn], tokens: Encoded
) -> tuple[list[Span], list[int]]:
    """What of a sample is learnt, and the numbers of the turns among it whose reasoning the template leaves out."""
    places = list(zip(turns, tokens.turns, strict=True))
    numbers = range(len(talk.messages)) if sample.numbers is None else sample.numbers
    if settings.train_on == "all":
        spans = everything([(turn.message, *place) for turn, place in places], numbers, len(tokens.ids), talk.weights)
        return spans, [numbers[turn.message] for turn in turns if turn.lost]
    if settings.train_on == "last-answer":
        last = max((n for n, message in enumerate(talk.messages) if message["role"] == "assistant"), default=-1)
        places = [place for place in places[-1:] if numbers[place[0].message] == last or not sample.sizes]
    of = talk.weights.of
    spans = [
        Span(number, start, end, weight)
        for turn, (start, end) in places
        if (weight := of(number := numbers[turn.message])) > 0 and start < end
    ]
    if not any(turn.lost for turn, _ in places):
        return spans, []
    gone = {numbers[turn.message] for turn, _ in places if turn.lost}
    lost = [span.turn for span in spans if span.turn in gone]
    return spans if settings.lost_reasoning == "train" else [span for span in spans if span.turn not in gone], lost


def _place(verdict: Verdict) -> int:
    return verdict.last
