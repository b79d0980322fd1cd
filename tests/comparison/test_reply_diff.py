"""Tests of `diff`: pairing, what counts as a change, filters, outputs, and hostile replies."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

import convbatch as package
from convbatch.cli.diff import print_diff
from convbatch.comparison.reply_diff import ReplyDiff, TurnFilter, diff
from convbatch.errors import SetupError
from tests.conftest import Command
from tests.support.made_runs import DRIFT, GOOD, REAL, SEED_REPLY, MadeRun, dialogue
from tests.support.tables import each
from tests.support.terminal import Terminal

EVIL = "\x1b[2J<script>alert(1)</script> \u202e|`#7`@you"


def made(folder: Path, target: str, texts: dict[str, list[str | None]], **more: Any) -> Path:
    """Make a run of dialogues with these replies; None: not asked yet."""
    dialogues = [dialogue(name, *("q" for _ in replies), tags=[f"tag-{name}"]) for name, replies in texts.items()]
    run = MadeRun(folder, dialogues, targets=(target,), **more)
    for index, replies in enumerate(texts.values()):
        for turn, text in enumerate(replies, 1):
            if text is not None:
                run.replied(run.ident(index, turn), SEED_REPLY._replace(text=text or None))
    return run.write().path


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    one = made(tmp_path / "one", GOOD, {"a": ["x y", "same"], "b": ["only here"], "c": ["z"], "e": ["was"]})
    other = made(tmp_path / "two", DRIFT, {"c": [None], "a": ["x z", "same"], "d": ["new"], "e": [""]})
    return one, other


def test_turns_are_paired_by_dialogue_and_number_in_the_order_of_the_base(two: tuple[Path, Path]) -> None:
    found = ReplyDiff(*two)
    assert [(turn.key.dialogue, turn.key.turn) for turn in found.turns()] == [("a", 1), ("e", 1)]
    assert found.counts._asdict() == {
        "paired": 3, "changed": 2, "only_base": 1, "only_candidate": 1, "pending": 1, "dialogues": 2,
    }  # fmt: skip
    everything = [turn.key.dialogue for turn in found.turns(everything=True)]
    assert everything == ["a", "a", "b", "c", "e", "d"]


def test_the_terminal_names_status_and_sides(two: tuple[Path, Path]) -> None:
    file = io.StringIO()
    print_diff(ReplyDiff(*two), file=file)
    assert file.getvalue().splitlines() == [
        f"one:{GOOD} → two:{DRIFT}", "", "a · turn 1", "> q", "x [-y-]{+z+}", "", "e · turn 1", "> q",
        "status: ok → empty", "[-was-]", "", "2 of 3 turns changed, in 2 dialogues",
        "1 turn not asked yet on one side, not compared", f"1 turn only in one:{GOOD}", f"1 turn only in two:{DRIFT}",
    ]  # fmt: skip


def test_colours_are_for_terminals_that_have_them(two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = Terminal()
    print_diff(ReplyDiff(*two), file=coloured)
    assert "[-" not in coloured.getvalue()
    assert "\x1b[" in coloured.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    plain = Terminal()
    print_diff(ReplyDiff(*two), file=plain)
    assert "[-y-]{+z+}" in plain.getvalue()
    assert "\x1b[" not in plain.getvalue()


def test_a_run_against_itself_shows_no_change(two: tuple[Path, Path]) -> None:
    for path in two:
        found = ReplyDiff(path, path)
        assert (found.counts.changed, [*found.turns()]) == (0, [])


def test_several_targets_are_paired_by_name_and_others_are_refused(tmp_path: Path) -> None:
    for folder, text in (("one", "x"), ("two", "y")):
        run = MadeRun(tmp_path / folder, [dialogue("d", "q")], targets=(GOOD, REAL), repeats=2)
        for target in run.targets:
            for repeat in (1, 2):
                reply = SEED_REPLY._replace(text=text if repeat == 2 else target)
                run.replied(run.ident(0, 1, target, repeat), reply)
        run.write()
    found = [(turn.key.target, turn.key.repeat) for turn in ReplyDiff(tmp_path / "one", tmp_path / "two").turns()]
    assert found == [(REAL, 2), (GOOD, 2)]
    other = made(tmp_path / "three", DRIFT, {"d": ["x"]})
    with pytest.raises(SetupError, match=r"several targets, and different ones"):
        ReplyDiff(tmp_path / "one", other)


@each(
    ("chosen", "places"),
    [
        (TurnFilter(ids=("a",)), [("a", 1), ("a", 2)]),
        (TurnFilter(ids=("[ae]",), turns=(1,)), [("a", 1), ("e", 1)]),
        (TurnFilter(tags=("tag-a", "tag-d")), [("a", 1), ("a", 2), ("d", 1)]),
        (TurnFilter(turns=(2,)), [("a", 2)]),
    ],
)
def test_filters_choose_turns(two: tuple[Path, Path], chosen: TurnFilter, places: list[tuple[str, int]]) -> None:
    found = ReplyDiff(*two, chosen)
    assert [(turn.key.dialogue, turn.key.turn) for turn in found.turns(everything=True)] == places


def test_a_filter_that_fits_nothing_names_the_nearest(tmp_path: Path) -> None:
    path = made(tmp_path / "one", GOOD, {"greeting": ["x"]})
    with pytest.raises(SetupError, match=r"did you mean --id greeting\?"):
        ReplyDiff(path, path, TurnFilter(ids=("greting",)))


def test_other_user_messages_and_calls_are_shown(tmp_path: Path) -> None:
    for folder, user in (("one", "Hello"), ("two", "Hallo")):
        run = MadeRun(tmp_path / folder, [dialogue("d", user)], targets=(GOOD,))
        run.replied(run.ident(0, 1), SEED_REPLY._replace(text=f"{user}!"))
        run.write()
    file = io.StringIO()
    print_diff(ReplyDiff(tmp_path / "one", tmp_path / "two"), file=file)
    assert "user: [-Hello-]{+Hallo+}\n[-Hello-]{+Hallo+}!" in file.getvalue()


def test_hostile_replies_are_harmless_in_every_output(convbatch: Command, tmp_path: Path) -> None:
    made(tmp_path / "one", GOOD, {EVIL: [EVIL, f"{EVIL} a"]})
    made(tmp_path / "two", GOOD, {EVIL: [f"{EVIL} {EVIL}", f"{EVIL} b"]})
    done = convbatch("diff", "one", "two")
    assert done.code == 0
    assert "\x1b" not in done.out
    assert "\u202e" not in done.out
    assert convbatch("diff", "one", "two", "-o", "x.html", "-o", "x.md", "-o", "x.json").code == 0
    page, markdown = ((tmp_path / name).read_text("utf-8") for name in ("x.html", "x.md"))
    assert "<script" not in page
    assert "default-src 'none'" in page
    assert "\u202e" not in page
    assert re.search(r"(?<!\\)<script|\x1b|\u202e", markdown) is None
    assert json.loads((tmp_path / "x.json").read_text())["turns"][0]["base"]["reply"] == EVIL


def test_json_and_files_have_the_same_turns(convbatch: Command, two: tuple[Path, Path], tmp_path: Path) -> None:
    plain = json.loads(convbatch("diff", *two, "--json").out)
    assert [turn["dialogue"] for turn in plain["turns"]] == ["a", "e"]
    assert plain["turns"][0]["reply_diff"] == [["same", "x "], ["old", "y"], ["new", "z"]]
    assert (plain["changed"], plain["paired"]) == (2, 3)
    done = convbatch("diff", *two, "-o", "x.json", "-o", "x.md", "-o", "x.html")
    assert (done.out, json.loads((tmp_path / "x.json").read_text())) == ("", plain)
    assert "x <del>y</del><ins>z</ins>" in (tmp_path / "x.md").read_text()
    assert "<del>y</del><ins>z</ins>" in (tmp_path / "x.html").read_text()


@each(
    ("arguments", "told"),
    [
        (("one", "nine"), "there is no run 'nine'"),
        (("one:sim-god@simulator", "two"), "has no target 'sim-god@simulator'"),
        (("one", "two", "-o", "x.csv"), "x.csv"),
        (("one", "two", "--turn", "0"), "--turn"),
    ],
)
@pytest.mark.usefixtures("two")
def test_a_bad_side_or_file_is_refused(convbatch: Command, arguments: tuple[str, ...], told: str) -> None:
    done = convbatch("diff", *arguments)
    assert done.code == 2
    assert told in done.err


def test_the_python_api_returns_turns_and_counts(two: tuple[Path, Path]) -> None:
    found = package.diff(*two, ids="a", turns=1)
    assert isinstance(found, package.ReplyDiff)
    assert repr(found) == f"<convbatch.ReplyDiff one:{GOOD} → two:{DRIFT}: 1 of 1 turns changed>"
    (turn,) = diff(*two, ids=["a"], turns=[1]).turns()
    assert turn.pieces == [("same", "x "), ("old", "y"), ("new", "z")]


def test_a_large_turn_is_shown_in_time(tmp_path: Path) -> None:
    long = " ".join(f"word{n}" for n in range(20_000))
    one = made(tmp_path / "one", GOOD, {"d": [long]})
    two = made(tmp_path / "two", GOOD, {"d": [long.replace("word9999 ", "WORD ")]})
    file = io.StringIO()
    print_diff(ReplyDiff(one, two), file=file)
    assert "[-word9999-]{+WORD+}" in file.getvalue()
    assert len(file.getvalue()) < 1_000


def test_a_name_stands_for_a_side(convbatch: Command, two: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    for path, name in zip(two, ("base line", "feature/x"), strict=True):
        path.rename(tmp_path / "results" / path.name)
        manifest = tmp_path / "results" / path.name / "run.json"
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"name": name}))
    done = convbatch("diff", "base line", f"feature/x:{DRIFT}")
    assert done.out.splitlines()[0] == f"base line:{GOOD} → feature/x:{DRIFT}"
