"""Candidates, their verification, and the two decisions made of them.

Rows that share a band key stand in one bucket (see `gathering`). Every pair of a bucket that could matter is verified
by the exact Jaccard similarity of its shingle sets: no cap cuts a large bucket short. Equal parts are recognised by
their keys before any set is read.

Large buckets are what data made from templates has: a thousand questions to one passage, ten thousand refusals in the
same words. Where a row would have to be held against many, it looks its twin up in the relation (conversation, prompt
or answer) in which it has the fewest candidates: a twin is near in all of them.
"""

# Kernels take what numba infers, so they are not annotated.
# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from sft_data.dedup.gathering import LARGE, Buckets
from sft_data.dedup.memory import window

__all__ = [
    "CRITERIA",
    "Found",
    "Rule",
    "Sets",
    "Shard",
    "begins",
    "components",
    "greedy",
    "join_equal",
    "place",
    "sets_of",
    "similar",
]

_AT_ONCE, _MET = 32, 512  # rows whose candidates are noted together, and how many of a row
_FEW = 64  # candidates that a row is held against before it looks for a relation with fewer

I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]
Bools = npt.NDArray[np.bool_]

CRITERIA = ("prompt-and-answer", "conversation", "prompt", "answer")
_BOTH, _WHOLE, _PROMPT, _ANSWER = range(4)
_GONE, _KEPT, _KEPT_SHORT, _OPEN = range(4)  # what became of a row; it is gone until its turn comes


class Shard(NamedTuple):
    """What a sketch tells of the rows of a shard, as it lies in memory."""

    keys: npt.NDArray[np.uint64]  # (rows, 3), see shingles.ShingleSets
    numbers: npt.NDArray[np.uint64]  # (rows, 3)
    counts: npt.NDArray[np.uint32]  # (rows, 3) shingles of each part
    bounds: I64  # (rows + 1,) where in `values` the shingles of each row start
    values: npt.NDArray[np.uint64]  # sorted sets, those of a row's parts one behind the other


class Sets(NamedTuple):
    """All shards where they lie, in two windows over memory: nothing is copied, whatever the rows are many."""

    firsts: I64  # (shards + 1,) the first row of each shard, and behind them the number of rows
    guess: I32  # of every 256th row the shard
    at: I64  # (shards, 5) where in `words` keys, numbers, bounds and values of each shard are, in `halves` its counts
    words: npt.NDArray[np.uint64]
    halves: npt.NDArray[np.uint32]


def sets_of(shards: Sequence[Shard]) -> Sets:
    """The sets of all rows."""
    words, places = window(
        [array for shard in shards for array in (shard.keys, shard.numbers, shard.bounds, shard.values)], np.uint64
    )
    halves, counts = window([shard.counts for shard in shards], np.uint32)
    firsts = np.cumsum([0, *(len(shard.keys) for shard in shards)], dtype=np.int64)
    guess = np.searchsorted(firsts, np.arange(0, int(firsts[-1]) + 1, 256), side="right") - 1
    at = np.column_stack([np.array(places, dtype=np.int64).reshape(-1, 4), np.array(counts, dtype=np.int64)])
    return Sets(firsts, guess.astype(np.int32), np.ascontiguousarray(at), words, halves)


class Rule(NamedTuple):
    """When two rows are near, and when a row goes."""

    mode: int  # place of the criterion in CRITERIA
    threshold: float
    same_numbers: bool  # rows with other numbers are not near
    strict_short: bool  # equal short answers ask for the same prompt
    copies: int = 1  # near rows that stay


@dataclass(frozen=True)
class Found:
    """What `greedy` decided for each row."""

    twin: I32  # the kept row that it is near to, -1 where the row itself is kept
    score: npt.NDArray[np.float64]  # the similarity that counts


class _Shared(NamedTuple):
    """The buckets of several relations where they lie, and room for the rows of large buckets that still matter."""

    memory: I32  # a window over all of them
    at: I64  # (portions, 3) where in it the offsets, buckets and rows of each portion are
    firsts: I64  # (relations + 1,) the first portion of each relation
    large: I64  # (portions,) the place before which its buckets are large
    lists: I64  # (portions,) where in `members` the lists of its large buckets begin; they lie as the buckets do
    members: I32
    fill: I32  # at the place where a list begins: how long it is


