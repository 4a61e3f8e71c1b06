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

__all__ = ["CHUNK_TEXTS", "ShingleSets", "shingle_sets", "unit_table"]

U64 = npt.NDArray[np.uint64]

# Texts whose shingles are sorted together: 16 bits of the sort key are the text's number, 48 the shingle's hash.
# Two different shingles of one million share their 48 bits with a chance of 1 in 500.
CHUNK_TEXTS = 1 << 16

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

    values: U64  # 48-bit hashes; sorted and unique inside each text
    counts: npt.NDArray[np.int64]  # shingles of each text; 0 only where the text is empty
    keys: U64  # equal for texts with equal sets (short ones: equal stripped text); even for short texts
    numbers: U64  # equal for texts with the same numbers in the same order; 0 where there are none


@lru_cache(maxsize=1)
def unit_table() -> npt.NDArray[np.uint32]:
    """Per code point: bits 0-20 its lower case, 21-23 its class, 24-27 its digit value + 1."""
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
    return low | _kind(char) << 21 | digit << 24


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
    rows = CHUNK_TEXTS // width
    if height > rows:
        return _joined([shingle_sets([c.slice(at, rows) for c in columns], n) for at in range(0, height, rows)])
    texts = [_utf8(column) for column in columns]
    capacity = sum(len(data) + height for data, _ in texts)
    packed = np.empty(capacity, dtype=np.uint64)
    keys = np.zeros(width * height, dtype=np.uint64)
    numbers = np.zeros(width * height, dtype=np.uint64)
    used = 0
    for place, (data, offsets) in enumerate(texts):
        used = _shingle(data, offsets, unit_table(), n, place, width, packed, used, keys, numbers)
    ordered = packed[:used]
    ordered.sort()
    counts = np.zeros(width * height, dtype=np.int64)
    kept = _unique(ordered, counts, keys)
    return ShingleSets(ordered[:kept].copy(), counts, keys, numbers)


def _joined(parts: list[ShingleSets]) -> ShingleSets:
    return ShingleSets(
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.counts for part in parts]),
        np.concatenate([part.keys for part in parts]),
        np.concatenate([part.numbers for part in parts]),
    )


def _utf8(column: pl.Series) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The bytes of all texts and the offset of each, without a copy where Arrow has them so. Null is empty."""
    text = column.fill_null("").str.normalize("NFC").rechunk()
    array = text.to_arrow(compat_level=pl.CompatLevel.oldest())
    _, offsets, data = array.buffers()
    bounds = np.frombuffer(offsets, dtype=np.int64)[array.offset : array.offset + len(array) + 1]
    return np.frombuffer(data if data is not None else b"", dtype=np.uint8), bounds


_MIX_1 = np.uint64(0xFF51AFD7ED558CCD)
_MIX_2 = np.uint64(0xC4CEB9FE1A85EC53)
_STEP = np.uint64(0x9E3779B97F4A7C15)
_LOW_48 = np.uint64((1 << 48) - 1)
_S33, _S48 = np.uint64(33), np.uint64(48)
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
def _hash_bytes(data, first, last):
    whole = np.uint64(last - first)
    for at in range(first, last):
        whole = (whole ^ np.uint64(data[at])) * _STEP
        whole ^= whole >> _S33
    return _mix(whole)


@numba.njit(cache=True, nogil=True)
def _shingle(data, offsets, table, n, place, width, packed, used, keys, numbers):  # noqa: PLR0912, PLR0915 - one pass
    """Write (text number << 48 | hash) of every shingle to `packed` behind `used`; return the new `used`.

    One pass over the bytes: decode, classify, lower, hash the unit, roll the hash of the last `n` units.
    """
    ring = np.zeros(n, dtype=np.uint64)
    oldest = np.uint64(1)  # _STEP ** n: the weight with which a unit leaves the rolling sum
    for _ in range(n):
        oldest *= _STEP
    end_of_table = len(table)
    for row in range(len(offsets) - 1):
        doc = row * width + place
        i, end = offsets[row], offsets[row + 1]
        first, last = end, end  # of the text without the white space around it
        units, slot, rolled = 0, 0, np.uint64(0)
        word, in_word = np.uint64(0), False
        number, in_number, listed = np.uint64(0), False, np.uint64(0)
        sign, after_number = np.uint64(0), False  # an operator that stands before a number belongs to it
        while i <= end:
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
            digit = entry >> 24
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
                word = (word ^ np.uint64(entry & 0x1FFFFF)) * _STEP
                word ^= word >> _S33
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
                    packed[used] = (np.uint64(doc) << _S48) | (_mix(rolled) & _LOW_48)
                    used += 1
        ring[:] = 0
        numbers[doc] = listed
        if units < n and last > first:
            whole = _hash_bytes(data, first, last)
            keys[doc] = whole & ~_ONE
            packed[used] = (np.uint64(doc) << _S48) | (_mix(whole ^ _STEP) & _LOW_48)
            used += 1
    return used


@numba.njit(cache=True, nogil=True)
def _unique(ordered, counts, keys):
    """Drop the repeated shingles of each text in place, and its number; finish the keys of long texts."""
    kept = 0
    previous = ~np.uint64(0)
    for at in range(len(ordered)):
        entry = ordered[at]
        if entry == previous:
            continue
        previous = entry
        doc = np.int64(entry >> _S48)
        value = entry & _LOW_48
        ordered[kept] = value
        kept += 1
        counts[doc] += 1
        key = keys[doc]
        if counts[doc] == 1 and key != 0:  # a short text: its key stands
            continue
        keys[doc] = (key + _mix(value ^ _STEP)) | _ONE
    return kept
