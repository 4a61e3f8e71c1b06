"""What the making of a dataset left in its texts."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Literal

import polars as pl

from sft_data.clean.edit import Edit, edit_texts
from sft_data.stage import Outcome, StageConfig

__all__ = ["CalculatorMarks", "PlaceholderInput"]

# A last line that only says that there is no input.
_NO_INPUT = re.compile(
    r"(?i)\n[ \t]*(?:[<\[(]?no[ -]?input(?: (?:required|needed|provided|necessary))?[>\])]?|n/a|"
    r"<无输入>|无需?输入|没有输入|不需要输入)"
    r"[.。]?\s*\Z"
)
_CALCULATION = re.compile(r"<<[^<>\n]{1,80}=[^<>\n]{1,40}>>")


class PlaceholderInput(StageConfig):
    """Take a last line such as `<noinput>`, `No input` or `无输入` out of prompts; drop nothing.

    Why: where Alpaca's makers had no input, 616 of 52,002 prompts end with such a line, and a model learns that prompts
    end like this. Only a line of its own at the end of a user's turn goes, and only where something stands before it.

    Example: `{kind: placeholder-input}`.
    """

    edits: ClassVar[bool] = True
    codes: ClassVar[Mapping[str, str]] = {"placeholder-input": "a line that says that there is no input was taken out"}

    kind: Literal["placeholder-input"] = "placeholder-input"

    def apply(self, frame: pl.DataFrame) -> Outcome:
        hint = _NO_INPUT.pattern.replace(r"\Z", r"\z")

        def suspect(field: str) -> pl.Expr:
            return (pl.col("role") == "user") & pl.col(field).str.contains(hint)

        return edit_texts(frame, suspect, {"content": _taking_out(_NO_INPUT, "placeholder-input", needs_rest=True)})


class CalculatorMarks(StageConfig):
    """Take calculator marks such as `<<48/2=24>>` out of answers; drop nothing.

    Why: GSM8K writes them for a calculator to run: 7,378 of 7,473 answers have some. A model that trains on them as
    text writes them to people. The result stands behind each mark anyway: `48/2 = <<48/2=24>>24`.

    Example: `{kind: calculator-marks}`.
    """

    edits: ClassVar[bool] = True
    codes: ClassVar[Mapping[str, str]] = {"calculator-mark": "marks for a calculator were taken out"}

    kind: Literal["calculator-marks"] = "calculator-marks"

    def apply(self, frame: pl.DataFrame) -> Outcome:
        def suspect(field: str) -> pl.Expr:
            return (pl.col("role") == "assistant") & pl.col(field).str.contains(_CALCULATION.pattern)

        mend = _taking_out(_CALCULATION, "calculator-mark")
        return edit_texts(frame, suspect, {"content": mend, "reasoning": mend})


def _taking_out(
    pattern: re.Pattern[str], code: str, *, needs_rest: bool = False
) -> Callable[[str], tuple[str, Sequence[Edit]]]:
    """A function that takes everything out that `pattern` finds, again and again; with `needs_rest` never all."""

    def mend(text: str) -> tuple[str, Sequence[Edit]]:
        places, first = 0, ""
        while True:
            after, number = pattern.subn("", text)
            if not number or (needs_rest and not after.strip()):
                return text, [(code, places, first)] if places else []
            found = pattern.search(text)
            first = first or (" ".join(found[0].split()) if found else "")
            text, places = after, places + number

    return mend
