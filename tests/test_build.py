import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from sft_data import build as build_module
from sft_data.build import BuildResult, StepResult, Work, build, curate
from sft_data.engine import LocalEngine
from sft_data.errors import GateError, SourceError, StoreError
from sft_data.mix import Mix
from sft_data.pipeline import Pipeline, load_pipeline, parse_pipeline
from sft_data.plan import Step, plan
from tests.frames import chat, conversations, ids
from tests.trees import ROOT, hashes

QUICKSTART = ROOT / "pipelines" / "quickstart.yaml"


class Kept:
    """A watch that keeps what it is told."""

    def __init__(self) -> None:
        self.results: list[StepResult] = []

    def begin(self, step: Step, cells: int) -> None: ...

    def advance(self) -> None: ...

    def finish(self, result: StepResult) -> None:
        self.results.append(result)

    def reused(self) -> dict[str, bool]:
        return {result.name: result.reused for result in self.results}


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def built(store: Path) -> BuildResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return build(load_pipeline(QUICKSTART), store)


def tables(result: BuildResult, name: str) -> pl.DataFrame:
    paths = sorted(Path(result.path).glob(f"{name}/**/*.parquet"))
    return pl.concat([pl.read_parquet(path) for path in paths])


def test_build_conserves_every_row_by_id(built: BuildResult):
    kept, rejected = ids(tables(built, "conversations")), ids(tables(built, "rejections"))
    assert len(kept) == built.rows_kept
    assert len(rejected) == built.rows_rejected
    assert len({*kept, *rejected}) == len(kept) + len(rejected) == built.rows_in
    assert sum(built.rejected.values()) == built.rows_rejected > 0


def test_build_explains_every_rejection(built: BuildResult):
    rejected = tables(built, "rejections")
    assert rejected.select(pl.col("stage", "code", "detail", "source").null_count()).row(0) == (0, 0, 0, 0)
    assert rejected["text"].null_count() == 0


def test_build_again_reuses_every_step_and_the_version(built: BuildResult, store: Path):
    watch = Kept()
    again = build(load_pipeline(QUICKSTART), store, watch=watch)
    assert (again.version, again.fingerprint, again.reused) == (built.version, built.fingerprint, True)
    assert all(watch.reused().values())


@pytest.mark.parametrize(("workers", "shard_rows"), [(2, 8192), (2, 37)])
def test_build_gives_the_same_bytes_with_other_workers_and_shards(
    built: BuildResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, shard_rows: int
):
    monkeypatch.setattr(build_module, "LIGHT_ROWS", 0)
    with LocalEngine(workers) as engine:
        other = build(load_pipeline(QUICKSTART), tmp_path, engine=engine, shard_rows=shard_rows)
    assert other.fingerprint == built.fingerprint
    assert hashes(Path(other.path)) == hashes(Path(built.path))


@pytest.mark.parametrize("memory", [10_000, 6_000])
def test_build_gives_the_same_bytes_however_little_memory_a_portion_may_take(
    built: BuildResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: int
):
    monkeypatch.setattr(build_module, "LIGHT_ROWS", 0)
    other = build(load_pipeline(QUICKSTART), tmp_path, memory=memory)
    assert hashes(Path(other.path)) == hashes(Path(built.path))
    assert len(list((tmp_path / ".cache" / "cells").rglob("gathered.arrow"))) > 100


