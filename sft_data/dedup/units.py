"""Text -> sets of shingles, for every script, without a Python loop over documents.

A *unit* is a word, or one character where a script writes no spaces (Han, Kana, Hangul, Thai, Lao, Khmer, Myanmar):
word shingles see 24 % of the near-duplicate pairs of Chinese instruction data, units by script see them all. Letters
are lower-cased, punctuation separates, numbers count like words. A *shingle* is `n` units in a row.

A text of fewer than `n` units has no shingles worth comparing: it is one shingle, the whole stripped text as it
stands. So distinct short texts are never near each other and identical ones always are ("Yes." is neither "No." nor
"Yes!"). The same holds for texts without units, such as "..." or emoji.
"""

# Kernels take what numba infers, so they are not annotated.
# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: ANN001, ANN202, PLR0917

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import lru_cache

import numba
import numpy as np
import numpy.typing as npt
import polars as pl

__all__ = ["ShingleSets", "shingle_sets", "unit_table"]

U64 = npt.NDArray[np.uint64]
Bytes = npt.NDArray[np.uint8]
Bounds = npt.NDArray[np.int64]

CHUNK_ROWS = 16_384  # rows whose bytes and shingles are in memory together

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


@dataclass(frozen=True)
class ShingleSets:
    """Of each text: its set of shingles, its identity and its numbers."""

    values: U64  # 64-bit hashes; sorted and unique inside each text
    counts: npt.NDArray[np.int64]  # shingles of each text; 0 only where the text is empty
    keys: U64  # equal for texts with equal sets (short ones: equal stripped text); even for short texts
    numbers: U64  # equal for texts with the same numbers in the same order; 0 where there are none


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


def shingle_sets(columns: list[pl.Series], n: int) -> ShingleSets:
    """The shingle sets of all texts, row by row: text `i` of column `c` is number `i * len(columns) + c`."""
    width, height = len(columns), len(columns[0])
    if height > CHUNK_ROWS:
        starts = range(0, height, CHUNK_ROWS)
        return _joined([shingle_sets([column.slice(at, CHUNK_ROWS) for column in columns], n) for at in starts])
    data, bounds = _utf8(columns)
    values = np.empty(len(data) + width * height, dtype=np.uint64)  # no text has more shingles than bytes, or than one
    counts = np.zeros(width * height, dtype=np.int64)
    keys = np.zeros(width * height, dtype=np.uint64)
    numbers = np.zeros(width * height, dtype=np.uint64)
    used = _shingle(data, bounds, unit_table(), n, values, counts, keys, numbers)
    return ShingleSets(values[:used].copy(), counts, keys, numbers)


def _joined(parts: list[ShingleSets]) -> ShingleSets:
    return ShingleSets(
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.counts for part in parts]),
        np.concatenate([part.keys for part in parts]),
        np.concatenate([part.numbers for part in parts]),
    )


def _utf8(columns: list[pl.Series]) -> tuple[Bytes, Bounds]:
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
_STEP = np.uint64(0x9E3779B97F4A7C15)
_S32, _S33 = np.uint64(32), np.uint64(33)
_ONE = np.uint64(1)


@numba.njit(cache=True, nogil=True, inline="always")
def _mix(h):
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
def _hash_bytes(data, first, last):
    whole = np.uint64(last - first)
    for at in range(first, last):
        whole = (whole ^ np.uint64(data[at])) * _STEP
        whole ^= whole >> _S33
    return _mix(whole)


