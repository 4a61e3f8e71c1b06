"""How much of each source stays: shares, weights, temperature, caps, floors and repeats over groups of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import polars as pl
from pydantic import Field, model_validator

from sft_data.errors import ConfigError, NoSuchRowsError
from sft_data.sizes import MEASURED_BY, Measure, sizes
from sft_data.split import draw
from sft_data.stage import Decision, StageConfig

__all__ = ["Mix", "targets"]

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Weight = Annotated[float, Field(ge=0.0)]
Amount = Annotated[int, Field(ge=0)]

_ROUNDING = 1e-9  # of sums of fractions


class Mix(StageConfig):
    """Keep so much of each group that the groups stand in the wanted proportions; repeat small ones if asked to.

    A group's share is its size to the power of 1/`temperature` (1: as it is; larger: more even), times its weight.
    Groups named in `shares` get exactly that part of the result, the others divide what is left.

    With `total` that much stays, if there is enough: where a group has too little, or its cap or floor says otherwise,
    the others make up for it, those named in `shares` and `general` last. Without `total` the result is the largest
    that has these shares; then caps and floors hold for single groups, whatever the shares say.

    `replay` is for teaching something new without forgetting the old: the groups in `general` together get that part
    of the result, divided among them by their shares. 0.1 of general data is a common choice; runs with 0.01 to 0.25
    are found in the literature.

    `repeat` above 1 lets a group that is too small for its share be packed up to so many times in an epoch, instead of
    making all others smaller. Rows are stored once; the column `copies` says how often a row is packed (2.5: two or
    three times, by a draw), times its source's weight. Muennighoff et al. (2023) find up to 4 epochs nearly as good as
    new data, and little gain behind 16. The report tells the effective epochs of every group.

    Which rows stay is drawn from each row's id and the seed: the rows of a group with the lowest draws. So a smaller
    mix is a part of a larger one, and added rows displace only as many as they must.
    """

    scope: ClassVar[Literal["shard", "dataset"]] = "dataset"
    revision: ClassVar[int] = 3  # totals are met with caps and floors; shares are exact; draws are not those of `split`
    adds: ClassVar[Mapping[str, pl.DataType]] = {"copies": pl.Float64()}
    uses: ClassVar[tuple[str, ...]] = ("tokenizers",)
    files: ClassVar[tuple[str, ...]] = ("tokenizer",)
    codes: ClassVar[Mapping[str, str]] = {"mixed-out": "its group has more than the mix takes of it"}

    kind: Literal["mix"] = "mix"
    by: str = Field("source", description="column whose values are the groups: source, lang, category, ...")
    shares: dict[str, Share] = Field(default={}, description="group -> part of the result, such as {general: 0.1}")
    general: tuple[str, ...] = Field((), description="groups of general data, of which `replay` speaks")
    replay: Share = Field(0.0, description="part of the result that the groups in `general` make up together")
    weights: dict[str, Weight] = Field(default={}, description="group -> factor on its size; 1 where not named")
    temperature: float = Field(1.0, gt=0.0, description="sizes count to the power of 1/temperature")
    repeat: float = Field(1.0, ge=1.0, le=1000.0, description="most times that a row is packed in an epoch")
    total: int | None = Field(
        None, ge=1, description="most rows (or what `measure` counts) in all; null: as many as the shares allow"
    )
    caps: dict[str, Amount] = Field(default={}, description="group -> most of it, in what `measure` counts")
    floors: dict[str, Amount] = Field(default={}, description="group -> what stays of it in any case")
    measure: Measure = Field("rows", description=MEASURED_BY)
    tokenizer: str = Field("", description="folder of the tokenizer that `measure: tokens` counts with")
    seed: int = Field(17, ge=0, description="seed of the draw")

    @model_validator(mode="after")
    def _shares_leave_room(self) -> Mix:
        whole = sum(self.shares.values()) + self.replay
        if whole > 1.0 + 1e-9:
            raise ValueError(f"shares and replay add up to {whole:g}; they are parts of one whole")
        if bool(self.general) != bool(self.replay):
            raise ValueError("`general` and `replay` belong together: which groups, and what part of the result")
        if twice := sorted(set(self.general) & set(self.shares)):
            raise ValueError(f"`{twice[0]}` stands in `general` and in `shares`; one of them decides")
        if (self.measure == "tokens") != bool(self.tokenizer):
            raise ValueError("`measure: tokens` and `tokenizer` belong together")
        return self

    def reads(self) -> dict[str, str]:
        return {"by": self.by}

    def sketch(self, frame: pl.DataFrame) -> pl.DataFrame:
        if self.by not in frame.columns:
            raise ConfigError("mix", [f"by: there is no column `{self.by}`; put the stage that adds it before"])
        size = sizes(frame, self.measure, self.tokenizer)
        drawn = pl.Series("drawn", [draw(self.seed, f"mix:{name}") for name in frame["id"]], dtype=pl.Float64)
        return frame.select(group=pl.col(self.by).cast(pl.String).fill_null("(none)"), size=size, drawn=drawn)

    def decide(self, sketches: Sequence[pl.DataFrame]) -> Decision:
        rows = pl.concat(list(sketches)).with_row_index("row").with_columns(pl.col("row").cast(pl.Int64))
        there = dict(rows.group_by("group", maintain_order=True).agg(pl.col("size").sum()).iter_rows())
        self._check_names(there)
        takes = targets(there, self)
        ranked = rows.sort("group", "drawn", "row").with_columns(taken=pl.col("size").cum_sum().over("group"))
        limit = pl.col("group").replace_strict(takes, return_dtype=pl.Int64) if takes else pl.lit(0)
        out = ranked.filter(pl.col("taken") > limit).sort("row")
        told = {g: f"{g}: {takes[g]:,} of {there[g]:,} {self.measure} stay" for g in takes}
        detail = pl.col("group").replace_strict(told, return_dtype=pl.String) if told else pl.lit("")
        times = {group: max(1.0, takes[group] / max(1, there[group])) for group in takes}
        copies = pl.col("group").replace_strict(times, return_dtype=pl.Float64) if times else pl.lit(1.0)
        return Decision(
            out.select("row", code=pl.lit("mixed-out"), detail=detail),
            rows.with_columns(copies=copies).select("copies"),
        )

    def _check_names(self, sizes: Mapping[str, int]) -> None:
        named = {*self.shares, *self.general, *self.weights, *self.caps, *self.floors}
        if sizes and (unknown := sorted(named - set(sizes))):
            raise NoSuchRowsError(
                "mix", [f"no row has {self.by} `{name}`; there is {', '.join(sorted(sizes))}" for name in unknown]
            )


def targets(sizes: Mapping[str, int], mix: Mix) -> dict[str, int]:
    """How much of each group is trained on in an epoch; more than there is where it is to be repeated.

    >>> targets({"a": 100, "b": 300}, Mix(shares={"a": 0.5}))
    {'a': 100, 'b': 100}
    >>> targets({"a": 100, "b": 300}, Mix(shares={"a": 0.5}, repeat=4))
    {'a': 300, 'b': 300}
    >>> targets({"a": 100, "b": 300}, Mix(temperature=1e9, total=240))
    {'a': 100, 'b': 140}
    >>> targets({"a": 100, "b": 300, "c": 300}, Mix(shares={"a": 0.2}, total=200, caps={"b": 50}))
    {'a': 40, 'b': 50, 'c': 110}
    """
    parts = _parts(sizes, mix)
    most = {group: int(size * mix.repeat) for group, size in sizes.items()}
    low = {group: min(many, mix.floors.get(group, 0)) for group, many in most.items()}
    high = {group: max(low[group], min(many, mix.caps.get(group, many))) for group, many in most.items()}
    if mix.total is not None:
        return _whole_numbers(_meet(parts, low, high, mix, mix.total))
    shrunk = _shrink(sizes, most, parts)
    return {group: max(low[group], min(many, high[group])) for group, many in shrunk.items()}


def _parts(sizes: Mapping[str, int], mix: Mix) -> dict[str, float]:
    """Each group's part of the result; they add up to 1 where anything is left."""
    natural = {
        group: size ** (1.0 / mix.temperature) * mix.weights.get(group, 1.0)
        for group, size in sizes.items()
        if group not in mix.shares and size
    }
    rest = 1.0 - sum(mix.shares.values()) - mix.replay
    free = _divide({group: value for group, value in natural.items() if group not in mix.general}, rest)
    free |= _divide({group: value for group, value in natural.items() if group in mix.general}, mix.replay)
    return {group: mix.shares.get(group, free.get(group, 0.0)) for group in sizes}


