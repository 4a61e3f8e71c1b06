"""`init`: a first pipeline for data files, with comments that say what was seen in them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import polars as pl

from sft_data.annotate.language import DetectLanguage
from sft_data.build import curate
from sft_data.formats.detect import Detection, detect
from sft_data.formats.ingest import read_unit, units_of
from sft_data.schema import CONVERSATIONS, empty
from sft_data.sources import hub
from sft_data.sources.files import find_files
from sft_data.sources.settings import Source
from sft_data.stage import Outcome

__all__ = ["starter_pipeline"]

# Rows of each source whose language is measured: enough for shares of a few per cent, read in a moment.
SAMPLE = 1_000


@dataclass(frozen=True)
class _Seen:
    """What was seen in one argument of `init`."""

    source: Source
    detection: Detection
    files: int
    bytes: int
    languages: dict[str, float]  # language -> share of the sampled rows, largest first
    sampled: int  # rows that were read for the following
    rejected: dict[str, int]  # code -> rows of the sample that would be rejected, most frequent first
    edited: dict[str, int]  # code -> edits that the rules make in the sample


def starter_pipeline(paths: Sequence[str]) -> str:
    """A commented pipeline that reads `paths`: files, globs or folders, one source each.

    Raises SourceError where a path is missing or its format is not clear.
    """
    names = _names(paths)
    seen = [_look(name, path) for name, path in zip(names, paths, strict=True)]
    title = names[0] if len(names) == 1 else f"{names[0]}-and-more"
    return "\n".join([*_head(title, seen), *_sources(seen), *_stages(_common(seen)), *_tail()]) + "\n"


def _names(paths: Sequence[str]) -> list[str]:
    """Short, different names for the sources."""
    names: list[str] = []
    for path in paths:
        plain = re.sub(
            r"[^a-z0-9]+", "-", Path(path).name.split(".")[0].partition("@")[0].lower().replace("*", "")
        ).strip("-")
        base, number = plain or "source", 2
        name = base
        while name in names:
            name, number = f"{base}-{number}", number + 1
        names.append(name)
    return names


def _look(name: str, path: str) -> _Seen:
    source = hub.choice_of(Source(name=name, path=path))
    files = find_files(source)
    detection = detect(source, files)
    sample: list[Outcome] = []
    for unit in units_of(source, files, detection.format):
        sample += list(islice(read_unit(unit, source, detection.format, shard_rows=SAMPLE), 1))
        if sum(outcome.kept.height for outcome in sample) >= SAMPLE:
            break
    rows = pl.concat([empty(CONVERSATIONS), *(outcome.kept for outcome in sample)]).head(SAMPLE)
    found = curate(rows, [DetectLanguage()]).kept["lang"].value_counts(sort=True)
    shares = {language: count / max(rows.height, 1) for language, count in found.iter_rows()}
    rejected = Counter(code for outcome in sample for code in outcome.rejected["code"])
    edited = Counter(code for outcome in sample for code in outcome.edited["code"])
    size = sum(file.size for file in files)
    seen = sum(outcome.kept.height + outcome.rejected.height for outcome in sample)
    told = (dict(counts.most_common()) for counts in (rejected, edited))
    return _Seen(source, detection, len(files), size, shares, seen, *told)


def _head(title: str, seen: Sequence[_Seen]) -> list[str]:
    files = sum(each.files for each in seen)
    size = sum(each.bytes for each in seen) / 1e6
    return [
        f"# Builds {title} from {files} file{'s' if files != 1 else ''} ({size:,.1f} MB).",
        "# Try it:  sft-data check THIS_FILE     Build it:  sft-data build THIS_FILE",
        f"name: {title}",
        "seed: 17",
    ]


def _sources(seen: Sequence[_Seen]) -> list[str]:
    lines = ["sources:"]
    for each in seen:
        told = each.detection
        shares = ", ".join(f"{language} {share:.0%}" for language, share in list(each.languages.items())[:4])
        lines.append(
            f"  # {told.format}, {told.container}, {told.encoding}: {told.confidence:.0%} of {told.rows} rows fit"
        )
        lines += [f"  #   {' '.join(line.split())}" for line in told.evidence]
        lines.append(f"  # languages of the first rows: {shares or 'none'}")
        lines += _rules(each)
        path = json.dumps(each.source.path, ensure_ascii=False)
        lines += [f"  - name: {each.source.name}", f"    path: {path}", f"    format: {told.format}"]
        lines += [
            "    # weight: 1.0            # how often its training rows are packed: 2 twice, 0.5 every second one"
        ]
        if each.source.name == seen[0].source.name:
            lines += ["    # fields: {}             # which column holds which field of the format, where names differ"]
    return lines


# Which setting decides about a code of the rules: its name under `rules` and what else it can be.
_DECIDES = {
    "consecutive-turns": "consecutive_turns: keep",
    "merged-turns": "consecutive_turns: reject",
    "assistant-first": "assistant_first: drop",
    "unanswered-turn": "after_last_answer: drop",
    "dropped-turns": "after_last_answer: reject",
    "system-inside": "system_inside: keep",
    "empty-turn": "empty_turns: keep",
    "placeholder": "placeholders: reject",
    "split-thinking": "thinking: keep",
}


def _rules(each: _Seen) -> list[str]:
    """What the rules did to the sample, and the settings that do otherwise."""
    lines = []
    for done, counts in (("rejected", each.rejected), ("edited or noted", each.edited)):
        if counts:
            told = ", ".join(f"{code} {count}" for code, count in counts.items())
            lines.append(f"  # {done} among the first {each.sampled} rows: {told}")
    others = dict.fromkeys(_DECIDES[code] for code in (*each.rejected, *each.edited) if code in _DECIDES)
    return [*lines, *(f"  #   to have it otherwise:  rules: {{{other}}}" for other in others)]


def _common(seen: Sequence[_Seen]) -> list[str]:
    """Languages that make up at least a twentieth of a source: these are meant, the others are strays."""
    found = {language for each in seen for language, share in each.languages.items() if share >= 0.05}
    return sorted(found - {"und"})


def _stages(languages: Sequence[str]) -> list[str]:
    return [
        "stages:                    # sft-data stages KIND shows each one's settings and reasons",
        "  - kind: repair-text      # mojibake, control and zero-width characters; drops nothing",
        "  - kind: exact-dedup",
        "  - kind: near-dedup       # a row goes only if its prompt and its answer are near a kept row's",
        "  - kind: detect-language",
        "  - kind: language",
        f"    keep: [{', '.join(languages) or 'en'}]",
        "  - kind: answer-length    # empty answers, and those beyond all measure",
        "  - kind: refusal",
    ]


def _tail() -> list[str]:
    return [
        "split: {validation: 0.02}  # by cluster of near twins, so that none stands on both sides",
        "# A folder with tokenizer.json and a chat template makes tokens with loss masks, and packs of them:",
        "# tokenize: {tokenizer: PATH, max_length: 2048}",
        "# pack: {max_length: 2048}",
        "gates: {min_rows_kept: 0.5, max_rejected_share: {unreadable-row: 0.01}}",
    ]
