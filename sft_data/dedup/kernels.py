"""Bytes -> units -> shingles: the compiled loops.

They stand in one file because numba notices a changed source by file: a loop cached with another file's old code in it
would go on giving the old result.
"""

# Kernels take what numba infers, so they are not annotated.
# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

import numba
import numpy as np

from sft_data.words import HIGH, leading, letters, load

__all__ = ["STEP", "find_composable", "mix", "ngrams", "read_units", "shingle"]

# What a character does to units; units.unit_table gives each code point one of them.
SEPARATOR, WORD, ALONE, SPACE, MARK, IGNORED, OPERATOR = range(7)

_S32, _ONE = np.uint64(32), np.uint64(1)
_MIX_1 = np.uint64(0xFF51AFD7ED558CCD)
_MIX_2 = np.uint64(0xC4CEB9FE1A85EC53)
STEP = np.uint64(0x9E3779B97F4A7C15)
_S33 = np.uint64(33)
_SMALL = np.uint64(0x2020202020202020)  # what makes ASCII letters small
_FEW = 24  # so many are sorted faster as they stand
_BYTE = np.uint64(0xFF)
_KNOWN_BITS = 12
_KNOWN_SHIFT = np.uint64(64 - _KNOWN_BITS)
_BLANK, _LINE_END, _STOP, _OTHER_BYTE = range(4)
_NUMERAL = np.uint32(1 << 29)  # in the unit table: a Han numeral
_HAN_ONE = 0x4E00
# Numbers in words. "One" counts behind another alone ("twenty-one"): else it is seldom a number, and "two" is told.
_SPELLED = np.frombuffer(
    b"one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    b"eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million billion "
    b"trillion zero second third fourth fifth sixth seventh eighth ninth tenth",
    dtype=np.uint8,
)
_OTHER = np.uint64(1 << 63)  # tells a character that is not ASCII from eight that are


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
def find_composable(data, bounds, table):
    """Which texts hold a character that NFC may change. Nothing below U+0300 does: its bytes are below 0xCC."""
    out = np.zeros(len(bounds) - 1, dtype=np.bool_)
    for doc in range(len(out)):
        i = bounds[doc]
        end = bounds[doc + 1]
        while i < end:
            if i + 8 <= end and load(data, i) & HIGH == 0:
                i += 8
                continue
            lead = data[i]
            if lead < 0xCC:
                i += 1
                continue
            if 0xE5 <= lead <= 0xE9:  # Han, U+5000 to U+9FFF
                i += 3
                continue
            code, i = _decode(data, i)
            if code < len(table) and (table[code] >> 28) & 1:
                out[doc] = True
                break
    return out


@numba.njit(cache=True, nogil=True)
def _quick_bytes(table):
    """What a byte behind a run of ASCII letters, or between them, asks for."""
    quick = np.full(256, _OTHER_BYTE, dtype=np.uint8)
    for byte in range(128):
        kind = (table[byte] >> 21) & 7
        if kind == SPACE:
            quick[byte] = _LINE_END if byte == 10 else _BLANK
        elif kind == SEPARATOR:
            quick[byte] = _STOP
    return quick


@numba.njit(cache=True, nogil=True)
def _aids(table):
    """What `read_units` looks up: which bytes end words; what hashes of numbers in words start with; these hashes."""
    quick = _quick_bytes(table)
    hashes = np.empty(len(_SPELLED), dtype=np.uint64)
    known = np.zeros(1 << _KNOWN_BITS, dtype=np.bool_)
    units, _, _, _ = read_units(_SPELLED, 0, len(_SPELLED), table, (quick, known, hashes[:1]), hashes, None, None)
    spelled = hashes[:units].copy()
    for each in spelled:
        known[each >> _KNOWN_SHIFT] = True
    return quick, known, spelled


@numba.njit(cache=True, nogil=True)
def _is_number(word, spelled, follows):
    """Whether the hash is that of a number in words; of "one" only where it follows another."""
    if word == spelled[0]:
        return follows
    found = False
    for each in spelled:
        found |= word == each
    return found


@numba.njit(cache=True, nogil=True, inline="always")
def _absorb(word, piece):
    """The hash of a word with a further piece: up to eight ASCII characters, or one other character."""
    word = (word ^ piece) * STEP
    return word ^ (word >> _S32)


