"""Text -> units, for every script, without a Python loop over documents.

A *unit* is a word, or one character where a script writes no spaces (Han, Kana, Hangul, Thai, Lao, Khmer, Myanmar):
word shingles see 24 % of the near-duplicate pairs of Chinese instruction data, units by script see them all. Letters
are lower-cased, punctuation separates, numbers count like words.
"""

# Kernels take what numba infers, so they are not annotated.
# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: ANN001, ANN201, ANN202, PLR0917

from __future__ import annotations

import unicodedata
from functools import lru_cache

import numba
import numpy as np
import numpy.typing as npt
import polars as pl

__all__ = ["STEP", "composed", "mix", "read_units", "unit_table", "utf8"]

Bytes = npt.NDArray[np.uint8]
Bounds = npt.NDArray[np.int64]

SEPARATOR, WORD, ALONE, SPACE, MARK, IGNORED, OPERATOR = range(7)
_TABLE_END = 0x33480  # behind the last Han extension; everything above separates

# Blocks in which each letter is a unit of its own.
_ALONE_BLOCKS = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1100, 0x11FF),  # Hangul Jamo
    (0x1780, 0x17FF),  # Khmer
    (0x2E80, 0x2FDF),  # Han radicals
    (0x3005, 0x3007),  # Han iteration mark, zero
    (0x3021, 0x3029),  # Hangzhou numerals
    (0x3040, 0x318F),  # Kana, Bopomofo, Hangul compatibility Jamo
    (0x31A0, 0x31FF),  # Bopomofo and Katakana extensions
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xA960, 0xA97F),  # Hangul Jamo extended
    (0xA9E0, 0xA9FF),  # Myanmar extended
    (0xAA60, 0xAA7F),
    (0xAC00, 0xD7FF),  # Hangul syllables
    (0xF900, 0xFAFF),  # Han compatibility
    (0xFF66, 0xFFDC),  # half-width Kana and Hangul
    (0x1B000, 0x1B16F),  # Kana supplements
    (0x20000, _TABLE_END - 1),  # Han extensions
)
_OPERATORS = frozenset("+-*/^<>=\u2212\u00d7\u00f7")


@lru_cache(maxsize=1)
def unit_table() -> npt.NDArray[np.uint32]:
    """Per code point: bits 0-20 lower case, 21-23 class, 24-27 digit value + 1, 28 whether NFC may change it."""
    table = np.fromiter((_entry(code) for code in range(_TABLE_END)), dtype=np.uint32, count=_TABLE_END)
    for first, last in _ALONE_BLOCKS:
        block = table[first : last + 1]
        kind = (block >> 21) & 7
        lettered = (kind == WORD) | (kind == MARK)
        block[lettered] = (block[lettered] & ~np.uint32(7 << 21)) | np.uint32(ALONE << 21)
    return table


def _entry(code: int) -> int:
    char = chr(code)
    lower = char.lower()
    low = 0x3C3 if code == 0x3C2 else ord(lower[0])  # a final sigma is a sigma
    digit = unicodedata.digit(char, -1) + 1 if char.isdecimal() else 0
    return low | _kind(char) << 21 | digit << 24 | _nfc_may_change(char) << 28


def _nfc_may_change(char: str) -> bool:
    """Whether NFC can change a text because of this character: it has another form, or joins the one before it."""
    joins = unicodedata.category(char)[0] == "M" or "\u1160" <= char <= "\u11ff"  # marks; vowels and finals of Jamo
    return joins or not unicodedata.is_normalized("NFC", char)


def _kind(char: str) -> int:
    category = unicodedata.category(char)
    if char.isspace():
        return SPACE
    if char in _OPERATORS:
        return OPERATOR
    if char == "_" or category[0] in "LN":
        return WORD
    if category[0] == "M":
        return IGNORED if "\ufe00" <= char <= "\ufe0f" else MARK
    return IGNORED if category == "Cf" else SEPARATOR


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
    return np.concatenate(pieces), bounds.reshape(-1, 2)


def composed(text: pl.Series) -> tuple[Bytes, Bounds]:
    """The UTF-8 bytes of all texts in form NFC, and their bounds; only texts that NFC could change are rewritten."""
    data, bounds = _bytes_of(text)
    at = np.flatnonzero(_composable(data, bounds, unit_table()))
    return _bytes_of(text.clone().scatter(at, text.gather(at).str.normalize("NFC"))) if len(at) else (data, bounds)


def _bytes_of(text: pl.Series) -> tuple[Bytes, Bounds]:
    array = text.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
    _, offsets, data = array.buffers()
    bounds = np.frombuffer(offsets, dtype=np.int64)[array.offset : array.offset + len(array) + 1]
    return (np.frombuffer(data, dtype=np.uint8) if data is not None else np.empty(0, dtype=np.uint8)), bounds


