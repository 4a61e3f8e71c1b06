import json

import pytest

from sft_data.filters.placeholder import Placeholder
from sft_data.stage import run_stage
from tests.frames import SHARED, chat, codes, conversations, needs_shared, talk


def code_of(answer: str, prompt: str = "Draw a cat.") -> str | None:
    return codes(run_stage(Placeholder(), conversations(chat("a", answer, prompt))).rejected).get("a")


@pytest.mark.parametrize(
    "answer", ["<nooutput>", "<noinput>", " <No output>\n", "No Output.", "N/A", "无输出", "&lt;nooutput&gt;", "[n/a]"]
)
def test_placeholder_as_an_answer_is_dropped(answer: str):
    assert code_of(answer) == "placeholder-answer"


def test_placeholder_inside_an_answer_is_dropped():
    assert code_of('<noinput>\n"A Leap of Faith"') == "placeholder-inside"
    assert code_of("鲸鱼。\n6.输入：&lt;无输入&gt;") == "placeholder-inside"
    earlier = conversations(talk("a", "q", "Yes <nooutput>", "q", "Fine."))
    assert codes(run_stage(Placeholder(), earlier).rejected) == {"a": "placeholder-inside"}


def test_unfilled_template_is_dropped_unless_the_talk_is_of_templates():
    assert code_of("I am {{name}}, made by {{ author }}.") == "unfilled-template"
    assert code_of("Write {{ name }} there.", "How do I show a name in a Jinja template?") is None
    assert code_of("```\n{{ user }}\n```") is None
    assert code_of("{% for x in xs %}{{ x }}{% endfor %}") is None


@pytest.mark.parametrize(
    "answer", ["None", "No.", "The value n/a means 'not available'.", "{{1, 2}, {3, 4}}", "\\frac{{a}}{b}"]
)
def test_placeholder_that_is_an_answer_is_kept(answer: str):
    assert code_of(answer) is None


@needs_shared
def test_unfilled_rows_of_a_real_identity_set_are_found():
    rows = json.loads((SHARED / "data/odd/identity_placeholders.json").read_text(encoding="utf-8"))
    frame = conversations(*(talk(str(i), row["instruction"], row["output"]) for i, row in enumerate(rows)))
    expected = {str(i) for i, row in enumerate(rows) if "{{" in row["output"]}
    assert set(codes(run_stage(Placeholder(), frame).rejected)) == expected
    assert len(expected) > 80
