"""Training, validation and test rows: a draw per cluster, so that near twins stand on one side."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import ceil
from typing import Any, ClassVar, Literal

import polars as pl
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from sft_data.dedup.exact import same_layout
from sft_data.dedup.parts import part_texts
from sft_data.errors import ConfigError
from sft_data.stage import Decision, StageConfig

__all__ = ["SPLITS", "Split", "draw"]

SPLITS = ("train", "validation", "test")


class Split(StageConfig):
    """Give every row a split: "train", "validation" or "test". Rejects nothing.

    Rows of one `cluster` (see near-dedup) go to the same side, and so do rows with the same prompt where no stage
    has found clusters. Each cluster draws a number from its own id and the seed; the lowest share is test, the next
    validation, the rest train. Nothing else takes part in the draw, hence:

    - adding rows behind the others never moves an old row, unless a new row is near rows of two clusters and so makes
      them one: then the later cluster follows the earlier one, since no split could keep both promises;
    - raising `validation` or `test` only moves rows out of train (and from validation to test);
    - each source, language or other group gets its share in expectation: a group of n clusters deviates by about
      sqrt(share * (1 - share) / n), and no group's draw depends on another's. A group of few rows may get none: no rule
      that never moves an old row can promise otherwise, wherever new rows come in. The report names such groups.

    `stratify: [source, lang]` promises it, and gives something up. The clusters of each group are counted in the order
    of the data, cut into blocks of 1 / (validation + test), and one of each block is held out, by a draw (permuted
    blocks): every group has its share to within one cluster. Rows that are added behind those of their group never
    move an old one, nor do rows of other groups; rows that are put in or taken out before others (another filter, a
    file that sorts earlier) move those behind them. With `least: n` the first n blocks have ten clusters, so that n are
    held out of every group that has ten times as many. A cluster belongs to the group of its first row.
    """

    scope: ClassVar[Literal["shard", "dataset"]] = "dataset"
    adds: ClassVar[Mapping[str, pl.DataType]] = {"split": pl.String()}

    kind: Literal["split"] = "split"
    validation: float = Field(0.02, ge=0.0, lt=1.0, description="share of the clusters that becomes validation")
    test: float = Field(0.0, ge=0.0, lt=1.0, description="share of the clusters that becomes test")
    stratify: tuple[str, ...] = Field(
        (),
        description="columns, such as source and lang, in each of whose groups the shares hold to within one cluster; "
        "empty: by a draw alone, in expectation",
    )
    least: int = Field(
        0, ge=0, le=1000, description="with `stratify`: clusters held out of each group that has ten times as many"
    )
    seed: int = Field(17, ge=0, description="seed of the draw")

    @model_serializer(mode="wrap")
    def _without_what_is_not_set(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Versions of before there were strata keep their fingerprints."""
        found: dict[str, Any] = plain(self)
        return {name: value for name, value in found.items() if name not in ("stratify", "least") or value}

    @model_validator(mode="after")
    def _leaves_some_training_rows(self) -> Split:
        if self.validation + self.test >= 1.0:
            raise ValueError(f"validation + test is {self.validation + self.test:g}; nothing is left to train on")
        if self.least and not self.stratify:
            raise ValueError("`least` speaks of the groups of `stratify`; name its columns, such as [source, lang]")
        return self

    def reads(self) -> dict[str, str]:
        return {f"stratify.{number}": column for number, column in enumerate(self.stratify)}

    def sketch(self, frame: pl.DataFrame) -> pl.DataFrame:
        if missing := [name for name in self.stratify if name not in frame.columns]:
            raise ConfigError(
                self.kind, [f"stratify: there is no column `{missing[0]}`; put the stage that adds it before"]
            )
        values = [pl.col(name).cast(pl.String).fill_null("(none)") for name in self.stratify]
        stratum = [pl.concat_str(values, separator="\x1f").alias("stratum")] if values else []
        if "cluster" in frame.columns:
            return frame.select(pl.coalesce("cluster", "id").alias("cluster"), *stratum)
        sides = [same_layout(pl.col(name)) for name in ("context", "prompt")]
        asked = part_texts(frame).select(pl.concat_str(sides, separator="\x1e")).to_series().to_list()
        # The decision holds the sketches of all rows: a digest stands for a text, however long that is.
        digests = [hashlib.blake2b(text.encode(), digest_size=16).hexdigest() for text in asked]
        drawn = [draw(self.seed, text) for text in asked]
        columns = pl.DataFrame({"cluster": digests, "drawn": drawn}, {"cluster": pl.String, "drawn": pl.Float64})
        return pl.concat([columns, frame.select(stratum)], how="horizontal")

    def decide(self, sketches: Sequence[pl.DataFrame]) -> Decision:
        clusters = pl.concat(list(sketches))
        names = clusters.unique("cluster", keep="first", maintain_order=True)
        sides = self._in_blocks(names) if self.stratify else self._drawn(names)
        table = pl.DataFrame({"cluster": names["cluster"], "split": sides})
        chosen = clusters.join(table, on="cluster", how="left", maintain_order="left").select("split")
        return Decision(_NONE, chosen)

    def _drawn(self, clusters: pl.DataFrame) -> pl.Series:
        """The side of each cluster by its own draw."""
        if "drawn" not in clusters.columns:
            drawn = [draw(self.seed, name) for name in clusters["cluster"]]
            clusters = clusters.with_columns(pl.Series("drawn", drawn, dtype=pl.Float64))
        split = (
            pl.when(pl.col("drawn") < self.test)
            .then(pl.lit("test"))
            .when(pl.col("drawn") < self.test + self.validation)
            .then(pl.lit("validation"))
            .otherwise(pl.lit("train"))
        )
        return clusters.select(split=split).to_series()

    def _in_blocks(self, clusters: pl.DataFrame) -> pl.Series:
        """The side of each cluster by the block of its group in which it stands: one of a block is held out."""
        validation, test = (Fraction(str(share)) for share in (self.validation, self.test))
        held, sides = validation + test, ["train"] * clusters.height
        if not held:
            return pl.Series("split", sides, dtype=pl.String)
        counted: Counter[str] = Counter()  # clusters seen of each group
        now: dict[str, tuple[int, int, int]] = {}  # each group's block: its number, its end, and who is held out
        for row, stratum in enumerate(clusters["stratum"]):
            place = counted[stratum]
            counted[stratum] += 1
            block, end, pick = now.get(stratum, (-1, 0, -1))
            if place == end:
                block, start, end = block + 1, *_bounds(block + 1, held, self.least)
                pick = start + int(draw(self.seed, f"{stratum}\x1f{block}") * (end - start))
                now[stratum] = block, end, pick
            if place == pick:
                share = test / held
                sides[row] = "test" if int((block + 1) * share) > int(block * share) else "validation"
        return pl.Series("split", sides, dtype=pl.String)


# Clusters in each of the first `least` blocks: so many a group must have for one to be held out.
_FIRST = 10


def _bounds(block: int, held: Fraction, least: int) -> tuple[int, int]:
    """The places at which a block of a group's clusters starts and ends.

    >>> [_bounds(block, Fraction(2, 5), least=0) for block in range(3)]
    [(0, 3), (3, 5), (5, 8)]
    """
    short = min(_FIRST, ceil(1 / held))
    if block < least:
        return short * block, short * (block + 1)
    first = short * least
    return first + ceil((block - least) / held), first + ceil((block - least + 1) / held)


_NONE = pl.DataFrame(schema={"row": pl.Int64, "code": pl.String, "detail": pl.String})


def draw(seed: int, name: str) -> float:
    """A number in [0, 1) that depends on the seed and the name alone.

    Who draws for another purpose puts the purpose before the name ("mix:..."): rows that one choice kept for their low
    draws would have low draws in the next one, too, and most of them would be held out.

    >>> draw(17, "a") == draw(17, "a"), draw(17, "a") == draw(18, "a")
    (True, False)
    """
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)
