from __future__ import annotations

import errno

import pytest

from sft_data.errors import StoreError
from sft_data.store import remote as remotes
from sft_data.store.read import resolve, versions
from sft_data.store.transfer import export_version, import_version
from sft_data.store.verify import verify
from tests.store.test_publish import tree
from tests.store.versions import published

fsspec = pytest.importorskip("fsspec")


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    home = tmp_path_factory.mktemp("remote")
    published(home / "store", home / "cells")
    return resolve(home / "store", "small")


@pytest.fixture
def bucket():
    """An empty place in memory, as an object store would be."""
    files = fsspec.filesystem("memory")
    files.store.clear()
    files.pseudo_dirs[:] = [""]
    return "memory://bucket/small-v1"


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(remotes, "FIRST_WAIT", 0.0)


def test_push_and_import_bring_the_same_bytes(version, bucket, tmp_path):
    told = export_version(version, bucket)
    assert (told.path, told.files) == (bucket, len(tree(version.folder)) + 1)
    made = import_version(tmp_path / "store", bucket)
    assert tree(made.folder) == tree(version.folder)
    assert verify(made.folder).ok


def test_push_to_a_folder_by_its_url(version, tmp_path):
    url = (tmp_path / "deep" / "small").as_uri()
    export_version(version, url)
    export_version(version, url)
    assert tree(import_version(tmp_path / "store", url).folder) == tree(version.folder)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="cannot be"):
        export_version(version, (tmp_path / "file" / "small").as_uri())


def test_push_again_is_fine_and_another_version_is_refused(version, bucket, tmp_path):
    export_version(version, bucket)
    export_version(version, bucket)
    other = published(tmp_path / "store", tmp_path / "cells", salt="2")
    with pytest.raises(StoreError, match="holds another version already"):
        export_version(resolve(tmp_path / "store", other.version), bucket)
    assert import_version(tmp_path / "back", bucket).folder.exists()


def test_push_cut_short_is_no_version_until_it_is_pushed_again(version, bucket, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(remotes.Remote, "create", broken)
        with pytest.raises(KeyboardInterrupt):
            export_version(version, bucket)
    with pytest.raises(StoreError, match=r"there is no version at memory://bucket/small-v1: it has no manifest\.json"):
        import_version(tmp_path / "store", bucket)
    export_version(version, bucket)
    assert import_version(tmp_path / "store", bucket).number == 1


def broken(*_):
    raise KeyboardInterrupt


def every_third_fails(monkeypatch, *names):
    """The file system answers every third request with an error."""
    kind = type(fsspec.filesystem("memory"))
    count = [0]

    def flaky(call):
        def asked(*args, **kwargs):
            count[0] += 1
            if count[0] % 3 == 0:
                raise OSError(errno.EIO, "503 Slow Down")
            return call(*args, **kwargs)

        return asked

    for name in names:
        monkeypatch.setattr(kind, name, flaky(getattr(kind, name)))
    return count


def test_push_and_import_outlive_a_store_that_fails_every_third_request(version, bucket, tmp_path, monkeypatch):
    count = every_third_fails(monkeypatch, "cat_file", "get_file", "put_file", "pipe_file")
    export_version(version, bucket)
    made = import_version(tmp_path / "store", bucket)
    assert count[0] > 50
    assert tree(made.folder) == tree(version.folder)


def test_push_whose_answer_was_lost_counts_as_written(version, bucket, tmp_path, monkeypatch):
    """The manifest was written, the answer did not arrive: asked again, the store says it is there already."""
    kind = type(fsspec.filesystem("memory"))
    write = kind.pipe_file
    lost = [True]

    def pipe_file(self, path, value, mode="overwrite", **more):
        write(self, path, value, mode=mode, **more)
        if mode == "create" and lost[0]:
            lost[0] = False
            raise OSError(errno.ETIMEDOUT, "timed out")

    monkeypatch.setattr(kind, "pipe_file", pipe_file)
    export_version(version, bucket)
    assert import_version(tmp_path / "store", bucket).number == 1


def test_store_that_never_answers_is_an_error_with_its_address(version, bucket, monkeypatch):
    def dead(*args, **kwargs):
        raise OSError(errno.EIO, "503 Slow Down")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "cat_file", dead)
    with pytest.raises(StoreError, match="memory://bucket/small-v1 cannot be reached after 6 attempts"):
        export_version(version, bucket)


def test_address_where_nobody_answers_is_asked_twice(version, bucket, monkeypatch):
    """The library of S3 asks five times itself before it says so."""
    kind = type("EndpointConnectionError", (Exception,), {"__module__": "botocore.exceptions"})
    asked = []

    def nobody(*args, **kwargs):
        asked.append(args)
        raise kind("Could not connect to the endpoint URL")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "cat_file", nobody)
    with pytest.raises(StoreError, match="cannot be reached after 2 attempts: Could not connect"):
        export_version(version, bucket)
    assert len(asked) == 2


def test_import_of_a_damaged_remote_version_publishes_nothing(version, bucket, tmp_path):
    export_version(version, bucket)
    files = fsspec.filesystem("memory")
    raw = files.cat_file("/bucket/small-v1/report.html")
    files.pipe_file("/bucket/small-v1/report.html", raw[:-2] + b"!\n")
    with pytest.raises(StoreError, match=r"report\.html was changed"):
        import_version(tmp_path / "store", bucket)
    files.rm("/bucket/small-v1/edits/00000.parquet")
    with pytest.raises(StoreError, match=r"edits/00000\.parquet is missing"):
        import_version(tmp_path / "store", bucket)
    assert versions(tmp_path / "store") == []


def test_unknown_kind_of_url_says_so(version):
    with pytest.raises(StoreError, match="nonsense://x cannot be opened"):
        export_version(version, "nonsense://x")
