from collections import Counter, defaultdict

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sft_data.dedup.near import NearDedup
from sft_data.errors import ConfigError
from sft_data.mix import Mix
from sft_data.schema import CONVERSATIONS
from sft_data.selection.stage import Select
from sft_data.split import SPLITS, Split, draw
from sft_data.stage import DatasetStage, apply_decision, run_dataset_stage
from tests.dedup import oracle
from tests.frames import chat, conversations


def rows_of(count: int, **columns: str) -> list[dict[str, object]]:
    return [chat(f"s:{i}", "fine", f"question number {i}", **columns) for i in range(count)]


def split_of(frame: pl.DataFrame, **settings: object) -> dict[str, str]:
    outcome = run_dataset_stage(Split.model_validate(settings), frame)
    assert outcome.rejected.height == 0
    return dict(outcome.kept.select("id", "split").rows())


def test_split_without_clusters_gives_each_share_in_expectation() -> None:
    counts = Counter(split_of(conversations(*rows_of(4000)), validation=0.2, test=0.1).values())
    assert set(counts) == set(SPLITS)
    assert counts["validation"] == pytest.approx(800, abs=4 * (4000 * 0.2 * 0.8) ** 0.5)
    assert counts["test"] == pytest.approx(400, abs=4 * (4000 * 0.1 * 0.9) ** 0.5)


@pytest.mark.parametrize(
    "choice",
    [Mix(caps={"s": 400}), Select(by="answers", budget=400)],  # all rows have one answer: a tie, settled by lot
    ids=["mix", "select"],
)
def test_split_of_rows_that_were_chosen_by_lot_gives_the_same_shares(choice: DatasetStage) -> None:
    """Of rows that are kept for their low draws those of the lowest must not all be held out."""
    frame = conversations(*(chat(f"s:f:{i}", "an answer", f"question {i}") for i in range(8000)))
    frame = frame.with_columns(source=pl.lit("s"), cluster=pl.col("id"))
    chosen = run_dataset_stage(choice, frame).kept
    assert chosen.height == 400
    counts = Counter(run_dataset_stage(Split(validation=0.1, test=0.05), chosen).kept["split"])
    assert 16 < counts["validation"] < 64  # four standard deviations around 40
    assert 3 <= counts["test"] < 38
    assert counts["train"] > 300


def test_split_shares_hold_in_each_source_and_language() -> None:
    groups = [(source, lang, i) for source in ("web", "books") for lang in ("en", "zh") for i in range(1500)]
    frame = conversations(
        *[chat(f"{s}:{i}:{lang}", "x", f"{s} {lang} {i}", source=s, lang=lang) for s, lang, i in groups]
    )
    kept = run_dataset_stage(Split(validation=0.1), frame).kept
    shares = kept.group_by("source", "lang").agg((pl.col("split") == "validation").mean())["split"]
    assert shares.to_list() == pytest.approx([0.1] * 4, abs=4 * (0.1 * 0.9 / 1500) ** 0.5)


def test_split_gives_a_cluster_one_side() -> None:
    rows = [chat(f"r{i}", "x", f"q{i}", cluster=f"c{i // 5}") for i in range(500)]
    split = split_of(conversations(*rows), validation=0.3, test=0.2)
    sides = defaultdict(set)
    for row in rows:
        sides[row["cluster"]].add(split[row["id"]])
    assert all(len(each) == 1 for each in sides.values())
    assert set().union(*sides.values()) == set(SPLITS)


def test_split_without_clusters_gives_the_same_prompt_one_side_whatever_its_layout() -> None:
    rows = [chat(f"{i}{k}", f"answer {k}", f"question {i}" + " \n" * k) for i in range(50) for k in range(3)]
    split = split_of(conversations(*rows), validation=0.5)
    assert all(split[f"{i}0"] == split[f"{i}1"] == split[f"{i}2"] for i in range(50))
    assert set(split.values()) == {"train", "validation"}


def test_split_after_added_and_removed_rows_never_moves_an_old_row() -> None:
    rows = rows_of(300)
    before = split_of(conversations(*rows[:200]), validation=0.3)
    after = split_of(conversations(*rows[::-1]), validation=0.3)
    assert {name: after[name] for name in before} == before


