"""A whole store at a URL: in memory here, on an S3 server in test_s3."""

from __future__ import annotations

import json

import pytest

from sft_data.errors import StoreError
from sft_data.store import manage, mirror, publish, remote
from sft_data.store.log import check_log, read_log
from sft_data.store.mirror import Mirror, mirror_folder, mirror_of
from sft_data.store.place import find_version, open_store, verify_version
from sft_data.store.read import load_manifest, resolve, version_folders, versions
from sft_data.store.refs import read_refs
from sft_data.store.transfer import export_version, import_version
from sft_data.store.verify import verify
from tests.store.test_publish import tree
from tests.store.versions import ingredients, published

fsspec = pytest.importorskip("fsspec")

URL = "memory://bucket/store"


@pytest.fixture(autouse=True)
def _fresh(tmp_path, monkeypatch):
    """An empty object store, a cache of this test's own, no waiting between attempts, no key."""
    files = fsspec.filesystem("memory")
    files.store.clear()
    files.pseudo_dirs[:] = [""]
    monkeypatch.setenv("SFT_DATA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.0)
    monkeypatch.delenv("SFT_DATA_KEY", raising=False)
    monkeypatch.delenv("SFT_DATA_KEY_FILE", raising=False)


@pytest.fixture(params=["memory", "folder"])
def url(request, tmp_path):
    return URL if request.param == "memory" else (tmp_path / "elsewhere" / "store").as_uri()


def another_machine(monkeypatch, tmp_path, name="other"):
    """From now on this test works with an empty cache, as on another machine."""
    monkeypatch.setenv("SFT_DATA_CACHE", str(tmp_path / f"cache-{name}"))


def put(url, folder, **how):
    """Publish the small version in the store at `url`."""
    return published(open_store(url, write=True), folder, **how)


def test_version_at_a_url_holds_the_same_bytes_as_one_in_a_folder(url, tmp_path, monkeypatch):
    here = published(tmp_path / "store", tmp_path / "a")
    made = put(url, tmp_path / "b")
    assert (made.version, made.reused) == ("small@v1", False)
    another_machine(monkeypatch, tmp_path)
    there = find_version(url, "small")
    one, two = tree(here.folder), tree(there.folder)
    one.pop("build.json"), two.pop("build.json")
    assert one == two
    assert verify(there.folder).ok
    assert verify_version(url, "small@v1").ok


def test_versions_are_listed_and_shown_without_fetching_their_tables(url, tmp_path, monkeypatch):
    put(url, tmp_path / "a")
    another_machine(monkeypatch, tmp_path)
    [info] = versions(open_store(url))
    assert (info.version, info.rows, info.latest) == ("small@v1", 8, True)
    version = find_version(url, "small", only=("report.json",))
    assert set(tree(version.folder)) == {"manifest.json", "build.json", "report.json"}
    find_version(url, "small")
    assert verify(version.folder).ok


def test_same_content_is_reused_and_other_content_takes_the_next_number(url, tmp_path, monkeypatch):
    put(url, tmp_path / "a")
    another_machine(monkeypatch, tmp_path)
    assert put(url, tmp_path / "b").reused
    assert put(url, tmp_path / "c", salt="2").version == "small@v2"
    store = open_store(url)
    assert [entry["number"] for entry in read_log(store)] == [1, 2]
    assert check_log(store) == []


def test_versions_share_their_equal_files(tmp_path):
    put(URL, tmp_path / "a")
    before = set(fsspec.filesystem("memory").find("/bucket/store/objects"))
    put(URL, tmp_path / "b", salt="2")
    added = set(fsspec.filesystem("memory").find("/bucket/store/objects")) - before
    # manifest, build record, the two reports, the list of files, and the records beside the Arrow files
    listed = load_manifest(resolve(open_store(URL), "small").folder).files
    assert len(added) < len(listed) / 2


def test_tags_and_rollback_are_seen_from_everywhere(url, tmp_path, monkeypatch):
    put(url, tmp_path / "a")
    put(url, tmp_path / "b", salt="2")
    manage.tag(open_store(url), "small@v1", "golden")
    another_machine(monkeypatch, tmp_path)
    assert find_version(url, "small@golden").number == 1
    manage.rollback(open_store(url), "small@golden")
    monkeypatch.setenv("SFT_DATA_CACHE", str(tmp_path / "cache"))
    store = open_store(url)
    assert read_refs(store, "small").latest == 1
    assert put(url, tmp_path / "c", salt="3").number == 3
    manage.untag(store, "small", "golden")
    assert read_refs(store, "small").tags == {}
    with pytest.raises(StoreError, match="small has no tag 'golden'"):
        manage.untag(store, "small", "golden")
    manage.rollback(store, "small")  # is the latest: nothing to say
    assert [e["what"] for e in read_log(store)] == ["publish", "publish", "tag", "rollback", "publish", "untag"]
    assert check_log(store) == []


def test_draft_at_a_url_is_never_latest_and_goes_when_it_is_old(url, tmp_path, monkeypatch):
    made = put(url, tmp_path / "a", draft=True)
    another_machine(monkeypatch, tmp_path)
    store = open_store(url)
    assert find_version(url, made.version).number is None
    with pytest.raises(StoreError, match="no latest version"):
        resolve(store, "small")
    kept = manage.gc(store)
    assert (kept.drafts, kept.abandoned) == ([], [])
    found = manage.gc(store, drafts_days=-1.0)
    assert found.drafts == [f"small/{made.folder.name}"]
    assert len(found.abandoned) > 15
    manage.gc(store, drafts_days=-1.0, remove=True)
    assert versions(open_store(url)) == []
    assert manage.gc(open_store(url), drafts_days=-1.0).bytes == 0
    assert put(url, tmp_path / "b", draft=True).reused is False
    assert put(url, tmp_path / "c").version == "small@v1"


def test_gc_removes_what_a_killed_publish_left_and_nothing_that_a_version_holds(url, tmp_path, monkeypatch):
    put(url, tmp_path / "a")
    with monkeypatch.context() as patch:
        patch.setattr(Mirror, "record", killed)
        with pytest.raises(KeyboardInterrupt):
            put(url, tmp_path / "b", salt="2")
    store = open_store(url)
    assert [info.version for info in versions(store)] == ["small@v1"]
    assert manage.gc(store, remove=True).abandoned == []  # it may still be at work
    monkeypatch.setattr(mirror, "ABANDONED", -1.0)
    found = manage.gc(store, remove=True)
    assert len(found.abandoned) > 3
    another_machine(monkeypatch, tmp_path)
    assert verify_version(url, "small").ok
    assert put(url, tmp_path / "c", salt="2").version == "small@v2"
    assert verify_version(url, "small").ok


def killed(*_):
    raise KeyboardInterrupt


def test_publish_killed_before_any_of_its_requests_is_no_version_and_can_be_repeated(tmp_path, monkeypatch):
    """Each request that writes is the last one in turn; what is there is always whole."""
    put(URL, tmp_path / "old", salt="old")
    kind = type(fsspec.filesystem("memory"))
    made = ingredients(tmp_path / "new", salt="new")
    moment = 0
    while True:
        count = [0]
        with monkeypatch.context() as patch:
            for name in ("put_file", "pipe_file"):
                patch.setattr(kind, name, dying(getattr(kind, name), count, moment))
            try:
                publish.publish(open_store(URL, write=True), made.manifest, made.files, made.texts, {})
                break
            except KeyboardInterrupt:
                moment += 1
        another_machine(monkeypatch, tmp_path, str(moment))
        assert [info.version for info in versions(open_store(URL))] == ["small@v1"]
        assert verify_version(URL, "small").ok
    assert moment > 5
    assert find_version(URL, "small").number == 2
    assert verify_version(URL, "small").ok


def dying(call, count, moment):
    def asked(*args, **kwargs):
        if count[0] == moment:
            raise KeyboardInterrupt
        count[0] += 1
        return call(*args, **kwargs)

    return asked


def test_two_publishers_between_whose_looks_the_other_writes_lose_nothing(url, tmp_path, monkeypatch):
    """The second publishes after the first has taken its number and before it has written it."""
    create = remote.Remote.create
    other = [ingredients(tmp_path / "b", salt="b")]

    def interrupted(self, name, content):
        if name.startswith("log/") and other:
            late = other.pop()
            publish.publish(open_store(url, write=True), late.manifest, late.files, late.texts, {})
        return create(self, name, content)

    monkeypatch.setattr(remote.Remote, "create", interrupted)
    assert put(url, tmp_path / "a").number == 2
    store = open_store(url)
    assert list(version_folders(store, "small")) == [1, 2]
    assert read_refs(store, "small").latest == 2
    assert check_log(store) == []


def test_verify_fetches_anew_and_names_a_file_that_was_damaged_at_the_url(tmp_path):
    put(URL, tmp_path / "a")
    files = fsspec.filesystem("memory")
    name = next(e.sha256 for e in load_manifest(find_version(URL, "small").folder).files if "edits" in e.path)
    path = f"/bucket/store/objects/{name[:2]}/{name}"
    raw = files.cat_file(path)
    files.pipe_file(path, raw[:50] + bytes([raw[50] ^ 1]) + raw[51:])
    told = verify_version(URL, "small")
    assert not told.ok
    assert any(problem.startswith("edits/00000.parquet: ") for problem in told.problems)
    files.rm(path)
    assert any("is missing" in problem for problem in verify_version(URL, "small").problems)


def test_log_entry_that_was_changed_is_found(tmp_path):
    put(URL, tmp_path / "a")
    put(URL, tmp_path / "b", salt="2")
    files = fsspec.filesystem("memory")
    raw = files.cat_file("/bucket/store/log/00000001.json")
    files.pipe_file("/bucket/store/log/00000001.json", raw.replace(b'"who":"', b'"who":"x'))
    assert "log.jsonl line 2 does not follow from line 1" in " ".join(verify_version(URL, "small").problems)


def test_damaged_object_is_not_taken_into_the_mirror(tmp_path, monkeypatch):
    put(URL, tmp_path / "a")
    files = fsspec.filesystem("memory")
    for path in files.find("/bucket/store/objects"):
        if files.cat_file(path)[:4] == b"PAR1":
            files.pipe_file(path, b"PAR1 is not what it was")
    another_machine(monkeypatch, tmp_path)
    with pytest.raises(StoreError, match=r"memory://bucket/store: objects/.* was changed"):
        find_version(URL, "small")


def test_hostile_log_cannot_leave_the_mirror(tmp_path, monkeypatch):
    put(URL, tmp_path / "a")
    files = fsspec.filesystem("memory")
    entry = json.loads(files.cat_file("/bucket/store/log/00000001.json"))
    for change in ({"name": "../../evil"}, {"index": "../x"}, {"number": "1/../.."}, {"fingerprint": "../../../x"}):
        files.pipe_file("/bucket/store/log/00000001.json", json.dumps(entry | change).encode())
        another_machine(monkeypatch, tmp_path, str(change)[2:5])
        with pytest.raises(StoreError, match="does not write"):
            open_store(URL)
    assert not list(tmp_path.rglob("evil"))


def test_store_made_anew_at_the_same_url_is_another_store(tmp_path):
    put(URL, tmp_path / "a")
    find_version(URL, "small")
    fsspec.filesystem("memory").store.clear()
    assert versions(open_store(URL)) == []
    assert put(URL, tmp_path / "b", salt="2").version == "small@v1"
    assert verify(find_version(URL, "small").folder).ok


def test_place_that_writes_over_what_is_there_is_refused(tmp_path, monkeypatch):
    kind = type(fsspec.filesystem("memory"))
    write = kind.pipe_file
    monkeypatch.setattr(kind, "pipe_file", lambda self, path, value, mode="overwrite", **_: write(self, path, value))
    with pytest.raises(StoreError, match="two publishers at once would lose a version"):
        put(URL, tmp_path / "a")


def test_store_that_fails_every_third_request_is_published_to_and_read(tmp_path, monkeypatch):
    from tests.store.test_remote import every_third_fails

    count = every_third_fails(monkeypatch, "cat_file", "get_file", "put_file", "pipe_file")
    put(URL, tmp_path / "a")
    another_machine(monkeypatch, tmp_path)
    assert verify(find_version(URL, "small").folder).ok
    assert count[0] > 60


def test_archive_goes_into_a_store_at_a_url_and_out_of_it(url, tmp_path):
    published(tmp_path / "store", tmp_path / "a")
    export_version(resolve(tmp_path / "store", "small"), tmp_path / "small.tar.zst")
    made = import_version(open_store(url, write=True), tmp_path / "small.tar.zst")
    assert (made.version, made.reused) == ("small@v1", False)
    assert import_version(open_store(url), tmp_path / "small.tar.zst").reused
    export_version(find_version(url, "small"), tmp_path / "again.tar.zst")
    assert (tmp_path / "again.tar.zst").read_bytes() == (tmp_path / "small.tar.zst").read_bytes()


def test_mirror_of_an_unused_version_is_freed_and_fetched_again(url, tmp_path):
    put(url, tmp_path / "a")
    store = open_store(url)
    folder = find_version(url, "small").folder
    assert manage.gc(store, cache_days=1).cells == []
    found = manage.gc(store, cache_days=-1.0, remove=True)
    assert found.cells == ["mirror: small/v1"]
    assert set(tree(folder)) == {"manifest.json", "build.json"}
    assert verify(find_version(url, "small").folder).ok


def test_messages_name_the_url_and_not_the_mirror(tmp_path):
    with pytest.raises(StoreError, match="the store memory://bucket/store holds no versions"):
        find_version(URL, "small")
    put(URL, tmp_path / "a")
    with pytest.raises(StoreError, match="no dataset 'smal' in memory://bucket/store"):
        find_version(URL, "smal")


def test_mirror_is_known_by_its_own_place_alone(tmp_path):
    put(URL, tmp_path / "a")
    assert mirror_of(mirror_folder(URL)) == Mirror(URL, mirror_folder(URL))
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / mirror.WHERE).write_bytes((mirror_folder(URL) / mirror.WHERE).read_bytes())
    assert mirror_of(copy) is None
    with pytest.raises(StoreError, match="name that store by its URL"):
        open_store(copy)


def test_version_at_a_url_that_rows_are_held_against_is_brought_here(tmp_path, monkeypatch):
    from sft_data.against import _place

    put(URL, tmp_path / "a")
    another_machine(monkeypatch, tmp_path)
    folder = _place(open_store(URL), "small@v1")
    assert verify(folder).ok
