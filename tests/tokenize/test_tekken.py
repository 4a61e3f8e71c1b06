"""Tekken files: the ids of tiktoken's rule, written out here; and those of Mistral's own library on the real data."""

import base64
import json
import random
from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from sft_data.build import build
from sft_data.errors import TokenizerError
from sft_data.pipeline import parse_pipeline
from sft_data.report.choices import token_choices
from sft_data.stage import Outcome, run_stage
from sft_data.store.manifest import TokenizerEntry
from sft_data.store.read import load_manifest
from sft_data.tokenize.engine import HOSTILE
from sft_data.tokenize.stage import Tokenize, describe
from sft_data.tokenize.tekken import tokenizer_json
from tests.frames import chat, conversations, needs_shared, talk, turn
from tests.tokenize.makers import CALLING, byte_tokenizer
from tests.tokenize.reading import proofs, trained_texts
from tests.tokenize.test_real_data import alpaca, answers, chinese, dialogues, tool_calls, weighted

PATTERN = r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
RESERVED = 24


def tekken(seed: int = 0, merges: int = 120) -> dict[str, Any]:
    """A small tekken file: all bytes, then tokens joined of two that came before, as training would make them."""
    draw = random.Random(seed)
    words = [word.encode() for word in (" the", " hello", "wor", "ld", "你好", "了", "ing", " a", "ab", "aba", "\n\n")]
    tokens = [bytes([byte]) for byte in range(256)]
    while len(tokens) < 256 + merges:
        word = draw.choice(words) * draw.choice((1, 1, 2))
        cut = sorted(draw.sample(range(len(word) + 1), 2))
        part = word[cut[0] : cut[1]]
        if part not in tokens and any(part[:n] in tokens and part[n:] in tokens for n in range(1, len(part))):
            tokens.append(part)
        elif draw.random() < 0.01:
            break
    listed = [{"rank": n, "token_bytes": base64.b64encode(t).decode(), "token_str": None} for n, t in enumerate(tokens)]
    config = {"pattern": PATTERN, "default_vocab_size": len(tokens) + RESERVED, "default_num_special_tokens": RESERVED}
    return {"config": config, "vocab": [*listed, {"rank": 9999, "token_bytes": "enp6eg==", "token_str": "unused"}]}


def by_the_rule(data: dict[str, Any], text: str) -> list[int]:
    """Tiktoken's rule: of all neighbours, join the leftmost pair whose token stands first in the list."""
    room = data["config"]["default_vocab_size"] - RESERVED
    rank = {base64.b64decode(entry["token_bytes"]): n for n, entry in enumerate(data["vocab"][:room])}
    found: list[int] = []
    for word in regex.findall(PATTERN, text):
        parts = [bytes([byte]) for byte in word.encode()]
        if word.encode() in rank:
            parts = [word.encode()]
        while True:
            pairs = [(rank[a + b], n) for n, (a, b) in enumerate(pairwise(parts)) if a + b in rank]
            if not pairs:
                break
            _, at = min(pairs)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        found += [RESERVED + rank[part] for part in parts]
    return found


SMALL = tekken()
ENGINE = Tokenizer.from_str(tokenizer_json(json.dumps(SMALL).encode()).decode())


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([" the", " hello", "world", "你好", "了", "ing", " a", "abab", "\n\n", "é", "1"])).map(
        "".join
    )
)
def test_ids_are_those_of_the_rule(text: str):
    assert ENGINE.encode(text, add_special_tokens=False).ids == by_the_rule(SMALL, text)


@pytest.mark.parametrize("text", [text for text in HOSTILE if not regex.search(r"<s>|<unk>|\[/?INST\]", text)])
def test_hostile_texts_have_the_ids_of_the_rule_and_come_back(text: str):
    ids = ENGINE.encode(text, add_special_tokens=False).ids
    assert ids == by_the_rule(SMALL, text)
    assert ENGINE.decode(ids, skip_special_tokens=False) == text


@pytest.fixture
def folder(tmp_path: Path) -> str:
    (tmp_path / "tekken.json").write_text(json.dumps(SMALL))
    return str(tmp_path)


def converted(folder: str, place: Path) -> str:
    """The same tokenizer as a folder that the reference can open."""
    place.mkdir()
    (place / "tokenizer.json").write_bytes(tokenizer_json((Path(folder) / "tekken.json").read_bytes()))
    return str(place)


