"""How fast a browser opens the page of a large report, against the same texts as plain HTML without a script."""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.measure import Failed, environment

_CHROMIUM = Path("/usr/bin/chromium")
_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
_WORDS = (
    "the",
    "weather",
    "in",
    "Oslo",
    "is",
    "cold",
    "but",
    "clear",
    "all",
    "day",
    "今天",
    "天气",
    "很好",
    "明天",
    "下雨",
)
_READY = "html[data-ready]"
TURNS = 5


class OpenedPages(NamedTuple):
    """Medians of one size."""

    page_s: float
    """Until the page's script is done."""
    page_bytes: int
    plain_s: float
    """Until the plain one is loaded."""
    plain_bytes: int


def opened_pages(folder: Path, dialogues: int, rounds: int) -> OpenedPages:
    """Write both pages of one simulated run, and open them in turn.

    Raises:
        Failed: There is no browser, or convbatch failed.
    """
    if not _CHROMIUM.exists():
        raise Failed(f"there is no {_CHROMIUM}: apt-get install chromium, and pip install '.[test]' for playwright")
    dataset, page, plain = (folder / name for name in ("pages.jsonl", "page.html", "plain.html"))
    script = list(_dialogues(dialogues))
    dataset.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in script), "utf-8")
    _convbatch(folder, "run", dataset.name, "-m", "sim-good@simulator", "-o", "pages", "--no-progress")
    _convbatch(folder, "report", "pages", "-o", page.name)
    plain.write_text(_plain(script), "utf-8")
    times = list(_times(page, plain, rounds))
    page_s, plain_s = (statistics.median(one[side] for one in times) for side in (0, 1))
    return OpenedPages(page_s, page.stat().st_size, plain_s, plain.stat().st_size)


def _dialogues(count: int) -> Iterator[dict[str, Any]]:
    chance = random.Random(16)
    for number in range(count):
        turns = [
            {"user": _text(chance, 30), "assistant": _text(chance, 60), "checks": [{"contains": chance.choice(_WORDS)}]}
            for _ in range(TURNS)
        ]
        yield {"id": f"d{number}", "turns": turns}


def _text(chance: random.Random, words: int) -> str:
    return " ".join(chance.choices(_WORDS, k=words))


def _convbatch(folder: Path, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "convbatch", *arguments], cwd=folder, env=environment(), capture_output=True, check=False
    )
    if done.returncode != 0:
        raise Failed(f"convbatch {arguments[0]} failed: {done.stderr.decode()[-500:]}")


def _plain(script: list[dict[str, Any]]) -> str:
    texts = (text for one in script for turn in one["turns"] for text in (turn["user"], turn["assistant"]))
    paragraphs = "".join(f"<p>{escape(text)}</p>" for text in texts)
    return f'<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>plain</title>{paragraphs}</html>'


def _times(page: Path, plain: Path, rounds: int) -> Iterator[tuple[float, float]]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_CHROMIUM, args=_OPTIONS)

        def seconds(path: Path, selector: str) -> float:
            tab = browser.new_page()
            begun = time.perf_counter()
            tab.goto(path.as_uri())
            tab.wait_for_selector(selector, state="attached")
            took = time.perf_counter() - begun
            tab.close()
            return took

        for _ in range(rounds):
            yield seconds(page, _READY), seconds(plain, "html")
        browser.close()
