"""What a trained model is worth: losses on held-out conversations."""

from sft_data.evaluate.losses import EvalResult, ModelLosses, evaluate

__all__ = ["EvalResult", "ModelLosses", "evaluate"]
