"""HTML entities that a web service left in plain text."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import polars as pl

from sft_data.clean.edit import Edit, edit_texts
from sft_data.stage import Outcome, StageConfig

__all__ = ["HtmlEntities"]

# Those that services write for plain text, with their semicolon: `?a=1&para=2` holds none.
_ENTITY = re.compile(r"&(?:amp|lt|gt|quot|apos|nbsp|hellip|mdash|ndash|[lr][sd]quo|#\d{2,6}|#[xX][0-9A-Fa-f]{2,5});")
_MARKUP = r"(?i)html|xml|svg|javascript|\bjs\b|entit(?:y|ies)|escap|转义|实体|标签|网页"


class HtmlEntities(StageConfig):
    """Write `&quot;`, `&#39;`, `&lt;` and the like as the characters that they stand for; drop nothing.

    Why: translation services answer in HTML, so machine-translated data says `it&#39;s` and `&lt;noinput&gt;`: it edits
    142 of 17,476 rows of a Chinese Alpaca. Only entities with their semicolon count, since `?a=1&para=2` is an address.

    Conversations that speak of HTML, XML, scripts or escaping are left alone: there `&lt;` may be the answer. Put it
    before stages that look for `<noinput>` and before duplicate removal.

    Example: `{kind: html-entities}`.
    """

    edits: ClassVar[bool] = True
    codes: ClassVar[Mapping[str, str]] = {"html-entity": "HTML entities became the characters that they stand for"}

    kind: Literal["html-entities"] = "html-entities"

    def apply(self, frame: pl.DataFrame) -> Outcome:
        speaks_of_markup = pl.col("content").str.contains(_MARKUP).any().over("row")

        def suspect(field: str) -> pl.Expr:
            return pl.col(field).str.contains(_ENTITY.pattern) & ~speaks_of_markup

        return edit_texts(frame, suspect, {"content": _plain, "reasoning": _plain})


def _plain(text: str) -> tuple[str, Sequence[Edit]]:
    """The text without entities; what an entity of an entity stands for, too: `&amp;quot;`."""
    places, first = 0, ""
    while found := _ENTITY.findall(text):
        after = _ENTITY.sub(_character, text)
        if after == text:
            break
        places, first = places + len(found), first or f"{found[0]} -> {html.unescape(found[0])}"
        text = after
    return text, [("html-entity", places, first)] if places else []


def _character(found: re.Match[str]) -> str:
    """The character; an entity for a control character stays as it is."""
    character = html.unescape(found[0])
    return character if character.isprintable() or character == "\u00a0" else found[0]
