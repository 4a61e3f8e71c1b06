"""Alpaca: `instruction`, `input`, `output`, and what its relatives add: `system`, `history`.

The prompt is the instruction, and where the input holds text, a line feed and the input. Placeholder inputs such as
`<noinput>` stay: removing them is a cleaning stage's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

from sft_data.formats.fields import Fields, list_of, text_of
from sft_data.formats.turns import Draft, NoTalk, Talk, Turn, draft_of, pairs_draft, texts_draft
from sft_data.sources.columns import Texts
from sft_data.sources.rows import Json

__all__ = ["FIELDS", "convert", "convert_texts"]

# Field -> the names under which data sets hold it, the usual one first.
FIELDS: dict[str, tuple[str, ...]] = {
    "instruction": ("instruction",),
    "input": ("input", "context"),
    "output": ("output", "response", "completion", "answer", "target"),
    "system": ("system", "system_prompt"),
    "history": ("history",),
}


def convert(values: Sequence[dict[str, Json]], fields: Fields) -> Draft:
    """A Draft of alpaca rows: whole columns where all rows are plain, row by row otherwise."""
    draft = _plain(values, fields)
    return draft if draft is not None else draft_of(_talk(value, fields) for value in values)


def convert_texts(texts: Texts, fields: Fields) -> Draft | None:
    """The same of rows that came as columns of texts; None where they need a look row by row."""
    instruction, given, output, system, history = fields.names(texts.names)
    if not instruction or not output or system or history:
        return None
    return texts_draft(texts, instruction, given, output)


def _plain(values: Sequence[dict[str, Json]], fields: Fields) -> Draft | None:
    """Rows that all hold an instruction, an input and an output, all of them text, and no system or history."""
    shapes = set(map(tuple, values))
    names = {fields.names(shape) for shape in shapes}
    if len(names) != 1:
        return None
    instruction, given, output, system, history = names.pop()
    if not instruction or not output or system or history:
        return None  # row by row
    prompts, answers = list(map(itemgetter(instruction), values)), list(map(itemgetter(output), values))
    inputs = list(map(itemgetter(given), values)) if given else []
    if set(map(type, prompts)) | set(map(type, answers)) | set(map(type, inputs)) != {str}:
        return None
    if given:
        prompts = [_prompt(*pair) if pair[1] else pair[0] for pair in zip(prompts, inputs, strict=True)]
    return pairs_draft(prompts, answers)


def _prompt(instruction: str, given: str) -> str:
    if not given or given.isspace():
        return instruction
    return f"{instruction}\n{given}" if instruction else given


def _talk(value: dict[str, Json], fields: Fields) -> Talk | NoTalk:
    instruction, given, output, system, history = fields.names(tuple(value))
    try:
        if not instruction and given != fields.given.get("input", "input"):  # Firefly has `input` and `target`
            raise NoTalk("missing-field", fields.missing("instruction", value))
        if not output:
            raise NoTalk("missing-field", fields.missing("output", value))
        prompt = _prompt(text_of(value, instruction) or "", text_of(value, given) or "")
        answer = text_of(value, output)
        if answer is None:
            raise NoTalk("no-answer", f"`{output}` is null")
        turns = _opening(text_of(value, system)) + _past(value.get(history) if history else None)
        return Talk([*turns, Turn("user", prompt), Turn("assistant", answer)])
    except NoTalk as refused:
        return refused


def _opening(system: str | None) -> list[Turn]:
    return [Turn("system", system)] if system and system.strip() else []


def _past(history: Json) -> list[Turn]:
    """Earlier turns: a list of pairs of question and answer."""
    if history is None:
        return []
    turns = []
    for number, pair in enumerate(list_of(history, "history"), 1):
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise NoTalk("wrong-type", f"`history` entry {number} is not a pair of texts")
        turns += [Turn("user", pair[0]), Turn("assistant", pair[1])]
    return turns
