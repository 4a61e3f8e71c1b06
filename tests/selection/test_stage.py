from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sft_data.dedup import models
from sft_data.errors import ConfigError
from sft_data.schema import CONVERSATIONS
from sft_data.selection.stage import Select
from sft_data.split import draw
from sft_data.stage import apply_decision, run_dataset_stage
from tests.dedup.test_semantic import cosines, texts
from tests.frames import chat, codes, conversations, ids


def scored(*numbers: float | None, **columns: list[Any]) -> pl.DataFrame:
    """Rows r0, r1, ... with a column `score`."""
    rows = [chat(f"r{i}", "x", score=n, **{k: v[i] for k, v in columns.items()}) for i, n in enumerate(numbers)]
    return conversations(*rows).with_columns(pl.col("score").cast(pl.Float64))


def about(made: list[str], numbers: list[float]) -> pl.DataFrame:
    """Rows whose prompts are these texts."""
    return conversations(
        *[chat(f"r{i}", "fine", text, score=number) for i, (text, number) in enumerate(zip(made, numbers, strict=True))]
    )


def select(frame: pl.DataFrame, **how: Any) -> Any:
    return run_dataset_stage(Select.model_validate({"by": "score"} | how), frame)


def kept(frame: pl.DataFrame, **how: Any) -> list[str]:
    outcome = select(frame, **how)
    assert outcome.kept.height + outcome.rejected.height == frame.height
    return ids(outcome.kept)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"budget": 2}, ["r1", "r3"]),
        ({"budget": 2, "best": "lowest"}, ["r0", "r4"]),
        ({"share": 0.6}, ["r1", "r2", "r3"]),
        ({"share": 0.59}, ["r1", "r3"]),
        ({"share": 1.0}, ["r0", "r1", "r2", "r3", "r4"]),
        ({"budget": 99}, ["r0", "r1", "r2", "r3", "r4"]),
    ],
)
def test_select_by_score_keeps_the_best_in_the_order_of_the_rows(how: dict[str, Any], expected: list[str]) -> None:
    assert kept(scored(1, 5, 3, 4, 2), **how) == expected


def test_select_without_settings_but_a_budget_keeps_the_longest_answers() -> None:
    frame = conversations(chat("a", "long answer"), chat("b", "no"), chat("c", "the longest answer"))
    assert ids(run_dataset_stage(Select(budget=2), frame).kept) == ["a", "c"]


def test_select_measured_in_characters_stops_at_the_first_row_that_does_not_fit() -> None:
    rows = [chat(f"r{i}", "x" * n, "?", score=float(s)) for i, (n, s) in enumerate([(9, 5), (19, 4), (99, 3), (4, 2)])]
    frame = conversations(*rows)
    assert kept(frame, budget=45, measure="characters") == ["r0", "r1"]  # 10 + 20, then 100; r3's 5 would fit
    assert kept(frame, budget=9, measure="characters") == []


def test_select_rejects_rows_without_a_score_or_puts_them_last() -> None:
    frame = scored(None, 5, float("nan"), 1)
    outcome = select(frame, budget=3)
    assert codes(outcome.rejected) == {"r0": "no-score", "r2": "no-score"}
    assert outcome.rejected["detail"].to_list() == ["score: (nothing) is no number", "score: NaN is no number"]
    assert kept(frame, budget=2, missing="last") == ["r1", "r3"]
    assert len(kept(frame, budget=3, missing="last")) == 3


def test_select_by_what_is_not_there_says_what_is() -> None:
    with pytest.raises(ConfigError, match="no such column; there are answer-characters, prompt-characters, answers, w"):
        select(conversations(chat("a", "x")), budget=1)
    words = conversations(chat("a", "x", category="sea"), chat("b", "x", category="sky"))
    with pytest.raises(ConfigError, match="no row has a number in `category`; found sea, sky"):
        select(words, by="category", budget=1)
    with pytest.raises(ConfigError, match="no column `topic`"):
        select(scored(1), budget=1, method="round-robin", groups="topic")
    with pytest.raises(ConfigError, match="no row has source `x`; there is s"):
        select(scored(1), budget=1, per="source", floors={"x": 1})


