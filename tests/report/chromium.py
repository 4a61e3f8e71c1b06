"""A headless Chromium, spoken to over two pipes: opens one page and tells what happened in it."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

browser = pytest.mark.browser
needs_chromium = pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine")

QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync "
    "--no-first-run --no-default-browser-check --hide-scrollbars --remote-debugging-pipe"
)


@dataclass
class Tab:
    """One page. `requests` are the addresses it asked for, `messages` what it wrote to its console."""

    send_to: int
    read_from: int
    session: str = ""
    count: int = 0
    rest: bytes = b""
    requests: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    loaded: bool = False

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol and wait for its answer."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.send_to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.next()
            if answer.get("id") == self.count:
                assert "error" not in answer, answer
                return answer["result"]

    def next(self) -> dict[str, Any]:
        """The next message from the browser; events are noted down."""
        while b"\0" not in self.rest:
            piece = os.read(self.read_from, 1 << 20)
            assert piece, "the browser went away"
            self.rest += piece
        line, _, self.rest = self.rest.partition(b"\0")
        message = json.loads(line)
        self.note(message.get("method", ""), message.get("params", {}))
        return message

    def note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Log.entryAdded":
            self.messages.append(params["entry"]["text"])
        elif method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
            self.messages.append(json.dumps(params))
        elif method == "Page.loadEventFired":
            self.loaded = True

    def open(self, path: Path, width: int = 1200, height: int = 900, scheme: str = "light") -> None:
        """Load a file at this size and in this colour scheme."""
        self.open_url(path.as_uri(), width, height, scheme)

    def open_url(self, url: str, width: int = 1200, height: int = 900, scheme: str = "light") -> None:
        """The same with an address."""
        for domain in ("Network", "Log", "Runtime", "Page"):
            self.call(f"{domain}.enable")
        phone = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.navigate", url=url)
        while not self.loaded:
            self.next()

    def value(self, expression: str) -> Any:
        """What an expression gives inside the page."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def picture(self, path: Path) -> None:
        """The whole page as a PNG."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def chromium(profile: Path) -> Iterator[Tab]:
    """A browser with one empty page; gone when the block ends."""
    down_read, down_write = os.pipe()
    up_read, up_write = os.pipe()
    command = f"exec {PROGRAM} {QUIET} --user-data-dir={profile} about:blank 3<&{down_read} 4>&{up_write}"
    process = subprocess.Popen(
        ["bash", "-c", command], pass_fds=(down_read, up_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(down_read)
    os.close(up_write)
    try:
        tab = Tab(down_write, up_read)
        target = tab.call("Target.createTarget", url="about:blank")["targetId"]
        tab.session = tab.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        yield tab
    finally:
        process.terminate()
        process.wait(timeout=20)
        os.close(down_write)
        os.close(up_read)
