"""Every target read back, by the trainer's own loader where it installs, else by its documented contract."""

import gzip
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from sft_data.build import build
from sft_data.errors import StoreError
from sft_data.export.targets import TARGETS, export_to
from sft_data.pipeline import parse_pipeline
from sft_data.store.layout import arrow_batches, stream_files
from sft_data.store.read import load_manifest
from tests.export.conftest import ROWS
from tests.tokenize.makers import CALLING, byte_tokenizer

IGNORED = -100


def table(version: Path, name: str, split: str = "train") -> pl.DataFrame:
    return pl.concat(frame for path in stream_files(version, name, split) for frame in arrow_batches(path))


def loaded(path: Path):
    datasets = pytest.importorskip("datasets")
    return datasets.load_from_disk(str(path))


@pytest.mark.parametrize("to", TARGETS)
def test_every_target_says_how_to_train_on_it_and_what_it_was_made_from(version, tmp_path, to):
    told = export_to(version, to, tmp_path / to)
    manifest = load_manifest(version)
    assert told.fingerprint == manifest.fingerprint
    assert told.files == sum(path.is_file() for path in (tmp_path / to).rglob("*"))
    readme = (tmp_path / to / "README.md").read_text()
    assert manifest.fingerprint in readme
    assert to in readme
    assert "{" not in readme.replace("{path}", "")
    provenance = json.loads((tmp_path / to / "provenance.json").read_text())
    assert provenance["fingerprint"] == manifest.fingerprint
    assert provenance["tokenizer"]["sha256"] == manifest.tokenizer.sha256


@pytest.mark.parametrize("to", TARGETS)
def test_same_version_gives_the_same_bytes(version, tmp_path, to):
    first, second = tmp_path / "a" / "x", tmp_path / "b" / "x"
    for out in (first, second):
        export_to(version, to, out)
    for path in sorted(p for p in first.rglob("*") if p.is_file()):
        assert path.read_bytes() == (second / path.relative_to(first)).read_bytes()


def test_trl_rows_are_the_versions_tokens(version, tmp_path):
    export_to(version, "trl", tmp_path / "x")
    for split in ("train", "validation"):
        rows = loaded(tmp_path / "x" / split)
        assert rows.column_names == ["input_ids", "labels"]
        assert rows[:] == table(version, "tokens", split).to_dict(as_series=False)


def test_trl_packs_are_the_versions_packs(version, tmp_path):
    export_to(version, "trl-packed", tmp_path / "x")
    assert loaded(tmp_path / "x" / "train")[:] == table(version, "packs").to_dict(as_series=False)


@pytest.mark.parametrize("to", ["axolotl", "llama-factory"])
def test_unpacked_targets_have_exactly_three_columns_and_a_mask_of_ones(version, tmp_path, to):
    export_to(version, to, tmp_path / "x")
    rows = loaded(tmp_path / "x") if to == "llama-factory" else {"train": loaded(tmp_path / "x" / "train")}
    train, tokens = rows["train"], table(version, "tokens")
    assert sorted(train.column_names) == ["attention_mask", "input_ids", "labels"]
    assert train["input_ids"][:] == tokens["input_ids"].to_list()
    assert train["labels"][:] == tokens["labels"].to_list()
    assert train["attention_mask"][:] == [[1] * len(row) for row in tokens["input_ids"].to_list()]


def test_llama_factory_packs_number_their_segments_and_fill_up_with_zero(version, tmp_path):
    export_to(version, "llama-factory-packed", tmp_path / "x")
    rows = loaded(tmp_path / "x")["train"]
    for row, pack in zip(rows, table(version, "packs").iter_rows(named=True), strict=True):
        assert {len(values) for values in row.values()} == {128}
        numbers = [n for n, size in enumerate(pack["seq_lengths"], start=1) for _ in range(size)]
        used = len(numbers)
        assert row["attention_mask"] == numbers + [0] * (128 - used)
        assert row["input_ids"][:used] == pack["input_ids"]
        assert row["labels"] == pack["labels"] + [IGNORED] * (128 - used)


def test_nemo_packs_have_shifted_labels_and_places_that_start_anew(version, tmp_path):
    export_to(version, "nemo-automodel", tmp_path / "x")
    for row, pack in zip(loaded(tmp_path / "x" / "train"), table(version, "packs").iter_rows(named=True), strict=True):
        sizes, used = pack["seq_lengths"], len(pack["input_ids"])
        assert row["seq_lens"] == sizes
        assert row["seq_lens_padded"] == [*sizes[:-1], sizes[-1] + 128 - used]
        assert row["position_ids"][:used] == [place for size in sizes for place in range(size)]
        assert row["labels"] == _shifted(pack) + [IGNORED] * (128 - used)


