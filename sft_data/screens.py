"""What commands print for people: tables for a console that the caller gives.

Texts of the data are printed as text (never as markup), with control characters made visible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sft_data.report.charts import number
from sft_data.report.model import Report
from sft_data.report.terminal import print_closing
from sft_data.report.visible import visible

if TYPE_CHECKING:  # only named here: looking at a store need not load what builds one
    from sft_data.build import BuildResult
    from sft_data.catalogue import Page
    from sft_data.evaluate.losses import EvalResult
    from sft_data.reuse import Outlook
    from sft_data.store.diff import Change, Diff, Setting
    from sft_data.store.manage import Garbage, History
    from sft_data.store.read import VersionInfo
    from sft_data.store.verify import Verification
    from sft_data.store.why import Story

__all__ = [
    "load_report",
    "print_build",
    "print_diff",
    "print_evaluation",
    "print_funnel",
    "print_garbage",
    "print_log",
    "print_outlook",
    "print_page",
    "print_pages",
    "print_people",
    "print_story",
    "print_training",
    "print_verification",
    "print_versions",
]


def load_report(folder: Path) -> Report:
    """The report that was published with a version."""
    return Report.model_validate_json((folder / "report.json").read_bytes())


def print_build(console: Console, result: BuildResult) -> None:
    """The closing table of a build; the time of each stage was told as it ended."""
    took = "was there already; nothing was redone" if result.reused else f"published in {result.seconds:.1f} s"
    where = {
        "version": f"{result.version}  {result.fingerprint[:12]}  ({took})",
        "folder": result.path,
        "report": result.report,
    }
    print_closing(console, load_report(Path(result.path)), where)


def print_outlook(console: Console, outlook: Outlook) -> None:
    """What a build would reuse, and why not."""
    table = _table("step", "", "why")
    for step in outlook.steps:
        why = "; ".join(
            (*step.why, *((f"follows {', '.join(step.follows)}",) if step.follows and not step.why else ()))
        )
        told = Text("reused", style="dim") if step.reused else Text("done again", style="bold")
        table.add_row(Text(visible(step.step)), told, Text(visible(why)))
    console.print(table)
    known = f"{outlook.version} is this version already" if outlook.version else "a new version would be published"
    console.print(Text(f"{outlook.fingerprint[:12]}: {known}"))


def print_funnel(console: Console, funnel: Sequence[Mapping[str, Any]], title: str) -> None:
    """The funnel of a dry run."""
    console.print(Text(visible(title), style="bold"))
    table = _table("step", ">rows in", ">kept", "rejected", "edited")
    for line in funnel:
        told = [", ".join(f"{code} {number(n)}" for code, n in line[key].items()) for key in ("rejected", "edited")]
        table.add_row(Text(visible(line["step"])), number(line["rows_in"]), number(line["rows_kept"]), *map(Text, told))
    console.print(table)


def print_versions(console: Console, versions: Sequence[VersionInfo]) -> None:
    """The list of versions."""
    if not versions:
        console.print("no versions yet: sft-data build PIPELINE makes one", markup=False, highlight=False)
        return
    table = _table("version", "tags", ">rows", ">tokens", ">packs", "published", "fingerprint")
    for version in versions:
        tags = ", ".join((["latest"] if version.latest else []) + version.tags)
        table.add_row(
            Text(version.version, style="dim" if version.draft else "bold"),
            Text(visible(tags)),
            *(number(n) for n in (version.rows, version.tokens, version.packs)),
            Text((version.published or "")[:16].replace("T", " "), no_wrap=True),
            Text(version.fingerprint[:12], style="dim") if not version.problem else Text("damaged", style="bold red"),
        )
    console.print(table)


def print_verification(console: Console, found: Verification) -> None:
    """What `verify` found."""
    if found.ok:
        told = f"{found.files} files, {number(found.bytes)} bytes: "
        told += (
            "hashes, schemas, rows and masks are as they must be"
            if found.contents
            else "the sealed files fit their hashes; give the key to have their contents checked"
        )
        console.print(Text("✓ ", style="green") + Text(told), soft_wrap=True)
    for problem in found.problems:
        console.print(Text("✗ ", style="bold red") + Text(visible(problem)), soft_wrap=True)


def print_story(console: Console, story: Story) -> None:
    """One row's story."""
    console.print(Text(visible(story.id), style="bold") + Text(f"  {visible(story.fate)}"), soft_wrap=True)
    table = _table("step", "what", "told")
    for event in story.events:
        told = Text(visible(event.detail))
        if event.code:
            told = Text(f"{event.code}: ", style="bold") + told
        if event.meaning:
            told += Text(f" ({event.meaning})", style="dim")
        table.add_row(Text(visible(event.stage)), Text(event.what), told)
    console.print(table)
    console.print()
    console.print(Text(visible(story.text)), soft_wrap=True)


