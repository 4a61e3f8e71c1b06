"""Columns of texts -> turns, for rows that hold a prompt and an answer: compiled loops over bytes."""

# Kernels take what numba infers, so they are not annotated.
# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: ANN001, ANN202

from __future__ import annotations

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sft_data.sources.columns import Texts
from sft_data.words import holds, load, store

__all__ = ["MARKS", "marks_in", "pairs_of"]

# What the rules look for in the texts of turns.
MARKS = ("{{", "<think>", "</think>")

_SPELT = np.frombuffer("".join(MARKS).encode(), np.uint8)
_SPELT_BOUNDS = np.cumsum([0, *map(len, MARKS)])
_BRACES, _ANGLES = np.uint64(0x7B7B7B7B7B7B7B7B), np.uint64(0x3C3C3C3C3C3C3C3C)  # { and <, eight times
_BEGINS = np.isin(np.arange(256), [ord(mark[0]) for mark in MARKS])


def pairs_of(texts: Texts, prompt: str, context: str | None, answer: str) -> pa.LargeStringArray:
    """Two texts a row: the prompt and, behind a line feed, the context where it is more than white space; the answer.

    Where the prompt is empty, the context stands alone.
    """
    size = len(texts.names)
    rows = len(texts.flat) // size
    place = texts.names.index
    bounds = np.zeros(2 * rows + 1, np.int64)
    data = np.empty(len(texts.data) + rows, np.uint8)
    given = -1 if context is None else place(context)
    _pairs(texts.data, texts.bounds, size, place(prompt), given, place(answer), data, bounds)
    return pa.LargeStringArray.from_buffers(2 * rows, pa.py_buffer(bounds), pa.py_buffer(data[: bounds[-1]]))


def marks_in(data: NDArray[np.uint8]) -> frozenset[str]:
    """Which of MARKS stand anywhere in UTF-8 bytes."""
    found = _marks(data, _SPELT, _SPELT_BOUNDS, _BEGINS)
    return frozenset(mark for mark, there in zip(MARKS, found, strict=True) if there)


@numba.njit(cache=True, nogil=True)
def _marks(data, spelt, bounds, begins):
    found = np.zeros(len(bounds) - 1, np.bool_)
    i = -1
    while i + 1 < len(data):
        i += 1
        while i + 8 <= len(data):
            word = load(data, i)
            if holds(word, _BRACES) or holds(word, _ANGLES):
                break
            i += 8
        if i >= len(data) or not begins[data[i]]:
            continue
        for m in range(len(found)):
            begin, stop = bounds[m], bounds[m + 1]
            if not found[m] and i + stop - begin <= len(data):
                same = True
                for k in range(begin, stop):
                    same &= data[i + k - begin] == spelt[k]
                found[m] = same
    return found


@numba.njit(cache=True, nogil=True)
def _is_space(data, i, end):
    """Whether `data[i:end]` holds white space only, as `str.isspace` has it; nothing at all is white space as well."""
    while i < end:
        c = data[i]
        if 9 <= c <= 13 or 28 <= c <= 32:
            i += 1
            continue
        if c < 0x80:
            return False
        second = data[i + 1]
        if c == 0xC2 and (second == 0x85 or second == 0xA0):  # noqa: PLR1714
            i += 2
            continue
        if c >= 0xF0 or c < 0xE0:
            return False
        code = np.int64(c & 15) << 12 | np.int64(second & 63) << 6 | np.int64(data[i + 2] & 63)
        wide = 0x2000 <= code <= 0x200A or code == 0x2028 or code == 0x2029 or code == 0x202F  # noqa: PLR1714
        if not (wide or code == 0x1680 or code == 0x205F or code == 0x3000):  # noqa: PLR1714
            return False
        i += 3
    return True


@numba.njit(cache=True, nogil=True, inline="always")
def _copy(source, begin, end, target, at):
    stop = at + end - begin
    while begin + 8 <= end:
        at = store(target, at, load(source, begin))
        begin += 8
    while begin < end:
        target[at] = source[begin]
        at += 1
        begin += 1
    return stop


@numba.njit(cache=True, nogil=True)
def _pairs(data, bounds, size, prompt, context, answer, out, out_bounds):
    at = 0
    for row in range(len(out_bounds) // 2):
        p, a = row * size + prompt, row * size + answer
        at = _copy(data, bounds[p], bounds[p + 1], out, at)
        if context >= 0:
            c = row * size + context
            if not _is_space(data, bounds[c], bounds[c + 1]):
                if bounds[p] < bounds[p + 1]:
                    out[at] = 10
                    at += 1
                at = _copy(data, bounds[c], bounds[c + 1], out, at)
        out_bounds[2 * row + 1] = at
        at = _copy(data, bounds[a], bounds[a + 1], out, at)
        out_bounds[2 * row + 2] = at
