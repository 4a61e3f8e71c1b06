from __future__ import annotations

import pytest

from sft_data.report.markdown import escape, render_markdown
from sft_data.report.measure import measure
from tests.store.versions import HOSTILE, published


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    home = tmp_path_factory.mktemp("markdown")
    return measure(published(home / "store", home / "cells").folder)


def test_markdown_tells_rows_reasons_and_fingerprint(report):
    page = render_markdown(report)
    assert "**12 rows in, 8 kept, 4 dropped.** 502 tokens, 69.1 % of them trained on. 3 packs, 65.4 % full." in page
    assert (
        "| answer-too-short | answer-length | 1 | 8.3 % | The last answer has fewer characters than the limit. |"
        in page
    )
    assert page.endswith(f"Fingerprint `{report.fingerprint}`\n")


def test_markdown_hostile_text_cannot_leave_its_cell(report):
    group = report.rejections[0].model_copy(update={"code": HOSTILE, "meaning": "a\nb | c"})
    page = render_markdown(report.model_copy(update={"rejections": [group]}))
    [line] = [line for line in page.splitlines() if "alert" in line]
    assert line.replace("\\|", "").count("|") == 6
    assert "<script>" not in page.replace("\\<script\\>", "")
    assert "a b \\| c" in page
    assert "\x1b" not in page


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("*a* _b_ `c`", r"\*a\* \_b\_ \`c\`"),
        ("[x](http://y)", r"\[x\](http://y)"),
        ("a\n\n# b", r"a \# b"),
        ("中文，好", "中文，好"),
    ],
)
def test_escape_keeps_text_and_takes_its_powers(text, safe):
    assert escape(text) == safe
