"""Publish a version: a reader sees all of it or nothing, and what was published never changes.

Everything is staged in a folder beside the versions, hashed, flushed to the disk and renamed. The rename is the
moment of publication; a process killed before it leaves a `.publish-...` folder that no reader looks at, and one
killed after it leaves a whole version whose `latest` the next publish of the same content completes.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

import orjson
import polars as pl
import pyarrow as pa

from sft_data.errors import StoreError
from sft_data.fingerprint import file_sha256
from sft_data.report.html import render_html
from sft_data.report.measure import measure
from sft_data.store.layout import (
    BUILD,
    MANIFEST,
    NAME,
    REPORT_HTML,
    REPORT_JSON,
    draft_folder,
    numbered,
    staging_prefix,
    version_folder,
)
from sft_data.store.log import append, now, read_log, unwritable, who
from sft_data.store.manifest import FileEntry, Manifest
from sft_data.store.mirror import Mirror, mirror_of
from sft_data.store.read import find_by_fingerprint, version_folders
from sft_data.store.refs import lock, read_refs, write_refs

__all__ = ["Published", "build_bytes", "file_entry", "json_bytes", "manifest_bytes", "publish", "seal"]


@dataclass(frozen=True)
class Published:
    """What `publish` did."""

    name: str
    number: int | None  # None: a draft
    folder: Path
    reused: bool  # the version was there already; nothing was written

    @property
    def version(self) -> str:
        """NAME@vN, or NAME@draft-..."""
        return f"{self.name}@{self.folder.name}"


def publish(
    store: Path,
    manifest: Manifest,
    files: Mapping[str, Path],
    texts: Mapping[str, str],
    build_info: Mapping[str, Any],
    *,
    hashes: Mapping[str, str] | None = None,
    draft: bool = False,
) -> Published:
    """Make a version out of finished files; with `draft`, keep it aside because a gate failed.

    `files`: path inside the version -> an immutable file, hard-linked where the disk allows it and copied elsewhere.
    `texts`: path inside the version -> content. `hashes`: what files of `files` hashed to when they were made; one that
    was damaged since is not published. `manifest.files` is filled in here. A version of the same fingerprint
    that was published before is given back as it is.
    """
    if not NAME.fullmatch(manifest.name):
        raise StoreError(
            f"{manifest.name!r} cannot name a dataset: use a-z, 0-9, '.', '_' and '-', beginning with a-z or 0-9"
        )
    with unwritable(store / manifest.name):
        found = _found(store, manifest, draft=draft)
        if found is not None:
            return found
        staging = store / manifest.name / f"{staging_prefix}{uuid.uuid4().hex[:12]}"
        staging.mkdir(parents=True)
        try:
            entries = _stage(staging, manifest, files, texts, build_info)
            _check_undamaged(entries, files, hashes or {})
            return seal(store, manifest, staging, draft=draft)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _found(store: Path, manifest: Manifest, *, draft: bool) -> Published | None:
    """The version or draft of this fingerprint that is there already, its publication completed if it was cut short."""
    name = manifest.name
    if draft:
        folder = draft_folder(store, name, manifest.fingerprint)
        return Published(name, None, folder, reused=True) if (folder / MANIFEST).exists() else None
    found = find_by_fingerprint(store, name, manifest.fingerprint)
    if found is None or found.number is None:
        return None
    if found.number > read_refs(store, name).newest and mirror_of(store) is None:
        with lock(store, name):
            _announce(store, manifest, found.folder, found.number)
    return Published(name, found.number, found.folder, reused=True)


def _stage(
    staging: Path,
    manifest: Manifest,
    files: Mapping[str, Path],
    texts: Mapping[str, str],
    build_info: Mapping[str, Any],
) -> list[FileEntry]:
    """Put the whole version into the staging folder: data, manifest, report, build record."""
    for path, origin in files.items():
        _link(origin, _inside(staging, path))
    for path, text in texts.items():
        _inside(staging, path).write_text(text, encoding="utf-8")
    # The report is measured on the version itself, so the manifest must be there first, and again behind it.
    (staging / MANIFEST).write_bytes(manifest_bytes(manifest))
    report = measure(staging)
    (staging / REPORT_JSON).write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (staging / REPORT_HTML).write_text(render_html(report), encoding="utf-8")
    entries = [file_entry(staging, path) for path in _all_files(staging) if path.name not in (MANIFEST, BUILD)]
    written = manifest_bytes(manifest.model_copy(update={"files": entries}))
    (staging / MANIFEST).write_bytes(written)
    (staging / BUILD).write_bytes(build_bytes(build_info, written))
    return entries


def _check_undamaged(entries: Iterable[FileEntry], files: Mapping[str, Path], hashes: Mapping[str, str]) -> None:
    """A disk or a person may have changed a file of the step cache since it was made."""
    for entry in entries:
        if hashes.get(entry.path, entry.sha256) != entry.sha256:
            raise StoreError(
                f"{files[entry.path]} was changed after it was made, so nothing is published; "
                f"remove the folder {files[entry.path].parent} and build again"
            )


def seal(store: Path, manifest: Manifest, staging: Path, *, draft: bool = False, what: str = "publish") -> Published:
    """Flush a staged folder to the disk and rename it into its place; `what` is the word for it in the store's log."""
    mirror = mirror_of(store)
    if mirror is not None:
        return _seal_elsewhere(mirror, manifest, staging, "draft" if draft else what)
    for file in _all_files(staging):
        file.chmod(0o444)
        _flush(file)
    for folder in [staging, *(path for path in staging.rglob("*") if path.is_dir())]:
        _flush(folder)
    name = manifest.name
    with lock(store, name):
        found = _found_locked(store, manifest, draft=draft)
        if found is not None:
            return found
        if draft:
            folder = draft_folder(store, name, manifest.fingerprint)
            staging.rename(folder)
            append(store, "draft", name=name, draft=folder.name, fingerprint=manifest.fingerprint)
            return Published(name, None, folder, reused=False)
        folder = _take_number(store, name, staging)
        number = numbered(folder)
        assert number is not None  # noqa: S101 - _take_number names it so
        _announce(store, manifest, folder, number, what)
        return Published(name, number, folder, reused=False)


