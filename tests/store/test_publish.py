from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path

import pytest

from sft_data.errors import StoreError
from sft_data.store import publish as publishing
from sft_data.store.log import read_log
from sft_data.store.read import load_manifest, resolve, version_folders, versions
from sft_data.store.refs import read_refs
from tests.store.versions import ingredients, published


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_publish_first_version_becomes_latest_and_holds_every_file(tmp_path):
    made = published(tmp_path / "store", tmp_path / "cells")
    assert (made.version, made.reused) == ("small@v1", False)
    assert resolve(tmp_path / "store", "small").number == 1
    listed = {entry.path for entry in load_manifest(made.folder).files}
    assert listed == set(tree(made.folder)) - {"manifest.json", "build.json"}
    assert {"report.json", "report.html", "conversations/train/00000.parquet"} <= listed


def test_publish_counts_rows_of_tables(tmp_path):
    rows = {e.path: e.rows for e in load_manifest(published(tmp_path / "store", tmp_path / "cells").folder).files}
    assert rows["conversations/train/00000.parquet"] == 6
    assert rows["tokens/validation/data-00000-of-00001.arrow"] == 2
    assert rows["rejections/00000.parquet"] == 4
    assert rows["report.json"] is None


def test_publish_same_content_in_two_stores_gives_the_same_bytes(tmp_path):
    one, two = (tree(published(tmp_path / name, tmp_path / f"cells-{name}").folder) for name in ("one", "two"))
    one.pop("build.json"), two.pop("build.json")
    assert one == two


def test_publish_same_fingerprint_again_is_reused_and_writes_nothing(tmp_path):
    store = tmp_path / "store"
    published(store, tmp_path / "cells")
    before = tree(store)
    again = published(store, tmp_path / "more")
    assert (again.version, again.reused) == ("small@v1", True)
    assert tree(store) == before


def test_publish_other_content_takes_the_next_number(tmp_path):
    store = tmp_path / "store"
    published(store, tmp_path / "a")
    assert published(store, tmp_path / "b", salt="2").version == "small@v2"
    assert resolve(store, "small").number == 2


def test_publish_files_are_read_only_and_linked_to_their_cells(tmp_path):
    made = published(tmp_path / "store", tmp_path / "cells")
    path = made.folder / "conversations/train/00000.parquet"
    assert path.stat().st_ino == (tmp_path / "cells/rows-train.parquet").stat().st_ino
    assert all(p.stat().st_mode & 0o222 == 0 for p in made.folder.rglob("*") if p.is_file())


def test_publish_across_file_systems_copies(tmp_path, monkeypatch):
    def no_link(source, target):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_link)
    made = published(tmp_path / "store", tmp_path / "cells")
    path = made.folder / "conversations/train/00000.parquet"
    assert path.stat().st_ino != (tmp_path / "cells/rows-train.parquet").stat().st_ino
    assert path.read_bytes() == (tmp_path / "cells/rows-train.parquet").read_bytes()


def test_publish_draft_is_kept_aside_and_never_latest(tmp_path):
    store = tmp_path / "store"
    made = published(store, tmp_path / "cells", draft=True)
    assert made.number is None
    assert made.folder.name == f"draft-{load_manifest(made.folder).fingerprint[:12]}"
    assert (made.folder / "report.html").exists()
    with pytest.raises(StoreError, match="no latest version"):
        resolve(store, "small")
    assert published(store, tmp_path / "again", draft=True).reused
    assert resolve(store, made.version).folder == made.folder


def test_publish_draft_whose_gate_was_lifted_becomes_a_version(tmp_path):
    store = tmp_path / "store"
    published(store, tmp_path / "cells", draft=True)
    assert published(store, tmp_path / "again").version == "small@v1"


