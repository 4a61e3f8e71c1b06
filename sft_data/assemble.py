"""The final files of a version: every table cut anew into files whose bytes do not depend on the working shards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from sft_data import steps as work_of
from sft_data.cells import FileRef, Task, map_arrow, write_parquet
from sft_data.errors import StageError
from sft_data.fingerprint import digest, library_versions
from sft_data.pack.copies import copies, with_copies
from sft_data.pack.curriculum import values_of
from sft_data.pack.plan import Pack, plan
from sft_data.pack.shards import TokenReader, pack_frame, stream_names, write_stream
from sft_data.plan import LAYOUT
from sft_data.steps import Piece

if TYPE_CHECKING:
    from sft_data.build import Shard, StepResult, Work
    from sft_data.plan import Step

__all__ = ["SPLITS", "pack", "write"]

SPLITS = ("train", "validation", "test")

# Rows of a published Parquet file: 16,384 conversations are some ten megabytes.
FILE_ROWS = 16_384
# Tokens of a published Arrow file: 8 million of them, with their labels, are 64 MB.
FILE_TOKENS = 2**23
# What decides the bytes of these files besides their content: part of every cell's key.
_MADE_BY = [LAYOUT, library_versions(("numpy", "pyarrow"))]


@dataclass(frozen=True)
class _Table:
    """A table spread over the working shards."""

    files: tuple[FileRef, ...]  # one per shard
    splits: tuple[FileRef, ...]  # the files whose column `split` tells each row's split
    counts: tuple[int, ...]  # rows of the wanted split in each


def write(step: Step, work: Work, above: Sequence[StepResult]) -> Mapping[str, FileRef]:
    """Conversations, tokens and sidecars by split, and the ledgers: path in the version -> file."""
    shards = above[-1].shards
    jobs: dict[str, list[Piece]] = {}
    named: dict[Path, FileRef] = {}
    for split in SPLITS:
        rows = _table(work, [s.rows for s in shards], [s.rows for s in shards], split)
        jobs |= _by_rows(work, rows, split, f"conversations/{split}", named)
        if shards and "sidecar" in shards[0].tables:
            jobs |= _token_jobs(work, shards, split, named)
    for name in ("rejected", "edited"):
        refs = tuple(ref for result in above for ref in getattr(result, name))
        ledger = _Table(refs, (), tuple(ref.rows for ref in refs))
        jobs |= _by_rows(work, ledger, None, {"rejected": "rejections", "edited": "edits"}[name], named)
    work.watch.begin(step, len(jobs))
    weighted = any(
        _has_weights(shard.tables["tokens"].path(work.cache)) for shard in shards if "tokens" in shard.tables
    )
    tasks = [_rechunk_task(path, pieces, named, weighted=weighted) for path, pieces in jobs.items()]
    light = sum(shard.rows.rows for shard in shards) < FILE_ROWS
    cells = work.engine.run(work.cache, tasks, lambda _: work.watch.advance(), light=light)
    return {path: next(iter(cell.files.values())) for path, cell in zip(jobs, cells, strict=True)}


def pack(step: Step, work: Work, above: Sequence[StepResult]) -> Mapping[str, FileRef]:
    """Pack indexes and materialised packs by split: path in the version -> file."""
    settings = _settings(step)
    files: dict[str, FileRef] = {}
    for split in SPLITS:
        sidecars = _under(above[0].files, f"sidecar/{split}/")
        tokens = _under(above[0].files, f"tokens/{split}/")
        if not sidecars:
            continue
        weights = _weights(step) if split == "train" else {}
        mixed = _mixed(work, above[0].files) if split == "train" else []
        ordered = _under(above[0].files, "conversations/train/") if split == "train" and settings.order else []
        index = _index(work, settings, weights, sidecars, mixed, ordered)
        files[f"pack_index/{split}/00000.parquet"] = index
        files |= _packs(step, work, settings, split, index, tokens)
    return files


def _weights(step: Step) -> dict[str, float]:
    """Weights of the sources that are not packed once."""
    sources = step.pipeline.sources if step.pipeline is not None else ()
    return {source.name: source.weight for source in sources if source.weight != 1.0}


def _mixed(work: Work, files: Mapping[str, FileRef]) -> list[FileRef]:
    """The training conversations, where a mix says how often each of them is packed."""
    rows = _under(files, "conversations/train/")
    return rows if rows and "copies" in pl.scan_parquet(rows[0].path(work.cache)).collect_schema() else []


def _index(
    work: Work,
    settings: Pack,
    weights: Mapping[str, float],
    sidecars: Sequence[FileRef],
    mixed: Sequence[FileRef],
    ordered: Sequence[FileRef],
) -> FileRef:
    inputs = (*sidecars, *mixed, *ordered)
    parts = [settings, dict(weights), [ref.sha256 for ref in inputs], *([len(ordered)] if ordered else [])]
    paths, rows, told = ([ref.path(work.cache) for ref in refs] for refs in (sidecars, mixed, ordered))
    key, arguments = digest("pack-index", _MADE_BY, *parts), (paths, settings, weights, rows, told)
    task = Task(key, "pack index", pack_index, arguments, inputs=tuple(dict.fromkeys(inputs)))
    [cell] = work.engine.run(work.cache, [task], lambda _: None, light=True)
    return cell.files["00000.parquet"]


def _packs(
    step: Step, work: Work, settings: Pack, split: str, index: FileRef, tokens: Sequence[FileRef]
) -> dict[str, FileRef]:
    per_file = max(1, FILE_TOKENS // settings.max_length)
    packs = pl.scan_parquet(index.path(work.cache)).select(pl.col("pack").max() + 1).collect().item() or 0
    starts = range(0, packs, per_file)
    paths = [ref.path(work.cache) for ref in tokens]
    work.watch.begin(step, len(starts))
    tasks = [
        Task(
            digest(
                "packs",
                _MADE_BY,
                settings,
                index.sha256,
                [ref.sha256 for ref in tokens],
                start,
                per_file,
            ),
            f"packs of {split}, file {number}",
            materialise,
            (index.path(work.cache), start, start + per_file, paths),
            inputs=(index, *tokens),
        )
        for number, start in enumerate(starts)
    ]
    cells = work.engine.run(work.cache, tasks, lambda _: work.watch.advance())
    names = stream_names(len(cells))
    return {f"packs/{split}/{n}": cell.files["packs.arrow"] for n, cell in zip(names, cells, strict=True)}


def pack_index(
    folder: Path,
    sidecars: Sequence[Path],
    settings: Pack,
    weights: Mapping[str, float],
    mixed: Sequence[Path] = (),
    ordered: Sequence[Path] = (),
) -> dict[str, Any]:
    """Which rows share a pack; `weights` and the conversations `mixed` say how often a row is packed.

    The conversations `ordered` hold what a curriculum goes by.
    """
    rows = pl.concat([pl.read_parquet(path, columns=["id", "source", "tokens"]) for path in sidecars])
    lengths = rows["tokens"].to_numpy()
    values = values_of(rows, ordered, settings.order.by) if settings.order and ordered else None
    rows = with_copies(rows, mixed)
    if not weights and not mixed:
        index = plan(lengths, settings, values)
    else:
        packed = np.repeat(np.arange(rows.height), copies(rows, weights, settings.seed))
        index = plan(lengths[packed], settings, None if values is None else values[packed])
        index = index.with_columns(row=pl.Series(packed, dtype=pl.Int64).gather(index["row"]))
    write_parquet(index, folder / "00000.parquet")
    return {}


def materialise(folder: Path, index: Path, start: int, stop: int, tokens: Sequence[Path]) -> dict[str, Any]:
    """The packs from number `start` to `stop` as one Arrow stream."""
    chosen = pl.scan_parquet(index).filter(pl.col("pack").is_between(start, stop, closed="left")).collect()
    write_stream(folder / "packs.arrow", pack_frame(chosen, TokenReader(list(tokens))))
    return {}


def _settings(step: Step) -> Pack:
    if step.pipeline is None or step.pipeline.pack is None:
        raise StageError(f"step {step.name} has no pack settings")
    return step.pipeline.pack


def _under(files: Mapping[str, FileRef], prefix: str) -> list[FileRef]:
    return [ref for path, ref in sorted(files.items()) if path.startswith(prefix) and not path.endswith(".json")]


def _table(work: Work, files: Sequence[FileRef], splits: Sequence[FileRef], split: str) -> _Table:
    counts = tuple(
        int((pl.read_parquet(ref.path(work.cache), columns=["split"])["split"] == split).sum()) for ref in splits
    )
    return _Table(tuple(files), tuple(splits), counts)


def _token_jobs(work: Work, shards: Sequence[Shard], split: str, named: dict[Path, FileRef]) -> dict[str, list[Piece]]:
    sidecars = [shard.tables["sidecar"] for shard in shards]
    sidecar = _table(work, sidecars, sidecars, split)
    lengths = [
        pl.read_parquet(ref.path(work.cache), columns=["split", "tokens"]).filter(pl.col("split") == split)["tokens"]
        for ref in sidecars
    ]
    total = np.concatenate([s.to_numpy() for s in lengths]) if lengths else np.zeros(0, np.int32)
    tokens = _Table(tuple(shard.tables["tokens"] for shard in shards), tuple(sidecars), sidecar.counts)
    cuts = _token_cuts(total)
    jobs = _by_rows(work, sidecar, split, f"sidecar/{split}", named)
    for name, (start, stop) in zip(stream_names(len(cuts) - 1), pairwise(cuts), strict=True):
        jobs[f"tokens/{split}/{name}"] = list(_pieces(work, tokens, split, start, stop, named))
    return jobs


def _token_cuts(lengths: np.ndarray[Any, Any]) -> list[int]:
    """Row numbers at which a new file of about FILE_TOKENS tokens starts, with 0 and the number of rows."""
    if len(lengths) == 0:
        return [0]
    file = (np.cumsum(lengths, dtype=np.int64) - lengths) // FILE_TOKENS
    return [0, *(np.flatnonzero(np.diff(file)) + 1).tolist(), len(lengths)]


def _by_rows(
    work: Work, table: _Table, split: str | None, folder: str, named: dict[Path, FileRef]
) -> dict[str, list[Piece]]:
    total = sum(table.counts)
    return {
        f"{folder}/{number:05d}.parquet": list(_pieces(work, table, split, start, min(start + FILE_ROWS, total), named))
        for number, start in enumerate(range(0, total, FILE_ROWS))
    }


def _pieces(
    work: Work, table: _Table, split: str | None, start: int, stop: int, named: dict[Path, FileRef]
) -> Iterator[Piece]:
    """The pieces that rows `start`..`stop` of a table consist of."""
    first = 0
    for number, count in enumerate(table.counts):
        low, high = max(start, first), min(stop, first + count)
        if low < high:
            path = table.files[number].path(work.cache)
            named[path] = table.files[number]
            told = None
            if split is not None:
                told = table.splits[number].path(work.cache)
                named[told] = table.splits[number]
            yield Piece(path, low - first, high - low, told, split)
        first += count


def _has_weights(tokens: Path) -> bool:
    return "loss_weights" in map_arrow(tokens).columns


def _rechunk_task(path: str, pieces: Sequence[Piece], named: Mapping[Path, FileRef], *, weighted: bool) -> Task:
    name = "data.arrow" if path.endswith(".arrow") else "data.parquet"
    weighted = weighted and name == "data.arrow"
    parts = [
        [named[p.path].sha256, named[p.split].sha256 if p.split else None, p.start, p.count, p.name] for p in pieces
    ]
    inputs = {named[p] for piece in pieces for p in (piece.path, piece.split) if p is not None}
    key = digest("rechunk", _MADE_BY, name, parts, *(["loss_weights"] if weighted else []))
    cost = sum(p.count for p in pieces)
    return Task(key, path, work_of.rechunk, (pieces, name, weighted), inputs=tuple(inputs), cost=cost)
