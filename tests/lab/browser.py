"""Debian's Chromium, driven by its own WebDriver (W3C), without a window."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .waiting import until

HOST = "127.0.0.1"
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")
"""Root has no sandbox. ``/dev/shm`` is small in containers."""
TAB = "\ue004"


class Browser:
    """One window."""

    def __init__(self, port: int) -> None:
        self._driver = f"http://{HOST}:{port}"
        self._session = ""

    def open(self, options: Sequence[str] = ()) -> None:
        """Open the window."""
        chrome = {"args": [*OPTIONS, *options], "binary": "/usr/bin/chromium"}
        wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": chrome}}}
        self._session = self._call("/session", wanted)["sessionId"]

    def close(self) -> None:
        """Close the window."""
        self._call(f"/session/{self._session}", method="DELETE")

    def ready(self) -> bool:
        """Return True if the driver takes calls."""
        try:
            return bool(self._call("/status")["ready"])
        except OSError:
            return False

    def visit(self, address: str) -> None:
        """Load a page."""
        self._command("url", {"url": address})

    def run(self, script: str, *arguments: Any) -> Any:
        """Return what a script returns, which runs as the body of a function in the page."""
        return self._command("execute/sync", {"script": script, "args": list(arguments)})

    def run_async(self, script: str) -> Any:
        """Return what a script gives to its last argument, a function."""
        return self._command("execute/async", {"script": script, "args": []})

    def press(self, key: str) -> None:
        """Press a key."""
        keys = [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        self._command("actions", {"actions": [{"type": "key", "id": "keys", "actions": keys}]})

    def screenshot(self) -> bytes:
        """Return a picture of the whole page, as PNG."""
        taken = self._command(
            "goog/cdp/execute",
            {"cmd": "Page.captureScreenshot", "params": {"format": "png", "captureBeyondViewport": True}},
        )
        return base64.b64decode(taken["data"])

    def emulate(self, command: str, **parameters: Any) -> None:
        """Call a command of the DevTools protocol."""
        self._command("goog/cdp/execute", {"cmd": command, "params": parameters})

    def _command(self, name: str, body: dict[str, Any]) -> Any:
        return self._call(f"/session/{self._session}/{name}", body)

    def _call(self, path: str, body: dict[str, Any] | None = None, method: str = "") -> Any:
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(
            self._driver + path, data, method=method or ("POST" if data else "GET")
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            with error:
                raise RuntimeError(error.read().decode()) from error


@contextlib.contextmanager
def browser(directory: Path) -> Iterator[Browser]:
    """Yield a window with a profile of its own in ``directory``."""
    with socket.create_server((HOST, 0)) as free:
        port = int(free.getsockname()[1])
    with (directory / "chromedriver.log").open("wb") as log:
        driver = subprocess.Popen(
            ("chromedriver", f"--port={port}"), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        window = Browser(port)
        until(window.ready, "the driver is ready", 30)
        window.open([f"--user-data-dir={directory / 'profile'}"])
        try:
            yield window
        finally:
            window.close()
    finally:
        driver.terminate()
        driver.wait(10)
