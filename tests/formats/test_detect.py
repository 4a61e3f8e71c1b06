"""Detection looks at many rows, says why, and never guesses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sft_data.errors import SourceError
from sft_data.formats.detect import Detection, detect
from sft_data.sources.files import find_files
from sft_data.sources.settings import Source
from tests.formats.reading import written

ALPACA = {"instruction": "q", "input": "", "output": "a"}
PAIR = {"prompt": "q", "response": "a"}


def look(tmp_path: Path, content: Any, name: str = "a.jsonl", **settings: Any) -> Detection:
    source = Source(name="s", path=str(written(tmp_path, content, name)), **settings)
    return detect(source, find_files(source))


def test_evidence_names_the_keys_and_the_share(tmp_path: Path) -> None:
    found = look(tmp_path, [ALPACA] * 9 + [PAIR])
    assert (found.format, found.confidence, found.rows, found.container, found.encoding) == (
        "alpaca",
        0.9,
        10,
        "lines",
        "utf-8",
    )
    assert "`instruction` in 90%" in found.evidence[0]
    assert found.candidates["prompt-response"] == 0.1


def test_a_mixed_file_stops_and_shows_the_candidates(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as error:
        look(tmp_path, [ALPACA, PAIR])
    told = str(error.value)
    assert "50.0% of the rows" in told
    assert "alpaca 50.0%" in told
    assert "prompt-response 50.0%" in told
    assert "Set `format`" in told


def test_a_table_is_never_guessed(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="format: table"):
        look(tmp_path, [{"text": "t", "label": 1}])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "no row that can be read"),
        ("not json\n", "no row that can be read"),
        ("1\n2\n", "2 rows, but none that is"),
    ],
)
def test_a_file_without_objects_stops(tmp_path: Path, content: str, told: str) -> None:
    with pytest.raises(SourceError, match=told):
        look(tmp_path, content)


def test_rows_that_are_no_objects_count_against_the_confidence(tmp_path: Path) -> None:
    assert look(tmp_path, [ALPACA] * 9 + [5]).confidence == 0.9


def test_the_pipeline_has_the_last_word(tmp_path: Path) -> None:
    found = look(tmp_path, [{"x": 1}], format="alpaca")
    assert (found.format, found.confidence, found.evidence) == ("alpaca", 1.0, ["the pipeline says alpaca"])


def test_later_files_are_looked_at_as_well(tmp_path: Path) -> None:
    for number in range(30):
        written(tmp_path, [ALPACA if number < 15 else PAIR], f"{number:02}.jsonl")
    source = Source(name="s", path=str(tmp_path))
    with pytest.raises(SourceError, match="not clear"):
        detect(source, find_files(source))
