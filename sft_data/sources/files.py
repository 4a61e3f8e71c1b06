"""Which files a source names: found, sorted, and named the same on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path, PurePath

from sft_data.errors import SourceError
from sft_data.sources.settings import Source

__all__ = ["TEXT_SUFFIXES", "SourceFile", "find_files", "plain_suffix"]

# In a folder only files with one of these endings are data; a README beside them is not.
TEXT_SUFFIXES = frozenset({".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".yaml", ".yml"})
TABLE_SUFFIXES = frozenset({".parquet", ".arrow"})
ARCHIVE_SUFFIXES = frozenset({".zip", ".tar", ".tgz", ".tbz2", ".txz"})
PACKED_SUFFIXES = frozenset({".gz", ".zst", ".zstd", ".bz2", ".xz"})
# What `save_to_disk` writes beside its Arrow files: about the data, not data.
_DESCRIPTIONS = frozenset({"dataset_info.json", "state.json", "dataset_dict.json"})
_MAGIC = frozenset("*?[")


@dataclass(frozen=True, order=True)
class SourceFile:
    """A file of a source. `name` is its path below the source's common folder, with /: the middle of row ids."""

    name: str
    path: Path
    size: int  # bytes on disk

    def sha256(self) -> str:
        """Hex digest of the file's bytes, read in pieces."""
        with self.path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()


def find_files(source: Source, base: Path | None = None) -> list[SourceFile]:
    """The files that `source.path` names, sorted by name. A relative path starts at `base`, else where the user is.

    A folder gives every data file below it; hidden files are left out. Nothing found is a SourceError that tells
    what was looked for, in which folder, and what is there.
    """
    pattern = (base or Path.cwd()) / Path(source.path).expanduser()
    if pattern.is_file():
        return [_source_file(pattern, pattern.parent)]
    folder, found = (pattern, _inside(pattern)) if pattern.is_dir() else _matching(pattern)
    files = sorted(_source_file(path, folder) for path in found)
    if not files:
        raise SourceError(_nothing_found(source, pattern, folder))
    return files


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
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    near = get_close_matches(wanted, names, n=3, cutoff=0.5)
    if near:
        return "near matches: " + ", ".join(repr(name) for name in near)
    shown = ", ".join(repr(name) for name in names[:8])
    return (shown + (f" and {len(names) - 8} more" if len(names) > 8 else "")) or "nothing"
