"""A small run of the fuzz harness; the long one is a command: see fuzz.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.formats.fuzz import READERS, check


@pytest.mark.parametrize("reader", READERS)
def test_damaged_files_never_break_a_reader(tmp_path: Path, reader: str) -> None:
    for seed in range(60):
        check(tmp_path, reader, seed)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("reader", READERS)
def test_many_damaged_files_never_break_a_reader(tmp_path: Path, reader: str) -> None:
    for seed in range(600):
        check(tmp_path, reader, seed)