def test_build_resumed_after_a_decision_with_other_memory_decides_nothing_again(
    built: BuildResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(build_module, "LIGHT_ROWS", 0)
    build(load_pipeline(QUICKSTART), tmp_path)
    for record in (tmp_path / ".cache" / "steps").iterdir():
        record.unlink()

    def refuse(*_: object) -> None:
        raise AssertionError("was done again")

    monkeypatch.setattr(build_module.work_of, "gather", refuse)
    monkeypatch.setattr(build_module.work_of, "look_up", refuse)
    monkeypatch.setattr(build_module.work_of, "decide", refuse)
    again = build(load_pipeline(QUICKSTART), tmp_path, memory=6_000)
    assert hashes(Path(again.path)) == hashes(Path(built.path))


def test_build_after_a_changed_threshold_redoes_only_what_follows(built: BuildResult, tmp_path: Path, store: Path):
    copy = tmp_path / "store"
    shutil.copytree(store, copy)
    watch = Kept()
    pipeline = load_pipeline(QUICKSTART, ["stages.answer-length.max_chars=19999"])
    changed = build(pipeline, copy, watch=watch)
    number = next(n for n, stage in enumerate(pipeline.stages) if stage.kind == "answer-length")
    before = [step.name for step in plan(pipeline) if step.kind == "read"]
    before += [f"{n + 1:02d}:{stage.kind}" for n, stage in enumerate(pipeline.stages[:number])]
    assert {name for name, reused in watch.reused().items() if reused} == set(before)
    assert changed.version != built.version


def test_build_with_one_more_source_makes_no_shard_of_the_others_again(tmp_path: Path):
    pipeline = load_pipeline(QUICKSTART)
    fewer = Pipeline.model_validate(
        pipeline.model_dump(exclude={"sources", "stages"})
        | {"sources": pipeline.sources[:-1], "stages": [s for s in pipeline.stages if s.scope == "shard"]}
    )
    more = Pipeline.model_validate(fewer.model_dump() | {"sources": pipeline.sources})
    build(fewer, tmp_path)
    cells = {path: path.stat().st_mtime_ns for path in (tmp_path / ".cache" / "cells").rglob("cell.json")}
    build(more, tmp_path)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in cells.items())
    read = [step for step in plan(more) if step.kind == "read"]
    assert len(read) == len(pipeline.sources)


def test_build_that_fails_a_gate_keeps_a_draft_and_publishes_nothing(tmp_path: Path):
    pipeline = load_pipeline(QUICKSTART, ["gates.min_rows_kept=0.999"])
    with pytest.raises(GateError, match=r"min_rows_kept: measured 0\.\d+, limit 0\.9990"):
        build(pipeline, tmp_path)
    folder = tmp_path / pipeline.name
    assert [path.name for path in folder.glob("v*")] == []
    [draft] = folder.glob("draft-*")
    assert (draft / "report.html").exists()


@pytest.mark.parametrize("text", ["", "[]"])
def test_build_of_nothing_but_empty_files_is_a_draft_whatever_its_stages(tmp_path: Path, text: str):
    """A day without data: with a format that is named nothing is detected, so every step has to do with no shard."""
    (tmp_path / "empty.json").write_text(text)
    value = load_pipeline(ROOT / "pipelines" / "best.yaml").model_dump(mode="json", exclude={"train"})
    value["sources"] = [{"name": "day", "path": str(tmp_path / "empty.json"), "format": "alpaca"}]
    value["stages"] += [{"kind": "semantic-dedup"}, {"kind": "mix"}]
    with pytest.raises(GateError, match=r"any_row_kept: measured 0\.0000"):
        build(parse_pipeline(value, "empty.yaml"), tmp_path / "store")
    [draft] = (tmp_path / "store").glob("best/draft-*")
    assert json.loads((draft / "manifest.json").read_text())["counts"]["rows_in"] == 0


def test_call_is_given_every_step_of_the_plan(tmp_path: Path):
    seen: list[str] = []

    def call(step: Step, work: Work, above: list[StepResult]) -> StepResult:
        seen.append(step.name)
        return build_module.run_step(step, work, above)

    pipeline = load_pipeline(QUICKSTART)
    build(pipeline, tmp_path, call=call)
    assert seen == [step.name for step in plan(pipeline)]


def test_curate_in_memory_keeps_what_a_build_keeps(built: BuildResult):
    from sft_data.check import dry_run

    funnel = dry_run(load_pipeline(QUICKSTART), rows=10_000).funnel
    by_step = {line["step"]: line for line in funnel}
    rejected: dict[str, int] = {}
    for line in funnel:
        for code, number in line["rejected"].items():
            rejected[code] = rejected.get(code, 0) + number
    assert rejected == built.rejected
    assert by_step["tokenize"]["rows_kept"] == built.rows_kept


def test_curate_takes_any_stage_with_a_kind_and_an_apply():
    from sft_data.stage import Outcome

    class Shouting:
        kind = "shouting"

        def apply(self, frame: pl.DataFrame) -> Outcome:
            loud = pl.col("messages").list.last().struct.field("content").str.ends_with("!")
            dropped = frame.filter(loud).select("id", code=pl.lit("loud"), detail=pl.lit("ends in !"))
            return Outcome(frame.filter(~loud), dropped)

    outcome = curate(conversations(chat("a", "Paris."), chat("b", "Paris!")), [Shouting()])
    assert ids(outcome.kept) == ["a"]
    assert outcome.rejected.select("id", "stage", "code", "source").rows() == [("b", "shouting", "loud", "s")]


