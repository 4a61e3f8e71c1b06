import itertools
import subprocess
import sys
import unicodedata

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sft_data.dedup import shingles, units
from sft_data.dedup.kernels import find_composable
from sft_data.dedup.shingles import ShingleSets, composed, shingle_sets
from sft_data.dedup.units import unit_table
from tests.dedup import oracle


def sets_of(*texts: str, n: int = 5) -> ShingleSets:
    return shingle_sets([pl.Series(texts, dtype=pl.String)], n)


def set_of(found: ShingleSets, text: int) -> set[int]:
    start = int(found.counts[:text].sum())
    return set(found.values[start : start + int(found.counts[text])].tolist())


@pytest.mark.parametrize("script", ["en", "zh", "mixed"])
@pytest.mark.parametrize("n", [1, 3, 5])
def test_shingle_sets_of_every_pair_overlap_as_in_plain_python(script: str, n: int) -> None:
    draw = oracle.dice(f"{script}{n}")
    base = [oracle.sentence(draw, draw.randrange(1, 120), script) for _ in range(12)]
    texts = base + [oracle.perturbed(draw, text, draw.choice(oracle.KINDS), 0.1) for text in base]
    found = sets_of(*texts, n=n)
    truth = [oracle.shingles(text, n) for text in texts]
    for i in range(len(texts)):
        assert found.counts[i] == len(truth[i])
        for j in range(i):
            assert len(set_of(found, i) & set_of(found, j)) == len(truth[i] & truth[j])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't stop, e-mail me_now!", 6),  # don t stop e mail me_now
        ("猫坐在垫子上", 6),
        ("かなカナ한국ภาษา", 9),  # each letter; the vowel า comes twice
        ("我用GPT4写code", 5),  # 我 用 gpt4 写 code
        ("naïve café", 2),
        ("हिन्दी भाषा", 2),  # vowel signs and viramas belong to their word
        ("... !!! 🎉", 0),
        ("zero\u200bwidth soft\u00adhyphen", 2),
    ],
)
def test_units_follow_the_script(text: str, expected: int) -> None:
    # With shingles of one unit the set's size is the number of distinct units.
    found = sets_of(text, n=1)
    assert found.counts[0] == max(expected, 1)


def test_shingles_ignore_case_punctuation_and_composition() -> None:
    found = sets_of("The CAFÉ on the old square, opens!", "the cafe\u0301 on -- the old square opens")
    assert found.keys[0] == found.keys[1]
    assert set_of(found, 0) == set_of(found, 1)


@pytest.mark.parametrize(
    "texts",
    [
        ("Yes.", "No."),
        ("Yes", "yes"),
        ("C", "C++"),
        ("...", "!!!"),
        ("🎉", "😢"),
        ("Paris", "Thank you very much"),
        ("a b", "a  b"),
    ],
)
def test_key_of_distinct_short_texts_differs(texts: tuple[str, str]) -> None:
    found = sets_of(*texts)
    assert found.keys[0] != found.keys[1]
    assert not set_of(found, 0) & set_of(found, 1)


@given(st.lists(st.text(max_size=20), min_size=2, max_size=2))
@settings(max_examples=300, deadline=None)
@example(["", "\x01"])
def test_key_of_short_texts_is_equal_exactly_where_the_stripped_texts_are(texts: list[str]) -> None:
    texts = [text.encode("utf-8", "ignore").decode() for text in texts]
    if any(len(oracle.units(text)) >= 5 for text in texts):
        return
    if any(unicodedata.category(c) in ("Mn", "Mc", "Me") or c > "\U00033480" for text in texts for c in text):
        return  # the oracle's \w does not know marks
    found = sets_of(*texts)
    stripped = [unicodedata.normalize("NFC", text).strip() for text in texts]
    assert (found.keys[0] == found.keys[1]) == (stripped[0] == stripped[1])
    same = sets_of(texts[0], texts[0])
    assert same.keys[0] == same.keys[1]


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("add 3 and 5", "add 3 and 5 please", True),
        ("add 3 and 5", "add 5 and 3", False),
        ("add 3 and 5", "add 3 and 6", False),
        ("3.14", "314", False),
        ("at -5 degrees", "at 5 degrees", False),
        ("2 + 3", "2 - 3", False),
        ("2 + 3", "2+3", True),
        ("- 3 eggs", "* 3 eggs", True),  # a bullet is no sign
        ("10\n- 3 eggs", "10\n3 eggs", True),
        ("no numbers", "none at all", True),
        ("３ apples", "3 apples", True),
        ("007", "7", False),
        ("三加五等于几", "三加六等于几", False),
        ("三加五等于几", "请问三加五等于几", True),
        ("第二章", "第三章", False),
        ("第一章", "第二章", False),
        ("一个苹果", "苹果", True),  # an article
        ("二十一个", "二十个", False),
        ("一百", "一千", False),
        ("3万人", "3亿人", False),
        ("3万人", "3万個人", True),
        ("三 - 五", "三 + 五", False),
        ("Twelve apples", "thirteen apples", False),
        ("Twelve apples", "some twelve pears", True),
        ("one apple", "an apple", True),
        ("one apple", "two apples", False),
        ("twenty-one", "twenty", False),
        ("twenty-one", "twenty one", True),
        ("(seven)", "seven", True),
        ("seven", "7", False),
        ("seventeen, then", "seventy, then", False),
        ("the second law", "the third law", False),
    ],
)
def test_numbers_are_equal_where_the_text_has_the_same_in_the_same_order(left: str, right: str, *, same: bool) -> None:
    found = sets_of(left, right)
    assert (found.numbers[0] == found.numbers[1]) == same


