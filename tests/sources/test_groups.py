"""Small files and members are read together, and nothing of the outcome shows it."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import polars as pl
import pytest

from sft_data import steps
from sft_data.build import BuildResult, StepResult, build
from sft_data.pipeline import Pipeline, parse_pipeline
from sft_data.plan import Step
from sft_data.sources import groups
from sft_data.sources.groups import ENDS, GROUP_BYTES, GROUP_UNITS, SMALL, grouped
from sft_data.sources.streams import Text
from sft_data.sources.units import Unit
from tests.trees import hashes


def unit(number: int, size: int) -> Unit:
    return Unit(f"{number:05d}.jsonl", Path("f"), Text("none", "utf-8"), "lines", size=size)


def test_groups_hold_all_units_in_order_and_no_more_than_they_may():
    sizes = [(number * 7919) % (3 * 2**10) * 2**10 for number in range(3000)] + [0] * 5000
    units = [unit(number, size) for number, size in enumerate(sizes)]
    found = list(grouped(units))
    assert [one for group in found for one in group] == units
    for group in found:
        assert len(group) == 1 or max(one.size for one in group) < SMALL
        assert len(group) <= GROUP_UNITS
        assert sum(one.size for one in group) <= GROUP_BYTES or len(group) == 1
    assert len(list(grouped(unit(number, 10) for number in range(5000)))) < 5000 / ENDS * 3


def test_file_that_comes_in_between_moves_no_group_behind_the_next_end():
    units = [unit(number, 100) for number in range(0, 20_000, 2)]
    before = set(grouped(units))
    for new in (1, 9_999, 19_999):
        after = set(grouped(sorted([*units, unit(new, 100)], key=lambda one: one.name)))
        assert len(after - before) <= 3
    assert set(grouped(units[:5000] + units[5001:])) - before


class Kept:
    def __init__(self) -> None:
        self.results: list[StepResult] = []

    def begin(self, step: Step, cells: int) -> None: ...

    def advance(self) -> None: ...

    def finish(self, result: StepResult) -> None:
        self.results.append(result)


def lines(number: int, rows: int = 3) -> bytes:
    told = [{"instruction": f"Say {number} and {n}.", "input": "", "output": f"{number}, {n}."} for n in range(rows)]
    return "".join(json.dumps(row) + "\n" for row in told).encode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve files: rows that cannot be read in the fourth, nothing in the sixth, a large one in between."""
    made = tmp_path / "files"
    made.mkdir()
    for number in range(12):
        (made / f"{number:02d}.jsonl").write_bytes(lines(number, 200 if number == 8 else 3))
    (made / "03.jsonl").write_bytes(lines(3) + b"{broken\n" + b'{"instruction": "a"}\n')
    (made / "05.jsonl").write_bytes(b"")
    return made


def pipeline(path: Path) -> Pipeline:
    source = {"name": "s", "path": str(path), "format": "alpaca"}
    stages = [{"kind": "exact-dedup"}, {"kind": "answer-length", "min_chars": 2}]
    settings = {"name": "parts", "sources": [source], "stages": stages, "split": {"validation": 0.0, "test": 0.0}}
    return parse_pipeline(settings, "parts")


def shards(watch: Kept) -> int:
    return len(watch.results[0].shards)


def built(path: Path, store: Path) -> tuple[BuildResult, Kept]:
    watch = Kept()
    return build(pipeline(path), store, watch=watch), watch


def test_files_read_together_give_the_bytes_of_files_read_one_by_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    together, one = built(folder, tmp_path / "together")
    assert shards(one) == 1
    monkeypatch.setattr(groups, "GROUP_UNITS", 1)
    apart, many = built(folder, tmp_path / "apart")
    assert shards(many) == 11
    monkeypatch.setattr(groups, "GROUP_UNITS", 5)
    monkeypatch.setattr(groups, "SMALL", 1000)
    some, few = built(folder, tmp_path / "some")
    assert 2 < shards(few) < 11
    assert together.fingerprint == apart.fingerprint == some.fingerprint
    told = [hashes(Path(result.path)) for result in (together, apart, some)]
    assert told[0] == told[1] == told[2]


def test_rows_read_together_still_name_their_own_file(folder: Path, tmp_path: Path):
    result, _ = built(folder, tmp_path / "store")
    rejected = pl.read_parquet(Path(result.path) / "rejections" / "*.parquet").sort("line")
    found = rejected.filter(pl.col("file") == "03.jsonl").select("id", "code", "line", "byte").rows()
    assert found == [
        ("s:03.jsonl:3", "unreadable-row", 4, len(lines(3))),
        ("s:03.jsonl:4", "missing-field", 5, len(lines(3)) + 8),
    ]
    kept = pl.read_parquet(Path(result.path) / "conversations" / "*" / "*.parquet")["id"]
    assert {f"s:{n:02d}.jsonl:0" for n in range(12) if n != 5} <= set(kept)


def test_one_changed_file_is_read_again_with_its_group_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(groups, "GROUP_UNITS", 4)
    first, watch = built(folder, tmp_path / "store")
    assert (watch.results[0].pieces, watch.results[0].pieces_reused) == (3, 0)
    (folder / "06.jsonl").write_bytes(lines(60))
    read = []
    whole = steps.read_units
    monkeypatch.setattr(
        steps, "read_units", lambda units, *how: read.append([unit.name for unit in units]) or whole(units, *how)
    )
    second, watch = built(folder, tmp_path / "store")
    assert (watch.results[0].pieces, watch.results[0].pieces_reused) == (3, 2)
    assert read == [["04.jsonl", "05.jsonl", "06.jsonl", "07.jsonl"]]
    assert second.fingerprint != first.fingerprint
    kept = pl.read_parquet(Path(second.path) / "conversations" / "*" / "*.parquet")
    said = kept.filter(pl.col("id") == "s:06.jsonl:0")["messages"].to_list()[0]
    assert said[1]["content"] == "60, 0."


def test_members_of_a_zip_are_read_together_in_the_order_of_their_names(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number in (*range(59, 0, -1), 0):
            archive.writestr(f"m/{number:02d}.jsonl", lines(number))
        archive.writestr("../out.jsonl", lines(99))
    result, watch = built(tmp_path / "a.zip", tmp_path / "store")
    assert shards(watch) <= 2
    kept = pl.read_parquet(Path(result.path) / "conversations" / "*" / "*.parquet")["id"].to_list()
    assert kept == [f"s:a.zip/m/{number:02d}.jsonl:{n}" for number in range(60) for n in range(3)]
    assert result.rejected == {"unsafe-member": 1}