def _seal_elsewhere(mirror: Mirror, manifest: Manifest, staging: Path, what: str) -> Published:
    """The same for a store at a URL: upload, and one entry in its log that takes the number and says it all."""
    for file in _all_files(staging):
        file.chmod(0o444)

    def found() -> Path | None:
        there = _found_locked(mirror.folder, manifest, draft=what == "draft")
        return there.folder if there else None

    details = {
        "what": what,
        "fingerprint": manifest.fingerprint,
        "manifest_sha256": file_sha256(staging / MANIFEST),
    }
    folder, reused = mirror.publish(staging, manifest.name, found, details)
    return Published(manifest.name, numbered(folder), folder, reused=reused)


def _found_locked(store: Path, manifest: Manifest, *, draft: bool) -> Published | None:
    """Somebody else may have published the same while this one was staged."""
    if draft:
        return _found(store, manifest, draft=True)
    found = find_by_fingerprint(store, manifest.name, manifest.fingerprint)
    return Published(found.name, found.number, found.folder, reused=True) if found else None


def _take_number(store: Path, name: str, staging: Path) -> Path:
    """Rename to the next free number. Where the lock does not hold (some network disks), the rename decides."""
    number = max([0, read_refs(store, name).newest, *version_folders(store, name)])
    while True:
        number += 1
        folder = version_folder(store, name, number)
        try:
            staging.rename(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            continue
        _flush(folder.parent)
        return folder


def _announce(store: Path, manifest: Manifest, folder: Path, number: int, what: str = "publish") -> None:
    """Write the publication into the log and move `latest`; both only once, whoever completes them."""
    name = manifest.name
    published = any(
        entry.get("what") in ("publish", "import") and entry.get("name") == name and entry.get("number") == number
        for entry in read_log(store)
    )
    if not published:
        proof = file_sha256(folder / MANIFEST)
        append(store, what, name=name, number=number, fingerprint=manifest.fingerprint, manifest_sha256=proof)
    refs = read_refs(store, name)
    if number > refs.newest:
        write_refs(store, name, refs.model_copy(update={"latest": number, "newest": number}))


def manifest_bytes(manifest: Manifest) -> bytes:
    """The one way to write a manifest: the same content gives the same bytes."""
    return json_bytes(manifest.model_dump(mode="json"))


def json_bytes(content: Mapping[str, Any]) -> bytes:
    """JSON as the files of a version hold it: sorted keys, two spaces, a line feed at the end."""
    return orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS, default=str) + b"\n"


def build_bytes(build_info: Mapping[str, Any], manifest: bytes) -> bytes:
    """The build record: what the builder tells, who published when, the manifest's hash, and a hash of all that."""
    record = {
        **build_info,
        "published": now(),
        "published_by": who(),
        "manifest_sha256": sha256(manifest).hexdigest(),
    }
    record.pop("record_sha256", None)
    body = orjson.dumps(record, option=orjson.OPT_SORT_KEYS, default=str)
    record["record_sha256"] = sha256(body).hexdigest()
    return json_bytes(record)


def _inside(staging: Path, path: str) -> Path:
    """Where a file of the version goes; paths come from code, never from data, and still may not leave the folder."""
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts:
        raise StoreError(f"{path!r} is not a path inside a version")
    target = staging / parts
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _link(origin: Path, target: Path) -> None:
    try:
        os.link(origin, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOTSUP):
            raise
        shutil.copyfile(origin, target)


def _all_files(folder: Path) -> Iterator[Path]:
    return iter(sorted(path for path in folder.rglob("*") if path.is_file()))


def file_entry(staging: Path, path: Path) -> FileEntry:
    """A file of a version as the manifest lists it."""
    return FileEntry(
        path=path.relative_to(staging).as_posix(),
        sha256=file_sha256(path),
        bytes=path.stat().st_size,
        rows=_rows(path),
    )


def _rows(path: Path) -> int | None:
    if path.suffix == ".parquet":
        return int(pl.scan_parquet(path).select(pl.len()).collect().item())
    if path.suffix == ".arrow":
        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
            return sum(int(batch.num_rows) for batch in reader)
    return None


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
