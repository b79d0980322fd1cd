"""Pages in a real browser: they open without an error, can be read by keyboard, and hostile texts run nothing."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest
from playwright.sync_api import Browser, expect

import convbatch
from convbatch.auditing.audit import audit_runs
from convbatch.auditing.page import audit_page
from convbatch.comparison.compare import ComparisonRules, compare_runs
from convbatch.comparison.page import comparison_page
from convbatch.console.html import element
from convbatch.journal.media_store import MediaStore
from convbatch.reporting.page.document import html_page
from convbatch.reporting.page.report_page import report_page
from convbatch.reporting.page.transcript_data import TranscriptData, page_columns
from convbatch.reporting.page.viewer import viewer
from convbatch.reporting.report import sections_of
from convbatch.reporting.runs import load_runs
from convbatch.results.filters import Filters, Matcher
from convbatch.results.run import Run, load
from convbatch.results.transcripts import transcripts
from tests.conftest import QUICKSTART, Command
from tests.support.browser import NARROW, WIDE, OpenPage, chromium, opened
from tests.support.made_media import png, wav
from tests.support.made_runs import DRIFT, GOOD, SEED_REPLY, MadeRun, dialogue

pytestmark = pytest.mark.slow

HOSTILE = (
    "</script></textarea></title></style><script>window.hit = 1</script>"
    "<img src=x onerror='window.hit = 2'><svg onload='window.hit = 3'><a href='javascript:window.hit = 4'>x</a>"
    "<iframe srcdoc='<script>parent.hit = 5</script>'></iframe>{{constructor.constructor('window.hit = 6')()}}"
    "${window.hit = 7}'\"`-->]]>\u202edlrow\u2066\x1b]8;;http://example.invalid\x07\x00__proto__"
)


def report_of(*runs: Run) -> bytes:
    reported = load_runs(runs, None, None)
    matcher = Matcher(Filters())
    return report_page(reported, sections_of(reported, ("target",), matcher), matcher)


class Files(NamedTuple):
    """The pages under test."""

    report: Path
    comparison: Path
    hostile: Path
    hostile_comparison: Path
    ids: Path
    large: Path
    tools: Path
    media: Path
    audit: Path
    hostile_audit: Path


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Write the pages; before the browser starts, whose event loop stays in this thread."""
    folder = tmp_path_factory.mktemp("pages")
    run = convbatch.run(QUICKSTART, models=[GOOD, DRIFT], out=folder / "run", progress=False)
    hostile = hostile_run(folder / "hostile")
    contents = Files(*(folder / f"{name}.html" for name in Files._fields))
    contents.report.write_bytes(report_of(run))
    contents.comparison.write_bytes(comparison_page(compare_runs((run, GOOD), (run, DRIFT), ComparisonRules())))
    contents.hostile.write_bytes(report_of(hostile))
    one, other = ((hostile, name) for name in hostile.targets)
    contents.hostile_comparison.write_bytes(comparison_page(compare_runs(one, other, ComparisonRules())))
    contents.ids.write_bytes(report_of(run_with_ids(folder / "ids")))
    contents.large.write_bytes(large_page(run))
    of_tools = convbatch.run(QUICKSTART.with_name("tools.jsonl"), models=[GOOD], out=folder / "tools", progress=False)
    contents.tools.write_bytes(report_of(of_tools))
    of_media = convbatch.run(
        QUICKSTART.with_name("media.jsonl"), models=[GOOD], out=folder / "pictures", progress=False
    )
    contents.media.write_bytes(report_of(of_media))
    contents.audit.write_bytes(audit_of(run, GOOD, DRIFT))
    contents.hostile_audit.write_bytes(audit_of(hostile, *hostile.targets))
    return contents


def audit_of(run: Run, *targets: str) -> bytes:
    return audit_page(*audit_runs([f"{run.path}:{target}" for target in targets]))


@pytest.fixture(scope="module")
def browser(pages: Files) -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def report(browser: Browser, pages: Files) -> Iterator[OpenPage]:
    with opened(browser, pages.report) as view:
        yield view
    assert not view.problems


