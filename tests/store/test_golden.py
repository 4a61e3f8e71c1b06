"""A version that the first release wrote stays readable.

`golden/` is never written again: a new format gets a new folder.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from sft_data.errors import StoreError
from sft_data.report.html import render_html
from sft_data.report.measure import measure
from sft_data.report.model import Report
from sft_data.store.diff import diff
from sft_data.store.layout import arrow_batches, stream_files
from sft_data.store.read import load_manifest
from sft_data.store.transfer import import_version
from sft_data.store.verify import verify
from sft_data.store.why import why
from tests.store.versions import published, rewrite

FOLDER = Path(__file__).parent / "golden"
GOLDEN = [FOLDER / "format-1"]
# With loss weights, several samples of a row, a source packed twice, three splits.
WEIGHTED = FOLDER / "format-1-weighted"


@pytest.fixture(params=GOLDEN, ids=lambda path: path.name)
def golden(request):
    return request.param


def test_golden_version_is_whole(golden):
    assert verify(golden).problems == []


def test_golden_version_tells_its_rows_and_its_report(golden):
    assert why(golden, "s:a.json:6").fate == "rejected: near-duplicate"
    assert why(golden, "s:a.json:0").events[-1].what == "packed"
    report = measure(golden)
    assert (report.rows_in, report.rows_kept, report.tokens) == (12, 8, 502)
    assert "12 rows in" in render_html(Report.model_validate_json((golden / "report.json").read_bytes()))


def test_golden_version_compares_with_one_of_today(golden, tmp_path):
    made = published(tmp_path / "store", tmp_path / "cells", answers={2: "Blue, red and green are colours."})
    found = diff(golden, made.folder)
    assert (found.changed.count, found.added.count, found.redecided.count) == (1, 0, 0)


def test_golden_version_can_be_imported(golden, tmp_path):
    made = import_version(tmp_path / "store", golden)
    assert verify(made.folder).ok


def test_golden_version_with_weights_and_several_samples_of_a_row_is_read_whole(tmp_path):
    assert verify(WEIGHTED).problems == []
    manifest, report = load_manifest(WEIGHTED), measure(WEIGHTED)
    assert (report.rows_in, report.rows_kept, report.tokens, report.packs) == (63, 60, 5377, 35)
    train = manifest.counts.splits["train"]
    assert train.packed_tokens == 2 * train.tokens
    [packs] = stream_files(WEIGHTED, "packs", "test")
    assert next(arrow_batches(packs)).columns == ["input_ids", "labels", "loss_weights", "seq_lengths"]
    story = why(WEIGHTED, "chats:chats.jsonl:2")
    assert [event.what for event in story.events if event.stage in ("tokenize", "pack")][-2:] == ["tokenized", "packed"]
    assert [event.detail.partition(":")[0] for event in story.events if event.what == "tokenized"] == [
        "sample 0",
        "sample 1",
    ]
    assert diff(WEIGHTED, WEIGHTED).same
    assert verify(import_version(tmp_path / "store", WEIGHTED).folder).ok


def test_version_of_a_newer_release_says_so(tmp_path):
    made = published(tmp_path / "store", tmp_path / "cells")
    path = made.folder / "manifest.json"
    rewrite(path, path.read_bytes().replace(b'"format": 1', b'"format": 2'))
    with pytest.raises(StoreError, match=r"newer release \(format 2, this one reads 1\): upgrade"):
        load_manifest(made.folder)
