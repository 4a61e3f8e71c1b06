"""Evaluation sets by address and by name of the hub: found, pinned, fetched once, told by content."""

from __future__ import annotations

import io
import json
import pickle
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from sft_data.build import build
from sft_data.decontaminate import Decontaminate
from sft_data.errors import ConfigError, SourceError
from sft_data.fingerprint import stage_identity, stage_stamps
from sft_data.pipeline import parse_pipeline
from sft_data.plan import plan
from sft_data.sources import remote
from sft_data.stage import run_stage
from sft_data.store.read import resolve
from tests.frames import chat, conversations, ids
from tests.test_decontaminate import CHINESE, QUESTION

fsspec = pytest.importorskip("fsspec")
datasets = pytest.importorskip("datasets")
huggingface_hub = pytest.importorskip("huggingface_hub")

COMMITS = {None: "a" * 40, "v1": "b" * 40}
ROWS = (chat("en", "x", QUESTION), chat("zh", "x", CHINESE), chat("clean", "x", "What is a bun, and who bakes it?"))


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFT_DATA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.0)


def lines(*questions: str) -> bytes:
    return "".join(json.dumps({"question": each}, ensure_ascii=False) + "\n" for each in questions).encode()


def table(*questions: str) -> bytes:
    target = io.BytesIO()
    pl.DataFrame({"question": questions}).write_parquet(target)
    return target.getvalue()


def stage(*against: Any, **settings: Any) -> Decontaminate:
    return Decontaminate(against=against, **settings)


def found(config: Decontaminate) -> dict[str, str]:
    return dict(run_stage(config, conversations(*ROWS)).rejected.select("id", "detail").rows())


@pytest.fixture
def bucket() -> Iterator[Any]:
    files = fsspec.filesystem("memory")
    files.store.clear()
    files.pseudo_dirs[:] = [""]
    yield files
    files.store.clear()


# ---- addresses ------------------------------------------------------------------------------------------------------


def test_a_set_at_an_address_is_fetched_when_planned_and_workers_ask_no_server(bucket: Any) -> None:
    bucket.pipe_file("/eval/a.jsonl", lines(QUESTION))
    bucket.pipe_file("/eval/sub/b.jsonl", lines(CHINESE))
    fetched = stage("memory://eval/a.jsonl", "memory://eval/sub/*.jsonl").fetched()
    identity = stage_identity(fetched)
    bucket.store.clear()
    sent = pickle.loads(pickle.dumps(fetched))  # noqa: S301 - written a moment before, as for a worker
    told = found(sent)
    assert told["en"].startswith("a.jsonl row 0 question: 32 of 32 units = 1.00 > 0.5: “A baker")
    assert told["zh"].startswith("b.jsonl row 0 question: ")
    assert stage_identity(sent) == identity
    assert {path for path, _ in stage_stamps(sent)} == set(fetched.copies())
    assert len(fetched.copies()) == 2


def test_the_identity_follows_the_content_at_an_address_and_not_the_address(bucket: Any, tmp_path: Path) -> None:
    bucket.pipe_file("/eval/a.jsonl", lines(QUESTION))
    bucket.pipe_file("/moved/a.jsonl", lines(QUESTION))
    first = stage_identity(stage("memory://eval/a.jsonl").fetched())
    assert stage_identity(stage("memory://moved/a.jsonl").fetched()) == first
    assert "memory" not in json.dumps(first)
    bucket.pipe_file("/eval/a.jsonl", lines(CHINESE))
    assert stage_identity(stage("memory://eval/a.jsonl").fetched()) != first


def test_the_identity_follows_the_content_of_a_glob(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(QUESTION))
    first = stage_identity(stage(f"{tmp_path}/*.jsonl"))
    (tmp_path / "b.jsonl").write_bytes(lines(CHINESE))
    assert stage_identity(stage(f"{tmp_path}/*.jsonl")) != first
    assert str(tmp_path) not in json.dumps(first)
    assert set(found(stage(f"{tmp_path}/*.jsonl"))) == {"en", "zh"}


