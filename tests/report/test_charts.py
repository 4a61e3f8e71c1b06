from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from sft_data.report.charts import bar, histogram, number, percent
from sft_data.report.model import Distribution


def parsed(svg):
    return ElementTree.fromstring(str(svg))  # noqa: S314 - our own output


def widths(svg):
    """Width in per cent of each part of a bar."""
    parts = [rect for rect in parsed(svg).iter("rect") if rect.get("class") != "track"]
    return {rect.get("class"): float(rect.get("width").rstrip("%")) for rect in parts}


def test_bar_parts_have_their_shares():
    assert widths(bar([("kept", 75), ("rejected", 25)], 100, "told")) == {"kept": 75, "rejected": 25}


def test_bar_small_part_is_still_seen_and_all_fits():
    found = widths(bar([("kept", 999_999), ("rejected", 1)], 1_000_000, "told"))
    assert found["rejected"] >= 0.5
    assert sum(found.values()) == pytest.approx(100)


def test_bar_of_nothing_has_no_parts():
    assert widths(bar([("kept", 0), ("rejected", 0)], 0, "told")) == {}


def test_bar_text_alternative_is_escaped():
    svg = bar([("kept", 1)], 1, '"><script>')
    assert parsed(svg).get("aria-label") == '"><script>'


def chart(kept, rejected=()):
    edges = [float(10 * i) for i in range(len(kept))]
    figures = {"median": 15, "p10": 1, "p90": 30}
    return Distribution(
        name="n",
        title="Length",
        unit="characters",
        edges=edges,
        kept=list(kept),
        rejected=list(rejected),
        figures=figures,
    )


def test_histogram_heights_follow_the_counts_and_stack():
    svg = parsed(histogram(chart([100, 50], [0, 50]), height=106))
    bars = [[(r.get("class"), float(r.get("height"))) for r in group.iter("rect")] for group in svg.iter("g")]
    assert bars == [[("kept", 100), ("rejected", 0)], [("kept", 50), ("rejected", 50)]]


def test_histogram_says_in_words_what_it_shows():
    label = parsed(histogram(chart([3, 4]))).get("aria-label")
    assert label == "Length: 7 kept rows; median 15, 10 % below 1, 10 % above 30"
    titles = [t.text for t in parsed(histogram(chart([3, 4], [1, 0]))).iter("title")]
    assert titles == ["0 up to 10: 3 kept, 1 rejected", "10 and more: 4 kept, 0 rejected"]


def test_histogram_with_many_bins_labels_at_most_six():
    svg = str(histogram(chart(range(40))))
    assert 4 <= len(re.findall("<text", svg)) <= 6


def test_histogram_of_nothing_is_still_a_picture():
    parsed(histogram(chart([])))


@pytest.mark.parametrize(
    ("value", "told"), [(0, "0"), (1_234_567, "1,234,567"), (0.5, "0.5"), (12.345, "12.3"), (4321.9, "4,322")]
)
def test_number_is_written_for_a_person(value, told):
    assert number(value) == told


@pytest.mark.parametrize(
    ("share", "told"), [(0, "0 %"), (1.0, "100 %"), (0.9996, "> 99.9 %"), (0.0004, "< 0.1 %"), (0.123, "12.3 %")]
)
def test_percent_never_calls_little_nothing(share, told):
    assert percent(share) == told
