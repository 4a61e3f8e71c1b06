"""Conversations as plain text for a person, and where in a version a row's text stands."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from sft_data.errors import StoreError
from sft_data.store.layout import rows_where
from sft_data.store.read import resolve

__all__ = ["conversation_of", "plain", "rejected_plain", "shorten", "texts_of"]


_ELSEWHERE = re.compile(r"[a-z0-9][a-z0-9._-]*@[0-9a-f]{12}:")  # see dedup.older.name_of


def shorten(text: str, limit: int) -> str:
    """At most `limit` characters; what is cut is counted.

    >>> shorten("abcdef", 3)
    'abc … (3 more characters)'
    """
    return text if len(text) <= limit else f"{text[:limit]} … ({len(text) - limit:,} more characters)"


def plain(messages: Sequence[Mapping[str, Any]]) -> str:
    r"""Turns one below the other, each behind its role.

    >>> plain([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}])
    'user: Hi\nassistant: Hello!'
    """
    return "\n".join(f"{message.get('role')}: {_said(message)}" for message in messages)


def _said(message: Mapping[str, Any]) -> str:
    parts = [message.get("reasoning"), message.get("content"), message.get("tool_calls")]
    return " ".join(str(part) for part in parts if part)


def conversation_of(text: str | None) -> list[dict[str, Any]] | None:
    """The messages of a rejected row's text; None where the row never became a conversation."""
    if not text or not text.startswith('{"messages":['):
        return None
    try:
        messages = orjson.loads(text).get("messages")
    except orjson.JSONDecodeError:
        return None
    whole = isinstance(messages, list) and all(
        isinstance(m, dict) and isinstance(m.get("content"), str) for m in messages
    )
    return messages if whole else None


def rejected_plain(text: str | None) -> str:
    """A rejected row's text for a person: its turns, or the original bytes where it has none."""
    messages = conversation_of(text)
    return (text or "") if messages is None else plain(messages)


def texts_of(folder: Path, ids: Collection[str]) -> dict[str, str]:
    """The text of each row, wherever in the version it stands: kept, or in the ledger of rejections.

    A row of another version, NAME@FINGERPRINT:id, is looked up in that version, where the store has it.
    """
    own = {row_id for row_id in ids if not _ELSEWHERE.match(row_id)}
    gone = rows_where(folder, "rejections", "id", own).select("id", "text")
    kept = rows_where(folder, "conversations", "id", own).select("id", "messages")
    found = {row_id: rejected_plain(text) for row_id, text in gone.iter_rows()}
    found |= {row_id: plain(messages) for row_id, messages in kept.iter_rows()}
    elsewhere: dict[str, set[str]] = {}
    for label, row_id in (name.split(":", 1) for name in ids if name not in own):
        elsewhere.setdefault(label, set()).add(row_id)
    for label, names in elsewhere.items():
        try:
            other = resolve(folder.parent.parent, label).folder
        except StoreError:
            continue
        found |= {f"{label}:{row_id}": text for row_id, text in texts_of(other, names).items()}
    return found
