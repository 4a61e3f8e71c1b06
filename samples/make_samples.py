"""Writes the sample files and the table in README.md from the texts below texts/. The same bytes every time.

python samples/make_samples.py [FOLDER]
"""

from __future__ import annotations

import gzip
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from texts import alpaca_en, alpaca_zh, chats, talks
from texts.planted import Row

FILES: dict[str, tuple[str, Sequence[Row]]] = {  # file -> the source's name in the pipeline, rows
    "alpaca_en.json": ("alpaca", alpaca_en.ROWS),
    "alpaca_zh.jsonl": ("alpaca-zh", alpaca_zh.ROWS),
    "sharegpt.jsonl.gz": ("chats", chats.ROWS),
    "messages.jsonl": ("messages", talks.ROWS),
}
BEGIN, END = "<!-- made by make_samples.py -->\n", "<!-- end -->\n"


def content(name: str, rows: Sequence[Row]) -> bytes:
    """A file's bytes, as its name says."""
    if name.endswith(".json"):
        return ("[\n" + ",\n".join(f"  {row.text}" for row in rows) + "\n]\n").encode()
    lines = "".join(f"{row.text}\n" for row in rows).encode()
    return gzip.compress(lines, compresslevel=9, mtime=0) if name.endswith(".gz") else lines


def table() -> str:
    """What must become of every planted row, as Markdown."""
    lines = ["| row | fault | fate | stage | code |", "|---|---|---|---|---|"]
    for name, (source, rows) in FILES.items():
        for number, row in enumerate(rows):
            if row.fault:
                fault = row.fault.replace("|", "\\|")
                cells = (
                    f"`{source}:{name}:{number}`",
                    fault,
                    row.fate,
                    row.stage and f"`{row.stage}`",
                    row.code and f"`{row.code}`",
                )
                lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(folder: Path) -> None:
    """Write all files."""
    for name, (_, rows) in FILES.items():
        (folder / name).write_bytes(content(name, rows))
    readme = folder / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    readme.write_text(before + BEGIN + table() + END + after, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
