"""One small version, built from messages with the project's own build."""

import json
from pathlib import Path

import pytest

from sft_data.build import build
from sft_data.pipeline import parse_pipeline
from tests.tokenize.makers import CALLING, byte_tokenizer

WEATHER = {"name": "weather", "parameters": {"type": "object"}}
ROWS = [
    {
        "messages": [
            {"role": "user", "content": f"question {n}"},
            {"role": "assistant", "content": "the answer " * (n % 9 + 1)},
        ]
    }
    for n in range(40)
] + [
    {
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "hello 🎉"},
            {"role": "assistant", "content": "你好 <|im_end|>"},
            {"role": "user", "content": "again"},
            {"role": "assistant", "content": "hello"},
        ]
    },
    {
        "messages": [
            {"role": "user", "content": "weather what is it"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"where": "Bern"}}}],
            },
            {"role": "tool", "content": "rain"},
            {"role": "assistant", "content": "rain"},
        ],
    },
]


@pytest.fixture(scope="session")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("version"))


def made(folder: Path, **pack: object) -> Path:
    """The version of ROWS, packed by these settings."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS))
    pipeline = parse_pipeline(
        {
            "name": "small",
            "sources": [{"name": "s", "path": str(folder / "rows.jsonl"), "format": "messages"}],
            "split": {"validation": 0.1},
            "tokenize": {"tokenizer": byte_tokenizer(folder / "tokenizer", CALLING), "max_length": 128},
            "pack": {"max_length": 128, **pack},
        },
        "pipeline",
    )
    return Path(build(pipeline, folder / "store").path)
