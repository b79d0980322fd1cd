"""A browser for tests of pages: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
WIDE, NARROW = ViewportSize(width=1280, height=900), ViewportSize(width=390, height=844)
_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


@contextmanager
def chromium() -> Generator[Browser]:
    """Start Chromium; without it skip the test, in CI fail it."""
    if not CHROMIUM.exists():
        what = f"there is no {CHROMIUM}: apt-get install chromium"
        if os.environ.get("CI"):
            pytest.fail(what)
        pytest.skip(what)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_OPTIONS)
        yield browser
        browser.close()


@dataclass
class OpenPage:
    """A page in the browser, and what went wrong in it."""

    page: Page
    problems: list[str] = field(default_factory=list[str])
    """Errors, messages on the console, dialogs, and requests that leave the page."""

    def follow(self, address: str) -> None:
        """Go to an address within the page."""
        self.page.evaluate("address => { location.hash = address; }", address)
        self.page.wait_for_function("address => location.hash === address", arg=address)

    def unfold(self) -> None:
        """Open every fold."""
        self.page.evaluate("document.querySelectorAll('details').forEach(fold => { fold.open = true; })")
        self.page.evaluate("new Promise(requestAnimationFrame)")  # folds are filled after they are opened

    def violations(self, *rules: str) -> list[str]:
        """Return the serious findings of axe-core, of all rules or of these."""
        self.page.evaluate(_axe())  # as a debugger does: the page's policy would not allow the script
        options = {"resultTypes": ["violations"], **({"runOnly": [*rules]} if rules else {})}
        # Charts have names and tables, and thousands of elements.
        run = "options => axe.run({exclude: ['svg']}, options).then(result => result.violations)"
        found: list[dict[str, Any]] = self.page.evaluate(run, options)
        return [
            f"{one['id']}: {one['help']}: {node['html'][:200]}"
            for one in found
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"]
        ]


@contextmanager
def opened(browser: Browser, path: Path, address: str = "") -> Generator[OpenPage]:
    """Open a file, and wait until its script is done."""
    context = browser.new_context(viewport=WIDE, permissions=["clipboard-read", "clipboard-write"])
    view = OpenPage(context.new_page())
    page, problems = view.page, view.problems
    page.on("console", lambda message: problems.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: problems.append(f"error: {error}"))
    page.on("dialog", lambda dialog: problems.append(f"dialog: {dialog.message}"))
    page.on("popup", lambda popup: problems.append(f"popup: {popup.url}"))
    page.on("request", lambda one: problems.extend(_foreign(one.url, path)))
    page.goto(path.as_uri() + address)
    page.wait_for_selector("html[data-ready]", state="attached", timeout=20_000)
    yield view
    context.close()


def _foreign(url: str, path: Path) -> list[str]:
    is_own = url.split("#")[0] == path.as_uri() or url.startswith("data:")
    return [] if is_own else [f"request: {url[:200]}"]


@cache
def _axe() -> str:
    return (files("axe_playwright_python") / "axe.min.js").read_text("utf-8")
