from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from sft_data.report.html import render_html
from sft_data.report.measure import measure
from sft_data.store.read import load_build
from tests.store.versions import published


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("html")
    return published(home / "store", home / "cells").folder


@pytest.fixture(scope="module")
def page(folder):
    return render_html(measure(folder), load_build(folder))


class Page(HTMLParser):
    """Tags, attributes and text of a page; every tag must be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_html_is_well_formed_and_tells_the_figures(page):
    text = " ".join(Page(page).text.split())
    for told in (
        "12 rows in, 8 kept , 4 dropped",
        "all 7 checks passed",
        "answer-too-short",
        "The last answer has fewer characters than the limit.",
        "3 < 20 characters",
        "similarity 0.810",
        "Water is a liquid that is made of hydrogen and oxygen.",
        "no packing needs fewer than 2",
        "0.5 s",
        "built 2026-11-22T18:00:00Z",
    ):
        assert told in text or told.replace(" ,", ",") in text, told


def test_html_asks_nothing_of_the_network_and_runs_nothing(page):
    parsed = Page(page)
    tags = {tag for tag, _ in parsed.tags}
    assert tags.isdisjoint({"script", "img", "iframe", "object", "embed", "form", "base", "video", "audio"})
    for tag, attributes in parsed.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], (tag, attributes)
        for name in ("href", "src", "xlink:href"):
            if name in attributes:
                assert str(attributes[name]).startswith(("#", "data:,")), (tag, attributes)
    assert "http://" not in page
    assert "https://" not in page
    assert "@import" not in page
    assert "url(" not in page


def test_html_policy_allows_the_one_style_sheet_by_its_hash(page):
    [style] = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    told = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = next(a["content"] for t, a in Page(page).tags if a.get("http-equiv") == "Content-Security-Policy")
    assert f"default-src 'none'; style-src 'sha256-{told}'" in policy


def test_html_hostile_text_is_shown_as_text(page):
    parsed = Page(page)
    assert '<script>alert("x")</script> [bold]loud[/bold] ␛[31mred ⟨U+202E⟩back' in parsed.text
    assert "\x1b" not in page
    assert "\u202e" not in page


def test_html_without_build_record_is_the_same_every_time(folder):
    first, second = (render_html(measure(folder)) for _ in range(2))
    assert first == second == (folder / "report.html").read_text(encoding="utf-8")
    assert "How it was built" not in first


def test_html_charts_have_a_text_alternative(page):
    charts = [attributes for tag, attributes in Page(page).tags if tag == "svg"]
    assert len(charts) > 20
    assert all(attributes.get("role") == "img" and attributes.get("aria-label") for attributes in charts)


def test_html_hostile_names_in_every_place_stay_text(folder):
    """Whatever text a report holds, none of it opens a tag."""
    bad = '"><script>x</script><img src=x onerror=y>{{ 7 * 7 }}'
    raw = measure(folder).model_dump()

    def spoilt(value, key=""):
        if isinstance(value, dict):
            keys_are_data = key in ("rejected", "edited", "libraries", "pipeline")
            return {(k + bad if keys_are_data else k): spoilt(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [spoilt(v, key) for v in value]
        return value + bad if isinstance(value, str) and key not in ("unit",) else value

    report = type(measure(folder)).model_validate(spoilt(raw))
    build = {"created": bad, "platform": bad, "stages": [{"step": bad, "seconds": 1}]}
    page = Page(render_html(report, build))
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "img"})
    assert "{{ 7 * 7 }}" in page.text


def test_html_of_an_empty_version_still_tells_it(folder):
    report = measure(folder)
    lists = ("checks", "gates", "funnel", "sources", "splits", "rejections", "edits", "duplicates", "distributions")
    bare = report.model_copy(
        update={name: [] for name in (*lists, "languages", "packing", "inputs")}
        | {
            "rows_in": 0,
            "rows_kept": 0,
            "rows_rejected": 0,
            "tokens": 0,
            "packs": 0,
            "pack_fill": None,
            "tokenizer": None,
        }
    )
    text = Page(render_html(bare)).text
    assert "0 rows in" in text
    assert "Nothing: every row that was read is in this version." in text


def test_html_takes_a_build_record_with_missing_keys(folder):
    page = render_html(measure(folder), {"workers": 2})
    assert "2 workers" in page
