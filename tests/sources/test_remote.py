"""Files at a URL: found, fetched whole or not at all, and read like files on the disk."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from sft_data.build import build
from sft_data.errors import SftDataError, SourceError
from sft_data.pipeline import load_pipeline, parse_pipeline
from sft_data.sources import remote
from sft_data.sources.files import find_files, look_for_files
from sft_data.sources.settings import Source
from sft_data.starter import starter_pipeline
from tests.formats.reading import outcomes
from tests.sources.servers import Faulty, s3, serving

fsspec = pytest.importorskip("fsspec")

ROWS = [{"instruction": f"What is {i} times two?", "input": "", "output": f"It is {2 * i}."} for i in range(60)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SFT_DATA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.0)
    return tmp_path / "cache" / "sources"


@pytest.fixture
def bucket() -> Any:
    """A bucket in memory."""
    files = fsspec.filesystem("memory")
    files.store.clear()
    files.pseudo_dirs[:] = [""]
    for name in ("a.jsonl", "sub/b.jsonl", "sub/README.md", ".hidden/c.jsonl"):
        files.pipe_file(f"/bucket/{name}", LINES)
    return files


def found(path: str, **settings: Any) -> list[str]:
    return [file.name for file in find_files(Source(name="s", path=path, **settings))]


def kept(path: str) -> int:
    return sum(outcome.kept.height for outcome in outcomes(Source(name="s", path=path)))


def test_a_url_names_a_file_a_folder_or_files_by_wildcards(bucket: Any) -> None:
    assert found("memory://bucket/a.jsonl") == ["a.jsonl"]
    assert found("memory://bucket") == ["a.jsonl", "sub/b.jsonl"]
    assert found("memory://bucket/sub/*.jsonl") == ["b.jsonl"]
    assert found("memory://bucket/*/*.jsonl") == ["sub/b.jsonl"]
    assert kept("memory://bucket") == 120


def test_a_file_url_is_the_file_itself_and_is_not_copied(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "a b.jsonl").write_bytes(LINES)
    [file] = find_files(Source(name="s", path=(tmp_path / "a b.jsonl").as_uri()))
    assert (file.name, file.path, file.origin) == ("a b.jsonl", tmp_path / "a b.jsonl", None)
    assert not cache.exists()


def test_a_fetched_file_has_the_name_and_hash_of_the_original_and_knows_its_url(bucket: Any) -> None:
    [file] = find_files(Source(name="s", path="memory://bucket/a.jsonl"))
    assert (file.size, file.sha256()) == (len(LINES), hashlib.sha256(LINES).hexdigest())
    assert file.origin == "memory:///bucket/a.jsonl"
    assert "memory" not in str(file.path)


def test_a_file_is_fetched_once_and_again_when_it_was_changed(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    plain = type(bucket).cat_file
    monkeypatch.setattr(
        type(bucket), "cat_file", lambda self, path, **more: asked.append(path) or plain(self, path, **more)
    )
    assert kept("memory://bucket/a.jsonl") == kept("memory://bucket/a.jsonl") == 60
    assert len(asked) == 1
    bucket.pipe_file("/bucket/a.jsonl", LINES.replace(b"times", b"TIMES"))
    assert kept("memory://bucket/a.jsonl") == 60
    assert len(asked) == 2
    assert b"TIMES" in find_files(Source(name="s", path="memory://bucket/a.jsonl"))[0].path.read_bytes()


def test_a_file_that_changes_while_it_is_fetched_is_an_error(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = type(bucket).cat_file

    def meanwhile(self: Any, path: str, **more: Any) -> bytes:
        piece: bytes = plain(self, path, **more)
        self.pipe_file(path, LINES + b" ")
        return piece

    monkeypatch.setattr(type(bucket), "cat_file", meanwhile)
    with pytest.raises(SourceError, match=r"a\.jsonl was changed while it was fetched"):
        kept("memory://bucket/a.jsonl")
    monkeypatch.undo()
    assert bucket.cat_file("/bucket/a.jsonl") == LINES + b" "


def test_an_interrupted_fetch_goes_on_where_it_was(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "CHUNK", 1000)
    places: list[int] = []
    plain = type(bucket).cat_file

    def breaking(self: Any, path: str, start: int, end: int) -> bytes:
        places.append(start)
        if len(places) == 3:
            raise KeyboardInterrupt
        return bytes(plain(self, path, start=start, end=end))

    monkeypatch.setattr(type(bucket), "cat_file", breaking)
    with pytest.raises(KeyboardInterrupt):
        kept("memory://bucket/a.jsonl")
    assert kept("memory://bucket/a.jsonl") == 60
    assert places[:5] == [0, 1000, 2000, 2000, 3000]
    assert places[-1] == len(LINES) // 1000 * 1000


def test_old_copies_are_cleaned_and_those_in_use_stay(
    bucket: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def age(days: float) -> None:
        for path in cache.glob("*/*"):
            os.utime(path, (time.time() - days * 86_400, path.stat().st_mtime))

    kept("memory://bucket")
    bucket.pipe_file("/bucket/a.jsonl", LINES * 2)
    kept("memory://bucket/a.jsonl")
    assert len(list(cache.glob("*/*"))) == 3
    age(2)
    kept("memory://bucket/a.jsonl")
    assert sorted(path.stat().st_size for path in cache.glob("*/*")) == [len(LINES), 2 * len(LINES)]
    age(2)
    monkeypatch.setattr(remote, "KEEP_BYTES", 0)
    kept("memory://bucket/a.jsonl")
    assert [path.stat().st_size for path in cache.glob("*/*")] == [2 * len(LINES)]


def test_looking_for_files_fetches_none(bucket: Any, cache: Path) -> None:
    look_for_files(Source(name="s", path="memory://bucket/*.jsonl"))
    assert not cache.exists()


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("memory://bucket/a.json", "near matches: 'a.jsonl'"),
        ("memory://bucket/*.parquet", "a.jsonl"),
        ("memory://nowhere/*.parquet", "nothing found at"),
        ("nosuch://bucket/a", "cannot be opened"),
    ],
)
def test_nothing_at_a_url_says_what_is_there(bucket: Any, path: str, told: str) -> None:
    for look in (find_files, look_for_files):
        with pytest.raises(SourceError) as error:
            look(Source(name="s", path=path))
        assert told in str(error.value)


@pytest.mark.parametrize(
    "path",
    [
        "https://me:secret@host/a.jsonl",
        "s3://KEY:SECRET@bucket/a.jsonl",
        "https://host/a.jsonl?X-Amz-Signature=00ff",
        "https://host/a.jsonl?download=true&token=abc",
        "simplecache::s3://bucket/a.jsonl",
        "zip://a.jsonl::s3://bucket/a.zip",
    ],
)
def test_a_url_with_a_secret_in_it_is_refused_and_not_repeated_in_full_by_a_pipeline(path: str) -> None:
    with pytest.raises(ValidationError, match="the URL holds"):
        Source(name="s", path=path)
    with pytest.raises(SftDataError, match="the URL holds") as error:
        parse_pipeline({"name": "x", "sources": [{"name": "s", "path": path}]}, "x.yaml", [])
    assert "secret" not in str(error.value).lower()


def test_a_split_is_chosen_where_several_lie_in_one_folder(bucket: Any, tmp_path: Path) -> None:
    for split, rows in (("train", 30), ("test", 10)):
        text = LINES.splitlines(keepends=True)[:rows]
        bucket.pipe_file(f"/saved/{split}/rows.jsonl", b"".join(text))
        (tmp_path / "saved" / split).mkdir(parents=True)
        (tmp_path / "saved" / split / "rows.jsonl").write_bytes(b"".join(text))
    bucket.pipe_file("/saved/dataset_dict.json", b"{}")
    (tmp_path / "saved/dataset_dict.json").write_text("{}")
    for path in ("memory://saved", str(tmp_path / "saved")):
        assert found(path, split="train") == ["train/rows.jsonl"]
        assert found(path, split="all") == ["test/rows.jsonl", "train/rows.jsonl"]
        with pytest.raises(SourceError, match="holds the splits test, train"):
            found(path)
        with pytest.raises(SourceError, match=r"has no split 'dev'; it has test, train"):
            found(path, split="dev")
    with pytest.raises(SourceError, match="choose from a data set of the hub"):
        found("memory://bucket/a.jsonl", split="train")
    with pytest.raises(SourceError, match="choose from a data set of the hub"):
        found(str(tmp_path / "saved/train"), subset="x")


# ---- S3 -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, Faulty]]:
    pytest.importorskip("moto")
    pytest.importorskip("s3fs")
    app = Faulty(s3())
    with serving(app) as address:
        yield address, app


@pytest.fixture
def s3_files(server: tuple[str, Faulty], monkeypatch: pytest.MonkeyPatch) -> Iterator[Faulty]:
    """A bucket `talks` with two files, in an S3 that is found through the environment alone."""
    import s3fs

    address, app = server
    app.fault = "none"
    for name, value in {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "not-to-be-seen-anywhere",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)  # its own, below those that are tested here
    files = s3fs.S3FileSystem(skip_instance_cache=True)
    files.mkdir("talks") if not files.exists("talks") else None
    files.pipe_file("talks/data/a.jsonl", LINES)
    files.pipe_file("talks/data/sub/b.jsonl", LINES)
    app.asked.clear()
    yield app
    app.fault = "none"
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.slow
def test_s3_gives_the_same_version_as_the_disk_and_no_secret_is_written(s3_files: Faulty, tmp_path: Path) -> None:
    text = starter_pipeline(["s3://talks/data"]).replace("data-and", "x").replace("name: data\n", "name: talk\n")
    (tmp_path / "p.yaml").write_text(text)
    far = build(load_pipeline(tmp_path / "p.yaml"), tmp_path / "far")
    for name in ("a.jsonl", "sub/b.jsonl"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(LINES)
    (tmp_path / "p.yaml").write_text(text.replace("s3://talks/data", str(tmp_path / "data")))
    near = build(load_pipeline(tmp_path / "p.yaml"), tmp_path / "near")
    assert far.fingerprint == near.fingerprint
    assert far.rows_in == 120
    manifest = json.loads((Path(far.path) / "manifest.json").read_text())
    assert [entry["origin"] for entry in manifest["inputs"]] == [
        "s3://talks/data/a.jsonl",
        "s3://talks/data/sub/b.jsonl",
    ]
    written = b"".join(path.read_bytes() for path in (tmp_path / "far").rglob("*") if path.is_file())
    assert b"not-to-be-seen" not in written


@pytest.mark.slow
def test_s3_that_fails_every_third_request_is_asked_again(
    s3_files: Faulty, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "CHUNK", 500)
    s3_files.fault = "every third"
    assert found("s3://talks/data/*.jsonl") == ["a.jsonl"]
    [copy] = cache.glob("*/*")
    assert copy.read_bytes() == LINES


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["cut", "short"])
def test_s3_that_answers_half_is_a_clear_error_and_leaves_no_copy(s3_files: Faulty, cache: Path, fault: str) -> None:
    s3_files.fault = fault
    with pytest.raises(SourceError, match=r"s3://talks/data/a\.jsonl cannot be read: .*asked 6 times"):
        kept("s3://talks/data/a.jsonl")
    assert [path for path in cache.glob("*/*") if path.suffix != ".part"] == []
    s3_files.fault = "none"
    assert kept("s3://talks/data/a.jsonl") == 60


@pytest.mark.slow
def test_s3_without_credentials_or_bucket_says_so(s3_files: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceError, match=r"nothing found at 's3://other/a\.jsonl'"):
        kept("s3://other/a.jsonl")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(SourceError, match="AWS_ACCESS_KEY_ID"):
        kept("s3://talks/data/a.jsonl")
