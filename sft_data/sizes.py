"""How large a row is, in the unit that a budget or a mix counts: rows, characters, estimated or real tokens."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal

import polars as pl
from tokenizers import Tokenizer

from sft_data.dedup.parts import part_texts, text_length
from sft_data.errors import ConfigError

__all__ = ["MEASURED_BY", "Measure", "sizes"]

Measure = Literal["rows", "characters", "estimated-tokens", "tokens"]

MEASURED_BY = (
    "what is counted: rows, characters, estimated-tokens (one for each Chinese, Japanese or Korean character, one for "
    "each 4 UTF-8 bytes of other text), or tokens of `tokenizer` (text of the turns, without the template)"
)

# Scripts whose tokens are about one character long.
_ONE_EACH = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}]"


def sizes(frame: pl.DataFrame, measure: Measure, tokenizer: str) -> pl.Series:
    """The size of each row of CONVERSATIONS, at least 1 unless it is counted in characters.

    Raises ConfigError where tokens are asked for and `tokenizer` names no tokenizer.
    """
    if measure == "rows":
        return pl.Series("size", [1], dtype=pl.Int64).new_from_index(0, frame.height)
    if measure == "characters":
        return frame.select(size=text_length().cast(pl.Int64)).to_series()
    texts = part_texts(frame).select(text=pl.concat_str(pl.all(), separator="\n")).to_series()
    if measure == "tokens":
        return _tokens(texts, tokenizer)
    dense = pl.col("text").str.count_matches(_ONE_EACH).cast(pl.Int64)
    rest = pl.col("text").str.replace_all(_ONE_EACH, "").str.len_bytes().cast(pl.Int64)
    return texts.to_frame("text").select(size=(dense + (rest + 3) // 4).clip(1)).to_series()


def _tokens(texts: pl.Series, tokenizer: str) -> pl.Series:
    model = _load(tokenizer)
    found = [max(1, len(each.ids)) for each in model.encode_batch_fast(texts.to_list(), add_special_tokens=False)]
    return pl.Series("size", found, dtype=pl.Int64)


@lru_cache(maxsize=2)
def _load(tokenizer: str) -> Tokenizer:
    path = Path(tokenizer) / "tokenizer.json" if tokenizer and Path(tokenizer).is_dir() else Path(tokenizer)
    if not tokenizer or not path.is_file():
        told = f"there is no tokenizer.json in {tokenizer!r}" if tokenizer else "it is not set"
        raise ConfigError("tokenizer", [f"{told}; `measure: tokens` needs the folder of the tokenizer that counts"])
    return Tokenizer.from_file(str(path))
