"""Headless Chromium for checks of pages, over the DevTools protocol; without any network but loopback."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import tempfile
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from websockets.sync.client import connect

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from websockets.sync.client import ClientConnection

__all__ = ["DESKTOP", "PHONE", "Page", "find_chromium", "open_browser"]

DESKTOP: Final = (1280, 900)
PHONE: Final = (390, 844)
_LIMIT: Final = 60.0


def find_chromium() -> str | None:
    """Return the path of Chromium, None if it is not installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@dataclass
class Page:
    """A tab.

    Attributes:
        requests: addresses that the pages of this tab have requested so far.
    """

    socket: ClientConnection
    requests: list[str] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _loaded: bool = False

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol and return its result.

        Raises:
            RuntimeError: Chromium refuses the call.
        """
        number = next(self._numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (message := self._receive()).get("id") != number:
            pass
        if "error" in message:
            raise RuntimeError(f"{method}: {message['error']['message']}")
        result: dict[str, Any] = message["result"]
        return result

    def show_page(self, address: str, size: tuple[int, int], *, dark: bool) -> None:
        """Load an address in a window of this size, and wait until it is complete."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=size[0], height=size[1], deviceScaleFactor=1, mobile=False
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self._loaded = False
        self.call("Page.navigate", url=address)
        while not self._loaded:
            self._receive()

    def evaluate(self, script: str) -> Any:
        """Return the value of a JavaScript expression or promise.

        Raises:
            RuntimeError: the script throws.
        """
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"])[:500])
        return answer["result"].get("value")

    def save_screenshot(self, file: Path) -> None:
        """Store a picture of the whole page, at most 6000 pixels high."""
        width, height = self.evaluate("[document.documentElement.clientWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": width, "height": min(height, 6000), "scale": 1}
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        file.write_bytes(base64.b64decode(answer["data"]))

    def _receive(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self.socket.recv(timeout=_LIMIT))
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(message["params"]["request"]["url"])
        if message.get("method") == "Page.loadEventFired":
            self._loaded = True
        return message


@contextlib.contextmanager
def open_browser(program: str) -> Iterator[Page]:
    """Start Chromium with an empty profile and yield a tab; it ends with the block.

    Raises:
        RuntimeError: Chromium did not start.
    """
    flags = (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--remote-debugging-port=0",
    )
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [program, *flags, f"--user-data-dir={profile}", "about:blank"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            try:
                port = _debugging_port(process)
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=_LIMIT) as answer:
                    tabs = json.load(answer)
                address = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
                with connect(address, max_size=None) as socket:
                    page = Page(socket)
                    page.call("Page.enable")
                    page.call("Network.enable")
                    yield page
            finally:
                process.kill()


def _debugging_port(process: subprocess.Popen[str]) -> int:
    assert process.stderr is not None
    for line in process.stderr:
        if "DevTools listening on" in line:
            return int(line.rsplit(":", 1)[1].split("/")[0])
    raise RuntimeError("Chromium did not start")
