"""The loss curve as a small SVG that a browser shows without anything else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

__all__ = ["loss_curve"]

Points = Sequence[tuple[int, float]]
WIDTH, HEIGHT = 760, 360
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 54, 52

STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #57606a }
  .title { font-size: 15px; font-weight: 600; fill: #1f2328 }
  .grid { stroke: #d8dee4; stroke-width: 1 }
  .train { fill: none; stroke: #9ec5f4; stroke-width: 1.5 }
  .smooth { fill: none; stroke: #1f6feb; stroke-width: 2.5; stroke-linejoin: round }
  .eval { fill: none; stroke: #bc4c00; stroke-width: 2; stroke-dasharray: 5 4 }
  .dot { fill: #bc4c00 }
"""


def loss_curve(train: Points, held_out: Points, title: str) -> str:
    """An SVG document: loss of each step, its running mean, and the held-out loss, against steps."""
    everything = [*train, *held_out]
    steps = _ticks(0, max((step for step, _ in everything), default=1), whole=True)
    losses = _ticks(min((y for _, y in everything), default=0.0), max((y for _, y in everything), default=1.0))

    def place(point: tuple[float, float]) -> str:
        x = LEFT + (point[0] - steps[0]) / (steps[-1] - steps[0]) * (WIDTH - LEFT - RIGHT)
        y = HEIGHT - BOTTOM - (point[1] - losses[0]) / (losses[-1] - losses[0]) * (HEIGHT - TOP - BOTTOM)
        return f"{x:.1f},{y:.1f}"

    def line(points: Points, kind: str) -> str:
        return f'<polyline class="{kind}" points="{" ".join(map(place, points))}"/>' if len(points) > 1 else ""

    dots = "".join('<circle class="dot" r="3.5" cx="{}" cy="{}"/>'.format(*place(p).split(",")) for p in held_out)
    lines = line(train, "train") + line(_smooth(train), "smooth") + line(held_out, "eval") + dots
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}"><style>{STYLE}</style><rect width="100%" height="100%" fill="#fff"/>'
        f'<text class="title" x="{LEFT}" y="24">{escape(title)}</text>{_axes(steps, losses, place)}{lines}'
        f"{_legend(bool(held_out))}</svg>\n"
    )


def _axes(steps: Sequence[float], losses: Sequence[float], place: object) -> str:
    assert callable(place)  # noqa: S101 - given by loss_curve
    parts = []
    for loss in losses:
        y = float(place((steps[0], loss)).split(",")[1])
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{loss:g}</text>')
    for step in steps:
        x = float(place((step, losses[0])).split(",")[0])
        parts.append(f'<text x="{x}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{step:g}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">step</text>')
    parts.append(
        f'<text transform="rotate(-90 16 {middle})" x="16" y="{middle}" text-anchor="middle">loss (nats)</text>'
    )
    return "".join(parts)


def _legend(held_out: bool) -> str:  # noqa: FBT001 - the flag is the value
    names = [("train", "each step"), ("smooth", "running mean"), *([("eval", "held out")] if held_out else [])]
    parts = []
    for i, (kind, name) in enumerate(reversed(names)):
        x = WIDTH - RIGHT - 136 * (i + 1) + 50
        parts.append(
            f'<line class="{kind}" x1="{x}" x2="{x + 24}" y1="42" y2="42"/><text x="{x + 30}" y="46">{name}</text>'
        )
    return "".join(parts)


def _smooth(points: Points) -> list[tuple[int, float]]:
    """Mean of a step and those before it with weights that fall by half in a twentieth of the run."""
    keep = 0.5 ** (20 / max(len(points), 20))
    mean, weight, out = 0.0, 0.0, []
    for step, loss in points:
        mean, weight = keep * mean + (1 - keep) * loss, keep * weight + (1 - keep)
        out.append((step, mean / weight))
    return out


def _ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Four to eight round numbers that enclose low and high.

    >>> _ticks(0, 60, whole=True)
    [0, 10, 20, 30, 40, 50, 60]
    """
    span = max(high - low, 1 if whole else 1e-3)
    size = 10.0 ** math.floor(math.log10(span / 4))
    size = next(size * factor for factor in (1, 2, 5, 10) if span / (size * factor) <= 7)
    if whole:
        size = max(1, round(size))
    first, last = math.floor(low / size), math.ceil(high / size)
    return [round(i * size, 10) for i in range(first, max(last, first + 1) + 1)]
