"""How many turns a conversation has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import polars as pl
from pydantic import Field, model_validator

from sft_data.filters.answers import answers
from sft_data.stage import Outcome, Rule, StageConfig, reject

__all__ = ["Turns"]


class Turns(StageConfig):
    """Keep conversations with `min_answers` to `max_answers` answers of the assistant.

    Why: a set for multi-turn training wants `min_answers: 2`. Conversations with hundreds of turns are mostly loops or
    logs; 100 is more than any of the chat sets that this project was tried on, so that by default nothing is lost.
    Answers that only call tools count, too.

    Example: `{kind: turns, min_answers: 2}`.
    """

    codes: ClassVar[Mapping[str, str]] = {
        "too-few-turns": "the assistant answers less often than `min_answers`",
        "too-many-turns": "the assistant answers more often than `max_answers`",
    }

    kind: Literal["turns"] = "turns"
    min_answers: int = Field(1, ge=0, description="fewest answers of the assistant")
    max_answers: int = Field(100, ge=1, description="most answers of the assistant")

    @model_validator(mode="after")
    def _leaves_room(self) -> Self:
        if self.min_answers > self.max_answers:
            raise ValueError(f"min_answers {self.min_answers} is more than max_answers {self.max_answers}")
        return self

    def apply(self, frame: pl.DataFrame) -> Outcome:
        number = answers().list.len()
        few, many = pl.lit(self.min_answers), pl.lit(self.max_answers)
        return reject(
            frame,
            [
                Rule("too-few-turns", number < few, pl.format("{} < {} answers", number, few)),
                Rule("too-many-turns", number > many, pl.format("{} > {} answers", number, many)),
            ],
        )
