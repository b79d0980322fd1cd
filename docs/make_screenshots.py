"""Make the screenshots of `docs/images` from the quickstart dialogues: `python docs/make_screenshots.py`.

Needs `pip install '.[test]'` and Chromium (`apt-get install chromium`).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

REPOSITORY = Path(__file__).resolve().parent.parent
IMAGES = REPOSITORY / "docs" / "images"
CHROMIUM = "/usr/bin/chromium"
MOST_BYTES = 150_000


def main() -> None:
    """Run the quickstart on both simulated models, write the pages, and take their pictures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_STATE_HOME"] = str(folder / "state")
        dataset = str(REPOSITORY / "datasets" / "quickstart.jsonl")
        _convbatch(folder, "run", dataset, "-m", "sim-good", "-m", "sim-drift", "-g", "simulator", "-o", "quickstart")
        _convbatch(folder, "report", "quickstart", "-o", "report.html")
        sides = ("quickstart:sim-good@simulator", "quickstart:sim-drift@simulator")
        _convbatch(folder, "compare", *sides, "-o", "compare.html")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page(viewport={"width": 1120, "height": 760})
            _take(page, folder / "report.html", "report.png")
            _take(page, folder / "compare.html", "compare.png")
            _take(page, folder / "compare.html", "transcript.png", address="#units-en")
            browser.close()


def _convbatch(folder: Path, *args: str) -> None:
    done = subprocess.run([sys.executable, "-m", "convbatch", *args], cwd=folder, check=False, capture_output=True)
    if done.returncode not in (0, 1):  # 1: the comparison found the regression
        sys.exit(done.stderr.decode())


def _take(page: Page, path: Path, name: str, *, address: str = "") -> None:
    page.goto("about:blank")
    page.goto(path.as_uri() + address)
    page.wait_for_selector("html[data-ready]", state="attached")
    target = IMAGES / name
    page.screenshot(path=target)
    size = target.stat().st_size
    print(f"{target.relative_to(REPOSITORY)}: {size:,} bytes")  # noqa: T201  # a script
    if size > MOST_BYTES:
        sys.exit(f"{name} has more than {MOST_BYTES:,} bytes")


if __name__ == "__main__":
    main()
