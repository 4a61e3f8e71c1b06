"""The hash of a row's content: the same as the standard library's over the same JSON, for any row."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import polars as pl
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from sft_data.schema import CONVERSATIONS, MESSAGE, content_hash
from sft_data.words import holds, needs_escape

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    ["", "\x00", '"\\/\x1f\x7f', "x" * 300]
)
MAYBE = st.none() | TEXT
WEIGHT = st.none() | st.sampled_from([0.0, 1.0, 0.5])
TURN = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant"]), "content": TEXT}
    | dict.fromkeys(["reasoning", "tool_calls", "tool_call_id", "name"], MAYBE)
    | {"weight": WEIGHT}
)
ROW = st.fixed_dictionaries({"messages": st.lists(TURN, max_size=4), "tools": MAYBE})


def expected(row: dict) -> str:
    messages = [{field.name: turn[field.name] for field in MESSAGE.fields} for turn in row["messages"]]
    text = json.dumps({"messages": messages, "tools": row["tools"]}, ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def frame_of(rows: list[dict]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema={"messages": CONVERSATIONS["messages"], "tools": pl.String})


@settings(deadline=None)  # the first call compiles
@given(st.lists(ROW, max_size=6))
def test_any_row_is_hashed_as_the_json_of_the_standard_library(rows):
    assert content_hash(frame_of(rows)).to_list() == [expected(row) for row in rows]


@settings(deadline=None)
@given(st.lists(ROW, min_size=3, max_size=6))
def test_a_slice_of_a_frame_has_the_hashes_of_its_rows(rows):
    frame = frame_of(rows)
    assert content_hash(frame[1:-1]).to_list() == content_hash(frame).to_list()[1:-1]
    assert content_hash(frame[::2]).to_list() == content_hash(frame).to_list()[::2]


def test_texts_around_the_length_of_a_block_are_padded_right():
    """BLAKE2b takes blocks of 128 bytes: every length around their borders."""
    rows = [{"messages": [turn("x" * n)], "tools": None} for n in [*range(300), 5_000, 70_000, 200_000]]
    assert content_hash(frame_of(rows)).to_list() == [expected(row) for row in rows]


def test_rows_without_turns_and_frames_without_rows():
    assert content_hash(frame_of([])).to_list() == []
    assert content_hash(frame_of([{"messages": [], "tools": "[]"}])).to_list() == [
        expected({"messages": [], "tools": "[]"})
    ]


def turn(content: str) -> dict:
    return dict.fromkeys(field.name for field in MESSAGE.fields) | {"role": "user", "content": content}


@settings(deadline=None)
@given(st.binary(min_size=8, max_size=8))
def test_eight_bytes_at_once_are_judged_as_one_by_one(data):
    word = np.frombuffer(data, "<u8")[0]
    assert bool(needs_escape(word)) == any(byte < 32 or byte in b'"\\' for byte in data)
    assert bool(holds(word, np.uint64(0x0101010101010101 * 34))) == (b'"' in data)


def test_arrow_arrays_that_begin_inside_of_their_memory():
    frame = frame_of(
        [{"messages": [turn(str(i)), turn("é" * i)], "tools": str(i) if i % 2 else None} for i in range(9)]
    )
    middle = pl.DataFrame(pa.table(frame.to_arrow()).slice(3, 4))
    assert content_hash(middle).to_list() == content_hash(frame).to_list()[3:7]
