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
from sft_data.dedup.gathering import Buckets, Portion, gather, portions
from sft_data.dedup.memory import arrow_of, list_of, lists_of, matrix_of, one_list_of
from sft_data.dedup.minhash import bands_by_datasketch, bands_for, bands_of_rows
from sft_data.dedup.older import OLDER, Older, read_older
from sft_data.dedup.parts import PARTS, part_texts
from sft_data.dedup.prefixes import prefix_buckets
from sft_data.dedup.ranking import Keep, rank_columns, ranked_by, ranking
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
# Rows with equal parts, which need no second look; and those with short answers, whose twin must be equal.
_SHORT = "same short row"
_EQUAL = {"same prompt": (1,), "same conversation": (1, 2), _SHORT: (0, 1, 2)}
_RANGES, _RANGE = 16, 1 << 15  # ranges in which candidates are looked up, but so many rows at least
_EVERYTHING = 1 << 62  # bytes: portions are cut for the work, not for memory
_TAGS = np.array([0x5BD1E995, 0, 0xA3B195B5], dtype=np.uint32)


class NearDedup(StageConfig):
    """Remove rows that are nearly the same as a row that was kept.

    By default a row goes only where context, prompt *and* answer are each near the kept row's: on 55,185 prompts made
    from templates, similarity of the whole record removes 22,539 rows, 10,288 of them with another answer (the same
    passage, another question). Where the answer is shorter than a shingle the prompts must have the same words: an
    equal "Yes." says nothing about the questions.

    A row whose numbers differ from the kept row's stays: "add 3 and 5" is not "add 4 and 5", 三加五 not 三加六, "twelve
    eggs" not "thirteen eggs". Numbers are digits of every script, Han numerals and English words; neither 一 nor "one"
    counts alone, since both are articles more often.

    Similarity is the Jaccard similarity of the sets of 5 units in a row (see `shingles`), computed exactly: every
    removal names a kept row that is at least `threshold` similar. The bands are chosen so that 99 % of the pairs at
    the threshold, and more above it, become candidates; `candidates: exact` finds all.

    The default is 0.7, since rows are short: one changed word takes 5 of about 50 shingles away. Of copies planted
    among 200,000 rows 0.7 removes 19 % more than 0.8; of 69,478 real English and Chinese Alpaca rows it removes 3,405
    instead of 3,403.

    Rows that could be near are looked for in portions, on all workers, each in a bounded piece of memory (see
    `gathering`), and held against each other, some rows at a time; the decision then goes through the rows once. What
    all of them read stays in memory-mapped files, of which the system keeps what fits; what the decision needs for
    itself is 60 to 120 bytes a row, rows of `against` included, whatever the texts are long.

    `copies: 3` keeps up to three rows that are near one another, for several answers to a question: a row goes where
    three kept rows are near it already.

    It also adds `cluster`, the id of the first row of those that must not stand on both sides of a split: kept rows
    whose prompts, or prompts and answers as one, are at least `threshold` similar, whatever their contexts and
    numbers, joined transitively.

    `against` names datasets that are there already: their rows stand before all others and stay, a new row that is
    near one of them goes, and a new row that stays takes over the cluster of the old rows it belongs to. In a build,
    `NAME@v3` is a version of the same store; the ledger calls its rows NAME@FINGERPRINT:id. Its text is read the first
    time only: the sketches of published rows are kept in the store's index.
    """

    revision: ClassVar[int] = 3  # numbers in words and Han numerals are numbers
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
    copies: int = Field(1, ge=1, description="how many rows near to one another stay, older ones counted")
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

    def reads(self) -> dict[str, str]:
        return ranked_by(self.keep, self.score)

    def sketch(self, frame: pl.DataFrame) -> pl.DataFrame:
        texts = part_texts(frame).get_columns()
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

    def portions(self, rows: int, memory: int) -> list[Portion]:
        banded = dict.fromkeys(self._relations(), bands_for(self.threshold, self.num_perm)[0])
        single = [name for name in _EQUAL if name != _SHORT or self._strict()]
        return portions(banded if self.candidates == "minhash" else {}, single, rows, memory)

    def gather(self, sketches: Sequence[pl.DataFrame], portion: Portion) -> pl.DataFrame:
        return self._gather(sketches, portion).frame(portion.relation)

    def _gather(
        self, sketches: Sequence[pl.DataFrame], portion: Portion, among: npt.NDArray[np.bool_] | None = None
    ) -> Buckets:
        """The buckets of a portion, of the rows `among` all where only they matter."""
        height = sum(sketch.height for sketch in sketches)
        banded = portion.relation not in _EQUAL
        if banded and among is None:
            return gather([matrix_of(sketch[portion.relation]) for sketch in sketches], height, portion, banded=True)
        keys, who, before = [], [], 0
        for sketch in sketches:
            if banded:
                all_keys = matrix_of(sketch[portion.relation])
                chosen = np.ones(len(all_keys), dtype=np.bool_)
            else:
                all_keys = matrix_of(sketch["keys"])
                short = all_keys[:, 2] & np.uint64(1) == 0
                all_keys = all_keys[:, list(_EQUAL[portion.relation])]
                chosen = short if portion.relation == _SHORT else (all_keys != 0).any(axis=1)
            if among is not None:
                chosen &= among[before : before + len(all_keys)]
            rows = np.flatnonzero(chosen)
            keys.append(all_keys[rows])
            who.append((rows + before).astype(np.int32))
            before += len(all_keys)
        return gather(keys, height, portion, who, banded=banded)

    def ranges(self, first: int, end: int) -> list[tuple[int, int]]:
        if self.candidates == "exact":
            return []
        step = max(_RANGE, -(-(end - first) // _RANGES))
        return [(at, min(at + step, end)) for at in range(first, end, step)]

    def look_up(
        self, sketches: Sequence[pl.DataFrame], gathered: Sequence[pl.DataFrame], first: int, end: int
    ) -> pl.DataFrame:
        relation = _RELATIONS[self.criterion][0]
        portions = [Buckets.of(frame) for frame in gathered if frame["relation"].item() == relation]
        earlier = not {"rank", "rank_source"} & set(sketches[-1].columns)
        found = matching.candidates(_sets(sketches), portions, first, end, self._rule(), earlier=earlier)
        return pl.DataFrame([list_of(name, values) for name, values in found._asdict().items()])

    def decide(
        self,
        sketches: Sequence[pl.DataFrame],
        older: Sequence[Older] | None = None,
        gathered: Sequence[pl.DataFrame] | None = None,
        ahead: Sequence[pl.DataFrame] = (),
    ) -> Decision:
        older = read_older(self) if older is None else older
        known = pl.concat([each.sketch["cluster"] for each in older] or [pl.Series("cluster", [], pl.String)])
        before = len(known)  # rows that are there already: they stay, and stand first
        ids = pl.concat([*(each.names() for each in older), *(sketch["id"] for sketch in sketches)])
        fresh, sketches = sketches, [*(each.sketch for each in older), *sketches]
        order = np.arange(len(ids), dtype=np.int32)
        order[before:] = ranking(fresh) + before
        rule, sets = self._rule(), _sets(sketches)
        portions = self.portions(len(ids), _EVERYTHING) if gathered is None else []
        shared = self._exact(sets)
        for frame in gathered or ():
            shared.setdefault(frame["relation"].item(), []).append(Buckets.of(frame))
        for portion in portions:
            if portion.relation in (*_RELATIONS[self.criterion], _SHORT):
                shared.setdefault(portion.relation, []).append(self._gather(sketches, portion))
        relations = [shared[name] for name in _RELATIONS[self.criterion]]
        removed = matching.greedy(sets, relations, shared.get(_SHORT, []), order, rule, before, _candidates(ahead))
        for portion in portions:  # what only clusters ask for, they ask of the kept rows
            if portion.relation not in (*_RELATIONS[self.criterion], _SHORT):
                kept = self._gather(sketches, portion, among=removed.twin < 0)
                shared.setdefault(portion.relation, []).append(kept)
        clusters = _clusters(sets, shared, removed, self.threshold)
        rejected = _rejections(self, ids, sets, removed, rule)
        names = pl.concat([known.alias("id"), ids.slice(before)])
        return Decision(
            rejected.with_columns(pl.col("row") - before),
            pl.DataFrame({"cluster": names.gather(clusters[before:])}),
        )

    def _rule(self) -> matching.Rule:
        mode = matching.CRITERIA.index(self.criterion)
        return matching.Rule(mode, self.threshold, self.same_numbers, self._strict(), self.copies)

    def _strict(self) -> bool:
        """Whether short answers ask for the same prompt."""
        return self.criterion == "prompt-and-answer" and self.short_answers == "same-prompt"

    def _relations(self) -> list[str]:
        return list(dict.fromkeys((*_RELATIONS[self.criterion], *_CLUSTERED)))

    def _exact(self, sets: matching.Sets) -> dict[str, list[Buckets]]:
        """By relation, which rows could be near, where no pair may be missed."""
        if self.candidates != "exact":
            return {}
        return {name: [prefix_buckets(sets, _PARTS_OF[name], self.threshold)] for name in self._relations()}


def _array(name: str, values: npt.NDArray[Any]) -> pl.Series:
    """A matrix as a column of fixed-size arrays, which is read back without a copy."""
    return pl.Series(name, pa.FixedSizeListArray.from_arrays(arrow_of(values), values.shape[1]))


def _lists(values: npt.NDArray[np.uint64], sizes: npt.NDArray[np.int64]) -> pl.Series:
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])
    return pl.Series("shingles", pa.LargeListArray.from_arrays(arrow_of(offsets), arrow_of(values)))


