"""Rows and packs of a version, token by token, as they lie in its files."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from sft_data.errors import StoreError
from sft_data.pack.plan import pack_settings, units
from sft_data.pack.shards import IGNORED, TokenReader, row_of
from sft_data.store.layout import scan_table, splits_of, stream_files
from sft_data.store.read import load_manifest
from sft_data.tokenize.tokenizer import LoadedTokenizer, load_tokenizer

__all__ = ["Preview", "PreviewPack", "PreviewRow", "PreviewSegment", "PreviewSpan", "preview", "preview_pack"]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True)


class PreviewSpan(_Model):
    """A stretch that is trained on."""

    turn: int = Field(description="number of the message in the conversation; -1 where the whole row is trained")
    start: int = Field(description="first token")
    end: int = Field(description="behind its last token, the stop token")
    weight: float = Field(description="weight of its loss")


class PreviewRow(_Model):
    """One row of tokens."""

    id: str
    source: str
    split: str
    row: int = Field(description="row number in the split's tokens")
    ids: list[int] = Field(description="input_ids")
    tokens: list[str] = Field(description="each token's text; of several that spell one character, the last has it")
    labels: list[int] = Field(description="as on disk: the token's id where it is learnt, else -100")
    weights: list[float] | None = Field(
        default=None, description="loss weight of each token; null where the version has none: 1 where it is learnt"
    )
    specials: list[bool] = Field(description="whether the token steers the model instead of being text")
    spans: list[PreviewSpan]
    trained: int = Field(description="how many tokens are learnt")
    proof: str = Field(description="how the spans were found and proved")


class PreviewSegment(_Model):
    """One row's place in a pack; attention and positions begin anew with each."""

    id: str
    source: str
    row: int = Field(description="row number in the split's tokens")
    start: int = Field(description="its first token in the pack")
    end: int = Field(description="behind its last token in the pack")
    trained: int = Field(description="how many of its tokens are learnt in the pack")
    spans: list[PreviewSpan] = Field(description="stretches that are trained on, by their places in the pack")


class PreviewPack(_Model):
    """One training sequence, as it lies in the version's packs."""

    number: int = Field(description="number of the pack in its split, from 0")
    packs: int = Field(description="how many packs the split has")
    split: str
    method: str = Field(description="which rows share a pack: `pack.method`")
    ids: list[int] = Field(description="input_ids")
    tokens: list[str] = Field(description="each token's text; of several that spell one character, the last has it")
    labels: list[int] = Field(description="as on disk: the token's id where it is learnt, else -100")
    weights: list[float] | None = Field(
        default=None, description="loss weight of each token; null where the version has none: 1 where it is learnt"
    )
    specials: list[bool] = Field(description="whether the token steers the model instead of being text")
    segments: list[PreviewSegment] = Field(description="the rows in it, in their order")
    trained: int = Field(description="how many tokens are learnt")
    width: int = Field(description="places of a full pack; for rows that stand alone, the width of their batch")
    padding: int = Field(description="places of it that no token takes; nothing is stored for them")


class Preview(_Model):
    """Rows of one version, or one of its packs."""

    version: str = Field(description="folder of the version")
    tokenizer: str
    rows: list[PreviewRow] = []
    pack: PreviewPack | None = None


def preview(folder: Path, row_ids: Sequence[str] | None = None, n: int = 3) -> Preview:
    """The named rows, or `n` rows spread evenly over the train split (over the first split there is)."""
    splits = splits_of(folder, "sidecar")
    if not splits:
        raise StoreError(f"{folder} holds no tokens: its pipeline has no `tokenize` section")
    chosen = _named(folder, splits, row_ids) if row_ids else _spread(folder, splits[0], n)
    tokenizer = load_tokenizer(str(folder / "tokenizer"))
    rows = [row for split in splits for row in _rows(folder, split, chosen.filter(split=split), tokenizer)]
    return Preview(version=str(folder), tokenizer=_name(folder, tokenizer), rows=rows)


def preview_pack(folder: Path, number: int, split: str = "train") -> Preview:
    """Pack `number` of a split; StoreError says how many there are, or which splits have packs."""
    there = splits_of(folder, "packs")
    if not there:
        raise StoreError(f"{folder} holds no packs: its pipeline has no `pack` section; `preview` without a pack works")
    if split not in there:
        raise StoreError(f"{folder} has no packs of split {split!r}; splits with packs: {', '.join(there)}")
    columns, packs = row_of(stream_files(folder, "packs", split), number)
    if columns is None:
        told = f"they are numbered 0 to {packs - 1:,}" if packs else "the split is empty"
        raise StoreError(f"{folder} has no pack {number:,} of split {split!r}: there are {packs:,}; {told}")
    tokenizer = load_tokenizer(str(folder / "tokenizer"))
    pack = _pack(folder, split, (number, packs), columns, tokenizer)
    return Preview(version=str(folder), tokenizer=_name(folder, tokenizer), pack=pack)


def _name(folder: Path, tokenizer: LoadedTokenizer) -> str:
    entry = load_manifest(folder).tokenizer
    return entry.name if entry else tokenizer.name


