"""Answers that decline to answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import polars as pl
from pydantic import Field

from sft_data.filters.answers import answers, last_answer
from sft_data.stage import Outcome, Rule, StageConfig, reject

__all__ = ["Refusal"]

_I = r"i(?: am|['’]m)? ?(?:currently |just |really )?"
_CANNOT = r"(?:can ?not|can['’]t|(?:not able|unable) to)"
_LACK = r"(?:do not|don['’]t) (?:currently )?have (?:the|any|access|enough|sufficient|personal|real)"
_SERVE = (
    r"(?:answer|fulfil|fulfill|comply|assist|help|provide|complete|generate|create|perform|process|respond|access|"
    r"view|see|display|open|browse|play|translate|draw|discuss|recommend|engage|support|do (?:that|this)|predict|"
    r"place|book|order|make (?:any|an?|the)|write|give)\b"
)
_SORRY = (
    r"(?:(?:i['’]m|i am) (?:very |so |really |truly )?(?:sorry|afraid)|sorry|i apologi[sz]e|my apologies|unfortunately)"
    r"[,.!]? ?(?:but |that )?"
)
_AS_AN_AI = (
    r"as an? (?:ai|artificial intelligence|large language|language|chatbot|virtual assistant)"
    r"(?: (?:language |text )?(?:model|assistant|system))?"
    r"(?: (?:developed|created|trained|made|designed|built)\b[^,.\n]{0,60})?,? ?"
)
_TASK = r"(?:this|the) (?:type of )?(?:task|instruction|request|prompt)\b"
_NOTHING = r"(?:<no ?output>\s*|no output[,.:]? ?(?:as |because )?)"

# Each is looked for at the very start of an answer, in any case.
_ENGLISH = (
    rf"{_SORRY}(?:{_AS_AN_AI})?{_I}(?:{_CANNOT} (?:\w+ ){{0,2}}{_SERVE}|{_LACK})",
    rf"{_SORRY}{_TASK}[^\n]{{0,160}}(?:can ?not|can['’]t|beyond|not possible|unable)",
    rf"{_SORRY}this (?:can ?not|can['’]t) be done",
    rf"{_AS_AN_AI}{_I}(?:{_CANNOT}|{_LACK}|not )",
    rf"(?:due to [^,.\n]{{1,60}}, )?{_I}{_CANNOT} (?:\w+ )?{_SERVE} (?:\w+ ){{0,3}}"
    r"(?:that|this|your|the|any|a|an|as|information)\b",
    rf"{_NOTHING}?{_TASK}[^.\n]{{0,80}}(?:can ?not|can['’]t) be (?:done|completed|performed|fulfilled|processed)",
    rf"{_NOTHING}(?:gpt|the model|ai)\b[^.\n]{{0,40}}(?:can ?not|can['’]t|unable)",
    r"unable to (?:perform|complete|process|fulfill?|generate) (?:this|the|that) (?:task|request|instruction|output)",
)
_SERVE_ZH = (
    r"(?:直接)?(?:为[您你])?(?:回答|提供|完成|生成|处理|执行|帮助|协助|满足|创建|访问|查看|显示|播放|打开|预测|给出|讨论|"
    r"绘制|画出|浏览|回应)"
)
_CHINESE = (
    r"(?:很|非常|十分)?(?:抱歉|对不起|不好意思|遗憾)[，,。！!\s]*(?:但是?)?(?:作为[^，,。\n]{0,20}[，,]?)?"
    rf"(?:我|本模型|模型)[^，,。\n]{{0,12}}(?:无法|不能|没有能力|没有权限|不具备)[^，,。\n]{{0,6}}{_SERVE_ZH}",
    r"(?:很|非常|十分)?(?:抱歉|对不起)[，,。！!\s]*(?:此|该|这个|这项|这类)(?:任务|请求|指令)[^。\n]{0,40}(?:无法|不能|超出)",
    r"作为(?:一个|一名|一款)?(?:ai|人工智能|大?型?语言模型|聊天机器人)[^。\n]{0,30}(?:无法|不能|没有|不具备)",
    rf"(?:<nooutput>\s*)?(?:由于[^，,。\n]{{1,20}}[，,])?(?:gpt ?模型|该?模型|我)?(?:无法|不能){_SERVE_ZH}"
    r"(?:此|该|这个|这项|这类|[您你]的)(?:类)?(?:任务|指令|请求|问题|要求)",
)
_REFUSES = "(?i)^(?:" + "|".join((*_ENGLISH, *_CHINESE)) + ")"
_HEAD = 240  # characters in which a refusal has shown itself


class Refusal(StageConfig):
    """Drop conversations whose answer declines to do what was asked.

    It looks at the first words of an answer, in English and Chinese: "I'm sorry, but I can't help with that", "As an
    AI language model, I do not have ...", "Sorry, the task involves ... cannot complete", "抱歉，我无法提供……",
    "作为一个人工智能，我没有……".

    Why so strict: "cannot" near the start of an answer means a refusal in one case of three; the rest are poems,
    customer letters and "I can't believe it!". So a pattern needs who declines, that they decline, and what. An
    answer that apologises in a story, or that the user asked to be reworded, stays. Of the 30 rows of Alpaca that it
    takes, 29 decline (the other one was asked to write what an assistant says when it declines); of 17,476 rows of
    its Chinese translation it takes 10, one of which goes on and offers something else.

    A dataset that shall teach a model to decline harmful requests must leave this stage out. `turns: any` also drops
    conversations that decline somewhere and go on; function-calling data does that on purpose.

    Example: `{kind: refusal, turns: any}`.
    """

    codes: ClassVar[Mapping[str, str]] = {"refusal": "the answer declines to do what was asked"}

    kind: Literal["refusal"] = "refusal"
    turns: Literal["last", "any"] = Field("last", description="which answers are looked at: the last one, or any")

    def apply(self, frame: pl.DataFrame) -> Outcome:
        if self.turns == "last":
            answer = last_answer().str.head(_HEAD)
            return reject(frame, [Rule("refusal", answer.str.contains(_REFUSES), _quote(answer))])
        heads = answers().list.eval(pl.element().struct.field("content").str.strip_chars().str.head(_HEAD))
        declined = heads.list.filter(pl.element().str.contains(_REFUSES))
        return reject(frame, [Rule("refusal", declined.list.len() > 0, _quote(declined.list.first()))])


def _quote(answer: pl.Expr) -> pl.Expr:
    return pl.format("“{}”", answer.str.head(60))
