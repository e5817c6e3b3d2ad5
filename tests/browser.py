"""A page as a browser shows it: Debian's Chromium, spoken to in its own protocol over a pipe.

with Browser(tmp_path) as browser:
    view = browser.open(page, width=360, dark=True)
    view.overflow, view.said, view.requests
"""

import base64
import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHROMIUM = "chromium"
AXE = Path(__file__).parents[1] / ".page_cache" / "axe.min.js"

PATIENCE = 120.0
"""Seconds that Chromium may take to answer."""

ABOVE = 10
"""Descriptors that leave 3 and 4, which Chromium reads and writes, alone."""

FLAGS = (
    "--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--hide-scrollbars", "--force-color-profile=srgb",
)  # fmt: skip


def missing() -> str:
    """What the page cannot be looked at for, in one line; empty where all is there."""
    if shutil.which(CHROMIUM) is None:
        return "the page is looked at in Chromium: install Debian's package 'chromium'"
    if not AXE.is_file():
        return f"{AXE.parent.name}/{AXE.name} is missing: `make page` fetches it with npm"
    return ""


@dataclass
class View:
    """A page at one width and in one scheme."""

    browser: "Browser"
    session: str
    requests: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self.browser.call(method, parameters, self.session)

    def evaluate(self, script: str) -> Any:
        """What the script comes to, or its promise."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(json.dumps(found["exceptionDetails"])[:500])
        return found["result"].get("value")

    @property
    def overflow(self) -> int:
        """Pixels by which the page is wider than the window."""
        return self.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")

    def picture(self, file: Path, height: int) -> None:
        """The upper part of the page as PNG."""
        width = self.evaluate("innerWidth")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        found = self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(found["data"]))

    def faults(self) -> list[str]:
        """What axe-core calls serious or critical, each with the first element that it is about."""
        self.evaluate(AXE.read_text(encoding="utf-8"))
        found = self.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{one['impact']}: {one['id']}, {len(one['nodes'])} times: {one['nodes'][0]['html'][:200]}"
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
        ]


class Browser:
    """A Chromium without a window, whose files lie in a folder of the test's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.views: dict[str, View] = {}
        self.number = 0
        self.rest = b""
        self.loaded: set[str] = set()

    def __enter__(self) -> "Browser":
        (read, to_write), (to_read, write) = _pipe(), _pipe()
        # the shell puts the ends where Chromium looks for them
        command = f'exec {CHROMIUM} "$@" 3<&{read} 4>&{write}'
        flags = [*FLAGS, f"--user-data-dir={self.folder / 'chromium'}", "about:blank"]
        self.process = subprocess.Popen(
            ["bash", "-c", command, "bash", *flags], pass_fds=(read, write), stderr=subprocess.DEVNULL
        )
        os.close(read)
        os.close(write)
        self.write, self.read = to_write, to_read
        os.set_blocking(self.read, False)
        return self

    def __exit__(self, *_: object) -> None:
        self.call("Browser.close", {})
        os.close(self.write)
        os.close(self.read)
        self.process.wait(PATIENCE)

    @contextmanager
    def open(self, page: Path, width: int, dark: bool = False, height: int = 800) -> Iterator[View]:
        """The page, once it is loaded."""
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        view = self.views[session] = View(self, session)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        view.call("Emulation.setEmulatedMedia", features=scheme)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        view.call("Emulation.setDeviceMetricsOverride", **size)
        for domain in ("Network", "Runtime", "Log", "Page"):
            view.call(f"{domain}.enable")
        view.call("Page.navigate", url=page.resolve().as_uri())
        while session not in self.loaded:
            self._hear()
        yield view
        self.call("Target.closeTarget", {"targetId": target})

    def call(self, method: str, parameters: dict[str, Any], session: str | None = None) -> dict[str, Any]:
        self.number += 1
        number = self.number
        message = {"id": number, "method": method, "params": parameters}
        rest = json.dumps(message | ({} if session is None else {"sessionId": session})).encode() + b"\0"
        while rest:
            rest = rest[os.write(self.write, rest) :]
        while True:
            heard = self._hear()
            if heard.get("id") == number:
                if "error" in heard:
                    raise RuntimeError(f"{method}: {heard['error']['message']}")
                return heard["result"]

    def _hear(self) -> dict[str, Any]:
        """The next message; what views are told of is noted with them."""
        until = time.monotonic() + PATIENCE
        while b"\0" not in self.rest:
            try:
                read = os.read(self.read, 1 << 20)
            except BlockingIOError:
                if time.monotonic() > until:
                    raise TimeoutError(f"{CHROMIUM} says nothing") from None
                time.sleep(0.01)
                continue
            if not read:
                raise RuntimeError(f"{CHROMIUM} has ended")
            self.rest += read
        line, _, self.rest = self.rest.partition(b"\0")
        message = json.loads(line)
        view, what = self.views.get(message.get("sessionId", "")), message.get("params", {})
        match message.get("method"):
            case "Network.requestWillBeSent" if view:
                view.requests.append(what["request"]["url"])
            case "Runtime.exceptionThrown" if view:
                view.said.append(json.dumps(what["exceptionDetails"])[:500])
            case "Runtime.consoleAPICalled" if view and what["type"] in ("error", "warning", "assert"):
                view.said.append(json.dumps(what["args"])[:500])
            case "Log.entryAdded" if view and what["entry"]["level"] in ("error", "warning"):
                view.said.append(what["entry"]["text"])
            case "Page.loadEventFired":
                self.loaded.add(message["sessionId"])
        return message


def _pipe() -> tuple[int, int]:
    ends = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, ABOVE) for end in ends]
    for end in ends:
        os.close(end)
    return high[0], high[1]
