"""The last step: counts, gates and the manifest, then the store's atomic publish."""

from __future__ import annotations

import getpass
import os
import platform
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from sft_data.against import parents
from sft_data.assemble import SPLITS
from sft_data.errors import GateError, StageError
from sft_data.fingerprint import digest, library_versions
from sft_data.formats.ingest import CODES, REVISION
from sft_data.pack.plan import slots
from sft_data.pack.shards import dataset_files
from sft_data.pipeline import Gates, Pipeline
from sft_data.plan import Step
from sft_data.stage import StageConfig
from sft_data.store.manifest import Counts, Manifest, SplitCounts, StepEntry, TokenizerEntry
from sft_data.store.publish import Published, publish
from sft_data.tokenize.stage import describe, tokenizer_files

if TYPE_CHECKING:
    from sft_data.build import StepResult, Work

__all__ = ["publish_version"]


def publish_version(step: Step, work: Work, above: Sequence[StepResult]) -> StepResult:
    """Publish what the steps made; a version that fails a gate is kept as a draft and GateError is raised."""
    from sft_data.build import StepResult

    pipeline = _pipeline(step)
    manifest = _manifest(step, work, above)
    files: dict[str, Path] = {path: ref.path(work.cache) for r in above for path, ref in r.files.items()}
    texts = _side_files(step, above)
    if pipeline.tokenize is not None:
        texts |= {f"tokenizer/{name}": data.decode() for name, data in tokenizer_files(pipeline.tokenize).items()}
    failed = {name: gate for name, gate in manifest.gates.items() if not gate["passed"]}
    hashes = {path: ref.sha256 for r in above for path, ref in r.files.items()}
    info = _build_info(work, above)
    published = publish(work.store, manifest, files, texts, info, hashes=hashes, draft=bool(failed))
    if failed:
        raise GateError(_failure(failed, published))
    return StepResult(step.name, step.fingerprint, told=_told(manifest, published), reused=published.reused)


def _pipeline(step: Step) -> Pipeline:
    if step.pipeline is None:
        raise StageError(f"step {step.name} has no pipeline")
    return step.pipeline


def _manifest(step: Step, work: Work, above: Sequence[StepResult]) -> Manifest:
    pipeline = _pipeline(step)
    counts = _counts(pipeline, work, above)
    stages: dict[str, StageConfig] = {f"{n:02d}:{s.kind}": s for n, s in enumerate(pipeline.stages, start=1)}
    stages["split"] = pipeline.split
    if pipeline.tokenize is not None:
        stages["tokenize"] = pipeline.tokenize
    entries = []
    for result in above:
        stage = stages.get(result.name)
        if stage is None and not result.name.startswith("read:"):
            continue
        source = next((s for s in pipeline.sources if f"read:{s.name}" == result.name), None)
        settings = stage or source
        entries.append(
            StepEntry(
                name=result.name,
                kind="read" if stage is None else stage.kind,
                revision=REVISION if stage is None else stage.revision,
                fingerprint=result.fingerprint,
                settings={} if settings is None else settings.model_dump(mode="json"),
                rows_in=result.rows_in,
                rows_kept=result.rows_kept,
                rejected=dict(result.rejected_by),
                edited=dict(result.edited_by),
                codes=_meanings(CODES if stage is None else stage.codes, {**result.rejected_by, **result.edited_by}),
            )
        )
    used = {name for stage in stages.values() for name in stage.uses} | {"orjson", "numpy", "pyarrow"}
    return Manifest(
        name=pipeline.name,
        fingerprint=step.fingerprint,
        parents=parents(pipeline),
        pipeline=pipeline.model_dump(mode="json", exclude_none=True),
        inputs=[entry for reading in step.readings for entry in reading.inputs()],
        steps=entries,
        libraries=library_versions(used),
        tokenizer=_tokenizer(pipeline),
        counts=counts,
        gates=_gates(pipeline.gates, counts, above),
    )


def _meanings(documented: Mapping[str, str], used: Iterable[str]) -> dict[str, str]:
    """What the codes that a step used mean: the version explains itself, whatever later releases call things."""
    return {code: documented[code] for code in sorted(used) if code in documented}


def _tokenizer(pipeline: Pipeline) -> TokenizerEntry | None:
    if pipeline.tokenize is None:
        return None
    return describe(pipeline.tokenize, pipeline.pack.max_length if pipeline.pack else None)


def _counts(pipeline: Pipeline, work: Work, above: Sequence[StepResult]) -> Counts:
    """Counts of the whole version, from the records of reading and from the final files: both must agree."""
    by_source = {
        source.name: {"rows_in": result.rows_in, "rows_kept": 0, "rows_rejected": 0}
        for source, result in zip(pipeline.sources, above, strict=False)
    }
    final = {path: ref.path(work.cache) for r in above for path, ref in r.files.items()}
    for prefix, key in (("conversations/", "rows_kept"), ("rejections/", "rows_rejected")):
        for name, number in _rows_by(final, prefix, "source").items():
            by_source[name][key] += number
    for name, count in by_source.items():
        if count["rows_in"] != count["rows_kept"] + count["rows_rejected"]:
            raise StageError(f"source {name} does not balance: {count}")
    return Counts(
        rows_in=sum(c["rows_in"] for c in by_source.values()),
        rows_kept=sum(c["rows_kept"] for c in by_source.values()),
        rows_rejected=sum(c["rows_rejected"] for c in by_source.values()),
        by_source=by_source,
        splits={split: counts for split in SPLITS if (counts := _split(pipeline, final, split)).rows},
    )


