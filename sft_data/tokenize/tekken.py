"""Mistral's `tekken.json` as a tokenizer.json of Hugging Face: the same ids from the same bytes.

A tekken file lists tokens as bytes, best first, and joins the two neighbours whose token stands highest in the list
(tiktoken's rule). As merges: every way to put a token together from two others, in the order of the list. Ids start
with the control tokens, a thousand places most of which are free (`<SPECIAL_20>`, ...).
"""

from __future__ import annotations

import base64
import json
from functools import lru_cache
from typing import Any

from sft_data.errors import TokenizerError

__all__ = ["CONFIG", "byte_alphabet", "tokenizer_json"]

# What tekken files of 2024 leave out and their library knows.
_NAMES = (
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]",
    "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]",
)  # fmt: skip

# tokenizer_config.json of a tekken file.
CONFIG = json.dumps({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}).encode()


@lru_cache(maxsize=2)
def tokenizer_json(tekken: bytes) -> bytes:
    """The tokenizer.json of a tekken file; raises TokenizerError where it is none."""
    try:
        data = json.loads(tekken)
        config = data["config"]
        room, reserved = int(config["default_vocab_size"]), int(config["default_num_special_tokens"])
        listed = data["vocab"][: room - reserved]
        tokens = [base64.b64decode(entry["token_bytes"], validate=True) for entry in listed]
        pattern = str(config["pattern"])
    except (ValueError, KeyError, TypeError) as error:
        raise TokenizerError(f"tekken.json cannot be read: {type(error).__name__}: {error}") from error
    controls = _controls(data, reserved)
    spelt = {token: token.decode("latin-1").translate(byte_alphabet()) for token in tokens}
    vocabulary = {text: number for number, text in enumerate(controls)}
    vocabulary |= {spelt[token]: number for number, token in enumerate(tokens, start=reserved)}
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    made = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": number, "content": text, **added} for number, text in enumerate(controls)],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
        "post_processor": None,
        "decoder": {**level, "use_regex": True},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": True,
            "vocab": vocabulary, "merges": _merges(tokens, spelt),
        },
    }  # fmt: skip
    return json.dumps(made, ensure_ascii=False, separators=(",", ":")).encode()


def _controls(data: dict[str, Any], reserved: int) -> list[str]:
    """The control tokens by id."""
    named = data.get("special_tokens")
    names = {int(t["rank"]): str(t["token_str"]) for t in named} if named else dict(enumerate(_NAMES))
    return [names.get(number, f"<SPECIAL_{number}>") for number in range(reserved)]


def _merges(tokens: list[bytes], spelt: dict[bytes, str]) -> list[list[str]]:
    rank = {token: number for number, token in enumerate(tokens)}
    merges = []
    for token in tokens:
        splits = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        known = [(left, right) for left, right in splits if left in rank and right in rank]
        known.sort(key=lambda pair: (rank[pair[0]], rank[pair[1]]))
        merges += [[spelt[left], spelt[right]] for left, right in known]
    return merges


@lru_cache(maxsize=1)
def byte_alphabet() -> dict[int, str]:
    """GPT-2's alphabet, in which every byte is a printable character: byte -> character."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
