"""Data sets of the hub: which files, at which commit, of which split. The hub itself is stood in for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sft_data.errors import SourceError
from sft_data.sources import hub
from sft_data.sources.settings import Source

datasets = pytest.importorskip("datasets")
huggingface_hub = pytest.importorskip("huggingface_hub")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {"train": ["data/train-0.parquet", "data/train-1.parquet"], "test": ["data/test-0.parquet"]}


class Hub:
    """What is asked of the hub, answered from FILES."""

    def dataset_info(self, name: str, revision: str | None) -> Any:
        if name != "org/talks":
            raise ValueError("404: there is no such repository")
        assert revision in {None, "v1"}
        return SimpleNamespace(sha=COMMIT)

    def get_paths_info(self, name: str, paths: list[str], *, revision: str, repo_type: str) -> list[Any]:
        assert (name, revision, repo_type) == ("org/talks", COMMIT, "dataset")
        return [huggingface_hub.RepoFile(path=path, size=len(path), oid=path[::-1]) for path in paths]


def builder(path: str, **settings: Any) -> Any:
    if settings["name"] not in {None, "default"}:
        raise ValueError(f"BuilderConfig {settings['name']!r} not found. Available: ['default']")
    root = f"hf://datasets/{path}@{settings['revision']}"
    return SimpleNamespace(
        config=SimpleNamespace(data_files={s: [f"{root}/{p}" for p in paths] for s, paths in FILES.items()})
    )


@pytest.fixture(autouse=True)
def _hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(datasets, "load_dataset_builder", builder)


def source(path: str = "hf://datasets/org/talks", **settings: Any) -> Source:
    return Source(name="s", path=path, **settings)


def test_a_split_gives_its_files_at_the_commit_of_the_revision() -> None:
    entries = hub.files_of(source("hf://datasets/org/talks@v1", split="train"))
    assert [entry.name for entry in entries] == FILES["train"]
    assert entries[0].url == f"hf://datasets/org/talks@{COMMIT}/data/train-0.parquet"
    assert (entries[0].size, entries[0].mark) == (20, "20 teuqrap.0-niart/atad")
    assert len(hub.files_of(source(split="all"))) == 3


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, r"several splits: train \(2 files\), test \(1 file\); name one"),
        ({"split": "dev"}, "has no split 'dev'"),
        ({"split": "train", "subset": "x"}, "BuilderConfig 'x' not found"),
        ({"path": "hf://datasets/org/nothing"}, "404"),
    ],
)
def test_what_is_not_there_or_not_clear_is_told(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(SourceError, match=told):
        hub.files_of(source(**settings))


def test_init_writes_the_commit_and_the_split_to_train_on() -> None:
    chosen = hub.choice_of(source())
    assert (chosen.path, chosen.split) == (f"hf://datasets/org/talks@{COMMIT}", "train")


def test_a_commit_stays_and_files_of_the_hub_are_pinned_too() -> None:
    assert hub.pinned(f"hf://datasets/org/talks@{COMMIT}/a.json") == f"hf://datasets/org/talks@{COMMIT}/a.json"
    assert hub.pinned("hf://datasets/org/talks/a/*.json") == f"hf://datasets/org/talks@{COMMIT}/a/*.json"
    assert hub.pinned("s3://bucket/a.json") == "s3://bucket/a.json"
