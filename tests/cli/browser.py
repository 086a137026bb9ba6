"""A headless Chromium, driven by its own protocol over a pipe: no package, no port."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Browser:
    """One page of a browser that sees nothing but this machine.

    Attributes:
        requested: addresses that the page asked for
        said: what it wrote to its console, errors too
    """

    def __init__(self, folder: Path, *, width: int = 1000, is_phone: bool = False) -> None:
        assert CHROMIUM is not None
        read_end, self._write = os.pipe()
        self._read, write_end = os.pipe()
        options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe",
                   "--disable-background-networking", "--no-first-run",
                   f"--user-data-dir={folder}")  # fmt: skip
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$0" "$@" 3<&{read_end} 4>&{write_end}', CHROMIUM, *options],
            pass_fds=(read_end, write_end), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(read_end), os.close(write_end)
        self._rest, self._number, self._session = b"", 0, None
        self.requested: list[str] = []
        self.said: list[str] = []
        self._is_loaded = False
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900,
                  deviceScaleFactor=1, mobile=is_phone)  # fmt: skip

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.wait(30)
        os.close(self._read), os.close(self._write)

    def go(self, address: str) -> None:
        """Open an address, and return when it is loaded."""
        self._is_loaded = False
        self.call("Page.navigate", url=address)
        while not self._is_loaded:
            self._note(self._next())

    def call(self, method: str, **given: Any) -> Any:
        """Return what the browser answers; events on the way are noted."""
        self._number += 1
        asked = {"id": self._number, "method": method, "params": given}
        if self._session is not None:
            asked["sessionId"] = self._session
        os.write(self._write, json.dumps(asked).encode() + b"\0")
        while True:
            told = self._next()
            if told.get("id") == self._number:
                assert "error" not in told, told
                return told["result"]
            self._note(told)

    def _next(self) -> Any:
        while b"\0" not in self._rest:
            part = os.read(self._read, 2**16)
            assert part, "the browser has ended"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def _note(self, event: Any) -> None:
        given = event.get("params", {})
        if event.get("method") == "Network.requestWillBeSent":
            self.requested.append(given["request"]["url"])
        elif event.get("method") == "Page.loadEventFired":
            self._is_loaded = True
        elif event.get("method") == "Runtime.exceptionThrown":
            self.said.append(str(given["exceptionDetails"]))
        elif event.get("method") == "Log.entryAdded":
            self.said.append(given["entry"]["text"])

    def run(self, script: str) -> Any:
        """Return the value of an expression in the page, awaited."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True,
                          returnByValue=True)  # fmt: skip
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait_for(self, condition: str) -> Any:
        """Return the value of an expression as soon as it is true."""
        return self.run(
            "new Promise((done, fail) => { const end = Date.now() + 20000;"
            f"(function look() {{ const value = {condition}; "
            "if (value) done(value instanceof Node ? true : value);"
            "else if (Date.now() > end) fail(new Error('never: ' + document.body.innerText));"
            "else setTimeout(look, 20); })(); })"
        )

    def press(self, key: str, code: int, *, ctrl: bool = False) -> None:
        """Press a key."""
        given: dict[str, Any] = {"key": key, "code": key, "windowsVirtualKeyCode": code,
                                 "modifiers": 2 if ctrl else 0}  # fmt: skip
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, **given)

    def picture(self, path: Path) -> None:
        """Write what is seen as a PNG."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))
