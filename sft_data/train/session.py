"""One run on this machine: choose device and arithmetic, check isolation, loop, save. The torch side of `train`."""

from __future__ import annotations

import contextlib
import math
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson
import torch
from transformers import TrainingArguments
from transformers.utils.import_utils import is_flash_attn_2_available

from sft_data.errors import TrainError
from sft_data.pack.plan import Pack, pack_settings
from sft_data.store.manifest import Manifest, TokenizerEntry
from sft_data.train.batches import Collator, PackStream
from sft_data.train.config import TrainConfig
from sft_data.train.heldout import HeldOutRows, has_rows, takes
from sft_data.train.isolation import check_isolation
from sft_data.train.loop import SftTrainer, Watch, held_out_of, steps_of
from sft_data.train.model import add_adapters, build_model, calm_threads, quiet, tokenizer_of
from sft_data.train.packs import Rows, Survey, open_rows, survey
from sft_data.train.result import HeldOut, StepLoss, TrainResult
from sft_data.train.saving import save_model, write_record

__all__ = ["Job", "run_session"]

Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """What a run is asked to do."""

    name: str  # the run's id
    config: TrainConfig
    version: Path
    manifest: Manifest
    out: Path
    claim: Callable[[], None]  # makes `out` the run's folder, or refuses it
    progress: Say | None


@dataclass(frozen=True)
class _Run:
    """What a run is made of before there is a model."""

    job: Job
    config: TrainConfig  # the job's, with the batches of the version
    entry: TokenizerEntry
    rows: Rows
    found: Survey
    args: TrainingArguments
    packing: Pack | None  # how the version batched its rows; None where conversations are trained on one by one

    def say(self, line: str) -> None:
        """One line for the person who waits, from the first process alone."""
        if self.job.progress is not None and self.args.process_index == 0:
            self.job.progress(line)

    @property
    def group(self) -> int:
        """Packs that stay together in a batch."""
        return self.packing.group if self.packing is not None else 1

    @property
    def order(self) -> Literal["shuffled", "stored"]:
        """In which order a pass takes the rows."""
        if self.config.order != "auto":
            return self.config.order
        return "stored" if self.packing is not None and self.packing.order is not None else "shuffled"

    @property
    def places(self) -> int:
        """Places of one pass: the packs, the last batch filled up."""
        return -(-len(self.found.trainable) // self.group) * self.group

    @property
    def step_packs(self) -> int:
        """Packs in one optimizer step, over all forward passes and devices."""
        return self.config.batch_packs * self.config.gradient_accumulation * int(self.args.world_size)


@dataclass(frozen=True)
class _Ready:
    """A model that passed the self-check, and how to run it."""

    model: Any
    collate: Collator
    attention: str
    isolation: float


def run_session(job: Job) -> TrainResult:
    """Train and save."""
    was_distributed = torch.distributed.is_initialized()
    with quiet(), _stop_signals() as stopping:
        run = _open(job)
        ready = _prepare(run)
        trainer, watch = _trainer(run, ready, stopping)
        run.say(_opening(run, ready))
        with calm_threads(ready.model):
            trainer.train(resume_from_checkpoint=_last_checkpoint(job.out / "checkpoints"))
        result = _result(run, ready, trainer, finished=not watch.stopped)
        if run.args.process_index == 0:
            if result.finished:
                save_model(trainer.model, job.config, job.manifest, job.version, result)
            write_record(result)
        trainer.accelerator.wait_for_everyone()
    if torch.distributed.is_initialized() and not was_distributed:
        torch.distributed.destroy_process_group()
    return result


def _open(job: Job) -> _Run:
    entry = tokenizer_of(job.manifest, job.version)
    packing = pack_settings(job.manifest.pipeline, entry.pack_length) if job.config.rows == "packs" else None
    config = _batched(job.config, packing, job.version)
    args = _arguments(config, job.out)
    _claim_once(args, job.claim)
    rows = open_rows(job.version, "train", "packs" if config.rows == "packs" else "tokens")
    found = survey(rows, f"{job.version}/{config.rows}")
    if not len(found.trainable):
        raise TrainError(f"{job.version}: no token of its {len(rows)} rows is supervised; look at `tokenize.train_on`")
    run = _Run(job, config, entry, rows, found, args, packing)
    args.max_steps = config.max_steps or max(1, math.ceil(config.epochs * run.places / run.step_packs))
    args.warmup_steps = int(config.warmup) if config.warmup >= 1 else math.ceil(config.warmup * args.max_steps)
    return run


def _claim_once(args: TrainingArguments, claim: Callable[[], None]) -> None:
    """The first process claims the run's folder; the others wait, for what they find in it must not change."""
    if args.process_index == 0:
        claim()
    state = args.distributed_state
    if state is not None:
        state.wait_for_everyone()


def _batched(config: TrainConfig, packing: Pack | None, version: Path) -> TrainConfig:
    """The settings with the batches that the version was laid out for; TrainError where others are asked for.

    A batch across two of the version's pads short rows to long ones and mixes buckets; a part of one does neither.
    """
    if packing is None or not packing.alone:
        return config
    if "batch_packs" not in config.model_fields_set:
        return config.model_copy(update={"batch_packs": packing.batch_rows})
    if packing.batch_rows % config.batch_packs:
        raise TrainError(
            f"batch_packs: {config.batch_packs} does not divide the batches of {packing.batch_rows} rows that "
            f"{version} is laid out in (`pack.method: {packing.method}`, `pack.batch_rows`): batches would run across "
            f"their borders; leave it out to take {packing.batch_rows}, give a divisor of it, or build with "
            f"`pack.batch_rows: {config.batch_packs}`"
        )
    return config


def _arguments(config: TrainConfig, out: Path) -> TrainingArguments:
    cuda = torch.cuda.is_available()
    args = TrainingArguments(
        output_dir=str(out / "checkpoints"),
        per_device_train_batch_size=config.batch_packs,
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=config.learning_rate,
        lr_scheduler_type="constant_with_warmup" if config.scheduler == "constant" else config.scheduler,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        neftune_noise_alpha=config.neftune or None,
        activation_checkpointing=config.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False} if config.gradient_checkpointing else None,
        bf16=config.precision == "bf16"
        or (config.precision == "auto" and cuda and torch.cuda.is_bf16_supported(including_emulation=False)),
        use_cpu=not cuda,
        seed=config.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,  # a loss that is no number must be seen, not averaged away
        save_strategy="steps",
        save_steps=config.checkpoint_every,
        save_total_limit=config.keep_checkpoints,
        eval_strategy="no",  # Watch asks for evaluations
        report_to="none",
        disable_tqdm=True,
        log_level="error",
        log_level_replica="error",
        remove_unused_columns=False,
        dataloader_pin_memory=cuda,
        ddp_find_unused_parameters=False,
    )
    if args.n_gpu > 1:
        args._n_gpu = 1  # one process, one device: torchrun starts one for each; DataParallel has another loss
    return args


