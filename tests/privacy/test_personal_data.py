import json

from sft_data.privacy.personal_data import PersonalData
from sft_data.schema import content_hash
from sft_data.stage import run_stage
from tests.frames import chat, conversations, ids, talk, texts, turn


def test_personal_data_is_masked_counted_and_not_repeated_in_the_ledger():
    frame = conversations(
        chat("clean", "Paris."),
        talk("hit", "I am ann@mailbox.org, call 13912345678.", "Noted: ann@mailbox.org and bob@mailbox.org."),
    )
    outcome = run_stage(PersonalData(), frame)
    assert texts(outcome.kept) == [
        ["What is it?", "Paris."],
        ["I am [EMAIL], call [PHONE].", "Noted: [EMAIL] and [EMAIL]."],
    ]
    assert outcome.edited.select("id", "stage", "code", "count", "detail").rows() == [
        ("hit", "personal-data", "email", 3, "15 characters -> [EMAIL]"),
        ("hit", "personal-data", "phone-number", 1, "11 characters -> [PHONE]"),
    ]
    assert outcome.kept["content_hash"].to_list() == content_hash(outcome.kept).to_list()


def test_personal_data_told_to_find_one_kind_leaves_the_others():
    outcome = run_stage(PersonalData(find=("email",)), conversations(chat("a", "ann@mailbox.org 13912345678")))
    assert texts(outcome.kept)[0][1] == "[EMAIL] 13912345678"


def test_personal_data_in_reasoning_and_calls_is_masked_and_json_stays_json():
    calls = '[{"name": "send",  "arguments": {"to": "ann@mailbox.org", "n": 4111111111111111, "t": "x\\t13912345678"}}]'
    answer = turn("assistant", "", reasoning="Ask bob@mailbox.org.", tool_calls=calls)
    kept = run_stage(PersonalData(), conversations(talk("a", "Send it.", answer))).kept
    said = kept["messages"].to_list()[0][1]
    assert said["reasoning"] == "Ask [EMAIL]."
    assert said["tool_calls"] == calls.replace("ann@mailbox.org", "[EMAIL]").replace("13912345678", "[PHONE]")
    assert json.loads(said["tool_calls"])[0]["arguments"] == {"to": "[EMAIL]", "n": 4111111111111111, "t": "x\t[PHONE]"}


def test_personal_data_free_rows_are_the_same_object_of_text():
    calls = '[{"name":"clock","arguments":{"city":"Lim\\u00e1"}}]'
    frame = conversations(talk("a", "Time?", turn("assistant", "", tool_calls=calls)), chat("b", "x"))
    outcome = run_stage(PersonalData(), frame)
    assert outcome.kept.equals(frame)
    assert outcome.edited.is_empty()
    assert ids(outcome.kept) == ["a", "b"]
