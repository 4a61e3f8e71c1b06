"""Answers that run on into the next prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import polars as pl

from sft_data.filters.answers import answers
from sft_data.stage import Outcome, Rule, StageConfig, reject

__all__ = ["RunOn"]

_NEXT_PROMPT = (
    r"(?im)(?:^|\s)\d{1,3}\s*[.、]\s*(?:instruction|input|output|指令|指示|输入|输出)\s*[:：]"
    r"|^#{1,4}\s*(?:instruction|input|response|指令|输入|回答)\s*[:：]"
    r"|^(?:<\|im_start\|>(?:user|assistant|system)|\[INST\]|<\|user\|>|<\|assistant\|>)"
)


class RunOn(StageConfig):
    """Drop conversations in which an answer goes on with the next prompt of the list that it was made from.

    It looks for a numbered `18. Instruction:` (or input, output; `指令`, `输入`, `输出`), for `### Instruction:` and
    for chat markup at the start of a line, in any answer.

    Why: data made by asking a model for twenty tasks at once is cut at the wrong place now and then: "The sky is blue
    because ... 16. Input: <noinput> 16. Output: Yes". A model that learns it never stops. It takes 37 of Alpaca's
    52,002 rows and 10 of 17,476 of its Chinese translation; all of them were read and are such.

    Example: `{kind: run-on}`.
    """

    codes: ClassVar[Mapping[str, str]] = {"run-on": "an answer runs on into another prompt"}

    kind: Literal["run-on"] = "run-on"

    def apply(self, frame: pl.DataFrame) -> Outcome:
        begins = pl.element().struct.field("content").str.extract(f"({_NEXT_PROMPT})")
        found = answers().list.eval(begins).list.drop_nulls().list.first()
        return reject(frame, [Rule("run-on", found.is_not_null(), pl.format("“{}”", found.str.strip_chars()))])
