"""Text -> units, for every script, without a Python loop over documents.

A *unit* is a word, or one character where a script writes no spaces (Han, Kana, Hangul, Thai, Lao, Khmer, Myanmar):
word shingles see 24 % of the near-duplicate pairs of Chinese instruction data, units by script see them all. Letters
are lower-cased, punctuation separates, numbers count like words.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from sft_data.dedup.kernels import ALONE, IGNORED, MARK, OPERATOR, SEPARATOR, SPACE, WORD

__all__ = ["unit_table"]

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
_BLOCK = 128
_JAMO = 0x1100  # whose vowels and finals join the letter before them
_NUMERALS = "一二三四五六七八九十百千万亿萬億零〇两兩"
_OPERATORS = frozenset("+-*/^<>=\u2212\u00d7\u00f7")


@lru_cache(maxsize=1)
def unit_table() -> npt.NDArray[np.uint32]:
    """Per code point: bits 0-20 lower case, 21-23 class, 24-27 digit value + 1, 28 whether NFC may change it.

    Bit 29 tells Han numerals.
    """
    table = np.arange(_TABLE_END, dtype=np.uint32)
    for first in range(0, _TABLE_END, _BLOCK):
        block = table[first : first + _BLOCK]
        alike = _common_entry(first, len(block))
        block[:] = block | alike if alike is not None else [_entry(code) for code in block.tolist()]
    for first, last in _ALONE_BLOCKS:
        block = table[first : last + 1]
        kind = (block >> 21) & 7
        lettered = (kind == WORD) | (kind == MARK)
        block[lettered] = (block[lettered] & ~np.uint32(7 << 21)) | np.uint32(ALONE << 21)
    table[[ord(char) for char in _NUMERALS]] |= np.uint32(1 << 29)
    return table


def _common_entry(first: int, size: int) -> int | None:
    """What all characters of a block are, but for the character itself: letters without case, or nothing at all.

    Nine in ten are (Han, Hangul, the unassigned); asking each of them would take a tenth of a second at every start.
    """
    text = "".join(map(chr, range(first, first + size)))
    categories = set(map(unicodedata.category, text))
    if categories <= {"Cn", "Co", "Cs"}:
        return SEPARATOR << 21
    plain = categories == {"Lo"} and text.lower() == text and unicodedata.is_normalized("NFC", text)
    return WORD << 21 if plain and first >> 8 != _JAMO >> 8 else None


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
