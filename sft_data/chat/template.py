"""Rendering with a chat template, as transformers renders it, but the same on every day and with spans marked.

A template is a program that somebody published: it runs in jinja2's immutable sandbox and sees plain data only. What
differs from transformers on purpose: there is no `strftime_now` (templates that ask whether it is defined fall back to
a fixed date; those that insist are refused, because the same data would give other tokens tomorrow), and
`{% generation %}` blocks come out between two marks (see `sft_data.chat.marks`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, TemplateError, TemplateSyntaxError, Undefined, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from sft_data.chat.marks import TURN_END, TURN_START
from sft_data.errors import TokenizerError

__all__ = ["RENDER_ERRORS", "ChatTemplate", "named_templates", "template_text"]

# What a template can raise on data it was not written for. Anything else is a bug and is not caught.
RENDER_ERRORS = (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError)

_NAMED = resources.files("sft_data.chat") / "named"


class ChatTemplate:
    """A compiled template. `variables` are the names it may use beside `messages`: `bos_token` and the like."""

    def __init__(self, text: str, variables: Mapping[str, str]) -> None:
        self.text = text
        self._template = _compile(text)
        self._names = dict(self._template.globals) | dict(variables)
        self.literals = _literals(text)
        self.marked = "generation" in _tags(text)

    def render(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None = None, *, prompt: bool = False
    ) -> str:
        """The text, with turn marks where the template has `{% generation %}` blocks; raises one of RENDER_ERRORS.

        `prompt` asks for the start of the assistant's turn behind the last message.
        """
        names = self._names | {
            "messages": messages, "tools": tools, "documents": None, "add_generation_prompt": prompt,
        }  # fmt: skip
        # What `Template.render` does, without building the names anew from the environment's for every row.
        context = self._template.environment.context_class(
            self._template.environment, names, self._template.name, self._template.blocks
        )
        return "".join(self._template.root_render_func(context))


def template_text(template: str) -> str | None:
    """The text of a named template or of a file; None where it is neither."""
    if template in named_templates():
        return (_NAMED / f"{template}.jinja").read_text(encoding="utf-8")
    path = Path(template)
    return path.read_text(encoding="utf-8") if path.is_file() else None


@lru_cache(maxsize=1)
def named_templates() -> tuple[str, ...]:
    """Names of the templates that come with the project."""
    if not _NAMED.is_dir():
        return ()
    return tuple(sorted(entry.name.removesuffix(".jinja") for entry in _NAMED.iterdir() if entry.name[-6:] == ".jinja"))


class _Generation(Extension):
    """`{% generation %}` ... `{% endgeneration %}`: puts the block's text between two marks."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        start, end = (nodes.Output([nodes.TemplateData(mark)]) for mark in (TURN_START, TURN_END))
        return nodes.Scope([start, *body, end]).set_lineno(line)


class _TagFinder(Extension):
    """Parses `{% generation %}` without rendering, to see whether a template has it."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return [nodes.ExprStmt(nodes.Const("\0generation")), *body]


class _Namespace(Namespace):
    """jinja2's namespace without underscore-prefixed attributes, as in transformers."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # noqa: ANN401  # a keyword may be called `self`
        self, rest = args[0], args[1:]
        attributes = dict(*rest, **kwargs)
        for name in attributes:
            _Namespace._check(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:  # noqa: ANN401  # as in jinja2
        _Namespace._check(name)
        super().__setitem__(name, value)

    @staticmethod
    def _check(name: object) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise TemplateError(f"a template cannot store the attribute {name!r} on a namespace")


_DICT_ATTRIBUTES = frozenset(dir(dict))


class _Sandbox(ImmutableSandboxedEnvironment):
    """The sandbox, with a short way for `message.role`: a dict's key that is no attribute of dicts.

    The long way raises and catches an AttributeError for each of these, which is half of the time of a long template.
    """

    def getattr(self, obj: Any, attribute: str) -> Any:  # noqa: ANN401  # as in jinja2
        if type(obj) is dict and attribute not in _DICT_ATTRIBUTES:
            if attribute in obj:
                return obj[attribute]
            return self.undefined(obj=obj, name=attribute)
        return super().getattr(obj, attribute)


class _MakeDict:
    """`dict` inside a template: builds dicts and gives no way out of the sandbox."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:  # noqa: ANN401  # as in Python
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:  # noqa: ANN401  # as in Python
        return dict.fromkeys(*args)


def _to_json(
    value: Any,  # noqa: ANN401  # any plain data
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002  # the filter's arguments are those of transformers
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002
) -> str:
    if isinstance(value, Undefined):
        raise TemplateError("a template asked for the JSON of something undefined")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _environment(extension: type[Extension]) -> Environment:
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[extension, loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _raise, "dict": _MakeDict(), "namespace": _Namespace}
    return environment


def _compile(text: str) -> Any:  # noqa: ANN401  # jinja2's template
    try:
        return _environment(_Generation).from_string(text)
    except TemplateSyntaxError as error:
        raise TokenizerError(f"the chat template does not parse: line {error.lineno}: {error.message}") from error


def _literals(text: str) -> str:
    """All text that stands in the template itself, joined so that no two pieces can join to a word."""
    tree = _environment(_TagFinder).parse(text)
    found = [node.data for node in tree.find_all(nodes.TemplateData)]
    found += [node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)]
    return "\0".join(found)


def _tags(text: str) -> set[str]:
    tree = _environment(_TagFinder).parse(text)
    return {"generation" for node in tree.find_all(nodes.Const) if node.value == "\0generation"}
