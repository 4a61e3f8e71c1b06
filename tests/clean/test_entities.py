import pytest

from sft_data.clean.entities import HtmlEntities
from sft_data.stage import run_stage
from tests.frames import chat, conversations, talk, texts


@pytest.mark.parametrize(
    ("damaged", "whole", "places"),
    [
        ("it&#39;s &quot;fine&quot;", 'it\'s "fine"', 3),
        ("&lt;noinput&gt; &amp; more", "<noinput> & more", 3),
        ("a&nbsp;b &#x4e2d;", "a\u00a0b 中", 2),
        ("&amp;quot;twice&amp;quot;", '"twice"', 4),
    ],
)
def test_entities_in_plain_text_become_characters(damaged: str, whole: str, places: int):
    outcome = run_stage(HtmlEntities(), conversations(chat("a", damaged)))
    assert texts(outcome.kept)[0][1] == whole
    assert outcome.edited.select("code", "count").rows() == [("html-entity", places)]


@pytest.mark.parametrize("fine", ["?a=1&para=2&copy=3", "AT&T; R&D", "&notanentity;", "if (a && b);", "x &#0; &#1; y"])
def test_entities_that_are_none_stay(fine: str):
    frame = conversations(chat("a", fine))
    outcome = run_stage(HtmlEntities(), frame)
    assert outcome.kept.equals(frame)
    assert outcome.edited.is_empty()


def test_entities_stay_where_the_conversation_speaks_of_markup():
    frame = conversations(
        talk("asks", "How do I write < in HTML?", "Write &lt;."), talk("says", "What is &amp;?", "An XML entity.")
    )
    assert run_stage(HtmlEntities(), frame).kept.equals(frame)
    both = conversations(talk("asks", "How do I write < in HTML?", "Write &lt;."), chat("plain", "5 &lt; 6"))
    assert [row[1] for row in texts(run_stage(HtmlEntities(), both).kept)] == ["Write &lt;.", "5 < 6"]
