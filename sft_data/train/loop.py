"""transformers' Trainer as the loop, with this project's loss, order, evaluation and record of every step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import polars as pl
import torch
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from sft_data.errors import TrainError
from sft_data.train.batches import NOT_FOR_THE_MODEL
from sft_data.train.heldout import HeldOutRows, by_source, row_losses, supervised_nll, total
from sft_data.train.result import HeldOut, StepLoss

__all__ = ["SftTrainer", "Watch", "held_out_of", "steps_of"]


class SftTrainer(Trainer):
    """Trainer with a loss whose gradient is the same however a step is cut into forward passes and devices.

    Every supervised token has a weight: its loss weight in the data (1 where the version has none), under
    `conversation-mean` divided by the supervised tokens of its conversation. A step's loss is the weighted sum of the
    tokens' losses divided by the sum of the weights of the whole step, over all forward passes and all devices:
    doubling all weights changes nothing, and a turn of weight 0.5 counts half beside one of 1 wherever they stand.
    """

    # The loss is divided by the whole step's weights: Trainer must not divide by the number of passes again.
    loss_is_scaled_for_ga = True

    def __init__(self, *args: Any, held_out: HeldOutRows | None = None, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = False  # no model may divide the loss itself
        self.held_out = held_out
        self.remove_callback(PrinterCallback)
        self._read: dict[str, int] = {}
        self._since = time.monotonic()

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:  # noqa: ANN401
        stream: Any = self.train_dataset if train_dataset is None else train_dataset
        return SequentialSampler(stream)  # it has its order

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor]:
        """A step's batches, and the sum of their weights over all devices."""
        batches = [batch for _, batch in zip(range(num_batches), epoch_iterator, strict=False)]
        rows = [[b["weights"].double().sum(), b["text_tokens"], (b["labels"] != -100).sum()] for b in batches]
        sums = torch.tensor(rows, dtype=torch.float64).sum(0)
        if self.args.world_size > 1:
            sums = self.accelerator.reduce(sums.to(device)).cpu()
        self._read = {"tokens": int(sums[1]), "supervised_tokens": int(sums[2])}
        return batches, sums[0].float().to(device)

    def compute_loss(
        self,
        model: Any,  # noqa: ANN401
        inputs: dict[str, Any],
        return_outputs: bool = False,  # noqa: FBT001, FBT002 - Trainer's signature
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:  # noqa: ANN401
        """The part of the step's loss that these packs have; Trainer asks for outputs in evaluations only, not ours."""
        seen = {name: value for name, value in inputs.items() if name not in NOT_FOR_THE_MODEL}
        nll, learnt = supervised_nll(model, seen, inputs["labels"])
        weighted = (nll * inputs["weights"][:, 1:][learnt]).sum()
        # Gradients are averaged over the devices afterwards: multiply first, so that their sum is what counts.
        return weighted * self.accelerator.num_processes / num_items_in_batch

    def evaluate(self, *_args: Any, **_kwargs: Any) -> dict[str, float]:  # noqa: ANN401
        """Losses of the held-out conversations, per source; each device takes its share of them."""
        if self.held_out is None:
            return {}
        rank, world = self.args.process_index, self.args.world_size
        losses = row_losses(self.model, self.held_out.rows, self.held_out.numbers[rank::world])
        sources = pl.Series("source", self.held_out.sources[rank::world], dtype=pl.String)
        frame = _gather(losses.with_columns(sources), world)
        found = HeldOut(step=self.state.global_step, loss=total(frame).loss, by_source=by_source(frame))
        self.log({"held_out": found.model_dump()})  # type: ignore[dict-item]
        return {"eval_loss": found.loss}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add to a step's record what it read and how long it took."""
        if "loss" in logs:
            now = time.monotonic()
            logs |= {**self._read, "seconds": now - self._since}
            self._since = now
        super().log(logs, start_time)


def _gather(frame: pl.DataFrame, world: int) -> pl.DataFrame:
    if world == 1:
        return frame
    parts: list[Any] = [None] * world
    torch.distributed.all_gather_object(parts, frame.to_dict(as_series=False))
    return pl.concat([pl.DataFrame(part, schema=frame.schema) for part in parts])


class Watch(TrainerCallback):
    """Decides when to evaluate and when to stop, refuses a broken loss, and tells how it goes."""

    def __init__(self, every: int, stopping: Callable[[], bool], progress: Callable[[str], None] | None) -> None:
        self.every, self.stopping, self.progress = every, stopping, progress
        self.trainer: SftTrainer | None = None  # set when there is one: it needs its callbacks first
        self.stopped = False
        self._told, self._began, self._first = 0.0, time.monotonic(), 0

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **_: Any,  # noqa: ANN401
    ) -> None:
        """Evaluate the untouched model; a resumed run has that in its record."""
        self._began, self._first = time.monotonic(), state.global_step
        if self.trainer is not None and state.global_step == 0:
            self.trainer.evaluate()
            self.trainer._since = time.monotonic()

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **_: Any,  # noqa: ANN401
    ) -> None:
        """Evaluate every so often and at the end; stop behind a checkpoint where a person asked for it."""
        last = state.global_step >= state.max_steps
        control.should_evaluate = last or state.global_step % self.every == 0
        if not last and _anywhere(self.stopping(), args):
            self.stopped = control.should_save = control.should_training_stop = True

    def on_epoch_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **_: Any,  # noqa: ANN401
    ) -> None:
        """Trainer looks at these once more behind the last step, which has done both."""
        control.should_evaluate = control.should_save = False

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **more: Any,  # noqa: ANN401
    ) -> None:
        """Refuse numbers that are none before a checkpoint keeps them."""
        logs = more.get("logs") or {}
        if "loss" in logs and not (math.isfinite(logs["loss"]) and math.isfinite(logs.get("grad_norm") or 0.0)):
            raise TrainError(
                f"step {state.global_step}: loss {logs['loss']}, gradient norm {logs.get('grad_norm')}: the run has "
                f"diverged; the last checkpoint is from before. Lower learning_rate (now at "
                f"{logs['learning_rate']:.2g}), lengthen warmup, or use precision fp32"
            )
        if self.progress is not None and state.is_world_process_zero:
            self._tell(logs, state, self.progress)

    def _tell(self, logs: dict[str, Any], state: TrainerState, say: Callable[[str], None]) -> None:
        if "held_out" in logs:
            say(f"step {state.global_step}/{state.max_steps}  held-out loss {logs['held_out']['loss']:.4f}")
        now = time.monotonic()
        last = state.global_step >= state.max_steps
        if "loss" not in logs or (now - self._told < 2 and not last):
            return
        self._told = now
        done = state.global_step - self._first
        left = f"  {(now - self._began) / done * (state.max_steps - state.global_step):,.0f} s left" if done > 2 else ""
        rate = logs["tokens"] / max(logs["seconds"], 1e-9)
        say(
            f"step {state.global_step}/{state.max_steps}  loss {logs['loss']:.4f}  rate {logs['learning_rate']:.2e}  "
            f"{rate:,.0f} tokens/s{left}"
        )


def _anywhere(flag: bool, args: TrainingArguments) -> bool:  # noqa: FBT001 - the flag is the value
    """Whether any device says so: all must stop behind the same step."""
    if args.world_size == 1:
        return flag
    said = torch.tensor(int(flag), device=args.device)
    torch.distributed.all_reduce(said, op=torch.distributed.ReduceOp.MAX)
    return bool(said.item())


def steps_of(state: TrainerState) -> list[StepLoss]:
    """The record of every step, those before a resume included."""
    return [
        StepLoss(
            step=line["step"],
            loss=line["loss"],
            grad_norm=line.get("grad_norm") or 0.0,
            learning_rate=line["learning_rate"],
            tokens=line["tokens"],
            supervised_tokens=line["supervised_tokens"],
            seconds=line["seconds"],
        )
        for line in state.log_history
        if "loss" in line
    ]


def held_out_of(state: TrainerState) -> list[HeldOut]:
    """Every evaluation, those before a resume included."""
    return [HeldOut.model_validate(line["held_out"]) for line in state.log_history if "held_out" in line]
