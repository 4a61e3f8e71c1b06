"""Semantic duplicates: rows that ask and say the same in similar words, by the cosine of their vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field, field_validator

from sft_data.dedup.cosines import Bound, products
from sft_data.dedup.joining import join
from sft_data.dedup.models import checked_model, model_contents, model_copies, pinned_model, text_vectors
from sft_data.dedup.parts import Side, side_text
from sft_data.dedup.ranking import Keep, rank_columns, ranked_by, ranking
from sft_data.dedup.shingles import shingle_sets
from sft_data.dedup.vectors import Bytes, rarity, stacked
from sft_data.stage import Decision, StageConfig

__all__ = ["SemanticDedup"]

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]

_SIDES: dict[str, tuple[Side, ...]] = {
    "prompt-and-answer": ("prompt", "answer"),
    "conversation": ("conversation",),
    "prompt": ("prompt",),
    "answer": ("answer",),
}
_BLOCK, _KEPT = 1024, 16_384  # rows compared at once, with so many kept ones: 64 MiB of cosines


class SemanticDedup(StageConfig):
    """Remove rows that mean nearly the same as a row that was kept.

    Near-dedup sees the same words in the same order; this stage also sees the same words in another order, and with a
    model the same thing said in other words. By default both prompt and answer have to be near: many good rows answer
    one kind of question. A removed row is near the kept row that the ledger names, never only near another removed
    row.

    Without `model`, vectors are TF-IDF over words and word pairs, characters and their pairs in Chinese and the like;
    common words weigh little, so the outcome depends on the whole dataset. With `model` they are those of a
    sentence-embedding model (extra `semantic`): a folder, or a name of the hub such as
    `hf://sentence-transformers/all-MiniLM-L6-v2`, which is resolved to a commit and fetched when a build is planned.
    Its content is part of the fingerprint; code of a model is never run, and only safetensors are read. SemDeDup (Abbas
    et al., 2023) is the method; thresholds of models differ, so look at the pairs of a first run.

    The default is for TF-IDF: of 200 rows of Alpaca planted again with two words of each turn swapped among 10,000, 0.9
    finds 27, 0.8 88 and 0.7 145, each with its right twin; 0.7 removes one pair beside them. A model wants another.

    With TF-IDF every near pair is found: rows are looked up by their rarest features, and what these sum up to rules
    out most of the rows met (`joining.py`). 52,000 rows of Alpaca take 1 CPU second, a million made of halves of real
    ones 80. Memory is 4 bytes a feature (a word, or two in a row), up to 4 more for the rarer ones, and about 80 a row.
    The vectors of a model are compared with those of all kept rows, block by block, by short forms that rule out most
    pairs (`cosines.py`): a byte a dimension and 320 a kept row, and time that grows with the square of the rows.
    """

    revision: ClassVar[int] = 4  # numbers in words and Han numerals are numbers
    scope: ClassVar[Literal["shard", "dataset"]] = "dataset"
    uses: ClassVar[tuple[str, ...]] = ("numba", "numpy")
    files: ClassVar[tuple[str, ...]] = ("model",)
    codes: ClassVar[Mapping[str, str]] = {"semantic-duplicate": "means nearly the same as the row named as its twin"}

    kind: Literal["semantic-dedup"] = "semantic-dedup"
    threshold: float = Field(0.7, gt=0.1, le=1.0, description="cosine similarity from which on texts are near")
    criterion: Literal["prompt-and-answer", "conversation", "prompt", "answer"] = Field(
        "prompt-and-answer", description="what has to be near: prompt and answer, the conversation as one, or one side"
    )
    same_numbers: bool = Field(default=True, description="rows that differ in their numbers stay")
    model: str = Field("", description="sentence-embedding model: its folder, or hf://ORG/NAME; empty: TF-IDF")
    keep: Keep = Field("first", description="which row stays: first, longest, or best by the column `score`")
    score: str = Field("score", description="column that `keep: best` goes by; the highest stays")
    sources: tuple[str, ...] = Field((), description="sources whose rows are preferred, in this order, before `keep`")

    @field_validator("model")
    @classmethod
    def _is_a_model(cls, model: str) -> str:
        return checked_model(model)

    def fetched(self) -> SemanticDedup:
        return self.model_copy(update={"model": pinned_model(self.model)})

    def copies(self) -> tuple[Path, ...]:
        return model_copies(self.model)

    def contents(self) -> dict[str, str]:
        return model_contents(self.model)

    def reads(self) -> dict[str, str]:
        return ranked_by(self.keep, self.score)

    def sketch(self, frame: pl.DataFrame) -> pl.DataFrame:
        columns: list[pl.Series] = []
        for side in _SIDES[self.criterion]:
            text = side_text(frame, side)
            columns.append(pl.Series(f"numbers_{side}", shingle_sets([text], 1).numbers))
            columns.append(text_vectors(text, self.model).alias(side))
        return frame.select("id", *columns, *rank_columns(frame, self.keep, self.score, self.sources))

    def decide(self, sketches: Sequence[pl.DataFrame]) -> Decision:
        ids = pl.concat([sketch["id"] for sketch in sketches])
        twin, score = np.full(len(ids), -1, dtype=np.int64), np.zeros(len(ids), dtype=np.float64)
        if len(ids):
            self._join(sketches, twin, score)
        rows = np.flatnonzero(twin >= 0)
        found = pl.DataFrame({"row": rows, "twin": ids.gather(twin[rows]), "score": score[rows]})
        detail = pl.format("cosine of {} {} >= {}", pl.lit(self.criterion), pl.col("score").round(3), self.threshold)
        return Decision(found.with_columns(code=pl.lit("semantic-duplicate"), detail=detail))

    def _join(self, sketches: Sequence[pl.DataFrame], twin: I64, score: F64) -> None:
        order, sides = ranking(sketches), _SIDES[self.criterion]
        numbers = [np.concatenate([sketch[f"numbers_{side}"].to_numpy() for sketch in sketches]) for side in sides]
        if not self.same_numbers:
            numbers = [np.zeros_like(each) for each in numbers]
        columns = [[sketch[side] for sketch in sketches if sketch.height] for side in sides]
        # nothing is said of rows that ask nothing
        if self.model:
            vectors = [stacked(each) for each in columns]
            said = [_Side(*side) for side in zip(vectors, numbers, strict=True)]
            _greedy(said, order[said[0].lengths[order] > 0], self.threshold, twin, score)
        else:
            sets = [rarity(each) for each in columns]
            join(list(zip(sets, numbers, strict=True)), order[sets[0].norms[order] > 0], self.threshold, twin, score)


class _Side:
    """One side of all rows: the model's vectors, and the numbers that have to be equal."""

    def __init__(self, vectors: Bytes, numbers: npt.NDArray[Any]) -> None:
        self.vectors, self.numbers = vectors, numbers
        self.lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.int64).astype(np.float64))

    def near(self, rows: I64, others: I64, threshold: float) -> tuple[I64, I64]:
        """Pairs of `rows` and `others` (places in both) whose vectors may be near."""
        products = self.vectors[rows].astype(np.float32) @ self.vectors[others].astype(np.float32).T
        limit = (threshold - 1e-6) * np.maximum(self.lengths[rows], 1.0)[:, None]
        left, right = np.nonzero(products >= (limit * np.maximum(self.lengths[others], 1.0)[None, :]))
        return left, right

    def cosine(self, left: I64, right: I64) -> F64:
        """Cosines of pairs of rows; 1 where both are empty, 0 where one is or where their numbers differ."""
        dots = products(self.vectors, left, right)
        found = np.minimum(1.0, np.round(dots / np.maximum(self.lengths[left] * self.lengths[right], 1.0), 9))
        found[(self.lengths[left] == 0) & (self.lengths[right] == 0)] = 1.0
        found[self.numbers[left] != self.numbers[right]] = 0.0
        return np.asarray(found, dtype=np.float64)