def test_folder_with_a_tekken_file_alone_tokenizes_with_its_template(folder: str, tmp_path: Path):
    said = "hello [INST] the </s> 你好"
    row = talk("a", turn("system", "S"), turn("user", said), turn("assistant", "hello world"))
    outcome = run_stage(Tokenize(tokenizer=folder), conversations(row))
    [ids] = outcome.tables["tokens"]["input_ids"].to_list()
    reader = converted(folder, tmp_path / "c")
    assert trained_texts(reader, outcome) == [["hello world</s>"]]
    assert (ids[0], ids.count(1), ids.count(2), ids.count(3)) == (1, 1, 1, 1)  # <s>, </s>, [INST]: the template's own
    told: TokenizerEntry = describe(Tokenize(tokenizer=folder))
    assert (told.vocab_size, told.pad_token_id, told.stop_token_ids) == (SMALL["config"]["default_vocab_size"], 11, [2])


def test_report_names_the_template_that_a_bare_tekken_folder_is_written_with(folder: str, tmp_path: Path):
    lines = [{"instruction": f"hello {n}", "output": "the world"} for n in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    told = {}
    for name, tokenizer in {"bare": folder, "own": byte_tokenizer(tmp_path / "own", CALLING)}.items():
        raw = {
            "name": name,
            "sources": [{"name": "s", "path": str(tmp_path / "rows.jsonl"), "format": "alpaca"}],
            "tokenize": {"tokenizer": tokenizer, "max_length": 512},
        }
        built = build(parse_pipeline(raw, "pipeline"), tmp_path / "store")
        told[name] = token_choices(Path(built.path), load_manifest(Path(built.path)))[0].told
    assert told == {"bare": "mistral-tekken", "own": "the tokenizer's own"}


def test_tekken_file_that_names_its_control_tokens_has_them(tmp_path: Path):
    named = [
        {"rank": n, "token_str": text, "is_control": True} for n, text in enumerate(["<unk>", "<s>", "</s>", "[NEW]"])
    ]
    made = Tokenizer.from_str(tokenizer_json(json.dumps(SMALL | {"special_tokens": named}).encode()).decode())
    assert [made.token_to_id(text) for text in ("[NEW]", "<SPECIAL_4>", "[INST]")] == [3, 4, None]


@pytest.mark.parametrize("broken", [b"{", b"[]", b'{"config": {}}', b'{"config": 3, "vocab": []}'])
def test_file_that_is_no_tekken_file_is_an_error(broken: bytes):
    with pytest.raises(TokenizerError, match=r"tekken\.json cannot be read"):
        tokenizer_json(broken)


# Mistral's own file of 131,072 tokens, as it comes with its library.


@pytest.fixture(scope="module")
def mistral(tmp_path_factory: pytest.TempPathFactory) -> str:
    package = pytest.importorskip("mistral_common", reason="needs mistral-common, which brings a tekken file")
    place = tmp_path_factory.mktemp("tekken")
    data = Path(package.__file__).parent / "data" / "tekken_240911.json"
    (place / "tekken.json").symlink_to(data)
    return str(place)


@pytest.mark.slow
@needs_shared
def test_ids_of_real_dialogues_are_those_of_mistrals_library(mistral: str):
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer

    theirs = Tekkenizer.from_file(str(Path(mistral) / "tekken.json"))
    rows = [*islice(alpaca(), 0, None, 100), *islice(chinese(), 0, None, 100), chat("x", "".join(HOSTILE[:20]))]
    outcome = run_stage(Tokenize(tokenizer=mistral, max_length=2**20), conversations(*rows))
    assert outcome.rejected.height == 0
    for row, ids in zip(rows, outcome.tables["tokens"]["input_ids"].to_list(), strict=True):
        wanted = [1]
        for m in row["messages"]:
            said = theirs.encode(m["content"], bos=False, eos=False)
            wanted += [3, *said, 4] if m["role"] == "user" else [*said, 2]
        assert ids == wanted, row["id"]


@pytest.mark.slow
@needs_shared
@pytest.mark.parametrize("read", [alpaca, chinese, tool_calls, dialogues, weighted])
def test_every_supervised_turn_of_the_real_data_is_proved(
    mistral: str, tmp_path: Path, read: Callable[[], Iterator[dict[str, Any]]]
):
    rows = list(read())
    outcome: Outcome = run_stage(Tokenize(tokenizer=mistral, max_length=2**20), conversations(*rows))
    assert set(outcome.rejected["code"]) <= {"nothing-to-train"}
    assert all(proof.startswith("marks+") for proof in proofs(outcome))
    kept = set(outcome.kept["id"])
    reader = converted(mistral, tmp_path / "c")
    for row, learnt in zip([row for row in rows if row["id"] in kept], trained_texts(reader, outcome), strict=True):
        if read is tool_calls:
            assert len(learnt) == sum(m["role"] == "assistant" for m in row["messages"]), row["id"]
        else:
            assert learnt == [answer + "</s>" for answer in answers(row)], row["id"]
