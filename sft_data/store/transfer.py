"""Take a version out of a store and into another: one archive, a folder that Hugging Face's tools open, or a URL.

What comes in from outside is believed in nothing: names are checked before they become paths, sizes before they are
written, and the whole version is verified before it is published.
"""

from __future__ import annotations

import shutil
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sft_data.disk import at_work
from sft_data.errors import StoreError
from sft_data.fingerprint import file_sha256
from sft_data.report.model import Report
from sft_data.store.card import render_card
from sft_data.store.layout import BUILD, CACHE, MANIFEST, NAME, REPORT_JSON, staging_prefix
from sft_data.store.log import unwritable
from sft_data.store.manifest import Manifest
from sft_data.store.publish import Published, seal
from sft_data.store.read import VersionRef, find_by_fingerprint, load_manifest
from sft_data.store.remote import is_url, open_remote
from sft_data.store.verify import verify

__all__ = ["CARD", "Exported", "export_archive", "export_folder", "export_version", "import_version", "push"]

CARD = "README.md"
# The two files that the manifest does not list are small: more than this is not one of ours.
SMALL = 64 * 2**20


class Exported(BaseModel):
    """What was written."""

    model_config = ConfigDict(frozen=True)

    version: str
    path: str
    files: int
    bytes: int
    sha256: str | None = Field(default=None, description="of the archive; None for a folder")


def export_version(version: VersionRef, out: str | Path) -> Exported:
    """To a URL, as an archive where `out` is named like one (.tar.zst), as a folder elsewhere."""
    if is_url(out):
        return push(version, str(out))
    path = Path(out)
    if path.name.endswith(".tar.zst"):
        return export_archive(version, path)
    if path.suffix in (".tar", ".zst", ".gz", ".zip", ".tgz"):
        raise StoreError(f"{path}: archives are written as .tar.zst; name it so, or name a folder")
    return export_folder(version, path)


def push(version: VersionRef, url: str) -> Exported:
    """Copy the version with its card to a URL. What was cut short is simply pushed again."""
    remote = open_remote(url)
    raw = (version.folder / MANIFEST).read_bytes()
    there = remote.read(MANIFEST)
    names = list(_names(version.manifest))
    if there is None:
        for name in names[1:]:
            remote.send(version.folder / name, name)
        remote.write(CARD, _card(version).encode())
    if there not in (None, raw) or not remote.create(MANIFEST, raw):
        raise StoreError(f"{url} holds another version already; what was pushed is never changed: name another place")
    size = sum((version.folder / name).stat().st_size for name in names)
    return Exported(version=version.version, path=url, files=len(names) + 1, bytes=size)


def _card(version: VersionRef) -> str:
    report = Report.model_validate_json((version.folder / REPORT_JSON).read_bytes())
    return render_card(version.folder, version.manifest, report)


def export_archive(version: VersionRef, out: Path) -> Exported:
    """Write the version as one .tar.zst: the same version gives the same bytes."""
    with unwritable(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        draft = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}")
        try:
            with (
                pa.CompressedOutputStream(str(draft), "zstd") as packed,
                tarfile.open(fileobj=packed, mode="w|") as tar,
            ):
                for name in _names(version.manifest):
                    _add(tar, version.folder / name, name)
            draft.replace(out)
        finally:
            draft.unlink(missing_ok=True)
    names = list(_names(version.manifest))
    size = out.stat().st_size
    return Exported(version=version.version, path=str(out), files=len(names), bytes=size, sha256=file_sha256(out))


def _names(manifest: Manifest) -> Iterator[str]:
    """Every file of a version, the manifest first: who reads the archive knows what must follow."""
    yield from (MANIFEST, BUILD)
    yield from sorted(entry.path for entry in manifest.files)


def _add(tar: tarfile.TarFile, path: Path, name: str) -> None:
    member = tarfile.TarInfo(name)
    member.size = path.stat().st_size
    member.mode = 0o444
    with path.open("rb") as file:
        tar.addfile(member, file)


