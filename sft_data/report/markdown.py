"""A report as Markdown, for a pull request or a dataset card. Texts of the data stand in it as text only."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from sft_data.report.charts import number, percent
from sft_data.report.model import Report
from sft_data.report.visible import visible

__all__ = ["escape", "render_markdown", "table"]

_MARKS = re.compile(r"([\\`*_\[\]#|~<>&])")


def escape(text: str) -> str:
    r"""`text` so that Markdown shows it as it is, on one line.

    >>> escape("<b>*a*|b")
    '\\<b\\>\\*a\\*\\|b'
    """
    return _MARKS.sub(r"\\\1", " ".join(visible(text).split()))


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; cells are escaped, columns that hold numbers stand to the right."""
    body = [[number(cell) if isinstance(cell, int | float) else escape(str(cell)) for cell in row] for row in rows]
    numbers = [all(isinstance(cell, int | float) for cell in column) for column in zip(*rows, strict=True)]
    rule = ["---:" if right else "---" for right in numbers] or ["---"] * len(head)
    return "\n".join(f"| {' | '.join(line)} |" for line in [list(head), rule, *body])


def render_markdown(report: Report) -> str:
    """The report in short: what went in, what came out, what was dropped and why, whether to trust it."""
    parts = [f"# {escape(report.name)}", _summary(report), "## Checks", _checks(report)]
    if report.rejections:
        rows = [(g.code, g.stage, g.rows, percent(g.share), g.meaning) for g in report.rejections]
        parts += ["## Dropped, and why", table(("code", "stage", "rows", "share", "meaning"), rows)]
    steps = [(s.name, s.rows_in, s.rows_kept, s.rows_in - s.rows_kept) for s in report.funnel]
    parts += ["## Step by step", table(("step", "rows in", "kept", "dropped"), steps)]
    sources = [(s.name, s.rows_in, s.rows_kept, s.rows_rejected, s.tokens) for s in report.sources]
    parts += ["## Sources", table(("source", "rows in", "kept", "dropped", "tokens"), sources)]
    splits = [(s.name, s.rows, s.tokens, s.trained_tokens, s.packs) for s in report.splits]
    parts += ["## Splits", table(("split", "rows", "tokens", "trained tokens", "packs"), splits)]
    parts += [f"- {packing.split}: {packing.told}" for packing in report.packing]
    if report.choices:
        parts += [
            "## What is trained on",
            table(("choice", "what was chosen"), [(c.name, c.told) for c in report.choices]),
        ]
    if len(report.mixture) > 1:
        head = ("by", "group", "rows", "packed" if report.packs else "seen", "unseen", "tokens", "share", "epochs")
        groups = [
            (g.by, g.name, g.rows, g.packed_rows, g.unseen_rows, g.tokens, percent(g.share), f"{g.epochs:.2f}")
            for g in report.mixture
        ]
        parts += ["## One pass over the packs" if report.packs else "## One epoch", table(head, groups)]
    if report.languages:
        languages = [(share.name, share.rows, percent(share.share)) for share in report.languages]
        parts += ["## Languages", table(("language", "rows", "share"), languages)]
    return "\n\n".join([*parts, f"Fingerprint `{report.fingerprint}`"]) + "\n"


def _summary(report: Report) -> str:
    rows = [number(rows) for rows in (report.rows_in, report.rows_kept, report.rows_rejected)]
    told = f"**{rows[0]} rows in, {rows[1]} kept, {rows[2]} dropped.**"
    if report.tokens:
        told += f" {number(report.tokens)} tokens, {percent(report.trained_tokens / report.tokens)} of them trained on."
    if report.packs and report.pack_fill is not None:
        told += f" {number(report.packs)} packs, {percent(report.pack_fill)} full."
    return told


def _checks(report: Report) -> str:
    lines = [(check.passed, check.name, check.told) for check in report.checks]
    lines += [(g.passed, f"Gate {g.name}", f"measured {g.measured}, limit {g.limit}") for g in report.gates]
    return "\n".join(f"- {'✓' if passed else '✗'} **{escape(name)}**: {escape(told)}" for passed, name, told in lines)
