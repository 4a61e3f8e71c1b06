"""Nearest vectors of a model: the bound misses no pair, and the decision is that of comparing all with all."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from sft_data.dedup import semantic
from sft_data.dedup.cosines import Bound, products
from sft_data.dedup.vectors import quantised

KINDS = ("clusters", "noise", "alike", "few axes")


def vectors_of(kind: str, many: int, dimensions: int, seed: int) -> npt.NDArray[np.int8]:
    """Some rows twice, some empty."""
    chance = np.random.default_rng(seed)
    if kind == "clusters":
        centres = chance.normal(size=(max(1, many // 6), dimensions)) / np.arange(1, dimensions + 1) ** 0.5
        made = centres[chance.integers(0, len(centres), many)] + chance.normal(size=(many, dimensions)) * 0.05
    elif kind == "noise":
        made = chance.normal(size=(many, dimensions))
    elif kind == "alike":
        made = np.ones((many, dimensions)) + chance.normal(size=(many, dimensions)) * 0.02
    else:
        made = chance.normal(size=(many, 2)) @ chance.normal(size=(2, dimensions))
    made[chance.integers(0, many, many // 10)] = made[0]
    made[chance.integers(1, many, many // 20)] = 0.0
    return quantised(made)


def cosines(left: npt.NDArray[np.int8], right: npt.NDArray[np.int8]) -> npt.NDArray[np.float64]:
    dots = left.astype(np.float64) @ right.astype(np.float64).T  # whole numbers far below 2**53
    lengths = [np.sqrt((each.astype(np.int64) ** 2).sum(axis=1).astype(np.float64)) for each in (left, right)]
    found = np.minimum(1.0, np.round(dots / np.maximum(np.outer(*lengths), 1.0), 9))
    found[np.outer(lengths[0] == 0, lengths[1] == 0)] = 1.0
    return np.asarray(found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dimensions", [1, 3, 80, 81, 384])
def test_the_bound_rules_out_no_pair_that_is_near(kind: str, dimensions: int) -> None:
    vectors = vectors_of(kind, 120, dimensions, dimensions)
    lengths = np.sqrt((vectors.astype(np.int64) ** 2).sum(axis=1).astype(np.float64))
    rows = np.flatnonzero(lengths > 0)
    bound = Bound(vectors, lengths, rows)
    short = bound.short(rows)
    assert short.shape == (len(rows), min(dimensions, 80))
    exact = cosines(vectors[rows], vectors[rows])
    for threshold in (0.3, 0.7, 0.9, 0.999, 1.0):
        near = set(zip(*map(np.ndarray.tolist, np.nonzero(exact >= threshold)), strict=True))
        found = bound.near(short, short, threshold)
        if found is None:
            continue
        assert near <= set(zip(*map(np.ndarray.tolist, found), strict=True))
        assert len(found[0]) * 32 <= exact.size


def test_the_bound_leaves_few_pairs_of_what_a_model_gives() -> None:
    """Thirty texts to a subject, subjects along axes of falling length as those of a sentence-embedding model."""
    chance = np.random.default_rng(3)
    lengths_of_axes = (np.arange(384) + 6.0) ** -0.5
    subjects = chance.normal(size=(100, 384)) * lengths_of_axes
    vectors = quantised(np.repeat(subjects, 30, axis=0) + 0.3 * chance.normal(size=(3000, 384)) * lengths_of_axes)
    lengths = np.sqrt((vectors.astype(np.int64) ** 2).sum(axis=1).astype(np.float64))
    bound = Bound(vectors, lengths, np.arange(3000))
    found = bound.near(bound.short(np.arange(3000)), bound.short(np.arange(3000)), 0.9)
    assert found is not None
    near = int((cosines(vectors, vectors) >= 0.9).sum())
    assert near <= len(found[0]) < 1.2 * near


def by_brute_force(
    sides: list[Any], numbers: list[Any], order: list[int], threshold: float
) -> dict[int, tuple[int, float]]:
    alike = [cosines(side, side) * (each[:, None] == each) for side, each in zip(sides, numbers, strict=True)]
    near = np.minimum.reduce(alike).tolist()
    kept: list[int] = []
    gone: dict[int, tuple[int, float]] = {}
    for row in order:
        best = max(kept, key=lambda other: near[row][other], default=None)  # the first of equals
        if best is not None and near[row][best] >= threshold:
            gone[row] = best, near[row][best]
        else:
            kept.append(row)
    return gone


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("block", "kept"), [(7, 11), (64, 1000), (1024, 16384)])
def test_rows_go_as_if_all_were_compared_with_all(
    kind: str, block: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(semantic, "_BLOCK", block)
    monkeypatch.setattr(semantic, "_KEPT", kept)
    chance = np.random.default_rng(block)
    sides = [vectors_of(kind, 150, dimensions, block + dimensions) for dimensions in (100, 40)]
    numbers = [chance.integers(0, 2, 150).astype(np.uint64), np.zeros(150, dtype=np.uint64)]
    made = [semantic._Side(*each) for each in zip(sides, numbers, strict=True)]
    order = chance.permutation(150)
    order = order[made[0].lengths[order] > 0]
    some_gone = 0
    for threshold in (0.5, 0.9, 0.999, 1.0):
        twin, score = np.full(150, -1, dtype=np.int64), np.zeros(150)
        semantic._greedy(made, order, threshold, twin, score)
        found = {int(row): (int(twin[row]), float(score[row])) for row in np.flatnonzero(twin >= 0)}
        assert found == by_brute_force(sides, numbers, order.tolist(), threshold)
        some_gone += len(found)
    assert some_gone > 10 or kind == "noise"


def test_products_of_bytes_are_exact() -> None:
    vectors = np.array([[127] * 1024, [-127] * 1024, [1] * 1024, [-128] * 1024], dtype=np.int8)
    left, right = np.divmod(np.arange(16), 4)
    assert (
        products(vectors, left, right).tolist()
        == (vectors.astype(np.int64) @ vectors.astype(np.int64).T).ravel().tolist()
    )
