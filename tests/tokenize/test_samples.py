"""One row, several samples: for every turn, or because the row is too long. Against renderings written by hand."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sft_data.build import BuildResult, build
from sft_data.chat.preview import preview
from sft_data.pipeline import Pipeline
from sft_data.report.measure import measure
from sft_data.stage import Outcome, run_stage
from sft_data.store.verify import verify
from sft_data.store.why import why
from sft_data.tokenize.stage import Tokenize
from tests.frames import SHARED, chat, codes, conversations, ids, needs_shared, talk, turn
from tests.tokenize.makers import CALLING, STRIPPING, byte_tokenizer
from tests.tokenize.reading import ids_of, proofs, reference, text_of, tokenized, trained_texts
from tests.trees import ROOT, hashes

END = "<|im_end|>"
SAMPLES = str(ROOT / "samples" / "tokenizer")

# Reasoning in the last turn only, and tool calls behind the content.
BOTH = CALLING.replace(
    "'\n' + m['content'] }}",
    "'\n' }}{%- if m.reasoning_content and loop.last %}{{- '<think>\n' + m.reasoning_content + '\n</think>\n\n' }}"
    "{%- endif %}{{- m['content'] }}",
)
KEEPING = STRIPPING.replace("m.reasoning_content and loop.last", "m.reasoning_content")


def thinking(row_id: str = "a") -> dict[str, Any]:
    return talk(
        row_id,
        turn("user", "what"), turn("assistant", "one", reasoning="because"),
        turn("user", "and"), turn("assistant", "two", reasoning="so"),
        turn("user", "then"), turn("assistant", "three"),
    )  # fmt: skip


def rendered(row: dict[str, Any], numbers: Any = None) -> str:
    """ChatML with the reasoning of the last message only, by hand."""
    messages = [row["messages"][n] for n in (range(len(row["messages"])) if numbers is None else numbers)]
    said = ""
    for place, m in enumerate(messages):
        thought = f"<think>\n{m['reasoning']}\n</think>\n\n" if m["reasoning"] and place == len(messages) - 1 else ""
        said += f"<|im_start|>{m['role']}\n{thought}{m['content']}{END}\n"
    return said


def whole_texts(folder: str, outcome: Outcome) -> list[str]:
    return [text_of(folder, row) for row in outcome.tables["tokens"]["input_ids"].to_list()]


def parts(outcome: Outcome) -> list[tuple[str, int]]:
    return outcome.tables["sidecar"].select("id", "part").rows()


def places(outcome: Outcome) -> list[list[int]]:
    return [[span["turn"] for span in spans] for spans in outcome.tables["sidecar"]["spans"].to_list()]


def edits(outcome: Outcome) -> dict[str, int]:
    return dict(outcome.edited.select("code", "count").rows())


# A sample for every trained turn.


def test_sample_per_turn_is_what_a_model_sees_when_it_answers(tmp_path: Path):
    folder, row = byte_tokenizer(tmp_path, STRIPPING), thinking()
    outcome = tokenized(folder, row, chat("b", "yes"), samples="turn")
    assert whole_texts(folder, outcome) == [
        *(rendered(row, range(stop)) for stop in (2, 4, 6)), rendered(chat("b", "yes") | {"messages": [
            turn("user", "What is it?"), turn("assistant", "yes")]}),
    ]  # fmt: skip
    assert trained_texts(folder, outcome) == [
        [f"<think>\nbecause\n</think>\n\none{END}"],
        [f"<think>\nso\n</think>\n\ntwo{END}"],
        [f"three{END}"],
        [f"yes{END}"],
    ]
    assert parts(outcome) == [("a", 0), ("a", 1), ("a", 2), ("b", 0)]
    assert places(outcome) == [[1], [3], [5], [1]]
    assert ids(outcome.kept) == ["a", "b"]


def test_samples_per_turn_tell_what_they_cost(tmp_path: Path):
    folder, row = byte_tokenizer(tmp_path, STRIPPING), thinking()
    outcome = tokenized(folder, row, samples="turn")
    sizes = [len(reference(folder).encode(rendered(row, range(stop))).ids) for stop in (2, 4, 6)]
    assert edits(outcome) == {"samples": sum(sizes) - max(sizes)}


def test_sample_per_turn_only_where_the_whole_row_would_lose_reasoning(tmp_path: Path):
    folder = byte_tokenizer(tmp_path, STRIPPING)
    last = talk(
        "last", turn("user", "q"), turn("assistant", "one"), turn("user", "q"), turn("assistant", "two", reasoning="so")
    )
    outcome = tokenized(
        folder, last, thinking("all"), talk("none", "q", "one", "q", "two"), samples="turn-where-needed"
    )
    assert parts(outcome) == [("last", 0), ("all", 0), ("all", 1), ("all", 2), ("none", 0)]
    assert trained_texts(folder, outcome)[0] == [f"one{END}", f"<think>\nso\n</think>\n\ntwo{END}"]


def test_sample_per_turn_leaves_out_turns_of_weight_zero_and_trains_the_last_answer_alone(tmp_path: Path):
    folder, row = byte_tokenizer(tmp_path, STRIPPING), thinking()
    row["messages"][3]["weight"] = 0.0
    assert places(tokenized(folder, row, samples="turn")) == [[1], [5]]
    assert places(tokenized(folder, row, samples="turn", train_on="last-answer")) == [[5]]
    row["messages"][5]["weight"] = 0.0
    assert codes(tokenized(folder, row, samples="turn", train_on="last-answer").rejected) == {"a": "nothing-to-train"}


@pytest.mark.parametrize("samples", ["turn", "turn-where-needed"])
def test_rows_in_which_nothing_is_trained_end_as_rejections(tmp_path: Path, samples: str):
    folder, row = byte_tokenizer(tmp_path, BOTH), thinking()
    for message in row["messages"]:
        message["weight"] = 0.0
    assert set(codes(tokenized(folder, row, talk("q", "q"), samples=samples).rejected)) == {"a", "q"}


def test_turns_that_a_template_renders_otherwise_later_on_are_proved_one_by_one(tmp_path: Path):
    """With tool calls there is no skeleton, and prefixes of the whole differ: only samples per turn can be proved."""
    folder = byte_tokenizer(tmp_path, BOTH)
    call = json.dumps([{"name": "look", "arguments": {"at": "it"}}])
    row = talk(
        "a", turn("user", "q"), turn("assistant", "", reasoning="must look", tool_calls=call), turn("tool", "found"),
        turn("assistant", "it is there", reasoning="clear"),
    )  # fmt: skip
    assert codes(tokenized(folder, row).rejected) == {"a": "unproved-mask"}
    outcome = tokenized(folder, row, samples="turn-where-needed")
    assert proofs(outcome) == {"prefixes+stops+bytes"}
    assert trained_texts(folder, outcome) == [
        [f'<think>\nmust look\n</think>\n\nlook{{"at": "it"}}{END}'],
        [f"<think>\nclear\n</think>\n\nit is there{END}"],
    ]


def test_samples_of_a_template_that_cannot_be_proved_are_rejected_with_their_row(tmp_path: Path):
    wrong = STRIPPING.replace("m['content'] + ", "m['content'] | replace('one', 'ONE') + ")
    outcome = tokenized(byte_tokenizer(tmp_path, wrong), thinking(), samples="turn")
    assert codes(outcome.rejected) == {"a": "not-rendered"}
    assert outcome.tables["tokens"].height == 0


def test_earlier_reasoning_that_a_template_keeps_is_counted(tmp_path: Path):
    folder = byte_tokenizer(tmp_path, KEEPING)
    outcome = tokenized(folder, thinking(), chat("b", "yes"))
    cost = sum(len(reference(folder).encode(text).ids) for text in ("because", "so"))
    assert outcome.edited.select("id", "code", "count").rows() == [("a", "earlier-reasoning", cost)]


@pytest.mark.parametrize("wrong", [{"samples": "turn"}, {"samples": "turn-where-needed"}, {"reasoning": "shown"}])
def test_settings_that_cannot_both_hold_are_refused(wrong: dict[str, Any]):
    with pytest.raises(ValidationError, match="cannot be"):
        Tokenize(tokenizer=SAMPLES, train_on="all", **wrong)


# Reasoning that is shown and not learnt.


def test_reasoning_that_is_only_shown_is_context_of_the_answer(tmp_path: Path):
    folder, row = byte_tokenizer(tmp_path, KEEPING), thinking()
    learnt, shown = tokenized(folder, row), tokenized(folder, row, reasoning="shown")
    assert ids_of(shown) == ids_of(learnt)
    assert trained_texts(folder, shown) == [[f"one{END}", f"two{END}", f"three{END}"]]
    assert trained_texts(folder, learnt)[0][0] == f"<think>\nbecause\n</think>\n\none{END}"


def test_reasoning_that_is_only_shown_before_a_call_of_tools_leaves_the_call_learnt(tmp_path: Path):
    folder = byte_tokenizer(tmp_path, BOTH)
    call = json.dumps([{"name": "look", "arguments": {}}])
    row = talk("a", turn("user", "q"), turn("assistant", "", reasoning="must look", tool_calls=call))
    assert trained_texts(folder, tokenized(folder, row, reasoning="shown")) == [[f"look{{}}{END}"]]


def test_answer_that_stands_in_its_reasoning_is_learnt_behind_it(tmp_path: Path):
    folder = byte_tokenizer(tmp_path, KEEPING)
    row = talk("a", turn("user", "q"), turn("assistant", "yes", reasoning="yes or no? yes"))
    assert trained_texts(folder, tokenized(folder, row, reasoning="shown")) == [[f"yes{END}"]]


def test_template_with_marks_shows_reasoning_the_same_way():
    rows = [thinking(), talk("b", turn("user", "问"), turn("assistant", "答", reasoning="想一想"))]
    outcome = tokenized(SAMPLES, *rows, template="qwen", reasoning="shown")
    assert trained_texts(SAMPLES, outcome) == [[f"one{END}", f"two{END}", f"three{END}"], [f"答{END}"]]
    assert all(proof.startswith("marks") for proof in proofs(outcome))


@needs_shared
def test_empty_thoughts_that_a_template_writes_are_not_learnt():
    folder = str(SHARED / "tokenizers" / "minimind")
    row = talk(
        "a", turn("user", "q"), turn("assistant", "yes", reasoning="so"), turn("user", "q"), turn("assistant", "no")
    )
    outcome = tokenized(folder, row, reasoning="shown", samples="turn")
    assert trained_texts(folder, outcome) == [[f"yes{END}"], [f"no{END}"]]


# Rows that are too long.


def exchange_sizes(folder: str, row: dict[str, Any]) -> list[int]:
    """Tokens of each exchange of a row whose questions and answers alternate, rendered alone."""
    messages = [m for m in row["messages"] if m["role"] != "system"]
    texts = [
        "".join(f"<|im_start|>{m['role']}\n{m['content']}{END}\n" for m in messages[i : i + 2])
        for i in range(0, len(messages), 2)
    ]
    return [len(reference(folder).encode(text).ids) for text in texts]


def long_row(*answers: str, system: str | None = "be brief") -> dict[str, Any]:
    turns = [turn("system", system)] if system else []
    for number, answer in enumerate(answers):
        turns += [turn("user", f"question {number}"), turn("assistant", answer)]
    return talk("a", *turns)


def test_row_that_is_too_long_is_split_before_questions_and_keeps_its_system_prompt(tmp_path: Path):
    folder = byte_tokenizer(tmp_path)
    row = long_row(*(f"answer {n} is here" for n in range(6)))
    room = len(reference(folder).encode(rendered(row, range(5))).ids)  # the system prompt and two exchanges
    outcome = tokenized(folder, row, max_length=room, too_long="split")
    assert whole_texts(folder, outcome) == [rendered(row, [0, *range(start, start + 4)]) for start in (1, 5, 9)]
    assert parts(outcome) == [("a", 0), ("a", 1), ("a", 2)]
    assert places(outcome) == [[2, 4], [6, 8], [10, 12]]
    assert edits(outcome) == {"split": 3}


def test_system_prompt_may_stand_in_the_first_segment_alone(tmp_path: Path):
    folder = byte_tokenizer(tmp_path)
    row = long_row("one", "two", "three", system="be as brief as you can and then some more")
    room = len(reference(folder).encode(rendered(row, range(3))).ids)
    outcome = tokenized(folder, row, max_length=room, too_long="split", split_system="first")
    assert whole_texts(folder, outcome)[0] == rendered(row, range(3))
    assert [text.startswith("<|im_start|>user") for text in whole_texts(folder, outcome)[1:]] == [True] * (
        len(whole_texts(folder, outcome)) - 1
    )
    assert [n for turns in places(outcome) for n in turns] == [2, 4, 6]


def test_exchange_too_long_for_any_segment_is_lost_and_counted(tmp_path: Path):
    folder = byte_tokenizer(tmp_path)
    row = long_row("one", "very " * 60 + "long", "three", system=None)
    outcome = tokenized(folder, row, max_length=100, too_long="split")
    assert places(outcome) == [[1], [5]]
    sizes = exchange_sizes(folder, row)
    assert edits(outcome) == {"split": 2, "cut": sizes[1]}
    only = tokenized(folder, long_row("very " * 60), max_length=100, too_long="split")
    assert codes(only.rejected) == {"a": "too-long"}


def test_question_nobody_answers_is_lost_when_its_row_is_split(tmp_path: Path):
    folder = byte_tokenizer(tmp_path)
    row = long_row("one", "two", system=None)
    row["messages"].append(turn("user", "unheard " * 30))
    outcome = tokenized(folder, row, max_length=60, too_long="split")
    assert [n for turns in places(outcome) for n in turns] == [1, 3]
    assert edits(outcome)["cut"] > 30


def test_rows_that_fit_are_the_same_under_every_policy(tmp_path: Path):
    folder, row = byte_tokenizer(tmp_path), long_row("one", "two")
    told = [tokenized(folder, row, too_long=policy) for policy in ("reject", "split", "cut-turns", "cut-answer")]
    assert len({tuple(ids_of(outcome)) for outcome in told}) == 1
    assert all(outcome.edited.height == 0 for outcome in told)


def test_sample_of_a_turn_that_is_too_long_loses_its_earliest_exchanges(tmp_path: Path):
    folder = byte_tokenizer(tmp_path)
    row = long_row(*(f"answer {n} is here" for n in range(6)))
    room = len(reference(folder).encode(rendered(row, range(5))).ids)
    outcome = tokenized(folder, row, max_length=room, too_long="split", samples="turn")
    assert places(outcome) == [[n] for n in (2, 4, 6, 8, 10, 12)]
    texts = whole_texts(folder, outcome)
    assert texts[:2] == [rendered(row, range(3)), rendered(row, range(5))]
    for stop, text in zip((7, 9, 11, 13), texts[2:], strict=True):
        assert text in {rendered(row, [0, *range(start, stop)]) for start in range(stop - 4, stop, 2)}
    assert outcome.tables["sidecar"]["tokens"].max() <= room
    whole = sum(len(reference(folder).encode(rendered(row, range(stop))).ids) for stop in (7, 9, 11, 13))
    assert edits(outcome)["cut"] == whole - outcome.tables["sidecar"]["tokens"][2:].sum()
    assert codes(tokenized(folder, row, max_length=room, samples="turn").rejected) == {"a": "too-long"}
    fewer = tokenized(folder, row, max_length=room, samples="turn", too_long="cut-turns")
    assert places(fewer) == [[2], [4]]
    assert edits(fewer)["cut"] == whole


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    room=st.integers(24, 200),
    system=st.sampled_from([None, "be brief", "long " * 12]),
    repeat=st.sampled_from(["repeat", "first"]),
)
def test_split_keeps_every_exchange_that_fits_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], room: int, system: str | None, repeat: str
):
    folder = str(tmp_path_factory.getbasetemp() / "split-tokenizer")
    if not Path(folder).exists():
        byte_tokenizer(Path(folder))
    row = long_row(*("word " * length for length in lengths), system=system)
    outcome = tokenized(folder, row, max_length=room, too_long="split", split_system=repeat)
    sizes = exchange_sizes(folder, row)
    head = len(reference(folder).encode(rendered(row, [0])).ids) if system else 0
    first = 2 if system else 1
    answers = [first + 2 * n for n in range(len(lengths))]
    if outcome.rejected.height:
        assert all(size + head > room for size in sizes)
        return
    kept = [n for turns in places(outcome) for n in turns]
    assert kept == sorted(set(kept))
    assert outcome.tables["sidecar"]["tokens"].max() <= room
    surely = [answer for answer, size in zip(answers, sizes, strict=True) if size + head <= room]
    assert set(surely) <= set(kept)
    lost = edits(outcome).get("cut", 0)
    total = len(reference(folder).encode(rendered(row)).ids)
    assert bool(lost) == (len(kept) < len(answers))
    assert 0 <= lost < total


# A version of several samples for a row.


def build_long(folder: Path, **options: Any) -> BuildResult:
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for n in range(30):
        turns = [{"role": "system", "content": "Be brief."}]
        for k in range(1 + n % 7):
            turns += [
                {"role": "user", "content": f"Question {k} of {n}?"},
                {"role": "assistant", "content": f"Answer {k} of {n}, {'very ' * (n % 5)}short."},
            ]
        rows.append({"messages": turns})
    path = folder / "long.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pipeline = Pipeline.model_validate(
        {
            "name": "long",
            "sources": [{"name": "chats", "path": str(path), "format": "messages"}],
            "split": {"validation": 0.3},
            "tokenize": {"tokenizer": SAMPLES, "max_length": 96, "too_long": "split"},
            "pack": {"max_length": 96},
        }
    )
    return build(pipeline, folder / "store", **options)


def test_version_with_split_rows_is_conserved_verified_packed_and_explained(tmp_path: Path):
    built = build_long(tmp_path / "a")
    folder = Path(built.path)
    side = pl.concat([pl.read_parquet(path) for path in sorted(folder.glob("sidecar/*/*.parquet"))])
    assert built.rows_kept == 30 == side["id"].n_unique()
    assert side.height > 30
    assert verify(folder).problems == []
    row = side.filter(pl.col("part") == 2)["id"][0]
    told = [event.detail for event in why(folder, row).events if event.what == "tokenized"]
    assert [detail[:9] for detail in told] == ["sample 0:", "sample 1:", "sample 2:"][: len(told)]
    assert len(preview(folder, [row]).rows) == len(told) >= 3
    edits = pl.concat([pl.read_parquet(path) for path in folder.glob("edits/*.parquet")]).filter(code="split")
    choice = {choice.name: choice.told for choice in measure(folder).choices}["Rows over 96 tokens"]
    assert choice == f"split before questions: {edits.height} rows became {edits['count'].sum()} segments"
    other = build_long(tmp_path / "b", shard_rows=7)
    assert {n: h for n, h in hashes(Path(other.path)).items() if n.endswith(".arrow")} == {
        n: h for n, h in hashes(folder).items() if n.endswith(".arrow")
    }


def test_verify_finds_a_sample_that_is_missing(tmp_path: Path):
    from tests.store.versions import reseal, rewrite_parquet

    folder = Path(build_long(tmp_path).path)
    [path] = folder.glob("sidecar/train/*.parquet")
    side = pl.read_parquet(path)
    at = side["part"].to_list().index(1)
    rewrite_parquet(
        path, side.with_columns(part=pl.when(pl.int_range(pl.len()) == at).then(2).otherwise("part").cast(pl.Int32))
    )
    reseal(folder)
    assert any("sidecar/train does not hold the rows" in problem for problem in verify(folder).problems)


def test_stage_over_an_empty_frame_numbers_its_samples():
    outcome = run_stage(Tokenize(tokenizer=SAMPLES, too_long="split"), conversations())
    assert outcome.tables["sidecar"].columns[-1] == "part"
