"""Exact copies: rows whose text is the same but for its layout."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from sft_data.dedup.gathering import Portion, gather, portions
from sft_data.dedup.older import OLDER, Older, read_older
from sft_data.dedup.ranking import Keep, rank_columns, ranked_by, ranking
from sft_data.stage import Decision, StageConfig

__all__ = ["ExactDedup", "same_layout"]

_ROOM = 24  # bytes a row that a portion may take: so few that there are several portions for several workers
_ROLES = {
    "conversation": ("system", "user", "assistant", "tool"),
    "prompt": ("system", "user", "tool"),
    "answer": ("assistant",),
}


class ExactDedup(StageConfig):
    """Keep one of the rows whose text is the same.

    Two texts are the same where they differ only in Unicode composition (NFC) and layout: line endings, white space at
    the end of a line, runs of blanks inside a line, white space around the text. Indentation inside, case, numbers and
    punctuation matter: Python lives by the first, "Polish" is not "polish", "C" is not "C++", x² is not x2 (which is
    why it is NFC and never NFKC). Roles, order of turns, tools, tool calls and reasoning belong to the text.

    Criteria `prompt` and `answer` look at one side only: `prompt` with `copies: 3` keeps up to three answers to a
    question. `answer` is for finding boilerplate; equal short answers to different questions are no duplicates.
    """

    scope: ClassVar[Literal["shard", "dataset"]] = "dataset"
    files: ClassVar[tuple[str, ...]] = ("against",)
    codes: ClassVar[Mapping[str, str]] = {"exact-duplicate": "the same text as the row named as its twin"}

    kind: Literal["exact-dedup"] = "exact-dedup"
    criterion: Literal["conversation", "prompt", "answer"] = Field(
        "conversation", description="what has to be the same: the conversation, its prompt or its answer"
    )
    keep: Keep = Field("first", description="which copy stays: first, longest, or best by the column `score`")
    score: str = Field("score", description="column that `keep: best` goes by; the highest stays")
    sources: tuple[str, ...] = Field((), description="sources whose rows are preferred, in this order, before `keep`")
    copies: int = Field(1, ge=1, description="how many rows with the same text stay, older ones counted")
    against: tuple[str, ...] = Field((), description=OLDER)

    def reads(self) -> dict[str, str]:
        return ranked_by(self.keep, self.score)

    def sketch(self, frame: pl.DataFrame) -> pl.DataFrame:
        texts = frame.select(_key_text(_ROLES[self.criterion])).to_series()
        keys = [hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts]
        ranks = rank_columns(frame, self.keep, self.score, self.sources)
        return frame.select(pl.col("id"), pl.Series("key", keys, dtype=pl.Binary), *ranks)

    def plain(self) -> ExactDedup:
        return ExactDedup(criterion=self.criterion)

    def sketch_older(self, frame: pl.DataFrame) -> pl.DataFrame:
        return self.plain().sketch(frame)

    def portions(self, rows: int, memory: int) -> list[Portion]:
        return portions({}, ["key"], rows, min(memory, rows * _ROOM))

    def gather(self, sketches: Sequence[pl.DataFrame], portion: Portion) -> pl.DataFrame:
        keys = [_numbers(sketch["key"]) for sketch in sketches]
        found = gather(keys, sum(map(len, keys)), portion)
        return pl.DataFrame({"row": np.flatnonzero(np.diff(found.offsets))})

    def decide(
        self,
        sketches: Sequence[pl.DataFrame],
        older: Sequence[Older] | None = None,
        gathered: Sequence[pl.DataFrame] | None = None,
    ) -> Decision:
        older = read_older(self) if older is None else older
        known = [each.sketch.select(each.names(), "key") for each in older]
        before = sum(sketch.height for sketch in known)  # rows that are there already: they stand first
        slim = pl.concat([*known, *(sketch.select("id", "key") for sketch in sketches)], rechunk=False)
        claim = np.arange(slim.height, dtype=np.int64)
        claim[ranking(sketches) + before] = np.arange(before, slim.height)
        rows = pl.concat(each["row"] for each in gathered) if gathered else pl.int_range(slim.height, eager=True)
        alike = slim.select(pl.all().gather(rows))
        ordered = alike.with_columns(row=rows - before, claim=pl.Series(claim[rows.to_numpy()]))
        numbered = ordered.sort("claim").with_columns(
            number=pl.int_range(pl.len()).over("key"), twin=pl.col("id").first().over("key")
        )
        return Decision(
            numbered.filter(pl.col("number") >= self.copies, pl.col("row") >= 0)
            .sort("row")
            .select(
                "row",
                code=pl.lit("exact-duplicate"),
                detail=pl.format("same {} as {}", pl.lit(self.criterion), "twin"),
                twin="twin",
                score=pl.lit(1.0),
            )
        )


def _numbers(keys: pl.Series) -> npt.NDArray[np.uint64]:
    """Keys of 16 bytes as two numbers each."""
    array = keys.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
    bounds, data = np.frombuffer(array.buffers()[1], dtype=np.int64), array.buffers()[2]
    if not len(array) or data is None:
        return np.empty((0, 2), dtype=np.uint64)
    bounds = bounds[array.offset : array.offset + len(array) + 1]
    return np.frombuffer(data, dtype=np.uint8)[bounds[0] : bounds[-1]].view(np.uint64).reshape(-1, 2)


def _key_text(roles: tuple[str, ...]) -> pl.Expr:
    """One text for each row, equal where the roles' turns are: JSON, so that no text can imitate a border."""
    fields = ("role", "name", "content", "reasoning", "tool_calls")
    turn = pl.struct(same_layout(pl.element().struct.field(name)).alias(name) for name in fields)
    turns = pl.col("messages").list.eval(turn.filter(pl.element().struct.field("role").is_in(roles)))
    tools = same_layout(pl.col("tools")) if "system" in roles else pl.lit(None, dtype=pl.String)
    return pl.struct(turns.alias("turns"), tools.alias("tools")).struct.json_encode()


def same_layout(text: pl.Expr) -> pl.Expr:
    r"""`text` composed (NFC), with one kind of line ending and no white space that nobody sees; indentation stays.

    >>> pl.select(same_layout(pl.lit("if a:\r\n    b   c  \n\n"))).item()
    'if a:\n    b c'
    """
    return (
        text.str.normalize("NFC")
        .str.replace_all(r"\r\n?", "\n")
        # A single blank, which is nearly every one, need not be rewritten as itself.
        .str.replace_all(r"(\S)(?:[\t\u00a0\u3000][ \t\u00a0\u3000]*| [ \t\u00a0\u3000]+)", "$1 ")
        .str.replace_all(r"[ \t\u00a0\u3000]+(\n|$)", "$1")
        .str.strip_chars()
    )
