"""Rows as a reader hands them on: decoded values with their place in the file, and the places where none could be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Broken", "Json", "Rows", "shown"]

Json = Any  # what a JSON text may hold

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


@dataclass(frozen=True)
class Rows:
    """Rows of one piece of one file: `values[i]` was read from `buffer[start[i]:end[i]]` and is row `number[i]`.

    `base` and `line` are the place of `buffer` in the file: bytes from 0, lines from 1. A binary container has no
    `buffer`: its rows have no place but their number.
    """

    values: list[Json]
    number: NDArray[np.int64]
    broken: list[Broken] = field(default_factory=list)
    buffer: bytes | None = None
    start: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    end: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    base: int = 0
    line: int = 1

    @property
    def height(self) -> int:
        """Rows that were in the piece, readable or not."""
        return len(self.values) + len(self.broken)

    def raw(self, index: int) -> bytes | None:
        """The original bytes of a row."""
        return None if self.buffer is None else self.buffer[self.start[index] : self.end[index]]

    def places(self, indices: Sequence[int]) -> list[tuple[int | None, int | None]]:
        """Line and byte offset of some rows."""
        if self.buffer is None:
            return [(None, None)] * len(indices)
        starts = self.start[list(indices)]
        ends = np.flatnonzero(np.frombuffer(self.buffer, np.uint8) == 10)
        lines = self.line + np.searchsorted(ends, starts)
        return [(int(line), self.base + int(start)) for line, start in zip(lines, starts, strict=True)]
