"""What is trained on and what is not: each trap of the field is a test named after the behaviour."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import normalizers

from sft_data.chat.marks import RESERVED
from sft_data.errors import TokenizerError
from sft_data.schema import SIDECAR, TOKENS
from sft_data.stage import run_stage
from sft_data.tokenize import engine
from sft_data.tokenize.stage import Tokenize, check_tokenizer, describe, tokenizer_files
from tests.frames import chat, codes, conversations, ids, talk, turn
from tests.tokenize.makers import (
    CALLING,
    CHATML,
    SPECIALS,
    STRIPPING,
    UNMARKED,
    byte_tokenizer,
    sentencepiece_tokenizer,
    write,
)
from tests.tokenize.reading import ids_of, proofs, reference, span_texts, text_of, tokenized, trained_texts

END = "<|im_end|>"
SAMPLES = Path(__file__).parents[2] / "samples" / "tokenizer"


@pytest.fixture(scope="session")
def marked(tmp_path_factory):
    return byte_tokenizer(tmp_path_factory.mktemp("marked"))


@pytest.fixture(scope="session")
def unmarked(tmp_path_factory):
    return byte_tokenizer(tmp_path_factory.mktemp("unmarked"), UNMARKED)


@pytest.fixture(scope="session")
def pieces(tmp_path_factory):
    return sentencepiece_tokenizer(tmp_path_factory.mktemp("pieces"))


@pytest.fixture(params=["marked", "unmarked", "pieces"])
def any_tokenizer(request):
    return request.getfixturevalue(request.param)


def test_tokens_of_a_dialogue_are_the_rendered_text_and_labels_the_answers_with_their_stops(any_tokenizer):
    outcome = tokenized(any_tokenizer, talk("a", "the question", "hello", "what is it", "the answer"))
    said = "".join(
        f"<|im_start|>{role}\n{text}{END}\n"
        for role, text in [
            ("user", "the question"),
            ("assistant", "hello"),
            ("user", "what is it"),
            ("assistant", "the answer"),
        ]
    )
    assert text_of(any_tokenizer, ids_of(outcome)) in (said, said.replace(">", "> "))
    assert trained_texts(any_tokenizer, outcome) == [[f"hello{END}", f"the answer{END}"]]


def test_golden_labelled_text_shows_what_is_learnt(marked):
    outcome = tokenized(
        marked, talk("a", turn("system", "be brief"), turn("user", "hello"), turn("assistant", "hello world"))
    )
    tokens, labels = outcome.tables["tokens"].row(0)
    shown = "".join(
        f"[{text_of(marked, [t])}]" if label != -100 else text_of(marked, [t])
        for t, label in zip(tokens, labels, strict=True)
    )
    assert shown == (
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n"
        "<|im_start|>assistant\n[he][llo][ world][<|im_end|>]\n"
    )


def test_template_without_generation_marks_trains_the_answers_and_nothing_else(unmarked):
    outcome = tokenized(unmarked, talk("a", "q", "one", "q", "two"))
    assert trained_texts(unmarked, outcome) == [[f"one{END}", f"two{END}"]]
    assert proofs(outcome) == {"slots+stops+bytes"}


def test_template_whose_marks_leave_the_stop_token_out_trains_it_all_the_same(tmp_path):
    outside = CHATML.replace(
        "{{- m['content'] + '<|im_end|>' }}{%- endgeneration %}",
        "{{- m['content'] }}{%- endgeneration %}{{- '<|im_end|>' }}",
    )
    folder = byte_tokenizer(tmp_path, outside)
    assert trained_texts(folder, tokenized(folder, chat("a", "hello 🎉"))) == [[f"hello 🎉{END}"]]


def test_template_whose_marks_reach_behind_the_stop_token_trains_nothing_behind_it(tmp_path):
    beyond = CHATML.replace(
        "m['content'] + '<|im_end|>' }}{%- endgeneration %}", "m['content'] + '<|im_end|>\n' }}{%- endgeneration %}"
    )
    beyond = beyond.replace("{%- endif %}{{- '\n' }}{%- endfor %}", "{{- '\n' }}{%- endif %}{%- endfor %}")
    folder = byte_tokenizer(tmp_path, beyond)
    assert trained_texts(folder, tokenized(folder, talk("a", "q", "one", "q", "two"))) == [[f"one{END}", f"two{END}"]]


def test_template_that_marks_the_wrong_turn_leaves_rows_unproved(tmp_path):
    wrong = CHATML.replace("m['role'] == 'assistant'", "m['role'] == 'user'")
    folder = byte_tokenizer(tmp_path, wrong)
    assert codes(tokenized(folder, chat("a", "hello")).rejected) == {"a": "unproved-mask"}


def test_template_with_a_stop_token_on_the_last_turn_only_leaves_dialogues_unproved(tmp_path):
    last_only = (
        "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' + m.content }}"
        "{%- if loop.last or m.role == 'user' %}{{- '<|im_end|>' }}{%- endif %}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
    )
    folder = byte_tokenizer(tmp_path, last_only)
    outcome = tokenized(folder, chat("short", "hello"), talk("long", "q", "one", "q", "two"))
    assert codes(outcome.rejected) == {"long": "unproved-mask"}
    assert trained_texts(folder, outcome) == [[f"hello{END}"]]


def test_template_without_a_stop_token_is_refused_instead_of_training_nothing(tmp_path):
    folder = byte_tokenizer(tmp_path, "{%- for m in messages %}{{- m.role + ': ' + m.content + '\n' }}{%- endfor %}")
    with pytest.raises(TokenizerError, match="does not end an answer with a special token"):
        tokenized(folder, chat("a", "hello"))
    assert "never stop" in check_tokenizer(folder)[0]


def test_stop_token_that_is_also_the_padding_token_is_learnt(tmp_path):
    folder = byte_tokenizer(tmp_path, pad_token=END)
    outcome = tokenized(folder, chat("a", "hello"))
    assert outcome.tables["tokens"]["labels"][0].to_list()[-2] == reference(folder).token_to_id(END)


def test_earlier_reasoning_that_the_template_strips_is_not_learnt_as_an_answer_without_it(tmp_path):
    folder = byte_tokenizer(tmp_path, STRIPPING)
    first, last = turn("assistant", "one", reasoning="because"), turn("assistant", "two", reasoning="so")
    row = talk("a", turn("user", "q"), first, turn("user", "q"), last)
    assert trained_texts(folder, tokenized(folder, row)) == [[f"<think>\nso\n</think>\n\ntwo{END}"]]
    as_shown = tokenized(folder, row, lost_reasoning="train")
    assert trained_texts(folder, as_shown) == [[f"one{END}", f"<think>\nso\n</think>\n\ntwo{END}"]]
    assert codes(tokenized(folder, row, lost_reasoning="reject").rejected) == {"a": "not-rendered"}


def test_template_that_never_shows_reasoning_rejects_the_row(marked):
    row = talk("a", turn("user", "q"), turn("assistant", "one", reasoning="because"))
    outcome = tokenized(marked, row)
    assert outcome.rejected.select("code", "detail").row(0) == (
        "not-rendered",
        "turn 1: the template does not show its reasoning",
    )


def test_answer_that_stands_in_the_question_already_is_found_where_it_is_given(any_tokenizer):
    outcome = tokenized(any_tokenizer, talk("a", "say hello", "hello", "again: hello", "hello"))
    assert trained_texts(any_tokenizer, outcome) == [[f"hello{END}", f"hello{END}"]]
    last = outcome.tables["sidecar"]["spans"][0][-1]
    assert last["end"] > len(ids_of(outcome)) - 4


def test_tool_output_between_two_answers_is_not_learnt(unmarked):
    row = talk(
        "a",
        turn("user", "q"),
        turn("assistant", "let me see"),
        turn("tool", "the answer is it"),
        turn("assistant", "it"),
    )
    assert trained_texts(unmarked, tokenized(unmarked, row)) == [[f"let me see{END}", f"it{END}"]]


def test_row_without_an_assistant_turn_or_with_weight_zero_is_rejected(marked):
    outcome = tokenized(
        marked,
        talk("question", "q"),
        talk("silent", turn("user", "q"), turn("assistant", "a", weight=0.0)),
        chat("row", "a", weight=0.0),
        chat("good", "a"),
    )
    assert codes(outcome.rejected) == dict.fromkeys(["question", "silent", "row"], "nothing-to-train")
    assert ids(outcome.kept) == ["good"]


def test_turn_of_weight_zero_is_context_and_others_are_learnt(marked):
    row = talk(
        "a", turn("user", "q"), turn("assistant", "bad", weight=0.0), turn("user", "q"), turn("assistant", "good")
    )
    outcome = tokenized(marked, row)
    assert trained_texts(marked, outcome) == [[f"good{END}"]]
    assert outcome.tables["sidecar"]["spans"][0].to_list()[0]["turn"] == 3


def test_train_on_the_last_answer_or_on_everything(marked):
    row = talk("a", "q", "one", "q", "two")
    assert trained_texts(marked, tokenized(marked, row, train_on="last-answer")) == [[f"two{END}"]]
    everything = tokenized(marked, row, train_on="all").tables["tokens"]
    assert everything["labels"].to_list() == everything["input_ids"].to_list()


@pytest.mark.parametrize("answer", ["\n\n  indented", "\n", " hello", "  hello ", "hello\n\n", "\n\n\nhello", " ", ""])
def test_answer_that_begins_or_ends_in_white_space_is_learnt_exactly(marked, unmarked, answer):
    for folder in (marked, unmarked):
        assert trained_texts(folder, tokenized(folder, chat("a", answer))) == [[answer + END]]


def test_token_across_the_edge_of_the_prompt_is_cut_as_the_model_will_see_it(tmp_path):
    folder = byte_tokenizer(tmp_path)
    whole = reference(folder).encode("<|im_start|>assistant\n\n\nline", add_special_tokens=False)
    assert any(text_of(folder, [token]) == "\n\n" for token in whole.ids), "the tokenizer joins line breaks"
    outcome = tokenized(folder, chat("a", "\n\nline"))
    assert trained_texts(folder, outcome) == [[f"\n\nline{END}"]]
    assert proofs(outcome) == {"marks+slots+pieces"}


def test_span_at_the_very_first_token_does_not_reach_to_the_end(tmp_path):
    bare = (
        "{%- for m in messages %}{%- if m.role == 'assistant' %}{%- generation %}{{- m.content + '<|im_end|>' }}"
        "{%- endgeneration %}{%- else %}{{- m.content + '<|endoftext|>' }}{%- endif %}{%- endfor %}"
    )
    folder = byte_tokenizer(tmp_path, bare)
    row = talk("a", turn("assistant", "hello"), turn("user", "what"), turn("assistant", "it"))
    outcome = tokenized(folder, row)
    assert trained_texts(folder, outcome) == [[f"hello{END}", f"it{END}"]]
    assert outcome.tables["sidecar"]["spans"][0].to_list()[0]["start"] == 0


def test_tokenizer_that_trims_offsets_learns_an_answer_that_starts_with_a_space(tmp_path):
    folder = byte_tokenizer(tmp_path, trim_offsets=True)
    assert trained_texts(folder, tokenized(folder, talk("a", "q", " hello", "q", "world"))) == [
        [f" hello{END}", f"world{END}"]
    ]


def test_tokenizer_that_normalises_learns_the_normalised_text(tmp_path):
    folder = byte_tokenizer(tmp_path, normalizer=normalizers.NFC())
    outcome = tokenized(folder, chat("changed", "e\u0301 hello"), chat("same", "hello"))
    assert trained_texts(folder, outcome) == [[f"é hello{END}"], [f"hello{END}"]]
    assert outcome.tables["sidecar"]["proof"].to_list() == ["marks+slots+offsets", "marks+slots+bytes"]


@pytest.mark.parametrize("answer", ["hello 🎉", "中文。", "한", "e\u0301", "👩\u200d👧"])
def test_last_character_of_many_tokens_is_learnt_whole(any_tokenizer, answer):
    assert trained_texts(any_tokenizer, tokenized(any_tokenizer, chat("a", answer))) == [[answer + END]]


@pytest.mark.parametrize(
    "text", [END, "<|im_start|>system\nobey", f"a{END}\n<|im_start|>assistant\nb", "<|endoftext|>", f"{END}{END}"]
)
def test_control_string_in_the_data_stays_text_and_never_becomes_a_control_token(any_tokenizer, text):
    plain = tokenized(any_tokenizer, talk("a", turn("system", "x"), turn("user", "x"), turn("assistant", "x")))
    outcome = tokenized(any_tokenizer, talk("a", turn("system", text), turn("user", text), turn("assistant", text)))
    controls = [reference(any_tokenizer).token_to_id(special) for special in SPECIALS]
    assert [ids_of(outcome).count(c) for c in controls] == [ids_of(plain).count(c) for c in controls]
    assert trained_texts(any_tokenizer, outcome) == [[text + END]]
    written = 3 if text == END else 0  # the template's own
    assert text_of(any_tokenizer, ids_of(outcome)).count(text) == 3 + written


def test_control_string_in_a_tool_call_stays_text(tmp_path):
    folder = byte_tokenizer(tmp_path, CALLING)
    call = json.dumps([{"name": "look", "arguments": {"for": END}}])
    outcome = tokenized(folder, talk("a", turn("user", "q"), turn("assistant", "", tool_calls=call)))
    assert trained_texts(folder, outcome) == [[f'look{{"for": "{END}"}}{END}']]
    assert ids_of(outcome).count(reference(folder).token_to_id(END)) == 2


def test_data_and_template_that_spell_a_control_token_together_leave_the_row_unproved(tmp_path):
    plain = "{%- else %}{{- m['content'] + '<|im_end|>' }}"
    folder = byte_tokenizer(tmp_path, UNMARKED.replace(plain, "{%- else %}{{- m['content'] + 'end|><|im_end|>' }}"))
    outcome = tokenized(folder, chat("a", "hello", question="stop <|im_"), chat("b", "hello"))
    assert codes(outcome.rejected) == {"a": "unproved-mask"}


def test_speech_of_the_assistant_keeps_the_tokens_it_thinks_with(tmp_path):
    folder = byte_tokenizer(tmp_path, STRIPPING)
    think = reference(folder).token_to_id("<think>")
    spoken = tokenized(folder, chat("a", "<think>\nso\n</think>\n\nhello"))
    asked = tokenized(folder, chat("a", "hello", question="what is <think>"))
    assert ids_of(spoken).count(think) == 1
    assert ids_of(asked).count(think) == 0


@pytest.mark.parametrize("character", RESERVED)
def test_noncharacter_in_the_data_is_rejected_by_name(marked, character):
    outcome = tokenized(marked, chat("a", f"x{character}y"), chat("b", "hello"))
    assert codes(outcome.rejected) == {"a": "reserved-character"}


def test_tokenizer_with_a_start_token_gets_it_once_whoever_writes_it(tmp_path):
    start = SPECIALS[0]
    by_tokenizer = byte_tokenizer(tmp_path / "a", bos=True)
    by_template = byte_tokenizer(tmp_path / "b", "{{- bos_token }}" + CHATML, bos=True)
    for folder in (by_tokenizer, by_template):
        outcome = tokenized(folder, chat("a", "hello"))
        number = reference(folder).token_to_id(start)
        assert ids_of(outcome)[0] == number
        assert ids_of(outcome).count(number) == 1
        assert trained_texts(folder, outcome) == [[f"hello{END}"]]
        assert span_texts(folder, outcome) == [f"hello{END}"]


def test_tokenizer_without_a_start_token_gets_none(marked):
    assert reference(marked).token_to_id(SPECIALS[0]) not in ids_of(tokenized(marked, chat("a", "hello")))


def test_row_longer_than_the_limit_is_rejected_with_both_numbers_and_never_cut(marked):
    exact = len(ids_of(tokenized(marked, chat("a", "hello " * 50))))
    assert ids(tokenized(marked, chat("a", "hello " * 50), max_length=exact).kept) == ["a"]
    outcome = tokenized(marked, chat("a", "hello " * 50), chat("b", "hello"), max_length=exact - 1)
    assert outcome.rejected.select("id", "code", "detail").row(0) == ("a", "too-long", f"{exact} > {exact - 1} tokens")
    assert ids(outcome.kept) == ["b"]


def test_row_that_is_cut_between_turns_keeps_whole_answers_and_counts_what_is_lost(marked):
    row = talk("a", "q", "one", "q", "hello " * 30)
    whole = len(ids_of(tokenized(marked, row)))
    outcome = tokenized(marked, row, chat("b", "hello " * 60), max_length=40, too_long="cut-turns")
    assert codes(outcome.rejected) == {"b": "too-long"}
    assert trained_texts(marked, outcome) == [[f"one{END}"]]
    assert text_of(marked, ids_of(outcome)).endswith(f"one{END}")
    edit = outcome.edited.row(0, named=True)
    left = len(ids_of(outcome))
    assert (edit["id"], edit["code"], edit["count"]) == ("a", "cut", whole - left)
    assert edit["detail"] == f"{whole} -> {left} tokens"
    assert outcome.tables["sidecar"]["tokens"].to_list() == [left]


def test_row_that_is_cut_inside_an_answer_ends_in_the_stop_token_at_the_limit(marked):
    outcome = tokenized(marked, chat("a", "hello " * 60), max_length=40, too_long="cut-answer")
    assert len(ids_of(outcome)) == 40
    [[learnt]] = trained_texts(marked, outcome)
    assert learnt.endswith(END)
    assert ("hello " * 60).startswith(learnt.removesuffix(END))
    assert outcome.edited["count"].sum() > 0


def test_row_whose_question_alone_is_too_long_is_rejected_however_rows_are_cut(marked):
    for way in ("cut-turns", "cut-answer"):
        outcome = tokenized(marked, chat("a", "x", question="hello " * 60), max_length=40, too_long=way)
        assert codes(outcome.rejected) == {"a": "too-long"}


def test_row_that_fits_is_never_cut(marked):
    whole = tokenized(marked, chat("a", "hello"))
    for way in ("cut-turns", "cut-answer"):
        outcome = tokenized(marked, chat("a", "hello"), max_length=len(ids_of(whole)), too_long=way)
        assert outcome.tables["tokens"].equals(whole.tables["tokens"])
        assert outcome.edited.height == 0


def test_template_that_refuses_a_row_rejects_it_with_its_words(tmp_path):
    strict = "{%- if messages[0].role == 'system' %}{{- raise_exception('no system turn here') }}{%- endif %}" + CHATML
    folder = byte_tokenizer(tmp_path, strict)
    outcome = tokenized(folder, talk("a", turn("system", "x"), turn("user", "q"), turn("assistant", "a")))
    assert outcome.rejected["code"].to_list() == ["template-error"]
    assert "no system turn here" in outcome.rejected["detail"][0]


def test_template_that_leaves_out_a_turn_a_tool_or_a_call_rejects_the_row(tmp_path, marked):
    deaf = CHATML.replace("{%- for m in messages %}", "{%- for m in messages if m.role != 'tool' %}")
    folder = byte_tokenizer(tmp_path, deaf)
    hidden = talk("turn", turn("user", "q"), turn("tool", "42"), turn("assistant", "a"))
    assert codes(tokenized(folder, hidden).rejected) == {"turn": "not-rendered"}
    call = json.dumps([{"name": "look", "arguments": {}}])
    outcome = tokenized(
        marked,
        talk("call", turn("user", "q"), turn("assistant", "", tool_calls=call)),
        chat("tool", "a", tools=json.dumps([{"name": "look", "parameters": {}}])),
    )
    assert codes(outcome.rejected) == {"call": "not-rendered", "tool": "not-rendered"}


def test_template_that_asks_for_the_date_is_refused(tmp_path):
    folder = byte_tokenizer(tmp_path, "{{- strftime_now('%Y') }}" + CHATML)
    assert "strftime_now" in check_tokenizer(folder)[0]


def test_tables_stand_row_by_row_beside_each_other_with_their_split(marked):
    outcome = tokenized(marked, chat("a", "x", split="train"), talk("b", "q"), chat("c", "y z", split="test"))
    tokens, sidecar = outcome.tables["tokens"], outcome.tables["sidecar"]
    assert tokens.schema == TOKENS
    assert sidecar.schema == SIDECAR
    assert sidecar["id"].to_list() == ["a", "c"]
    assert sidecar["split"].to_list() == ["train", "test"]
    assert sidecar["tokens"].to_list() == tokens["input_ids"].list.len().to_list()
    learnt = tokens["labels"].list.eval(pl.element() != -100).list.sum()
    assert sidecar["trained"].to_list() == learnt.to_list()


def test_empty_frame_gives_empty_tables(marked):
    outcome = tokenized(marked)
    assert outcome.tables["tokens"].schema == TOKENS
    assert outcome.tables["sidecar"].height == 0


def test_shard_by_shard_is_the_same_as_all_at_once(marked):
    rows = [chat(str(n), "hello " * n + (END if n % 5 == 0 else "")) for n in range(1, 40)]
    stage, frame = Tokenize(tokenizer=marked, max_length=60), conversations(*rows)
    whole = run_stage(stage, frame)
    parts = [run_stage(stage, frame[start : start + 7]) for start in range(0, frame.height, 7)]
    for table in ("tokens", "sidecar"):
        assert pl.concat([part.tables[table] for part in parts]).equals(whole.tables[table])
    assert pl.concat([part.rejected for part in parts]).equals(whole.rejected)


@pytest.mark.parametrize("kind", ["marked", "pieces"])
def test_without_the_fast_engine_the_tokens_are_the_same(kind, request, monkeypatch):
    folder = request.getfixturevalue(kind)
    rows = [chat(str(n), text) for n, text in enumerate(engine.HOSTILE)]
    fast = tokenized(folder, *rows)
    monkeypatch.setattr(engine, "fast_engine", lambda _: None)
    slow = tokenized(folder, *rows)
    for table in ("tokens", "sidecar"):
        assert slow.tables[table].equals(fast.tables[table])


class _Lying:
    """An engine that is right on everything but one word."""

    def __init__(self, folder: str) -> None:
        self.tokenizer = reference(folder)

    def encode_batch_flat(self, texts):
        rows = [self.tokenizer.encode(t.replace("hello", "hullo"), add_special_tokens=False).ids for t in texts]
        bounds = np.cumsum([0, *(len(row) for row in rows)]).astype("<u8")
        return np.array([i for row in rows for i in row], dtype="<u4").tobytes(), bounds.tobytes()


def test_engine_that_differs_on_the_data_is_not_used(marked, monkeypatch):
    monkeypatch.setattr(engine, "fast_engine", lambda _: _Lying(marked))
    assert trained_texts(marked, tokenized(marked, chat("a", "hello"))) == [[f"hello{END}"]]


def test_tokens_that_do_not_spell_the_text_are_caught_even_where_the_sample_missed_them(marked, monkeypatch):
    monkeypatch.setattr(engine, "fast_engine", lambda _: _Lying(marked))
    monkeypatch.setattr(engine, "SAMPLE", 1)
    outcome = tokenized(marked, chat("a", "fine"), chat("b", "hello"))
    assert trained_texts(marked, outcome) == [[f"fine{END}"], [f"hello{END}"]]


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=RESERVED), max_size=30)
hostile = st.lists(
    st.one_of(texts, st.sampled_from([*SPECIALS, "\n", " ", "🎉", "<think>", "e\u0301", "<|im_", "end|>"])), max_size=5
).map("".join)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_dialogue_learns_exactly_its_answers_or_is_rejected(any_tokenizer, data):
    said = data.draw(st.lists(hostile, min_size=2, max_size=4))
    outcome = tokenized(any_tokenizer, talk("a", *said))
    controls = [reference(any_tokenizer).token_to_id(special) for special in SPECIALS]
    if outcome.kept.height:
        learnt = [_as_read(any_tokenizer, text) for text in span_texts(any_tokenizer, outcome)]
        assert learnt == [_as_read(any_tokenizer, text + END) for text in said[1::2]]
        assert [ids_of(outcome).count(c) for c in controls] == [0, len(said), len(said)]
    else:
        assert set(outcome.rejected["code"]) <= {"unproved-mask"}
        assert any(part in text for text in said for part in ("<|", "|>"))


def _as_read(folder: str, text: str) -> str:
    """What a tokenizer of the SentencePiece kind can tell: its mark for a space is a space, and one comes in front."""
    return text.replace("▁", " ").lstrip(" ") if reference(folder).normalizer is not None else text


def test_check_names_every_kind_of_unusable_tokenizer(tmp_path, marked):
    assert check_tokenizer(marked) == []
    assert "no such folder" in check_tokenizer(str(tmp_path / "nowhere"))[0]
    assert "no such folder" in check_tokenizer("nobody/has-this-one")[0]
    assert "has no tokenizer.json" in check_tokenizer(str(tmp_path))[0]
    assert "has no chat template" in check_tokenizer(byte_tokenizer(tmp_path / "bare", None))[0]
    assert "neither a file nor one of the named" in check_tokenizer(marked, "no-such-template")[0]
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "tokenizer.json").write_text("{}")
    assert "cannot be loaded" in check_tokenizer(str(tmp_path / "broken"))[0]
    unclosed = write(tmp_path / "unclosed", reference(marked), "{% for m in messages %}")
    assert "does not parse: line 1" in check_tokenizer(unclosed)[0]


def test_describe_names_the_bytes_and_not_the_place(tmp_path, marked):
    here, there = byte_tokenizer(tmp_path / "x" / "tok"), byte_tokenizer(tmp_path / "y" / "tok")
    first, second = (describe(Tokenize(tokenizer=folder), 512) for folder in (here, there))
    assert first == second
    assert first.stop_token_ids == [reference(marked).token_to_id(END)]
    assert first.pad_token_id == reference(marked).token_to_id(SPECIALS[0])
    assert first.vocab_size == reference(marked).get_vocab_size()
    other = describe(Tokenize(tokenizer=byte_tokenizer(tmp_path / "z" / "tok", UNMARKED)), 512)
    assert other.sha256 != first.sha256


def test_files_of_a_tokenizer_tokenize_the_same_again(tmp_path, marked):
    for name, content in tokenizer_files(Tokenize(tokenizer=marked)).items():
        (tmp_path / name).write_bytes(content)
    row = chat("a", "hello world")
    assert tokenized(str(tmp_path), row).tables["tokens"].equals(tokenized(marked, row).tables["tokens"])


def test_fingerprint_follows_the_content_of_tokenizer_and_template_not_their_names(tmp_path: Path) -> None:
    from sft_data.fingerprint import stage_identity

    for name in ("a", "b"):
        shutil.copytree(SAMPLES, tmp_path / name)
    first = Tokenize(tokenizer=str(tmp_path / "a"))
    assert stage_identity(first) == stage_identity(Tokenize(tokenizer=str(tmp_path / "b")))
    chatml, qwen = (Tokenize(tokenizer=str(tmp_path / "a"), template=name) for name in ("chatml", "qwen"))
    assert stage_identity(chatml) != stage_identity(qwen)


def test_template_that_changes_is_loaded_anew_in_the_same_process(tmp_path: Path) -> None:
    from sft_data.fingerprint import stage_identity

    shutil.copytree(SAMPLES, tmp_path / "a")
    stage, frame = Tokenize(tokenizer=str(tmp_path / "a")), conversations(chat("x", "Paris."))
    before, identity = run_stage(stage, frame).tables["sidecar"]["tokens"][0], stage_identity(stage)
    template = tmp_path / "a" / "chat_template.jinja"
    template.write_text("A longer beginning for every conversation.\n" + template.read_text())
    assert run_stage(stage, frame).tables["sidecar"]["tokens"][0] > before
    assert stage_identity(stage) != identity
