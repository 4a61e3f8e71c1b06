"""What the training stage costs over a bare loop: the same packs, model and optimizer, in both.

    python benchmarks/train.py [--steps 20] [--packs 4] [--length 512] [--hidden 256] [--layers 6]
        [--vocabulary 512] [--threads 1]

Prints seconds and processor seconds for a step and tokens a second of both, and the largest difference between the two
losses of a step: they are to be the same run. Takes the better of two repeats, because other work on the machine
only ever makes a run slower.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from sft_data.store.manifest import Counts, Manifest, TokenizerEntry
from sft_data.train import RandomModel, TrainConfig, train
from sft_data.train.batches import NOT_FOR_THE_MODEL, Collator, PackStream
from sft_data.train.model import random_model
from sft_data.train.packs import open_rows

RATE = 1e-3
ENTRY = TokenizerEntry(name="none", sha256="", template_sha256="", vocab_size=1, max_length=1 << 20)


def write_version(folder: Path, packs: int, length: int, vocabulary: int) -> Path:
    """Packs of random tokens: examples of 20 to 200 tokens, the second half of each supervised."""
    draw = np.random.default_rng(0)
    rows: dict[str, list[list[int]]] = {"input_ids": [], "labels": [], "seq_lengths": []}
    for _ in range(packs):
        sizes: list[int] = []
        while (left := length - sum(sizes)) > 0:
            sizes.append(min(left, int(draw.integers(20, 200))))
        ids = draw.integers(0, vocabulary, length)
        ends = np.cumsum(sizes)
        place = np.arange(length) - np.repeat(ends - sizes, sizes)
        learnt = place > np.repeat(sizes, sizes) // 2
        values = (ids, np.where(learnt, ids, -100), np.array(sizes))
        for column, value in zip(rows.values(), values, strict=True):
            column.append(value.tolist())
    table = pa.table({name: pa.array(column, pa.list_(pa.int32())) for name, column in rows.items()})
    (folder / "packs" / "train").mkdir(parents=True)
    (folder / "tokenizer").mkdir()
    with pa.ipc.new_stream(folder / "packs" / "train" / "data-00000-of-00001.arrow", table.schema) as writer:
        writer.write_table(table)
    entry = ENTRY.model_copy(update={"pack_length": length, "vocab_size": vocabulary})
    manifest = Manifest(
        name="random",
        fingerprint="0" * 64,
        pipeline={},
        inputs=[],
        steps=[],
        libraries={},
        tokenizer=entry,
        counts=Counts(rows_in=0, rows_kept=0, rows_rejected=0),
    )
    (folder / "manifest.json").write_text(manifest.model_dump_json())
    return folder


def bare_loop(described: RandomModel, config: TrainConfig, version: Path, vocabulary: int, length: int) -> list[float]:
    """The shortest loop that trains on packs: losses of its steps."""
    steps = config.max_steps or 1
    model = random_model(described, vocabulary=vocabulary, context=length, entry=ENTRY)
    model.config.use_cache = False
    rows = open_rows(version, "train", "packs")
    stream = PackStream(rows, np.arange(len(rows)), steps * config.batch_packs, config.seed)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.0, fused=True)
    collate, losses = Collator(pad_token_id=0), []
    for step in range(steps):
        batch = collate([stream[step * config.batch_packs + i] for i in range(config.batch_packs)])
        logits = model(**{name: value for name, value in batch.items() if name not in NOT_FOR_THE_MODEL}).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def timed(run: Callable[[], list[float]]) -> tuple[float, float, list[float]]:
    """Wall seconds, processor seconds and what `run` returns."""
    wall, used = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
    losses = run()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return time.monotonic() - wall, after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime, losses


def main() -> None:
    """Run both and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (
        ("steps", 20),
        ("packs", 4),
        ("length", 512),
        ("hidden", 256),
        ("layers", 6),
        ("threads", 1),
        ("vocabulary", 512),
    ):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    described = RandomModel(
        hidden_size=options.hidden, layers=options.layers, intermediate_size=options.hidden * 8 // 3
    )
    config = TrainConfig(
        model=described,
        learning_rate=RATE,
        scheduler="constant",
        warmup=0,
        max_steps=options.steps,
        batch_packs=options.packs,
        gradient_accumulation=1,
        checkpoint_every=options.steps,
        precision="fp32",
    )
    with tempfile.TemporaryDirectory() as folder:
        version = write_version(Path(folder) / "v1", options.steps * options.packs, options.length, options.vocabulary)

        def ours() -> list[float]:
            result = train(config, version, Path(folder) / f"run-{time.monotonic_ns()}")
            return [step.loss for step in result.history]

        def bare() -> list[float]:
            return bare_loop(described, config, version, options.vocabulary, options.length)

        ours(), bare()  # imports and first calls
        runs = {"bare loop": [timed(bare), timed(bare)], "sft-data train": [timed(ours), timed(ours)]}
    tokens = options.steps * options.packs * options.length
    print(f"{options.steps} steps of {options.packs} x {options.length} tokens, {options.threads} thread(s)")
    print(f"{'':16} {'s/step':>8} {'CPU s/step':>11} {'tokens/s':>9}   first and last loss")
    for name, found in runs.items():
        wall, used = min(f[0] for f in found), min(f[1] for f in found)
        losses = found[0][2]
        print(
            f"{name:16} {wall / options.steps:8.3f} {used / options.steps:11.3f} {tokens / wall:9,.0f}"
            f"   {losses[0]:.4f} {losses[-1]:.4f}"
        )
    pairs = zip(runs["bare loop"][0][2], runs["sft-data train"][0][2], strict=True)
    print(f"largest difference of a loss: {max(abs(a - b) for a, b in pairs):.1e}")


if __name__ == "__main__":
    main()
