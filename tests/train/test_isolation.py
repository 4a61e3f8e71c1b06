from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the extra `train`")

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from sft_data.errors import TrainError
from sft_data.store.manifest import TokenizerEntry
from sft_data.train.batches import NOT_FOR_THE_MODEL, Collator
from sft_data.train.config import RandomModel
from sft_data.train.heldout import supervised_nll
from sft_data.train.isolation import check_isolation, leak
from sft_data.train.model import random_model
from sft_data.train.packs import Row
from tests.frames import SHARED, needs_shared
from tests.train.versions import STOP, Example, echo, packed, row_of

STORIES = SHARED / "models" / "stories260k_hf"
EXAMPLES = [*echo(5, 9), ([3], [-100]), *echo(6, 3)]  # one of a single token between the others


def tiny(architecture: str = "llama", attention: str | None = None) -> Any:
    entry = TokenizerEntry(
        name="t", sha256="a", template_sha256="b", vocab_size=64, max_length=64, stop_token_ids=[STOP]
    )
    described = RandomModel(architecture=architecture, hidden_size=32, intermediate_size=64, seed=1)
    model = random_model(described, vocabulary=64, context=128, entry=entry, attention=attention)
    # Weights ten times larger than fresh ones: in a fresh model everything is so small that a leak is too.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(10)
    model.config.use_cache = False
    return model


def rows_of(packs: list[list[Example]]) -> list[Row]:
    rows = [row_of(pack) for pack in packs]
    return [Row(*(np.array(row[name]) for name in ("input_ids", "labels", "seq_lengths"))) for row in rows]


def losses(model: Any, rows: list[Row], layout: Any = "rows") -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Loss of every supervised token, and the gradient of their sum."""
    batch = Collator(pad_token_id=1, layout=layout)(rows)
    model.zero_grad()
    inputs = {name: value for name, value in batch.items() if name not in NOT_FOR_THE_MODEL}
    nll, _ = supervised_nll(model, inputs, batch["labels"])
    nll.sum().backward()
    return nll.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


def alone(model: Any, rows: list[Row]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The same, each example by itself: plain tensors, no positions, nothing of this project's."""
    found = []
    model.zero_grad()
    for row in rows:
        ends = np.cumsum(row.lengths)
        for start, end in zip(ends - row.lengths, ends, strict=True):
            ids, labels = torch.tensor(row.input_ids[None, start:end]), torch.tensor(row.labels[start:end])
            logs = model(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
            at = [i for i in range(1, end - start) if labels[i] != -100]
            nll = -logs[[i - 1 for i in at], labels[at]] if at else logs[:0, 0]
            nll.sum().backward()
            found.append(nll.detach())
    return torch.cat(found), [p.grad.clone() for p in model.parameters() if p.grad is not None]


def check_same(model: Any, packs: list[list[Example]], layout: Any = "rows") -> None:
    rows = rows_of(packs)
    together, by_itself = losses(model, rows, layout), alone(model, rows)
    assert together[0].shape == by_itself[0].shape
    assert (together[0] - by_itself[0]).abs().max() < 1e-4
    for one, other in zip(together[1], by_itself[1], strict=True):
        scale = max(1.0, float(other.abs().max()))
        assert (one - other).abs().max() < 1e-4 * scale


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_losses_and_gradients_of_a_pack_are_those_of_its_examples_alone(attention: str):
    check_same(tiny(attention=attention), [EXAMPLES])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_losses_of_packs_padded_to_one_length_are_those_of_their_examples_alone(attention: str):
    packs = packed(EXAMPLES, 48)
    assert len({sum(len(ids) for ids, _ in pack) for pack in packs}) > 1
    check_same(tiny(attention=attention), packs)


def test_losses_of_packs_end_to_end_are_those_of_their_examples_alone():
    check_same(tiny(), packed(EXAMPLES, 48), layout="flat")


@needs_shared
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_losses_of_a_pack_in_a_trained_model_are_those_of_its_examples_alone(attention: str):
    model = AutoModelForCausalLM.from_pretrained(STORIES, attn_implementation=attention)
    model.config.use_cache = False
    check_same(model, packed(EXAMPLES * 4, 200))


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma2", "gpt2", "phi3", "mistral"])
def test_check_isolation_of_a_model_that_isolates_measures_rounding(architecture: str):
    assert check_isolation(tiny(architecture), Collator(pad_token_id=0)) < 1e-4


@pytest.mark.parametrize("architecture", ["falcon", "bloom"])
def test_check_isolation_of_a_model_that_does_not_isolate_names_it_and_the_way_out(architecture: str):
    with pytest.raises(TrainError, match=rf"`{architecture}`.*No attention code isolates.*`rows: conversations`"):
        check_isolation(tiny(architecture), Collator(pad_token_id=0))


def test_check_isolation_where_another_attention_works_names_that_one():
    model = tiny(attention="eager")
    plain = model.forward

    def forward(**inputs: Any) -> Any:
        if model.config._attn_implementation == "eager":
            del inputs["position_ids"]
        return plain(**inputs)

    model.forward = forward
    with pytest.raises(TrainError, match=r"Set `attention: sdpa`, which was measured"):
        check_isolation(model, Collator(pad_token_id=0))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_check_isolation_of_a_model_that_is_run_with_a_mask_is_refused(attention: str):
    model = tiny(attention=attention)
    plain = model.forward
    model.forward = lambda **inputs: plain(attention_mask=torch.ones_like(inputs["input_ids"]), **inputs)
    with pytest.raises(TrainError, match="see each other"):
        check_isolation(model, Collator(pad_token_id=0))


def test_check_isolation_of_a_model_that_is_run_with_a_cache_is_refused():
    model = tiny()
    model.config.use_cache = True
    with pytest.raises(TrainError, match="see each other"):
        check_isolation(model, Collator(pad_token_id=0))


def test_check_isolation_of_a_fresh_model_finds_the_smallest_leak():
    model = tiny()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.div_(10)
    model.config.use_cache = True
    with pytest.raises(TrainError, match="see each other"):
        check_isolation(model, Collator(pad_token_id=0))


def test_check_isolation_of_a_damaged_model_says_so():
    model = tiny()
    with torch.no_grad():
        next(model.parameters())[3] = float("nan")
    with pytest.raises(TrainError, match="weights are damaged"):
        check_isolation(model, Collator(pad_token_id=0))


def test_check_isolation_without_packing_accepts_a_model_that_cannot_pack():
    collate = Collator(pad_token_id=0, position_ids=False)
    assert check_isolation(tiny("falcon"), collate, packed=False) < 1e-4


def test_leak_leaves_dropout_as_it_was():
    model = tiny("gpt2").train()
    leak(model, Collator(pad_token_id=0))
    assert model.training
