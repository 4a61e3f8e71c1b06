import json
import math
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the extra `train`")

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from sft_data.errors import TrainError
from sft_data.store.read import load_manifest
from sft_data.train import LoraSettings, RandomModel, TrainConfig, TrainResult, run_folder, train
from sft_data.train.packs import open_rows, pack_order
from tests.frames import SHARED, needs_shared
from tests.train.versions import STOP, echo, example, packed, write_version

SMALL = RandomModel(hidden_size=32, intermediate_size=64)
DROPS = RandomModel(architecture="gpt2", hidden_size=32, intermediate_size=64)  # gpt2 drops a tenth by default


def config(**settings: Any) -> TrainConfig:
    defaults = {"model": SMALL, "learning_rate": 1e-2, "max_steps": 4, "gradient_accumulation": 2, "warmup": 0}
    return TrainConfig(**{**defaults, **settings})


def told(result: TrainResult) -> list[tuple[Any, ...]]:
    """Everything in the record of a run but the time."""
    steps = [(s.step, s.loss, s.grad_norm, s.learning_rate, s.tokens, s.supervised_tokens) for s in result.history]
    return [*steps, *((e.step, e.loss, tuple(e.by_source)) for e in result.held_out)]


def weights(result: TrainResult) -> dict[str, Any]:
    return dict(AutoModelForCausalLM.from_pretrained(result.model).state_dict())


def nll_of(model: Any, ids: list[int], labels: list[int]) -> float:
    """Summed loss of one example, written out."""
    with torch.no_grad():
        logs = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double().log_softmax(-1)
    return -sum(float(logs[i - 1, label]) for i, label in enumerate(labels) if label != -100)


# What a run does.


def test_train_on_examples_with_a_rule_learns_it(finished: TrainResult):
    assert finished.train_loss_first == pytest.approx(math.log(64), abs=0.8)
    assert finished.train_loss_last is not None
    assert finished.train_loss_last < 0.6 * finished.train_loss_first


def test_train_records_every_step_and_evaluates_before_and_after(finished: TrainResult):
    assert [step.step for step in finished.history] == list(range(1, 31))
    assert [found.step for found in finished.held_out] == [0, 10, 20, 30]
    assert finished.tokens == sum(step.tokens for step in finished.history)
    assert finished.finished
    assert not finished.reused


def test_train_counts_the_tokens_of_the_packs_it_took(finished: TrainResult, version: Path):
    rows = open_rows(version, "train", "packs")
    order = [n for epoch in range(8) for n in pack_order(len(rows), 0, epoch)]
    for step in finished.history:
        mine = [rows[int(n)] for n in order[4 * (step.step - 1) : 4 * step.step]]
        assert step.tokens == sum(len(row.input_ids) for row in mine)
        assert step.supervised_tokens == sum(int((row.labels != -100).sum()) for row in mine)
    assert finished.epochs == pytest.approx(30 * 4 / len(rows))


@pytest.mark.parametrize("order", ["auto", "stored", "shuffled"])
def test_train_keeps_the_order_of_a_curriculum_unless_it_is_told_to_shuffle(order: str, tmp_path: Path):
    made = write_version(tmp_path / "v", [[example([n], [n] * n)] for n in range(2, 12)], [])
    manifest = load_manifest(made)
    pack = {"max_length": 64, "order": {"by": "answer-characters"}}
    ordered = manifest.model_copy(update={"pipeline": manifest.pipeline | {"pack": pack}})
    (made / "manifest.json").write_text(ordered.model_dump_json())
    said: list[str] = []
    settings = config(order=order, gradient_accumulation=1, max_steps=20)
    result = train(settings, made, tmp_path / "run", progress=said.append)
    taken = [step.tokens for step in result.history]
    lengths = [len(row.input_ids) for row in (open_rows(made, "train", "packs")[n] for n in range(10))]
    assert lengths == sorted(lengths)
    assert (taken == lengths * 2) == (order != "shuffled")
    assert sorted(taken) == sorted(lengths * 2)
    assert any("in their stored order" in line for line in said) == (order != "shuffled")


