"""What a build will find finished and what it will do again, and why.

Each build remembers its plan in the step cache. The next one is compared with the remembered plan that it shares most
with: a step that is not reused has other settings, other files, another library or another release behind it, or takes
the result of a step that has.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sft_data.cells import step_record
from sft_data.plan import Step

__all__ = ["Outlook", "StepOutlook", "outlook", "remember"]

# So many plans of a dataset are remembered: enough to go back and forth between some settings.
KEPT = 8
_SHOWN = 60  # characters of a value that are told
_NAMES = 3  # files that are named

NEVER = "nothing was built here before"
NEW = "a new step"
UNDONE = "not done yet on what the steps before it give"
UNFINISHED = "its work is not in the step cache: it was stopped before it was finished, or removed"


class StepOutlook(BaseModel):
    """What will become of one step."""

    model_config = ConfigDict(frozen=True)

    step: str
    reused: bool = Field(description="its result is there already")
    why: tuple[str, ...] = Field(default=(), description="why it is not reused, one sentence each")
    follows: tuple[str, ...] = Field(default=(), description="the steps that are done again for reasons of their own")


class Outlook(BaseModel):
    """What `build --dry-run` prints as JSON."""

    model_config = ConfigDict(frozen=True)

    fingerprint: str = Field(description="of the version that the build would publish")
    version: str | None = Field(description="NAME@vN, where that version was published already")
    steps: tuple[StepOutlook, ...]

    def reasons(self) -> dict[str, tuple[str, ...]]:
        """Why steps are not reused, by step; those that only follow others, and a first build, give none."""
        own = {step.step: step.why[: len(step.why) - bool(step.follows)] for step in self.steps}
        return {step: why for step, why in own.items() if why and why != (NEVER,)}


class _Entry(BaseModel):
    """A step of a remembered plan."""

    name: str
    kind: str
    fingerprint: str
    inputs: tuple[str, ...]
    identity: dict[str, Any]


class _Plans(BaseModel):
    """Remembered plans of a dataset, the latest last."""

    plans: list[list[_Entry]] = []


def outlook(cache: Path, name: str, steps: Sequence[Step], version: str | None = None) -> Outlook:
    """What a build of `steps` would reuse of the step cache. Looks, and changes nothing.

    `version`: the published version of this fingerprint, if there is one.
    """
    earlier = _nearest(_plans(cache, name), steps)
    told: dict[str, StepOutlook] = {}
    roots: dict[str, tuple[str, ...]] = {}  # the steps because of which a step is done again
    for step in steps:
        reused = version is not None if step.kind == "publish" else step_record(cache, step.fingerprint) is not None
        follows = () if reused else tuple(dict.fromkeys(root for above in step.inputs for root in roots[above]))
        why = () if reused else tuple(_why(step, earlier, follows))
        roots[step.name] = (step.name,) if why and why != (NEVER,) else follows
        behind = (f"follows {_listed(follows)}",) if follows else ()
        told[step.name] = StepOutlook(step=step.name, reused=reused, why=(*why, *behind), follows=follows)
    return Outlook(fingerprint=steps[-1].fingerprint, version=version, steps=tuple(told.values()))


def remember(cache: Path, name: str, steps: Sequence[Step]) -> None:
    """Keep a plan for the builds to come. Not being able to is no reason to stop a build."""
    plan = [_entry(step) for step in steps]
    plans = _Plans(plans=[*(old for old in _plans(cache, name) if old != plan), plan][-KEPT:])
    draft = _file(cache, name).with_name(f".{uuid.uuid4().hex}")
    with suppress(OSError):
        draft.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(plans.model_dump_json(), encoding="utf-8")
        draft.replace(_file(cache, name))


def _file(cache: Path, name: str) -> Path:
    return cache / "plans" / f"{name}.json"


def _entry(step: Step) -> _Entry:
    identity = orjson.loads(orjson.dumps(step.identity))
    return _Entry(name=step.name, kind=step.kind, fingerprint=step.fingerprint, inputs=step.inputs, identity=identity)


def _plans(cache: Path, name: str) -> list[list[_Entry]]:
    try:
        return _Plans.model_validate_json(_file(cache, name).read_bytes()).plans
    except (OSError, ValidationError):
        return []


def _nearest(plans: Sequence[list[_Entry]], steps: Sequence[Step]) -> list[_Entry] | None:
    """The plan that has most steps in common with this one; of several the latest."""
    own = {step.fingerprint for step in steps}
    return max(reversed(plans), key=lambda plan: sum(old.fingerprint in own for old in plan), default=None)


def _why(step: Step, earlier: list[_Entry] | None, follows: Sequence[str]) -> Iterator[str]:
    if earlier is None:
        yield NEVER
        return
    new = _entry(step)
    same = next((old for old in earlier if old.fingerprint == new.fingerprint), None)
    if same is not None:
        if not follows:
            yield UNFINISHED
        return
    old = _counterpart(step, earlier)
    if old is None:
        yield NEW
        return
    told = list(_differences(old.identity, new.identity))
    if not follows and old.inputs != new.inputs:
        told.append(f"it takes the result of {_listed(new.inputs)}, before of {_listed(old.inputs)}")
    if not told and not follows:
        told.append(UNDONE)
    yield from told


def _counterpart(step: Step, earlier: Sequence[_Entry]) -> _Entry | None:
    """The step of an earlier plan that did this step's work: of the same name, else the only one of its kind."""
    for old in earlier:
        if old.name == step.name:
            return old
    kinds = Counter(old.kind for old in earlier)
    return next((old for old in earlier if old.kind == step.kind != "read" and kinds[step.kind] == 1), None)


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    yield from _settings(old.get("settings", {}), new.get("settings", {}))
    before, after = old.get("weights", {}), new.get("weights", {})
    both = before.keys() & after.keys()  # a source that came or went is told by its own step
    yield from _settings({n: before[n] for n in both}, {n: after[n] for n in both}, "weight of ")
    yield from _files(dict(old.get("files", ())), dict(new.get("files", ())))
    for name in ("revision", "layout"):
        if old.get(name) != new.get(name):
            yield f"a newer release of sft-data does it otherwise ({name} {old.get(name)} -> {new.get(name)})"
    yield from _settings(old.get("libraries", {}), new.get("libraries", {}), "library ")


def _settings(old: Mapping[str, Any], new: Mapping[str, Any], what: str = "") -> Iterator[str]:
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        if _is_content(before) and _is_content(after):
            yield f"the files of {what}{name} have another content"
        elif isinstance(before, dict) and isinstance(after, dict):
            yield from _settings(before, after, f"{what}{name}.")
        else:
            yield f"{what}{name} {_shown(before)} -> {_shown(after)}"


def _files(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[str]:
    for what, names in (
        ("new", [name for name in new if name not in old]),
        ("changed", [name for name in new if old.get(name, new[name]) != new[name]]),
        ("gone", [name for name in old if name not in new]),
    ):
        if names:
            more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
            yield f"{len(names)} {what} file{'s' * (len(names) > 1)}: {', '.join(names[:_NAMES])}{more}"


def _is_content(value: object) -> bool:
    """Whether a setting stands for the content of files."""
    values = value if isinstance(value, list) else [value]
    return bool(values) and all(isinstance(each, dict) and each.keys() == {"sha256"} for each in values)


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "nothing"
