"""Conversations -> the formats that other tools read: Alpaca, ShareGPT, messages, prompt/completion, records.

What an export writes reads back as the same conversations. A row that a format cannot hold (a tool call in Alpaca, two
rounds in a prompt/completion pair) is not bent: it is named in `left_out`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import polars as pl

from sft_data.formats.turns import METADATA
from sft_data.sources.decode import dump, loads
from sft_data.sources.rows import Json

__all__ = ["EXPORTS", "ExportFormat", "Exported", "export_rows", "write_export"]

ExportFormat = Literal["alpaca", "sharegpt", "messages", "prompt-completion", "record"]


@dataclass
class Exported:
    """How many rows were written, and why others were not: id -> reason."""

    rows: int = 0
    left_out: dict[str, str] = field(default_factory=dict)


class _CannotHold(Exception):  # noqa: N818
    """A format has no place for something that a row has."""


def export_rows(frame: pl.DataFrame, format_: ExportFormat, exported: Exported) -> Iterator[dict[str, Json]]:
    """Rows of CONVERSATIONS in a format; counts them, and notes what the format cannot hold, in `exported`."""
    write = EXPORTS[format_]
    for row in frame.iter_rows(named=True):
        try:
            told = write(row)
        except _CannotHold as reason:
            exported.left_out[row["id"]] = str(reason)
        else:
            exported.rows += 1
            yield told


def write_export(frame: pl.DataFrame, format_: ExportFormat, path: Path) -> Exported:
    """Write a file: Parquet where `path` ends in .parquet, JSON Lines otherwise.

    In Parquet everything but text and the row's weight is JSON text, so that no turn gets the keys of another and
    no number is rounded.
    """
    exported = Exported()
    rows = export_rows(frame, format_, exported)
    if path.suffix == ".parquet":
        cells = [{key: value if key == "weight" else _cell(value) for key, value in row.items()} for row in rows]
        pl.DataFrame(cells, infer_schema_length=None).write_parquet(path)
        return exported
    with path.open("wb") as stream:
        for row in rows:
            stream.write(dump(row).encode() + b"\n")
    return exported


def _cell(value: Json) -> Json:
    return value if isinstance(value, str) else dump(value)


def _plain_text(turn: dict[str, Json], format_: str) -> str:
    """The text of a turn that has nothing else."""
    for name in ("tool_calls", "tool_call_id", "name", "weight"):
        if turn[name] is not None:
            raise _CannotHold(f"{format_} has no place for `{name}` of a turn")
    return _with_thoughts(turn)


def _with_thoughts(turn: dict[str, Json]) -> str:
    """The text, behind its reasoning in <think> marks where it has some; what would read back otherwise is refused."""
    content: str = turn["content"]
    thoughts = turn["reasoning"]
    if thoughts is None:
        if turn["role"] == "assistant" and content.lstrip().startswith("<think>"):
            raise _CannotHold("its text begins with <think> but holds no reasoning")
        return content
    if thoughts != thoughts.strip("\n") or content != content.lstrip("\n") or "</think>" in thoughts:
        raise _CannotHold("its reasoning would not read back the same")
    return f"<think>\n{thoughts}\n</think>\n\n{content}"


def _more(row: dict[str, Json], taken: frozenset[str]) -> dict[str, Json]:
    """Metadata and further columns; a column named like one of the format's own stays out."""
    more = {name: row[name] for name in METADATA if row[name] is not None}
    if row["weight"] != 1.0:
        more["weight"] = row["weight"]
    extra = loads(row["extra"]) if row["extra"] is not None else {}
    clash = sorted(taken & set(extra))
    if clash:
        raise _CannotHold(f"its own column `{clash[0]}` stands where the format has another")
    return more | extra