def test_megatron_packs_have_shifted_masks_and_the_starts_of_segments(version, tmp_path):
    export_to(version, "megatron-bridge", tmp_path / "x")
    rows = pl.read_parquet(tmp_path / "x" / "train" / "*.idx.parquet")
    for row, pack in zip(rows.iter_rows(named=True), table(version, "packs").iter_rows(named=True), strict=True):
        assert row["input_ids"] == pack["input_ids"]
        assert row["loss_mask"] == [int(label != IGNORED) for label in _shifted(pack)]
        assert row["seq_start_id"] == [sum(pack["seq_lengths"][:n]) for n in range(len(pack["seq_lengths"]))]


def _shifted(pack: dict) -> list[int]:
    """At each place the label of the next one in the same segment."""
    shifted, start = [], 0
    for size in pack["seq_lengths"]:
        shifted += [*pack["labels"][start + 1 : start + size], IGNORED]
        start += size
    return shifted


def test_olmo_arrays_are_raw_and_their_documents_are_the_rows(version, tmp_path):
    export_to(version, "olmo-core", tmp_path / "x")
    folder, tokens = tmp_path / "x" / "train", table(version, "tokens")
    ids = np.fromfile(folder / "token_ids_part_0000.npy", dtype=np.uint16)
    mask = np.fromfile(folder / "labels_mask_part_0000.npy", dtype=np.bool_)
    bounds = [
        tuple(map(int, line.split(",")))
        for line in gzip.decompress((folder / "token_ids_part_0000.csv.gz").read_bytes()).decode().splitlines()
    ]
    assert [ids[low:high].tolist() for low, high in bounds] == tokens["input_ids"].to_list()
    assert [np.where(mask, ids.astype(int), IGNORED)[low:high].tolist() for low, high in bounds] == tokens[
        "labels"
    ].to_list()
    told = json.loads((folder / "dataset_statistics.json").read_text())
    assert told == {
        "documents": tokens.height,
        "dtype": "uint16",
        "tokens": len(ids),
        "trained_tokens": int(mask.sum()),
    }


def read_again(path: Path, form: str, tmp_path: Path) -> pl.DataFrame:
    """The file through this project's own build, without tokens."""
    data = {"name": "again", "sources": [{"name": "s", "path": str(path), "format": form}], "split": {"validation": 0}}
    folder = Path(build(parse_pipeline(data, "pipeline"), tmp_path / "again").path)
    return pl.read_parquet(folder / "conversations" / "train" / "*.parquet")


@pytest.mark.parametrize(
    ("form", "files"), [("messages", None), ("sharegpt", None), ("messages", "parquet"), ("record", "parquet")]
)
def test_conversations_come_back_as_they_were(version, tmp_path, form, files):
    told = export_to(version, form, tmp_path / "x", files)
    before = pl.read_parquet(version / "conversations" / "*" / "*.parquet")
    again = [
        read_again(path, "alpaca" if form == "record" else form, tmp_path / path.stem)["content_hash"]
        for path in (tmp_path / "x").glob("*.*")
        if path.stem in {"train", "validation"}
    ]
    assert len(pl.concat(again)) == before.height - told.left_out
    assert set(pl.concat(again)) <= set(before["content_hash"])
    assert told.left_out == (2 if form == "record" else 0)


def test_all_splits_have_the_same_columns(version, tmp_path):
    export_to(version, "messages", tmp_path / "x", "parquet")
    splits = [pl.read_parquet_schema(tmp_path / "x" / f"{split}.parquet") for split in ("train", "validation")]
    assert splits[0] == splits[1]
    assert "tool_calls" in dict(splits[0]["messages"].inner.to_schema())


def test_files_are_for_conversations_alone(version, tmp_path):
    with pytest.raises(StoreError, match="are for messages, alpaca, sharegpt, prompt-completion, record alone"):
        export_to(version, "trl", tmp_path / "x", "parquet")
    with pytest.raises(StoreError, match="as they are: leave out --files and --ranks"):
        export_to(version, "version", tmp_path / "x", "parquet")


def test_alpaca_leaves_out_what_it_cannot_hold_and_counts_it(version, tmp_path):
    told = export_to(version, "alpaca", tmp_path / "x")
    rows = [
        row for split in ("train", "validation") for row in json.loads((tmp_path / "x" / f"{split}.json").read_text())
    ]
    assert told.left_out == 1
    assert list(told.reasons.values()) == [1]
    assert "1 rows are left out" in (tmp_path / "x" / "README.md").read_text()
    assert len(rows) == len(ROWS) - 1
    [dialogue] = [row for row in rows if "history" in row]
    assert dialogue == {
        "id": "s:rows.jsonl:40",
        "source": "s",
        "instruction": "again",
        "input": "",
        "output": "hello",
        "system": "be brief",
        "history": [["hello 🎉", "你好 <|im_end|>"]],
    }


