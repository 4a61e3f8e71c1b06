"""The guard: a stage that breaks its contract is a bug that is told, never rows that are lost."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import pytest

from sft_data.errors import StageError
from sft_data.schema import EDITS, REJECTIONS
from sft_data.stage import (
    Decision,
    Outcome,
    Rule,
    apply_decision,
    reject,
    run_dataset_stage,
    run_stage,
)
from tests.frames import chat, codes, conversations, ids

ROWS = conversations(chat("a", "one"), chat("b", "two", source="t"), chat("c", "three"), chat("d", "four"))


@dataclass(frozen=True)
class Stage:
    """A stage made of one function."""

    apply: Callable[[pl.DataFrame], Outcome]
    kind: str = "tested"
    needs: tuple[str, ...] = ()
    adds: dict[str, Any] = field(default_factory=dict)
    edits: bool = False
    codes: dict[str, str] = field(default_factory=lambda: {"bad": "it is bad"})


@dataclass(frozen=True)
class Picker:
    """A dataset-scope stage that rejects given rows and gives every row the number of its answer's letters."""

    rows: tuple[int, ...]
    kind: str = "picker"
    adds: dict[str, Any] = field(default_factory=lambda: {"length": pl.Int64()})
    codes: dict[str, str] = field(default_factory=lambda: {"picked": "it was picked"})

    def sketch(self, frame: pl.DataFrame) -> pl.DataFrame:
        answer = pl.col("messages").list.last().struct.field("content")
        return frame.select("id", length=answer.str.len_chars().cast(pl.Int64))

    def decide(self, sketches: Sequence[pl.DataFrame]) -> Decision:
        whole = pl.concat(sketches)
        rejected = pl.DataFrame(
            {"row": list(self.rows), "code": ["picked"] * len(self.rows), "twin": [whole["id"][0]] * len(self.rows)},
            schema_overrides={"row": pl.Int64, "code": pl.String, "twin": pl.String},
        )
        return Decision(rejected, whole.select("length"))


def dropping(*dropped: str, code: str = "bad", **ledger: Any) -> Callable[[pl.DataFrame], Outcome]:
    def apply(frame: pl.DataFrame) -> Outcome:
        leaves = pl.col("id").is_in(list(dropped))
        return Outcome(
            frame.filter(~leaves),
            frame.filter(leaves).select("id", code=pl.lit(code), **{k: pl.lit(v) for k, v in ledger.items()}),
        )

    return apply


def test_guard_completes_the_ledger_with_stage_source_and_text():
    rejected = run_stage(Stage(dropping("b", detail="2 < 3")), ROWS).rejected
    assert rejected.schema == REJECTIONS
    assert rejected.select("id", "source", "stage", "code", "detail").rows() == [("b", "t", "tested", "bad", "2 < 3")]
    assert '"content":"two"' in rejected["text"][0]


def test_guard_does_not_believe_a_stage_about_stage_source_or_text():
    rejected = run_stage(Stage(dropping("a", stage="other", source="x", text="y")), ROWS).rejected
    assert rejected.select("stage", "source").rows() == [("tested", "s")]
    assert rejected["text"][0] != "y"


def test_guard_keeps_rows_in_order():
    assert ids(run_stage(Stage(dropping("b")), ROWS).kept) == ["a", "c", "d"]


def shout(frame: pl.DataFrame) -> Outcome:
    loud = pl.element().struct.with_fields(pl.element().struct.field("content").str.to_uppercase())
    said = frame.head(1).select("id", code=pl.lit("bad"), count=pl.lit(2, dtype=pl.Int64))
    return Outcome(frame.with_columns(pl.col("messages").list.eval(loud)), edited=said)