def print_diff(console: Console, found: Diff) -> None:
    """What changed between two versions."""
    console.print(Text(f"{visible(found.a)} -> {visible(found.b)}" + (": the same content" if found.same else "")))
    changes = {name: getattr(found, name) for name in ("added", "removed", "changed", "moved", "redecided")}
    table = _table("rows", ">number", "")
    for name, change in changes.items():
        table.add_row(name, number(change.count), Text(_MEANT[name], style="dim"))
    console.print(table)
    if found.redecisions:
        decisions = _table("decided before", "decided now", ">rows")
        for told, count in list(found.redecisions.items())[:20]:
            decisions.add_row(*map(Text, map(visible, told.split(" -> ", 1))), number(count))
        console.print(decisions)
    _print_examples(console, changes)
    for title, settings in (("setting", _gathered(found.settings)), ("input", found.inputs)):
        if settings:
            rows = _table(title, "old", "new")
            for setting in settings:
                rows.add_row(Text(visible(setting.key)), *(_value(v) for v in (setting.old, setting.new)))
            console.print(rows)
    shares = _table("by", "", ">old", ">new", ">change")
    for name, amounts in found.distributions.items():
        for amount in amounts:
            if amount.old != amount.new:
                change = f"{amount.new - amount.old:+,}"
                shares.add_row(name, Text(visible(amount.name)), number(amount.old), number(amount.new), change)
    if shares.row_count:
        console.print(shares)


_MEANT = {
    "added": "kept, and the old version never read them",
    "removed": "were kept, and the new version never read them",
    "changed": "kept in both, with another text",
    "moved": "kept in both, in another split",
    "redecided": "read by both, decided otherwise",
}


def _print_examples(console: Console, changes: Mapping[str, Change]) -> None:
    """Up to three rows of each kind of change; texts one below the other, where they part."""
    for name, change in changes.items():
        for row in change.examples[:3]:
            line = Text(f"{name:<9}  ", style="dim") + Text(visible(row.id), style="bold")
            if name == "changed":
                console.print(line, soft_wrap=True)
                console.print(Text("- ", style="red") + Text(visible(row.old or "")), soft_wrap=True)
                console.print(Text("+ ", style="green") + Text(visible(row.new or "")), soft_wrap=True)
            else:
                told = " -> ".join(visible(value) for value in (row.old, row.new) if value)
                console.print(line + Text(f"  {told}"), soft_wrap=True)


def _gathered(settings: Sequence[Setting]) -> list[Setting]:
    """One line for a whole source or stage that only one version has, instead of one for each of its settings."""
    groups: dict[str, list[Setting]] = {}
    for setting in settings:
        parts = setting.key.split(".")
        groups.setdefault(".".join(parts[:2]) if parts[0] in ("sources", "stages") else setting.key, []).append(setting)
    told = []
    for key, group in groups.items():
        own = {setting.key.removeprefix(f"{key}."): setting for setting in group}
        mark = own.get("name") if key.startswith("sources.") else own.get("kind")
        if mark is None or (mark.old is None) == (mark.new is None):
            told += group
            continue
        what = own.get("path", mark)
        told.append(mark.model_copy(update={"key": key, "old": _there(what.old), "new": _there(what.new)}))
    return told


def _there(value: object) -> str:
    return "not there" if value is None else f"there: {value}"


def _value(value: object) -> Text:
    """A setting or the hash of an input file."""
    if isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef"):
        value = value[:12]
    return Text("-", style="dim") if value is None else Text(visible(str(value)))


