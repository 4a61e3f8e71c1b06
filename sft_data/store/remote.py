"""Files at a URL: any file system that fsspec knows (s3://, gs://, hf://, memory://), and folders of this machine.

Everything above builds on one promise: `create` writes a file only where there is none, and of two writers at once
one is told that it came second. S3 keeps it by `If-None-Match: *`, a local folder by a hard link.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from sft_data.errors import MissingExtraError, StoreError

__all__ = ["LocalFiles", "Remote", "Stored", "is_url", "open_remote"]

ATTEMPTS = 6
FIRST_WAIT = 0.05  # seconds; doubled each time: 1.6 s over all attempts
# These are answers, not accidents: asking again would not change them.
FINAL = (PermissionError, NotADirectoryError, IsADirectoryError)

Answer = TypeVar("Answer")


def is_url(place: str | Path) -> bool:
    """Whether a place is a URL and not a path."""
    return "://" in str(place)


class Remote:
    """A folder at a URL. Each request is repeated a few times where it fails by accident."""

    def __init__(self, files: Any, root: str, url: str) -> None:  # noqa: ANN401 - fsspec ships no types
        self.files = files
        self.root = root.rstrip("/")
        self.url = url

    def read(self, name: str) -> bytes | None:
        """A small file's bytes, None where there is none."""
        try:
            return bytes(self._asked(lambda: self.files.cat_file(self._at(name))))
        except FileNotFoundError:
            return None

    def fetch(self, name: str, target: Path) -> None:
        """Copy a file from there."""
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._asked(lambda: self.files.get_file(self._at(name), str(target)))
        except FileNotFoundError as error:
            raise StoreError(f"{self.url} is not a whole version: {name} is missing") from error

    def send(self, source: Path, name: str) -> None:
        """Copy a file there."""
        self._written(lambda: self.files.put_file(str(source), self._at(name)))

    def write(self, name: str, content: bytes) -> None:
        """Write a small file, over what is there."""
        self._written(lambda: self.files.pipe_file(self._at(name), content))

    def create(self, name: str, content: bytes) -> bool:
        """Write a small file only where there is none. False: another was there first, with other content.

        A repeated request may meet what its own first attempt wrote, so equal content counts as written. Libraries tell
        a refused condition (S3: 412) by errors of many kinds, so what decides is what stands there afterwards.
        """
        for attempt in range(ATTEMPTS):
            try:
                self.files.pipe_file(self._at(name), content, mode="create")
            except FINAL as error:
                raise StoreError(f"{self.url} cannot be written: {error}") from error
            except FileNotFoundError as error:
                raise StoreError(f"{self.url} cannot be written: {error}") from error
            except ValueError as error:
                raise StoreError(f"{self.url} cannot hold a store: {error}") from error
            except Exception as error:
                if not _by_accident(error):
                    raise
                there = self.read(name)
                if there is not None:
                    return there == content
                if attempt + 1 >= _attempts(error):
                    raise self._unreachable(error) from error
                time.sleep(FIRST_WAIT * 2**attempt)
            else:
                return True
        raise AssertionError

    def all_below(self, name: str) -> list[Stored]:
        """Every file below a folder, with its size and the time it was written."""
        self.files.invalidate_cache()
        try:
            found = self._asked(lambda: self.files.find(self._at(name), detail=True))
        except FileNotFoundError:
            return []
        cut = len(self.root.strip("/")) + 1
        return [Stored(path.strip("/")[cut:], int(info["size"]), _written_at(info)) for path, info in found.items()]

    def remove(self, name: str) -> None:
        """Remove a file; one that is gone already is fine."""
        with suppress(FileNotFoundError):
            self._asked(lambda: self.files.rm_file(self._at(name)))

    def _at(self, name: str) -> str:
        return f"{self.root}/{name}"

    def _written(self, request: Callable[[], Any]) -> None:
        try:
            self._asked(request)
        except FileNotFoundError as error:
            raise StoreError(f"{self.url} cannot be written: {error}") from error

    def _asked(self, request: Callable[[], Answer]) -> Answer:
        for attempt in range(ATTEMPTS):
            try:
                return request()
            except (FileNotFoundError, FileExistsError):
                raise
            except FINAL as error:
                raise StoreError(f"{self.url} cannot be used: {error}") from error
            except Exception as error:
                if not _by_accident(error):
                    raise
                if attempt + 1 >= _attempts(error):
                    raise self._unreachable(error) from error
                time.sleep(FIRST_WAIT * 2**attempt)
        raise AssertionError

    def _unreachable(self, error: Exception) -> StoreError:
        return StoreError(f"{self.url} cannot be reached after {_attempts(error)} attempts: {error}")


@dataclass(frozen=True)
class Stored:
    """A file at a URL."""

    name: str
    bytes: int
    written: float  # seconds since 1970; now, where the file system does not tell


class LocalFiles:
    """A folder of this machine with the few methods of a file system of fsspec that are used here, without fsspec."""

    def cat_file(self, path: str) -> bytes:
        return Path(path).read_bytes()

    def get_file(self, path: str, target: str) -> None:
        shutil.copyfile(path, target)

    def put_file(self, source: str, path: str) -> None:
        draft = self._draft(path)
        try:
            shutil.copyfile(source, draft)
            self._flush(draft)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)

    def pipe_file(self, path: str, content: bytes, mode: str = "overwrite") -> None:
        draft = self._draft(path)
        try:
            draft.write_bytes(content)
            self._flush(draft)
            os.link(draft, path) if mode == "create" else draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)

    def find(self, path: str, *, detail: bool) -> dict[str, dict[str, Any]]:
        files = [file for file in Path(path).rglob("*") if file.is_file()] if detail else []
        return {str(file): {"size": file.stat().st_size, "mtime": file.stat().st_mtime} for file in sorted(files)}

    def rm_file(self, path: str) -> None:
        Path(path).unlink()

    def invalidate_cache(self) -> None: ...

    def _draft(self, path: str) -> Path:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        return target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")

    def _flush(self, path: Path) -> None:
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _attempts(error: Exception) -> int:
    """Where nobody answers at all, the library below has asked for ten seconds each time."""
    return 2 if type(error).__name__ in ("EndpointConnectionError", "ConnectTimeoutError") else ATTEMPTS


def _by_accident(error: Exception) -> bool:
    """Whether the same request may succeed later. The libraries below fsspec let some errors of their own through."""
    return isinstance(error, OSError) or type(error).__module__.split(".")[0] in ("botocore", "aiobotocore", "aiohttp")


def _written_at(info: dict[str, Any]) -> float:
    """Each file system of fsspec has its own name for it."""
    for key in ("LastModified", "mtime", "last_modified", "updated", "created"):
        told = info.get(key)
        if isinstance(told, int | float):
            return float(told)
        if isinstance(told, datetime):
            return told.timestamp()
    return time.time()


def open_remote(url: str) -> Remote:
    """The folder at `url`; credentials come from where the file system's own library looks for them."""
    if url.startswith(("file:", "local:")) or not is_url(url):
        path = unquote(urlsplit(url).path) if is_url(url) else url
        return Remote(LocalFiles(), str(Path(path).absolute()), url)
    try:
        import fsspec  # type: ignore[import-untyped]
    except ImportError:
        raise MissingExtraError("a version at a URL", "remote") from None
    try:
        files, root = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise StoreError(f"{url} cannot be opened: {error}") from error
    return Remote(files, root, url)
