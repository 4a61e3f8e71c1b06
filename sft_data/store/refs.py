"""`latest` and the tags of a dataset: the only things in a store that move."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sft_data.errors import StoreError
from sft_data.store.layout import REFS
from sft_data.store.log import locked

__all__ = ["Refs", "lock", "read_refs", "replace_file", "write_refs"]


class Refs(BaseModel):
    """What names of versions point at."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    latest: int | None = Field(default=None, description="number of the version that the bare name means")
    newest: int = Field(
        default=0, description="highest number that was ever published: keeps a late publisher in order"
    )
    tags: dict[str, int] = Field(default={}, description="tag -> number of a version")


def lock(store: Path, name: str) -> AbstractContextManager[None]:
    """Hold the dataset's lock: who moves a reference or takes a number does it alone."""
    return locked(store / name / ".lock")


def read_refs(store: Path, name: str) -> Refs:
    """References of a dataset; empty ones where nothing was published."""
    path = store / name / REFS
    try:
        return Refs.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Refs()
    except ValidationError as error:
        raise StoreError(
            f"{path} is damaged: {error.errors()[0]['msg']}; delete it, then `sft-data rollback {name}@vN` "
            "makes a version the latest again (tags must be given anew, the log tells them)"
        ) from error


def write_refs(store: Path, name: str, refs: Refs) -> None:
    """Replace a dataset's references in one move."""
    replace_file(store / name / REFS, orjson.dumps(refs.model_dump(), option=orjson.OPT_INDENT_2))


def replace_file(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Write a small file so that a reader sees the old one or the new one, whole."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
