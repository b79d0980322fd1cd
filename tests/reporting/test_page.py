"""Report pages: what is on them, that text from outside stays text, and what a page that is too small leaves out."""

from __future__ import annotations

import base64
import hashlib
import io
import random
from pathlib import Path

import pytest

from convbatch.cli.transcript import print_transcript
from convbatch.dialogue import Dialogue
from convbatch.reply import Failure
from convbatch.reporting.page.causes import shape_of
from convbatch.reporting.page.pass_rate import share_text, wilson_interval
from convbatch.reporting.page.report_page import report_page
from convbatch.reporting.page.transcript_data import PageLimits
from convbatch.reporting.report import sections_of
from convbatch.reporting.runs import load_runs
from convbatch.results.filters import Filters, Matcher
from convbatch.results.run import Run, load
from tests.conftest import Command
from tests.support.made_runs import DRIFT, GOOD, SEED_REPLY, MadeRun, dialogue
from tests.support.pages import Page
from tests.support.tables import each

HOSTILE = "</script><img src=x onerror=alert(1)>\"'`<!--\u202e\x1b[31m&lt;{{7*7}}"


def page_of(*runs: Run, filters: Filters | None = None, limits: PageLimits | None = None) -> Page:
    reported = load_runs(runs, None, None)
    matcher = Matcher(filters or Filters())
    return Page(report_page(reported, sections_of(reported, ("target",), matcher), matcher, limits))


def run_with(folder: Path, text: str) -> Run:
    """Make a run with a failed check, an error and a tag, in which every text from outside is this one."""
    checks = [{"contains": f"27{text}", "name": f"check {text}"}]
    script = [
        dialogue(f"d{text}", f"u{text}", f"v{text}", tags=[f"t{text}"], system=f"s{text}", checks=checks),
    ]
    made = MadeRun(folder, script, targets=(f"m{text}@simulator",), checks=1)
    made.replied(made.ident(0, 1), SEED_REPLY._replace(text=f"r{text}", thought=f"h{text}"))
    made.failed(made.ident(0, 2), Failure(kind="invalid_request", message=f"e{text}"), cls="final")
    made.turn(made.ident(0, 2), "error")
    return load(made.write().path)


def test_text_from_outside_adds_no_element_and_no_attribute(tmp_path: Path) -> None:
    hostile, benign = (page_of(run_with(tmp_path / name, text)) for name, text in (("h", HOSTILE), ("b", "x")))
    assert hostile.shape == benign.shape
    [kept] = hostile.data["dialogues"]
    assert kept["id"] == f"d{HOSTILE}"
    assert kept["replies"][0]["turns"][0]["reply"] == f"r{HOSTILE}"
    assert "\u202e" not in hostile.content.decode()


def test_a_page_allows_its_own_script_and_style_and_loads_nothing(tmp_path: Path) -> None:
    page = page_of(run_with(tmp_path / "r", "x"))
    allowed = {part.split(" ", 1)[0]: part.split(" ", 1)[1] for part in page.policy.split("; ")}
    assert allowed["default-src"] == "'none'"
    for tag in ("script", "style"):
        code = page.code[tag]
        assert allowed[f"{tag}-src"] == f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"
    attributes = {(name, value) for _, found in page.elements for name, value in found.items()}
    assert not [name for name, _ in attributes if name.startswith("on") or name in ("style", "src", "action")]
    assert all(str(value).startswith("#") for name, value in attributes if name == "href")


def test_a_page_has_the_words_of_show(tmp_path: Path) -> None:
    run = run_with(tmp_path / "r", "x")
    printed = io.StringIO()
    print_transcript([run], file=printed)
    shown = " ".join(printed.getvalue().split())
    [kept] = page_of(run).data["dialogues"]
    for turn in kept["replies"][0]["turns"]:
        assert " ".join(" · ".join(turn["facts"]).split()) in shown
    for _, line in kept["replies"][0]["verdicts"]["lines"]:
        assert " ".join(line.split()) in shown


