"""Members of zip and tar archives: listed here, read where they lie, never unpacked into a folder."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Literal

from sft_data.errors import SourceError
from sft_data.sources.files import ARCHIVE_SUFFIXES, SourceFile, is_data, plain_suffix
from sft_data.sources.settings import Limits
from sft_data.sources.streams import BROKEN, Text, inflation_limit

__all__ = ["is_archive", "members"]

_MOST_MEMBERS = 100_000  # an archive of more members is a bomb or belongs into one file


def members(file: SourceFile, head: bytes, limits: Limits) -> list[tuple[str, Text, int]]:
    """Name (as in row ids), place and size of each text in a file: one, or the data members of an archive by name.

    Members that hold no rows by their ending (a README), hidden ones, folders and links are left out, as in a folder.
    """
    kind = _kind(file, head)
    if kind is None:
        return [(file.name, Text("none", "utf-8"), file.size)]
    try:
        listed = sorted(_in_zip(file, limits) if kind == "zip" else _in_tar(file, limits))
    except BROKEN as error:
        raise SourceError(f"{file.place} is a damaged {kind} archive: {error}; get it again or leave it out") from error
    names = [name for name, _ in listed]
    if twice := next((name for name, again in pairwise(names) if name == again), None):
        raise SourceError(f"{file.place} has two members named {twice!r}, of which one would be lost: pack it again")
    data = [(name, size) for name, size in listed if is_data(PurePosixPath(name)) and not _hidden(name)]
    if not data:
        found = ", ".join(names[:5]) or "nothing"
        raise SourceError(f"{file.place} holds no member that is data by its ending; it holds {found}")
    archive: Literal["zip", "tar"] = "zip" if kind == "zip" else "tar"
    return [(f"{file.name}/{name}", Text("none", "utf-8", archive, name), size) for name, size in data]


def is_archive(member: str) -> bool:
    """Whether a member is an archive itself: these are not opened, an archive in an archive in ... has no bottom."""
    return plain_suffix(PurePosixPath(member)) in ARCHIVE_SUFFIXES


def _hidden(member: str) -> bool:
    """Hidden files, and what macOS puts beside them."""
    parts = PurePosixPath(member).parts
    return "__MACOSX" in parts or any(part.startswith(".") and part not in {".", ".."} for part in parts)


def _kind(file: SourceFile, head: bytes) -> str | None:
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    named = file.name.lower().endswith((".tgz", ".tbz2", ".txz")) or ".tar" in PurePosixPath(file.name.lower()).suffixes
    return "tar" if named or head[257:262] == b"ustar" else None


def _in_zip(file: SourceFile, limits: Limits) -> Iterator[tuple[str, int]]:
    with zipfile.ZipFile(file.path) as archive:
        infos = archive.infolist()
        _check(file, len(infos), sum(info.file_size for info in infos), limits)
        yield from ((info.filename, info.file_size) for info in infos if not info.filename.endswith("/"))


def _in_tar(file: SourceFile, limits: Limits) -> Iterator[tuple[str, int]]:
    with tarfile.open(file.path) as archive:
        for number, member in enumerate(archive):
            _check(file, number, member.offset_data + member.size, limits)
            if member.isfile():
                yield member.name, member.size


def _check(file: SourceFile, count: int, size: int, limits: Limits) -> None:
    if count > _MOST_MEMBERS:
        raise SourceError(f"{file.place} has more than {_MOST_MEMBERS:,} members")
    if size > (most := inflation_limit(file.size, limits)):
        raise SourceError(
            f"{file.place} holds more than {most:,} bytes when unpacked (`limits.max_inflation` times its size)"
        )