def _divide(natural: Mapping[str, float], whole: float) -> dict[str, float]:
    total = sum(natural.values())
    return {group: whole * value / total if total else 0.0 for group, value in natural.items()}


def _shrink(sizes: Mapping[str, int], most: Mapping[str, int], parts: Mapping[str, float]) -> dict[str, int]:
    """The largest result in which every group has exactly its part, and some group is not repeated."""
    able = min((most[group] / part for group, part in parts.items() if part > 0), default=0.0)
    used = max((sizes[group] / part for group, part in parts.items() if part > 0), default=0.0)
    return {group: round(min(able, used) * part) for group, part in parts.items()}


def _meet(
    parts: Mapping[str, float], low: Mapping[str, int], high: Mapping[str, int], mix: Mix, total: float
) -> dict[str, float]:
    """`total` in all where the limits let it be: those of `shares` and `general` have their part before the others."""
    given = {g: min(max(total * part, low[g]), high[g]) for g, part in parts.items() if g in mix.shares}
    given |= _level({g: part for g, part in parts.items() if g in mix.general}, low, high, total * mix.replay)
    free = _level({g: part for g, part in parts.items() if g not in given}, low, high, total - sum(given.values()))
    rest = total - sum(free.values())
    if abs(rest - sum(given.values())) > _ROUNDING * total:  # the others have too little, or too much that has to stay
        given = _level({g: parts[g] for g in given}, low, high, rest)
    return {g: (given | free)[g] for g in parts}