def _shared_of(relations: Sequence[Sequence[Buckets]]) -> _Shared:
    every = [buckets for relation in relations for buckets in relation]
    memory, at = window([array for buckets in every for array in buckets[:3]], np.int32)
    large = np.array([buckets.large for buckets in every], dtype=np.int64)
    return _Shared(
        memory,
        np.array(at, dtype=np.int64).reshape(-1, 3),
        np.cumsum([0, *map(len, relations)], dtype=np.int64),
        large,
        np.cumsum(large) - large,
        np.empty(int(large.sum()), dtype=np.int32),
        np.zeros(int(large.sum()), dtype=np.int32),
    )


class _Met(NamedTuple):
    """What the next rows of the order have met in the small buckets of the first relation."""

    notes: I64  # (rows,) by which row it was met last (its turn + 1, in the upper half), and where it stands below
    ends: I32  # (_AT_ONCE,) where in `others` the rows of each end; -1 for a row that is looked up otherwise
    others: I32
    times: I32  # in how many buckets


class Candidates(NamedTuple):
    """Of some rows, the others that they share a small bucket of the first relation with, and how near those are."""

    offsets: I32  # (rows + 1,) where in the other arrays those of each row start
    others: I32
    times: I32  # how many small buckets a row shares with the other
    nears: npt.NDArray[np.float64]  # the similarity by the criterion, 0 where they are not near


class _Ahead(NamedTuple):
    """The candidates of all rows from `first` on, in pieces of `step` rows each, where they lie."""

    first: int
    step: int
    at: I64  # (pieces, 4) where in `numbers` the offsets, others and times, and where in `nears` the similarities are
    numbers: I32
    nears: npt.NDArray[np.float64]


def _ahead_of(pieces: Sequence[Candidates], first: int) -> _Ahead:
    numbers, at = window([array for piece in pieces for array in piece[:3]], np.int32)
    nears, places = window([piece.nears for piece in pieces], np.float64)
    both = np.column_stack([np.array(at, dtype=np.int64).reshape(-1, 3), np.array(places, dtype=np.int64)])
    step = len(pieces[0].offsets) - 1 if pieces else 1
    return _Ahead(first, max(1, step), np.ascontiguousarray(both), numbers, nears)


def candidates(
    sets: Sets, relation: Sequence[Buckets], first: int, end: int, rule: Rule, *, earlier: bool
) -> Candidates:
    """Look up the rows from `first` to `end` ahead of the decision; with `earlier` only rows that stand before them."""
    offsets = np.zeros(end - first + 1, dtype=np.int32)
    others, times, nears, _ = _look_up(sets, _shared_of([relation]), first, end, rule, earlier, offsets)
    return Candidates(offsets, others, times, nears)


def greedy(
    sets: Sets,
    relations: Sequence[Sequence[Buckets]],
    alike: Sequence[Buckets],
    order: I32,
    rule: Rule,
    settled: int = 0,
    ahead: Sequence[Candidates] = (),
) -> Found:
    """Go through the rows in `order`; remove a row that is near a row kept before it, keep it otherwise.

    The first `settled` rows of the order stay in any case. Every removed row is similar to the row that was kept for
    it, and unlike rows are never chained together. Of several kept rows the most similar one is named, of equals the
    one with the first claim. `relations` are different ways to find the same pairs; where short answers ask for the
    same prompt, rows that have one are looked up in `alike` only. What was looked up `ahead`, of all rows but the
    settled ones, is not looked up again.
    """
    rows = len(order)
    found = Found(np.full(rows, -1, dtype=np.int32), np.zeros(rows, dtype=np.float64))
    shared = _shared_of([*relations, alike])
    _greedy(sets, shared, _ahead_of(ahead, settled), order, rule, settled, found.twin, found.score)
    return found


