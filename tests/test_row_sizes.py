"""Bytes of rows, and where files are cut by them."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_data import assemble
from sft_data.build import BuildResult, build
from sft_data.engine import LocalEngine
from sft_data.pipeline import parse_pipeline
from sft_data.row_sizes import cuts, row_bytes
from sft_data.steps import Piece
from sft_data.store.verify import verify
from tests.trees import ROOT, hashes


def counted(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, dict):
        return sum(map(counted, value.values()))
    if isinstance(value, list):
        return sum(map(counted, value))
    return 0 if value is None else 8


TEXT = st.none() | st.text(max_size=9)
TURN = st.none() | st.fixed_dictionaries({"role": TEXT, "weight": st.none() | st.floats(0, 1, width=32)})
ROW = st.fixed_dictionaries(
    {
        "id": TEXT,
        "turns": st.none() | st.lists(TURN, max_size=3),
        "spans": st.none() | st.lists(st.integers(0, 9), max_size=3),
        "flag": st.none() | st.booleans(),
        "deep": st.none() | st.lists(st.none() | st.lists(TEXT, max_size=2), max_size=2),
    }
)
SCHEMA = pl.Schema(
    {
        "id": pl.String(),
        "turns": pl.List(pl.Struct({"role": pl.String(), "weight": pl.Float32()})),
        "spans": pl.List(pl.Int32()),
        "flag": pl.Boolean(),
        "deep": pl.List(pl.List(pl.String())),
    }
)


@given(st.lists(ROW, max_size=6))
def test_bytes_of_any_row_are_those_of_its_texts_and_numbers(rows: list[dict[str, Any]]):
    frame = pl.DataFrame(rows, schema=SCHEMA)
    assert row_bytes(frame).to_list() == [counted(row) for row in frame.to_dicts()]


@given(st.lists(st.integers(0, 12), max_size=40), st.integers(1, 6), st.integers(0, 20))
def test_files_hold_what_they_may_and_no_file_could_hold_one_row_more(sizes: list[int], rows: int, size: int):
    found = cuts(np.array(sizes, np.int64), rows, size)
    assert (found[0], found[-1]) == (0, len(sizes))
    for start, stop in pairwise(found):
        assert start < stop <= start + rows
        assert sum(sizes[start:stop]) <= size or stop == start + 1
        if stop < len(sizes) and stop < start + rows:
            assert sum(sizes[start : stop + 1]) > size


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 conversations: most short, every ninth of some kilobytes, one of 40; every seventh has no answer."""
    path = tmp_path_factory.mktemp("long") / "long.jsonl"
    with path.open("w") as stream:
        for n in range(300):
            words = 9_000 if n == 150 else 900 + n if n % 9 == 0 else 5
            answer = "" if n % 7 == 0 else f"{n}: " + "word " * (words // 4)
            row = {"instruction": f"Say it {n} times. " + "Please. " * (words // 2), "input": "", "output": answer}
            stream.write(json.dumps(row) + "\n")
    return path


def built(source: Path, store: Path, workers: int = 1, shard_rows: int = 8192) -> BuildResult:
    settings = {
        "name": "long",
        "sources": [{"name": "s", "path": str(source), "format": "alpaca"}],
        "stages": [{"kind": "answer-length", "min_chars": 2}, {"kind": "turns"}],
        "split": {"validation": 0.2, "test": 0.0},
        "tokenize": {"tokenizer": str(ROOT / "samples" / "tokenizer"), "max_length": 2**17},
    }
    pipeline = parse_pipeline(settings, "long")
    return build(pipeline, store, engine=LocalEngine(workers=workers), shard_rows=shard_rows)


LIMIT = 20_000


def test_version_is_cut_by_bytes_too_and_the_cut_follows_from_the_rows_alone(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = built(source, tmp_path / "whole")
    monkeypatch.setattr(assemble, "FILE_BYTES", LIMIT)
    ways = {(1, 8192): tmp_path / "a", (2, 61): tmp_path / "b"}
    cut = [built(source, store, *how) for how, store in ways.items()]
    assert hashes(Path(cut[0].path)) == hashes(Path(cut[1].path))
    assert verify(Path(cut[0].path)).problems == []
    for folder in ("conversations/train", "conversations/validation", "rejections"):
        files = sorted(Path(cut[0].path).glob(f"{folder}/*.parquet"))
        frames = [pl.read_parquet(path) for path in files]
        assert len(files) > 1
        for frame in frames:
            assert int(row_bytes(frame).sum()) <= LIMIT or frame.height == 1
        before = pl.concat([pl.read_parquet(path) for path in sorted(Path(whole.path).glob(f"{folder}/*.parquet"))])
        assert pl.concat(frames).equals(before)
    assert sum(int(row_bytes(pl.read_parquet(p)).sum()) > LIMIT for p in Path(cut[0].path).rglob("*.parquet")) <= 2


@pytest.mark.parametrize("split", [None, "validation"])
def test_rows_taken_out_of_a_shard_hold_on_to_no_other_row(tmp_path: Path, split: str | None):
    texts = [f"{n} " * 3000 for n in range(100)]
    shard = pl.DataFrame({"text": texts, "split": ["validation" if n in {41, 77} else "train" for n in range(100)]})
    shard.write_parquet(tmp_path / "rows.parquet")
    piece = Piece(tmp_path / "rows.parquet", 1 if split else 77, 1, tmp_path / "rows.parquet" if split else None, split)
    frame = piece.frame()
    assert frame["text"].to_list() == [texts[77]]
    column = frame["text"].to_arrow(compat_level=pl.CompatLevel.newest())
    assert sum(buffer.size for buffer in column.buffers() if buffer) < 3 * len(texts[77])
