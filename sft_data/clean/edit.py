"""Changing texts inside conversations: a vectorised look finds the few that may need it, a function mends those."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import polars as pl

from sft_data.schema import EDITS, MESSAGE
from sft_data.stage import Outcome

__all__ = ["Edit", "edit_texts"]

Edit = tuple[str, int, str]  # code, number of places, a short before -> after
Mender = Callable[[str], tuple[str, Sequence[Edit]]]  # text -> new text, and what was done


def edit_texts(frame: pl.DataFrame, suspect: Callable[[str], pl.Expr], menders: Mapping[str, Mender]) -> Outcome:
    """The frame with texts mended, and the ledger: one entry per row and code.

    `menders` are by field of a message; `suspect` gives, for a field, an expression that is true for every text that
    its mender would change. Rows without a suspect text cost one look and are not touched.
    """
    turns = _turns(frame)
    mended: list[tuple[int, int, str, str]] = []
    ledger: list[tuple[int, str, int, str]] = []
    for field, mend in menders.items():
        for row, turn, text in turns.filter(suspect(field)).select("row", "turn", field).iter_rows():
            after, edits = mend(text)
            if edits:
                mended.append((row, turn, field, after))
                ledger += [(row, *edit) for edit in edits]
    if not mended:
        return Outcome(frame)
    return Outcome(_with_texts(frame, turns, mended), edited=_ledger(frame, ledger))


def _turns(frame: pl.DataFrame) -> pl.DataFrame:
    """One row per turn: the row's number, the turn's number, the turn's fields."""
    exploded = frame.select(row=pl.int_range(pl.len(), dtype=pl.Int64), messages=pl.col("messages")).explode("messages")
    return exploded.unnest("messages").with_columns(turn=pl.int_range(pl.len(), dtype=pl.Int64))


def _with_texts(frame: pl.DataFrame, turns: pl.DataFrame, mended: Sequence[tuple[int, int, str, str]]) -> pl.DataFrame:
    """`frame` with new texts in some turns."""
    new = pl.DataFrame(
        mended, schema={"row": pl.Int64, "turn": pl.Int64, "field": pl.String, "text": pl.String}, orient="row"
    )
    told = turns.filter(pl.col("row").is_in(new["row"].unique().implode()))
    for field in new["field"].unique().sort():
        texts = new.filter(pl.col("field") == field).select("turn", "text")
        told = told.join(texts, on="turn", how="left", maintain_order="left")
        told = told.with_columns(pl.coalesce("text", field).alias(field)).drop("text")
    rows = told.group_by("row", maintain_order=True).agg(mended=pl.struct(*MESSAGE.to_schema()))
    numbered = frame.with_columns(row=pl.int_range(pl.len(), dtype=pl.Int64))
    joined = numbered.join(rows, on="row", how="left", maintain_order="left")
    return joined.with_columns(messages=pl.coalesce("mended", "messages")).select(frame.columns)


def _ledger(frame: pl.DataFrame, entries: Sequence[tuple[int, str, int, str]]) -> pl.DataFrame:
    """One entry per row and code, in row order."""
    told = pl.DataFrame(
        entries, schema={"row": pl.Int64, "code": pl.String, "count": pl.Int64, "detail": pl.String}, orient="row"
    )
    whole = (
        told.group_by("row", "code", maintain_order=True)
        .agg(pl.col("count").sum(), pl.col("detail").first())
        .sort("row", maintain_order=True)
    )
    named = whole.with_columns(frame["id"].gather(whole["row"]))
    return named.select(*(name for name in EDITS if name in named.columns))
