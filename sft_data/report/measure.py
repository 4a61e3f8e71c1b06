"""Measure a version: everything that a report tells, as one model, from the version's own files.

The same version gives the same report, byte for byte. Shards are read one after the other; what is held over all of
them are slim columns (lengths, codes), about 30 bytes for a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from sft_data.pack.plan import pack_settings, units
from sft_data.report.choices import order_choices, selection_choices, token_choices
from sft_data.report.distributions import conversation_distributions, token_distributions
from sft_data.report.ledgers import duplicates, edit_groups, rejection_groups
from sft_data.report.mixture import mixture
from sft_data.report.model import (
    Check,
    Distribution,
    FunnelStep,
    GateResult,
    Packing,
    Report,
    Share,
    SourceFlow,
    SplitFigures,
)
from sft_data.split import Split
from sft_data.store.layout import SPLITS, parquet_files, scan_table, splits_of
from sft_data.store.manifest import Manifest
from sft_data.store.read import load_manifest

__all__ = ["measure", "packs_needed"]


def measure(folder: Path) -> Report:
    """The report of the version in `folder` (its manifest must be there; reports and hashes need not)."""
    manifest = load_manifest(folder)
    packing = _packing(folder, manifest)
    counts = manifest.counts
    trained = sum(split.trained_tokens for split in counts.splits.values())
    distributions = [*conversation_distributions(folder), *token_distributions(folder)]
    return Report(
        name=manifest.name,
        fingerprint=manifest.fingerprint,
        parents=manifest.parents,
        rows_in=counts.rows_in,
        rows_kept=counts.rows_kept,
        rows_rejected=counts.rows_rejected,
        tokens=counts.tokens,
        trained_tokens=trained,
        packs=counts.packs,
        pack_fill=counts.pack_fill,
        checks=_checks(folder, manifest, packing),
        gates=_gates(manifest),
        funnel=_funnel(manifest),
        sources=_sources(folder, manifest),
        splits=_splits(manifest),
        rejections=rejection_groups(folder, manifest),
        edits=edit_groups(folder, manifest),
        duplicates=duplicates(folder),
        distributions=[each for each in distributions if sum(each.kept) or sum(each.rejected)],
        languages=_languages(folder),
        packing=packing,
        mixture=mixture(folder, manifest),
        tokenizer=manifest.tokenizer,
        choices=[*selection_choices(manifest), *token_choices(folder, manifest), *order_choices(manifest)],
        inputs=manifest.inputs,
        libraries=manifest.libraries,
        pipeline=manifest.pipeline,
    )


def _funnel(manifest: Manifest) -> list[FunnelStep]:
    return [
        FunnelStep(
            name=step.name,
            kind=step.kind,
            rows_in=step.rows_in,
            rows_kept=step.rows_kept,
            rejected=dict(sorted(step.rejected.items())),
            edited=dict(sorted(step.edited.items())),
        )
        for step in manifest.steps
    ]


def _gates(manifest: Manifest) -> list[GateResult]:
    return [
        GateResult(name=name, limit=gate.get("limit"), measured=gate.get("measured"), passed=bool(gate.get("passed")))
        for name, gate in sorted(manifest.gates.items())
    ]


def _splits(manifest: Manifest) -> list[SplitFigures]:
    return [
        SplitFigures(
            name=name, rows=split.rows, tokens=split.tokens, trained_tokens=split.trained_tokens, packs=split.packs
        )
        for name, split in sorted(manifest.counts.splits.items(), key=lambda item: SPLITS.index(item[0]))
    ]


def _sources(folder: Path, manifest: Manifest) -> list[SourceFlow]:
    """Each source's rows, in the order of the pipeline."""
    codes = scan_table(folder, "rejections").group_by("source", "code").len().sort("source", "code").collect()
    tokens = (
        scan_table(folder, "sidecar")
        .group_by("source")
        .agg(pl.col("tokens", "trained").cast(pl.Int64).sum())
        .collect()
        .rows_by_key("source", unique=True)
    )
    named = [str(source.get("name")) for source in manifest.pipeline.get("sources", []) if isinstance(source, dict)]
    counts = manifest.counts.by_source
    order = [name for name in named if name in counts] + sorted(set(counts) - set(named))
    return [
        SourceFlow(
            name=name,
            rows_in=counts[name].get("rows_in", 0),
            rows_kept=counts[name].get("rows_kept", 0),
            rows_rejected=counts[name].get("rows_rejected", 0),
            rejected={code: rows for source, code, rows in codes.iter_rows() if source == name},
            tokens=tokens.get(name, (0, 0))[0],
            trained_tokens=tokens.get(name, (0, 0))[1],
        )
        for name in order
    ]


