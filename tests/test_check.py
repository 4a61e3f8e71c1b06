"""`check`: what the first rows can tell, and what they cannot."""

import json
from pathlib import Path
from typing import Any

import pytest

from sft_data.check import dry_run
from sft_data.errors import ConfigError
from sft_data.pipeline import Pipeline, load_pipeline
from tests.trees import ROOT

ENGLISH = "Please tell me how many colours there are in a rainbow, and which of them comes first."
CHINESE = "请告诉我彩虹有多少种颜色，以及哪一种颜色排在最前面，哪一种颜色排在最后面。"


def pipeline_of(tmp_path: Path, *stages: dict[str, Any]) -> Pipeline:
    rows = [{"instruction": f"{text} {number}", "output": text} for text in (ENGLISH, CHINESE) for number in range(9)]
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    every = [{"kind": "detect-language"}, *stages]
    source = {"name": "a", "path": str(tmp_path / "rows.json")}
    told = {"name": "mine", "sources": [source], "stages": every, "store": str(tmp_path / "store")}
    (tmp_path / "mine.yaml").write_text(json.dumps(told))
    return load_pipeline(tmp_path / "mine.yaml")


@pytest.mark.parametrize(
    "stage", [{"kind": "select", "budget": 4, "per": "lang"}, {"kind": "mix", "by": "lang"}], ids=["select", "mix"]
)
def test_a_group_that_only_later_rows_belong_to_is_a_note_and_no_error(stage: dict[str, Any], tmp_path: Path) -> None:
    later = pipeline_of(tmp_path, stage | {"floors": {"zh": 2}}, {"kind": "html-entities"})
    told = dry_run(later, rows=9)
    assert told.ok
    assert [note.partition(", left out here")[0] for note in told.notes] == [stage["kind"]]
    assert "lang `zh`; there is en" in told.notes[0]
    assert [line["step"] for line in told.funnel] == ["read:a", "detect-language", "html-entities", "split"]
    assert dry_run(later, rows=19).notes == []
    nowhere = pipeline_of(tmp_path, stage | {"floors": {"fr": 2}})
    with pytest.raises(ConfigError, match="lang `fr`; there is en, zh"):
        dry_run(nowhere, rows=19)


@pytest.mark.parametrize(
    ("stages", "told"),
    [
        (["mix", "near-dedup", "answer-length"], "mix stands before near-dedup, answer-length: its shares hold before"),
        (["mix", "select"], "mix stands before select: its shares hold before"),
        (["select", "refusal"], "select stands before refusal: a part of its budget"),
        (["near-dedup", "repair-text"], "repair-text behind near-dedup: rows that are alike only after an edit"),
        (["exact-dedup", "personal-data", "html-entities"], "personal-data, html-entities behind exact-dedup"),
    ],
)
def test_orders_in_which_a_stage_undoes_another_are_noted(stages: list[str], told: str, tmp_path: Path) -> None:
    settings = [{"kind": kind} | ({"budget": 4} if kind == "select" else {}) for kind in stages]
    [note] = dry_run(pipeline_of(tmp_path, *settings), rows=9).notes
    assert note.startswith(told)
    assert dry_run(pipeline_of(tmp_path, *settings[::-1]), rows=9).notes == []


@pytest.mark.parametrize("name", ["best", "quickstart"])
def test_order_of_the_pipelines_that_are_shown_is_good(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert dry_run(load_pipeline(ROOT / "pipelines" / f"{name}.yaml"), rows=300).notes == []
