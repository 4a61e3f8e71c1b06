from __future__ import annotations

import io
import shutil
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from sft_data.screens import print_diff
from sft_data.store.diff import diff
from sft_data.store.read import load_manifest, resolve
from tests.store.versions import published, reseal, rewrite_parquet, row_id


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """v1, and v2 with another answer in row 2."""
    home = tmp_path_factory.mktemp("diff")
    published(home / "store", home / "a")
    published(home / "store", home / "b", answers={2: "Blue, red and green are colours."})
    return home / "store"


@pytest.fixture
def pair(store, tmp_path):
    """The first version and a copy of it to change."""
    shutil.copytree(store / "small/v1", tmp_path / "v1")
    return store / "small/v1", tmp_path / "v1"


def change(folder, path, how):
    rewrite_parquet(folder / path, how(pl.read_parquet(folder / path)))


def test_diff_with_itself_is_empty(store):
    found = diff(resolve(store, "small@v1"), resolve(store, "small@v1"))
    assert found.same
    assert [found.added.count, found.removed.count, found.changed.count, found.moved.count, found.redecided.count] == [
        0
    ] * 5
    assert found.settings == []


def test_diff_changed_answer_shows_both_texts(store):
    found = diff(resolve(store, "small@v1"), resolve(store, "small@v2"))
    assert (found.a, found.b, found.same) == ("small@v1", "small@v2", False)
    assert found.changed.count == 1
    [row] = found.changed.examples
    assert (row.id, row.old) == (
        row_id(2),
        "user: Name three colours.\nassistant: Red, green and blue are three colours.",
    )
    assert row.new == "user: Name three colours.\nassistant: Blue, red and green are colours."
    tokens = {amount.name: (amount.old, amount.new) for amount in found.distributions["tokens by split"]}
    assert tokens == {"train": (409, 403), "validation": (93, 93)}


def test_diff_rows_read_by_one_version_only_are_added_and_removed(pair):
    old, new = pair
    change(new, "conversations/train/00000.parquet", lambda f: f.with_columns(id=f["id"].str.replace(":0$", ":100")))
    found = diff(old, new)
    assert [row.id for row in found.added.examples] == ["s:a.json:100"]
    assert [row.id for row in found.removed.examples] == ["s:a.json:0"]
    assert (found.added.count, found.removed.count, found.redecided.count) == (1, 1, 0)


def test_diff_row_in_another_split_is_moved(pair):
    old, new = pair
    change(new, "conversations/validation/00000.parquet", lambda f: f.with_columns(split=pl.lit("test")))
    found = diff(old, new)
    assert found.moved.count == 2
    assert (found.moved.examples[0].old, found.moved.examples[0].new) == ("validation", "test")


def test_diff_row_kept_before_and_rejected_now_tells_the_reason(pair):
    old, new = pair
    rows = pl.read_parquet(new / "conversations/train/00000.parquet")
    change(new, "conversations/train/00000.parquet", lambda f: f.slice(1))
    change(
        new,
        "rejections/00000.parquet",
        lambda f: pl.concat([f, f.tail(1).with_columns(id=rows["id"].head(1), detail=pl.lit("31 < 40 characters"))]),
    )
    found = diff(old, new)
    assert found.redecided.count == 1
    assert found.redecided.examples[0].model_dump() == {
        "id": row_id(0), "old": "kept", "new": "answer-too-short (31 < 40 characters)",
    }  # fmt: skip
    assert found.redecisions == {"kept -> answer-length: answer-too-short": 1}
    assert found.removed.count == 0


def test_diff_rejected_for_another_reason_is_redecided(pair):
    old, new = pair
    change(
        new,
        "rejections/00000.parquet",
        lambda f: f.with_columns(code=f["code"].replace("near-duplicate", "answer-too-short")),
    )
    found = diff(old, new)
    assert found.redecided.examples[0].old == "near-duplicate (0.81 >= 0.80)"
    assert found.redecisions == {"near-dedup: near-duplicate -> near-dedup: answer-too-short": 1}


def test_diff_settings_are_named_by_dotted_keys(pair):
    old, new = pair
    pipeline = load_manifest(new).pipeline
    stages = [{"kind": "near-dedup", "threshold": 0.8}, {"kind": "answer-length", "min_chars": 40}]
    reseal(new, pipeline={**pipeline, "stages": stages, "seed": 18})
    assert [s.model_dump() for s in diff(old, new).settings] == [
        {"key": "seed", "old": 17, "new": 18},
        {"key": "stages.answer-length.min_chars", "old": 20, "new": 40},
        {"key": "stages.near-dedup.kind", "old": None, "new": "near-dedup"},
        {"key": "stages.near-dedup.threshold", "old": None, "new": 0.8},
    ]


def test_diff_changed_input_file_is_told_by_its_hash(pair):
    old, new = pair
    inputs = [file.model_copy(update={"sha256": "e" * 64}) for file in load_manifest(new).inputs]
    reseal(new, inputs=inputs)
    [told] = diff(old, new).inputs
    assert (told.key, told.old, told.new) == ("s:a.json", "a" * 64, "e" * 64)


def test_diff_gives_as_many_examples_as_asked_for_and_counts_all(pair):
    old, new = pair
    change(new, "conversations/train/00000.parquet", lambda f: f.with_columns(split=pl.lit("test")))
    found = diff(old, new, examples=2)
    assert (found.moved.count, len(found.moved.examples)) == (6, 2)


def test_diff_of_long_texts_shows_where_they_part(pair):
    old, new = shutil.copytree(pair[0], pair[1].parent / "old"), pair[1]

    def longer(folder: Path, end: str) -> None:
        said = pl.element().struct.with_fields(content=pl.field("content") + "x" * 1000 + end)
        change(
            folder, "conversations/train/00000.parquet", lambda f: f.with_columns(pl.col("messages").list.eval(said))
        )

    longer(old, "old")
    longer(new, "new")
    change(new, "conversations/train/00000.parquet", lambda f: f.with_columns(content_hash=pl.lit("other")))
    row = diff(old, new).changed.examples[0]
    assert row.old is not None
    assert row.new is not None
    assert row.old.startswith("(956 characters as before) … " + "x" * 80 + "old")
    assert row.new.startswith("(956 characters as before) … " + "x" * 80 + "new")


def test_diff_for_people_tells_reasons_texts_and_whole_sources_in_one_line(pair):
    old, new = shutil.copytree(pair[0], pair[1].parent / "old"), pair[1]
    change(new, "conversations/train/00000.parquet", lambda f: f.with_columns(content_hash=pl.lit("other")))
    change(old, "rejections/00000.parquet", lambda f: f.with_columns(code=f["code"].replace("near-duplicate", "near")))
    more = {"sources": [{"name": "s", "path": "a.json"}, {"name": "t", "path": "b.json", "seed": 3}]}
    reseal(new, pipeline={**load_manifest(new).pipeline, **more})
    console = Console(width=100, record=True, file=io.StringIO())
    print_diff(console, diff(old, new))
    told = console.export_text()
    assert "near-dedup: near " in told
    assert "sources.t" in told
    assert "there: b.json" in told
    assert "sources.t.seed" not in told
    assert "kept in both, with another text" in told
