"""Files at a URL: listed there, fetched once into a local folder, read from there like any other file.

    s3://bucket/folder/*.jsonl   gs://...   hf://datasets/org/name/data/train-*.parquet   https://host/rows.jsonl.gz

Any file system of fsspec will do; its own library looks for credentials (environment, profile, instance): they never
stand in a URL, a pipeline or a manifest. What identifies a file is the hash of its bytes, as on a disk. What the server
says of it (ETag, time, size) only tells whether the fetched copy is still the file.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal, TypeVar

from sft_data.errors import MissingExtraError, SourceError

__all__ = ["Entry", "Listing", "fetch", "fetched_folder", "is_url", "list_url", "secret_in"]

ATTEMPTS = 6
FIRST_WAIT = 0.1  # seconds; doubled each time: 3.1 s over all attempts
CHUNK = 16 * 2**20  # bytes asked for at a time: a broken connection costs no more than this
KEEP_BYTES = 64 * 2**30  # fetched files that are kept; beyond this the longest unused go
KEEP_SECONDS = 86_400  # a file used within a day may be in use by another build
_WILDCARDS = re.compile(r"[*?\[]")
# What servers say that changes with a file's content, the first of them that is there counts; then times.
_MARKS = ("ETag", "etag", "blob_id", "md5Hash", "Content-MD5", "content_md5", "generation", "VersionId")
_TIMES = ("LastModified", "Last-Modified", "last_modified", "mtime", "updated", "created")
_SECRET = re.compile(r"[?&#][^=&]*(?:sig|token|key|secret|password|credential|auth)[^=&]*=", re.IGNORECASE)
# These are answers, not accidents: asking again would not change them.
_FINAL = (PermissionError, NotADirectoryError, IsADirectoryError, ImportError, TypeError)

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Entry:
    """A file at a URL. `mark` changes when the file does; None where the server tells nothing to go by."""

    name: str  # path below the source's common folder
    url: str
    size: int | None  # bytes; None where the server does not say
    mark: str | None


@dataclass(frozen=True)
class Listing:
    """What a URL names. `near`: where that is nothing, the names that lie in the folder in which it was looked for."""

    kind: Literal["file", "folder", "wildcards"]
    entries: list[Entry]
    near: list[str]


def is_url(path: str) -> bool:
    """Whether a source's path is a URL.

    >>> is_url("s3://bucket/a.jsonl"), is_url("data/a.jsonl")
    (True, False)
    """
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*(?:://|::)", path) is not None


def secret_in(url: str) -> str | None:
    """What in a URL would put a secret into every manifest, or is no plain address; None where it is fine.

    >>> secret_in("https://me:pw@host/a.jsonl"), secret_in("hf://datasets/org/name@main")
    ('a user name or password', None)
    """
    protocol, _, rest = url.partition("://")
    if "::" in url:
        return "a chain of addresses (::); name the archive itself, its members are read"
    if "@" in rest.partition("/")[0]:
        return "a user name or password"
    if protocol.lower() in {"http", "https"} and _SECRET.search(rest):
        return "a signature or key"
    return None


def list_url(url: str) -> Listing:
    """The file that a URL names, the files that match its wildcards, or all below it. http knows no wildcards.

    SourceError where the place cannot be asked.
    """
    files, root = _open(url)
    wild = None if url.startswith("http") else _WILDCARDS.search(root)
    with _explained(url):
        if wild is not None:
            folder = root[: wild.start()].rpartition("/")[0]
            return _listing(files, "wildcards", folder, _asked(lambda: files.glob(root, detail=True)))
        try:
            info = _asked(lambda: files.info(root))
        except FileNotFoundError:
            return Listing("file", [], _names_in(files, root.rpartition("/")[0]))
        if info["type"] != "directory":
            return Listing("file", [_entry(files, info, PurePosixPath(root).name)], [])
        return _listing(files, "folder", root.rstrip("/"), _asked(lambda: files.find(root, detail=True)))


def _listing(files: Any, kind: Literal["folder", "wildcards"], folder: str, found: Mapping[str, Any]) -> Listing:  # noqa: ANN401
    infos = [info for info in found.values() if info["type"] == "file"]
    entries = [_entry(files, info, info["name"].removeprefix(folder).lstrip("/")) for info in infos]
    near = [] if entries else _names_in(files, folder)
    return Listing(kind, sorted(entries, key=lambda entry: entry.name), near)


def _open(url: str) -> tuple[Any, str]:
    """The file system of a URL, with nothing remembered of earlier listings, and the path in it."""
    try:
        import fsspec  # type: ignore[import-untyped]
    except ImportError:
        raise MissingExtraError("a source at a URL", "remote") from None
    try:
        files, root = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise SourceError(f"{url} cannot be opened: {error}") from error
    with _explained(url):
        files.invalidate_cache()
    return files, root


def _entry(files: Any, info: Mapping[str, Any], name: str) -> Entry:  # noqa: ANN401 - fsspec ships no types
    return Entry(name, str(files.unstrip_protocol(info["name"])), info.get("size"), _mark(info))


def _mark(info: Mapping[str, Any]) -> str | None:
    said = next((info[key] for key in (*_MARKS, *_TIMES) if info.get(key)), None)
    if isinstance(said, datetime):  # a listing may tell as a number what a single file tells as a date
        said = said.timestamp()
    return None if said is None else f"{info.get('size')} {said}"


def _names_in(files: Any, folder: str) -> list[str]:  # noqa: ANN401 - fsspec ships no types
    """Names in a folder; none where it cannot be listed."""
    try:
        return sorted(PurePosixPath(name).name for name in files.ls(folder, detail=False))
    except Exception:
        return []  # they only help with a message that is on its way already


# ---- fetching -------------------------------------------------------------------------------------------------------


def fetched_folder() -> Path:
    """Where fetched files are kept: SFT_DATA_CACHE, else below the user's cache folder. Ray nodes must share it."""
    cache = os.environ.get("SFT_DATA_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "sft-data")
    return Path(cache).expanduser() / "sources"


def fetch(entries: Sequence[Entry], folder: Path | None = None) -> list[Path]:
    """A local copy of each entry, fetched only where there is none of the file as it is now.

    An interrupted fetch goes on where it was. SourceError where a file cannot be had whole.
    """
    folder = folder or fetched_folder()
    _check_room(entries, folder)
    copies = [_fetch(entry, folder) for entry in entries]
    _clean(folder, keep=set(copies))
    return copies


def _copy_of(entry: Entry, folder: Path) -> Path:
    of_url = hashlib.sha256(entry.url.encode()).hexdigest()[:24]
    of_mark = hashlib.sha256((entry.mark or uuid.uuid4().hex).encode()).hexdigest()[:24]
    return folder / of_url / of_mark


def _fetch(entry: Entry, folder: Path) -> Path:
    copy = _copy_of(entry, folder)
    part = copy.with_suffix(".part")
    with _writable(folder):
        copy.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as target:
            fcntl.flock(target, fcntl.LOCK_EX)  # another build may fetch the same file: it waits, then finds it
            if not copy.exists():
                _download(entry, target)
                target.flush()
                os.fsync(target.fileno())
                part.rename(copy)
            else:
                part.unlink(missing_ok=True)
    status = copy.stat()
    os.utime(copy, ns=(time.time_ns(), status.st_mtime_ns))  # when it was last used; its time of change stays
    return copy


def _download(entry: Entry, target: IO[bytes]) -> None:
    """Append what is missing of a file, piece by piece; every piece has the length that was asked for."""
    files, root = _open(entry.url)
    if entry.size is None or entry.mark is None:
        target.truncate(0)
    if entry.size is None:
        with _explained(entry.url):
            whole = _asked(lambda: files.cat_file(root))
        target.write(whole)
        return
    while (at := target.tell()) < entry.size:
        with _explained(entry.url):
            piece = _asked(lambda at=at: _piece(files, root, at, entry.size))  # type: ignore[misc]
        target.write(piece)
    with _explained(entry.url):
        files.invalidate_cache()
        now = _entry(files, _asked(lambda: files.info(root)), entry.name)
    if (now.size, now.mark) != (entry.size, entry.mark):
        target.truncate(0)
        raise SourceError(f"{entry.url} was changed while it was fetched; run again when it is finished")


def _piece(files: Any, root: str, at: int, size: int) -> bytes:  # noqa: ANN401 - fsspec ships no types
    wanted = min(CHUNK, size - at)
    piece = bytes(files.cat_file(root, start=at, end=at + wanted))
    if len(piece) == size and wanted < size:  # a server that knows no ranges answers with everything
        return piece[at:]
    if len(piece) != wanted:
        raise OSError(f"the server answered {len(piece):,} bytes where {wanted:,} from byte {at:,} on were asked for")
    return piece


def _asked(request: Callable[[], Answer]) -> Answer:
    """The answer to a request, repeated where it fails by accident."""
    for attempt in range(ATTEMPTS):
        try:
            return request()
        except (FileNotFoundError, *_FINAL):
            raise
        except Exception as error:
            if attempt == ATTEMPTS - 1 or "credentials" in type(error).__name__.lower():
                raise
            time.sleep(FIRST_WAIT * 2**attempt)
    raise AssertionError


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """What the libraries of file systems raise, of many kinds, as one error with its place."""
    try:
        yield
    except SourceError:
        raise
    except FileNotFoundError as error:
        raise SourceError(f"{url} is not there (any more)") from error
    except PermissionError as error:
        raise SourceError(f"{url} may not be read: {error or 'permission denied'}{_ADVICE}") from error
    except Exception as error:
        why = str(error) or type(error).__name__
        advice = _ADVICE if "credentials" in type(error).__name__.lower() else f" (asked {ATTEMPTS} times)"
        raise SourceError(f"{url} cannot be read: {why}{advice}") from error


_ADVICE = (
    "; credentials come from the environment or a profile, as for the provider's own tools (such as "
    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or HF_TOKEN)"
)


# ---- the folder of copies -------------------------------------------------------------------------------------------


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SourceError(
            f"{folder}, where fetched files are kept, cannot be written: {error}; SFT_DATA_CACHE names another folder"
        ) from error


def _check_room(entries: Sequence[Entry], folder: Path) -> None:
    missing = sum(entry.size or 0 for entry in entries if not _copy_of(entry, folder).exists())
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(existing).free
    if missing > free:
        raise SourceError(
            f"{missing:,} bytes are to be fetched and {existing} has {free:,} free; SFT_DATA_CACHE names another folder"
        )


def _clean(folder: Path, keep: set[Path]) -> None:
    """Remove copies that no build uses: those of files that changed since, and the longest unused beyond KEEP_BYTES."""
    found = sorted(
        (status.st_atime, path, status.st_size)
        for path in folder.glob("*/*")
        if path not in keep and (status := path.stat()).st_atime < time.time() - KEEP_SECONDS
    )
    current = {path.parent for path in keep}
    total = sum(size for _, _, size in found) + sum(path.stat().st_size for path in keep)
    for _, path, size in found:
        if path.parent in current or path.suffix == ".part" or total > KEEP_BYTES:
            path.unlink(missing_ok=True)
            total -= size
