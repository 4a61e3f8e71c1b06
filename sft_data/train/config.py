"""What a training file may say. Importing this needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sft_data.config_file import check_settings, read_settings

__all__ = ["LoraSettings", "RandomModel", "TrainConfig", "load_train_config", "model_folder"]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RandomModel(_Settings):
    """A small model with random weights, described instead of loaded: for tests, demos and training from scratch.

    Its vocabulary is that of the version's tokenizer and its context as long as the longest pack.
    """

    architecture: str = Field(
        "llama",
        pattern=r"^[A-Za-z0-9_-]+$",
        description="the model's type in transformers, such as llama, qwen3 or gpt2",
    )
    hidden_size: int = Field(64, ge=8, description="width of the residual stream")
    layers: int = Field(2, ge=1, description="number of layers")
    heads: int = Field(4, ge=1, description="attention heads; they divide hidden_size")
    intermediate_size: int = Field(176, ge=8, description="width inside the feed-forward part")
    seed: int = Field(0, ge=0, description="draws the weights")

    @model_validator(mode="after")
    def _heads_fit(self) -> RandomModel:
        if self.hidden_size % (2 * self.heads):
            raise ValueError(f"hidden_size {self.hidden_size} must be a multiple of 2 x heads ({2 * self.heads})")
        return self


class LoraSettings(_Settings):
    """Low-rank adapters (LoRA and its relatives).

    Rank 16 on all linear layers with alpha = 2 r are the settings that peft's and TRL's guides start from.
    """

    r: int = Field(16, ge=1, description="rank of the update of each layer")
    alpha: float = Field(32.0, gt=0, description="the update is scaled by alpha / r (rslora: alpha / sqrt(r))")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of the adapter's inputs that are dropped in training")
    target: str | tuple[str, ...] = Field(
        "all-linear", description="names of the layers that get an adapter, or all-linear"
    )
    save_merged: bool = Field(default=True, description="also write the whole model with the adapter merged into it")


class TrainConfig(_Settings):
    """Everything that decides a training run, except the data and the machine."""

    model: str | RandomModel = Field(
        description="a folder, the name of a hub model in the local cache, or the description of a random model"
    )
    method: Literal["full", "lora", "rslora", "dora"] = Field(
        "full", description="train all weights, or adapters: lora, rslora (scaled by sqrt(r)), dora (with magnitudes)"
    )
    lora: LoraSettings = Field(LoraSettings(), description="settings of the adapters; only where method is not full")
    rows: Literal["packs", "conversations"] = Field(
        "packs", description="train on packs, or on conversations one by one (slower; for models that cannot isolate)"
    )
    learning_rate: float = Field(2e-5, gt=0, description="peak learning rate; adapters want about ten times more")
    scheduler: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="how the rate falls after the warm-up: to zero along a cosine or a line, or not at all"
    )
    warmup: float = Field(0.03, ge=0, description="steps of linear warm-up; below 1: share of all steps")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decoupled weight decay (not on norms and biases)")
    max_grad_norm: float = Field(1.0, ge=0, description="gradients are scaled down to this norm; 0: never")
    epochs: float = Field(3.0, gt=0, description="passes over the packs; ignored where max_steps is given")
    max_steps: int | None = Field(None, ge=1, description="optimizer steps, instead of epochs")
    batch_packs: int = Field(
        1,
        ge=1,
        description="packs in one forward pass on one device; left out: 1, or the version's `pack.batch_rows` where "
        "its rows stand alone, which it must divide",
    )
    gradient_accumulation: int = Field(8, ge=1, description="forward passes for one optimizer step")
    loss: Literal["token-mean", "conversation-mean"] = Field(
        "token-mean",
        description="each supervised token counts the same, or each conversation does; "
        "loss weights of the data multiply either",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="arithmetic of the forward pass; auto: bf16 on CUDA, fp32 elsewhere"
    )
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = Field(
        "auto", description="attention code; auto: flash_attention_2 where it is installed and measures well, else sdpa"
    )
    gradient_checkpointing: bool = Field(
        default=False, description="recompute activations in the backward pass: about 20% slower, far less memory"
    )
    neftune: float = Field(
        0.0, ge=0, description="strength of NEFTune noise on the embeddings while training (5 is usual); 0: none"
    )
    order: Literal["auto", "shuffled", "stored"] = Field(
        "auto",
        description="order of the rows: shuffled anew in every pass, or as the version stores them; auto: stored where "
        "the version's `pack.order` made a curriculum, else shuffled",
    )
    new_tokens: Literal["refuse", "resize"] = Field(
        "refuse", description="what to do where the tokenizer has more tokens than the model: stop, or add embeddings"
    )
    seed: int = Field(0, ge=0, description="draws the order of the packs, dropout and the adapters' first weights")
    checkpoint_every: int = Field(
        200, ge=1, description="steps between checkpoints; a killed run goes on from the last"
    )
    keep_checkpoints: int = Field(2, ge=1, description="how many of the newest checkpoints stay on disk")
    eval_every: int = Field(100, ge=1, description="steps between evaluations; there is also one before and one after")
    eval_rows: int = Field(1000, ge=1, description="most held-out conversations evaluated, spread over the split")

    @model_validator(mode="after")
    def _fits_together(self) -> TrainConfig:
        problems = []
        if self.method == "full" and self.lora != LoraSettings():
            problems.append("lora: has no effect where method is full; set `method: lora`, or leave it out")
        if self.max_steps is not None and self.epochs != type(self).model_fields["epochs"].default:
            problems.append("max_steps: stands beside epochs; give one of the two")
        if self.method != "full" and self.new_tokens == "resize":
            problems.append("new_tokens: adapters leave new embeddings untrained; use `method: full` with resize")
        if problems:
            raise ValueError("\n".join(problems))
        return self


def load_train_config(path: Path) -> TrainConfig:
    """Read a training file; ConfigError tells all its mistakes at once."""
    return check_settings(TrainConfig, read_settings(path), str(path))


def model_folder(name: str) -> str:
    """The folder that holds the model called `name`: a folder, a run (its model), or a hub model in the local cache.

    A folder, not a name, is what transformers gets: with a name it asks the network even where it is told not to.
    """
    if not Path(name).is_dir():
        from huggingface_hub import snapshot_download

        return str(snapshot_download(name, local_files_only=True))
    return str(Path(name) / "model") if (Path(name) / "training.json").is_file() else name
