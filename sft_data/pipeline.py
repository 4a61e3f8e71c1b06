"""The YAML contract: what a pipeline file may say, and every mistake in it told at once.

`load_pipeline` reads, checks and returns a frozen `Pipeline`. `STAGES` is the registry: to add a stage, write its
class and name it in `AnyStage`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sft_data.annotate.language import DetectLanguage
from sft_data.clean.entities import HtmlEntities
from sft_data.clean.leftovers import CalculatorMarks, PlaceholderInput
from sft_data.clean.repair import RepairText
from sft_data.config_file import explain, hint, read_settings
from sft_data.decontaminate import Decontaminate
from sft_data.dedup.exact import ExactDedup
from sft_data.dedup.near import NearDedup
from sft_data.dedup.semantic import SemanticDedup
from sft_data.errors import ConfigError, SftDataError
from sft_data.evaluation_sets import missing_sets
from sft_data.filters.answer_length import AnswerLength
from sft_data.filters.attachment import Attachment
from sft_data.filters.garbled import Garbled
from sft_data.filters.language import LanguageFilter
from sft_data.filters.placeholder import Placeholder
from sft_data.filters.refusal import Refusal
from sft_data.filters.run_on import RunOn
from sft_data.filters.turns import Turns
from sft_data.formats.ingest import CODES
from sft_data.mix import Mix
from sft_data.pack.curriculum import LENGTH
from sft_data.pack.plan import Pack
from sft_data.privacy.personal_data import PersonalData
from sft_data.schema import CONVERSATIONS
from sft_data.scores import column_of
from sft_data.selection.stage import Select
from sft_data.sources.files import look_for_files
from sft_data.sources.remote import is_url, secret_in
from sft_data.sources.settings import Source
from sft_data.split import Split
from sft_data.stage import StageConfig
from sft_data.tokenize.stage import Tokenize, check_tokenizer

__all__ = ["STAGES", "AnyStage", "Gates", "Pipeline", "load_pipeline", "parse_pipeline", "pipeline_schema"]

AnyStage = Annotated[
    RepairText
    | HtmlEntities
    | PlaceholderInput
    | CalculatorMarks
    | PersonalData
    | ExactDedup
    | NearDedup
    | SemanticDedup
    | DetectLanguage
    | LanguageFilter
    | AnswerLength
    | Refusal
    | RunOn
    | Placeholder
    | Attachment
    | Garbled
    | Turns
    | Decontaminate
    | Select
    | Mix,
    Field(discriminator="kind"),
]

STAGES: dict[str, type[StageConfig]] = {
    member.model_fields["kind"].default: member for member in get_args(get_args(AnyStage)[0])
}


class Gates(BaseModel):
    """Limits that a version must keep to be published; one that fails is kept as a draft with its report."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_rows_kept: float = Field(0.0, ge=0, le=1, description="smallest share of the rows read that must be kept")
    max_rejected_share: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(
        default={}, description="rejection code -> largest share of the rows read that may leave with it"
    )
    min_pack_fill: float = Field(
        0.0, ge=0, le=1, description="smallest share of the pack slots that must hold tokens, over all splits"
    )


