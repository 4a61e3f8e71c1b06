"""How much of each source stays: shares, weights, temperature, caps and floors over groups of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import polars as pl
from pydantic import Field, model_validator

from sft_data.dedup.parts import text_length
from sft_data.errors import ConfigError
from sft_data.split import draw
from sft_data.stage import Decision, StageConfig

__all__ = ["Mix", "targets"]

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Weight = Annotated[float, Field(ge=0.0)]
Amount = Annotated[int, Field(ge=0)]


class Mix(StageConfig):
    """Keep so much of each group that the groups stand in the wanted proportions. No row is ever repeated.

    A group's share is its size to the power of 1/`temperature` (1: as it is; larger: more even), times its weight.
    Groups named in `shares` get exactly that part of the result, the others divide what is left. Without `total` the
    result is the largest that has these shares; with it, groups that have too little give all they have and the
    others fill up. Then caps and floors hold for single groups, whatever the shares say.

    Which rows stay is drawn from each row's id and the seed: the rows of a group with the lowest draws. So a smaller
    mix is a part of a larger one, and added rows displace only as many as they must.
    """

    scope: ClassVar[Literal["shard", "dataset"]] = "dataset"
    codes: ClassVar[Mapping[str, str]] = {"mixed-out": "its group has more than the mix takes of it"}

    kind: Literal["mix"] = "mix"
    by: str = Field("source", description="column whose values are the groups: source, lang, category, ...")
    shares: dict[str, Share] = Field(default={}, description="group -> part of the result, such as {general: 0.1}")
    weights: dict[str, Weight] = Field(default={}, description="group -> factor on its size; 1 where not named")
    temperature: float = Field(1.0, gt=0.0, description="sizes count to the power of 1/temperature")
    total: int | None = Field(
        None, ge=1, description="most rows (or characters) in all; null: as many as the shares allow"
    )
    caps: dict[str, Amount] = Field(default={}, description="group -> most rows (or characters) of it")
    floors: dict[str, Amount] = Field(default={}, description="group -> rows (or characters) that stay in any case")
    measure: Literal["rows", "characters"] = Field("rows", description="what sizes, caps, floors and total count")
    seed: int = Field(17, ge=0, description="seed of the draw")

    @model_validator(mode="after")
    def _shares_leave_room(self) -> Mix:
        if sum(self.shares.values()) > 1.0 + 1e-9:
            raise ValueError(f"shares add up to {sum(self.shares.values()):g}; they are parts of one whole")
        return self

    def sketch(self, frame: pl.DataFrame) -> pl.DataFrame:
        if self.by not in frame.columns:
            raise ConfigError("mix", [f"by: there is no column `{self.by}`; put the stage that adds it before"])
        size = text_length().cast(pl.Int64) if self.measure == "characters" else pl.lit(1, dtype=pl.Int64)
        drawn = pl.Series("drawn", [draw(self.seed, name) for name in frame["id"]], dtype=pl.Float64)
        return frame.select(group=pl.col(self.by).cast(pl.String).fill_null("(none)"), size=size, drawn=drawn)

    def decide(self, sketches: Sequence[pl.DataFrame]) -> Decision:
        rows = pl.concat(list(sketches)).with_row_index("row").with_columns(pl.col("row").cast(pl.Int64))
        sizes = dict(rows.group_by("group", maintain_order=True).agg(pl.col("size").sum()).iter_rows())
        self._check_names(sizes)
        takes = targets(sizes, self)
        ranked = rows.sort("group", "drawn", "row").with_columns(taken=pl.col("size").cum_sum().over("group"))
        limit = pl.col("group").replace_strict(takes, return_dtype=pl.Int64) if takes else pl.lit(0)
        out = ranked.filter(pl.col("taken") > limit).sort("row")
        told = {g: f"{g}: {takes[g]:,} of {sizes[g]:,} {self.measure} stay" for g in takes}
        detail = pl.col("group").replace_strict(told, return_dtype=pl.String) if told else pl.lit("")
        return Decision(out.select("row", code=pl.lit("mixed-out"), detail=detail))

    def _check_names(self, sizes: Mapping[str, int]) -> None:
        named = {*self.shares, *self.weights, *self.caps, *self.floors}
        if sizes and (unknown := sorted(named - set(sizes))):
            raise ConfigError(
                "mix", [f"no row has {self.by} `{name}`; there is {', '.join(sorted(sizes))}" for name in unknown]
            )


def targets(sizes: Mapping[str, int], mix: Mix) -> dict[str, int]:
    """How much of each group stays.

    >>> targets({"a": 100, "b": 300}, Mix(shares={"a": 0.5}))
    {'a': 100, 'b': 100}
    >>> targets({"a": 100, "b": 300}, Mix(temperature=1e9, total=240))
    {'a': 100, 'b': 140}
    """
    parts = _parts(sizes, mix)
    wanted = _fill(sizes, parts, mix.total) if mix.total is not None else _shrink(sizes, parts)
    capped = {group: min(many, mix.caps.get(group, many)) for group, many in wanted.items()}
    return {group: min(sizes[group], max(many, mix.floors.get(group, 0))) for group, many in capped.items()}


def _parts(sizes: Mapping[str, int], mix: Mix) -> dict[str, float]:
    """Each group's part of the result; they add up to 1 where anything is left."""
    natural = {
        group: size ** (1.0 / mix.temperature) * mix.weights.get(group, 1.0)
        for group, size in sizes.items()
        if group not in mix.shares and size
    }
    whole, rest = sum(natural.values()), 1.0 - sum(mix.shares.values())
    free = {group: rest * value / whole if whole else 0.0 for group, value in natural.items()}
    return {group: mix.shares.get(group, free.get(group, 0.0)) for group in sizes}


def _shrink(sizes: Mapping[str, int], parts: Mapping[str, float]) -> dict[str, int]:
    """The largest result in which every group has exactly its part."""
    most = min((sizes[group] / part for group, part in parts.items() if part > 0), default=0.0)
    return {group: round(most * part) for group, part in parts.items()}


def _fill(sizes: Mapping[str, int], parts: Mapping[str, float], total: int) -> dict[str, int]:
    """`total` in all, as long as there is enough: who has too little gives all, the others fill up by their parts."""
    given: dict[str, int] = dict.fromkeys(sizes, 0)
    open_groups = {group: part for group, part in parts.items() if part > 0}
    left = float(total)
    while open_groups:
        whole = sum(open_groups.values())
        short = [group for group, part in open_groups.items() if sizes[group] <= left * part / whole]
        if not short:
            return given | _whole_numbers({group: left * part / whole for group, part in open_groups.items()})
        for group in short:
            given[group] = sizes[group]
            left -= sizes[group]
            del open_groups[group]
    return given


def _whole_numbers(amounts: Mapping[str, float]) -> dict[str, int]:
    """Rounded down, and the rest given to the largest fractions, so that the sum stays."""
    down = {group: int(amount) for group, amount in amounts.items()}
    missing = round(sum(amounts.values())) - sum(down.values())
    for group in sorted(amounts, key=lambda name: (down[name] - amounts[name], name))[:missing]:
        down[group] += 1
    return down