def test_run_folder_of_settings_without_an_order_is_that_of_before_there_was_one(version: Path):
    manifest = load_manifest(version)
    assert run_folder(config(), manifest) == run_folder(config(order="auto"), manifest)
    assert run_folder(config(order="stored"), manifest) != run_folder(config(), manifest)


def test_train_saves_a_model_that_gives_the_losses_of_the_trained_one(finished: TrainResult, version: Path):
    model = AutoModelForCausalLM.from_pretrained(finished.model)
    held = open_rows(version, "validation", "tokens")
    pairs = [(held[i].input_ids.tolist(), held[i].labels.tolist()) for i in range(len(held))]
    count = sum(label != -100 for _, labels in pairs for label in labels)
    assert finished.held_out[-1].loss == pytest.approx(sum(nll_of(model, *pair) for pair in pairs) / count, abs=1e-5)


def test_train_saves_the_weights_of_its_last_step(finished: TrainResult):
    last = AutoModelForCausalLM.from_pretrained(Path(finished.path) / "checkpoints" / "checkpoint-30").state_dict()
    for name, values in weights(finished).items():
        assert torch.equal(values, last[name]), name


def test_saved_model_holds_the_fingerprint_of_its_data(finished: TrainResult, version: Path):
    manifest = load_manifest(version)
    inside = AutoModelForCausalLM.from_pretrained(finished.model).config.sft_data
    assert (inside["dataset"], inside["fingerprint"]) == ("echo", manifest.fingerprint)
    assert inside["tokenizer_sha256"] == "a" * 64
    assert inside["config"]["max_steps"] == 30


def test_saved_model_ends_where_it_was_taught_to_and_caches_again(finished: TrainResult):
    model = AutoModelForCausalLM.from_pretrained(finished.model)
    assert model.generation_config.eos_token_id == STOP
    assert model.config.use_cache
    made = model.generate(torch.tensor([[0, 9, 2]]), attention_mask=torch.ones(1, 3), max_new_tokens=5, do_sample=False)
    assert made.shape[1] <= 8


def test_run_leaves_tokenizer_template_card_curve_and_record(finished: TrainResult):
    folder = Path(finished.path)
    for name in ("tokenizer.json", "chat_template.jinja", "README.md"):
        assert (folder / "model" / name).is_file(), name
    assert finished.fingerprint in (folder / "model" / "README.md").read_text()
    assert (folder / "loss.svg").read_text().startswith("<svg")
    assert TrainResult.model_validate_json((folder / "training.json").read_bytes()) == finished


def test_first_loss_is_the_mean_over_all_supervised_tokens_of_the_step(tmp_path: Path, version: Path):
    result = train(config(max_steps=1, batch_packs=2), version, tmp_path / "r")
    model = fresh(version, tmp_path)
    rows = open_rows(version, "train", "packs")
    total, count = 0.0, 0
    for n in pack_order(len(rows), 0, 0)[:4]:
        ends = np.cumsum(rows[int(n)].lengths)
        for start, end in zip(ends - rows[int(n)].lengths, ends, strict=True):
            labels = rows[int(n)].labels[start:end].tolist()
            total += nll_of(model, rows[int(n)].input_ids[start:end].tolist(), labels)
            count += sum(label != -100 for label in labels)
    assert result.history[0].loss == pytest.approx(total / count, abs=1e-5)
    assert result.held_out[0].loss != result.held_out[-1].loss


def fresh(version: Path, tmp_path: Path) -> Any:
    """The untrained model: one step with a rate of nearly nothing."""
    result = train(config(max_steps=1, learning_rate=1e-30), version, tmp_path / "fresh")
    return AutoModelForCausalLM.from_pretrained(result.model)


