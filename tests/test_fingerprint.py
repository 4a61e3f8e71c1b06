from pathlib import Path
from types import SimpleNamespace

import pytest

from sft_data import fingerprint
from sft_data.filters.answer_length import AnswerLength
from sft_data.fingerprint import digest, path_sha256, stage_identity


def test_digest_of_other_values_differs():
    assert digest("a", 1) != digest("a", 2)
    assert digest(["a", "b"]) != digest("a", "b")


def test_folder_hash_follows_names_and_bytes_not_place_or_hidden_files(tmp_path: Path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer.json").write_text("{}")
    (tmp_path / "two" / ".cache").write_text("noise")
    assert path_sha256(tmp_path / "one") == path_sha256(tmp_path / "two")
    (tmp_path / "two" / "tokenizer.json").write_text("{ }")
    assert path_sha256(tmp_path / "one") != path_sha256(tmp_path / "two")


def test_stage_identity_follows_settings():
    assert stage_identity(AnswerLength(min_chars=3)) == stage_identity(AnswerLength(min_chars=3))
    assert stage_identity(AnswerLength(min_chars=3)) != stage_identity(AnswerLength(min_chars=4))


def test_stage_identity_holds_a_files_content_and_not_its_path(tmp_path: Path):
    class Listed(AnswerLength):
        files = ("words",)
        words: str

    for name, text in (("a", "same"), ("b", "same"), ("c", "other")):
        (tmp_path / name).write_text(text)
    identity = {name: stage_identity(Listed(words=str(tmp_path / name))) for name in "abc"}
    assert identity["a"] == identity["b"]
    assert identity["a"] != identity["c"]


def test_stage_identity_holds_the_content_of_every_file_of_a_list(tmp_path: Path):
    class Listed(AnswerLength):
        files = ("lists",)
        lists: tuple[str, ...]

    for name, text in (("a", "same"), ("b", "same"), ("c", "other")):
        (tmp_path / name).write_text(text)
    identity = {
        pair: stage_identity(Listed(lists=tuple(str(tmp_path / name) for name in pair))) for pair in ("ab", "ba", "ac")
    }
    assert identity["ab"] == identity["ba"]
    assert identity["ab"] != identity["ac"]


def test_identity_of_a_stage_that_asks_what_a_character_is_holds_the_version_of_unicode(
    monkeypatch: pytest.MonkeyPatch,
):
    """Two Pythons on one machine know different characters, and may give different rows."""
    from sft_data.clean.repair import RepairText
    from sft_data.dedup.near import NearDedup

    for stage in (RepairText(), NearDedup()):
        before = stage_identity(stage)
        with monkeypatch.context() as patch:
            patch.setattr(fingerprint, "unicodedata", SimpleNamespace(unidata_version="99.0.0"))
            assert stage_identity(stage)["libraries"]["unicode"] == "99.0.0"
            assert stage_identity(stage) != before
