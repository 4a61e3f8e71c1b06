"""Members of archives, opened one after the other without beginning anew for each.

A zip keeps a list of its members at its end, and a compressed tar can only be read from its beginning: opening either
again for each of many members would take time with the square of their number. So the archive that was read last stays
open, in each thread for itself: a zip with its list, a tar unpacked once into a file without a name, which is gone
when another archive is opened or the process ends. Nothing of it ever becomes a path.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import tarfile
import threading
import weakref
import zipfile
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any, Literal

from sft_data.errors import SourceError

__all__ = ["open_member"]

_MEMORY = 16 * 2**20  # bytes of an unpacked tar that stay in memory
_PIECE = 2**20
_OPENERS: dict[bytes, Callable[[Path], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
_BROKEN = (EOFError, OSError, zlib.error, lzma.LZMAError)

_mine = threading.local()


class _Held:
    """An open archive."""

    def __init__(self, path: Path, kind: Literal["zip", "tar"], limit: int) -> None:
        self.files = ExitStack()
        weakref.finalize(self, self.files.close)  # also when the process or the thread ends
        try:
            if kind == "zip":
                archive = self.files.enter_context(zipfile.ZipFile(path))
                self.open: Callable[[str], IO[bytes] | None] = archive.open
            else:
                tar = self.files.enter_context(_tar(path, limit, self.files))
                found = {member.name: member for member in _whole_members(tar)}
                self.open = lambda name: tar.extractfile(found[name])
        except BaseException:
            self.files.close()
            raise


def open_member(path: Path, kind: Literal["zip", "tar"], name: str, limit: int) -> IO[bytes]:
    """A member's bytes. Errors are those of zipfile and tarfile; KeyError where there is no such member; SourceError
    where there is no room to unpack it. `limit`: bytes of the archive beyond which nothing is unpacked.
    """
    told = path.stat()
    # A process that was forked shares the place in its parent's files: it opens them for itself.
    key = (os.getpid(), path, kind, told.st_size, told.st_mtime_ns)
    if getattr(_mine, "key", None) != key:
        if (old := getattr(_mine, "held", None)) is not None:
            old.files.close()
        _mine.key = _mine.held = None
        _mine.held = _Held(path, kind, limit)
        _mine.key = key
    inside: IO[bytes] | None = _mine.held.open(name)
    if inside is None:
        raise OSError(f"{name} is no file")
    return inside


def _tar(path: Path, limit: int, files: ExitStack) -> tarfile.TarFile:
    with path.open("rb") as stream:
        head = stream.read(6)
    opener = next((opener for magic, opener in _OPENERS.items() if head.startswith(magic)), None)
    if opener is None:
        return tarfile.open(path, "r:")
    copy = files.enter_context(SpooledTemporaryFile(max_size=_MEMORY))  # noqa: SIM115 - it stays open
    with opener(path) as packed:
        _unpack(packed, copy, limit, path)
    copy.seek(0)
    return tarfile.open(fileobj=copy, mode="r:")


def _unpack(packed: Any, copy: IO[bytes], limit: int, path: Path) -> None:  # noqa: ANN401 - read1 of three libraries
    """As much as can be: what lies behind damage or beyond the limit is missing to the members that lie there."""
    while copy.tell() <= limit:
        try:
            piece = packed.read1(_PIECE)
        except _BROKEN:
            return
        if not piece:
            return
        try:
            copy.write(piece)
        except OSError as error:
            raise SourceError(
                f"no room to unpack {path}: {error.strerror}; free some space, or set TMPDIR to a larger disk"
            ) from error


def _whole_members(tar: tarfile.TarFile) -> list[tarfile.TarInfo]:
    """All members up to where the list ends or breaks off."""
    found = []
    try:
        for member in tar:
            found.append(member)
    except tarfile.TarError:
        if not found:
            raise
    return found
