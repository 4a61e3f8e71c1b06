"""Sealed stores: nothing of a version can be read, changed or swapped without the key."""

from __future__ import annotations

import stat

import pytest

from sft_data.errors import StoreError
from sft_data.store import manage
from sft_data.store.place import find_version, open_store, verify_version
from sft_data.store.read import resolve, versions
from sft_data.store.sealing import CHUNK, Key, given_key, new_key_file, seal_file, unseal_file
from sft_data.store.verify import verify
from tests.store.test_publish import tree
from tests.store.versions import published

pytest.importorskip("cryptography")

ONE, TWO = "11" * 32, "22" * 32
KEY = Key(bytes.fromhex(ONE))


@pytest.fixture(autouse=True)
def _fresh(tmp_path, monkeypatch):
    monkeypatch.setenv("SFT_DATA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SFT_DATA_KEY", ONE)
    monkeypatch.delenv("SFT_DATA_KEY_FILE", raising=False)


def another_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("SFT_DATA_CACHE", str(tmp_path / "other"))


@pytest.fixture
def store(tmp_path):
    """A sealed store with one version."""
    place = tmp_path / "store"
    published(open_store(place, write=True), tmp_path / "cells")
    return place


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 7])
def test_sealed_file_opens_to_the_same_bytes(tmp_path, size):
    plain = bytes(i * 31 % 251 for i in range(1000)) * (size // 1000 + 1)
    (tmp_path / "plain").write_bytes(plain[:size])
    seal_file(tmp_path / "plain", tmp_path / "sealed", KEY)
    unseal_file(tmp_path / "sealed", tmp_path / "opened", KEY)
    assert (tmp_path / "opened").read_bytes() == plain[:size]


def test_sealing_is_the_same_for_equal_files_and_shares_nothing_between_others(tmp_path):
    for name, content in {"a": b"x" * 64, "b": b"x" * 64, "c": b"x" * 63 + b"y"}.items():
        (tmp_path / name).write_bytes(content)
        seal_file(tmp_path / name, tmp_path / f"{name}.sealed", KEY)
    a, b, c = ((tmp_path / f"{name}.sealed").read_bytes() for name in "abc")
    assert a == b
    assert a[8:40] != c[8:40]
    assert a[40:60] != c[40:60]
    seal_file(tmp_path / "a", tmp_path / "other", Key(bytes.fromhex(TWO)))
    assert (tmp_path / "other").read_bytes()[8:] != a[8:]


def test_sealed_file_that_was_cut_swapped_or_changed_does_not_open(tmp_path):
    (tmp_path / "plain").write_bytes(b"q" * (3 * CHUNK))
    seal_file(tmp_path / "plain", tmp_path / "sealed", KEY)
    raw = (tmp_path / "sealed").read_bytes()
    step = CHUNK + 16
    first, second, third = (raw[40 + i * step : 40 + (i + 1) * step] for i in range(3))
    for damaged in (
        raw[:-1],
        raw[:40],
        raw[: 40 + 2 * step],  # without its last chunk
        raw[:40] + second + first + third,
        raw[:40] + first + second + third + third,
        raw[:20] + bytes([raw[20] ^ 1]) + raw[21:],
        raw[:1000] + bytes([raw[1000] ^ 1]) + raw[1001:],
    ):
        (tmp_path / "damaged").write_bytes(damaged)
        with pytest.raises(StoreError, match="does not open: it was changed, or it was sealed with another key"):
            unseal_file(tmp_path / "damaged", tmp_path / "opened", KEY)
    (tmp_path / "damaged").write_bytes(b"PAR1 and so on")
    with pytest.raises(StoreError, match="is not a sealed file"):
        unseal_file(tmp_path / "damaged", tmp_path / "opened", KEY)


def test_sealed_store_holds_no_text_and_no_key(store, tmp_path):
    texts = [
        b"Paris",
        "春眠".encode(),
        b"Shakespeare",
        b"<html",
        b"PAR1",
        b"ARROW",
        b"answer-length",
        bytes.fromhex(ONE),
    ]
    for name, content in tree(store).items():
        assert [text for text in texts if text in content] == [], name
        assert ONE.encode() not in content, name
    for name, content in tree(tmp_path / "cache").items():
        assert ONE.encode() not in content, name
        assert bytes.fromhex(ONE) not in content, name


def test_sealed_version_is_the_same_version_as_an_unsealed_one(store, tmp_path, monkeypatch):
    another_machine(monkeypatch, tmp_path)
    there = find_version(store, "small")
    monkeypatch.delenv("SFT_DATA_KEY")
    here = published(tmp_path / "plain", tmp_path / "more")
    one, two = tree(here.folder), tree(there.folder)
    one.pop("build.json"), two.pop("build.json")
    assert one == two
    assert verify(there.folder).ok


def test_sealed_store_without_its_key_or_with_another_says_which_is_needed(store, tmp_path, monkeypatch):
    another_machine(monkeypatch, tmp_path)
    monkeypatch.delenv("SFT_DATA_KEY")
    with pytest.raises(StoreError, match=f"is sealed with the key {KEY.id}: give it by --key-file"):
        find_version(store, "small")
    monkeypatch.setenv("SFT_DATA_KEY", TWO)
    with pytest.raises(StoreError, match=f"sealed with the key {KEY.id}, and the key given is") as told:
        find_version(store, "small")
    assert TWO not in str(told.value)
    with pytest.raises(StoreError, match="and the key given is"):
        published(open_store(store, write=True), tmp_path / "x", salt="2")


def test_verify_of_a_sealed_version_with_and_without_the_key(store, monkeypatch):
    told = verify_version(store, "small")
    assert (told.ok, told.contents) == (True, True)
    monkeypatch.delenv("SFT_DATA_KEY")
    told = verify_version(store, "small@v1")
    assert (told.ok, told.contents, told.problems) == (True, False, [])
    assert told.files > 15
    with pytest.raises(StoreError, match=r"has no version 'small@v7'; it holds: small@v1"):
        verify_version(store, "small@v7")
    victim = max((store / "objects").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    raw = victim.read_bytes()
    victim.write_bytes(raw[:-3] + bytes([raw[-3] ^ 1]) + raw[-2:])
    for key in (None, ONE):
        if key:
            monkeypatch.setenv("SFT_DATA_KEY", key)
        told = verify_version(store, "small")
        assert not told.ok
        assert victim.name in " ".join(told.problems)


def test_store_is_sealed_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.delenv("SFT_DATA_KEY")
    published(tmp_path / "plain", tmp_path / "a")
    url = (tmp_path / "url").as_uri()
    published(open_store(url, write=True), tmp_path / "b")
    monkeypatch.setenv("SFT_DATA_KEY", ONE)
    with pytest.raises(StoreError, match="holds versions that are not sealed, and a key is given"):
        open_store(tmp_path / "plain", write=True)
    with pytest.raises(StoreError, match="is not sealed, and a key is given"):
        published(open_store(url, write=True), tmp_path / "c", salt="2")
    assert resolve(open_store(tmp_path / "plain"), "small").number == 1  # reading is fine
    assert find_version(url, "small").number == 1


def test_sealed_store_is_managed_like_any_other(store, tmp_path):
    published(open_store(store, write=True), tmp_path / "b", salt="2")
    place = open_store(store)
    manage.tag(place, "small@v1", "golden")
    manage.rollback(place, "small@golden")
    assert [(v.version, v.latest, v.tags) for v in versions(open_store(store))] == [
        ("small@v1", True, ["golden"]),
        ("small@v2", False, []),
    ]
    assert manage.gc(place).bytes == 0


def test_key_file_is_private_and_never_written_over(tmp_path, monkeypatch):
    path = tmp_path / "key"
    made = new_key_file(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(StoreError, match="is there already"):
        new_key_file(path)
    monkeypatch.setenv("SFT_DATA_KEY_FILE", str(path))
    assert given_key() == made
    assert made.secret.hex() not in repr(made)
    path.write_bytes(made.secret)
    assert given_key() == made


@pytest.mark.parametrize("text", ["", "12", "zz" * 32, "11" * 31, "11" * 33, "ключ"])
def test_key_that_is_none_is_an_error_that_does_not_show_it(tmp_path, monkeypatch, text):
    path = tmp_path / "key"
    path.write_text(text)
    monkeypatch.setenv("SFT_DATA_KEY_FILE", str(path))
    with pytest.raises(StoreError, match="a key is 64 hex digits") as told:
        given_key()
    assert not text or text not in str(told.value)


@pytest.mark.slow
def test_build_with_a_key_file_seals_and_its_version_is_shown_and_previewed(sft, tmp_path, monkeypatch):
    monkeypatch.delenv("SFT_DATA_KEY")

    def keyless():
        """The option lives as long as the process, which here is that of the test."""
        monkeypatch.setenv("SFT_DATA_KEY_FILE", "")

    keyless()
    store, key = tmp_path / "sealed", tmp_path / "key"
    assert sft("key", key).code == 0
    more = ("--store", store, "--key-file", key)
    built = sft("build", "pipelines/quickstart.yaml", *more, "--workers", 1, "--json")
    assert built.json["version"] == "quickstart@v1", built.err
    assert sft("show", "quickstart", *more).code == 0
    assert sft("verify", "quickstart", *more, "--json").json["contents"] is True
    keyless()
    assert sft("verify", "quickstart", "--store", store, "--json").json["contents"] is False
    another_machine(monkeypatch, tmp_path)
    refused = sft("preview", "quickstart", "--store", store)
    assert refused.code == 1
    assert "--key-file" in refused.err
    assert sft("preview", "quickstart", *more, "-n", 1).code == 0
    secret = key.read_text().strip().encode()
    for folder in (store, tmp_path / "cache", tmp_path / "other"):
        assert all(secret not in content for content in tree(folder).values())
