"""Identities: what a step's outcome depends on, as one hash.

A fingerprint holds settings, code revisions, versions of the libraries that decide bytes, and the *content* of every
file that is named: never a path, a time, a worker count or a machine.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import orjson
from pydantic import BaseModel

from sft_data.stage import StageConfig

__all__ = [
    "Fetches",
    "Stamp",
    "digest",
    "file_sha256",
    "library_versions",
    "path_sha256",
    "stage_identity",
    "stage_stamps",
    "stamp",
]

Stamp = tuple[int, int]  # size and time of change of a file

# Every shard is a Parquet or Arrow file written by polars: its version decides bytes everywhere.
EVERYWHERE = ("polars",)


def digest(*parts: object) -> str:
    """SHA-256 (64 hex digits) of the canonical JSON of `parts`.

    >>> digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})
    True
    """
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS, default=_plain)).hexdigest()


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"{type(value).__name__} has no place in a fingerprint")


def file_sha256(path: Path) -> str:
    """Hash of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stamp(path: Path) -> Stamp:
    """Size and time of change of a file: other ones mean that a hash taken before does not hold any more."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def path_sha256(path: Path) -> str:
    """Hash of a file's bytes; of a folder: of the names and bytes of all its files, hidden ones left out."""
    if path.is_file():
        return file_sha256(path)
    return digest([[p.relative_to(path).as_posix(), file_sha256(p)] for p in _inside(path)])


def _inside(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and not any(x.startswith(".") for x in p.parts[-2:]))


def library_versions(names: Iterable[str]) -> dict[str, str]:
    """Installed version of each distribution; of `unicode`, the tables of characters that this Python has."""
    return {name: _version(name) for name in sorted({*EVERYWHERE, *names})}


def _version(name: str) -> str:
    return unicodedata.unidata_version if name == "unicode" else metadata.version(name)


def _content(value: object) -> object:
    """What a setting that names a file stands for: the hash of what is there; the name itself where nothing is."""
    return {"sha256": path_sha256(Path(value))} if isinstance(value, str) and _is_there(value) else value


def _is_there(value: str) -> bool:
    return bool(value) and Path(value).exists()


@runtime_checkable
class _TellsContents(Protocol):
    """A stage whose settings stand for content that no path leads to, such as a template of the project."""

    def contents(self) -> dict[str, str]: ...


@runtime_checkable
class Fetches(Protocol):
    """A stage whose settings name what is fetched: once, when a build is planned, and not by its workers."""

    def fetched(self) -> StageConfig: ...

    def copies(self) -> tuple[Path, ...]: ...


def stage_stamps(stage: StageConfig) -> tuple[tuple[Path, Stamp], ...]:
    """The files that a stage's settings name, each with its stamp. Take them before `stage_identity` hashes the files:
    as long as they hold, a worker reads what was hashed.
    """
    named = [value for name in stage.files for value in _several(getattr(stage, name, None))]
    paths = [Path(value) for value in named if _is_there(value)]
    paths += stage.copies() if isinstance(stage, Fetches) else ()
    files = [file for path in paths for file in ([path] if path.is_file() else _inside(path))]
    return tuple((file.absolute(), stamp(file)) for file in files)


def _several(value: object) -> tuple[str, ...]:
    return tuple(each for each in (value if isinstance(value, list | tuple) else (value,)) if isinstance(each, str))


def stage_identity(stage: StageConfig) -> dict[str, Any]:
    """What decides a stage's outcome, besides its input."""
    settings = stage.model_dump(mode="json")
    for name in stage.files:
        value = settings.get(name)
        settings[name] = [_content(each) for each in value] if isinstance(value, list) else _content(value)
    if isinstance(stage, _TellsContents):
        settings |= {name: {"sha256": sha} for name, sha in stage.contents().items()}
    return {
        "kind": stage.kind,
        "revision": stage.revision,
        "settings": settings,
        "libraries": library_versions(stage.uses),
    }
