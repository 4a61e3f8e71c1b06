"""From samples to proved tokens: each rendered and located, then all of them encoded in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import polars as pl

from sft_data.chat.marks import RESERVED, TEXT_END, TEXT_START
from sft_data.chat.spans import Rendered, TurnFinder, Unproved
from sft_data.chat.thoughts import without_thoughts
from sft_data.tokenize.labels import Encoded, Row, encode_rows
from sft_data.tokenize.rows import mark_texts, template_messages, template_tools, texts_of
from sft_data.tokenize.samples import Sample, Talk
from sft_data.tokenize.stops import confirm_by_stops
from sft_data.tokenize.tokenizer import LoadedTokenizer
from sft_data.tokenize.weights import weights_of

__all__ = ["Drawn", "Loaded", "draw", "read_talks"]


class Loaded(NamedTuple):
    """What a process needs to tokenize."""

    tokenizer: LoadedTokenizer
    finder: TurnFinder


class Drawn(NamedTuple):
    """A sample as tokens with its turns; or why there are none that are proved."""

    rendered: Rendered
    tokens: Encoded


def read_talks(loaded: Loaded, frame: pl.DataFrame) -> list[Talk]:
    """Every row of the frame as templates read it."""
    texts = frame.select(text=texts_of(frame))["text"]
    reserved = texts.str.contains_any(list(RESERVED)).fill_null(value=False).to_list()
    steering = texts.str.contains_any(list(loaded.tokenizer.controls)).fill_null(value=False).to_list()
    tools = frame["tools"].to_list() if "tools" in frame.columns else [None] * frame.height
    parts = zip(template_messages(frame), tools, weights_of(frame), reserved, steering, strict=True)
    return list(map(Talk._make, parts))


def draw(
    loaded: Loaded, talks: Sequence[Talk], samples: Sequence[Sample], *, learn_thoughts: bool
) -> list[Drawn | Unproved]:
    """Every sample as tokens, or why that cannot be."""
    rows = [_row(loaded, talks[sample.row], sample, learn_thoughts=learn_thoughts) for sample in samples]
    drawn = [row for row in rows if not isinstance(row, Unproved)]
    encoded = encode_rows(loaded.tokenizer, drawn)
    tokens = iter(confirm_by_stops(loaded.tokenizer, loaded.finder, drawn, encoded))
    bos = loaded.tokenizer.bos_id
    return [row if isinstance(row, Unproved) else _drawn(row.rendered, next(tokens), bos) for row in rows]


def _row(loaded: Loaded, talk: Talk, sample: Sample, *, learn_thoughts: bool) -> Row | Unproved:
    if talk.reserved:
        return Unproved("reserved-character", "a noncharacter between U+FDD0 and U+FDD5")
    messages = talk.messages if sample.numbers is None else [talk.messages[number] for number in sample.numbers]
    tools = template_tools(talk.tools) if talk.tools is not None else None
    wanted: Literal["all", "last"] = "all" if sample.trains is None else "last"
    try:
        rendered = loaded.finder.find(messages, tools, wanted=wanted)
        marked = _marked(loaded, messages, tools, rendered) if talk.steering else None
    except Unproved as problem:
        return problem
    if learn_thoughts:
        return Row(rendered, messages, tools, marked, wanted)
    turns = without_thoughts(rendered.turns, messages, rendered.text)
    return Row(rendered._replace(turns=turns), messages, tools, marked, wanted, "shown")


def _drawn(rendered: Rendered, tokens: Encoded, bos: int | None) -> Drawn | Unproved:
    if tokens.problem is not None:
        return tokens.problem
    return Drawn(rendered, tokens if bos is None else _with_bos(tokens, bos))


def _with_bos(tokens: Encoded, bos: int) -> Encoded:
    """Put the tokenizer's own first token in front where the template wrote none at all."""
    if (tokens.ids == bos).any():
        return tokens
    ids = np.concatenate([np.array([bos], dtype=np.int32), tokens.ids])
    return tokens._replace(ids=ids, turns=tuple((start + 1, end + 1) for start, end in tokens.turns))


def _marked(loaded: Loaded, messages: list[dict[str, Any]], tools: list[Any] | None, rendered: Rendered) -> str | None:
    """The text with marks around the control strings of the data; raises Unproved where the marks change the text.

    In the assistant's own turns only special tokens count: `<think>` or `<tool_call>` there is the assistant's speech.
    """
    special = loaded.tokenizer.special_pattern
    every = loaded.tokenizer.control_pattern
    marked = [mark_texts(m, special if m["role"] == "assistant" else every) for m in messages]
    text = loaded.finder.render(marked, mark_texts(tools, every) if tools else None)
    if text.replace(TEXT_START, "").replace(TEXT_END, "") != rendered.text:
        raise Unproved("unproved-mask", "the template reads a control string that stands in the data")
    return text if TEXT_START in text else None
