from __future__ import annotations

import io
import tarfile

import pyarrow as pa
import pytest

from sft_data.errors import StoreError
from sft_data.store import transfer
from sft_data.store.log import read_log
from sft_data.store.manage import gc
from sft_data.store.read import load_manifest, resolve, versions
from sft_data.store.transfer import export_archive, export_folder, export_version, import_version
from sft_data.store.verify import verify
from tests.store.test_publish import tree
from tests.store.versions import published


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    """The small version in a store."""
    home = tmp_path_factory.mktemp("transfer")
    published(home / "store", home / "cells")
    return resolve(home / "store", "small")


def test_archive_brings_the_same_bytes_into_another_store(version, tmp_path):
    told = export_archive(version, tmp_path / "out" / "small.tar.zst")
    assert told.files == len(tree(version.folder))
    made = import_version(tmp_path / "store", tmp_path / "out" / "small.tar.zst")
    assert (made.version, made.reused) == ("small@v1", False)
    assert tree(made.folder) == tree(version.folder)
    assert verify(made.folder).problems == []
    assert resolve(tmp_path / "store", "small").number == 1
    assert [entry["what"] for entry in read_log(tmp_path / "store")] == ["import"]


def test_archive_of_the_same_version_has_the_same_bytes(version, tmp_path):
    one, two = (export_archive(version, tmp_path / name) for name in ("a.tar.zst", "b.tar.zst"))
    assert one.sha256 == two.sha256


def test_import_takes_the_next_number_and_knows_what_it_has(version, tmp_path):
    store = tmp_path / "store"
    published(store, tmp_path / "cells", salt="other")
    export_archive(version, tmp_path / "a.tar.zst")
    assert import_version(store, tmp_path / "a.tar.zst").version == "small@v2"
    again = import_version(store, tmp_path / "a.tar.zst")
    assert (again.version, again.reused) == ("small@v2", True)


def test_folder_goes_out_with_a_card_and_comes_back(version, tmp_path):
    export_folder(version, tmp_path / "hub")
    assert (tmp_path / "hub/README.md").read_text(encoding="utf-8").startswith("---\npretty_name: small\n")
    made = import_version(tmp_path / "store", tmp_path / "hub")
    assert tree(made.folder) == tree(version.folder)


def test_folder_opens_with_load_dataset(version, tmp_path):
    datasets = pytest.importorskip("datasets")
    export_folder(version, tmp_path / "hub")
    cache = str(tmp_path / "cache")
    rows = datasets.load_dataset(str(tmp_path / "hub"), cache_dir=cache)
    assert {split: len(part) for split, part in rows.items()} == {"train": 6, "validation": 2}
    assert rows["train"][1]["messages"][1]["content"] == "春眠不觉晓，处处闻啼鸟。"
    packs = datasets.load_dataset("arrow", data_files=str(tmp_path / "hub/packs/train/*.arrow"), cache_dir=cache)
    assert set(packs["train"].column_names) == {"input_ids", "labels", "seq_lengths"}
    assert len(packs["train"]) == 2
    gone = datasets.load_dataset(str(tmp_path / "hub"), "rejections", split="train", cache_dir=cache)
    assert sorted(gone["code"]) == ["answer-too-short", "near-duplicate", "same-conversation", "unreadable-row"]


def test_export_takes_its_form_from_the_name(version, tmp_path):
    assert export_version(version, tmp_path / "a.tar.zst").sha256 is not None
    assert export_version(version, tmp_path / "folder-v1.2").sha256 is None
    with pytest.raises(StoreError, match=r"written as \.tar\.zst"):
        export_version(version, tmp_path / "a.zip")


def test_folder_is_not_written_over_another(version, tmp_path):
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub/mine.txt").write_text("mine")
    with pytest.raises(StoreError, match="not empty"):
        export_folder(version, tmp_path / "hub")


def test_import_of_a_damaged_folder_publishes_nothing_and_names_the_file(version, tmp_path):
    export_folder(version, tmp_path / "hub")
    path = tmp_path / "hub/edits/00000.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"X")
    with pytest.raises(StoreError, match=r"edits/00000.parquet was changed.*\n.*\nNothing was published|Nothing was"):
        import_version(tmp_path / "store", tmp_path / "hub")
    assert versions(tmp_path / "store") == []
    assert [p for p in (tmp_path / "store").iterdir() if p.name.startswith(".publish")] == []


