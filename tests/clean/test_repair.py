import unicodedata

import ftfy
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sft_data.clean.repair import RepairText, repair
from sft_data.schema import content_hash
from sft_data.stage import run_stage
from tests.frames import SHARED, chat, conversations, ids, needs_shared, talk, texts, turn


def edited(frame: pl.DataFrame) -> list[tuple[str, str, int]]:
    return list(run_stage(RepairText(), frame).edited.select("id", "code", "count").iter_rows())


def answer_of(text: str) -> str:
    return texts(run_stage(RepairText(), conversations(chat("a", text))).kept)[0][1]


@pytest.mark.parametrize(
    ("damaged", "whole", "code"),
    [
        ("It doesnâ€™t matter.", "It doesn’t matter.", "mojibake"),
        ("un cafÃ© s'il vous plaÃ®t", "un café s'il vous plaît", "mojibake"),
        ("你好，世界".encode().decode("latin-1"), "你好，世界", "mojibake"),
        ("one\r\ntwo\rthree", "one\ntwo\nthree", "line-ends"),
        ("y = \x0crac{1}{2}\x00\x7f", "y = rac{1}{2}", "control-characters"),
        ("降\u200b\u200b低\ufeff", "降低", "zero-width"),
        ("soft\u00adware \u202eabc\u202c", "software abc", "zero-width"),
        ("cafe\u0301", "café", "not-nfc"),
    ],
)
def test_repair_with_one_kind_of_damage_mends_it_and_names_it(damaged: str, whole: str, code: str):
    assert answer_of(damaged) == whole
    assert [entry[1] for entry in edited(conversations(chat("a", damaged)))] == [code]


@pytest.mark.parametrize(
    "fine",
    [
        "“Quotes”, ‘apostrophes’ — and … dashes",
        "，：（）！？；《》“中文标点” ……",
        "m² ½ ① ℃ Ⅻ ﬁ ｆｕｌｌ",
        "👨\u200d👩\u200d👧 می\u200cخواهم",
        "&lt;b&gt; is how one writes &#39;<b>&#39;",
        "\tindented\n\n    code",
        "São Tomé, Ångström, Łódź, ÆØÅ, Œuvre",
        "Привет, мир! Καλημέρα κόσμε. こんにちは。안녕하세요.",
        "\ufdd0 sentinel \ufdd1",
        "",
    ],
)
def test_repair_of_text_that_may_be_meant_changes_nothing(fine: str):
    frame = conversations(chat("a", fine))
    outcome = run_stage(RepairText(), frame)
    assert outcome.kept.equals(frame)
    assert outcome.edited.is_empty()


def test_repair_counts_places_per_row_and_kind_and_shows_the_first():
    row = talk("a", "a\u200bb", "c\u200bd\u200b", "e\r\nf", "fine")
    ledger = run_stage(RepairText(), conversations(chat("z", "fine"), row)).edited
    assert ledger.select("id", "source", "stage", "code", "count", "detail").rows() == [
        ("a", "s", "repair-text", "zero-width", 3, "a\\u200bb -> ab"),
        ("a", "s", "repair-text", "line-ends", 1, "e\\r\\nf -> e\\nf"),
    ]


def test_repair_mends_reasoning_and_prompts_and_leaves_tool_calls():
    calls = '[{"name":"say","arguments":{"text":"a\u200bb"}}]'
    thinking = turn("assistant", "ok", reasoning="think\u200bing", tool_calls=calls)
    kept = run_stage(RepairText(), conversations(talk("a", "quest\u200bion", thinking))).kept
    first, second = kept["messages"].to_list()[0]
    assert first["content"] == "question"
    assert (second["content"], second["reasoning"], second["tool_calls"]) == ("ok", "thinking", calls)