def test_files_and_folders_keep_the_identity_they_had(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(QUESTION))
    config = stage(str(tmp_path / "a.jsonl"))
    assert config.fetched() is config
    [entry] = stage_identity(config)["settings"]["against"]
    assert set(entry) == {"sha256"}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str, list[str]]]:
    """A folder, its address over http, and the requests that were made."""
    folder = tmp_path / "site"
    folder.mkdir()
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            asked.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


def pipeline(tmp_path: Path, *against: Any) -> Any:
    rows = [{"instruction": QUESTION if i == 7 else f"What is {i} plus {i}?", "output": str(2 * i)} for i in range(30)]
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    return parse_pipeline(
        {
            "name": "held",
            "store": str(tmp_path / "store"),
            "sources": [{"name": "sums", "path": str(tmp_path / "rows.json")}],
            "stages": [{"kind": "decontaminate", "against": list(against)}],
        },
        "test",
    )


def test_a_build_against_a_set_over_http_is_another_when_the_set_is(
    site: tuple[Path, str, list[str]], tmp_path: Path
) -> None:
    folder, address, asked = site
    (folder / "test.jsonl").write_bytes(lines(QUESTION))
    held = pipeline(tmp_path, f"{address}/test.jsonl")
    first = build(held)
    assert first.rejected == {"evaluation-overlap": 1}
    steps = plan(held)
    asked.clear()
    [step] = [step for step in steps if step.kind == "decontaminate"]
    assert isinstance(step.stage, Decontaminate)
    assert run_stage(step.stage, conversations(*ROWS)).kept["id"].to_list() == ["zh", "clean"]
    assert asked == []
    assert build(held).reused
    (folder / "test.jsonl").write_bytes(lines(CHINESE))
    second = build(held)
    assert (second.rejected, second.reused) == ({}, False)


def test_what_is_not_there_is_told_for_all_sets_before_any_row_is_read(
    site: tuple[Path, str, list[str]], tmp_path: Path
) -> None:
    address = site[1]
    with pytest.raises(ConfigError) as error:
        pipeline(tmp_path, f"{address}/none.jsonl", str(tmp_path / "missing.jsonl"), {"path": "rows", "splt": "x"}, 5)
    told = str(error.value)
    assert f"stages.0.against: source `evaluation`: nothing found at '{address}/none.jsonl'" in told
    assert f"nothing found at '{tmp_path}/missing.jsonl'" in told
    assert "did you mean 'split'" in told


@pytest.mark.parametrize("entry", ["https://me:pw@host/a.jsonl", {"path": "https://host/a.jsonl?token=pw"}])
def test_an_address_with_a_secret_is_refused_and_not_repeated(entry: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="credentials come from the environment") as error:
        pipeline(tmp_path, entry)
    assert "pw" not in str(error.value)


# ---- the hub --------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A hub with one data set of two splits, the second revision of which has another test split."""
    content = {
        COMMITS[None]: {"data/train-0.parquet": table("Name a river."), "data/test-0.parquet": table(QUESTION)},
        COMMITS["v1"]: {"data/train-0.parquet": table("Name a river."), "data/test-0.parquet": table(CHINESE)},
    }
    commits = dict(COMMITS)

    class Api:
        def dataset_info(self, name: str, revision: str | None) -> Any:
            if name != "org/quiz":
                raise ConnectionError("offline: the hub cannot be reached")
            return SimpleNamespace(sha=commits[revision])

        def get_paths_info(self, name: str, paths: list[str], *, revision: str, repo_type: str) -> list[Any]:
            sizes = {path: len(content[revision][path]) for path in paths}
            return [huggingface_hub.RepoFile(path=p, size=sizes[p], oid=f"{revision[0]}{p}") for p in paths]

    def builder(path: str, *, name: str | None, revision: str) -> Any:
        if name not in {None, "main"}:
            raise ValueError(f"BuilderConfig {name!r} not found. Available: ['main']")
        root = f"hf://datasets/{path}@{revision}/data"
        files = {"train": [f"{root}/train-0.parquet"], "test": [f"{root}/test-0.parquet"]}
        return SimpleNamespace(config=SimpleNamespace(data_files=files))

    class Files:
        """The two requests that fetching makes of a file system."""

        def place(self, root: str) -> tuple[str, str]:
            _, _, rest = root.partition("@")
            commit, _, path = rest.partition("/")
            return commit, path

        def invalidate_cache(self) -> None: ...

        def info(self, root: str) -> dict[str, Any]:
            commit, path = self.place(root)
            size = len(content[commit][path])
            return {"name": root, "type": "file", "size": size, "blob_id": f"{commit[0]}{path}"}

        def cat_file(self, root: str, start: int, end: int) -> bytes:
            commit, path = self.place(root)
            return content[commit][path][start:end]

        def unstrip_protocol(self, name: str) -> str:
            return name

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(datasets, "load_dataset_builder", builder)
    opened = remote._open
    monkeypatch.setattr(remote, "_open", lambda url: (Files(), url) if url.startswith("hf://") else opened(url))
    return commits


