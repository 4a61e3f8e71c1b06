"""TRL itself, where it is installed: its own loader and collator on an export give the loss of the rows alone."""

import copy
import warnings
from pathlib import Path

import pytest

from sft_data.export.targets import export_to
from sft_data.store.layout import arrow_batches, stream_files
from sft_data.train.batches import Collator
from sft_data.train.packs import open_rows

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def model():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
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


@pytest.mark.parametrize("to", ["trl", "trl-packed"])
def test_one_step_of_trl_has_the_loss_of_the_rows_alone(version, tmp_path, model, to):
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
    assert told == pytest.approx(by_hand(model, version), abs=1e-5)


def test_this_projects_own_batches_have_the_loss_of_the_rows_alone(version, model):
    rows = open_rows(version, "train", "packs")
    batch = Collator(pad_token_id=0)([rows[n] for n in range(len(rows))])
    with torch.no_grad():
        logits = model(batch["input_ids"], position_ids=batch["position_ids"]).logits[:, :-1]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100)
    assert loss.item() == pytest.approx(by_hand(model, version), abs=1e-5)
