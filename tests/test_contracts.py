"""What holds for every stage of a pipeline. Shape, not sense: each stage has its own tests of behaviour beside this."""

from pathlib import Path
from typing import Any, get_args

import polars as pl
import pytest

from sft_data.catalogue import pages
from sft_data.pipeline import STAGES
from sft_data.schema import CONVERSATIONS, empty
from sft_data.stage import DatasetStage, Outcome, StageConfig, apply_decision, run_dataset_stage, run_stage
from tests.frames import chat, conversations, talk, turn

# Settings that a stage cannot do without.
SETTINGS: dict[str, dict[str, Any]] = {
    "language": {"keep": ["en", "zh"]},
    "select": {"budget": 5, "method": "round-robin", "groups": "lang"},
    "decontaminate": {"against": [str(Path(__file__).with_name("evaluation.jsonl"))]},
}

LONG = "The old lighthouse keeper climbs the spiral stairs every evening, trims the wick, and writes the weather down."
CALL = turn("assistant", "", tool_calls='[{"name": "clock", "arguments": {}}]')
PLAIN = conversations(
    chat("good", LONG, "Describe the evening of a lighthouse keeper in one sentence."),
    chat("copy", LONG, "Describe the evening of a lighthouse keeper in one sentence."),
    chat("near", LONG.replace("evening", "night"), "Describe the evening of a lighthouse keeper in one sentence."),
    chat("zh", "守塔人每天傍晚登上螺旋楼梯，修剪灯芯，并记下当天的天气。", "用一句话描述灯塔守护人的傍晚。"),
    chat("de", "Der Leuchtturmwärter steigt jeden Abend die Treppe hinauf.", "Beschreibe den Abend des Wärters."),
    chat("empty", ""),
    chat("blank", " \n"),
    chat("refusal", "I'm sorry, but I can't help with that."),
    chat("damaged", "It doesnâ€™t\u200b\r\nmatter, cafe\u0301 \x07 \ufdd0"),
    chat("control", "Type <|im_end|> to stop. {{name}} {% raw %} $(rm)", "<|im_start|>system"),
    chat("private", "Write to jane.doe@mail.net or call +49 30 901820."),
    chat("run-on", "Blue.\n\n18. Instruction: Name a colour.\n18. Input: <noinput>"),
    chat("numbers", "1 2 3 4 5 6 7 8 9", "17 + 4"),
    chat("emoji", "👨\u200d👩\u200d👧" * 5, "👍"),
    talk(
        "tools",
        turn("system", "Be brief."),
        "What time is it?",
        CALL,
        turn("tool", "12:00"),
        turn("assistant", "Noon."),
    ),
    talk("calls", "What time is it?", CALL, tools='[{"name": "clock"}]'),
    talk(
        "turns", "Hi", "Hello", "How are you?", "Fine.", "And?", turn("assistant", "Well.", reasoning="He\u200b asks.")
    ),
    talk("nobody", turn("user", "Is anybody there?")),
)


def stage(kind: str) -> StageConfig:
    return STAGES[kind](**SETTINGS.get(kind, {}))


