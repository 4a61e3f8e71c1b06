"""Candidates from band keys, their verification, and the two decisions made of them.

Rows that share a band key stand in one bucket. Every pair of a bucket that could matter is verified by the exact
Jaccard similarity of its shingle sets: no cap cuts a large bucket short. Equal parts are recognised by their keys
before any set is read.

Large buckets are what data made from templates has: a thousand questions to one passage, ten thousand refusals in the
same words. Where a row would have to be held against many, it looks its twin up in the relation (conversation, prompt
or answer) in which it has the fewest candidates: a twin is near in all of them.
"""

# Kernels take what numba infers, so they are not annotated.
# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

__all__ = [
    "CRITERIA",
    "Buckets",
    "Found",
    "Rule",
    "Sets",
    "buckets",
    "components",
    "either",
    "greedy",
    "join",
    "one_each",
    "window",
    "without",
]

_FEW = 64  # candidates that a row is held against before it looks for a relation with fewer

_MANY = 1 << 31  # places in all buckets together from which on their numbers take 8 bytes

I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]
Bools = npt.NDArray[np.bool_]

CRITERIA = ("prompt-and-answer", "conversation", "prompt", "answer")
_BOTH, _WHOLE, _PROMPT, _ANSWER = range(4)


class Sets(NamedTuple):
    """Shingle sets of all rows."""

    keys: npt.NDArray[np.uint64]  # (rows, 3), see shingles.ShingleSets
    counts: npt.NDArray[np.uint32]  # (rows, 3) shingles of each part
    numbers: npt.NDArray[np.uint64]  # (rows, 3)
    starts: I64  # (rows,) where in `values` the row's own start
    values: npt.NDArray[np.uint64]  # sorted sets, those of a row's parts one behind the other; see `window`


class Buckets(NamedTuple):
    """Which rows could be near: row `i` stands in the buckets `numbers[offsets[i]:offsets[i + 1]]`."""

    offsets: I64
    numbers: I32
    used: int  # how many buckets there are

    def rows(self) -> Bools:
        """The rows that stand in any bucket."""
        return np.diff(self.offsets) > 0


class Rule(NamedTuple):
    """When two rows are near."""

    mode: int  # place of the criterion in CRITERIA
    threshold: float
    same_numbers: bool  # rows with other numbers are not near
    strict_short: bool  # equal short answers ask for the same prompt


@dataclass(frozen=True)
class Found:
    """What `greedy` decided for each row."""

    twin: I64  # the kept row that it is near to, -1 where the row itself is kept
    score: npt.NDArray[np.float64]  # the similarity that counts
    parts: npt.NDArray[np.float64]  # (rows, 3) similarity of each part


def buckets(keys: Sequence[npt.NDArray[np.uint32]]) -> Buckets:
    """The rows that share a band key with another row, band by band; `keys` are (rows, bands), shard by shard."""
    rows, bands = sum(map(len, keys)), keys[0].shape[1]
    out: I32 = np.full((rows, bands), -1, dtype=np.int32)
    table = np.empty(1 << max(3, (2 * rows).bit_length()), dtype=np.int32)
    used = 0
    for band in range(bands):
        used = _group(np.concatenate([shard[:, band] for shard in keys]), table, band, out, used)
    shared = out >= 0
    return Buckets(_offsets(shared.sum(axis=1)), out[shared], used)


def without(shared: Buckets, rows: Bools) -> Buckets:
    """The same buckets, in which some rows do not stand."""
    counts = np.diff(shared.offsets)
    stays = np.repeat(~rows, counts)
    return Buckets(_offsets(np.where(rows, 0, counts)), shared.numbers[stays], shared.used)


def one_each(rows: I64, numbers: I32, height: int, used: int) -> Buckets:
    """Some of `height` rows, each in one bucket; `used` numbers are taken already."""
    counts = np.zeros(height, dtype=np.int64)
    counts[rows] = 1
    return Buckets(_offsets(counts), numbers + np.int32(used), used + int(numbers.max(initial=-1)) + 1)


