import polars as pl
import pytest
from pydantic import ValidationError

from sft_data.errors import StageError
from sft_data.filters.language import LanguageFilter
from sft_data.stage import run_stage
from tests.frames import chat, codes, conversations, ids

ROWS = conversations(
    *(chat(f"{lang}-{score}", "text") for lang, score in [("en", 0.9), ("fr", 0.9), ("fr", 0.5), ("fr", 0.49)]),
    chat("und", "text"),
    chat("unmeasured", "text"),
).with_columns(
    lang=pl.Series(["en", "fr", "fr", "fr", "und", None]),
    lang_score=pl.Series([0.9, 0.9, 0.5, 0.49, 0.0, None]),
)


def test_language_filter_drops_other_languages_that_are_sure_and_keeps_what_is_not():
    outcome = run_stage(LanguageFilter(keep=("en", "zh")), ROWS)
    assert ids(outcome.kept) == ["en-0.9", "fr-0.49", "und", "unmeasured"]
    assert codes(outcome.rejected) == {"fr-0.9": "wrong-language", "fr-0.5": "wrong-language"}
    assert outcome.rejected["detail"].to_list() == ["fr (0.9), not en, zh", "fr (0.5), not en, zh"]


def test_language_filter_told_to_reject_the_undetermined_does():
    outcome = run_stage(LanguageFilter(keep=("fr",), undetermined="reject"), ROWS)
    assert ids(outcome.kept) == ["fr-0.9", "fr-0.5", "fr-0.49"]
    assert set(outcome.rejected["code"]) == {"wrong-language"}
    assert outcome.rejected["detail"].null_count() == 0


def test_language_filter_with_another_limit_believes_less():
    assert ids(run_stage(LanguageFilter(keep=("en",), min_score=0.95), ROWS).kept) == ids(ROWS)


def test_language_filter_without_measurement_says_so():
    with pytest.raises(StageError, match="needs column `lang`"):
        run_stage(LanguageFilter(keep=("en",)), conversations(chat("a", "text")))


@pytest.mark.parametrize("keep", [(), ("English",), ("en", "z{}")])
def test_language_filter_with_no_language_codes_is_a_mistake(keep: tuple[str, ...]):
    with pytest.raises(ValidationError):
        LanguageFilter(keep=keep)
