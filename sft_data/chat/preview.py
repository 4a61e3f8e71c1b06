"""What exactly will the model be trained on: rows of a version token by token, the trained ones told apart.

The rows are read from the version's own files and spelt with the version's own tokenizer: nothing is rendered again.
"""

from __future__ import annotations

import base64
import codecs
import hashlib
import html
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console
from rich.text import Text

from sft_data.errors import StoreError
from sft_data.pack.shards import IGNORED, TokenReader
from sft_data.report.visible import visible
from sft_data.store.layout import scan_table, splits_of, stream_files
from sft_data.store.read import load_manifest
from sft_data.tokenize.tokenizer import LoadedTokenizer, load_tokenizer

__all__ = ["Preview", "PreviewRow", "PreviewSpan", "preview", "print_preview", "render_preview"]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True)


class PreviewSpan(_Model):
    """A stretch that is trained on."""

    turn: int = Field(description="number of the message in the conversation; -1 where the whole row is trained")
    start: int = Field(description="first token")
    end: int = Field(description="behind its last token, the stop token")
    weight: float = Field(description="weight of its loss")


class PreviewRow(_Model):
    """One row of tokens."""

    id: str
    source: str
    split: str
    row: int = Field(description="row number in the split's tokens")
    ids: list[int] = Field(description="input_ids")
    tokens: list[str] = Field(description="each token's text; of several that spell one character, the last has it")
    labels: list[int] = Field(description="as on disk: the token's id where it is learnt, else -100")
    weights: list[float] | None = Field(
        default=None, description="loss weight of each token; null where the version has none: 1 where it is learnt"
    )
    specials: list[bool] = Field(description="whether the token steers the model instead of being text")
    spans: list[PreviewSpan]
    trained: int = Field(description="how many tokens are learnt")
    proof: str = Field(description="how the spans were found and proved")


class Preview(_Model):
    """Rows of one version."""

    version: str = Field(description="folder of the version")
    tokenizer: str
    rows: list[PreviewRow]


def preview(folder: Path, row_ids: Sequence[str] | None = None, n: int = 3) -> Preview:
    """The named rows, or `n` rows spread evenly over the train split (over the first split there is)."""
    splits = splits_of(folder, "sidecar")
    if not splits:
        raise StoreError(f"{folder} holds no tokens: its pipeline has no `tokenize` section")
    chosen = _named(folder, splits, row_ids) if row_ids else _spread(folder, splits[0], n)
    tokenizer = load_tokenizer(str(folder / "tokenizer"))
    entry = load_manifest(folder).tokenizer
    name = entry.name if entry else tokenizer.name
    rows = [row for split in splits for row in _rows(folder, split, chosen.filter(split=split), tokenizer)]
    return Preview(version=str(folder), tokenizer=name, rows=rows)


def print_preview(console: Console, found: Preview) -> None:
    """Tokens in the terminal: trained ones green (yellow where they weigh other than 1), special ones reversed.

    Every line break stands there also as a sign.
    """
    for row in found.rows:
        told = f"{row.id}  {row.split}  {row.trained} of {len(row.ids)} tokens trained  {row.proof}"
        console.print(Text(visible(told), style="bold"))
        text = Text(overflow="fold")
        for token, label, special, weight in zip(row.tokens, row.labels, row.specials, _weights(row), strict=True):
            style = "dim" if label == IGNORED else "green" if weight == 1 else "yellow"
            text.append(_signs(token), style=f"{style} reverse" if special else style)
        console.print(text)
        console.print(Text("weights: " + ", ".join(_span_told(span) for span in row.spans), style="dim"))
        console.print()


def render_preview(found: Preview) -> str:
    """One self-contained HTML page: no script, no request to anywhere; texts of the data are escaped."""
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    body = "\n".join(_section(row) for row in found.rows)
    return _PAGE.format(policy=f"default-src 'none'; style-src 'sha256-{digest}'", style=_STYLE, body=body)


def _named(folder: Path, splits: Sequence[str], row_ids: Sequence[str]) -> pl.DataFrame:
    tables = [
        scan_table(folder, "sidecar", split)
        .with_columns(row=pl.int_range(pl.len(), dtype=pl.Int64), split=pl.lit(split))
        .filter(pl.col("id").is_in(list(row_ids)))
        for split in splits
    ]
    found = pl.concat(tables).collect()
    missing = sorted(set(row_ids) - set(found["id"]))
    if missing:
        raise StoreError(
            f"row {missing[0]!r} has no tokens in {folder}: `sft-data why` tells what became of it; ids look like "
            "alpaca:alpaca_data.json:17"
        )
    return found


