"""A report as tables for a terminal. The caller gives the console; texts of the data never reach it as markup."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sft_data.report.charts import number, percent
from sft_data.report.model import Report
from sft_data.report.visible import visible

__all__ = ["print_closing", "print_report"]


def print_report(console: Console, report: Report) -> None:
    """The whole report in short: funnel, reasons, sources, figures, checks."""
    console.print(_headline(report))
    console.print(_funnel(report))
    if report.rejections:
        console.print(_reasons(report))
    if len(report.sources) > 1:
        console.print(_sources(report))
    console.print(_figures(report))
    if len(report.mixture) > 1:
        console.print(_mixture(report))
    if report.choices:
        console.print(_choices(report))
    console.print(_checks(report))


def print_closing(console: Console, report: Report, where: Mapping[str, Any]) -> None:
    """The table that ends a build: rows in, kept, rejected by reason; tokens; packing; where things are.

    `where`: label -> place, such as {"version": "chat@v3", "folder": "...", "report": "..."}.
    """
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(justify="right")
    table.add_column()
    table.add_row("rows in", number(report.rows_in), "")
    table.add_row("kept", Text(number(report.rows_kept), style="green"), _share(report.rows_kept, report.rows_in))
    table.add_row(
        "rejected", Text(number(report.rows_rejected), style="yellow"), _share(report.rows_rejected, report.rows_in)
    )
    for group in report.rejections:
        code = _text(f"  {group.code}", style="dim")
        table.add_row(code, number(group.rows), Text(percent(group.share), style="dim"))
    if report.tokens:
        trained = f"{percent(report.trained_tokens / report.tokens)} trained on"
        table.add_row("tokens", number(report.tokens), Text(trained))
    for packing in report.packing:
        alone = packing.batch_rows is not None
        unit = (
            f"{packing.method}, batches of {packing.batch_rows} rows"
            if alone
            else f"of {number(packing.pack_length)} tokens"
        )
        told = f"{unit}, {percent(packing.fill)} full ({packing.split})"
        table.add_row("rows alone" if alone else "packs", number(packing.packs), _text(told))
    console.print(table)
    places = Table(box=None, show_header=False, pad_edge=False)
    places.add_column(style="dim")
    places.add_column(overflow="fold")
    for label, place in where.items():
        places.add_row(visible(label), _text(str(place)))
    console.print(places)


def _headline(report: Report) -> Text:
    line = Text(f"{visible(report.name)} {report.fingerprint[:12]}: ", style="bold")
    line.append(f"{number(report.rows_in)} rows in, ")
    line.append(f"{number(report.rows_kept)} kept", style="green")
    return line.append(", ").append(f"{number(report.rows_rejected)} rejected", style="yellow")


def _funnel(report: Report) -> Table:
    table = _table("step", ">rows in", ">kept", ">rejected", "why")
    for step in report.funnel:
        reasons = ", ".join(f"{visible(code)} {number(rows)}" for code, rows in step.rejected.items())
        edits = ", ".join(f"{visible(code)} {number(rows)}" for code, rows in step.edited.items())
        told = "; ".join(part for part in (reasons, f"edited: {edits}" if edits else "") if part)
        gone = step.rows_in - step.rows_kept
        table.add_row(
            _text(step.name),
            number(step.rows_in),
            number(step.rows_kept),
            Text(number(gone), style="yellow" if gone else "dim"),
            _text(told, style="dim"),
        )
    return table


def _reasons(report: Report) -> Table:
    table = _table("rejected as", "by", ">rows", ">share", "meaning")
    for group in report.rejections:
        name, stage = _text(group.code), _text(group.stage, style="dim")
        table.add_row(name, stage, number(group.rows), percent(group.share), _text(group.meaning, style="dim"))
    return table


def _sources(report: Report) -> Table:
    table = _table("source", ">rows in", ">kept", ">rejected", ">tokens")
    for source in report.sources:
        amounts = (source.rows_in, source.rows_kept, source.rows_rejected, source.tokens)
        table.add_row(_text(source.name), *map(number, amounts))
    return table


def _figures(report: Report) -> Table:
    table = _table("split", ">rows", ">tokens", ">trained", ">packs", ">filled")
    fills = {packing.split: percent(packing.fill) for packing in report.packing}
    for split in report.splits:
        table.add_row(
            split.name,
            number(split.rows),
            number(split.tokens),
            _share(split.trained_tokens, split.tokens),
            number(split.packs),
            fills.get(split.name, ""),
        )
    return table


def _choices(report: Report) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    for choice in report.choices:
        table.add_row(_text(choice.name), _text(choice.told, style="dim"))
    return table


def _mixture(report: Report) -> Table:
    tokens = (">tokens",) if report.tokens else ()
    table = _table(
        "one epoch", ">rows", ">packed" if report.packs else ">seen", ">unseen", *tokens, ">share", ">epochs"
    )
    for group in report.mixture:
        amounts = map(number, (group.rows, group.packed_rows, group.unseen_rows, *([group.tokens] if tokens else [])))
        name = group.name if group.by == "source" else f"{group.by} {group.name}"
        table.add_row(_text(name), *amounts, percent(group.share), f"{group.epochs:.2f}")
    return table


def _checks(report: Report) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    lines = [(check.passed, check.name, check.told) for check in report.checks]
    lines += [(g.passed, f"Gate {g.name}", f"measured {g.measured}, limit {g.limit}") for g in report.gates]
    for passed, name, told in lines:
        mark = Text("✓", style="green") if passed else Text("✗", style="bold red")
        table.add_row(mark, _text(name), _text(told, style="dim"))
    return table


def _table(*columns: str) -> Table:
    """Columns by their titles; one that begins with > holds numbers."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        if column.startswith(">"):
            table.add_column(column[1:], justify="right", no_wrap=True)
        else:
            table.add_column(column, overflow="fold")
    return table


def _share(part: int, whole: int) -> str:
    return percent(part / whole) if whole else ""


def _text(told: str, style: str = "") -> Text:
    """Text that is neither markup nor steers the terminal."""
    return Text(visible(told), style=style)
