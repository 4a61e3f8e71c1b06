"""Loss weights that the data gives: of whole rows and of single turns, and the stretches of tokens that have them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl

__all__ = ["HEAVIEST", "Span", "Weights", "everything", "weights_of"]

HEAVIEST = 1e30  # products of more would come near to the largest 32-bit number


class Span(NamedTuple):
    """A stretch that is learnt, in tokens of its row."""

    turn: int  # number of the message; -1: a stretch between answers, or the whole row
    start: int
    end: int  # behind its last token
    weight: float  # of its tokens' loss, as a 32-bit number says it


@dataclass(frozen=True)
class Weights:
    """What the data says about one row."""

    row: float = 1.0
    turns: Mapping[int, float] | None = None  # message number -> weight, where one is given

    def of(self, turn: int) -> float:
        """Weight of a turn: its own (1 where the data gives none) times that of the row, rounded as it is stored."""
        if self is _PLAIN:
            return 1.0
        with np.errstate(over="ignore"):
            return float(np.float32(self.row) * np.float32((self.turns or {}).get(turn, 1.0)))


_PLAIN = Weights()


def weights_of(frame: pl.DataFrame) -> list[Weights]:
    """The weights of every row."""
    found = [_PLAIN] * frame.height
    given = (
        frame.select(row=pl.int_range(pl.len()), m=pl.col("messages"))
        .with_columns(turn=pl.int_ranges(pl.col("m").list.len()))
        .explode("m", "turn")
        .with_columns(weight=pl.col("m").struct.field("weight"))
        .filter(pl.col("weight").is_not_null())
    )
    turns: dict[int, dict[int, float]] = {}
    for row, turn, weight in given.select("row", "turn", "weight").iter_rows():
        turns.setdefault(row, {})[turn] = weight
    rows: dict[int, float] = {}
    if "weight" in frame.columns:
        weights = frame["weight"].fill_null(1.0)
        rows = {row: weights[row] for row in (weights != 1.0).arg_true().to_list()}
    for row in turns.keys() | rows.keys():
        found[row] = Weights(rows.get(row, 1.0), turns.get(row))
    return found


def everything(
    turns: Sequence[tuple[int, int, int]], numbers: Sequence[int], length: int, weights: Weights
) -> list[Span]:
    """Spans over all `length` tokens of a sample whose answers are `turns`: (place among the messages, start, end).

    `numbers` are those of its messages in the conversation.

    What lies between two answers belongs to the messages between them; it has the smallest of their weights. One
    span where all has the weight 1.
    """
    spans = list(_stretches(turns, numbers, length, weights))
    if all(span.weight == 1.0 for span in spans):
        return [Span(-1, 0, length, 1.0)]
    return [span for span in spans if span.weight > 0 and span.start < span.end]


def _stretches(
    turns: Sequence[tuple[int, int, int]], numbers: Sequence[int], length: int, weights: Weights
) -> Iterator[Span]:
    message, place = 0, 0
    for turn, start, end in [*turns, (len(numbers), length, length)]:
        between = [weights.of(number) for number in numbers[message:turn]]
        yield Span(-1, place, start, min(between, default=weights.of(-1)))
        if start < end:
            yield Span(numbers[turn], start, end, weights.of(numbers[turn]))
        message, place = turn + 1, end
