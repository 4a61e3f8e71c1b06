"""Versions written by hand: a few token rows, a tiny tokenizer, Arrow streams and a manifest."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
from tokenizers import Tokenizer, models, pre_tokenizers

from sft_data.schema import SIDECAR
from sft_data.store.manifest import Counts, Manifest, TokenizerEntry

VOCABULARY = 64
STOP = 1  # also the pad token: padding must be told by place, never by id

Example = tuple[list[int], list[int]]


def example(prompt: Sequence[int], answer: Sequence[int]) -> Example:
    """Tokens and labels of one question and its answer, which ends with the stop token."""
    ids = [0, *prompt, 2, *answer, STOP]
    return ids, [-100] * (len(prompt) + 2) + [*answer, STOP]


def echo(seed: int, rows: int, *, longest: int = 14) -> list[Example]:
    """Examples that a small model learns quickly: the answer repeats the first word of the question."""
    draw = random.Random(seed)
    made = []
    for _ in range(rows):
        prompt = [draw.randrange(8, VOCABULARY) for _ in range(draw.randrange(1, longest))]
        made.append(example(prompt, [prompt[0]] * draw.randrange(1, longest)))
    return made


def packed(examples: Sequence[Example], length: int = 64) -> list[list[Example]]:
    """Examples put into packs in their order."""
    packs: list[list[Example]] = [[]]
    for one in examples:
        if sum(len(ids) for ids, _ in packs[-1]) + len(one[0]) > length:
            packs.append([])
        packs[-1].append(one)
    return packs


def row_of(pack: Sequence[Example]) -> dict[str, list[int]]:
    """One row of a PACKS table."""
    return {
        "input_ids": [i for ids, _ in pack for i in ids],
        "labels": [label for _, labels in pack for label in labels],
        "seq_lengths": [len(ids) for ids, _ in pack],
    }


def write_stream(folder: Path, rows: Sequence[dict[str, list[int]]], shards: int = 1) -> None:
    """Rows as Arrow IPC streams, cut into shards and record batches."""
    folder.mkdir(parents=True)
    size = -(-len(rows) // shards)
    for n in range(shards):
        part = rows[n * size : (n + 1) * size]
        names = ("input_ids", "labels", *(["seq_lengths"] if "seq_lengths" in rows[0] else []))
        table = pa.table({name: pa.array([row[name] for row in part], pa.list_(pa.int32())) for name in names})
        with pa.ipc.new_stream(folder / f"data-{n:05}-of-{shards:05}.arrow", table.schema) as writer:
            writer.write_table(table, max_chunksize=3)


def tokenizer(size: int = VOCABULARY) -> Tokenizer:
    """Words w0 ... as ids."""
    words = {f"w{i}": i for i in range(size)}
    made = Tokenizer(models.WordLevel(words, unk_token="w0"))  # noqa: S106
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return made


def write_version(
    folder: Path,
    train: Sequence[Sequence[Example]] | None = None,
    held_out: Sequence[Example] | None = None,
    *,
    sources: Sequence[str] = ("alpaca", "chats"),
    vocabulary: int = VOCABULARY,
    shards: int = 2,
    **entry: Any,
) -> Path:
    """A version's folder as a build leaves it, as far as training reads it; `train` is packs of examples."""
    packs = packed(echo(1, 60)) if train is None else train
    held = echo(2, 12) if held_out is None else held_out
    rows = [one for pack in packs for one in pack]
    write_stream(folder / "packs" / "train", [row_of(pack) for pack in packs], shards)
    for split, examples in (("train", rows), ("validation", held)):
        if examples:
            write_stream(
                folder / "tokens" / split, [dict(zip(("input_ids", "labels"), e, strict=True)) for e in examples]
            )
            write_sidecar(folder / "sidecar" / split, examples, sources, split)
    (folder / "tokenizer").mkdir()
    tokenizer(vocabulary).save(str(folder / "tokenizer" / "tokenizer.json"))
    (folder / "tokenizer" / "chat_template.jinja").write_text("{{ messages }}")
    made = Manifest(
        name="echo",
        fingerprint="c0ffee" + "0" * 58,
        pipeline={"name": "echo"},
        inputs=[],
        steps=[],
        libraries={},
        tokenizer=TokenizerEntry(
            **{
                "name": "words",
                "sha256": "a" * 64,
                "template_sha256": "b" * 64,
                "vocab_size": vocabulary,
                "max_length": 64,
                "pack_length": 64,
                "pad_token_id": STOP,
                "stop_token_ids": [STOP],
            }
            | entry
        ),
        counts=Counts(rows_in=len(rows) + len(held), rows_kept=len(rows) + len(held), rows_rejected=0),
    )
    (folder / "manifest.json").write_text(made.model_dump_json())
    return folder


def write_sidecar(folder: Path, examples: Sequence[Example], sources: Sequence[str], split: str) -> None:
    """Sources in turn."""
    folder.mkdir(parents=True)
    rows = [
        {
            "id": f"s:f:{i}",
            "source": sources[i % len(sources)],
            "split": split,
            "tokens": len(ids),
            "trained": sum(label != -100 for label in labels),
            "spans": [],
            "proof": "marks+bytes",
        }
        for i, (ids, labels) in enumerate(examples)
    ]
    pl.DataFrame(rows, schema=SIDECAR).write_parquet(folder / "00000.parquet")
