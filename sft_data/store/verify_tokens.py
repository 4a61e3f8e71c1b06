"""The part of `verify` that looks at tokens and packs, batch by batch, in whole arrays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from sft_data.pack.copies import copies, weights_of, with_copies
from sft_data.pack.curriculum import Order, means, ordered_rows, values_of
from sft_data.pack.plan import pack_settings, slots
from sft_data.store.layout import (
    MANIFEST,
    STREAMS,
    WEIGHTED,
    arrow_batches,
    parquet_files,
    scan_table,
    splits_of,
    stream_files,
)
from sft_data.store.manifest import Manifest, SplitCounts

__all__ = ["check_packs", "check_tokens"]


def check_tokens(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Tokens against sidecar and conversations, for every row of every split."""
    wanted = _columns(folder, "tokens")
    for split in splits_of(folder, "tokens"):
        side = scan_table(folder, "sidecar", split).collect()
        rows = scan_table(folder, "conversations", split).select("id").collect()["id"]
        if not _samples(side).equals(rows):
            yield f"sidecar/{split} does not hold the rows of conversations/{split} in their order"
        told = manifest.counts.splits.get(split)
        sums = (int(side["tokens"].cast(pl.Int64).sum()), int(side["trained"].cast(pl.Int64).sum()))
        if told is None or (told.tokens, told.trained_tokens) != sums:
            yield f"sidecar/{split} sums up to {sums[0]:,} tokens, {sums[1]:,} trained; {MANIFEST} says otherwise"
        first = 0
        for path in stream_files(folder, "tokens", split):
            name = path.relative_to(folder).as_posix()
            for batch in arrow_batches(path):
                if dict(batch.schema) != wanted:
                    yield f"{name}: columns are {dict(batch.schema)}, not {wanted}"
                    break
                yield from _rows(name, first, batch, side.slice(first, batch.height))
                first += batch.height
        if first != side.height:
            yield f"tokens/{split} holds {first:,} rows, sidecar/{split} holds {side.height:,}"


def _rows(name: str, first: int, batch: pl.DataFrame, side: pl.DataFrame) -> Iterator[str]:
    """One batch: lengths, labels against input_ids, trained counts, spans."""
    if side.height != batch.height:
        return  # the number of rows is told elsewhere
    lengths = batch["input_ids"].list.len().cast(pl.Int32)
    ids, labels = (batch[column].explode(empty_as_null=False).to_numpy() for column in ("input_ids", "labels"))
    if not lengths.equals(batch["labels"].list.len().cast(pl.Int32)):
        yield f"{name}: some labels are longer or shorter than their input_ids, from row {first:,} on"
        return
    yield from _first(name, first, (lengths != side["tokens"]).to_numpy(), "has another length than its sidecar says")
    ends = np.cumsum(lengths.to_numpy(), dtype=np.int64)
    starts = ends - lengths.to_numpy()
    trained = labels != -100
    counts = np.concatenate([[0], np.cumsum(trained)])
    per_row = counts[ends] - counts[starts]
    yield from _first(
        name, first, per_row != side["trained"].to_numpy(), "trains another number of tokens than its sidecar says"
    )
    outside = trained & ~_inside(side, starts, len(labels))
    row_of = np.repeat(np.arange(len(lengths)), lengths.to_numpy())
    yield from _first(name, first, _any(outside, row_of, len(lengths)), "has labels outside its spans")
    wrong = trained & (labels != ids)
    yield from _first(name, first, _any(wrong, row_of, len(lengths)), "has labels that are not its input_ids")
    yield from _spans(name, first, side)
    yield from _weights(name, first, batch, trained, _row_weights(side, starts, len(labels)))


def _samples(side: pl.DataFrame) -> pl.Series:
    """The ids of a sidecar's rows, each once where its samples are numbered from 0 without a gap."""
    if "part" not in side.columns:
        return side["id"]
    follows = (pl.col("id") == pl.col("id").shift(1)) & (pl.col("part") == pl.col("part").shift(1) + 1)
    first = side.select((pl.col("part") == 0) | ~follows.fill_null(value=False)).to_series()
    return side["id"].filter(first)