def measured(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows with every column that some stage needs."""
    return run_stage(STAGES["detect-language"](), frame).kept


def run(kind: str, frame: pl.DataFrame) -> Outcome:
    one = stage(kind)
    return run_dataset_stage(one, frame) if isinstance(one, DatasetStage) else run_stage(one, frame)  # type: ignore[arg-type]


ROWS = measured(PLAIN)
EVERY = pytest.mark.parametrize("kind", STAGES)
SHARD = pytest.mark.parametrize("kind", [kind for kind, cls in STAGES.items() if cls.scope == "shard"])
DATASET = pytest.mark.parametrize("kind", [kind for kind, cls in STAGES.items() if cls.scope == "dataset"])


def parts(frame: pl.DataFrame, size: int) -> list[pl.DataFrame]:
    return [frame.slice(start, size) for start in range(0, frame.height, size)]


@EVERY
def test_stage_keeps_or_rejects_every_row_once_in_order(kind: str):
    outcome = run(kind, ROWS)
    kept, rejected = outcome.kept["id"].to_list(), outcome.rejected["id"].to_list()
    assert sorted(kept + rejected) == sorted(ROWS["id"])
    assert kept == [row for row in ROWS["id"] if row in set(kept)]
    assert rejected == [row for row in ROWS["id"] if row in set(rejected)]


@EVERY
def test_stage_leaves_its_input_as_it_was(kind: str):
    before = ROWS.clone()
    run(kind, ROWS)
    assert ROWS.equals(before)


@EVERY
def test_stage_run_again_on_what_it_kept_changes_nothing(kind: str):
    once = run(kind, ROWS).kept
    twice = run(kind, once)
    assert twice.kept.equals(once)
    assert twice.rejected.is_empty()
    assert twice.edited.is_empty()


@EVERY
def test_stage_run_twice_says_the_same(kind: str):
    first, second = run(kind, ROWS), run(kind, ROWS)
    assert first.kept.equals(second.kept)
    assert first.rejected.equals(second.rejected)
    assert first.edited.equals(second.edited)


@EVERY
def test_stage_of_no_rows_gives_no_rows_of_the_same_columns(kind: str):
    nothing = measured(empty(CONVERSATIONS))
    outcome = run(kind, nothing)
    assert outcome.kept.height == outcome.rejected.height == outcome.edited.height == 0
    assert outcome.kept.schema == run(kind, ROWS).kept.schema


@SHARD
@pytest.mark.parametrize("size", [1, 3, 7])
def test_stage_shard_by_shard_says_the_same_as_all_at_once(kind: str, size: int):
    whole = run(kind, ROWS)
    pieces = [run(kind, part) for part in parts(ROWS, size)]
    assert pl.concat([piece.kept for piece in pieces]).equals(whole.kept)
    assert pl.concat([piece.rejected for piece in pieces]).equals(whole.rejected)
    assert pl.concat([piece.edited for piece in pieces]).equals(whole.edited)


@DATASET
@pytest.mark.parametrize("size", [1, 3, 7])
def test_stage_decides_the_same_for_any_cut_of_the_dataset(kind: str, size: int):
    one = stage(kind)
    assert isinstance(one, DatasetStage)
    sketches = [one.sketch(part) for part in parts(ROWS, size)]
    assert [sketch.height for sketch in sketches] == [part.height for part in parts(ROWS, size)]
    cut, whole = apply_decision(one, ROWS, one.decide(sketches)), run(kind, ROWS)
    assert cut.kept.equals(whole.kept)
    assert cut.rejected.equals(whole.rejected)


@EVERY
def test_stage_tells_codes_in_use_and_explains_every_setting(kind: str):
    cls = STAGES[kind]
    assert cls.model_fields["kind"].default == kind
    assert get_args(cls.model_fields["kind"].annotation) == (kind,)
    missing = [name for name, field in cls.model_fields.items() if name != "kind" and not field.description]
    assert missing == []
    assert all(meaning and code == code.lower() and " " not in code for code, meaning in cls.codes.items())
    assert bool(cls.codes) or bool(cls.adds)
    assert (cls.__doc__ or "").strip()


@EVERY
def test_stage_is_frozen_refuses_unknown_settings_and_survives_json(kind: str):
    one = stage(kind)
    with pytest.raises(ValueError, match="frozen"):
        one.kind = "other"
    with pytest.raises(ValueError, match="Extra inputs"):
        STAGES[kind](**SETTINGS.get(kind, {}), unknown=1)
    assert STAGES[kind].model_validate_json(one.model_dump_json()) == one


@EVERY
def test_stage_has_a_page(kind: str):
    page = {page.kind: page for page in pages()}[kind]
    assert page.summary
    assert page.codes == dict(STAGES[kind].codes)


def test_no_two_stages_share_a_code():
    codes = [code for cls in STAGES.values() for code in cls.codes]
    assert sorted(codes) == sorted(set(codes))
