"""The packer against a row-by-row best-fit decreasing and against what every packing must keep."""

import bisect

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_data.errors import SftDataError
from sft_data.pack.plan import Pack, fill, lower_bound, plan_packs
from sft_data.schema import PACK_INDEX


def bins_row_by_row(lengths: list[int], room: int) -> int:
    """Best-fit decreasing as the textbook writes it."""
    free: list[int] = []
    for length in sorted(lengths, reverse=True):
        place = bisect.bisect_left(free, length)
        space = free.pop(place) if place < len(free) else room
        bisect.insort(free, space - length)
    return len(free)


def check(lengths: list[int], room: int, index: pl.DataFrame) -> None:
    assert index.schema == PACK_INDEX
    assert sorted(index["row"]) == list(range(len(lengths))), "every row once"
    assert index["tokens"].to_list() == [lengths[row] for row in index["row"]]
    packs = index.group_by("pack").agg(pl.col("tokens").sum(), pl.col("position"))
    assert packs["tokens"].max() <= room
    assert all(places == list(range(len(places))) for places in packs["position"].to_list())
    assert index.sort("pack", "position").equals(index)
    assert sorted(packs["pack"]) == list(range(packs.height)), "packs are numbered without a gap"


@given(
    st.integers(1, 300).flatmap(
        lambda room: st.tuples(st.just(room), st.lists(st.integers(1, room), min_size=1, max_size=200))
    )
)
def test_any_lengths_need_as_many_packs_as_row_by_row_best_fit(case):
    room, lengths = case
    index = plan_packs(np.array(lengths, dtype=np.int32), room, seed=7)
    check(lengths, room, index)
    assert index["pack"].n_unique() == bins_row_by_row(lengths, room)


@pytest.mark.parametrize("room", [1000, 2048, 3001])
def test_many_lengths_need_as_many_packs_as_row_by_row_best_fit(room):
    lengths = np.minimum(room, np.random.default_rng(room).lognormal(4.5, 1.0, 20_000).astype(np.int32) + 1)
    index = plan_packs(lengths, room, seed=1)
    check(lengths.tolist(), room, index)
    assert index["pack"].n_unique() == bins_row_by_row(lengths.tolist(), room)
    assert fill(index, room) > 0.995


def test_rows_as_long_as_a_pack_each_fill_one():
    index = plan_packs(np.array([100, 100, 1, 99], dtype=np.int32), 100, seed=0)
    assert index["pack"].n_unique() == 3
    assert fill(index, 100) == 1.0


def test_no_rows_give_no_packs():
    index = plan_packs(np.array([], dtype=np.int32), 100, seed=0)
    assert index.schema == PACK_INDEX
    assert index.height == 0
    assert fill(index, 100) == 1.0


@pytest.mark.parametrize(("lengths", "told"), [([5, 0], "row 1 has 0 tokens"), ([101, 5], "row 0 has 101 tokens")])
def test_row_that_cannot_be_packed_is_an_error_and_not_a_loss(lengths, told):
    with pytest.raises(SftDataError, match=told):
        plan_packs(np.array(lengths, dtype=np.int32), 100, seed=0)


def test_packs_do_not_come_from_long_to_short():
    lengths = np.sort(np.random.default_rng(0).integers(1, 500, 5000).astype(np.int32))
    longest = (
        plan_packs(lengths, 512, seed=3).group_by("pack", maintain_order=True).agg(pl.col("tokens").max())["tokens"]
    )
    ranks = np.corrcoef(np.arange(len(longest)), longest.to_numpy())[0, 1]
    assert abs(ranks) < 0.1


def test_seed_alone_decides_which_rows_share_a_pack():
    lengths = np.random.default_rng(0).integers(1, 50, 400).astype(np.int32)
    first, again, other = (plan_packs(lengths, 100, seed) for seed in (1, 1, 2))
    assert first.equals(again)
    assert not first.equals(other)


def test_plan_is_the_same_on_every_machine():
    """Written down once: a change of numpy, of the platform or of the code shows here."""
    index = plan_packs(np.array([60, 40, 40, 20, 20, 20], dtype=np.int32), 100, seed=5)
    assert index.group_by("pack", maintain_order=True).agg("tokens")["tokens"].to_list() == [[40, 20, 20, 20], [60, 40]]
    assert index["row"].to_list() == [1, 4, 5, 3, 0, 2]


def test_lower_bound_is_the_tokens_over_the_room_rounded_up():
    assert lower_bound(np.array([50, 50, 1]), 100) == 2
    assert lower_bound(np.array([50, 50]), 100) == 1


def test_settings_refuse_packs_without_room():
    with pytest.raises(ValueError, match="max_length"):
        Pack(max_length=0)
