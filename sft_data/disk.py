"""What a disk does to a build: it is full, read-only or cleaned by somebody; and who is at work in a step cache."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from sft_data.errors import SftDataError, SourceError, StoreError

__all__ = ["Company", "alone", "at_work", "disk_error", "unfinished"]

Company = Literal["alone", "busy", "unknown"]

LOCK = ".lock"

_HINTS = {
    errno.ENOSPC: "the disk is full: free some space (`sft-data gc --remove --cache-days 0` may help) and run again",
    errno.EDQUOT: "the disk quota is used up: free some space and run again",
    errno.EROFS: "the store is read-only: give --store a folder that can be written",
    errno.EACCES: "permission denied: give --store a folder that can be written",
    errno.EPERM: "permission denied: give --store a folder that can be written",
    errno.ENOTDIR: "a file stands where the store's folder should be: give --store a folder",
    errno.EEXIST: "a file stands where the store's folder should be: give --store a folder",
    errno.EIO: "the disk reports an error: check it before anything else is written to it",
}
# Libraries written in Rust wrap the system's error into one of theirs and keep its number in the text.
_NUMBER = re.compile(r"\(os error (\d+)\)")


def disk_error(error: BaseException, cache: Path) -> SftDataError | None:
    """What to tell where `error`, raised by work on the step cache at `cache`, is the disk's; None for other errors."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (found := _NUMBER.search(str(error))):
        number = int(found[1])
    if number is None:
        return None
    place = Path(os.fsdecode(error.filename)) if isinstance(error, OSError) and error.filename else None
    inside = place is None or _below(place, cache)
    what = os.strerror(number)
    if inside and number in _HINTS:
        return StoreError(f"cannot write {place or cache}: {what}; {_HINTS[number]}. Nothing was published.")
    if inside and number == errno.ENOENT:
        return StoreError(
            f"a file of the step cache at {cache} is gone ({error}); somebody removed it while the build ran: "
            "run again, what is missing is made anew"
        )
    if not inside:
        return SourceError(f"cannot read {place}: {what}; finished work is kept: run again when it can be read")
    return None


def _below(place: Path, cache: Path) -> bool:
    # The cache lies in the store's folder, which may be what cannot be made.
    folder = cache.absolute().parent
    return place.absolute().is_relative_to(folder) or folder.is_relative_to(place.absolute())


@contextmanager
def at_work(cache: Path) -> Iterator[None]:
    """Hold the step cache for a build: others may build beside it, but nobody may clean it.

    The system frees the hold when the process dies, however it dies. Who comes when nobody else is there first removes
    what killed builds left behind, whatever the clock says.
    """
    cache.mkdir(parents=True, exist_ok=True)
    descriptor = _open(cache)
    try:
        if _take(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB) == "alone":
            for path in unfinished(cache):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        _take(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def alone(cache: Path) -> Iterator[Company]:
    """Who else is at work with this step cache; where nobody is, nobody begins before the block has ended."""
    try:
        descriptor = _open(cache)
    except OSError:  # there is none, or it can only be read: nobody builds with it
        yield "alone"
        return
    try:
        yield _take(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)


def unfinished(cache: Path) -> list[Path]:
    """Cells in the making and unfinished records: rubbish where nobody is at work."""
    return [*sorted((cache / "tmp").glob("*")), *sorted((cache / "steps").glob(".*"))]


def _open(cache: Path) -> int:
    return os.open(cache / LOCK, os.O_RDWR | os.O_CREAT, 0o644)


def _take(descriptor: int, how: int) -> Company:
    try:
        fcntl.flock(descriptor, how)
    except BlockingIOError:
        return "busy"
    except OSError:  # some network disks know no locks
        return "unknown"
    return "alone"
