import pytest
from pydantic import ValidationError

from sft_data.filters.turns import Turns
from sft_data.stage import run_stage
from tests.frames import chat, codes, conversations, ids, talk, turn

FRAME = conversations(
    talk("none", turn("user", "Hello?")),
    chat("one", "Yes."),
    talk("system", turn("system", "Be kind."), "q", "a", "q", "a"),
    talk("tools", "q", turn("assistant", "", tool_calls="[]"), turn("tool", "1"), turn("assistant", "One.")),
    talk("three", "q", "a", "q", "a", "q", "a"),
)


def test_turns_counts_the_answers_of_the_assistant():
    outcome = run_stage(Turns(min_answers=2, max_answers=2), FRAME)
    assert ids(outcome.kept) == ["system", "tools"]
    assert codes(outcome.rejected)["none"] == "too-few-turns"
    assert codes(outcome.rejected)["one"] == "too-few-turns"
    assert codes(outcome.rejected)["three"] == "too-many-turns"


def test_turns_by_default_drops_rows_without_an_answer_and_endless_ones():
    endless = conversations(talk("endless", *["x"] * 202), talk("long", *["x"] * 200))
    assert codes(run_stage(Turns(), endless).rejected) == {"endless": "too-many-turns"}
    assert codes(run_stage(Turns(), FRAME).rejected) == {"none": "too-few-turns"}


def test_turns_with_no_room_between_its_limits_is_a_mistake():
    with pytest.raises(ValidationError, match="min_answers 3 is more than max_answers 2"):
        Turns(min_answers=3, max_answers=2)
