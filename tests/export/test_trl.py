"""TRL itself, where it is installed: one of its steps on an export has the loss of this project's own training."""

import copy
import warnings
from pathlib import Path

import pytest

from sft_data.errors import TrainError
from sft_data.export.targets import export_to
from sft_data.pack.plan import METHODS
from sft_data.store.layout import arrow_batches, stream_files
from sft_data.store.read import load_manifest
from sft_data.train import TrainConfig, train
from tests.export.conftest import made

torch = pytest.importorskip("torch")
ALONE = ("none", "sorted", "buckets")
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.slow]


@pytest.fixture(scope="module")
def model(version):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=load_manifest(version).tokenizer.vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        use_cache=False,
    )
    return LlamaForCausalLM(config)


def by_hand(model, version: Path) -> float:
    """Mean loss over all learnt tokens, every row alone."""
    total, count = 0.0, 0
    for path in stream_files(version, "tokens", "train"):
        for frame in arrow_batches(path):
            for ids, labels in frame.iter_rows():
                with torch.no_grad():
                    logits = model(torch.tensor([ids])).logits[0, :-1]
                wanted = torch.tensor(labels[1:])
                total += torch.nn.functional.cross_entropy(logits, wanted, ignore_index=-100, reduction="sum").item()
                count += int((wanted != -100).sum())
    return total / count


def own_step(model, version: Path, folder: Path, *, batch_packs: int | None = None, rows: str = "packs") -> float:
    """Loss of the first step of this project's training stage, which takes the whole split."""
    split = load_manifest(version).counts.splits["train"]
    planned = load_manifest(version).pipeline["pack"]
    there = planned.get("batch_rows", 8) if rows == "packs" and planned.get("method") in ALONE else 1
    passes = -(-(split.packs if rows == "packs" else split.rows) // (batch_packs or there))
    model.save_pretrained(folder / "start")
    config = TrainConfig(
        model=str(folder / "start"),
        learning_rate=1e-9,
        max_steps=1,
        eval_every=9,
        rows=rows,
        **({} if batch_packs is None else {"batch_packs": batch_packs}),
        gradient_accumulation=passes,
    )
    return train(config, version, folder / "run").train_loss_first


@pytest.fixture(scope="module")
def wanted(model, version) -> float:
    return by_hand(model, version)


@pytest.mark.parametrize("rows", ["packs", "conversations"])
def test_one_step_of_this_projects_training_has_the_loss_of_the_rows_alone(version, tmp_path, model, wanted, rows):
    told = own_step(model, version, tmp_path, rows=rows)
    assert told == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "best-fit"])
def test_every_way_of_packing_is_trained_on_with_the_same_loss(tmp_path, model, wanted, method):
    version = made(tmp_path, method=method)
    told = own_step(model, version, tmp_path)
    assert told == pytest.approx(wanted, abs=1e-5)


def test_batches_of_rows_that_stand_alone_are_not_cut_across(tmp_path, model, wanted):
    version = made(tmp_path, method="sorted", batch_rows=6)
    assert own_step(model, version, tmp_path / "part", batch_packs=3) == pytest.approx(wanted, abs=1e-5)
    for wrong in (4, 12):
        with pytest.raises(
            TrainError, match=rf"batch_packs: {wrong} does not divide the batches of 6 rows.*leave it out"
        ):
            own_step(model, version, tmp_path / f"{wrong}", batch_packs=wrong)


@pytest.mark.parametrize("to", ["trl", "trl-packed"])
def test_one_step_of_trl_has_the_loss_of_this_projects_training(version, tmp_path, model, wanted, to):
    trl = pytest.importorskip("trl", reason="TRL is no dependency of this project")
    import datasets
    from transformers import AutoTokenizer

    export_to(version, to, tmp_path / "x")
    rows = datasets.load_from_disk(str(tmp_path / "x" / "train"))
    settings = trl.SFTConfig(
        output_dir=str(tmp_path / "run"), packing=False, padding_free=to == "trl-packed", max_length=None,
        per_device_train_batch_size=4, gradient_accumulation_steps=-(-len(rows) // 4), max_steps=1, learning_rate=0.0,
        bf16=False, use_cpu=True, report_to=[], gradient_checkpointing=False, save_strategy="no", logging_steps=1,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "x" / "tokenizer")
        trainer = trl.SFTTrainer(copy.deepcopy(model), args=settings, train_dataset=rows, processing_class=tokenizer)
        told = trainer.train().training_loss
    rows_of = {"trl": "conversations", "trl-packed": "packs"}[to]
    own = own_step(model, version, tmp_path, rows=rows_of)
    assert told == pytest.approx(own, abs=1e-5)
    assert told == pytest.approx(wanted, abs=1e-5)
