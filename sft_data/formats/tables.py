"""Labelled tables: any columns become a prompt and a response through templates that stand in the pipeline.

Several templates may be given, as FLAN does; which one a row gets depends on its id and the seed alone. Data is put
into a template once and never read as one: a text that holds `{name}` stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b

from sft_data.formats.fields import Fields, kind_of
from sft_data.formats.turns import Draft, NoTalk, Talk, Turn, draft_of
from sft_data.sources.decode import dump
from sft_data.sources.rows import Json
from sft_data.sources.settings import PLACEHOLDER, Source, Template

__all__ = ["FIELDS", "columns_of", "convert", "convert_rows"]

FIELDS: dict[str, tuple[str, ...]] = {}


def convert(values: Sequence[dict[str, Json]], fields: Fields) -> Draft:
    """Without a pipeline's templates no row of a table is a conversation."""
    names = ", ".join(fields.known) or "none"
    return draft_of(NoTalk("missing-field", f"no template (fields of the format: {names})") for _ in values)


def convert_rows(values: Sequence[dict[str, Json]], ids: Sequence[str], source: Source) -> Draft:
    """A Draft of table rows. `ids` decide which template each gets."""
    return draft_of(
        _talk(value, _choice(identity, source), source) for value, identity in zip(values, ids, strict=True)
    )


def columns_of(source: Source) -> frozenset[str]:
    """Columns that some template uses: they are in the conversation, not in `extra`."""
    texts = (text for each in source.templates for text in (each.system, each.prompt, each.response) if text)
    return frozenset(match[1] for text in texts for match in PLACEHOLDER.finditer(text) if match[1])


def _choice(identity: str, source: Source) -> Template:
    """The template of a row: from its id and the seed, never from its place."""
    if len(source.templates) == 1:
        return source.templates[0]
    digest = blake2b(f"{source.seed}\0{identity}".encode(), digest_size=8).digest()
    return source.templates[int.from_bytes(digest, "big") % len(source.templates)]


def _talk(value: dict[str, Json], template: Template, source: Source) -> Talk | NoTalk:
    try:
        system = _filled(template.system, value, source.labels) if template.system else ""
        turns = [Turn("system", system)] if system.strip() else []
        prompt = _filled(template.prompt, value, source.labels)
        return Talk([*turns, Turn("user", prompt), Turn("assistant", _filled(template.response, value, source.labels))])
    except NoTalk as refused:
        return refused


def _filled(template: str, value: Mapping[str, Json], labels: Mapping[str, Mapping[str, str]]) -> str:
    def put(match: re.Match[str]) -> str:
        if match[0] in {"{{", "}}"}:
            return match[0][0]
        return _cell(match[1], value, labels)

    return PLACEHOLDER.sub(put, template)


def _cell(name: str, value: Mapping[str, Json], labels: Mapping[str, Mapping[str, str]]) -> str:
    if value.get(name) is None:
        problem = "is null" if name in value else "is not there"
        raise NoTalk("missing-field", f"column `{name}`, which the template needs, {problem}")
    cell = value[name]
    if isinstance(cell, dict | list):
        raise NoTalk("wrong-type", f"column `{name}` is of type {kind_of(cell)}; a template needs text or a number")
    text = cell if isinstance(cell, str) else dump(cell)
    if name not in labels:
        return text
    if text not in labels[name]:
        raise NoTalk("unknown-label", f"column `{name}` holds {text[:60]!r}; `labels` names {sorted(labels[name])[:8]}")
    return labels[name][text]