def print_training(console: Console, told: Mapping[str, Any]) -> None:
    """How a training run ended."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    state = (
        "was there already" if told["reused"] else "finished" if told["finished"] else "stopped; train again to go on"
    )
    table.add_row("training", Text(f"{told['run']} ({state})"))
    table.add_row("data", Text(f"{told['dataset']} {told['fingerprint'][:12]}"))
    table.add_row(
        "steps", Text(f"{number(told['steps'])} in {told['seconds']:.1f} s on {told['device']}, {told['precision']}")
    )
    table.add_row("tokens", Text(f"{number(told['tokens'])} seen, {number(told['supervised_tokens'])} learnt"))
    first, last = told["train_loss_first"], told["train_loss_last"]
    if first is not None and last is not None:
        table.add_row("train loss", Text(f"{first:.4f} -> {last:.4f}"))
    if told["held_out"]:
        begin, end = told["held_out"][0]["loss"], told["held_out"][-1]["loss"]
        table.add_row("held-out loss", Text(f"{begin:.4f} -> {end:.4f}"))
    table.add_row("model", Text(str(told["model"])))
    table.add_row("loss curve", Text(str(Path(told["path"]) / "loss.svg")))
    console.print(table)


def print_evaluation(console: Console, found: EvalResult) -> None:
    """Losses of a model, by source, beside those of the model it is compared with."""
    told = f"{found.split} of {found.dataset} {found.fingerprint[:12]}: {number(found.rows)} rows on {found.device}"
    console.print(Text(visible(told), style="bold"), soft_wrap=True)
    base = found.base
    table = _table("source", ">rows", ">tokens", ">loss", *((">base loss",) if base else ()))
    for name, loss in found.metrics.by_source.items():
        compared = (f"{base.by_source[name].loss:.4f}",) if base else ()
        table.add_row(Text(visible(name)), number(loss.rows), number(loss.tokens), f"{loss.loss:.4f}", *compared)
    compared = (f"{base.loss:.4f}",) if base else ()
    table.add_row(
        Text("all", style="bold"), number(found.rows), number(found.tokens), f"{found.metrics.loss:.4f}", *compared
    )
    console.print(table)
    if found.better_rows is not None:
        console.print(Text(f"{found.better_rows:.1%} of the rows are predicted better than by the base"))


def print_garbage(console: Console, found: Garbage) -> None:
    """What `gc` found or removed: each piece by name, as long as they are few."""
    kinds = {
        "abandoned": (found.abandoned, "cut short, by a kill or a full disk"),
        "drafts": (found.drafts, "versions that failed a gate, older than --drafts-days"),
        "cells": (found.cells, "step cache that no version shares, older than --cache-days; index of rows long gone"),
    }
    if any(pieces for pieces, _ in kinds.values()):
        table = _table("what", ">number", "")
        for name, (pieces, meaning) in kinds.items():
            table.add_row(name, number(len(pieces)), Text(meaning, style="dim"))
        console.print(table)
        for pieces, _ in kinds.values():
            for piece in pieces[:10]:
                console.print(Text(f"  {visible(piece)}"), soft_wrap=True)
            if len(pieces) > 10:
                console.print(Text(f"  and {len(pieces) - 10:,} more", style="dim"))
        done = "freed" if found.removed else "would be freed: nothing was touched yet, --remove removes it"
        console.print(Text(f"{number(found.bytes)} bytes {done}"))
    else:
        console.print(
            Text("nothing to remove: all that is here is needed (--cache-days 0 also takes unused step cache)")
        )
    if found.busy:
        console.print(Text("a build is at work in this store: what it may need was left alone"))


def print_log(console: Console, found: History) -> None:
    """Who did what when."""
    if not found.entries:
        console.print(Text("nothing was done yet"))
        return
    table = _table("when", "who", "what", "")
    for entry in found.entries:
        what = str(entry.get("what", "?"))
        table.add_row(
            Text(visible(str(entry.get("at", "?"))[:16].replace("T", " ")), no_wrap=True),
            Text(visible(str(entry.get("who", "?")))),
            Text(visible(what), style="bold"),
            Text(visible(_deed(what, entry))),
        )
    console.print(table)
    for problem in found.problems:
        console.print(Text("✗ ", style="bold red") + Text(visible(problem)), soft_wrap=True)


def _deed(what: str, entry: Mapping[str, Any]) -> str:
    """What was done to what, in words."""
    name, number_of = entry.get("name"), entry.get("number")
    version = f"{name}@v{number_of}" if number_of is not None else f"{name}@{entry.get('draft')}"
    was = entry.get("was")
    if what in ("publish", "import", "draft"):
        return f"{version}  {str(entry.get('fingerprint', ''))[:12]}"
    if what == "tag":
        return f"{entry.get('tag')} -> {version}" + (f" (was v{was})" if was is not None else "")
    if what == "untag":
        return f"{name}@{entry.get('tag')}" + (f" (was v{was})" if was is not None else "")
    if what == "rollback":
        return f"latest -> {version}" + (f" (was v{was})" if was is not None else "")
    if what == "gc":
        return f"{entry.get('removed', 0):,} pieces, {entry.get('bytes', 0):,} bytes"
    known = ("at", "who", "what", "previous")
    return ", ".join(f"{key} {value}" for key, value in entry.items() if key not in known)


def print_people(console: Console, found: Mapping[str, Any]) -> None:
    """Who has access to a store behind a server."""
    if not found["people"]:
        console.print(Text("nobody yet: `sft-data serve` serves everybody on this machine, and no other"))
        return
    table = _table("name", "role", "since")
    for person in found["people"]:
        table.add_row(*(Text(visible(person[key])) for key in ("name", "role", "added")))
    console.print(table)


def print_pages(console: Console, pages: Sequence[Page]) -> None:
    """The list of stages."""
    table = _table("stage", "scope", "what it does", "codes")
    for page in pages:
        codes = Text(", ".join(page.codes), style="dim")
        table.add_row(Text(page.kind, style="bold"), page.scope, Text(page.summary), codes)
    console.print(table)


def print_page(console: Console, page: Page) -> None:
    """One stage's page."""
    console.print(Text(page.kind, style="bold"))
    paragraphs = [" ".join(part.split()) if "\n- " not in part else part for part in page.text.split("\n\n")]
    console.print(Text("\n\n".join(paragraphs) + "\n"))
    settings = _table("setting", "default", "what it decides")
    for setting in page.settings:
        settings.add_row(Text(setting.name, style="bold"), Text(str(setting.default)), Text(setting.description))
    console.print(settings)
    codes = _table("code", "meaning")
    for code, meaning in page.codes.items():
        codes.add_row(Text(code, style="bold"), Text(meaning))
    if page.codes:
        console.print()
        console.print(codes)


def _table(*columns: str) -> Table:
    """Columns by their titles; one that begins with > holds numbers."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        right = column.startswith(">")
        table.add_column(column.lstrip(">"), justify="right" if right else "left", no_wrap=right, overflow="fold")
    return table