def _columns(folder: Path, table: str) -> dict[str, pl.DataType]:
    """The columns that all files of a table must have: with weights where some span of the version has one."""
    spans = [
        scan_table(folder, "sidecar", split)
        .select((pl.col("spans").list.eval(pl.element().struct.field("weight") != 1.0).list.any()).any())
        .collect()
        .item()
        for split in splits_of(folder, "sidecar")
    ]
    return dict((WEIGHTED if any(spans) else STREAMS)[table])


def _weights(name: str, first: int, batch: pl.DataFrame, trained: np.ndarray, spans: np.ndarray) -> Iterator[str]:
    """Loss weights against spans: each token's is that of its span, 0 where nothing is learnt."""
    if "loss_weights" not in batch.columns:
        return
    lengths = batch["labels"].list.len()
    if not lengths.equals(batch["loss_weights"].list.len().alias("labels")):
        yield f"{name}: some loss_weights are longer or shorter than their labels, from row {first:,} on"
        return
    row_of = np.repeat(np.arange(batch.height), lengths.to_numpy())
    weights = batch["loss_weights"].explode(empty_as_null=False).to_numpy()
    wrong = weights != np.where(trained, spans, np.float32(0))
    yield from _first(name, first, _any(wrong, row_of, batch.height), "has loss weights that are not its spans'")


def _row_weights(side: pl.DataFrame, starts: np.ndarray, total: int) -> np.ndarray:
    """The weight of the span in which each token lies; spans that are out of order are told elsewhere."""
    spans = (
        side.select(pl.int_range(pl.len()).alias("row"), "spans").explode("spans", empty_as_null=False).unnest("spans")
    )
    base = starts[spans["row"].to_numpy()]
    length = side["tokens"].to_numpy()[spans["row"].to_numpy()]
    low, high = (base + np.clip(spans[edge].to_numpy(), 0, length) for edge in ("start", "end"))
    weights = np.zeros(total, dtype=np.float32)
    sizes = np.maximum(high - low, 0)
    within = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    weights[np.repeat(low, sizes) + within] = np.repeat(spans["weight"].to_numpy(), sizes)
    return weights


def _inside(side: pl.DataFrame, starts: np.ndarray, total: int) -> np.ndarray:
    """Which tokens of the batch lie in a span: +1 at each start, -1 at each end, summed up."""
    spans = (
        side.select(pl.int_range(pl.len()).alias("row"), "spans").explode("spans", empty_as_null=False).unnest("spans")
    )
    base = starts[spans["row"].to_numpy()]
    length = side["tokens"].to_numpy()[spans["row"].to_numpy()]
    change = np.zeros(total + 1, dtype=np.int64)
    np.add.at(change, np.clip(base + np.clip(spans["start"].to_numpy(), 0, length), 0, total), 1)
    np.add.at(change, np.clip(base + np.clip(spans["end"].to_numpy(), 0, length), 0, total), -1)
    return np.cumsum(change)[:total] > 0


def _spans(name: str, first: int, side: pl.DataFrame) -> Iterator[str]:
    start, end = (pl.element().struct.field(field) for field in ("start", "end"))
    bad = side.select(
        backwards=pl.col("spans").list.eval((start < 0) | (start >= end)).list.any().fill_null(value=False),
        beyond=pl.col("spans").list.eval(end).list.max().fill_null(0) > pl.col("tokens"),
    )
    yield from _first(name, first, (bad["backwards"] | bad["beyond"]).to_numpy(), "has spans outside its tokens")


def _any(marks: np.ndarray, row_of: np.ndarray, rows: int) -> np.ndarray:
    found = np.zeros(rows, dtype=bool)
    found[row_of[marks]] = True
    return found


def _first(name: str, first: int, wrong: np.ndarray, told: str) -> Iterator[str]:
    places = np.flatnonzero(wrong)
    if len(places):
        more = f" (and {len(places) - 1:,} more rows)" if len(places) > 1 else ""
        yield f"{name}: row {first + int(places[0]):,} {told}{more}"