def test_split_after_near_dedup_of_added_rows_moves_only_rows_of_joined_clusters() -> None:
    source = oracle.dice(4)
    base = [oracle.sentence(source, 30, "en") for _ in range(60)]
    asked = base + [oracle.perturbed(source, text, "word", 0.03) for text in base]
    rows = [chat(f"{i}", oracle.sentence(source, 20, "en"), text) for i, text in enumerate(asked)]

    def run(some: list[dict[str, object]]) -> tuple[dict[str, str], dict[str, str]]:
        kept = run_dataset_stage(Split(validation=0.4), run_dataset_stage(NearDedup(), conversations(*some)).kept).kept
        return dict(kept.select("id", "split").rows()), dict(kept.select("id", "cluster").rows())

    before, old_clusters = run(rows[:80])
    after, new_clusters = run(rows)
    assert Counter(new_clusters.values()).most_common(1)[0][1] > 1
    moved = [name for name in before if after[name] != before[name]]
    assert all(new_clusters[name] != old_clusters[name] for name in moved)  # only where two clusters became one
    assert len(moved) <= 2


def test_split_near_twins_never_stand_on_both_sides() -> None:
    source = oracle.dice(8)
    base = [oracle.sentence(source, 40, "mixed") for _ in range(80)]
    asked = [*base, *(oracle.perturbed(source, text, kind, 0.03) for text in base for kind in ("word", "tail"))]
    frame = conversations(*[chat(f"{i}", oracle.sentence(source, 12, "en"), text) for i, text in enumerate(asked)])
    kept = run_dataset_stage(Split(validation=0.4), run_dataset_stage(NearDedup(), frame).kept).kept
    side = dict(kept.select("id", "split").rows())
    sets = [(name, oracle.shingles(asked[int(name)])) for name in side]
    near = [(a, b) for j, (b, right) in enumerate(sets) for a, left in sets[:j] if oracle.jaccard(left, right) >= 0.7]
    assert len(near) > 50
    assert sum(side[a] != side[b] for a, b in near) == 0


def grouped(*sizes: int, prefix: str = "") -> list[dict[str, object]]:
    """Groups g0, g1, ... of so many rows, in turns."""
    rows = [(i, g) for g, size in enumerate(sizes) for i in range(size)]
    return [
        chat(f"{prefix}g{g}:{i}", "x", f"{prefix} question {i} of {g}", source=f"g{g}", cluster=f"{prefix}{g}:{i}")
        for i, g in sorted(rows)
    ]


SHARES = st.sampled_from([(0.1, 0.0), (0.02, 0.0), (0.0, 0.05), (0.07, 0.03), (0.3, 0.4), (0.29, 0.0), (0.5, 0.45)])


@given(st.lists(st.integers(1, 130), min_size=1, max_size=4), SHARES, st.integers(0, 5))
@settings(deadline=None, max_examples=40)
def test_stratified_split_holds_out_its_share_of_every_group_to_one_cluster(
    sizes: list[int], shares: tuple[float, float], seed: int
) -> None:
    how = {"validation": shares[0], "test": shares[1], "stratify": ["source"], "seed": seed}
    split = split_of(conversations(*grouped(*sizes)), **how)
    for group, size in enumerate(sizes):
        counts = Counter(side for name, side in split.items() if name.startswith(f"g{group}:"))
        assert abs(counts["validation"] + counts["test"] - sum(shares) * size) <= 1.0 + 1e-9
        assert abs(counts["validation"] - shares[0] * size) <= 2.0
        assert abs(counts["test"] - shares[1] * size) <= 2.0


@given(st.lists(st.integers(1, 60), min_size=3, max_size=3), st.lists(st.integers(1, 60), min_size=3, max_size=3))
@settings(deadline=None, max_examples=25)
def test_stratified_split_never_moves_a_row_when_rows_are_added_behind_those_of_their_groups(
    sizes: list[int], added: list[int]
) -> None:
    how = {"validation": 0.15, "test": 0.05, "stratify": ["source"], "least": 1}
    old, new = grouped(*sizes), grouped(*added, prefix="new")
    before = split_of(conversations(*old), **how)
    after = split_of(conversations(*old, *new), **how)
    assert {name: after[name] for name in before} == before
    # Nor when another source comes before all.
    other = [row | {"source": "other"} for row in new]
    assert {
        name: side for name, side in split_of(conversations(*other, *old), **how).items() if name in before
    } == before


