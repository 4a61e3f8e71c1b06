"""The targets by name: what each trainer reads, and the one command or setting that trains on it.

A target's text is what its README says. "Run against" names the release whose own loader reads the files in the tests;
"by contract" says that the layout follows the trainer's sources or documentation and was not run.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from sft_data.errors import StoreError
from sft_data.export import texts, tokens
from sft_data.store.manifest import Manifest
from sft_data.store.read import load_manifest

__all__ = ["TARGETS", "ExportedTo", "Target", "export_to"]


class ExportedTo(BaseModel):
    """What was written."""

    model_config = ConfigDict(frozen=True)

    version: str = Field(description="name of the dataset")
    fingerprint: str
    to: str = Field(description="the target")
    path: str
    files: int
    bytes: int
    left_out: int = Field(description="rows that the form cannot hold")


@dataclass(frozen=True)
class Target:
    """One form."""

    told: str  # what it is, for lists and the README
    proved: str  # how we know that the trainer reads it
    usage: str  # the one command or setting; {path} is the export's folder, {length} the longest row or pack
    write: Callable[[Path, Manifest, Path], int | None]


def _texts(write: Callable[[Path, Path], int]) -> Callable[[Path, Manifest, Path], int]:
    return lambda folder, _, out: write(folder, out)


_SAVED = "Run against `datasets.load_from_disk`"

TARGETS: dict[str, Target] = {
    "trl": Target(
        "rows of tokens with labels for TRL's SFTTrainer (and Unsloth's)",
        "Run against TRL 1.16.",
        "dataset = datasets.load_from_disk('{path}/train')\n"
        "SFTConfig(packing=False, max_length=None)   # the default max_length of 1024 would cut longer rows silently",
        tokens.trl,
    ),
    "trl-packed": Target(
        "packs for TRL's SFTTrainer, exactly isolated",
        "Run against TRL 1.16: one step gives the loss of the rows alone.",
        "dataset = datasets.load_from_disk('{path}/train')\n"
        "SFTConfig(packing=False, padding_free=True, max_length=None)   # any other setting joins the rows silently\n"
        "model.config.use_cache = False",
        tokens.trl_packed,
    ),
    "axolotl": Target(
        "rows of tokens for Axolotl, which packs them itself",
        _SAVED + "; the columns by contract.",
        "datasets:\n  - path: {path}/train\n    type:\nsequence_len: {length}\nsample_packing: true",
        tokens.axolotl,
    ),
    "llama-factory": Target(
        "rows of tokens for LLaMA-Factory",
        _SAVED + "; the columns by contract.",
        "tokenized_path: {path}\ncutoff_len: {length}\npacking: false",
        tokens.llama_factory,
    ),
    "llama-factory-packed": Target(
        "packs for LLaMA-Factory: the mask holds segment numbers",
        _SAVED + "; the columns by contract.",
        "tokenized_path: {path}\ncutoff_len: {length}\npacking: true\n"
        "neat_packing: true   # without it rows see each other",
        tokens.llama_factory_packed,
    ),
    "olmo-core": Target(
        "raw arrays for open-instruct and OLMo-core",
        "By contract.",
        "NumpyPackedFSLDatasetConfig(paths=['{path}/train/token_ids_part_*.npy'],\n"
        "    label_mask_paths=['{path}/train/labels_mask_part_*.npy'], sequence_length={length})",
        tokens.olmo,
    ),
    "nemo-automodel": Target(
        "packs for NeMo Automodel; labels are shifted already",
        "By contract.",
        "packed_sequence:\n  prepacked: true\n  packed_sequence_size: {length}\ndataset:\n  path: {path}/train",
        tokens.nemo,
    ),
    "megatron-bridge": Target(
        "packs for Megatron-Bridge; the loss mask is shifted already",
        "By contract.",
        "packed_sequence_specs:\n  packed_train_data_path: {path}/train/*.idx.parquet\n"
        "  packed_sequence_size: {length}\nmicro_batch_size: 1",
        tokens.megatron,
    ),
    "messages": Target(
        "conversations as JSON lines in OpenAI's form, for everything that tokenizes itself (ms-swift, verl, TRL, ...)",
        "Run against this project's own reader.",
        "datasets.load_dataset('json', data_files='{path}/train.jsonl')",
        _texts(texts.messages),
    ),
    "alpaca": Target(
        "instruction, input, output (system, history)",
        "Run against this project's own reader.",
        "datasets.load_dataset('json', data_files='{path}/train.json')",
        _texts(texts.alpaca),
    ),
    "sharegpt": Target(
        "conversations of from and value (system, tools)",
        "Run against this project's own reader.",
        "datasets.load_dataset('json', data_files='{path}/train.json')",
        _texts(texts.sharegpt),
    ),
}


def export_to(folder: Path, to: str, out: Path) -> ExportedTo:
    """Write the version in `folder` to the new folder `out` in the form of a target, with README and provenance."""
    target = TARGETS.get(to)
    if target is None:
        raise StoreError(f"there is no target {to!r}; there are {', '.join(TARGETS)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise StoreError(f"{out} is a file or not empty; name a new folder")
    manifest = load_manifest(folder)
    out.mkdir(parents=True, exist_ok=True)
    left_out = target.write(folder, manifest, out) or 0
    if manifest.tokenizer is not None and (folder / "tokenizer").is_dir() and target.write not in _WITHOUT_TOKENS:
        shutil.copytree(folder / "tokenizer", out / "tokenizer")
    (out / "README.md").write_text(_readme(to, target, manifest, out, left_out), encoding="utf-8")
    (out / "provenance.json").write_text(_provenance(to, manifest), encoding="utf-8")
    files = [path for path in out.rglob("*") if path.is_file()]
    return ExportedTo(
        version=manifest.name,
        fingerprint=manifest.fingerprint,
        to=to,
        path=str(out),
        files=len(files),
        bytes=sum(path.stat().st_size for path in files),
        left_out=left_out,
    )


_WITHOUT_TOKENS = [TARGETS[name].write for name in ("messages", "alpaca", "sharegpt")]


def _readme(to: str, target: Target, manifest: Manifest, out: Path, left_out: int) -> str:
    entry = manifest.tokenizer
    length = 0 if entry is None else entry.pack_length or entry.max_length
    counts = "\n".join(
        f"| {split} | {count.rows:,} | {count.tokens:,} | {count.trained_tokens:,} | {count.packs:,} |"
        for split, count in manifest.counts.splits.items()
    )
    lost = f"\n{left_out:,} rows are left out: this form cannot hold them.\n" if left_out else ""
    usage = target.usage.format(path=out.name, length=length)
    return f"""# {manifest.name} for {to}

{target.told[0].upper()}{target.told[1:]}. {target.proved}

```
{usage}
```

| split | rows | tokens | trained tokens | packs |
|---|---|---|---|---|
{counts}
{lost}
Written from the version with fingerprint `{manifest.fingerprint}`; `provenance.json` says the same to programs.
"""


def _provenance(to: str, manifest: Manifest) -> str:
    entry = manifest.tokenizer
    told = {
        "dataset": manifest.name,
        "fingerprint": manifest.fingerprint,
        "target": to,
        "tokenizer": None if entry is None else entry.model_dump(),
    }
    return json.dumps(told, indent=2, sort_keys=True) + "\n"
