"""Tests of the filters that `table`, `show`, `check` and `report` share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from convbatch.cli.check import run_check
from convbatch.dialogue import Dialogue
from convbatch.errors import SetupError
from convbatch.reply import Failure
from convbatch.reporting.report import sections
from convbatch.results.filters import Filters, Matcher, Passes
from convbatch.results.run import Run, load
from convbatch.results.verdict_counts import failed_checks, mean_scores
from convbatch.session.options import CheckOptions
from tests.support.made_runs import DRIFT, GOOD, SEED_REPLY, MadeRun, dialogue


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two dialogues at two targets; turns by (dialogue, target): a/DRIFT 1 2, a/GOOD 1 2, b/DRIFT, b/GOOD."""
    a = {
        "id": "a",
        "tags": ["zh", "date"],
        "turns": [{"user": "One", "checks": [{"contains": "27", "name": "day"}]}, {"user": "two"}],
    }
    whole = dialogue("b", "three", tags=["en"], checks=[{"contains": "2025"}])
    made = MadeRun(tmp_path_factory.mktemp("filters") / "r", [Dialogue.from_plain(a), whole], targets=(GOOD, DRIFT))
    for index, turn, target in ((0, 1, GOOD), (0, 2, GOOD), (1, 1, GOOD)):
        made.replied(made.ident(index, turn, target))
    made.replied(made.ident(0, 1, DRIFT), SEED_REPLY._replace(text="STRASSE", finish_reason="length"))
    made.failed(made.ident(1, 1, DRIFT), Failure(kind="timeout", message="no answer"), cls="timeout")
    made.turn(made.ident(1, 1, DRIFT), "error")
    return load(made.write().path)


ALL = ["a1d", "a2d", "a1g", "a2g", "b1d", "b1g"]


@pytest.mark.parametrize(
    ("wanted", "turns"),
    [
        ({}, ALL),
        ({"tag": ("zh",)}, ALL[:4]),
        ({"tag": ("zh", "en")}, ALL),
        ({"status": ("pending", "error")}, ["a2d", "b1d"]),
        ({"finish_reason": ("length",)}, ["a1d"]),
        ({"text": ("one",)}, ["a1d", "a1g"]),
        ({"text": ("straße",)}, ["a1d"]),
        ({"check": ("day",)}, ["a1d", "a1g"]),
        ({"check": ("contains",)}, ["a1d", "a1g", "b1d", "b1g"]),
        ({"check": ("contains",), "tag": ("en",), "status": ("ok",)}, ["b1g"]),
    ],
)
def test_a_turn_must_match_every_filter_in_one_of_its_values(run: Run, wanted: Any, turns: list[str]) -> None:
    matcher = Matcher(Filters(**wanted))
    rows = run.turns[["dialogue", "turn", "target"]].itertuples(index=False)
    found = [f"{row[0]}{row[1]}{row[2][4]}" for row, does in zip(rows, matcher.mask(run), strict=False) if does]
    assert found == turns
    matcher.require_match()


def test_what_no_turn_has_is_refused_with_the_nearest_name(run: Run) -> None:
    with pytest.raises(SetupError, match="did you mean 'ok'"):
        Filters(status=("okk",))
    for wanted, hint in (
        ({"tag": ("dat",)}, "did you mean 'date'"),
        ({"check": ("contain",)}, "did you mean 'contains'"),
        ({"tag": ("zh",), "status": ("error",)}, "no turn matches --tag zh --status error"),
    ):
        matcher = Matcher(Filters(**wanted))
        with pytest.raises(SetupError, match=hint):
            list(matcher.checked(iter(matcher.mask(run))))  # pyright: ignore[reportArgumentType]  # any rows


def test_verdicts_and_passes_are_of_the_checks_that_are_meant(run: Run) -> None:
    matcher = Matcher(Filters(check=("day",)))
    assert list(matcher.verdicts(run, ("target", "passed"))) == [(DRIFT, False), (GOOD, True)]
    assert [(one.target, one.turns, one.judged, one.passed) for one in matcher.summary(run)] == [
        (GOOD, 1, 1, 1),
        (DRIFT, 1, 0, 0),
    ]
    assert next(failed_checks(run, matcher.filters)).check == "day"
    assert mean_scores(run, Filters(tag=("en",))) == {DRIFT: 0.0, GOOD: 1.0}
    assert matcher.passes(run) == {DRIFT: Passes(undecided=1), GOOD: Passes(passed=1)}
    assert Matcher(Filters(tag=("en",))).passes(run) == {DRIFT: Passes(failed=1), GOOD: Passes(passed=1)}


def test_a_filtered_report_counts_the_turns_that_match_and_says_so(run: Run) -> None:
    usage, *others = sections(run, filters=Filters(tag=("en",)))
    assert list(usage.frame["turns"]) == [1, 1]
    assert usage.notes[0] == "Only 2 turns of 6: --tag en. Judge calls are left out."
    assert "judges" not in {section.key for section in others}
    with pytest.raises(SetupError, match="leave out the filters"):
        sections(run, filters=Filters(tag=("en",)), bill=Path("usage.csv"))


def test_check_prints_what_matches_and_takes_no_gate_with_filters(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(run.path)
    assert run_check(CheckOptions(run=path, tag=("en",))) == 3, "the exit code is of the whole run"
    lines = capsys.readouterr().out.splitlines()
    assert "1/1 (100.0 %)" in lines[1]
    assert "0/1 (0.0 %)" in lines[2]
    assert lines[3] == "only what matches --tag en; the exit code is of the whole run"
    assert lines[4].startswith(f"failed: b, dialogue, {DRIFT}: contains: ")
    with pytest.raises(SetupError, match="a gate is of the whole run"):
        run_check(CheckOptions(run=path, tag=("en",), fail_under="0.9"))
