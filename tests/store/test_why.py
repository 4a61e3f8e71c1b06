from __future__ import annotations

import polars as pl
import pytest

from sft_data.errors import StoreError
from sft_data.store.layout import arrow_batches
from sft_data.store.why import why
from tests.store.versions import HOSTILE, published, row_id


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("why")
    return published(home / "store", home / "cells").folder


def told(story):
    """Stage and what of every event."""
    return [(event.stage, event.what) for event in story.events]


def test_why_kept_row_tells_every_step_in_order(folder):
    story = why(folder, row_id(2))
    assert story.fate == "kept: train"
    assert told(story) == [
        ("read:s", "read"),
        ("01:repair-text", "passed"),
        ("02:exact-dedup", "passed"),
        ("03:near-dedup", "passed"),
        ("04:detect-language", "passed"),
        ("05:answer-length", "passed"),
        ("split", "passed"),
        ("tokenize", "tokenized"),
        ("pack", "packed"),
    ]
    assert story.events[0].more == {"source": "s", "file": "a.json", "row": 2}
    assert story.events[4].detail == "language en with score 0.99"


def test_why_kept_row_points_at_its_very_tokens(folder):
    place = why(folder, row_id(2)).events[-2].more
    row = pl.concat(list(arrow_batches(folder / place["shard"]))).row(place["row"], named=True)
    assert len(row["input_ids"]) == place["tokens"]
    [[turn, start, end]] = place["spans"]
    assert turn == 1
    answer = bytes(token - 10 for token in row["labels"][start : end - 1])
    assert answer.decode() == "Red, green and blue are three colours."


def test_why_kept_row_points_at_its_pack(folder):
    place = why(folder, row_id(9)).events[-1].more
    index = pl.read_parquet(folder / "pack_index/validation/00000.parquet")
    assert place["split"] == "validation"
    assert index.filter(pl.col("pack") == place["pack"], pl.col("position") == place["position"])["row"].to_list() == [
        1
    ]


def test_why_edited_row_tells_before_and_after(folder):
    edited = why(folder, row_id(0)).events[1]
    assert (edited.what, edited.code, edited.detail) == ("edited", "mojibake", "2×: FranÃ§e -> France")
    assert edited.meaning == "Text decoded with a wrong encoding was mended."


def test_why_row_that_displaced_others_names_them(folder):
    event = why(folder, row_id(7)).events[3]
    assert (event.stage, event.what, event.more["rows"]) == ("03:near-dedup", "kept instead of others", [row_id(6)])


def test_why_duplicate_shows_its_twin_beside_it(folder):
    story = why(folder, row_id(6))
    assert story.fate == "rejected: near-duplicate"
    assert told(story)[-1] == ("03:near-dedup", "rejected")
    last = story.events[-1]
    assert last.detail == "duplicate of s:a.json:7 (0.81 >= 0.80)"
    assert last.meaning == "Its words are nearly those of an earlier row."
    assert last.more["twin"] == row_id(7)
    assert last.more["score"] == pytest.approx(0.81)
    assert last.more["twin_text"] == ("user: What is water?\nassistant: Water is a liquid made of hydrogen and oxygen.")


def test_why_short_answer_tells_measured_value_and_limit(folder):
    story = why(folder, row_id(8))
    assert (story.events[-1].code, story.events[-1].detail) == ("answer-too-short", "3 < 20 characters")
    assert story.text == f"user: {HOSTILE}\nassistant: No."


def test_why_broken_row_tells_its_place_in_the_file(folder):
    story = why(folder, row_id(11))
    assert told(story) == [("read:s", "read"), ("read:s", "rejected")]
    assert story.events[0].detail == "source s, file a.json, row 11, line 12, byte 999"
    assert story.text == '{"instruction": "bro'


@pytest.mark.parametrize(
    ("row", "near"),
    [
        ("s:a.json:99", r"s:a\.json has rows 0 to 11"),
        ("s:a.jsn:1", r"such as s:a\.json:0"),
        ("nonsense", "an id is SOURCE:FILE:ROW"),
    ],
)
def test_why_unknown_row_tells_what_ids_there_are(folder, row, near):
    with pytest.raises(StoreError, match=near):
        why(folder, row)
