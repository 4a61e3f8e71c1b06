"""The store's log: who did what, when. Lines are only appended, and each holds the hash of the line before it.

A line that was changed, removed or put in between breaks the chain behind it, and `check_log` names the place.
"""

from __future__ import annotations

import fcntl
import getpass
import hashlib
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from sft_data.errors import StoreError
from sft_data.store.layout import LOG

__all__ = ["acting_for", "append", "chained", "check_log", "locked", "now", "read_log", "unwritable", "who"]

BEGINNING = "0" * 64


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


# For whom this thread of work is done, where that is not the user who runs the program: a server's person.
_acting: ContextVar[str | None] = ContextVar("acting", default=None)


@contextmanager
def acting_for(person: str) -> Iterator[None]:
    """Entries of the log that are made under the block name `person` before the user and machine."""
    token = _acting.set(person)
    try:
        yield
    finally:
        _acting.reset(token)


def who() -> str:
    """User and machine, as far as the system tells; behind the person for whom they act."""
    person = _acting.get()
    return f"{person} through {_user()}" if person else _user()


def _user() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no entry in the password file, as in many containers
        user = f"uid-{os.getuid()}"
    return f"{user}@{socket.gethostname()}"


@contextmanager
def unwritable(place: Path) -> Iterator[None]:
    """Turn an OSError under the block into a StoreError that says what to do."""
    try:
        yield
    except OSError as error:
        where = error.filename or place
        hint = {
            28: "the disk is full: free some space (`sft-data gc` may help) and run again",
            30: "the store is read-only: give --store a folder that can be written",
            13: "permission denied: give --store a folder that can be written",
        }.get(error.errno or 0, "check the disk and the folder's permissions, then run again")
        raise StoreError(f"cannot write {where}: {error.strerror or error}; {hint}. Nothing was published.") from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path`; the system frees it when the process dies, however it dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def append(store: Path, what: str, **details: object) -> None:
    """Append one entry: `what` is "publish", "tag", "untag", "rollback", "gc", "import"."""
    path = store / LOG
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        size = file.seek(0, os.SEEK_END)
        last = _last_line(path, size)
        line = chained(last, what, details)
        torn = b"" if size == 0 or last.endswith(b"\n") else b"\n"
        try:
            file.write(torn + line)
            os.fsync(file.fileno())
        except OSError:
            os.ftruncate(file.fileno(), size)
            raise


def chained(last: bytes, what: str, details: Mapping[str, object]) -> bytes:
    """The line that says `what` and follows the line `last`."""
    return orjson.dumps({"at": now(), "who": who(), "what": what, **details, "previous": _digest(last)}) + b"\n"


def read_log(store: Path) -> list[dict[str, Any]]:
    """All whole entries, oldest first."""
    path = store / LOG
    lines = path.read_bytes().splitlines() if path.exists() else []
    return [entry for entry in map(_parsed, lines) if entry is not None]


def check_log(store: Path) -> list[str]:
    """What is wrong with the chain, one sentence each; empty where it is whole."""
    path = store / LOG
    if not path.exists():
        return []
    problems = []
    last = b""
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        entry = _parsed(line)
        if entry is None:
            problems.append(f"{LOG} line {number} is not a whole entry")
        elif entry.get("previous") != _digest(last):
            problems.append(
                f"{LOG} line {number} does not follow from line {number - 1}: a line was changed or removed"
            )
        last = line
    return problems


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        entry = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return entry if isinstance(entry, dict) else None


def _digest(line: bytes) -> str:
    return hashlib.sha256(line.rstrip(b"\n")).hexdigest() if line else BEGINNING


def _last_line(path: Path, size: int) -> bytes:
    """The last line with its line feed, read from the end."""
    step = 4096
    with path.open("rb") as file:
        while True:
            file.seek(max(0, size - step))
            tail = file.read()
            begin = tail.rstrip(b"\n").rfind(b"\n")
            if begin >= 0 or step >= size:
                return tail[begin + 1 :]
            step *= 4
