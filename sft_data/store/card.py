"""The dataset card: a README whose YAML header tells Hugging Face's `load_dataset` where the tables lie."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from sft_data.report.markdown import render_markdown
from sft_data.report.model import Report
from sft_data.store.layout import parquet_files, scan_table, splits_of
from sft_data.store.manifest import Manifest

__all__ = ["render_card"]

# The hub's names for sizes, by the first number of rows that is too many.
SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)
SMALL = 0.01  # share below which a language is not worth a line in the header


def render_card(folder: Path, manifest: Manifest, report: Report) -> str:
    """README.md of a version's folder."""
    header = yaml.safe_dump(_header(folder, manifest, report), sort_keys=False, allow_unicode=True)
    return f"---\n{header}---\n\n{render_markdown(report)}\n{_use(folder, manifest)}"


def _header(folder: Path, manifest: Manifest, report: Report) -> dict[str, Any]:
    languages = [s.name for s in report.languages if s.share >= SMALL and re.fullmatch("[a-z]{2,3}", s.name)]
    size = next((name for limit, name in SIZES if report.rows_kept < limit), "10M<n<100M")
    header: dict[str, Any] = {"pretty_name": manifest.name, "task_categories": ["text-generation"]}
    if languages:
        header["language"] = languages
    if licenses := _licenses(folder):
        header["license"] = licenses if len(licenses) > 1 else licenses[0]
    return header | {"size_categories": [size], "configs": _configs(folder)}


def _licenses(folder: Path) -> list[str]:
    """Licences that the rows themselves name, in the hub's spelling; others are left to the person who publishes."""
    found = scan_table(folder, "conversations").select(pl.col("license").unique().sort()).collect()["license"]
    return [name for name in found if name and re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,40}", name)]


def _configs(folder: Path) -> list[dict[str, Any]]:
    """One configuration for each Parquet table that has rows; the conversations are the default.

    `load_dataset` opens one kind of file for all configurations of a folder, so the Arrow tables are not among them.
    """
    configs: list[dict[str, Any]] = [
        {
            "config_name": "conversations",
            "default": True,
            "data_files": [
                {"split": split, "path": f"conversations/{split}/*.parquet"}
                for split in splits_of(folder, "conversations")
            ],
        }
    ]
    for table in ("rejections", "edits"):
        if parquet_files(folder, table):
            files = [{"split": "train", "path": f"{table}/*.parquet"}]
            configs.append({"config_name": table, "data_files": files})
    return [config for config in configs if config["data_files"]]


def _use(folder: Path, manifest: Manifest) -> str:
    lines = [
        "## Use",
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        'conversations = load_dataset("path/to/this/folder")',
    ]
    if splits_of(folder, "packs"):
        lines.append("# input_ids, labels, seq_lengths: ready for training")
        lines.append('packs = load_dataset("arrow", data_files="path/to/this/folder/packs/train/*.arrow")')
    lines += ["```", "", "`sft-data import path/to/this/folder` puts it into a store after checking every byte of it."]
    libraries = ", ".join(f"{name} {version}" for name, version in manifest.libraries.items())
    return "\n".join([*lines, "", f"Built with {libraries}.", ""])
