"""Every table that flows through the river: columns, types and meaning, written once.

No other module spells a column's type. `conform` brings a frame to a schema; `check_schema` says what differs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import polars as pl

from sft_data.errors import StageError

__all__ = [
    "CONVERSATIONS",
    "EDITS",
    "LOSS_WEIGHTS",
    "MESSAGE",
    "PACK_INDEX",
    "PART",
    "RAW",
    "REJECTIONS",
    "ROLES",
    "SIDECAR",
    "TOKENS",
    "check_schema",
    "conform",
    "content_hash",
    "empty",
]

ROLES = ("system", "user", "assistant", "tool")

# One turn of a conversation.
MESSAGE = pl.Struct(
    {
        "role": pl.String(),  # one of ROLES
        "content": pl.String(),  # never null; "" where the turn only calls tools
        "reasoning": pl.String(),  # what the assistant thought before it answered; null where there is none
        "tool_calls": pl.String(),  # JSON text of a list of {"name", "arguments"}; text, so that no key is invented
        "tool_call_id": pl.String(),  # which call a tool turn answers; null where the data does not say
        "name": pl.String(),  # the speaker's or the tool's name; null where there is none
        "weight": pl.Float32(),  # loss weight given by the data; null: the pipeline's `train_on` decides
    }
)

_TEXTS = [field.name for field in MESSAGE.fields if field.dtype == pl.String()]

# sources -> formats. One row of a file, as it stood there.
RAW = pl.Schema(
    {
        "id": pl.String(),  # "<source>:<file>:<row>", the row's identity through every table
        "source": pl.String(),  # the source's name in the pipeline
        "file": pl.String(),  # path of the file below the source's common folder, with /
        "row": pl.Int64(),  # row in the file from 0, broken rows counted
        "line": pl.Int64(),  # line on which the row starts, from 1; null for binary formats
        "byte": pl.Int64(),  # offset of the row's first byte in the decompressed file; null for binary formats
        "raw": pl.String(),  # the row as JSON text: the original bytes for JSON files
    }
)

# formats ... split. One row is one conversation; stages may add annotation columns behind these.
CONVERSATIONS = pl.Schema(
    {
        "id": pl.String(),  # as in RAW
        "content_hash": pl.String(),  # of messages and tools as they stand now (see `content_hash`)
        "source": pl.String(),  # as in RAW
        "messages": pl.List(MESSAGE),  # at least one turn
        "tools": pl.String(),  # JSON text of the tools offered to the assistant; null where there are none
        "weight": pl.Float32(),  # loss weight of the whole row; 1.0 unless the data says otherwise
        "category": pl.String(),  # metadata given by the data, null where absent
        "difficulty": pl.String(),
        "language": pl.String(),  # as the data claims; `detect-language` measures into `lang`
        "license": pl.String(),
        "extra": pl.String(),  # JSON text of all other columns of the row; null where there are none
    }
)

# Every stage -> report, `why`. One row is one row that left the river.
REJECTIONS = pl.Schema(
    {
        "id": pl.String(),  # row identity, never a content hash
        "source": pl.String(),  # the source's name
        "stage": pl.String(),  # the stage's `kind`
        "code": pl.String(),  # stable and documented: "answer-too-short"
        "detail": pl.String(),  # measured value and limit, for a person: "3 < 20 characters"
        "twin": pl.String(),  # duplicates: id of the row kept instead; of another version, NAME@FINGERPRINT:id
        "score": pl.Float64(),  # duplicates: measured similarity to the twin, 0..1
        "text": pl.String(),  # the row when it left: its original text, or its messages as JSON
        "file": pl.String(),  # unreadable rows: the file,
        "line": pl.Int64(),  # ... its line from 1,
        "byte": pl.Int64(),  # ... and its byte offset
    }
)

# clean, privacy -> report, `why`. One row is one kind of edit made to one row.
EDITS = pl.Schema(
    {
        "id": pl.String(),
        "source": pl.String(),
        "stage": pl.String(),
        "code": pl.String(),  # stable and documented: "mojibake"
        "count": pl.Int64(),  # how many places
        "detail": pl.String(),  # a short before -> after, for a person
    }
)

# tokenize -> pack, train. Row i of TOKENS belongs to row i of SIDECAR.
TOKENS = pl.Schema(
    {
        "input_ids": pl.List(pl.Int32()),
        "labels": pl.List(pl.Int32()),  # unshifted; -100 where nothing is learnt
    }
)
# One more column of TOKENS and of packs, in all files of a version in which some weight is neither 0 nor 1, and in no
# file of any other: 0 where the label is -100, else the weight of the token's span (that of its row times its turn's).
LOSS_WEIGHTS = pl.Schema({"loss_weights": pl.List(pl.Float32())})
SIDECAR = pl.Schema(
    {
        "id": pl.String(),
        "source": pl.String(),
        "split": pl.String(),
        "tokens": pl.Int32(),  # length of input_ids
        "trained": pl.Int32(),  # how many labels are not -100
        # One struct per supervised turn: message index (-1: a stretch between answers, or the whole row), [start, end)
        # in tokens incl. the stop token, loss weight.
        "spans": pl.List(
            pl.Struct({"turn": pl.Int32(), "start": pl.Int32(), "end": pl.Int32(), "weight": pl.Float32()})
        ),
        "proof": pl.String(),  # how the spans were found and proved: "marks+bytes", "marks+offsets"
    }
)
# One more column of SIDECAR where the settings can make several samples of one row: the sample's number from 0. The
# samples of a row stand behind one another, rows in the order of CONVERSATIONS.
PART = pl.Schema({"part": pl.Int32()})

# pack -> train. Which rows share a pack, in which order.
PACK_INDEX = pl.Schema(
    {
        "pack": pl.Int64(),  # pack number inside the split, from 0
        "position": pl.Int32(),  # place inside the pack, from 0
        "row": pl.Int64(),  # row number in the split's TOKENS
        "tokens": pl.Int32(),  # its length
    }
)


def empty(schema: pl.Schema) -> pl.DataFrame:
    """A frame with no rows."""
    return pl.DataFrame(schema=schema)


def conform(frame: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
    """`frame` with the columns of `schema` in its order and types; missing ones are null, others come behind.

    >>> conform(pl.DataFrame({"id": ["a"]}), EDITS).columns[:3]
    ['id', 'source', 'stage']
    """
    columns = [
        (pl.col(name).cast(dtype) if name in frame.columns else pl.lit(None, dtype=dtype)).alias(name)
        for name, dtype in schema.items()
    ]
    rest = [name for name in frame.columns if name not in schema]
    return frame.select(*columns, *rest)


def check_schema(frame: pl.DataFrame, schema: Mapping[str, pl.DataType], where: str) -> None:
    """Raise StageError naming every column of `schema` that `frame` lacks or holds in another type."""
    wrong = [
        f"{name}: expected {dtype}, found {frame.schema.get(name, 'no such column')}"
        for name, dtype in schema.items()
        if frame.schema.get(name) != dtype
    ]
    if wrong:
        raise StageError(f"{where} broke the schema: " + "; ".join(wrong))


def content_hash(frame: pl.DataFrame) -> pl.Series:
    """BLAKE2b-128 (32 hex digits) of each row's messages and tools as JSON, nothing else.

    Two rows have the same hash exactly where all their turns and tools are the same.
    """
    from sft_data.hashing import hash_structs

    messages = frame["messages"].to_arrow()
    if messages.null_count or messages.values.null_count:
        return _hash_one_by_one(frame)
    hashed = pl.Series("content_hash", hash_structs(messages, _TEXTS, frame["tools"].to_arrow()), dtype=pl.String)
    # JSON writes a number as polars does; rows that hold one are few.
    weighted = frame["messages"].list.eval(pl.element().struct.field("weight").is_not_null()).list.any()
    rows = weighted.fill_null(value=False).arg_true()
    return hashed.scatter(rows, _hash_one_by_one(frame[rows])) if len(rows) else hashed


def _hash_one_by_one(frame: pl.DataFrame) -> pl.Series:
    canonical = frame.select(pl.struct("messages", "tools").struct.json_encode().alias("text"))["text"]
    digests = [hashlib.blake2b(text.encode(), digest_size=16).hexdigest() for text in canonical]
    return pl.Series("content_hash", digests, dtype=pl.String)
