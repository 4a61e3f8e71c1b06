"""What a request asks for, taken apart with care: names, numbers and bodies come from anybody."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qs

import orjson
from starlette.requests import Request

from sft_data.errors import StoreError
from sft_data.store.layout import NAME
from sft_data.web.guard import RefusedError

__all__ = ["MAX_BODY", "asked", "fields", "name_of", "number_of", "onward", "read_body", "sent", "spec_of"]

MAX_BODY = 65_536  # bytes: what is sent here are names and tokens

_SELECTOR = re.compile(r"[A-Za-z0-9._-]{1,80}")


def spec_of(text: str) -> str:
    """A version's name as it may stand in an address: never a path."""
    name, at, selector = text.partition("@")
    if not NAME.fullmatch(name) or (at and not _SELECTOR.fullmatch(selector)):
        raise StoreError(f"{text[:100]!r} names no version: write NAME, NAME@v3, NAME@TAG or NAME@FINGERPRINT_PREFIX")
    return text


def name_of(text: str | None) -> str | None:
    """A dataset's name, where one is asked for."""
    if text and not NAME.fullmatch(text):
        raise StoreError(f"{text[:100]!r} is no dataset's name")
    return text or None


def asked(request: Request, key: str) -> str:
    """A part of the question that must be there."""
    value = request.query_params.get(key, "")
    if not value:
        raise StoreError(f"the address lacks `{key}`")
    return value


def number_of(text: str, key: str, least: int) -> int:
    """A whole number from `least` on."""
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < least:
        raise StoreError(f"`{key}` is {text[:40]!r}: a whole number from {least} on is wanted")
    return int(text)


def onward(text: object) -> str:
    """Where to go after signing in: a path of this server, whatever the address said."""
    return text if isinstance(text, str) and re.fullmatch(r"/(?![/\\])[\x21-\x5b\x5d-\x7e]*", text) else "/"


async def read_body(request: Request) -> None:
    """Read what was sent, up to the limit, into `request.state.body`."""
    body = b""
    if request.method not in ("GET", "HEAD"):
        async for piece in request.stream():
            body += piece
            if len(body) > MAX_BODY:
                raise RefusedError(413, f"more than {MAX_BODY:,} bytes were sent")
    request.state.body = body


def sent(request: Request) -> dict[str, Any]:
    """What was sent: a JSON object, or the fields of a form."""
    raw: bytes = request.state.body
    kind = request.headers.get("content-type", "").partition(";")[0]
    if kind == "application/x-www-form-urlencoded" and not raw.startswith(b"{"):  # curl -d calls JSON a form
        try:
            return {key: values[0] for key, values in parse_qs(raw.decode("ascii"), max_num_fields=20).items()}
        except ValueError as error:
            raise StoreError(f"the form cannot be read: {error}") from None
    try:
        found = orjson.loads(raw or b"{}")
    except orjson.JSONDecodeError as error:
        raise StoreError(f"what was sent is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise StoreError("what was sent is no JSON object")
    return found


def fields(request: Request, *names: str) -> dict[str, str]:
    """Texts that must be in what was sent."""
    found = sent(request)
    wrong = [name for name in names if not isinstance(found.get(name), str) or not found[name]]
    if wrong:
        raise StoreError(f"what was sent lacks {', '.join(f'`{name}`' for name in wrong)}")
    return {name: found[name] for name in names}
