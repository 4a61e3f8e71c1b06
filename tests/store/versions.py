"""A small, consistent version made by hand: every table of a real one, with counts that one can check by eye.

Twelve rows are read from one file: 8 are kept (6 train, 2 validation), 4 leave: one unreadable line, one exact and
one near duplicate, one with a short answer. One kept row was edited. A token is a byte of the text plus 10.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pyarrow as pa

from sft_data.schema import EDITS, PACK_INDEX, REJECTIONS, SIDECAR, conform
from sft_data.store.manifest import Counts, InputFile, Manifest, SplitCounts, StepEntry, TokenizerEntry
from sft_data.store.publish import Published, build_bytes, file_entry, manifest_bytes, publish
from sft_data.store.read import load_build, load_manifest
from tests.frames import chat, conversations

STOP = 2
PACK_LENGTH = 256
CODES = {
    "unreadable-row": "The row is not valid JSON.",
    "same-conversation": "All turns equal those of an earlier row.",
    "near-duplicate": "Its words are nearly those of an earlier row.",
    "answer-too-short": "The last answer has fewer characters than the limit.",
    "mojibake": "Text decoded with a wrong encoding was mended.",
}
HOSTILE = '<script>alert("x")</script> [bold]loud[/bold] \x1b[31mred \u202eback | pipe `tick`'


@dataclass(frozen=True)
class Ingredients:
    """What `publish` is called with."""

    manifest: Manifest
    files: dict[str, Path]
    texts: dict[str, str]


def row_id(number: int) -> str:
    """Id of a row of the small version."""
    return f"s:a.json:{number}"


def kept_rows(answers: dict[int, str] | None = None) -> pl.DataFrame:
    """The eight rows that stay, with the annotation columns of language and split; `answers` replaces some answers."""
    said = {
        0: ("What is the capital of France?", "Paris is the capital of France.", "en", "train", 0),
        1: ("写一首关于春天的诗。", "春眠不觉晓，处处闻啼鸟。", "zh", "train", 1),
        2: ("Name three colours.", "Red, green and blue are three colours.", "en", "train", 2),
        4: ("Add 2 and 3.", "Two plus three equals five.", "en", "validation", 4),
        5: ("Say it loud.", HOSTILE, "en", "train", 5),
        7: ("What is water?", "Water is a liquid made of hydrogen and oxygen.", "en", "train", 7),
        9: ("Who wrote Hamlet?", "William Shakespeare wrote Hamlet.", "en", "validation", 9),
        10: ("Explain rain.", "Warm air rises, cools down and gives back its water.", "en", "train", 10),
    }
    rows = []
    for number, (asked, answer, lang, split, cluster) in said.items():
        told = (answers or {}).get(number, answer)
        row = chat(row_id(number), told, asked, lang=lang, lang_score=0.99, cluster=row_id(cluster), split=split)
        rows.append(row)
    return conversations(*rows).cast(
        {"lang": pl.String, "lang_score": pl.Float64, "cluster": pl.String, "split": pl.String}
    )


def rejected_rows() -> pl.DataFrame:
    """The three rows that left after they were conversations, and the one that never was one."""
    gone = conversations(
        chat(row_id(3), "Paris is the capital of France.", "What is the capital of France?"),
        chat(row_id(6), "Water is a liquid that is made of hydrogen and oxygen.", "What is water?"),
        chat(row_id(8), "No.", HOSTILE),
    )
    told = {
        row_id(3): ("exact-dedup", "same-conversation", "all turns are equal", row_id(0), 1.0),
        row_id(6): ("near-dedup", "near-duplicate", "0.81 >= 0.80", row_id(7), 0.81),
        row_id(8): ("answer-length", "answer-too-short", "3 < 20 characters", None, None),
    }
    rows = [
        {"id": i, "source": "s", "stage": told[i][0], "code": told[i][1], "detail": told[i][2], "twin": told[i][3],
         "score": told[i][4], "text": orjson.dumps({"messages": messages, "tools": None}).decode()}
        for i, messages in zip(gone["id"], gone["messages"].to_list(), strict=True)
    ]  # fmt: skip
    broken = {"id": row_id(11), "source": "s", "stage": "read", "code": "unreadable-row", "detail": "unexpected end",
              "text": '{"instruction": "bro', "file": "a.json", "line": 12, "byte": 999}  # fmt: skip
    return conform(pl.DataFrame([broken, *rows], schema=dict(REJECTIONS)), REJECTIONS)


def edited_rows() -> pl.DataFrame:
    """The one edit."""
    edit = {
        "id": row_id(0),
        "source": "s",
        "stage": "repair-text",
        "code": "mojibake",
        "count": 2,
        "detail": "FranÃ§e -> France",
    }
    return pl.DataFrame([edit], schema=dict(EDITS))


def tokens_of(messages: list[dict[str, Any]]) -> tuple[list[int], list[int], list[dict[str, Any]]]:
    """Bytes of the turns, each closed by the stop token; the answers are trained."""
    ids: list[int] = []
    labels: list[int] = []
    spans = []
    for turn, message in enumerate(messages):
        piece = [byte + 10 for byte in message["content"].encode()] + [STOP]
        if message["role"] == "assistant":
            spans.append({"turn": turn, "start": len(ids), "end": len(ids) + len(piece), "weight": 1.0})
        labels += piece if message["role"] == "assistant" else [-100] * len(piece)
        ids += piece
    return ids, labels, spans


def ingredients(
    folder: Path, *, name: str = "small", answers: dict[int, str] | None = None, salt: str = ""
) -> Ingredients:
    """All files of the small version, written below `folder` as a build's cells would be."""
    folder.mkdir(parents=True, exist_ok=True)
    kept, rejected = kept_rows(answers), rejected_rows()
    files = {
        "rejections/00000.parquet": _parquet(rejected, folder / "rejections.parquet"),
        "edits/00000.parquet": _parquet(edited_rows(), folder / "edits.parquet"),
    }
    texts = {"tokenizer/chat_template.jinja": "{{ messages }}", "tokenizer/tokenizer.json": "{}"}
    splits = {}
    for split in ("train", "validation"):
        rows = kept.filter(pl.col("split") == split)
        made = _split(rows, split, folder)
        files |= made[0]
        texts |= made[1]
        splits[split] = made[2]
    for path in files.values():
        path.chmod(0o444)
    return Ingredients(_manifest(name, salt + repr(answers), splits), files, texts)