@pytest.fixture
def comparison(browser: Browser, pages: Files) -> Iterator[OpenPage]:
    with opened(browser, pages.comparison) as view:
        yield view
    assert not view.problems


def hostile_run(folder: Path) -> Run:
    """Make a run in which every text from outside is hostile: one target passes, the other one fails."""
    targets = (f"a{HOSTILE}@simulator", f"b{HOSTILE}@simulator")
    checks = [{"contains": "good", "name": f"check {HOSTILE}"}]
    script = [dialogue(f"d{HOSTILE}{n}", HOSTILE, tags=[HOSTILE], system=HOSTILE, checks=checks) for n in range(3)]
    script.append(dialogue("__proto__", "constructor", tags=["toString"], checks=checks))
    made = MadeRun(folder, script, targets=targets, checks=1)
    for index in range(len(script)):
        for place, target in enumerate(targets):
            reply = SEED_REPLY._replace(
                text=f"{'bad' if place else 'good'} {HOSTILE}", thought=HOSTILE, finish_reason_raw=HOSTILE,
                model_version=HOSTILE,
            )  # fmt: skip
            made.replied(made.ident(index, 1, target), reply)
    return load(made.write().path)


def run_with_ids(folder: Path) -> Run:
    """Make a run with ids that are hard to tell from turns and paths, with media, thoughts, Arabic and Chinese."""
    script = [dialogue(name, "u", "v") for name in ("1", "2", "3", "a/b", "模型 50%", "section-transcripts", "1/2")]
    script.append(dialogue("rtl", "مرحبا abc", "你好", system="be brief"))
    made = MadeRun(folder, script)
    media = [(png(20, 10), "image/png"), (wav(8_000), "audio/wav"), (wav(3 * 2**19), "audio/wav")]
    (folder / "media").mkdir(parents=True)
    store = MediaStore(folder)
    kept = tuple(store.keep(content, mime_type) for content, mime_type in media)
    shutil.copytree(folder / "media", folder.with_name("media"))
    shutil.rmtree(folder)
    for index, one in enumerate(script):
        for turn in (1, 2):
            reply = SEED_REPLY._replace(text=f"مرحبا {one.id}/{turn}", thought="because")
            made.replied(
                made.ident(index, turn), reply._replace(media=kept, has_media=True) if one.id == "rtl" else reply
            )
    path = made.write().path
    shutil.copytree(folder.with_name("media"), path / "media", dirs_exist_ok=True)
    return load(path)


def large_page(run: Run) -> bytes:
    """Make a page of 2,000 dialogues of 5 turns, from what a run says to one of its dialogues."""
    script, [column, _] = next(iter(transcripts([run], "json-order-en", Matcher(Filters()))))
    rows, words = column.turns, (row.reply for row in column.turns.values())
    texts = [*islice(cycle(word or "" for word in words), 50)]
    data = TranscriptData([run], page_columns([run]))
    for number in range(2_000):
        name = f"d{number:04}"
        rng = Random(number)
        replies = [
            row._replace(turn=n, reply=" ".join(rng.choices(texts, k=20)))
            for n, row in enumerate([*rows.values()] * 2, 1)
        ]
        turns = {row.turn: row for row in replies[:5]}
        data.add(replace(script, id=name, turns=script.turns[:1] * 5), [column._replace(turns=turns)])
    packed = data.pack()
    return html_page("large", [element("main", viewer(packed, "convbatch report"))], packed.packed)


@pytest.mark.parametrize("name", ["report", "comparison", "audit"])
def test_a_page_opens_without_an_error_and_is_accessible(browser: Browser, pages: Files, name: str) -> None:
    with opened(browser, getattr(pages, name)) as view:
        view.unfold()
        assert view.violations() == []
        view.page.emulate_media(color_scheme="dark")
        assert view.violations("color-contrast") == []
        for size in (WIDE, NARROW):
            view.page.set_viewport_size(size)
            assert view.page.evaluate("document.documentElement.scrollWidth") == size["width"]
    assert view.problems == []


