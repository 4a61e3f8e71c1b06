"""A tokenizer as it lies in a folder: its files, its chat template, its special strings, the bytes of its tokens."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from sft_data.chat.template import ChatTemplate, named_templates, template_text
from sft_data.errors import TokenizerError
from sft_data.tokenize.tekken import CONFIG, byte_alphabet, tokenizer_json

__all__ = ["TEKKEN_TEMPLATE", "LoadedTokenizer", "TokenBytes", "find_tokenizer", "load_tokenizer", "read_template"]

# The files that make a tokenizer. The first must be there, or else TEKKEN, out of which it is made.
FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")
TEKKEN = "tekken.json"
TEKKEN_TEMPLATE = "mistral-tekken"  # where a tekken folder brings no chat template, which it mostly does not


@dataclass(frozen=True)
class TokenBytes:
    """The bytes that every token stands for: token i is flat[starts[i]:starts[i + 1]]."""

    flat: NDArray[np.uint8]
    starts: NDArray[np.int64]

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Number of bytes of every token."""
        return np.diff(self.starts)

    def of(self, ids: NDArray[np.integer]) -> NDArray[np.uint8]:
        """The bytes of these tokens, one behind the other."""
        ids = ids[self.lengths[ids] > 0]
        if len(ids) == 0:
            return self.flat[:0]
        sizes, starts = self.lengths[ids], self.starts[ids]
        # Where each byte comes from: one further than the byte before, but for a jump at the start of a token.
        steps = np.ones(int(sizes.sum()), dtype=np.int32)
        steps[0] = starts[0]
        steps[np.cumsum(sizes)[:-1]] = np.diff(starts) - sizes[:-1] + 1
        out: NDArray[np.uint8] = self.flat[np.cumsum(steps, dtype=np.int32)]
        return out


@dataclass(frozen=True)
class LoadedTokenizer:
    """Everything that tokenizing needs to know, loaded once per process."""

    name: str
    files: Mapping[str, bytes]  # file name -> content, the chat template that is used among them
    engine: Tokenizer  # Hugging Face's tokenizers: the reference
    template: ChatTemplate
    added: Mapping[str, int]  # content -> id of every added token
    controls: tuple[str, ...]  # added tokens that steer the model, longest first: never made from data
    special: frozenset[str]  # those of them that the tokenizer calls special
    eos: str | None  # the end-of-sequence token's text
    bos_id: int | None  # the token with which this tokenizer starts every sequence; null where it does not
    pad_id: int | None
    vocab_size: int  # highest id + 1
    bytes: TokenBytes
    byte_level: bool  # tokens spell the text's bytes one to one (as long as no normaliser changes the text)

    @cached_property
    def control_ids(self) -> NDArray[np.int64]:
        """Ids of the control strings."""
        return np.array(sorted(self.added[text] for text in self.controls), dtype=np.int64)

    @cached_property
    def control_pattern(self) -> re.Pattern[str]:
        """Matches any control string, the longest first."""
        return re.compile("|".join(map(re.escape, self.controls)) or "(?!)")

    @cached_property
    def special_pattern(self) -> re.Pattern[str]:
        """Matches any special token, the longest first."""
        return re.compile("|".join(re.escape(text) for text in self.controls if text in self.special) or "(?!)")

    @cached_property
    def plain_engine(self) -> Tokenizer:
        """The same tokenizer without any added token: for text in which none may be seen."""
        data = json.loads(self.files["tokenizer.json"])
        data["added_tokens"] = []
        data["post_processor"] = None
        return Tokenizer.from_str(json.dumps(data))

    @cached_property
    def sha256(self) -> str:
        """Hash over names and contents of the files."""
        digest = hashlib.sha256()
        for name, content in sorted(self.files.items()):
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
        return digest.hexdigest()


def load_tokenizer(tokenizer: str, template: str | None = None) -> LoadedTokenizer:
    """Load a tokenizer's folder (or a hub name that lies in the local cache) with its own or another chat template.

    What was loaded is kept in the process, and loaded anew when a file has changed.
    """
    return _load(tokenizer, template, stamp(tokenizer, template))