def _spread(folder: Path, split: str, n: int) -> pl.DataFrame:
    table = scan_table(folder, "sidecar", split)
    total = int(table.select(pl.len()).collect().item())
    rows = sorted({total * i // n for i in range(min(n, total))})
    table = table.with_columns(row=pl.int_range(pl.len(), dtype=pl.Int64), split=pl.lit(split))
    return table.filter(pl.col("row").is_in(rows)).collect()


def _rows(folder: Path, split: str, chosen: pl.DataFrame, tokenizer: LoadedTokenizer) -> Iterator[PreviewRow]:
    if chosen.height == 0:
        return
    reader = TokenReader(stream_files(folder, "tokens", split))
    columns, lengths = reader.columns_of(chosen["row"].to_numpy(), reader.columns)
    flat, labels, weights = columns["input_ids"], columns["labels"], columns.get("loss_weights")
    steering = set(tokenizer.control_ids.tolist())
    ends = np.cumsum(lengths).tolist()
    for entry, end, length in zip(chosen.iter_rows(named=True), ends, lengths.tolist(), strict=True):
        ids = flat[end - length : end].tolist()
        yield PreviewRow(
            id=entry["id"],
            source=entry["source"],
            split=split,
            row=entry["row"],
            ids=ids,
            tokens=_spelt(tokenizer, ids),
            labels=labels[end - length : end].tolist(),
            weights=None if weights is None else weights[end - length : end].tolist(),
            specials=[token in steering for token in ids],
            spans=[PreviewSpan(**span) for span in entry["spans"]],
            trained=entry["trained"],
            proof=entry["proof"],
        )


def _spelt(tokenizer: LoadedTokenizer, ids: Sequence[int]) -> list[str]:
    """The text of each token; a character that several tokens spell together stands with the last of them."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="backslashreplace")
    return [decoder.decode(tokenizer.bytes.of(np.array([token])).tobytes()) for token in ids]


def _signs(token: str) -> str:
    """A token as it can be looked at: a line break is shown and made."""
    return visible(token).replace("\n", "↵\n")


def _weights(row: PreviewRow) -> Sequence[float]:
    return row.weights if row.weights is not None else [1.0] * len(row.ids)


def _span_told(span: PreviewSpan) -> str:
    turn = "all" if span.turn < 0 else f"turn {span.turn}"
    return f"{turn} [{span.start}, {span.end}) x {span.weight:g}"


def _section(row: PreviewRow) -> str:
    starts = {span.start: span for span in row.spans}
    tokens = []
    parts = zip(row.tokens, row.labels, row.specials, _weights(row), strict=True)
    for number, (token, label, special, weight) in enumerate(parts):
        if number in starts:
            tokens.append(f"<sup>{html.escape(_span_told(starts[number]))}</sup>")
        kinds = " ".join(
            [
                *(["t" if weight == 1 else "w"] if label != IGNORED else []),
                *(["s"] if special else []),
                *(["e"] if number % 2 else []),
            ]
        )
        told = f"{number}: {row.ids[number]}" + (f", weight {weight:g}" if label != IGNORED and weight != 1 else "")
        tokens.append(f'<span class="{kinds}" title="{told}">{html.escape(_signs(token))}</span>')
    told = f"{row.split}, row {row.row}: {row.trained} of {len(row.ids)} tokens trained, proof {row.proof}"
    head = f"<h2>{html.escape(visible(row.id))}</h2><p>{html.escape(told)}</p>"
    return f"<section>{head}<pre>{''.join(tokens)}</pre></section>"


_STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --paper: #fff; --trained: #bfe8c5; --weighted: #f6dfa6;
  --even: #f0f0f0; --line: #999; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e8; --paper: #161616; --trained: #1f5c2b; --weighted: #6b5210;
    --even: #242424; --line: #777; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  margin: 2rem auto; padding: 0 1rem; max-width: 60rem; }
h2 { font-size: 1rem; overflow-wrap: anywhere; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; padding: 0.8rem;
  border: 1px solid var(--line); border-radius: 6px; }
.e { background: var(--even); }
.t { background: var(--trained); }
.w { background: var(--weighted); }
.t.e, .w.e { filter: brightness(0.92); }
.s { outline: 1px solid currentColor; border-radius: 3px; font-weight: 600; }
sup { font: 0.65rem system-ui, sans-serif; color: var(--line);
  border-left: 2px solid var(--line); padding-left: 0.2rem; }
""".strip()

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>What is trained on</title>
<style>{style}</style>
</head>
<body>
<h1>What is trained on</h1>
<p>Green tokens are learnt, yellow ones with another weight than 1 (their title tells it), outlined ones
steer the model, ↵ is a line break. A turn starts at its number.</p>
{body}
</body>
</html>
"""
