"""Which rows are near a kept row by their weighted sets: an exact join over lists of the rows that have a feature.

Features are ordered by weight, the rarest first. With threshold t, a text's tail are as many of its common features as
hold less than t² of its squared weights. Two texts whose cosine reaches t share a feature outside the tails of both:
were all they share in one's tail, their product would be below t² of that one's norm, and a text shares at most its
own norm. So only the other features, the head, are looked up, and what they sum up to bounds the cosine before
it is computed. Nothing near is missed (L2 prefix filtering: Bayardo et al., 2007; Anastasiu and Karypis, 2014).
"""

# Kernels take what numba infers, so they are not annotated.
# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: ANN001, ANN202

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
import numpy.typing as npt

from sft_data.dedup.vectors import Sets

__all__ = ["join"]

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]

_MOST_LISTS = 1 << 25  # lists of rows; features whose hashes fall into one list only cost time
_ROUNDING = 1e-9  # cosines are rounded to nine digits: a bound lies that much below


def join(sides: Sequence[tuple[Sets, I64]], order: I64, threshold: float, twin: I64, score: F64) -> None:
    """Go through the rows in `order`: a row near a kept one gets the nearest as its `twin`, any other is kept.

    A side is the texts' sets and what has to be equal (their numbers). A row is near where the cosine of every side
    reaches `threshold`; `score` is the lowest of them. Of equally near rows the one earlier in `order` is the twin.
    Rows that are empty on the first side do not belong into `order`. Needs about 40 bytes a row and 4 bytes for each
    feature outside the tails, beside the sets themselves.
    """
    limit = threshold - _ROUNDING
    made = []
    for sets, numbers in sides:
        rows = len(sets.norms)
        cuts, tails = np.zeros(rows, dtype=np.int64), np.zeros(rows, dtype=np.int64)
        heads = _split(sets.values, sets.offsets, sets.weights, sets.norms, order, limit * limit, cuts, tails)
        lists = min(_MOST_LISTS, 1 << max(4, int(heads).bit_length()))
        starts, filled = np.zeros(lists + 1, dtype=np.int64), np.zeros(lists, dtype=np.int32)
        _count(sets.values, sets.offsets, sets.weights, order, cuts, starts)
        posted = np.empty(int(heads), dtype=np.int32)
        lengths = np.sqrt(sets.norms.astype(np.float64))
        text = (sets.values, sets.offsets, sets.weights, lengths, np.ascontiguousarray(numbers, dtype=np.int64))
        made.append((*text, cuts, tails, starts, filled, posted))
    claim = np.zeros(len(twin), dtype=np.int64)
    claim[order] = np.arange(len(order))
    _walk(tuple(made), order, claim, threshold, limit, twin, score)


@numba.njit(cache=True, nogil=True)
def _split(values, offsets, weights, norms, order, share, cuts, tails):
    """Of each row the key (weight, then hash) from which on features are in its head, and the sum of its tail."""
    mask = np.uint32(len(weights) - 1)
    heads = np.int64(0)
    for row in order:
        first, size = offsets[row], offsets[row + 1] - offsets[row]
        keys = np.empty(size, dtype=np.int64)
        for at in range(size):
            value = values[first + at]
            keys[at] = (weights[value & mask] << 32) | np.int64(value)
        keys.sort()
        tail, at = np.int64(0), 0
        while at < size:
            weight = keys[at] >> 32
            if tail + weight * weight >= share * norms[row]:
                break
            tail += weight * weight
            at += 1
        cuts[row] = keys[at] if at < size else np.int64(0)
        tails[row] = tail
        heads += size - at
    return heads


@numba.njit(cache=True, nogil=True)
def _count(values, offsets, weights, order, cuts, starts):
    mask, lists = np.uint32(len(weights) - 1), np.uint32(len(starts) - 2)
    for row in order:
        for at in range(offsets[row], offsets[row + 1]):
            if ((weights[values[at] & mask] << 32) | np.int64(values[at])) >= cuts[row]:
                starts[np.int64(values[at] & lists) + 1] += 1
    for place in range(1, len(starts)):
        starts[place] += starts[place - 1]


