"""Rows as a reader hands them on: decoded values with their place in the file, and the places where none could be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sft_data.sources.columns import Texts

__all__ = ["FEW", "Broken", "Json", "Later", "Rows", "shown"]

Json = Any  # what a JSON text may hold

FEW = 64  # rows that are looked at one by one, where something is odd about one of them
SHOWN_BYTES = 64 * 1024  # a rejection keeps this much of a row's original text; the file keeps the rest


def shown(raw: bytes) -> str:
    r"""Original bytes as text for the ledger: invalid UTF-8 as \xNN, and at most SHOWN_BYTES of it.

    >>> shown(b'{"a": "\xff"}')
    '{"a": "\\xff"}'
    """
    text = raw[:SHOWN_BYTES].decode("utf-8", "backslashreplace")
    return text if len(raw) <= SHOWN_BYTES else f"{text} ... ({len(raw)} bytes in all)"


@dataclass(frozen=True)
class Broken:
    """A place in a file where a row stands that cannot be read."""

    row: int
    line: int | None
    byte: int | None
    code: str
    detail: str
    text: str | None


class Later(Sequence[Json]):
    """Rows that are decoded when one of them is asked for: most never are."""

    def __init__(self, count: int, decode: Callable[[], list[Json]]) -> None:
        self._count, self._decode = count, decode
        self._rows: list[Json] | None = None

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401 - a place or a slice, and what stands there
        if self._rows is None:
            self._rows = self._decode()
        return self._rows[index]

    def __iter__(self) -> Iterator[Json]:
        return iter(self[:])


@dataclass(frozen=True)
class Rows:
    """Rows of one piece of one file: `values[i]` was read from `buffer[start[i]:end[i]]` and is row `number[i]`.

    Where all rows are flat objects of the same keys with texts below them, `texts` holds them as columns too.


    `base` and `line` are the place of `buffer` in the file: bytes from 0, lines from 1. A binary container has no
    `buffer`: its rows have no place but their number.
    """

    values: Sequence[Json]
    number: NDArray[np.int64]
    broken: list[Broken] = field(default_factory=list)
    buffer: bytes | None = None
    start: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    end: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    base: int = 0
    line: int = 1
    texts: Texts | None = None

    @property
    def height(self) -> int:
        """Rows that were in the piece, readable or not."""
        return len(self.values) + len(self.broken)

    def raw(self, index: int) -> bytes | None:
        """The original bytes of a row."""
        return None if self.buffer is None else self.buffer[self.start[index] : self.end[index]]

    def places(self, indices: Sequence[int]) -> list[tuple[int | None, int | None]]:
        """Line and byte offset of some rows."""
        if self.buffer is None or not indices:
            return [(None, None)] * len(indices)
        starts = self.start[list(indices)]
        ends = np.flatnonzero(np.frombuffer(self.buffer, np.uint8) == 10)
        lines = self.line + np.searchsorted(ends, starts)
        return [(int(line), self.base + int(start)) for line, start in zip(lines, starts, strict=True)]
