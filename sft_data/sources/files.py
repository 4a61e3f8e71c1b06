"""Which files a source names: found, sorted, and named the same on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path, PurePath, PurePosixPath
from urllib.parse import unquote, urlsplit

from sft_data.errors import SourceError
from sft_data.sources import hub
from sft_data.sources.remote import Entry, fetch, is_url, list_url
from sft_data.sources.settings import Source

__all__ = ["TABLE_SUFFIXES", "TEXT_SUFFIXES", "SourceFile", "find_files", "look_for_files", "plain_suffix"]

# In a folder only files with one of these endings are data; a README beside them is not.
TEXT_SUFFIXES = frozenset({".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".yaml", ".yml"})
TABLE_SUFFIXES = frozenset({".parquet", ".arrow"})
ARCHIVE_SUFFIXES = frozenset({".zip", ".tar", ".tgz", ".tbz2", ".txz"})
PACKED_SUFFIXES = frozenset({".gz", ".zst", ".zstd", ".bz2", ".xz"})
_SPLITS = "dataset_dict.json"  # stands in a folder that `save_to_disk` wrote of several splits
# What `save_to_disk` writes beside its Arrow files: about the data, not data.
_DESCRIPTIONS = frozenset({"dataset_info.json", "state.json", _SPLITS})
_MAGIC = frozenset("*?[")


@dataclass(frozen=True, order=True)
class SourceFile:
    """A file of a source. `name` is its path below the source's common folder, with /: the middle of row ids."""

    name: str
    path: Path
    size: int  # bytes on disk
    origin: str | None = field(default=None, compare=False)  # the URL that `path` is a copy of

    @property
    def place(self) -> str:
        """Where the user finds the file: its URL, or its path."""
        return self.origin or str(self.path)

    def sha256(self) -> str:
        """Hex digest of the file's bytes, read in pieces."""
        with self.path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()


def find_files(source: Source, base: Path | None = None) -> list[SourceFile]:
    """The files that `source.path` names, sorted by name. A relative path starts at `base`, else where the user is.

    A folder gives every data file below it; hidden files are left out. Files at a URL are fetched into the local
    cache first. Nothing found is a SourceError that tells what was looked for, in which folder, and what is there.
    """
    path = _local(source.path)
    if path is None:
        entries = _entries_at(source)
        copies = zip(entries, fetch(entries), strict=True)
        return [SourceFile(entry.name, copy, copy.stat().st_size, entry.url) for entry, copy in copies]
    pattern = (base or Path.cwd()) / path
    if pattern.is_file():
        _refuse_split(source)
        return [_source_file(pattern, pattern.parent)]
    folder, found = (pattern, _inside(pattern)) if pattern.is_dir() else _matching(pattern)
    files = sorted(_source_file(path, folder) for path in found)
    if not files:
        raise SourceError(_nothing_found(source, pattern, folder))
    splits = _splits([file.name for file in files]) if (pattern / _SPLITS).is_file() else []
    wanted = _of_split(source, splits)
    return files if wanted is None else [file for file in files if file.name.startswith(f"{wanted}/")]


def look_for_files(source: Source) -> None:
    """SourceError where `source.path` names nothing; fetches no file."""
    if _local(source.path) is None:
        _entries_at(source)
    else:
        find_files(source)


def _local(path: str) -> Path | None:
    """A path on this machine, also where it is written as file://...; None of any other URL."""
    if not is_url(path):
        return Path(path).expanduser()
    parts = urlsplit(path)
    return Path(unquote(parts.path)) if parts.scheme in {"file", "local"} else None


def _entries_at(source: Source) -> list[Entry]:
    """The data files at a URL, or those of a split of a data set of the hub."""
    if hub.is_dataset(source.path):
        return hub.files_of(source)
    url = hub.pinned(source.path)
    listing = list_url(url)
    entries = listing.entries
    if listing.kind != "file":
        entries = [entry for entry in entries if not any(part.startswith(".") for part in entry.name.split("/"))]
    splits = _splits([entry.name for entry in entries]) if _SPLITS in {entry.name for entry in entries} else []
    if listing.kind == "folder":
        entries = [entry for entry in entries if is_data(PurePosixPath(entry.name))]
    if not entries:
        there = listing.near or [entry.name for entry in listing.entries]
        raise SourceError(f"source `{source.name}`: nothing found at {source.path!r}; there are {_shown(there, url)}")
    wanted = _of_split(source, splits)
    return entries if wanted is None else [entry for entry in entries if entry.name.startswith(f"{wanted}/")]


