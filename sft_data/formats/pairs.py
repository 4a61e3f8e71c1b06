"""Prompt and response: two texts, or two lists of messages that follow each other.

A context stands behind the question, after a line feed, as Alpaca's input does. Of a list of answers the first one
is taken; the list goes into `extra`.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

from sft_data.formats.chat import turns_of
from sft_data.formats.fields import Fields, kind_of, text_of
from sft_data.formats.turns import Draft, NoTalk, Talk, Turn, draft_of, pairs_draft, texts_draft
from sft_data.sources.columns import Texts
from sft_data.sources.rows import Json

__all__ = ["FIELDS", "convert", "convert_texts"]

FIELDS: dict[str, tuple[str, ...]] = {
    "prompt": ("prompt", "question", "query"),
    "response": ("response", "completion", "answer", "output", "target", "chosen", "answers"),
    "context": ("context", "passage"),
    "system": ("system", "system_prompt"),
}


def convert(values: Sequence[dict[str, Json]], fields: Fields) -> Draft:
    """A Draft of pairs: whole columns where all are texts, row by row otherwise."""
    draft = _plain(values, fields)
    return draft if draft is not None else draft_of(_talk(value, fields) for value in values)


def convert_texts(texts: Texts, fields: Fields) -> Draft | None:
    """The same of rows that came as columns of texts; None where they need a look row by row."""
    prompt, response, context, system = fields.names(texts.names)
    if not prompt or not response or context or system:
        return None
    return texts_draft(texts, prompt, None, response)


def _plain(values: Sequence[dict[str, Json]], fields: Fields) -> Draft | None:
    names = {fields.names(shape) for shape in set(map(tuple, values))}
    if len(names) != 1:
        return None
    prompt, response, context, system = names.pop()
    if not prompt or not response or context or system:
        return None
    prompts, answers = list(map(itemgetter(prompt), values)), list(map(itemgetter(response), values))
    if set(map(type, prompts)) | set(map(type, answers)) != {str}:
        return None
    return pairs_draft(prompts, answers)


def _talk(value: dict[str, Json], fields: Fields) -> Talk | NoTalk:
    prompt, response, context, system = fields.names(tuple(value))
    try:
        for field, name in (("prompt", prompt), ("response", response)):
            if name is None:
                raise NoTalk("missing-field", fields.missing(field, value))
        opening = text_of(value, system)
        turns = [Turn("system", opening)] if opening and opening.strip() else []
        asked = _turns(value, prompt, "user")
        if (passage := text_of(value, context)) and passage.strip():
            asked[-1] = asked[-1]._replace(content=f"{asked[-1].content}\n{passage}")
        answers, rest = _answers(value, response)
        return Talk(turns + asked + answers, rest=rest)
    except NoTalk as refused:
        return refused


def _answers(value: dict[str, Json], name: str | None) -> tuple[list[Turn], dict[str, Json] | None]:
    """The answer; and all of them where there is a list, also as {"text": [...]} as in SQuAD."""
    given = value[name] if name is not None else None
    listed = given.get("text") if isinstance(given, dict) else given
    if isinstance(listed, list) and listed and all(isinstance(text, str) for text in listed):
        return [Turn("assistant", listed[0])], {"answers": given}
    if isinstance(listed, list) and not listed:
        raise NoTalk("no-answer", f"`{name}` is an empty list")
    return _turns(value, name, "assistant"), None


def _turns(value: dict[str, Json], name: str | None, role: str) -> list[Turn]:
    given = value[name] if name is not None else None
    if isinstance(given, str):
        return [Turn(role, given)]
    if isinstance(given, list):
        return turns_of(given)
    if given is None:
        raise NoTalk("no-answer" if role == "assistant" else "missing-field", f"`{name}` is null")
    raise NoTalk("wrong-type", f"`{name}` is of type {kind_of(given)}, not text or a list of messages")