_MIX_1 = np.uint64(0xFF51AFD7ED558CCD)
_MIX_2 = np.uint64(0xC4CEB9FE1A85EC53)
STEP = np.uint64(0x9E3779B97F4A7C15)
_S33 = np.uint64(33)


@numba.njit(cache=True, nogil=True, inline="always")
def mix(h):
    """The 64-bit finaliser of MurmurHash3: a bijection in which every bit depends on every bit."""
    h ^= h >> _S33
    h *= _MIX_1
    h ^= h >> _S33
    h *= _MIX_2
    return h ^ (h >> _S33)


@numba.njit(cache=True, nogil=True, inline="always")
def _decode(data, i):
    """The code point at byte `i` of valid UTF-8, and where the next one starts."""
    lead = np.uint32(data[i])
    if lead < 0x80:
        return lead, i + 1
    second = np.uint32(data[i + 1] & 0x3F)
    if lead < 0xE0:
        return (lead & np.uint32(0x1F)) << np.uint32(6) | second, i + 2
    third = np.uint32(data[i + 2] & 0x3F)
    if lead < 0xF0:
        return (lead & np.uint32(0x0F)) << np.uint32(12) | second << np.uint32(6) | third, i + 3
    fourth = np.uint32(data[i + 3] & 0x3F)
    high = (lead & np.uint32(0x07)) << np.uint32(18) | second << np.uint32(12)
    return high | third << np.uint32(6) | fourth, i + 4


@numba.njit(cache=True, nogil=True)
def _composable(data, bounds, table):
    """Which texts hold a character that NFC may change. Nothing below U+0300 does: its bytes are below 0xCC."""
    out = np.zeros(len(bounds) - 1, dtype=np.bool_)
    for doc in range(len(out)):
        i = bounds[doc]
        while i < bounds[doc + 1]:
            if data[i] < 0xCC:
                i += 1
                continue
            code, i = _decode(data, i)
            if code < len(table) and table[code] >> 28:
                out[doc] = True
                break
    return out


@numba.njit(cache=True, nogil=True)
def read_units(data, i, end, table, hashes, starts, ends):  # noqa: PLR0912, PLR0915 - one pass over the bytes
    """Split `data[i:end]` into units: their hashes, and the bytes at which they start and end.

    Returns the number of units; where the text starts and ends without the white space around it; and a hash of its
    numbers in their order, each with the sign or operator before it.
    """
    first, last = end, end  # of the text without the white space around it
    units = 0
    word, in_word, opened = np.uint64(0), False, i
    number, in_number, listed = np.uint64(0), False, np.uint64(0)
    sign, after_number = np.uint64(0), False  # an operator that stands before a number belongs to it
    while i <= end:
        if i < end and data[i] < 0x80 and not in_number:  # most bytes: an ASCII letter of a word
            entry = table[data[i]]
            if entry >> 21 == WORD:
                if first == end:
                    first = i
                i += 1
                last = i
                if not in_word:
                    in_word, opened = True, i - 1
                word = (word ^ np.uint64(entry)) * STEP
                sign, after_number = np.uint64(0), False
                continue
        entry = np.uint32(SEPARATOR << 21)
        start = i
        if i == end:  # one separator behind the text ends the last unit and number
            i += 1
        else:
            code, i = _decode(data, i)
            if code < len(table):
                entry = table[code]
            if (entry >> 21) & 7 != SPACE:
                if first == end:
                    first = start
                last = i
        kind = (entry >> 21) & 7
        if kind == IGNORED and start != end:
            continue
        digit = (entry >> 24) & 15
        if digit:
            if not in_number:
                number, in_number = sign, True
            number = (number ^ np.uint64(digit)) * STEP
            sign = np.uint64(0)
        else:
            if in_number:
                listed = (listed ^ mix(number)) * STEP
                in_number, after_number = False, True
            if kind == OPERATOR:
                sign = np.uint64(entry & 0x1FFFFF)
            elif kind == SPACE and data[start] != 10:
                if not after_number:
                    sign = np.uint64(0)
            else:
                sign, after_number = np.uint64(0), False
        if kind == WORD or (kind == MARK and in_word):
            if not in_word:
                in_word, opened = True, start
            word = (word ^ np.uint64(entry & 0x1FFFFF | WORD << 21)) * STEP
            continue
        if in_word:
            hashes[units], starts[units], ends[units] = mix(word), opened, start
            units += 1
            word, in_word = np.uint64(0), False
        if kind == ALONE:
            hashes[units], starts[units], ends[units] = mix(np.uint64(entry & 0x1FFFFF) * STEP), start, i
            units += 1
    return units, first, last, listed