@numba.njit(cache=True, nogil=True)
def _sort_unique(values, first, end, spare, places):
    """Sort `values[first:end]` and drop repetitions in place; return the new end.

    Hashes are evenly spread, so one pass puts each value near its place and an insertion sort does the rest: linear
    time, three times as fast as a general sort of such short runs.
    """
    size = end - first
    if size > 24:
        places[: size + 1] = 0
        for at in range(first, end):
            places[np.int64(((values[at] >> _S32) * np.uint64(size)) >> _S32) + 1] += 1
        for at in range(size):
            places[at + 1] += places[at]
        for at in range(first, end):
            bucket = np.int64(((values[at] >> _S32) * np.uint64(size)) >> _S32)
            spare[places[bucket]] = values[at]
            places[bucket] += 1
        values[first:end] = spare[:size]
    for at in range(first + 1, end):
        value, back = values[at], at
        while back > first and values[back - 1] > value:
            values[back] = values[back - 1]
            back -= 1
        values[back] = value
    kept = first
    for at in range(first, end):
        if at == first or values[at] != values[kept - 1]:
            values[kept] = values[at]
            kept += 1
    return kept


@numba.njit(cache=True, nogil=True)
def _shingle(data, bounds, table, n, values, counts, keys, numbers):  # noqa: PLR0912, PLR0915 - one pass
    """Fill `values` with the sets of all texts one behind the other, and the other arrays; return the values used.

    One pass over the bytes: decode, classify, lower, hash the unit, roll the hash of the last `n` units.
    """
    ring = np.zeros(n, dtype=np.uint64)
    oldest = np.uint64(1)  # _STEP ** n: the weight with which a unit leaves the rolling sum
    for _ in range(n):
        oldest *= _STEP
    end_of_table = len(table)
    longest = np.int64(0)
    for doc in range(len(bounds)):
        longest = max(longest, bounds[doc, 1] - bounds[doc, 0])
    spare, places = np.empty(longest + 2, dtype=np.uint64), np.empty(longest + 2, dtype=np.int64)
    used = 0
    for doc in range(len(bounds)):
        i, end = bounds[doc, 0], bounds[doc, 1]
        opened = used
        first, last = end, end  # of the text without the white space around it
        units, slot, rolled = 0, 0, np.uint64(0)
        word, in_word = np.uint64(0), False
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
                    word = (word ^ np.uint64(entry)) * _STEP
                    in_word = True
                    sign, after_number = np.uint64(0), False
                    continue
            entry = np.uint32(SEPARATOR << 21)
            start = i
            if i == end:  # one separator behind the text ends the last unit and number
                i += 1
            else:
                code, i = _decode(data, i)
                if code < end_of_table:
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
                number = (number ^ np.uint64(digit)) * _STEP
                sign = np.uint64(0)
            else:
                if in_number:
                    listed = (listed ^ _mix(number)) * _STEP
                    in_number, after_number = False, True
                if kind == OPERATOR:
                    sign = np.uint64(entry & 0x1FFFFF)
                elif kind == SPACE and data[start] != 10:
                    if not after_number:
                        sign = np.uint64(0)
                else:
                    sign, after_number = np.uint64(0), False
            if kind == WORD or (kind == MARK and in_word):
                word = (word ^ np.uint64(entry & 0x1FFFFF | WORD << 21)) * _STEP
                in_word = True
                continue
            for ended in range(2):  # the word that ends here, then the character that is a unit itself
                if ended == 0:
                    if not in_word:
                        continue
                    unit = _mix(word)
                    word, in_word = np.uint64(0), False
                else:
                    if kind != ALONE:
                        continue
                    unit = _mix(np.uint64(entry & 0x1FFFFF) * _STEP)
                rolled = rolled * _STEP + unit - ring[slot] * oldest
                ring[slot] = unit
                slot = slot + 1 if slot + 1 < n else 0
                units += 1
                if units >= n:
                    values[used] = _mix(rolled)
                    used += 1
        ring[:] = 0
        numbers[doc] = listed
        if units < n and last > first:
            whole = _hash_bytes(data, first, last)
            keys[doc] = whole & ~_ONE
            values[used] = _mix(whole ^ _STEP)
            used += 1
        elif units >= n:
            used = _sort_unique(values, opened, used, spare, places)
            for at in range(opened, used):
                keys[doc] += _mix(values[at] ^ _STEP)
            keys[doc] |= _ONE
        counts[doc] = used - opened
    return used
