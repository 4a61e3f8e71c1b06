import polars as pl
import pytest

from sft_data.errors import ConfigError
from sft_data.scores import no_numbers, scores
from tests.frames import chat, conversations, talk, turn


def values(frame: pl.DataFrame, by: str) -> list[float | None]:
    return scores(frame, by, "select")["score"].to_list()


def test_measures_count_what_each_side_says() -> None:
    frame = conversations(
        chat("a", "four", "two"),
        talk("b", "Hi", "Hello", "你好吗", "好。", turn("system", "Be brief.")),
        talk("c", turn("user", "Anybody?")),
    )
    assert values(frame, "answer-characters") == [4, 7, 0]
    assert values(frame, "prompt-characters") == [3, 5, 8]
    assert values(frame, "answers") == [1, 2, 0]


def test_scores_of_a_column_are_its_numbers_even_where_they_are_text() -> None:
    frame = conversations(
        *[chat(str(i), "x", difficulty=text) for i, text in enumerate(["3", "2.5", "hard", None, "1e400", "nan"])]
    )
    assert values(frame, "difficulty") == [3.0, 2.5, None, None, None, None]
    assert scores(frame, "difficulty", "select")["odd"].to_list() == [None, None, "hard", "(nothing)", "1e400", "nan"]


@pytest.mark.parametrize(
    ("extra", "by", "expected"),
    [
        ('{"score": 4.5}', "extra.score", 4.5),
        ('{"score": "4.5"}', "extra.score", 4.5),
        ('{"score": -3}', "extra.score", -3.0),
        ('{"rating": {"value": 2}}', "extra.rating.value", 2.0),
        ('{"a b": 7}', "extra.a b", 7.0),
        ('{"@$[0]": 7}', "extra.@$[0]", 7.0),
        ('{"score": null}', "extra.score", None),
        ('{"score": [1, 2]}', "extra.score", None),
        ('{"score": {"x": 1}}', "extra.score", None),
        ('{"other": 1}', "extra.score", None),
        (None, "extra.score", None),
    ],
)
def test_scores_of_other_columns_of_the_row(extra: str | None, by: str, expected: float | None) -> None:
    assert values(conversations(chat("a", "x", extra=extra)), by) == [expected]


@pytest.mark.parametrize(
    ("by", "told"),
    [
        ("lang_score", "no such column"),
        ("messages", "holds no numbers"),
        ("tags", "no numbers"),
        ("extra.it's", "quotes"),
        ("extra.", "no such column"),
    ],
)
def test_scores_of_what_is_no_number_say_what_there_is(by: str, told: str) -> None:
    frame = conversations(chat("a", "x")).with_columns(tags=pl.Series([["x"]]))
    with pytest.raises(ConfigError, match=told) as error:
        scores(frame, by, "select")
    assert "answer-characters" in str(error.value) or "quotes" in told


def test_scores_that_no_row_has_name_the_keys_that_there_are() -> None:
    frame = conversations(chat("a", "x", extra='{"rating": 5, "topic": "sea"}'), chat("b", "x"))
    error = no_numbers("extra.score", scores(frame, "extra.score", "select"), "select")
    assert "only rating, topic in extra" in str(error)
    empty = no_numbers("extra.score", scores(frame[1:], "extra.score", "select"), "select")
    assert "extra is empty" in str(empty)


def test_scores_of_no_rows_are_none() -> None:
    frame = conversations()
    for by in ("answer-characters", "difficulty", "extra.score"):
        assert scores(frame, by, "select").schema == {"score": pl.Float64(), "odd": pl.String(), "keys": pl.String()}
        assert scores(frame, by, "select").height == 0


def test_scores_of_a_row_do_not_depend_on_the_rows_beside_it() -> None:
    given = ['{"rating": 1}', '{"topic": "sea"}', None, '{"rating": "good"}', '{"topic": "sky"}', '{"rating": 2}']
    frame = conversations(*[chat(str(i), "x", extra=text) for i, text in enumerate(given)])
    whole = scores(frame, "extra.rating", "select").select("score", "odd")
    for size in (1, 2, 4):
        parts = [scores(frame.slice(at, size), "extra.rating", "select") for at in range(0, 6, size)]
        assert pl.concat(parts).select("score", "odd").equals(whole)