def _named(folder: Path, splits: Sequence[str], row_ids: Sequence[str]) -> pl.DataFrame:
    tables = [
        scan_table(folder, "sidecar", split)
        .with_columns(row=pl.int_range(pl.len(), dtype=pl.Int64), split=pl.lit(split))
        .filter(pl.col("id").is_in(list(row_ids)))
        for split in splits
    ]
    found = pl.concat(tables).collect()
    missing = sorted(set(row_ids) - set(found["id"]))
    if missing:
        raise StoreError(
            f"row {missing[0]!r} has no tokens in {folder}: `sft-data why` tells what became of it; ids look like "
            "alpaca:alpaca_data.json:17"
        )
    return found


def _spread(folder: Path, split: str, n: int) -> pl.DataFrame:
    table = scan_table(folder, "sidecar", split)
    total = int(table.select(pl.len()).collect().item())
    rows = sorted({total * i // n for i in range(min(n, total))})
    table = table.with_columns(row=pl.int_range(pl.len(), dtype=pl.Int64), split=pl.lit(split))
    return table.filter(pl.col("row").is_in(rows)).collect()


def _rows(folder: Path, split: str, chosen: pl.DataFrame, tokenizer: LoadedTokenizer) -> Iterator[PreviewRow]:
    if chosen.height == 0:
        return
    reader = TokenReader(stream_files(folder, "tokens", split))
    columns, lengths = reader.columns_of(chosen["row"].to_numpy(), reader.columns)
    flat, labels, weights = columns["input_ids"], columns["labels"], columns.get("loss_weights")
    steering = set(tokenizer.control_ids.tolist())
    ends = np.cumsum(lengths).tolist()
    for entry, end, length in zip(chosen.iter_rows(named=True), ends, lengths.tolist(), strict=True):
        ids = flat[end - length : end].tolist()
        yield PreviewRow(
            id=entry["id"],
            source=entry["source"],
            split=split,
            row=entry["row"],
            ids=ids,
            tokens=_spelt(tokenizer, ids),
            labels=labels[end - length : end].tolist(),
            weights=None if weights is None else weights[end - length : end].tolist(),
            specials=[token in steering for token in ids],
            spans=[PreviewSpan(**span) for span in entry["spans"]],
            trained=entry["trained"],
            proof=entry["proof"],
        )


def _spelt(tokenizer: LoadedTokenizer, ids: Sequence[int]) -> list[str]:
    """The text of each token; a character that several tokens spell together stands with the last of them."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="backslashreplace")
    return [decoder.decode(tokenizer.bytes.of(np.array([token])).tobytes()) for token in ids]


def _pack(
    folder: Path, split: str, place: tuple[int, int], columns: Mapping[str, NDArray[Any]], tokenizer: LoadedTokenizer
) -> PreviewPack:
    number, packs = place
    manifest = load_manifest(folder)
    settings = pack_settings(manifest.pipeline, manifest.tokenizer.pack_length if manifest.tokenizer else None)
    if settings is None:
        raise StoreError(f"{folder} does not say how it was packed; `sft-data verify` tells more")
    first = number // settings.group * settings.group
    beside = scan_table(folder, "pack_index", split).filter(
        pl.col("pack").is_between(first, first + settings.group - 1)
    )
    index = beside.collect()
    rows = index.filter(pack=number).sort("position")
    if rows["tokens"].to_list() != columns["seq_lengths"].tolist():
        raise StoreError(f"{folder}: pack {number:,} of {split} is not as its index says; `sft-data verify` tells more")
    room = units(index, settings)
    ids, labels, weights = columns["input_ids"].tolist(), columns["labels"].tolist(), columns.get("loss_weights")
    segments = list(_segments(folder, split, rows, labels))
    steering = set(tokenizer.control_ids.tolist())
    width = int(room["slots"][0] // room["rows"][0]) if settings.alone else settings.max_length
    return PreviewPack(
        number=number,
        packs=packs,
        split=split,
        method=settings.method,
        ids=ids,
        tokens=[token for each in segments for token in _spelt(tokenizer, ids[each.start : each.end])],
        labels=labels,
        weights=None if weights is None else weights.tolist(),
        specials=[token in steering for token in ids],
        segments=segments,
        trained=sum(each.trained for each in segments),
        width=width,
        padding=width - len(ids),
    )


def _segments(folder: Path, split: str, rows: pl.DataFrame, labels: Sequence[int]) -> Iterator[PreviewSegment]:
    """What the sidecar knows of the rows of a pack; a row that the mixture repeats may stand in it again."""
    table = scan_table(folder, "sidecar", split).with_columns(row=pl.int_range(pl.len(), dtype=pl.Int64))
    known = table.filter(pl.col("row").is_in(rows["row"].unique().to_list())).collect()
    entries = {entry["row"]: entry for entry in known.iter_rows(named=True)}
    start = 0
    for row, tokens in rows.select("row", "tokens").iter_rows():
        entry, end = entries[row], start + tokens
        spans = [span | {"start": span["start"] + start, "end": span["end"] + start} for span in entry["spans"]]
        yield PreviewSegment(
            id=entry["id"],
            source=entry["source"],
            row=row,
            start=start,
            end=end,
            trained=sum(label != IGNORED for label in labels[start:end]),
            spans=[PreviewSpan(**span) for span in spans],
        )
        start = end
