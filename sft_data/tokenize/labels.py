"""From rendered rows to ids and the bounds of every turn in them: vectorised over all rows of a shard.

The second half of the proof is made here, on tokens: the bytes of a row's tokens, one behind the other, are the bytes
of its text (so a place in the text is a place between tokens), every turn starts at the edge of a token and ends in a
stop token, and no control token came out of the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sft_data.chat.marks import cut_marked
from sft_data.chat.spans import Messages, Rendered, Unproved
from sft_data.tokenize.engine import encode_pieces, encode_texts
from sft_data.tokenize.tokenizer import LoadedTokenizer

__all__ = ["Encoded", "Row", "encode_rows"]

Ints = NDArray[np.int64]


class Row(NamedTuple):
    """A rendered row. `marked` is its text with marks around the control strings that stand in the data, if any do."""

    rendered: Rendered
    messages: Messages
    tools: Sequence[Any] | None = None
    marked: str | None = None
    wanted: Literal["all", "last"] = "all"  # which of its turns were looked for
    thoughts: Literal["learnt", "shown"] = "learnt"  # shown: its turns start where the answers do


class Encoded(NamedTuple):
    """One row as tokens: ids, and [start, end) of every turn; or why there is no proof."""

    ids: NDArray[np.int32]
    turns: tuple[tuple[int, int], ...]
    proof: str
    problem: Unproved | None = None


def encode_rows(tokenizer: LoadedTokenizer, rows: Sequence[Row]) -> list[Encoded]:
    """Tokens and turn bounds of every row, in order."""
    plain = [number for number, row in enumerate(rows) if row.marked is None]
    done: dict[int, Encoded] = {}
    if plain:
        done = dict(zip(plain, _encode_plain(tokenizer, [rows[number] for number in plain]), strict=True))
    return [done[number] if number in done else _encode_cut(tokenizer, row) for number, row in enumerate(rows)]


def _encode_plain(tokenizer: LoadedTokenizer, sources: Sequence[Row]) -> list[Encoded]:
    """Rows without control strings in their data: encoded whole, in one batch."""
    rows = [source.rendered for source in sources]
    ids, bounds = encode_texts(tokenizer, [row.text for row in rows])
    if not tokenizer.byte_level:
        return [_by_offsets(tokenizer, row, ids[bounds[n] : bounds[n + 1]]) for n, row in enumerate(sources)]
    starts, ends, exact = _by_bytes(tokenizer, rows, ids, bounds)
    wrong = _foreign_specials(tokenizer, rows, ids, bounds)
    edges = np.cumsum([0, *(len(row.turns) for row in rows)]).tolist()
    low, high, limits = starts.tolist(), ends.tolist(), bounds.tolist()
    found = []
    for number, row in enumerate(rows):
        first, last = edges[number], edges[number + 1]
        mine = ids[limits[number] : limits[number + 1]]
        if wrong[number]:
            problem = Unproved("unproved-mask", "the data and the template together spell a control token")
            found.append(Encoded(mine, (), row.proof, problem))
        elif exact[number]:
            found.append(
                Encoded(mine, tuple(zip(low[first:last], high[first:last], strict=True)), f"{row.proof}+bytes")
            )
        else:
            found.append(_by_offsets(tokenizer, sources[number], mine))
    return found


def _by_bytes(
    tokenizer: LoadedTokenizer, rows: Sequence[Rendered], ids: NDArray[np.int32], bounds: Ints
) -> tuple[Ints, Ints, NDArray[np.bool_]]:
    """Token bounds of all turns (within their rows), and for every row whether bytes and edges fit exactly."""
    texts = [row.text.encode() for row in rows]
    sizes = np.array([len(text) for text in texts], dtype=np.int64)
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(tokenizer.bytes.lengths[ids])])
    exact = np.diff(before[bounds]) == sizes
    exact &= _same_bytes(tokenizer, ids, bounds, texts, exact)
    row_of = np.repeat(np.arange(len(rows)), [len(row.turns) for row in rows])
    edges = np.array([edge for row in rows for edge in _byte_edges(row)], dtype=np.int64).reshape(-1, 2)
    base = before[bounds[:-1]][row_of]
    starts, ends = np.searchsorted(before, base + edges[:, 0]), np.searchsorted(before, base + edges[:, 1])
    fits = (before[np.minimum(starts, len(ids))] == base + edges[:, 0]) & (
        before[np.minimum(ends, len(ids))] == base + edges[:, 1]
    )
    exact[row_of[~fits]] = False
    first = bounds[:-1][row_of]
    return starts - first, ends - first, exact


def _same_bytes(
    tokenizer: LoadedTokenizer, ids: NDArray[np.int32], bounds: Ints, texts: Sequence[bytes], fits: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Whether the tokens of each row spell its text; only rows whose byte counts fit are looked at."""
    same = fits.copy()
    if not fits.all():
        ids = ids[np.repeat(fits, np.diff(bounds))]
        texts = [text for text, fit in zip(texts, fits.tolist(), strict=True) if fit]
    spelt = tokenizer.bytes.of(ids)
    wanted = np.frombuffer(b"".join(texts), dtype=np.uint8)
    if np.array_equal(spelt, wanted):
        return same
    starts = np.cumsum([0, *(len(text) for text in texts)])
    differ = np.flatnonzero(spelt != wanted)
    same[np.flatnonzero(fits)[np.searchsorted(starts, differ, side="right") - 1]] = False
    return same


