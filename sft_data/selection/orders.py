"""In which order rows take a budget: by score, in turns, far from each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import polars as pl

from sft_data.selection.distances import Chosen, Space

__all__ = ["Choice", "Floors", "distant", "k_center", "ranked_rows", "turns"]

I64 = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

_NEAR = pl.Schema({"row": pl.Int64(), "twin": pl.String(), "cosine": pl.Float64(), "passed": pl.Boolean()})


@dataclass(frozen=True)
class Choice:
    """The order in which rows are offered a place, and of rows without one the nearest row that has one.

    `near`: columns `row`, `twin`, `cosine`, and `passed` where the row was refused for being so near.
    """

    order: I64
    near: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=_NEAR))


@dataclass(frozen=True)
class Floors:
    """What groups have in any case: each row's group by number, and what is asked for of it."""

    groups: I64
    least: Mapping[int, int]


def ranked_rows(rows: pl.DataFrame, *, descending: bool, everything: bool) -> I64:
    """Numbers of the rows by score, best first; without one: behind all, or not at all."""
    slim = rows.select("score", "drawn").with_row_index("row")
    slim = slim if everything else slim.drop_nulls("score")
    order = slim.sort("score", "drawn", "row", descending=[descending, False, False], nulls_last=True)
    return order["row"].to_numpy().astype(np.int64)


def turns(groups: I64, ranked: I64) -> I64:
    """The best of each group, then the second best of each, ...; inside a round by rank."""
    mine = groups[ranked]
    by_group = np.argsort(mine, kind="stable")
    starts = np.flatnonzero(np.diff(mine[by_group], prepend=-2))
    turn = np.empty(len(ranked), dtype=np.int64)
    turn[by_group] = np.arange(len(ranked)) - np.repeat(starts, np.diff(np.append(starts, len(ranked))))
    return ranked[np.argsort(turn, kind="stable")]


def k_center(space: Space, ids: pl.Series, ranked: I64, weights: I64, room: int) -> Choice:
    """Always the row that is farthest from all chosen ones, as long as it fits."""
    chosen, order = _chosen(space, ranked), []
    row, left = int(ranked[0]), room - int(weights[ranked[0]])
    while row >= 0 and left >= 0:
        order.append(row)
        row = chosen.add(row)
        left -= int(weights[row]) if row >= 0 else 0
    return Choice(np.array(order, dtype=np.int64), _near(chosen, ids, passed=np.zeros(len(weights), dtype=np.bool_)))


def distant(space: Space, ids: pl.Series, ranked: I64, weights: I64, room: int, limit: float, floors: Floors) -> Choice:
    """Best first, those that a floor asks for before all others; a row is passed over where it is near a chosen one."""
    chosen, order = _chosen(space, ranked), []
    passed = np.zeros(len(weights), dtype=np.bool_)

    def near(row: int) -> bool:
        if chosen.nearest[row] < limit:
            return False
        # What is chosen behind it does not change what is told of it.
        passed[row], chosen.open[row] = True, False
        return True

    def choose(row: int) -> None:
        order.append(row)
        chosen.add(row)

    need = dict(floors.least)
    for row in ranked[np.isin(floors.groups[ranked], list(need))].tolist() if need else ():
        group, size = int(floors.groups[row]), int(weights[row])
        if not need[group] or near(row):
            continue
        if size > need[group]:
            need[group] = 0  # as with the budget: the first that does not fit ends it
            continue
        need[group] -= size
        choose(row)
    left = room - int(weights[order].sum())
    for row in ranked.tolist():
        if not chosen.open[row] or near(row):
            continue
        left -= int(weights[row])
        if left < 0:
            break
        choose(row)
    return Choice(np.array(order, dtype=np.int64), _near(chosen, ids, passed))


def _chosen(space: Space, ranked: I64) -> Chosen:
    place = np.full(len(space.lengths), -1, dtype=np.int64)
    place[ranked] = np.arange(len(ranked))
    return Chosen(space, place, place >= 0)


def _near(chosen: Chosen, ids: pl.Series, passed: Flags) -> pl.DataFrame:
    rows = np.flatnonzero((chosen.open | passed) & (chosen.who >= 0))
    found = {"row": rows, "twin": ids.gather(chosen.who[rows]), "cosine": chosen.nearest[rows], "passed": passed[rows]}
    return pl.DataFrame(found).cast(_NEAR)
