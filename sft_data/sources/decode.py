"""JSON text of rows -> values, strictly: what one reader would alter in silence is a rejection here.

orjson decodes; a row is decoded again by the standard library only where that tells more (numbers beyond 64 bits) or
is asked for (`nan: "null"`). Duplicate keys are found by counting: a valid object has as many keys as colons.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain

import orjson

from sft_data.sources.rows import Json
from sft_data.sources.settings import Source

__all__ = ["Refused", "decode_batch", "decode_row", "dump", "loads"]


class Refused(Exception):  # noqa: N818 - not an error of the program: the reader turns it into a rejection
    """A row is not readable."""

    def __init__(self, code: str, detail: str) -> None:
        self.code, self.detail = code, detail
        super().__init__(detail)


def decode_batch(text: bytes, colons: int) -> list[Json] | None:
    """All rows of a JSON list at once; None where any is broken or an object has a key twice."""
    try:
        values: list[Json] = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    # Flat rows have as many keys as colons in their first layer: nothing lies below.
    flat = set(map(type, values)) == {dict} and sum(map(len, values)) == colons
    return values if flat or _count_keys(values) == colons else None


def _count_keys(values: list[Json]) -> int:
    """Keys of all objects at any depth, layer by layer."""
    total, layer = 0, values
    while layer:
        objects = [value for value in layer if type(value) is dict]
        total += sum(map(len, objects))
        below = chain(
            chain.from_iterable(map(dict.values, objects)),
            chain.from_iterable(value for value in layer if type(value) is list),
        )
        layer = [value for value in below if type(value) is dict or type(value) is list]
    return total


def decode_row(raw: bytes, source: Source, *, colons: int, depth: int, long: bool) -> Json:
    """One row; raises Refused with the reason. `colons`, `depth` and `long` are what the scan counted."""
    if depth > source.limits.max_nesting:
        raise Refused("row-too-deep", f"nested deeper than {source.limits.max_nesting} levels (max_nesting)")
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        return _second_opinion(raw, source, error)
    if _count_keys([value]) != colons:
        raise Refused("duplicate-key", _duplicate(raw))
    return _exact(raw) if long else value


def _exact(raw: bytes) -> Json:
    """The row with integers of any size; orjson would round them to floats."""
    try:
        return json.loads(raw)
    except ValueError as error:  # an integer of more than 4,300 digits
        raise Refused("unreadable-row", str(error)) from error


def _second_opinion(raw: bytes, source: Source, error: orjson.JSONDecodeError) -> Json:
    """Tell why orjson refused a row; read NaN as null where the source says so."""
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as invalid:
        raise Refused(
            "invalid-encoding", f"byte {invalid.start} of the row is not valid text: {invalid.reason}"
        ) from None
    found: list[str] = []
    try:
        value = json.loads(raw, parse_constant=found.append, object_pairs_hook=_unique)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Refused("lone-surrogate", "half of a surrogate pair stands alone in a \\u escape") from None
    except (ValueError, RecursionError):
        raise Refused(
            "unreadable-row", f"{error.msg.split(': line')[0]}, at character {error.pos} of the row"
        ) from None
    if found and source.nan == "null":
        return value
    if found:
        raise Refused("unreadable-row", f"{found[0]} is no JSON (the setting `nan` reads it as null)")
    raise Refused("unreadable-row", f"{error.msg.split(': line')[0]}, at character {error.pos} of the row")


def _unique(pairs: Sequence[tuple[str, Json]]) -> dict[str, Json]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Refused("duplicate-key", f"key {twice[:80]!r} stands more than once in an object")
    return unique


def _duplicate(raw: bytes) -> str:
    try:
        json.loads(raw, object_pairs_hook=_unique)
    except Refused as refused:
        return refused.detail
    except ValueError as error:
        return str(error)
    return "a key stands more than once in an object"


def loads(text: str) -> Json:
    """JSON inside of a text, as strictly as a row: ValueError for NaN, keys that stand twice and half surrogates.

    >>> loads('{"n": 18446744073709551616}')
    {'n': 18446744073709551616}
    """
    try:
        value = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_unique)
        json.dumps(value, ensure_ascii=False).encode()
    except Refused as refused:
        raise ValueError(refused.detail) from None
    except UnicodeEncodeError:
        raise ValueError("half of a surrogate pair stands alone") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def _no_constant(name: str) -> Json:
    raise ValueError(f"{name} is no JSON")


def dump(value: Json) -> str:
    """JSON text of a value: compact, keys in their order, integers of any size.

    >>> dump({"b": 2**70, "a": "é"})
    '{"b":1180591620717411303424,"a":"é"}'
    """
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
