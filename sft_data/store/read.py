"""Find a version by the way a person names it: NAME, NAME@v3, NAME@TAG, NAME@FINGERPRINT_PREFIX."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sft_data.errors import StoreError
from sft_data.store.layout import BUILD, MANIFEST, NAME, numbered
from sft_data.store.manifest import FORMAT, Counts, Manifest
from sft_data.store.mirror import shown
from sft_data.store.refs import read_refs

__all__ = [
    "VersionInfo",
    "VersionRef",
    "datasets",
    "draft_folders",
    "find_by_fingerprint",
    "load_build",
    "load_manifest",
    "resolve",
    "version_folders",
    "versions",
]


@dataclass(frozen=True)
class VersionRef:
    """A version that exists."""

    name: str
    number: int | None  # None: a draft, or a folder outside a store
    folder: Path
    manifest: Manifest

    @property
    def version(self) -> str:
        """How to name it: NAME@v3, or NAME@draft-0123456789ab."""
        return f"{self.name}@{self.folder.name}"


class VersionInfo(BaseModel):
    """One line of the list of versions."""

    model_config = ConfigDict(frozen=True)

    version: str = Field(description="NAME@vN, or NAME@draft-... for one that failed a gate")
    name: str
    number: int | None
    fingerprint: str
    latest: bool
    draft: bool
    tags: list[str]
    rows: int
    rows_in: int
    rows_rejected: int
    tokens: int
    packs: int
    bytes: int = Field(description="sum of all files; what versions share on disk is counted in each")
    published: str | None = Field(description="ISO time in UTC; None where build.json does not tell")
    path: str
    problem: str | None = Field(default=None, description="why the figures are missing: the manifest cannot be read")


def load_manifest(folder: Path) -> Manifest:
    """The manifest in a version's folder."""
    path = folder / MANIFEST
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise StoreError(f"{folder} is not a version: it has no {MANIFEST}") from error
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error
    _check_format(raw, path)
    try:
        return Manifest.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise StoreError(f"{path} is damaged: {where}: {first['msg']} ({error.error_count()} mistakes)") from error


def _check_format(raw: bytes, path: Path) -> None:
    """A newer release may write what this one cannot know: say so instead of calling it damaged."""
    try:
        written = orjson.loads(raw).get("format", FORMAT)
    except (orjson.JSONDecodeError, AttributeError):
        return
    if isinstance(written, int) and written > FORMAT:
        raise StoreError(
            f"{path} was written by a newer release (format {written}, this one reads {FORMAT}): upgrade sft-data"
        )


