import math
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the extra `train`")

import torch
from transformers import AutoModelForCausalLM

from sft_data.errors import MissingExtraError, TrainError
from sft_data.evaluate import evaluate
from sft_data.evaluate import losses as losses_module
from sft_data.evaluate.losses import row_table
from sft_data.store.manifest import TokenizerEntry
from sft_data.train.config import RandomModel
from sft_data.train.model import random_model
from tests.train.versions import Example, echo, write_version

HELD_OUT = [*echo(7, 11), ([3, 4], [-100, -100])]  # the last one has nothing supervised
ENTRY = TokenizerEntry(name="t", sha256="a", template_sha256="b", vocab_size=64, max_length=64)


def save_model(folder: Path, seed: int) -> str:
    described = RandomModel(hidden_size=32, intermediate_size=64, seed=seed)
    random_model(described, vocabulary=64, context=64, entry=ENTRY).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_version(tmp_path_factory.mktemp("store") / "v1", held_out=HELD_OUT, sources=("a", "b", "c"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(tmp_path_factory.mktemp("models") / "one", seed=1)


def one_by_one(folder: str, examples: list[Example]) -> list[tuple[float, int]]:
    """Summed loss and supervised tokens of each example, each run alone."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder)
    found = []
    for ids, labels in examples:
        with torch.no_grad():
            logs = loaded(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
        at = [i for i, label in enumerate(labels) if label != -100]
        found.append((-sum(float(logs[i - 1, labels[i]]) for i in at), len(at)))
    return found


def test_evaluate_gives_the_mean_over_supervised_tokens_for_all_and_for_each_source(version: Path, model: str):
    result = evaluate(model, version)
    wanted = one_by_one(model, HELD_OUT)
    assert (result.rows, result.tokens) == (12, sum(n for _, n in wanted))
    assert result.metrics.loss == pytest.approx(sum(s for s, _ in wanted) / sum(n for _, n in wanted), abs=1e-5)
    assert result.metrics.perplexity == pytest.approx(math.exp(result.metrics.loss))
    for i, source in enumerate("abc"):
        mine = wanted[i::3]
        found = result.metrics.by_source[source]
        assert (found.rows, found.tokens) == (4, sum(n for _, n in mine))
        assert found.loss == pytest.approx(sum(s for s, _ in mine) / sum(n for _, n in mine), abs=1e-5)


def test_row_table_tells_every_conversation_in_its_order(version: Path, model: str):
    table, _ = row_table(model, version, "validation")
    wanted = one_by_one(model, HELD_OUT)
    assert table["row"].to_list() == list(range(12))
    assert table["source"].to_list() == list("abc" * 4)
    assert table["nll"].to_list() == pytest.approx([s for s, _ in wanted], abs=1e-4)
    assert table["tokens"].to_list() == [n for _, n in wanted]


def test_evaluate_against_a_base_counts_the_rows_that_got_better(version: Path, model: str, tmp_path: Path):
    base = save_model(tmp_path / "base", seed=2)
    result = evaluate(model, version, base=base)
    pairs = list(zip(one_by_one(model, HELD_OUT), one_by_one(base, HELD_OUT), strict=True))
    assert result.base is not None
    assert result.base.loss == pytest.approx(evaluate(base, version).metrics.loss)
    assert result.better_rows == pytest.approx(sum(mine[0] < other[0] for mine, other in pairs) / 12)


def test_evaluate_of_some_rows_spreads_them_over_the_split(version: Path, model: str):
    assert row_table(model, version, "validation", 4)[0]["row"].to_list() == [0, 3, 6, 9]
    assert evaluate(model, version, rows=4).rows == 4
    assert evaluate(model, version, rows=400).rows == 12


def test_evaluate_on_a_split_that_is_not_there_names_those_that_are(version: Path, model: str):
    with pytest.raises(TrainError, match="splits with tokens: train, validation"):
        evaluate(model, version, "test")


def test_evaluate_where_nothing_is_supervised_says_so(tmp_path: Path, model: str):
    folder = write_version(tmp_path / "v1", held_out=[([3, 4], [-100, -100])])
    with pytest.raises(TrainError, match="nothing to measure"):
        evaluate(model, folder)


def test_evaluate_of_a_model_with_a_smaller_vocabulary_is_refused(tmp_path: Path, version: Path):
    described = RandomModel(hidden_size=32, intermediate_size=64)
    random_model(described, vocabulary=20, context=64, entry=ENTRY).save_pretrained(tmp_path / "m")
    with pytest.raises(TrainError, match="only 20 tokens"):
        evaluate(tmp_path / "m", version)


def test_evaluate_without_torch_names_the_extra(monkeypatch: pytest.MonkeyPatch, version: Path):
    monkeypatch.setattr(losses_module, "find_spec", lambda _name: None)
    with pytest.raises(MissingExtraError, match=r"sft-data\[train\]"):
        evaluate("m", version)
