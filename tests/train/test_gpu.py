"""What only a CUDA device can show."""

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the extra `train`")

import torch

from sft_data.evaluate import evaluate
from sft_data.train import RandomModel, TrainConfig, TrainResult, train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

# Heads of 32: flash attention takes no smaller ones.
MODEL = RandomModel(hidden_size=128, heads=4, intermediate_size=256)


def run(version: Path, out: Path, **settings: object) -> TrainResult:
    base = {"model": MODEL, "learning_rate": 3e-3, "max_steps": 20, "warmup": 0.1, "batch_packs": 4}
    return train(TrainConfig.model_validate(base | {"gradient_accumulation": 1} | settings), version, out)


def test_training_on_a_device_picks_bf16_and_learns(version: Path, tmp_path: Path):
    result = run(version, tmp_path / "r")
    assert result.precision == "bf16"
    assert "cpu" not in result.device
    assert result.history[-1].loss < 0.9 * result.history[0].loss
    assert evaluate(result.path, version).metrics.loss == pytest.approx(result.held_out[-1].loss, abs=0.02)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packs_are_isolated_on_a_device(version: Path, tmp_path: Path, attention: str):
    result = run(version, tmp_path / "r", attention=attention, precision="fp32", max_steps=1)
    assert result.isolation < 1e-4


def test_flash_attention_gives_the_losses_of_sdpa(version: Path, tmp_path: Path):
    pytest.importorskip("flash_attn", reason="flash-attn is not installed")
    plain = run(version, tmp_path / "sdpa", attention="sdpa")
    flash = run(version, tmp_path / "flash", attention="flash_attention_2")
    assert flash.attention == "flash_attention_2"
    assert [s.loss for s in flash.history] == pytest.approx([s.loss for s in plain.history], abs=0.05)


def test_adapters_on_half_precision_weights_learn(version: Path, tmp_path: Path):
    result = run(version, tmp_path / "r", method="lora", learning_rate=1e-2)
    assert result.history[-1].loss < result.history[0].loss
