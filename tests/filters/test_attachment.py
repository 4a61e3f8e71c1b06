import pytest

from sft_data.filters.attachment import Attachment
from sft_data.stage import run_stage
from tests.frames import chat, codes, conversations, talk


def code_of(prompt: str) -> str | None:
    return codes(run_stage(Attachment(), conversations(chat("a", "It shows a cat.", prompt))).rejected).get("a")


@pytest.mark.parametrize(
    "prompt",
    [
        "Describe it.\n<image>",
        "What is it?\n[Photo of a bridge in the forest]",
        "Count them.\n[attached photo]",
        "Explain the trend.\n[Attached table]",
        "Edit it.\n[Sound file]",
        "Caption this.\n![alt text](https://i.host.net/a.png)",
    ],
)
def test_prompt_about_media_that_are_not_there_is_dropped(prompt: str):
    assert code_of(prompt) == "missing-media"


@pytest.mark.parametrize(
    "prompt",
    [
        "Summarize this article.\nhttps://news.host.org/2020/a-story.html",
        "总结如下文章\nhttps://news.host.org/a",
        "Review the given website\n\nwww.host.org/shop",
    ],
)
def test_prompt_about_a_page_of_which_only_the_link_is_there_is_dropped(prompt: str):
    assert code_of(prompt) == "missing-page"


@pytest.mark.parametrize(
    "prompt",
    [
        "Write a function that parses this article's URL.\nhttps://www.host.org/a?b=c",
        "Is this address valid?\nhttps://www.host.org",
        "Summarize the article: the river rose. Source: https://news.host.org/a",
        "How do I show a picture in HTML? <img src='a.png'>",
        "What does <p> do, and list[image] in Python?",
        "Draw an image of a cat in ASCII.",
        "Replace [MASK] and [name].",
    ],
)
def test_prompt_that_needs_nothing_else_is_kept(prompt: str):
    assert code_of(prompt) is None


def test_attachment_in_any_user_turn_counts_and_in_an_answer_does_not():
    later = talk("later", "Hi", "Hello", "Describe this.\n<image>", "A cat.")
    answered = talk("answered", "Show a picture in Markdown.", "![cat](https://host.org/cat.png)")
    rejected = run_stage(Attachment(), conversations(later, answered)).rejected
    assert rejected.select("id", "code", "detail").rows() == [("later", "missing-media", "<image>")]
