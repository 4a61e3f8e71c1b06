"""One row's whole story: where it came from, what changed it, why it stayed or left, where its tokens are."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from sft_data.errors import StoreError
from sft_data.report.ledgers import meaning_of
from sft_data.report.texts import plain, rejected_plain, shorten, texts_of
from sft_data.store.layout import parquet_files, rows_where, scan_table, splits_of, stream_files
from sft_data.store.manifest import Manifest, StepEntry, kind_of
from sft_data.store.read import load_manifest

__all__ = ["Event", "Story", "why"]

CUT = 400  # characters of a text beside it
VICTIMS = 20  # rows that went because of this one, told by name


class Event(BaseModel):
    """One thing that happened to the row."""

    model_config = ConfigDict(frozen=True)

    stage: str = Field(description="the step's name, in river order")
    what: str = Field(description="read, passed, edited, rejected, kept instead of others, tokenized, packed")
    detail: str = Field(description="a sentence for a person")
    code: str | None = None
    meaning: str | None = Field(default=None, description="the code's documented meaning")
    more: dict[str, Any] = Field(default={}, description="the same as data: twin, score, spans, pack, ...")


class Story(BaseModel):
    """The row's events in river order, and what became of it."""

    model_config = ConfigDict(frozen=True)

    id: str
    source: str
    fate: str = Field(description="kept in a split, or rejected with a code")
    text: str = Field(description="the row as it stands at its end, for a person")
    events: list[Event]


@dataclass(frozen=True)
class _Row:
    """What the tables hold about the row."""

    id: str
    source: str
    text: str
    kept: dict[str, Any] | None  # its row of conversations
    rejected: dict[str, Any] | None  # its row of rejections
    edits: list[dict[str, Any]]
    victims: list[dict[str, Any]]  # rejections whose twin it is


def why(folder: Path, row_id: str) -> Story:
    """The story of one row of the version in `folder`; StoreError with near ids where there is no such row."""
    manifest = load_manifest(folder)
    row = _find(folder, row_id)
    if row is None:
        raise StoreError(_unknown(folder, manifest, row_id))
    if row.rejected is not None:
        fate = f"rejected: {row.rejected['code']}"
    else:
        split = (row.kept or {}).get("split")
        fate = f"kept: {split}" if split else "kept"
    events = list(_events(folder, manifest, row))
    return Story(id=row.id, source=row.source, fate=fate, text=row.text, events=events)


def _find(folder: Path, row_id: str) -> _Row | None:
    kept = _rows(folder, "conversations", "id", row_id)
    gone = _rows(folder, "rejections", "id", row_id)
    if not kept and not gone:
        return None
    edits = _rows(folder, "edits", "id", row_id)
    victims = _rows(folder, "rejections", "twin", row_id)
    first = (kept or gone)[0]
    text = plain(kept[0]["messages"]) if kept else rejected_plain(gone[0]["text"])
    return _Row(row_id, first["source"], text, kept[0] if kept else None, gone[0] if gone else None, edits, victims)


def _rows(folder: Path, table: str, column: str, value: str) -> list[dict[str, Any]]:
    return rows_where(folder, table, column, {value}).to_dicts()


def _events(folder: Path, manifest: Manifest, row: _Row) -> Iterator[Event]:
    left = _leaving_step(manifest, row)
    for step in manifest.steps:
        if step.kind == "read" and step.name != f"read:{row.source}":
            continue
        yield from _step_events(folder, manifest, step, row)
        if step is left:
            yield _rejected(folder, manifest, step, row)
            return
    yield from _token_events(folder, manifest, row)


def _leaving_step(manifest: Manifest, row: _Row) -> StepEntry | None:
    """The step at which the row left. Where a kind occurs twice, the code tells which."""
    if row.rejected is None:
        return None
    stage, code = row.rejected["stage"], row.rejected["code"]
    steps = [s for s in manifest.steps if code in s.rejected and (s.kind != "read" or s.name == f"read:{row.source}")]
    exact = [step for step in steps if step.kind == kind_of(manifest, stage)] or steps
    return exact[0] if exact else None


def _step_events(folder: Path, manifest: Manifest, step: StepEntry, row: _Row) -> Iterator[Event]:
    if step.kind == "read":
        yield _read(row)
    edits = [edit for edit in row.edits if kind_of(manifest, edit["stage"]) == step.kind]
    for edit in edits:
        yield Event(
            stage=step.name,
            what="edited",
            code=edit["code"],
            meaning=meaning_of(manifest, step.kind, edit["code"]),
            detail=f"{edit['count']}×: {edit['detail'] or ''}".rstrip(": "),
            more={"count": edit["count"]},
        )
    victims = [victim for victim in row.victims if victim["stage"] == step.kind]
    if victims:
        yield _stayed(step, victims)
    elif not edits and step is not _leaving_step(manifest, row) and step.kind not in ("read", "tokenize"):
        yield Event(stage=step.name, what="passed", detail=_measured(step, row))


def _read(row: _Row) -> Event:
    file, _, number = row.id.removeprefix(f"{row.source}:").rpartition(":")
    place = {"source": row.source, "file": file, "row": int(number) if number.isdigit() else number}
    told = f"source {row.source}, file {file}, row {number}"
    for key, label in (("line", "line"), ("byte", "byte")):
        if row.rejected is not None and row.rejected[key] is not None:
            place[key] = row.rejected[key]
            told += f", {label} {row.rejected[key]:,}"
    return Event(stage=f"read:{row.source}", what="read", detail=told, more=place)


