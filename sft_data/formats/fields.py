"""Which column of a row holds which field of a format: the pipeline's mapping first, then the names in use."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from sft_data.formats.turns import NoTalk
from sft_data.sources.decode import loads
from sft_data.sources.rows import Json

__all__ = ["Fields", "kind_of", "list_of", "text_of"]


class Fields:
    """The fields of a format and how data sets call them. `given` is a pipeline's own mapping, field -> column."""

    def __init__(self, known: Mapping[str, tuple[str, ...]], given: Mapping[str, str]) -> None:
        self.known, self.given = known, given
        self.names = cache(self._names)

    def _names(self, columns: tuple[str, ...]) -> tuple[str | None, ...]:
        """The column of each field among `columns`, in the format's order; None where there is none."""
        there = set(columns)
        return tuple(next((name for name in self._candidates(field) if name in there), None) for field in self.known)

    def _candidates(self, field: str) -> tuple[str, ...]:
        return (self.given[field],) if field in self.given else self.known[field]

    def used(self, columns: tuple[str, ...]) -> frozenset[str]:
        """The columns that hold a field."""
        return frozenset(name for name in self.names(columns) if name is not None)

    def missing(self, field: str, value: Mapping[str, Json]) -> str:
        """Says that a field is not there, where it was looked for and what is there."""
        looked = self._candidates(field)
        there = ", ".join(f"`{key[:40]}`" for key in list(value)[:12]) or "nothing"
        return f"no {' or '.join(f'`{name}`' for name in looked)}; the row has {there}"


def text_of(value: Mapping[str, Json], name: str | None) -> str | None:
    """The text under a name, None where it is absent or null; raises NoTalk where it is no text."""
    found = value.get(name) if name is not None else None
    if found is not None and not isinstance(found, str):
        raise NoTalk("wrong-type", f"`{name}` is of type {kind_of(found)}, not text")
    return found


def list_of(given: Json, name: str) -> list[Json]:
    """A list, which tables hold as JSON text."""
    if isinstance(given, str) and given.lstrip().startswith("["):
        try:
            given = loads(given)
        except ValueError as error:
            raise NoTalk("wrong-type", f"`{name}` is text but no JSON list: {error}") from None
    if not isinstance(given, list):
        raise NoTalk("wrong-type", f"`{name}` is of type {kind_of(given)}, not a list")
    return given


def kind_of(value: Json) -> str:
    """The JSON name of a value's type."""
    names = {bool: "boolean", int: "number", float: "number", str: "text", list: "list", dict: "object"}
    return names.get(type(value), "null")
