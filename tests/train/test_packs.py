from pathlib import Path

import numpy as np
import pytest

from sft_data.errors import TrainError
from sft_data.train.packs import Rows, open_rows, pack_order, survey
from tests.train.versions import echo, example, packed, row_of, write_stream

TWO = [example([8, 9], [10]), example([11], [12, 13])]  # 6 and 6 tokens, 2 and 3 of them supervised


def rows_of(tmp_path: Path, *rows: dict[str, list[int]], shards: int = 1) -> Rows:
    write_stream(tmp_path / "packs" / "train", rows, shards)
    return open_rows(tmp_path, "train", "packs")


def test_open_rows_over_shards_and_batches_gives_every_row_in_order(tmp_path: Path):
    wanted = [row_of(pack) for pack in packed(echo(3, 40))]
    rows = rows_of(tmp_path, *wanted, shards=3)
    assert len(rows) == len(wanted)
    for number in (0, 2, 3, len(wanted) // 2, len(wanted) - 1):
        found = {
            "input_ids": rows[number].input_ids,
            "labels": rows[number].labels,
            "seq_lengths": rows[number].lengths,
        }
        assert {name: values.tolist() for name, values in found.items()} == wanted[number]


def test_open_rows_of_tokens_makes_each_row_one_example(tmp_path: Path):
    write_stream(tmp_path / "tokens" / "test", [dict(zip(("input_ids", "labels"), one, strict=True)) for one in TWO])
    rows = open_rows(tmp_path, "test", "tokens")
    assert [row.lengths.tolist() for row in (rows[0], rows[1])] == [[6], [6]]


def test_open_rows_of_a_split_that_is_not_there_names_those_that_are(tmp_path: Path):
    write_stream(tmp_path / "packs" / "train", [row_of(TWO)])
    with pytest.raises(TrainError, match=r"no packs of split 'validation'; splits with packs: train"):
        open_rows(tmp_path, "validation", "packs")


def test_survey_counts_what_is_there(tmp_path: Path):
    prompt_only = ([5, 6, 7], [-100, -100, -100])
    found = survey(rows_of(tmp_path, row_of(TWO), row_of([prompt_only])), "v")
    assert (found.tokens, found.longest, found.largest_id) == (15, 6, 13)
    assert found.supervised.tolist() == [5, 0]
    assert found.trainable.tolist() == [0]


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        ({"labels": [4, 5, 6], "seq_lengths": [3]}, "first label of an example"),
        ({"labels": [-100, 5, 6], "seq_lengths": [1, 2]}, "first label of an example"),
        ({"labels": [-100, 5, 7], "seq_lengths": [3]}, "neither -100 nor the token at its place"),
        ({"labels": [-100, 5], "seq_lengths": [3]}, "differ in length"),
        ({"labels": [-100, 5, 6], "seq_lengths": [2]}, "do not add up"),
        ({"labels": [-100, 5, 6], "seq_lengths": [3, 0]}, "empty example"),
        ({"input_ids": [], "labels": [], "seq_lengths": []}, "no tokens"),
    ],
)
def test_survey_of_a_broken_pack_names_it(tmp_path: Path, broken: dict[str, list[int]], told: str):
    rows = rows_of(tmp_path, row_of(TWO), row_of(TWO), {"input_ids": [4, 5, 6], **broken}, row_of(TWO))
    with pytest.raises(TrainError, match=f"row 2: .*{told}"):
        survey(rows, "v")


def test_pack_order_is_a_permutation_that_seed_and_pass_change():
    orders = [pack_order(1000, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    for order in orders:
        assert np.array_equal(np.sort(order), np.arange(1000))
    for i, one in enumerate(orders):
        for other in orders[i + 1 :]:
            assert (one == other).mean() < 0.02


def test_pack_order_never_changes():
    assert pack_order(8, seed=0, epoch=0).tolist() == ORDER


def test_pack_order_is_spread_evenly():
    first_half = np.mean([pack_order(1000, seed, 0)[:500].mean() for seed in range(20)])
    assert abs(first_half - 499.5) < 20


def splitmix(x: int) -> int:
    """The finaliser of splitmix64 with Python's whole numbers."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
    return x ^ (x >> 31)


ORDER = sorted(range(8), key=lambda i: splitmix(((i + 1) * 0x9E3779B97F4A7C15 + splitmix(0)) % 2**64))
