from __future__ import annotations

import hashlib
import json

from sft_data.store.log import append, check_log, read_log


def entries(store):
    return (store / "log.jsonl").read_bytes().splitlines()


def test_log_each_entry_holds_the_hash_of_the_one_before(tmp_path):
    for number in range(3):
        append(tmp_path, "publish", name="a", number=number)
    lines = entries(tmp_path)
    assert json.loads(lines[0])["previous"] == "0" * 64
    assert json.loads(lines[2])["previous"] == hashlib.sha256(lines[1]).hexdigest()
    assert [e["number"] for e in read_log(tmp_path)] == [0, 1, 2]
    assert check_log(tmp_path) == []


def test_log_longer_than_a_block_finds_its_last_line(tmp_path):
    for number in range(3):
        append(tmp_path, "publish", note="x" * 5000 * (number + 1))
    append(tmp_path, "tag")
    assert check_log(tmp_path) == []


def test_log_changed_line_is_named(tmp_path):
    for number in range(3):
        append(tmp_path, "publish", number=number)
    lines = entries(tmp_path)
    (tmp_path / "log.jsonl").write_bytes(
        b"\n".join([lines[0].replace(b'"number":0', b'"number":7'), *lines[1:]]) + b"\n"
    )
    assert check_log(tmp_path) == ["log.jsonl line 2 does not follow from line 1: a line was changed or removed"]


def test_log_removed_line_is_named(tmp_path):
    for number in range(3):
        append(tmp_path, "publish", number=number)
    lines = entries(tmp_path)
    (tmp_path / "log.jsonl").write_bytes(b"\n".join([lines[0], lines[2]]) + b"\n")
    assert check_log(tmp_path) == ["log.jsonl line 2 does not follow from line 1: a line was changed or removed"]


def test_log_torn_line_is_told_and_the_chain_goes_on(tmp_path):
    """A machine that lost power wrote half an entry."""
    append(tmp_path, "publish", number=1)
    with (tmp_path / "log.jsonl").open("ab") as file:
        file.write(b'{"at": "20')
    append(tmp_path, "publish", number=2)
    assert check_log(tmp_path) == ["log.jsonl line 2 is not a whole entry"]
    assert [e["number"] for e in read_log(tmp_path)] == [1, 2]


def test_log_of_a_store_without_one_is_empty(tmp_path):
    assert read_log(tmp_path) == []
    assert check_log(tmp_path) == []
