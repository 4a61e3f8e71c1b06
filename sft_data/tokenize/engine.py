"""Encoding many texts at once: the fast engine where it was proved equal to the reference, the reference elsewhere.

`fastokens` loads the same tokenizer.json and encodes about ten times as fast, but it is young. It is used for a batch
only after it gave the same ids as Hugging Face's `tokenizers` on a list of hostile texts (once per process) and on a
sample of that very batch. The outcome is the same ids either way.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from sft_data.tokenize.tokenizer import LoadedTokenizer

__all__ = ["HOSTILE", "encode_pieces", "encode_texts", "fast_engine"]

# Rows of a batch that are encoded by both engines, spread evenly over it.
SAMPLE = 64

HOSTILE = (
    "", " ", "  ", "\n", "\n\n", " \n \n\n ", "\t\r\n", "a", " a", "a ", "  a  ", "a\n\n b", "\n\n  indented",
    "don't we'll I'M they'RE", "１２３ ½ Ⅻ 12345678", "x=1;y==2!=3", "http://a.b/c?d=é&e=%20",
    "naïve café e\u0301 Å A\u030a", "中文，标点。“引号”", "日本語のテキスト ﾊﾝｶｸ", "한국어 텍스트", "עברית العربية",
    "हिन्दी देवनागरी", "ไทยไม่มีช่องว่าง", "🎉👩\u200d👩\u200d👧\u200d👦🇩🇪👍🏽", "a🎉",
    "\u200bzero\u200dwidth\ufeff", "\u202ertl\u202c",
    "\u00a0nbsp\u2003em\u3000wide", "\ufffd\ufffe\uffff", "\x00\x01\x1b[0m", "▁under▁score", "Ġġ Ċ", "<0x0A>",
    "<|endoftext|>", "<s></s><unk>", "[INST] x [/INST]", "<|im_start|>user\nhi<|im_end|>\n", "<think>\n\n</think>\n\n",
    "a" * 47, "supercalifragilisticexpialidocious" * 3, "\U00010348\U0001d11e", "ﬁ ligature ſ ß ẞ", "İstanbul ı",
)  # fmt: skip


def encode_texts(tokenizer: LoadedTokenizer, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Ids of all texts, one behind the other, and the texts' bounds in them. Adds nothing to what the texts say."""
    if not texts:
        return np.zeros(0, np.int32), np.zeros(1, np.int64)
    fast = fast_engine(tokenizer.files["tokenizer.json"])
    if fast is not None:
        ids, bounds = _encode_fast(fast, texts)
        if _agrees(tokenizer.engine, texts, ids, bounds):
            return ids, bounds
    encodings = tokenizer.engine.encode_batch(list(texts), add_special_tokens=False)
    lengths = np.fromiter((len(e) for e in encodings), dtype=np.int64, count=len(encodings))
    bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    ids = np.fromiter((i for e in encodings for i in e.ids), dtype=np.int32, count=int(bounds[-1]))
    return ids, bounds


@lru_cache(maxsize=4)
def fast_engine(tokenizer_json: bytes) -> Any | None:  # noqa: ANN401  # fastokens ships no types
    """The fast engine for this tokenizer; None where it cannot load it or differs on the hostile texts."""
    import fastokens

    text = tokenizer_json.decode()
    try:
        fast = fastokens.Tokenizer.from_json_str(text)
    except Exception:  # the Rust library raises bare exceptions for what it does not support
        return None
    reference = Tokenizer.from_str(text)
    own = tuple(token.content for token in reference.get_added_tokens_decoder().values())
    texts = [*HOSTILE, *own, "".join(own), " ".join(own), *(f"a {token} b" for token in own)]
    ids, bounds = _encode_fast(fast, texts)
    return fast if _agrees(reference, texts, ids, bounds, sample=len(texts)) else None


def encode_pieces(tokenizer: LoadedTokenizer, pieces: Sequence[tuple[str, bool]]) -> list[list[int]]:
    """Ids of the pieces of one text, each by itself; in pieces marked true no control token is seen.

    Tokenizers of the SentencePiece kind put a space before a text: pieces behind the first are encoded behind a
    newline, which is taken off again.
    """
    return [
        _encode_piece(
            tokenizer.plain_engine if as_text else tokenizer.engine,
            piece,
            behind=number > 0 and not tokenizer.byte_level,
        )
        for number, (piece, as_text) in enumerate(pieces)
    ]


def _encode_piece(engine: Tokenizer, piece: str, *, behind: bool) -> list[int]:
    if behind:
        newline: list[int] = engine.encode("\n", add_special_tokens=False).ids
        ids: list[int] = engine.encode("\n" + piece, add_special_tokens=False).ids
        if ids[: len(newline)] == newline:
            return ids[len(newline) :]
    whole: list[int] = engine.encode(piece, add_special_tokens=False).ids
    return whole


def _encode_fast(fast: Any, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:  # noqa: ANN401
    ids, bounds = fast.encode_batch_flat(list(texts))
    return np.frombuffer(ids, dtype="<u4").astype(np.int32), np.frombuffer(bounds, dtype="<u8").astype(np.int64)


def _agrees(
    reference: Tokenizer,
    texts: Sequence[str],
    ids: NDArray[np.int32],
    bounds: NDArray[np.int64],
    sample: int = SAMPLE,
) -> bool:
    rows = np.unique(np.linspace(0, len(texts) - 1, num=min(sample, len(texts))).astype(int)).tolist()
    expected = reference.encode_batch([texts[row] for row in rows], add_special_tokens=False)
    return all(e.ids == ids[bounds[row] : bounds[row + 1]].tolist() for row, e in zip(rows, expected, strict=True))
