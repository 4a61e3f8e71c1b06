"""What a finished run leaves: the model with the dataset's fingerprint inside, its tokenizer, a card and the record."""

from __future__ import annotations

import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

from sft_data.store.manifest import Manifest, TokenizerEntry
from sft_data.train.config import TrainConfig
from sft_data.train.curve import loss_curve
from sft_data.train.model import tokenizer_of
from sft_data.train.result import TrainResult

__all__ = ["save_model", "write_record"]


def save_model(
    model: Any,  # noqa: ANN401
    config: TrainConfig,
    manifest: Manifest,
    version: Path,
    result: TrainResult,
) -> None:
    """Write the folder `model`, and `adapter` where adapters were trained. The model is not to be trained further."""
    out, entry = Path(result.path), tokenizer_of(manifest, version)
    origin = {
        "dataset": manifest.name,
        "fingerprint": manifest.fingerprint,
        "tokenizer_sha256": entry.sha256,
        "template_sha256": entry.template_sha256,
        "run": result.run,
        "config": config.model_dump(mode="json"),
        "sft_data": metadata.version("sft-data"),
    }
    if config.method != "full":
        model.save_pretrained(out / "adapter", save_embedding_layers=False)
        _add_tokenizer(version, out / "adapter", _card(config, manifest, result, adapter=True))
        if not config.lora.save_merged:
            return
        model = model.merge_and_unload()
    model.config.sft_data = origin
    model.config.use_cache = True
    _tell_stops(model, entry)
    model.save_pretrained(out / "model")
    _add_tokenizer(version, out / "model", _card(config, manifest, result, adapter=False))


def _tell_stops(model: Any, entry: TokenizerEntry) -> None:  # noqa: ANN401
    """Generation must end at the tokens that the model was taught to end with."""
    settings = getattr(model, "generation_config", None)
    if settings is None or not entry.stop_token_ids:
        return
    before = settings.eos_token_id
    known = before if isinstance(before, list) else [] if before is None else [before]
    stops = [*entry.stop_token_ids, *(number for number in known if number not in entry.stop_token_ids)]
    settings.eos_token_id = stops if len(stops) > 1 else stops[0]
    if settings.pad_token_id is None:
        settings.pad_token_id = entry.pad_token_id


def _add_tokenizer(version: Path, folder: Path, card: str) -> None:
    for path in sorted((version / "tokenizer").glob("*")):
        if path.is_file():
            shutil.copy(path, folder / path.name)
            (folder / path.name).chmod(0o644)
    (folder / "README.md").write_text(card, encoding="utf-8")


def _card(config: TrainConfig, manifest: Manifest, result: TrainResult, *, adapter: bool) -> str:
    base = config.model if isinstance(config.model, str) else f"random {config.model.architecture}"
    held_out = [f"| held-out loss at step {e.step} | {e.loss:.4f} |" for e in result.held_out]
    lines = [
        "---",
        f"library_name: {'peft' if adapter else 'transformers'}",
        "pipeline_tag: text-generation",
        "tags: [sft]",
        "---",
        f"# {result.run}",
        "",
        f"Supervised fine-tuning ({config.method}) of `{base}` on the dataset `{manifest.name}`, "
        f"version fingerprint `{manifest.fingerprint}`.",
        "",
        "| | |",
        "|---|---|",
        f"| steps | {result.steps:,} |",
        f"| passes over the data | {result.epochs:.2f} |",
        f"| tokens seen, supervised | {result.tokens:,}, {result.supervised_tokens:,} |",
        f"| trained parameters | {result.trainable_parameters:,} of {result.parameters:,} |",
        f"| loss of the first and the last step | {result.train_loss_first:.4f}, {result.train_loss_last:.4f} |",
        *held_out,
        f"| precision, attention, device | {result.precision}, {result.attention}, {result.device} |",
        "",
        "Settings and origin stand in `config.json` under `sft_data`; the prompt format is `chat_template.jinja`.",
        "",
    ]
    return "\n".join(lines)


def write_record(result: TrainResult) -> None:
    """Write the curve, and for a finished run `training.json`, last and by rename: where it is, the run is whole."""
    out = Path(result.path)
    train = [(step.step, step.loss) for step in result.history]
    held_out = [(e.step, e.loss) for e in result.held_out]
    (out / "loss.svg").write_text(loss_curve(train, held_out, f"Loss of {result.run}"), encoding="utf-8")
    if result.finished:
        record = out / "training.json.part"
        record.write_text(result.model_dump_json(indent=2), encoding="utf-8")
        record.replace(out / "training.json")
