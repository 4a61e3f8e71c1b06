"""The preview as one self-contained HTML page."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Sequence

from sft_data.chat.preview.pieces import (
    Piece,
    pack_told,
    padding_told,
    pieces,
    row_told,
    segment_told,
    signs,
    span_told,
)
from sft_data.chat.preview.read import Preview, PreviewPack, PreviewRow, PreviewSpan
from sft_data.report.visible import visible

__all__ = ["render_preview"]


def render_preview(found: Preview) -> str:
    """One self-contained HTML page: no script, no request to anywhere; texts of the data are escaped."""
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    sections = [_row(row) for row in found.rows]
    if found.pack is not None:
        sections.insert(0, _pack(found.pack))
    return _PAGE.format(
        policy=f"default-src 'none'; style-src 'sha256-{digest}'",
        style=_STYLE,
        tokenizer=html.escape(visible(found.tokenizer)),
        body="\n".join(sections),
    )


def _row(row: PreviewRow) -> str:
    head = f"<h2>{html.escape(visible(row.id))}</h2><p>{html.escape(row_told(row))}</p>"
    return f"<section>{head}<pre>{_tokens(pieces(row), row.spans)}</pre></section>"


def _pack(pack: PreviewPack) -> str:
    parts = [f"<section><h2>{html.escape(pack_told(pack))}</h2>"]
    for number, segment in enumerate(pack.segments, start=1):
        tokens = _tokens(pieces(pack, segment.start, segment.end), segment.spans)
        told = html.escape(segment_told(pack, number, segment))
        parts.append(f'<div class="segment"><h3>{html.escape(visible(segment.id))}</h3><p>{told}</p>')
        parts.append(f"<pre>{tokens}</pre></div>")
    kind = "padding" if pack.padding else "full"
    parts.append(f'<p class="{kind}">{html.escape(padding_told(pack))}</p></section>')
    return "".join(parts)


def _tokens(shown: Sequence[Piece], spans: Sequence[PreviewSpan]) -> str:
    starts = {span.start: span for span in spans}
    tokens = []
    for piece in shown:
        if piece.number in starts:
            tokens.append(f"<sup>{html.escape(span_told(starts[piece.number]))}</sup>")
        learnt = ["t" if piece.weight == 1 else "w"] if piece.trained else []
        kinds = " ".join([*learnt, *(["s"] if piece.special else []), *(["e"] if piece.number % 2 else [])])
        weight = f", weight {piece.weight:g}" if piece.trained and piece.weight != 1 else ""
        told = f"{piece.number}: {piece.id}{weight}"
        tokens.append(f'<span class="{kinds}" title="{told}">{html.escape(signs(piece.token))}</span>')
    return "".join(tokens)


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
h3 { font-size: 0.95rem; overflow-wrap: anywhere; margin: 1.6rem 0 0; }
h3 + p { margin: 0.1rem 0 0.5rem; color: var(--line); font-size: 0.85rem; }
pre { margin: 0.5rem 0; }
.padding, .full { color: var(--line); font-size: 0.85rem; }
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
steer the model, ↵ is a line break. A turn starts at its number. Tokenizer: {tokenizer}.</p>
{body}
</body>
</html>
"""