def scored_run(folder: Path, passed: int, failed: int) -> Run:
    """Make a run of one-turn dialogues at two targets; one of them fails the last ones."""
    turns = [{"user": "u", "checks": [{"contains": "27"}]}]
    script = [Dialogue.from_plain({"id": f"d{n}", "turns": turns}) for n in range(passed + failed)]
    made = MadeRun(folder, script, targets=(GOOD, DRIFT), checks=1)
    for index in range(passed + failed):
        made.replied(made.ident(index, 1))
        reply = SEED_REPLY if index < passed else SEED_REPLY._replace(text=f"it is {index}")
        made.replied(made.ident(index, 1, DRIFT), reply)
    return load(made.write().path)


def test_the_head_of_a_page_says_how_many_dialogues_passed(tmp_path: Path) -> None:
    page = page_of(scored_run(tmp_path / "r", 3, 1))
    assert f"{GOOD}100 % passed4 of 4 dialogues passed (95 % interval 51 % to 100 %)" in page.text
    assert f"{DRIFT}75 % passed3 of 4 dialogues passed (95 % interval 30.1 % to 95.4 %)" in page.text
    assert f"SIMULATED, no model was asked: {GOOD}, {DRIFT}" in page.text


def test_failures_are_grouped_by_cause_and_link_to_their_turns(tmp_path: Path) -> None:
    page = page_of(scored_run(tmp_path / "r", 1, 3))
    assert page.text.count("3 × check contains lacks “…”") == 1
    assert page.links == ["#d1/1", "#d2/1", "#d3/1"]


@pytest.mark.parametrize(
    ("reasons", "shape"),
    [
        (('lacks "27": "it is 28"', 'lacks "a": "b "c" d"'), "lacks “…”"),
        (("the last number is 3, expected 4", "the last number is 1,000.5, expected 2"),
         "the last number is #, expected #"),
        (("429: try again in 3 s", "429: try again in 60 s"), "#: try again in # s"),
    ],
)  # fmt: skip
def test_reasons_of_one_shape_have_one_cause(reasons: tuple[str, str], shape: str) -> None:
    assert {shape_of(reason) for reason in reasons} == {shape}


def test_a_page_that_is_too_small_has_the_failed_dialogues_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    page = page_of(scored_run(tmp_path / "r", 4, 2), limits=PageLimits(turns=6))
    assert [one["id"] for one in page.data["dialogues"]] == ["d0", "d4", "d5"]
    assert "This page has 3 of 6 dialogues" in page.text
    assert "no room for 3 more dialogues" in page.text


def test_a_page_stays_within_its_size_where_texts_cannot_be_compressed(tmp_path: Path) -> None:
    made = MadeRun(tmp_path / "r", [dialogue(f"d{n}", "u") for n in range(20)])
    for index in range(20):
        made.replied(made.ident(index, 1), SEED_REPLY._replace(text=random.Random(index).randbytes(2_000).hex()))
    page = page_of(load(made.write().path), limits=PageLimits(packed=20_000))
    assert 5 < len(page.data["dialogues"]) < 15
    assert len(page.packed) < 20_000


def test_a_page_has_only_conversations_that_match_the_filters(tmp_path: Path) -> None:
    page = page_of(scored_run(tmp_path / "r", 2, 1), filters=Filters(text=("it is",)))
    [kept] = page.data["dialogues"]
    assert [reply["name"] for reply in kept["replies"]] == [DRIFT]


@each(("share", "text"), [(0.0, "0 %"), (0.0004, "< 0.1 %"), (0.643, "64.3 %"), (0.9996, "> 99.9 %"), (1.0, "100 %")])
def test_a_share_is_never_rounded_to_none_or_all(share: float, text: str) -> None:
    assert share_text(share) == text


def test_intervals_are_those_of_the_literature() -> None:
    # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3
    for passed, count, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)):
        assert wilson_interval(passed / count, count) == pytest.approx((low, high), abs=5e-5)


def test_open_writes_the_page_into_the_run_folder(tmp_path: Path, convbatch: Command) -> None:
    run = scored_run(tmp_path / "r", 1, 0)
    done = convbatch("report", run.path, "--open", BROWSER="true %s")
    assert (done.code, done.out) == (0, "")
    assert (run.path / "report.html").read_bytes().startswith(b"<!DOCTYPE html>")
