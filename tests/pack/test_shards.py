"""Token files as other programs read them, and packs gathered from them."""

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from sft_data.errors import StoreError
from sft_data.pack.plan import plan_packs
from sft_data.pack.shards import TokenReader, dataset_files, list_column, pack_frame, stream_names, write_stream
from sft_data.schema import TOKENS


def tokens(*rows: list[int]) -> pl.DataFrame:
    """Rows whose labels are all learnt."""
    return pl.DataFrame({"input_ids": rows, "labels": rows}, schema=TOKENS)


def written(folder, *frames):
    names = stream_names(len(frames))
    for name, frame in zip(names, frames, strict=True):
        write_stream(folder / name, frame)
    return [folder / name for name in names]


def test_reader_gathers_rows_of_several_files_in_the_order_asked(tmp_path):
    reader = TokenReader(written(tmp_path, tokens([1, 2], [3]), tokens(), tokens([4, 5, 6], [7])))
    assert reader.lengths.tolist() == [2, 1, 3, 1]
    ids, labels, lengths = reader.gather(np.array([2, 0, 3]))
    assert ids.tolist() == labels.tolist() == [4, 5, 6, 1, 2, 7]
    assert lengths.tolist() == [3, 2, 1]


def test_reader_gathers_across_record_batches(tmp_path, monkeypatch):
    monkeypatch.setattr("sft_data.pack.shards.BATCH_ROWS", 3)
    rows = [[n] * (n % 4 + 1) for n in range(20)]
    reader = TokenReader(written(tmp_path, tokens(*rows)))
    order = np.random.default_rng(0).permutation(20)
    ids, _, _ = reader.gather(order)
    assert ids.tolist() == [token for row in order for token in rows[row]]


def test_reader_of_a_file_that_is_no_stream_says_so(tmp_path):
    (tmp_path / "x.arrow").write_bytes(b"nothing")
    with pytest.raises(StoreError, match="not a readable Arrow IPC stream"):
        TokenReader([tmp_path / "x.arrow"])


def test_first_label_of_every_segment_of_a_pack_is_not_learnt(tmp_path):
    reader = TokenReader(written(tmp_path, tokens([1, 2], [3], [4, 5, 6])))
    index = pl.DataFrame({"pack": [0, 0, 1], "position": [0, 1, 0], "row": [2, 1, 0], "tokens": [3, 1, 2]})
    packs = pack_frame(index, reader)
    assert packs["input_ids"].to_list() == [[4, 5, 6, 3], [1, 2]]
    assert packs["labels"].to_list() == [[-100, 5, 6, -100], [-100, 2]]
    assert packs["seq_lengths"].to_list() == [[3, 1], [2]]


def test_packs_hold_every_token_once_and_no_padding(tmp_path):
    rows = [[n] * (n % 7 + 1) for n in range(50)]
    reader = TokenReader(written(tmp_path, tokens(*rows[:20]), tokens(*rows[20:])))
    packs = pack_frame(plan_packs(reader.lengths, 16, seed=1), reader)
    assert sorted(t for pack in packs["input_ids"].to_list() for t in pack) == sorted(t for row in rows for t in row)
    assert packs["seq_lengths"].list.sum().to_list() == packs["input_ids"].list.len().to_list()


def test_packs_of_a_slice_are_the_slice_of_the_packs(tmp_path):
    reader = TokenReader(written(tmp_path, tokens(*([n] * (n % 7 + 1) for n in range(50)))))
    index = plan_packs(reader.lengths, 16, seed=1)
    part = index.filter(pl.col("pack").is_between(3, 6))
    assert pack_frame(part, reader).equals(pack_frame(index, reader)[3:7])


def test_loss_weights_are_packed_beside_the_labels(tmp_path):
    frame = tokens([1, 2], [3, 4]).with_columns(
        loss_weights=pl.Series([[0.0, 0.5], [1.0, 1.0]], dtype=pl.List(pl.Float32))
    )
    reader = TokenReader(written(tmp_path, frame))
    index = pl.DataFrame({"pack": [0, 0], "position": [0, 1], "row": [0, 1], "tokens": [2, 2]})
    assert pack_frame(index, reader)["loss_weights"].to_list() == [[0.0, 0.5, 0.0, 1.0]]


def test_same_frame_gives_the_same_bytes_however_it_lies_in_memory(tmp_path):
    whole = tokens([1, 2], [3], [4, 5])
    write_stream(tmp_path / "a", whole)
    write_stream(tmp_path / "b", pl.concat([whole[:1], whole[1:]], rechunk=False))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("before", [0, 1, 7])
@pytest.mark.parametrize("rows", [1, 3, 16, 17])
def test_rows_taken_out_of_a_longer_frame_give_the_same_bytes(tmp_path, before, rows):
    """What stands behind a slice in memory must not be written as its padding."""
    told = [[n + 1] * (n % 5 + 1) for n in range(rows)]
    around = tokens(*[[90]] * before, *told, [91, 92, 93], [94] * 30).rechunk()
    write_stream(tmp_path / "alone.arrow", tokens(*told))
    write_stream(tmp_path / "slice.arrow", around.slice(before, rows))
    write_stream(tmp_path / "pieces.arrow", pl.concat([around.slice(before, 1), around.slice(before + 1, rows - 1)]))
    assert len({(tmp_path / f"{name}.arrow").read_bytes() for name in ("alone", "slice", "pieces")}) == 1


def test_lists_have_32_bit_offsets_and_32_bit_numbers(tmp_path):
    [path] = written(tmp_path, tokens([1, 2]))
    with pa.memory_map(str(path)) as source:
        schema = pa.ipc.open_stream(source).schema
    assert schema.field("input_ids").type == pa.list_(pa.int32())


def test_folder_opens_with_datasets_unchanged(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = [[n, n + 1] for n in range(10)]
    written(tmp_path, tokens(*rows[:4]), tokens(*rows[4:]))
    for name, text in dataset_files(stream_names(2), "ab" * 32, split="train").items():
        (tmp_path / name).write_text(text)
    opened = datasets.load_from_disk(str(tmp_path))
    assert opened["input_ids"][:] == rows
    assert opened.features["labels"].feature.dtype == "int32"
    assert datasets.Dataset.from_file(str(tmp_path / stream_names(2)[1]))[0]["labels"] == [4, 5]


def test_list_column_cuts_flat_values_at_the_offsets():
    assert list_column(np.array([1, 2, 3], dtype=np.int32), np.array([0, 2, 2, 3])).to_list() == [[1, 2], [], [3]]
