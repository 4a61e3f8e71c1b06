import numpy as np
import pytest
from datasketch import MinHash

from sft_data.dedup.minhash import bands_for, bands_of_rows, recall_at, signatures


@pytest.mark.parametrize(("seed", "num_perm"), [(1, 128), (7, 64), (42, 256)])
def test_signature_is_that_of_datasketch_bit_for_bit(seed: int, num_perm: int) -> None:
    draw = np.random.default_rng(seed)
    sets = [draw.integers(0, 2**32, size, dtype=np.uint32) for size in (0, 1, 2, 17, 100, 1000)]
    ours = signatures(np.concatenate(sets), np.array([len(each) for each in sets]), num_perm, seed)
    for hashes, row in zip(sets, ours, strict=True):
        theirs = MinHash(num_perm=num_perm, seed=seed, scheme="affine32", hashfunc=int)
        theirs.update_batch([int(value) for value in hashes])
        np.testing.assert_array_equal(row, theirs.hashvalues)


def test_signature_of_a_union_is_the_minimum_and_bands_follow_it() -> None:
    draw = np.random.default_rng(3)
    left, right = draw.integers(0, 2**32, (2, 40), dtype=np.uint32)
    both = np.concatenate([left, right])
    union, alone = bands_of_rows(both, np.array([[40, 40]]), (True, True), (8, 4), 32, 1)
    whole, _ = bands_of_rows(both, np.array([[80]]), (True,), (8, 4), 32, 1)
    only, _ = bands_of_rows(left, np.array([[40]]), (True,), (8, 4), 32, 1)
    np.testing.assert_array_equal(union[0], whole[0])
    np.testing.assert_array_equal(alone[0, 0], only[0])


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 0.95, 1.0])
def test_bands_find_995_in_a_thousand_at_the_threshold_and_one_row_more_would_not(threshold: float) -> None:
    bands, rows = bands_for(threshold, 128)
    assert bands * rows <= 128
    assert recall_at(threshold, bands, rows) >= 0.995
    assert rows == 128 or recall_at(threshold, 128 // (rows + 1), rows + 1) < 0.995


def test_bands_agree_as_often_as_the_formula_says() -> None:
    draw = np.random.default_rng(5)
    pairs, agreeing = 400, 0
    for _ in range(pairs):
        shared, left, right = np.split(draw.integers(0, 2**32, 100, dtype=np.uint32), [70, 85])
        both = np.concatenate([shared, left, shared, right])
        keys, _ = bands_of_rows(both, np.array([[85], [85]]), (True,), (9, 13), 128, 1)
        agreeing += bool((keys[0] == keys[1]).any())
    assert agreeing / pairs == pytest.approx(recall_at(0.7, 9, 13), abs=0.06)
