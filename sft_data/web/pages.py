"""The pages as HTML: small templates, no script. Texts of the data and of people reach them only by autoescaping."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any
from urllib.parse import quote

import orjson
from jinja2 import Environment, PackageLoader, StrictUndefined

from sft_data.report import charts
from sft_data.report.visible import visible
from sft_data.store.diff import Diff
from sft_data.store.read import VersionInfo
from sft_data.store.why import Story
from sft_data.web.access import Role
from sft_data.web.guard import Asker

__all__ = ["Frame", "difference", "error", "log", "login", "start", "story", "style", "version"]

_DONE = {"tagged": "The tag is set.", "untagged": "The tag is gone.", "latest": "This version is the latest now."}
_KINDS = {
    "added": "kept rows that the old version never read",
    "removed": "kept rows of the old version that the new one never read",
    "changed": "kept in both, with other messages",
    "moved": "kept in both, in another split",
    "redecided": "read by both, decided otherwise",
}


@dataclass(frozen=True)
class Frame:
    """What stands around every page."""

    store: str
    asker: Asker | None  # None: nobody is signed in

    def may(self, role: str) -> bool:
        """Whether who looks has this role."""
        return self.asker is not None and self.asker.role.may(Role(role))


def start(frame: Frame, found: Sequence[VersionInfo]) -> str:
    """All versions: by dataset, the newest first."""
    by_name: dict[str, list[VersionInfo]] = {}
    for info in found:
        by_name.setdefault(info.name, []).append(info)
    ordered = {name: sorted(each, key=_newest_first) for name, each in by_name.items()}
    return _render("start.html", frame, datasets=ordered)


def version(frame: Frame, info: VersionInfo, known: Sequence[VersionInfo], done: str | None) -> str:
    """One version, and what can be asked of it."""
    others = [each for each in sorted(known, key=_newest_first) if each.version != info.version]
    return _render("version.html", frame, info=info, others=others, done=_DONE.get(done or ""))


def story(frame: Frame, spec: str, told: Story) -> str:
    """One row's story."""
    return _render("why.html", frame, spec=spec, story=told)


def difference(frame: Frame, found: Diff) -> str:
    """What changed between two versions."""
    changes = [(name, told, getattr(found, name)) for name, told in _KINDS.items()]
    amounts = {name: [each for each in some if each.old != each.new] for name, some in found.distributions.items()}
    return _render("diff.html", frame, diff=found, changes=changes, amounts={k: v for k, v in amounts.items() if v})


def log(frame: Frame, entries: Sequence[Mapping[str, Any]], problems: Sequence[str]) -> str:
    """Who did what when, the newest first."""
    known = ("at", "who", "what", "previous")
    rows = [
        {
            **{key: str(entry.get(key, "")) for key in known},
            "more": {key: value for key, value in entry.items() if key not in known and value is not None},
        }
        for entry in reversed(entries)
    ]
    return _render("log.html", frame, rows=rows, problems=problems)


def login(frame: Frame, onward: str, problem: str) -> str:
    """The form for a token."""
    return _render("login.html", frame, onward=onward, problem=problem)


def error(frame: Frame, told: str) -> str:
    """What could not be done, and why."""
    return _render("error.html", frame, told=told)


@lru_cache(maxsize=1)
def style() -> str:
    """The report's style sheet, and what only these pages need."""
    report = resources.files("sft_data.report") / "templates" / "report.css"
    ours = resources.files("sft_data.web") / "templates" / "web.css"
    return report.read_text(encoding="utf-8") + ours.read_text(encoding="utf-8")


def _newest_first(info: VersionInfo) -> tuple[bool, int]:
    return info.draft, -(info.number or 0)


def _render(template: str, frame: Frame, **given: Any) -> str:  # noqa: ANN401  # what a template takes
    return _environment().get_template(template).render(frame=frame, **given)


def _plain(value: object) -> str:
    """A setting's value as JSON; a text as it is."""
    if isinstance(value, str):
        return visible(value)
    return "-" if value is None else visible(orjson.dumps(value).decode())


def _size(amount: int) -> str:
    """Bytes for a person.

    >>> _size(512), _size(23_400_000)
    ('512 B', '23.4 MB')
    """
    value, unit = float(amount), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:,.0f} {unit}" if unit == "B" else f"{value:,.1f} {unit}"


def _brief(text: str) -> str:
    """A hash by its first digits, another long text by its beginning."""
    return f"{text[:12]}…" if re.fullmatch("[0-9a-f]{64}", text) else text if len(text) <= 120 else f"{text[:120]}…"


def _day(moment: str | None) -> str:
    return moment[:16].replace("T", " ") if moment else "-"


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("sft_data.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "address": lambda text: quote(text, safe="@"),
        "brief": _brief,
        "day": _day,
        "number": charts.number,
        "percent": charts.percent,
        "plain": _plain,
        "size": _size,
        "visible": visible,
    }
    return environment
