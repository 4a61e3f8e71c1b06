import json

import pytest

from sft_data.clean.leftovers import CalculatorMarks, PlaceholderInput
from sft_data.stage import run_stage
from tests.frames import SHARED, chat, conversations, needs_shared, talk, texts


def prompt_of(prompt: str) -> str:
    return texts(run_stage(PlaceholderInput(), conversations(chat("a", "Yes.", prompt))).kept)[0][0]


@pytest.mark.parametrize(
    "line",
    [
        "<noinput>",
        "Noinput",
        "No input",
        "No input required.",
        "[No Input]",
        "<no input>",
        "N/A",
        "无输入",
        "没有输入。",
    ],
)
def test_placeholder_line_at_the_end_of_a_prompt_is_taken_out(line: str):
    assert prompt_of(f"Tell a story.\n{line}") == "Tell a story."
    assert prompt_of(f"Tell a story.\nAbout a cat.\n\n{line}\n") == "Tell a story.\nAbout a cat.\n"


@pytest.mark.parametrize(
    "prompt",
    [
        "No input",
        "\nN/A",
        "What does 'no input' mean?",
        "Explain this message:\nNo input file specified",
        "Fill in:\nName: N/A",
        "Choose one:\nnone",
        "Tell a story.\n<noinput>\nAbout a cat.",
    ],
)
def test_placeholder_that_may_be_meant_stays(prompt: str):
    assert prompt_of(prompt) == prompt


def test_placeholder_in_an_answer_stays_and_twice_in_a_prompt_goes():
    frame = conversations(talk("a", "Sing.\nNo input\n<noinput>", "La\n<noinput>"))
    outcome = run_stage(PlaceholderInput(), frame)
    assert texts(outcome.kept) == [["Sing.", "La\n<noinput>"]]
    assert outcome.edited.select("code", "count").rows() == [("placeholder-input", 2)]


def test_calculator_marks_are_taken_out_of_answers_only():
    frame = conversations(talk("a", "What is <<1+1=2>>?", "48/2 = <<48/2=24>>24 clips, 24+48 = <<24+48=72>>72."))
    outcome = run_stage(CalculatorMarks(), frame)
    assert texts(outcome.kept) == [["What is <<1+1=2>>?", "48/2 = 24 clips, 24+48 = 72."]]
    assert outcome.edited.select("code", "count", "detail").rows() == [("calculator-mark", 2, "<<48/2=24>>")]


@pytest.mark.parametrize("fine", ["a << b, c >> d", "cout << x << y;", "<<EOF\nx=1\nEOF", "x <<= 2 >> 1"])
def test_calculator_marks_that_are_code_stay(fine: str):
    assert texts(run_stage(CalculatorMarks(), conversations(chat("a", fine))).kept)[0][1] == fine


@needs_shared
def test_calculator_marks_of_real_sums_are_all_taken_out():
    lines = (SHARED / "data/eval/gsm8k_train.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    frame = conversations(*(talk(str(i), row["question"], row["answer"]) for i, row in enumerate(rows)))
    outcome = run_stage(CalculatorMarks(), frame)
    assert outcome.edited.height == sum("<<" in row["answer"] for row in rows) > 7_000
    assert outcome.edited["count"].sum() == sum(row["answer"].count("<<") for row in rows)
    assert not any("<<" in answer or ">>" in answer for _, answer in texts(outcome.kept))