def test_fingerprint_follows_content_not_place(built: BuildResult, tmp_path: Path):
    copy = tmp_path / "elsewhere"
    shutil.copytree(ROOT / "samples", copy / "samples")
    pipeline = load_pipeline(QUICKSTART)
    moved = [f"sources.{s.name}.path={copy / s.path}" for s in pipeline.sources]
    moved.append(f"tokenize.tokenizer={copy / 'samples' / 'tokenizer'}")
    assert plan(load_pipeline(QUICKSTART, moved))[-1].fingerprint == built.fingerprint
    sample = next((copy / "samples").glob("*.json"))
    sample.write_bytes(sample.read_bytes() + b"\n")
    assert plan(load_pipeline(QUICKSTART, moved))[-1].fingerprint != built.fingerprint


def test_weight_of_a_source_packs_its_training_rows_so_often_and_changes_no_row(built: BuildResult, tmp_path: Path):
    from sft_data.store.verify import verify

    weighted = build(load_pipeline(QUICKSTART, ["sources.chats.weight=2", "sources.messages.weight=0"]), tmp_path)
    assert hashes(Path(weighted.path) / "conversations") == hashes(Path(built.path) / "conversations")
    sidecar = pl.read_parquet(f"{weighted.path}/sidecar/train/*.parquet").with_row_index("row")
    index = pl.read_parquet(f"{weighted.path}/pack_index/train/*.parquet")
    often = index.group_by("row").len()
    by_source = (
        sidecar.join(often, left_on="row", right_on="row", how="left").group_by("source").agg(pl.col("len").unique())
    )
    assert {source: sorted(n, key=str) for source, n in by_source.iter_rows()} == {
        "alpaca": [1], "alpaca-zh": [1], "chats": [2], "messages": [None],
    }  # fmt: skip
    assert verify(Path(weighted.path)).problems == []
    assert weighted.fingerprint != built.fingerprint


def test_mix_that_repeats_a_source_packs_its_rows_more_often_and_the_report_tells_the_epochs(tmp_path: Path):
    from sft_data.report.model import Report
    from sft_data.store.verify import verify

    pipeline = load_pipeline(QUICKSTART)
    mix = Mix(shares={"chats": 0.4}, repeat=6.0, seed=3)
    mixed = build(pipeline.model_copy(update={"stages": (*pipeline.stages, mix)}), tmp_path)
    assert verify(Path(mixed.path)).problems == []
    groups = {g.name: g for g in Report.model_validate_json((Path(mixed.path) / "report.json").read_text()).mixture}
    rows = pl.read_parquet(f"{mixed.path}/conversations/train/*.parquet").filter(pl.col("source") == "chats")
    assert rows["copies"].n_unique() == 1
    assert 1.0 < rows["copies"][0] <= 6.0
    assert groups["chats"].rows == rows.height
    assert groups["chats"].packed_rows / rows.height == pytest.approx(rows["copies"][0], abs=0.5)
    assert groups["chats"].epochs == pytest.approx(groups["chats"].packed_rows / rows.height, abs=1e-4)
    assert {g.epochs for name, g in groups.items() if name != "chats"} == {1.0}
    index = pl.read_parquet(f"{mixed.path}/pack_index/train/*.parquet")
    assert sum(g.tokens for g in groups.values()) == index["tokens"].sum()
    assert sum(g.share for g in groups.values()) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("tokenized", [True, False])
def test_report_tells_the_epochs_that_a_mix_asks_for_before_anything_is_packed(tmp_path: Path, tokenized: bool):
    from sft_data.report.model import Report

    pipeline = load_pipeline(QUICKSTART, ["sources.messages.weight=0"])
    mix = Mix(shares={"chats": 0.4}, repeat=6.0)
    last = {"pack": None} if tokenized else {"pack": None, "tokenize": None}
    result = build(pipeline.model_copy(update={"stages": (*pipeline.stages, mix), **last}), tmp_path)
    groups = {g.name: g for g in Report.model_validate_json((Path(result.path) / "report.json").read_text()).mixture}
    train = pl.read_parquet(f"{result.path}/conversations/train/*.parquet")
    often = {row[0]: (row[1], row[2]) for row in train.group_by("source").agg(pl.len(), pl.mean("copies")).rows()}
    assert groups["messages"].epochs == groups["messages"].share == groups["messages"].tokens == 0
    assert groups["messages"].unseen_rows == groups["messages"].rows == often.pop("messages")[0]
    seen = {name: rows * copies for name, (rows, copies) in often.items()}
    for name, (rows, copies) in often.items():
        assert groups[name].rows == rows
        assert groups[name].epochs == pytest.approx(copies, abs=1e-4)
        assert groups[name].packed_rows == round(seen[name])
        assert (groups[name].tokens > 0) == tokenized
        if not tokenized:
            assert groups[name].share == pytest.approx(seen[name] / sum(seen.values()), abs=1e-6)
    assert sum(group.share for group in groups.values()) == pytest.approx(1.0, abs=1e-5)
    page = (Path(result.path) / "report.html").read_text()
    assert "Nothing is packed yet" in page
    assert ("share of the tokens" in page) == tokenized


