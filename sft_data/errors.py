"""The exception tree. The command line prints these without a traceback and exits with 1.

    SftDataError
    ├── ConfigError          a pipeline or training file is wrong: all its mistakes at once
    │   └── NoSuchRowsError  a setting asks for rows that are not among those looked at
    ├── SourceError          an input cannot be found, opened or recognised
    ├── StageError           a stage broke its contract: a bug in a stage, never bad data
    ├── TokenizerError       a tokenizer or chat template cannot be used
    ├── EngineError          a worker died, a shard could not be finished, or no server for a flow could be started
    ├── StoreError           a version is unknown, damaged, or the store cannot be written
    │   ├── GateError        a version was built but failed one of its gates
    │   └── KeyNeededError   a store is sealed, and its key was not given
    ├── TrainError           training cannot start or must not go on
    └── MissingExtraError    an optional dependency is not installed

Bad *data* is none of these: it is a row in the ledger of rejections.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "ConfigError",
    "EngineError",
    "GateError",
    "KeyNeededError",
    "MissingExtraError",
    "NoSuchRowsError",
    "SftDataError",
    "SourceError",
    "StageError",
    "StoreError",
    "TokenizerError",
    "TrainError",
]


class SftDataError(Exception):
    """Base of all errors that a user can act on. The message says what, where, what is allowed, what to do."""


class ConfigError(SftDataError):
    """A configuration file is wrong. `problems` holds every mistake, one line each."""

    def __init__(self, where: str, problems: Sequence[str]) -> None:
        self.where = where
        self.problems = list(problems)
        lines = "\n".join(f"  {problem}" for problem in self.problems)
        alone = len(self.problems) == 1 and self.problems[0].startswith(
            ("no such ", "cannot be read", "there is no such")
        )
        super().__init__(f"{where}: {self.problems[0]}" if alone else f"{where} is not valid:\n{lines}")

    def __reduce__(self) -> tuple[type[ConfigError], tuple[str, list[str]]]:
        return type(self), (self.where, self.problems)


class NoSuchRowsError(ConfigError):
    """A setting asks for a group or a number that no row has; where only some rows were looked at, others may."""


class SourceError(SftDataError):
    """An input cannot be found, opened or recognised."""


class StageError(SftDataError):
    """A stage broke its contract (lost a row, changed a column it may not change)."""


class TokenizerError(SftDataError):
    """A tokenizer or a chat template cannot be used."""


class EngineError(SftDataError):
    """A worker died, a shard could not be finished, or no server for a flow could be started."""


class StoreError(SftDataError):
    """A version is unknown or damaged, or the store cannot be written."""


class KeyNeededError(StoreError):
    """A store is sealed, and its key was not given or is another one."""


class GateError(StoreError):
    """A version was built but failed a gate; it is kept as a draft beside the versions."""


class TrainError(SftDataError):
    """Training cannot start, or must not go on."""


class MissingExtraError(SftDataError):
    """An optional dependency is missing; the message names the extra to install."""

    def __init__(self, feature: str, extra: str) -> None:
        self.feature, self.extra = feature, extra
        super().__init__(f"{feature} needs an optional dependency: pip install 'sft-data[{extra}]'")

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str]]:
        return type(self), (self.feature, self.extra)
