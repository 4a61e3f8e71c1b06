"""Who may do what in a store behind a server: people, their roles, and the hashes of their tokens.

A token is 256 random bits, told once when a person is added. The file keeps its SHA-256 alone: against guessing, so
many bits need no slow hash, and who reads the file learns no token from it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sft_data.errors import StoreError
from sft_data.store.layout import ACCESS
from sft_data.store.log import locked, now, unwritable
from sft_data.store.refs import replace_file
from sft_data.store.remote import is_url

__all__ = ["Person", "Role", "access_file", "add_person", "people", "person_of", "remove_person"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


class Role(StrEnum):
    """What a person may do; each role may do what those before it may."""

    READER = "reader"
    PUBLISHER = "publisher"
    ADMIN = "admin"

    def may(self, needed: Role) -> bool:
        """Whether this role includes `needed`."""
        order = list(Role)
        return order.index(self) >= order.index(needed)


class Person(BaseModel):
    """One entry of the access file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    role: Role = Field(description="reader looks, publisher also tags and rolls back, admin also collects garbage")
    added: str = Field(description="ISO time in UTC")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="of the token", repr=False)


class _Access(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = Field(1, ge=1, le=1)
    people: list[Person] = []


def access_file(store: str | None, named: Path | None = None) -> Path:
    """Where the people of a store are written down: STORE/access.json, or the file that was named."""
    if named is not None:
        return named
    place = store or "store"
    if is_url(place):
        raise StoreError(f"{place} is a URL: the people of such a store stand in a file here, named by --access FILE")
    return Path(place) / ACCESS


def people(file: Path) -> list[Person]:
    """All who have access, by name; none where there is no file."""
    try:
        raw = file.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"{file} cannot be read: {error.strerror}") from error
    try:
        return sorted(_Access.model_validate_json(raw).people, key=lambda person: person.name)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"])) or "the file"
        raise StoreError(
            f"{file} is damaged ({where}: {error.errors()[0]['msg']}); nobody has access until it is mended or removed"
        ) from None


def add_person(file: Path, name: str, role: Role) -> str:
    """Give a person access and return the token, which is nowhere else; StoreError where the name is taken."""
    if not _NAME.fullmatch(name):
        raise StoreError(f"{name!r} cannot be a person's name: use letters, digits, '.', '_', '@' and '-'")
    token = secrets.token_urlsafe(32)
    with unwritable(file), locked(_lock(file)):
        known = people(file)
        if name in {person.name for person in known}:
            raise StoreError(f"{name} has access already; `sft-data access remove {name}` takes it away first")
        _write(file, [*known, Person(name=name, role=role, added=now(), sha256=_hash(token))])
    return token


def remove_person(file: Path, name: str) -> None:
    """Take a person's access away, from the next request on."""
    with unwritable(file), locked(_lock(file)):
        known = people(file)
        if name not in {person.name for person in known}:
            raise StoreError(f"{name!r} has no access; there are: {', '.join(p.name for p in known) or 'nobody'}")
        _write(file, [person for person in known if person.name != name])


def person_of(file: Path, token: str) -> Person | None:
    """Whose token it is. Compares with every entry, in a time that tells nothing of how much was right."""
    given, found = _hash(token), None
    for person in people(file):
        if hmac.compare_digest(person.sha256, given):
            found = person
    return found


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def _lock(file: Path) -> Path:
    return file.with_name(f".{file.name}.lock")


def _write(file: Path, known: list[Person]) -> None:
    text = _Access(people=sorted(known, key=lambda person: person.name)).model_dump_json(indent=2)
    replace_file(file, text.encode() + b"\n", mode=0o600)
