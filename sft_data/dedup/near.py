"""Near duplicates: MinHash finds the candidates, the exact Jaccard similarity of the shingle sets decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
from pydantic import Field

from sft_data.dedup import matching
from sft_data.dedup.minhash import bands_by_datasketch, bands_for, bands_of_rows
from sft_data.dedup.older import OLDER, Older, read_older
from sft_data.dedup.parts import PARTS, part_texts
from sft_data.dedup.prefixes import prefix_buckets
from sft_data.dedup.ranking import Keep, rank_columns, ranking
from sft_data.dedup.shingles import shingle_sets
from sft_data.stage import Decision, StageConfig

__all__ = ["NearDedup"]

Criterion = Literal["prompt-and-answer", "conversation", "prompt", "answer"]

# Shingles of context and answer are told from the prompt's own in the signature of the whole conversation.
# Where a twin can be looked up: a row that is near by the criterion is near in each of these.
_RELATIONS = {
    "prompt-and-answer": ("conversation", "prompt", "answer"),
    "conversation": ("conversation",),
    "prompt": ("prompt",),
    "answer": ("answer",),
}
_PARTS_OF = {"conversation": (1, 2), "prompt": (1,), "answer": (2,)}
# Relations that must not cross a split. Prompts first: rows that share a long prompt then need no second look.
_CLUSTERED = {"prompt": (1,), "conversation": (1, 2)}
_TAGS = np.array([0x5BD1E995, 0, 0xA3B195B5], dtype=np.uint32)


class NearDedup(StageConfig):
    """Remove rows that are nearly the same as a row that was kept.

    By default a row goes only where context, prompt *and* answer are each near the kept row's: on 55,185 prompts made
    from templates, similarity of the whole record removes 22,539 rows, 10,288 of them with another answer (the same
    passage, another question). A row whose numbers differ from the kept row's stays ("add 3 and 5" is not "add 4 and
    5"), and where the answer is shorter than a shingle the prompts must have the same words: an equal "Yes." says
    nothing about the questions.

    Similarity is the Jaccard similarity of the sets of 5 units in a row (see `shingles`), computed exactly: every
    removal names a kept row that is at least `threshold` similar. The bands are chosen so that 99 % of the pairs at
    the threshold, and more above it, become candidates; `candidates: exact` finds all.

    The default is 0.7, since rows are short: one changed word takes 5 of about 50 shingles away. Of copies planted
    among 200,000 rows 0.7 removes 19 % more than 0.8; of 69,478 real English and Chinese Alpaca rows it removes 3,405
    instead of 3,403.

    A decision takes about 1 kB of memory for a row, rows of `against` included, whatever the texts are long: 1 GB for a
    million. The shingles stay in memory-mapped files, of which the system keeps what fits.

    It also adds `cluster`, the id of the first row of those that must not stand on both sides of a split: kept rows
    whose prompts, or prompts and answers as one, are at least `threshold` similar, whatever their contexts and
    numbers, joined transitively.

    `against` names datasets that are there already: their rows stand before all others and stay, a new row that is
    near one of them goes, and a new row that stays takes over the cluster of the old rows it belongs to. In a build,
    `NAME@v3` is a version of the same store; the ledger calls its rows NAME@FINGERPRINT:id. Its text is read the first
    time only: the sketches of published rows are kept in the store's index.
    """

    revision: ClassVar[int] = 2  # words are hashed by eight characters
    scope: ClassVar[Literal["shard", "dataset"]] = "dataset"
    adds: ClassVar[Mapping[str, pl.DataType]] = {"cluster": pl.String()}
    uses: ClassVar[tuple[str, ...]] = ("numba", "numpy", "unicode")
    files: ClassVar[tuple[str, ...]] = ("against",)
    codes: ClassVar[Mapping[str, str]] = {"near-duplicate": "nearly the same as the row named as its twin"}

    kind: Literal["near-dedup"] = "near-dedup"
    threshold: float = Field(0.7, gt=0.0, le=1.0, description="Jaccard similarity from which on texts are near")
    criterion: Criterion = Field(
        "prompt-and-answer", description="what has to be near: prompt and answer, the conversation as one, or one side"
    )
    same_numbers: bool = Field(default=True, description="rows that differ in their numbers stay")
    short_answers: Literal["same-prompt", "near-prompt"] = Field(
        "same-prompt", description="what equal answers below the shingle length ask of the prompts"
    )
    keep: Keep = Field("first", description="which row stays: first, longest, or best by the column `score`")
    score: str = Field("score", description="column that `keep: best` goes by; the highest stays")
    sources: tuple[str, ...] = Field((), description="sources whose rows are preferred, in this order, before `keep`")
    against: tuple[str, ...] = Field((), description=OLDER)
    candidates: Literal["minhash", "exact"] = Field(
        "minhash",
        description="how pairs are found: by MinHash bands, or by a join that misses none and needs more memory",
    )
    backend: Literal["fast", "datasketch"] = Field(
        "fast", description="who computes the signatures; both give the same, datasketch takes some 40 times as long"
    )
    ngram: int = Field(5, ge=1, le=32, description="units in one shingle: words, or characters of Chinese and the like")
    num_perm: int = Field(128, ge=16, le=1024, description="permutations of a MinHash signature")
    seed: int = Field(1, ge=0, lt=1 << 32, description="seed of the permutations")

    def sketch(self, frame: pl.DataFrame) -> pl.DataFrame:
        texts = frame.select(part_texts()).get_columns()
        sets = shingle_sets(texts, self.ngram)
        rows, width = frame.height, len(PARTS)
        tags = np.repeat(np.tile(_TAGS, rows), sets.counts)
        hashes = sets.values.astype(np.uint32) ^ tags
        counts = sets.counts.reshape(rows, width)
        bands = bands_for(self.threshold, self.num_perm)
        made_by = bands_of_rows if self.backend == "fast" else bands_by_datasketch
        union, alone = made_by(hashes, counts, (False, True, True), bands, self.num_perm, self.seed)
        columns: dict[str, npt.NDArray[Any]] = {
            "keys": sets.keys.reshape(rows, width),
            "numbers": sets.numbers.reshape(rows, width),
            "counts": counts.astype(np.uint32),
            "conversation": union,
            "prompt": alone[:, 1],
        }
        if "answer" in _RELATIONS[self.criterion]:
            columns["answer"] = alone[:, 2]
        ranks = rank_columns(frame, self.keep, self.score, self.sources)
        shingles = _lists(sets.values, counts.sum(axis=1))
        arrays = [_array(name, values) for name, values in columns.items()]
        return frame.select(pl.col("id"), shingles, *arrays, *ranks)

    def plain(self) -> NearDedup:
        same = ("threshold", "criterion", "ngram", "num_perm", "seed")
        return NearDedup.model_validate({name: getattr(self, name) for name in same})

    def sketch_older(self, frame: pl.DataFrame) -> pl.DataFrame:
        return self.plain().sketch(frame).with_columns(frame["cluster"])

    def decide(self, sketches: Sequence[pl.DataFrame], older: Sequence[Older] | None = None) -> Decision:
        older = read_older(self) if older is None else older
        known = pl.concat([each.sketch["cluster"] for each in older] or [pl.Series("cluster", [], pl.String)])
        before = len(known)  # rows that are there already: they stay, and stand first
        ids = pl.concat([*(each.names() for each in older), *(sketch["id"] for sketch in sketches)])
        fresh, sketches = sketches, [*(each.sketch for each in older), *sketches]
        if not len(ids):
            none = _rejections(self, ids, np.empty(0, np.int64), np.empty(0), np.empty((0, 3)))
            return Decision(none, pl.DataFrame({"cluster": ids}))
        order = np.concatenate([np.arange(before), ranking(fresh) + before])
        shared, sets = self._pairs(sketches)
        rule = matching.Rule(
            matching.CRITERIA.index(self.criterion), self.threshold, self.same_numbers,
            self.short_answers == "same-prompt",
        )  # fmt: skip
        removed = matching.greedy(sets, self._relations(shared, sets.keys), order, rule, before)
        parent = np.arange(len(ids), dtype=np.int64)
        kept = removed.twin < 0
        for name, parts in _CLUSTERED.items():
            stands = _join_equal(sets.keys[:, list(parts)], kept, parent)
            place = parts[0] if len(parts) == 1 else 3
            matching.components(sets, shared[name], stands, place, self.threshold, parent)
        roots = _roots(parent)
        clusters = np.where(kept, roots, roots[np.where(kept, 0, removed.twin)])
        rejected = _rejections(self, ids, removed.twin, removed.score, removed.parts)
        names = pl.concat([known.alias("id"), ids.slice(before)])
        return Decision(
            rejected.with_columns(pl.col("row") - before),
            pl.DataFrame({"cluster": names.gather(clusters[before:])}),
        )

    def _pairs(self, sketches: Sequence[pl.DataFrame]) -> tuple[dict[str, matching.Buckets], matching.Sets]:
        """Which rows could be near in each relation, and the shingles of all."""
        names = dict.fromkeys((*_RELATIONS[self.criterion], *_CLUSTERED))
        sets = _sets(sketches)
        if self.candidates == "exact":
            return {name: prefix_buckets(sets, _PARTS_OF[name], self.threshold) for name in names}, sets
        return {name: matching.buckets([_rows(sketch[name]) for sketch in sketches]) for name in names}, sets

    def _relations(self, shared: dict[str, matching.Buckets], keys: npt.NDArray[np.uint64]) -> list[matching.Buckets]:
        """The relations in which a row's twin is looked up.

        Where a short answer asks for the same prompt, its twin has equal keys: such rows stand in one bucket for each
        key and in no other.
        """
        relations = [shared[name] for name in _RELATIONS[self.criterion]]
        if self.criterion != "prompt-and-answer" or self.short_answers != "same-prompt":
            return relations
        short = keys[:, 2] & np.uint64(1) == 0
        rows = np.flatnonzero(short)
        same = pl.DataFrame({f"k{part}": keys[rows, part] for part in range(3)}).select(
            number=pl.struct(pl.all()).rank("dense").cast(pl.Int32) - 1
        )["number"]
        first = matching.without(relations[0], short)
        alike = matching.one_each(rows, same.to_numpy(), len(keys), first.used)
        return [matching.either(first, alike), *(matching.without(each, short) for each in relations[1:])]


def _array(name: str, values: npt.NDArray[Any]) -> pl.Series:
    """A matrix as a column of fixed-size arrays, which is read back without a copy."""
    return pl.Series(name, pa.FixedSizeListArray.from_arrays(_arrow(values), values.shape[1]))


def _lists(values: npt.NDArray[np.uint64], sizes: npt.NDArray[np.int64]) -> pl.Series:
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])
    return pl.Series("shingles", pa.LargeListArray.from_arrays(_arrow(offsets), _arrow(values)))


def _arrow(values: npt.NDArray[Any]) -> pa.Array:
    """An array as it lies in memory (`pyarrow.array` would import pandas to look at it: a quarter of a second)."""
    flat = np.ascontiguousarray(values).reshape(-1)
    return pa.Array.from_buffers(pa.from_numpy_dtype(flat.dtype), len(flat), [None, pa.py_buffer(flat)])


def _numpy(array: pa.Array, kind: type[np.generic]) -> npt.NDArray[Any]:
    """The values of an array without nulls as they lie (its own `to_numpy` imports pandas too)."""
    buffer = array.buffers()[1]
    if buffer is None:
        return np.empty(0, dtype=kind)
    return np.frombuffer(buffer, dtype=kind)[array.offset : array.offset + len(array)]


def _matrix(sketches: Sequence[pl.DataFrame], name: str) -> npt.NDArray[Any]:
    return np.concatenate([_rows(sketch[name]) for sketch in sketches])


def _rows(column: pl.Series) -> npt.NDArray[Any]:
    width = column.dtype.size  # type: ignore[attr-defined]
    return column.explode(empty_as_null=False).to_numpy().reshape(-1, width)


def _sets(sketches: Sequence[pl.DataFrame]) -> matching.Sets:
    """The shingle sets of all rows, where they lie."""
    lists = [sketch["shingles"].rechunk().to_arrow() for sketch in sketches]
    values, places = matching.window([_numpy(each.values, np.uint64) for each in lists])
    starts = [_numpy(each.offsets, np.int64)[:-1] + place for each, place in zip(lists, places, strict=True)]
    keys, counts, numbers = (_matrix(sketches, name) for name in ("keys", "counts", "numbers"))
    return matching.Sets(keys, counts, numbers, np.concatenate(starts), values)


def _join_equal(
    keys: npt.NDArray[np.uint64], kept: npt.NDArray[np.bool_], parent: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Join the kept rows with equal keys; true for the first row of each such group. Empty parts join nothing.

    One row then stands for all: a question that was asked a thousand times makes no bucket of a thousand.
    """
    takes_part = kept & (keys != 0).any(axis=1)
    who = np.flatnonzero(takes_part)
    names = [f"k{i}" for i in range(keys.shape[1])]
    firsts = (
        pl.DataFrame({name: keys[who, i] for i, name in enumerate(names)})
        .with_columns(row=pl.Series(who, dtype=pl.Int64))
        .select("row", first=pl.col("row").min().over(names))
    )
    matching.join(firsts["row"].to_numpy(), firsts["first"].to_numpy(), parent)
    stands = np.zeros(len(kept), dtype=np.bool_)
    stands[firsts["first"].to_numpy()] = True
    return stands


