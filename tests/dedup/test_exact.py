import unicodedata
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sft_data.dedup.exact import ExactDedup
from sft_data.errors import ConfigError
from sft_data.schema import CONVERSATIONS
from sft_data.stage import apply_decision, run_dataset_stage
from tests.frames import chat, conversations, ids, talk, turn


def test_exact_dedup_of_copies_keeps_the_first_and_names_it() -> None:
    frame = conversations(chat("a", "Paris."), chat("b", "Rome."), chat("c", "Paris."), chat("d", "Paris."))
    outcome = run_dataset_stage(ExactDedup(), frame)
    assert ids(outcome.kept) == ["a", "b"]
    rejected = outcome.rejected.select("id", "code", "twin", "score").rows()
    assert rejected == [("c", "exact-duplicate", "a", 1.0), ("d", "exact-duplicate", "a", 1.0)]


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("Paris.", " Paris. \n"),
        ("one\ntwo", "one\r\ntwo"),
        ("one \ntwo", "one\ntwo"),
        ("one  two", "one\ttwo"),
        ("caf\u00e9", "cafe\u0301"),
        ("全 角", "全\u3000角"),
    ],
)
def test_exact_dedup_of_another_layout_removes(left: str, right: str) -> None:
    assert ids(run_dataset_stage(ExactDedup(), conversations(chat("a", left), chat("b", right))).kept) == ["a"]


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("if a:\n    b\nc", "if a:\n    b\n    c"),  # indentation is code
        ("Polish", "polish"),
        ("C", "C++"),
        ("Yes.", "Yes!"),
        ("x²", "x2"),
        ("１", "1"),
        ("3.14", "314"),
        ("one\n\ntwo", "one\ntwo"),
        ("ab", "a b"),
    ],
)
def test_exact_dedup_of_texts_that_mean_something_else_keeps_both(left: str, right: str) -> None:
    assert ids(run_dataset_stage(ExactDedup(), conversations(chat("a", left), chat("b", right))).kept) == ["a", "b"]


def test_exact_dedup_key_has_roles_order_tools_calls_and_reasoning() -> None:
    frame = conversations(
        talk("a", "x", "y"),
        talk("b", turn("system", "x"), turn("assistant", "y")),
        talk("c", "y", "x"),
        talk("d", "x\ny"),
        talk("e", "x", "y", tools='[{"name": "f"}]'),
        talk("f", "x", turn("assistant", "y", reasoning="because")),
        talk("g", "x", turn("assistant", "y", tool_calls='[{"name": "f"}]')),
        talk("h", turn("system", "Be brief."), "x", "y"),
        talk("i", "x", turn("assistant", "y", weight=0.0), turn("tool", "y")),
        talk("j", "x", turn("assistant", "y", weight=0.5)),
    )
    outcome = run_dataset_stage(ExactDedup(), frame)
    assert outcome.rejected.select("id", "twin").rows() == [("j", "a")]  # a loss weight is no text


def test_exact_dedup_of_prompts_keeps_as_many_answers_as_told() -> None:
    frame = conversations(*[chat(name, f"answer {name}", "Why?") for name in "abcd"], chat("e", "x", "How?"))
    assert ids(run_dataset_stage(ExactDedup(criterion="prompt"), frame).kept) == ["a", "e"]
    assert ids(run_dataset_stage(ExactDedup(criterion="prompt", copies=3), frame).kept) == ["a", "b", "c", "e"]


def test_exact_dedup_of_answers_looks_at_the_answer_alone() -> None:
    frame = conversations(chat("a", "Yes.", "Is it?"), chat("b", "Yes.", "Was it?"))
    assert ids(run_dataset_stage(ExactDedup(criterion="answer"), frame).kept) == ["a"]
    assert ids(run_dataset_stage(ExactDedup(), frame).kept) == ["a", "b"]


def test_exact_dedup_keeps_the_longest_the_best_or_the_preferred_source() -> None:
    frame = conversations(
        chat("a", "short", "Why?", source="web", points=1.0),
        chat("b", "a longer answer", "Why?", source="books", points=None),
        chat("c", "middle one", "Why?", source="web", points=3.0),
    ).with_columns(pl.col("points").cast(pl.Float64))

    def kept(**settings: object) -> list[str]:
        stage = ExactDedup.model_validate({"criterion": "prompt"} | settings)
        outcome = run_dataset_stage(stage, frame)
        assert outcome.rejected["twin"].unique().to_list() == ids(outcome.kept)
        return ids(outcome.kept)

    assert kept() == ["a"]
    assert kept(keep="longest") == ["b"]
    assert kept(keep="best", score="points") == ["c"]
    assert kept(sources=["books"]) == ["b"]
    assert kept(keep="best", score="points", sources=["books"]) == ["b"]


def test_exact_dedup_by_a_score_that_is_not_there_says_so() -> None:
    with pytest.raises(ConfigError, match="no column `points`"):
        run_dataset_stage(ExactDedup(keep="best", score="points"), conversations(chat("a", "x")))


@given(
    st.lists(st.sampled_from(["Yes.", "No.", " Yes.", "Yes. ", "a\r\nb", "a\nb", "cafe\u0301", "café"]), max_size=12)
)
@settings(deadline=None)
def test_exact_dedup_keeps_one_of_each_text_for_any_cut_into_shards(answers: list[str]) -> None:
    frame = conversations(*[chat(str(i), answer) for i, answer in enumerate(answers)])
    outcome = run_dataset_stage(ExactDedup(), frame)
    seen = [unicodedata.normalize("NFC", answer.replace("\r\n", "\n")).strip() for answer in answers]
    assert ids(outcome.kept) == [str(i) for i, text in enumerate(seen) if text not in seen[:i]]
    stage = ExactDedup()
    decision = stage.decide([stage.sketch(frame.slice(at, 3)) for at in range(0, max(1, frame.height), 3)])
    assert apply_decision(stage, frame, decision).rejected.equals(outcome.rejected)
    sketches = [stage.sketch(frame.slice(at, 3)) for at in range(0, max(1, frame.height), 3)]
    for memory in (1 << 30, 20 * frame.height):
        gathered = [stage.gather(sketches, portion) for portion in stage.portions(frame.height, memory)]
        cut = stage.decide(sketches, [], gathered[::-1])
        assert apply_decision(stage, frame, cut).rejected.equals(outcome.rejected)


def test_exact_dedup_against_an_older_dataset_removes_what_it_has(tmp_path: Path) -> None:
    conversations(chat("old", "Paris."), chat("old2", "Paris.")).write_parquet(tmp_path / "old.parquet")
    frame = conversations(chat("a", "Rome."), chat("b", "Paris. "), chat("c", "Rome."))
    outcome = run_dataset_stage(ExactDedup(against=(str(tmp_path / "old.parquet"),), keep="longest"), frame)
    assert outcome.rejected.select("id", "twin").rows() == [("b", "old"), ("c", "a")]
    assert ids(run_dataset_stage(ExactDedup(), frame).kept) == ["a", "b"]


def test_exact_dedup_of_an_empty_frame_is_empty() -> None:
    assert run_dataset_stage(ExactDedup(), pl.DataFrame(schema=CONVERSATIONS)).kept.height == 0
