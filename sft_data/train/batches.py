"""Rows -> tensors in exactly the form in which packed examples stay isolated.

Packing is inferred from `position_ids` that start again at 0 with every example, and only while there is neither an
attention mask nor a cache. So a batch holds no mask, padding is one more example behind the last, and labels there
are -100 by position, never by token id (the pad token may well be the stop token).

    input_ids     a b c | d e | . .        labels     -  b c | -  e | -  -
    position_ids  0 1 2 | 0 1 | 0 1        weights    0  1 1 | 0  1 | 0  0
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from sft_data.train.packs import IGNORED, Row, Rows, pack_order

__all__ = ["NOT_FOR_THE_MODEL", "Collator", "PackStream", "positions"]

# Entries of a batch that are ours: labels too, because the loss is computed outside the model.
NOT_FOR_THE_MODEL = ("labels", "weights", "text_tokens")


def positions(lengths: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """0, 1, 2, ... starting again with every example.

    >>> positions(np.array([3, 1, 2])).tolist()
    [0, 1, 2, 0, 0, 1]
    """
    starts = (np.cumsum(lengths) - lengths).astype(np.int64)
    places: npt.NDArray[np.int64] = np.arange(int(lengths.sum())) - np.repeat(starts, lengths)
    return places


@dataclass(frozen=True)
class Collator:
    """Puts rows under each other (`rows`), or end to end in one long row (`flat`, for flash attention only).

    Flash attention looks for packing in position_ids only in batches of one row, and is told the boundaries anyway.
    Everything else would pay for a dense mask of the long row's square.
    """

    pad_token_id: int
    layout: Literal["rows", "flat"] = "rows"
    loss: Literal["token-mean", "conversation-mean"] = "token-mean"
    position_ids: bool = True  # False: the model takes none, and can only be given one example per row
    multiple: int = 1  # rows under each other are as wide as a multiple of this many tokens

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        if self.layout == "flat":
            return self._flat(rows)
        shape = len(rows), -(-max(len(row.input_ids) for row in rows) // self.multiple) * self.multiple
        ids = np.full(shape, self.pad_token_id, dtype=np.int64)
        labels = np.full(shape, IGNORED, dtype=np.int64)
        places = np.zeros(shape, dtype=np.int64)
        weights = np.zeros(shape, dtype=np.float32)
        for i, row in enumerate(rows):
            n = len(row.input_ids)
            ids[i, :n], labels[i, :n] = row.input_ids, row.labels
            places[i, :n], places[i, n:] = positions(row.lengths), np.arange(shape[1] - n)
            weights[i, :n] = self._weights(row)
        return self._tensors(ids, labels, places, weights) | {"text_tokens": sum(len(row.input_ids) for row in rows)}

    def _flat(self, rows: Sequence[Row]) -> dict[str, Any]:
        lengths = np.concatenate([row.lengths for row in rows])
        batch = self._tensors(
            np.concatenate([row.input_ids for row in rows]).astype(np.int64)[None],
            np.concatenate([row.labels for row in rows]).astype(np.int64)[None],
            positions(lengths)[None],
            np.concatenate([self._weights(row) for row in rows])[None],
        )
        ends = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
        longest = int(lengths.max())
        return batch | {
            "cu_seq_lens_q": ends,
            "cu_seq_lens_k": ends,
            "max_length_q": longest,
            "max_length_k": longest,
            "text_tokens": int(lengths.sum()),
        }

    def _weights(self, row: Row) -> npt.NDArray[np.float32]:
        """What each position counts in the loss: its loss weight, or that / supervised tokens of its conversation.

        Dividing by the tokens and not by their weights keeps a conversation of weight 0.5 half as heavy as others.
        """
        learnt: npt.NDArray[np.float32] = (row.labels != IGNORED).astype(np.float32)
        weights: npt.NDArray[np.float32] = learnt if row.weights is None else row.weights * learnt
        if self.loss == "token-mean":
            return weights
        starts = np.cumsum(row.lengths) - row.lengths
        counts = np.add.reduceat(learnt, starts)
        shares: npt.NDArray[np.float32] = weights / np.repeat(np.maximum(counts, 1), row.lengths)
        return shares

    def _tensors(self, ids: Any, labels: Any, places: Any, weights: Any) -> dict[str, Any]:  # noqa: ANN401
        arrays = {"input_ids": ids, "labels": labels, "weights": weights}
        if self.position_ids:
            arrays["position_ids"] = places
        return {name: torch.from_numpy(values) for name, values in arrays.items()}


_FILLER = Row(np.zeros(1, np.int64), np.full(1, IGNORED), np.ones(1, np.int64))


class PackStream(Dataset[Row]):
    """The packs of a whole run in the order in which they are trained: pass after pass, each in an order of its own,
    or, for a curriculum, each in the order in which they are stored.

    Step s takes places [s x G, (s + 1) x G) with G packs for a step, whatever the number of devices and the size of
    a forward pass. Because the run is one stream, a resumed one needs to know nothing but how far it got.

    `group` packs with neighbouring numbers stay together where they were batched by length. Their last batch may be
    smaller: it ends every pass, filled up with rows of one token that nothing is learnt from, so that the batches of
    the next pass are not cut elsewhere.
    """

    def __init__(
        self,
        rows: Rows,
        numbers: npt.NDArray[np.int64],
        length: int,
        seed: int,
        group: int = 1,
        order: Literal["shuffled", "stored"] = "shuffled",
    ) -> None:
        self.rows, self.numbers, self.length, self.seed, self.group = rows, numbers, length, seed, group
        self.order = order
        self._order = lru_cache(maxsize=2)(pack_order)

    @property
    def places(self) -> int:
        """Places of one pass."""
        return -(-len(self.numbers) // self.group) * self.group

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, place: int) -> Row:
        epoch, i = divmod(place, self.places)
        batch, within = divmod(i, self.group)
        full = len(self.numbers) // self.group
        if batch < full and self.order == "shuffled":
            batch = int(self._order(full, self.seed, epoch)[batch])
        number = batch * self.group + within
        return self.rows[int(self.numbers[number])] if number < len(self.numbers) else _FILLER
