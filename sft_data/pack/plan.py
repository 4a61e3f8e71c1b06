"""Which rows share a pack, and which packs a batch: decided on lengths alone.

Every way ends in the same index, so whatever reads packs (training, exports, `verify`, `why`) reads all of them. What
differs is how many slots the tokens take: `slots` counts them, padding included.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from sft_data.errors import SftDataError
from sft_data.pack.curriculum import Order, by_mean, ordered_rows
from sft_data.schema import PACK_INDEX

__all__ = ["METHODS", "Pack", "fill", "lower_bound", "pack_settings", "plan", "plan_packs", "slots", "units"]

# Numbers of rows and bins: of 32 bits where they suffice, since memory rules here.
Ints = NDArray[np.signedinteger[Any]]


# Method -> the settings that it alone reads.
METHODS: dict[str, tuple[str, ...]] = {
    "best-fit": (),
    "multipack": ("window",),
    "none": ("batch_rows",),
    "sorted": ("batch_rows",),
    "buckets": ("batch_rows", "multiple"),
}


class Pack(BaseModel):
    """Put several rows into one training sequence, so that hardly any slot is padding; or batch rows that stay alone.

    - `best-fit`: best-fit decreasing over the whole split. On Alpaca lengths at 8,192 it fills 99.97 % of the slots,
      windows of 1,000 rows fill 96 %. The packs are shuffled, since the plan runs from long to short.
    - `multipack`: at most `max_length` tokens to a batch of one device, as Axolotl's sampler of that name does it: the
      rows are shuffled and each window of them is packed for itself, so that a pack holds only rows that stand near
      each other in the shuffle.
    - `none`: every row is a pack of its own, in shuffled order; a batch is as wide as its longest row.
    - `sorted`: as `none`, but each batch holds rows of neighbouring lengths; the batches are shuffled.
    - `buckets`: as `sorted` by the length rounded up to `multiple`, rows of one bucket shuffled; batches are as wide as
      their bucket, so that a compiled model meets few shapes.

    The last three suit models that cannot keep packed rows apart. The token counts of their batches differ widely,
    which the token mean of the loss allows for.

    `order` makes a curriculum of the training split: best-fit packs and rows alone (`none`) in the order of a number.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["best-fit", "multipack", "none", "sorted", "buckets"] = Field(
        "best-fit",
        description="which rows share a sequence: best-fit and multipack pack; none, sorted and buckets batch rows",
    )
    max_length: int = Field(
        2048, ge=1, le=2**20, description="tokens in a full pack, and in the longest row of a batch"
    )
    seed: int = Field(
        0, ge=0, description="decides which rows of equal length share a pack, and the order of the packs"
    )
    window: int = Field(100_000, ge=1, description="rows that multipack packs at a time (Axolotl's group size)")
    batch_rows: int = Field(
        8, ge=1, description="rows of a batch for none, sorted and buckets; training takes it as `batch_packs`"
    )
    multiple: int = Field(64, ge=1, description="buckets: widths are multiples of this many tokens")
    order: Order | None = Field(None, description="curriculum: the number that training packs are ordered by")

    @model_serializer(mode="wrap")
    def _without_what_is_not_set(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Versions that were packed before there was `order` keep their fingerprints."""
        found: dict[str, Any] = plain(self)
        return {name: value for name, value in found.items() if name != "order" or value is not None}

    @model_validator(mode="after")
    def _has_effect(self) -> Pack:
        if self.order is not None and self.method not in ("best-fit", "none"):
            raise ValueError(f"order: {self.method} has an order of its own; a curriculum takes best-fit or none")
        used = METHODS[self.method]
        idle = [
            name
            for name in ("window", "batch_rows", "multiple")
            if name not in used and getattr(self, name) != type(self).model_fields[name].default
        ]
        if idle:
            ways = {name: " or ".join(m for m, names in METHODS.items() if name in names) for name in idle}
            raise ValueError(
                "\n".join(f"{n}: has no effect where method is {self.method}; it is for {w}" for n, w in ways.items())
            )
        return self

    @property
    def alone(self) -> bool:
        """Whether every row is a pack of its own."""
        return self.method in ("none", "sorted", "buckets")

    @property
    def group(self) -> int:
        """How many packs with neighbouring numbers belong together in a batch."""
        return self.batch_rows if self.alone else 1

    @property
    def round_to(self) -> int:
        """Batches are as wide as a multiple of this."""
        return self.multiple if self.method == "buckets" else 1


def plan(tokens: NDArray[np.integer], settings: Pack, values: NDArray[np.float64] | None = None) -> pl.DataFrame:
    """PACK_INDEX for rows of these lengths by any method: every row once, no pack over `max_length`.

    `values` are what the settings' `order` goes by, NaN where a row has none; without them there is no curriculum.

    >>> plan(np.array([3, 5, 2, 5]), Pack(method="sorted", max_length=8, batch_rows=2))["tokens"].sort().to_list()
    [2, 3, 5, 5]
    """
    if settings.order is not None and values is not None:
        return _curriculum(_checked(tokens, settings.max_length), settings, settings.order, values)
    if settings.method == "best-fit":
        return plan_packs(tokens, settings.max_length, settings.seed)
    lengths = _checked(tokens, settings.max_length)
    order = _shuffled(len(lengths), settings.seed)
    if settings.method == "multipack":
        return _windows(lengths, order, settings, settings.window)
    return _alone(lengths, order, settings)


def plan_packs(tokens: NDArray[np.integer], max_length: int, seed: int) -> pl.DataFrame:
    """PACK_INDEX for rows of these lengths: every row once, no pack over `max_length`, packs in shuffled order.

    The order follows a hash of seed and number (SplitMix64), the same on every machine and with every numpy.

    >>> plan_packs(np.array([3, 5, 2, 5], dtype=np.int32), max_length=8, seed=1)["pack"].n_unique()
    2
    """
    lengths = _checked(tokens, max_length)
    return _index(*_packed(lengths, _shuffled(len(lengths), seed), max_length, seed))


def lower_bound(tokens: NDArray[np.integer], max_length: int) -> int:
    """No packing at all can need fewer packs than this.

    >>> lower_bound(np.array([3, 5, 2, 5]), 8)
    2
    """
    return -(-int(tokens.sum(dtype=np.int64)) // max_length)


def slots(index: pl.DataFrame, settings: Pack) -> int:
    """Places for tokens that one pass over these packs takes, padding included.

    Packs are counted as full ones; rows that stand alone by the widths of their batches of `batch_rows`.
    """
    return int(units(index, settings)["slots"].sum())


def units(index: pl.DataFrame, settings: Pack) -> pl.DataFrame:
    """Columns `tokens`, `rows`, `slots` of every full pack, or of every batch of rows that stand alone, in order."""
    tokens, rows = pl.col("tokens").cast(pl.Int64), pl.len().cast(pl.Int64)
    width = -(-tokens.max() // settings.round_to) * settings.round_to
    room = rows * width if settings.alone else pl.lit(settings.max_length, dtype=pl.Int64)
    table = index.group_by(pl.col("pack") // settings.group).agg(
        tokens.sum().alias("tokens"), rows.alias("rows"), room.first().alias("slots")
    )
    return table.sort("pack").drop("pack")


def pack_settings(pipeline: Mapping[str, object], max_length: int | None) -> Pack | None:
    """How a version was packed, as its pipeline's settings say it; None where it was not.

    `max_length` stands for the settings of versions that were written without a pipeline.
    """
    section = pipeline.get("pack")
    if isinstance(section, dict):
        return Pack.model_validate(section)
    return Pack(max_length=max_length) if max_length else None


def fill(index: pl.DataFrame, max_length: int) -> float:
    """Share of the pack slots that hold tokens, 0..1; 1.0 where there are no packs."""
    packs = index["pack"].n_unique()
    return float(index["tokens"].cast(pl.Int64).sum()) / (packs * max_length) if packs else 1.0


def _checked(tokens: NDArray[np.integer], max_length: int) -> Ints:
    lengths = np.asarray(tokens).astype(np.int32, copy=False)
    wrong = np.flatnonzero((lengths < 1) | (lengths > max_length))
    if len(wrong):
        row = int(wrong[0])
        raise SftDataError(
            f"cannot pack {len(wrong)} of {len(lengths)} rows: row {row} has {lengths[row]} tokens, "
            f"1 to {max_length} are possible; set tokenize.max_length to at most pack.max_length"
        )
    return lengths


def _packed(lengths: Ints, order: Ints, max_length: int, seed: int) -> tuple[Ints, Ints, Ints, Ints]:
    """Pack, position, row and tokens of the rows in `order`, best fit decreasing, the packs shuffled."""
    from sft_data.pack import kernels  # compiled code: loaded where something is packed, not with every command

    rows, ends = kernels.long_to_short(lengths, order, max_length)
    bins = np.empty(len(rows), dtype=order.dtype)
    held = kernels.best_fit(ends, max_length, bins)
    return kernels.laid_out(rows, lengths, bins, held, _shuffled(len(held), seed ^ 0x5EED))  # type: ignore[no-any-return]


def _curriculum(lengths: Ints, settings: Pack, order: Order, values: NDArray[np.float64]) -> pl.DataFrame:
    """Rows sorted by their values; packed window by window, and the packs sorted by the mean of theirs."""
    rows = ordered_rows(_shuffled(len(lengths), settings.seed), values, order.first)
    if settings.alone:
        return _alone(lengths, rows, settings)
    return by_mean(_windows(lengths, rows, settings, order.window), values, order.first)


def _windows(lengths: Ints, order: Ints, settings: Pack, size: int) -> pl.DataFrame:
    """Each window of `size` rows, in this order, packed for itself."""
    tables, packs = [_index(*(np.zeros(0, np.int64),) * 4)], 0
    for start in range(0, len(order), size):
        window = order[start : start + size]
        own = np.arange(len(window), dtype=order.dtype)  # numbers inside the window: its rows and nothing else
        pack, position, row, tokens = _packed(lengths[window], own, settings.max_length, settings.seed)
        tables.append(_index(pack + packs, position, window[row], tokens))
        packs += int(pack[-1]) + 1
    return pl.concat(tables)


def _alone(lengths: Ints, order: Ints, settings: Pack) -> pl.DataFrame:
    """Every row a pack; the packs of a batch have neighbouring numbers, only the last batch may be smaller."""
    rows, size = order, settings.batch_rows
    if settings.method != "none":
        rows = order[np.argsort(-(-lengths[order] // settings.round_to), kind="stable")]
        # The batch that is not full holds the shortest rows, and stays last: behind it, batches would be cut elsewhere.
        short, full = np.split(rows, [len(rows) % size])
        batches = full.reshape(-1, size)
        rows = np.concatenate([batches[_shuffled(len(batches), settings.seed ^ 0x5EED)].reshape(-1), short])
    return _index(np.arange(len(rows)), np.zeros(len(rows), np.int32), rows, lengths[rows])


def _index(pack: Ints, position: Ints, row: Ints, tokens: Ints) -> pl.DataFrame:
    return pl.DataFrame({"pack": pack, "position": position, "row": row, "tokens": tokens}).cast(PACK_INDEX)


def _shuffled(count: int, seed: int) -> Ints:
    from sft_data.pack import kernels

    return kernels.permutation(count, seed)