def test_unknown_target_and_used_folder_are_refused_with_what_to_do(version, tmp_path):
    with pytest.raises(StoreError, match="there are trl, trl-packed"):
        export_to(version, "nothing", tmp_path / "x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(StoreError, match="not empty"):
        export_to(version, "trl", tmp_path / "full")


def test_version_without_packs_says_which_section_is_missing(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    data = {"name": "bare", "sources": [{"name": "s", "path": str(tmp_path / "rows.jsonl"), "format": "messages"}]}
    folder = Path(build(parse_pipeline(data, "pipeline"), tmp_path / "store").path)
    with pytest.raises(StoreError, match="no `pack` section"):
        export_to(folder, "trl-packed", tmp_path / "x")
    assert export_to(folder, "messages", tmp_path / "y").files == 3


@pytest.mark.parametrize("remainder", ["pad", "drop"])
@pytest.mark.parametrize("ranks", [2, 4, 7])
@pytest.mark.parametrize("to", ["trl", "trl-packed", "nemo-automodel"])
def test_every_rank_has_as_many_rows_and_the_remainder_is_told(version, tmp_path, to, ranks, remainder):
    export_to(version, to, tmp_path / "whole")
    export_to(version, to, tmp_path / "x", ranks=ranks, remainder=remainder)
    whole = loaded(tmp_path / "whole" / "train").to_list()
    shares = [loaded(tmp_path / "x" / "train" / f"rank-{rank:05d}-of-{ranks:05d}").to_list() for rank in range(ranks)]
    steps = {"pad": -(-len(whole) // ranks), "drop": len(whole) // ranks}[remainder]
    assert [len(share) for share in shares] == [steps] * ranks
    rows = [shares[n % ranks][n // ranks] for n in range(steps * ranks)]
    assert rows[: len(whole)] == whole[: len(rows)]
    for added in rows[len(whole) :]:
        assert set(added["labels"]) == {IGNORED}
        assert {**added, "labels": whole[-1]["labels"]} == whole[-1]
    readme = (tmp_path / "x" / "README.md").read_text()
    assert f"`train`: each of {ranks} ranks has {steps} rows" in readme
    rest = abs(len(rows) - len(whole))
    assert not rest or f"{rest} " + {"pad": "copies", "drop": "rows at its end"}[remainder] in readme


def test_trainers_that_share_out_rows_themselves_get_no_folders_by_rank(version, tmp_path):
    with pytest.raises(StoreError, match="ranks are for trl, trl-packed, nemo-automodel"):
        export_to(version, "llama-factory", tmp_path / "x", ranks=2)


def test_form_that_cannot_hold_the_loss_weights_says_so(tmp_path):
    rows = [*ROWS[:3], {"messages": [ROWS[3]["messages"][0], {**ROWS[3]["messages"][1], "weight": 0.5}]}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {
        "name": "weighted",
        "sources": [{"name": "s", "path": str(tmp_path / "rows.jsonl"), "format": "messages"}],
        "tokenize": {"tokenizer": byte_tokenizer(tmp_path / "tokenizer", CALLING), "max_length": 128},
    }
    folder = Path(build(parse_pipeline(data, "pipeline"), tmp_path / "store").path)
    assert table(folder, "tokens").columns[-1] == "loss_weights"
    told = export_to(folder, "trl", tmp_path / "x")
    assert "Loss weights are not in these files" in told.warnings[0]
    assert told.warnings[0] in (tmp_path / "x" / "README.md").read_text()
    assert export_to(folder, "messages", tmp_path / "y").warnings == []


def test_form_of_a_version_with_a_curriculum_says_that_it_must_not_be_shuffled(tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    data = {
        "name": "ordered",
        "sources": [{"name": "s", "path": str(tmp_path / "rows.jsonl"), "format": "messages"}],
        "split": {"validation": 0.0},
        "tokenize": {"tokenizer": byte_tokenizer(tmp_path / "tokenizer", CALLING), "max_length": 256},
        "pack": {"max_length": 256, "order": {"by": "answer-characters", "first": "highest"}},
    }
    folder = Path(build(parse_pipeline(data, "pipeline"), tmp_path / "store").path)
    told = export_to(folder, "trl-packed", tmp_path / "x", ranks=2)
    [warning] = told.warnings
    assert "(answer-characters, highest first)" in warning
    assert warning in (tmp_path / "x" / "README.md").read_text()
    whole = table(folder, "packs")["input_ids"].to_list()
    parts = [loaded(tmp_path / "x" / "train" / f"rank-0000{rank}-of-00002")["input_ids"] for rank in range(2)]
    taken = [list(parts[n % 2][n // 2]) for n in range(len(whole))]
    assert taken == whole  # a step over all ranks takes the next packs
    assert export_to(folder, "messages", tmp_path / "y").warnings == []