def export_folder(version: VersionRef, out: Path) -> Exported:
    """Copy the version into a new folder with a dataset card, ready for `load_dataset` or an upload to a hub."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise StoreError(f"{out} is there already and not empty; name a new folder")
    with unwritable(out):
        names = list(_names(version.manifest))
        for name in names:
            target = out / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(version.folder / name, target)
        (out / CARD).write_text(_card(version), encoding="utf-8")
    size = sum((out / name).stat().st_size for name in names)
    return Exported(version=version.version, path=str(out), files=len(names) + 1, bytes=size)


def import_version(store: Path, source: str | Path) -> Published:
    """Publish the version in an archive, a folder or at a URL. It keeps its fingerprint and takes the next free number.

    StoreError with every problem where it is not whole; nothing is published then.
    """
    if not is_url(source) and not Path(source).exists():
        raise StoreError(f"there is nothing at {source}: give an archive (.tar.zst), a version's folder or a URL")
    with unwritable(store), at_work(store / CACHE):  # gc leaves alone what is unpacked, however long that takes
        staging = store / f"{staging_prefix}{uuid.uuid4().hex[:12]}"
        staging.mkdir(parents=True)
        try:
            _fetch(staging, str(source)) if is_url(source) else _fill(staging, Path(source))
            manifest = load_manifest(staging)
            found = find_by_fingerprint(store, manifest.name, manifest.fingerprint)
            if found is not None:
                return Published(found.name, found.number, found.folder, reused=True)
            problems = verify(staging).problems
            if problems:
                told = "\n".join(f"  {problem}" for problem in problems)
                raise StoreError(f"{source} is not a whole version:\n{told}\nNothing was published.")
            _refuse_failed(source, manifest)
            return seal(store, manifest, staging, what="import")
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _refuse_failed(source: str | Path, manifest: Manifest) -> None:
    failed = [name for name, gate in manifest.gates.items() if not gate.get("passed")]
    if failed:
        raise StoreError(
            f"{source} is a draft: it fails its gates ({', '.join(failed)}); only whole versions are imported"
        )


def _fetch(staging: Path, url: str) -> None:
    remote = open_remote(url)
    raw = remote.read(MANIFEST)
    if raw is None:
        raise StoreError(f"there is no version at {url}: it has no {MANIFEST}")
    (staging / MANIFEST).write_bytes(raw)
    for name in list(_names(_admitted(raw, url)))[1:]:
        remote.fetch(name, staging / name)


def _fill(staging: Path, source: Path) -> None:
    if source.is_dir():
        manifest = _admitted((source / MANIFEST).read_bytes() if (source / MANIFEST).exists() else b"", source)
        for name in _names(manifest):
            if not (source / name).is_file():
                raise StoreError(f"{source} is not a whole version: {name} is missing")
            target = staging / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target)
        return
    try:
        with (
            pa.CompressedInputStream(pa.OSFile(str(source)), "zstd") as raw,
            tarfile.open(fileobj=raw, mode="r|") as tar,
        ):
            _unpack(staging, source, tar)
    except (tarfile.TarError, pa.ArrowException, EOFError) as error:
        raise StoreError(f"{source} is not a whole archive: {error}") from error
    except OSError as error:
        if error.errno is not None:  # the disk; anything without a number comes from the decompressor
            raise
        raise StoreError(f"{source} is not a whole archive: {error}") from error


def _unpack(staging: Path, source: Path, tar: tarfile.TarFile) -> None:
    """Write out exactly the files that the manifest, the first of them, announces, with exactly their sizes."""
    sizes: dict[str, int] = {}
    for member in tar:
        content = tar.extractfile(member) if member.isreg() else None
        if content is None:
            raise StoreError(f"{source} holds {member.name!r}, which is no plain file")
        if not sizes:
            if member.name != MANIFEST or member.size > SMALL:
                raise StoreError(f"{source} is not an archive of a version: it does not begin with {MANIFEST}")
            raw = content.read()
            (staging / MANIFEST).write_bytes(raw)
            sizes = {MANIFEST: member.size} | {e.path: e.bytes for e in _admitted(raw, source).files}
            continue
        if member.name == BUILD and member.size <= SMALL:
            sizes[BUILD] = member.size
        if sizes.get(member.name) != member.size or (staging / member.name).exists():
            raise StoreError(
                f"{source} holds {member.name!r} with {member.size:,} bytes, which its manifest does not announce"
            )
        _write(staging / member.name, content)


def _write(target: Path, content: IO[bytes]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        shutil.copyfileobj(content, file, 1 << 20)


def _admitted(raw: bytes, source: str | Path) -> Manifest:
    """The manifest of something that comes from outside: its names must be paths inside a version."""
    try:
        manifest = Manifest.model_validate_json(raw)
    except ValidationError as error:
        raise StoreError(f"{source} has no valid {MANIFEST}: {error.errors()[0]['msg']}") from error
    for name in [entry.path for entry in manifest.files]:
        parts = PurePosixPath(name).parts
        if not parts or ".." in parts or name.startswith("/") or "\\" in name or "\0" in name:
            raise StoreError(f"{source}: its manifest lists {name!r}, which is no path inside a version")
    if not NAME.fullmatch(manifest.name):
        raise StoreError(f"{source}: its manifest names the dataset {manifest.name!r}")
    return manifest
