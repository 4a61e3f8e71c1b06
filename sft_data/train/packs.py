"""Packs and tokens of a version by memory map, and the checks without which nobody trains on them. No torch here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sft_data.errors import TrainError
from sft_data.store.layout import splits_of, stream_files

__all__ = ["IGNORED", "Row", "Rows", "Survey", "open_rows", "pack_order", "survey"]

IGNORED = -100  # the label of a position that is not learnt

Ints = npt.NDArray[Any]


class Row(NamedTuple):
    """One pack, or one conversation as a pack of one."""

    input_ids: Ints
    labels: Ints  # unshifted
    lengths: Ints  # of the examples in it, in their order
    weights: Ints | None = None  # loss weight of every token; null: 1 for every supervised one


class _Part(NamedTuple):
    """One record batch: values and row offsets of each column; views into the mapped file."""

    ids: Ints
    labels: Ints
    lengths: Ints
    id_ends: Ints
    label_ends: Ints
    length_ends: Ints
    weights: Ints | None = None  # as long as `labels`


class Rows:
    """The rows of a split by number. Nothing is read before it is asked for."""

    def __init__(self, parts: list[_Part]) -> None:
        self.parts = parts
        self.ends = np.cumsum([len(part.id_ends) - 1 for part in parts], dtype=np.int64)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, number: int) -> Row:
        place = int(np.searchsorted(self.ends, number, side="right"))
        part = self.parts[place]
        i = number - (int(self.ends[place - 1]) if place else 0)
        return Row(
            part.ids[part.id_ends[i] : part.id_ends[i + 1]],
            part.labels[part.label_ends[i] : part.label_ends[i + 1]],
            part.lengths[part.length_ends[i] : part.length_ends[i + 1]],
            None if part.weights is None else part.weights[part.label_ends[i] : part.label_ends[i + 1]],
        )


@dataclass(frozen=True)
class Survey:
    """What a pass over all rows found."""

    tokens: int
    supervised: npt.NDArray[np.int64]  # supervised tokens of each row
    longest: int  # tokens of the longest example
    largest_id: int

    @property
    def trainable(self) -> npt.NDArray[np.int64]:
        """Numbers of the rows with at least one supervised token; the others would only waste a step."""
        return np.flatnonzero(self.supervised > 0)


def open_rows(version: Path, split: str, table: Literal["packs", "tokens"]) -> Rows:
    """Map a split of a version; `tokens` are conversations one by one."""
    files = stream_files(version, table, split)
    if not files:
        there = ", ".join(splits_of(version, table)) or "none"
        more = " (does the pipeline have a `pack` section?)" if table == "packs" and there == "none" else ""
        raise TrainError(f"{version} has no {table} of split {split!r}; splits with {table}: {there}{more}")
    return Rows([part for path in files for part in _parts(path, table)])


def _parts(path: Path, table: str) -> Iterator[_Part]:
    for batch in pa.ipc.open_stream(pa.memory_map(str(path))):
        ids, id_ends = _lists(batch.column("input_ids"))
        labels, label_ends = _lists(batch.column("labels"))
        if table == "packs":
            lengths, length_ends = _lists(batch.column("seq_lengths"))
        else:
            lengths, length_ends = np.diff(id_ends), np.arange(len(id_ends))
        weights = None
        if "loss_weights" in batch.schema.names:
            weights, weight_ends = _lists(batch.column("loss_weights"))
            if not np.array_equal(weight_ends, label_ends):
                raise TrainError(f"{path}: labels and loss_weights differ in length; `sft-data verify` tells more")
        yield _Part(ids, labels, lengths, id_ends, label_ends, length_ends, weights)


def _lists(column: Any) -> tuple[Ints, Ints]:  # noqa: ANN401  # pyarrow has no types
    return column.values.to_numpy(zero_copy_only=True), column.offsets.to_numpy(zero_copy_only=True)


def survey(rows: Rows, where: str) -> Survey:
    """Check every row and count; TrainError names the first bad row and what is wrong with it.

    Refused: lengths that do not add up, labels that are neither -100 nor their own token, loss weights that are not
    above 0 exactly where something is learnt, and examples whose first token is trained: labels shift inside the model,
    so that label would be predicted from the example before it.
    """
    first, surveys = 0, []
    for part in rows.parts:
        surveys.append(_survey_part(part, first, where))
        first += len(part.id_ends) - 1
    return Survey(
        tokens=sum(s.tokens for s in surveys),
        supervised=np.concatenate([s.supervised for s in surveys]) if surveys else np.zeros(0, dtype=np.int64),
        longest=max((s.longest for s in surveys), default=0),
        largest_id=max((s.largest_id for s in surveys), default=-1),
    )


def _survey_part(part: _Part, first: int, where: str) -> Survey:
    def refuse_where(bad: npt.NDArray[np.bool_], what: str) -> None:
        if bad.any():
            raise TrainError(
                f"{where} cannot be trained on: row {first + int(np.argmax(bad))}: {what} "
                f"({int(bad.sum())} such rows in its shard). `sft-data verify` checks the whole version."
            )

    sizes = np.diff(part.id_ends)
    refuse_where(sizes < 1, "has no tokens")
    refuse_where(sizes != np.diff(part.label_ends), "input_ids and labels differ in length")
    segments = part.lengths[part.length_ends[0] : part.length_ends[-1]].astype(np.int64)
    ends = np.concatenate([[0], np.cumsum(segments)])
    rank = part.length_ends - part.length_ends[0]
    refuse_where(ends[rank[1:]] - ends[rank[:-1]] != sizes, "seq_lengths do not add up to its tokens")
    ids = part.ids[part.id_ends[0] : part.id_ends[-1]]
    labels = part.labels[part.label_ends[0] : part.label_ends[-1]]
    starts = part.id_ends[:-1] - part.id_ends[0]
    row_of_segment = np.searchsorted(starts, ends[:-1], side="right") - 1
    refuse_where(_rows_with(segments < 1, row_of_segment, len(sizes)), "seq_lengths holds an empty example")
    refuse_where(
        _rows_with(labels[ends[:-1]] != IGNORED, row_of_segment, len(sizes)),
        "the first label of an example is not -100: it would be learnt from the example packed before it",
    )
    learnt = labels != IGNORED
    wrong = learnt & (labels != ids)
    refuse_where(np.logical_or.reduceat(wrong, starts), "a label is neither -100 nor the token at its place")
    if part.weights is not None:
        weights = part.weights[part.label_ends[0] : part.label_ends[-1]]
        odd = ~np.isfinite(weights) | ((weights > 0) != learnt) | (weights < 0)
        refuse_where(np.logical_or.reduceat(odd, starts), "loss_weights and labels differ in what is learnt")
    return Survey(
        tokens=len(ids),
        supervised=np.add.reduceat(learnt, starts, dtype=np.int64),
        longest=int(segments.max()),
        largest_id=int(ids.max()),
    )


def _rows_with(bad: npt.NDArray[np.bool_], row: Ints, rows: int) -> npt.NDArray[np.bool_]:
    return np.bincount(row[bad], minlength=rows).astype(bool)


def pack_order(count: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """A permutation of `count` packs: sorted by splitmix64 of the pack's number, seed and epoch.

    Written out instead of drawn from a library's generator, so that no new release of one can change the order.

    >>> sorted(pack_order(5, seed=1, epoch=0).tolist())
    [0, 1, 2, 3, 4]
    """
    state = np.uint64((seed * 0x9E3779B97F4A7C15 + epoch * 0xD1B54A32D192ED03) % 2**64)
    x = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + _mix(np.array([state]))
    return np.argsort(_mix(x), kind="stable")


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