def test_the_worst_regressed_turn_is_one_click_from_the_top(comparison: OpenPage) -> None:
    page = comparison.page
    verdict = page.get_by_role("region", name="Verdict")
    expect(verdict).to_contain_text("The candidate is worse than the base.")
    assert verdict.evaluate("node => node.getBoundingClientRect().bottom") < WIDE["height"]
    link = verdict.get_by_role("link")
    link.click()
    turn = page.locator("section.turn.current")
    expect(turn).to_be_in_viewport()
    expect(turn.locator(".verdict.failed")).to_have_count(1)
    expect(turn.locator("h5").first).to_contain_text(f"base {GOOD}")
    page.evaluate("scrollTo(0, 0)")
    link.click()
    expect(turn).to_be_in_viewport()
    dialogue_id = (link.text_content() or "").split(",")[0]
    expect(page.get_by_role("article", name=f"Transcript of {dialogue_id}")).to_be_visible()


def test_failures_of_a_cause_lead_to_their_turns(report: OpenPage) -> None:
    cause = report.page.locator("details.cause").first
    cause.locator("summary").click()
    cause.get_by_role("link").first.click()
    expect(report.page.locator("section.turn.current .verdict.failed").first).to_be_in_viewport()


def test_filters_leave_the_dialogues_that_match(report: OpenPage) -> None:
    page = report.page
    found, listed = page.get_by_role("status"), page.get_by_role("navigation", name="Dialogues").get_by_role("listitem")
    expect(found).to_have_text("28 of 28 dialogues")
    counts = {"Outcome": ("failed", 10), "Flipped": ("differs", 10), "Finish reason": ("length", 7), "Tag": ("zh", 14)}
    for name, (value, _) in counts.items():
        page.get_by_role("combobox", name=name).select_option(value)
        count = int((found.text_content() or "").split()[0])
        assert 0 < count < 28
        expect(listed).to_have_count(count)
        page.get_by_role("button", name="Clear filters").click()
        expect(found).to_have_text("28 of 28 dialogues")
    page.get_by_role("combobox", name="Outcome").select_option("failed")
    expect(found).to_have_text("10 of 28 dialogues")
    page.get_by_role("combobox", name="Target").select_option(GOOD)
    expect(found).to_have_text("0 of 28 dialogues")
    page.get_by_role("button", name="Clear filters").click()
    page.get_by_role("searchbox", name="Search text").fill("明天")
    expect(found).to_have_text("2 of 28 dialogues")


ADDRESSES = (
    ("#3/1", "3", 1), ("#2", "2", None), ("#x/y/3/2", "3", 2), ("#a%2Fb/2", "a/b", 2), ("#a/b/1", "a/b", 1),
    ("#%E6%A8%A1%E5%9E%8B%2050%25", "模型 50%", None), ("#/rtl", "rtl", None), ("#rtl/2", "rtl", 2),
    ("#section-transcripts", "section-transcripts", None), ("#section-transcripts/2", "section-transcripts", 2),
    ("#1/2", "1", 2), ("#1%2F2", "1/2", None), ("#1%2F2/2", "1/2", 2), ("#3/9", "3", None),
)  # fmt: skip


def test_an_address_opens_a_dialogue_or_a_turn(browser: Browser, pages: Files) -> None:
    with opened(browser, pages.ids, ADDRESSES[0][0]) as view:
        for address, name, turn in ADDRESSES:
            view.follow(address)
            expect(view.page.locator("article h3")).to_have_text(name)
            expect(view.page.locator("article")).to_be_in_viewport()
            current = view.page.locator("section.turn.current")
            expect(current).to_have_count(0 if turn is None else 1)
            assert turn is None or current.get_attribute("data-turn") == str(turn)
    assert view.problems == []


