"""What a stage's tables say, read back with the reference tokenizer alone."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path

import polars as pl
from tokenizers import Tokenizer

from sft_data.stage import Outcome, run_stage
from sft_data.tokenize.stage import Tokenize
from tests.frames import conversations


@lru_cache(maxsize=8)
def reference(folder: str) -> Tokenizer:
    return Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))


def tokenized(folder: str, *rows: dict, **settings: object) -> Outcome:
    return run_stage(Tokenize(tokenizer=folder, **settings), conversations(*rows))


def ids_of(outcome: Outcome, row: int = 0) -> list[int]:
    return outcome.tables["tokens"]["input_ids"][row].to_list()


def text_of(folder: str, ids: Sequence[int]) -> str:
    """Exactly what the ids say: bytes of the vocabulary, nothing tidied."""
    tokenizer = reference(folder)
    return tokenizer.decode(list(ids), skip_special_tokens=False)


def trained_texts(folder: str, outcome: Outcome) -> list[list[str]]:
    """The runs of labels of every row, decoded: read from the labels alone, not from the sidecar."""
    frame = outcome.tables["tokens"]
    return [_runs(folder, ids, labels) for ids, labels in frame.select("input_ids", "labels").iter_rows()]


def _runs(folder: str, ids: Sequence[int], labels: Sequence[int]) -> list[str]:
    assert all(label in (-100, token) for token, label in zip(ids, labels, strict=True)), "labels are not shifted"
    places = [(label != -100, token) for token, label in zip(ids, labels, strict=True)]
    return [text_of(folder, [t for _, t in run]) for learnt, run in groupby(places, key=lambda p: p[0]) if learnt]


def proofs(outcome: Outcome) -> set[str]:
    return set(outcome.tables["sidecar"]["proof"])


def span_texts(folder: str, outcome: Outcome) -> list[str]:
    """Every span of the sidecar, decoded, over all rows."""
    tables = pl.concat([outcome.tables["tokens"], outcome.tables["sidecar"]], how="horizontal")
    return [
        text_of(folder, ids[span["start"] : span["end"]])
        for ids, spans in tables.select("input_ids", "spans").iter_rows()
        for span in spans
    ]
