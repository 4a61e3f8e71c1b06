from __future__ import annotations

import pytest

from sft_data.report.html import render_html
from sft_data.report.measure import measure
from sft_data.store.read import load_build
from tests.report.chromium import browser, chromium, needs_chromium
from tests.store.versions import published

pytestmark = [browser, needs_chromium]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    home = tmp_path_factory.mktemp("browser")
    folder = published(home / "store", home / "cells").folder
    path = home / "report.html"
    path.write_text(render_html(measure(folder), load_build(folder)), encoding="utf-8")
    return path


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (1200, "dark"), (360, "light"), (360, "dark")])
def test_report_page_opens_without_errors_or_requests(page, tmp_path, width, scheme):
    with chromium(tmp_path / "profile") as tab:
        tab.open(page, width, scheme=scheme)
        assert tab.messages == []
        assert [url for url in tab.requests if url != page.as_uri() and not url.startswith("data:,")] == []
        assert tab.value("document.documentElement.scrollWidth") <= width
        light = tab.value("getComputedStyle(document.body).backgroundColor") == "rgb(247, 246, 243)"
        assert light == (scheme == "light")


def test_report_page_draws_its_bars_to_scale(page, tmp_path):
    """8 of 12 rows were kept: the headline's bar is two thirds kept."""
    with chromium(tmp_path / "profile") as tab:
        tab.open(page)
        whole, kept = (
            tab.value(f"document.querySelector('header svg.bar {part}').getBoundingClientRect().width")
            for part in (".track", ".kept")
        )
        assert kept / whole == pytest.approx(8 / 12, abs=0.01)


def test_report_page_runs_no_script_of_the_data(page, tmp_path):
    with chromium(tmp_path / "profile") as tab:
        tab.open(page)
        assert tab.value("document.scripts.length") == 0
        assert "<script>alert" in tab.value("document.body.textContent")


def test_report_page_opens_its_reasons_without_a_script(page, tmp_path):
    with chromium(tmp_path / "profile") as tab:
        tab.open(page)
        assert tab.value("document.querySelectorAll('#dropped ~ .why details').length") >= 4
        tab.value("document.querySelector('#dropped ~ .why summary').click()")
        assert tab.value("document.querySelector('#dropped ~ .why details').open")
        assert tab.value("document.querySelector('#dropped ~ .why pre').getBoundingClientRect().height") > 10
