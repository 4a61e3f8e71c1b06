"""Prompts about something that is not there: a picture, a file, a page behind a link."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import polars as pl

from sft_data.stage import Outcome, Rule, StageConfig, reject

__all__ = ["Attachment"]

_MEDIA = (
    r"(?i)(?:^|[^A-Za-z0-9_])(<(?:image|photo|picture|audio|video|document|file)(?: attached)?>"
    r"|\[(?:(?:attached|insert|an?|the) )?(?:image|photo|picture|painting|drawing|audio|video|sound) ?"
    r"(?:file|clip|\d|provided|attached|of [^\]\n]{1,60})?\]"
    r"|\[attached[^\]\n]{0,40}\]"
    r"|!\[[^\]\n]{0,200}\]\(https?://[^)\s]+\))"
)
_LINK = r"(?m)^\s*((?:https?://|www\.)\S{4,})\s*$"
# What a model would have to open in order to answer.
_TO_READ = (
    r"(?i)summar|article|paragraph|passage|news|blog|paper|story|post\b|web ?page|website|site\b|video|image|"
    r"photo|picture|painting|design|review|总结|概括|文章|新闻|网页|网站|视频|图片|照片|画"
)
_CODE = (
    r"(?i)\bcode\b|function|script|python|javascript|java\b|html|css|regex|regular expression|\bapi\b|parse|url\b|"
    r"代码|函数|解析|正则"
)


class Attachment(StageConfig):
    """Drop conversations whose prompt needs a picture, a file or a web page that is not part of it.

    `missing-media`: a user's turn holds a mark such as `<image>`, `[photo of a street]`, `[attached table]` or a
    picture in Markdown. `missing-page`: a line of it is nothing but a link, and it asks for an article, a site, a
    summary. Prompts about code are spared from the second, since there a link is data.

    Why: the answers are invented ("There are 8 people in the photo."), and teach a model to invent. Scores by
    perplexity like such rows: they are over-represented in a well-known selection of Alpaca. Of its 52,002 rows
    `missing-media` takes 78 and `missing-page` 174; of 28 of the latter that were read, 25 cannot be answered without
    the page (the others ask what kind of site a well-known address is).

    Leave it out for data in which pictures do come with the text.

    Example: `{kind: attachment}`.
    """

    codes: ClassVar[Mapping[str, str]] = {
        "missing-media": "a prompt refers to a picture, sound or file that is not there",
        "missing-page": "a prompt asks about a web page of which it only gives the link",
    }

    kind: Literal["attachment"] = "attachment"

    def apply(self, frame: pl.DataFrame) -> Outcome:
        users = pl.col("messages").list.filter(pl.element().struct.field("role") == "user")
        texts = users.list.eval(pl.element().struct.field("content"))
        media = texts.list.eval(pl.element().str.extract(_MEDIA)).list.drop_nulls().list.first()
        link = texts.list.eval(pl.element().str.extract(_LINK)).list.drop_nulls().list.first()
        whole = texts.list.join("\n").str.replace_all(r"(?:https?://|www\.)\S+", " ")
        to_open = link.is_not_null() & whole.str.contains(_TO_READ) & ~whole.str.contains(_CODE)
        return reject(
            frame,
            [
                Rule("missing-media", media.is_not_null(), media.str.head(80)),
                Rule("missing-page", to_open, link.str.head(80)),
            ],
        )
