"""Versions compared as bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def hashes(folder: Path) -> dict[str, str]:
    """Path -> hash of every file of a version but build.json, the one that tells when and how it was built."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "build.json"
    }
