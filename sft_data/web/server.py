"""The server: routes, and how it is started. What it shows are the models that `--json` prints."""

from __future__ import annotations

import socket
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import uvicorn
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sft_data.chat.preview import Preview, preview, preview_pack, render_preview
from sft_data.errors import KeyNeededError, SftDataError, StoreError
from sft_data.report.html import render_html
from sft_data.screens import load_report
from sft_data.store.diff import Diff, diff
from sft_data.store.layout import REPORT_JSON
from sft_data.store.log import acting_for
from sft_data.store.manage import Garbage, History, gc, history, rollback, tag, untag
from sft_data.store.place import find_version, open_store, verify_version
from sft_data.store.read import load_build, resolve, versions
from sft_data.store.why import Story, why
from sft_data.web import pages
from sft_data.web.access import Role, people
from sft_data.web.asked import asked, fields, name_of, number_of, onward, read_body, sent, spec_of
from sft_data.web.guard import COOKIE, Asker, Guard, RefusedError, is_loopback

__all__ = ["Serving", "application", "listen", "serve"]

MAX_ROWS = 50  # rows of one preview

# Our pages: one style sheet of our own, forms to ourselves, nothing else. A report or preview brings its style along.
_OURS = (
    "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_WHOLE = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}

Answer = Callable[[Request, Asker], Response]


@dataclass(frozen=True)
class Serving:
    """What is served, where, and whose it is."""

    store: str
    access: Path
    host: str = "127.0.0.1"
    port: int = 8321
    certificate: Path | None = None
    certificate_key: Path | None = None

    @property
    def local(self) -> bool:
        """Whether only this machine reaches it."""
        return is_loopback(self.host)

    def guard(self) -> Guard:
        """The rules; StoreError where the server would be open to a network."""
        if not self.local and not people(self.access):
            raise StoreError(
                f"nobody has access to {self.store}, and at {self.host} others than this machine could ask: "
                "add people first (sft-data access add NAME --role reader), or leave --host out"
            )
        return Guard(self.access, open_here=self.local and not people(self.access))


def application(serving: Serving) -> ASGIApp:
    """All routes, and the headers of every answer."""
    site = _Site(serving, serving.guard())
    read, change = ["GET"], ["POST"]
    routes = [
        Route("/", site.page(Role.READER, site.start), methods=read),
        Route("/version/{spec}", site.page(Role.READER, site.version), methods=read),
        Route("/report/{spec}", site.page(Role.READER, site.report), methods=read),
        Route("/preview/{spec}", site.page(Role.READER, site.preview), methods=read),
        Route("/why/{spec}", site.page(Role.READER, site.why), methods=read),
        Route("/diff", site.page(Role.READER, site.diff), methods=read),
        Route("/log", site.page(Role.READER, site.log), methods=read),
        Route("/tag", site.page(Role.PUBLISHER, site.tag), methods=change),
        Route("/untag", site.page(Role.PUBLISHER, site.untag), methods=change),
        Route("/rollback", site.page(Role.PUBLISHER, site.rollback), methods=change),
        Route("/login", site.ask_token, methods=read),
        Route("/login", site.login, methods=change),
        Route("/logout", site.logout, methods=change),
        Route("/style.css", site.style, methods=read),
        Route("/api/versions", site.api(Role.READER, site.api_versions), methods=read),
        Route("/api/show/{spec}", site.api(Role.READER, site.api_show), methods=read),
        Route("/api/why/{spec}", site.api(Role.READER, site.api_why), methods=read),
        Route("/api/preview/{spec}", site.api(Role.READER, site.api_preview), methods=read),
        Route("/api/diff", site.api(Role.READER, site.api_diff), methods=read),
        Route("/api/verify/{spec}", site.api(Role.READER, site.api_verify), methods=read),
        Route("/api/log", site.api(Role.READER, site.api_log), methods=read),
        Route("/api/tag", site.api(Role.PUBLISHER, site.api_tag), methods=change),
        Route("/api/untag", site.api(Role.PUBLISHER, site.api_untag), methods=change),
        Route("/api/rollback", site.api(Role.PUBLISHER, site.api_rollback), methods=change),
        Route("/api/gc", site.api(Role.ADMIN, site.api_gc), methods=change),
    ]
    failed: dict[Any, Any] = {HTTPException: _http_error, Exception: _broken}
    return _Headers(Starlette(routes=routes, exception_handlers=failed))


class _Site:
    """The routes of one store."""

    def __init__(self, serving: Serving, guard: Guard) -> None:
        self.serving = serving
        self.guard = guard

    # ------------------------------------------------------------------------------------------- how routes are run

    def api(self, needed: Role, answer: Callable[[Request], Any]) -> Callable[[Request], Awaitable[Response]]:
        """A route that gives JSON: a model, or `{"error": ...}`."""

        @wraps(answer)
        async def run(request: Request) -> Response:
            try:
                asker = await run_in_threadpool(self.guard.check, request, needed)
                await read_body(request)
                return _json(await run_in_threadpool(self._acting, asker, answer, request))
            except RefusedError as refused:
                return _json({"error": refused.told}, refused.status)
            except SftDataError as error:
                return _json({"error": _told(error)}, _status(error, request))

        return run

    def page(self, needed: Role, answer: Answer) -> Callable[[Request], Awaitable[Response]]:
        """A route that gives a page; who is not known is asked for a token."""

        @wraps(answer)
        async def run(request: Request) -> Response:
            asker: Asker | None = None
            try:
                asker = await run_in_threadpool(self.guard.check, request, needed)
                await read_body(request)
                return await run_in_threadpool(self._acting, asker, answer, request, asker)
            except RefusedError as refused:
                if refused.status == 401 and request.method == "GET":
                    return RedirectResponse(f"/login?next={quote(_target(request), safe='')}", 303)
                return HTMLResponse(pages.error(self._frame(asker), refused.told), refused.status)
            except SftDataError as error:
                return HTMLResponse(pages.error(self._frame(asker), _told(error)), _status(error, request))

        return run

    def _acting(self, asker: Asker, answer: Callable[..., Any], *given: Any) -> Any:  # noqa: ANN401  # any model
        """In a thread of its own; the store's log names the person."""
        if not asker.name:
            return answer(*given)
        with acting_for(asker.name):
            return answer(*given)

    def _frame(self, asker: Asker | None) -> pages.Frame:
        return pages.Frame(self.serving.store, asker)

    def _open(self) -> Path:
        return open_store(self.serving.store)

    def _folder(self, request: Request, *only: str) -> Path:
        return find_version(self.serving.store, spec_of(request.path_params["spec"]), only=only or None).folder

    # ------------------------------------------------------------------------------------------------------ the JSON

    def api_versions(self, request: Request) -> dict[str, Any]:
        found = versions(self._open(), name_of(request.query_params.get("name")))
        return {"versions": [version.model_dump(mode="json") for version in found]}

    def api_show(self, request: Request) -> BaseModel:
        return load_report(self._folder(request, REPORT_JSON))

    def api_why(self, request: Request) -> Story:
        return why(self._folder(request), asked(request, "row"))

    def api_preview(self, request: Request) -> Preview:
        query = request.query_params
        folder = self._folder(request)
        if "pack" in query:
            return preview_pack(folder, number_of(query["pack"], "pack", 0), query.get("split", "train"))
        rows = [query["row"]] if query.get("row") else None
        return preview(folder, row_ids=rows, n=min(number_of(query.get("n", "3"), "n", 1), MAX_ROWS))

    def api_diff(self, request: Request) -> Diff:
        a, b = (find_version(self.serving.store, spec_of(asked(request, side))) for side in ("a", "b"))
        return diff(a, b)

    def api_verify(self, request: Request) -> BaseModel:
        return verify_version(self.serving.store, spec_of(request.path_params["spec"]))

    def api_log(self, request: Request) -> History:
        return history(self._open(), name_of(request.query_params.get("name")))

    def api_tag(self, request: Request) -> dict[str, Any]:
        given = fields(request, "version", "tag")
        found = tag(self._open(), spec_of(given["version"]), given["tag"])
        return {"version": found.version, "tag": given["tag"]}

    def api_untag(self, request: Request) -> dict[str, Any]:
        given = fields(request, "version", "tag")
        found = resolve(self._open(), spec_of(given["version"]))
        untag(self._open(), found.name, given["tag"])
        return {"version": found.name, "tag": given["tag"], "removed": True}

    def api_rollback(self, request: Request) -> dict[str, Any]:
        found = rollback(self._open(), spec_of(fields(request, "version")["version"]))
        return {"version": found.version, "latest": True}

    def api_gc(self, request: Request) -> Garbage:
        try:
            asked = _Gc.model_validate(sent(request))
        except ValidationError as error:
            first = error.errors()[0]
            raise StoreError(f"`{'.'.join(map(str, first['loc']))}`: {first['msg']}") from None
        return gc(self._open(), remove=asked.remove, drafts_days=asked.drafts_days, cache_days=asked.cache_days)

    # ----------------------------------------------------------------------------------------------------- the pages

    def start(self, request: Request, asker: Asker) -> Response:
        del request
        return HTMLResponse(pages.start(self._frame(asker), versions(self._open())))

    def version(self, request: Request, asker: Asker) -> Response:
        found = resolve(self._open(), spec_of(request.path_params["spec"]))
        known = versions(self._open(), found.name)
        this = next(info for info in known if info.version == found.version)
        return HTMLResponse(pages.version(self._frame(asker), this, known, request.query_params.get("done")))

    def report(self, request: Request, asker: Asker) -> Response:
        del asker
        folder = self._folder(request, REPORT_JSON)
        return _whole_page(render_html(load_report(folder), load_build(folder)))

    def preview(self, request: Request, asker: Asker) -> Response:
        del asker
        return _whole_page(render_preview(self.api_preview(request)))

    def why(self, request: Request, asker: Asker) -> Response:
        return HTMLResponse(pages.story(self._frame(asker), request.path_params["spec"], self.api_why(request)))

    def diff(self, request: Request, asker: Asker) -> Response:
        return HTMLResponse(pages.difference(self._frame(asker), self.api_diff(request)))

    def log(self, request: Request, asker: Asker) -> Response:
        found = self.api_log(request)
        return HTMLResponse(pages.log(self._frame(asker), found.entries, found.problems))

    def tag(self, request: Request, asker: Asker) -> Response:
        del asker
        told = self.api_tag(request)
        return _back(told["version"], "tagged")

    def untag(self, request: Request, asker: Asker) -> Response:
        del asker
        self.api_untag(request)
        return _back(fields(request, "version")["version"], "untagged")

    def rollback(self, request: Request, asker: Asker) -> Response:
        del asker
        return _back(self.api_rollback(request)["version"], "latest")

    # ---------------------------------------------------------------------------------------------------- signing in

    async def ask_token(self, request: Request) -> Response:
        """The form for a token."""
        return HTMLResponse(pages.login(self._frame(None), onward(request.query_params.get("next")), ""))

    async def login(self, request: Request) -> Response:
        """Take a token into a cookie that only this site sends back, and no script reads."""
        try:
            self.guard.check_origin(request, browser=True)
            await read_body(request)
            given = fields(request, "token")
        except (RefusedError, SftDataError) as error:
            return HTMLResponse(pages.error(self._frame(None), str(error)), 403)
        target = onward(sent(request).get("next"))
        token = given["token"].strip()
        try:
            person = await run_in_threadpool(self.guard.person, token)
        except RefusedError as refused:
            return HTMLResponse(pages.error(self._frame(None), refused.told), refused.status)
        if person is None:
            return HTMLResponse(pages.login(self._frame(None), target, "this token is not known"), 401)
        answer = RedirectResponse(target, 303)
        secure = request.url.scheme == "https"
        answer.set_cookie(COOKIE, token, httponly=True, samesite="strict", secure=secure, path="/")
        return answer

    async def logout(self, request: Request) -> Response:
        """Forget the cookie."""
        try:
            self.guard.check_origin(request, browser=True)
        except RefusedError as refused:
            return HTMLResponse(pages.error(self._frame(None), refused.told), refused.status)
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
        return answer

    async def style(self, request: Request) -> Response:
        """The style sheet; the only thing that is told to everybody."""
        del request
        return Response(pages.style(), media_type="text/css", headers={"cache-control": "max-age=300"})


class _Gc(BaseModel):
    """What POST /api/gc takes."""

    model_config = ConfigDict(extra="forbid", strict=True)

    remove: bool = False
    drafts_days: float = Field(30.0, ge=0, allow_inf_nan=False)
    cache_days: float | None = Field(None, ge=0, allow_inf_nan=False)


class _Headers:
    """Headers of every answer, also of errors."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message["headers"]}
                more = {**_HEADERS, "content-security-policy": _OURS}
                message["headers"] += [
                    (name.encode(), value.encode()) for name, value in more.items() if name.encode() not in given
                ]
            await send(message)

        await self.app(scope, receive, sent)


def _status(error: SftDataError, request: Request) -> int:
    if isinstance(error, KeyNeededError):
        return 503
    return 404 if request.method == "GET" else 400


def _told(error: SftDataError) -> str:
    """Which key opens the store is for who runs the server, not for who asks."""
    if not isinstance(error, KeyNeededError):
        return str(error)
    sys.stderr.write(f"error: {error}\n")
    return "the store is sealed, and this server has not its key: whoever runs it must give it"


def _json(found: BaseModel | dict[str, Any], status: int = 200) -> Response:
    data = found if isinstance(found, dict) else found.model_dump(mode="json")
    return Response(orjson.dumps(data, option=orjson.OPT_NON_STR_KEYS), status, media_type="application/json")


def _whole_page(text: str) -> Response:
    return HTMLResponse(text, headers={"content-security-policy": _WHOLE})


def _back(version: str, done: str) -> Response:
    return RedirectResponse(f"/version/{quote(version, safe='@')}?done={done}", 303)


def _target(request: Request) -> str:
    return request.url.path + (f"?{request.url.query}" if request.url.query else "")


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - it is registered for these
    told = {404: "there is no such page", 405: f"this address does not take {request.method}"}
    return _json({"error": told.get(error.status_code, error.detail)}, error.status_code)


async def _broken(request: Request, error: Exception) -> Response:
    """A fault of ours: no traceback leaves the server; it goes to standard error."""
    del request, error
    return _json({"error": "the server failed at this; its standard error tells more"}, 500)


def listen(serving: Serving) -> socket.socket:
    """The socket to serve on; StoreError where the port is taken."""
    family = socket.AF_INET6 if ":" in serving.host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((serving.host, serving.port))
        opened.listen(128)
    except OSError as error:
        opened.close()
        raise StoreError(
            f"cannot listen at {serving.host}:{serving.port}: {error.strerror}; try another --port"
        ) from None
    return opened


def serve(serving: Serving, opened: socket.socket) -> None:
    """Serve until Ctrl-C."""
    config = uvicorn.Config(
        application(serving),
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="none",
        loop="asyncio",
        http="h11",
        ssl_certfile=serving.certificate,
        ssl_keyfile=serving.certificate_key,
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)
    try:
        server.run(sockets=[opened])
    except (KeyboardInterrupt, SystemExit):  # uvicorn has closed in order, then raises the signal again
        if not server.started:
            raise
    sys.stderr.write("\nstopped\n")
