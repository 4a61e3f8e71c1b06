"""Charts as SVG text: pure functions of numbers, with labels and a text alternative.

Lengths along the page are in per cent and heights in pixels, so a chart fills whatever room it gets while its
writing keeps its size: readable on a phone without a script. Colours come from the page's style by class.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from markupsafe import Markup, escape

from sft_data.report.model import Distribution

__all__ = ["bar", "histogram", "number", "percent"]

SLIVER = 0.6  # per cent: what is not nothing must be seen
WIDEST = 12.5  # per cent: one bar alone is still a bar


def number(value: float) -> str:
    """A number for a person.

    >>> number(52002), number(0.123456), number(3.0)
    ('52,002', '0.123', '3')
    """
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1000 else f"{value:,.3g}"


def percent(share: float) -> str:
    """A share for a person; what is neither none nor all is not written as such.

    >>> percent(0.5), percent(0.99999), percent(0.00001), percent(1)
    ('50.0 %', '> 99.9 %', '< 0.1 %', '100 %')
    """
    if share in (0, 1):
        return f"{share * 100:.0f} %"
    if share > 0.9995:
        return "> 99.9 %"
    return "< 0.1 %" if share < 0.0005 else f"{share * 100:.1f} %"


def bar(parts: Sequence[tuple[str, float]], whole: float, told: str, height: int = 14) -> Markup:
    """One horizontal bar: `parts` are (class, amount) from left to right, out of `whole`; `told` says it in words."""
    total = max(whole, sum(amount for _, amount in parts), 1e-9)
    widths = [max(SLIVER, amount / total * 100) if amount else 0.0 for _, amount in parts]
    over = sum(widths) - 100
    if over > 0:  # slivers are taken from the longest part
        widest = widths.index(max(widths))
        widths[widest] -= over
    starts = [0.0, *accumulate(widths)]
    rects = Markup("").join(
        Markup('<rect class="{}" x="{:.3f}%" width="{:.3f}%" height="{}"/>').format(name, start, width, height)
        for (name, _), start, width in zip(parts, starts, widths, strict=False)
        if width
    )
    return Markup(
        '<svg class="bar" width="100%" height="{}" role="img" aria-label="{}"><title>{}</title>'
        '<rect class="track" width="100%" height="{}"/>{}</svg>'
    ).format(height, told, told, height, rects)


def histogram(chart: Distribution, height: int = 120) -> Markup:
    """Bars of the kept rows with those that left stacked on top, axis labels, and the median in words."""
    rejected = chart.rejected or [0] * len(chart.kept)
    tallest = max([a + b for a, b in zip(chart.kept, rejected, strict=True)], default=0) or 1
    width = min(WIDEST, 100 / max(1, len(chart.kept)))
    bars = [
        _column(chart, position, width, (kept, gone), (height, tallest))
        for position, (kept, gone) in enumerate(zip(chart.kept, rejected, strict=True))
    ]
    labels = _labels(chart, width, height)
    figures = chart.figures
    words = f"{chart.title}: {sum(chart.kept):,} kept rows"
    if figures:
        low, middle, high = (number(figures[name]) for name in ("p10", "median", "p90"))
        words += f"; median {middle}, 10 % below {low}, 10 % above {high}"
    return Markup(
        '<svg class="histogram" width="100%" height="{}" role="img" aria-label="{}">{}'
        '<line class="axis" x1="0" x2="100%" y1="{}" y2="{}"/>{}</svg>'
    ).format(height + 22, words, Markup("").join(bars), height + 0.5, height + 0.5, labels)


def _column(chart: Distribution, position: int, width: float, rows: tuple[int, int], scale: tuple[int, int]) -> Markup:
    height, tallest = scale
    kept, gone = rows
    room = height - 6
    low, high = (amount / tallest * room for amount in rows)
    if kept > 0 and low < 1:
        low = 1.0
    if gone > 0 and high < 1:
        high = 1.0
    told = f"{_bin(chart, position)}: {kept:,} kept" + (f", {gone:,} rejected" if chart.rejected else "")
    place = (position * width + width * 0.06, width * 0.88)
    return Markup(
        '<g><title>{}</title><rect class="kept" x="{:.3f}%" width="{:.3f}%" y="{:.2f}" height="{:.2f}"/>'
        '<rect class="rejected" x="{:.3f}%" width="{:.3f}%" y="{:.2f}" height="{:.2f}"/></g>'
    ).format(told, *place, height - low, low, *place, height - low - high, high)


def _bin(chart: Distribution, position: int) -> str:
    low = chart.edges[position]
    if position + 1 >= len(chart.edges):
        return f"{number(low)} and more"
    high = chart.edges[position + 1]
    if chart.unit != "share" and high - low == 1:
        return number(low)
    return f"{number(low)} up to {number(high)}"


def _labels(chart: Distribution, width: float, height: int) -> Markup:
    """Edges under the axis, as many as fit on a phone (about six)."""
    step = max(1, -(-len(chart.kept) // 6))
    return Markup("").join(
        Markup('<text class="tick" x="{:.3f}%" y="{}">{}</text>').format(
            position * width, height + 16, _short(chart, position)
        )
        for position in range(0, len(chart.kept), step)
    )


def _short(chart: Distribution, position: int) -> str:
    edge = chart.edges[position]
    if chart.unit == "share":
        return f"{edge * 100:.0f}%"
    return f"{edge / 1000:g}k" if edge >= 1000 else str(escape(number(edge)))
