import re

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sft_data.privacy.patterns import KINDS, PLACEHOLDERS, SHAPES, Kind, mask

# All invented, or published as examples by those who hand such numbers out. Parts are joined so that no scanner of
# source code takes them for real.
FOUND: list[tuple[Kind, str, str]] = [
    ("email", "Write to jane.doe+news@mail.uni-ulm.de!", "Write to [EMAIL]!"),
    ("email", "邮箱：wang_wei@163.com。谢谢", "邮箱：[EMAIL]。谢谢"),
    ("email", "<a@b.co>,c@d.io", "<[EMAIL]>,[EMAIL]"),
    ("phone-number", "我的手机号是13912345678，请来电", "我的手机号是[PHONE]，请来电"),
    ("phone-number", "+86 139 1234 5678", "[PHONE]"),
    ("phone-number", "Call (212) 684-4700 or 1-800-362-0101.", "Call [PHONE] or [PHONE]."),
    ("phone-number", "Tel. +49 30 901820, +44 (20) 7946 0958", "Tel. [PHONE], [PHONE]"),
    ("card-number", "4242 4242 4242 4242", "[CARD]"),
    ("card-number", "card=4111111111111111;", "card=[CARD];"),
    ("card-number", "Amex 3782 822463 10005", "Amex [CARD]"),
    ("iban", "IBAN DE89 3704 0044 0532 0130 00", "IBAN [IBAN]"),
    ("iban", "GB82WEST12345698765432", "[IBAN]"),
    ("national-id", "身份证号：11010519491231002X。", "身份证号：[ID]。"),
    ("national-id", "SSN 219-09-9999", "SSN [ID]"),
    ("ip-address", "from 128.178.163.54 to 192.168.0.1", "from [IP] to 192.168.0.1"),
    ("ip-address", "服务器地址是123.126.25.5。", "服务器地址是[IP]。"),
    ("secret", "key " + "AKIA" + "Q7RT2MZX4LPWN6DK", "key [SECRET]"),
    ("secret", "ghp_" + "a1B2" * 9, "[SECRET]"),
    ("secret", "Bearer " + "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVm", "Bearer [SECRET]"),
    ("secret", "-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc=\n-----END RSA PRIVATE KEY-----\nend", "[SECRET]\nend"),
    ("secret", "postgres://ann:hunter2x@db.host/x", "postgres://ann:[SECRET]@db.host/x"),
    ("secret", "enc_password = \"" + "IH6noKXV7kU6S5BS" + "\"", "enc_password = \"[SECRET]\""),
    ("secret", "'api_key': 'q8Zr2LmX0vTn5Wk'", "'api_key': '[SECRET]'"),
]  # fmt: skip
LOOK_ALIKES: list[tuple[Kind, str]] = [
    ("email", "user@example.com, a@test, root@localhost, x@shop.example"),
    ("email", "git clone git@github.com:a/b.git"),
    ("email", "@decorator and a @ b.com and 3@4"),
    ("phone-number", "15000000000 yuan"),
    ("phone-number", "ISBN 978-3-16-148410-0, 2024-03-09, 123.456.789"),
    ("phone-number", "5 + 123 and +5 degrees and 3.14159265358979"),
    ("phone-number", "1 2 3 4 5 6 7 8 9 10 11 12"),
    ("phone-number", "(123) 456-7890"),  # no area code begins with 1
    ("phone-number", "139123456789"),
    ("card-number", "4 8 12 16 20 24 28 32 36 40"),
    ("card-number", "4242 4242 4242 4241"),
    ("card-number", "3.4111111111111111"),
    ("card-number", "4444444444444444"),
    ("iban", "DE89 3704 0044 0532 0130 01"),
    ("iban", "XX89370400440532013000"),
    ("iban", "AB12CDEFGHIJ"),
    ("national-id", "110105194912310021"),
    ("national-id", "000-12-3456 and 666-12-3456 and 123-00-4567"),
    ("ip-address", "version 1.2.3.4, v2.3.4.5, 版本3.4.5.6"),
    ("ip-address", "127.0.0.1 10.0.0.7 8.8.8.8 300.1.2.3 1.2.3.4.5 0.0.0.0"),
    ("secret", "password = 'your_password_here1'"),
    ("secret", 'api_key = "YOUR-API-KEY-0000"'),
    ("secret", "token = 'aaaaaaaaaaaaaaa1'"),
    ("secret", "secret: 'correcthorsebattery'"),
    ("secret", "https://user@host/path and http://host:8080/x@y"),
    ("secret", "risk-free sk-learn task-abc"),
]


@pytest.mark.parametrize(("kind", "text", "expected"), FOUND)
def test_mask_of_personal_data_replaces_it_and_nothing_else(kind: Kind, text: str, expected: str):
    after, lengths = mask(text, kind)
    assert after == expected
    assert len(lengths) == expected.count(PLACEHOLDERS[kind])
    assert len(after) == len(text) - sum(lengths) + len(lengths) * len(PLACEHOLDERS[kind])


@pytest.mark.parametrize(("kind", "text"), LOOK_ALIKES)
def test_mask_of_what_only_looks_like_it_changes_nothing(kind: Kind, text: str):
    assert mask(text, kind) == (text, [])


@pytest.mark.parametrize("kind", KINDS)
def test_mask_twice_is_mask_once(kind: Kind):
    for _, text, expected in FOUND:
        assert mask(expected, kind)[0] == mask(mask(expected, kind)[0], kind)[0]
        assert mask(mask(text, kind)[0], kind)[1] == []


def test_chinese_identity_numbers_are_checked_as_gb_11643_says():
    weights = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2]
    for serial in range(100, 160):
        body = f"31010119800229{serial}"
        right = "10X98765432"[sum(int(c) * w for c, w in zip(body, weights, strict=True)) % 11]
        for last in "0123456789X":
            assert (mask(body + last, "national-id")[0] == "[ID]") == (last == right)


PARTS = st.sampled_from([text for _, text, _ in FOUND] + [text for _, text in LOOK_ALIKES])


@settings(max_examples=200, deadline=None)
@given(st.lists(PARTS | st.text(max_size=6), max_size=4).map("".join), st.sampled_from(KINDS))
def test_hint_of_a_kind_sees_every_text_that_its_patterns_would_mask(text: str, kind: Kind):
    hints = pl.select(pl.any_horizontal(pl.lit(text).str.contains(shape.hint) for shape in SHAPES[kind])).item()
    assert hints or mask(text, kind)[1] == []


def test_patterns_of_hostile_text_end_quickly():
    for hostile in (
        "a" * 200_000,
        "1-" * 100_000,
        "a@" * 100_000,
        "a." * 100_000 + "@",
        "://" * 60_000,
        "+1 " * 60_000,
    ):
        for kind in KINDS:
            mask(hostile, kind)


def test_placeholders_hold_no_data_of_any_kind():
    everything = " ".join(PLACEHOLDERS.values())
    assert all(mask(everything, kind)[1] == [] for kind in KINDS)
    assert all(re.fullmatch(r"\[[A-Z]+\]", placeholder) for placeholder in PLACEHOLDERS.values())
