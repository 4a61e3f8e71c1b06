import polars as pl
import pytest

from sft_data.annotate.language import DetectLanguage
from sft_data.stage import run_stage
from tests.frames import SHARED, chat, conversations, needs_shared, talk, turn

EN = "Please tell me how the river changes in the spring."


def measured(*turns: object, **settings: object) -> tuple[str, float]:
    row = talk("a", *turns)  # type: ignore[arg-type]
    kept = run_stage(DetectLanguage(**settings), conversations(row)).kept  # type: ignore[arg-type]
    return kept["lang"][0], kept["lang_score"][0]


@pytest.mark.parametrize(
    ("question", "answer", "lang"),
    [
        ("What makes the sky blue?", "Air scatters short waves of light more than long ones.", "en"),
        ("Warum ist der Himmel blau?", "Die Luft streut kurzwelliges Licht stärker als langwelliges.", "de"),
        ("Pourquoi le ciel est-il bleu ?", "L'air diffuse davantage la lumière de courte longueur d'onde.", "fr"),
        ("¿Por qué el cielo es azul?", "El aire dispersa más la luz de onda corta que la de onda larga.", "es"),
        ("Почему небо голубое?", "Воздух рассеивает короткие волны света сильнее, чем длинные.", "ru"),
        ("天空为什么是蓝色的？", "空气对短波光的散射比对长波光更强。", "zh"),
        ("天空為什麼是藍色的？", "空氣對短波光的散射比對長波光更強。", "zh"),
        ("空はなぜ青いのですか。", "空気は波長の短い光をより強く散乱させるからです。", "ja"),
        ("하늘은 왜 파란가요?", "공기가 파장이 짧은 빛을 더 많이 산란시키기 때문입니다.", "ko"),
        ("ทำไมท้องฟ้าจึงเป็นสีฟ้า", "อากาศกระเจิงแสงคลื่นสั้นได้มากกว่าคลื่นยาว", "th"),
        ("Γιατί ο ουρανός είναι γαλάζιος;", "Ο αέρας σκεδάζει περισσότερο το φως μικρού μήκους κύματος.", "el"),
        ("למה השמיים כחולים?", "האוויר מפזר אור בעל אורך גל קצר יותר.", "he"),
        ("لماذا السماء زرقاء؟", "لأن الهواء يشتت الضوء ذا الموجات القصيرة أكثر من غيره.", "ar"),
        ("आसमान नीला क्यों है?", "हवा छोटी तरंगों वाले प्रकाश को अधिक बिखेरती है।", "hi"),
    ],
)
def test_language_of_a_plain_conversation_is_told_with_confidence(question: str, answer: str, lang: str):
    found, score = measured(question, answer)
    assert found == lang
    assert score >= 0.5


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("17 + 4", "21"),
        ("Hi", "Hello"),
        ("```python\nfor number in range(10):\n    print(number)\n```", "`print`"),
        ("https://example.com/a/long/path/in/plain/english", "someone.with.a.name@example.com"),
        ("👍👍👍", "🎉"),
        ("", ""),
        ("北京", "好的"),
    ],
)
def test_language_of_hardly_any_text_is_undetermined_with_no_confidence(question: str, answer: str):
    assert measured(question, answer) == ("und", 0.0)


def test_language_of_chinese_with_latin_words_is_chinese():
    assert measured("请用Python写一个函数", "可以用 sorted() 和 lambda 表达式，按 key 排序 list。")[0] == "zh"


def test_language_of_english_quoting_chinese_is_english():
    assert (
        measured("What does the Chinese word 河流 mean in English?", "It means a river or a large stream.")[0] == "en"
    )


def test_language_of_a_translation_is_unsure():
    german = "Wo ist der nächste Bahnhof? Ich möchte heute mit dem Zug nach Hamburg fahren und kenne den Weg nicht."
    assert measured(german, german) == ("de", pytest.approx(1.0, abs=0.1))
    assert measured("Translate this into German: Where is the station?", german) == ("de", pytest.approx(0.5, abs=0.05))


def test_language_of_capitals_is_that_of_the_same_text_in_small_letters():
    assert measured(EN.upper(), "IT RISES WHEN THE SNOW MELTS.") == measured(EN, "it rises when the snow melts.")


def test_language_ignores_code_around_the_text():
    code = "\n".join(["```js", *["const zahl = eingabe.laenge; // Kommentar"] * 60, "```"])
    assert measured(f"{code}\n{EN}", "It rises when the snow melts.")[0] == "en"


def test_language_of_system_prompt_and_tool_results_does_not_count():
    german = "Du bist ein hilfreicher Assistent und antwortest immer ausführlich auf alle Fragen der Leute."
    row = (
        turn("system", german),
        turn("user", EN),
        turn("assistant", "", tool_calls="[]"),
        turn("tool", german),
        turn("assistant", "It rises."),
    )
    assert measured(*row) == measured(EN, turn("assistant", ""), turn("user", ""), "It rises.")
    assert measured(*row)[0] == "en"


def test_language_score_of_chinese_is_the_weighed_share_of_its_letters():
    # 20 Han characters x 2.5 = 50 against 10 Latin letters.
    assert measured("天空为什么是蓝色的呢请你说说 abcde", "空气散射短波 fghij") == ("zh", round(50 / 60, 4))


def test_language_model_among_given_languages_chooses_one_of_them_and_is_surer():
    short = ("Danke, es geht mir gut", "Das freut mich")
    free, among = measured(*short), measured(*short, among=("de", "en"))
    assert among[0] == "de"
    assert among[1] >= free[1]
    assert measured(EN, "It rises.", among=("de", "fr"))[0] in {"de", "fr"}
    assert measured(EN, "It rises.", among=("xx",)) == ("und", 0.0)


def test_language_scores_have_four_digits_at_most():
    for text in (EN, "Warum ist der Himmel blau?", "空はなぜ青いのですか。"):
        score = measured(text, "ok")[1]
        assert round(score, 4) == score


def test_language_overwrites_what_was_measured_before():
    frame = conversations(chat("a", "It rises when the snow melts in the mountains.", EN)).with_columns(
        lang=pl.lit("xx"), lang_score=pl.lit(0.0)
    )
    assert run_stage(DetectLanguage(), frame).kept["lang"].to_list() == ["en"]


@needs_shared
def test_language_of_real_english_instructions_is_nearly_always_english():
    rows = pl.read_json(SHARED / "data/alpaca_data.json", infer_schema_length=1).head(3_000)
    frame = conversations(*(talk(str(i), q + "\n" + t, a) for i, (q, t, a) in enumerate(rows.rows())))
    kept = run_stage(DetectLanguage(), frame).kept
    sure = kept.filter(~pl.col("lang").is_in(["en", "und"]) & (pl.col("lang_score") >= 0.5))
    assert sure.height <= 3  # 0.1 %
    assert (kept["lang"] == "en").mean() > 0.99
