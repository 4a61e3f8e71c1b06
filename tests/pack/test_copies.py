import polars as pl
import pytest

from sft_data.pack.copies import copies, weights_of


def rows(number: int, source: str = "a") -> pl.DataFrame:
    return pl.DataFrame({"id": [f"{source}:f:{i}" for i in range(number)], "source": [source] * number})


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.5, 1.0, 1.7, 3.0])
def test_copies_of_a_source_are_its_weight_on_average_and_differ_by_one_at_most(weight: float):
    found = copies(rows(4_000), {"a": weight}, seed=3)
    assert abs(found.mean() - weight) < 4 * 0.5 / 4_000**0.5
    assert found.max() - found.min() <= 1


def test_copies_of_a_source_without_a_weight_are_one():
    assert copies(rows(5, "b"), {"a": 2.0}, seed=3).tolist() == [1] * 5


def test_copies_of_a_row_do_not_depend_on_other_rows_and_grow_with_the_weight():
    whole = copies(rows(500), {"a": 0.4}, seed=3)
    assert copies(rows(500)[100:300], {"a": 0.4}, seed=3).tolist() == whole[100:300].tolist()
    assert (copies(rows(500), {"a": 0.6}, seed=3) >= whole).all()
    assert copies(rows(500), {"a": 0.4}, seed=4).tolist() != whole.tolist()


def test_weights_are_read_from_a_pipelines_settings():
    assert weights_of({"sources": [{"name": "a", "weight": 2}, {"name": "b"}]}) == {"a": 2.0, "b": 1.0}
