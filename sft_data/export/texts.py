"""Targets that take conversations: JSON files, written row by row from one shard after the other."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from sft_data.errors import StoreError
from sft_data.store.layout import parquet_files, splits_of

__all__ = ["alpaca", "messages", "sharegpt"]

Row = dict[str, Any]

# ShareGPT's names of the speakers, with the two that LLaMA-Factory added for tools.
SPEAKERS = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}


def messages(folder: Path, out: Path) -> int:
    """One JSON line per conversation in OpenAI's form; every row fits."""
    return _write(folder, out, "jsonl", _as_messages)


def alpaca(folder: Path, out: Path) -> int:
    """Instruction, input, output, system, history; rows with tools or another order of speakers do not fit."""
    return _write(folder, out, "json", _as_alpaca)


def sharegpt(folder: Path, out: Path) -> int:
    """`conversations` of `from` and `value`, `system`, `tools`; turns that both speak and call do not fit."""
    return _write(folder, out, "json", _as_sharegpt)


def _write(folder: Path, out: Path, kind: str, form: Callable[[Row], Row | None]) -> int:
    """Write one file per split; the number of rows that the form cannot hold."""
    splits = splits_of(folder, "conversations")
    if not splits:
        raise StoreError(f"{folder} holds no conversations")
    left_out = 0
    out.mkdir(parents=True, exist_ok=True)
    for split in splits:
        with (out / f"{split}.{kind}").open("w", encoding="utf-8") as file:
            opening, between, closing = ("", "\n", "\n") if kind == "jsonl" else ("[\n", ",\n", "\n]\n")
            file.write(opening)
            first = True
            for row in _rows(folder, split):
                shaped = form(row)
                left_out += shaped is None
                if shaped is not None:
                    file.write(("" if first else between) + json.dumps(shaped, ensure_ascii=False))
                    first = False
            file.write(closing)
    return left_out


def _rows(folder: Path, split: str) -> Iterator[Row]:
    for path in parquet_files(folder, "conversations", split):
        yield from pl.read_parquet(path).iter_rows(named=True)


def _as_messages(row: Row) -> Row:
    shaped: Row = {"id": row["id"], "source": row["source"], "messages": [_message(m) for m in row["messages"]]}
    return shaped | ({"tools": _tools(row["tools"])} if row["tools"] is not None else {})


def _message(message: Mapping[str, Any]) -> Row:
    shaped: Row = {"role": message["role"], "content": message["content"]}
    if message["reasoning"] is not None:
        shaped["reasoning_content"] = message["reasoning"]
    if message["tool_calls"] is not None:
        shaped["tool_calls"] = [_call(call) for call in json.loads(message["tool_calls"])]
    for key in ("tool_call_id", "name", "weight"):
        if message[key] is not None:
            shaped[key] = message[key]
    return shaped


def _call(call: Row) -> Row:
    """A call in OpenAI's form, whose arguments are JSON text."""
    arguments = call.get("arguments", {})
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    more = {"id": call["id"]} if "id" in call else {}
    return more | {"type": "function", "function": {"name": call.get("name", ""), "arguments": text}}


def _tools(text: str) -> Any:  # noqa: ANN401  # whatever JSON the data offers
    tools = json.loads(text)
    listed = tools if isinstance(tools, list) else [tools]
    return [
        {"type": "function", "function": tool} if isinstance(tool, dict) and "function" not in tool else tool
        for tool in listed
    ]


def _as_alpaca(row: Row) -> Row | None:
    said = list(row["messages"])
    system = said.pop(0)["content"] if said and said[0]["role"] == "system" else None
    roles = [message["role"] for message in said]
    plain = all(m["tool_calls"] is None and m["reasoning"] is None for m in said) and row["tools"] is None
    if not plain or not said or roles != ["user", "assistant"] * (len(said) // 2):
        return None
    texts = [message["content"] for message in said]
    shaped: Row = {"instruction": texts[-2], "input": "", "output": texts[-1]}
    if system is not None:
        shaped["system"] = system
    if len(texts) > 2:
        shaped["history"] = [list(pair) for pair in zip(texts[:-2:2], texts[1:-2:2], strict=True)]
    return shaped


def _as_sharegpt(row: Row) -> Row | None:
    said = list(row["messages"])
    system = said.pop(0)["content"] if said and said[0]["role"] == "system" else None
    turns = []
    for message in said:
        if message["reasoning"] is not None or (message["tool_calls"] is not None and message["content"]):
            return None
        if message["tool_calls"] is None:
            turns.append({"from": SPEAKERS[message["role"]], "value": message["content"]})
            continue
        calls = json.loads(message["tool_calls"])
        value = calls[0] if isinstance(calls, list) and len(calls) == 1 else calls
        turns.append({"from": "function_call", "value": json.dumps(value, ensure_ascii=False)})
    shaped: Row = {"conversations": turns}
    if system is not None:
        shaped["system"] = system
    if row["tools"] is not None:
        shaped["tools"] = row["tools"]
    return shaped
