"""Reading a YAML file into a frozen model, with every mistake told at once and a hint for what is nearly right."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from sft_data.errors import ConfigError

__all__ = ["check_settings", "explain", "hint", "read_settings", "settings_table"]

Model = TypeVar("Model", bound=BaseModel)

# Pydantic's words for what is wrong with the shape of a file, in the words of YAML.
WORDS = {
    "missing": "is missing",
    "too_short": "needs at least one entry",
    "tuple_type": "must be a list: entries that begin with `- `",
    "list_type": "must be a list: entries that begin with `- `",
    "dict_type": "must be a mapping: `key: value` lines",
    "model_type": "must be a mapping: `key: value` lines",
    "model_attributes_type": "must be a mapping: `key: value` lines, such as `kind: NAME` for a stage",
}

STRIPPED = re.compile("['\"]")


class _UniqueKeys(yaml.SafeLoader):
    """YAML's safe subset, in which a key written twice is a mistake instead of a silent loss."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_settings(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; ConfigError where there is no such file, no YAML or no mapping."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        known = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise ConfigError(str(path), [f"no such file{hint(path.name, known)}"]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), [f"cannot be read: {error}"]) from None
    try:
        data = yaml.load(text, Loader=_UniqueKeys)  # noqa: S506  # a SafeLoader that also refuses double keys
    except yaml.YAMLError as error:
        told = " ".join(str(error).replace("<unicode string>", path.name).replace("^", "").split())
        raise ConfigError(str(path), [f"is not YAML: {told}"]) from None
    if not isinstance(data, dict):
        raise ConfigError(str(path), ["must be a mapping of settings (`key: value` lines)"])
    return data


def check_settings(model: type[Model], data: dict[str, Any], where: str) -> Model:
    """`data` as a `model`; ConfigError with every mistake."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError(where, list(explain(error, model))) from None


def explain(error: ValidationError, model: type[BaseModel]) -> Iterator[str]:
    """Pydantic's errors about `model`, one line each, with a hint where a key is nearly right."""
    items = error.errors(include_url=False)
    for item in items:
        if item["type"] == "too_short" and any(len(i["loc"]) > 1 and i["loc"][:1] == item["loc"] for i in items):
            continue  # the list is short only because its wrong entries do not count
        where = ".".join(_address(item["loc"]))
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "value_error":
            yield from (f"{where}: {line}" if where else line for line in message.split("\n"))
            continue
        if item["type"] == "extra_forbidden":
            allowed = _keys(model, item["loc"][:-1])
            near = hint(str(item["loc"][-1]), allowed)
            message = f"there is no such setting{near or '; there are ' + ', '.join(sorted(allowed))}"
        elif item["type"] in WORDS:
            message = WORDS[item["type"]]
        elif item["type"] in ("union_tag_invalid", "union_tag_not_found"):
            message = _wrong_kind(item["ctx"])
        elif item["type"] == "literal_error":
            allowed = [name.strip("'") for name in item["ctx"]["expected"].replace(" or ", ", ").split(", ")]
            message = f"{message}, found {item['input']!r}{hint(str(item['input']), allowed)}"
        elif item["type"] != "missing" and not isinstance(item["input"], dict | list):
            message = f"{message}, found {item['input']!r}"
        yield f"{where}: {message}"


def _address(loc: tuple[int | str, ...]) -> list[str]:
    """Where it stands in the file: without the kind that pydantic puts between a list's entry and its setting."""
    between = len(loc) > 3 and loc[0] == "stages"
    return [str(part) for number, part in enumerate(loc) if not (between and number == 2)]


def _wrong_kind(context: Mapping[str, Any]) -> str:
    """A list entry whose `kind` is missing or unknown."""
    kind = str(context.get("tag", ""))
    known = sorted(STRIPPED.sub("", tag) for tag in str(context.get("expected_tags", "")).split(", ") if tag)
    if not kind:
        return "an entry needs a `kind`"
    return f"there is no {kind!r}{hint(kind, known) or '; there are ' + ', '.join(known)}"


def hint(name: str, allowed: Iterable[str]) -> str:
    """`; did you mean 'x'?` where something allowed is near, else nothing.

    >>> hint("learing_rate", ["learning_rate", "seed"])
    "; did you mean 'learning_rate'?"
    """
    near = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def _keys(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Settings of the model at a place below `model`; names of union members in `loc` are passed over."""
    here = [model]
    for part in loc:
        fields = [m.model_fields[str(part)].annotation for m in here if str(part) in m.model_fields]
        tagged = [m for m in here if "kind" in m.model_fields and m.model_fields["kind"].default == part]
        here = [found for field in fields for found in _models(field)] or tagged or here
    return sorted({name for found in here for name in found.model_fields})


def _models(annotation: Any) -> list[type[BaseModel]]:  # noqa: ANN401  # any annotation
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for inner in get_args(annotation) for found in _models(inner)]


def settings_table(model: type[BaseModel], inside: str = "") -> str:
    """The settings of a model as a Markdown table: name, default, meaning; those of an inner model behind its own."""
    lines = [] if inside else ["| setting | default | meaning |", "|---|---|---|"]
    for name, field in model.model_fields.items():
        inner = _models(field.annotation)
        bare = field.is_required() or field.default is None or inner
        default = "" if bare else f"`{json.dumps(field.default)}`".replace('"', "")
        lines.append(f"| `{inside}{name}` | {default} | {field.description} |")
        lines += [settings_table(one, f"{inside}{name}.") for one in inner]
    return "\n".join(lines)