def _splits(names: list[str]) -> list[str]:
    """The folders in which `save_to_disk` wrote the splits."""
    return sorted({name.partition("/")[0] for name in names if "/" in name})


def _of_split(source: Source, splits: list[str]) -> str | None:
    """The split to be read of those that are there; None: all files."""
    if not splits:
        _refuse_split(source)
        return None
    if source.split is None and len(splits) > 1:
        raise SourceError(
            f"source `{source.name}`: {source.path!r} holds the splits {', '.join(splits)}: name one in `split`, or all"
        )
    if source.split in {None, "all"}:
        return None
    if source.split not in splits:
        raise SourceError(
            f"source `{source.name}`: {source.path!r} has no split {source.split!r}; it has {', '.join(splits)}"
        )
    return source.split


def _refuse_split(source: Source) -> None:
    if source.split is not None or source.subset is not None:
        raise SourceError(
            f"source `{source.name}`: `split` and `subset` choose from a data set of the hub (hf://datasets/ORG/NAME; "
            f"`split` also from a folder of save_to_disk); {source.path!r} is none: name its files instead"
        )


def _source_file(path: Path, folder: Path) -> SourceFile:
    absolute = path.absolute()
    return SourceFile(absolute.relative_to(folder.absolute()).as_posix(), absolute, absolute.stat().st_size)


def plain_suffix(path: PurePath) -> str:
    """The ending that says what a file holds, below the endings of compression: `.csv` of `a.csv.gz`."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    while suffixes and suffixes[-1] in PACKED_SUFFIXES:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def is_data(path: PurePath) -> bool:
    """Whether a file's ending says that it holds rows, compressed or not."""
    suffix = plain_suffix(path)
    return suffix in TEXT_SUFFIXES | TABLE_SUFFIXES | ARCHIVE_SUFFIXES and path.name not in _DESCRIPTIONS


def _visible(path: Path, folder: Path) -> bool:
    return not any(part.startswith(".") for part in path.relative_to(folder).parts)


def _inside(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and is_data(path) and _visible(path, folder))


def _matching(pattern: Path) -> tuple[Path, Iterator[Path]]:
    """The deepest folder of `pattern` without a wildcard, and the files below it that match."""
    parts = pattern.parts
    fixed = next((i for i, part in enumerate(parts) if _MAGIC & set(part)), len(parts) - 1)
    folder = Path(*parts[:fixed])
    if fixed == len(parts) - 1 and not _MAGIC & set(parts[-1]):
        return folder, iter(())
    if not folder.is_dir():
        return folder, iter(())
    below = "/".join(parts[fixed:])
    return folder, (path for path in folder.glob(below) if path.is_file() and _visible(path, folder))


def _nothing_found(source: Source, pattern: Path, folder: Path) -> str:
    message = f"source `{source.name}`: nothing found at {source.path!r}"
    existing = folder
    while not existing.is_dir():
        existing = existing.parent
    if existing != folder:
        return f"{message}: there is no folder {folder}; {existing} holds {_listing(existing, folder.name)}"
    if pattern.is_dir():
        kinds = ", ".join(sorted(TEXT_SUFFIXES | TABLE_SUFFIXES | ARCHIVE_SUFFIXES))
        return f"{message}: no file in {folder} ends in {kinds} (compressed or not); it holds {_listing(folder, '')}"
    return f"{message}: looked in {folder}, which holds {_listing(folder, pattern.name)}"


def _listing(folder: Path, wanted: str) -> str:
    return _shown([path.name for path in folder.iterdir() if not path.name.startswith(".")], wanted)


def _shown(found: list[str], wanted: str) -> str:
    names = sorted(found)
    near = get_close_matches(wanted.rpartition("/")[2], names, n=3, cutoff=0.5)
    if near:
        return "near matches: " + ", ".join(repr(name) for name in near)
    shown = ", ".join(repr(name) for name in names[:8])
    return (shown + (f" and {len(names) - 8} more" if len(names) > 8 else "")) or "nothing"
