"""Packs in the order of a number: against plain sorting, and against what every packing must keep."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sft_data.errors import ConfigError
from sft_data.pack.curriculum import Order, means, values_of
from sft_data.pack.plan import Pack, plan, plan_packs
from tests.frames import chat, conversations
from tests.pack.test_plan import check

NAN = float("nan")


def pack(window: int = 50, **more: object) -> Pack:
    order = {"by": "difficulty", "window": window} | {k: more.pop(k) for k in ("first",) if k in more}
    return Pack.model_validate({"max_length": 64, "seed": 3, "order": order} | more)


def mean_by_hand(index: pl.DataFrame, values: np.ndarray) -> list[float]:
    found = []
    for rows in index.group_by("pack", maintain_order=True).agg("row")["row"]:
        known = [values[row] for row in rows if not np.isnan(values[row])]
        found.append(sum(known) / len(known) if known else NAN)
    return found


CASES = st.lists(st.tuples(st.integers(1, 64), st.one_of(st.just(NAN), st.integers(-5, 5).map(float))), max_size=80)


@settings(deadline=None)
@given(CASES, st.integers(1, 90), st.sampled_from(["lowest", "highest"]), st.sampled_from(["best-fit", "none"]))
def test_any_curriculum_packs_every_row_once_in_the_order_of_the_packs_means(
    rows: list[tuple[int, float]], window: int, first: str, method: str
) -> None:
    lengths = np.array([length for length, _ in rows], dtype=np.int32)
    values = np.array([value for _, value in rows], dtype=np.float64)
    index = plan(lengths, pack(window, first=first, method=method), values)
    if not rows:
        assert index.is_empty()
        return
    check(lengths.tolist(), 64, index)
    found = mean_by_hand(index, values)
    known = [mean for mean in found if not np.isnan(mean)]
    assert known == sorted(known, reverse=first == "highest")
    assert not np.isnan(found[: len(known)]).any()  # packs of rows without a number come last
    assert means(index, values) == pytest.approx(found, nan_ok=True)


def test_rows_alone_are_sorted_and_those_of_equal_number_are_shuffled_by_the_seed() -> None:
    values = np.array([3.0, 1.0, NAN, 2.0] * 25)
    index = plan(np.full(100, 9), pack(method="none"), values)
    assert values[index["row"]].tolist() == pytest.approx(
        [1.0] * 25 + [2.0] * 25 + [3.0] * 25 + [NAN] * 25, nan_ok=True
    )
    ones = index["row"][:25].to_list()
    assert sorted(ones) == list(range(1, 100, 4))
    assert ones != sorted(ones)
    other = plan(np.full(100, 9), pack(method="none", seed=4), values)["row"][:25].to_list()
    assert sorted(other) == sorted(ones)
    assert other != ones


def test_window_over_all_rows_needs_no_more_packs_than_without_an_order_and_small_ones_keep_it_better() -> None:
    random = np.random.default_rng(8)
    lengths, values = random.integers(1, 40, 3000), random.random(3000)
    rank = np.argsort(np.argsort(values))
    packs, away = [], []
    for window in (100, 500, 3000):
        index = plan(lengths, pack(window), values)
        packs.append(index["pack"].n_unique())
        away.append(np.abs(rank[index["row"].to_numpy()] - np.arange(3000)).mean())
    assert packs[2] == plan_packs(lengths, 64, seed=3)["pack"].n_unique()
    assert packs == sorted(packs, reverse=True)
    assert packs[0] < 1.05 * packs[2]
    assert away == sorted(away)
    assert away[0] < 0.03 * 3000


def test_plan_without_values_is_the_plan_without_an_order() -> None:
    lengths = np.random.default_rng(1).integers(1, 64, 300)
    assert plan(lengths, pack()).equals(plan(lengths, Pack(max_length=64, seed=3)))


def test_settings_without_an_order_are_written_as_before_there_was_one() -> None:
    """Else every packed version would have another fingerprint."""
    assert "order" not in Pack().model_dump()
    assert Pack.model_validate(pack().model_dump(mode="json")) == pack()


@pytest.mark.parametrize("method", ["multipack", "sorted", "buckets"])
def test_order_beside_a_method_with_an_order_of_its_own_is_refused(method: str) -> None:
    with pytest.raises(ValidationError, match=f"{method} has an order of its own"):
        pack(method=method)


def test_values_are_found_by_id_and_missing_where_there_is_no_number(tmp_path: Path) -> None:
    frame = conversations(*[chat(f"r{i}", "x" * i, difficulty=str(i) if i % 2 else "hard") for i in range(6)])
    for number in (0, 1):
        frame[3 * number : 3 * number + 3].write_parquet(tmp_path / f"{number}.parquet")
    files = sorted(tmp_path.glob("*.parquet"))
    ids = pl.DataFrame({"id": ["r5", "r0", "r1", "r1", "gone"], "tokens": [7, 8, 9, 2, 4]})
    assert values_of(ids, files, "difficulty").tolist() == pytest.approx([5, NAN, 1, 1, NAN], nan_ok=True)
    assert values_of(ids, files, "answer-characters").tolist() == pytest.approx([5, 0, 1, 1, NAN], nan_ok=True)
    assert values_of(ids, files, "tokens").tolist() == [7, 8, 9, 2, 4]
    with pytest.raises(ConfigError, match="no row has a number in `license`"):
        values_of(ids, files, "license")


def test_order_explains_every_setting() -> None:
    assert all(field.description for field in Order.model_fields.values())
