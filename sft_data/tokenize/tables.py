"""The stage's tables out of its verdicts: TOKENS, SIDECAR and the ledger of edits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from sft_data.pack.shards import IGNORED, list_column
from sft_data.schema import EDITS, LOSS_WEIGHTS, PART, SIDECAR, TOKENS, conform
from sft_data.tokenize.engine import encode_texts
from sft_data.tokenize.labels import Encoded
from sft_data.tokenize.tokenizer import LoadedTokenizer
from sft_data.tokenize.weights import Span

__all__ = ["Story", "Verdict", "edits", "token_tables"]


class Verdict(NamedTuple):
    """A sample that is kept: its tokens and what of them is learnt."""

    last: int  # number of its last message: tells the order of a row's samples
    tokens: Encoded
    spans: Sequence[Span]


class Story(NamedTuple):
    """What became of a row that is kept."""

    samples: Sequence[Verdict]
    lost: int  # tokens cut off or left out
    was_split: bool  # cut into segments, because it was too long
    earlier: tuple[str, ...]  # reasoning before the last turn that the template shows


def token_tables(kept: pl.DataFrame, stories: Sequence[Story], *, parts: bool) -> dict[str, pl.DataFrame]:
    """TOKENS and SIDECAR, in the order of `kept`; `parts`: rows may have several samples, which are numbered."""
    verdicts = [verdict for story in stories for verdict in story.samples]
    samples = np.array([len(story.samples) for story in stories], dtype=np.int64)
    row_of = np.repeat(np.arange(len(stories)), samples)
    ids = np.concatenate([np.zeros(0, np.int32), *(verdict.tokens.ids for verdict in verdicts)])
    bounds = np.cumsum([0, *(len(verdict.tokens.ids) for verdict in verdicts)])
    counts = np.array([len(verdict.spans) for verdict in verdicts], dtype=np.int64)
    flat = [span for verdict in verdicts for span in verdict.spans]
    turns, starts, ends = (np.array([span[i] for span in flat], dtype=np.int64) for i in range(3))
    weights = np.array([span[3] for span in flat], dtype=np.float32)
    first = np.repeat(bounds[:-1], counts)
    learnt = _covered(first + starts, first + ends, len(ids))
    labels = np.where(learnt, ids, np.int32(IGNORED)).astype(np.int32)
    trained = np.concatenate([np.zeros(1, np.int64), np.cumsum(learnt)])[bounds]
    split = kept["split"] if "split" in kept.columns else pl.Series([None] * kept.height, dtype=pl.String)
    sidecar = pl.DataFrame(
        {
            "id": kept["id"].gather(row_of),
            "source": kept["source"].gather(row_of),
            "split": split.gather(row_of),
            "tokens": np.diff(bounds),
            "trained": np.diff(trained),
            "spans": _span_column(turns, starts, ends, weights, counts),
            "proof": pl.Series([verdict.tokens.proof for verdict in verdicts], dtype=pl.String),
        }
    ).cast(SIDECAR)
    if parts:
        part = np.arange(len(row_of)) - np.repeat(np.cumsum(samples) - samples, samples)
        sidecar = sidecar.with_columns(part=pl.Series(part)).cast(PART)
    table = pl.DataFrame({"input_ids": list_column(ids, bounds), "labels": list_column(labels, bounds)}).cast(TOKENS)
    if (weights != 1.0).any():
        spread = np.zeros(len(ids), dtype=np.float32)
        spread[learnt] = np.repeat(weights, ends - starts)  # spans come in order and do not overlap
        table = table.with_columns(loss_weights=list_column(spread, bounds)).cast(LOSS_WEIGHTS)
    return {"tokens": table, "sidecar": sidecar}


def edits(kept: pl.DataFrame, stories: Sequence[Story], tokenizer: LoadedTokenizer) -> pl.DataFrame:
    """EDITS: tokens lost, rows split, rows that became several samples, earlier reasoning that is shown."""
    shown = [text for story in stories for text in story.earlier]
    _, bounds = encode_texts(tokenizer, shown)
    costs = iter(np.diff(bounds).tolist())
    told = []
    for row, story in enumerate(stories):
        if story.lost or story.was_split or story.earlier or len(story.samples) > 1:
            cost = sum(next(costs) for _ in story.earlier)
            told += [(row, *entry) for entry in _entries(story, cost)]
    frame = pl.DataFrame(
        told, schema={"row": pl.Int64, "code": pl.String, "count": pl.Int64, "detail": pl.String}, orient="row"
    )
    return conform(frame.with_columns(id=kept["id"].gather(frame["row"])).drop("row"), EDITS)


def _entries(story: Story, earlier: int) -> list[tuple[str, int, str]]:
    sizes = [len(verdict.tokens.ids) for verdict in story.samples]
    left, longest, number = sum(sizes), max(sizes), len(sizes)
    told = []
    if story.was_split:
        told.append(("split", number, f"{number} segments of {left} tokens together"))
    elif number > 1:
        told.append(("samples", left - longest, f"{number} samples of {left} tokens, the longest of {longest}"))
    if story.lost:
        told.append(("cut", story.lost, f"{left + story.lost} -> {left} tokens"))
    if story.earlier:
        told.append(("earlier-reasoning", earlier, f"reasoning of {len(story.earlier)} turns before the last"))
    return told


def _covered(starts: NDArray[np.int64], ends: NDArray[np.int64], length: int) -> NDArray[np.bool_]:
    """Which of `length` places lie in one of the spans."""
    steps = np.zeros(length + 1, dtype=np.int32)
    np.add.at(steps, starts, 1)
    np.add.at(steps, ends, -1)
    covered: NDArray[np.bool_] = np.cumsum(steps)[:length] > 0
    return covered


def _span_column(
    turns: NDArray[np.int64],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    weights: NDArray[np.float32],
    counts: NDArray[np.int64],
) -> pl.Series:
    structs = (
        pl.DataFrame({"turn": turns, "start": starts, "end": ends, "weight": weights})
        .cast({"turn": pl.Int32, "start": pl.Int32, "end": pl.Int32, "weight": pl.Float32})
        .to_struct("spans")
    )
    return list_column(structs.to_arrow(), np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]))