def test_stratified_split_draws_which_cluster_of_a_block_is_held_out() -> None:
    frame = conversations(*grouped(400))
    how = {"validation": 0.1, "stratify": ["source"]}
    found = [split_of(frame, seed=seed, **how) for seed in (1, 2)]
    places = [[i for i in range(400) if split[f"g0:{i}"] != "train"] for split in found]
    for held in places:
        assert [place // 10 for place in held] == list(range(40))
        assert len({place % 10 for place in held}) > 6
    assert places[0] != places[1]


def test_least_gives_small_groups_held_out_clusters_and_large_ones_their_share() -> None:
    frame, small = conversations(*grouped(12, 9, 700)), []
    for seed in range(12):
        how = {"validation": 0.02, "stratify": ["source"], "seed": seed}
        split = split_of(frame, **how, least=1)
        held = Counter(name[:2] for name, side in split.items() if side == "validation")
        assert held["g0"] == 1
        assert held["g1"] <= 1
        assert 14 <= held["g2"] <= 15
        small.append(sum(side != "train" for name, side in split_of(frame, **how).items() if name.startswith("g0")))
    assert 0 in small  # in expectation a quarter of a cluster


def test_stratified_split_keeps_a_cluster_of_two_groups_on_the_side_of_its_first_row() -> None:
    rows = grouped(40, 40)
    shared = [
        row | {"cluster": f"c{i // 2}"} for i, row in enumerate(rows)
    ]  # rows stand in turns: each cluster in both
    split = split_of(conversations(*shared), validation=0.25, stratify=["source"])
    assert all(split[a["id"]] == split[b["id"]] for a, b in zip(shared[::2], shared[1::2], strict=True))
    assert Counter(split.values())["validation"] == 20


def test_stratified_split_is_the_same_for_any_cut_into_shards() -> None:
    frame = conversations(*grouped(33, 21))
    stage = Split(validation=0.2, test=0.1, stratify=("source", "language"), least=2)
    decision = stage.decide([stage.sketch(frame.slice(at, 5)) for at in range(0, frame.height, 5)])
    assert apply_decision(stage, frame, decision).kept.equals(run_dataset_stage(stage, frame).kept)


def test_split_without_strata_is_written_as_before_there_were_any() -> None:
    """Else every version would have another fingerprint."""
    assert set(Split().model_dump()) == {"kind", "validation", "test", "seed"}
    assert Split.model_validate(Split(stratify=("source",), least=1).model_dump()).stratify == ("source",)


def test_split_by_strata_that_are_not_there_says_so() -> None:
    with pytest.raises(ConfigError, match="no column `lang`"):
        split_of(conversations(*rows_of(3)), stratify=["lang"])
    with pytest.raises(ValidationError, match="`least` speaks of the groups of `stratify`"):
        Split(least=1)


def test_split_with_a_larger_share_only_moves_rows_out_of_train() -> None:
    frame = conversations(*rows_of(400))
    small, large = split_of(frame, validation=0.1), split_of(frame, validation=0.2)
    assert {name for name in small if small[name] == "validation"} <= {n for n in large if large[n] == "validation"}


def test_split_with_another_seed_draws_other_rows() -> None:
    frame = conversations(*rows_of(400))
    assert split_of(frame, validation=0.5, seed=1) != split_of(frame, validation=0.5, seed=2)


@pytest.mark.parametrize("cut", [1, 3, 50])
def test_split_is_the_same_for_any_cut_into_shards(cut: int) -> None:
    frame, stage = conversations(*rows_of(60)), Split(validation=0.4)
    decision = stage.decide([stage.sketch(frame.slice(at, cut)) for at in range(0, 60, cut)])
    assert apply_decision(stage, frame, decision).kept.equals(run_dataset_stage(stage, frame).kept)


def test_split_of_nothing_held_out_is_all_training() -> None:
    assert set(split_of(conversations(*rows_of(50)), validation=0.0).values()) == {"train"}


def test_split_that_leaves_no_training_rows_is_refused() -> None:
    with pytest.raises(ValidationError, match="nothing is left to train on"):
        Split(validation=0.6, test=0.4)


def test_split_of_an_empty_frame_is_empty() -> None:
    assert run_dataset_stage(Split(), pl.DataFrame(schema=CONVERSATIONS)).kept.columns[-1] == "split"


def test_draw_is_fixed_for_ever() -> None:
    # Published versions depend on it: a change here moves every row of every dataset.
    assert draw(17, "alpaca:alpaca.json:0") == pytest.approx(PUBLISHED, abs=0)
    assert 0.0 <= min(draw(1, str(i)) for i in range(999)) < max(draw(1, str(i)) for i in range(999)) < 1.0


PUBLISHED = 0.6653448701427644  # blake2b-64 of "17:alpaca:alpaca.json:0", its top 53 bits


def test_sketch_of_rows_without_clusters_is_as_small_for_long_prompts_as_for_short_ones() -> None:
    long = conversations(*[chat(str(at), "yes", "很长 " * 20_000 + str(at % 3)) for at in range(6)])
    sketch = Split(validation=0.5).sketch(long)
    assert sketch.estimated_size() < 6 * 64
    assert sketch["cluster"].n_unique() == 3
    # The draw is still that of the text: who was held out stays so.
    assert sketch["drawn"][0] == draw(17, "\x1e" + "很长 " * 20_000 + "0")
