"""Text of the data made safe to look at: what would steer a terminal or turn the writing around is shown instead."""

from __future__ import annotations

import re

__all__ = ["visible"]

# C0 and C1 controls but line feed and tab, bidirectional controls, invisible separators, and the byte order mark.
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


def visible(text: str) -> str:
    r"""`text` with control characters as their pictures and direction marks by their numbers.

    >>> visible("\x1b[31mred \u202eback")
    '␛[31mred ⟨U+202E⟩back'
    """
    return _HIDDEN.sub(_shown, text)


def _shown(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"⟨U+{code:04X}⟩"
