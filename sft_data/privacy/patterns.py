"""Shapes of personal data and secrets, with the checksums and rules that tell them from look-alikes."""

from __future__ import annotations

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["KINDS", "Kind", "Shape", "mask"]

Kind = Literal["secret", "email", "iban", "card-number", "national-id", "phone-number", "ip-address"]
KINDS: tuple[Kind, ...] = ("secret", "email", "iban", "card-number", "national-id", "phone-number", "ip-address")


@dataclass(frozen=True)
class Shape:
    """One way in which a kind of data is written.

    `pattern` finds it; where it has a group `value`, only that is masked. `holds` looks closer at a finding. `hint` is
    a cheap regular expression (no look-around) that is true for every text in which `pattern` can find something.
    """

    pattern: re.Pattern[str]
    hint: str
    holds: Callable[[re.Match[str]], bool] = lambda found: True


PLACEHOLDERS: Mapping[Kind, str] = {
    "secret": "[SECRET]",
    "email": "[EMAIL]",
    "iban": "[IBAN]",
    "card-number": "[CARD]",
    "national-id": "[ID]",
    "phone-number": "[PHONE]",
    "ip-address": "[IP]",
}


def _value(found: re.Match[str]) -> str:
    return found["value"] if "value" in found.re.groupindex else found[0]


def _digits(found: re.Match[str]) -> str:
    return "".join(c for c in _value(found) if c.isdecimal())


# Names that RFC 2606 keeps free for examples.
_RESERVED = re.compile(r"(?i)(?:^|[.@])(?:example\.(?:com|net|org)|example|test|invalid|localhost)$")


def _somebodys_address(found: re.Match[str]) -> bool:
    return not _RESERVED.search(found[0]) and not found[0].startswith("git@")


# Length of an IBAN by country: without it one of a hundred lookalikes passes the checksum.
_IBAN_LENGTH = {
    "AD": 24, "AE": 23, "AT": 20, "BE": 16, "BG": 22, "BR": 29, "CH": 21, "CY": 28, "CZ": 24, "DE": 22, "DK": 18,
    "EE": 20, "ES": 24, "FI": 18, "FR": 27, "GB": 22, "GR": 27, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IS": 26,
    "IT": 27, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "MC": 27, "MT": 31, "NL": 18, "NO": 15, "PL": 28, "PT": 25,
    "RO": 24, "SA": 24, "SE": 24, "SI": 19, "SK": 24, "TR": 26, "UA": 29,
}  # fmt: skip


def _iban(found: re.Match[str]) -> bool:
    """ISO 13616: right length for its country, and 1 modulo 97."""
    text = found[0].replace(" ", "")
    if _IBAN_LENGTH.get(text[:2]) != len(text):
        return False
    return int("".join(str(int(c, 36)) for c in text[4:] + text[:4])) % 97 == 1


def _luhn(found: re.Match[str]) -> bool:
    """ISO/IEC 7812: every second digit from the right doubled, the sum of digits a multiple of ten."""
    digits = [int(c) for c in reversed(_digits(found))]
    doubled = [sum(divmod(2 * d, 10)) if place % 2 else d for place, d in enumerate(digits)]
    return sum(doubled) % 10 == 0 and len(set(digits)) > 1


def _chinese_id(found: re.Match[str]) -> bool:
    """GB 11643: the last character checks the seventeen before it."""
    text = found[0].upper()
    return "10X98765432"[sum(int(c) * 2 ** (17 - place) for place, c in enumerate(text[:17])) % 11] == text[17]


def _not_round(found: re.Match[str]) -> bool:
    """Eleven digits that end in many zeros are an amount."""
    return not _digits(found).endswith("00000")


def _international(found: re.Match[str]) -> bool:
    """E.164: 8 to 15 digits."""
    return 8 <= len(_digits(found)) <= 15


_VERSION = re.compile(r"(?i)(?:version|release|build|firmware|版本|\bv)\W{0,3}$")
_PUBLIC_SERVICES = frozenset({"8.8.8.8", "8.8.4.4", "1.1.1.1", "1.0.0.1", "9.9.9.9", "114.114.114.114"})


def _public_address(found: re.Match[str]) -> bool:
    """Addresses that are routed in the internet; no version numbers, no name servers that everybody knows."""
    if found[0] in _PUBLIC_SERVICES or _VERSION.search(found.string[max(0, found.start() - 20) : found.start()]):
        return False
    try:
        return ipaddress.IPv4Address(found[0]).is_global
    except ValueError:
        return False


_FILLER = re.compile(r"(?i)your|example|placeholder|passw|secret|change|dummy|test|sample|x{3}|\*{3}|<|\$\{|\{\{|1234")


def _random_looking(found: re.Match[str]) -> bool:
    """Letters and digits mixed, at least 3 bits per character: no word, no placeholder."""
    text = _value(found)
    if _FILLER.search(text) or not re.search(r"\d", text) or not re.search(r"[A-Za-z]", text):
        return False
    return -sum(n / len(text) * math.log2(n / len(text)) for n in Counter(text).values()) >= 3.0


