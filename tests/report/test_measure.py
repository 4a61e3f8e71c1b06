from __future__ import annotations

import shutil

import numpy as np
import polars as pl
import pytest

from sft_data.report.measure import _share_check, measure, packs_needed
from sft_data.report.model import Report
from sft_data.split import Split
from sft_data.store.read import load_manifest
from tests.store.versions import HOSTILE, published, reseal, rewrite_parquet, row_id


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("measure")
    return published(home / "store", home / "cells").folder


@pytest.fixture(scope="module")
def report(folder):
    return measure(folder)


def test_measure_counts_rows_tokens_and_packs(report):
    assert (report.rows_in, report.rows_kept, report.rows_rejected) == (12, 8, 4)
    assert (report.tokens, report.trained_tokens, report.packs) == (502, 347, 3)
    assert report.pack_fill == pytest.approx(502 / (3 * 256), abs=1e-6)


def test_measure_gives_what_was_published(folder, report):
    assert Report.model_validate_json((folder / "report.json").read_text()) == report


def test_measure_funnel_balances_at_every_step(report):
    assert [step.name for step in report.funnel][:3] == ["read:s", "01:repair-text", "02:exact-dedup"]
    for step in report.funnel:
        assert step.rows_in == step.rows_kept + sum(step.rejected.values())


def test_measure_rejections_hold_meaning_and_example(report):
    groups = {group.code: group for group in report.rejections}
    assert set(groups) == {"unreadable-row", "same-conversation", "near-duplicate", "answer-too-short"}
    short = groups["answer-too-short"]
    assert (short.stage, short.rows, short.share) == ("answer-length", 1, pytest.approx(1 / 12, abs=1e-6))
    assert short.meaning == "The last answer has fewer characters than the limit."
    assert short.examples[0].model_dump() == {
        "id": row_id(8), "detail": "3 < 20 characters", "text": f"user: {HOSTILE}\nassistant: No.",
    }  # fmt: skip
    assert groups["unreadable-row"].examples[0].text == '{"instruction": "bro'


def test_measure_examples_come_from_beginning_middle_and_end(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "v1")
    rows = pl.read_parquet(folder / "rejections/00000.parquet").tail(1)
    many = pl.concat([rows.with_columns(id=pl.lit(f"s:a.json:{n}")) for n in range(100, 121)])
    rewrite_parquet(tmp_path / "v1/rejections/00000.parquet", many)
    [group] = measure(tmp_path / "v1").rejections
    assert group.rows == 21
    assert [example.id for example in group.examples] == ["s:a.json:100", "s:a.json:110", "s:a.json:120"]


def test_measure_long_examples_are_cut_and_say_so(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "v1")
    rows = pl.read_parquet(folder / "rejections/00000.parquet").with_columns(text=pl.lit("长" * 9000))
    rewrite_parquet(tmp_path / "v1/rejections/00000.parquet", rows)
    text = measure(tmp_path / "v1").rejections[0].examples[0].text
    assert text == "长" * 500 + " … (8,500 more characters)"


def test_measure_duplicates_stand_beside_the_rows_kept(report):
    pairs = {pair.id: pair for pair in report.duplicates}
    assert set(pairs) == {row_id(3), row_id(6)}
    near = pairs[row_id(6)]
    assert (near.twin, near.score) == (row_id(7), pytest.approx(0.81))
    assert near.twin_text.endswith("Water is a liquid made of hydrogen and oxygen.")
    assert near.text.endswith("Water is a liquid that is made of hydrogen and oxygen.")


def test_measure_edits_are_counted_by_rows_and_places(report):
    [edit] = report.edits
    assert (edit.stage, edit.code, edit.rows, edit.places) == ("repair-text", "mojibake", 1, 2)
    assert edit.examples[0].detail == "FranÃ§e -> France"


