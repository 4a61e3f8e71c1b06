"""Characters that this project borrows to find its way through rendered text.

They are Unicode noncharacters (U+FDD0 ...), "intended for process-internal uses": no text may contain them, and a row
that does is rejected before it is rendered.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["RESERVED", "TEXT_END", "TEXT_START", "TURN_END", "TURN_START", "cut_marked", "slot", "split_turns"]

TURN_START, TURN_END = "\ufdd0", "\ufdd1"  # around what stands between {% generation %} and {% endgeneration %}
TEXT_START, TEXT_END = "\ufdd2", "\ufdd3"  # around a control string that stands in the data
SLOT_START, SLOT_END = "\ufdd4", "\ufdd5"  # around the number of a slot in a template's skeleton
RESERVED = (TURN_START, TURN_END, TEXT_START, TEXT_END, SLOT_START, SLOT_END)


def slot(name: str) -> str:
    """A stand-in for a text of the data: short, unlike anything a template looks for, not changed by stripping."""
    return f"{SLOT_START}{name}{SLOT_END}"


def split_turns(text: str) -> tuple[str, list[tuple[int, int]]] | None:
    r"""The text without turn marks, and the spans in it that were marked; None where marks do not pair.

    >>> split_turns("A:\ufdd0hi.\ufdd1!")
    ('A:hi.!', [(2, 5)])
    """
    head, *parts = text.split(TURN_START)
    if TURN_END in head:
        return None
    pieces, spans, position = [head], [], len(head)
    for part in parts:
        inner, mark, rest = part.partition(TURN_END)
        if not mark or TURN_END in rest:
            return None
        spans.append((position, position + len(inner)))
        position += len(inner) + len(rest)
        pieces += (inner, rest)
    return "".join(pieces), spans


def cut_marked(text: str, edges: Sequence[int] = ()) -> list[tuple[str, bool]] | None:
    r"""Pieces of a text with text marks: (piece without marks, whether it was marked); None where marks do not pair.

    `edges` are further places, in characters of the unmarked text, at which unmarked pieces are cut.

    >>> cut_marked("say \ufdd2<s>\ufdd3 now", [6])
    [('say ', False), ('<s>', True), (' now', False)]
    >>> cut_marked("say now", [3])
    [('say', False), (' now', False)]
    """
    head, *parts = text.split(TEXT_START)
    if TEXT_END in head:
        return None
    pieces = [(head, False)]
    for part in parts:
        inner, mark, rest = part.partition(TEXT_END)
        if not mark or TEXT_END in rest:
            return None
        pieces += [(inner, True), (rest, False)]
    return [piece for piece in _cut_at(pieces, sorted(edges)) if piece[0]]


def _cut_at(pieces: Sequence[tuple[str, bool]], edges: Sequence[int]) -> list[tuple[str, bool]]:
    cut, position = [], 0
    for piece, marked in pieces:
        inside = [] if marked else [e - position for e in edges if position < e < position + len(piece)]
        for low, high in zip([0, *inside], [*inside, len(piece)], strict=True):
            cut.append((piece[low:high], marked))
        position += len(piece)
    return cut
