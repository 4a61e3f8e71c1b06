"""The second derivation for templates without generation marks: turns found in the token stream alone.

A turn of the assistant starts with its header (`<|im_start|>`, `assistant`, newline), which no data can write, and ends
with the first stop token behind it. Where these places are those that the text gave, the two agree.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sft_data.chat.spans import TurnFinder, Unproved
from sft_data.chat.thoughts import without_thoughts
from sft_data.tokenize.labels import Encoded, Row
from sft_data.tokenize.tokenizer import LoadedTokenizer

__all__ = ["confirm_by_stops"]


def confirm_by_stops(
    tokenizer: LoadedTokenizer, finder: TurnFinder, rows: Sequence[Row], encoded: Sequence[Encoded]
) -> list[Encoded]:
    """Complete the proof of rows that have one derivation only; those for which there is no second one are unproved."""
    single = [n for n, row in enumerate(rows) if row.rendered.proof[:5] != "marks" and encoded[n].problem is None]
    done = list(encoded)
    if not single:
        return done
    agrees = _agreeing(
        tokenizer, finder, [encoded[n] for n in single], np.array([rows[n].wanted == "last" for n in single])
    )
    for number, agreed in zip(single, agrees, strict=True):
        method = "stops" if agreed else _by_prefixes(finder, rows[number])
        if method is None:
            problem = Unproved("unproved-mask", "no second derivation gives the same turns")
            done[number] = encoded[number]._replace(problem=problem)
        else:
            derivation, _, mapping = encoded[number].proof.partition("+")
            done[number] = encoded[number]._replace(proof=f"{derivation}+{method}+{mapping}")
    return done


def _by_prefixes(finder: TurnFinder, row: Row) -> str | None:
    """The word "prefixes" where rendering up to each turn gives the turns that the skeleton gave, else null."""
    if row.rendered.proof != "slots":
        return None
    try:
        turns = finder.by_prefixes(row.messages, row.tools, row.rendered.text, wanted=row.wanted)
        if row.thoughts == "shown":
            turns = without_thoughts(turns, row.messages, row.rendered.text)
    except Unproved:
        return None
    same = [(t.start, t.end) for t in turns] == [(t.start, t.end) for t in row.rendered.turns]
    return "prefixes" if same else None


def _agreeing(
    tokenizer: LoadedTokenizer, finder: TurnFinder, rows: Sequence[Encoded], last: NDArray[np.bool_]
) -> list[bool]:
    """Whether headers and stop tokens in each row's ids are where its turns (`last`: its last turn) start and end."""
    if finder.header is None:
        return [False] * len(rows)
    header = tokenizer.engine.encode(finder.header, add_special_tokens=False).ids
    ids = np.concatenate([row.ids for row in rows])
    bounds = np.cumsum([0, *(len(row.ids) for row in rows)])
    counts = np.array([len(row.turns) for row in rows], dtype=np.int64)
    heads = _occurrences(ids, header)
    row_of_head = np.searchsorted(bounds, heads, side="right") - 1
    wanted = ~last[row_of_head] | np.append(row_of_head[1:] != row_of_head[:-1], True)[: len(heads)]
    heads, row_of_head = heads[wanted], row_of_head[wanted]
    agrees: NDArray[np.bool_] = np.bincount(row_of_head, minlength=len(rows)) == counts
    heads = heads[agrees[row_of_head]]
    row_of_turn = np.repeat(np.arange(len(rows)), counts)
    turns = np.array([turn for row in rows for turn in row.turns], dtype=np.int64).reshape(-1, 2)
    turns = turns[agrees[row_of_turn]]
    row_of_turn = row_of_turn[agrees[row_of_turn]]
    turns = turns + bounds[row_of_turn, None]
    stops = np.flatnonzero(np.isin(ids, [tokenizer.added[stop] for stop in finder.stops]))
    after = np.searchsorted(stops, heads)
    ends = np.append(stops, -2)[after] + 1
    fits = (heads + len(header) <= turns[:, 0]) & (ends == turns[:, 1])
    agrees[row_of_turn[~fits]] = False
    found: list[bool] = agrees.tolist()
    return found


def _occurrences(ids: NDArray[np.int32], pattern: Sequence[int]) -> NDArray[np.int64]:
    """Places at which a sequence of ids starts."""
    places = np.flatnonzero(ids[: max(0, len(ids) - len(pattern) + 1)] == pattern[0])
    for offset, number in enumerate(pattern[1:], start=1):
        places = places[ids[places + offset] == number]
    return places
