"""Servers for tests, on this machine: an S3 that behaves, or fails in the way that a test asks for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from werkzeug.serving import make_server

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@contextmanager
def serving(app: App) -> Iterator[str]:
    """The address of a server that runs `app`."""
    server = make_server("127.0.0.1", 0, app, threaded=True)  # type: ignore[arg-type]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def s3() -> App:
    """An empty S3."""
    from moto.server import DomainDispatcherApplication, create_backend_app

    made: App = DomainDispatcherApplication(create_backend_app)
    return made


class Faulty:
    """An application in front of another; `fault` decides for each GET of an object what becomes of the answer."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.fault = "none"
        self.asked: list[str] = []  # method, path and range of every request
        self.lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        with self.lock:
            said = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']} {environ.get('HTTP_RANGE', '')}".strip()
            self.asked.append(said)
            number = len(self.asked)
        if self.fault == "every third" and number % 3 == 0:
            start_response("503 Slow Down", [("Content-Length", "0")])
            return [b""]
        if self.fault not in {"cut", "short"} or environ["REQUEST_METHOD"] != "GET" or "HTTP_RANGE" not in environ:
            return self.app(environ, start_response)
        return self._less(environ, start_response)

    def _less(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Half of the answer: `cut` with the length of the whole, `short` as if it were the whole."""
        told: list[Any] = []
        body = b"".join(self.app(environ, lambda *answer: told.append(answer)))
        status, headers, *_ = told[0]
        half = body[: len(body) // 2]
        if self.fault == "short":
            headers = [(name, str(len(half)) if name.lower() == "content-length" else value) for name, value in headers]
        start_response(status, headers)
        return [half]
