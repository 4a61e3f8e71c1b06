"""The store's reading commands against a version that a real build of the samples published."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from sft_data.build import build
from sft_data.pipeline import load_pipeline
from sft_data.report.measure import measure
from sft_data.store.diff import diff
from sft_data.store.layout import scan_table, splits_of
from sft_data.store.manifest import Manifest
from sft_data.store.read import load_manifest, resolve
from sft_data.store.verify import verify
from sft_data.store.why import why

ROOT = Path(__file__).resolve().parents[2]
STRICTER = ["stages.answer-length.min_chars=60", "seed=18", "gates.min_rows_kept=0"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The quickstart twice: as it stands, and with a stricter answer length and another seed."""
    place = tmp_path_factory.mktemp("real")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        quickstart = ROOT / "pipelines/quickstart.yaml"
        build(load_pipeline(quickstart), place)
        build(load_pipeline(quickstart, STRICTER), place)
    return place


@pytest.fixture(scope="module")
def folder(store):
    return resolve(store, "quickstart@v1").folder


def fates(folder: Path) -> dict[str, str]:
    """Id -> split or code, read from the tables alone."""
    kept = scan_table(folder, "conversations").select("id", "split").collect()
    gone = scan_table(folder, "rejections").select("id", "code").collect()
    return {i: f"kept: {split}" for i, split in kept.iter_rows()} | {i: f"rejected: {c}" for i, c in gone.iter_rows()}


def test_verify_real_builds_are_whole(store):
    for number in (1, 2):
        assert verify(resolve(store, f"quickstart@v{number}").folder).problems == []


def test_why_tells_every_row_of_a_real_build(folder):
    manifest = load_manifest(folder)
    for row_id, fate in fates(folder).items():
        story = why(folder, row_id)
        assert story.fate == fate
        assert story.events[0].what == "read"
        assert [e.stage for e in story.events[:-2]] == in_order(manifest, [e.stage for e in story.events[:-2]])
        last = story.events[-1]
        if fate.startswith("kept"):
            assert [event.what for event in story.events[-2:]] == ["tokenized", "packed"]
        else:
            assert (last.what, last.code) == ("rejected", fate.removeprefix("rejected: "))
            assert last.meaning, f"{last.code} is not explained"


def in_order(manifest: Manifest, stages: list[str]) -> list[str]:
    """The same names in the order of the plan."""
    names = [step.name for step in manifest.steps]
    return sorted(stages, key=names.index)


def test_why_every_step_of_a_kept_row_is_told(folder):
    manifest = load_manifest(folder)
    row = next(i for i, fate in fates(folder).items() if fate == "kept: validation")
    source = why(folder, row).source
    expected = [s.name for s in manifest.steps if s.kind != "read" or s.name == f"read:{source}"]
    assert list(dict.fromkeys(event.stage for event in why(folder, row).events)) == [*expected, "pack"]


def test_measure_real_funnel_flows_without_a_gap(folder):
    report = measure(folder)
    read = [step for step in report.funnel if step.kind == "read"]
    assert sum(step.rows_in for step in read) == report.rows_in
    flow = [sum(step.rows_kept for step in read)]
    for step in report.funnel[len(read) :]:
        assert step.rows_in == flow[-1]
        flow.append(step.rows_kept)
    assert flow[-1] == report.rows_kept
    assert sum(group.rows for group in report.rejections) == report.rows_rejected
    assert all(group.meaning and group.examples for group in report.rejections)
    assert all(check.passed for check in report.checks), report.checks


def test_measure_real_distributions_count_every_row(folder):
    report = measure(folder)
    charts = {chart.name: chart for chart in report.distributions}
    assert sum(charts["turns"].kept) == sum(charts["tokens"].kept) == report.rows_kept
    assert sum(share.rows for share in report.languages) == report.rows_kept


def test_diff_of_real_builds_agrees_with_sets_of_ids(store):
    old, new = (resolve(store, f"quickstart@v{number}") for number in (1, 2))
    before, after = fates(old.folder), fates(new.folder)
    found = diff(old, new, examples=1000)
    moved = {i for i in before if before[i][:4] == after[i][:4] == "kept" and before[i] != after[i]}
    assert {row.id for row in found.moved.examples} == moved
    redecided = {i for i in before if before[i] != after[i]} - moved
    assert {row.id for row in found.redecided.examples} == redecided
    reasons = Counter(found.redecisions)
    assert reasons["kept -> answer-length: answer-too-short"] > 0
    assert (found.added.count, found.removed.count, found.changed.count) == (0, 0, 0)
    settings = {setting.key: (setting.old, setting.new) for setting in found.settings}
    assert settings["stages.answer-length.min_chars"][1] == 60
    assert settings["seed"] == (17, 18)


def test_real_version_has_every_table_of_its_splits(folder):
    for table in ("conversations", "tokens", "sidecar", "packs", "pack_index"):
        assert splits_of(folder, table) == ["train", "validation"]
    rows = {entry.path: entry.rows for entry in load_manifest(folder).files}
    assert rows["rejections/00000.parquet"] == scan_table(folder, "rejections").select(pl.len()).collect().item()