def similar(sets: Sets, rows: I64, twins: I32, rule: Rule) -> npt.NDArray[np.float64]:
    """The similarity of each part of some rows to their twins: (rows, 3)."""
    parts = np.zeros((len(rows), 3), dtype=np.float64)
    _similar(sets, rows, twins, rule, parts)
    return parts


def components(
    sets: Sets, relation: Sequence[Buckets], stands: Bools, part: int, threshold: float, parent: I32
) -> None:
    """Join in `parent` those rows of `stands` that are near in one part (3: in prompt and answer as one).

    `parent` is a forest over row numbers whose roots are the smallest row of each tree; it is changed in place.
    """
    shared = _shared_of([relation])
    _join_near(sets, shared, stands, part, threshold, parent, np.empty_like(shared.members))


def join_equal(sets: Sets, equal: Sequence[Buckets], kept: Bools, parts: tuple[int, ...], parent: I32) -> Bools:
    """Join the kept rows whose `parts` are equal (they share a bucket of `equal`); true for the first of each group.

    Empty parts join nothing. One row then stands for all: a question that was asked a thousand times makes no bucket of
    a thousand.
    """
    stands = kept.copy()
    _leave_empty(sets, np.array(parts), stands)
    for buckets in equal:
        _join_buckets(buckets.rows, stands, parent)
    return stands


@numba.njit(cache=True, nogil=True)
def _shared(values, a, a_end, b, b_end, needed):
    """Size of the intersection of two sorted sets; where it cannot reach `needed` any more, some smaller number.

    Sixteen steps without a branch on the data, since every such branch would be guessed wrong half of the time.
    """
    shared = np.int64(0)
    while True:
        left = min(a_end - a, b_end - b)
        if left == 0 or shared + left < needed:
            return shared
        for _ in range(min(left, 16)):
            x, y = values[a], values[b]
            shared += np.int64(x == y)
            a += np.int64(x <= y)
            b += np.int64(y <= x)


@numba.njit(cache=True, nogil=True)
def _needed(left, right, threshold):
    """Fewest shared shingles with which sets of these sizes could be near, rounded down."""
    return np.int64(threshold / (1.0 + threshold) * (left + right) - 1e-6)


@numba.njit(cache=True, nogil=True, inline="always")
def place(sets, row):
    """Where in `words` a row's keys and numbers are, in `halves` its counts, in `words` its bound and all the sets."""
    shard = sets.guess[row >> 8]
    while sets.firsts[shard + 1] <= row:
        shard += 1
    inside = row - sets.firsts[shard]
    at, three = sets.at, 3 * inside
    return at[shard, 0] + three, at[shard, 1] + three, at[shard, 4] + three, at[shard, 2] + inside, at[shard, 3]


@numba.njit(cache=True, nogil=True, inline="always")
def begins(sets, i):
    """Where in `words` the shingles of a row (told by `place`) begin: one more page to read, of candidates only."""
    return i[4] + np.int64(sets.words[i[3]])


@numba.njit(cache=True, nogil=True)
def _overlap(sets, i, j, part, needed):
    """How many shingles one part of two rows shares. Short texts share theirs only where they are the same text."""
    left, right = sets.words[i[0] + part], sets.words[j[0] + part]
    if left == right:
        return np.int64(sets.halves[i[2] + part])
    if left & np.uint64(1) == 0 or right & np.uint64(1) == 0:
        return np.int64(0)
    a, b = begins(sets, i), begins(sets, j)
    for before in range(part):
        a += np.int64(sets.halves[i[2] + before])
        b += np.int64(sets.halves[j[2] + before])
    a_end, b_end = a + np.int64(sets.halves[i[2] + part]), b + np.int64(sets.halves[j[2] + part])
    return _shared(sets.words, a, a_end, b, b_end, needed)


@numba.njit(cache=True, nogil=True)
def _jaccard(sets, i, j, part, threshold):
    """Exact Jaccard similarity of one part, if it reaches the threshold; else some number below it."""
    if sets.words[i[0] + part] == sets.words[j[0] + part]:
        return 1.0
    left, right = np.int64(sets.halves[i[2] + part]), np.int64(sets.halves[j[2] + part])
    if min(left, right) / max(left, right) < threshold:
        return 0.0
    shared = _overlap(sets, i, j, part, _needed(left, right, threshold))
    return shared / (left + right - shared)


