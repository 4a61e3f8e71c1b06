from __future__ import annotations

import os
import time

import pytest

from sft_data.errors import StoreError
from sft_data.store.log import check_log, read_log
from sft_data.store.manage import gc, history, rollback, tag, untag
from sft_data.store.read import resolve
from sft_data.store.refs import read_refs
from sft_data.store.verify import verify
from tests.store.versions import published


@pytest.fixture
def store(tmp_path):
    """Two versions."""
    published(tmp_path / "store", tmp_path / "a")
    published(tmp_path / "store", tmp_path / "b", salt="2")
    return tmp_path / "store"


def age(path, days):
    """Make a folder and all in it older."""
    then = time.time() - days * 86_400
    for each in [*path.rglob("*"), path] if path.is_dir() else [path]:
        os.utime(each, (then, then))


def test_tag_names_a_version_and_moves(store):
    tag(store, "small@v1", "golden")
    assert resolve(store, "small@golden").number == 1
    tag(store, "small", "golden")
    assert resolve(store, "small@golden").number == 2
    untag(store, "small", "golden")
    with pytest.raises(StoreError, match="no version 'golden'"):
        resolve(store, "small@golden")


@pytest.mark.parametrize("name", ["latest", "v3", "draft-x", "abcd1234", "3rd", "a b", "", "../x"])
def test_tag_that_means_something_else_is_refused(store, name):
    with pytest.raises(StoreError, match="cannot be a tag"):
        tag(store, "small", name)


def test_untag_unknown_tag_or_dataset_tells_what_there_is(store):
    tag(store, "small", "golden")
    with pytest.raises(StoreError, match="no tag 'gold'; it has: golden"):
        untag(store, "small", "gold")
    with pytest.raises(StoreError, match="no dataset 'big'"):
        untag(store, "big", "golden")
    assert not (store / "big").exists()


def test_rollback_moves_latest_and_deletes_nothing(store):
    assert rollback(store, "small@v1").number == 1
    assert resolve(store, "small").number == 1
    assert resolve(store, "small@v2").number == 2


def test_publish_after_rollback_takes_the_next_number_and_becomes_latest(store, tmp_path):
    rollback(store, "small@v1")
    assert published(store, tmp_path / "c", salt="3").version == "small@v3"
    assert resolve(store, "small").number == 3


def test_publish_of_a_known_version_after_rollback_leaves_latest_alone(store, tmp_path):
    rollback(store, "small@v1")
    assert published(store, tmp_path / "c", salt="2").version == "small@v2"
    assert resolve(store, "small").number == 1


def test_log_tells_what_was_done(store):
    tag(store, "small@v1", "golden")
    rollback(store, "small@v1")
    untag(store, "small", "golden")
    told = [(e["what"], e.get("number"), e.get("tag")) for e in read_log(store)]
    assert told == [
        ("publish", 1, None), ("publish", 2, None), ("tag", 1, "golden"), ("rollback", 1, None),
        ("untag", None, "golden"),
    ]  # fmt: skip
    assert check_log(store) == []


def test_drafts_take_no_tag_and_are_never_latest(store, tmp_path):
    draft = published(store, tmp_path / "c", salt="3", draft=True)
    with pytest.raises(StoreError, match="only published versions"):
        tag(store, draft.version, "golden")
    with pytest.raises(StoreError, match="is a draft"):
        rollback(store, draft.version)


def garbage(store, tmp_path):
    """An abandoned publish, an old draft and a young one, a cell of a version and one of nobody."""
    abandoned = store / "small/.publish-0123"
    (abandoned / "conversations").mkdir(parents=True)
    (abandoned / "conversations/x.parquet").write_bytes(b"x" * 100)
    old = published(store, tmp_path / "c", salt="3", draft=True).folder
    published(store, tmp_path / "d", salt="4", draft=True)
    free = store / ".cache/cells/ab/abcd"
    free.mkdir(parents=True)
    (free / "rows.parquet").write_bytes(b"y" * 50)
    held = store / ".cache/cells/cd/cdef"
    held.mkdir(parents=True)
    os.link(store / "small/v1/rejections/00000.parquet", held / "rejected.parquet")
    steps = store / ".cache/steps"
    steps.mkdir()
    (steps / "one.json").write_text('{"cells": ["abcd"]}')
    (steps / "two.json").write_text('{"cells": ["cdef"]}')
    for path, days in ((abandoned, 1), (old, 40), (free, 40), (held, 40)):
        age(path, days)
    return abandoned, old, free, held