def _split(rows: pl.DataFrame, split: str, folder: Path) -> tuple[dict[str, Path], dict[str, str], SplitCounts]:
    tokenized = [tokens_of(messages) for messages in rows["messages"].to_list()]
    lengths = [len(ids) for ids, _, _ in tokenized]
    trained = [sum(label != -100 for label in labels) for _, labels, _ in tokenized]
    side = pl.DataFrame(
        {"id": rows["id"], "source": rows["source"], "split": rows["split"], "tokens": lengths, "trained": trained,
         "spans": [spans for _, _, spans in tokenized], "proof": ["marks+bytes"] * rows.height},
        schema=dict(SIDECAR),
    )  # fmt: skip
    packs = _first_fit(lengths)
    index = pl.DataFrame(
        [(number, place, row, lengths[row]) for number, pack in enumerate(packs) for place, row in enumerate(pack)],
        schema=dict(PACK_INDEX), orient="row",
    )  # fmt: skip
    joined = [
        (
            [token for row in pack for token in tokenized[row][0]],
            [label for row in pack for label in tokenized[row][1]],
            [lengths[r] for r in pack],
        )
        for pack in packs
    ]
    files = {
        f"conversations/{split}/00000.parquet": _parquet(rows, folder / f"rows-{split}.parquet"),
        f"sidecar/{split}/00000.parquet": _parquet(side, folder / f"side-{split}.parquet"),
        f"pack_index/{split}/00000.parquet": _parquet(index, folder / f"index-{split}.parquet"),
        f"tokens/{split}/data-00000-of-00001.arrow": _stream(
            {"input_ids": [t[0] for t in tokenized], "labels": [t[1] for t in tokenized]},
            folder / f"tokens-{split}.arrow",
        ),
        f"packs/{split}/data-00000-of-00001.arrow": _stream(
            dict(zip(("input_ids", "labels", "seq_lengths"), map(list, zip(*joined, strict=True)), strict=True)),
            folder / f"packs-{split}.arrow",
        ),
    }
    state = orjson.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": None}).decode()
    texts = {f"{table}/{split}/{file}": state if file == "state.json" else "{}"
             for table in ("tokens", "packs") for file in ("state.json", "dataset_info.json")}  # fmt: skip
    counts = SplitCounts(
        rows=rows.height,
        tokens=sum(lengths),
        trained_tokens=sum(trained),
        packs=len(packs),
        pack_slots=len(packs) * PACK_LENGTH,
    )
    return files, texts, counts


