"""One self-contained HTML page: no request to anywhere, no script, light and dark, readable on a phone.

Data text reaches the page only through autoescaping. The content security policy forbids everything but the one
style sheet in the page, which it names by its hash.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from typing import Any

import orjson
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sft_data.report import charts
from sft_data.report.model import Report
from sft_data.report.visible import visible

__all__ = ["render_html"]


def render_html(report: Report, build: Mapping[str, Any] | None = None) -> str:
    """The page; with `build` also dates and the time of each stage. Without, the same report gives the same bytes."""
    css = _style()
    policy = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    page: str = _environment().get_template("report.html").render(
        report=report,
        built=_built(build) if build else None,
        pipeline=orjson.dumps(report.pipeline, option=orjson.OPT_INDENT_2).decode(),
        css=Markup(css),  # noqa: S704 - our own file, read from the package
        policy=f"default-src 'none'; style-src 'sha256-{policy}'; img-src data:; base-uri 'none'; form-action 'none'",
    )  # fmt: skip
    return page


def _built(build: Mapping[str, Any]) -> dict[str, Any]:
    """The build record as it is shown; it comes from a file, so every key may be missing."""
    words = {
        "created": "built {}", "published": "published {}", "published_by": "by {}", "workers": "{} workers",
        "cores": "{} cores", "python": "Python {}", "platform": "{}",
    }  # fmt: skip
    stages = [
        {"step": str(s["step"]), "seconds": float(s["seconds"]), "reused": bool(s.get("reused"))}
        for s in build.get("stages") or []
    ]
    return {
        "told": [form.format(build[key]) for key, form in words.items() if build.get(key)],
        "stages": stages,
        "slowest": max([0.0, *(float(stage["seconds"]) for stage in build.get("stages") or [])]),
    }


@lru_cache(maxsize=1)
def _style() -> str:
    return (resources.files("sft_data.report") / "templates" / "report.css").read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("sft_data.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": charts.number,
        "percent": charts.percent,
        "visible": visible,
        "seconds": seconds,
        "sentence": sentence,
    }
    environment.globals |= {"bar": charts.bar, "histogram": charts.histogram}
    return environment


def sentence(text: str) -> str:
    """A meaning as a sentence; codes are documented in half ones.

    >>> sentence("the row is too long")
    'The row is too long.'
    """
    return text[:1].upper() + text[1:] + ("" if not text or text.endswith((".", "!", "?")) else ".")


def seconds(value: float) -> str:
    """A duration for a person.

    >>> seconds(0.25), seconds(75)
    ('0.25 s', '1 min 15 s')
    """
    return f"{value:.3g} s" if value < 60 else f"{value // 60:.0f} min {value % 60:.0f} s"