def check_packs(folder: Path, manifest: Manifest) -> Iterator[str]:
    """The pack index against the sidecar, and the packs against index and tokens."""
    length = manifest.tokenizer.pack_length if manifest.tokenizer else None
    settings = pack_settings(manifest.pipeline, length)
    for split in splits_of(folder, "pack_index"):
        index = scan_table(folder, "pack_index", split).collect()
        rows = scan_table(folder, "sidecar", split).select("id", "source", "tokens").collect()
        yield from _index(split, index, rows, _copies(folder, split, rows, manifest), length)
        told = manifest.counts.splits.get(split)
        packs = index["pack"].n_unique()
        if told is None or told.packs != packs:
            yield f"pack_index/{split} holds {packs:,} packs, {MANIFEST} says {told.packs if told else 0:,}"
        elif settings is not None and told.pack_slots != (found := slots(index, settings)):
            yield f"pack_index/{split} takes {found:,} slots, {MANIFEST} says {told.pack_slots:,}"
        if told is not None and (held := int(index["tokens"].cast(pl.Int64).sum())) != _told_packed(told):
            yield f"pack_index/{split} holds {held:,} tokens, {MANIFEST} says {_told_packed(told):,}"
        if split == "train" and settings is not None and settings.order is not None:
            yield from _curriculum(folder, index, rows, settings.order)
        yield from _packs(folder, split, index)
    for split in splits_of(folder, "packs"):
        if not parquet_files(folder, "pack_index", split):
            yield f"packs/{split} has no pack_index/{split}"


def _told_packed(told: SplitCounts) -> int:
    return told.tokens if told.packed_tokens is None else told.packed_tokens


def _copies(folder: Path, split: str, rows: pl.DataFrame, manifest: Manifest) -> NDArray[np.int64]:
    """How often each row has to be packed: once, or as its source's weight and the mix say."""
    pack = manifest.pipeline.get("pack")
    if split != "train" or not isinstance(pack, dict):
        return np.ones(rows.height, dtype=np.int64)
    rows = with_copies(rows, parquet_files(folder, "conversations", split))
    return copies(rows, weights_of(manifest.pipeline), int(pack.get("seed", 0)))


def _index(
    split: str, index: pl.DataFrame, rows: pl.DataFrame, wanted: NDArray[np.int64], length: int | None
) -> Iterator[str]:
    name, tokens = f"pack_index/{split}", rows["tokens"]
    if not index["row"].sort().equals(pl.Series("row", np.repeat(np.arange(len(tokens)), wanted), dtype=pl.Int64)):
        told = "once" if (wanted == 1).all() else "as often as its source's weight and the mix say"
        seen, twice = index["row"].n_unique(), int(index["row"].is_duplicated().sum())
        count = f"{seen:,} of {len(tokens):,} rows, {twice:,} twice"
        yield f"{name} does not hold each row of tokens/{split} {told}: {count}"
        return
    if not index["tokens"].equals(tokens.gather(index["row"]).alias("tokens")):
        yield f"{name} tells other lengths than sidecar/{split}"
    fills = index.group_by("pack").agg(pl.col("tokens").cast(pl.Int64).sum(), pl.col("position")).sort("pack")
    for pack, fill in fills.filter(pl.col("tokens") > (length or 2**62)).select("pack", "tokens").head(3).iter_rows():
        yield f"{name}: pack {pack:,} holds {fill:,} tokens, more than {length:,}"
    if not fills["pack"].equals(pl.Series("pack", np.arange(fills.height), dtype=pl.Int64)):
        yield f"{name}: packs are not numbered from 0 without a gap"
    order = fills.filter(pl.col("position").list.sort() != pl.int_ranges(pl.col("position").list.len(), dtype=pl.Int32))
    for pack in order["pack"].head(3):
        yield f"{name}: the places of pack {pack:,} are not numbered from 0 without a gap"


def _curriculum(folder: Path, index: pl.DataFrame, rows: pl.DataFrame, order: Order) -> Iterator[str]:
    """Whether the packs stand in the order that the pipeline asks for."""
    if not index["row"].is_between(0, rows.height, closed="left").all():
        return  # told elsewhere
    found = means(index, values_of(rows, parquet_files(folder, "conversations", "train"), order.by))
    if not np.array_equal(ordered_rows(np.arange(len(found)), found, order.first), np.arange(len(found))):
        yield f"pack_index/train is not in the order of {order.by}, {order.first} first, that the pipeline asks for"


