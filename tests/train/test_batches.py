from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the extra `train`")

import numpy as np

from sft_data.train.batches import Collator, PackStream, positions
from sft_data.train.packs import Row, open_rows
from tests.train.versions import STOP, write_stream

X = -100


def row(*examples: tuple[list[int], list[int]]) -> Row:
    return Row(
        np.array([i for ids, _ in examples for i in ids], dtype=np.int32),
        np.array([i for _, labels in examples for i in labels], dtype=np.int32),
        np.array([len(ids) for ids, _ in examples], dtype=np.int32),
    )


LONG = row(([5, 6, 7], [X, 6, 7]), ([8, 9, STOP], [X, X, STOP]))
SHORT = row(([4, STOP], [X, STOP]))


def test_positions_start_again_with_every_example():
    assert positions(np.array([3, 1, 2])).tolist() == [0, 1, 2, 0, 0, 1]


def test_collator_gives_padding_an_example_of_its_own():
    batch = Collator(pad_token_id=STOP)([LONG, SHORT])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9, STOP], [4, STOP, STOP, STOP, STOP, STOP]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 2], [0, 1, 0, 1, 2, 3]]
    assert batch["text_tokens"] == 8


def test_collator_whose_pad_token_is_the_stop_token_still_trains_the_stop_token():
    labels = Collator(pad_token_id=STOP)([LONG, SHORT])["labels"].tolist()
    assert labels == [[X, 6, 7, X, X, STOP], [X, STOP, X, X, X, X]]


def test_collator_makes_no_attention_mask():
    names = {"input_ids", "labels", "weights", "position_ids", "text_tokens"}
    assert set(Collator(pad_token_id=0)([LONG, SHORT])) == names


def test_collator_by_token_weighs_every_supervised_token_the_same():
    weights = Collator(pad_token_id=0)([LONG, SHORT])["weights"].tolist()
    assert weights == [[0, 1, 1, 0, 0, 1], [0, 1, 0, 0, 0, 0]]


def test_collator_by_conversation_gives_every_conversation_the_weight_of_one():
    weights = Collator(pad_token_id=0, loss="conversation-mean")([LONG, SHORT])["weights"].tolist()
    assert weights == [[0, 0.5, 0.5, 0, 0, 1], [0, 1, 0, 0, 0, 0]]


def test_collator_by_conversation_with_an_untrained_one_makes_no_nan():
    weights = Collator(pad_token_id=0, loss="conversation-mean")([row(([1, 2], [X, X]), ([3, 4], [X, 4]))])["weights"]
    assert weights.tolist() == [[0, 0, 0, 1]]


def test_flat_collator_tells_where_every_example_ends():
    batch = Collator(pad_token_id=0, layout="flat")([LONG, SHORT])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9, STOP, 4, STOP]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 2, 0, 1]]
    assert batch["cu_seq_lens_q"].tolist() == batch["cu_seq_lens_k"].tolist() == [0, 3, 6, 8]
    assert batch["max_length_q"] == batch["max_length_k"] == 3


def seen(tmp_path: Path, length: int) -> list[int]:
    """First tokens of a stream over packs 0, 1, 2 and 4 of five, of which each holds its own number."""
    write_stream(
        tmp_path / "packs" / "train", [{"input_ids": [n], "labels": [X], "seq_lengths": [1]} for n in range(5)]
    )
    stream = PackStream(open_rows(tmp_path, "train", "packs"), np.array([0, 1, 2, 4]), length, seed=0)
    return [int(stream[place].input_ids[0]) for place in range(len(stream))]


def test_pack_stream_shows_every_pack_once_in_a_pass_and_never_one_left_out(tmp_path: Path):
    found = seen(tmp_path, 12)
    assert [sorted(found[i : i + 4]) for i in (0, 4, 8)] == [[0, 1, 2, 4]] * 3


def test_pack_stream_orders_every_pass_anew(tmp_path: Path):
    found = seen(tmp_path, 40)
    assert len({tuple(found[i : i + 4]) for i in range(0, 40, 4)}) > 3


def test_collator_widens_rows_to_a_multiple():
    batch = Collator(pad_token_id=0, multiple=8)([LONG, SHORT])
    assert batch["input_ids"].shape == (2, 8)
    assert batch["labels"][:, 6:].tolist() == [[X, X], [X, X]]
    assert batch["position_ids"][0].tolist() == [0, 1, 2, 0, 1, 2, 0, 1]


class Numbered:
    """Rows that hold their own number."""

    def __getitem__(self, number: int) -> Row:
        return row(([number], [number]))


def test_stream_keeps_batches_together_and_every_pass_starts_with_a_new_one():
    stream = PackStream(Numbered(), np.arange(10), length=24, seed=3, group=4)
    assert stream.places == 12
    for start in (0, 12):
        batches = [[stream[start + n + i] for i in range(4)] for n in (0, 4, 8)]
        taken = [[int(r.input_ids[0]) for r in batch if (r.labels != X).any()] for batch in batches]
        assert sorted(taken[:2]) == [[0, 1, 2, 3], [4, 5, 6, 7]]
        assert taken[2] == [8, 9]
        fillers = batches[2][2:]
        assert [r.labels.tolist() for r in fillers] == [[X], [X]]
        assert [r.lengths.tolist() for r in fillers] == [[1], [1]]


def test_stream_shuffles_batches_anew_in_every_pass():
    stream = PackStream(Numbered(), np.arange(80), length=240, seed=3, group=4)
    passes = [[int(stream[start + n].labels[0]) for n in range(0, 80, 4)] for start in (0, 80, 160)]
    assert sorted(passes[0]) == list(range(0, 80, 4))
    assert len({tuple(found) for found in passes}) == 3


def test_stream_in_stored_order_takes_every_pass_as_it_lies_with_the_last_batch_filled_up():
    stream = PackStream(Numbered(), np.array([0, 2, 3, 5, 6]), length=12, seed=3, group=2, order="stored")
    taken = [int(row.input_ids[0]) for row in (stream[place] for place in range(12))]
    assert taken == [0, 2, 3, 5, 6, 0] * 2
    assert [place for place in range(12) if (stream[place].labels == X).all()] == [5, 11]
