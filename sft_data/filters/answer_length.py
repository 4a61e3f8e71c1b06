"""Answers that are too short or too long."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import polars as pl
from pydantic import Field, model_validator

from sft_data.filters.answers import last_answer, only_calls_tools
from sft_data.stage import Outcome, Rule, StageConfig, reject

__all__ = ["AnswerLength"]


class AnswerLength(StageConfig):
    """Keep a conversation whose last answer has `min_chars` to `max_chars` characters.

    White space around the answer does not count. An answer that only calls tools has no length to judge and is kept.

    Why these defaults: 1 takes out answers that are empty, the only length that is wrong in itself (28 rows of Alpaca).
    Short answers are mostly right ones, labels, sums and translations: `min_chars: 20` takes 4,435 of Alpaca's 52,002
    rows (8.5 %), nearly all of them proper. Raise it where a model shall learn to talk at length. 20,000 characters
    are about 5,000 tokens of English and 13,000 of Chinese; an answer beyond that is a pasted document or a loop. The
    longest of Alpaca has 4,181.

    Example: `{kind: answer-length, min_chars: 20}`.
    """

    codes: ClassVar[Mapping[str, str]] = {
        "answer-too-short": "the last answer has fewer characters than `min_chars`",
        "answer-too-long": "the last answer has more characters than `max_chars`",
    }

    kind: Literal["answer-length"] = "answer-length"
    min_chars: int = Field(1, ge=0, description="shortest answer kept, in characters")
    max_chars: int = Field(20_000, ge=1, description="longest answer kept, in characters")

    @model_validator(mode="after")
    def _leaves_room(self) -> Self:
        if self.min_chars > self.max_chars:
            raise ValueError(f"min_chars {self.min_chars} is more than max_chars {self.max_chars}; nothing would stay")
        return self

    def apply(self, frame: pl.DataFrame) -> Outcome:
        length = last_answer().str.len_chars()
        judged = ~only_calls_tools()
        return reject(
            frame,
            [
                Rule(
                    "answer-too-short",
                    judged & (length < self.min_chars),
                    pl.format("{} < {} characters", length, pl.lit(self.min_chars)),
                ),
                Rule(
                    "answer-too-long",
                    judged & (length > self.max_chars),
                    pl.format("{} > {} characters", length, pl.lit(self.max_chars)),
                ),
            ],
        )
