"""Who is asking, may they, and does the question come from where it says: before any route is run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from starlette.requests import Request

from sft_data.errors import StoreError
from sft_data.web.access import Person, Role, people, person_of

__all__ = ["COOKIE", "Asker", "Guard", "RefusedError", "is_loopback"]

COOKIE = "sft_data_token"


class RefusedError(Exception):
    """A request that is not answered: its status and a sentence that says what to do."""

    def __init__(self, status: int, told: str) -> None:
        super().__init__(told)
        self.status = status
        self.told = told


@dataclass(frozen=True)
class Asker:
    """Who asks, with which role; `name` is empty where everybody on this machine may."""

    name: str
    role: Role
    by_cookie: bool = False


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens there."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Guard:
    """The rules of one server.

    `open_here`: it listens on this machine alone and was started without an access file, so whoever reaches it may do
    what the command line lets them, as publisher; the first person that is added ends that.
    """

    file: Path
    open_here: bool

    def asker(self, request: Request) -> Asker | None:
        """Who asks, by the token of the header `Authorization: Bearer` or of the cookie; None: nobody known."""
        self._check_host(request)
        header, cookie = request.headers.get("authorization"), _cookie(request)
        if header is not None:
            kind, _, token = header.partition(" ")
            person = self.person(token.strip()) if kind.lower() == "bearer" else None
            return Asker(person.name, person.role) if person else None
        person = self.person(cookie) if cookie else None
        if person is not None:
            return Asker(person.name, person.role, by_cookie=True)
        return Asker("", Role.PUBLISHER) if self.open_here and not self._people() else None

    def person(self, token: str) -> Person | None:
        """Whose token it is; RefusedError with 503 where the access file is damaged: then nobody has access."""
        with _told_here():
            return person_of(self.file, token)

    def _people(self) -> list[Person]:
        with _told_here():
            return people(self.file)

    def check(self, request: Request, needed: Role) -> Asker:
        """The asker, who has the role that is needed; RefusedError with 401 or 403 otherwise."""
        asker = self.asker(request)
        if asker is None:
            raise RefusedError(401, "a token is needed: `sft-data access add NAME --role reader` makes one")
        if not asker.role.may(needed):
            whose = asker.name or "everybody on this machine"
            raise RefusedError(403, f"this needs the role {needed}, and {whose} has the role {asker.role}")
        if request.method not in ("GET", "HEAD") and (asker.by_cookie or not asker.name):
            self.check_origin(request, browser=asker.by_cookie)
        return asker

    def check_origin(self, request: Request, *, browser: bool) -> None:
        """A change that a browser asks for must come from a page of this server, not from one that it also shows.

        Browsers say where a request comes from in Sec-Fetch-Site, older ones in Origin. A request without either is no
        browser's; where a cookie was sent (`browser`) it is refused all the same.
        """
        site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
        if site is not None:
            ours = site == "same-origin"
        elif origin is not None:
            ours = urlsplit(origin).netloc == request.headers.get("host")
        else:
            ours = not browser
        if not ours:
            raise RefusedError(403, "this request comes from another site's page; send it from a page of this server")

    def _check_host(self, request: Request) -> None:
        """A name that points at 127.0.0.1 must not make a stranger's page ours (DNS rebinding)."""
        host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
        if self.open_here and not is_loopback(host):
            raise RefusedError(421, f"{host!r} is not this server: ask for localhost or 127.0.0.1")


@contextmanager
def _told_here() -> Iterator[None]:
    """What is wrong with the access file, and where it lies, is for who runs the server, not for who asks."""
    try:
        yield
    except StoreError as error:
        sys.stderr.write(f"error: {error}\n")
        raise RefusedError(503, "the list of people cannot be read: whoever runs this server must mend it") from None


def _cookie(request: Request) -> str | None:
    try:
        found = SimpleCookie(request.headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return None
    return found.value if found else None
