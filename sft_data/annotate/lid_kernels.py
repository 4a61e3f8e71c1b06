"""The compiled loops of language identification: text -> words -> n-grams -> vector -> the likeliest language.

They stand in one file because numba notices a changed source by file.
"""

# Kernels take what numba infers, so they are not annotated.
# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

import numba
import numpy as np

__all__ = ["BASIS", "BUCKETS", "LABEL", "PRIME", "SIGN", "WIDTH", "judge"]

LABEL = "__label__"
WIDTH = 16  # numbers of a vector; a constant, so that they are added at once
BUCKETS = 2_000_000  # places that n-grams are hashed to; a constant, so that no division is needed
BASIS, PRIME = np.uint32(2166136261), np.uint32(16777619)  # FNV-1a
SIGN = np.uint32(0xFFFFFF00)  # over signed bytes
_LABEL_BYTES = tuple(LABEL.encode())
_LEAST, _LEAST_LOG = 1e-5, np.float32(np.log(1e-5))  # what fastText adds to a probability before its logarithm
_BUCKETS_32 = np.uint32(BUCKETS)


@numba.njit(cache=True, nogil=True)
def _hashed(hashed, byte):
    wide = np.uint32(byte) if byte < 128 else np.uint32(byte) | SIGN
    return np.uint32((hashed ^ wide) * PRIME)


@numba.njit(cache=True, nogil=True)
def _find(word, length, slots, ids, starts, known):
    """Id of a known word, framed by < and >; or -1."""
    hashed = BASIS
    for i in range(1, length - 1):
        hashed = _hashed(hashed, word[i])
    at = np.int64(hashed) & (len(slots) - 1)
    while ids[at] >= 0:
        start = starts[ids[at]]
        if slots[at] == hashed and starts[ids[at] + 1] - start == length - 2:
            same = True
            for i in range(length - 2):
                same = same and known[start + i] == word[i + 1]
            if same:
                return ids[at]
        at = (at + 1) & (len(slots) - 1)
    return -1


@numba.njit(cache=True, nogil=True)
def _add_word(word, length, number, vectors, place, hidden, shortest, longest):
    """Add the vector of word `number`, where it is known, and those of its n-grams: how many were added."""
    added = 0
    if number >= 0:
        for d in range(WIDTH):
            hidden[d] += vectors[number, d]
        added = 1
    for i in range(length):
        if word[i] & 0xC0 == 0x80:
            continue
        hashed = BASIS
        j = i
        for n in range(1, longest + 1):
            if j >= length:
                break
            hashed = _hashed(hashed, word[j])
            j += 1
            while j < length and word[j] & 0xC0 == 0x80:
                hashed = _hashed(hashed, word[j])
                j += 1
            if n >= shortest and not (n == 1 and (i == 0 or j == length)):
                row = place[hashed % _BUCKETS_32]
                if row >= 0:
                    for d in range(WIDTH):
                        hidden[d] += vectors[row, d]
                    added += 1
    return added


@numba.njit(cache=True, nogil=True)
def _is_mark(word, length):
    """Whether a word, framed by < and >, is written like a mark of the model, a label or a line's end: left out."""
    if length == 6 and word[1] == 60 and word[2] == 47 and word[3] == 115 and word[4] == 62:
        return True
    same = length >= 11
    for i in range(9):
        same = same and word[i + 1] == _LABEL_BYTES[i]
    return same


@numba.njit(cache=True, nogil=True)
def _likeliest(hidden, nodes, left, right, allowed, share, log):
    """The likeliest of the allowed labels and its probability; below 0.00001 nothing counts, as in fastText."""
    labels = len(allowed)
    log[2 * labels - 2] = 0
    for inner in range(labels - 2, -1, -1):
        dot = np.float32(0)
        for d in range(WIDTH):
            dot += hidden[d] * nodes[inner, d]
        chance = np.float32(1.0 / (1.0 + np.exp(-dot)))
        log[left[inner]] = log[inner + labels] + np.float32(np.log(np.float64(np.float32(1.0 - chance)) + _LEAST))
        log[right[inner]] = log[inner + labels] + np.float32(np.log(np.float64(chance) + _LEAST))
    best, score, total = -1, np.float64(0), np.float64(0)
    for label in range(labels):
        if allowed[label] and log[label] >= _LEAST_LOG:
            sure = np.float64(min(np.float32(np.exp(log[label])), np.float32(1)))
            total += sure
            if sure > score:
                best, score = label, sure
    return best, (score / total if share and total > 0 else score)


@numba.njit(cache=True, nogil=True)
def judge(
    data, offsets, vectors, place, slots, ids, starts, known, nodes, left, right, allowed, share, shortest, longest
):
    """Label (-1: none that is allowed) and confidence of each text, `data[offsets[i] : offsets[i + 1]]`."""
    count = len(offsets) - 1
    best, score = np.zeros(count, np.int64), np.zeros(count, np.float64)
    hidden = np.zeros(WIDTH, np.float32)
    log = np.zeros(2 * len(allowed) - 1, np.float32)
    word = np.zeros(64, np.uint8)
    word[0] = 60
    for row in range(count):
        for d in range(WIDTH):
            hidden[d] = 0
        length, end = 1, offsets[row + 1]
        added = 0
        for i in range(offsets[row], end + 1):
            byte = data[i] if i < end else np.uint8(32)
            # Blank, tab, line feed, vertical tab, form feed, carriage return and NUL end a word.
            if byte == 32 or 9 <= byte <= 13 or byte == 0:
                if length > 1:
                    word[length] = 62
                    if not _is_mark(word, length + 1):
                        number = _find(word, length + 1, slots, ids, starts, known)
                        added += _add_word(word, length + 1, number, vectors, place, hidden, shortest, longest)
                    length = 1
                continue
            if length + 2 > len(word):
                wider = np.zeros(2 * len(word), np.uint8)
                for k in range(len(word)):
                    wider[k] = word[k]
                word = wider
            word[length] = byte
            length += 1
        # The end of the line is a word of its own, without n-grams.
        word[1], word[2], word[3], word[4], word[5] = 60, 47, 115, 62, 62  # </s>
        number = _find(word, 6, slots, ids, starts, known)
        if number >= 0:
            for d in range(WIDTH):
                hidden[d] += vectors[number, d]
            added += 1
        for d in range(WIDTH):
            hidden[d] *= np.float32(1.0 / max(added, 1))
        best[row], score[row] = _likeliest(hidden, nodes, left, right, allowed, share, log)
    return best, score
