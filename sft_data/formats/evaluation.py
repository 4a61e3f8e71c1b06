"""Evaluation sets: questions without chat answers, such as HumanEval and MT-Bench.

They are read so that training data can be cleaned of them, and never become training rows themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from sft_data.formats.fields import Fields
from sft_data.formats.turns import Draft, NoTalk, draft_of
from sft_data.sources.files import find_files
from sft_data.sources.rows import Json
from sft_data.sources.settings import Source
from sft_data.sources.units import read_rows, units

__all__ = ["FIELDS", "convert", "looks_like_evaluation", "questions"]

FIELDS: dict[str, tuple[str, ...]] = {
    "question": ("turns", "prompt", "question", "problem", "instruction"),
    "answer": ("canonical_solution", "reference", "answer", "solution", "output"),
}
# Columns that only evaluation sets have.
_SIGNS = frozenset({"canonical_solution", "entry_point", "question_id", "task_id", "test", "choices", "test_list"})


def convert(values: Sequence[dict[str, Json]], fields: Fields) -> Draft:
    """Every row is refused: an evaluation set is no training data."""
    detail = f"{', '.join(fields.known)}: decontamination reads them"
    return draft_of(NoTalk("evaluation-row", detail) for _ in values)


def looks_like_evaluation(value: dict[str, Json], fields: Fields) -> bool:
    """A question (a text or a list of texts) and a column that only evaluation sets have."""
    name = fields.names(tuple(value))[0]
    return name is not None and _text(value[name]) is not None and not _SIGNS.isdisjoint(value)


def questions(path: str, base: Path | None = None) -> pl.DataFrame:
    """Columns `id`, `question`, `answer` of an evaluation set; turns are joined by line feeds. A missing text is null.

    A file of conversations is one as well: every format that holds a question under a usual name is read.
    """
    source = Source(name="evaluation", path=path)
    fields = Fields(FIELDS, {})
    found: list[tuple[str, str | None, str | None]] = []
    for unit in units(source, find_files(source, base)):
        for rows in read_rows(unit, source):
            for number, value in zip(rows.number.tolist(), rows.values, strict=True):
                if isinstance(value, dict):
                    names = fields.names(tuple(value))
                    texts = [_text(value[name]) if name is not None else None for name in names]
                    found.append((f"{unit.name}:{number}", texts[0], texts[1]))
    schema = {"id": pl.String, "question": pl.String, "answer": pl.String}
    return pl.DataFrame(found, schema=schema, orient="row")


def _text(given: Json) -> str | None:
    if isinstance(given, list) and given and all(isinstance(text, str) for text in given):
        return "\n".join(given)
    return given if isinstance(given, str) else None