def test_gc_dry_run_tells_and_touches_nothing(store, tmp_path):
    abandoned, old, free, held = garbage(store, tmp_path)
    found = gc(store, cache_days=30)
    assert not found.removed
    assert found.abandoned == ["small/.publish-0123"]
    assert found.drafts == [f"small/{old.name}"]
    assert found.cells == [".cache/cells/ab/abcd"]
    assert found.bytes >= 150
    assert all(path.exists() for path in (abandoned, old, free, held))


def test_gc_removes_what_it_told_and_keeps_every_version_whole(store, tmp_path):
    abandoned, old, free, held = garbage(store, tmp_path)
    tag(store, "small@v1", "golden")
    told = gc(store, cache_days=30)
    done = gc(store, remove=True, cache_days=30)
    assert done.model_copy(update={"removed": False}) == told
    assert [path.exists() for path in (abandoned, old, free, held)] == [False, False, False, True]
    assert [p.name for p in sorted((store / ".cache/steps").iterdir())] == ["two.json"]
    for number in (1, 2):
        assert verify(store / f"small/v{number}").ok
    assert len(list((store / "small").glob("draft-*"))) == 1
    assert gc(store, cache_days=30).bytes == 0


def test_gc_leaves_cells_alone_unless_asked(store, tmp_path):
    garbage(store, tmp_path)
    assert gc(store).cells == []


def test_gc_leaves_a_publish_in_progress_alone(store):
    (store / "small/.publish-now").mkdir()
    assert gc(store, remove=True).abandoned == []
    assert (store / "small/.publish-now").exists()


def test_gc_of_a_store_that_is_not_there_finds_nothing(tmp_path):
    assert gc(tmp_path / "nowhere", remove=True).bytes == 0


def test_rollback_keeps_the_references_whole_for_a_reader(store):
    before = read_refs(store, "small")
    rollback(store, "small@v1")
    assert read_refs(store, "small").newest == before.newest == 2
    assert sorted(p.name for p in (store / "small").iterdir()) == [".lock", "refs.json", "v1", "v2"]


def test_history_tells_of_one_dataset_and_that_an_entry_was_changed(store):
    tag(store, "small@v1", "golden")
    found = history(store, "small")
    assert found.ok
    assert [entry["what"] for entry in found.entries][-1] == "tag"
    log = store / "log.jsonl"
    log.write_bytes(log.read_bytes().replace(b'"number":1', b'"number":3', 1))
    changed = history(store)
    assert not changed.ok
    assert "log.jsonl line 2" in changed.problems[0]
    with pytest.raises(StoreError, match="did you mean 'small'"):
        history(store, "smal")


def test_log_for_people_names_every_deed_in_words(store, sft):
    tag(store, "small@v1", "golden")
    rollback(store, "small@v1")
    untag(store, "small", "golden")
    told = sft("log", "--store", store).out
    for line in ("golden -> small@v1", "latest -> small@v1 (was v2)", "small@golden (was v1)"):
        assert line in told
    assert sft("log", "--store", store / "elsewhere").code == 1


def test_gc_for_people_names_what_it_found(store, sft):
    piece = store / "small" / ".publish-0123456789ab"
    piece.mkdir()
    (piece / "half").write_bytes(b"half")
    os.utime(piece, (0, 0))
    os.utime(piece / "half", (0, 0))
    told = sft("gc", "--store", store).out
    assert "small/.publish-0123456789ab" in told
    assert "4 bytes would be freed" in told
    assert "freed" in sft("gc", "--remove", "--store", store).out
    assert "nothing to remove" in sft("gc", "--store", store).out


def test_what_stands_there_already_is_not_written_again(store):
    tag(store, "small@v1", "golden")
    entries = read_log(store)
    assert rollback(store, "small@v2").version == "small@v2"
    assert tag(store, "small@golden", "golden").version == "small@v1"
    assert read_log(store) == entries
    tag(store, "small@v2", "golden")
    assert read_log(store)[-1]["was"] == 1