def test_a_section_with_the_name_of_a_dialogue_is_still_reached(browser: Browser, pages: Files) -> None:
    with opened(browser, pages.ids, "#rtl/2") as view:
        view.page.locator(".jump").get_by_text("Transcripts").click()
        expect(view.page.locator("#section-transcripts")).to_be_in_viewport()
        expect(view.page.locator("article h3")).to_have_text("rtl")
    assert view.problems == []


def test_an_address_of_no_dialogue_says_so(browser: Browser, pages: Files) -> None:
    with opened(browser, pages.ids, "#gone/x") as view:
        expect(view.page.locator("article")).to_contain_text("This page has no dialogue “gone/x”.")


def test_a_dialogue_is_copied_as_json_and_as_a_line_of_a_dataset(report: OpenPage, tmp_path: Path) -> None:
    page = report.page
    report.follow("#paws-en")
    page.get_by_role("button", name="Copy as dataset line").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    line = page.evaluate("navigator.clipboard.readText()")
    wanted = [json.loads(one) for one in QUICKSTART.read_text("utf-8").splitlines()]
    assert json.loads(line) in wanted
    page.get_by_role("button", name="Copy as JSON").click()
    page.wait_for_function("async () => (await navigator.clipboard.readText()).includes('replies')")
    copied = json.loads(page.evaluate("navigator.clipboard.readText()"))
    assert copied["dialogue"]["id"] == "paws-en"
    assert [reply["name"] for reply in copied["replies"]] == [GOOD, DRIFT]