@numba.njit(cache=True, nogil=True)
def _whole(sets, i, j, threshold):
    """The same for prompt and answer in one, their shingles counted apart."""
    left, right = np.int64(0), np.int64(0)
    for part in range(1, 3):
        left += np.int64(sets.halves[i[2] + part])
        right += np.int64(sets.halves[j[2] + part])
    if left + right == 0:
        return 1.0
    if min(left, right) / max(left, right) < threshold:
        return 0.0
    needed = _needed(left, right, threshold)
    in_answer = np.int64(min(sets.halves[i[2] + 2], sets.halves[j[2] + 2]))
    shared = _overlap(sets, i, j, 1, needed - in_answer)
    shared += _overlap(sets, i, j, 2, needed - shared)
    return shared / (left + right - shared)


@numba.njit(cache=True, nogil=True)
def _near(sets, i, j, rule, seen):
    """The similarity of two rows (told by `place`) by the criterion, 0 where they are not near; by part in `seen`."""
    first = 2 if rule.mode == _ANSWER else 0
    last = 2 if rule.mode == _PROMPT else 3
    if rule.same_numbers:
        for part in range(first, last):
            if sets.words[i[1] + part] != sets.words[j[1] + part]:
                return 0.0
    seen[:] = 1.0
    lowest = 1.0
    for part in range(first, 1 if rule.mode == _WHOLE else last):
        similarity = _jaccard(sets, i, j, part, rule.threshold)
        if similarity < rule.threshold:
            return 0.0
        seen[part] = similarity
        lowest = min(lowest, similarity)
    if rule.mode == _WHOLE:
        whole = _whole(sets, i, j, rule.threshold)
        seen[1:] = whole
        return min(whole, lowest) if whole >= rule.threshold else 0.0
    if rule.strict_short and _is_short(sets, i) and (seen[0] < 1.0 or seen[1] < 1.0):
        return 0.0
    return lowest


@numba.njit(cache=True, nogil=True, inline="always")
def _is_short(sets, i):
    """Whether the answer of a row is below the shingle length."""
    return sets.words[i[0] + 2] & np.uint64(1) == 0


@numba.njit(cache=True, nogil=True)
def _similar(sets, rows, twins, rule, parts):
    touched = np.uint64(0)
    for at in range(len(rows)):
        if at % _AT_ONCE == 0:
            for later in range(at, min(at + _AT_ONCE, len(rows))):
                touched ^= _touch(sets, rows[later]) ^ _touch(sets, np.int64(twins[later]))
        _near(sets, place(sets, rows[at]), place(sets, np.int64(twins[at])), rule, parts[at])
    return touched


@numba.njit(cache=True, nogil=True, inline="always")
def _touch(sets, row):
    """Read where the sets of a row begin, for the processor to fetch them; what is returned has to be used."""
    here = place(sets, row)
    return sets.words[here[0]] ^ np.uint64(sets.halves[here[2]]) ^ sets.words[begins(sets, here)]


@numba.njit(cache=True, nogil=True, inline="always")
def _crowd(shared, portion, bucket, state, few, used):
    """How many rows were kept in a bucket; their numbers go to `few` behind `used` as long as there is room."""
    many = np.int64(0)
    if bucket < shared.large[portion]:
        first = shared.lists[portion] + bucket
        many = np.int64(shared.fill[first])
        for at in range(first, first + min(many, len(few) - used)):
            few[used] = shared.members[at]
            used += 1
    else:
        at = shared.at[portion, 2] + bucket
        row = np.int64(0)
        while row >= 0:
            row = np.int64(shared.memory[at])
            at += 1
            if state[max(row, ~row)] == _KEPT:
                if used < len(few):
                    few[used] = max(row, ~row)
                    used += 1
                many += 1
    return many