def _level(
    parts: Mapping[str, float], low: Mapping[str, int], high: Mapping[str, int], total: float
) -> dict[str, float]:
    """Divide `total` by the parts within each group's limits; what one cannot take or has to, the others make up for.

    As boxes share a line in CSS (Flexible Box Layout, section 9.7): where the limits ask for more than they forbid,
    those at their lower limit are settled first, else those at the upper one, and the rest is divided again.
    """
    given: dict[str, float] = {group: float(low[group]) for group in parts}
    open_groups = {group: part for group, part in parts.items() if part > 0}
    left = total - sum(given[group] for group in parts if group not in open_groups)
    while open_groups:
        whole = sum(open_groups.values())
        asked = {group: max(0.0, left) * (part / whole) for group, part in open_groups.items()}
        missing = {group: low[group] - many for group, many in asked.items() if many < low[group]}
        beyond = {group: many - high[group] for group, many in asked.items() if many > high[group]}
        if not missing and not beyond:
            return given | asked
        more = sum(missing.values()) - sum(beyond.values())
        settled = {group: low[group] for group in missing} if more >= 0 else {}
        settled |= {group: high[group] for group in beyond} if more <= 0 else {}
        given |= settled
        left -= sum(settled.values())
        open_groups = {group: part for group, part in open_groups.items() if group not in settled}
    return given


def _whole_numbers(amounts: Mapping[str, float]) -> dict[str, int]:
    """Rounded down, and the rest given to the largest fractions, so that the sum stays."""
    down = {group: int(amount) for group, amount in amounts.items()}
    missing = round(sum(amounts.values())) - sum(down.values())
    for group in sorted(amounts, key=lambda name: (down[name] - amounts[name], name))[:missing]:
        down[group] += 1
    return down
