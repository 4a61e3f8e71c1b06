"""The manifest: everything that a version is, as one JSON object.

It holds no time, no machine and no path outside the version, so that two builds of the same pipeline over the same
inputs write the same bytes. When and how a version was built stands beside it in `build.json`.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "FORMAT",
    "Counts",
    "FileEntry",
    "InputFile",
    "Manifest",
    "SplitCounts",
    "StepEntry",
    "TokenizerEntry",
    "kind_of",
]

FORMAT = 1


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class InputFile(_Model):
    """One file that was read."""

    source: str = Field(description="name of the source in the pipeline")
    file: str = Field(description="path of the file below the source's common folder")
    sha256: str = Field(description="hash of the bytes as they lie on disk")
    bytes: int = Field(description="size on disk")
    origin: str | None = Field(
        default=None, description="the URL that it was fetched from, of the hub's files with the commit; null: local"
    )


class StepEntry(_Model):
    """What one step of the plan did: rows_in == rows_kept + the sum of rejected."""

    name: str = Field(description="unique in the plan, in river order: 'read:alpaca', '02:near-dedup', 'tokenize'")
    kind: str = Field(description="the stage's kind")
    revision: int = Field(description="revision of the stage's code")
    fingerprint: str = Field(description="hash of settings, revision, libraries and everything upstream")
    settings: dict[str, Any] = Field(description="the stage's settings")
    rows_in: int
    rows_kept: int
    rejected: dict[str, int] = Field(default={}, description="rows by code")
    edited: dict[str, int] = Field(default={}, description="rows touched, by code")
    codes: dict[str, str] = Field(default={}, description="what its codes mean, as the release that built it says")


class SplitCounts(_Model):
    """Figures of one split."""

    rows: int
    tokens: int = 0
    trained_tokens: int = 0
    packs: int = 0
    packed_tokens: int | None = Field(
        default=None, description="tokens in the packs, where sources are weighted other than `tokens`; null: the same"
    )
    pack_slots: int = Field(
        default=0, description="packs x pack length, of batches rows x width: packed_tokens / pack_slots is the fill"
    )


class Counts(_Model):
    """Figures of the whole version: rows_in == rows_kept + rows_rejected."""

    rows_in: int
    rows_kept: int
    rows_rejected: int
    by_source: dict[str, dict[str, int]] = Field(
        default={}, description="source -> {rows_in, rows_kept, rows_rejected}"
    )
    splits: dict[str, SplitCounts] = {}

    @property
    def tokens(self) -> int:
        """Tokens over all splits."""
        return sum(split.tokens for split in self.splits.values())

    @property
    def pack_fill(self) -> float | None:
        """Share of the pack slots that hold tokens, over all splits; None without packs."""
        slots = sum(split.pack_slots for split in self.splits.values())
        packed = sum(s.tokens if s.packed_tokens is None else s.packed_tokens for s in self.splits.values() if s.packs)
        return round(packed / slots, 6) if slots else None

    @property
    def packs(self) -> int:
        """Packs over all splits."""
        return sum(split.packs for split in self.splits.values())


class TokenizerEntry(_Model):
    """The tokenizer as bytes, not as a name."""

    name: str = Field(description="last part of the path it was loaded from")
    sha256: str = Field(description="hash over its files and the chat template")
    template_sha256: str = Field(description="hash of the chat template's text")
    vocab_size: int
    max_length: int
    pack_length: int | None = None
    pad_token_id: int | None = None
    stop_token_ids: list[int] = []


class FileEntry(_Model):
    """One file of the version."""

    path: str = Field(description="below the version's folder, with /")
    sha256: str
    bytes: int
    rows: int | None = Field(default=None, description="rows, for tables")


class Manifest(_Model):
    """One version of a dataset."""

    format: int = FORMAT
    name: str
    fingerprint: str = Field(description="64 hex digits; the same inputs, pipeline and code give the same")
    parents: list[str] = Field(default=[], description="fingerprints of the versions that this one was built against")
    pipeline: dict[str, Any]
    inputs: list[InputFile]
    steps: list[StepEntry]
    libraries: dict[str, str] = Field(description="name -> version of every library that decided a byte")
    tokenizer: TokenizerEntry | None = None
    counts: Counts
    gates: dict[str, Any] = Field(default={}, description="gate -> {limit, measured, passed}")
    files: list[FileEntry] = Field(default=[], description="every file of the version but manifest.json and build.json")


def kind_of(manifest: Manifest, stage: str) -> str:
    """The kind of the step that wrote ledger rows under the name `stage`.

    Reading writes under several names ("read", "normalize"), none of which is a step of its own.
    """
    return stage if any(step.kind == stage for step in manifest.steps) else "read"