def _greedy(sides: Sequence[_Side], order: I64, threshold: float, twin: I64, score: F64) -> None:
    """Go through the rows in `order`; remove a row that is near a row kept before it, keep it otherwise."""
    kept: I64 = np.empty(len(order), dtype=np.int64)
    many = 0
    bound = Bound(sides[0].vectors, sides[0].lengths, order)
    kept_short = np.empty((len(order), bound.width), dtype=np.float32)
    for start in range(0, len(order), _BLOCK):
        block = order[start : start + _BLOCK]
        short = bound.short(block)
        for first in range(0, many, _KEPT):
            end = min(many, first + _KEPT)
            older = kept[first:end]
            maybe = bound.near(short, kept_short[first:end], threshold)
            left, right, found = _pairs(sides, block, older, threshold, maybe)
            for row, other, near in zip(block[left].tolist(), older[right].tolist(), found.tolist(), strict=True):
                if near > score[row]:
                    twin[row], score[row] = other, near
        left, right, found = _pairs(sides, block, block, threshold)
        earlier = right < left
        for at, by, near in zip(left[earlier], right[earlier], found[earlier], strict=True):
            row, other = block[at], block[by]
            if twin[other] < 0 and near > score[row]:
                twin[row], score[row] = other, near
        stay = block[twin[block] < 0]
        kept[many : many + len(stay)] = stay
        kept_short[many : many + len(stay)] = short[twin[block] < 0]
        many += len(stay)


def _pairs(
    sides: Sequence[_Side], rows: I64, others: I64, threshold: float, maybe: tuple[I64, I64] | None = None
) -> tuple[I64, I64, F64]:
    """Pairs that are near on every side, by row and then by the claim of the other; the lowest of their cosines.

    `maybe` are those that could be, where that is known.
    """
    left, right = sides[0].near(rows, others, threshold) if maybe is None else maybe
    found = np.ones(len(left), dtype=np.float64)
    for side in sides:
        found = np.minimum(found, side.cosine(rows[left], others[right]))
        near = found >= threshold
        left, right, found = left[near], right[near], found[near]
    return left, right, found
