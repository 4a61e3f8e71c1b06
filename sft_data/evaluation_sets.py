"""Evaluation sets: where they are, and the texts of their items that rows are held against."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator

from sft_data.errors import SftDataError, SourceError
from sft_data.sources import hub
from sft_data.sources.files import SourceFile, find_files, look_for_files
from sft_data.sources.remote import is_url, secret_in
from sft_data.sources.settings import Source
from sft_data.sources.units import read_rows, units

__all__ = [
    "EvaluationSet",
    "Files",
    "LookFor",
    "Named",
    "check_address",
    "files_of_sets",
    "is_plain",
    "missing_sets",
    "pieces_of",
    "pinned_set",
]

LookFor = Literal["prompts", "prompts-and-answers"]
Piece = tuple[str, str, bool]
Files = tuple[tuple[SourceFile, ...], ...]  # of each set

# Fields of the well-known test sets, in the order in which they are looked for.
_PROMPTS = ("question", "prompt", "instruction", "problem", "query", "input", "text", "turns", "messages")
_ANSWERS = ("answer", "canonical_solution", "output", "response", "solution", "reference", "completion", "answers")


class EvaluationSet(BaseModel):
    """An evaluation set of which a part is chosen: a split, a configuration, or both."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = Field(min_length=1, description="a file, a glob, a folder, a URL of any of these, or hf://datasets/...")
    subset: str | None = Field(None, description="of a data set of the hub: its configuration, where it has several")
    split: str | None = Field(
        None, description="of a data set of the hub or a save_to_disk folder: the split that is read, or all"
    )

    @field_validator("path")
    @classmethod
    def _no_secret(cls, path: str) -> str:
        check_address(path)
        return path


def _kind_of(entry: object) -> str:
    return "path" if isinstance(entry, str) else "set"


# A path or address alone, or with the part that is chosen. Told apart first: a mistake is told of what was meant.
Named = Annotated[Annotated[str, Tag("path")] | Annotated[EvaluationSet, Tag("set")], Discriminator(_kind_of)]


def check_address(path: str) -> None:
    """ValueError where an address holds a secret or is none that sources know."""
    if is_url(path) and (secret := secret_in(path)) is not None:
        raise ValueError(f"the URL holds {secret}; credentials come from the environment and stand in no pipeline")


def is_plain(named: Named) -> bool:
    """Whether a set is a whole file or folder of this machine: its path alone leads to its content."""
    return isinstance(named, str) and Path(named).exists()


def pinned_set(named: Named) -> Named:
    """The set with a revision of the hub resolved to its commit."""
    if isinstance(named, str):
        return hub.pinned(named)
    return named.model_copy(update={"path": hub.pinned(named.path)})


def files_of_sets(sets: Sequence[Named]) -> Files:
    """The files of each set, those at addresses fetched. SourceError where there are none, or they cannot be had."""
    return tuple(tuple(_files_of(_source(named))) for named in sets)


def missing_sets(against: object) -> Iterator[str]:
    """What is wrong with the places that raw settings name; what is no place at all is told elsewhere."""
    for entry in against if isinstance(against, list | tuple) else ():
        try:
            source = _source(entry if isinstance(entry, str) else EvaluationSet.model_validate(entry))
        except ValueError:
            continue
        try:
            look_for_files(source)
        except SftDataError as error:
            yield str(error)


def pieces_of(
    files: Sequence[SourceFile], look_for: LookFor, fields: tuple[str, ...]
) -> Iterator[tuple[str, str, bool]]:
    """Every text that is looked for: its name for people (file, row and field), and whether it is an answer.

    SourceError where a row cannot be read, or where no row has a field that is looked for.
    """
    source = Source(name="evaluation", path=".")
    found = 0
    for unit in units(source, files):
        for rows in read_rows(unit, source):
            if rows.broken:
                broken = rows.broken[0]
                raise SourceError(
                    f"evaluation set {unit.name}, row {broken.row}: {broken.detail} ({broken.code}); what cannot be "
                    "read cannot be looked for: mend the file, or leave it out of `against`"
                )
            for number, value in zip(rows.number.tolist(), rows.values, strict=True):
                for name, text, answer in _pieces(value, look_for, fields):
                    found += 1
                    yield f"{unit.name} row {number} {name}", text, answer
    if not found:
        wanted = ", ".join(fields or _PROMPTS)
        names = ", ".join(file.name for file in files)
        raise SourceError(f"{names}: no evaluation item has any of the fields {wanted}; name its fields in `fields`")


def _source(named: Named) -> Source:
    if isinstance(named, str):
        return Source(name="evaluation", path=named)
    return Source(name="evaluation", path=named.path, subset=named.subset, split=named.split)


def _files_of(source: Source) -> list[SourceFile]:
    """Files of the hub are called by their data set too: data/test.parquet is the name of many."""
    repository = hub.repository_of(source.path)
    files = find_files(source)
    return files if repository is None else [replace(file, name=f"{repository}/{file.name}") for file in files]


def _pieces(value: Any, look_for: LookFor, fields: tuple[str, ...]) -> Iterator[Piece]:  # noqa: ANN401 - JSON
    if not isinstance(value, dict):
        return
    wanted = fields or (_PROMPTS if look_for == "prompts" else _PROMPTS + _ANSWERS)
    if not fields and "instruction" in value and isinstance(value.get("input"), str):
        value = {**value, "instruction": f"{value['instruction']}\n{value['input']}", "input": None}
    for name in wanted:
        for place, text in enumerate(_texts(value.get(name))):
            yield (name if not place else f"{name} {place + 1}"), text, not fields and name in _ANSWERS


def _texts(value: Any) -> Iterator[str]:  # noqa: ANN401 - JSON
    if isinstance(value, str):
        if value.strip():
            yield value
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, dict):
        yield from _texts(value.get("content", value.get("value")))