def _languages(folder: Path) -> list[Share]:
    """Kept rows by measured language, most first; empty where no stage measured it."""
    table = scan_table(folder, "conversations")
    if "lang" not in table.collect_schema():
        return []
    found = table.group_by(pl.col("lang").fill_null("unknown")).len().sort(["len", "lang"], descending=[True, False])
    frame = found.collect()
    total = max(1, int(frame["len"].sum()))
    return [Share(name=name, rows=rows, share=round(rows / total, 6)) for name, rows in frame.iter_rows()]


def _packing(folder: Path, manifest: Manifest) -> list[Packing]:
    settings = pack_settings(manifest.pipeline, manifest.tokenizer.pack_length if manifest.tokenizer else None)
    if settings is None:
        return []
    found = []
    for split in splits_of(folder, "pack_index"):
        index = scan_table(folder, "pack_index", split).select("pack", "tokens").collect()
        fills = units(index, settings)
        tokens, packs, slots = int(fills["tokens"].sum()), index["pack"].n_unique(), int(fills["slots"].sum())
        found.append(
            Packing(
                split=split,
                method=settings.method,
                pack_length=settings.max_length,
                batch_rows=settings.group if settings.alone else None,
                packs=packs,
                tokens=tokens,
                lower_bound=packs_needed(index["tokens"].to_numpy(), settings.max_length),
                slots=slots,
                padding=slots - tokens,
                fill=round(tokens / slots, 6) if slots else 0.0,
                rows_per_pack=round(int(fills["rows"].sum()) / packs, 4) if packs else 0.0,
                histogram=_fill_histogram(fills["tokens"] / fills["slots"]),
            )
        )
    return found


