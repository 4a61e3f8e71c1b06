"""Large files are cut at line ends, and the cut does not show."""

from __future__ import annotations

import gzip
import json
import pickle
from pathlib import Path

import polars as pl
import pytest

from sft_data.sources import streams, tables, units
from sft_data.sources.files import find_files
from sft_data.sources.settings import Source


def rows_of(source: Source) -> list[tuple[int, object, int | None, int | None]]:
    found = []
    for unit in units.units(source, find_files(source)):
        for rows in units.read_rows(pickle.loads(pickle.dumps(unit)), source, 5):  # noqa: S301 - made here
            places = rows.places(range(len(rows.values)))
            found += [
                (int(number), value, line, byte)
                for number, value, (line, byte) in zip(rows.number, rows.values, places, strict=True)
            ]
            found += [(broken.row, broken.code, broken.line, broken.byte) for broken in rows.broken]
    return sorted(found, key=lambda row: row[0])


@pytest.mark.parametrize("size", [100, 333, 5000])
def test_ranges_of_a_file_give_the_same_rows_as_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    lines = [json.dumps({"i": i, "text": "x" * (i % 40)}) if i % 13 else "" for i in range(300)]
    lines[50] = "{broken"
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    source = Source(name="s", path=str(tmp_path / "a.jsonl"))
    whole = rows_of(source)
    monkeypatch.setattr(units, "RANGE", size)
    monkeypatch.setattr(streams, "PIECE", 64)
    found = units.units(source, find_files(source))
    assert len(found) > 2
    assert [unit.start for unit in found[1:]] == [unit.end for unit in found[:-1]]
    assert rows_of(source) == whole
    assert len(whole) == sum(bool(line) for line in lines)
    assert (50, "unreadable-row", 51, sum(len(line) + 1 for line in lines[:50])) in whole


def test_a_compressed_file_is_one_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "RANGE", 100)
    (tmp_path / "a.gz").write_bytes(gzip.compress(b'{"a": 1}\n' * 500))
    source = Source(name="s", path=str(tmp_path / "a.gz"))
    assert len(units.units(source, find_files(source))) == 1
    assert len(rows_of(source)) == 500


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
@pytest.mark.parametrize("same", [True, False])
def test_long_rows_of_a_binary_table_are_decoded_fewer_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, same: bool
) -> None:
    """Also where all are the same text, which Parquet holds once, so that the file says little of its size."""
    texts = [("long " * 800 if i % 2 else "short") + ("" if same else f" {i}") for i in range(300)]
    frame = pl.DataFrame({"prompt": texts, "response": [str(i) for i in range(300)]})
    frame.write_parquet(tmp_path / name) if name == "a.parquet" else frame.write_ipc(tmp_path / name)
    source = Source(name="s", path=str(tmp_path / name))
    monkeypatch.setattr(tables, "_BATCH_BYTES", 20_000)
    [unit] = units.units(source, find_files(source))
    found = list(units.read_rows(unit, source))
    assert [value["prompt"] for rows in found for value in rows.values] == texts
    assert [int(number) for rows in found for number in rows.number] == list(range(300))
    sizes = [sum(len(value["prompt"]) for value in rows.values) for rows in found]
    assert len(sizes) > 25
    assert max(sizes) < 30_000