def _prepare(run: _Run) -> _Ready:
    """Build the model on its device and measure that packed examples are isolated in it."""
    wanted = run.config.attention
    flash_fits = run.args.bf16 and run.args.device.type == "cuda" and is_flash_attn_2_available()
    if wanted == "auto" and flash_fits:
        try:
            return _ready(run, "flash_attention_2")
        except (TrainError, ValueError, ImportError, RuntimeError) as error:
            run.say(f"flash_attention_2 is not used: {' '.join(str(error).split())[:200]}")
    if wanted == "flash_attention_2" and not flash_fits:
        raise TrainError(
            "attention: flash_attention_2 needs a CUDA device, precision bf16 and the package flash-attn; "
            "`attention: auto` takes what there is"
        )
    return _ready(run, None if wanted == "auto" else wanted)


def _ready(run: _Run, attention: str | None) -> _Ready:
    config, args, packed = run.config, run.args, run.config.rows == "packs"
    # Frozen weights are only read: half of the memory. Trained ones keep float32 under bf16 arithmetic.
    dtype = torch.bfloat16 if config.method != "full" and args.bf16 else torch.float32
    model = build_model(config, run.job.version, run.entry, run.found, attention=attention, dtype=dtype).to(args.device)
    flash = attention == "flash_attention_2"
    collate = Collator(
        pad_token_id=run.entry.pad_token_id or 0,
        layout="flat" if flash and packed else "rows",
        loss=config.loss,
        position_ids=packed and takes(model, "position_ids"),
        multiple=run.packing.round_to if run.packing is not None else 1,
    )
    half = flash or dtype == torch.bfloat16
    shared = packed or config.batch_packs > 1  # a conversation that is a batch of its own has nothing to leak from
    isolation = check_isolation(model, collate, packed=packed, bf16=half) if shared else 0.0
    code = model.config._attn_implementation or "none"
    return _Ready(model if config.method == "full" else add_adapters(model, config), collate, code, isolation)