def _rows_by(final: Mapping[str, Path], prefix: str, column: str) -> dict[str, int]:
    paths = [path for name, path in final.items() if name.startswith(prefix)]
    if not paths:
        return {}
    return dict(pl.scan_parquet(paths).group_by(column).len().sort(column).collect().iter_rows())


def _split(pipeline: Pipeline, final: Mapping[str, Path], split: str) -> SplitCounts:
    rows = sum(_rows_by(final, f"conversations/{split}/", "source").values())
    sidecars = [path for name, path in final.items() if name.startswith(f"sidecar/{split}/")]
    if not sidecars:
        return SplitCounts(rows=rows)
    sums = pl.scan_parquet(sidecars).select(pl.col("tokens", "trained").cast(pl.Int64).sum()).collect().row(0)
    packs = packed = room = 0
    for name, path in final.items():
        if name.startswith(f"pack_index/{split}/"):
            index = pl.read_parquet(path, columns=["pack", "tokens"])
            packs, packed = index["pack"].n_unique(), int(index["tokens"].cast(pl.Int64).sum())
            room = slots(index, pipeline.pack) if pipeline.pack is not None else 0
    return SplitCounts(
        rows=rows, tokens=sums[0], trained_tokens=sums[1], packs=packs, packed_tokens=packed, pack_slots=room
    )


def _gates(gates: Gates, counts: Counts, above: Sequence[StepResult]) -> dict[str, Any]:
    """Each gate with its limit, what was measured, and whether it held."""
    rows = max(counts.rows_in, 1)
    told: dict[str, Any] = {}
    if counts.rows_kept == 0:
        told["any_row_kept"] = _gate(1, 0, passed=False)
    if gates.min_rows_kept:
        share = counts.rows_kept / rows
        told["min_rows_kept"] = _gate(gates.min_rows_kept, share, share >= gates.min_rows_kept)
    rejected: dict[str, int] = {}
    for result in above:
        for code, number in result.rejected_by.items():
            rejected[code] = rejected.get(code, 0) + number
    for code, limit in gates.max_rejected_share.items():
        share = rejected.get(code, 0) / rows
        told[f"max_rejected_share.{code}"] = _gate(limit, share, share <= limit)
    if gates.min_pack_fill:
        fill = counts.pack_fill or 0.0
        told["min_pack_fill"] = _gate(gates.min_pack_fill, fill, fill >= gates.min_pack_fill)
    return told


def _gate(limit: float, measured: float, passed: bool) -> dict[str, Any]:  # noqa: FBT001  # a value, not a switch
    return {"limit": limit, "measured": round(measured, 6), "passed": passed}


def _failure(failed: Mapping[str, Mapping[str, Any]], published: Published) -> str:
    lines = [f"  {name}: measured {gate['measured']:.4f}, limit {gate['limit']:.4f}" for name, gate in failed.items()]
    told = "\n".join(lines)
    return (
        f"the version was built but not published, because it fails its gates:\n{told}\n"
        f"It is kept as a draft with its report: {published.folder}\n"
        "Look at the report; then mend the data, the stages or the limit."
    )


def _side_files(step: Step, above: Sequence[StepResult]) -> dict[str, str]:
    """The small JSON files that make a folder of Arrow files readable for `datasets`."""
    texts: dict[str, str] = {}
    files = {path: ref for result in above for path, ref in result.files.items()}
    for table in ("tokens", "packs"):
        for split in SPLITS:
            folder = f"{table}/{split}/"
            inside = {path.removeprefix(folder): ref for path, ref in sorted(files.items()) if path.startswith(folder)}
            if inside:
                fingerprint = digest(step.fingerprint, table, split)
                texts |= {folder + n: text for n, text in dataset_files(list(inside), fingerprint, split).items()}
    return texts


def _build_info(work: Work, above: Sequence[StepResult]) -> dict[str, Any]:
    """When, how long and on what: the only part of a version that two builds do not share."""
    return {
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "user": _user(),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "workers": getattr(work.engine, "workers", None),
        "stages": [
            {"step": r.name, "seconds": r.seconds, "reused": r.reused, "rows_in": r.rows_in, "rows_kept": r.rows_kept}
            for r in above
        ],
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return str(os.getuid())


def _told(manifest: Manifest, published: Published) -> dict[str, Any]:
    counts = manifest.counts
    rejected: dict[str, int] = {}
    for entry in manifest.steps:
        for code, number in entry.rejected.items():
            rejected[code] = rejected.get(code, 0) + number
    return {
        "version": f"{published.name}@v{published.number}",
        "fingerprint": manifest.fingerprint,
        "path": str(published.folder),
        "rows_in": counts.rows_in,
        "rows_kept": counts.rows_kept,
        "rows_rejected": counts.rows_rejected,
        "rejected": dict(sorted(rejected.items())),
        "tokens": counts.tokens,
        "trained_tokens": sum(split.trained_tokens for split in counts.splits.values()),
        "packs": counts.packs,
        "pack_fill": counts.pack_fill,
        "reused": published.reused,
        "report": str(published.folder / "report.html"),
    }