@numba.njit(cache=True, nogil=True)
def read_units(data, i, end, table, aids, hashes, starts, ends):  # noqa: PLR0912, PLR0915 - one pass over the bytes
    """Split `data[i:end]` into units: their hashes, and the bytes at which they start and end.

    `starts` and `ends` may be None. Returns the number of units; where the text starts and ends without the white
    space around it; and a hash of its numbers in their order, each with the sign or operator before it. Han numerals
    are numbers (一 alone is not: it is an article more often), and so are English ones in words.

    A word is hashed in lower case and in pieces: a run of ASCII by eight characters, any other character for itself.
    So most words are one load and one product.
    """
    first, last = end, end  # of the text without the white space around it
    units = 0
    quick, known, spelled = aids
    word, in_word, opened = np.uint64(0), False, i
    piece, held = np.uint64(0), 0  # ASCII characters of the word that its hash lacks yet, and how many they are
    number, in_number, counts, listed = np.uint64(0), False, False, np.uint64(0)
    word_number = -2  # the unit that was a number in words
    sign, after_number = np.uint64(0), False  # an operator that stands before a number belongs to it
    safe = end - 8  # up to here eight bytes can be read at once
    while i <= end:
        if not in_word and not in_number:  # most bytes, in the fewest steps: plain words and what ends them, Han signs
            opened = i
            while i <= safe:
                eight = load(data, i)
                many = leading(~letters(eight) & HIGH)
                i += many
                if many == 8:
                    word = _absorb(word, eight | _SMALL)
                    continue
                rest = (eight | _SMALL) & ((_ONE << np.uint64(8 * many)) - _ONE)
                stop = quick[(eight >> np.uint64(8 * many)) & _BYTE]
                if stop == _OTHER_BYTE:
                    piece, held = rest, many
                    break
                if i > opened:
                    whole = mix(_absorb(word, rest) if many else word)
                    hashes[units] = whole
                    if known[whole >> _KNOWN_SHIFT] and _is_number(whole, spelled, word_number == units - 1):
                        listed, word_number = (listed ^ whole) * STEP, units
                    if starts is not None:
                        starts[units], ends[units] = opened, i
                    units += 1
                    word = np.uint64(0)
                    if first == end:
                        first = opened
                    last = i
                    sign, after_number = np.uint64(0), False
                elif stop != _BLANK or not after_number:
                    sign, after_number = np.uint64(0), False
                if stop == _STOP:
                    if first == end:
                        first = i
                    last = i + 1
                i += 1
                opened = i
            if i > opened:
                in_word = True
                if first == end:
                    first = opened
                last = i
                sign, after_number = np.uint64(0), False
            else:
                while i < end and 0xE4 <= data[i] <= 0xE9:
                    code, after = _decode(data, i)
                    if code < 0x4E00 or table[code] & _NUMERAL:  # from here up to U+9FFF all are Han
                        break
                    hashes[units] = mix((np.uint64(code) | _OTHER) * STEP)
                    if starts is not None:
                        starts[units], ends[units] = i, after
                    units += 1
                    if first == end:
                        first = i
                    i = last = after
                    sign, after_number = np.uint64(0), False
                if i > opened and i <= safe:
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
        if digit or entry & _NUMERAL:
            if not in_number:
                number, in_number, counts = sign, True, False
            number = (number ^ np.uint64(digit if digit else entry & 0x1FFFFF)) * STEP
            if digit or entry & 0x1FFFFF != _HAN_ONE:
                counts = True
            sign = np.uint64(0)
        else:
            if in_number:
                if counts:
                    listed = (listed ^ mix(number)) * STEP
                in_number, after_number = False, counts
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
            low = np.uint64(entry & 0x1FFFFF)
            if low < 0x80:
                piece |= low << np.uint64(8 * held)
                held += 1
            if held == 8 or (held and low >= 0x80):
                word, piece, held = _absorb(word, piece), np.uint64(0), 0
            if low >= 0x80:
                word = _absorb(word, low | _OTHER)
            continue
        if in_word:
            whole = mix(_absorb(word, piece) if held else word)
            hashes[units] = whole
            if known[whole >> _KNOWN_SHIFT] and _is_number(whole, spelled, word_number == units - 1):
                listed, word_number = (listed ^ whole) * STEP, units
            if starts is not None:
                starts[units], ends[units] = opened, start
            units += 1
            word, in_word, piece, held = np.uint64(0), False, np.uint64(0), 0
        if kind == ALONE:
            hashes[units] = mix((np.uint64(entry & 0x1FFFFF) | _OTHER) * STEP)
            if starts is not None:
                starts[units], ends[units] = start, i
            units += 1
    return units, first, last, listed


