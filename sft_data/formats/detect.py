"""Which format a source has: evidence from many rows, a confidence, and an error where it is too low.

Every candidate converts the sampled rows for real; its score is the share of rows that it turns into conversations.
Where two candidates both read the rows, the more specific one wins, and the evidence says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

from sft_data.errors import SourceError
from sft_data.formats.evaluation import looks_like_evaluation
from sft_data.formats.fields import Fields
from sft_data.formats.forest import is_message
from sft_data.formats.ingest import CONVERTERS
from sft_data.formats.threads import is_open_transcript
from sft_data.sources.files import SourceFile
from sft_data.sources.rows import Json
from sft_data.sources.settings import Source
from sft_data.sources.units import Unit, read_rows, units

__all__ = ["CONFIDENT", "Detection", "detect"]

CONFIDENT = 0.8  # below this share of sampled rows that read as one format, detection stops and asks
_ROWS_PER_FILE = 500
_FILES = 20
_Place = TypeVar("_Place", SourceFile, Unit)


@dataclass(frozen=True)
class Detection:
    """What a source was taken for, and why."""

    format: str
    container: str
    encoding: str
    confidence: float  # share of the sampled rows that the format reads, 0..1
    rows: int  # sampled rows
    evidence: list[str]
    candidates: dict[str, float] = field(default_factory=dict)  # every format's share


def detect(source: Source, files: Sequence[SourceFile]) -> Detection:
    """Look at up to 500 rows of up to 20 files, or members of archives, spread over the source. SourceError where no
    format is convincing.
    """
    chosen = _spread(files)
    pieces = units(source, chosen)
    read = _spread(_first_of_each(pieces))
    values = [value for unit in read for value in islice(_values(unit, source), _ROWS_PER_FILE)]
    objects = [value for value in values if isinstance(value, dict)]
    seen = (
        ", ".join(sorted({unit.layout for unit in pieces})),
        ", ".join(sorted({unit.text.encoding for unit in pieces})),
    )
    if source.format != "auto":
        return Detection(source.format, *seen, 1.0, len(values), [f"the pipeline says {source.format}"])
    if not objects:
        raise SourceError(
            f"source `{source.name}`: {source.path!r} holds "
            + (f"{len(values)} rows, but none that is an object with fields" if values else "no row that can be read")
            + f" ({len(chosen)} file{'s' if len(chosen) != 1 else ''} looked at); is it instruction data, and whole?"
        )
    candidates = {name: _share(name, objects, source) for name in CONVERTERS}
    best = max(candidates, key=lambda name: candidates[name])
    confidence = candidates[best] * len(objects) / len(values)
    evidence = _evidence(objects, best, candidates)
    if confidence < CONFIDENT:
        raise SourceError(_undecided(source, confidence, candidates, evidence))
    return Detection(best, *seen, round(confidence, 4), len(values), evidence, candidates)


def _spread(places: Sequence[_Place]) -> list[_Place]:
    step = max(1, len(places) // _FILES)
    return list(places[::step][:_FILES])


def _first_of_each(pieces: Sequence[Unit]) -> list[Unit]:
    return [unit for unit in pieces if unit.start == 0]


def _values(unit: Unit, source: Source) -> Iterator[Json]:
    for rows in read_rows(unit, source, batch=_ROWS_PER_FILE):
        yield from rows.values


def _share(name: str, objects: Sequence[dict[str, Json]], source: Source) -> float:
    """The share of rows that use a format's words and that it converts."""
    converter = CONVERTERS[name]
    fields = Fields(converter.FIELDS, source.fields)
    fitting = [value for value in objects if _uses_words_of(name, value, fields)]
    if name in {"evaluation", "oasst-messages"} or not fitting:
        return round(len(fitting) / len(objects), 4)
    expand = getattr(converter, "expand", None)
    rows = fitting if expand is None else [expand(value)[0] for value in fitting]
    return round((len(rows) - len(converter.convert(rows, fields).refused)) / len(objects), 4)


def _uses_words_of(name: str, value: dict[str, Json], fields: Fields) -> bool:
    """Whether a row has the columns that tell a format from its neighbours."""
    if name in {"sharegpt", "messages"}:
        return _dialect(value, fields) == name
    if name == "prompt-response":
        return "instruction" not in value or "instruction" in fields.given.values()
    if name == "oasst-tree":
        return isinstance(value.get("prompt"), dict) and "replies" in value["prompt"]
    if name == "alpaca":  # BELLE: the instruction is a whole dialogue, the output its last answer
        return not is_open_transcript(value.get("instruction"))
    if name in {"oasst-messages", "evaluation"}:
        return (is_message if name == "oasst-messages" else looks_like_evaluation)(value, fields)
    return name != "table"  # any table could be one: only the pipeline can say so


def _dialect(value: dict[str, Json], fields: Fields) -> str | None:
    """ShareGPT says `from` and `value`, or keeps its turns under `conversations`; the rest are messages."""
    name = fields.names(tuple(value))[0]
    turns = value.get(name) if name is not None else None
    first = turns[0] if isinstance(turns, list) and turns else None
    if name is None or not isinstance(first, dict):
        return None
    return "sharegpt" if "from" in first or name.startswith("conversation") else "messages"


def _evidence(objects: Sequence[dict[str, Json]], best: str, candidates: dict[str, float]) -> list[str]:
    keys = Counter(key for value in objects for key in value)
    common = ", ".join(f"`{key[:40]}` in {count / len(objects):.0%}" for key, count in keys.most_common(8))
    return [
        f"{len(objects)} rows looked at; keys: {common}",
        f"{best} reads {candidates[best]:.1%} of them",
        "others: " + (", ".join(f"{n} {s:.1%}" for n, s in candidates.items() if s and n != best) or "none read any"),
    ]


def _undecided(source: Source, confidence: float, candidates: dict[str, float], evidence: list[str]) -> str:
    order = sorted(candidates, key=lambda name: -candidates[name])
    shares = ", ".join(f"{name} {candidates[name]:.1%}" for name in order)
    return (
        f"source `{source.name}`: the format of {source.path!r} is not clear: {confidence:.1%} of the rows read as one "
        f"format, {CONFIDENT:.0%} are needed.\n  candidates: {shares}\n  {evidence[0]}\n"
        f"  Set `format` to one of {', '.join(CONVERTERS)}, and `fields` where the columns have other names, "
        "such as fields: {instruction: question, output: reply}; for labelled columns use `format: table` with "
        "`templates`."
    )