@numba.njit(cache=True, nogil=True)
def _crowds(shared, relation, row, state, few):
    """The same of all buckets of a row in a relation; a row that shares several of them counts in each."""
    many = np.int64(0)
    for portion in range(shared.firsts[relation], shared.firsts[relation + 1]):
        offsets, buckets = shared.at[portion, 0] + row, shared.at[portion, 1]
        for mine in range(buckets + shared.memory[offsets], buckets + shared.memory[offsets + 1]):
            many += _crowd(shared, portion, np.int64(shared.memory[mine]), state, few, many)
    return many


@numba.njit(cache=True, nogil=True)
def _fewest(shared, relations, row, state, few):
    """The relation in which the row has the fewest candidates, the first as long as it has few; and how many."""
    best, fewest = 0, _crowds(shared, 0, row, state, few)
    if fewest > _FEW:
        for relation in range(1, relations):
            many = _crowds(shared, relation, row, state, few[:0])
            if many < fewest:
                best, fewest = relation, many
    return best, fewest


@numba.njit(cache=True, nogil=True)
def _look_up(sets, shared, first, end, rule, earlier, offsets):
    others = np.empty(4 * (end - first) + 64, dtype=np.int32)
    times = np.empty_like(others)
    found_by = np.full(sets.firsts[-1], -1, dtype=np.int32)
    where = np.empty(sets.firsts[-1], dtype=np.int32)
    used = 0
    for i in range(first, end):
        skip = rule.strict_short and _is_short(sets, place(sets, i))  # it is looked up elsewhere
        for portion in range(0 if skip else len(shared.large)):
            row_at, buckets = shared.at[portion, 0] + i, shared.at[portion, 1]
            for mine in range(buckets + shared.memory[row_at], buckets + shared.memory[row_at + 1]):
                bucket = np.int64(shared.memory[mine])
                if bucket < shared.large[portion]:
                    continue
                at = shared.at[portion, 2] + bucket
                row = np.int64(0)
                while row >= 0:
                    row = np.int64(shared.memory[at])
                    at += 1
                    j = max(row, ~row)
                    if j >= i if earlier else j == i:
                        continue
                    if found_by[j] == i:
                        times[where[j]] += 1
                        continue
                    if used == len(others):
                        others, times = _twice(others), _twice(times)
                    found_by[j], where[j] = i, used
                    others[used], times[used] = j, 1
                    used += 1
        offsets[i - first + 1] = used
    others, times = others[:used].copy(), times[:used].copy()
    nears = np.empty(used, dtype=np.float64)
    seen = np.zeros(3, dtype=np.float64)
    touched = np.uint64(0)
    row = np.int64(0)
    for at in range(used):
        if at % _AT_ONCE == 0:
            for later in range(at, min(at + _AT_ONCE, used)):
                touched ^= _touch(sets, np.int64(others[later]))
        while offsets[row + 1] <= at:
            row += 1
        nears[at] = _near(sets, place(sets, first + row), place(sets, np.int64(others[at])), rule, seen)
    return others, times, nears, touched


@numba.njit(cache=True, nogil=True)
def _twice(array):
    longer = np.empty(2 * len(array), dtype=array.dtype)
    longer[: len(array)] = array
    return longer


@numba.njit(cache=True, nogil=True)
def _listed(shared, row):
    """How many kept rows stand in the large buckets of a row in the first relation."""
    many = np.int64(0)
    for portion in range(shared.firsts[0], shared.firsts[1]):
        if shared.large[portion]:
            offsets, buckets = shared.at[portion, 0] + row, shared.at[portion, 1]
            for mine in range(buckets + shared.memory[offsets], buckets + shared.memory[offsets + 1]):
                if shared.memory[mine] < shared.large[portion]:
                    many += shared.fill[shared.lists[portion] + shared.memory[mine]]
    return many


@numba.njit(cache=True, nogil=True)
def _known(ahead, i, state, claim, twin, score):
    """How many kept rows share small buckets with row `i`, each bucket counted; and how many are near."""
    piece, inside = (i - ahead.first) // ahead.step, (i - ahead.first) % ahead.step
    numbers = ahead.numbers
    low, high = numbers[ahead.at[piece, 0] + inside], numbers[ahead.at[piece, 0] + inside + 1]
    many, near_rows = np.int64(0), 0
    for at in range(low, high):
        j = np.int64(numbers[ahead.at[piece, 1] + at])
        if state[j] != _KEPT:
            continue
        many += numbers[ahead.at[piece, 2] + at]
        near = ahead.nears[ahead.at[piece, 3] + at]
        if near > score[i] or (near > 0.0 and near == score[i] and claim[j] < claim[twin[i]]):
            score[i], twin[i] = near, j
        if near > 0.0:
            near_rows += 1
    return many, near_rows


