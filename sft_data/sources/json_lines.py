"""JSON Lines -> rows. A line ends at a line feed and nowhere else; row numbers are line numbers from 0.

Blank lines are no rows but keep their number, so that a large file can be cut at any line end and every row still
knows its number without reading what stands before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import orjson
from numpy.typing import NDArray

from sft_data.sources.columns import Texts, read_texts
from sft_data.sources.decode import Refused, decode_batch, decode_row
from sft_data.sources.rows import FEW, Broken, Json, Later, Rows, shown
from sft_data.sources.scan import COLONS, DEPTH, END, EVEN, FIELDS, LONG, START, scan_lines
from sft_data.sources.settings import Source
from sft_data.sources.streams import Damage

__all__ = ["read_lines"]


def read_lines(pieces: Iterator[bytes], source: Source, first: int, base: int, batch: int) -> Iterator[Rows]:
    """Rows of `pieces`, at most `batch` of them at a time. `first` and `base`: row and byte at which they start."""
    held, row = b"", first
    skipped = 0  # bytes already dropped of a line that is too long
    head = b""
    limit = source.limits.max_row_bytes
    try:
        for piece in pieces:
            held = held + piece if held else piece
            if skipped:
                cut = held.find(b"\n")
                if cut < 0:
                    skipped, held, base = skipped + len(held), b"", base + len(held)
                    continue
                yield _too_long(head, skipped + cut, row, base - skipped, limit)
                row, base, held, skipped = row + 1, base + cut + 1, held[cut + 1 :], 0
            if (end := held.rfind(b"\n") + 1) > 0:
                yield from _whole_lines(held[:end], source, row, base, batch)
                row, base, held = row + held.count(b"\n", 0, end), base + end, held[end:]
            if len(held) > limit:
                head, skipped, base, held = held, len(held), base + len(held), b""
    except Damage as damage:
        if held.strip():
            yield from _whole_lines(held + b"\n", source, row, base, batch)
        row, base = row + (1 if held.strip() or skipped else 0), base + len(held)
        broken = Broken(row, row + 1, base, damage.code, damage.detail, None)
        yield Rows([], np.zeros(0, np.int64), [broken])
        return
    if skipped:
        yield _too_long(head, skipped, row, base - skipped, limit)
    elif held.strip():
        yield from _whole_lines(held + b"\n", source, row, base, batch)


def _too_long(head: bytes, size: int, row: int, byte: int, limit: int) -> Rows:
    detail = f"{size} > {limit} bytes (max_row_bytes)"
    text = shown(head) if len(head) == size else f"{shown(head)} ... ({size} bytes in all)"
    return Rows([], np.zeros(0, np.int64), [Broken(row, row + 1, byte, "row-too-large", detail, text)])


def _whole_lines(text: bytes, source: Source, row: int, base: int, batch: int) -> Iterator[Rows]:
    """Rows of a text that ends in a line feed."""
    view, position = np.frombuffer(text, np.uint8), 0
    found = np.zeros((batch, FIELDS), np.int64)
    while position < len(text):
        count, position = scan_lines(view, position, len(text), found)
        lines = found[:count]
        numbers = row + np.arange(count, dtype=np.int64)
        filled = lines[:, END] > lines[:, START]
        yield from _decode(text, lines[filled], numbers[filled], source, base)
        row += count


def _decode(
    text: bytes, lines: NDArray[np.int64], numbers: NDArray[np.int64], source: Source, base: int
) -> Iterator[Rows]:
    """Rows of some lines: all at once where they are in order, otherwise piece by piece, at last one by one."""
    if not len(lines):
        yield Rows([], numbers, [])
        return
    clean = _decode_clean(text, lines, source)
    if clean is not None:
        yield _rows(*clean, numbers, [], text, lines, base)
    elif len(lines) > FEW:
        for start in range(0, len(lines), max(FEW, len(lines) // 16)):
            part = slice(start, start + max(FEW, len(lines) // 16))
            yield from _decode(text, lines[part], numbers[part], source, base)
    else:
        yield _one_by_one(text, lines, numbers, source, base)


def _one_by_one(text: bytes, lines: NDArray[np.int64], numbers: NDArray[np.int64], source: Source, base: int) -> Rows:
    values, good, broken = [], [], []
    for index, (number, line) in enumerate(zip(numbers.tolist(), lines.tolist(), strict=True)):
        raw = text[line[START] : line[END]]
        try:
            values.append(_decode_one(raw, line, source))
            good.append(index)
        except Refused as refused:
            place = base + line[START]
            broken.append(Broken(number, number + 1, place, refused.code, refused.detail, shown(raw)))
    return _rows(values, None, numbers[good], broken, text, lines[good], base)


def _decode_one(raw: bytes, line: list[int], source: Source) -> Json:
    limit = source.limits.max_row_bytes
    if len(raw) > limit:
        raise Refused("row-too-large", f"{len(raw)} > {limit} bytes (max_row_bytes)")
    return decode_row(raw, source, colons=line[COLONS], depth=line[DEPTH], long=bool(line[LONG]))


def _decode_clean(text: bytes, lines: NDArray[np.int64], source: Source) -> tuple[Sequence[Json], Texts | None] | None:
    """All lines in one call where nothing is odd about any of them; else None."""
    sizes = lines[:, END] - lines[:, START]
    odd = (lines[:, EVEN] == 0) | (lines[:, LONG] > 0) | (lines[:, DEPTH] > source.limits.max_nesting)
    if odd.any() or sizes.max() > source.limits.max_row_bytes:
        return None
    if (texts := read_texts(text, lines[:, START], lines[:, END])) is not None:
        return Later(len(lines), lambda: orjson.loads(_joined(text, lines))), texts
    values = decode_batch(_joined(text, lines), int(lines[:, COLONS].sum()))
    return None if values is None else (values, None)


def _joined(text: bytes, lines: NDArray[np.int64]) -> bytes:
    """The lines as one JSON list."""
    return b"[" + b",".join([text[start:end] for start, end in lines[:, [START, END]].tolist()]) + b"]"


def _rows(
    values: Sequence[Json],
    texts: Texts | None,
    numbers: NDArray[np.int64],
    broken: list[Broken],
    text: bytes,
    lines: NDArray[np.int64],
    base: int,
) -> Rows:
    starts, ends = lines[:, START].copy(), lines[:, END].copy()
    begin, stop = (int(starts[0]), int(ends[-1])) if len(lines) else (0, 0)
    line = int(numbers[0]) + 1 if len(lines) else 1
    return Rows(values, numbers, broken, text[begin:stop], starts - begin, ends - begin, base + begin, line, texts)
