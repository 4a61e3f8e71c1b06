"""The best rows under a budget: by score alone, or so that they also cover the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field, field_validator, model_validator

from sft_data.dedup.models import checked_model, model_contents, model_copies, pinned_model, text_vectors
from sft_data.dedup.parts import side_text
from sft_data.dedup.vectors import projected, rarity, stacked
from sft_data.errors import ConfigError, NoSuchRowsError
from sft_data.scores import SCORED_BY, column_of, no_numbers, scores
from sft_data.selection.clusters import clusters
from sft_data.selection.distances import ByteSpace, SetSpace, Space
from sft_data.selection.orders import Choice, Floors, distant, k_center, ranked_rows, turns
from sft_data.sizes import MEASURED_BY, Measure, sizes
from sft_data.split import draw
from sft_data.stage import Decision, StageConfig

__all__ = ["METHODS", "Select"]

I64 = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

# Method -> the settings that it alone reads.
METHODS: dict[str, tuple[str, ...]] = {
    "score": (),
    "distant": ("distance", "criterion", "model"),
    "k-center": ("criterion", "model"),
    "round-robin": ("groups", "clusters", "criterion", "model"),
}


class Select(StageConfig):
    """Keep the best rows under a budget, by a score alone or spread over the data.

    The budget is a number (`budget`, in what `measure` counts) or a part of what arrives (`share`). Rows take it in an
    order that `method` decides, until the next one does not fit; so the choice for a smaller budget is a part of that
    for a larger one. Every order begins with the best score:

    - `score`: best first, whatever the rows are about. With `by: answer-characters` this is the 1,000 longest answers
      of Zhao et al. (2024, "Long is more for alignment"), a baseline that more refined choices have to beat.
    - `distant`: best first, but a row is passed over where the cosine distance to its nearest chosen row is not above
      `distance`: the score-first, diversity-aware choice of DEITA (Liu et al., 2024).
    - `k-center`: the best row, then always the one that is farthest from all chosen ones; the score decides between
      equally far ones. Greedy k-center (Sener and Savarese, 2018) covers the data with the smallest radius that is
      known to be found quickly, twice the best one at most. It likes outliers: filter first.
    - `round-robin`: the best row of each group, then the second best of each, and so on; a round goes by score. Groups
      are the values of the column `groups` (`cluster` of near-dedup, `lang`, `category`, ...; rows without a value are
      one group, or each its own for `cluster`), or `clusters` clusters of vectors, found by k-means.

    `floors` with `per` give groups, such as sources or languages, what they have in any case, best rows first; with
    `distant` these are chosen before all others.

    Vectors are those of semantic-dedup: TF-IDF over words and word pairs, or a sentence-embedding model's (extra
    `semantic`). Rows without a number for a score are rejected, or come last with `missing: last`. Ties are drawn from
    row id and seed.

    On Alpaca the 1,000 longest answers have 1,341 characters on average, a random choice 267, a `distant` one at 0.8
    1,169. The nearest other prompt of the choice has a cosine of 0.28 among the longest, 0.16 among the random and the
    distant ones, 0.04 for `k-center`; no row is farther than 0.045 from k-center's, some are at 0 from the longest.
    Representative of the rest, by the mean, is the random choice.

    A million rows take 0.8 GB and 4 CPU seconds for `score`, 1.4 GB and 34 for `round-robin` over vectors. `distant`
    and `k-center` hold 12 bytes for each word and word pair of a row's text, and their time grows with rows times
    chosen rows: a second for 1,000 of the 52,002 rows of Alpaca, two minutes for 10,000 of a million.
    """

    scope: ClassVar[Literal["shard", "dataset"]] = "dataset"
    revision: ClassVar[int] = 3  # draws are not those of `split`
    uses: ClassVar[tuple[str, ...]] = ("numba", "numpy", "tokenizers")
    files: ClassVar[tuple[str, ...]] = ("model", "tokenizer")
    codes: ClassVar[Mapping[str, str]] = {
        "not-selected": "the budget went to rows that the choice puts before it",
        "too-near": "not far enough from the chosen row named as its twin",
        "no-score": "has no number to be chosen by",
    }

    kind: Literal["select"] = "select"
    by: str = Field("answer-characters", description=SCORED_BY)
    best: Literal["highest", "lowest"] = Field("highest", description="which end of the scores is the better one")
    missing: Literal["reject", "last"] = Field("reject", description="rows without a score leave, or stand behind all")
    budget: int | None = Field(None, ge=1, description="most that stays, in what `measure` counts")
    share: float | None = Field(None, gt=0.0, le=1.0, description="instead of `budget`: the part that stays")
    measure: Measure = Field("rows", description=MEASURED_BY)
    tokenizer: str = Field("", description="folder of the tokenizer that `measure: tokens` counts with")
    method: Literal["score", "distant", "k-center", "round-robin"] = Field(
        "score", description="in which order rows take the budget: score, distant, k-center or round-robin"
    )
    distance: float = Field(
        0.5,
        ge=0.0,
        lt=1.0,
        description="distant: how far (1 - cosine) a row must be from all chosen ones; a model wants about 0.1",
    )
    groups: str = Field("", description="round-robin: column whose values take turns; empty: clusters of vectors")
    clusters: int = Field(100, ge=1, le=10_000, description="round-robin without `groups`: how many clusters")
    criterion: Literal["prompt", "answer", "conversation"] = Field(
        "prompt", description="the text whose vectors are compared: prompt, answer or conversation"
    )
    model: str = Field("", description="sentence-embedding model: its folder, or hf://ORG/NAME; empty: TF-IDF")
    per: str = Field("", description="column whose values `floors` names, such as source")
    floors: dict[str, Annotated[int, Field(ge=0)]] = Field(
        default={}, description="group -> what of it stays in any case, as far as it is there"
    )
    seed: int = Field(17, ge=0, description="seed of the draw between equal scores")

    @field_validator("model")
    @classmethod
    def _is_a_model(cls, model: str) -> str:
        return checked_model(model)

    @model_validator(mode="after")
    def _fits_together(self) -> Select:
        problems = []
        if (self.budget is None) == (self.share is None):
            problems.append("one of `budget` (a number) and `share` (a part) has to be given")
        if (self.measure == "tokens") != bool(self.tokenizer):
            problems.append("`measure: tokens` and `tokenizer` belong together")
        if bool(self.per) != bool(self.floors):
            problems.append("`per` and `floors` belong together: the column, and what its groups have in any case")
        if self.floors and self.method == "k-center":
            problems.append("`floors` cannot be held by k-center; take distant or round-robin")
        if self.groups and (self.clusters != 100 or self.model or self.criterion != "prompt"):
            problems.append("`groups` names a column, so `clusters`, `criterion` and `model` have no effect")
        problems += self._idle()
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _idle(self) -> list[str]:
        """What has no effect with the chosen method."""
        names = {name for several in METHODS.values() for name in several} - set(METHODS[self.method])
        given = sorted(name for name in names if getattr(self, name) != type(self).model_fields[name].default)
        ways = {name: " or ".join(m for m, several in METHODS.items() if name in several) for name in given}
        return [f"`{n}` has no effect where method is {self.method}; it is for {w}" for n, w in ways.items()]

    @property
    def _limit(self) -> float:
        """The cosine from which on a row is too near; 0.3 and not 0.30000000000000004."""
        return round(1.0 - self.distance, 9)

    @property
    def compares(self) -> bool:
        """Whether the choice looks at vectors."""
        return self.method in ("distant", "k-center") or (self.method == "round-robin" and not self.groups)

    def reads(self) -> dict[str, str]:
        named = {"by": column_of(self.by), "groups": self.groups, "per": self.per}
        return {setting: column for setting, column in named.items() if column}

    def fetched(self) -> Select:
        return self.model_copy(update={"model": pinned_model(self.model)})

    def copies(self) -> tuple[Path, ...]:
        return model_copies(self.model)

    def contents(self) -> dict[str, str]:
        return model_contents(self.model)

    def sketch(self, frame: pl.DataFrame) -> pl.DataFrame:
        drawn = pl.Series("drawn", [draw(self.seed, f"select:{name}") for name in frame["id"]], dtype=pl.Float64)
        size = sizes(frame, self.measure, self.tokenizer).alias("size")
        columns = [*scores(frame, self.by, self.kind), size, drawn]
        columns += [self._column(frame, name, to) for name, to in ((self.groups, "group"), (self.per, "per")) if name]
        if self.compares:
            text = side_text(frame, self.criterion)
            columns += [frame["id"], text_vectors(text, self.model).alias("vector")]
        return pl.DataFrame(columns)

    def _column(self, frame: pl.DataFrame, name: str, to: str) -> pl.Series:
        if name not in frame.columns:
            raise ConfigError(self.kind, [f"there is no column `{name}`; put the stage that adds it before"])
        alone = pl.concat_str(pl.lit("\x1f"), pl.col("id")) if name == "cluster" else pl.lit("(none)")
        return frame.select(pl.col(name).cast(pl.String).fill_null(alone)).to_series().alias(to)

    def decide(self, sketches: Sequence[pl.DataFrame]) -> Decision:
        rows = pl.concat([sketch.drop("id", "vector", strict=False) for sketch in sketches])
        self._check(rows)
        ranked = ranked_rows(rows, descending=self.best == "highest", everything=self.missing == "last")
        room = self._room(rows)
        choice = self._choice(sketches, rows, ranked, room)
        kept = self._kept(rows, choice.order, room)
        return Decision(self._told(rows, ranked, choice, kept, room))

    def _check(self, rows: pl.DataFrame) -> None:
        if rows.height and rows["score"].null_count() == rows.height:
            raise no_numbers(self.by, rows, self.kind)
        there = set(rows["per"].unique()) if self.per and rows.height else set(self.floors)
        if unknown := sorted(set(self.floors) - there):
            told = [f"floors: no row has {self.per} `{n}`; there is {', '.join(sorted(there))}" for n in unknown]
            raise NoSuchRowsError(self.kind, told)

    def _room(self, rows: pl.DataFrame) -> int:
        return self.budget if self.budget is not None else int((self.share or 0.0) * int(rows["size"].sum()) + 1e-9)

    def _choice(self, sketches: Sequence[pl.DataFrame], rows: pl.DataFrame, ranked: I64, room: int) -> Choice:
        if self.method == "score" or not len(ranked):
            return Choice(ranked)
        if self.method == "round-robin":
            return Choice(turns(self._groups(sketches, rows), ranked))
        space = self.space(sketches)
        ids = pl.concat([sketch["id"] for sketch in sketches])
        weights = rows["size"].to_numpy()
        if self.method == "k-center":
            return k_center(space, ids, ranked, weights, room)
        return distant(space, ids, ranked, weights, room, self._limit, self._floors(rows))

    def _floors(self, rows: pl.DataFrame) -> Floors:
        names = {name: number for number, name in enumerate(sorted(self.floors))}
        per = rows["per"] if self.per else pl.Series([None], dtype=pl.String).new_from_index(0, rows.height)
        groups = per.replace_strict(names, default=-1, return_dtype=pl.Int64).to_numpy()
        return Floors(groups, {number: self.floors[name] for name, number in names.items()})

    def space(self, sketches: Sequence[pl.DataFrame]) -> Space:
        """How near the rows of sketches with vectors are to each other."""
        if self.model:
            return ByteSpace(_bytes(sketches))
        return SetSpace(rarity([sketch["vector"] for sketch in sketches]))

    def _groups(self, sketches: Sequence[pl.DataFrame], rows: pl.DataFrame) -> I64:
        if self.groups:
            return rows["group"].rank("dense").to_numpy().astype(np.int64)
        vectors = _bytes(sketches) if self.model else projected(rarity([sketch["vector"] for sketch in sketches]))
        return clusters(vectors, np.argsort(rows["drawn"].to_numpy(), kind="stable"), self.clusters)

    def _kept(self, rows: pl.DataFrame, order: I64, room: int) -> Flags:
        """The rows that stay: what the floors ask for, then the order's rows until one does not fit."""
        kept = np.zeros(rows.height, dtype=np.bool_)
        weights = rows["size"].to_numpy()
        if self.floors:
            offered = rows[order].select("per", "size", row=pl.Series(order))
            sums = offered.with_columns(taken=pl.col("size").cum_sum().over("per"))
            least = pl.col("per").replace_strict(self.floors, default=0, return_dtype=pl.Int64)
            kept[sums.filter(pl.col("taken") <= least)["row"].to_numpy()] = True
        rest = order[~kept[order]]
        left = room - int(weights[kept].sum())
        kept[rest[np.cumsum(weights[rest]) <= left]] = True
        return kept

    def _told(self, rows: pl.DataFrame, ranked: I64, choice: Choice, kept: Flags, room: int) -> pl.DataFrame:
        """The ledger of the rows that do not stay, in the order of the rows."""
        place = np.zeros(rows.height, dtype=np.int64)
        place[ranked] = np.arange(1, len(ranked) + 1)
        used = int(rows["size"].to_numpy()[kept].sum())
        budget = f"{int(kept.sum()):,} rows take {used:,} of {room:,} {self.measure}"
        score = pl.format("{} {}", pl.lit(self.by), _plain(pl.col("score")))
        standing = pl.format("{}, place {} of {}; {}", score, "place", len(ranked), pl.lit(budget))
        table = rows.select("score", odd=pl.col("odd").fill_null("(nothing)")).with_columns(
            row=pl.int_range(pl.len(), dtype=pl.Int64), place=pl.Series(place), kept=pl.Series(kept)
        )
        table = table.join(choice.near, on="row", how="left", maintain_order="left")
        near = pl.format("cosine {} to chosen {}", pl.col("cosine").round(3), "twin")
        passed = pl.col("passed").fill_null(value=False)
        return table.filter(~pl.col("kept")).select(
            "row",
            code=pl.when(pl.col("place") == 0)
            .then(pl.lit("no-score"))
            .when(passed)
            .then(pl.lit("too-near"))
            .otherwise(pl.lit("not-selected")),
            detail=pl.when(pl.col("place") == 0)
            .then(pl.format("{}: {} is no number", pl.lit(self.by), "odd"))
            .when(passed)
            .then(pl.format("cosine {} >= {}; {}", pl.col("cosine").round(3), self._limit, score))
            .when(pl.col("twin").is_not_null())
            .then(pl.format("{}; {}", near, standing))
            .otherwise(standing),
            twin=pl.when(passed).then("twin"),
            score=pl.when(passed).then("cosine"),
        )


def _plain(number: pl.Expr) -> pl.Expr:
    """A number as a person writes it: 312 and 4.5, not 312.0."""
    return number.round(4).cast(pl.String).str.replace(r"\.0$", "").fill_null("none")


def _bytes(sketches: Sequence[pl.DataFrame]) -> npt.NDArray[np.int8]:
    full = [sketch["vector"] for sketch in sketches if sketch.height]
    return stacked(full)
