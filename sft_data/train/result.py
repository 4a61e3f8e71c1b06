"""What a training run tells: the model behind `--json`, `training.json` and the model card."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["HeldOut", "SourceLoss", "StepLoss", "TrainResult"]


class _Figures(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SourceLoss(_Figures):
    """Loss over the supervised tokens of one source, or of all."""

    rows: int = Field(description="conversations")
    tokens: int = Field(description="supervised tokens")
    loss: float = Field(description="mean negative log likelihood of a supervised token, in nats")
    weighted_loss: float | None = Field(
        default=None,
        description="the same with every token weighted as in training: sum(weight x loss) / sum(weight); equal to "
        "`loss` where the version has no loss weights; null in records of older releases",
    )


class HeldOut(_Figures):
    """One evaluation on held-out conversations."""

    step: int = Field(description="optimizer steps done before it")
    loss: float = Field(description="mean over all supervised tokens, in nats")
    by_source: dict[str, SourceLoss] = Field(description="the same for each source alone")


class StepLoss(_Figures):
    """One optimizer step."""

    step: int
    loss: float = Field(description="loss of the step's packs before the step, in nats")
    grad_norm: float = Field(description="norm of the gradient before it was scaled down")
    learning_rate: float
    tokens: int = Field(description="tokens in the step's packs, over all devices")
    supervised_tokens: int = Field(description="those of them that were learnt")
    seconds: float = Field(description="wall time since the step before it")


class TrainResult(_Figures):
    """A training run."""

    run: str = Field(description="the run's id: <dataset>-<fingerprint>-<settings>")
    path: str = Field(description="the run's folder")
    model: str = Field(description="the folder of the saved model; of the adapter where only that was saved")
    finished: bool = Field(description="False: stopped by a person; the same command goes on from the last checkpoint")
    reused: bool = Field(default=False, description="True: the run had been finished before and nothing was done")
    dataset: str
    fingerprint: str = Field(description="fingerprint of the dataset's version")
    steps: int
    epochs: float = Field(description="passes over the packs")
    packs: int = Field(description="packs (or conversations) that are trained on")
    packs_without_target: int = Field(description="packs left out because no token in them is supervised")
    tokens: int = Field(description="tokens seen, over all steps and devices")
    supervised_tokens: int = Field(description="those of them that were learnt")
    parameters: int
    trainable_parameters: int
    train_loss_first: float | None = Field(description="loss of the first step")
    train_loss_last: float | None = Field(description="loss of the last step")
    held_out: list[HeldOut] = Field(description="evaluations in the order of the steps; empty without held-out rows")
    seconds: float = Field(description="wall time of all steps, evaluations and checkpoints between them included")
    metrics: dict[str, float] = Field(
        description="the figures to compare runs by: first and last losses in nats, tokens_per_second"
    )
    device: str
    precision: str
    attention: str
    isolation: float = Field(description="self-check: largest difference of a logit between packed and alone")
    history: list[StepLoss] = Field(description="every step")
