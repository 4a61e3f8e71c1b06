"""Check a version against everything that it claims. Reads file by file; memory follows the largest file.

Each problem is one sentence that names the file. What is checked, in this order: the manifest and build record
against their hashes; every file's size and hash, files missing and files too many; each table's columns; the balance
of rows; each conversation's content hash; tokens against their sidecar; packs against the tokens; splits by cluster;
what the store's index holds of its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import orjson
import polars as pl
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from sft_data.errors import StoreError
from sft_data.fingerprint import file_sha256
from sft_data.schema import content_hash
from sft_data.store.index import damaged
from sft_data.store.layout import (
    BUILD,
    LOG,
    MANIFEST,
    PARQUET,
    REPORT_JSON,
    SPLITS,
    STREAMS,
    arrow_batches,
    numbered,
    parquet_files,
    scan_table,
    splits_of,
    stream_files,
)
from sft_data.store.log import check_log, read_log
from sft_data.store.manifest import Manifest, kind_of
from sft_data.store.publish import json_bytes
from sft_data.store.read import load_manifest
from sft_data.store.verify_tokens import check_packs, check_tokens

__all__ = ["Verification", "verify"]

MANY = 20  # problems of one kind that are told one by one


class Verification(BaseModel):
    """What `verify` found."""

    model_config = ConfigDict(frozen=True)

    ok: bool
    problems: list[str] = Field(description="one sentence each, naming the file")
    files: int = Field(description="files whose hash was compared")
    bytes: int
    contents: bool = Field(
        default=True, description="false: the key was not given, so only hashes of sealed files were compared"
    )


def verify(folder: Path) -> Verification:
    """Check the version in `folder`. Where a table's bytes are damaged, contents are not looked into."""
    try:
        manifest = load_manifest(folder)
    except StoreError as error:
        return Verification(ok=False, problems=[str(error)], files=0, bytes=0)
    problems = [*_records(folder), *_log(folder, manifest)]
    damaged, told = _files(folder, manifest)
    problems += told
    if not any(path.endswith((".parquet", ".arrow")) for path in damaged):
        for check in (_schemas, _balance, _hashes, check_tokens, check_packs, _clusters, _report, _index):
            problems += _guarded(check, folder, manifest)
    return Verification(
        ok=not problems,
        problems=problems,
        files=len(manifest.files) + 2,
        bytes=sum(file.bytes for file in manifest.files),
    )


Check = Callable[[Path, Manifest], Iterator[str]]


def _guarded(check: Check, folder: Path, manifest: Manifest) -> list[str]:
    """Run a check of contents; a file that was made wrong and hashed so may still be unreadable."""
    found: list[str] = []
    try:
        for problem in check(folder, manifest):
            found.append(problem)
            if len(found) == MANY:
                found.append(f"... and more of the same kind ({check.__name__.strip('_')})")
                break
    except (
        pl.exceptions.PolarsError,
        pa.ArrowException,
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
    ) as error:
        found.append(f"a table cannot be read although its hash is right: {error}")
    return found


def _records(folder: Path) -> Iterator[str]:
    """The two files that the manifest does not list."""
    raw = (folder / MANIFEST).read_bytes()
    # Compared as JSON, not through the model: a version of an older release lacks fields that the model has today.
    if raw != json_bytes(orjson.loads(raw)):
        yield f"{MANIFEST} is not written the way this program writes it: it was changed"
    try:
        written = (folder / BUILD).read_bytes()
        build = orjson.loads(written)
        whole = json_bytes(build)
        told = build.pop("record_sha256")
    except FileNotFoundError:
        yield f"{BUILD} is missing"
        return
    except OSError as error:
        yield f"{BUILD} cannot be read: {error.strerror}"
        return
    except (orjson.JSONDecodeError, KeyError, AttributeError):
        yield f"{BUILD} is damaged: it is no build record"
        return
    if written != whole or sha256(orjson.dumps(build, option=orjson.OPT_SORT_KEYS)).hexdigest() != told:
        yield f"{BUILD} was changed: its content does not fit its own hash"
    elif build.get("manifest_sha256") != sha256(raw).hexdigest():
        yield f"{MANIFEST} was changed: {BUILD} holds another hash of it"