@numba.njit(cache=True, nogil=True)
def _greedy(sets, shared, ahead, order, rule, settled, twin, score):
    rows, relations = len(order), len(shared.firsts) - 2  # the last one is `alike`
    claim = np.empty(rows, dtype=np.int32)
    for turn in range(rows):
        claim[order[turn]] = turn
    state = np.full(rows, _GONE, dtype=np.uint8)
    checked = np.full(rows, -1, dtype=np.int32)
    seen = np.zeros(3, dtype=np.float64)
    few = np.empty(_FEW, dtype=np.int32)
    met = _Met(np.zeros(rows, dtype=np.int64), np.empty(_AT_ONCE + 1, dtype=np.int32),
               np.empty(_AT_ONCE * _MET, dtype=np.int32), np.empty(_AT_ONCE * _MET, dtype=np.int32))  # fmt: skip
    touched = np.uint64(0)
    for turn in range(rows):
        if turn % _AT_ONCE == 0 and len(ahead.at) == 0:
            touched ^= _meet(sets, shared, order, turn, min(turn + _AT_ONCE, rows), settled, rule, state, met)
        i = np.int64(order[turn])
        here = place(sets, i)
        short = rule.strict_short and _is_short(sets, here)
        kind = _KEPT_SHORT if short else _KEPT
        if turn >= settled:
            many, near_rows = np.int64(_FEW + 1), 0
            if len(ahead.at):
                if not short and _listed(shared, i) == 0:
                    many, near_rows = _known(ahead, i, state, claim, twin, score)
            elif met.ends[turn % _AT_ONCE] >= 0:
                many, near_rows = _compare(sets, met, turn % _AT_ONCE, i, here, rule, state, claim, seen, twin, score)
            if many > _FEW:
                twin[i], score[i] = -1, 0.0
                near_rows = _search(
                    sets, shared, relations, i, here, kind, rule, claim, state, checked, seen, few, twin, score
                )
            if near_rows >= rule.copies:
                state[i] = _GONE
                continue
            twin[i], score[i] = -1, 0.0
        state[i] = kind
        _enlist(shared, i, relations if short else 0, relations + 1 if short else relations)
    return touched


@numba.njit(cache=True, nogil=True)
def _meet(sets, shared, order, first, end, settled, rule, state, met):
    """Note for the next rows of the order which rows share a small bucket of the first relation, and touch their sets.

    What the processor waits for most is memory that it has not seen: so the sets of all these rows are on their way
    before the first two are compared. Rows that have to be looked up otherwise get no end.
    """
    for turn in range(first, end):
        state[order[turn]] = _OPEN
    used, touched = 0, np.uint64(0)
    for turn in range(first, end):
        i = np.int64(order[turn])
        opened = used
        odd = turn < settled or (rule.strict_short and _is_short(sets, place(sets, i)))
        for portion in range(shared.firsts[0], shared.firsts[0] if odd else shared.firsts[1]):
            offsets, buckets = shared.at[portion, 0] + i, shared.at[portion, 1]
            for mine in range(buckets + shared.memory[offsets], buckets + shared.memory[offsets + 1]):
                bucket = np.int64(shared.memory[mine])
                if bucket < shared.large[portion] or used - opened > _MET - LARGE:
                    odd = True
                if odd:
                    break
                at = shared.at[portion, 2] + bucket
                row = np.int64(0)
                while row >= 0:
                    row = np.int64(shared.memory[at])
                    at += 1
                    j = max(row, ~row)
                    if (state[j] != _KEPT and state[j] != _OPEN) or j == i:
                        continue
                    note = met.notes[j]
                    if note >> 32 == turn + 1:
                        met.times[note & 0xFFFFFFFF] += 1
                        continue
                    met.notes[j] = np.int64(turn + 1) << 32 | used
                    met.others[used], met.times[used] = j, 1
                    used += 1
        if odd:
            used = opened
        met.ends[turn % _AT_ONCE] = -1 if odd else used
    for at in range(used):
        touched ^= _touch(sets, np.int64(met.others[at]))
    return touched