def test_publish_late_does_not_take_latest_from_a_newer_version(tmp_path, monkeypatch):
    """The first publisher renames, stops; the second publishes; the first goes on: latest stays with the second."""
    store = tmp_path / "store"
    announce = publishing._announce

    def stopped(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(publishing, "_announce", stopped)
    with pytest.raises(KeyboardInterrupt):
        published(store, tmp_path / "a")
    monkeypatch.setattr(publishing, "_announce", announce)
    assert read_refs(store, "small").latest is None
    assert published(store, tmp_path / "b", salt="2").version == "small@v2"
    assert published(store, tmp_path / "a2").reused
    assert read_refs(store, "small").latest == 2


def test_publish_cut_short_after_the_rename_is_completed_by_the_next(tmp_path, monkeypatch):
    store = tmp_path / "store"
    announce = publishing._announce

    def stopped(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(publishing, "_announce", stopped)
    with pytest.raises(KeyboardInterrupt):
        published(store, tmp_path / "a")
    monkeypatch.setattr(publishing, "_announce", announce)
    again = published(store, tmp_path / "b")
    assert (again.number, again.reused) == (1, True)
    assert resolve(store, "small").number == 1
    assert [entry["what"] for entry in read_log(store)] == ["publish"]


def test_publish_failing_in_the_middle_leaves_no_trace(tmp_path, monkeypatch):
    store = tmp_path / "store"

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(publishing, "_flush", full)
    with pytest.raises(StoreError, match=r"No space left on device; the disk is full.*Nothing was published"):
        published(store, tmp_path / "cells")
    assert versions(store) == []
    assert [p for p in (store / "small").iterdir() if p.is_dir()] == []


def test_publish_into_an_unwritable_place_says_so(tmp_path):
    (tmp_path / "store").write_text("a file where the store should be")
    with pytest.raises(StoreError, match="cannot write"):
        published(tmp_path / "store", tmp_path / "cells")


def test_publish_takes_the_next_number_where_another_took_it_between(tmp_path):
    """Without a lock that holds, the rename decides."""
    store = tmp_path / "store"
    published(store, tmp_path / "a")
    staging = store / "small/.publish-x"
    staging.mkdir()
    (staging / "f").write_text("x")
    assert publishing._take_number(store, "small", staging).name == "v2"


def test_publish_name_that_leaves_the_store_is_refused(tmp_path):
    made = ingredients(tmp_path / "cells")
    for name in ("../evil", "a/b", "", ".hidden", "A B"):
        with pytest.raises(StoreError, match="cannot name a dataset"):
            publishing.publish(tmp_path / "store", made.manifest.model_copy(update={"name": name}), {}, {}, {})
    with pytest.raises(StoreError, match="not a path inside"):
        publishing.publish(tmp_path / "store", made.manifest, {}, {"../evil": "x"}, {})
    assert not (tmp_path / "evil").exists()


def test_publish_by_two_at_once_loses_none(tmp_path):
    race(tmp_path, rounds=5)


@pytest.mark.slow
def test_publish_by_two_at_once_loses_none_in_fifty_rounds(tmp_path):
    race(tmp_path, rounds=50)


def race(tmp_path: Path, rounds: int) -> None:
    store = tmp_path / "store"
    for number in range(rounds):
        made = [ingredients(tmp_path / f"{number}-{who}", salt=f"{number}-{who}") for who in "ab"]
        start = threading.Barrier(2)
        results = []

        def one(mine, start=start, results=results):
            start.wait()
            results.append(publishing.publish(store, mine.manifest, mine.files, mine.texts, {}))

        threads = [threading.Thread(target=one, args=(mine,)) for mine in made]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(r.number for r in results) == [2 * number + 1, 2 * number + 2]
        assert {load_manifest(r.folder).fingerprint for r in results} == {m.manifest.fingerprint for m in made}
        assert read_refs(store, "small").latest == 2 * number + 2
    assert list(version_folders(store, "small")) == list(range(1, 2 * rounds + 1))
    assert [e["number"] for e in read_log(store)] == list(range(1, 2 * rounds + 1))


def test_publish_same_content_by_two_at_once_gives_one_version(tmp_path):
    store = tmp_path / "store"
    made = [ingredients(tmp_path / who) for who in "ab"]
    results = []
    threads = [
        threading.Thread(target=lambda m=m: results.append(publishing.publish(store, m.manifest, m.files, m.texts, {})))
        for m in made
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [r.number for r in results] == [1, 1]
    assert list(version_folders(store, "small")) == [1]


def test_build_record_holds_what_the_builder_told_and_the_publication(tmp_path):
    record = json.loads((published(tmp_path / "store", tmp_path / "cells").folder / "build.json").read_text())
    assert record["created"] == "2026-11-22T18:00:00Z"
    assert record["published"].endswith("+00:00")
    assert "@" in record["published_by"]
