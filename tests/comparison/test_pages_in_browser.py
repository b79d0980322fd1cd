"""The pages of a ranking and of `judge-check` in a real browser: no error, serious findings of axe, or overflow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

import convbatch
from convbatch.comparison.agreement_page import agreement_page
from convbatch.comparison.rank_page import ranking_page
from tests.conftest import QUICKSTART
from tests.support.browser import NARROW, WIDE, chromium, opened
from tests.support.made_runs import DRIFT, GOOD

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Write the pages; before the browser starts, whose event loop stays in this thread."""
    folder = tmp_path_factory.mktemp("pages")
    run = convbatch.run(QUICKSTART, models=[GOOD, DRIFT, "sim-echo@simulator"], out=folder / "run", progress=False)
    (folder / "rank.html").write_bytes(ranking_page(convbatch.rank(run)))
    lines = [{"id": f"d{n}", "turns": [{"user": "u", "checks": [{"llm_rubric": "Is fine."}]}]} for n in range(20)]
    (folder / "set.jsonl").write_text("\n".join(map(json.dumps, lines)), "utf-8")
    judged = convbatch.run(
        folder / "set.jsonl", models=[GOOD], judge="sim-judge@simulator", out=folder / "judged", progress=False
    )
    hostile = "</script><script>window.hit = 1</script><img src=x onerror='window.hit = 2'>"
    labels = [{"dialogue": f"d{n}", "label": "pass" if n % 3 else "fail", "reason": hostile} for n in range(20)]
    (folder / "labels.jsonl").write_text("\n".join(map(json.dumps, labels)), "utf-8")
    (folder / "agreement.html").write_bytes(agreement_page(convbatch.judge_check(judged, folder / "labels.jsonl")))
    return [folder / "rank.html", folder / "agreement.html"]


@pytest.fixture(scope="module")
def browser(pages: list[Path]) -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("number", [0, 1])
def test_a_page_is_sound_wide_and_narrow(browser: Browser, pages: list[Path], number: int, scheme: str) -> None:
    with opened(browser, pages[number]) as view:
        view.page.emulate_media(color_scheme=scheme)  # pyright: ignore[reportArgumentType]  # one of its two names
        for size in (WIDE, NARROW):
            view.page.set_viewport_size(size)
            view.unfold()
            assert view.violations() == []
            assert view.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert view.page.evaluate("window.hit") is None
        assert view.problems == []