def test_measure_answer_lengths_count_kept_and_rejected_rows(report):
    """Kept answers have 31, 12, 38, 27, 74, 46, 33 and 52 characters; rejected ones 31, 53 and 3."""
    chart = next(d for d in report.distributions if d.name == "answer_chars")
    bins = dict(zip(chart.edges, zip(chart.kept, chart.rejected, strict=True), strict=False))
    kept = {10.0: 1, 25.0: 4, 40.0: 2, 63.0: 1}
    rejected = {3.0: 1, 25.0: 1, 40.0: 1}
    assert {edge: rows[0] for edge, rows in bins.items() if rows[0]} == kept
    assert {edge: rows[1] for edge, rows in bins.items() if rows[1]} == rejected
    assert (chart.figures["min"], chart.figures["max"]) == (12, 74)
    assert chart.figures["mean"] == pytest.approx((31 + 12 + 38 + 27 + 74 + 46 + 33 + 52) / 8)


def test_measure_languages_and_splits(report):
    assert [(share.name, share.rows) for share in report.languages] == [("en", 7), ("zh", 1)]
    assert [(split.name, split.rows, split.tokens) for split in report.splits] == [
        ("train", 6, 409),
        ("validation", 2, 93),
    ]


def test_measure_packing_tells_the_lower_bound(report):
    """409 tokens cannot lie in fewer than two packs of 256."""
    train = report.packing[0]
    assert (train.packs, train.lower_bound, train.rows_per_pack) == (2, 2, 3.0)
    assert train.fill == pytest.approx(409 / 512, abs=1e-6)
    assert sum(train.histogram.kept) == 2


def fewest_packs(lengths, room):
    """By trying every way to lay the rows into packs."""
    best = len(lengths)

    def lay(left, packs):
        nonlocal best
        if len(packs) >= best:
            return
        if not left:
            best = len(packs)
            return
        first, *rest = left
        for number, used in enumerate(packs):
            if used + first <= room:
                lay(rest, [*packs[:number], used + first, *packs[number + 1 :]])
        lay(rest, [*packs, first])

    lay(sorted(lengths, reverse=True), [])
    return best


@pytest.mark.parametrize(
    ("lengths", "room", "bound"),
    [
        ([], 10, 0),
        ([10, 10], 10, 2),
        ([6, 6, 6, 4], 10, 3),
        ([5, 5, 5], 10, 2),
        ([1] * 11, 10, 2),
        ([7, 7, 3, 3], 10, 2),
        ([8, 8, 3, 3], 10, 3),
    ],
)
def test_packs_needed_by_hand(lengths, room, bound):
    assert packs_needed(np.array(lengths, dtype=np.int64), room) == bound