def _byte_edges(row: Rendered) -> list[tuple[int, int]]:
    """[start, end) of every turn in bytes of the text."""
    text = row.text
    if text.isascii():
        return [(turn.start, turn.end) for turn in row.turns]
    edges, character, position = [], 0, 0
    for turn in row.turns:
        start = position + len(text[character : turn.start].encode())
        position = start + len(text[turn.start : turn.end].encode())
        character = turn.end
        edges.append((start, position))
    return edges


def _foreign_specials(
    tokenizer: LoadedTokenizer, rows: Sequence[Rendered], ids: NDArray[np.int32], bounds: Ints
) -> NDArray[np.bool_]:
    """Rows that hold more or fewer special tokens than the template wrote."""
    steers = np.zeros(tokenizer.vocab_size, dtype=np.int64)
    steers[[tokenizer.added[text] for text in tokenizer.controls if text in tokenizer.special]] = 1
    counted = np.concatenate([np.zeros(1, np.int64), np.cumsum(steers[ids])])
    found = np.diff(counted[bounds])
    written = np.array([-1 if row.specials is None else row.specials for row in rows])
    wrong: NDArray[np.bool_] = (written >= 0) & (found != written)
    return wrong


def _by_offsets(tokenizer: LoadedTokenizer, source: Row, ids: NDArray[np.int32]) -> Encoded:
    """One row by the character offsets of the reference tokenizer: for tokenizers that change the text's bytes."""
    row = source.rendered
    encoding = tokenizer.engine.encode(row.text, add_special_tokens=False)
    offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
    turns = []
    for turn in row.turns:
        inside = np.flatnonzero((offsets[:, 1] > turn.start) & (offsets[:, 0] < turn.end))
        start, end = (int(inside[0]), int(inside[-1]) + 1) if len(inside) else (0, 0)
        if len(inside) == 0 or offsets[start, 0] < turn.start or offsets[end - 1, 1] != turn.end:
            return _encode_cut(tokenizer, source)
        turns.append((start, end))
    found = Encoded(ids, tuple(turns), f"{row.proof}+offsets")
    if np.array_equal(ids, encoding.ids) and _says(tokenizer, row, found):
        return found
    return _encode_cut(tokenizer, source)


def _encode_cut(tokenizer: LoadedTokenizer, row: Row) -> Encoded:
    """One row in pieces: cut at the edges of control strings in the data and at both ends of every turn.

    So a turn starts at the edge of a token even where the tokenizer would have joined the end of the prompt with the
    start of the answer: the tokens are those that a model sees which is given the prompt and then writes the answer.
    """
    rendered = row.rendered
    edges = sorted({edge for turn in rendered.turns for edge in (turn.start, turn.end)})
    pieces = cut_marked(row.marked if row.marked is not None else rendered.text, edges)
    if pieces is None:
        problem = Unproved("unproved-mask", "the template cuts a control string of the data in two")
        return Encoded(np.zeros(0, np.int32), (), rendered.proof, problem)
    encoded = encode_pieces(tokenizer, pieces)
    counts = np.cumsum([0, *(len(ids) for ids in encoded)]).tolist()
    places = np.cumsum([0, *(len(piece) for piece, _ in pieces)]).tolist()
    token_at = dict(zip(places, counts, strict=True))
    ids = np.array([number for piece in encoded for number in piece], dtype=np.int32)
    controls = {tokenizer.added[text] for text in tokenizer.controls}
    forged = any(as_text and controls & set(piece) for (_, as_text), piece in zip(pieces, encoded, strict=True))
    if forged or any(edge not in token_at for edge in edges):
        problem = Unproved("unproved-mask", "a control string of the data cannot be written as plain text")
        return Encoded(ids, (), rendered.proof, problem)
    turns = tuple((token_at[turn.start], token_at[turn.end]) for turn in rendered.turns)
    found = Encoded(ids, turns, f"{rendered.proof}+pieces")
    if _says(tokenizer, rendered, found):
        return found
    problem = Unproved("unproved-mask", "the tokens of a turn do not spell its text")
    return found._replace(problem=problem)


def _says(tokenizer: LoadedTokenizer, row: Rendered, encoded: Encoded) -> bool:
    """Whether the tokens of every turn spell its text, spaces that the tokenizer puts in front aside."""
    for turn, (start, end) in zip(row.turns, encoded.turns, strict=True):
        said = tokenizer.bytes.of(encoded.ids[start:end]).tobytes().decode(errors="replace")
        wanted = row.text[turn.start : turn.end]
        if said != wanted and said.lstrip(" ") != _normal(tokenizer, wanted).lstrip(" "):
            return False
    return True


def _normal(tokenizer: LoadedTokenizer, text: str) -> str:
    """A text as the tokenizer's normaliser leaves it."""
    normalizer: Any = tokenizer.engine.normalizer
    normal: str = text if normalizer is None else normalizer.normalize_str(text)
    return normal if tokenizer.byte_level else normal.replace("▁", " ")