def test_a_split_of_the_hub_is_read_at_a_commit_that_the_stage_keeps(hub: Any) -> None:
    named = stage({"path": "hf://datasets/org/quiz", "subset": "main", "split": "test"})
    fetched = named.fetched()
    [kept] = fetched.model_dump()["against"]
    assert kept["path"] == f"hf://datasets/org/quiz@{COMMITS[None]}"
    told = found(fetched)
    assert list(told) == ["en"]
    assert told["en"].startswith("org/quiz/data/test-0.parquet row 0 question: 32 of 32 units")
    assert found(stage({"path": "hf://datasets/org/quiz@v1", "split": "test"})).keys() == {"zh"}
    assert found(stage("hf://datasets/org/quiz@v1/data/test-0.parquet")).keys() == {"zh"}


def test_the_identity_follows_the_content_of_the_split_and_not_the_commit(hub: Any) -> None:
    def identity(split: str, revision: str = "") -> Any:
        return stage_identity(stage({"path": f"hf://datasets/org/quiz{revision}", "split": split}).fetched())

    assert identity("train") == identity("train", "@v1")
    assert identity("test") != identity("test", "@v1")
    before = identity("test")
    hub[None] = COMMITS["v1"]  # the data set moves on
    assert identity("test") != before


def test_a_version_keeps_the_commit_in_its_manifest(hub: Any, tmp_path: Path) -> None:
    result = build(pipeline(tmp_path, {"path": "hf://datasets/org/quiz", "split": "test"}))
    assert result.rejected == {"evaluation-overlap": 1}
    manifest = resolve(tmp_path / "store", result.version).manifest
    [kept] = manifest.pipeline["stages"][0]["against"]
    assert kept == {"path": f"hf://datasets/org/quiz@{COMMITS[None]}", "split": "test"}


def test_what_the_hub_cannot_give_is_told(hub: Any, tmp_path: Path) -> None:
    sets = ["hf://datasets/org/gone", "hf://datasets/org/quiz", {"path": "hf://datasets/org/quiz", "subset": "x"}]
    with pytest.raises(ConfigError) as error:
        pipeline(tmp_path, *sets)
    told = str(error.value)
    assert "hf://datasets/org/gone cannot be read from the hub: offline: the hub cannot be reached" in told
    assert "has several splits: train (1 file), test (1 file); name one in `split`, or all" in told
    assert "BuilderConfig 'x' not found" in told
    with pytest.raises(SourceError, match="cannot be read from the hub"):
        run_stage(stage("hf://datasets/org/gone"), conversations(*ROWS))


def test_a_set_without_leaks_at_an_address_keeps_all(bucket: Any) -> None:
    bucket.pipe_file("/eval/a.jsonl", lines("Which of the many rivers of Europe is the one with the longest delta?"))
    assert ids(run_stage(stage("memory://eval/a.jsonl").fetched(), conversations(*ROWS)).kept) == ["en", "zh", "clean"]
