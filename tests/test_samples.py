"""The table in samples/README.md against a real build, in both directions; the scripts against the files."""

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
import transformers

from sft_data.build import build
from sft_data.pipeline import load_pipeline
from tests.trees import ROOT

SAMPLES = ROOT / "samples"
Fate = tuple[str, str, str]  # kept, edited or rejected; the stage; its code
_LINE = re.compile(r"\| `(?P<row>[^`]+)` \| .+ \| (?P<fate>\w+) \| `?(?P<stage>[\w-]*)`? ?\| `?(?P<code>[\w-]*)`? ?\|")


def told() -> dict[str, Fate]:
    lines = map(_LINE.fullmatch, (SAMPLES / "README.md").read_text(encoding="utf-8").splitlines())
    return {line["row"]: (line["fate"], line["stage"], line["code"]) for line in lines if line}


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        result = build(load_pipeline(ROOT / "pipelines" / "quickstart.yaml"), tmp_path_factory.mktemp("store"))
    return Path(result.path)


def table(version: Path, name: str) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(path) for path in sorted((version / name).rglob("*.parquet"))])


def found(version: Path) -> dict[str, Fate]:
    """What became of every row of the build that was not simply kept."""
    fates: dict[str, Fate] = {}
    for row, stage, code in table(version, "edits").select("id", "stage", "code").rows():
        fates[row] = ("edited", stage, code)
    for row, stage, code in table(version, "rejections").select("id", "stage", "code").rows():
        fates[row] = ("rejected", stage, code)
    return fates


def test_samples_planted_rows_meet_their_fate(version: Path):
    fates = found(version)
    expected = told()
    assert {row: fates.get(row, ("kept", "", "")) for row in expected} == expected


def test_samples_sound_rows_are_kept_as_they_are(version: Path):
    assert sorted(set(found(version)) - set(told())) == []


def test_samples_rows_are_all_there(version: Path):
    kept, rejected = table(version, "conversations")["id"].to_list(), table(version, "rejections")["id"].to_list()
    sources = Counter(row.split(":")[0] for row in kept + rejected)
    assert len(set(kept + rejected)) == len(kept + rejected) == sources.total()
    assert 280 <= sources.total() <= 320
    assert set(sources) == {"alpaca", "alpaca-zh", "chats", "messages"}
    assert set(told()) <= set(kept + rejected)


def test_samples_show_every_kind_of_fault():
    kinds = {code for _, _, code in told().values()} | {fate for fate, _, _ in told().values()}
    assert kinds >= {
        "exact-duplicate", "near-duplicate", "answer-too-short", "unreadable-row", "wrong-role", "mojibake", "refusal",
        "too-long", "wrong-language", "kept",
    }  # fmt: skip


def test_samples_duplicates_name_the_row_kept_instead(version: Path):
    twins = table(version, "rejections").filter(pl.col("code").str.ends_with("-duplicate"))
    kept = set(table(version, "conversations")["id"])
    assert twins.height >= 10
    assert set(twins["twin"]) <= kept
    across = twins.filter(pl.col("id").str.split(":").list.get(1) != pl.col("twin").str.split(":").list.get(1))
    assert set(across["code"]) == {"exact-duplicate", "near-duplicate"}


def test_samples_control_strings_of_a_text_never_become_control_tokens(version: Path):
    """In each row there are as many end-of-turn tokens as turns, whatever the texts say."""
    from datasets import load_from_disk

    tokenizer = transformers.AutoTokenizer.from_pretrained(version / "tokenizer")
    turns = dict(table(version, "conversations").select("id", pl.col("messages").list.len()).rows())
    tools = set(table(version, "conversations").filter(pl.col("tools").is_not_null())["id"])
    typed = [
        row for row in told() if "control strings" in (SAMPLES / "README.md").read_text().split(row)[1].split("|")[1]
    ]
    checked = set()
    for split in ("train", "validation"):
        tokens = load_from_disk(version / "tokens" / split)
        for row, ids in zip(table(version / "sidecar", split)["id"], tokens["input_ids"], strict=True):
            assert list(ids).count(tokenizer.eos_token_id) == turns[row] + (row in tools)
            checked.add(row)
    assert len(typed) >= 4
    assert set(typed) <= checked


@pytest.mark.parametrize("script", ["make_samples.py", "make_tokenizer.py"])
def test_samples_made_again_are_the_same_bytes(script: str, tmp_path: Path):
    (tmp_path / "README.md").write_bytes((SAMPLES / "README.md").read_bytes())
    subprocess.run([sys.executable, SAMPLES / script, tmp_path], check=True)
    old = SAMPLES / "tokenizer" if script == "make_tokenizer.py" else SAMPLES
    made = [path for path in tmp_path.iterdir() if script == "make_samples.py" or path.name != "README.md"]
    assert len(made) == (5 if script == "make_samples.py" else 3)
    assert [path.name for path in made if path.read_bytes() != (old / path.name).read_bytes()] == []


def test_sample_tokenizer_loads_in_transformers_and_tells_stop_from_padding():
    tokenizer = transformers.AutoTokenizer.from_pretrained(SAMPLES / "tokenizer")
    assert len(tokenizer) == 2_000
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    for text in ("Plain text, naïve café.", "你好，世界！👍\n\t  x", "\x00\ufffd"):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_sample_template_renders_system_tools_calls_reasoning_and_marks_what_is_trained():
    tokenizer = transformers.AutoTokenizer.from_pretrained(SAMPLES / "tokenizer")
    call = {"type": "function", "function": {"name": "clock", "arguments": {"city": "Lima"}}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What time is it?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "12:00"},
        {"role": "assistant", "content": "Noon.", "reasoning_content": "The clock says 12."},
    ]
    tools = [{"type": "function", "function": {"name": "clock"}}]
    made = tokenizer.apply_chat_template(
        messages, tools=tools, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    head = "Be brief.\n\nTools, one per line:\n" + json.dumps(tools[0]) + "\nCall a tool by <tool_call>"
    calls = '<tool_call>{"name": "clock", "arguments": {"city": "Lima"}}</tool_call><|im_end|>'
    answer = "<think>\nThe clock says 12.\n</think>\nNoon.<|im_end|>"
    text = tokenizer.decode(made["input_ids"])
    assert text == (
        f'<|im_start|>system\n{head}{{"name": ..., "arguments": ...}}</tool_call>.<|im_end|>\n'
        "<|im_start|>user\nWhat time is it?<|im_end|>\n"
        f"<|im_start|>assistant\n{calls}\n"
        "<|im_start|>tool\n12:00<|im_end|>\n"
        f"<|im_start|>assistant\n{answer}\n"
    )
    pairs = zip(made["input_ids"], made["assistant_masks"], strict=True)
    assert tokenizer.decode([token for token, trained in pairs if trained]) == calls + answer
