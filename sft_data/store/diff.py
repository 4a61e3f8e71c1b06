"""What changed from one version to another: rows, decisions, splits, settings, distributions.

Rows are matched by id over slim columns (id, hash, split, code): about 100 bytes for a row of each version.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from sft_data.report.texts import shorten, texts_of
from sft_data.store.layout import scan_table
from sft_data.store.read import VersionRef, load_manifest

__all__ = ["Change", "Diff", "RowChange", "Setting", "diff"]

EXAMPLES = 10
CUT = 300  # characters of a text
BEFORE = 80  # of them, before the place where two texts part


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True)


class RowChange(_Model):
    """One row, before and after."""

    id: str
    old: str | None = Field(
        default=None, description="what it was: its text, its split, kept, or a code with its detail"
    )
    new: str | None = None


class Change(_Model):
    """How many rows changed in one way, and some of them."""

    count: int
    examples: list[RowChange]


class Setting(_Model):
    """One setting that differs, by dotted key; None where a version does not have it."""

    key: str
    old: Any
    new: Any


class Amount(_Model):
    """One figure of both versions."""

    name: str
    old: int
    new: int


class Diff(_Model):
    """What changed from version `a` to version `b`."""

    a: str
    b: str
    same: bool = Field(description="both have the same fingerprint")
    added: Change = Field(description="kept rows that the old version never read")
    removed: Change = Field(description="kept rows of the old version that the new one never read")
    changed: Change = Field(description="kept in both, with other messages")
    moved: Change = Field(description="kept in both, in another split")
    redecided: Change = Field(description="read by both, decided otherwise: kept, rejected, or for another reason")
    redecisions: dict[str, int] = Field(description="'old reason -> new reason': rows")
    settings: list[Setting]
    inputs: list[Setting] = Field(description="input files that are new, gone or changed, by hash")
    distributions: dict[str, list[Amount]] = Field(description="rows by source, language and split; tokens by split")


def diff(a: VersionRef | Path, b: VersionRef | Path, examples: int = EXAMPLES) -> Diff:
    """Compare two versions; `examples` rows are told of each kind of change, in river order of the new version."""
    old, new = (each.folder if isinstance(each, VersionRef) else each for each in (a, b))
    before, after = load_manifest(old), load_manifest(new)
    rows = _joined(_fates(old), _fates(new))
    kept_both = rows.filter(pl.col("kept") & pl.col("kept_new"))
    redecided = rows.filter(pl.col("kept").is_not_null() & pl.col("kept_new").is_not_null()).filter(
        (pl.col("kept") != pl.col("kept_new")) | (pl.col("reason") != pl.col("reason_new"))
    )
    counts = (
        redecided.group_by("reason", "reason_new")
        .len()
        .sort(["len", "reason", "reason_new"], descending=[True, False, False])
    )
    return Diff(
        a=f"{before.name}@{old.name}",
        b=f"{after.name}@{new.name}",
        same=before.fingerprint == after.fingerprint,
        added=_change(rows.filter(pl.col("kept").is_null() & pl.col("kept_new")), None, "split_new", examples),
        removed=_change(rows.filter(pl.col("kept") & pl.col("kept_new").is_null()), "split", None, examples),
        changed=_texts(old, new, kept_both.filter(pl.col("hash") != pl.col("hash_new")), examples),
        moved=_change(
            kept_both.filter(pl.col("split").ne_missing(pl.col("split_new"))), "split", "split_new", examples
        ),
        redecided=_explained(old, new, redecided, examples),
        redecisions={f"{was} -> {now}": number for was, now, number in counts.iter_rows()},
        settings=list(_settings(before.pipeline, after.pipeline)),
        inputs=list(
            _settings(
                {f"{f.source}:{f.file}": f.sha256 for f in before.inputs},
                {f"{f.source}:{f.file}": f.sha256 for f in after.inputs},
            )
        ),
        distributions=_distributions(old, new),
    )


def _fates(folder: Path) -> pl.DataFrame:
    """id, kept, reason, hash, split of every row that a version read, in its order."""
    table = scan_table(folder, "conversations")
    split = pl.col("split") if "split" in table.collect_schema() else pl.lit(None, dtype=pl.String)
    kept = table.select("id", kept=True, reason=pl.lit("kept"), hash="content_hash", split=split)
    gone = scan_table(folder, "rejections").select(
        "id",
        kept=False,
        reason=pl.format("{}: {}", "stage", "code"),
        hash=pl.lit(None, dtype=pl.String),
        split=pl.lit(None, dtype=pl.String),
    )
    return pl.concat([kept, gone]).collect()


def _joined(old: pl.DataFrame, new: pl.DataFrame) -> pl.DataFrame:
    left = new.rename({name: f"{name}_new" for name in new.columns if name != "id"})
    return left.join(old, on="id", how="full", coalesce=True, maintain_order="left_right")


def _change(rows: pl.DataFrame, old: str | None, new: str | None, examples: int) -> Change:
    some = rows.head(examples).to_dicts()
    told = [RowChange(id=r["id"], old=r[old] if old else None, new=r[new] if new else None) for r in some]
    return Change(count=rows.height, examples=told)


def _texts(old: Path, new: Path, rows: pl.DataFrame, examples: int) -> Change:
    """Rows kept in both whose messages differ, with both texts around the first difference."""
    some = rows["id"].head(examples).to_list()
    before, after = texts_of(old, some), texts_of(new, some)
    pairs = ((i, *_parting(before[i], after[i])) for i in some)
    return Change(count=rows.height, examples=[RowChange(id=i, old=was, new=now) for i, was, now in pairs])


def _parting(old: str, new: str) -> tuple[str, str]:
    """Both texts, from shortly before the place where they part if that is not near their beginning."""
    same = next(
        (at for at, (was, now) in enumerate(zip(old, new, strict=False)) if was != now), min(len(old), len(new))
    )
    skipped = max(0, same - BEFORE) if max(len(old), len(new)) > CUT else 0
    head = f"({skipped:,} characters as before) … " if skipped else ""
    was, now = (head + shorten(text[skipped:], CUT) for text in (old, new))
    return was, now


def _explained(old: Path, new: Path, rows: pl.DataFrame, examples: int) -> Change:
    """Rows decided otherwise, with the measured value that decided."""
    some = rows.head(examples)
    before, after = _details(old, some["id"]), _details(new, some["id"])
    told = [
        RowChange(id=row_id, old=before.get(row_id, "kept"), new=after.get(row_id, "kept")) for row_id in some["id"]
    ]
    return Change(count=rows.height, examples=told)


def _details(folder: Path, ids: pl.Series) -> dict[str, str]:
    rows = (
        scan_table(folder, "rejections")
        .filter(pl.col("id").is_in(ids.implode()))
        .select("id", "code", "detail")
        .collect()
    )
    return {row_id: f"{code} ({detail})" if detail else code for row_id, code, detail in rows.iter_rows()}


def _settings(old: dict[str, Any], new: dict[str, Any]) -> Iterator[Setting]:
    """Dotted keys whose values differ. Entries of a list are named by their `kind` or `name` where they have one."""
    before, after = dict(_flat(old)), dict(_flat(new))
    for key in [*before, *(key for key in after if key not in before)]:
        if key not in before or key not in after or before[key] != after[key]:
            yield Setting(key=key, old=before.get(key), new=after.get(key))


def _flat(value: object, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, inside in value.items():
            yield from _flat(inside, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and any(isinstance(entry, dict) for entry in value):
        seen: dict[str, int] = {}
        for entry in value:
            name = (
                str(entry.get("name") or entry.get("kind") or len(seen)) if isinstance(entry, dict) else str(len(seen))
            )
            seen[name] = seen.get(name, 0) + 1
            yield from _flat(entry, f"{key}.{name}" + (f"#{seen[name]}" if seen[name] > 1 else ""))
    else:
        yield key, value


def _distributions(old: Path, new: Path) -> dict[str, list[Amount]]:
    found = {}
    for name, table, column, amount in (
        ("rows by source", "conversations", "source", pl.len()),
        ("rows by language", "conversations", "lang", pl.len()),
        ("rows by split", "conversations", "split", pl.len()),
        ("tokens by split", "sidecar", "split", pl.col("tokens").cast(pl.Int64).sum()),
        ("tokens by source", "sidecar", "source", pl.col("tokens").cast(pl.Int64).sum()),
    ):
        before, after = (_amounts(folder, table, column, amount) for folder in (old, new))
        names = sorted({*before, *after})
        if names:
            found[name] = [Amount(name=n, old=before.get(n, 0), new=after.get(n, 0)) for n in names]
    return found


def _amounts(folder: Path, table: str, column: str, amount: pl.Expr) -> dict[str, int]:
    rows = scan_table(folder, table)
    if column not in rows.collect_schema():
        return {}
    grouped = rows.group_by(pl.col(column).fill_null("none")).agg(amount.alias("amount")).collect()
    return {str(name): int(number) for name, number in grouped.iter_rows()}
