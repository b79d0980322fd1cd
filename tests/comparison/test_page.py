"""The page of a comparison: the verdict first, then the turns that flipped, and transcripts of both sides only."""

from __future__ import annotations

from pathlib import Path

from convbatch.comparison.compare import ComparisonRules, compare_runs
from convbatch.comparison.page import comparison_page
from convbatch.dialogue import Dialogue
from convbatch.results.run import Run, load
from tests.conftest import Command
from tests.support.made_runs import DRIFT, GOOD, SEED_REPLY, MadeRun
from tests.support.pages import Page

OTHER = "other@simulator"
CHECKED = {"user": "u", "checks": [{"contains": "27"}]}
WEIGHED = {"user": "u", "checks": [{"contains": "27"}, {"contains": "2025", "weight": 3}]}


def run_of(folder: Path, failing: dict[str, dict[int, str]], targets: tuple[str, ...], count: int = 6) -> Run:
    """Make a run of one-turn dialogues; `failing` has the replies of a target that are not the right one."""
    turns = [[WEIGHED if n == 0 else CHECKED] for n in range(count)]
    script = [Dialogue.from_plain({"id": f"d{n}", "turns": turn}) for n, turn in enumerate(turns)]
    made = MadeRun(folder, script, targets=targets, checks=1, history="script")
    for index in range(count):
        for target in targets:
            text = failing.get(target, {}).get(index, SEED_REPLY.text)
            made.replied(made.ident(index, 1, target), SEED_REPLY._replace(text=text))
    return load(made.write().path)


def page_of(base: object, candidate: object) -> Page:
    return Page(comparison_page(compare_runs(base, candidate, ComparisonRules())))  # pyright: ignore[reportArgumentType]


def test_a_page_begins_with_the_verdict_and_links_the_worst_turn_first(tmp_path: Path) -> None:
    bad = {GOOD: {0: "2025", 3: "x", 4: "x"}}
    page = page_of(run_of(tmp_path / "a", {GOOD: {5: "x"}}, (GOOD,)), run_of(tmp_path / "b", bad, (GOOD,)))
    assert page.text.index("It cannot be told whether") < page.text.index("SIMULATED")
    assert "3 turns flipped to worse, 1 to better" in page.text
    assert page.links[0] == "#d3/1"  # its score fell more than that of d0
    assert [link for link in page.links if link.startswith("#d")][:5] == ["#d3/1", "#d3/1", "#d4/1", "#d0/1", "#d5/1"]
    assert page.data["start"] == "#d3/1"
    assert [one.get("flips") for one in page.data["dialogues"]] == [
        [[1, "worse"]], None, None, [[1, "worse"]], [[1, "worse"]], [[1, "better"]],
    ]  # fmt: skip


def test_a_page_has_the_two_targets_that_are_compared_base_first(tmp_path: Path) -> None:
    run = run_of(tmp_path / "r", {GOOD: {0: "x"}}, (OTHER, GOOD, DRIFT))
    page = page_of((run, DRIFT), (run, OTHER))
    assert [(one["name"], one["role"]) for one in page.data["columns"]] == [(DRIFT, "base"), (OTHER, "candidate")]
    names = {tuple(reply["name"] for reply in one["replies"]) for one in page.data["dialogues"]}
    assert names == {(DRIFT, OTHER)}
    assert "No turn flipped" in page.text
    assert GOOD not in page.text.partition("How it was made")[0]


def test_equal_target_names_of_two_runs_are_told_apart(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / name, {}, (GOOD, DRIFT), count=2) for name in ("a", "b")]
    columns = page_of(*runs).data["columns"]
    assert [(one["name"], one["role"]) for one in columns] == [
        (f"a:{GOOD}", "base"), (f"a:{DRIFT}", "base"), (f"b:{GOOD}", "candidate"), (f"b:{DRIFT}", "candidate"),
    ]  # fmt: skip


def test_a_run_compared_with_itself_has_one_column(tmp_path: Path) -> None:
    run = run_of(tmp_path / "r", {}, (GOOD,))
    assert [one["role"] for one in page_of(run, run).data["columns"]] == ["base and candidate"]


def test_open_writes_the_page_into_the_candidates_folder(tmp_path: Path, convbatch: Command) -> None:
    a, b = (run_of(tmp_path / name, {}, (GOOD,)) for name in ("a", "b"))
    done = convbatch("compare", a.path, b.path, "--open", BROWSER="true %s")
    assert done.code == 3
    assert (b.path / "compare.html").read_bytes().startswith(b"<!DOCTYPE html>")
