"""A publish that dies at any of its steps, and disks that are full or cannot be written."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from sft_data.errors import StoreError
from sft_data.store import manage, publish
from sft_data.store.log import check_log, read_log
from sft_data.store.read import resolve, version_folders
from sft_data.store.refs import read_refs
from sft_data.store.transfer import export_archive, import_version
from sft_data.store.verify import verify
from tests.store.test_publish import tree
from tests.store.versions import ingredients, published

CALLS = ("link", "mkdir", "rename", "replace", "fsync")


class Death(BaseException):
    """The process is gone: nothing that would tidy up runs any more."""


class Reaper:
    """Counts the calls that change the disk, and dies before the one numbered `at`."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int | None) -> None:
        self.count = 0
        self.at = at
        for name in CALLS:
            patch.setattr(os, name, self.wrapped(getattr(os, name)))

    def wrapped(self, call):
        def counted(*args, **kwargs):
            if self.count == self.at:
                raise Death
            self.count += 1
            return call(*args, **kwargs)

        return counted


def publish_until(store: Path, made, at: int | None) -> int:
    """Publish, dying before the disk is changed for the `at`-th time. Returns how often it was changed."""
    with pytest.MonkeyPatch.context() as patch:
        reaper = Reaper(patch, at)
        if at is not None:
            patch.setattr(shutil, "rmtree", lambda *_, **__: None)
            patch.setattr(Path, "unlink", lambda *_, **__: None)
        try:
            publish.publish(store, made.manifest, made.files, made.texts, {})
        except Death:
            assert at is not None
        return reaper.count


def content(store: Path) -> dict[str, bytes]:
    """Everything in a store that does not tell the time."""
    return {name: data for name, data in tree(store).items() if "build.json" not in name and name != "log.jsonl"}


def die_everywhere(tmp_path: Path, step: int) -> None:
    old, new = (ingredients(tmp_path / f"cells-{salt}", salt=salt) for salt in ("old", "new"))
    clean = tmp_path / "clean"
    publish_until(clean, old, None)
    moments = publish_until(clean, new, None)
    assert moments > 60
    begun = tmp_path / "begun"
    publish_until(begun, old, None)
    for moment in [*range(0, moments - 12, step), *range(moments - 12, moments)]:
        store = tmp_path / f"store-{moment}"
        shutil.copytree(begun, store, copy_function=os.link)
        for name in ("log.jsonl", "small/refs.json"):
            (store / name).unlink()
            shutil.copyfile(begun / name, store / name)
        publish_until(store, new, moment)
        assert resolve(store, "small").number in (1, 2), f"moment {moment}"
        for folder in version_folders(store, "small").values():
            assert unannounced(verify(folder).problems) == [], f"moment {moment}"
        publish_until(store, new, None)
        assert read_refs(store, "small").latest == 2
        assert [entry["number"] for entry in read_log(store)] == [1, 2], f"moment {moment}"
        assert check_log(store) == []
        assert verify(resolve(store, "small").folder).ok
        manage.gc(store, remove=True)
        assert content(store) == content(clean), f"moment {moment}"
        shutil.rmtree(store)


def unannounced(problems: list[str]) -> list[str]:
    """Between the rename and the entry in the log a version is there that the log does not know yet."""
    return [problem for problem in problems if problem != "log.jsonl does not know small@v2"]


@pytest.fixture(autouse=True)
def _rubbish_is_old_at_once(monkeypatch):
    monkeypatch.setattr(manage, "ABANDONED", -1.0)


def test_publish_that_dies_is_completed_and_leaves_nothing_behind(tmp_path):
    die_everywhere(tmp_path, step=41)


@pytest.mark.slow
def test_publish_that_dies_at_every_moment_is_completed_and_leaves_nothing_behind(tmp_path):
    die_everywhere(tmp_path, step=1)


@pytest.fixture
def disk(tmp_path):
    """A file system of 400 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("only a user who may mount can have a small disk")
    yield place
    subprocess.run(["mount", "-o", "remount,rw", str(place)], check=False)
    subprocess.run(["umount", str(place)], check=True)


def test_publish_on_a_full_disk_says_so_and_leaves_nothing(disk, tmp_path):
    store = disk / "store"
    for number in range(20):
        before = tree(store) if store.exists() else {}
        try:
            published(store, tmp_path / f"cells-{number}", salt=str(number))
        except StoreError as error:
            assert "the disk is full: free some space" in str(error)  # noqa: PT017 - whichever round it is
            break
    else:
        pytest.fail("the disk never filled up")
    assert number > 1
    assert tree(store) == before
    for folder in version_folders(store, "small").values():
        assert verify(folder).ok


def test_store_that_cannot_be_written_can_still_be_read(disk, tmp_path):
    store = disk / "store"
    published(store, tmp_path / "cells")
    published(store, tmp_path / "newer", salt="3")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    version = resolve(store, "small@v1")
    assert verify(version.folder).ok
    assert export_archive(version, tmp_path / "out.tar.zst").files > 20
    for change in (
        lambda: published(store, tmp_path / "other", salt="2"),
        lambda: manage.tag(store, "small", "golden"),
        lambda: manage.rollback(store, "small@v1"),
        lambda: import_version(store, tmp_path / "out.tar.zst"),
        lambda: export_archive(version, disk / "out.tar.zst"),
    ):
        with pytest.raises(StoreError, match="is read-only: give --store a folder that can be written"):
            change()
