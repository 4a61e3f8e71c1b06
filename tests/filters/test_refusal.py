import pytest

from sft_data.filters.refusal import Refusal
from sft_data.stage import run_stage
from tests.frames import chat, codes, conversations, ids, talk

DECLINES = [
    "I'm sorry, but I can't help with that.",
    "I’m sorry, but I cannot assist with this request.",
    "I am very sorry, but I am not able to provide medical advice.",
    "Sorry, I can't play music.",
    "I apologize, but I'm unable to access external websites.",
    "Unfortunately, I am currently unable to book flights.",
    "I'm sorry, but as an AI, I don't have the capability to order food.",
    "As an AI language model, I do not have personal opinions.",
    "As an artificial intelligence, I cannot watch films.",
    "I cannot provide a recipe for that.",
    "I'm not able to open the attached file.",
    "Sorry, the request involves drawing, which the model cannot do.",
    "This task cannot be completed by a text model.",
    "<nooutput> This instruction cannot be fulfilled.",
    "Unable to perform this task as it needs a camera.",
    "  I'm sorry, I can't answer that question.",
    "抱歉，我无法回答这个问题。",
    "很抱歉，作为人工智能助手，我不能提供医疗诊断。",
    "对不起，我没有能力直接生成图片。",
    "作为一个人工智能语言模型，我没有个人情感。",
    "抱歉，该任务需要绘图，超出了模型的能力。",
    "我无法完成这项任务。",
]
ANSWERS = [
    "I can't believe it!",
    "I cannot wait to see you on Saturday.",
    "I'm sorry to hear that your parcel was late. We will send a new one.",
    "I am sorry for what I said yesterday; I hope you can forgive me.",
    "Sorry, I can't make it to dinner tonight.",
    "Unfortunately, the museum is closed on Mondays.",
    "We're sorry, but we cannot refund a used ticket.",
    "You cannot divide by zero, because no number times zero gives one.",
    "As an AI researcher, I cannot recommend this paper enough.",
    "This task can be solved with a queue.",
    "No, a penguin cannot fly.",
    "I do not have any money.",
    "The assistant said: I'm sorry, but I can't help with that.",
    "It is not possible to give an exact figure, but about 40 % of days are rainy.",
    "很抱歉给您带来不便，我们会尽快为您退款。",
    "抱歉，我不能参加明天的会议。",
    "企鹅不能飞，但是游得很快。",
    "我无法抗拒这块蛋糕。",
    "作为一名新经理，你不能什么都自己做。",
    "",
]


@pytest.mark.parametrize("answer", DECLINES)
def test_refusal_that_declines_is_dropped(answer: str):
    rejected = run_stage(Refusal(), conversations(chat("a", answer))).rejected
    assert codes(rejected) == {"a": "refusal"}
    assert rejected["detail"][0] == f"“{answer.strip()[:60]}”"


@pytest.mark.parametrize("answer", ANSWERS)
def test_refusal_that_only_sounds_like_one_is_kept(answer: str):
    assert ids(run_stage(Refusal(), conversations(chat("a", answer))).kept) == ["a"]


def test_refusal_in_an_earlier_turn_counts_only_where_asked():
    frame = conversations(
        talk("helped", "Book a flight.", "I'm sorry, but I can't book flights.", "Then name an airport.", "Heathrow."),
        talk("plain", "Name an airport.", "Heathrow."),
    )
    assert ids(run_stage(Refusal(), frame).kept) == ["helped", "plain"]
    any_turn = run_stage(Refusal(turns="any"), frame)
    assert codes(any_turn.rejected) == {"helped": "refusal"}
    assert any_turn.rejected["detail"].to_list() == ["“I'm sorry, but I can't book flights.”"]


def test_refusal_said_by_a_user_is_none():
    frame = conversations(talk("a", "I'm sorry, but I can't help with that.", "No problem at all."))
    assert ids(run_stage(Refusal(turns="any"), frame).kept) == ["a"]
