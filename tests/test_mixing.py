"""Selecting, mixing and splitting through real builds: nothing lost, the same bytes, no twin on the other side."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from sft_data import build as build_module
from sft_data.build import BuildResult, build
from sft_data.engine import LocalEngine
from sft_data.pipeline import Pipeline, parse_pipeline
from sft_data.report.model import Report
from sft_data.store.verify import verify
from tests.dedup import oracle
from tests.frames import ids
from tests.trees import ROOT, hashes

SOURCES = {"web": 420, "books": 240}


def rows_of(source: str, count: int) -> list[dict[str, Any]]:
    """English and Chinese questions; each fourth one asks an earlier one again in nearly the same words.

    Some of those are answered alike (duplicates), some in other words (twins that stay).
    """
    draw, rows = oracle.dice(source), list[dict[str, Any]]()
    for number in range(count):
        script = "zh" if number % 3 == 0 else "en"
        asked = oracle.sentence(draw, 45, script)
        said = oracle.sentence(draw, draw.randint(5, 40), script)
        if number % 4 == 3:
            old = rows[draw.randrange(len(rows))]
            asked = oracle.perturbed(draw, old["instruction"], "word", 0.01)
            said = old["output"] if number % 8 == 3 else said
        rows.append({"instruction": asked, "output": said, "rating": draw.choice([1, 2, 3, 4, 5, "none"])})
    return rows


def pipeline_of(folder: Path, more: dict[str, list[dict[str, Any]]] | None = None, **extra: Any) -> Pipeline:
    folder.mkdir(parents=True, exist_ok=True)
    tables = {name: rows_of(name, count) for name, count in SOURCES.items()}
    for name, rows in (more or {}).items():
        tables[name] = tables.get(name, []) + rows
    for name, rows in tables.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    data = {
        "name": "mixed",
        "seed": 5,
        "sources": [{"name": n, "path": str(folder / f"{n}.jsonl"), "format": "alpaca"} for n in tables],
        "stages": [{"kind": "near-dedup"}, {"kind": "detect-language"}],
        "split": {"validation": 0.2, "test": 0.1},
    }
    return parse_pipeline(data | extra, "pipeline")


CHOOSING: dict[str, Any] = {
    "stages": [
        {"kind": "near-dedup"},
        {"kind": "detect-language"},
        {"kind": "select", "by": "extra.rating", "budget": 400, "method": "round-robin", "groups": "cluster"},
        {
            "kind": "select",
            "budget": 350,
            "method": "distant",
            "distance": 0.2,
            "per": "lang",
            "floors": {"zh": 60},
        },
        {"kind": "mix", "by": "source", "shares": {"books": 0.5}, "repeat": 3.0, "total": 240},
    ],
    "tokenize": {"tokenizer": str(ROOT / "samples" / "tokenizer"), "max_length": 512},
    "pack": {"max_length": 512, "order": {"by": "answer-characters", "window": 100}},
}


def table(result: BuildResult, name: str) -> pl.DataFrame:
    return pl.concat(pl.read_parquet(path) for path in sorted(Path(result.path).glob(f"{name}/**/*.parquet")))


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> BuildResult:
    folder = tmp_path_factory.mktemp("split")
    return build(pipeline_of(folder / "data"), folder / "store")


@pytest.fixture(scope="module")
def choosing(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return pipeline_of(tmp_path_factory.mktemp("data"), **CHOOSING)


@pytest.fixture(scope="module")
def chosen(choosing: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> BuildResult:
    return build(choosing, tmp_path_factory.mktemp("store"))


def test_build_that_selects_and_mixes_loses_no_row(chosen: BuildResult) -> None:
    kept, gone = ids(table(chosen, "conversations")), table(chosen, "rejections")
    assert sorted(kept + ids(gone)) == sorted(f"{n}:{n}.jsonl:{i}" for n, c in SOURCES.items() for i in range(c))
    codes = Counter(gone["code"])
    assert set(codes) == {"near-duplicate", "no-score", "not-selected", "too-near", "mixed-out"}
    assert codes == chosen.rejected
    assert verify(Path(chosen.path)).problems == []


@pytest.mark.slow  # starts six processes
@pytest.mark.parametrize(("workers", "shard_rows"), [(2, 8192), (4, 61)])
def test_build_that_selects_mixes_and_splits_gives_the_same_bytes_for_any_workers_and_shards(
    choosing: Pipeline,
    chosen: BuildResult,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
    shard_rows: int,
) -> None:
    monkeypatch.setattr(build_module, "LIGHT_ROWS", 0)
    with LocalEngine(workers) as engine:
        other = build(choosing, tmp_path, engine=engine, shard_rows=shard_rows)
    assert other.fingerprint == chosen.fingerprint
    assert hashes(Path(other.path)) == hashes(Path(chosen.path))


@pytest.mark.parametrize("shard_rows", [61])
def test_build_that_selects_mixes_and_splits_does_not_know_its_shards(
    choosing: Pipeline, chosen: BuildResult, tmp_path: Path, shard_rows: int
) -> None:
    other = build(choosing, tmp_path, shard_rows=shard_rows)
    assert hashes(Path(other.path)) == hashes(Path(chosen.path))


def test_no_near_twin_of_a_published_row_stands_in_another_split(split: BuildResult) -> None:
    """Brute force over all pairs of prompts: real strings, no hashes, whatever source or language."""
    rows = table(split, "conversations")
    asked = [oracle.shingles(messages[0]["content"]) for messages in rows["messages"].to_list()]
    side = rows["split"].to_list()
    near = [(i, j) for j in range(len(asked)) for i in range(j) if oracle.jaccard(asked[i], asked[j]) >= 0.7]
    assert len(near) > 40
    assert {side[i] for i, _ in near} == {"train", "validation", "test"}
    assert [(i, j) for i, j in near if side[i] != side[j]] == []


def test_shares_of_the_splits_hold_in_every_source_and_language(split: BuildResult) -> None:
    groups = table(split, "conversations").group_by("source", "lang").agg(pl.len(), pl.col("split"), pl.col("cluster"))
    seen = 0
    for row in groups.iter_rows(named=True):
        clusters = len(set(row["cluster"]))
        if clusters < 40:
            continue
        seen += 1
        for name, share in (("validation", 0.2), ("test", 0.1)):
            off = abs(row["split"].count(name) / row["len"] - share)
            assert off < 4 * (share * (1 - share) / clusters) ** 0.5, row["source"]
    assert seen >= 4


def test_rows_added_behind_and_new_sources_never_move_an_old_row(split: BuildResult, tmp_path: Path) -> None:
    more = {"web": rows_of("later", 150), "news": rows_of("news", 120)}
    after = build(pipeline_of(tmp_path / "data", more), tmp_path / "store", shard_rows=100)
    before = dict(table(split, "conversations").select("id", "split").iter_rows())
    now = dict(table(after, "conversations").select("id", "split").iter_rows())
    assert len(now) > len(before) + 150
    assert {name: now.get(name) for name in before} == before


def test_source_put_before_the_others_moves_no_row_either(split: BuildResult, tmp_path: Path) -> None:
    pipeline = pipeline_of(tmp_path / "data", {"news": rows_of("news", 120)})
    first = pipeline.model_copy(update={"sources": pipeline.sources[::-1]})
    after = build(first, tmp_path / "store")
    before = dict(table(split, "conversations").select("id", "split").iter_rows())
    now = dict(table(after, "conversations").select("id", "split").iter_rows())
    stayed = before.keys() & now.keys()
    assert len(stayed) == len(before)
    assert {name: now[name] for name in stayed} == {name: before[name] for name in stayed}


def test_report_tells_what_was_selected_and_in_which_order_it_is_trained_on(chosen: BuildResult) -> None:
    report = Report.model_validate_json((Path(chosen.path) / "report.json").read_text())
    told = [(choice.name, choice.told) for choice in report.choices]
    steps = [step for step in report.funnel if step.kind == "select"]
    first, second = ((step.rows_kept, step.rows_in) for step in steps)
    assert told[:2] == [
        (
            "Selection",
            f"{first[0]} of {first[1]} rows in a budget of 400 rows: round-robin by extra.rating, highest first",
        ),
        (
            "Selection",
            f"{second[0]} of {second[1]} rows in a budget of 350 rows: distant by answer-characters, highest first; "
            "at least zh 60",
        ),
    ]
    assert first[0] == 400
    expected = "training packs by answer-characters, lowest first, packed 100 rows at a time"
    assert told[-1] == ("Curriculum", expected)
    page = (Path(chosen.path) / "report.html").read_text()
    assert "round-robin by extra.rating" in page


def checks(result: BuildResult) -> dict[str, tuple[bool, str]]:
    report = Report.model_validate_json((Path(result.path) / "report.json").read_text())
    return {check.name: (check.passed, check.told) for check in report.checks}


def test_report_names_groups_without_held_out_rows_and_strata_give_them_some(tmp_path: Path) -> None:
    more = {"rare": rows_of("rare", 3), "small": rows_of("small", 25)}
    bare = pipeline_of(tmp_path / "data", more, split={"validation": 0.05, "seed": 1})
    groups = table(build(bare, tmp_path / "store"), "conversations").group_by("source", "lang").agg(pl.len(), "split")
    without = {f"{s} {lang}": rows for s, lang, rows, sides in groups.iter_rows() if set(sides) == {"train"}}
    passed, told = checks(build(bare, tmp_path / "store"))["Every group has held-out rows"]
    assert without
    assert passed == all(rows * 0.05 < 1 for rows in without.values())
    for name, rows in without.items():
        assert f"{name} ({rows} rows)" in told
    strata = {"validation": 0.05, "seed": 1, "stratify": ["source", "lang"], "least": 1}
    more["rare"] += rows_of("more", 60)
    some = build(pipeline_of(tmp_path / "data", more, split=strata), tmp_path / "store")
    assert checks(some)["Every group has held-out rows"][0]
    assert verify(Path(some.path)).problems == []
    rows = table(some, "conversations")
    for source, lang, sides, clusters in rows.group_by("source", "lang").agg("split", "cluster").iter_rows():
        held = len({c for c, side in zip(clusters, sides, strict=True) if side != "train"})
        assert abs(held - 0.05 * len(set(clusters))) <= 2, (source, lang)
        assert held >= 1 or len(set(clusters)) < 12, (source, lang)