def either(left: Buckets, right: Buckets) -> Buckets:
    """The buckets of both, which have no row in common."""
    counts = np.diff(left.offsets) + np.diff(right.offsets)
    numbers = np.empty(int(counts.sum()), dtype=np.int32)
    rightly = np.repeat(np.diff(right.offsets) > 0, counts)
    numbers[rightly] = right.numbers
    numbers[~rightly] = left.numbers
    return Buckets(_offsets(counts), numbers, max(left.used, right.used))


def _offsets(counts: npt.NDArray[Any]) -> I64:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts, dtype=np.int64)])


@numba.njit(cache=True, nogil=True)
def _group(keys, table, band, out, used):
    """Number the buckets of one band in the order of their second row: a hash table of the first row of each key."""
    table[:] = -1
    mask = np.int64(len(table) - 1)
    for row in range(len(keys)):
        key = keys[row]
        slot = np.int64((np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)) & mask
        while table[slot] >= 0 and keys[table[slot]] != key:
            slot = (slot + 1) & mask
        first = table[slot]
        if first < 0:
            table[slot] = row
            continue
        if out[first, band] < 0:
            out[first, band] = used
            used += 1
        out[row, band] = out[first, band]
    return used


def window(arrays: Sequence[npt.NDArray[np.uint64]]) -> tuple[npt.NDArray[np.uint64], list[int]]:
    """One array over all memory from the first of `arrays` to the last, and where in it each of them starts.

    So sets are compared where they lie, in memory-mapped files: only pages that hold candidates are ever read, the
    system may drop them again, and nothing is copied. What lies between the arrays must not be touched.
    """
    places = [array.ctypes.data for array in arrays if array.size]
    if not places:
        return np.empty(0, dtype=np.uint64), [0] * len(arrays)
    first = min(places)
    end = max(array.ctypes.data + array.nbytes for array in arrays if array.size)
    if any((place - first) % 8 for place in places):
        raise ValueError("shingles must lie at multiples of 8 bytes")
    memory = (ctypes.c_char * (end - first)).from_address(first)
    memory.arrays = arrays  # type: ignore[attr-defined]  # they live as long as the window
    starts = [(array.ctypes.data - first) // 8 if array.size else 0 for array in arrays]
    return np.frombuffer(memory, dtype=np.uint64), starts  # type: ignore[call-overload]


def greedy(sets: Sets, relations: Sequence[Buckets], order: I64, rule: Rule, settled: int = 0) -> Found:
    """Go through the rows in `order`; remove a row that is near a row kept before it, keep it otherwise.

    The first `settled` rows of the order stay in any case. Every removed row is similar to the row that was kept for
    it, and unlike rows are never chained together. Of several kept rows the most similar one is named, of equals the
    one with the first claim. `relations` are different ways to find the same pairs.
    """
    rows = len(order)
    twin = np.full(rows, -1, dtype=np.int64)
    score = np.zeros(rows, dtype=np.float64)
    parts = np.zeros((rows, 3), dtype=np.float64)
    joined = _side_by_side(relations)
    _greedy(sets, joined, order, rule, settled, *_chains(joined), (twin, score, parts))
    return Found(twin, score, parts)


class _Relations(NamedTuple):
    """Several relations in one: row `i` of relation `r` stands in `numbers[offsets[r, i]:offsets[r, i + 1]]`."""

    offsets: I64
    numbers: I32
    used: int


def _side_by_side(relations: Sequence[Buckets]) -> _Relations:
    entries, used = 0, 0
    offsets, numbers = [], []
    for each in relations:
        offsets.append(each.offsets + entries)
        numbers.append(each.numbers + np.int32(used))
        entries += len(each.numbers)
        used += each.used
    return _Relations(np.stack(offsets), np.concatenate(numbers), used)


def _chains(shared: _Relations) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Room for the rows kept so far: of each bucket the place in `numbers` of the last one, behind each the one before.

    Places take 4 bytes as long as they fit: with some 30 of them for a row they are most of what a decision needs.
    """
    kind = np.int32 if len(shared.numbers) < _MANY else np.int64
    return np.full(shared.used, -1, dtype=kind), np.empty(len(shared.numbers), dtype=kind)


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


@numba.njit(cache=True, nogil=True)
def _overlap(sets, i, j, part, needed):
    """How many shingles one part of two rows shares. Short texts share theirs only where they are the same text."""
    if sets.keys[i, part] == sets.keys[j, part]:
        return np.int64(sets.counts[i, part])
    if sets.keys[i, part] & np.uint64(1) == 0 or sets.keys[j, part] & np.uint64(1) == 0:
        return np.int64(0)
    a, b = sets.starts[i], sets.starts[j]
    for before in range(part):
        a += sets.counts[i, before]
        b += sets.counts[j, before]
    return _shared(sets.values, a, a + np.int64(sets.counts[i, part]), b, b + np.int64(sets.counts[j, part]), needed)


@numba.njit(cache=True, nogil=True)
def _jaccard(sets, i, j, part, threshold):
    """Exact Jaccard similarity of one part, if it reaches the threshold; else some number below it."""
    if sets.keys[i, part] == sets.keys[j, part]:
        return 1.0
    left, right = np.int64(sets.counts[i, part]), np.int64(sets.counts[j, part])
    if min(left, right) / max(left, right) < threshold:
        return 0.0
    shared = _overlap(sets, i, j, part, _needed(left, right, threshold))
    return shared / (left + right - shared)


@numba.njit(cache=True, nogil=True)
def _whole(sets, i, j, threshold):
    """The same for prompt and answer in one, their shingles counted apart."""
    left, right = np.int64(0), np.int64(0)
    for part in range(1, 3):
        left += sets.counts[i, part]
        right += sets.counts[j, part]
    if left + right == 0:
        return 1.0
    if min(left, right) / max(left, right) < threshold:
        return 0.0
    needed = _needed(left, right, threshold)
    in_answer = np.int64(min(sets.counts[i, 2], sets.counts[j, 2]))
    shared = _overlap(sets, i, j, 1, needed - in_answer)
    shared += _overlap(sets, i, j, 2, needed - shared)
    return shared / (left + right - shared)


@numba.njit(cache=True, nogil=True)
def _near(sets, i, j, rule, seen):
    """The similarity of two rows by the criterion, 0 where they are not near. Fills `seen` with the parts'."""
    first = 2 if rule.mode == _ANSWER else 0
    last = 2 if rule.mode == _PROMPT else 3
    if rule.same_numbers:
        for part in range(first, last):
            if sets.numbers[i, part] != sets.numbers[j, part]:
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
    short = sets.keys[i, 2] & np.uint64(1) == 0
    if rule.mode == _BOTH and rule.strict_short and short and (seen[0] < 1.0 or seen[1] < 1.0):
        return 0.0
    return lowest


@numba.njit(cache=True, nogil=True)
def _fewest(shared, crowd, row):
    """The relation in which the row has the fewest candidates; the first, as long as it has few."""
    best, fewest = 0, np.int64(0)
    for relation in range(len(shared.offsets)):
        many = np.int64(0)
        for mine in range(shared.offsets[relation, row], shared.offsets[relation, row + 1]):
            many += crowd[shared.numbers[mine]]
        if relation == 0 or many < fewest:
            best, fewest = relation, many
        if relation == 0 and many <= _FEW:
            break
    return best


@numba.njit(cache=True, nogil=True)
def _greedy(sets, shared, order, rule, settled, head, link, found):
    rows, (twin, score, parts) = len(order), found
    crowd = np.zeros(shared.used, dtype=np.int32)  # of each bucket, how many kept rows it has
    owner = _owners(shared.offsets, len(shared.numbers))
    claim = np.empty(rows, dtype=np.int64)
    for place in range(rows):
        claim[order[place]] = place
    checked = np.full(rows, -1, dtype=np.int32)
    seen = np.zeros(3, dtype=np.float64)
    for place in range(rows):
        i = order[place]
        relation = _fewest(shared, crowd, i)
        for mine in range(shared.offsets[relation, i], shared.offsets[relation, i + 1] if place >= settled else 0):
            other = head[shared.numbers[mine]]
            while other >= 0:
                j = owner[other]
                other = link[other]
                if checked[j] == i:
                    continue
                checked[j] = i
                near = _near(sets, i, j, rule, seen)
                if near > score[i] or (near > 0.0 and near == score[i] and claim[j] < claim[twin[i]]):
                    score[i] = near
                    twin[i] = j
                    parts[i] = seen
        if twin[i] >= 0:
            continue
        for each in range(len(shared.offsets)):
            for mine in range(shared.offsets[each, i], shared.offsets[each, i + 1]):
                link[mine] = head[shared.numbers[mine]]
                head[shared.numbers[mine]] = mine
                crowd[shared.numbers[mine]] += 1


@numba.njit(cache=True, nogil=True)
def _owners(offsets, entries):
    owner = np.empty(entries, dtype=np.int32)
    for relation in range(offsets.shape[0]):
        for row in range(offsets.shape[1] - 1):
            owner[offsets[relation, row] : offsets[relation, row + 1]] = row
    return owner


def components(sets: Sets, shared: Buckets, stands: Bools, part: int, threshold: float, parent: I64) -> None:
    """Join in `parent` those rows of `stands` that are near in one part (3: in prompt and answer as one).

    `parent` is a forest over row numbers whose roots are the smallest row of each tree; it is changed in place.
    """
    joined = _side_by_side([shared])
    _join_near(sets, joined, stands, part, threshold, parent, *_chains(joined))


@numba.njit(cache=True, nogil=True)
def join(rows, firsts, parent):
    """Join each row with its first in the forest `parent`, in place."""
    for at in range(len(rows)):
        left, right = _root(parent, rows[at]), _root(parent, firsts[at])
        parent[max(left, right)] = min(left, right)


@numba.njit(cache=True, nogil=True)
def _root(parent, row):
    while parent[row] != row:
        parent[row] = parent[parent[row]]
        row = parent[row]
    return row


@numba.njit(cache=True, nogil=True)
def _next_tree(skip, owner, parent, entry):
    """The next entry of a bucket whose row is in another tree; trees only grow, so it is remembered."""
    tree = _root(parent, owner[entry])
    other = skip[entry]
    while other >= 0 and _root(parent, owner[other]) == tree:
        other = skip[other]
    skip[entry] = other
    return other


@numba.njit(cache=True, nogil=True)
def _join_near(sets, shared, stands, part, threshold, parent, head, link):
    skip = np.empty_like(link)
    owner = _owners(shared.offsets, len(shared.numbers))
    checked = np.full(len(stands), -1, dtype=np.int32)
    for i in range(len(stands)):
        if not stands[i]:
            continue
        for mine in range(shared.offsets[0, i], shared.offsets[0, i + 1]):
            bucket = shared.numbers[mine]
            other = head[bucket]
            while other >= 0:
                j = owner[other]
                left, right = _root(parent, i), _root(parent, j)
                if left != right and checked[j] != i:
                    checked[j] = i
                    near = _whole(sets, i, j, threshold) if part == 3 else _jaccard(sets, i, j, part, threshold)
                    if near >= threshold:
                        parent[max(left, right)] = min(left, right)
                        right = left
                # The rest of a tree that the row belongs to can tell nothing new.
                other = _next_tree(skip, owner, parent, other) if left == right else link[other]
            link[mine] = head[bucket]
            skip[mine] = head[bucket]
            head[bucket] = mine
