"""Tools and their calls as JSON text: no key is invented, none is lost, numbers keep their digits."""

from __future__ import annotations

from sft_data.formats.fields import kind_of
from sft_data.formats.turns import NoTalk
from sft_data.sources.decode import dump, loads
from sft_data.sources.rows import Json

__all__ = ["calls_of", "parse_calls", "tools_text"]


def parse_calls(text: str) -> str:
    """The value of a `function_call` turn, one call or a list of them as JSON text, as a list of calls.

    >>> parse_calls('{"name": "f", "arguments": {"x": 1}}')
    '[{"name":"f","arguments":{"x":1}}]'
    """
    try:
        value = loads(text)
    except ValueError as error:
        raise NoTalk("bad-tool-call", f"a call of a tool is not JSON: {error}") from None
    return calls_of(value)


def calls_of(value: Json) -> str:
    """JSON text of calls in any of the known shapes, each as {"name", "arguments"} and its `id` where it has one."""
    calls = value if isinstance(value, list) else [value]
    if not calls:
        raise NoTalk("bad-tool-call", "an empty list of calls")
    return dump([_call(call) for call in calls])


def _call(call: Json) -> dict[str, Json]:
    if not isinstance(call, dict):
        raise NoTalk("bad-tool-call", f"a call of a tool is of type {kind_of(call)}, not an object")
    inner = call.get("function")
    body = inner if isinstance(inner, dict) else call
    name = body.get("name")
    if not isinstance(name, str):
        raise NoTalk("bad-tool-call", f"a call of a tool has no name; it has {sorted(map(str, body))[:8]}")
    arguments = next((body[key] for key in ("arguments", "parameters", "input") if key in body), None)
    made: dict[str, Json] = {"name": name}
    if arguments is not None:
        made["arguments"] = _object(arguments) if isinstance(arguments, str) else arguments
    if isinstance(call.get("id"), str):
        made["id"] = call["id"]
    return made


def _object(text: str) -> Json:
    """Arguments given as JSON text of an object become that object; any other text stays text."""
    try:
        value = loads(text)
    except ValueError:
        return text
    return value if isinstance(value, dict) else text


def tools_text(value: Json) -> str | None:
    """JSON text of the offered tools; None where the row offers none."""
    if isinstance(value, str) and value.strip():
        try:
            value = loads(value)
        except ValueError as error:
            raise NoTalk("bad-tools", f"`tools` is text but not JSON: {error}") from None
    if not value:
        return None
    if not isinstance(value, list | dict):
        raise NoTalk("bad-tools", f"`tools` is of type {kind_of(value)}, not a list")
    return dump(value if isinstance(value, list) else [value])