@numba.njit(cache=True, nogil=True)
def roll(hashes, units, n, out, used):
    """Write the hash of every `n` units in a row to `out` behind `used`; return the new `used`."""
    leaves = np.uint64(1)  # STEP ** n: the weight with which a unit leaves the sum
    for _ in range(n):
        leaves *= STEP
    rolled = np.uint64(0)
    for at in range(units):
        rolled = rolled * STEP + hashes[at]
        if at >= n:
            rolled -= hashes[at - n] * leaves
        if at >= n - 1:
            out[used] = mix(rolled)
            used += 1
    return used


@numba.njit(cache=True, nogil=True)
def _hash_bytes(data, first, last):
    whole = mix(np.uint64(last - first) + STEP)
    for at in range(first, last):
        whole = (whole ^ np.uint64(data[at])) * STEP
        whole ^= whole >> _S33
    return mix(whole)


@numba.njit(cache=True, nogil=True)
def _spread(grams, size, values, first, places):
    """Put `grams[:size]` into `values` from `first` on, nearly sorted: each near the place that its size asks for.

    Hashes are evenly spread, so one pass of a bucket sort leaves an insertion sort little to do: linear time, three
    times as fast as a general sort of such short runs.
    """
    places[: size + 1] = 0
    for at in range(size):
        places[np.int64(((grams[at] >> _S32) * np.uint64(size)) >> _S32) + 1] += 1
    for at in range(size):
        places[at + 1] += places[at]
    for at in range(size):
        bucket = np.int64(((grams[at] >> _S32) * np.uint64(size)) >> _S32)
        values[first + places[bucket]] = grams[at]
        places[bucket] += 1


@numba.njit(cache=True, nogil=True)
def _sort_unique(values, first, end):
    """Sort `values[first:end]` and drop repetitions in place; return the new end, and a sum over what stays."""
    for at in range(first + 1, end):
        value, back = values[at], at
        while back > first and values[back - 1] > value:
            values[back] = values[back - 1]
            back -= 1
        values[back] = value
    kept, key = first, np.uint64(0)
    for at in range(first, end):
        if at == first or values[at] != values[kept - 1]:
            values[kept] = values[at]
            key += mix(values[at] ^ STEP)
            kept += 1
    return kept, key


@numba.njit(cache=True, nogil=True)
def shingle(data, bounds, table, n, values, counts, keys, numbers):
    """Fill `values` with the sets of all texts one behind the other, and the other arrays; return the values used."""
    longest = np.int64(0)
    for doc in range(len(bounds)):
        longest = max(longest, bounds[doc, 1] - bounds[doc, 0])
    hashes, grams = np.empty(longest + 2, dtype=np.uint64), np.empty(longest + 2, dtype=np.uint64)
    places = np.empty(longest + 2, dtype=np.int32)
    aids = _aids(table)
    used = 0
    for doc in range(len(bounds)):
        opened = used
        units, first, last, numbers[doc] = read_units(
            data, bounds[doc, 0], bounds[doc, 1], table, aids, hashes, None, None
        )
        if units >= n:
            if units < n + _FEW:
                used = roll(hashes, units, n, values, used)
            else:
                size = roll(hashes, units, n, grams, 0)
                _spread(grams, size, values, opened, places)
                used = opened + size
            used, key = _sort_unique(values, opened, used)
            keys[doc] = key | _ONE
        elif last > first:
            whole = _hash_bytes(data, first, last)
            keys[doc] = max(whole & ~_ONE, np.uint64(2))  # 0 is the empty text
            values[used] = mix(whole ^ STEP)
            used += 1
        counts[doc] = used - opened
    return used


@numba.njit(cache=True, nogil=True)
def ngrams(data, bounds, table, n, out):
    """Write each text's units, n-grams in their order, and their numbers; a text below `n` units is one n-gram."""
    sizes, counts, starts, ends, grams = out
    hashes = np.empty(len(data) + 1, dtype=np.uint64)
    aids = _aids(table)
    used = 0
    spans = 0
    for doc in range(len(bounds)):
        size, _, _, _ = read_units(
            data, bounds[doc, 0], bounds[doc, 1], table, aids, hashes, starts[spans:], ends[spans:]
        )
        sizes[doc] = size
        spans += size
        opened = used
        if size >= n:
            used = roll(hashes, size, n, grams, used)
        elif size:
            whole = np.uint64(size)  # told from n-grams by its size
            for at in range(size):
                whole = mix((whole + hashes[at]) * STEP)
            grams[used] = whole
            used += 1
        counts[doc] = used - opened
    return used
