"""A number for each row that a selection or a curriculum goes by: measured, an annotation, or given by the data."""

from __future__ import annotations

import re
from collections.abc import Callable

import orjson
import polars as pl

from sft_data.errors import ConfigError
from sft_data.schema import CONVERSATIONS

__all__ = ["MEASURES", "SCORED_BY", "column_of", "no_numbers", "scores"]

SCORED_BY = (
    "what rows are ordered by: answer-characters, prompt-characters or answers (measured), a column such as lang_score "
    "or difficulty, or extra.NAME, a number among the row's other columns (extra.rating.value: inside of another)"
)

_EXTRA = "extra."
# What stands where a number should stand is quoted up to so many characters.
_QUOTED = 40
_NOTHING = "(nothing)"
_NULL = pl.lit(None, dtype=pl.String)


def _characters(role: str) -> pl.Expr:
    turn = pl.element().struct
    said = pl.when(turn.field("role") == role).then(turn.field("content").str.len_chars().cast(pl.Int64))
    return pl.col("messages").list.eval(said).list.sum()


def _answers() -> pl.Expr:
    return pl.col("messages").list.eval(pl.element().struct.field("role") == "assistant").list.sum()


MEASURES: dict[str, Callable[[], pl.Expr]] = {
    "answer-characters": lambda: _characters("assistant"),
    "prompt-characters": lambda: _characters("user"),
    "answers": _answers,
}


def column_of(by: str) -> str | None:
    """The column that `by` names, where it names one: measures and extra.NAME need none but those of every row."""
    return None if by in MEASURES or (by.startswith(_EXTRA) and by != _EXTRA) else by


def scores(frame: pl.DataFrame, by: str, where: str) -> pl.DataFrame:
    """Columns `score` (Float64; null where there is no finite number), `odd` (what stands there instead of one) and
    `keys`, for `no_numbers` alone: on the first row the other columns that the frame's first rows have.

    Numbers written as text count as numbers. Raises ConfigError, saying what there is, where no row can have a score.

    >>> frame = pl.DataFrame({"extra": ['{"rating": "4.5"}', '{"rating": "good"}', None]})
    >>> scores(frame, "extra.rating", "select").select("score", "odd").rows()
    [(4.5, None), (None, 'good'), (None, '(nothing)')]
    """
    if by in MEASURES:
        return frame.select(score=MEASURES[by]().cast(pl.Float64), odd=_NULL, keys=_NULL)
    given = _given(frame, by, where)
    number = frame.select(given.cast(pl.Float64, strict=False)).to_series()
    finite = pl.when(pl.col("score").is_finite()).then(pl.col("score"))
    told = given.cast(pl.String).str.slice(0, _QUOTED).fill_null(_NOTHING)
    found = frame.select(odd=told).with_columns(score=number).select(score=finite, odd="odd")
    keys = pl.lit(_keys(frame)) if by.startswith(_EXTRA) else _NULL
    return found.with_columns(
        odd=pl.when(pl.col("score").is_null()).then("odd"), keys=pl.when(pl.int_range(pl.len()) == 0).then(keys)
    )


def no_numbers(by: str, found: pl.DataFrame, where: str) -> ConfigError:
    """What to say where not a single row has a score; `found` are the columns of `scores`."""
    seen = found["odd"].drop_nulls().unique(maintain_order=True).to_list()
    told = [odd for odd in seen if odd != _NOTHING][:3] or [*found["keys"].drop_nulls().head(1)] or [_NOTHING]
    always = ", ".join(MEASURES)
    problem = f"by: no row has a number in `{by}`; found {', '.join(told)}; there are always {always}"
    return ConfigError(where, [problem])


def _given(frame: pl.DataFrame, by: str, where: str) -> pl.Expr:
    if by.startswith(_EXTRA) and by != _EXTRA:
        path = "".join(f"[{_quoted(part)}]" for part in by.removeprefix(_EXTRA).split("."))
        return pl.col("extra").str.json_path_match(f"${path}")
    kind = frame.schema.get(by)
    if kind is None or not (kind.is_numeric() or kind in (pl.String(), pl.Boolean()) or by in CONVERSATIONS):
        what = "no such column" if kind is None else f"of type {kind}, no numbers"
        raise ConfigError(where, [f"by: `{by}` is {what}; there are {', '.join(_there(frame))}, or extra.NAME"])
    if kind.is_nested():
        raise ConfigError(where, [f"by: `{by}` holds no numbers; there are {', '.join(_there(frame))}, or extra.NAME"])
    return pl.col(by)


def _quoted(part: str) -> str:
    """A key of a JSON path. The path language has no way to write these characters."""
    if re.search(r"['\"\\]", part):
        raise ConfigError("by", [f"{part!r}: a key with quotes or backslashes cannot be named"])
    return f"'{part}'"


def _there(frame: pl.DataFrame) -> list[str]:
    """Names that `by` could be: measures, numbers, and the texts that may be numbers."""
    numbers = [name for name, kind in frame.schema.items() if kind.is_numeric()]
    return [*MEASURES, *numbers, *(name for name in ("category", "difficulty") if name in frame.columns)]


def _keys(frame: pl.DataFrame) -> str:
    """Keys that the first rows with other columns have."""
    names: dict[str, None] = {}
    for text in frame["extra"].drop_nulls().head(100):
        value = orjson.loads(text)
        names |= dict.fromkeys(value if isinstance(value, dict) else {})
    return f"only {', '.join(list(names)[:10])} in extra" if names else "no other columns at all (extra is empty)"