def test_repair_keeps_order_other_columns_and_untouched_turns_and_renews_the_hash():
    frame = conversations(
        chat("a", "fine", language="en"), talk("b", "x\u200b", "y", "z", "é"), chat("c", "1\r\n2", weight=0.5)
    )
    kept = run_stage(RepairText(), frame).kept
    assert ids(kept) == ["a", "b", "c"]
    assert texts(kept) == [["What is it?", "fine"], ["x", "y", "z", "é"], ["What is it?", "1\n2"]]
    assert kept["language"].to_list() == ["en", None, None]
    assert kept["weight"].to_list() == [1.0, 1.0, 0.5]
    assert kept["content_hash"].to_list() == content_hash(kept).to_list()
    assert kept["content_hash"][0] == frame["content_hash"][0]
    assert kept["content_hash"][1] != frame["content_hash"][1]


def test_repair_told_to_fix_one_kind_leaves_the_others():
    outcome = run_stage(RepairText(fix=("line-ends",)), conversations(chat("a", "a\u200b\r\nb cafe\u0301")))
    assert texts(outcome.kept)[0][1] == "a\u200b\nb cafe\u0301"
    assert outcome.edited["code"].to_list() == ["line-ends"]


def test_repair_of_damage_that_hides_other_damage_ends_clean():
    # Taking the zero-width space out joins a letter and its accent, and lays mojibake bare.
    once = answer_of("e\u200b\u0301 donâ\u200b€™t")
    assert once == "é don’t"
    assert answer_of(once) == once


def by_hand(text: str) -> str:
    """What the stage promises, without any short cut."""
    while True:
        before = text
        text = ftfy.fix_encoding(text).replace("\r\n", "\n").replace("\r", "\n")
        text = "".join(c for c in text if c in "\t\n" or not (ord(c) < 0x20 or ord(c) == 0x7F))
        marks = "\u200b\u2060\ufeff\u00ad\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
        text = unicodedata.normalize("NFC", "".join(c for c in text if c not in marks))
        if text == before:
            return text


PIECES = st.sampled_from(
    [
        "â€™",
        "Ã©",
        "Ã¢â‚¬â„¢",
        "é",
        "e\u0301",
        "中",
        "文，",
        "\r",
        "\n",
        "\x0b",
        "\u200b",
        "\u00ad",
        "“",
        "”",
        "Â ",
        "\u0085",
        "ï»¿",
        "√©",
        "ä½",
        "\u00a0",
        "a",
        "Z",
        " ",
        "�",
        "Ð¿",
        "\u2028",
        "가",
        "\u1112\u1161",
    ]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(PIECES | st.characters(codec="utf-8"), max_size=8).map("".join), min_size=1, max_size=8))
def test_repair_of_any_text_equals_repair_by_hand(answers: list[str]):
    frame = conversations(*(chat(str(i), said) for i, said in enumerate(answers)))
    outcome = run_stage(RepairText(), frame)
    assert [said[1] for said in texts(outcome.kept)] == [by_hand(said) for said in answers]
    changed = {str(i) for i, said in enumerate(answers) if by_hand(said) != said}
    assert set(outcome.edited["id"].to_list()) == changed


def test_repair_function_tells_what_it_did():
    assert repair("fine") == ("fine", [])
    text, found = repair("naÃ¯ve\r\n")
    assert text == "naïve\n"
    assert [(code, places) for code, places, _ in found] == [("mojibake", 1), ("line-ends", 1)]


@needs_shared
def test_repair_of_chinese_instructions_edits_only_rows_with_invisible_characters():
    rows = pl.read_json(SHARED / "data/alpaca_zh/alpaca_zh-0-3252.json")
    frame = conversations(*(talk(str(i), q + "\n" + t, a) for i, (q, t, a) in enumerate(rows.rows())))
    outcome = run_stage(RepairText(), frame)
    expected = [[by_hand(said) for said in row] for row in texts(frame)]
    assert texts(outcome.kept) == expected
    assert outcome.edited["id"].n_unique() == sum(a != b for a, b in zip(expected, texts(frame), strict=True)) > 0
