"""Versions at a URL: any file system that fsspec knows (s3://, gs://, hf://, memory://).

A remote version is the same folder as a local one. Its manifest is written last and only where none is, so that a
reader sees a whole version or none, and of two writers one is told that it came second.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sft_data.errors import MissingExtraError, StoreError

__all__ = ["Remote", "is_url", "open_remote"]

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

        A repeated request may meet what its own first attempt wrote, so equal content counts as written.
        """
        try:
            self._written(lambda: self.files.pipe_file(self._at(name), content, mode="create"))
        except FileExistsError:
            return self.read(name) == content
        return True

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
            except OSError as error:
                if attempt == ATTEMPTS - 1:
                    raise StoreError(f"{self.url} cannot be reached after {ATTEMPTS} attempts: {error}") from error
                time.sleep(FIRST_WAIT * 2**attempt)
        raise AssertionError


def open_remote(url: str) -> Remote:
    """The folder at `url`; credentials come from where the file system's own library looks for them."""
    try:
        import fsspec  # type: ignore[import-untyped]
    except ImportError:
        raise MissingExtraError("a version at a URL", "remote") from None
    try:
        local = {"auto_mkdir": True} if url.startswith(("file:", "local:")) else {}
        files, root = fsspec.core.url_to_fs(url, **local)
    except (ImportError, ValueError) as error:
        raise StoreError(f"{url} cannot be opened: {error}") from error
    return Remote(files, root, url)
