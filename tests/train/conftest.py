"""Versions and runs that several tests look at, made once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.train.versions import write_version


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Tiny models are slower on several threads, and their sums would depend on how many there are."""
    try:
        import torch
    except ImportError:  # then every test that needs it is skipped
        return
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty short examples in packs of up to 64 tokens, twelve held out, from two sources."""
    return write_version(tmp_path_factory.mktemp("store") / "v1")


@pytest.fixture(scope="session")
def finished(version: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A whole run over it."""
    from sft_data.train import RandomModel, TrainConfig, train

    config = TrainConfig(
        model=RandomModel(hidden_size=32, intermediate_size=64),
        learning_rate=2e-2,
        warmup=0.1,
        max_steps=30,
        batch_packs=2,
        gradient_accumulation=2,
        eval_every=10,
        checkpoint_every=20,
    )
    return train(config, version, tmp_path_factory.mktemp("runs") / "a")
