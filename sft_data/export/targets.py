"""The targets by name: what each trainer reads, and the one command or setting that trains on it.

A target's text is what its README says. "Run against" names the release whose own loader reads the files in the tests;
"by contract" says that the layout follows the trainer's sources or documentation and was not run.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from pydantic import BaseModel, ConfigDict, Field

from sft_data.errors import StoreError
from sft_data.export import tokens
from sft_data.export.ranks import Remainder, spread
from sft_data.export.texts import Files, write_conversations
from sft_data.pack.plan import pack_settings
from sft_data.pack.shards import TokenReader
from sft_data.schema import LOSS_WEIGHTS
from sft_data.store.layout import splits_of, stream_files
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
    reasons: dict[str, int] = Field(default_factory=dict, description="why rows were left out, and how many")
    warnings: list[str] = Field(default=[], description="what the version says and this form cannot")


@dataclass(frozen=True)
class Target:
    """One form."""

    told: str  # what it is, for lists and the README
    proved: str  # how we know that the trainer reads it
    usage: str  # the one command or setting; {path} is the export's folder, {length} the longest row or pack
    write: Callable[[Path, Manifest, Path], int | None] | None = None  # tokens
    files: Files | None = None  # conversations: how they are written where nobody says it


def _texts(told: str, files: Files) -> Target:
    usage = "datasets.load_dataset('{loader}', data_files='{path}/train.{files}')"
    return Target(told, "Run against this project's own reader.", usage, files=files)


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
        "Run against Axolotl 0.19: its loader, its preparation and its sampler keep ids and labels token for token.",
        "datasets:\n  - path: {path}/train\n    type:\nsequence_len: {length}\nsample_packing: true",
        tokens.axolotl,
    ),
    "llama-factory": Target(
        "rows of tokens for LLaMA-Factory",
        "Run against LLaMA-Factory 0.9.5: its loader gives the same ids and labels token for token.",
        "tokenized_path: {path}\ncutoff_len: {length}\npacking: false",
        tokens.llama_factory,
    ),
    "llama-factory-packed": Target(
        "packs for LLaMA-Factory: the mask holds segment numbers",
        "Run against LLaMA-Factory 0.9.5: its loader gives the same ids and labels, and the attention mask it makes of "
        "them lets no example of a pack see another.",
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
    "messages": _texts(
        "conversations as JSON lines in OpenAI's form, for everything that tokenizes itself (ms-swift, verl, TRL, ...)",
        "jsonl",
    ),
    "alpaca": _texts("instruction, input, output (system, history)", "json"),
    "sharegpt": _texts("conversations of from and value (system, tools)", "json"),
    "prompt-completion": _texts("prompt and completion (system), one round each", "jsonl"),
    "record": _texts("the unified record: id, instruction, input, output, metadata", "jsonl"),
}


def export_to(
    folder: Path, to: str, out: Path, files: Files | None = None, ranks: int = 1, remainder: Remainder = "pad"
) -> ExportedTo:
    """Write the version in `folder` to the new folder `out` in the form of a target, with README and provenance.

    `files`: jsonl, json or parquet, for targets that take conversations. StoreError where the target is not known,
    holds tokens although `files` are asked for, or `out` is not empty.
    """
    target = TARGETS.get(to)
    if target is None and to in ("version", "huggingface"):
        raise StoreError(f"{to} writes the files of the version as they are: leave out --files and --ranks")
    if target is None:
        raise StoreError(f"there is no target {to!r}; there are {', '.join(TARGETS)}")
    if files is not None and (target.files is None or files not in get_args(Files)):
        names = [name for name, each in TARGETS.items() if each.files is not None]
        raise StoreError(
            f"{to} cannot be written as {files!r}; {', '.join(get_args(Files))} are for {', '.join(names)} alone"
        )
    if ranks > 1 and to not in SPREAD:
        raise StoreError(
            f"{to} is not written by rank: its trainer shares out the rows; ranks are for {', '.join(SPREAD)}"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise StoreError(f"{out} is a file or not empty; name a new folder")
    manifest = load_manifest(folder)
    out.mkdir(parents=True, exist_ok=True)
    kind, reasons = files or target.files, Counter[str]()
    if target.write is not None:
        target.write(folder, manifest, out)
        if manifest.tokenizer is not None and (folder / "tokenizer").is_dir():
            shutil.copytree(folder / "tokenizer", out / "tokenizer")
    elif kind is not None:
        reasons = write_conversations(folder, out, to, kind)
    warnings = [_UNWEIGHTED] if target.write is not None and _weighted(folder) else []
    warnings += _curriculum(manifest) if target.write is not None else []
    shared = (
        [_spread(out / split, ranks, remainder, manifest) for split in splits_of(folder, "tokens")] if ranks > 1 else []
    )
    readme = _readme(to, target, kind, manifest, out, reasons)
    (out / "README.md").write_text(
        "\n".join([readme, *shared, *(f"**{told}**\n" for told in warnings)]), encoding="utf-8"
    )
    (out / "provenance.json").write_text(_provenance(to, manifest), encoding="utf-8")
    written = [path for path in out.rglob("*") if path.is_file()]
    return ExportedTo(
        version=manifest.name,
        fingerprint=manifest.fingerprint,
        to=to,
        path=str(out),
        files=len(written),
        bytes=sum(path.stat().st_size for path in written),
        left_out=reasons.total(),
        reasons=dict(sorted(reasons.items())),
        warnings=warnings,
    )


# Forms that can be written one folder for each rank.
SPREAD = ("trl", "trl-packed", "nemo-automodel")


def _spread(place: Path, ranks: int, remainder: Remainder, manifest: Manifest) -> str:
    rows, rest = spread(place, ranks, remainder, manifest.fingerprint)
    what = {"pad": "copies of its last row, every label -100, were added", "drop": "rows at its end are left out"}
    told = f"; {rest:,} {what[remainder]} to make them even" if rest else ""
    return (
        f"`{place.name}`: each of {ranks:,} ranks has {rows:,} rows in `rank-RRRRR-of-{ranks:05d}`{told}. "
        "Load one folder in each process; programs that share out the rows themselves want an export without ranks.\n"
    )


_UNWEIGHTED = (
    "Loss weights are not in these files: every label that is not -100 counts 1 here, while the version holds tokens "
    "of other weights. This project's own training (`sft-data train`) follows them."
)


def _curriculum(manifest: Manifest) -> list[str]:
    """What to say where the packs stand in an order that a trainer would shuffle away."""
    settings = pack_settings(manifest.pipeline, None)
    if settings is None or settings.order is None:
        return []
    order = f"{settings.order.by}, {settings.order.first} first"
    return [
        f"The packs of this version stand in the order of a curriculum ({order}): files of packs keep it, by rank too; "
        "files of single rows do not have it. Tell the trainer not to shuffle. This project's own training does not."
    ]


def _weighted(folder: Path) -> bool:
    """Whether some token of the version has a loss weight that labels cannot say."""
    files = [path for split in splits_of(folder, "tokens") for path in stream_files(folder, "tokens", split)]
    return bool(files) and any(name in TokenReader(files[:1]).columns for name in LOSS_WEIGHTS)


def _readme(
    to: str, target: Target, files: Files | None, manifest: Manifest, out: Path, reasons: Mapping[str, int]
) -> str:
    entry = manifest.tokenizer
    length = 0 if entry is None else entry.pack_length or entry.max_length
    counts = "\n".join(
        f"| {split} | {count.rows:,} | {count.tokens:,} | {count.trained_tokens:,} | {count.packs:,} |"
        for split, count in manifest.counts.splits.items()
    )
    why = "".join(f"- {count:,}: {reason}\n" for reason, count in sorted(reasons.items()))
    lost = f"\n{sum(reasons.values()):,} rows are left out: this form cannot hold them.\n\n{why}" if why else ""
    loader = "parquet" if files == "parquet" else "json"
    usage = target.usage.format(path=out.name, length=length, loader=loader, files=files)
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
