from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest

from sft_data.store.layout import arrow_batches
from sft_data.store.read import load_manifest
from sft_data.store.verify import verify
from tests.store.versions import published, reseal, rewrite, rewrite_parquet, rewrite_stream


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """The small version in a store."""
    home = tmp_path_factory.mktemp("verify")
    return published(home / "store", home / "cells").folder


@pytest.fixture
def folder(original, tmp_path):
    """A copy to damage, in a store of its own."""
    shutil.copytree(original.parent.parent, tmp_path / "store")
    return tmp_path / "store" / "small" / "v1"


def stream(path: Path) -> dict[str, list[list[int]]]:
    """An Arrow stream as lists."""
    return pl.concat(list(arrow_batches(path))).to_dict(as_series=False)


def test_verify_version_as_published_is_whole(original):
    found = verify(original)
    assert found.problems == []
    assert found.ok
    assert found.files == sum(1 for path in original.rglob("*") if path.is_file())


def test_verify_finds_a_flipped_byte_in_every_file(folder):
    """One byte in the first tenth, the middle and the end of each file of the version, one after the other."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    assert len(files) > 20
    for path in files:
        name = path.relative_to(folder).as_posix()
        whole = path.read_bytes()
        for place in {0, len(whole) // 10, len(whole) // 2, len(whole) - 1}:
            rewrite(path, whole[:place] + bytes([whole[place] ^ 0x01]) + whole[place + 1 :])
            found = verify(folder)
            assert not found.ok, f"{name}, byte {place}"
            assert any(name in problem for problem in found.problems), f"{name}, byte {place}: {found.problems}"
        rewrite(path, whole)
    assert verify(folder).ok


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_verify_finds_every_file_that_was_cut_short(folder, share):
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        whole = path.read_bytes()
        rewrite(path, whole[: int(len(whole) * share)])
        name = path.relative_to(folder).as_posix()
        assert any(name in problem for problem in verify(folder).problems), name
        rewrite(path, whole)
    assert verify(folder).ok


def test_verify_names_both_of_two_files_that_were_swapped(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for one, other in zip(files, [*files[1:], files[0]], strict=True):
        first, second = one.read_bytes(), other.read_bytes()
        if first == second:
            continue
        rewrite(one, second)
        rewrite(other, first)
        problems = " ".join(verify(folder).problems)
        for path in (one, other):
            # Without its manifest nothing can be said of the other files.
            if folder / "manifest.json" not in (one, other) or path.name == "manifest.json":
                assert path.relative_to(folder).as_posix() in problems, f"{one.name}, {other.name}: {problems}"
        rewrite(one, first)
        rewrite(other, second)
    assert verify(folder).ok


def test_verify_names_a_file_in_whose_place_a_folder_stands(folder):
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        whole = path.read_bytes()
        path.unlink()
        path.mkdir()
        name = path.relative_to(folder).as_posix()
        assert any(name in problem for problem in verify(folder).problems), name
        path.rmdir()
        rewrite_back(path, whole)


def test_verify_finds_every_missing_file(folder):
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        whole = path.read_bytes()
        path.unlink()
        found = verify(folder)
        name = path.relative_to(folder).as_posix()
        assert any(name in problem for problem in found.problems), found.problems
        rewrite_back(path, whole)


def rewrite_back(path: Path, whole: bytes) -> None:
    path.write_bytes(whole)


def test_verify_finds_a_file_too_many_and_a_file_cut_short(folder):
    (folder / "conversations/train/00001.parquet").write_bytes(b"PAR1")
    rewrite(folder / "tokenizer/tokenizer.json", b"{")
    assert verify(folder).problems[:2] == [
        "tokenizer/tokenizer.json has 1 bytes, the manifest says 2",
        "conversations/train/00001.parquet is not in the manifest",
    ]


def test_verify_manifest_and_build_changed_together_are_betrayed_by_the_log(folder):
    counts = load_manifest(folder).counts
    reseal(folder, counts=counts.model_copy(update={"rows_in": 13, "rows_rejected": 5}))
    found = verify(folder)
    assert "manifest.json is not the one that was published: log.jsonl holds another hash of it" in found.problems


def edit_parquet(path: str, change):
    def apply(folder: Path) -> None:
        rewrite_parquet(folder / path, change(pl.read_parquet(folder / path)))

    return apply


def edit_stream(path: str, column: str, row: int, place: int, value: int):
    def apply(folder: Path) -> None:
        columns = stream(folder / path)
        columns[column][row][place] = value
        rewrite_stream(folder / path, columns)

    return apply


TRAIN = "data-00000-of-00001.arrow"
LIES = {
    "another answer": (
        edit_parquet("conversations/train/00000.parquet", lambda f: f.with_columns(messages=f["messages"].reverse())),
        "conversations/train/00000.parquet: the messages of row 's:a.json:0' are not those of its content hash",
    ),
    "a row lost": (
        edit_parquet("rejections/00000.parquet", lambda f: f.head(3)),
        "rejections/ holds 3 rows, manifest.json says 4 were rejected",
    ),
    "a row twice": (
        edit_parquet("rejections/00000.parquet", lambda f: pl.concat([f.head(3), f.slice(1, 1)])),
        "row 's:a.json:3' stands twice in conversations/ and rejections/",
    ),
    "another code": (
        edit_parquet("rejections/00000.parquet", lambda f: f.with_columns(code=pl.lit("unreadable-row"))),
        "rejections/ holds 0 rows of answer-length: answer-too-short, manifest.json says 1",
    ),
    "a column of another type": (
        edit_parquet("edits/00000.parquet", lambda f: f.with_columns(pl.col("count").cast(pl.Int32))),
        "edits/00000.parquet: column count is Int32, not Int64",
    ),
    "a cluster in two splits": (
        edit_parquet("conversations/train/00000.parquet", lambda f: f.with_columns(cluster=pl.lit("s:a.json:4"))),
        "conversations/: the cluster of 's:a.json:4' lies in train and validation",
    ),
    "rows of another split": (
        edit_parquet("conversations/train/00000.parquet", lambda f: f.with_columns(split=pl.lit("test"))),
        "conversations/train/00000.parquet holds rows of another split",
    ),
    "a sidecar in another order": (
        edit_parquet("sidecar/train/00000.parquet", lambda f: f.with_columns(id=f["id"].reverse())),
        "sidecar/train does not hold the rows of conversations/train in their order",
    ),
    "another length": (
        edit_parquet("sidecar/train/00000.parquet", lambda f: f.with_columns(tokens=f["tokens"] + 1)),
        f"tokens/train/{TRAIN}: row 0 has another length than its sidecar says (and 5 more rows)",
    ),
    "another trained count": (
        edit_parquet("sidecar/train/00000.parquet", lambda f: f.with_columns(trained=f["trained"] - 1)),
        f"tokens/train/{TRAIN}: row 0 trains another number of tokens than its sidecar says (and 5 more rows)",
    ),
    "spans too far": (
        edit_parquet(
            "sidecar/train/00000.parquet",
            lambda f: f.with_columns(
                spans=pl.col("spans").list.eval(pl.element().struct.with_fields(end=pl.field("end") + 1))
            ),
        ),
        f"tokens/train/{TRAIN}: row 0 has spans outside its tokens (and 5 more rows)",
    ),
    "spans one short": (
        edit_parquet(
            "sidecar/train/00000.parquet",
            lambda f: f.with_columns(
                spans=pl.col("spans").list.eval(pl.element().struct.with_fields(end=pl.field("end") - 1))
            ),
        ),
        f"tokens/train/{TRAIN}: row 0 has labels outside its spans (and 5 more rows)",
    ),
    "a prompt token trained": (
        edit_stream(f"tokens/train/{TRAIN}", "labels", 2, 0, 88),
        f"tokens/train/{TRAIN}: row 2 has labels outside its spans",
    ),
    "a label that is another token": (
        edit_stream(f"tokens/train/{TRAIN}", "labels", 1, -1, 88),
        f"tokens/train/{TRAIN}: row 1 has labels that are not its input_ids",
    ),
    "a token in a pack": (
        edit_stream(f"packs/train/{TRAIN}", "input_ids", 1, 5, 7),
        f"packs/train/{TRAIN}: row 1 holds other tokens than its rows",
    ),
    "a boundary trained": (
        edit_stream(f"packs/train/{TRAIN}", "labels", 0, 63, 1),
        f"packs/train/{TRAIN}: row 0 trains on the first token of a row, which its neighbour would predict",
    ),
    "a pack's label masked": (
        edit_stream(f"packs/validation/{TRAIN}", "labels", 0, 20, -100),
        f"packs/validation/{TRAIN}: row 0 holds other labels than its rows",
    ),
    "segment lengths": (
        edit_stream(f"packs/train/{TRAIN}", "seq_lengths", 0, 0, 62),
        f"packs/train/{TRAIN}: seq_lengths from pack 0 on are not those of pack_index/train",
    ),
    "a row packed twice": (
        edit_parquet("pack_index/train/00000.parquet", lambda f: f.with_columns(row=pl.col("row").clip(1))),
        "pack_index/train does not hold each row of tokens/train once: 5 of 6 rows, 2 twice",
    ),
    "all in one pack": (
        edit_parquet(
            "pack_index/train/00000.parquet",
            lambda f: f.with_columns(pack=pl.lit(0, dtype=pl.Int64), position=pl.int_range(6, dtype=pl.Int32)),
        ),
        "pack_index/train: pack 0 holds 409 tokens, more than 256",
    ),
    "a pack without a number": (
        edit_parquet("pack_index/train/00000.parquet", lambda f: f.with_columns(pack=pl.col("pack") * 2)),
        "pack_index/train: packs are not numbered from 0 without a gap",
    ),
    "a place twice": (
        edit_parquet("pack_index/train/00000.parquet", lambda f: f.with_columns(position=pl.lit(0, dtype=pl.Int32))),
        "pack_index/train: the places of pack 0 are not numbered from 0 without a gap",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_verify_finds_contents_that_contradict_each_other_under_right_hashes(folder, lie):
    change, told = LIES[lie]
    change(folder)
    reseal(folder)
    assert told in verify(folder).problems


def test_verify_unreadable_manifest_is_a_problem_not_an_error(folder):
    rewrite(folder / "manifest.json", b"\xff\xfe")
    found = verify(folder)
    assert not found.ok
    assert "manifest.json" in found.problems[0]


def test_verify_step_that_does_not_balance_is_named(folder):
    steps = load_manifest(folder).steps
    steps[3] = steps[3].model_copy(update={"rows_kept": 8})
    reseal(folder, steps=steps)
    assert "manifest.json: step 03:near-dedup does not balance" in verify(folder).problems
