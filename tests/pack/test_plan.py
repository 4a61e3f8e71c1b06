"""The packer against a row-by-row best-fit decreasing and against what every packing must keep."""

import bisect
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sft_data.errors import SftDataError
from sft_data.pack.plan import METHODS, Pack, fill, lower_bound, plan, plan_packs, slots
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


@settings(deadline=None)  # the first call compiles
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


ALONE = ("none", "sorted", "buckets")
DRAWN = np.minimum(512, np.random.default_rng(5).lognormal(4.0, 0.9, 3_000).astype(np.int32) + 1)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_packs_every_row_once_and_nothing_over_the_length(method):
    for lengths in (DRAWN, DRAWN[:1], DRAWN[:13]):
        index = plan(lengths, Pack(method=method, max_length=512, seed=3))
        check(lengths.tolist(), 512, index)
        assert index.equals(plan(lengths, Pack(method=method, max_length=512, seed=3)))
        if method in ALONE:
            assert index["pack"].n_unique() == len(lengths)
    assert plan(DRAWN[:0], Pack(method=method, max_length=512)).height == 0
    assert not plan(DRAWN, Pack(method=method, max_length=512, seed=4)).equals(index)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("lengths", "told"), [([5, 0], "row 1 has 0 tokens"), ([101, 5], "row 0 has 101 tokens")])
def test_no_method_loses_a_row_that_does_not_fit(method, lengths, told):
    with pytest.raises(SftDataError, match=told):
        plan(np.array(lengths, dtype=np.int32), Pack(method=method, max_length=100))


def widths(index: pl.DataFrame, rows: int) -> list[list[int]]:
    """Lengths of the packs of each batch."""
    lengths = index["tokens"].to_list()
    return [lengths[n : n + rows] for n in range(0, len(lengths), rows)]


def test_slots_are_the_widths_of_the_batches_counted_by_hand():
    lengths = np.array([3, 9, 4, 10, 5], dtype=np.int32)
    by = {m: Pack(method=m, max_length=16, batch_rows=2) for m in ("none", "sorted")}
    index = plan(lengths, by["sorted"])
    assert sorted(map(sorted, widths(index, 2))) == [[3], [4, 5], [9, 10]]
    assert widths(index, 2)[-1] == [3], "the batch that is not full comes last"
    assert slots(index, by["sorted"]) == 3 + 2 * 5 + 2 * 10
    unsorted = plan(lengths, by["none"])
    assert slots(unsorted, by["none"]) == sum(max(batch) * len(batch) for batch in widths(unsorted, 2))
    buckets = Pack(method="buckets", max_length=16, batch_rows=2, multiple=4)
    assert slots(plan(lengths, buckets), buckets) == 4 + 2 * 8 + 2 * 12
    packed = Pack(max_length=16)
    assert slots(plan(lengths, packed), packed) == 2 * 16


def test_sorted_batches_hold_neighbouring_lengths_in_an_order_that_does_not_rise():
    index = plan(DRAWN, Pack(method="sorted", max_length=512, batch_rows=16))
    batches = widths(index, 16)
    bounds = sorted((min(batch), max(batch)) for batch in batches)
    assert all(low[1] <= high[0] for low, high in pairwise(bounds))
    assert abs(np.corrcoef(np.arange(len(batches)), [max(batch) for batch in batches])[0, 1]) < 0.25


def test_buckets_share_a_width_and_mix_the_lengths_inside():
    settings = Pack(method="buckets", max_length=512, batch_rows=8, multiple=128)
    batches = widths(plan(DRAWN, settings), 8)
    mixed = [batch for batch in batches if len({-(-n // 128) for n in batch}) > 1]
    assert len(mixed) <= 3, "only a batch between two buckets holds rows of both"
    assert sum(batch != sorted(batch) for batch in batches) > len(batches) // 2


def test_padding_falls_from_no_packing_over_buckets_and_sorting_to_packs():
    share = {}
    for method in METHODS:
        settings = Pack(method=method, max_length=512)
        share[method] = DRAWN.sum() / slots(plan(DRAWN, settings), settings)
    assert share["none"] < share["buckets"] < share["sorted"]
    assert share["none"] < 0.6
    assert min(share["sorted"], share["multipack"], share["best-fit"]) > 0.97


def test_multipack_keeps_windows_of_the_shuffle_apart():
    index = plan(DRAWN, Pack(method="multipack", max_length=512, window=500, seed=3))
    near = plan(DRAWN, Pack(method="none", max_length=512, seed=3))["row"].to_list()
    window_of = {row: place // 500 for place, row in enumerate(near)}
    windows = index.group_by("pack").agg(pl.col("row").replace_strict(window_of).n_unique().alias("windows"))
    assert windows["windows"].max() == 1
    assert index["pack"].n_unique() >= plan_packs(DRAWN, 512, 3)["pack"].n_unique()


def test_setting_that_its_method_does_not_read_is_a_mistake():
    with pytest.raises(ValueError, match="multiple: has no effect where method is sorted; it is for buckets"):
        Pack(method="sorted", multiple=32)
    with pytest.raises(ValueError, match=r"window: .*\n.*batch_rows: has no effect where method is best-fit"):
        Pack(window=5, batch_rows=4)