def _measured(step: StepEntry, row: _Row) -> str:
    """What an annotating step found out about a kept row."""
    kept = row.kept or {}
    if step.kind == "detect-language" and kept.get("lang"):
        score = kept.get("lang_score")
        return f"language {kept['lang']}" + (f" with score {score:.2f}" if isinstance(score, float) else "")
    if step.kind == "split" and kept.get("split"):
        cluster = kept.get("cluster")
        return f"split {kept['split']}" + (f", by the cluster of {cluster}" if cluster and cluster != row.id else "")
    return "nothing to object to"


def _stayed(step: StepEntry, victims: list[dict[str, Any]]) -> Event:
    ids = [victim["id"] for victim in victims]
    more = f" and {len(ids) - VICTIMS:,} more" if len(ids) > VICTIMS else ""
    others = "1 other" if len(ids) == 1 else f"{len(ids):,} others"
    told = f"stayed, and {others} went because of it: {', '.join(ids[:VICTIMS])}{more}"
    return Event(
        stage=step.name, what="kept instead of others", detail=told, more={"rows": ids[:VICTIMS], "count": len(ids)}
    )


def _rejected(folder: Path, manifest: Manifest, step: StepEntry, row: _Row) -> Event:
    gone = row.rejected or {}
    told, more = gone["detail"] or "", {}
    if gone["twin"] is not None:
        theirs = shorten(texts_of(folder, {gone["twin"]}).get(gone["twin"], ""), CUT)
        more = {"twin": gone["twin"], "score": gone["score"], "text": shorten(row.text, CUT), "twin_text": theirs}
        whose = "near the chosen" if gone["code"] == "too-near" else "duplicate of"
        told = f"{whose} {gone['twin']}" + (f" ({told})" if told else "")
    meaning = meaning_of(manifest, step.kind, gone["code"])
    return Event(stage=step.name, what="rejected", code=gone["code"], meaning=meaning, detail=told, more=more)


def _token_events(folder: Path, manifest: Manifest, row: _Row) -> Iterator[Event]:
    """Where the row's tokens lie: shard, row, spans; pack and place."""
    for split, number, side in _sidecar(folder, row.id):
        yield from _sample_events(folder, manifest, split, number, side)


def _sample_events(folder: Path, manifest: Manifest, split: str, number: int, side: dict[str, Any]) -> Iterator[Event]:
    """One sample of the row; most rows have one."""
    shard, at = _shard(folder, manifest, split, number)
    spans = [[span["turn"], span["start"], span["end"]] for span in side["spans"]]
    trained = ", ".join(f"{start}-{end} (turn {turn})" for turn, start, end in spans)
    part = f"sample {side['part']}: " if side.get("part") is not None else ""
    yield Event(
        stage="tokenize",
        what="tokenized",
        detail=f"{part}{side['tokens']:,} tokens, {side['trained']:,} trained on: {trained}; row {at:,} of {shard}",
        more={
            "split": split,
            "shard": shard,
            "row": at,
            "tokens": side["tokens"],
            "trained": side["trained"],
            "spans": spans,
            "proof": side["proof"],
        }
        | ({"part": side["part"]} if part else {}),
    )
    places = scan_table(folder, "pack_index", split).filter(pl.col("row") == number).sort("pack", "position")
    for place in places.collect().to_dicts():
        pack, position = place["pack"], place["position"]
        told = f"pack {pack:,} of {split}, place {position}"
        yield Event(stage="pack", what="packed", detail=told, more={"split": split, "pack": pack, "position": position})


def _sidecar(folder: Path, row_id: str) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """The row's split, its numbers in the split's tokens, and its rows of the sidecar: one for each sample."""
    for split in splits_of(folder, "sidecar"):
        first = 0
        for path in parquet_files(folder, "sidecar", split):
            table = pl.scan_parquet(path)
            ids = table.select("id").with_row_index("at").filter(pl.col("id") == row_id).collect()
            for at in ids["at"].to_list():
                yield split, first + at, table.slice(at, 1).collect().to_dicts()[0]
            first += int(table.select(pl.len()).collect().item())


def _shard(folder: Path, manifest: Manifest, split: str, number: int) -> tuple[str, int]:
    """The Arrow file that holds a row of a split, and the row's number in it."""
    rows = {entry.path: entry.rows or 0 for entry in manifest.files}
    name = ""
    for path in stream_files(folder, "tokens", split):
        name = path.relative_to(folder).as_posix()
        if number < rows.get(name, 0):
            return name, number
        number -= rows.get(name, 0)
    return name, number


def _unknown(folder: Path, manifest: Manifest, row_id: str) -> str:
    """No such row: what ids look like, and those nearest to what was asked for."""
    ids = pl.concat([scan_table(folder, table).select("id") for table in ("conversations", "rejections")])
    prefix = row_id.rpartition(":")[0]
    same = ids.filter(pl.col("id").str.starts_with(f"{prefix}:")) if prefix else ids.clear()
    number = same.select(pl.col("id").str.extract(r":(\d+)$").cast(pl.Int64)).select(
        pl.col("id").min().alias("low"), pl.col("id").max().alias("high")
    )
    low, high = number.collect().row(0)
    if low is not None:
        return f"no row {row_id!r}: {prefix} has rows {low:,} to {high:,}"
    names = sorted({f"{file.source}:{file.file}" for file in manifest.inputs})
    close = difflib.get_close_matches(prefix or row_id, names, n=3, cutoff=0.4)
    some = [f"{name}:0" for name in close] or ids.head(3).collect()["id"].to_list()
    return f"no row {row_id!r}; an id is SOURCE:FILE:ROW, such as {', '.join(some)}"
