"""A headless Chromium, driven by its own protocol (chromedevtools.github.io/devtools-protocol).

`python -m tests.support.browser URL FILE.png` takes a picture of a page.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MISSING = "no Chromium or Chrome on PATH: the page is not tried in a browser here (Debian: apt install chromium)"
START = 60  # seconds; a busy box is slow to start a browser


def find() -> str | None:
    """The browser's path."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """A tab. `console` has the lines of its console, with errors and violations of the security policy."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._number = 0
        self.console: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command to the browser, and return its result."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=60))
            if message.get("id") == self._number:
                assert "error" not in message, (method, message["error"])
                result: dict[str, Any] = message["result"]
                return result
            self._note(message)

    def open(self, url: str) -> None:
        """Open an address."""
        failed = self.call("Page.navigate", url=url).get("errorText")
        assert not failed, (url, failed)

    def read(self, expression: str) -> Any:
        """The value of a JavaScript expression; an AssertionError where it throws."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def look(self, width: int, height: int, scheme: str = "light", scale: float = 1) -> None:
        """Set the window's size and whether the person likes it light or dark."""
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def picture(self, file: Path) -> None:
        """The whole page, as PNG."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))

    def _note(self, message: dict[str, Any]) -> None:
        about = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                self.console.append(json.dumps(about["exceptionDetails"]))
            case "Runtime.consoleAPICalled":
                self.console.append(json.dumps(about["args"]))
            case "Log.entryAdded":
                self.console.append(about["entry"]["text"])


class Browser:
    """A running browser, at its address for those who drive it."""

    def __init__(self, address: str) -> None:
        self._address = address

    @contextmanager
    def tab(self) -> Iterator[Page]:
        """A new tab."""
        with connect(self._address, proxy=None) as socket:
            socket.send(json.dumps({"id": 1, "method": "Target.createTarget", "params": {"url": "about:blank"}}))
            while (answer := json.loads(socket.recv(timeout=60))).get("id") != 1:
                pass
        number = answer["result"]["targetId"]
        address = f"{self._address.partition('/devtools/')[0]}/devtools/page/{number}"
        with connect(address, max_size=None, proxy=None) as socket:
            page = Page(socket)
            yield page
            page.call("Page.close")


@contextmanager
def browser(path: str) -> Iterator[Browser]:
    """A browser of one's own, gone at the end with all that it wrote."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        arguments = [
            path, "--headless=new", "--remote-debugging-port=0", f"--user-data-dir={profile}", "--no-first-run",
            "--disable-gpu", "--disable-extensions", "--disable-background-networking", "--disable-dev-shm-usage",
            "--no-proxy-server", "--hide-scrollbars",
            *(["--no-sandbox"] if os.geteuid() == 0 else []), "about:blank",
        ]  # fmt: skip
        silent = subprocess.DEVNULL
        with subprocess.Popen(arguments, stdin=silent, stdout=silent, stderr=subprocess.PIPE) as process:
            try:
                yield Browser(_address(process))
            finally:
                process.kill()


def _address(process: subprocess.Popen[bytes]) -> str:
    """The address where the browser listens; it prints it when it has started."""
    assert process.stderr is not None
    output = []
    kill = threading.Timer(START, process.kill)
    kill.start()
    try:
        for line in process.stderr:
            output.append(line.decode(errors="replace"))
            if found := re.search(r"DevTools listening on (ws://\S+)", output[-1]):
                threading.Thread(target=process.stderr.read, daemon=True).start()  # a full pipe would stop it
                return found[1]
    finally:
        kill.cancel()
    raise AssertionError(f"the browser did not start:\n{''.join(output)}")


def take_picture(url: str, file: Path) -> None:
    """Write a picture of the page at an address, as PNG."""
    path = find()
    if path is None:
        sys.exit(MISSING)
    with browser(path) as one, one.tab() as page:
        page.look(1120, 900, scale=1.5)
        page.open(url)
        while page.read("document.readyState") != "complete":
            pass
        page.picture(file)


if __name__ == "__main__":
    take_picture(sys.argv[1], Path(sys.argv[2]))