_KEYS = (  # as AWS, GitHub, GitLab, Slack, OpenAI, Stripe, Google, Hugging Face, npm, SendGrid and JWT write them
    r"(?:AKIA|ASIA)[0-9A-Z]{16}",
    r"gh[pousr]_[A-Za-z0-9]{36,}",
    r"github_pat_[A-Za-z0-9_]{22,}",
    r"glpat-[A-Za-z0-9_-]{20,}",
    r"xox[abprs]-[A-Za-z0-9-]{10,}",
    r"sk-[A-Za-z0-9_-]*[A-Za-z0-9]{20,}",
    r"[sr]k_live_[A-Za-z0-9]{16,}",
    r"AIza[A-Za-z0-9_-]{35}",
    r"hf_[A-Za-z]{30,}",
    r"npm_[A-Za-z0-9]{36}",
    r"SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}",
    r"eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{5,}",
)
_ASSIGNED = r"(?:api|access|auth|secret|private)?[_-]?(?:key|token|secret|passw(?:or)?d|passphrase|pwd)"

SHAPES: Mapping[Kind, tuple[Shape, ...]] = {
    "secret": (
        Shape(
            re.compile(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----[\s\S]*?(?:-----END (?:[A-Z]+ )*PRIVATE KEY-----|\Z)"),
            "PRIVATE KEY-----",
        ),
        Shape(re.compile(r"(?<![A-Za-z0-9])(?:" + "|".join(_KEYS) + ")"), "|".join(_KEYS)),
        Shape(re.compile(r"://[^\s:/@]{1,64}:(?P<value>[^\s:/@\[]{3,128})@"), r"://[^\s:/@]{1,64}:[^\s:/@]{3,128}@"),
        Shape(
            re.compile(rf"(?i)(?<![A-Za-z0-9]){_ASSIGNED}[\"']?\s{{0,3}}[:=]\s{{0,3}}[\"'](?P<value>[^\"'\s]{{12,200}})[\"']"),
            rf"(?i){_ASSIGNED}[\"']?\s{{0,3}}[:=]\s{{0,3}}[\"']",
            _random_looking,
        ),
    ),
    "email": (
        Shape(
            re.compile(
                r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9](?:[A-Za-z0-9._%+-]{0,62}[A-Za-z0-9])?"
                r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,6}[A-Za-z]{2,24}(?![A-Za-z0-9-]|\.[A-Za-z0-9])"
            ),
            r"[A-Za-z0-9]@[A-Za-z0-9][A-Za-z0-9.-]*\.[A-Za-z]{2}",
            _somebodys_address,
        ),
    ),
    "iban": (
        Shape(
            re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![A-Za-z0-9])"),
            r"[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2}",
            _iban,
        ),
    ),
    "card-number": (
        Shape(
            re.compile(
                r"(?<![\d.,+-])(?:[3-6]\d{12,18}|[3-6]\d{3}(?P<a>[ -])\d{4}(?P=a)\d{4}(?P=a)\d{4}"
                r"|3[47]\d{2}(?P<b>[ -])\d{6}(?P=b)\d{5})(?!\d|[ .,-]\d)"
            ),
            r"[3-6]\d{12}|[3-6]\d{3}[ -]\d{4}[ -]\d{4}[ -]\d{4}|3[47]\d{2}[ -]\d{6}[ -]\d{5}",
            _luhn,
        ),
    ),
    "national-id": (
        Shape(
            re.compile(r"(?<![\dA-Za-z])[1-8]\d{5}(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}[\dXx](?![\dA-Za-z])"),
            r"\d{17}[\dXx]",
            _chinese_id,
        ),
        Shape(
            re.compile(r"(?<![\d-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])"),
            r"\d{3}-\d{2}-\d{4}",
        ),
    ),
    "phone-number": (
        Shape(
            re.compile(r"(?<![\d.,+-])(?:\+?86[- ]?)?1[3-9]\d(?P<a>[- ]?)\d{4}(?P=a)\d{4}(?!\d|[.,-]\d)"),
            r"1[3-9]\d[- ]?\d{4}[- ]?\d{4}",
            _not_round,
        ),
        Shape(
            re.compile(r"(?<![A-Za-z0-9+])\+[1-9]\d{0,2}(?:[ .-]?\(?\d{1,4}\)?){1,5}(?![\d])"),
            r"\+[1-9]\d{0,2}[ .(-]*\d",
            _international,
        ),
        Shape(
            re.compile(r"(?<![\d.,+-])(?:1[- ])?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}(?P<a>[-. ]))"
                r"[2-9]\d{2}(?(a)(?P=a)|[-. ])\d{4}(?!\d|[.,-]\d)"),
            r"[2-9]\d{2}[-. )][-. ]?[2-9]\d{2}[-. ]\d{4}",
        ),
    ),
    "ip-address": (
        Shape(
            re.compile(r"(?<![A-Za-z0-9_.])(?:\d{1,3}\.){3}\d{1,3}(?![A-Za-z0-9_]|\.\d)"),
            r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}",
            _public_address,
        ),
    ),
}  # fmt: skip


def mask(text: str, kind: Kind) -> tuple[str, list[int]]:
    """The text with everything of a kind replaced by its placeholder, and how many characters each finding had.

    >>> mask("Write to ann@mailbox.org.", "email")
    ('Write to [EMAIL].', [15])
    """
    lengths: list[int] = []

    def replace(shape: Shape, found: re.Match[str]) -> str:
        if not shape.holds(found):
            return found[0]
        value = _value(found)
        lengths.append(len(value))
        start = found.start("value") - found.start() if "value" in found.re.groupindex else 0
        return found[0][:start] + PLACEHOLDERS[kind] + found[0][start + len(value) :]

    for shape in SHAPES[kind]:
        text = shape.pattern.sub(lambda found, shape=shape: replace(shape, found), text)  # type: ignore[misc]
    return text, lengths
