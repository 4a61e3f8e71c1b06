"""Training, validation and test rows: a draw per cluster, so that near twins stand on one side."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import polars as pl
from pydantic import Field, model_validator

from sft_data.dedup.exact import same_layout
from sft_data.dedup.parts import part_texts
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
      sqrt(share * (1 - share) / n), and no group's draw depends on another's.
    """

    scope: ClassVar[Literal["shard", "dataset"]] = "dataset"
    adds: ClassVar[Mapping[str, pl.DataType]] = {"split": pl.String()}

    kind: Literal["split"] = "split"
    validation: float = Field(0.02, ge=0.0, lt=1.0, description="share of the clusters that becomes validation")
    test: float = Field(0.0, ge=0.0, lt=1.0, description="share of the clusters that becomes test")
    seed: int = Field(17, ge=0, description="seed of the draw")

    @model_validator(mode="after")
    def _leaves_some_training_rows(self) -> Split:
        if self.validation + self.test >= 1.0:
            raise ValueError(f"validation + test is {self.validation + self.test:g}; nothing is left to train on")
        return self

    def sketch(self, frame: pl.DataFrame) -> pl.DataFrame:
        if "cluster" in frame.columns:
            return frame.select(cluster=pl.coalesce("cluster", "id"))
        context, prompt, _ = part_texts()
        asked = pl.concat_str(same_layout(context), same_layout(prompt), separator="\x1e")
        return frame.select(cluster=asked)

    def decide(self, sketches: Sequence[pl.DataFrame]) -> Decision:
        clusters = pl.concat(list(sketches))
        names = clusters["cluster"].unique(maintain_order=True)
        drawn = pl.Series("drawn", [draw(self.seed, name) for name in names], dtype=pl.Float64)
        drawn_of = pl.DataFrame({"cluster": names, "drawn": drawn})
        split = (
            pl.when(pl.col("drawn") < self.test)
            .then(pl.lit("test"))
            .when(pl.col("drawn") < self.test + self.validation)
            .then(pl.lit("validation"))
            .otherwise(pl.lit("train"))
        )
        chosen = clusters.join(drawn_of, on="cluster", how="left", maintain_order="left").select(split=split)
        return Decision(_NONE, chosen)


_NONE = pl.DataFrame(schema={"row": pl.Int64, "code": pl.String, "detail": pl.String})


def draw(seed: int, name: str) -> float:
    """A number in [0, 1) that depends on the seed and the name alone.

    >>> draw(17, "a") == draw(17, "a"), draw(17, "a") == draw(18, "a")
    (True, False)
    """
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)
