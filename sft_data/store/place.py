"""Where a store is: a folder, a URL, or a sealed folder; and the versions in it, brought here where they are not.

Everything else takes the folder that `open_store` gives: of a store on this machine the folder itself, of any other its
mirror, which `mirror.mirror_of` knows again.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Collection
from pathlib import Path

from sft_data.errors import StoreError
from sft_data.store.layout import BUILD, MANIFEST
from sft_data.store.log import check_log
from sft_data.store.mirror import MARK, WHERE, Mirror, cache_root, mirror_folder, mirror_of
from sft_data.store.read import VersionRef, datasets, resolve
from sft_data.store.remote import is_url
from sft_data.store.sealing import given_key
from sft_data.store.verify import Verification, verify

__all__ = ["find_version", "open_store", "verify_version"]

DEFAULT = "store"


def open_store(place: str | Path | None = None, *, write: bool = False) -> Path:
    """The folder to work in for the store at `place`: a path or a URL; ./store where none is named.

    A store at a URL is brought up to date first. `write`: versions will be published, so with a key at hand a folder
    becomes a sealed store, and one that holds unsealed versions already is refused.
    """
    text = str(place or DEFAULT)
    if is_url(text):
        return _open(text)
    path = Path(text)
    if (path / WHERE).exists():
        if mirror_of(path) is None:
            raise StoreError(f"{path} is the mirror of a store elsewhere: name that store by its URL")
        return path
    if (path / MARK).exists():
        return _open(str(path.absolute()))
    if write and given_key() is not None:
        if datasets(path):
            raise StoreError(
                f"{path} holds versions that are not sealed, and a key is given: "
                "name a new folder by --store, or leave the key out"
            )
        return _open(str(path.absolute()))
    return path


def _open(url: str) -> Path:
    mirror = Mirror(url, mirror_folder(url))
    mirror.sync()
    return mirror.folder


def find_version(place: str | Path | None, spec: str, *, only: Collection[str] | None = None) -> VersionRef:
    """The version that `spec` names in the store at `place`, its files on this machine: `only` these, else all."""
    found = resolve(open_store(place), spec)
    mirror = mirror_of(found.folder.parent.parent)
    if mirror is not None:
        mirror.fetch(found.folder, only)
    return found


def verify_version(place: str | Path | None, spec: str) -> Verification:
    """Check a version where it is stored: of a store at a URL every byte is fetched anew, not taken from the mirror.

    A sealed store whose key is not given has its sealed files compared with their hashes; `contents` says so.
    """
    text = str(place or DEFAULT)
    url = text if is_url(text) else str(Path(text).absolute()) if (Path(text) / MARK).exists() else None
    if url is None:
        return verify(find_version(text, spec).folder)
    fresh = cache_root() / f"verify-{uuid.uuid4().hex[:12]}"
    mirror = Mirror(url, fresh)
    try:
        mirror.sync(contents=False)
        if mirror.mark().get("sealed") and given_key() is None:
            return _verify_sealed(mirror, spec)
        mirror.sync()
        return _verify_fetched(mirror, spec)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _verify_fetched(mirror: Mirror, spec: str) -> Verification:
    version = resolve(mirror.folder, spec)
    entry = mirror.entry_of(version.folder)
    index = mirror.index(entry["index"]) if entry else {}
    problems = []
    for path, name in index.items():
        if path in (MANIFEST, BUILD):
            continue
        try:
            mirror.bring(name, version.folder / path)
        except StoreError as error:
            problems.append(f"{path}: {error}")
    if problems:
        return Verification(ok=False, problems=problems, files=len(index), bytes=0)
    return verify(version.folder)


def _verify_sealed(mirror: Mirror, spec: str) -> Verification:
    """Without the key: do the sealed files fit their hashes, and does the log hang together?"""
    entry = mirror.named(spec)
    index = mirror.index(entry["index"])
    problems, size = list(check_log(mirror.folder)), 0
    for path, name in index.items():
        target = mirror.folder / ".incoming" / "sealed"
        try:
            mirror.bring(name, target, sealed=False)
            size += target.stat().st_size
        except StoreError as error:
            problems.append(f"{path}: {error}")
    return Verification(ok=not problems, problems=problems, files=len(index), bytes=size, contents=False)