def _trainer(run: _Run, ready: _Ready, stopping: Callable[[], bool]) -> tuple[SftTrainer, Watch]:
    config = run.config
    watch = Watch(config.eval_every, stopping, run.say)
    there = has_rows(run.job.version, "validation")
    trainer = SftTrainer(
        model=ready.model,
        args=run.args,
        data_collator=ready.collate,
        train_dataset=PackStream(
            run.rows,
            run.found.trainable,
            run.args.max_steps * run.step_packs,
            config.seed,
            run.group,
            run.order,
        ),
        callbacks=[watch],
        held_out=HeldOutRows(run.job.version, "validation", config.eval_rows) if there else None,
    )
    watch.trainer = trainer
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise TrainError(
            "sharded models (FSDP, DeepSpeed) cannot be trained here; start with torchrun, or train adapters"
        )
    return trainer, watch


def _opening(run: _Run, ready: _Ready) -> str:
    found, args = run.found, run.args
    left_out = len(run.rows) - len(found.trainable)
    return (
        f"{len(found.trainable):,} {run.config.rows} of {found.tokens:,} tokens, "
        f"{int(found.supervised.sum()):,} supervised"
        + (f" ({left_out} without a supervised token left out)" if left_out else "")
        + (", in their stored order" if run.order == "stored" else "")
        + f"; {args.max_steps:,} steps on {args.world_size} x {args.device.type}, "
        f"{'bf16' if args.bf16 else 'fp32'}, {ready.attention} attention; packed = alone within {ready.isolation:.1e}"
    )


def _last_checkpoint(folder: Path) -> str | None:
    """The newest complete checkpoint: its state is written last; what a kill left half written is passed over."""
    numbered = {int(path.name.rsplit("-", 1)[1]): path for path in folder.glob("checkpoint-*")}
    for _, path in sorted(numbered.items(), reverse=True):
        try:
            orjson.loads((path / "trainer_state.json").read_bytes())
        except (FileNotFoundError, orjson.JSONDecodeError):
            shutil.rmtree(path, ignore_errors=True)
            continue
        return str(path)
    return None


def _result(run: _Run, ready: _Ready, trainer: SftTrainer, *, finished: bool) -> TrainResult:
    config, found, args = run.config, run.found, run.args
    steps = steps_of(trainer.state)
    seconds, tokens = sum(step.seconds for step in steps), sum(step.tokens for step in steps)
    parameters, held_out = list(ready.model.parameters()), held_out_of(trainer.state)
    adapter_only = config.method != "full" and not config.lora.save_merged
    return TrainResult(
        run=run.job.name,
        path=str(run.job.out),
        model=str(run.job.out / ("adapter" if adapter_only else "model")),
        finished=finished,
        dataset=run.job.manifest.name,
        fingerprint=run.job.manifest.fingerprint,
        steps=trainer.state.global_step,
        epochs=trainer.state.global_step * run.step_packs / run.places,
        packs=len(found.trainable),
        packs_without_target=len(run.rows) - len(found.trainable),
        tokens=tokens,
        supervised_tokens=sum(step.supervised_tokens for step in steps),
        parameters=sum(p.numel() for p in parameters),
        trainable_parameters=sum(p.numel() for p in parameters if p.requires_grad),
        train_loss_first=steps[0].loss if steps else None,
        train_loss_last=steps[-1].loss if steps else None,
        held_out=held_out,
        seconds=seconds,
        metrics=_metrics(steps, held_out, tokens),
        device=f"{args.world_size} x {_device(args.device)}",
        precision="bf16" if args.bf16 else "fp32",
        attention=ready.attention,
        isolation=ready.isolation,
        history=steps,
    )


def _metrics(steps: list[StepLoss], held_out: list[HeldOut], tokens: int) -> dict[str, float]:
    """The few numbers by which runs are compared."""
    seconds = sum(step.seconds for step in steps)
    metrics = {"tokens_per_second": tokens / seconds if seconds else 0.0}
    if steps:
        metrics |= {"train_loss_first": steps[0].loss, "train_loss_last": steps[-1].loss}
    if held_out:
        metrics |= {"held_out_loss_first": held_out[0].loss, "held_out_loss_last": held_out[-1].loss}
        metrics["held_out_loss_best"] = min(found.loss for found in held_out)
    return metrics


def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@contextlib.contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """Ctrl-C or SIGTERM once: stop behind the next checkpoint. Ctrl-C twice: at once."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # only the main thread may listen; whoever started another one stops it his way
        return
    asked: list[int] = []

    def ask(number: int, _frame: object) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