@numba.njit(cache=True, nogil=True)
def _walk(sides, order, claim, threshold, limit, twin, score):
    sums = np.zeros(len(twin), dtype=np.int64)
    met = np.empty(len(twin), dtype=np.int32)
    for row in order:
        best, least = 0, np.int64(-1)
        for number in range(len(sides)):
            cost = _cost(sides[number], row)
            if cost >= 0 and (least < 0 or cost < least):
                best, least = number, cost
        many = _meet(sides[best], row, sums, met)
        lengths, cuts, tails = sides[best][3], sides[best][5], sides[best][6]
        nearest, by = 0.0, np.int64(-1)
        for at in range(many):
            other = met[at]
            head = sums[other]
            sums[other] = 0
            rest = tails[row] if cuts[row] >= cuts[other] else tails[other]
            if head + rest < limit * lengths[row] * lengths[other]:
                continue
            near = 1.0
            for turn in range(len(sides)):
                near = min(near, _cosine(sides[(best + turn) % len(sides)], row, other, limit))
                if near < threshold:
                    break
            if near >= threshold and (near > nearest or (near == nearest and claim[other] < claim[by])):
                nearest, by = near, np.int64(other)
        if by >= 0:
            twin[row], score[row] = by, nearest
        else:
            for number in range(len(sides)):
                _post(sides[number], row)


@numba.njit(cache=True, nogil=True)
def _cost(side, row):
    """How many rows are in the lists of the row's head; -1 for an empty text."""
    values, offsets, weights, lengths, _, cuts, _, _, filled, _ = side
    if lengths[row] == 0:
        return np.int64(-1)
    mask, lists = np.uint32(len(weights) - 1), np.uint32(len(filled) - 1)
    total = np.int64(0)
    for at in range(offsets[row], offsets[row + 1]):
        if ((weights[values[at] & mask] << 32) | np.int64(values[at])) >= cuts[row]:
            total += filled[values[at] & lists]
    return total


@numba.njit(cache=True, nogil=True)
def _meet(side, row, sums, met):
    """Add up, for each kept row that shares features of the heads, their squared weights: at least what they share."""
    values, offsets, weights, _, _, cuts, _, starts, filled, posted = side
    mask, lists = np.uint32(len(weights) - 1), np.uint32(len(filled) - 1)
    many = 0
    for at in range(offsets[row], offsets[row + 1]):
        weight = weights[values[at] & mask]
        if ((weight << 32) | np.int64(values[at])) < cuts[row]:
            continue
        bucket = values[at] & lists
        for place in range(starts[bucket], starts[bucket] + filled[bucket]):
            other = posted[place]
            if sums[other] == 0:
                met[many] = other
                many += 1
            sums[other] += weight * weight
    return many


@numba.njit(cache=True, nogil=True)
def _cosine(side, row, other, limit):
    """The cosine to nine digits; 1 where both are empty, 0 where one is, numbers differ or it is below `limit`."""
    values, offsets, weights, lengths, numbers, _, _, _, _, _ = side
    if numbers[row] != numbers[other]:
        return 0.0
    if lengths[row] == 0 or lengths[other] == 0:
        return 1.0 if lengths[row] == lengths[other] else 0.0
    if min(lengths[row], lengths[other]) < limit * max(lengths[row], lengths[other]):
        return 0.0  # the shorter one's norm is the most they can share
    mask = np.uint32(len(weights) - 1)
    a, a_end, b, b_end = offsets[row], offsets[row + 1], offsets[other], offsets[other + 1]
    total = np.int64(0)
    while a < a_end and b < b_end:
        if values[a] == values[b]:
            weight = weights[values[a] & mask]
            total += weight * weight
            a += 1
            b += 1
        elif values[a] < values[b]:
            a += 1
        else:
            b += 1
    return min(1.0, np.rint(total / (lengths[row] * lengths[other]) * 1e9) / 1e9)


@numba.njit(cache=True, nogil=True)
def _post(side, row):
    values, offsets, weights, _, _, cuts, _, starts, filled, posted = side
    mask, lists = np.uint32(len(weights) - 1), np.uint32(len(filled) - 1)
    for at in range(offsets[row], offsets[row + 1]):
        if ((weights[values[at] & mask] << 32) | np.int64(values[at])) >= cuts[row]:
            bucket = values[at] & lists
            posted[starts[bucket] + filled[bucket]] = row
            filled[bucket] += 1
