"""What the terminal and the page show alike: stretches of tokens, and the words about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sft_data.chat.preview.read import PreviewPack, PreviewRow, PreviewSegment, PreviewSpan
from sft_data.pack.shards import IGNORED
from sft_data.report.visible import visible

__all__ = [
    "Piece",
    "pack_told",
    "padding_told",
    "pieces",
    "row_told",
    "segment_told",
    "signs",
    "span_told",
    "spans_told",
]


class Piece(NamedTuple):
    """One token as it is shown."""

    number: int
    id: int
    token: str
    trained: bool
    weight: float
    special: bool


def pieces(of: PreviewRow | PreviewPack, start: int = 0, end: int | None = None) -> list[Piece]:
    """The tokens of a row, or of a part of a pack."""
    stop = len(of.ids) if end is None else end
    weights = of.weights if of.weights is not None else [1.0] * len(of.ids)
    return [
        Piece(n, of.ids[n], of.tokens[n], of.labels[n] != IGNORED, weights[n], of.specials[n])
        for n in range(start, stop)
    ]


def signs(token: str) -> str:
    """A token as it can be looked at: a line break is shown and made."""
    return visible(token).replace("\n", "↵\n")


def span_told(span: PreviewSpan) -> str:
    """Which turn is trained where, and by what weight."""
    turn = "all" if span.turn < 0 else f"turn {span.turn}"
    return f"{turn} [{span.start}, {span.end}) x {span.weight:g}"


def spans_told(spans: Sequence[PreviewSpan]) -> str:
    """All trained stretches."""
    return "weights: " + (", ".join(span_told(span) for span in spans) or "nothing is trained")


def row_told(row: PreviewRow) -> str:
    """A row in figures."""
    return f"{row.split}, row {row.row:,}: {row.trained:,} of {len(row.ids):,} tokens trained, proof {row.proof}"


def pack_told(pack: PreviewPack) -> str:
    """A pack in figures."""
    rows = len(pack.segments)
    return (
        f"pack {pack.number:,} of {pack.split} (0 to {pack.packs - 1:,}, {pack.method}): {rows:,} "
        f"{'row' if rows == 1 else 'rows'}, {len(pack.ids):,} of {pack.width:,} places taken, "
        f"{pack.trained:,} tokens trained"
    )


def segment_told(pack: PreviewPack, number: int, segment: PreviewSegment) -> str:
    """A segment in figures, without its id."""
    return (
        f"segment {number} of {len(pack.segments)} [{segment.start}, {segment.end}), row {segment.row:,}: "
        f"{segment.trained:,} of {segment.end - segment.start:,} tokens trained"
    )


def padding_told(pack: PreviewPack) -> str:
    """How much of the pack is empty."""
    return f"padding: {pack.padding:,} of {pack.width:,} places ({pack.padding / pack.width:.1%}), never trained"