@numba.njit(cache=True, nogil=True)
def _compare(sets, met, at, i, here, rule, state, claim, seen, twin, score):
    """How many kept rows share small buckets with row `i`, each bucket counted; and how many are near."""
    low = np.int64(0)
    for before in range(at - 1, -1, -1):
        if met.ends[before] >= 0:
            low = np.int64(met.ends[before])
            break
    many, near_rows = np.int64(0), 0
    for turn in range(low, met.ends[at]):
        j = np.int64(met.others[turn])
        if state[j] == _KEPT:
            many += met.times[turn]
    if many > _FEW:
        return many, near_rows
    for turn in range(low, met.ends[at]):
        j = np.int64(met.others[turn])
        if state[j] == _KEPT:
            near = _near(sets, here, place(sets, j), rule, seen)
            if near > score[i] or (near > 0.0 and near == score[i] and claim[j] < claim[twin[i]]):
                score[i], twin[i] = near, j
            if near > 0.0:
                near_rows += 1
    return many, near_rows


@numba.njit(cache=True, nogil=True)
def _search(sets, shared, relations, i, here, kind, rule, claim, state, checked, seen, few, twin, score):
    """Hold row `i` against the kept rows of the relation that has the fewest; how many are near."""
    if kind == _KEPT_SHORT:
        return _walk(sets, shared, relations, i, here, kind, rule, claim, state, checked, seen, twin, score)
    relation, many = _fewest(shared, relations, i, state, few)
    if relation != 0 or many > _FEW:
        return _walk(sets, shared, relation, i, here, kind, rule, claim, state, checked, seen, twin, score)
    near_rows = 0
    for at in range(many):
        near_rows += _hold(sets, i, here, np.int64(few[at]), rule, claim, checked, seen, twin, score)
    return near_rows


@numba.njit(cache=True, nogil=True)
def _walk(sets, shared, relation, i, here, kind, rule, claim, state, checked, seen, twin, score):
    """Hold row `i` against all kept rows that share a bucket of a relation with it; how many are near."""
    near_rows = 0
    for portion in range(shared.firsts[relation], shared.firsts[relation + 1]):
        offsets, buckets = shared.at[portion, 0] + i, shared.at[portion, 1]
        for mine in range(buckets + shared.memory[offsets], buckets + shared.memory[offsets + 1]):
            bucket = np.int64(shared.memory[mine])
            if bucket < shared.large[portion]:
                first = shared.lists[portion] + bucket
                for at in range(first, first + shared.fill[first]):
                    j = np.int64(shared.members[at])
                    near_rows += _hold(sets, i, here, j, rule, claim, checked, seen, twin, score)
                continue
            at = shared.at[portion, 2] + bucket
            row = np.int64(0)
            while row >= 0:
                row = np.int64(shared.memory[at])
                at += 1
                j = max(row, ~row)
                if state[j] == kind:
                    near_rows += _hold(sets, i, here, j, rule, claim, checked, seen, twin, score)
    return near_rows


@numba.njit(cache=True, nogil=True, inline="always")
def _hold(sets, i, here, j, rule, claim, checked, seen, twin, score):
    """Hold row `i` against the kept row `j`, once: 1 where they are near. The nearest one becomes the twin."""
    if checked[j] == i:
        return 0
    checked[j] = i
    near = _near(sets, here, place(sets, j), rule, seen)
    if near > score[i] or (near > 0.0 and near == score[i] and claim[j] < claim[twin[i]]):
        score[i], twin[i] = near, j
    return 1 if near > 0.0 else 0