def _rounds(row: dict[str, Json], format_: str) -> tuple[str | None, list[tuple[str, str]]]:
    """The system text, and questions with their answers."""
    if row["tools"] is not None:
        raise _CannotHold(f"{format_} has no place for tools")
    turns = row["messages"]
    system = _plain_text(turns[0], format_) if turns[0]["role"] == "system" else None
    rest = turns[0 if system is None else 1 :]
    if [turn["role"] for turn in rest] != ["user", "assistant"] * (len(rest) // 2) or not rest:
        raise _CannotHold(f"{format_} holds questions and answers in turn, nothing else")
    texts = [_plain_text(turn, format_) for turn in rest]
    return system, list(zip(texts[::2], texts[1::2], strict=True))


def _alpaca(row: dict[str, Json]) -> dict[str, Json]:
    system, rounds = _rounds(row, "alpaca")
    *history, (question, answer) = rounds
    made: dict[str, Json] = {"instruction": question, "input": "", "output": answer}
    if system is not None:
        made["system"] = system
    if history:
        made["history"] = [list(pair) for pair in history]
    return made | _more(row, frozenset({*made, "system", "history"}))


def _pair(row: dict[str, Json]) -> dict[str, Json]:
    system, rounds = _rounds(row, "prompt-completion")
    if len(rounds) != 1:
        raise _CannotHold("prompt-completion holds one question and one answer")
    made = {"prompt": rounds[0][0], "completion": rounds[0][1]} | ({} if system is None else {"system": system})
    return made | _more(row, frozenset({*made, "system", "response", "context", "question"}))


def _record(row: dict[str, Json]) -> dict[str, Json]:
    """The unified instruction record: {id, instruction, input, output, metadata}."""
    system, rounds = _rounds(row, "record")
    if system is not None or len(rounds) != 1:
        raise _CannotHold("a record holds one question and one answer")
    given = {"source": row["source"], **{name: row[name] for name in METADATA if row[name] is not None}}
    return {"id": row["id"], "instruction": rounds[0][0], "input": "", "output": rounds[0][1], "metadata": given}


def _sharegpt(row: dict[str, Json]) -> dict[str, Json]:
    speakers = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}
    turns: list[dict[str, Json]] = []
    for turn in row["messages"]:
        if turn["tool_calls"] is not None:
            if turn["content"] or turn["reasoning"] is not None:
                raise _CannotHold("sharegpt has no turn with both a text and a call of a tool")
            _plain_text(turn | {"tool_calls": None}, "sharegpt")
            turns.append({"from": "function_call", "value": turn["tool_calls"]})
        else:
            turns.append({"from": speakers[turn["role"]], "value": _plain_text(turn, "sharegpt")})
    made: dict[str, Json] = {"conversations": turns}
    if row["tools"] is not None:
        made["tools"] = row["tools"]
    return made | _more(row, frozenset({"conversations", "messages", "conversation", "tools", "system"}))


def _messages(row: dict[str, Json]) -> dict[str, Json]:
    """The fullest format: everything that the schema holds has a place."""
    made: dict[str, Json] = {"messages": [_message(turn) for turn in row["messages"]]}
    if row["tools"] is not None:
        made["tools"] = loads(row["tools"])
    return made | _more(row, frozenset({"messages", "conversations", "conversation", "tools", "system"}))


def _message(turn: dict[str, Json]) -> dict[str, Json]:
    told = {"role": turn["role"], "content": turn["content"]}
    if turn["reasoning"] is not None:
        told["reasoning_content"] = turn["reasoning"]
    elif turn["role"] == "assistant":
        _with_thoughts(turn)
    if turn["tool_calls"] is not None:
        told["tool_calls"] = [_call(call) for call in loads(turn["tool_calls"])]
    return told | {name: turn[name] for name in ("tool_call_id", "name", "weight") if turn[name] is not None}


def _call(call: dict[str, Json]) -> dict[str, Json]:
    """A call as OpenAI writes it: the arguments as JSON text."""
    function: dict[str, Json] = {"name": call["name"]}
    if "arguments" in call:
        given = call["arguments"]
        if not isinstance(given, str | dict):
            raise _CannotHold("arguments of a call that are neither an object nor text")
        function["arguments"] = given if isinstance(given, str) else dump(given)
    made: dict[str, Json] = {"type": "function", "function": function}
    return ({"id": call["id"]} | made) if "id" in call else made


EXPORTS: dict[str, Callable[[dict[str, Json]], dict[str, Json]]] = {
    "alpaca": _alpaca,
    "sharegpt": _sharegpt,
    "messages": _messages,
    "prompt-completion": _pair,
    "record": _record,
}