BROKEN: dict[str, tuple[Stage, str]] = {
    "a row is lost": (Stage(lambda f: Outcome(f.head(3))), "lost rows: 4 in, 3 kept, 0 rejected"),
    "a row is kept and rejected": (
        Stage(lambda f: Outcome(f, f.head(1).select("id", code=pl.lit("bad")))),
        "lost rows: 4 in, 4 kept, 1 rejected",
    ),
    "a row is kept twice for another": (
        Stage(lambda f: Outcome(pl.concat([f.head(1), f.head(3)]))),
        "other rows than it got",
    ),
    "a row is rejected twice for another": (
        Stage(lambda f: Outcome(f.head(2), pl.concat([f.tail(1)] * 2).select("id", code=pl.lit("bad")))),
        "other rows than it got",
    ),
    "the order is changed": (Stage(lambda f: Outcome(f.reverse())), "changed the order"),
    "the order of the rest is changed": (
        Stage(lambda f: Outcome(f.tail(3).reverse(), f.head(1).select("id", code=pl.lit("bad")))),
        "changed the order",
    ),
    "a column is added in silence": (Stage(lambda f: Outcome(f.with_columns(x=1))), "added column `x`"),
    "a column is dropped": (Stage(lambda f: Outcome(f.drop("tools"))), "tools: expected String, found no such column"),
    "a column changes its type": (
        Stage(lambda f: Outcome(f.with_columns(pl.col("weight").cast(pl.Float64)))),
        "weight: expected Float32, found Float64",
    ),
    "texts are changed in silence": (Stage(shout), "changed column `messages` without declaring it"),
    "another column is changed in silence": (
        Stage(lambda f: Outcome(f.with_columns(weight=pl.lit(2.0, dtype=pl.Float32))), edits=True),
        "changed column `weight` without declaring it",
    ),
    "a promised column is missing": (Stage(Outcome, adds={"lang": pl.String()}), "lang: expected String"),
    "a code is not documented": (Stage(dropping("a", code="odd")), "code it does not document: 'odd'"),
    "a code is missing": (
        Stage(lambda f: Outcome(f.tail(3), f.head(1).select("id", code=pl.lit(None, dtype=pl.String)))),
        "code it does not document: None",
    ),
    "an edit's code is not documented": (
        Stage(lambda f: Outcome(f, edited=f.head(1).select("id", code=pl.lit("odd"), count=1))),
        "code it does not document: 'odd'",
    ),
    "a needed column is absent": (Stage(Outcome, needs=("lang",)), "needs column `lang`"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_guard_tells_a_stage_that(case: str):
    stage, message = BROKEN[case]
    with pytest.raises(StageError, match="tested") as caught:
        run_stage(stage, ROWS)
    assert message in str(caught.value)


def test_guard_renews_the_hash_of_edited_rows_and_completes_the_ledger_of_edits():
    outcome = run_stage(Stage(shout, edits=True), ROWS)
    upper = conversations(
        *(chat(i, t, "WHAT IS IT?") for i, t in zip("abcd", ["ONE", "TWO", "THREE", "FOUR"], strict=True))
    )
    assert outcome.kept["content_hash"].to_list() == upper["content_hash"].to_list()
    assert outcome.edited.schema == EDITS
    assert outcome.edited.select("id", "source", "stage", "code", "count").rows() == [("a", "s", "tested", "bad", 2)]


def test_guard_puts_added_columns_behind_in_declared_order_and_lets_a_stage_overwrite_them():
    adds = {"lang": pl.String(), "score": pl.Int64()}
    stage = Stage(lambda f: Outcome(f.with_columns(score=pl.lit(1, dtype=pl.Int64), lang=pl.lit("en"))), adds=adds)
    once = run_stage(stage, ROWS).kept
    assert once.columns == [*ROWS.columns, "lang", "score"]
    assert run_stage(stage, once).kept.equals(once)


def test_reject_gives_the_code_of_the_first_rule_that_holds_and_ignores_null():
    frame = pl.DataFrame({"id": ["a", "b", "c", "d"], "n": [1, 5, 50, None]})
    small = Rule("small", pl.col("n") < 10, pl.format("{} < 10", pl.col("n")))
    tiny = Rule("tiny", pl.col("n") < 3, pl.lit("tiny"))
    outcome = reject(frame, [tiny, small])
    assert codes(outcome.rejected) == {"a": "tiny", "b": "small"}
    assert outcome.rejected["detail"].to_list() == ["tiny", "5 < 10"]
    assert ids(outcome.kept) == ["c", "d"]
    assert reject(frame, []).kept.equals(frame)


def test_dataset_stage_in_memory_rejects_and_annotates():
    outcome = run_dataset_stage(Picker((2, 1)), ROWS)
    assert ids(outcome.kept) == ["a", "d"]
    assert outcome.kept["length"].to_list() == [3, 4]
    assert outcome.rejected.select("id", "source", "stage", "code", "twin").rows() == [
        ("b", "t", "picker", "picked", "a"),
        ("c", "s", "picker", "picked", "a"),
    ]


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        ([0, 0], None, "rejected a row twice"),
        ([9], None, "lost rows|out of bounds|other rows"),
        ([], 3, "columns for 3 rows of a shard of 4"),
    ],
)
def test_decision_that_does_not_fit_the_shard_is_told(rows: list[int], columns: int | None, message: str):
    rejected = pl.DataFrame({"row": rows, "code": ["picked"] * len(rows)}, schema={"row": pl.Int64, "code": pl.String})
    added = None if columns is None else pl.DataFrame({"length": [1] * columns})
    with pytest.raises((StageError, pl.exceptions.OutOfBoundsError), match=message):
        apply_decision(Picker(()), ROWS, Decision(rejected, added))