class Pipeline(BaseModel):
    """Everything that decides a dataset's content, and nothing else."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_-]*$", description="the dataset's name; versions are NAME@v1, NAME@v2, ..."
    )
    seed: int = Field(0, ge=0, description="every random choice draws from this number and the row's id")
    store: str | None = Field(
        None, description="folder or URL of the store; ./store where neither this nor --store says"
    )
    sources: tuple[Source, ...] = Field(min_length=1, description="what is read, in this order")
    stages: tuple[AnyStage, ...] = Field((), description="what is done to it, in this order")
    split: Split = Field(Split(), description="shares of held-out rows")
    tokenize: Tokenize | None = Field(None, description="tokens and loss masks; left out: conversations only")
    pack: Pack | None = Field(None, description="packs of a fixed length; left out: tokens only")
    gates: Gates = Field(Gates(), description="limits that a published version keeps")
    train: str | None = Field(None, description="training file that `run` starts when the version is published")

    @model_validator(mode="before")
    @classmethod
    def _seed_everything(cls, data: Any) -> Any:  # noqa: ANN401  # raw YAML
        return _with_seed(data) if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _fits_together(self) -> Pipeline:
        problems = list(_contradictions(self))
        if problems:
            raise ValueError("\n".join(problems))
        return self


def _with_seed(data: dict[str, Any]) -> dict[str, Any]:
    """Give the pipeline's seed to every section that draws and names none."""
    seed = data.get("seed", 0)
    if not isinstance(seed, int) or seed < 0:
        return data  # told once, at its place

    def seeded(section: Any, model: type[BaseModel] | None) -> Any:  # noqa: ANN401  # raw YAML
        if model is None or not isinstance(section, dict) or "seed" not in model.model_fields:
            return section
        return {"seed": seed, **section}

    stages = data.get("stages")
    full = dict(data)
    if isinstance(stages, list):
        full["stages"] = [seeded(s, STAGES.get(str(s.get("kind"))) if isinstance(s, dict) else None) for s in stages]
    full["split"] = seeded(data.get("split", {}), Split)
    if "pack" in data:
        full["pack"] = seeded(data["pack"], Pack)
    return full


def _contradictions(pipeline: Pipeline) -> Iterator[str]:
    there: set[str] = set()
    for number, stage in enumerate(pipeline.stages):
        for column in stage.needs:
            if column not in there:
                adders = [kind for kind, other in STAGES.items() if column in other.adds]
                before = f"; put `{adders[0]}` before it" if adders else ""
                yield f"stages.{number}: `{stage.kind}` needs column `{column}`{before}"
        for setting, column in stage.reads().items():
            if column not in there and column not in CONVERSATIONS:
                yield f"stages.{number}.{setting}: {_no_column(column, there)}"
        there |= set(stage.adds)
    for setting, column in pipeline.split.reads().items():
        if column not in there and column not in CONVERSATIONS:
            yield f"split.{setting}: {_no_column(column, there)}"
    if pipeline.pack is not None and pipeline.pack.order is not None:
        wanted = column_of(pipeline.pack.order.by) if pipeline.pack.order.by != LENGTH else None
        if wanted is not None and wanted not in there and wanted not in CONVERSATIONS:
            yield f"pack.order.by: {_no_column(wanted, there)}"
    if pipeline.pack is not None and pipeline.tokenize is None:
        yield "pack: there is nothing to pack without a `tokenize` section"
    if pipeline.pack is not None and pipeline.tokenize is not None:
        longest, room = pipeline.tokenize.max_length, pipeline.pack.max_length
        if longest > room:
            yield f"pack.max_length: {room} is shorter than tokenize.max_length {longest}; rows between would not fit"


def _no_column(column: str, there: set[str]) -> str:
    """What to say of a setting that names a column which no row has at that place."""
    adders = [kind for kind, stage in STAGES.items() if column in stage.adds]
    known = {*CONVERSATIONS, *there}
    told = f"put `{adders[0]}` before it" if adders else f"there are {', '.join(sorted(known))}"
    return f"there is no column `{column}` here{hint(column, known)}; {told}"


def _raw_contradictions(data: Mapping[str, Any]) -> Iterator[str]:
    """Contradictions that can be seen even where other settings are wrong."""
    sources, gates = data.get("sources"), data.get("gates")
    entries = sources if isinstance(sources, list) else []
    names = [str(entry["name"]) for entry in entries if isinstance(entry, dict) and "name" in entry]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"sources: two sources are named {name!r}; row ids need different names"
    known = {code for stage in STAGES.values() for code in stage.codes} | {*Tokenize.codes, *CODES}
    shares = gates.get("max_rejected_share") if isinstance(gates, dict) else None
    for code in shares if isinstance(shares, dict) else ():
        if code not in known:
            yield f"gates.max_rejected_share: no stage rejects with code {code!r}{hint(str(code), known)}"


