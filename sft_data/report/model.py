"""What a report tells. `measure` fills it in; terminal, Markdown, HTML and web only lay it out."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sft_data.store.manifest import InputFile, TokenizerEntry

__all__ = [
    "Check",
    "Choice",
    "Distribution",
    "EditGroup",
    "Example",
    "FunnelStep",
    "GateResult",
    "Mixture",
    "Packing",
    "RejectionGroup",
    "Report",
    "Share",
    "SourceFlow",
    "SplitFigures",
    "TwinPair",
]

FORMAT = 1


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Check(_Model):
    """One thing that makes the version trustworthy, or not."""

    name: str
    passed: bool
    told: str = Field(description="what was measured, for a person")


class Choice(_Model):
    """One choice of the settings that decides what is trained on, with what it cost."""

    name: str
    told: str = Field(description="what was chosen, and what that cost in rows and tokens")


class GateResult(_Model):
    """One limit that the pipeline sets."""

    name: str
    limit: Any
    measured: Any
    passed: bool


class FunnelStep(_Model):
    """One step, in river order: rows_in = rows_kept + the sum of rejected."""

    name: str
    kind: str
    rows_in: int
    rows_kept: int
    rejected: dict[str, int]
    edited: dict[str, int]


class SourceFlow(_Model):
    """What became of one source's rows."""

    name: str
    rows_in: int
    rows_kept: int
    rows_rejected: int
    rejected: dict[str, int] = Field(description="rows by code")
    tokens: int
    trained_tokens: int


class Mixture(_Model):
    """How often a group of training rows is seen in one epoch: a pass over the packs.

    In a version without packs, how often it is to be seen, on average, by a mix and the sources' weights.
    """

    by: str = Field(description="column that makes the groups: source, or that of a `mix`")
    name: str
    rows: int = Field(description="training rows")
    packed_rows: int = Field(description="rows in the packs, each as often as it is there; without: to be seen")
    unseen_rows: int = Field(description="training rows that stand in no pack; without packs: of weight 0")
    tokens: int = Field(description="tokens of these rows, each as often; 0 where nothing is tokenized")
    share: float = Field(description="of all tokens in an epoch, 0..1; where nothing is tokenized, of all rows")
    epochs: float = Field(description="packed_rows / rows: passes over the group in one epoch")


class SplitFigures(_Model):
    """One split."""

    name: str
    rows: int
    tokens: int
    trained_tokens: int
    packs: int


class Example(_Model):
    """One row of a ledger, as text."""

    id: str
    detail: str
    text: str = Field(description="beginning of the row, cut")


class RejectionGroup(_Model):
    """All rows that one stage rejected with one code."""

    stage: str
    code: str
    meaning: str = Field(description="the code's documented meaning; empty where the manifest does not hold it")
    rows: int
    share: float = Field(description="of all rows read")
    examples: list[Example]


class EditGroup(_Model):
    """All edits of one kind."""

    stage: str
    code: str
    meaning: str
    rows: int
    places: int
    examples: list[Example]


class TwinPair(_Model):
    """A row that was rejected as a duplicate, beside the row kept instead."""

    stage: str
    code: str
    score: float | None
    id: str
    text: str
    twin: str
    twin_text: str


class Distribution(_Model):
    """A histogram: bin i holds values from edges[i] up to, not including, edges[i + 1]; the last bin is open."""

    name: str
    title: str
    unit: str
    edges: list[float]
    kept: list[int]
    rejected: list[int] = Field(default=[], description="the same bins for the rows that left; empty where unknown")
    figures: dict[str, float] = Field(default={}, description="min, p10, median, mean, p90, p99, max of the kept rows")


class Share(_Model):
    """Part of the kept rows."""

    name: str
    rows: int
    share: float


class Packing(_Model):
    """The packs of one split."""

    split: str
    pack_length: int
    packs: int
    tokens: int
    method: str = Field(default="best-fit", description="the pipeline's `pack.method`")
    batch_rows: int | None = Field(default=None, description="rows of a batch where rows stand alone; null for packs")
    lower_bound: int = Field(description="fewer full packs than this are impossible, by the lengths of the rows")
    slots: int = Field(description="places for tokens: packs x pack length, or of all batches rows x longest row")
    padding: int = Field(description="slots that hold no token")
    fill: float = Field(description="tokens / slots")
    rows_per_pack: float
    histogram: Distribution

    @model_validator(mode="before")
    @classmethod
    def _of_an_older_report(cls, given: Any) -> Any:  # noqa: ANN401 - whatever a file holds
        """Reports written before there were other methods than packs counted no slots: they follow from the packs."""
        if isinstance(given, dict) and "slots" not in given and {"packs", "pack_length", "tokens"} <= set(given):
            slots = given["packs"] * given["pack_length"]
            return given | {"slots": slots, "padding": slots - given["tokens"]}
        return given

    @property
    def told(self) -> str:
        """The same for a person."""
        padding = f"{100 * self.fill:.1f} % full, {self.padding:,} slots of padding"
        if self.batch_rows is None:
            return (
                f"{self.packs:,} packs of {self.pack_length:,} ({self.method}), {padding}; "
                f"no packing needs fewer than {self.lower_bound:,}"
            )
        return (
            f"{self.packs:,} rows in batches of {self.batch_rows:,} ({self.method}), {padding}; "
            f"packed they would need {self.lower_bound:,} packs of {self.pack_length:,} at least"
        )


class Report(_Model):
    """Everything there is to tell about a version."""

    format: int = FORMAT
    name: str
    fingerprint: str
    parents: list[str]
    rows_in: int
    rows_kept: int
    rows_rejected: int
    tokens: int
    trained_tokens: int
    packs: int
    pack_fill: float | None
    checks: list[Check]
    gates: list[GateResult]
    funnel: list[FunnelStep]
    sources: list[SourceFlow]
    splits: list[SplitFigures]
    rejections: list[RejectionGroup] = Field(description="most rows first")
    edits: list[EditGroup]
    duplicates: list[TwinPair]
    distributions: list[Distribution]
    languages: list[Share]
    packing: list[Packing]
    mixture: list[Mixture] = Field(
        default=[], description="effective epochs by group; without packs where a mix or weights ask for them"
    )
    tokenizer: TokenizerEntry | None
    choices: list[Choice] = Field(
        default=[], description="selections, template, what is learnt, samples, long rows, curriculum"
    )
    inputs: list[InputFile]
    libraries: dict[str, str]
    pipeline: dict[str, Any]