def _roots(parent: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The root of every row, by doubling the steps until nothing moves."""
    while True:
        above = parent[parent]
        if np.array_equal(above, parent):
            return parent
        parent = above


def _rejections(
    stage: NearDedup,
    ids: pl.Series,
    twin: npt.NDArray[np.int64],
    score: npt.NDArray[np.float64],
    parts: npt.NDArray[np.float64],
) -> pl.DataFrame:
    rows = np.flatnonzero(twin >= 0)
    similar = [pl.Series(name, parts[rows, place]) for place, name in enumerate(PARTS)]
    given = pl.DataFrame(
        [pl.Series("row", rows, dtype=pl.Int64), ids.gather(twin[rows]).alias("twin"), pl.Series("score", score[rows])]
    ).with_columns(similar)
    limit = pl.lit(f" >= {stage.threshold:g}")
    shown = {name: pl.col(name).round(3).cast(pl.String) for name in PARTS}
    whole = pl.col("score").round(3).cast(pl.String)
    detail = {
        "prompt-and-answer": pl.format("prompt {}, answer {}", shown["prompt"], shown["answer"]),
        "conversation": pl.format("conversation {}", whole),
        "prompt": pl.format("prompt {}", shown["prompt"]),
        "answer": pl.format("answer {}", shown["answer"]),
    }[stage.criterion]
    return given.select(
        "row", code=pl.lit("near-duplicate"), detail=pl.concat_str(detail, limit), twin="twin", score="score"
    )