def load_pipeline(path: Path | str, overrides: Sequence[str] = ()) -> Pipeline:
    """Read a pipeline file; `overrides` are KEY=VALUE with dotted keys (`stages.near-dedup.threshold=0.7`).

    Raises ConfigError with every mistake: keys, values, stages in a wrong order, missing files, unusable tokenizers.
    Paths in the file are relative to the folder in which the command runs.
    """
    data = read_settings(Path(path))
    problems: list[str] = []
    for override in overrides:
        problems += _override(data, override)
    return parse_pipeline(data, str(path), problems)


def parse_pipeline(data: Mapping[str, Any], where: str, problems: Sequence[str] = ()) -> Pipeline:
    """Check raw settings; `problems` are mistakes already found."""
    found = list(problems)
    pipeline: Pipeline | None = None
    try:
        pipeline = Pipeline.model_validate(data)
    except ValidationError as error:
        found += explain(error, Pipeline)
    found += _raw_contradictions(data)
    found += _missing_things(data)
    if found or pipeline is None:
        raise ConfigError(where, found)
    return pipeline


def pipeline_schema() -> dict[str, Any]:
    """JSON schema of a pipeline file, for completion in editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Pipeline.model_json_schema()}


def _missing_things(data: Mapping[str, Any]) -> Iterator[str]:
    """Files and tokenizers that are not there: looked for even where other settings are wrong."""
    sources = data.get("sources")
    for number, entry in enumerate(sources if isinstance(sources, list) else []):
        if not isinstance(entry, dict):
            continue
        try:
            source = Source.model_validate(entry)
        except ValidationError:
            path = entry.get("path")
            if not isinstance(path, str) or (is_url(path) and secret_in(path)):
                continue
            source = Source.model_construct(name=str(entry.get("name", number)), path=path)
        try:
            look_for_files(source)
        except SftDataError as error:
            yield f"sources.{number}.path: {error}"
    stages = data.get("stages")
    for number, entry in enumerate(stages if isinstance(stages, list) else []):
        if isinstance(entry, dict) and entry.get("kind") == "decontaminate":
            for problem in missing_sets(entry.get("against")):
                yield f"stages.{number}.against: {problem}"
    tokenize = data.get("tokenize")
    if isinstance(tokenize, dict) and isinstance(tokenize.get("tokenizer"), str):
        for problem in check_tokenizer(tokenize["tokenizer"], tokenize.get("template")):
            yield f"tokenize.tokenizer: {problem}"
    train = data.get("train")
    if isinstance(train, str) and not Path(train).is_file():
        yield f"train: no such file: {train} (looked in {Path.cwd()})"


def _override(data: dict[str, Any], override: str) -> list[str]:
    """Set one dotted key of raw settings; parts of a list are named by number, or by their `kind` or `name`."""
    key, equals, value = override.partition("=")
    if not equals or not key:
        return [f"--set {override}: must be KEY=VALUE"]
    *way, last = key.split(".")
    place: Any = data
    for part in way:
        if isinstance(place, list):
            place = _named(place, part)
        elif isinstance(place, dict):
            place = place.setdefault(part, {})
        if place is None or not isinstance(place, dict | list):
            return [f"--set {override}: there is no {part!r} in the pipeline"]
    if isinstance(place, list):
        return [f"--set {override}: {last!r} is an entry of a list; name one of its settings"]
    place[last] = yaml.safe_load(value)
    return []


def _named(entries: list[Any], part: str) -> Any:  # noqa: ANN401  # raw YAML
    if part.isdigit():
        return entries[int(part)] if int(part) < len(entries) else None
    fits = [e for e in entries if isinstance(e, dict) and part in (e.get("kind"), e.get("name"))]
    return fits[0] if fits else None
