"""A headless Chromium, driven over WebDriver: a page as a reader's browser shows it."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from base64 import b64decode
from pathlib import Path
from typing import Any

DRIVER = shutil.which("chromedriver")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MISSING = "" if DRIVER and BROWSER else "no chromium and chromedriver (apt-get install chromium chromium-driver)"
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-sync",
    "--no-first-run",
    "--window-size=1400,1000",
    # Whatever a page asks of the network fails, and shows among the console's errors.
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
ENTER = "\ue007"  # of WebDriver
WITHOUT_WEBGL = ("--disable-gpu", "--disable-webgl", "--disable-3d-apis")
WITH_WEBGL = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")


class Chromium:
    """A browser window with a separate profile.

    Args:
        arguments: of the browser, besides those that it needs here.
    """

    def __init__(self, *arguments: str) -> None:
        assert DRIVER and BROWSER
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._driver = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, text=True)
        assert self._driver.stdout is not None
        line = next(line for line in self._driver.stdout if "started successfully on port" in line)
        self._url = f"http://127.0.0.1:{line.rstrip().rstrip('.').rpartition(' ')[2]}"
        options = {"binary": BROWSER, "args": [*ARGUMENTS, *arguments, f"--user-data-dir={self._profile.name}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._url += f"/session/{session['sessionId']}"

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._call("DELETE", "")
        finally:
            self._driver.terminate()
            self._driver.communicate()  # waits for its end and closes the pipe
            self._profile.cleanup()

    def _call(self, method: str, path: str, content: dict[str, Any] | None = None) -> Any:
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(self._url + path, data, {"Content-Type": "application/json"}, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the driver is on this machine
        with opener.open(request, timeout=120) as answer:
            return json.load(answer)["value"]

    def open(self, page: Path, fragment: str = "") -> None:
        """Opens a file and waits until it is loaded."""
        self._call("POST", "/url", {"url": "about:blank"})
        self._call("POST", "/url", {"url": page.resolve().as_uri() + (f"#{fragment}" if fragment else "")})

    def run(self, script: str) -> Any:
        """Runs a script, the body of a function, and returns its result."""
        return self._call("POST", "/execute/sync", {"script": script, "args": []})

    def until(self, condition: str, seconds: float = 30.0) -> Any:
        """Waits until an expression has a value, and returns it."""
        end = time.monotonic() + seconds
        while not (value := self.run(f"return {condition}")):
            assert time.monotonic() < end, f"{condition} after {seconds} s"
            time.sleep(0.05)
        return value

    def type(self, selector: str, keys: str) -> None:
        """Sends keys to the first element that a CSS selector finds; ENTER is one of them."""
        (element,) = self._call("POST", "/element", {"using": "css selector", "value": selector}).values()
        self._call("POST", f"/element/{element}/value", {"text": keys})

    def width(self, pixels: int) -> None:
        """Sets the width of the window."""
        self._call("POST", "/window/rect", {"width": pixels, "height": 1400})

    def errors(self) -> list[str]:
        """Warnings and errors in the console since the last call."""
        entries = self._call("POST", "/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] in ("WARNING", "SEVERE")]

    def picture(self, file: Path) -> None:
        """Writes a screenshot of the window."""
        file.write_bytes(b64decode(self._call("GET", "/screenshot")))


def seconds_to(page: Path, arguments: tuple[str, ...] = WITHOUT_WEBGL) -> dict[str, float]:
    """Seconds from the start of the navigation in a new browser to the marks of the page.

    Returns:
        `table-ready`, when the table can be sorted and filtered, and `curves-drawn`, when the first chart is there.
    """
    marks = ("table-ready", "curves-drawn")
    with Chromium(*arguments) as browser:
        browser.open(page)
        at = {mark: browser.until(f"(performance.getEntriesByName('{mark}')[0] || {{}}).startTime") for mark in marks}
        errors = browser.errors()
        assert not errors, errors
    return {mark: float(milliseconds) / 1e3 for mark, milliseconds in at.items()}