def test_a_copied_line_has_its_media_or_says_that_they_are_files(
    browser: Browser, pages: Files, tmp_path: Path, command: Command
) -> None:
    note = "names files of the run's folder"
    with opened(browser, pages.media, "#circle-and-invoice-zh") as view:
        expect(view.page.locator("article header")).to_contain_text(note)
        lines: list[str] = []
        for name in ("two-circles", "tones"):
            view.follow(f"#{name}")
            expect(view.page.locator("article header")).not_to_contain_text(note)
            view.page.get_by_role("button", name="Copy as dataset line").click()
            expect(view.page.get_by_role("button", name="Copied")).to_be_visible()
            lines.append(view.page.evaluate("navigator.clipboard.readText()"))
    (tmp_path / "copied.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert command("validate", "copied.jsonl").out.startswith("2 dialogues")


def test_a_page_can_be_used_by_keyboard_alone(report: OpenPage) -> None:
    page = report.page
    page.keyboard.press("/")
    page.keyboard.type("paws")
    expect(page.get_by_role("status")).to_have_text("1 of 28 dialogues")
    page.keyboard.press("Escape")
    page.keyboard.press("n")
    expect(page.locator("section.turn.current")).to_have_attribute("data-turn", "1")
    page.keyboard.press("f")
    expect(page.locator("section.turn.current")).to_have_attribute("data-turn", "2")
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('.seen summary')"):
            break
    page.keyboard.press("Enter")
    expect(page.locator("details.seen[open]")).to_contain_text("Great to meet you")


def test_keys_go_from_dialogue_to_dialogue_and_from_failure_to_failure(comparison: OpenPage) -> None:
    page = comparison.page
    comparison.follow("#dates-zh")
    page.keyboard.press("j")
    expect(page.locator("article h3")).to_have_text("dates-zh-chat")
    for _ in range(3):
        page.keyboard.press("f")
    expect(page.locator("article h3")).to_have_text("paws-en")
    page.keyboard.press("k")
    expect(page.locator("article h3")).to_have_text("dates-zh-chat")


def test_words_that_differ_are_marked_on_both_sides(comparison: OpenPage) -> None:
    comparison.follow("#dates-zh-chat/2")
    base, candidate = comparison.page.locator("section.turn.current .reply").all()
    assert "27" in "".join(base.locator("mark").all_text_contents())
    expect(candidate.locator("mark")).to_have_count(0)  # its text is the beginning of the other one
    comparison.page.get_by_label("Mark differing words").uncheck()
    expect(comparison.page.locator("mark")).to_have_count(0)


def test_media_thoughts_and_history_are_shown(browser: Browser, pages: Files) -> None:
    with opened(browser, pages.ids, "#rtl/2") as view:
        turn = view.page.locator("section.turn.current")
        assert turn.locator("img").evaluate("node => node.decode().then(() => node.naturalWidth)") == 20
        view.page.wait_for_function("document.querySelector('.current audio').duration === 1")
        expect(turn).to_contain_text("left out, 3.0 MiB")
        expect(turn.get_by_text("because")).not_to_be_visible()
        turn.get_by_text("thought: 7 characters").click()
        expect(turn.get_by_text("because")).to_be_visible()
        turn.get_by_text("what the model saw").click()
        expect(turn.locator(".seen .system")).to_contain_text("be brief")
        expect(turn.locator(".seen .assistant")).to_contain_text("rtl/1")
        text = turn.locator(".reply > .text")
        assert text.evaluate("node => getComputedStyle(node).direction") == "rtl"
    assert view.problems == []


def test_calls_of_tools_have_their_results_in_what_the_model_saw(browser: Browser, pages: Files) -> None:
    with opened(browser, pages.tools, "#queue-used-up-en/2") as view:
        view.unfold()
        seen = view.page.locator(".current .seen .text").all_inner_texts()
        assert seen == [
            "Call next_ticket once for each ticket that the user asks for.",
            *("Give me the next ticket.", "calls next_ticket {}", "result of next_ticket: A-101", "A-101"),
            *("And one more.", "calls next_ticket {}", "result of next_ticket: A-102"),
        ]
        view.follow("#history-given-en/2")
        view.unfold()
        expect(view.page.locator(".current .seen")).to_contain_text('calls get_calendar {"day": "Friday"}: [{')
    assert view.problems == []


def test_a_page_is_printed(report: OpenPage) -> None:
    assert report.page.pdf().startswith(b"%PDF-")


@pytest.mark.parametrize("name", ["hostile", "hostile_comparison", "hostile_audit"])
def test_hostile_texts_run_nothing(browser: Browser, pages: Files, name: str) -> None:
    with opened(browser, getattr(pages, name)) as view:
        page = view.page
        for _ in range(4):
            page.keyboard.press("j")
            view.unfold()
        page.get_by_role("searchbox").fill(HOSTILE[:40])
        expect(page.get_by_role("status")).to_have_text("4 of 4 dialogues")
        page.locator("article").get_by_text("window.hit = 2").first.click()
        assert page.evaluate("window.hit") is None
        assert page.evaluate("Object.prototype.id") is None
        assert page.locator("iframe, object, embed, base, form[action], img, a:not([href^='#'])").count() == 0
        assert page.locator("script").count() == 2
        visible = page.evaluate("document.body.innerText")
        assert not {"\u202e", "\u2066", "\x1b", "\x00"} & {*visible}
    assert view.problems == []


def test_a_page_of_ten_thousand_turns_opens(browser: Browser, pages: Files) -> None:
    """How fast: `python -m benchmarks -s pages`."""
    assert pages.large.stat().st_size < 30 * 10**6
    with opened(browser, pages.large) as view:
        expect(view.page.get_by_role("status")).to_have_text("2,000 of 2,000 dialogues")
        view.page.get_by_role("searchbox").fill("d1999")
        expect(view.page.get_by_role("status")).to_have_text("1 of 2,000 dialogues")
    assert view.problems == []


def test_a_page_without_its_data_says_so(browser: Browser, pages: Files, tmp_path: Path) -> None:
    content = pages.report.read_bytes()
    head, _, tail = content.partition(b'id="packed-data">')
    broken = tmp_path / "broken.html"
    broken.write_bytes(head + b'id="packed-data">' + base64.b64encode(b"x") + tail[tail.index(b"</script>") :])
    page = browser.new_page()
    page.goto(broken.as_uri())
    expect(page.get_by_role("status")).to_contain_text("The transcripts cannot be unpacked")
    expect(page.get_by_role("heading", name="Failures by cause")).to_be_visible()
    page.close()