def _sets(sketches: Sequence[pl.DataFrame]) -> matching.Sets:
    """The shingle sets of all rows, where they lie."""
    shards = []
    for sketch in sketches:
        keys, numbers, counts = (matrix_of(sketch[name]) for name in ("keys", "numbers", "counts"))
        shards.append(matching.Shard(keys, numbers, counts, *lists_of(sketch["shingles"], np.uint64)))
    return matching.sets_of(shards)


def _candidates(ahead: Sequence[pl.DataFrame]) -> list[matching.Candidates]:
    kinds: list[type[np.generic]] = [np.int32, np.int32, np.int32, np.float64]
    names = matching.Candidates._fields
    return [
        matching.Candidates(*(one_list_of(frame[name], kind) for name, kind in zip(names, kinds, strict=True)))
        for frame in ahead
    ]


def _clusters(
    sets: matching.Sets, shared: Mapping[str, Sequence[Buckets]], removed: matching.Found, threshold: float
) -> npt.NDArray[np.int32]:
    """Of each row the first row of its cluster; of a removed row that of its twin."""
    parent = np.arange(len(removed.twin), dtype=np.int32)
    kept = removed.twin < 0
    for name, parts in _CLUSTERED.items():
        stands = matching.join_equal(sets, shared[f"same {name}"], kept, parts, parent)
        place = parts[0] if len(parts) == 1 else 3
        matching.components(sets, shared[name], stands, place, threshold, parent)
    roots = _roots(parent)
    return np.where(kept, roots, roots[np.where(kept, 0, removed.twin)])


def _roots(parent: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """The root of every row, by doubling the steps until nothing moves."""
    while True:
        above = parent[parent]
        if np.array_equal(above, parent):
            return parent
        parent = above


def _rejections(
    stage: NearDedup, ids: pl.Series, sets: matching.Sets, removed: matching.Found, rule: matching.Rule
) -> pl.DataFrame:
    rows = np.flatnonzero(removed.twin >= 0)
    twins = removed.twin[rows]
    parts = matching.similar(sets, rows, twins, rule)
    similar = [pl.Series(name, parts[:, place]) for place, name in enumerate(PARTS)]
    given = pl.DataFrame(
        [
            pl.Series("row", rows, dtype=pl.Int64),
            ids.gather(twins).alias("twin"),
            pl.Series("score", removed.score[rows]),
        ]
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
