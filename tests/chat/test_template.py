"""Rendering as transformers renders, inside a sandbox, the same on every day."""

import json
import warnings
from functools import lru_cache

import pytest

from sft_data.chat.marks import split_turns
from sft_data.chat.template import RENDER_ERRORS, ChatTemplate, template_text
from sft_data.errors import TokenizerError
from tests.frames import SHARED, needs_shared

USER, ANSWER = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}
CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": 1.0, "y": None, "z": "<é&'>"}}}
TALKS = [
    [USER, ANSWER],
    [{"role": "system", "content": "be brief"}, USER, ANSWER, USER, ANSWER],
    [USER, {**ANSWER, "reasoning_content": "so", "thinking": "so"}],
    [USER, {"role": "assistant", "content": "", "tool_calls": [CALL, CALL]}, {"role": "tool", "content": "3"}, ANSWER],
    [USER, {**ANSWER, "content": "<think>\nso\n</think>\n\nhello"}],
]
TOOLS = [{"type": "function", "function": {"name": "f", "description": "é <b>", "parameters": {"type": "object"}}}]


TOOL = {"a": "<é&'>", "b": 1.0}


def rendered(text, messages=(USER, ANSWER, TOOL), **more):
    return ChatTemplate(text, {"bos_token": "<s>", "eos_token": "</s>"}).render(list(messages), **more)


@lru_cache
def _reference(folder):
    transformers = pytest.importorskip("transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return transformers.AutoTokenizer.from_pretrained(SHARED / folder)


@needs_shared
@pytest.mark.parametrize("folder", ["tokenizers/gpt2_chatml", "tokenizers/minimind", "models/stories260k_hf"])
@pytest.mark.parametrize("messages", TALKS)
@pytest.mark.parametrize("tools", [None, TOOLS])
@pytest.mark.parametrize("prompt", [False, True])
def test_real_templates_render_as_in_transformers(folder, messages, tools, prompt):
    reference = _reference(folder)
    template = ChatTemplate(reference.chat_template, reference.special_tokens_map)
    text, _ = split_turns(template.render(messages, tools, prompt=prompt))
    assert text == reference.apply_chat_template(messages, tools=tools, add_generation_prompt=prompt, tokenize=False)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ messages[2] | tojson }}", '{"a": "<é&\'>", "b": 1.0}'),
        ("{{ messages[2] | tojson(indent=1) }}", '{\n "a": "<é&\'>",\n "b": 1.0\n}'),
        (
            "{%- for m in messages[:2] %}{%- if loop.first %}{%- continue %}{%- endif %}{{ m.role }}{%- endfor %}",
            "assistant",
        ),
        ("{%- set ns = namespace(x=1) %}{%- set ns.x = 2 %}{{ ns.x }}", "2"),
        ("{{ dict(a=1) }}", "{'a': 1}"),
        ("{{ messages[0].role }}{{ messages[0].nothing is defined }}{{ messages[0].items() | length }}", "userFalse2"),
        ("    {% if true %}\nx\n    {% endif %}\ny", "x\ny"),
        ("{{ strftime_now is defined }}", "False"),
        ("{{ bos_token }}{{ eos_token }}", "<s></s>"),
    ],
)
def test_environment_has_what_templates_expect(template, expected):
    assert rendered(template) == expected


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'x'}) }}",
        "{{ namespace(_x=1) }}",
        "{{ raise_exception('no') }}",
        "{{ strftime_now('%Y') }}",
        "{{ dict.__init__.__globals__ }}",
    ],
)
def test_template_that_reaches_out_fails_on_the_row(template):
    with pytest.raises(RENDER_ERRORS):
        rendered(template)


def test_data_is_never_a_template():
    said = "{{ 7 * 7 }}{% raw %}"
    assert rendered("{{ messages[0].content }}", [{"role": "user", "content": said}]) == said


def test_generation_block_inside_a_set_block_is_marked_where_it_comes_out():
    text = (
        "{%- set said %}{%- generation %}{{ messages[1].content }}{%- endgeneration %}{%- endset %}head {{ said }} tail"
    )
    assert split_turns(rendered(text)) == ("head hello tail", [(5, 10)])


def test_template_that_does_not_parse_names_its_line():
    with pytest.raises(TokenizerError, match="line 2"):
        ChatTemplate("x\n{% if %}", {})


def test_mention_of_generation_is_no_mark():
    assert not ChatTemplate("{{ 'generation' }}{# {% generation %} #}", {}).marked
    assert ChatTemplate("{% generation %}{% endgeneration %}", {}).marked


def test_template_text_comes_from_a_file_or_is_absent(tmp_path):
    (tmp_path / "x.jinja").write_text("é", encoding="utf-8")
    assert template_text(str(tmp_path / "x.jinja")) == "é"
    assert template_text(str(tmp_path / "y.jinja")) is None


def test_numbers_in_arguments_are_written_as_the_data_wrote_them():
    call = json.loads('{"x": 2.0, "y": 1e3, "z": 12345678901234567890}')
    assert (
        rendered("{{ messages[0].x | tojson }}", [{"x": call}]) == '{"x": 2.0, "y": 1000.0, "z": 12345678901234567890}'
    )
