"""Pages about the stages, made from the stages: docstring, settings and codes are written once, in the class."""

from __future__ import annotations

import difflib
import inspect
from typing import Any

from pydantic import BaseModel, ConfigDict

from sft_data.errors import ConfigError
from sft_data.formats import ingest
from sft_data.pipeline import STAGES
from sft_data.split import Split
from sft_data.stage import StageConfig
from sft_data.tokenize.stage import Tokenize

__all__ = ["Page", "Setting", "all_codes", "find_page", "pages"]


class Setting(BaseModel):
    """One setting of a stage."""

    model_config = ConfigDict(frozen=True)

    name: str
    default: Any
    description: str


class Page(BaseModel):
    """What a person must know of a stage."""

    model_config = ConfigDict(frozen=True)

    kind: str
    scope: str
    summary: str
    text: str
    settings: list[Setting]
    codes: dict[str, str]
    needs: list[str]
    adds: list[str]


def pages() -> list[Page]:
    """All stages: those of the list `stages` in a pipeline, then the fixed sections."""
    everything: dict[str, type[StageConfig]] = {**STAGES, "split": Split, "tokenize": Tokenize}
    return [_page(kind, stage) for kind, stage in everything.items()]


def find_page(kind: str) -> Page:
    """The page of one stage."""
    found = {page.kind: page for page in pages()}
    if kind not in found:
        near = difflib.get_close_matches(kind, found, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "there are " + ", ".join(found)
        raise ConfigError(f"stage {kind!r}", [f"there is no such stage; {hint}"])
    return found[kind]


def all_codes() -> dict[str, str]:
    """Code -> meaning, of reading and of every stage."""
    codes = dict(ingest.CODES)
    for page in pages():
        codes |= page.codes
    return codes


def _page(kind: str, stage: type[StageConfig]) -> Page:
    text = inspect.cleandoc(stage.__doc__ or "")
    return Page(
        kind=kind,
        scope=stage.scope,
        summary=" ".join(text.split("\n\n")[0].split()),
        text=text,
        settings=[
            Setting(
                name=name,
                default=None if field.is_required() else field.get_default(call_default_factory=True),
                description=field.description or "",
            )
            for name, field in stage.model_fields.items()
            if name != "kind"
        ],
        codes=dict(stage.codes),
        needs=list(stage.needs),
        adds=list(stage.adds),
    )
