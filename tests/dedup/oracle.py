"""Near-duplicate truth in plain Python: every pair, real strings, no hashes."""

from __future__ import annotations

import random
import re
import unicodedata
from typing import Any

ALONE = ("CJK ", "HIRAGANA ", "KATAKANA ", "HANGUL ", "THAI ", "LAO ", "KHMER ", "MYANMAR ")


def units(text: str) -> list[str]:
    """Words, and single characters of the scripts that write no spaces."""
    found: list[str] = []
    for word in re.findall(r"\w+", unicodedata.normalize("NFC", text).lower()):
        run = ""
        for char in word:
            if unicodedata.name(char, "").startswith(ALONE):
                found += [run, char] if run else [char]
                run = ""
            else:
                run += char
        found += [run] if run else []
    return found


def shingles(text: str, n: int = 5) -> set[Any]:
    """The set of n units in a row; of a shorter text the text itself; of an empty one nothing."""
    words = units(text)
    if len(words) < n:
        return {text.strip()} if text.strip() else set()
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def jaccard(a: set[Any], b: set[Any]) -> float:
    return len(a & b) / len(a | b) if a | b else 1.0


def sides(row: dict[str, Any]) -> tuple[str, str]:
    """Prompt and answer of a conversation written with `talk`."""
    prompt = "\n".join(m["content"] for m in row["messages"] if m["role"] == "user")
    return prompt, "\n".join(m["content"] for m in row["messages"] if m["role"] == "assistant")


SPELLED = (
    "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
    "nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million billion trillion zero "
    "second third fourth fifth sixth seventh eighth ninth tenth"
)


def numbers(text: str) -> list[str]:
    """Digits, Han numerals (not 一 by itself) and numbers in words ("one" only behind another), in their order."""
    words, signs = SPELLED.replace(" ", "|"), r"[\d一二三四五六七八九十百千万亿零〇两]"
    starts, ends = r"(?<![^\W\u3000-\u9fff])", r"(?![^\W\u3000-\u9fff])"  # of a word; Han are words of their own
    pattern = rf"(?!一+(?!{signs})){signs}+|{starts}(?:{words}){ends}(?:\W+one{ends})*"
    found = re.findall(pattern, unicodedata.normalize("NFKC", text).lower())
    return [re.sub(r"\W+", " ", each) for each in found]


def near_pairs(rows: list[dict[str, Any]], threshold: float) -> set[tuple[int, int]]:
    """All i < j whose prompts and whose answers are near and whose numbers are the same."""
    sets = [tuple(map(shingles, sides(row))) for row in rows]
    told = [numbers("\n".join(sides(row))) for row in rows]
    return {
        (i, j)
        for j in range(len(rows))
        for i in range(j)
        if told[i] == told[j]
        and jaccard(sets[i][0], sets[j][0]) >= threshold
        and jaccard(sets[i][1], sets[j][1]) >= threshold
    }


def dice(seed: object) -> random.Random:
    """Random numbers that are the same in every run."""
    return random.Random(str(seed))


ENGLISH = (  # noqa: SIM905
    "river stone quiet morning engine paper window garden simple method answer green table follow market system "
    "letter winter animal bridge doctor farmer island kitchen ladder mirror number orange pencil question rabbit "
    "school teacher umbrella village weather yellow zebra carry listen moment north open power reason silver travel"
).split()
CHINESE = (
    "春眠不觉晓处处闻啼鸟夜来风雨声花落知多少床前明月光疑是地上霜举头望低思故乡白日依山尽黄河入海流欲穷千里目更一层楼"
)


JAPANESE = (
    "いろはにほへとちりぬるをわかよたれそつねならむうゐのおくやまけふこえてあさきゆめみし"
    "アイウエオカキクケコ日本語文字山川春秋"
)


def sentence(draw: random.Random, size: int, script: str) -> str:
    """`size` units of English, Chinese or both, or of Japanese, with punctuation."""
    said = []
    for place in range(size):
        chinese = script == "zh" or (script == "mixed" and place // 6 % 2)
        if script == "ja":
            said.append(draw.choice(JAPANESE) + ("、" if draw.random() < 0.08 else ""))
            continue
        said.append(draw.choice(CHINESE) if chinese else f" {draw.choice(ENGLISH)}")
        if draw.random() < 0.08:
            said.append("，" if chinese else ",")
    return "".join(said).strip() + ("。" if script == "zh" else ".")


def perturbed(draw: random.Random, text: str, kind: str, share: float) -> str:
    """A copy of `text` in which about `share` was changed."""
    pieces = re.findall(r"[\u3040-\u9fff]|\s*[^\s\u3040-\u9fff]+", text)
    many = max(1, round(len(pieces) * share))
    if kind == "tail":
        return "".join(pieces[: len(pieces) - many])
    if kind == "front":
        return "".join(pieces[many:])
    if kind == "case":
        return text.upper()
    if kind == "space":
        return text.replace(" ", "  ") + " \n"
    if kind == "comma":
        return text.replace(",", "").replace("，", "")
    for _ in range(many):
        at = draw.randrange(len(pieces))
        if kind == "swap":
            other = draw.randrange(len(pieces))
            pieces[at], pieces[other] = pieces[other], pieces[at]
        elif kind == "delete":
            pieces[at] = ""
        else:
            script = next((letters for letters in (CHINESE, JAPANESE) if pieces[at] in letters), None)
            pieces[at] = draw.choice(script) if script else f" {draw.choice(ENGLISH)}"
    return "".join(pieces)


KINDS = ("word", "delete", "swap", "tail", "front", "case", "space", "comma")
