"""Conversations -> the formats that other tools read: Alpaca, ShareGPT, messages, prompt/completion, records.

What an export writes reads back as the same conversations, up to weights of turns that only repeat the default (1 on
answers, 0 on the rest): a format without a place for weights leaves those out, and they read back as null. A row that
a format cannot hold (a tool call in Alpaca, two rounds in a prompt/completion pair) is not bent: it is left out, with
its reason. Every row carries its `id` and `source`, by which all else that is known of it is found again.
"""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from sft_data.formats.turns import METADATA
from sft_data.sources.decode import dump, loads
from sft_data.sources.rows import Json

__all__ = ["EXPORTS", "CannotHold", "columns_of", "for_table"]

Row = dict[str, Json]


class CannotHold(Exception):  # noqa: N818 - not an error of the program: the row is left out and counted
    """A format has no place for something that a row has."""


def _plain_text(turn: Row, format_: str) -> str:
    """The text of a turn that has nothing else; a weight that says what holds without it is nothing."""
    default = 1.0 if turn["role"] == "assistant" else 0.0
    for name in ("tool_calls", "tool_call_id", "name", "weight"):
        if turn[name] is not None and not (name == "weight" and turn[name] == default):
            raise CannotHold(f"{format_} has no place for `{name}` of a turn")
    return _with_thoughts(turn)


def _with_thoughts(turn: Row) -> str:
    """The text, behind its reasoning in <think> marks where it has some; what would read back otherwise is refused."""
    content: str = turn["content"]
    thoughts = turn["reasoning"]
    if thoughts is None:
        if turn["role"] == "assistant" and content.lstrip().startswith("<think>"):
            raise CannotHold("its text begins with <think> but holds no reasoning")
        return content
    if thoughts != thoughts.strip("\n") or content != content.lstrip("\n") or "</think>" in thoughts:
        raise CannotHold("its reasoning would not read back the same")
    return f"<think>\n{thoughts}\n</think>\n\n{content}"


def _labelled(row: Row, told: Row) -> Row:
    """`told` behind the row's id and source, before its weight and metadata where it has them."""
    weight = {} if row["weight"] in {None, 1.0} else {"weight": row["weight"]}
    return {"id": row["id"], "source": row["source"]} | told | weight | _metadata(row)


def _metadata(row: Row) -> Row:
    return {name: row[name] for name in METADATA if row[name] is not None}


def _rounds(row: Row, format_: str) -> tuple[str | None, list[tuple[str, str]]]:
    """The system text, and questions with their answers."""
    if row["tools"] is not None:
        raise CannotHold(f"{format_} has no place for tools")
    turns = row["messages"]
    system = _plain_text(turns[0], format_) if turns[0]["role"] == "system" else None
    rest = turns[0 if system is None else 1 :]
    if [turn["role"] for turn in rest] != ["user", "assistant"] * (len(rest) // 2) or not rest:
        raise CannotHold(f"{format_} holds questions and answers in turn, nothing else")
    texts = [_plain_text(turn, format_) for turn in rest]
    return system, list(zip(texts[::2], texts[1::2], strict=True))


def _alpaca(row: Row) -> Row:
    system, rounds = _rounds(row, "alpaca")
    *history, (question, answer) = rounds
    made: Row = {"instruction": question, "input": "", "output": answer}
    if system is not None:
        made["system"] = system
    if history:
        made["history"] = [list(pair) for pair in history]
    return _labelled(row, made)


def _pair(row: Row) -> Row:
    system, rounds = _rounds(row, "prompt-completion")
    if len(rounds) != 1:
        raise CannotHold("prompt-completion holds one question and one answer")
    made = ({} if system is None else {"system": system}) | {"prompt": rounds[0][0], "completion": rounds[0][1]}
    return _labelled(row, made)


def _record(row: Row) -> Row:
    """The unified instruction record: {id, instruction, input, output, metadata}."""
    system, rounds = _rounds(row, "record")
    if system is not None or len(rounds) != 1:
        raise CannotHold("a record holds one question and one answer")
    if row["weight"] not in {None, 1.0}:
        raise CannotHold("record has no place for the weight of a row")
    told = {"instruction": rounds[0][0], "input": "", "output": rounds[0][1]}
    return {"id": row["id"]} | told | {"metadata": {"source": row["source"]} | _metadata(row)}


def _sharegpt(row: Row) -> Row:
    speakers = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}
    said = list(row["messages"])
    made: Row = {"system": _plain_text(said.pop(0), "sharegpt")} if said[0]["role"] == "system" else {}
    turns: list[Row] = []
    for turn in said:
        if turn["tool_calls"] is not None:
            if turn["content"] or turn["reasoning"] is not None:
                raise CannotHold("sharegpt has no turn with both a text and a call of a tool")
            _plain_text(turn | {"tool_calls": None}, "sharegpt")
            calls = loads(turn["tool_calls"])
            turns.append({"from": "function_call", "value": dump(calls[0] if len(calls) == 1 else calls)})
        else:
            turns.append({"from": speakers[turn["role"]], "value": _plain_text(turn, "sharegpt")})
    made["conversations"] = turns
    if row["tools"] is not None:
        made["tools"] = row["tools"]
    return _labelled(row, made)


