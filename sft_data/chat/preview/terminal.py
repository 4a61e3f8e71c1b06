"""The preview in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from sft_data.chat.preview.pieces import (
    Piece,
    pack_told,
    padding_told,
    pieces,
    segment_told,
    signs,
    spans_told,
)
from sft_data.chat.preview.read import Preview, PreviewPack
from sft_data.report.visible import visible

__all__ = ["print_preview"]


def print_preview(console: Console, found: Preview) -> None:
    """Tokens in the terminal: trained ones green (yellow where they weigh other than 1), special ones reversed.

    Every line break stands there also as a sign. In a pack, a line stands between the segments.
    """
    if found.pack is not None:
        _print_pack(console, found.pack)
    for row in found.rows:
        told = f"{row.id}  {row.split}  {row.trained} of {len(row.ids)} tokens trained  {row.proof}"
        console.print(Text(visible(told), style="bold"))
        console.print(_coloured(pieces(row)))
        console.print(Text(spans_told(row.spans), style="dim"))
        console.print()


def _print_pack(console: Console, pack: PreviewPack) -> None:
    console.print(Text(pack_told(pack), style="bold"))
    for number, segment in enumerate(pack.segments, start=1):
        console.rule(style="dim")
        console.print(Text(visible(segment.id), style="bold"))
        console.print(Text(segment_told(pack, number, segment), style="dim"))
        console.print(_coloured(pieces(pack, segment.start, segment.end)))
        console.print(Text(spans_told(segment.spans), style="dim"))
    console.rule(style="dim")
    console.print(Text(padding_told(pack), style="dim"))


def _coloured(shown: Sequence[Piece]) -> Text:
    text = Text(overflow="fold")
    for piece in shown:
        style = "dim" if not piece.trained else "green" if piece.weight == 1 else "yellow"
        text.append(signs(piece.token), style=f"{style} reverse" if piece.special else style)
    return text