def load_build(folder: Path) -> dict[str, Any]:
    """When and how a version was built; empty where that file is absent or damaged (it decides nothing)."""
    try:
        build = orjson.loads((folder / BUILD).read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return {}
    return build if isinstance(build, dict) else {}


def datasets(store: Path) -> list[str]:
    """Names of all datasets with at least one version or draft."""
    if not store.is_dir():
        return []
    inside = (path for path in store.iterdir() if path.is_dir() and NAME.fullmatch(path.name))
    return sorted(path.name for path in inside if version_folders(store, path.name) or draft_folders(store, path.name))


def version_folders(store: Path, name: str) -> dict[int, Path]:
    """Published versions of a dataset by number, oldest first."""
    inside = (store / name).iterdir() if (store / name).is_dir() else []
    found = {number: path for path in inside if (number := numbered(path)) is not None and path.is_dir()}
    return dict(sorted(found.items()))


def draft_folders(store: Path, name: str) -> list[Path]:
    """Versions of a dataset that failed a gate."""
    return sorted(path for path in (store / name).glob("draft-*") if path.is_dir())


def find_by_fingerprint(store: Path, name: str, fingerprint: str) -> VersionRef | None:
    """The published version of this fingerprint, if there is one."""
    for number, folder in version_folders(store, name).items():
        if _fingerprint(folder) == fingerprint:
            return VersionRef(name, number, folder, load_manifest(folder))
    return None


def _fingerprint(folder: Path) -> str:
    """Only the fingerprint, without checking the manifest: quick over many versions."""
    try:
        manifest = orjson.loads((folder / MANIFEST).read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return ""
    return str(manifest.get("fingerprint", "")) if isinstance(manifest, dict) else ""


def resolve(store: Path, spec: str) -> VersionRef:
    """The version that `spec` names; StoreError with what exists where it names none."""
    if "/" in spec and (Path(spec) / MANIFEST).exists():
        folder = Path(spec)
        manifest = load_manifest(folder)
        return VersionRef(manifest.name, numbered(folder), folder, manifest)
    name, _, selector = spec.partition("@")
    known = datasets(store)
    if name not in known:
        raise StoreError(_unknown_dataset(store, name, known))
    folder = _select(store, name, selector)
    return VersionRef(name, numbered(folder), folder, load_manifest(folder))


def _unknown_dataset(store: Path, name: str, known: list[str]) -> str:
    if not known:
        return f"the store {shown(store)} holds no versions; `sft-data build PIPELINE --store {shown(store)}` makes one"
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"no dataset {name!r} in {shown(store)}{hint}; it holds: {', '.join(known)}"


def _select(store: Path, name: str, selector: str) -> Path:
    folders = version_folders(store, name)
    refs = read_refs(store, name)
    number: int | None = None
    if selector in ("", "latest"):
        number = refs.latest
        if number is None:
            raise StoreError(f"{name} has no latest version; name one: {_existing(store, name)}")
    elif re.fullmatch(r"v\d+", selector):
        number = int(selector[1:])
    elif selector in refs.tags:
        number = refs.tags[selector]
    if number is not None:
        if number in folders:
            return folders[number]
        raise StoreError(f"{name} has no version v{number}; it has: {_existing(store, name)}")
    return _by_prefix(store, name, selector, list(folders.values()))


def _by_prefix(store: Path, name: str, selector: str, folders: list[Path]) -> Path:
    drafts = {path.name: path for path in draft_folders(store, name)}
    if selector in drafts:
        return drafts[selector]
    fits = []
    if re.fullmatch(r"[0-9a-f]{4,64}", selector):
        fits = [path for path in [*folders, *drafts.values()] if _fingerprint(path).startswith(selector)]
    published = [path for path in fits if numbered(path) is not None] or fits
    if len(published) == 1:
        return published[0]
    if published:
        names = ", ".join(f"{path.name} ({_fingerprint(path)[:16]})" for path in published)
        raise StoreError(f"{name}@{selector} could be several versions: {names}; give more digits")
    tags = read_refs(store, name).tags
    close = difflib.get_close_matches(selector, [*tags, *(path.name for path in folders), *drafts], n=1)
    hint = f" (did you mean '{name}@{close[0]}'?)" if close else ""
    raise StoreError(f"{name} has no version {selector!r}{hint}; it has: {_existing(store, name)}")


def _existing(store: Path, name: str) -> str:
    numbers = [f"v{number}" for number in version_folders(store, name)]
    shown = numbers if len(numbers) <= 8 else [*numbers[:3], "...", *numbers[-3:]]
    tags = [f"{tag} (= v{number})" for tag, number in sorted(read_refs(store, name).tags.items())]
    drafts = [path.name for path in draft_folders(store, name)]
    return ", ".join([*shown, *tags, *drafts]) or "nothing"


def versions(store: Path, name: str | None = None) -> list[VersionInfo]:
    """All versions of one dataset or of all, oldest first, drafts last."""
    known = datasets(store)
    if name is not None and name not in known:
        raise StoreError(_unknown_dataset(store, name, known))
    return [info for dataset in ([name] if name else known) for info in _infos(store, dataset)]


def _infos(store: Path, name: str) -> list[VersionInfo]:
    refs = read_refs(store, name)
    folders = [*version_folders(store, name).values(), *draft_folders(store, name)]
    return [_info(name, folder, refs.latest, refs.tags) for folder in folders]


def _info(name: str, folder: Path, latest: int | None, tags: dict[str, int]) -> VersionInfo:
    """One line; a version that cannot be read takes its figures with it, not the whole list."""
    number, problem, manifest = numbered(folder), None, None
    try:
        manifest = load_manifest(folder)
    except StoreError as error:
        problem = str(error)
    counts = manifest.counts if manifest else Counts(rows_in=0, rows_kept=0, rows_rejected=0)
    return VersionInfo(
        version=f"{name}@{folder.name}",
        name=name,
        number=number,
        fingerprint=manifest.fingerprint if manifest else "",
        latest=number is not None and number == latest,
        draft=number is None,
        tags=sorted(tag for tag, at in tags.items() if at == number),
        rows=counts.rows_kept,
        rows_in=counts.rows_in,
        rows_rejected=counts.rows_rejected,
        tokens=counts.tokens,
        packs=counts.packs,
        bytes=sum(file.bytes for file in manifest.files) if manifest else 0,
        published=load_build(folder).get("published"),
        path=str(folder),
        problem=problem,
    )