def _messages(row: Row) -> Row:
    """The fullest format: everything that the schema holds has a place."""
    made: Row = {"messages": [_message(turn) for turn in row["messages"]]}
    if row["tools"] is not None:
        made["tools"] = loads(row["tools"])
    return _labelled(row, made)


def _message(turn: Row) -> Row:
    told = {"role": turn["role"], "content": turn["content"]}
    if turn["reasoning"] is not None:
        told["reasoning_content"] = turn["reasoning"]
    elif turn["role"] == "assistant":
        _with_thoughts(turn)
    if turn["tool_calls"] is not None:
        told["tool_calls"] = [_call(call) for call in loads(turn["tool_calls"])]
    return told | {name: turn[name] for name in ("tool_call_id", "name", "weight") if turn[name] is not None}


def _call(call: Row) -> Row:
    """A call as OpenAI writes it: the arguments as JSON text."""
    function: Row = {"name": call["name"]}
    if "arguments" in call:
        given = call["arguments"]
        if not isinstance(given, str | dict):
            raise CannotHold("arguments of a call that are neither an object nor text")
        function["arguments"] = given if isinstance(given, str) else dump(given)
    made: Row = {"type": "function", "function": function}
    return ({"id": call["id"]} | made) if "id" in call else made


EXPORTS: dict[str, Callable[[Row], Row]] = {
    "alpaca": _alpaca,
    "sharegpt": _sharegpt,
    "messages": _messages,
    "prompt-completion": _pair,
    "record": _record,
}


# ---- as columns of Parquet ------------------------------------------------------------------------------------------

_TEXT = pa.large_string()
_TURN_FIELDS = ("reasoning_content", "tool_calls", "tool_call_id", "name", "weight")
_OWN: dict[str, dict[str, pa.DataType]] = {
    "alpaca": {
        **dict.fromkeys(("instruction", "input", "output", "system"), _TEXT),
        "history": pa.large_list(pa.large_list(_TEXT)),
    },
    "sharegpt": {
        "system": _TEXT,
        "conversations": pa.large_list(pa.struct({"from": _TEXT, "value": _TEXT})),
        "tools": _TEXT,
    },
    "messages": {"tools": _TEXT},
    "prompt-completion": dict.fromkeys(("system", "prompt", "completion"), _TEXT),
}


def columns_of(format_: str, turn_fields: frozenset[str]) -> pa.Schema:
    """The columns of a format in Parquet. `turn_fields`: what some turn of `messages` has besides role and content.

    A struct gives every turn all keys of its column: a key that no turn has is not made.
    """
    if format_ == "record":
        told = dict.fromkeys(("source", *METADATA), _TEXT)
        return pa.schema(dict.fromkeys(("id", "instruction", "input", "output"), _TEXT) | {"metadata": pa.struct(told)})
    own = _OWN[format_]
    if format_ == "messages":
        more = [name for name in _TURN_FIELDS if name in turn_fields]
        turn = {name: pa.float32() if name == "weight" else _TEXT for name in ("role", "content", *more)}
        own = {"messages": pa.large_list(pa.struct(turn))} | own
    labels = {"weight": pa.float32(), **dict.fromkeys(METADATA, _TEXT)}
    return pa.schema({"id": _TEXT, "source": _TEXT} | own | labels)


def for_table(row: Row) -> Row:
    """A told row for `columns_of`: tools and their calls as JSON text, so that none gets the keys of another."""
    told = dict(row)
    if not isinstance(told.get("tools", ""), str):
        told["tools"] = dump(told["tools"])
    if "messages" in told:
        told["messages"] = [
            turn | {"tool_calls": dump(turn["tool_calls"])} if "tool_calls" in turn else turn
            for turn in told["messages"]
        ]
    return told