def test_import_of_a_folder_with_a_file_missing_names_it(version, tmp_path):
    export_folder(version, tmp_path / "hub")
    (tmp_path / "hub/report.html").unlink()
    with pytest.raises(StoreError, match=r"report\.html is missing"):
        import_version(tmp_path / "store", tmp_path / "hub")


def test_import_of_every_shortened_archive_is_refused(version, tmp_path):
    export_archive(version, tmp_path / "a.tar.zst")
    whole = (tmp_path / "a.tar.zst").read_bytes()
    for share in (0, 1, 10, 50, 90, 99):
        (tmp_path / "b.tar.zst").write_bytes(whole[: len(whole) * share // 100])
        with pytest.raises(StoreError):
            import_version(tmp_path / "store", tmp_path / "b.tar.zst")
    assert versions(tmp_path / "store") == []


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a zip", b"\x28\xb5\x2f\xfd rubbish", b"plain text"])
def test_import_of_something_else_is_refused(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(StoreError, match="is not a"):
        import_version(tmp_path / "store", tmp_path / "a")


def archive(path, members):
    """An archive of any members: name -> bytes, or a TarInfo."""
    with pa.CompressedOutputStream(str(path), "zstd") as packed, tarfile.open(fileobj=packed, mode="w|") as tar:
        for member, content in members:
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member)
            if info.isreg():
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def link(name, target):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info


def test_import_of_a_hostile_archive_writes_nothing_outside(version, tmp_path):
    manifest = (version.folder / "manifest.json").read_bytes()
    evil = load_manifest(version.folder)
    outside = evil.files[0].model_copy(update={"path": "../../evil.txt", "bytes": 4})
    listed = evil.model_copy(update={"files": [outside]}).model_dump_json().encode()
    cases = [
        ([("manifest.json", manifest), ("../evil.txt", b"evil")], "does not announce"),
        ([("manifest.json", manifest), ("/evil.txt", b"evil")], "does not announce"),
        ([("manifest.json", manifest), (link("edits", "/etc"), b""), ("edits/passwd", b"evil")], "no plain file"),
        ([("manifest.json", listed), ("../../evil.txt", b"evil")], "no path inside a version"),
        ([("manifest.json", manifest), ("report.html", b"x" * 9)], "does not announce"),
        ([("report.html", b"x")], "does not begin with manifest.json"),
        ([("manifest.json", manifest), ("build.json", b"{}"), ("build.json", b"[]")], "does not announce"),
    ]
    for members, told in cases:
        archive(tmp_path / "evil.tar.zst", members)
        with pytest.raises(StoreError, match=told):
            import_version(tmp_path / "deep/store", tmp_path / "evil.tar.zst")
    assert not list(tmp_path.rglob("evil.txt"))
    assert versions(tmp_path / "deep/store") == []


def test_import_of_a_draft_is_refused(version, tmp_path):
    gates = {"min_rows_kept": {"limit": 0.9, "measured": 0.67, "passed": False}}
    manifest = load_manifest(version.folder).model_copy(update={"gates": gates})
    with pytest.raises(StoreError, match=r"fails its gates \(min_rows_kept\)"):
        transfer._refuse_failed(tmp_path, manifest)


def test_import_of_nothing_says_so(tmp_path):
    with pytest.raises(StoreError, match="there is nothing at"):
        import_version(tmp_path / "store", tmp_path / "nowhere")


def test_gc_leaves_an_import_at_work_alone_whatever_the_clock_says(version, tmp_path, monkeypatch):
    store, archive = tmp_path / "store", tmp_path / "a.tar.zst"
    export_archive(version, archive)
    real, found = transfer.verify, []

    def meanwhile(staging):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("time.time", lambda: staging.stat().st_mtime + 10 * 365 * 86_400)
            found.append(gc(store, remove=True, cache_days=0))
        return real(staging)

    monkeypatch.setattr(transfer, "verify", meanwhile)
    assert import_version(store, archive).version == "small@v1"
    assert [(each.busy, each.abandoned, each.removed) for each in found] == [(True, [], True)]
    assert not gc(store).busy