def test_ledger_of_a_selection_tells_score_place_and_budget() -> None:
    outcome = select(scored(1, 5, 3), budget=1)
    assert outcome.rejected.select("id", "code", "detail").rows() == [
        ("r0", "not-selected", "score 1, place 3 of 3; 1 rows take 1 of 1 rows"),
        ("r2", "not-selected", "score 3, place 2 of 3; 1 rows take 1 of 1 rows"),
    ]
    assert outcome.rejected["twin"].null_count() == 2


def test_select_draws_between_equal_scores_from_id_and_seed() -> None:
    frame = scored(*[1.0] * 40)
    expected = sorted(ids(frame), key=lambda name: draw(3, f"select:{name}"))[:10]
    assert sorted(kept(frame, budget=10, seed=3)) == sorted(expected)
    assert kept(frame, budget=10, seed=4) != kept(frame, budget=10, seed=3)
    assert set(kept(frame.reverse(), budget=10, seed=3)) == set(expected)


def test_round_robin_takes_the_best_of_each_group_in_turn() -> None:
    frame = scored(9, 8, 7, 6, 5, 4, 3, category=["a", "a", "a", "b", "b", None, "c"])
    how = {"method": "round-robin", "groups": "category"}
    assert kept(frame, budget=2, **how) == ["r0", "r3"]
    assert kept(frame, budget=4, **how) == ["r0", "r3", "r5", "r6"]
    assert kept(frame, budget=5, **how) == ["r0", "r1", "r3", "r5", "r6"]
    assert kept(frame, budget=6, **how) == ["r0", "r1", "r3", "r4", "r5", "r6"]


def test_round_robin_by_cluster_takes_a_row_without_one_for_a_cluster_of_its_own() -> None:
    frame = scored(9, 8, 7, 6, 5, cluster=["r0", "r0", None, None, "r0"])
    assert kept(frame, budget=3, method="round-robin", groups="cluster") == ["r0", "r2", "r3"]


def test_round_robin_over_vectors_takes_from_every_topic() -> None:
    words = {
        "sea": "wave salt tide harbour sail",
        "oven": "bread flour yeast dough crust",
        "sky": "星 月亮 云 天空 太阳",
    }
    rows, n = [], 0
    for at, (topic, said) in enumerate(words.items()):
        random = np.random.default_rng(at)
        for _ in range(30):
            prompt = " ".join(random.permutation(said.split()))
            rows.append(chat(f"{topic}{n}", "fine", prompt, score=float(100 * at + n)))
            n += 1
    frame = conversations(*rows)
    by_score = Counter(name[:3] for name in kept(frame, budget=12))
    in_turn = Counter(name[:3] for name in kept(frame, budget=12, method="round-robin", clusters=6))
    assert set(by_score) == {"sky"}
    assert len(in_turn) == 3
    assert min(in_turn.values()) >= 2


