"""Tags, going back, and throwing away what nobody needs. A published version is never touched."""

from __future__ import annotations

import difflib
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field

from sft_data.disk import Company, alone, unfinished
from sft_data.errors import StoreError
from sft_data.store.index import orphans
from sft_data.store.layout import CACHE, NAME, staging_prefix
from sft_data.store.log import append, check_log, read_log, unwritable
from sft_data.store.mirror import Mirror, mirror_of, shown
from sft_data.store.read import VersionRef, datasets, draft_folders, resolve
from sft_data.store.refs import Refs, lock, read_refs, write_refs

__all__ = ["Garbage", "History", "gc", "history", "rollback", "tag", "untag"]

DAY = 86_400.0
# A publish of millions of rows takes minutes: what is older than an hour was abandoned.
ABANDONED = 3_600.0


def tag(store: Path, spec: str, name: str) -> VersionRef:
    """Give the version `spec` the tag `name`; a tag that exists is moved. Writes nothing where it stands there."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9._-]{0,63}", name) or re.fullmatch(
        r"latest|v\d+|draft-.*|[0-9a-f]{4,}", name
    ):
        raise StoreError(
            f"{name!r} cannot be a tag: use letters, digits, '.', '_', '-', beginning with a letter; "
            "not 'latest', not a number such as v3, not hex digits, which would look like a fingerprint"
        )
    found = resolve(store, spec)
    if found.number is None:
        raise StoreError(f"{found.version} is a draft; only published versions take tags")
    if read_refs(store, found.name).tags.get(name) == found.number:
        return found
    _move(
        store,
        found.name,
        "tag",
        lambda refs: refs.model_copy(update={"tags": {**refs.tags, name: found.number}}),
        lambda refs: {"name": found.name, "number": found.number, "tag": name, "was": refs.tags.get(name)},
    )
    return found


def untag(store: Path, dataset: str, name: str) -> None:
    """Take a tag away; the version stays."""
    if dataset not in (known := datasets(store)):
        raise StoreError(f"no dataset {dataset!r} in {store}; it holds: {', '.join(known) or 'nothing'}")

    def details(refs: Refs) -> dict[str, Any]:
        if name not in refs.tags:
            raise StoreError(f"{dataset} has no tag {name!r}; it has: {', '.join(sorted(refs.tags)) or 'none'}")
        return {"name": dataset, "tag": name, "was": refs.tags[name]}

    def left(refs: Refs) -> Refs:
        return refs.model_copy(update={"tags": {tag: number for tag, number in refs.tags.items() if tag != name}})

    _move(store, dataset, "untag", left, details)


def rollback(store: Path, spec: str) -> VersionRef:
    """Make the version `spec` the latest. Deletes nothing; the next publish takes the next free number.

    Writes nothing where it is the latest.
    """
    found = resolve(store, spec)
    if found.number is None:
        raise StoreError(f"{found.version} is a draft; it cannot be the latest version")
    if read_refs(store, found.name).latest == found.number:
        return found
    _move(
        store,
        found.name,
        "rollback",
        lambda refs: refs.model_copy(update={"latest": found.number}),
        lambda refs: {"name": found.name, "number": found.number, "was": refs.latest},
    )
    return found


def _move(
    store: Path, name: str, what: str, moved: Callable[[Refs], Refs], details: Callable[[Refs], dict[str, Any]]
) -> None:
    """Move a dataset's references and say so in the log; at a URL the entry in the log is the move."""
    mirror = mirror_of(store)
    if mirror is not None:
        mirror.record(what, name, details)
        return
    with unwritable(store), lock(store, name):
        refs = read_refs(store, name)
        told = details(refs)
        write_refs(store, name, moved(refs))
        append(store, what, **told)


class History(BaseModel):
    """The store's log, and whether its entries hang together."""

    model_config = ConfigDict(frozen=True)

    ok: bool = Field(description="each entry holds the hash of the one before it")
    problems: list[str] = Field(description="entries that were changed, removed or put in between")
    entries: list[dict[str, Any]] = Field(description="oldest first: at, who, what, and what it was done to")


def history(store: Path, name: str | None = None) -> History:
    """Who did what when, of the whole store or of one dataset."""
    if not store.is_dir():
        raise StoreError(f"there is no store at {store}; --store names the folder or URL that holds the datasets")
    if name is not None and name not in (known := datasets(store)):
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise StoreError(f"no dataset {name!r} in {shown(store)}{hint}; it holds: {', '.join(known) or 'nothing'}")
    problems = check_log(store)
    entries = [entry for entry in read_log(store) if name in (None, entry.get("name"))]
    return History(ok=not problems, problems=problems, entries=entries)


class Garbage(BaseModel):
    """What `gc` found, and whether it is gone."""

    model_config = ConfigDict(frozen=True)

    removed: bool = Field(description="False: a dry run, nothing was touched")
    abandoned: list[str] = Field(description="publishes and cells that were cut short")
    drafts: list[str] = Field(description="versions that failed a gate, older than the limit")
    cells: list[str] = Field(description="pieces of the step cache and of the index that no version needs")
    bytes: int = Field(description="what removing them frees")
    busy: bool = Field(default=False, description="a build is at work: it and its step cache were left alone")


