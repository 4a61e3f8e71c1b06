"""Files written by a test, read the way a build reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl

from sft_data.formats.detect import detect
from sft_data.formats.ingest import read_unit, units_of
from sft_data.schema import CONVERSATIONS, REJECTIONS
from sft_data.sources.files import find_files
from sft_data.sources.settings import Source
from sft_data.stage import Outcome


def written(folder: Path, content: Any, name: str = "a.jsonl") -> Path:
    """A file of bytes, text, or rows as JSON Lines (a list when the name ends in .json)."""
    if not isinstance(content, str | bytes):
        content = json.dumps(content) if name.endswith(".json") else "".join(json.dumps(row) + "\n" for row in content)
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def outcomes(source: Source, shard_rows: int = 8192) -> list[Outcome]:
    """All outcomes of a source, held to conservation and to the schemas."""
    files = find_files(source)
    format_ = detect(source, files).format if source.format == "auto" else source.format
    found = [
        outcome for unit in units_of(source, files, format_) for outcome in read_unit(unit, source, format_, shard_rows)
    ]
    for outcome in found:
        assert dict(outcome.kept.schema) == dict(CONVERSATIONS)
        assert dict(outcome.rejected.schema) == dict(REJECTIONS)
        assert outcome.kept.height + outcome.rejected.height <= shard_rows
    return found


def read(path: Path, shard_rows: int = 8192, **settings: Any) -> Outcome:
    """One file as one outcome."""
    found = outcomes(Source(name="s", path=str(path), **settings), shard_rows)
    if not found:
        return Outcome(pl.DataFrame(schema=CONVERSATIONS))
    whole = Outcome(
        pl.concat([o.kept for o in found]), pl.concat([o.rejected for o in found]), pl.concat([o.edited for o in found])
    )
    identities = [*whole.kept["id"], *whole.rejected["id"]]
    assert len(set(identities)) == len(identities)
    return whole


def spoken(kept: pl.DataFrame) -> list[list[tuple[str, str]]]:
    """(role, content) of every turn."""
    return [[(turn["role"], turn["content"]) for turn in row] for row in kept["messages"].to_list()]


def why(outcome: Outcome) -> list[tuple[int, str]]:
    """Row number and code of every rejection."""
    return [(int(identity.rsplit(":", 1)[1]), code) for identity, code in outcome.rejected.select("id", "code").rows()]