def stamp(tokenizer: str, template: str | None) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of the files that decide what is loaded: other ones mean that it is loaded anew."""
    folder = find_tokenizer(tokenizer)
    files = [folder / name for name in (*FILES, TEKKEN)] + ([Path(template)] if template is not None else [])
    there = [(str(path), path.stat()) for path in files if path.is_file()]
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in there)


@lru_cache(maxsize=4)
def _load(tokenizer: str, template: str | None, _: object) -> LoadedTokenizer:
    folder = find_tokenizer(tokenizer)
    files = {name: (folder / name).read_bytes() for name in FILES if (folder / name).is_file()}
    if "tokenizer.json" not in files and (folder / TEKKEN).is_file():
        files["tokenizer.json"] = tokenizer_json((folder / TEKKEN).read_bytes())
        files.setdefault("tokenizer_config.json", CONFIG)
        template = template or (None if "chat_template.jinja" in files else TEKKEN_TEMPLATE)
    if "tokenizer.json" not in files:
        raise TokenizerError(
            f"{folder} has no tokenizer.json (a fast tokenizer in the format of `tokenizers`) and no tekken.json"
        )
    try:
        engine = Tokenizer.from_str(files["tokenizer.json"].decode())
    except Exception as error:  # the Rust library raises bare Exception
        raise TokenizerError(f"{folder / 'tokenizer.json'} cannot be loaded: {error}") from error
    data = json.loads(files["tokenizer.json"])
    config = json.loads(files.get("tokenizer_config.json", b"{}"))
    text = read_template(folder, template)
    files["chat_template.jinja"] = text.encode()
    variables = _special_names(config)
    chat = ChatTemplate(text, variables)
    added = {entry["content"]: int(entry["id"]) for entry in data.get("added_tokens", [])}
    vocabulary = engine.get_vocab(with_added_tokens=True)
    byte_level = '"ByteLevel"' in json.dumps(data.get("decoder"))
    pad = added.get(variables.get("pad_token", ""))
    return LoadedTokenizer(
        name=folder.name,
        files=files,
        engine=engine,
        template=chat,
        added=added,
        controls=_controls(data.get("added_tokens", []), chat.literals),
        special=frozenset(entry["content"] for entry in data.get("added_tokens", []) if entry.get("special")),
        eos=variables.get("eos_token") if variables.get("eos_token") in added else None,
        bos_id=_leading_token(engine, config, added, variables.get("bos_token")),
        pad_id=pad,
        vocab_size=max(vocabulary.values()) + 1,
        bytes=_token_bytes(vocabulary, added, byte_level=byte_level),
        byte_level=byte_level,
    )


def find_tokenizer(tokenizer: str) -> Path:
    """The folder of a tokenizer: a path, or a hub name whose files are in the local cache. Never downloads."""
    path = Path(tokenizer)
    if path.is_dir():
        return path
    cached = _cached(tokenizer)
    if cached is not None:
        return cached
    raise TokenizerError(
        f"no tokenizer at {tokenizer!r}: there is no such folder (looked in {Path.cwd()}) and no model of that name in "
        "the local cache; give a folder with tokenizer.json, tokenizer_config.json and chat_template.jinja"
    )


def _cached(name: str) -> Path | None:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return None
    from huggingface_hub import try_to_load_from_cache  # comes with `tokenizers`; only for hub names

    found = try_to_load_from_cache(name, "tokenizer.json")
    return Path(found).parent if isinstance(found, str) else None


def read_template(folder: Path, template: str | None) -> str:
    """The text of the chat template: the one named, else the tokenizer's own."""
    if template is not None:
        text = template_text(template)
        if text is None:
            names = ", ".join(named_templates())
            raise TokenizerError(f"no chat template {template!r}: neither a file nor one of the named ones ({names})")
        return text
    own = folder / "chat_template.jinja"
    if own.is_file():
        return own.read_text(encoding="utf-8")
    config = folder / "tokenizer_config.json"
    stored = json.loads(config.read_bytes()).get("chat_template") if config.is_file() else None
    if isinstance(stored, list):  # several templates by name
        stored = {entry["name"]: entry["template"] for entry in stored}.get("default")
    if not isinstance(stored, str):
        raise TokenizerError(
            f"{folder} has no chat template; name one in tokenize.template: a file or {', '.join(named_templates())}"
        )
    return stored


def _special_names(config: Mapping[str, Any]) -> dict[str, str]:
    """`bos_token` and the like, as templates see them."""
    names = {}
    for key, value in config.items():
        text = value.get("content") if isinstance(value, dict) else value
        if key.endswith("_token") and isinstance(text, str):
            names[key] = text
    return names


def _controls(added: list[dict[str, Any]], literals: str) -> tuple[str, ...]:
    """Special tokens, and other added tokens that the template writes (`<think>`, `<tool_call>`)."""
    found = {entry["content"] for entry in added if entry.get("special") or entry["content"] in literals}
    return tuple(sorted((text for text in found if text.strip()), key=lambda text: (-len(text), text)))


def _leading_token(
    engine: Tokenizer, config: Mapping[str, Any], added: Mapping[str, int], bos: str | None
) -> int | None:
    """The token that the tokenizer itself puts before every text, if it is the beginning-of-sequence token."""
    if bos is None or bos not in added:
        return None
    first = engine.encode("a", add_special_tokens=True).ids[:1]
    wanted = first == [added[bos]] or config.get("add_bos_token") is True
    return added[bos] if wanted else None


def _token_bytes(vocabulary: Mapping[str, int], added: Mapping[str, int], *, byte_level: bool) -> TokenBytes:
    pieces = [b""] * (max(vocabulary.values()) + 1)
    spell = _spell_byte_level if byte_level else _spell_sentencepiece
    for token, number in vocabulary.items():
        pieces[number] = spell(token)
    for token, number in added.items():
        pieces[number] = token.encode()
    starts = np.zeros(len(pieces) + 1, dtype=np.int64)
    np.cumsum([len(piece) for piece in pieces], out=starts[1:])
    return TokenBytes(np.frombuffer(b"".join(pieces), dtype=np.uint8), starts)


_BYTES = {ord(character): byte for byte, character in byte_alphabet().items()}


def _spell_byte_level(token: str) -> bytes:
    if all(ord(character) in _BYTES for character in token):
        return bytes(_BYTES[ord(character)] for character in token)
    return token.encode()


def _spell_sentencepiece(token: str) -> bytes:
    if re.fullmatch(r"<0x[0-9A-F]{2}>", token):
        return bytes([int(token[3:5], 16)])
    return token.replace("▁", " ").encode()