@pytest.mark.parametrize("seed", range(40))
def test_packs_needed_is_never_more_than_the_best_packing(seed):
    random = np.random.default_rng(seed)
    room = int(random.integers(5, 20))
    lengths = random.integers(1, room + 1, size=int(random.integers(1, 9)))
    bound = packs_needed(lengths, room)
    assert -(-int(lengths.sum()) // room) <= bound <= fewest_packs(lengths.tolist(), room)


def test_measure_sources_hold_their_own_codes_and_tokens(report):
    [source] = report.sources
    assert (source.rows_in, source.rows_kept, source.tokens) == (12, 8, 502)
    assert sum(source.rejected.values()) == 4


def test_measure_checks_pass_on_a_whole_version(report):
    assert [check.passed for check in report.checks] == [True] * 7


def test_measure_failed_gate_and_broken_balance_are_told(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "v1")
    manifest = load_manifest(folder)
    steps = [*manifest.steps[:-1], manifest.steps[-1].model_copy(update={"rows_kept": 7})]
    gates = {"min_rows_kept": {"limit": 0.9, "measured": 0.67, "passed": False}}
    reseal(tmp_path / "v1", steps=steps, gates=gates)
    checks = {check.name: check for check in measure(tmp_path / "v1").checks}
    assert not checks["Every row is accounted for"].passed
    assert checks["Every row is accounted for"].told == "steps that do not balance: tokenize"
    assert (checks["Gates"].passed, checks["Gates"].told) == (False, "failed: min_rows_kept")


def test_measure_cluster_in_two_splits_fails_its_check(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "v1")
    path = tmp_path / "v1/conversations/train/00000.parquet"
    rewrite_parquet(path, pl.read_parquet(path).with_columns(cluster=pl.lit(row_id(4))))
    check = next(c for c in measure(tmp_path / "v1").checks if c.name == "Held-out rows are unseen")
    assert (check.passed, check.told) == (False, "1 clusters lie in two splits")


@pytest.mark.parametrize(
    ("clusters", "asked", "passed"),
    [
        ({"train": 9800, "validation": 200}, {"validation": 0.02}, True),
        ({"train": 9735, "validation": 265}, {"validation": 0.02}, True),  # 4.6 standard deviations
        ({"train": 9720, "validation": 280}, {"validation": 0.02}, False),
        ({"train": 9900, "validation": 100}, {"validation": 0.02}, False),
        ({"train": 9500, "validation": 200, "test": 300}, {"validation": 0.02, "test": 0.01}, False),
        ({"train": 9900, "test": 100}, {"validation": 0.0, "test": 0.0}, False),
        ({"train": 18, "validation": 2}, {"validation": 0.02}, True),  # of a few anything may be
    ],
)
def test_shares_that_independent_draws_do_not_give_fail_a_check(clusters, asked, passed):
    check = _share_check(clusters, Split(**asked))
    assert check.passed is passed
    for name, share in asked.items():
        if share:
            found = 100 * clusters.get(name, 0) / sum(clusters.values())
            assert f"{name} {found:.2f} % of {sum(clusters.values()):,} clusters, {100 * share:g} % asked" in check.told


def test_measure_version_whose_clusters_nobody_named_tells_no_shares(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "v1")
    for path in (tmp_path / "v1/conversations").rglob("*.parquet"):
        rewrite_parquet(path, pl.read_parquet(path).with_columns(cluster=pl.lit(None, pl.String)))
    names = [check.name for check in measure(tmp_path / "v1").checks]
    assert "Held-out rows are unseen" in names
    assert "Held-out rows are as many as asked for" not in names


def test_measure_shares_of_a_version_are_those_of_its_clusters(folder):
    check = next(c for c in measure(folder).checks if c.name == "Held-out rows are as many as asked for")
    rows = pl.read_parquet(folder / "conversations/*/*.parquet", columns=["cluster", "split"], hive_partitioning=False)
    held = rows.filter(pl.col("split") == "validation")["cluster"].n_unique() / rows["cluster"].n_unique()
    assert check.told.startswith(f"validation {100 * held:.2f} % of {rows['cluster'].n_unique()} clusters, ")


def test_measure_version_without_tokens_has_no_token_figures(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "v1")
    for table in ("tokens", "sidecar", "packs", "pack_index"):
        shutil.rmtree(tmp_path / "v1" / table)
    reseal(tmp_path / "v1", tokenizer=None)
    report = measure(tmp_path / "v1")
    assert report.packing == []
    assert {chart.name for chart in report.distributions} == {"answer_chars", "prompt_chars", "turns"}
    assert report.sources[0].tokens == 0


def test_measure_rejected_rows_of_odd_shapes_are_no_conversations(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "v1")
    odd = [
        '{"messages":[1]}',
        '{"messages":[{"content": 5}]}',
        '{"messages":[',
        "\x00",
        None,
        '{"messages":[{"content":"a"}]}',
    ]
    rows = pl.read_parquet(folder / "rejections/00000.parquet").head(1)
    ledger = pl.concat([rows.with_columns(text=pl.lit(text, dtype=pl.String)) for text in odd])
    rewrite_parquet(tmp_path / "v1/rejections/00000.parquet", ledger)
    chart = next(d for d in measure(tmp_path / "v1").distributions if d.name == "turns")
    assert sum(chart.rejected) == 1
