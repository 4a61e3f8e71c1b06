"""The store's index of published rows (see `sft_data/against.py`): which of its cells belong to which files."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import orjson

from sft_data.cells import RECORD
from sft_data.fingerprint import file_sha256
from sft_data.store.layout import INDEX, MANIFEST

__all__ = ["damaged", "index_cells", "orphans"]


def index_cells(store: Path) -> Iterator[tuple[Path, dict[str, str], str]]:
    """Each cell's folder, the hashes of its files by name, and the hash of the file that it was made from."""
    for cell in sorted((store / INDEX / "cells").glob("*/*")):
        try:
            record = orjson.loads((cell / RECORD).read_bytes())
            hashes = {name: str(entry["sha256"]) for name, entry in record["files"].items()}
            yield cell, hashes, str(record["told"]["of"])
        except (OSError, orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            yield cell, {}, ""


def damaged(store: Path, files: Collection[str]) -> Iterator[str]:
    """One sentence for each index file made from one of `files` (hashes) that is not as it was written."""
    for cell, hashes, of in index_cells(store):
        if of not in files:
            continue
        for name, sha in hashes.items():
            path = cell / name
            if not path.exists() or file_sha256(path) != sha:
                yield f"{path.relative_to(store)} was changed: delete its folder, the next build makes it again"


def orphans(store: Path) -> list[Path]:
    """Cells made from files that no version and no draft of the store has."""
    held: set[str] = set()
    for manifest in store.glob(f"*/*/{MANIFEST}"):
        try:
            held |= {entry["sha256"] for entry in orjson.loads(manifest.read_bytes())["files"]}
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return []  # what a version holds is not known, so nothing is rubbish
    return [cell for cell, _, of in index_cells(store) if of not in held]
