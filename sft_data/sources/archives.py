"""Members of zip and tar archives: listed here, read where they lie, never unpacked to disk."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import PurePosixPath

from sft_data.errors import SourceError
from sft_data.sources.files import TEXT_SUFFIXES, SourceFile, plain_suffix
from sft_data.sources.streams import Text

__all__ = ["members"]

_MOST_MEMBERS = 100_000  # an archive of more members is a bomb or belongs into one file


def members(file: SourceFile, head: bytes) -> list[tuple[str, Text]]:
    """Name (as in row ids) and place of each text in a file: one, or the data members of an archive by name.

    Members that hold no rows by their ending (a README), folders and links are left out, as in a folder.
    """
    kind = _kind(file, head)
    if kind is None:
        return [(file.name, Text("none", "utf-8"))]
    try:
        names = sorted(_zip_names(file) if kind == "zip" else _tar_names(file))
    except (OSError, EOFError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise SourceError(f"{file.place} is a damaged {kind} archive: {error}; get it again or leave it out") from error
    data = [name for name in names if plain_suffix(PurePosixPath(name)) in TEXT_SUFFIXES]
    if not data:
        found = ", ".join(names[:5]) or "nothing"
        raise SourceError(f"{file.place} holds no member that ends in {sorted(TEXT_SUFFIXES)}; it holds {found}")
    return [(f"{file.name}/{name}", Text("none", "utf-8", "zip" if kind == "zip" else "tar", name)) for name in data]


def _kind(file: SourceFile, head: bytes) -> str | None:
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    named = file.name.lower().endswith((".tgz", ".tbz2", ".txz")) or ".tar" in PurePosixPath(file.name.lower()).suffixes
    return "tar" if named or head[257:262] == b"ustar" else None


def _zip_names(file: SourceFile) -> Iterator[str]:
    with zipfile.ZipFile(file.path) as archive:
        infos = archive.infolist()
        if len(infos) > _MOST_MEMBERS:
            raise SourceError(f"{file.place} has {len(infos)} members; at most {_MOST_MEMBERS} are read")
        yield from {info.filename for info in infos if not info.is_dir()}


def _tar_names(file: SourceFile) -> Iterator[str]:
    names = set()
    with tarfile.open(file.path) as archive:
        for number, member in enumerate(archive):
            if number >= _MOST_MEMBERS:
                raise SourceError(f"{file.place} has more than {_MOST_MEMBERS} members")
            if member.isfile():
                names.add(member.name)
    yield from names