def _log(folder: Path, manifest: Manifest) -> Iterator[str]:
    """In a store: does its log, whose entries hang together by their hashes, know this manifest?"""
    store, number = folder.parent.parent, numbered(folder)
    if number is None or not (store / LOG).exists():
        return
    yield from check_log(store)
    entries = [e for e in read_log(store) if e.get("name") == manifest.name and e.get("number") == number]
    hashes = [entry["manifest_sha256"] for entry in entries if "manifest_sha256" in entry]
    if not hashes:
        yield f"{LOG} does not know {manifest.name}@v{number}"
    elif hashes[-1] != file_sha256(folder / MANIFEST):
        yield f"{MANIFEST} is not the one that was published: {LOG} holds another hash of it"


def _files(folder: Path, manifest: Manifest) -> tuple[set[str], list[str]]:
    """Size and hash of every file; what is missing; what is too much."""
    problems: dict[str, str] = {}
    listed = {entry.path: entry for entry in manifest.files}
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    for path, entry in listed.items():
        if path not in there:
            problems[path] = f"{path} is missing"
        elif (size := (folder / path).stat().st_size) != entry.bytes:
            problems[path] = f"{path} has {size:,} bytes, the manifest says {entry.bytes:,}"
        elif file_sha256(folder / path) != entry.sha256:
            problems[path] = f"{path} was changed: its hash differs from the manifest's"
    for path in sorted(there - set(listed) - {MANIFEST, BUILD}):
        problems[path] = f"{path} is not in the manifest"
    return set(problems), list(problems.values())


