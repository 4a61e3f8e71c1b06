"""Texts that were damaged beyond repair, and answers that fell into a loop."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import ClassVar, Literal

import polars as pl
from pydantic import Field

from sft_data.filters.answers import answers
from sft_data.stage import Outcome, Rule, StageConfig, reject

__all__ = ["Garbled"]

_STACKED = r"(\p{M}{5,})"  # Thai, Hebrew and Indic letters carry four marks at most


class Garbled(StageConfig):
    """Drop conversations with damaged text, or with an answer that says the same over and over.

    | code | what it looks at |
    |---|---|
    | `replacement-characters` | more than `max_replacement` of a turn's characters are U+FFFD: they are lost for good |
    | `stacked-marks` | five or more combining marks in a row, as in Z̴̧a̵l̶g̷o̸ text |
    | `repetition` | an answer of `min_bytes` or more that zlib packs to less than `min_ratio` of its length |

    Why these limits: in Alpaca's 52,002 rows prose packs to 0.5, code and tables to 0.2, and nothing to less than 0.12;
    loops ("and the and the and the ...") pack to 0.02. Rules for web pages, which count repeated lines and pairs of
    words, drop half of all good short answers. Below `min_bytes` a list or a table may repeat itself by right.

    Example: `{kind: garbled, min_ratio: 0.15}`.
    """

    codes: ClassVar[Mapping[str, str]] = {
        "replacement-characters": "a turn holds too many U+FFFD, which stand for lost characters",
        "stacked-marks": "a turn holds piles of combining marks",
        "repetition": "an answer says the same over and over",
    }

    kind: Literal["garbled"] = "garbled"
    max_replacement: float = Field(0.01, ge=0, le=1, description="largest share of U+FFFD in a turn's characters")
    min_ratio: float = Field(0.1, ge=0, le=1, description="smallest share to which zlib may pack an answer")
    min_bytes: int = Field(600, ge=1, description="shorter answers are not judged for repetition, in UTF-8 bytes")

    def apply(self, frame: pl.DataFrame) -> Outcome:
        texts = pl.col("messages").list.eval(pl.element().struct.field("content"))
        lost = texts.list.eval(
            pl.element().str.count_matches("\ufffd", literal=True) / pl.element().str.len_chars()
        ).list.max()
        stacked = texts.list.eval(pl.element().str.extract(_STACKED)).list.drop_nulls().list.first()
        outcome = reject(
            frame.with_columns(ratio=self._ratios(frame)),
            [
                Rule("replacement-characters", lost > self.max_replacement, pl.format("{} of a turn", lost.round(4))),
                Rule("stacked-marks", stacked.is_not_null(), pl.format("{} marks in a row", stacked.str.len_chars())),
                Rule(
                    "repetition",
                    pl.col("ratio") < self.min_ratio,
                    pl.format("packs to {} < {}", pl.col("ratio").round(4), pl.lit(self.min_ratio)),
                ),
            ],
        )
        return Outcome(outcome.kept.drop("ratio"), outcome.rejected)

    def _ratios(self, frame: pl.DataFrame) -> pl.Series:
        """How far the most repetitive long answer of each row packs; null where there is none."""
        long = (
            answers()
            .list.eval(pl.element().struct.field("content"))
            .list.filter(pl.element().str.len_bytes() >= self.min_bytes)
        )
        told = frame.select(row=pl.int_range(pl.len(), dtype=pl.Int64), text=long).explode("text", empty_as_null=False)
        packed = [len(zlib.compress(raw := text.encode(), 6)) / len(raw) for text in told["text"]]
        lowest = told.select("row", pl.Series("ratio", packed, dtype=pl.Float64)).group_by("row").min()
        rows = pl.DataFrame({"row": pl.int_range(frame.height, dtype=pl.Int64, eager=True)})
        return rows.join(lowest, on="row", how="left", maintain_order="left")["ratio"]
