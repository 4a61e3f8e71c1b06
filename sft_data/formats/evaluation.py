"""Evaluation sets: questions without chat answers, such as HumanEval and MT-Bench.

A pipeline that names one among its sources gets no training rows from it: its place is under `decontaminate`.
"""

from __future__ import annotations

from collections.abc import Sequence

from sft_data.formats.fields import Fields
from sft_data.formats.turns import Draft, NoTalk, draft_of
from sft_data.sources.rows import Json

__all__ = ["FIELDS", "convert", "looks_like_evaluation"]

FIELDS: dict[str, tuple[str, ...]] = {
    "question": ("turns", "prompt", "question", "problem", "instruction"),
}
_WHERE = "a question in `{}` of an evaluation set; name its file under `decontaminate`, not under `sources`"
# Columns that only evaluation sets have.
_SIGNS = frozenset({"canonical_solution", "entry_point", "question_id", "task_id", "test", "choices", "test_list"})


def convert(values: Sequence[dict[str, Json]], fields: Fields) -> Draft:
    """Every row is refused: an evaluation set is no training data."""
    return draft_of(NoTalk("evaluation-row", _WHERE.format(fields.names(tuple(value))[0])) for value in values)


def looks_like_evaluation(value: dict[str, Json], fields: Fields) -> bool:
    """A question (a text or a list of texts) and a column that only evaluation sets have."""
    name = fields.names(tuple(value))[0]
    return name is not None and _text(value[name]) is not None and not _SIGNS.isdisjoint(value)


def _text(given: Json) -> str | None:
    if isinstance(given, list) and given and all(isinstance(text, str) for text in given):
        return "\n".join(given)
    return given if isinstance(given, str) else None
