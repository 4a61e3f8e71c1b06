import pytest
from pydantic import ValidationError

from sft_data.filters.answer_length import AnswerLength
from sft_data.stage import run_stage
from tests.frames import chat, codes, conversations, ids, talk, turn


def test_answer_length_by_default_drops_empty_answers_only():
    frame = conversations(chat("empty", ""), chat("blank", " \n\t"), chat("one", "4"), chat("full", "x" * 20_000))
    outcome = run_stage(AnswerLength(), frame)
    assert ids(outcome.kept) == ["one", "full"]
    assert codes(outcome.rejected) == {"empty": "answer-too-short", "blank": "answer-too-short"}
    assert outcome.rejected["detail"].to_list() == ["0 < 1 characters"] * 2


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("1234", "answer-too-short"),
        ("12345", None),
        ("  12345  ", None),
        ("中文五个字", None),
        ("中文四字", "answer-too-short"),
        ("👍🏽👍🏽👍🏽", None),  # six characters, 24 bytes
        ("1234567890", None),
        ("12345678901", "answer-too-long"),
    ],
)
def test_answer_length_counts_characters_without_space_around(answer: str, code: str | None):
    outcome = run_stage(AnswerLength(min_chars=5, max_chars=10), conversations(chat("a", answer)))
    assert codes(outcome.rejected).get("a") == code


def test_answer_length_judges_the_last_answer():
    frame = conversations(talk("a", "q", "x" * 50, "q", "ok"), talk("b", "q", "ok", "q", "x" * 50, "thanks"))
    assert codes(run_stage(AnswerLength(min_chars=10), frame).rejected) == {"a": "answer-too-short"}


def test_answer_length_keeps_an_answer_that_only_calls_tools():
    call = turn("assistant", "", tool_calls='[{"name": "clock", "arguments": {}}]')
    frame = conversations(talk("calls", "What time is it?", call), talk("nobody", turn("user", "Hello?")))
    assert ids(run_stage(AnswerLength(min_chars=10), frame).kept) == ["calls", "nobody"]


def test_answer_length_with_no_room_between_its_limits_is_a_mistake():
    with pytest.raises(ValidationError, match="nothing would stay"):
        AnswerLength(min_chars=10, max_chars=9)
