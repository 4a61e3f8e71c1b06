from __future__ import annotations

import io

import pytest
from rich.console import Console

from sft_data.report.measure import measure
from sft_data.report.terminal import print_closing, print_report
from tests.store.versions import HOSTILE, published


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    home = tmp_path_factory.mktemp("terminal")
    return measure(published(home / "store", home / "cells").folder)


def printed(write, width=100, colour=False):
    """What a console of this width shows."""
    console = Console(file=io.StringIO(), width=width, force_terminal=colour)
    write(console)
    return console.file.getvalue()


def test_terminal_report_tells_funnel_reasons_and_checks(report):
    lines = [" ".join(line.split()) for line in printed(lambda c: print_report(c, report)).splitlines()]
    assert lines[0].endswith(": 12 rows in, 8 kept, 4 rejected")
    assert "03:near-dedup 10 9 1 near-duplicate 1" in lines
    assert "01:repair-text 11 11 0 edited: mojibake 1" in lines
    assert "answer-too-short answer-length 1 8.3 % The last answer has fewer characters than the limit." in lines
    assert "train 6 409 69.7 % 2 79.9 %" in lines
    assert "✓ Every row is accounted for 12 in = 8 kept + 4 rejected" in lines


def test_terminal_closing_table_tells_rows_reasons_packs_and_places(report):
    places = {"version": "small@v1", "report": "/stores/main/small/v1/report.html"}
    lines = [" ".join(line.split()) for line in printed(lambda c: print_closing(c, report, places)).splitlines()]
    assert lines[:3] == ["rows in 12", "kept 8 66.7 %", "rejected 4 33.3 %"]
    assert "near-duplicate 1 8.3 %" in lines
    assert "tokens 502 69.1 % trained on" in lines
    assert "packs 2 of 256 tokens, 79.9 % full (train)" in lines
    assert lines[-2:] == ["version small@v1", "report /stores/main/small/v1/report.html"]


def test_terminal_shows_hostile_names_as_text(report):
    group = report.rejections[0].model_copy(update={"code": HOSTILE, "meaning": HOSTILE, "stage": HOSTILE})
    step = report.funnel[0].model_copy(update={"name": HOSTILE, "rejected": {HOSTILE: 1}})
    source = report.sources[0].model_copy(update={"name": HOSTILE})
    bad = report.model_copy(
        update={"rejections": [group], "funnel": [step], "sources": [source, source], "name": HOSTILE}
    )
    for colour in (False, True):
        shown = printed(lambda c, b=bad: (print_report(c, b), print_closing(c, b, {HOSTILE: HOSTILE})), 400, colour)
        assert "[bold]loud[/bold]" in shown
        assert "\x1b[31mred" not in shown
        assert "\u202e" not in shown


@pytest.mark.parametrize("width", [40, 60, 200])
def test_terminal_report_keeps_its_numbers_at_any_width(report, width):
    shown = printed(lambda c: print_report(c, report), width)
    assert max(len(line) for line in shown.splitlines()) <= width
    assert "409" in shown
