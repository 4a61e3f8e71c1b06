"""One folder for each rank, all with the same number of rows: no rank waits for a step that another does not have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import polars as pl

from sft_data.pack.shards import IGNORED, dataset_files, stream_names, write_stream
from sft_data.store.layout import arrow_batches

__all__ = ["Remainder", "spread"]

Remainder = Literal["pad", "drop"]


def spread(folder: Path, ranks: int, remainder: Remainder, fingerprint: str) -> tuple[int, int]:
    """Turn a folder of data files into `rank-00000-of-0000N` folders; rows of each rank, and rows added or dropped.

    Rank r has rows r, r + N, r + 2N, ... of the folder. Where the rows do not divide evenly, `pad` gives the last ranks
    a copy of the last row in which every label is -100, so that it teaches nothing; `drop` leaves the rest out.
    """
    paths = sorted(folder.glob("data-*.arrow"))
    total = sum(frame.height for path in paths for frame in arrow_batches(path))
    rest = -total % ranks if remainder == "pad" else total % ranks
    names = stream_names(len(paths))
    places = [folder / f"rank-{rank:05d}-of-{ranks:05d}" for rank in range(ranks)]
    for place in places:
        place.mkdir()
    for name, frame in zip(names, _numbered(paths, total, rest, remainder), strict=True):
        for rank, place in enumerate(places):
            write_stream(place / name, frame.filter(pl.col("number") % ranks == rank).drop("number"))
    for path in [*paths, folder / "state.json", folder / "dataset_info.json"]:
        path.unlink()
    for place in places:
        for file, text in dataset_files(names, fingerprint, folder.name).items():
            (place / file).write_text(text, encoding="utf-8")
    return (total + rest if remainder == "pad" else total - rest) // ranks, rest


def _numbered(paths: list[Path], total: int, rest: int, remainder: Remainder) -> Iterator[pl.DataFrame]:
    """The content of each file with the number of every row; the last rows are added or left out."""
    first = 0
    for path in paths:
        frame = pl.concat(arrow_batches(path))
        frame = frame.with_columns(number=pl.int_range(first, first + frame.height, dtype=pl.Int64))
        first += frame.height
        if remainder == "drop":
            frame = frame.filter(pl.col("number") < total - rest)
        elif path == paths[-1] and rest:
            silent = frame[-1:].with_columns(pl.col("labels").list.eval(pl.element() * 0 + IGNORED))
            added = [silent.with_columns(number=pl.lit(total + n, dtype=pl.Int64)) for n in range(rest)]
            frame = pl.concat([frame, *(each.cast(frame.schema) for each in added)])
        yield frame