@numba.njit(cache=True, nogil=True)
def _enlist(shared, row, relation, end):
    """Put a kept row on the lists of its large buckets."""
    for portion in range(shared.firsts[relation], shared.firsts[end]):
        offsets, buckets = shared.at[portion, 0] + row, shared.at[portion, 1]
        for mine in range(buckets + shared.memory[offsets], buckets + shared.memory[offsets + 1]):
            bucket = np.int64(shared.memory[mine])
            if bucket < shared.large[portion]:
                first = shared.lists[portion] + bucket
                shared.members[first + shared.fill[first]] = row
                shared.fill[first] += 1


@numba.njit(cache=True, nogil=True)
def _root(parent, row):
    while parent[row] != row:
        parent[row] = parent[parent[row]]
        row = parent[row]
    return row


@numba.njit(cache=True, nogil=True)
def _join(parent, left, right):
    """Make one tree of two with these roots; the smaller row is its root."""
    if left < right:
        parent[right] = left
    else:
        parent[left] = right


@numba.njit(cache=True, nogil=True)
def _leave_empty(sets, parts, stands):
    """Rows of which all these parts are empty do not stand."""
    for row in range(len(stands)):
        if stands[row]:
            keys = place(sets, row)[0]
            stands[row] = False
            for part in parts:
                if sets.words[keys + part] != 0:
                    stands[row] = True


@numba.njit(cache=True, nogil=True)
def _join_buckets(rows, stands, parent):
    first = np.int64(-1)
    for at in range(len(rows)):
        row = np.int64(max(rows[at], ~rows[at]))
        if stands[row]:
            if first < 0:
                first = row
            else:
                _join(parent, _root(parent, first), _root(parent, row))
                stands[row] = False
        if rows[at] < 0:
            first = np.int64(-1)


@numba.njit(cache=True, nogil=True)
def _join_near(sets, shared, stands, part, threshold, parent, skip):
    checked = np.full(len(stands), -1, dtype=np.int32)
    for i in range(len(stands)):
        if not stands[i]:
            continue
        here = place(sets, i)
        for portion in range(len(shared.large)):
            offsets, buckets = shared.at[portion, 0] + i, shared.at[portion, 1]
            for mine in range(buckets + shared.memory[offsets], buckets + shared.memory[offsets + 1]):
                bucket = np.int64(shared.memory[mine])
                if bucket < shared.large[portion]:
                    first = shared.lists[portion] + bucket
                    _join_listed(sets, i, here, shared.members[first:], shared.fill[first], part, threshold, parent,
                                 checked, skip[first:])  # fmt: skip
                    shared.fill[first] += 1
                    continue
                at = shared.at[portion, 2] + bucket
                while 0 <= shared.memory[at] < i:  # the row itself stands behind those before it
                    j = np.int64(shared.memory[at])
                    at += 1
                    if stands[j]:
                        _join_pair(sets, i, here, j, part, threshold, parent, checked)


@numba.njit(cache=True, nogil=True, inline="always")
def _join_pair(sets, i, here, j, part, threshold, parent, checked):
    """Whether two rows are in one tree now."""
    left, right = _root(parent, i), _root(parent, j)
    if left == right:
        return True
    if checked[j] == i:
        return False
    checked[j] = i
    other = place(sets, j)
    near = _whole(sets, here, other, threshold) if part == 3 else _jaccard(sets, here, other, part, threshold)
    if near >= threshold:
        _join(parent, left, right)
        return True
    return False


@numba.njit(cache=True, nogil=True)
def _join_listed(sets, i, here, members, length, part, threshold, parent, checked, skip):
    """Hold a row against the list of a large bucket, and put it on the list.

    The rest of a tree that the row belongs to can tell nothing new: `skip` leads to the next row of another tree, as
    far as is known; trees only grow.
    """
    at = np.int64(length) - 1
    while at >= 0:
        if not _join_pair(sets, i, here, np.int64(members[at]), part, threshold, parent, checked):
            at -= 1
            continue
        tree = _root(parent, i)
        other = np.int64(skip[at])
        while other >= 0 and _root(parent, np.int64(members[other])) == tree:
            other = np.int64(skip[other])
        skip[at] = other
        at = other
    members[length] = i
    skip[length] = length - 1
