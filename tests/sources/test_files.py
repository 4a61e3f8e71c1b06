"""Which files a source names."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from sft_data.errors import SourceError
from sft_data.sources.files import find_files
from sft_data.sources.settings import Limits, Rules, Source, Template


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.jsonl", "a.json.gz", "sub/c.csv", "README.md", ".hidden/d.json", "sub/.e.json", "saved/x.arrow"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "saved/dataset_info.json").write_text("{}")
    (tmp_path / "saved/state.json").write_text("{}")
    return tmp_path


def names(path: Path | str, base: Path | None = None) -> list[str]:
    return [file.name for file in find_files(Source(name="s", path=str(path)), base)]


def test_a_folder_gives_its_data_files_sorted_and_nothing_hidden(folder: Path) -> None:
    assert names(folder) == ["a.json.gz", "b.jsonl", "saved/x.arrow", "sub/c.csv"]


def test_a_glob_names_files_below_its_last_fixed_folder(folder: Path) -> None:
    assert names(folder / "*.json*") == ["a.json.gz", "b.jsonl"]
    assert names(folder / "*/*.csv") == ["sub/c.csv"]
    assert names(folder / "sub/*.csv") == ["c.csv"]
    assert names(folder / "**/*.csv") == ["sub/c.csv"]


def test_a_file_is_named_by_itself_whatever_its_ending(folder: Path) -> None:
    assert names(folder / "README.md") == ["README.md"]


def test_a_relative_path_starts_at_the_base_and_gives_the_same_names(folder: Path) -> None:
    assert names("sub", folder) == names(folder / "sub") == ["c.csv"]


def test_a_file_knows_its_size_and_hash(folder: Path) -> None:
    [file] = find_files(Source(name="s", path=str(folder / "b.jsonl")))
    assert (file.size, file.sha256()) == (7, hashlib.sha256(b"b.jsonl").hexdigest())
    assert file.path.is_absolute()


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("b.jsonn", "near matches: 'b.jsonl'"),
        ("*.parquet", "looked in"),
        ("subb/c.csv", "near matches: 'sub'"),
        ("empty", "no file in"),
    ],
)
def test_nothing_found_says_what_was_looked_for_and_what_is_there(folder: Path, path: str, told: str) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(SourceError) as error:
        names(folder / path)
    assert told in str(error.value)
    assert "source `s`" in str(error.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "Bad Name"},
        {"format": "alpacca"},
        {"fields": {"input": "x", "output": "x"}},
        {"format": "table"},
        {"templates": [{"prompt": "p", "response": "r"}]},
        {"seed": 3},
        {"weights": 2},
        {"limits": {"max_row_bytes": 0}},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Source.model_validate({"name": "s", "path": "x", **settings})


@pytest.mark.parametrize("model", [Source, Limits, Rules, Template])
def test_every_setting_says_what_it_is(model: type[BaseModel]) -> None:
    assert all(field.description for field in model.model_fields.values())
