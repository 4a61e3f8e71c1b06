"""Rows of texts read as columns: what orjson reads, and nothing that it would read otherwise or refuse."""

from __future__ import annotations

import json

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sft_data.sources.columns import Texts, read_texts

KEYS = ["instruction", "input", "output"]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
ROWS = st.lists(st.tuples(TEXT, TEXT, TEXT), min_size=1, max_size=8)


def texts_of(rows: list[bytes]) -> Texts | None:
    ends = np.cumsum([len(row) + 1 for row in rows]) - 1
    starts = np.concatenate([[0], ends[:-1] + 1])
    return read_texts(b"\n".join(rows), starts.astype(np.int64), ends.astype(np.int64))


@settings(deadline=None)  # the first call compiles
@given(ROWS, st.booleans(), st.sampled_from([(",", ":"), (", ", ": "), (" ,\t", " :\r ")]))
def test_valid_rows_come_out_as_the_decoder_reads_them(rows, ascii_only, separators):
    spelt = [json.dumps(dict(zip(KEYS, r, strict=True)), ensure_ascii=ascii_only, separators=separators) for r in rows]
    texts = texts_of([row.encode() for row in spelt])
    assert texts is not None
    assert texts.names == tuple(KEYS)
    assert texts.flat.to_pylist() == [value for row in spelt for value in orjson.loads(row).values()]


@settings(deadline=None)  # the first call compiles
@given(st.lists(st.integers(0, 255), max_size=30).map(bytes), st.integers(0, 12))
def test_any_bytes_inside_a_value_are_read_as_orjson_reads_them_or_left_to_it(middle, before):
    row = b'{"a": "' + b"x" * before + middle + b'", "b": "y"}'
    texts = texts_of([b'{"a": "", "b": ""}', row])
    try:
        value = orjson.loads(row)
    except orjson.JSONDecodeError:
        assert texts is None
        return
    if texts is not None:
        assert dict(zip(texts.names, texts.flat.to_pylist()[2:], strict=True)) == value


@settings(deadline=None)  # the first call compiles
@given(st.text(alphabet='\\"/bfnrtu0123456789abcdefABCDEFdD8', max_size=24))
def test_escapes_of_every_kind(escaped):
    row = f'{{"a": "{escaped}"}}'.encode()
    texts = texts_of([b'{"a": "x"}', row])
    try:
        expected = orjson.loads(row)
    except orjson.JSONDecodeError:
        expected = None
    if texts is None:
        assert expected is None or list(expected) != ["a"] or len(expected) > 1
    else:
        assert texts.flat.to_pylist()[1:] == [expected["a"]]


@pytest.mark.parametrize(
    "odd",
    [
        b'{"a": "x"}',  # a key less
        b'{"a": "x", "b": "y", "c": "z"}',  # a key more
        b'{"b": "y", "a": "x"}',  # another order
        b'{"a": "x", "a": "y"}',  # a key twice
        b'{"a": "x", "b": 1}',
        b'{"a": "x", "b": null}',
        b'{"a": "x", "b": ["y"]}',
        b'{"a": "x", "b": "y",}',
        b'{"a": "x" "b": "y"}',
        b'{"a": "x", "b": "y"} ',
        b'{"a": "x", "b": "y"',
        b'{"a": "x", "b": "y',
        b'{"a": "x", "b": "\\ud800"}',
        b'{"a": "x", "b": "\\udc00\\ud800"}',
        b'{"a": "x", "b": "\\u12"}',
        b'{"a": "x", "b": "\\x"}',
        b'{"a": "x", "b": "\x01"}',
        b'{"a": "x", "b": "\xff"}',
        b'{"a": "x", "b": "\xed\xa0\x80"}',
        b"[]",
        b"",
    ],
)
def test_one_odd_row_leaves_all_to_the_decoder(odd):
    good = b'{"a": "x", "b": "y"}'
    assert texts_of([good, good]) is not None
    assert texts_of([good, odd, good]) is None


def test_a_first_row_that_holds_more_than_texts_is_left_to_the_decoder():
    assert texts_of([b'{"a": 1}']) is None
    assert texts_of([b"{}"]) is None
    assert texts_of([b'"a"']) is None