def test_curriculum_orders_the_training_packs_alone_and_verify_holds_them_to_it(built: BuildResult, tmp_path: Path):
    from sft_data.store.read import load_manifest
    from sft_data.store.verify import verify
    from sft_data.store.verify_tokens import check_packs

    order = "pack.order={by: answer-characters, first: lowest, window: 60}"
    made = build(load_pipeline(QUICKSTART, [order, "sources.chats.weight=2"]), tmp_path / "a")
    folder = Path(made.path)
    assert verify(folder).problems == []
    rows = (
        pl.read_parquet(f"{folder}/sidecar/train/*.parquet").with_row_index("row").select("id", pl.col("row").cast(int))
    )
    said = pl.element().struct
    spoken = pl.col("messages").list.eval(
        pl.when(said.field("role") == "assistant").then(said.field("content").str.len_chars())
    )
    told = pl.read_parquet(f"{folder}/conversations/train/*.parquet").select("id", "source", long=spoken.list.sum())
    index = pl.read_parquet(f"{folder}/pack_index/train/*.parquet")
    packs = index.join(rows, on="row").join(told, on="id").group_by("pack").agg(pl.mean("long"), "source").sort("pack")
    assert packs["long"].is_sorted()
    assert packs["long"][-1] > 5 * packs["long"][0]
    assert (
        index.join(rows, on="row").join(told, on="id").filter(pl.col("source") == "chats")["id"].is_duplicated().all()
    )
    held_out = "packs/validation/data-00000-of-00001.arrow"
    assert (folder / held_out).read_bytes() == (Path(built.path) / held_out).read_bytes()
    assert made.fingerprint != built.fingerprint
    other = build(load_pipeline(QUICKSTART, [order, "sources.chats.weight=2"]), tmp_path / "b", shard_rows=17)
    assert hashes(Path(other.path) / "packs") == hashes(folder / "packs")
    assert other.fingerprint == made.fingerprint
    manifest = load_manifest(folder)
    turned = manifest.pipeline | {
        "pack": manifest.pipeline["pack"] | {"order": {"by": "answer-characters", "first": "highest"}}
    }
    [problem] = check_packs(folder, manifest.model_copy(update={"pipeline": turned}))
    assert "not in the order of answer-characters, highest first" in problem


def test_build_on_a_damaged_cache_publishes_nothing_and_names_the_file(built: BuildResult, store: Path, tmp_path: Path):
    shutil.copytree(store / ".cache", tmp_path / ".cache")
    victim = max((tmp_path / ".cache" / "cells").rglob("data.parquet"), key=lambda path: path.stat().st_size)
    damaged = bytearray(victim.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    victim.chmod(0o644)
    victim.write_bytes(damaged)
    with pytest.raises(StoreError, match="was changed after it was made") as caught:
        build(load_pipeline(QUICKSTART), tmp_path)
    assert victim.parent.name in str(caught.value)
    assert list((tmp_path / "quickstart").glob("v*")) == []
    shutil.rmtree(victim.parent)
    assert hashes(Path(build(load_pipeline(QUICKSTART), tmp_path).path)) == hashes(Path(built.path))


def test_source_that_changes_between_its_hash_and_its_reading_is_an_error(tmp_path: Path):
    data = tmp_path / "rows.jsonl"
    data.write_text('{"instruction": "Say hi.", "input": "", "output": "Hi."}\n')
    pipeline = parse_pipeline({"name": "d", "sources": [{"name": "a", "path": str(data)}]}, "d")

    def call(step: Step, work: Work, above: list[StepResult]) -> StepResult:
        with data.open("a") as file:
            file.write('{"instruction": "More.", "input": "", "output": "More."}\n')
        return build_module.run_step(step, work, above)

    with pytest.raises(SourceError, match=r"rows\.jsonl was changed while it was read"):
        build(pipeline, tmp_path / "store", call=call)
    assert build(pipeline, tmp_path / "store").rows_in == 2
