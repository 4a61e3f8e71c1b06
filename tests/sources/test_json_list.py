"""A JSON list is read past every break: undamaged rows arrive, each break is one rejection."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sft_data.sources import json_list
from sft_data.sources.files import find_files
from sft_data.sources.json_list import read_list
from sft_data.sources.rows import Broken
from sft_data.sources.scan import scan_elements
from sft_data.sources.settings import Limits, Source
from sft_data.sources.units import units
from tests.frames import SHARED, needs_shared

ROWS = [{"instruction": f"q{i}", "input": "", "output": f'answer {i}, with "quotes" and {{braces}}'} for i in range(10)]


def pieces_of(text: bytes, size: int) -> Iterator[bytes]:
    stream = io.BytesIO(text)
    return iter(lambda: stream.read(size), b"")


def read_bytes(text: bytes, size: int = 2**20, batch: int = 64, **limits: int) -> tuple[list[Any], list[Broken]]:
    source = Source(name="s", path="x", limits=Limits(**limits))
    found = list(read_list(pieces_of(text, size), source, text.index(b"[") + 1, batch, layout="list"))
    numbers = [int(n) for rows in found for n in rows.number] + [b.row for rows in found for b in rows.broken]
    assert sorted(numbers) == list(range(len(numbers)))
    for rows in found:
        assert [json.loads(rows.raw(i) or b"") for i in range(len(rows.values))] == list(rows.values)
        some = list(range(0, len(rows.values), 50))
        for i, (line, byte) in zip(some, rows.places(some), strict=True):
            assert byte is not None
            assert text.startswith(rows.raw(i) or b"?", byte)
            assert line == text.count(b"\n", 0, byte) + 1
    return [value for rows in found for value in rows.values], [b for rows in found for b in rows.broken]


def pretty(rows: list[Any]) -> str:
    return json.dumps(rows, indent=4)


@pytest.mark.parametrize("size", [1, 7, 97, 2**20])
@pytest.mark.parametrize("text", [pretty(ROWS), json.dumps(ROWS), json.dumps(ROWS, separators=(",", ":"))])
def test_a_good_list_reads_whole_whatever_the_pieces(text: str, size: int) -> None:
    assert read_bytes(text.encode(), size) == (ROWS, [])


@pytest.mark.parametrize("batch", [1, 2, 3, 64])
def test_a_good_list_reads_the_same_in_any_batches(batch: int) -> None:
    assert read_bytes(pretty(ROWS).encode(), 50, batch) == (ROWS, [])


def test_an_empty_list_has_no_rows() -> None:
    assert read_bytes(b" [ ] \n") == ([], [])


# Damage to row 4 of ten: (what stands there, what is put there instead).
DAMAGE = {
    "unescaped quote": ('"answer 4, with', '"answer" 4, with'),
    "two unescaped quotes": ('"answer 4, with', '"ans"wer" 4, with'),
    "missing opening quote": ('"answer 4', "answer 4"),
    "missing closing brace": ("", ""),
    "raw line feed": ("answer 4", "answer\n4"),
    "raw tab": ("answer 4", "answer\t4"),
    "single quotes": ('"q4"', "'q4'"),
    "bare word": ('"q4"', "q4"),
    "missing colon": ('"q4"', '   "q4"'),
    "missing inner comma": ('"q4",', '"q4"'),
    "bad escape": ("answer 4", "answer \\q 4"),
    "two values": ('"q4"', '"q4" "q4"'),
}


@pytest.mark.parametrize("size", [97, 2**20])
@pytest.mark.parametrize("layout", ["pretty", "one line"])
@pytest.mark.parametrize("kind", sorted(DAMAGE))
def test_a_list_with_a_broken_row_gives_all_others_and_one_rejection(kind: str, layout: str, size: int) -> None:
    text = pretty(ROWS) if layout == "pretty" else json.dumps(ROWS)
    row = text.index("q4")
    row = text.rindex("{", 0, row)
    end = text.index('"instruction": "q5"')
    body = text[row:end]
    if kind == "missing closing brace":
        changed = body[: body.rindex("}")] + body[body.rindex("}") + 1 :]
    elif kind == "missing colon":
        changed = body.replace('"instruction":', '"instruction"')
    else:
        changed = body.replace(*DAMAGE[kind])
    assert changed != body
    damaged = (text[:row] + changed + text[end:]).encode()
    values, broken = read_bytes(damaged, size)
    assert values == ROWS[:4] + ROWS[5:]
    [one] = broken
    assert (one.row, one.code) == (4, "unreadable-row")
    assert one.byte == row
    assert one.line == text.count("\n", 0, row) + 1
    assert one.text is not None
    assert one.text.startswith(changed[:12])
    assert "q5" not in one.text


@pytest.mark.parametrize("size", [97, 2**20])
@pytest.mark.parametrize(
    ("name", "change", "detail"),
    [
        ("trailing comma", lambda text: text[:-1] + ",]", "before the closing bracket"),
        ("no end", lambda text: text[:-1], "does not end with ]"),
        ("comma at the end, no bracket", lambda text: text[:-1] + ",", "does not end with ]"),
        (
            "two commas",
            lambda text: text.replace('}, {"instruction": "q4"', '},, {"instruction": "q4"'),
            "no row before",
        ),
        ("no comma", lambda text: text.replace('}, {"instruction": "q4"', '} {"instruction": "q4"'), "no comma"),
        (
            "second list",
            lambda text: text.replace('}, {"instruction": "q4"', '}][{"instruction": "q4"'),
            "behind the end",
        ),
        (
            "early end",
            lambda text: text.replace('}, {"instruction": "q4"', '}], {"instruction": "q4"'),
            "behind the end",
        ),
        ("text behind", lambda text: text + " x", "the row does not end"),
    ],
)
def test_a_break_between_rows_loses_none_and_is_one_rejection(name: str, change: Any, detail: str, size: int) -> None:
    values, broken = read_bytes(change(json.dumps(ROWS)).encode(), size)
    assert values == ROWS
    if name != "text behind":
        assert len(broken) == 1
    assert any(detail in one.detail for one in broken)


@pytest.mark.parametrize("size", [97, 2**20])
def test_a_truncated_list_gives_the_rows_before_the_cut(size: int) -> None:
    text = json.dumps(ROWS).encode()
    values, [broken] = read_bytes(text[: text.index(b"q7")], size)
    assert values == ROWS[:7]
    assert broken.text == '{"instruction": "'
    assert broken.detail == "the row does not end"


def test_two_broken_neighbours_in_a_pretty_list_are_two_rejections() -> None:
    text = pretty(ROWS).replace('"q4"', '"q"4"').replace('"q5"', '"q"5"')
    values, broken = read_bytes(text.encode())
    assert values == ROWS[:4] + ROWS[6:]
    assert [one.row for one in broken] == [4, 5]


def many(rows: int, share: float) -> tuple[bytes, int]:
    """A list in which a share of the rows has a quote too many, and texts hold brackets and inner rows."""
    chance = random.Random(1)
    texts, hit = [], 0
    for i in range(rows):
        said = 'see "this": {"instruction": "inner", "x": [1, 2]} {braces} [ ' * 2
        text = json.dumps({"instruction": f"q{i} what, and why: do you know?", "input": "", "output": said})
        if chance.random() < share:
            place, hit = chance.randrange(1, len(text)), hit + 1
            text = text[:place] + '"' + text[place:]
        texts.append(text)
    return ("[" + ", ".join(texts) + "]").encode(), hit


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_work_grows_with_the_text_and_not_with_its_square(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []

    def counting(view: Any, stop: int, in_list: int, state: Any, out: Any) -> int:
        before = int(state[json_list.POS])
        found = scan_elements(view, stop, in_list, state, out)
        looked.append(int(state[json_list.POS]) - before)
        return found

    monkeypatch.setattr(json_list, "scan_elements", counting)
    text, hit = many(16_000, share)
    source = Source(name="s", path="x")
    found = list(read_list(pieces_of(text, 2**22), source, 1, 4096, layout="list"))
    assert sum(len(rows.values) for rows in found) >= 16_000 - hit
    assert sum(len(rows.broken) for rows in found) >= hit * 0.5
    assert sum(looked) < 6 * len(text)


def test_inner_objects_that_begin_like_rows_are_not_taken_for_rows() -> None:
    rows = [{"id": i, "turns": [{"id": 1, "text": "a"}, {"id": 2, "text": "b"}]} for i in range(6)]
    text = json.dumps(rows).replace('{"id": 3, "turns": [', '{"id": 3, "turns": ["')
    values, broken = read_bytes(text.encode())
    assert values == rows[:3] + rows[4:]
    assert len(broken) == 1


def test_a_broken_first_row_does_not_hide_the_others() -> None:
    text = json.dumps(ROWS).replace('"q0"', '"q"0"')
    values, broken = read_bytes(text.encode())
    assert values == ROWS[1:]
    assert [one.row for one in broken] == [0]


def test_rows_with_their_keys_in_another_order_are_known_behind_a_break() -> None:
    rows = [*ROWS[:5], dict(reversed(ROWS[5].items())), *ROWS[6:]]
    values, broken = read_bytes(json.dumps(rows).replace('"q4"', '"q"4"').encode())
    assert values == rows[:4] + rows[5:]
    assert [one.row for one in broken] == [4]


def test_values_that_are_no_objects_are_rows_too() -> None:
    assert read_bytes(b'[1, "a", null, [2, {"x": 3}], {"a": 1}]') == ([1, "a", None, [2, {"x": 3}], {"a": 1}], [])


@pytest.mark.parametrize("size", [1000, 2**20])
def test_a_row_beyond_the_limit_is_rejected_and_the_next_is_read(size: int) -> None:
    rows = [{"a": "x"}, {"a": "y" * 50_000}, {"a": "z"}]
    values, [broken] = read_bytes(json.dumps(rows).encode(), size, max_row_bytes=5000)
    assert values == [rows[0], rows[2]]
    assert (broken.row, broken.code, broken.byte) == (1, "row-too-large", 13)
    assert broken.detail == "50009 > 5000 bytes (max_row_bytes)"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.lists(json_values, max_size=12), st.integers(1, 40), st.booleans(), st.sampled_from([None, 1]))
def test_any_list_reads_as_the_standard_library_reads_it(
    values: list[Any], size: int, ascii_only: bool, indent: int | None
) -> None:
    try:
        text = json.dumps(values, ensure_ascii=ascii_only, indent=indent).encode()
    except UnicodeEncodeError:
        return
    source = Source(name="s", path="x")
    found = list(read_list(pieces_of(text, size), source, 1, 4, layout="list"))
    read = {int(n): v for rows in found for n, v in zip(rows.number, rows.values, strict=True)}
    lost = {b.row for rows in found for b in rows.broken}
    assert {b.code for rows in found for b in rows.broken} <= {"lone-surrogate"}
    assert sorted(read) + sorted(lost) == sorted(read) + [i for i in range(len(values)) if i not in read]
    assert all(read[i] == values[i] for i in read)


row_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
alpaca_rows = st.lists(
    st.builds(lambda a, b, c: {"instruction": a, "input": b, "output": c}, row_texts, row_texts, row_texts),
    min_size=3,
    max_size=8,
)


@settings(max_examples=300, deadline=None)
@given(alpaca_rows, st.data(), st.sampled_from([None, 2]), st.integers(20, 400))
def test_a_quote_put_anywhere_in_a_row_costs_that_row_alone(
    rows: list[dict[str, str]], data: st.DataObject, indent: int | None, size: int
) -> None:
    texts = [json.dumps(row, indent=indent) for row in rows]
    hit = data.draw(st.integers(0, len(rows) - 1))
    place = data.draw(st.integers(1, len(texts[hit]) - 1))
    texts[hit] = texts[hit][:place] + '"' + texts[hit][place:]
    separator = ", " if indent is None else ",\n"
    values, broken = read_bytes(("[" + separator.join(texts) + "]").encode(), size)
    others = rows[:hit] + rows[hit + 1 :]
    assert [value for value in values if value in rows] == others or values == rows
    assert len(values) + len(broken) >= len(rows)
    if not set("{}[]") & set("".join(rows[hit].values())):
        # A bracket in a text of the damaged row may look like a row's border: then one row is told in several pieces.
        assert len(values) + len(broken) == len(rows)


@needs_shared
def test_the_really_broken_file_gives_all_rows_and_one_rejection() -> None:
    path = SHARED / "data/odd/alpaca_zh-9407-12345.broken.json"
    text = path.read_bytes()
    values, [broken] = read_bytes(text)
    assert len(values) == 2801
    assert values == json.loads(text.decode().rstrip()[:-1].rstrip().rstrip(",") + "]")
    assert (broken.row, broken.line, broken.text) == (2801, 14006, ",")


@needs_shared
@pytest.mark.parametrize("path", sorted((SHARED / "data").rglob("*.json")), ids=lambda path: path.name)
def test_real_lists_read_as_the_standard_library_reads_them(path: Path) -> None:
    text = path.read_bytes()
    if "broken" in path.name:
        return
    values, broken = read_bytes(text, 2**21, 2048)
    assert (values, broken) == (json.loads(text), [])
    [unit] = units(Source(name="s", path=str(path)), find_files(Source(name="s", path=str(path))))
    assert unit.layout == "list"
