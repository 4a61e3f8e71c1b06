import polars as pl
import pytest

from sft_data.filters.run_on import RunOn
from sft_data.stage import run_stage
from tests.frames import SHARED, chat, codes, conversations, ids, needs_shared, talk


@pytest.mark.parametrize(
    "answer",
    [
        "Air scatters blue light.\n\n16. Instruction: Is it raining?\n16. Input: <noinput>",
        "Yes. 7. Output: No",
        "它很大。\n11. 指令：写一首诗",
        "Blue.\n### Instruction:\nName a colour.",
        "Blue.\n<|im_start|>user\nAnd red?",
    ],
)
def test_run_on_into_the_next_prompt_is_dropped(answer: str):
    assert codes(run_stage(RunOn(), conversations(chat("a", answer))).rejected) == {"a": "run-on"}
    earlier = conversations(talk("a", "q", answer, "q", "Fine."))
    assert codes(run_stage(RunOn(), earlier).rejected) == {"a": "run-on"}


@pytest.mark.parametrize(
    "answer",
    [
        "1. Instructions are read.\n2. Inputs are checked.",
        "The program has two parts: input: a number; output: its square.",
        "Step 3. Output the result.",
        "## Response times\nThey fell.",
        "1. 输入法设置",
        "Type <|im_start|>user to begin.",
    ],
)
def test_run_on_of_an_ordinary_list_is_kept(answer: str):
    assert ids(run_stage(RunOn(), conversations(chat("a", answer))).kept) == ["a"]


def test_run_on_in_a_prompt_is_none_and_the_detail_shows_where():
    frame = conversations(talk("p", "Go on:\n3. Instruction: x", "Fine."), chat("a", "Blue.\n 18. Input: <noinput>"))
    rejected = run_stage(RunOn(), frame).rejected
    assert rejected.select("id", "detail").rows() == [("a", "“18. Input:”")]


@needs_shared
def test_run_on_rows_of_alpaca_are_those_that_were_read():
    rows = pl.read_json(SHARED / "data/alpaca_data.json", infer_schema_length=1).tail(10_000)
    frame = conversations(*(talk(str(42_002 + i), q, a) for i, (q, _, a) in enumerate(rows.rows())))
    assert ids(run_stage(RunOn(), frame).rejected) == ["43275", "44075", "45289", "46869", "49061", "49191", "52001"]
