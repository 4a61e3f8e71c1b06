"""What a pipeline says about one source: where its files are, how to read them, by which rules to normalise them."""

from __future__ import annotations

import re
from collections import Counter
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from sft_data.sources.remote import is_url, secret_in

__all__ = ["NOT_CONTENT", "PLACEHOLDER", "Container", "Format", "Limits", "Rules", "Source", "Template"]

Format = Literal[
    "auto",
    "alpaca",
    "sharegpt",
    "messages",
    "prompt-response",
    "turn-list",
    "rounds",
    "moss",
    "transcript",
    "oasst-tree",
    "oasst-messages",
    "table",
    "evaluation",
]
Container = Literal["auto", "json", "jsonl", "csv", "tsv", "yaml", "parquet", "arrow"]
Encoding = Literal["auto", "utf-8", "utf-16", "utf-32", "gb18030", "big5", "shift_jis", "euc_kr", "latin-1", "cp1252"]


# Settings of a source that say where its rows are and how often they are packed, not what they become.
NOT_CONTENT = frozenset({"path", "subset", "split", "weight"})


class Limits(BaseModel):
    """How much of a file is believed before it is called hostile."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_row_bytes: int = Field(
        16 * 2**20, ge=2, description="longest row read, in bytes; a longer one is rejected and never held in memory"
    )
    max_nesting: int = Field(
        100, ge=1, le=200, description="deepest nesting of lists and objects inside a row, the row itself counted"
    )
    max_inflation: int = Field(
        1_000, ge=1, description="a compressed file may grow to this many times its size (small files: to 64 MiB)"
    )
    max_unpacked_bytes: int = Field(
        2 * 2**30,
        ge=1,
        description="a Parquet or Arrow file that is compressed or in an archive may have so many bytes",
    )


class Rules(BaseModel):
    """How turns are brought into the one order that every chat template can render."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    consecutive_turns: Literal["merge", "keep", "reject"] = Field(
        "merge", description="two user or two assistant turns in a row: join them with a blank line, keep, or reject"
    )
    assistant_first: Literal["reject", "drop", "keep"] = Field(
        "reject", description="an assistant or tool turn before any user turn: reject the row, drop the turn, or keep"
    )
    after_last_answer: Literal["drop", "reject", "keep"] = Field(
        "drop", description="user or tool turns that nobody answers at the end: drop them, reject the row, or keep"
    )
    system_inside: Literal["reject", "keep"] = Field(
        "reject", description="a system turn behind the first turn: reject the row or keep the turn where it is"
    )
    empty_turns: Literal["reject", "keep"] = Field(
        "reject",
        description="a user turn, or an answer that is not the last, without text: reject the row or keep it "
        "(an empty last answer always stays: the stage `answer-length` decides on it)",
    )
    placeholders: Literal["report", "reject", "keep"] = Field(
        "report", description="what looks like a forgotten {{name}}: note it in the ledger of edits, reject, or keep"
    )
    thinking: Literal["split", "keep"] = Field(
        "split", description="a leading <think>...</think> of an answer: keep it apart as reasoning, or in the text"
    )


# {column} in a template; {{ and }} are braces.
PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([^{}\n]{1,200})\}")


class Template(BaseModel):
    """How a row of a table becomes a conversation. {column} stands for the row's value, {{ and }} for braces."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str = Field(min_length=1, description="what the user says, such as: Is this review good or bad? {text}")
    response: str = Field(min_length=1, description="what the assistant answers, such as: {label}")
    system: str | None = Field(None, description="a system turn before both; none where it is left out")


class Source(BaseModel):
    """One input of a pipeline: a file, a glob or a folder, all of one format."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", description="short name, the first part of every row's id")
    path: str = Field(
        min_length=1,
        description="a file, a glob such as data/*.json, a folder, a URL of any of these (s3://bucket/*.jsonl), or "
        "a data set of the hub (hf://datasets/ORG/NAME, with @REVISION where it is to stay as it is)",
    )
    subset: str | None = Field(None, description="of a data set of the hub: its configuration, where it has several")
    split: str | None = Field(
        None, description="of a data set of the hub or a save_to_disk folder: the split that is read, or all"
    )
    weight: float = Field(
        1.0, ge=0.0, le=1_000.0, description="how often its training rows are packed: 2 twice, 0.5 every second one"
    )
    format: Format = Field("auto", description="what the rows look like; auto looks at many rows and says why")
    container: Container = Field("auto", description="how rows lie in a file; auto looks at each file's first bytes")
    encoding: Encoding = Field("auto", description="the text's encoding; auto knows marks, UTF-8, UTF-16 and GB18030")
    fields: dict[str, str] = Field(
        default_factory=dict,
        description="which column of the data holds which field of the format, such as {instruction: question}",
    )
    nan: Literal["reject", "null"] = Field(
        "reject", description="NaN and Infinity, which are no JSON: reject the row or read them as null"
    )
    templates: tuple[Template, ...] = Field(
        (), description="format table: how columns become prompt and response; a row's id picks one of several"
    )
    labels: dict[str, dict[str, str]] = Field(
        default_factory=dict, description="format table: what a column's values mean, such as {label: {'0': bad}}"
    )
    seed: int = Field(0, description="format table: another seed gives rows other templates")
    limits: Limits = Field(default_factory=Limits, description="row size, nesting and growth that are accepted")
    rules: Rules = Field(default_factory=Rules, description="how the order of turns is normalised")

    @field_validator("path")
    @classmethod
    def _no_secret(cls, path: str) -> str:
        if is_url(path) and (secret := secret_in(path)) is not None:
            raise ValueError(f"the URL holds {secret}; credentials come from the environment and stand in no pipeline")
        return path

    @field_validator("fields")
    @classmethod
    def _one_column_one_field(cls, fields: dict[str, str]) -> dict[str, str]:
        twice = sorted(column for column, count in Counter(fields.values()).items() if count > 1)
        if twice:
            raise ValueError(f"column {twice[0]!r} is given to more than one field")
        return fields

    @model_validator(mode="after")
    def _templates_and_table(self) -> Source:
        if self.format == "table" and not self.templates:
            raise ValueError(
                "format table needs `templates`, such as [{prompt: 'Summarise: {text}', response: '{summary}'}]"
            )
        if self.format != "table" and (self.templates or self.labels or self.seed):
            raise ValueError("`templates`, `labels` and `seed` have a meaning for `format: table` only")
        return self
