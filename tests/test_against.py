"""New rows against older versions: the index in the store, and what a user sees of it."""

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from sft_data import steps
from sft_data.build import BuildResult, build, forecast
from sft_data.check import dry_run
from sft_data.errors import ConfigError
from sft_data.pipeline import Pipeline, parse_pipeline
from sft_data.store.manage import gc
from sft_data.store.read import load_manifest, resolve
from sft_data.store.verify import verify
from sft_data.store.why import why
from tests.dedup import oracle
from tests.trees import ROOT

GOLDEN = ROOT / "tests" / "store" / "golden" / "format-1"


def rows(seed: str, base: int) -> list[tuple[str, str]]:
    """Questions and answers, two thirds of them perturbed copies."""
    draw = oracle.dice(seed)
    found = []
    for _ in range(base):
        asked, said = (oracle.sentence(draw, draw.randrange(low, 60), "mixed") for low in (3, 1))
        found.append((asked, said))
        for _ in range(2):
            kind = draw.choice(oracle.KINDS)
            found.append((asked, oracle.perturbed(draw, said, kind, draw.choice([0.02, 0.1]))))
    draw.shuffle(found)
    return found


def pipeline(
    folder: Path, name: str, pairs: list[tuple[str, str]], only: tuple[str, ...] = (), **near: Any
) -> Pipeline:
    """A pipeline over one file of these rows; `only` some of its stages."""
    file = folder / f"{name}.json"
    file.write_text(json.dumps([{"instruction": asked, "input": "", "output": said} for asked, said in pairs]))
    stages = [{"kind": "exact-dedup", "against": near.get("against", [])}, {"kind": "near-dedup", **near}]
    stages = [stage for stage in stages if not only or stage["kind"] in only]
    return parse_pipeline(
        {"name": name, "sources": [{"name": name, "path": str(file), "format": "alpaca"}], "stages": stages}, name
    )


def ledger(built: BuildResult) -> pl.DataFrame:
    return pl.read_parquet(Path(built.path) / "rejections" / "*.parquet").select("id", "code", "twin", "score")


@pytest.fixture
def old(tmp_path: Path) -> BuildResult:
    return build(pipeline(tmp_path, "old", rows("against", 40)[:80]), tmp_path / "store")