def test_conversation_mean_gives_every_conversation_the_same_say(tmp_path: Path, version: Path):
    result = train(config(max_steps=1, batch_packs=2, loss="conversation-mean"), version, tmp_path / "r")
    model = fresh(version, tmp_path)
    rows = open_rows(version, "train", "packs")
    means = []
    for n in pack_order(len(rows), 0, 0)[:4]:
        ends = np.cumsum(rows[int(n)].lengths)
        for start, end in zip(ends - rows[int(n)].lengths, ends, strict=True):
            labels = rows[int(n)].labels[start:end].tolist()
            loss = nll_of(model, rows[int(n)].input_ids[start:end].tolist(), labels)
            means.append(loss / sum(label != -100 for label in labels))
    assert result.history[0].loss == pytest.approx(float(np.mean(means)), abs=1e-5)


# The gradient does not depend on how a step is cut.


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packs with between one and forty supervised tokens."""
    packs = [[example(range(8, 8 + 41 - n), range(10, 10 + n))] for n in (40, 1, 2, 30, 1, 1, 35, 3)]
    return write_version(tmp_path_factory.mktemp("uneven") / "v1", packs)


@pytest.mark.parametrize("loss", ["token-mean", "conversation-mean"])
def test_training_is_the_same_however_a_step_is_cut_into_passes(uneven: Path, tmp_path: Path, loss: str):
    runs = [
        train(config(batch_packs=b, gradient_accumulation=g, max_steps=3, loss=loss), uneven, tmp_path / f"{b}")
        for b, g in ((8, 1), (2, 4), (1, 8))
    ]
    for other in runs[1:]:
        for one, two in zip(runs[0].history, other.history, strict=True):
            assert two.loss == pytest.approx(one.loss, abs=1e-5)
            assert two.grad_norm == pytest.approx(one.grad_norm, rel=1e-4)
            assert (two.tokens, two.supervised_tokens) == (one.tokens, one.supervised_tokens)
        before, after = weights(runs[0]), weights(other)
        assert max(float((before[name] - after[name]).abs().max()) for name in before) < 1e-4


def test_gradient_checkpointing_changes_no_loss(version: Path, tmp_path: Path):
    plain = train(config(max_steps=2), version, tmp_path / "plain")
    saving = train(config(max_steps=2, gradient_checkpointing=True), version, tmp_path / "saving")
    assert [s.loss for s in saving.history] == pytest.approx([s.loss for s in plain.history], abs=1e-6)


def test_training_on_conversations_one_by_one_needs_no_isolation(version: Path, tmp_path: Path):
    falcon = RandomModel(architecture="falcon", hidden_size=32)
    with pytest.raises(TrainError, match=r"`falcon`.*`rows: conversations`"):
        train(config(model=falcon), version, tmp_path / "packs")
    result = train(config(model=falcon, rows="conversations", batch_packs=3), version, tmp_path / "rows")
    assert (result.packs, result.finished) == (60, True)


def test_neftune_disturbs_training_but_not_evaluation(version: Path, tmp_path: Path):
    plain = train(config(max_steps=1), version, tmp_path / "plain")
    noisy = train(config(max_steps=1, neftune=50), version, tmp_path / "noisy")
    assert abs(noisy.history[0].loss - plain.history[0].loss) > 1e-4
    assert noisy.held_out[0] == plain.held_out[0]


def test_bf16_arithmetic_gives_nearly_the_same_loss(version: Path, tmp_path: Path):
    plain = train(config(max_steps=1), version, tmp_path / "plain")
    half = train(config(max_steps=1, precision="bf16"), version, tmp_path / "half")
    assert (plain.precision, half.precision) == ("fp32", "bf16")
    assert half.history[0].loss == pytest.approx(plain.history[0].loss, abs=0.05)
    assert half.history[0].loss != plain.history[0].loss


# Data that must not be trained on.


PROMPT_ONLY = ([5, 6, 7], [-100] * 3)


def test_pack_without_a_supervised_token_is_left_out_and_counted(tmp_path: Path):
    folder = write_version(tmp_path / "v1", [[PROMPT_ONLY], *packed(echo(1, 9)), [PROMPT_ONLY, PROMPT_ONLY]])
    result = train(config(batch_packs=1, gradient_accumulation=1), folder, tmp_path / "r")
    assert result.packs_without_target == 2
    assert all(step.supervised_tokens > 0 for step in result.history)


def test_data_without_a_supervised_token_is_refused(tmp_path: Path):
    with pytest.raises(TrainError, match="no token of its 2 rows is supervised"):
        train(config(), write_version(tmp_path / "v1", [[PROMPT_ONLY]] * 2), tmp_path / "r")


def test_pack_whose_second_example_trains_its_first_token_is_refused(tmp_path: Path):
    folder = write_version(tmp_path / "v1", [[example([8], [9]), ([5, 6], [5, 6])]])
    with pytest.raises(TrainError, match="first label of an example is not -100"):
        train(config(), folder, tmp_path / "r")


def test_version_without_held_out_rows_trains_without_evaluation(tmp_path: Path):
    result = train(config(), write_version(tmp_path / "v1", held_out=[]), tmp_path / "r")
    assert result.held_out == []
    assert result.finished


def test_version_of_conversations_only_is_refused(tmp_path: Path):
    folder = write_version(tmp_path / "v1")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"tokenizer": None}))
    with pytest.raises(TrainError, match="add `tokenize` and `pack`"):
        train(config(), folder, tmp_path / "r")


def test_loss_that_is_no_number_stops_the_run_before_it_is_saved(version: Path, tmp_path: Path):
    with pytest.raises(TrainError, match=r"diverged.*learning_rate"):
        train(config(learning_rate=1e30, max_steps=9, checkpoint_every=1), version, tmp_path / "r")
    for folder in (tmp_path / "r" / "checkpoints").glob("checkpoint-*"):
        history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
        assert all(math.isfinite(line["loss"]) for line in history if "loss" in line)


# Models.


def test_model_with_fewer_tokens_than_the_tokenizer_is_refused_or_resized(finished: TrainResult, tmp_path: Path):
    folder = write_version(tmp_path / "v1", vocabulary=70)
    with pytest.raises(TrainError, match=r"has 70 tokens but the model only 64; set `new_tokens: resize`"):
        train(config(model=finished.model), folder, tmp_path / "no")
    result = train(config(model=finished.model, new_tokens="resize"), folder, tmp_path / "yes")
    assert AutoModelForCausalLM.from_pretrained(result.model).get_input_embeddings().weight.shape[0] == 70


def test_model_with_another_tokenizer_is_refused(finished: TrainResult, version: Path, tmp_path: Path):
    other = tmp_path / "other"
    shutil.copytree(finished.model, other)
    text = (other / "tokenizer.json").read_text().replace('"w17"', '"other"')
    (other / "tokenizer.json").write_text(text)
    with pytest.raises(TrainError, match="id 17 is 'w17' in the data and 'other' in the model"):
        train(config(model=str(other)), version, tmp_path / "r")


def test_model_with_a_shorter_context_than_the_data_is_refused(finished: TrainResult, tmp_path: Path):
    folder = write_version(tmp_path / "v1", [[example(range(8, 60), range(8, 60))]])
    with pytest.raises(TrainError, match=r"has 107 tokens but the model sees at most 64"):
        train(config(model=finished.model), folder, tmp_path / "r")


def test_run_folder_stands_for_the_model_in_it(finished: TrainResult, version: Path, tmp_path: Path):
    result = train(config(model=finished.path, learning_rate=1e-5), version, tmp_path / "r")
    assert result.held_out[0].loss == pytest.approx(finished.held_out[-1].loss, abs=1e-5)


def test_model_that_is_nowhere_tells_how_to_get_it(version: Path, tmp_path: Path):
    with pytest.raises(TrainError, match=r"'nobody/nothing' cannot be loaded: .*hf download nobody/nothing"):
        train(config(model="nobody/nothing"), version, tmp_path / "r")


def test_unknown_architecture_hints_at_the_nearest(version: Path, tmp_path: Path):
    with pytest.raises(TrainError, match=r"no causal model 'lama'; did you mean 'llama'\?"):
        train(config(model=RandomModel(architecture="lama")), version, tmp_path / "r")


def test_flash_attention_without_a_device_for_it_is_refused(version: Path, tmp_path: Path):
    if torch.cuda.is_available():
        pytest.skip("this machine has a device for it")
    with pytest.raises(TrainError, match="needs a CUDA device"):
        train(config(attention="flash_attention_2"), version, tmp_path / "r")


@needs_shared
def test_trained_model_learns_further(tmp_path: Path):
    story = SHARED / "models" / "stories260k_hf"
    folder = write_version(tmp_path / "v1", vocabulary=512)
    shutil.copy(story / "tokenizer.json", folder / "tokenizer" / "tokenizer.json")
    result = train(config(model=str(story), learning_rate=1e-3, max_steps=8), folder, tmp_path / "r")
    assert result.isolation < 1e-4
    assert result.history[-1].loss < result.history[0].loss


# Adapters.


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
@pytest.mark.parametrize("method", ["lora", "rslora", "dora"])
def test_adapters_train_a_part_and_merge_into_the_same_model(
    finished: TrainResult, version: Path, tmp_path: Path, method: str
):
    from peft import PeftModel

    lora = LoraSettings(r=4, alpha=8)
    result = train(config(model=finished.model, method=method, lora=lora), version, tmp_path / "r")
    assert 0 < result.trainable_parameters < 0.5 * result.parameters
    base = AutoModelForCausalLM.from_pretrained(finished.model)
    live = PeftModel.from_pretrained(base, Path(result.path) / "adapter").eval()
    merged = AutoModelForCausalLM.from_pretrained(result.model)
    ids = torch.tensor([[0, 9, 9, 2, 9]])
    with torch.no_grad():
        assert (live(input_ids=ids).logits - merged(input_ids=ids).logits).abs().max() < 1e-4
        untouched = AutoModelForCausalLM.from_pretrained(finished.model)(input_ids=ids).logits
        assert (merged(input_ids=ids).logits - untouched).abs().max() > 1e-3
    assert merged.config.sft_data["fingerprint"] == result.fingerprint


def test_adapter_alone_is_saved_where_that_is_wanted(finished: TrainResult, version: Path, tmp_path: Path):
    lora = LoraSettings(r=2, save_merged=False, target=("q_proj",))
    result = train(config(model=finished.model, method="lora", lora=lora), version, tmp_path / "r")
    assert Path(result.model).name == "adapter"
    assert not (Path(result.path) / "model").exists()


def test_adapter_on_a_layer_that_is_not_there_is_refused(version: Path, tmp_path: Path):
    with pytest.raises(TrainError, match=r"lora\.target: .*nowhere"):
        train(config(method="lora", lora=LoraSettings(target=("nowhere",))), version, tmp_path / "r")


# Stopping and going on.


def at_step(number: int, act: Callable[[], None]) -> Callable[[str], None]:
    """A progress callable that acts when the step is evaluated."""

    def tell(line: str) -> None:
        if line.startswith(f"step {number}/") and "held-out" in line:
            act()

    return tell


def crash() -> None:
    raise RuntimeError("power cut")


LONG = {"model": DROPS, "max_steps": 10, "checkpoint_every": 4, "eval_every": 1, "learning_rate": 5e-3}


@pytest.fixture(scope="module")
def unbroken(version: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return train(config(**LONG), version, tmp_path_factory.mktemp("unbroken") / "r")


@pytest.mark.parametrize("step", [2, 6, 8])
def test_run_that_crashes_goes_on_to_the_same_losses(version: Path, tmp_path: Path, unbroken: TrainResult, step: int):
    with pytest.raises(RuntimeError, match="power cut"):
        train(config(**LONG), version, tmp_path / "r", progress=at_step(step, crash))
    result = train(config(**LONG), version, tmp_path / "r")
    assert told(result) == told(unbroken)
    before, after = weights(unbroken), weights(result)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_adapter_run_that_crashes_goes_on_to_the_same_losses(version: Path, tmp_path: Path):
    settings = config(**LONG, method="lora", lora=LoraSettings(r=2, dropout=0.2))
    whole = train(settings, version, tmp_path / "whole")
    with pytest.raises(RuntimeError, match="power cut"):
        train(settings, version, tmp_path / "r", progress=at_step(6, crash))
    assert told(train(settings, version, tmp_path / "r")) == told(whole)


def test_checkpoint_that_was_half_written_is_passed_over(version: Path, tmp_path: Path, unbroken: TrainResult):
    with pytest.raises(RuntimeError, match="power cut"):
        train(config(**LONG), version, tmp_path / "r", progress=at_step(6, crash))
    half = tmp_path / "r" / "checkpoints" / "checkpoint-8"
    shutil.copytree(half.with_name("checkpoint-4"), half)
    (half / "trainer_state.json").write_text('{"global_st')
    assert told(train(config(**LONG), version, tmp_path / "r")) == told(unbroken)


def test_ctrl_c_saves_and_the_next_run_goes_on(version: Path, tmp_path: Path, unbroken: TrainResult):
    before = signal.getsignal(signal.SIGINT)
    interrupt = at_step(5, lambda: os.kill(os.getpid(), signal.SIGINT))
    stopped = train(config(**LONG), version, tmp_path / "r", progress=interrupt)
    assert (stopped.finished, stopped.steps) == (False, 6)
    assert not (tmp_path / "r" / "training.json").exists()
    assert signal.getsignal(signal.SIGINT) is before
    result = train(config(**LONG), version, tmp_path / "r")
    assert result.finished
    assert told(result) == told(unbroken)


def test_finished_run_is_not_done_again(finished: TrainResult, version: Path):
    record = Path(finished.path) / "training.json"
    stamp = record.stat().st_mtime_ns
    identity = json.loads((Path(finished.path) / "run.json").read_text())
    again = train(TrainConfig(**identity["config"]), version, Path(finished.path))
    assert again == finished.model_copy(update={"reused": True})
    assert record.stat().st_mtime_ns == stamp


def test_run_without_resume_starts_again(version: Path, tmp_path: Path, unbroken: TrainResult):
    shutil.copytree(unbroken.path, tmp_path / "r")
    result = train(config(**LONG), version, tmp_path / "r", resume=False)
    assert not result.reused
    assert told(result) == told(unbroken)


def test_folder_of_another_run_is_refused(version: Path, tmp_path: Path):
    train(config(max_steps=1), version, tmp_path / "r")
    with pytest.raises(TrainError, match="holds a run with another config"):
        train(config(max_steps=2), version, tmp_path / "r")


def test_folder_with_other_files_is_refused(version: Path, tmp_path: Path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(TrainError, match="holds other files"):
        train(config(), version, tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_run_folder_tells_data_and_settings(version: Path):
    manifest = load_manifest(version)
    one, other = run_folder(config(), manifest), run_folder(config(seed=1), manifest)
    assert one.name.startswith("echo-c0ffee00-")
    assert one != other
    assert one == run_folder(config(), manifest)
    assert run_folder(config(), manifest.model_copy(update={"fingerprint": "d" * 64})) != one


def test_run_folder_of_a_model_folder_follows_its_content_not_its_place(
    finished: TrainResult, version: Path, tmp_path: Path
):
    manifest = load_manifest(version)
    shutil.copytree(finished.model, tmp_path / "copy")
    here = run_folder(config(model=finished.model), manifest)
    assert run_folder(config(model=str(tmp_path / "copy")), manifest) == here
    other = tmp_path / "copy" / "model.safetensors"
    other.write_bytes(other.read_bytes()[:-1] + b"\x01")
    assert run_folder(config(model=str(tmp_path / "copy")), manifest) != here