@pytest.mark.parametrize("method", ["distant", "k-center"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_choice_by_distance_is_that_of_brute_force(method: str, seed: int) -> None:
    made = texts(60, seed=seed)
    numbers = np.random.default_rng(seed).permutation(60).astype(float).tolist()
    truth = cosines(pl.Series([*made]))
    best_first = sorted(range(60), key=lambda row: -numbers[row])
    chosen: list[int] = []
    if method == "distant":
        for row in best_first:
            if all(truth[row][other] < 0.6 for other in chosen) and len(chosen) < 12:
                chosen.append(row)
    else:
        chosen = best_first[:1]
        while len(chosen) < 12:
            rest = [row for row in best_first if row not in chosen]
            chosen.append(min(rest, key=lambda row: round(max(truth[row][other] for other in chosen), 9)))
    how = {"method": method, "budget": 12} | ({"distance": 0.4} if method == "distant" else {})
    assert sorted(kept(about(made, numbers), **how), key=lambda r: int(r[1:])) == [f"r{row}" for row in sorted(chosen)]


def test_row_that_is_too_near_names_the_nearest_chosen_row_before_it() -> None:
    made = texts(80, seed=5)
    numbers = [float(-i) for i in range(80)]
    truth = cosines(pl.Series(made))
    outcome = select(about(made, numbers), method="distant", distance=0.4, budget=80)
    stayed = [int(name[1:]) for name in ids(outcome.kept)]
    assert set(outcome.rejected["code"]) == {"too-near"}
    assert outcome.rejected.height > 10
    for name, twin, score in outcome.rejected.select("id", "twin", "score").rows():
        row = int(name[1:])
        before = [other for other in stayed if other < row]
        assert int(twin[1:]) in before
        assert score == pytest.approx(max(truth[row][other] for other in before), abs=1e-6)
        assert score >= 0.6
    for row in stayed:
        assert max((truth[row][other] for other in stayed if other < row), default=0.0) < 0.6


def test_k_center_covers_with_at_most_twice_the_best_radius() -> None:
    points = {"river stone bird lamp", "bread salt horse letter", "red blue green cloud"}
    made = [text for text in sorted(points) for _ in range(5)]
    outcome = select(about(made, [1.0] * 15), method="k-center", budget=3)
    assert {row[0]["content"] for row in outcome.kept["messages"].to_list()} == points  # the best radius is 0
    assert all("cosine 1.0 to chosen r" in detail for detail in outcome.rejected["detail"])


def test_distance_of_zero_passes_over_equal_texts_and_empty_ones_once() -> None:
    frame = about(["a lamp stands here", "a lamp stands here", "", "", "另一个问题"], [5, 4, 3, 2, 1])
    outcome = select(frame, method="distant", distance=0.0, budget=5)
    assert ids(outcome.kept) == ["r0", "r2", "r4"]
    assert dict(outcome.rejected.select("id", "twin").rows()) == {"r1": "r0", "r3": "r2"}


def test_floors_hold_whatever_the_score_says() -> None:
    frame = scored(9, 8, 7, 2, 1, source=["a", "a", "a", "b", "b"])
    how = {"per": "source", "floors": {"b": 1}}
    assert kept(frame, budget=3, **how) == ["r0", "r1", "r3"]
    assert kept(frame, budget=1, per="source", floors={"b": 2}) == ["r3", "r4"]
    assert kept(frame, budget=3, per="source", floors={"b": 9, "a": 0}) == ["r0", "r3", "r4"]


def test_floors_of_a_distant_choice_are_met_first_and_are_far_apart_too() -> None:
    made = texts(90, seed=7)
    numbers = [float(-i) for i in range(90)]
    frame = about(made, numbers).with_columns(lang=pl.Series(["en"] * 60 + ["zh"] * 30))
    truth = cosines(pl.Series(made))

    def far(row: int, others: list[int]) -> bool:
        return all(truth[row][other] < 0.6 for other in others)

    chosen: list[int] = []
    for row in range(60, 90):
        if len(chosen) < 5 and far(row, chosen):
            chosen.append(row)
    for row in range(90):
        if len(chosen) < 12 and far(row, chosen):
            chosen.append(row)
    how = {"method": "distant", "distance": 0.4, "per": "lang", "floors": {"zh": 5}}
    assert kept(frame, budget=12, **how) == [f"r{row}" for row in sorted(chosen)]
    assert kept(frame, budget=5, **how) == [f"r{row}" for row in sorted(chosen[:5])]


SCORES = st.lists(st.one_of(st.none(), st.integers(0, 6)), min_size=1, max_size=25)
WAYS = st.sampled_from(
    [
        {"method": "score"},
        {"method": "round-robin", "groups": "category"},
        {"method": "round-robin", "clusters": 3},
        {"method": "distant", "distance": 0.4},
        {"method": "k-center"},
    ]
)


@given(SCORES, WAYS, st.integers(1, 25), st.integers(1, 6), st.sampled_from(["rows", "characters"]), st.data())
@settings(deadline=None, max_examples=25)
def test_any_selection_conserves_rows_keeps_its_budget_nests_and_knows_no_shards(
    numbers: list[int | None], way: dict[str, Any], budget: int, cut: int, measure: str, data: st.DataObject
) -> None:
    words = ["sea", "sky", "tree", "lamp", "stone"]
    rows = [
        chat(
            f"r{i}",
            "fine",
            " ".join(data.draw(st.lists(st.sampled_from(words), max_size=4))),
            category=data.draw(st.sampled_from(["a", "b", None])),
            score=None if number is None else float(number),
            extra=None if number is None else f'{{"score": {number}, "other": 1}}',
        )
        for i, number in enumerate([*numbers, 3])
    ]
    frame = conversations(*rows).with_columns(pl.col("score").cast(pl.Float64))
    room = budget * (1 if measure == "rows" else 8)
    by = data.draw(st.sampled_from(["score", "extra.score"]))
    stage = Select.model_validate({"by": by, "budget": room, "measure": measure} | way)
    whole = run_dataset_stage(stage, frame)
    assert whole.kept.height + whole.rejected.height == frame.height
    sizes = stage.sketch(whole.kept)["size"] if whole.kept.height else pl.Series([0])
    assert sizes.sum() <= room
    larger = run_dataset_stage(stage.model_copy(update={"budget": room + 8}), frame)
    assert set(ids(whole.kept)) <= set(ids(larger.kept))
    sketches = [stage.sketch(frame.slice(at, cut)) for at in range(0, frame.height, cut)]
    parted = apply_decision(stage, frame, stage.decide(sketches))
    assert parted.kept.equals(whole.kept)
    assert parted.rejected.equals(whole.rejected)
    if whole.kept.height and way["method"] == "score":
        out = whole.rejected.filter(pl.col("code") == "not-selected").join(frame.select("id", mine="score"), on="id")
        assert out.is_empty() or out["mine"].max() <= whole.kept["score"].min()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({}, "one of `budget`"),
        ({"budget": 1, "share": 0.5}, "one of `budget`"),
        ({"budget": 1, "distance": 0.2}, "`distance` has no effect where method is score; it is for distant"),
        ({"budget": 1, "method": "k-center", "groups": "lang"}, "`groups` has no effect where method is k-center"),
        ({"budget": 1, "method": "k-center", "per": "source", "floors": {"a": 1}}, "cannot be held by k-center"),
        ({"budget": 1, "per": "source"}, "`per` and `floors` belong together"),
        ({"budget": 1, "measure": "tokens"}, "`measure: tokens` and `tokenizer`"),
        ({"budget": 1, "method": "round-robin", "groups": "lang", "clusters": 5}, "have no effect"),
        ({"budget": 1, "method": "k-center", "model": "someone/model"}, "give the folder"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(how: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Select.model_validate(how)


@pytest.mark.parametrize("method", ["score", "distant", "k-center", "round-robin"])
def test_select_of_no_rows_is_empty(method: str) -> None:
    stage = Select.model_validate({"budget": 3, "method": method})
    assert run_dataset_stage(stage, pl.DataFrame(schema=CONVERSATIONS)).kept.height == 0


@pytest.mark.parametrize("method", ["distant", "k-center", "round-robin"])
def test_select_by_vectors_of_a_model_compares_those(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directions = {"rice": [100, 0, 3], "noodles": [98, 20, 0], "Hamlet": [0, 0, 127], "Faust": [0, 30, 120]}
    said = lambda found, _: np.array([directions[text.split()[-1]] for text in found], dtype=np.int8)  # noqa: E731
    monkeypatch.setattr(models, "embed", said)
    frame = about(["cook rice", "boil noodles", "read Hamlet", "read Faust"], [4, 3, 2, 1])
    how = {"distant": {"distance": 0.1, "budget": 4}, "round-robin": {"clusters": 2, "seed": 5}}.get(method, {})
    outcome = select(frame, **({"method": method, "model": str(tmp_path), "budget": 2} | how))
    assert ids(outcome.kept) == (["r0", "r3"] if method == "k-center" else ["r0", "r2"])  # Faust is the farthest
    if method == "distant":
        told = dict(outcome.rejected.select("twin", "score").rows())
        cosine = [98 / np.sqrt(98**2 + 20**2) * 100 / np.sqrt(100**2 + 3**2), 120 / np.sqrt(30**2 + 120**2)]
        assert told == pytest.approx(dict(zip(["r0", "r2"], cosine, strict=True)))
