"""What a build says it will reuse, why not, and that it does what it says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest

from sft_data import fingerprint, reuse
from sft_data.build import StepResult, build, forecast
from sft_data.pipeline import Pipeline, parse_pipeline
from sft_data.plan import Step
from sft_data.stage import StageConfig
from tests.trees import ROOT


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write("a", 5)
    shutil.copytree(ROOT / "samples" / "tokenizer", "tokenizer")


def write(name: str, rows: int) -> None:
    lines = [
        {"instruction": f"What is {name} {n}?", "input": "", "output": f"The number {n} of {name}."}
        for n in range(rows)
    ]
    Path(f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def pipeline(**changes: Any) -> Pipeline:
    settings: dict[str, Any] = {
        "name": "small",
        "sources": [{"name": "one", "path": "*.jsonl", "format": "alpaca"}],
        "stages": [{"kind": "repair-text"}, {"kind": "answer-length", "min_chars": 2}, {"kind": "turns"}],
        "tokenize": {"tokenizer": "tokenizer", "max_length": 64},
        "pack": {"max_length": 64},
    }
    return parse_pipeline(settings | changes, "small")


class Kept:
    def __init__(self) -> None:
        self.results: list[StepResult] = []

    def begin(self, step: Step, cells: int) -> None: ...

    def advance(self) -> None: ...

    def finish(self, result: StepResult) -> None:
        self.results.append(result)


def expect(changed: Pipeline, told: dict[str, list[str]]) -> None:
    """The forecast gives just these reasons, and the build reuses just the steps that the forecast says."""
    looked = forecast(changed, "store")
    assert {step: list(why) for step, why in looked.reasons().items()} == told
    watch = Kept()
    result = build(changed, "store", watch=watch)
    assert {r.name: r.reused for r in watch.results} == {step.step: step.reused for step in looked.steps}
    assert {r.name: list(r.why) for r in watch.results if r.why} == told
    assert {stage["step"]: stage["why"] for stage in result.stages if stage["why"]} == told
    assert result.fingerprint == looked.fingerprint
    again = forecast(changed, "store")
    assert all(step.reused and not step.why for step in again.steps)
    assert again.version == result.version


def test_first_build_says_that_nothing_is_there_and_the_forecast_writes_nothing():
    looked = forecast(pipeline(), "store")
    assert not Path("store").exists()
    assert {step.why for step in looked.steps} == {(reuse.NEVER,)}
    expect(pipeline(), {})


def test_changed_setting_is_told_with_both_values_and_what_follows_it():
    build(pipeline(), "store")
    stages = [{"kind": "repair-text"}, {"kind": "answer-length", "min_chars": 7}, {"kind": "turns"}]
    looked = forecast(pipeline(stages=stages), "store")
    assert {step.step: step.follows for step in looked.steps if step.follows} == dict.fromkeys(
        ["03:turns", "split", "tokenize", "write", "pack", "publish"], ("02:answer-length",)
    )
    assert [step.step for step in looked.steps if step.reused] == ["read:one", "01:repair-text"]
    expect(pipeline(stages=stages), {"02:answer-length": ["min_chars 2 -> 7"]})


def test_new_changed_and_missing_files_are_named():
    for name in "bcdefg":
        write(name, 2)
    build(pipeline(), "store")
    for name in "bcde":
        Path(f"{name}.jsonl").unlink()
    write("f", 3)
    write("h", 1)
    files = ["1 new file: h.jsonl", "1 changed file: f.jsonl", "4 gone files: b.jsonl, c.jsonl, d.jsonl and 1 more"]
    expect(pipeline(), {"read:one": files})


def test_another_source_reads_only_itself():
    Path("more").mkdir()
    Path("a.jsonl").rename("more/a.jsonl")
    write("b", 3)
    build(pipeline(), "store")
    both = [{"name": "one", "path": "*.jsonl", "format": "alpaca"}, {"name": "two", "path": "more", "format": "alpaca"}]
    watch = Kept()
    changed = pipeline(sources=both)
    looked = forecast(changed, "store")
    assert looked.reasons() == {"read:two": (reuse.NEW,)}
    assert [step.step for step in looked.steps if step.reused] == ["read:one"]
    build(changed, "store", watch=watch)
    pieces = {
        r.name: (r.pieces_reused, r.pieces) for r in watch.results if r.pieces and r.name[:2] in ("01", "02", "03")
    }
    assert set(pieces.values()) == {(1, 2)}
    # And back: the plan of the first build is the nearer one now.
    assert all(step.reused for step in forecast(pipeline(), "store").steps)
    one = pipeline(sources=both[1:])
    assert forecast(one, "store").reasons()["01:repair-text"] == (
        "it takes the result of read:two, before of read:one, read:two",
    )


def test_another_tokenizer_redoes_the_tokens_and_what_is_made_of_them():
    build(pipeline(), "store")
    config = Path("tokenizer/tokenizer_config.json")
    config.write_bytes(config.read_bytes() + b"\n")
    looked = forecast(pipeline(), "store")
    assert [step.step for step in looked.steps if not step.reused] == ["tokenize", "write", "pack", "publish"]
    expect(pipeline(), {"tokenize": ["the files of tokenizer have another content"]})


def test_inserted_stage_is_new_and_the_others_are_known_by_their_kind():
    build(pipeline(), "store")
    stages = [{"kind": "repair-text"}, {"kind": "html-entities"}, *pipeline().model_dump()["stages"][1:]]
    expect(pipeline(stages=stages), {"02:html-entities": [reuse.NEW]})


def test_other_library_and_release_are_told(monkeypatch: pytest.MonkeyPatch):
    build(pipeline(), "store")
    with monkeypatch.context() as patch:
        installed = fingerprint.metadata.version
        patch.setattr(fingerprint.metadata, "version", lambda n: "9.9" if n == "polars" else installed(n))
        told = forecast(pipeline(), "store").reasons()
        assert set(told) == {step.step for step in forecast(pipeline(), "store").steps} - {"publish"}
        assert set(told.values()) == {(f"library polars {installed('polars')} -> 9.9",)}
    turns: type[StageConfig] = type(pipeline().stages[-1])
    monkeypatch.setattr(turns, "revision", 99)
    told = forecast(pipeline(), "store").reasons()
    assert list(told) == ["03:turns"]
    assert told["03:turns"][0].startswith("a newer release of sft-data does it otherwise (revision 1 -> 99)")


def test_weight_of_a_source_packs_again_and_reads_nothing():
    build(pipeline(), "store")
    heavy = [{"name": "one", "path": "*.jsonl", "format": "alpaca", "weight": 2.0}]
    expect(pipeline(sources=heavy), {"pack": ["weight of one 1.0 -> 2.0"]})


def test_steps_of_two_earlier_plans_put_together_are_told_as_not_done_yet():
    """The reader of one plan, the filter of another: nothing changed, and still the two never met."""
    short = [{"kind": "answer-length", "min_chars": 1}]
    build(pipeline(), "store")
    build(pipeline(stages=short), "store")
    write("a", 6)
    build(pipeline(), "store")
    told = forecast(pipeline(stages=short), "store").reasons()
    assert list(told) == ["01:answer-length"]


def test_work_that_is_gone_is_told_as_gone():
    build(pipeline(), "store")
    [record] = [
        path for path in Path("store/.cache/steps").iterdir()
        if path.stem == next(step.fingerprint for step in steps() if step.name == "02:answer-length")
    ]  # fmt: skip
    record.unlink()
    assert forecast(pipeline(), "store").reasons() == {"02:answer-length": (reuse.UNFINISHED,)}


def steps() -> list[Step]:
    from sft_data.plan import plan

    return plan(pipeline())


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"plans": 3}', b'{"plans": [[{}]]}', b'{"plans": [[]]}'])
def test_damaged_memory_of_plans_stops_no_build(damage: bytes):
    build(pipeline(), "store")
    Path("store/.cache/plans/small.json").write_bytes(damage)
    changed = pipeline(stages=[])
    assert not forecast(changed, "store").steps[-1].reused
    assert build(changed, "store").rows_kept == 5
    assert forecast(changed, "store").steps[-1].reused


def test_memory_of_plans_is_bounded():
    cache = Path("cache")
    for number in range(12):
        reuse.remember(cache, "small", [Step(f"{number}", "read", f"{number}", ())])
    plans = orjson.loads((cache / "plans" / "small.json").read_bytes())["plans"]
    assert [plan[0]["name"] for plan in plans] == [str(number) for number in range(4, 12)]
    assert [path.name for path in (cache / "plans").iterdir()] == ["small.json"]