PIECES = [*"一二十百万〇两零是个中x3７ \n,", " one ", " Two ", " seventeen ", " second", "tenth ", "café", "one, one"]


@given(st.lists(st.lists(st.sampled_from(PIECES)).map("".join), min_size=2, max_size=4))
@settings(max_examples=400, deadline=None)
def test_numbers_are_those_of_plain_python(texts: list[str]) -> None:
    texts += [texts[0].replace("一个", "个"), texts[0] + " word", texts[0].replace("中", "")]
    found = sets_of(*texts)
    told = [oracle.numbers(text) for text in texts]
    for i, j in itertools.combinations(range(len(texts)), 2):
        assert (found.numbers[i] == found.numbers[j]) == (told[i] == told[j]), (texts[i], texts[j])


def test_shingle_sets_of_many_rows_do_not_depend_on_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = oracle.dice(1)
    texts = pl.Series([oracle.sentence(draw, draw.randrange(30), "mixed") for _ in range(50)])
    whole = shingle_sets([texts, texts.reverse()], 5)
    monkeypatch.setattr(shingles, "CHUNK_ROWS", 7)
    cut = shingle_sets([texts, texts.reverse()], 5)
    for name in ("values", "counts", "keys", "numbers"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(cut, name))


def test_shingle_sets_of_a_sliced_column_and_of_nulls_are_those_of_the_texts() -> None:
    column = pl.Series(["x", "one two three four five six", None, "y"])
    found = shingle_sets([column.slice(1, 2)], 5)
    expected = sets_of("one two three four five six", "")
    np.testing.assert_array_equal(found.keys, expected.keys)
    assert found.counts.tolist() == [2, 0]


def test_composed_text_is_nfc_for_every_character() -> None:
    chars = [chr(c) for c in range(0x20, sys.maxunicode) if not 0xD800 <= c < 0xE000]
    texts = pl.Series([f"e{char}" for char in chars])
    data, bounds = composed(texts)
    ours = [data[a:b].tobytes().decode() for a, b in itertools.pairwise(bounds)]
    expected = [unicodedata.normalize("NFC", f"e{char}") for char in chars if unicodedata.category(char) != "Cn"]
    mine = [text for text, char in zip(ours, chars, strict=True) if unicodedata.category(char) != "Cn"]
    assert mine == expected


@given(
    st.lists(
        st.text(max_size=12)
        | st.lists(st.sampled_from(["a", " ", "中", "é", "ก", "\u0301", "1", "_", "한", "\ufe0f", "𠀀", "."])).map(
            "".join
        )
    ),
    st.integers(1, 3),
)
@settings(max_examples=300, deadline=None)
@example(["a中" * 40, "a b " * 40, "é è", "中a", "a"], 1)
def test_shingles_stay_within_the_room_they_are_given(texts: list[str], n: int) -> None:
    room = np.zeros(4096, dtype=np.uint64)
    with pytest.MonkeyPatch.context() as patch:
        given_room = []

        def bounded(places: int) -> np.ndarray:
            given_room.append(places)
            return room[:places]

        patch.setattr(shingles, "_room", bounded)
        shingle_sets([pl.Series(texts, dtype=pl.String)], n)
    assert not room[given_room[0] :].any()


def test_long_text_that_repeats_itself_has_few_shingles() -> None:
    found = sets_of("spam " * 5000, "la lu " * 3000)
    assert found.counts.tolist() == [1, 2]


def test_unit_table_made_by_blocks_is_the_one_made_character_by_character(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = unit_table()
    monkeypatch.setattr(units, "_common_entry", lambda first, size: None)
    assert (unit_table.__wrapped__() == whole).all()


def test_sketch_and_decision_do_not_import_pandas() -> None:
    told = (
        "import sys; from tests.frames import chat, conversations; from sft_data.dedup.near import NearDedup;"
        "stage = NearDedup(); stage.decide([stage.sketch(conversations(chat('a', 'Yes.')))]);"
        "sys.exit('pandas' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", told], check=False).returncode == 0


WORDS = [
    *("a", "Of", "word", "Letters", "eightful", "ninefully", "sixteenletterabc", "an-unusually", "x_1", "3rd", "7"),
    *("café", "naïvely", "Strasse", "straße", "ПРИВЕТ", "привет", "中", "文字", "Python是", "\u212aelvin"),
]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=12),
    st.sampled_from([" ", "\n", ", ", ".", " \u3000", "\t"]),
    st.integers(0, 9),
)
def test_units_of_a_text_are_the_same_wherever_its_words_stand(words: list[str], between: str, before: int) -> None:
    """Long runs, the last bytes of a text and odd characters are read in different ways: all must agree."""
    text = between.join(words)
    found = sets_of(text, "." * before + text + " .......", text.lower() + between, n=1)
    assert found.counts.tolist() == [len(set(oracle.units(text)))] * 3
    assert set_of(found, 0) == set_of(found, 1) == set_of(found, 2)


def test_a_word_is_the_same_with_characters_that_are_not_seen() -> None:
    found = sets_of("a softened and interesting word", "a so\u00adftened and inter\u200desti\u00adng word", n=3)
    assert set_of(found, 0) == set_of(found, 1)


def test_han_numerals_ask_for_no_normal_form() -> None:
    """Their mark in the table stands beside the one that asks for NFC, which takes half as long again in Chinese."""
    table = unit_table()
    assert all(table[ord(char)] >> 29 & 1 and not table[ord(char)] >> 28 & 1 for char in units._NUMERALS)
    data, bounds = shingles._bytes_of(pl.Series(["三加五", "e\u0301"]))
    assert find_composable(data, bounds, table).tolist() == [False, True]