def no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, reading the text of published rows fails."""

    def refuse(file: Path) -> None:
        raise AssertionError(f"{file} was read again")

    monkeypatch.setattr(steps, "older_frames", refuse)


@pytest.mark.parametrize("stage", ["exact-dedup", "near-dedup"])
def test_build_against_a_version_removes_what_one_build_over_all_rows_removes(stage: str, tmp_path: Path) -> None:
    every, only = rows("against", 40), (stage,)
    whole = build(pipeline(tmp_path, "whole", every, only), tmp_path / "other")
    old = build(pipeline(tmp_path, "old", every[:80], only), tmp_path / "store")
    late = build(pipeline(tmp_path, "late", every[80:], only, against=["old@v1"]), tmp_path / "store")

    def number(row_id: str) -> int:
        return int(row_id.rsplit(":", 1)[1]) + (80 if row_id.startswith("late") else 0)

    label = f"old@{old.fingerprint[:12]}:"
    found = {number(row[0]): (number(row[2].removeprefix(label)), row[3]) for row in ledger(late).iter_rows()}
    expected = {number(row[0]): (number(row[2]), row[3]) for row in ledger(whole).iter_rows() if number(row[0]) >= 80}
    assert found == expected
    twins = ledger(late)["twin"]
    assert twins.str.starts_with(label).sum() > 3
    assert twins.str.starts_with("late:").sum() > 0
    assert load_manifest(Path(late.path)).parents == [old.fingerprint]


def test_build_against_a_version_reads_its_text_once(
    old: BuildResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build(pipeline(tmp_path, "first", rows("against", 40)[80:], against=["old"]), tmp_path / "store")
    no_text(monkeypatch)
    again = pipeline(tmp_path, "again", rows("against", 40)[80:], against=["old@v1"], keep="longest")
    found = [set(ledger(each)["id"].str.split(":").list.last()) for each in (first, build(again, tmp_path / "store"))]
    assert len(found[0] & found[1]) > 20
    with pytest.raises(AssertionError, match="read again"):  # other shingles are another index
        build(pipeline(tmp_path, "other", [("a", "b")], against=["old"], ngram=4), tmp_path / "store")


def test_why_and_report_tell_the_text_of_a_twin_in_another_version(old: BuildResult, tmp_path: Path) -> None:
    asked, said = rows("against", 40)[0]
    late = build(pipeline(tmp_path, "late", [(asked, said), ("New?", "Yes.")], against=["old@v1"]), tmp_path / "store")
    event = why(Path(late.path), "late:late.json:0").events[-1]
    assert event.more["twin"] == f"old@{old.fingerprint[:12]}:old:old.json:0"
    assert said.split()[0] in event.more["twin_text"]
    assert resolve(tmp_path / "store", event.more["twin"].split(":")[0]).folder == Path(old.path)


def test_new_version_of_the_older_dataset_makes_another_build(old: BuildResult, tmp_path: Path) -> None:
    late = pipeline(tmp_path, "late", [("New?", "Yes, it is.")], against=["old"])
    assert build(late, tmp_path / "store").version == "late@v1"
    assert forecast(late, tmp_path / "store").version == "late@v1"
    build(pipeline(tmp_path, "old", [("New?", "Yes, it is.")]), tmp_path / "store")
    assert forecast(late, tmp_path / "store").version is None
    pinned = pipeline(tmp_path, "late", [("New?", "Yes, it is.")], against=[f"old@{old.fingerprint}"])
    assert build(pinned, tmp_path / "store").reused


def test_verify_and_gc_know_the_index(old: BuildResult, tmp_path: Path) -> None:
    store = tmp_path / "store"
    build(pipeline(tmp_path, "late", [("New?", "Yes.")], against=["old"]), store)
    assert verify(Path(old.path)).ok
    assert gc(store, drafts_days=0.0).cells == []
    file = next((store / ".index" / "cells").glob("*/*/sketch-*.arrow"))
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert [problem.split()[0] for problem in verify(Path(old.path)).problems] == [str(file.relative_to(store))]
    cells = sorted(path.relative_to(store).as_posix() for path in (store / ".index" / "cells").glob("*/*"))
    shutil.rmtree(store / "old")
    assert gc(store, drafts_days=1.0).cells == []
    assert gc(store, remove=True, drafts_days=0.0).cells == cells
    assert not list((store / ".index" / "cells").glob("*/*"))


def test_build_against_what_is_not_there_tells_all_at_once(old: BuildResult, tmp_path: Path) -> None:
    wrong = pipeline(tmp_path, "late", [("New?", "Yes.")], against=["odl@v1", "old@v7"])
    with pytest.raises(ConfigError) as error:
        build(wrong, tmp_path / "store")
    told = str(error.value)
    assert "did you mean 'old'?" in told
    assert "old has no version v7; it has: v1" in told
    assert "stages.0: `exact-dedup`" in told
    assert "stages.1: `near-dedup`" in told


def test_check_against_a_version_looks_into_its_folder(old: BuildResult, tmp_path: Path) -> None:
    asked, said = rows("against", 40)[0]
    late = pipeline(tmp_path, "late", [(asked, said), ("New?", "Yes.")], against=["old@v1"])
    funnel = dry_run(late.model_copy(update={"store": str(tmp_path / "store")}), 10).funnel
    assert [line["rejected"] for line in funnel[1:3]] == [{"exact-duplicate": 1}, {}]


def test_version_of_an_older_release_without_an_index_is_read(tmp_path: Path) -> None:
    golden = next(path.parent for path in sorted(GOLDEN.rglob("manifest.json")))
    kept = pl.read_parquet(golden / "conversations" / "**" / "*.parquet")
    row = kept.filter(pl.col("messages").list.len() == 2).row(0, named=True)
    pair = (row["messages"][0]["content"], row["messages"][1]["content"])
    late = pipeline(tmp_path, "late", [pair, ("New?", "Yes.")], against=[str(golden)])
    [twin] = ledger(build(late, tmp_path / "store"))["twin"].to_list()
    assert twin.endswith(f":{row['id']}")
