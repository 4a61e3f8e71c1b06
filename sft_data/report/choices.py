"""What settings chose, and what each choice cost in rows or tokens: from the pipeline and the ledgers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from sft_data.chat.template import template_text
from sft_data.pack.plan import pack_settings
from sft_data.report.charts import number, percent
from sft_data.report.model import Choice
from sft_data.store.layout import scan_table
from sft_data.store.manifest import Manifest
from sft_data.tokenize.tokenizer import TEKKEN_TEMPLATE

__all__ = ["order_choices", "selection_choices", "token_choices"]

_LEARNT = {
    "assistant": "the assistant's turns with their stop tokens",
    "last-answer": "the last answer with its stop token",
    "all": "every token",
}
_SAMPLES = {
    "conversation": "one for each conversation",
    "turn": "one for each trained turn, as the template shows it to a model that answers",
    "turn-where-needed": "one for each trained turn where the template shows earlier turns otherwise later on",
}
_TOO_LONG = {
    "reject": "rejected",
    "split": "split before questions",
    "cut-turns": "cut behind the last answer that fits",
    "cut-answer": "cut, the stop token kept",
}


def token_choices(folder: Path, manifest: Manifest) -> list[Choice]:
    """Template, what is learnt, samples, long rows; empty without tokens."""
    settings = manifest.pipeline.get("tokenize")
    if not isinstance(settings, dict):
        return []
    costs = _costs(folder)
    return [
        Choice(name="Chat template", told=_template(settings, costs, manifest)),
        Choice(name="Learnt", told=_learnt(settings)),
        Choice(name="Samples", told=_samples(settings, costs, manifest.counts.tokens)),
        Choice(
            name=f"Rows over {number(settings.get('max_length', 2048))} tokens", told=_long(settings, costs, manifest)
        ),
    ]


def selection_choices(manifest: Manifest) -> list[Choice]:
    """What each `select` went by, its budget, and how many rows it took."""
    return [
        Choice(name="Selection", told=_selection(step.settings, step.rows_kept, step.rows_in))
        for step in manifest.steps
        if step.kind == "select"
    ]


def _selection(settings: Mapping[str, Any], kept: int, arrived: int) -> str:
    measure = str(settings.get("measure", "rows")).replace("-", " ")
    budget, share = settings.get("budget"), settings.get("share")
    room = f"{number(budget)} {measure}" if budget is not None else f"{percent(float(share or 0))} of the {measure}"
    how = f"{settings.get('method', 'score')} by {settings.get('by')}, {settings.get('best', 'highest')} first"
    floors = ", ".join(f"{group} {number(least)}" for group, least in (settings.get("floors") or {}).items())
    return f"{number(kept)} of {number(arrived)} rows in a budget of {room}: {how}" + (
        f"; at least {floors}" if floors else ""
    )


def order_choices(manifest: Manifest) -> list[Choice]:
    """The curriculum, where there is one."""
    packing = pack_settings(manifest.pipeline, None)
    if packing is None or packing.order is None:
        return []
    order = packing.order
    told = f"training packs by {order.by}, {order.first} first, packed {number(order.window)} rows at a time"
    return [Choice(name="Curriculum", told=told)]


def _costs(folder: Path) -> dict[str, tuple[int, int]]:
    """Code of an edit -> rows, and the sum of its counts."""
    table = scan_table(folder, "edits").filter(pl.col("stage") == "tokenize")
    found = table.group_by("code").agg(pl.len(), pl.col("count").sum()).collect()
    return {code: (rows, total) for code, rows, total in found.iter_rows()}


def _template(settings: Mapping[str, Any], costs: Mapping[str, tuple[int, int]], manifest: Manifest) -> str:
    told = settings.get("template") or _unnamed(manifest)
    if "earlier-reasoning" not in costs:
        return told
    rows, tokens = costs["earlier-reasoning"]
    return f"{told}; it shows the reasoning of turns before the last: {number(tokens)} tokens in {number(rows)} rows"


def _unnamed(manifest: Manifest) -> str:
    """The template where the pipeline names none: a tekken folder brings none, and is written with a named one."""
    text = template_text(TEKKEN_TEMPLATE)
    used = manifest.tokenizer.template_sha256 if manifest.tokenizer else None
    if text is not None and used == hashlib.sha256(text.encode()).hexdigest():
        return TEKKEN_TEMPLATE
    return "the tokenizer's own"


def _learnt(settings: Mapping[str, Any]) -> str:
    told = _LEARNT.get(str(settings.get("train_on", "assistant")), "")
    return told + ("; reasoning is shown and not learnt" if settings.get("reasoning") == "shown" else "")


def _samples(settings: Mapping[str, Any], costs: Mapping[str, tuple[int, int]], tokens: int) -> str:
    told = _SAMPLES.get(str(settings.get("samples", "conversation")), "")
    if "samples" not in costs:
        return told
    rows, more = costs["samples"]
    share = percent(more / tokens) if tokens else "0 %"
    return f"{told}: {number(rows)} rows became several, and {number(more)} tokens ({share}) are there more than once"


def _long(settings: Mapping[str, Any], costs: Mapping[str, tuple[int, int]], manifest: Manifest) -> str:
    told = _TOO_LONG.get(str(settings.get("too_long", "reject")), "")
    rejected = sum(step.rejected.get("too-long", 0) for step in manifest.steps)
    parts = [f"{number(rejected)} rows are left out"] if rejected else []
    if "split" in costs:
        rows, pieces = costs["split"]
        parts.append(f"{number(rows)} rows became {number(pieces)} segments")
    if "cut" in costs:
        rows, lost = costs["cut"]
        parts.append(f"{number(lost)} tokens of {number(rows)} rows are lost")
    return told + (": " + ", ".join(parts) if parts else "; there was none")
