"""`train`: one run, from a version and a training file to a saved model. torch is imported when a run begins."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import orjson

from sft_data.errors import MissingExtraError, TrainError
from sft_data.fingerprint import digest
from sft_data.store.manifest import Manifest
from sft_data.store.read import load_manifest
from sft_data.train.config import TrainConfig, model_folder
from sft_data.train.result import TrainResult

__all__ = ["run_folder", "train"]

# A model's weights are told apart by their first bytes and their size: hashing all would read terabytes for nothing.
SAMPLED_BYTES = 1 << 20


def run_folder(config: TrainConfig, manifest: Manifest, base: Path = Path("runs")) -> Path:
    """Where a run lies unless somebody says otherwise: the same data and settings give the same folder."""
    settings = digest(_identity(config, manifest))[:8]
    return base / f"{manifest.name}-{manifest.fingerprint[:8]}-{settings}"


def train(
    config: TrainConfig,
    version: Path,
    out: Path,
    *,
    progress: Callable[[str], None] | None = None,
    resume: bool = True,
) -> TrainResult:
    """Train on the packs of the version in folder `version`; everything that is written lies in `out`.

    A finished run of the same data and settings is not done again; an unfinished one goes on from its last
    checkpoint, or from the start where `resume` is False. Ctrl-C saves a checkpoint and returns with
    `finished=False`. Under torchrun every process calls this with the same arguments. `progress` gets one line of
    text at a time.
    """
    missing = [name for name in ("torch", "transformers", "accelerate") if find_spec(name) is None]
    if missing:
        raise MissingExtraError("Training", "train")
    manifest = load_manifest(version)
    identity = _identity(config, manifest)
    if resume and (done := _finished(out, identity)) is not None:
        return done

    from sft_data.train.session import Job, run_session

    name, claim = run_folder(config, manifest).name, partial(_claim, out, identity, resume=resume)
    return run_session(Job(name, config, version, manifest, out, claim, progress))


def _identity(config: TrainConfig, manifest: Manifest) -> dict[str, Any]:
    """What decides a run: data, settings, and the content of the model's folder, never its path."""
    settings = config.model_dump(mode="json")
    if config.order == "auto":
        del settings["order"]  # runs that were begun before there was this setting go on in their folders
    if isinstance(config.model, str):
        with contextlib.suppress(ImportError, OSError, ValueError):  # no such model: building it tells more
            inside = sorted(Path(model_folder(config.model)).iterdir())
            settings["model"] = [_sampled(path) for path in inside if path.is_file()]
    return {"dataset": manifest.name, "fingerprint": manifest.fingerprint, "config": settings}


def _sampled(path: Path) -> list[Any]:
    with path.open("rb") as file:
        head = file.read(SAMPLED_BYTES)
        file.seek(max(0, path.stat().st_size - SAMPLED_BYTES))
        return [path.name, path.stat().st_size, digest(head.hex()), digest(file.read().hex())]


def _finished(out: Path, identity: dict[str, Any]) -> TrainResult | None:
    """The result that lies in `out`, where it is of this run."""
    record = out / "training.json"
    if not record.is_file() or _recorded(out) != identity:
        return None
    return TrainResult.model_validate_json(record.read_bytes()).model_copy(update={"reused": True})


def _recorded(out: Path) -> dict[str, Any] | None:
    record = out / "run.json"
    if not record.is_file():
        return None
    recorded: dict[str, Any] = orjson.loads(record.read_bytes())
    return recorded


def _claim(out: Path, identity: dict[str, Any], *, resume: bool) -> None:
    """Make `out` this run's folder; refuse one that holds anything else. For one process of a run, not for each."""
    recorded = _recorded(out)
    if recorded is None and out.is_dir() and any(out.iterdir()):
        raise TrainError(f"{out} holds other files and is no run; name an empty or a new folder")
    if recorded is not None and recorded != identity:
        differ = [key for key in identity if recorded.get(key) != identity[key]]
        raise TrainError(f"{out} holds a run with another {' and '.join(differ)}; name another folder, or remove it")
    if not resume:
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
        (out / "training.json").unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / "run.json").write_bytes(orjson.dumps(identity, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))