def packs_needed(lengths: np.ndarray[Any, Any], room: int) -> int:
    """A number of packs below which no packing can go: Martello and Toth's bound L2.

    Tokens / room alone is too low where rows are long, since two rows longer than half a pack never share one. For a
    length k, rows longer than room - k stand alone, rows longer than half stand apart from each other, and rows from k
    to half fill what room these leave; the bound is the largest number of packs over all k.

    >>> packs_needed(np.array([6, 6, 6, 4]), 10)
    3
    """
    if len(lengths) == 0:
        return 0
    count = np.bincount(lengths, minlength=room + 1)[: room + 1].astype(np.int64)
    rows, tokens = np.cumsum(count), np.cumsum(count * np.arange(room + 1))
    half = room // 2
    k = np.arange(half + 1)
    alone = rows[room] - rows[room - k]
    large, large_tokens = rows[room - k] - rows[half], tokens[room - k] - tokens[half]
    small_tokens = tokens[half] - np.where(k > 0, tokens[k - 1], 0)
    over = small_tokens - (large * room - large_tokens)
    return int((alone + large + np.maximum(0, -(-over // room))).max())


def _fill_histogram(fill: pl.Series) -> Distribution:
    edges = [0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 1.0]
    counts = [int(fill.is_between(low, high, closed="left").sum()) for low, high in pairwise(edges)]
    return Distribution(
        name="pack_fill",
        title="How full the packs are",
        unit="share",
        edges=edges,
        kept=[*counts, int((fill >= 1.0).sum())],
    )


def _checks(folder: Path, manifest: Manifest, packing: list[Packing]) -> list[Check]:
    """What a reader wants to know before trusting the version, measured on its files."""
    counts = manifest.counts
    balanced = counts.rows_in == counts.rows_kept + counts.rows_rejected
    uneven = [s.name for s in manifest.steps if s.rows_in != s.rows_kept + sum(s.rejected.values())]
    checks = [
        Check(
            name="Every row is accounted for",
            passed=balanced and not uneven,
            told=f"{counts.rows_in:,} in = {counts.rows_kept:,} kept + {counts.rows_rejected:,} rejected"
            if not uneven
            else "steps that do not balance: " + ", ".join(uneven),
        )
    ]
    failed = [name for name, gate in sorted(manifest.gates.items()) if not gate.get("passed")]
    if manifest.gates:
        told = (
            f"{len(manifest.gates)} of {len(manifest.gates)} passed" if not failed else "failed: " + ", ".join(failed)
        )
        checks.append(Check(name="Gates", passed=not failed, told=told))
    checks += _split_check(folder, manifest)
    checks += _group_check(folder, manifest)
    checks += _mask_check(folder)
    packing = [each for each in packing if each.batch_rows is None]  # rows alone are not held against packs
    if packing:
        extra = sum(each.packs - each.lower_bound for each in packing)
        bound = sum(each.lower_bound for each in packing)
        told = f"{bound + extra:,} packs; no packing can need fewer than {bound:,}"
        checks.append(Check(name="Packs are close to the lower bound", passed=extra <= max(1, bound // 20), told=told))
    return checks


def _split_check(folder: Path, manifest: Manifest) -> list[Check]:
    """Do near-duplicates stay on one side of every split, and are so many held out as was asked for?"""
    table = scan_table(folder, "conversations")
    columns = table.collect_schema()
    if "cluster" not in columns or "split" not in columns or len(splits_of(folder, "conversations")) < 2:
        return []
    groups = table.drop_nulls("cluster").group_by("cluster").agg(pl.col("split").n_unique(), side=pl.col("split").min())
    sides = groups.group_by("side").agg(pl.len(), crossing=(pl.col("split") > 1).sum()).collect()
    crossing = int(sides["crossing"].sum())
    told = (
        "no cluster of near-duplicates lies in two splits"
        if not crossing
        else f"{crossing:,} clusters lie in two splits"
    )
    unseen = Check(name="Held-out rows are unseen", passed=not crossing, told=told)
    split = _split_of(manifest)
    if split.stratify or sides.is_empty():  # `least` may ask for more; whether every group has some is another check
        return [unseen]
    return [unseen, _share_check(dict(sides.select("side", "len").iter_rows()), split)]


def _share_check(clusters: Mapping[str, int], split: Split) -> Check:
    """Are so many clusters held out as independent draws give, to within five standard deviations?

    More (or fewer) are a sign that rows came to the split by a choice that is not independent of its draws.
    """
    whole, passed, told = sum(clusters.values()), True, []
    for name, share in (("validation", split.validation), ("test", split.test)):
        found = clusters.get(name, 0)
        passed &= abs(found - share * whole) <= 5 * sqrt(share * (1 - share) * whole) + 2
        if share or found:
            told.append(f"{name} {100 * found / whole:.2f} % of {whole:,} clusters, {100 * share:g} % asked for")
    return Check(name="Held-out rows are as many as asked for", passed=passed, told="; ".join(told))


def _split_of(manifest: Manifest) -> Split:
    section = manifest.pipeline.get("split")
    return Split.model_validate(section) if isinstance(section, dict) else Split()


def _group_check(folder: Path, manifest: Manifest) -> list[Check]:
    """Has every source, in every language, held-out rows? A group that is too small for one by its share may not."""
    split = _split_of(manifest)
    held = split.validation + split.test
    there = splits_of(folder, "conversations")
    if not held or not there:
        return []
    table = scan_table(folder, "conversations")
    by = [column for column in split.stratify or ("source", "lang") if column in table.collect_schema()]
    name = pl.concat_str([pl.col(column).cast(pl.String).fill_null("(none)") for column in by], separator=" ")
    groups = (
        table.group_by(name.alias("group"))
        .agg(rows=pl.len(), held=(pl.col("split") != "train").sum())
        .sort(["rows", "group"], descending=[True, False])
        .collect()
    )
    without = groups.filter(pl.col("held") == 0)
    if without.is_empty():
        told = f"each of the {groups.height:,} groups by {' and '.join(by)} has some"
        return [Check(name="Every group has held-out rows", passed=True, told=told)]
    some = ", ".join(f"{group} ({rows:,} rows)" for group, rows in without.head(5).select("group", "rows").iter_rows())
    more = f" and {without.height - 5:,} more" if without.height > 5 else ""
    small = bool((without["rows"] * held < 1).all())
    why = "too small for one by the share" if small else "`split.stratify` and `split.least` see to it"
    return [Check(name="Every group has held-out rows", passed=small, told=f"none of {some}{more}: {why}")]


def _mask_check(folder: Path) -> list[Check]:
    """How the loss masks were proved."""
    if not parquet_files(folder, "sidecar"):
        return []
    side = scan_table(folder, "sidecar")
    proofs = side.group_by(pl.col("proof").fill_null("none")).len().sort("proof").collect()
    bare = int(side.filter(pl.col("trained") <= 0).select(pl.len()).collect().item())
    unproved = sum(rows for proof, rows in proofs.iter_rows() if proof == "none")
    told = ", ".join(f"{rows:,} rows by {proof}" for proof, rows in proofs.iter_rows()) or "no rows"
    if bare:
        told += f"; {bare:,} rows train nothing"
    return [Check(name="Loss masks are proved", passed=not bare and not unproved, told=told)]
