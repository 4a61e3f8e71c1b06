"""Sets of shingles: what the similarity of two texts is measured on.

A shingle is `n` units in a row (see `units`). A text of fewer than `n` units has no shingles worth comparing: it is
one shingle, the whole stripped text as it stands. So distinct short texts are never near each other and identical
ones always are ("Yes." is neither "No." nor "Yes!"). The same holds for texts without units, such as "..." or emoji.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from sft_data.dedup.kernels import find_composable, shingle
from sft_data.dedup.units import unit_table

__all__ = ["ShingleSets", "composed", "shingle_sets", "utf8"]

U64 = npt.NDArray[np.uint64]
Bytes = npt.NDArray[np.uint8]
Bounds = npt.NDArray[np.int64]

CHUNK_ROWS = 16_384  # rows whose bytes and shingles are in memory together
_MOST_KEPT = 1 << 26  # bytes that a thread keeps for the next shard
_ROOM = threading.local()


@dataclass(frozen=True)
class ShingleSets:
    """Of each text: its set of shingles, its identity and its numbers."""

    values: U64  # 64-bit hashes; sorted and unique inside each text
    counts: npt.NDArray[np.int64]  # shingles of each text; 0 only where the text is empty
    keys: U64  # equal for texts with equal sets (short ones: equal stripped text); even for short texts
    numbers: U64  # equal for texts with the same numbers in the same order; 0 where there are none


def shingle_sets(columns: list[pl.Series], n: int) -> ShingleSets:
    """The shingle sets of all texts, row by row: text `i` of column `c` is number `i * len(columns) + c`."""
    width, height = len(columns), len(columns[0])
    if height > CHUNK_ROWS:
        starts = range(0, height, CHUNK_ROWS)
        return _joined([shingle_sets([column.slice(at, CHUNK_ROWS) for column in columns], n) for at in starts])
    data, bounds = utf8(columns)
    # A unit takes two bytes at least: a character of three, or a word and what parts it from the next word.
    values = _room(len(data) // 2 + 2 * width * height)
    counts = np.zeros(width * height, dtype=np.int64)
    keys = np.zeros(width * height, dtype=np.uint64)
    numbers = np.zeros(width * height, dtype=np.uint64)
    used = shingle(data, bounds, unit_table(), n, values, counts, keys, numbers)
    return ShingleSets(values[:used].copy(), counts, keys, numbers)


def _room(places: int) -> U64:
    """Memory to be filled, the same each time: to be given new pages for each shard costs a tenth of the whole time."""
    kept: U64 | None = getattr(_ROOM, "kept", None)
    if kept is None or len(kept) < places:
        kept = np.empty(places, dtype=np.uint64)
        _ROOM.kept = kept if kept.nbytes <= _MOST_KEPT else None
    return kept[:places]


def _joined(parts: list[ShingleSets]) -> ShingleSets:
    return ShingleSets(
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.counts for part in parts]),
        np.concatenate([part.keys for part in parts]),
        np.concatenate([part.numbers for part in parts]),
    )


def utf8(columns: list[pl.Series]) -> tuple[Bytes, Bounds]:
    """The bytes of all texts in one buffer, and where each starts and ends: (texts, 2), row by row. Null is empty."""
    bounds = np.empty((len(columns[0]), len(columns), 2), dtype=np.int64)
    pieces: list[Bytes] = []
    before = 0
    for place, column in enumerate(columns):
        piece, ends = composed(column.fill_null(""))
        bounds[:, place, 0] = ends[:-1] + before
        bounds[:, place, 1] = ends[1:] + before
        pieces.append(piece)
        before += piece.size
    pieces = [piece for piece in pieces if piece.size] or pieces[:1]
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces), bounds.reshape(-1, 2)


def composed(text: pl.Series) -> tuple[Bytes, Bounds]:
    """The UTF-8 bytes of all texts in form NFC, and their bounds; only texts that NFC could change are rewritten."""
    data, bounds = _bytes_of(text)
    at = np.flatnonzero(find_composable(data, bounds, unit_table()))
    return _bytes_of(text.clone().scatter(at, text.gather(at).str.normalize("NFC"))) if len(at) else (data, bounds)


def _bytes_of(text: pl.Series) -> tuple[Bytes, Bounds]:
    array = text.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
    _, offsets, data = array.buffers()
    bounds = np.frombuffer(offsets, dtype=np.int64)[array.offset : array.offset + len(array) + 1]
    return (np.frombuffer(data, dtype=np.uint8) if data is not None else np.empty(0, dtype=np.uint8)), bounds
