"""A real headless Chromium over the DevTools protocol, by two pipes: no driver, no library, no port.

Messages are JSON, each ended by a NUL: the browser reads them on descriptor 3 and writes on 4.
"""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, Queue
from typing import Any

LOOKS = ((1280, "light"), (390, "dark"), *(((1280, "dark"), (390, "light")) if "QUADRILLE_SHOTS" in os.environ else ()))
"""Widths and schemes a screen is looked at in: each of them, and with pictures wanted each with each."""
PATIENCE_SECONDS = 60.0
PROGRAM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--remote-debugging-pipe", "--no-first-run", "--no-default-browser-check", "--disable-extensions",
    "--disable-background-networking", "--disable-sync", "--disable-component-update", "--mute-audio",
    "--force-color-profile=srgb", "--font-render-hinting=none",
)  # fmt: skip


class BrowserError(AssertionError):
    """The browser refused a command, a page's script raised, or nothing came in time."""

    def __init__(self, asked: str, came: object) -> None:
        super().__init__(f"{asked[:200]}: {came}")


class Browser:
    """One Chromium for the session; pages are its tabs."""

    def __init__(self, profile: Path) -> None:
        (to_child, self._write), (self._read, from_child) = os.pipe(), os.pipe()

        def place() -> None:
            high = [fcntl.fcntl(one, fcntl.F_DUPFD, 10) for one in (to_child, from_child)]
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        command = [PROGRAM, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            command, pass_fds=(3, 4), preexec_fn=place,  # noqa: PLW1509 - before exec, descriptors alone
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_child)
        os.close(from_child)
        self._numbers = itertools.count(1)
        self._answers: dict[int, Queue[dict[str, Any]]] = {}
        self._events: dict[str, Queue[dict[str, Any]]] = {}
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()

    def close(self) -> None:
        """End the browser."""
        with suppress(BrowserError, OSError):
            self.ask("Browser.close")
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(20)
        os.close(self._write)
        os.close(self._read)

    def ask(self, method: str, session: str = "", **params: object) -> dict[str, Any]:
        """Return the result of a command; raises BrowserError."""
        number = next(self._numbers)
        answer = self._answers[number] = Queue()
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        self._write_all(json.dumps(message).encode() + b"\0")
        try:
            found = answer.get(timeout=PATIENCE_SECONDS)
        except Empty:
            raise BrowserError(method, "no answer") from None
        finally:
            del self._answers[number]
        if "error" in found:
            raise BrowserError(method, found["error"])
        result: dict[str, Any] = found["result"]
        return result

    def events(self, session: str) -> Queue[dict[str, Any]]:
        """Return what a tab tells, in order."""
        return self._events.setdefault(session, Queue())

    @contextmanager
    def page(self, *, width: int = 1280, height: int = 900, dark: bool = False, scripts: bool = True) -> Iterator[Page]:
        """A new tab of this size and scheme, in a context of its own; closed afterwards."""
        context = self.ask("Target.createBrowserContext")["browserContextId"]
        target = self.ask("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.ask(f"{domain}.enable")
        page.ask("Network.setCacheDisabled", cacheDisabled=True)
        page.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.ask("Emulation.setEmulatedMedia", features=[scheme, {"name": "prefers-reduced-motion", "value": "reduce"}])
        page.ask("Emulation.setScriptExecutionDisabled", value=not scripts)
        try:
            yield page
        finally:
            self.ask("Target.disposeBrowserContext", browserContextId=context)

    def _write_all(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._write, data) :]

    def _listen(self) -> None:
        rest = b""
        while chunk := os.read(self._read, 1 << 16):
            *whole, rest = (rest + chunk).split(b"\0")
            for text in whole:
                message = json.loads(text)
                if (number := message.get("id")) is not None:
                    if waiting := self._answers.get(number):
                        waiting.put(message)
                else:
                    self.events(message.get("sessionId", "")).put(message)


class Page:
    """A tab: where it is, what it holds, what it complained of."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session
        self.complaints: list[str] = []

    def ask(self, method: str, **params: object) -> dict[str, Any]:
        """Return the result of a command to this tab."""
        return self._browser.ask(method, self._session, **params)

    def goto(self, url: str) -> None:
        """Load an address, until its load event."""
        self._take()
        found = self.ask("Page.navigate", url=url)
        if found.get("errorText"):
            raise BrowserError(url, found["errorText"])
        self._until(lambda event: event["method"] == "Page.loadEventFired")

    def follow(self, act: Callable[[], object]) -> None:
        """Do something that leads to another page, and wait until that is loaded."""
        self._take()
        act()
        self._until(lambda event: event["method"] == "Page.loadEventFired")

    def run(self, script: str) -> Any:  # noqa: ANN401 - any value of a page
        """Return the value of an expression in the page; raises BrowserError with what it raised."""
        found = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise BrowserError(script, found["exceptionDetails"])
        return found["result"].get("value")

    def text(self) -> str:
        """Return what the page says."""
        return str(self.run("document.body.innerText"))

    def until(self, script: str) -> None:
        """Wait until an expression is true in the page, looking after each of its frames."""
        found = self.run(
            f"new Promise((resolve) => {{ const end = Date.now() + {PATIENCE_SECONDS * 1000:.0f};"
            f" const look = () => {{ if ({script}) resolve(true); else if (Date.now() > end) resolve(false);"
            " else setTimeout(look, 20); }; look(); })"
        )
        if not found:
            raise BrowserError(script, "never true")

    def press(self, key: str, text: str = "") -> None:
        """Press a key as a person does."""
        codes: Mapping[str, int] = {"Tab": 9, "Enter": 13, "Escape": 27}
        code = codes.get(key, ord(key.upper()) if len(key) == 1 else 0)
        shown = text or (key if len(key) == 1 else "\r" if key == "Enter" else "")
        down: dict[str, object] = {"type": "keyDown", "key": key, "windowsVirtualKeyCode": code}
        if shown:
            down["text"] = shown
        self.ask("Input.dispatchKeyEvent", **down)
        self.ask("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def type(self, text: str) -> None:
        """Type a text where the focus is."""
        self.ask("Input.insertText", text=text)

    def shot(self, file: Path) -> None:
        """Write a picture of the whole page."""
        size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 4000), "scale": 1}
        found = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        file.write_bytes(base64.b64decode(found["data"]))

    def told(self) -> list[str]:
        """Return what the page has complained of so far: reports of its policy, errors of its scripts and loads."""
        self._take()
        return self.complaints

    def _until(self, done: Callable[[dict[str, Any]], bool]) -> None:
        events = self._browser.events(self._session)
        while True:
            try:
                event = events.get(timeout=PATIENCE_SECONDS)
            except Empty:
                raise BrowserError(self._session, "no event") from None
            self._note(event)
            if done(event):
                return

    def _take(self) -> None:
        events = self._browser.events(self._session)
        with suppress(Empty):
            while True:
                self._note(events.get_nowait())

    def _note(self, event: dict[str, Any]) -> None:
        params = event["params"]
        if event["method"] == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{params['entry']['source']}: {params['entry']['text']}")
        if event["method"] == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"].get("exception", params)))
        if event["method"] == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append(str(params["args"]))