def gc(store: Path, *, remove: bool = False, drafts_days: float = 30.0, cache_days: float | None = None) -> Garbage:
    """Find what nobody needs, and with `remove` delete it. Without, nothing is touched.

    Abandoned publishes; drafts older than `drafts_days`; where `cache_days` is given, cells of the step cache that
    are older and whose files no version holds; pieces of the index older than `drafts_days` whose rows no version or
    draft has. A removed cell costs a later build time, never content. While a build is
    at work in the store, whatever the clock says, only drafts are found.
    """
    with alone(store / CACHE) as company:
        return _collect(store, company, remove=remove, drafts_days=drafts_days, cache_days=cache_days)


def _collect(store: Path, company: Company, *, remove: bool, drafts_days: float, cache_days: float | None) -> Garbage:
    now = time.time()
    free = company != "busy"
    mirror = mirror_of(store)
    abandoned = unfinished(store / CACHE) if company == "alone" else []
    if free:
        old = [*_abandoned(store), *(unfinished(store / CACHE) if company == "unknown" else ())]
        abandoned += [path for path in old if now - _newest(path) > ABANDONED]
    drafts = [p for name in datasets(store) for p in draft_folders(store, name) if now - _newest(p) > drafts_days * DAY]
    if mirror is not None:
        return _collect_elsewhere(
            mirror, abandoned, free=free, remove=remove, drafts_days=drafts_days, cache_days=cache_days
        )
    index = [p for p in orphans(store) if now - _newest(p) > drafts_days * DAY] if free else []
    cells = [] if cache_days is None or not free else [p for p in _cells(store) if now - _newest(p) > cache_days * DAY]
    cells += index
    found = [*abandoned, *drafts, *cells]
    garbage = Garbage(
        removed=remove,
        abandoned=[_below(store, path) for path in abandoned],
        drafts=[_below(store, path) for path in drafts],
        cells=[_below(store, path) for path in cells],
        bytes=sum(_freed(path) for path in found),
        busy=not free,
    )
    if remove and found:
        with unwritable(store):
            for path in found:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            _forget_steps(store)
            append(store, "gc", removed=len(found), bytes=garbage.bytes)
    return garbage


def _collect_elsewhere(
    mirror: Mirror, abandoned: list[Path], *, free: bool, remove: bool, drafts_days: float, cache_days: float | None
) -> Garbage:
    """The same for a store at a URL: its objects there, the mirror and the step cache here."""
    store, now = mirror.folder, time.time()
    drafts, objects = mirror.garbage(drafts_days)
    young = cache_days is None or not free
    unused = [] if cache_days is None or young else mirror.unused(cache_days)
    size = sum(map(_freed, unused))
    if remove:
        for folder in unused:
            mirror.forget(folder)
    cells = [] if cache_days is None or young else [p for p in _cells(store) if now - _newest(p) > cache_days * DAY]
    here = [*abandoned, *cells]
    size += sum(map(_freed, here)) + sum(objects.values())
    if remove and (here or drafts or objects):
        with unwritable(store):
            for path in here:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            _forget_steps(store)
        if drafts or objects:
            mirror.drop(drafts, objects, len(drafts) + len(objects), sum(objects.values()))
    return Garbage(
        removed=remove,
        abandoned=[*(_below(store, path) for path in abandoned), *sorted(objects)],
        drafts=[f"{entry['name']}/{entry['draft']}" for entry in drafts],
        cells=[*(_below(store, path) for path in cells), *(f"mirror: {_below(store, path)}" for path in unused)],
        bytes=size,
        busy=not free,
    )


def _abandoned(store: Path) -> Iterator[Path]:
    """What a killed process leaves beside the versions: staged versions, drafts of small files."""
    if not store.is_dir():
        return
    yield from sorted(store.glob(f"{staging_prefix}*"))
    for folder in sorted(path for path in store.iterdir() if path.is_dir() and NAME.fullmatch(path.name)):
        yield from sorted(folder.glob(f"{staging_prefix}*"))
        yield from sorted(folder.glob(".refs.json.*"))


def _cells(store: Path) -> Iterator[Path]:
    """Cells none of whose files is also, by a hard link, a file of a version."""
    for cell in sorted((store / CACHE / "cells").glob("*/*")):
        if all(path.stat().st_nlink == 1 for path in cell.iterdir()):
            yield cell


def _forget_steps(store: Path) -> None:
    """Remove the records of steps that name a removed cell, so that a build redoes them."""
    cells = store / CACHE / "cells"
    for record in (store / CACHE / "steps").glob("*.json"):
        try:
            named = orjson.loads(record.read_bytes()).get("cells", [])
        except orjson.JSONDecodeError:  # half of it was written when the power failed
            record.unlink()
            continue
        if not all((cells / key[:2] / key).is_dir() for key in named):
            record.unlink()


def _newest(path: Path) -> float:
    """When something in it was last written."""
    inside = path.rglob("*") if path.is_dir() else []
    return max(file.stat().st_mtime for file in [path, *inside])


def _freed(path: Path) -> int:
    """Bytes that vanish with it: files that are also elsewhere by a hard link stay."""
    inside = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in inside if file.is_file() and file.stat().st_nlink == 1)


def _below(store: Path, path: Path) -> str:
    return path.relative_to(store).as_posix()