def _first_fit(lengths: list[int]) -> list[list[int]]:
    packs: list[list[int]] = []
    for row, length in enumerate(lengths):
        home = next((p for p in packs if sum(lengths[r] for r in p) + length <= PACK_LENGTH), None)
        if home is None:
            packs.append([row])
        else:
            home.append(row)
    return packs


def _parquet(frame: pl.DataFrame, path: Path) -> Path:
    frame.write_parquet(path)
    return path


def _stream(columns: dict[str, list[list[int]]], path: Path) -> Path:
    table = pa.table({name: pa.array(values, pa.list_(pa.int32())) for name, values in columns.items()})
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table)
    return path


def _manifest(name: str, salt: str, splits: dict[str, SplitCounts]) -> Manifest:
    import hashlib

    def step(
        name: str, kind: str, rows_in: int, rejected: dict[str, int], edited: dict[str, int] | None = None
    ) -> StepEntry:
        codes = {code: CODES[code] for code in {**rejected, **(edited or {})}}
        return StepEntry(
            name=name, kind=kind, revision=1, fingerprint="f" * 64, settings={"kind": kind}, rows_in=rows_in,
            rows_kept=rows_in - sum(rejected.values()), rejected=rejected, edited=edited or {}, codes=codes,
        )  # fmt: skip

    return Manifest(
        name=name,
        fingerprint=hashlib.sha256(salt.encode()).hexdigest(),
        pipeline={
            "name": name, "seed": 17, "sources": [{"name": "s", "path": "a.json"}],
            "stages": [{"kind": "answer-length", "min_chars": 20}],
        },
        inputs=[InputFile(source="s", file="a.json", sha256="a" * 64, bytes=1234)],
        steps=[
            step("read:s", "read", 12, {"unreadable-row": 1}),
            step("01:repair-text", "repair-text", 11, {}, {"mojibake": 1}),
            step("02:exact-dedup", "exact-dedup", 11, {"same-conversation": 1}),
            step("03:near-dedup", "near-dedup", 10, {"near-duplicate": 1}),
            step("04:detect-language", "detect-language", 9, {}),
            step("05:answer-length", "answer-length", 9, {"answer-too-short": 1}),
            step("split", "split", 8, {}),
            step("tokenize", "tokenize", 8, {}),
        ],
        libraries={"polars": "2.1.0"},
        tokenizer=TokenizerEntry(
            name="bytes", sha256="b" * 64, template_sha256="c" * 64,
            vocab_size=266, max_length=256, pack_length=PACK_LENGTH, stop_token_ids=[STOP]
        ),
        counts=Counts(
            rows_in=12, rows_kept=8, rows_rejected=4,
            by_source={"s": {"rows_in": 12, "rows_kept": 8, "rows_rejected": 4}}, splits=splits
        ),
        gates={"min_rows_kept": {"limit": 0.5, "measured": 0.666667, "passed": True}},
    )  # fmt: skip


def published(store: Path, folder: Path, **how: Any) -> Published:
    """The small version, published; `folder` takes the files that it is made of."""
    draft = how.pop("draft", False)
    made = ingredients(folder, **how)
    build = {
        "created": "2026-11-22T18:00:00Z",
        "workers": 1,
        "stages": [{"step": "read:s", "seconds": 0.5, "reused": False}],
    }
    return publish(store, made.manifest, made.files, made.texts, build, draft=draft)


def reseal(folder: Path, **changes: Any) -> None:
    """Write manifest and build record anew, with right hashes of whatever the files now hold: a lie told well."""
    manifest = load_manifest(folder)
    entries = [file_entry(folder, folder / entry.path) for entry in manifest.files if (folder / entry.path).exists()]
    written = manifest_bytes(manifest.model_copy(update={"files": entries, **changes}))
    build = load_build(folder)
    for name, content in (("manifest.json", written), ("build.json", build_bytes(build, written))):
        (folder / name).unlink()
        (folder / name).write_bytes(content)


def rewrite(path: Path, content: bytes) -> None:
    """Replace a read-only file, leaving other names of the same file alone."""
    path.unlink()
    path.write_bytes(content)


def rewrite_parquet(path: Path, frame: pl.DataFrame) -> None:
    """Replace a table of a version."""
    path.unlink()
    frame.write_parquet(path)


def rewrite_stream(path: Path, columns: dict[str, list[list[int]]]) -> None:
    """Replace an Arrow stream of a version."""
    path.unlink()
    _stream(columns, path)
