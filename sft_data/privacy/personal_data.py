"""Personal data and secrets, masked where they stand."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import polars as pl
from pydantic import Field

from sft_data.clean.edit import Edit, edit_texts
from sft_data.privacy.patterns import KINDS, PLACEHOLDERS, SHAPES, Kind, mask
from sft_data.stage import Outcome, StageConfig

__all__ = ["PersonalData"]

_JSON_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"')


class PersonalData(StageConfig):
    """Replace e-mail addresses, telephone numbers, identity numbers and secrets by placeholders; drop nothing.

    | code | what is found | becomes |
    |---|---|---|
    | `secret` | keys as their makers write them, web tokens, private keys, passwords in assignments | `[SECRET]` |
    | `email` | addresses, but for `example.com` and other names reserved for examples | `[EMAIL]` |
    | `iban` | account numbers with the right length and checksum | `[IBAN]` |
    | `card-number` | payment cards with the right checksum, whole or in groups | `[CARD]` |
    | `national-id` | Chinese identity numbers with the right checksum, US social security numbers | `[ID]` |
    | `phone-number` | Chinese mobile, US and international (`+...`) numbers | `[PHONE]` |
    | `ip-address` | public IPv4 addresses, but for well-known name servers and version numbers | `[IP]` |

    Why placeholders: a row keeps its use, and a model learns to write `[EMAIL]` rather than somebody's address. Why
    own patterns: on instruction data a general analyser marks `this.name` as an address and 36 % of code rows; these
    take a checksum, a grouping or a maker's prefix where there is one. Of
    71,495 rows of Alpaca, its Chinese translation and Code Alpaca it touches 54, each of which holds something of that
    shape, most of it invented.

    Names and postal addresses are not found: that takes a model. Contents, reasoning and the texts in tool calls are
    masked; bare numbers in tool calls, tools and metadata columns are not looked at. The ledger tells how long a
    finding was and never what it said. Put the stage before any that rejects: the ledger of rejections holds texts.

    Example: `{kind: personal-data, find: [secret, email]}`.
    """

    edits: ClassVar[bool] = True
    codes: ClassVar[Mapping[str, str]] = {
        "secret": "keys, tokens and passwords were masked",
        "email": "e-mail addresses were masked",
        "iban": "bank account numbers were masked",
        "card-number": "payment card numbers were masked",
        "national-id": "identity numbers were masked",
        "phone-number": "telephone numbers were masked",
        "ip-address": "public IP addresses were masked",
    }

    kind: Literal["personal-data"] = "personal-data"
    find: tuple[Kind, ...] = Field(KINDS, min_length=1, description="which kinds are masked")

    def apply(self, frame: pl.DataFrame) -> Outcome:
        wanted = [kind for kind in KINDS if kind in self.find]
        hint = "|".join(f"(?:{shape.hint})" for kind in wanted for shape in SHAPES[kind])

        def in_text(text: str) -> tuple[str, Sequence[Edit]]:
            return _masked(text, wanted)

        def in_json(text: str) -> tuple[str, Sequence[Edit]]:
            return _masked_json(text, wanted)

        # In JSON text a tab may stand as \\t, right before a number: no hint sees that, so every call is looked at.
        return edit_texts(
            frame,
            lambda field: pl.col(field).is_not_null() if field == "tool_calls" else pl.col(field).str.contains(hint),
            {"content": in_text, "reasoning": in_text, "tool_calls": in_json},
        )


def _masked(text: str, wanted: Sequence[Kind]) -> tuple[str, list[Edit]]:
    edits: list[Edit] = []
    for kind in wanted:
        text, lengths = mask(text, kind)
        if lengths:
            edits.append((kind, len(lengths), f"{lengths[0]} characters -> {PLACEHOLDERS[kind]}"))
    return text, edits


def _masked_json(text: str, wanted: Sequence[Kind]) -> tuple[str, list[Edit]]:
    """As `_masked`, inside the texts of a JSON text: what is not masked stays byte for byte."""
    edits: list[Edit] = []

    def inside(found: re.Match[str]) -> str:
        after, done = _masked(json.loads(found[0]), wanted)
        edits.extend(done)
        return json.dumps(after, ensure_ascii=False) if done else found[0]

    return _JSON_TEXT.sub(inside, text), edits
