"""The training stage: packs of a version in, a model with the dataset's fingerprint inside out.

Importing this package imports neither torch nor transformers; `train` does, and names the extra where they are missing.
"""

from sft_data.train.config import LoraSettings, RandomModel, TrainConfig, load_train_config
from sft_data.train.result import HeldOut, SourceLoss, StepLoss, TrainResult
from sft_data.train.run import run_folder, train

__all__ = [
    "HeldOut",
    "LoraSettings",
    "RandomModel",
    "SourceLoss",
    "StepLoss",
    "TrainConfig",
    "TrainResult",
    "load_train_config",
    "run_folder",
    "train",
]