def _schemas(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Columns and types of every table, and the row counts that the manifest tells."""
    rows = {entry.path: entry.rows for entry in manifest.files}
    for table, (schema, _) in PARQUET.items():
        for path in parquet_files(folder, table):
            name = path.relative_to(folder).as_posix()
            found = pl.read_parquet_schema(path)
            for column, dtype in schema.items():
                if found.get(column) != dtype:
                    yield f"{name}: column {column} is {found.get(column, 'missing')}, not {dtype}"
            height = pl.scan_parquet(path).select(pl.len()).collect().item()
            if rows.get(name) not in (None, height):
                yield f"{name} has {height:,} rows, the manifest says {rows[name]:,}"
    for path in [
        path for table in STREAMS for split in splits_of(folder, table) for path in stream_files(folder, table, split)
    ]:
        name = path.relative_to(folder).as_posix()
        height = sum(batch.height for batch in arrow_batches(path))
        if rows.get(name) not in (None, height):
            yield f"{name} has {height:,} rows, the manifest says {rows[name]:,}"
    for table in (*PARQUET, *STREAMS):
        for place in (folder / table).glob("*"):
            if place.is_dir() and place.name not in SPLITS:
                yield f"{table}/{place.name} is no split; there are {', '.join(SPLITS)}"


def _balance(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Rows in = kept + rejected: over all, by step, by source, and no id twice."""
    counts = manifest.counts
    kept = scan_table(folder, "conversations").select("id", "source").collect()
    gone = scan_table(folder, "rejections").select("id", "source", "stage", "code").collect()
    if kept.height != counts.rows_kept:
        yield f"conversations/ holds {kept.height:,} rows, {MANIFEST} says {counts.rows_kept:,} were kept"
    if gone.height != counts.rows_rejected:
        yield f"rejections/ holds {gone.height:,} rows, {MANIFEST} says {counts.rows_rejected:,} were rejected"
    if counts.rows_in != counts.rows_kept + counts.rows_rejected:
        yield f"{MANIFEST}: {counts.rows_in:,} rows in, {counts.rows_kept:,} kept, {counts.rows_rejected:,} rejected"
    every = pl.concat([kept["id"], gone["id"]])
    for twice in every.filter(every.is_duplicated()).unique(maintain_order=True).head(3):
        yield f"row {twice!r} stands twice in conversations/ and rejections/"
    for source, count in counts.by_source.items():
        found = (int((kept["source"] == source).sum()), int((gone["source"] == source).sum()))
        if found != (count.get("rows_kept"), count.get("rows_rejected")) or sum(found) != count.get("rows_in"):
            yield f"source {source!r}: {found[0]:,} kept, {found[1]:,} rejected in the files; {MANIFEST} says {count}"
    for step in manifest.steps:
        if step.rows_in != step.rows_kept + sum(step.rejected.values()):
            yield f"{MANIFEST}: step {step.name} does not balance"
    yield from _ledger("rejections", gone, manifest, [(step.kind, step.rejected) for step in manifest.steps])
    edits = scan_table(folder, "edits").select("stage", "code").collect()
    yield from _ledger("edits", edits, manifest, [(step.kind, step.edited) for step in manifest.steps])
    yield from _river(manifest)


def _ledger(
    table: str, ledger: pl.DataFrame, manifest: Manifest, steps: list[tuple[str, dict[str, int]]]
) -> Iterator[str]:
    """A ledger's rows by stage and code against what the steps say."""
    found: dict[tuple[str, str], int] = {}
    for stage, code, rows in ledger.group_by("stage", "code").len().iter_rows():
        key = (kind_of(manifest, stage), code)
        found[key] = found.get(key, 0) + rows
    told: dict[tuple[str, str], int] = {}
    for kind, by_code in steps:
        for code, rows in by_code.items():
            told[kind, code] = told.get((kind, code), 0) + rows
    for stage, code in sorted({*found, *told}):
        if found.get((stage, code), 0) != told.get((stage, code), 0):
            yield (
                f"{table}/ holds {found.get((stage, code), 0):,} rows of {stage}: {code}, "
                f"{MANIFEST} says {told.get((stage, code), 0):,}"
            )


def _river(manifest: Manifest) -> Iterator[str]:
    """Each step is given what the one before it kept: first all that the sources hold, at last all that is kept."""
    read = [step for step in manifest.steps if step.kind == "read"]
    flow, above = sum(step.rows_kept for step in read), "the sources"
    if sum(step.rows_in for step in read) != manifest.counts.rows_in:
        yield f"{MANIFEST}: the sources hold {sum(s.rows_in for s in read):,} rows, not {manifest.counts.rows_in:,}"
    for step in manifest.steps:
        if step.kind == "read":
            continue
        if step.rows_in != flow:
            yield f"{MANIFEST}: step {step.name} is given {step.rows_in:,} rows, {above} kept {flow:,}"
        flow, above = step.rows_kept, f"step {step.name}"
    if flow != manifest.counts.rows_kept:
        yield f"{MANIFEST}: {above} kept {flow:,} rows, and {manifest.counts.rows_kept:,} are told to be kept"


def _hashes(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Each conversation's content hash, its split, and the rows of each split."""
    for split in splits_of(folder, "conversations"):
        rows = 0
        for path in parquet_files(folder, "conversations", split):
            name = path.relative_to(folder).as_posix()
            frame = pl.read_parquet(path)
            rows += frame.height
            wrong = frame.filter(content_hash(frame) != frame["content_hash"])["id"]
            for row_id in wrong.head(3):
                yield f"{name}: the messages of row {row_id!r} are not those of its content hash"
            if "split" in frame.columns and not (frame["split"] == split).all():
                yield f"{name} holds rows of another split"
        told = manifest.counts.splits.get(split)
        if told is None or told.rows != rows:
            yield f"conversations/{split} holds {rows:,} rows, {MANIFEST} says {told.rows if told else 0:,}"


def _clusters(folder: Path, _: Manifest) -> Iterator[str]:
    """No cluster of duplicates across two splits."""
    table = scan_table(folder, "conversations")
    columns = table.collect_schema()
    if "cluster" not in columns or "split" not in columns:
        return
    groups = table.drop_nulls("cluster").group_by("cluster").agg(pl.col("split").unique().sort(), pl.col("id").first())
    crossing = groups.filter(pl.col("split").list.len() > 1).sort("cluster").collect()
    for cluster, splits, _ in crossing.head(MANY).iter_rows():
        yield f"conversations/: the cluster of {cluster!r} lies in {' and '.join(splits)}"


def _report(folder: Path, manifest: Manifest) -> Iterator[str]:
    """The figures at the head of the report, which is what people read, against the counts."""
    counts = manifest.counts
    wanted = {name: getattr(counts, name) for name in ("rows_in", "rows_kept", "rows_rejected", "tokens", "packs")}
    told = orjson.loads((folder / REPORT_JSON).read_bytes()) if (folder / REPORT_JSON).exists() else {}
    for name, count in wanted.items():
        if told.get(name, count) != count:
            yield f"{REPORT_JSON} tells {told[name]:,} as {name}, {MANIFEST} says {count:,}"


def _index(folder: Path, manifest: Manifest) -> Iterator[str]:
    """What the store's index holds of this version's rows."""
    if numbered(folder) is not None:
        yield from damaged(folder.parent.parent, {entry.sha256 for entry in manifest.files})
