"""The templates that come with the project, against texts written by hand."""

import json

import pytest
from tokenizers import AddedToken, Tokenizer

from sft_data.chat.template import named_templates
from sft_data.tokenize.stage import check_tokenizer
from tests.frames import talk, turn
from tests.tokenize.makers import byte_tokenizer, write
from tests.tokenize.reading import ids_of, reference, text_of, tokenized, trained_texts

TOKENS = (
    "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "[INST]", "[/INST]",
    "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CONTENT]",
    "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]",
    "<start_of_turn>", "<end_of_turn>", "<｜User｜>", "<｜Assistant｜>",
    "<｜end▁of▁sentence｜>", "<s>", "</s>",
)  # fmt: skip

DIALOGUE = {
    "chatml": "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\n[B<|im_end|>]\n"
    "<|im_start|>user\nC<|im_end|>\n<|im_start|>assistant\n[D<|im_end|>]\n",
    "qwen": "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\n[B<|im_end|>]\n"
    "<|im_start|>user\nC<|im_end|>\n<|im_start|>assistant\n[D<|im_end|>]\n",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nA<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n[B<|eot_id|>]"
    "<|start_header_id|>user<|end_header_id|>\n\nC<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n[D<|eot_id|>]",
    "mistral": "<s>[INST] S\n\nA[/INST][ B</s>][INST] C[/INST][ D</s>]",
    "mistral-tekken": "<s>[SYSTEM_PROMPT]S[/SYSTEM_PROMPT][INST]A[/INST][B</s>][INST]C[/INST][D</s>]",
    "gemma": "<s><start_of_turn>user\nS\n\nA<end_of_turn>\n<start_of_turn>model\n[B<end_of_turn>]\n"
    "<start_of_turn>user\nC<end_of_turn>\n<start_of_turn>model\n[D<end_of_turn>]\n",
    "deepseek": "<s>S<｜User｜>A<｜Assistant｜>[B<｜end▁of▁sentence｜>]"
    "<｜User｜>C<｜Assistant｜>[D<｜end▁of▁sentence｜>]",
    "alpaca": "S\n\n### Instruction:\nA\n\n### Response:\n[B</s>]\n\n### Instruction:\nC\n\n### Response:\n[D</s>]\n\n",
    "vicuna": "S USER: A ASSISTANT:[ B</s>]USER: C ASSISTANT:[ D</s>]",
    "plain": "S\nA\n[B</s>]\nC\n[D</s>]\n",
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A tokenizer that has every token that any of the templates writes."""
    place = tmp_path_factory.mktemp("named")
    tokenizer = Tokenizer.from_file(byte_tokenizer(place) + "/tokenizer.json")
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in TOKENS])
    reference.cache_clear()
    names = {"bos_token": "<s>", "eos_token": "</s>"}
    return write(place, tokenizer, None, **names)


def shown(folder, outcome):
    """The text with what is learnt in brackets (the texts of these tests have none but the template's own)."""
    ids, labels = outcome.tables["tokens"].row(0)
    parts, inside = [], False
    for token, label in zip([*ids, None], [*labels, -100], strict=True):
        if (label != -100) != inside:
            parts.append("]" if inside else "[")
            inside = not inside
        parts.append("" if token is None else text_of(folder, [token]))
    return "".join(parts)


def test_every_named_template_has_its_text_here():
    assert set(DIALOGUE) == set(named_templates())


@pytest.mark.parametrize("name", DIALOGUE)
def test_dialogue_is_rendered_and_learnt_as_written_by_hand(folder, name):
    row = talk(
        "a", turn("system", "S"), turn("user", "A"), turn("assistant", "B"), turn("user", "C"), turn("assistant", "D")
    )
    assert shown(folder, tokenized(folder, row, template=name)) == DIALOGUE[name]


@pytest.mark.parametrize("name", ["chatml", "qwen", "llama3", "deepseek"])
def test_reasoning_of_every_turn_is_shown_and_learnt(folder, name):
    row = talk(
        "a",
        turn("user", "A"),
        turn("assistant", "B", reasoning="so"),
        turn("user", "C"),
        turn("assistant", "D", reasoning="ergo"),
    )
    learnt = trained_texts(folder, tokenized(folder, row, template=name))[0]
    assert [text.rpartition("<")[0] for text in learnt] == [
        "<think>\nso\n</think>\n\nB",
        "<think>\nergo\n</think>\n\nD",
    ]


@pytest.mark.parametrize("name", ["chatml", "qwen", "llama3", "mistral", "mistral-tekken"])
def test_tools_are_shown_their_calls_learnt_and_their_results_not(folder, name):
    tools = json.dumps([{"name": "weather", "parameters": {"type": "object"}}])
    calls = json.dumps([{"name": "weather", "arguments": {"where": "Bern"}}])
    row = talk(
        "a",
        turn("user", "A"),
        turn("assistant", "", tool_calls=calls),
        turn("tool", 'rain, "heavy"\nand wind'),
        turn("assistant", "wet"),
        tools=tools,
    )
    outcome = tokenized(folder, row, template=name)
    assert outcome.rejected.height == 0
    called, said = trained_texts(folder, outcome)[0]
    assert json.dumps({"where": "Bern"}) in called
    assert said.strip().startswith("wet<")
    assert "rain" in text_of(folder, ids_of(outcome))


@pytest.mark.parametrize("name", ["gemma", "deepseek", "alpaca", "vicuna", "plain"])
def test_template_without_tools_rejects_rows_with_them(folder, name):
    tools = json.dumps([{"name": "weather", "parameters": {}}])
    calls = json.dumps([{"name": "weather", "arguments": {}}])
    outcome = tokenized(
        folder,
        talk("offered", "A", "B", tools=tools),
        talk("called", turn("user", "A"), turn("assistant", "", tool_calls=calls)),
        talk("told", turn("user", "A"), turn("tool", "rain"), turn("assistant", "B")),
        template=name,
    )
    assert outcome.kept.height == 0
    assert set(outcome.rejected["code"]) <= {"not-rendered", "template-error"}


def test_named_template_whose_tokens_the_tokenizer_lacks_is_refused(tmp_path):
    [problem] = check_tokenizer(byte_tokenizer(tmp_path), "gemma")
    assert "<end_of_turn>" in problem
    assert check_tokenizer(str(tmp_path), "chatml") == []