def _packs(folder: Path, split: str, index: pl.DataFrame) -> Iterator[str]:
    """The materialised packs, one batch after the other, rebuilt from tokens and index."""
    ordered = index.sort("pack", "position")
    expected = ordered.group_by("pack", maintain_order=True).agg("row", "tokens")
    tokens = _Rows(folder, split)
    first, columns = 0, _columns(folder, "packs")
    for path in stream_files(folder, "packs", split):
        name = path.relative_to(folder).as_posix()
        for batch in arrow_batches(path):
            if dict(batch.schema) != columns:
                yield f"{name}: columns are {dict(batch.schema)}, not {columns}"
                break
            want = expected.slice(first, batch.height)
            if not batch["seq_lengths"].equals(want["tokens"].alias("seq_lengths")):
                yield f"{name}: seq_lengths from pack {first:,} on are not those of pack_index/{split}"
            else:
                yield from _contents(
                    name, first, batch, tokens.take(want["row"].explode(empty_as_null=False).to_numpy())
                )
            first += batch.height
    if first != expected.height:
        yield f"packs/{split} holds {first:,} packs, pack_index/{split} has {expected.height:,}"


def _contents(name: str, first: int, batch: pl.DataFrame, want: tuple[np.ndarray, ...]) -> Iterator[str]:
    """Tokens and labels of whole packs: those of their rows, with the first label of each row -100."""
    lengths = batch["seq_lengths"].explode(empty_as_null=False).to_numpy()
    starts = np.cumsum(lengths, dtype=np.int64) - lengths
    ids, labels = (batch[column].explode(empty_as_null=False).to_numpy() for column in ("input_ids", "labels"))
    pack_of = np.repeat(np.arange(batch.height), batch["input_ids"].list.len().to_numpy())
    if len(ids) != len(want[0]) or len(labels) != len(want[1]):
        yield f"{name}: packs from {first:,} on are longer or shorter than their rows"
        return
    wanted = want[1].copy()
    wanted[starts] = -100
    if len(want) > 2:
        weights, expected = batch["loss_weights"].explode(empty_as_null=False).to_numpy(), want[2].copy()
        expected[starts] = 0
        if len(weights) != len(expected):
            yield f"{name}: loss_weights of packs from {first:,} on are longer or shorter than their rows"
            return
        yield from _first(
            name, first, _any(weights != expected, pack_of, batch.height), "holds other loss weights than its rows"
        )
    for told, marks in (
        ("holds other tokens than its rows", ids != want[0]),
        ("trains on the first token of a row, which its neighbour would predict", _at(labels, starts)),
        ("holds other labels than its rows", labels != wanted),
    ):
        yield from _first(name, first, _any(marks, pack_of, batch.height), told)


def _at(labels: np.ndarray, starts: np.ndarray) -> np.ndarray:
    marks = np.zeros(len(labels), dtype=bool)
    marks[starts] = labels[starts] != -100
    return marks


class _Rows:
    """Rows of a split's tokens by number, from memory-mapped batches."""

    def __init__(self, folder: Path, split: str) -> None:
        self.batches = [batch for path in stream_files(folder, "tokens", split) for batch in arrow_batches(path)]
        self.starts = np.cumsum([0, *(batch.height for batch in self.batches)])

    def take(self, rows: np.ndarray) -> tuple[np.ndarray, ...]:
        """Token ids, labels, weights where there are any: of these rows, one behind the other in the order asked for.

        Columns that a file should not have are told elsewhere.
        """
        home = np.searchsorted(self.starts, rows, side="right") - 1
        order = np.argsort(home, kind="stable")
        parts = [self.batches[batch][(rows[home == batch] - self.starts[batch]).tolist()] for batch in np.unique(home)]
        if not parts:
            return np.zeros(0, np.int32), np.zeros(0, np.int32)
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        frame = pl.concat(parts)[back.tolist()]
        return tuple(frame[column].explode(empty_as_null=False).to_numpy() for column in frame.columns)
