"""Tests of what `table`, `show` and `runs` print on a terminal and in a pipe."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

from convbatch.cli import show
from convbatch.cli.runs import find_runs, print_runs, read_run
from convbatch.cli.transcript import print_transcript, split_dialogue
from convbatch.dialogue import Dialogue
from convbatch.errors import SetupError
from convbatch.reply import NO_USAGE, Failure
from convbatch.results.filters import Filters, Matcher
from convbatch.results.run import Run, load
from tests.conftest import Command
from tests.support.made_runs import DRIFT, GOOD, REAL, SEED_REPLY, MadeRun, dialogue
from tests.support.terminal import Terminal

EVERYTHING = Matcher(Filters())
EVIL = "\x1b[2Jboo \u202e"


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    scripted = {
        "id": "dates-zh",
        "system": "Answer briefly.",
        "tags": ["zh"],
        "turns": [
            {"user": "今天是几号", "assistant": "今天是26日", "ask": False},
            {"user": "明天是几号", "assistant": "明天是27日"},
        ],
    }
    made = MadeRun(tmp_path / "r", [Dialogue.from_plain(scripted), dialogue("d2", "one", "two")], targets=(REAL, GOOD))
    for target in (REAL, GOOD):
        made.replied(made.ident(0, 2, target))
    made.failed(made.ident(1, 1, REAL), Failure(kind="timeout", message=f"{EVIL} no answer"), cls="timeout")
    made.turn(made.ident(1, 1, REAL), "error")
    made.turn(made.ident(1, 2, REAL), "skipped", reason="turn 1 ended error")
    blocked = SEED_REPLY._replace(text=None, finish_reason="content_filter", finish_reason_raw="SAFETY", usage=NO_USAGE)
    made.replied(made.ident(1, 1, GOOD), blocked._replace(blocked="output"))
    made.turn(made.ident(1, 2, GOOD), "skipped", reason="turn 1 ended blocked")
    return load(made.write().path)


def printed(file: io.StringIO) -> list[str]:
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_the_summary_has_a_line_per_target_and_fits_80_columns(run: Run) -> None:
    file = Terminal()
    show.print_summary(run.summary(), file=file)
    lines = file.lines
    assert " ".join(lines[0].split()) == "target ok blocked empty failed input output p50 s p95 s cost"
    assert lines[1].split() == [REAL, "1", "0", "0", "1", "22", "192", "0.50", "0.50", "–"]
    assert lines[2].split() == [GOOD, "1", "1", "0", "0", "22", "192", "0.50", "0.50", "–"]
    notes = " ".join(lines[3:])
    assert f"{REAL}: 1 skipped, 1 possibly paid, 178 of the output tokens are reasoning, 1 without a cost" in notes
    assert f"{GOOD}: 1 skipped, 1 without token counts" in notes
    assert f"SIMULATED, no model was asked: {GOOD}" in notes
    assert file.width <= 80
    pipe = io.StringIO()
    show.print_summary(run.summary(), file=pipe)
    assert "\x1b" not in pipe.getvalue()


def test_a_target_without_known_counts_shows_a_dash_instead_of_zero(tmp_path: Path) -> None:
    file = io.StringIO()
    show.print_summary(load(MadeRun(tmp_path / "r", [dialogue("d", "x")]).write().path).summary(), file=file)
    assert printed(file)[1].split() == [REAL, "0", "0", "0", "0", "–", "–", "–", "–", "–"]
    assert printed(file)[2] == f"{REAL}: 1 pending"


def test_a_long_target_name_is_whole_above_its_figures(tmp_path: Path) -> None:
    name = "a-model-with-a-name-that-is-longer-than-half-a-screen-is-wide@gateway"
    summaries = load(MadeRun(tmp_path / "r", [dialogue("d", "x")], targets=(name,)).write().path).summary()
    terminal, pipe = Terminal(), io.StringIO()
    show.print_summary(summaries, file=terminal)
    show.print_summary(summaries, file=pipe)
    assert terminal.lines[1:3] == [name, "   0        0      0       0      –       –      –      –     –"]
    assert terminal.width <= 80
    assert printed(pipe)[1].split() == [name, "0", "0", "0", "0", "–", "–", "–", "–", "–"]


@pytest.mark.parametrize(
    "print_it",
    [
        lambda run, file: show.print_table([run], EVERYTHING, file=file),
        lambda run, file: show.print_wide([run], file=file),
        lambda run, file: print_transcript([run], file=file),
    ],
    ids=["table", "wide", "transcript"],
)
def test_external_text_is_escaped_on_the_terminal(run: Run, print_it: object, monkeypatch: pytest.MonkeyPatch) -> None:
    assert callable(print_it)
    monkeypatch.setenv("NO_COLOR", "1")
    file = Terminal()
    print_it(run, file=file)
    assert set("\x1b\u202e").isdisjoint(file.getvalue())
    assert "dates-zh" in file.getvalue()


def test_colours_are_used_on_a_terminal_only(run: Run) -> None:
    terminal, pipe = Terminal(), io.StringIO()
    print_transcript([run], file=terminal)
    print_transcript([run], file=pipe)
    assert "\x1b[" in terminal.getvalue()
    assert "\x1b" not in pipe.getvalue()


def test_the_table_is_abbreviated_on_a_terminal_and_full_csv_in_a_pipe(run: Run) -> None:
    terminal, pipe = Terminal(), io.StringIO()
    show.print_table([run], EVERYTHING, file=terminal)
    show.print_table([run], EVERYTHING, file=pipe)
    assert terminal.width <= 80
    assert terminal.lines[:3] == [
        "  turn  status   finish          out  reply",
        f"dates-zh  {REAL}",
        "     2  ok       stop            192  今天是2025年12月27日。",
    ]
    assert len(terminal.lines) == 11, "a name is printed once, above its rows"
    assert pipe.getvalue().startswith("run,dialogue,dialogue_index,target,")
    assert not pipe.getvalue().startswith("\ufeff")


def test_a_table_of_many_rows_has_one_heading(tmp_path: Path) -> None:
    made = MadeRun(tmp_path / "r", [dialogue("d", *["x"] * 450)])
    terminal = Terminal()
    show.print_table([load(made.write().path)], EVERYTHING, file=terminal)
    lines = printed(terminal)
    assert len(lines) == 451
    assert sum("status" in line for line in lines) == 1


def test_the_wide_table_on_a_terminal_shows_why_a_cell_is_empty(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    terminal, pipe = Terminal(), io.StringIO()
    show.print_wide([run], file=terminal)
    show.print_wide([run], "output_tokens", file=pipe)
    for word in ("(error)", "(blocked)", "(skipped)", "今天是2025年12月27日。"):
        assert word in terminal.getvalue()
    assert pipe.getvalue().splitlines() == [
        f"dialogue,repeat,turn,{REAL},{GOOD}",
        "dates-zh,1,2,192,192",
        "d2,1,1,,",
        "d2,1,2,,",
    ]


@pytest.mark.parametrize(("columns", "side_by_side"), [("120", True), ("60", False)])
def test_targets_are_side_by_side_on_a_wide_terminal(
    run: Run, columns: str, side_by_side: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    file = io.StringIO()
    assert print_transcript([run], "dates-zh", file=file) == 1
    assert any(REAL in line and GOOD in line for line in printed(file)) is side_by_side
    for word in ("Answer briefly.", "given", "今天是26日", "script", "明天是27日", "ok · stop · 22 in, 192 out"):
        assert word in file.getvalue()
    assert "d2" not in file.getvalue()


def test_a_transcript_shows_scripted_calls_with_their_results(tmp_path: Path) -> None:
    calls = [[{"name": "f", "arguments": {"city": "上海"}, "result": 5}], [{"name": "f", "error": "no data"}]]
    script = Dialogue.from_plain({"id": "d", "turns": [{"user": "u", "assistant": "a", "tool_calls": calls}]})
    file = io.StringIO()
    print_transcript([load(MadeRun(tmp_path / "r", [script]).write().path)], file=file)
    assert [line.split(maxsplit=1)[1] for line in printed(file) if line.strip().startswith("script")] == [
        'calls f {"city": "上海"}: 5', 'calls f {}: error "no data"', "a",
    ]  # fmt: skip


def test_a_transcript_shows_why_a_turn_has_no_reply(run: Run) -> None:
    file = io.StringIO()
    print_transcript([run], "d2", file=file)
    text = " ".join(file.getvalue().split())
    for words in ("error · timeout:", "1 possibly paid", "blocked · content_filter (SAFETY)", "turn 1 ended blocked"):
        assert words in text


def test_failed_and_target_filter_a_transcript(run: Run) -> None:
    file = io.StringIO()
    assert print_transcript([run], failed=True, file=file) == 1
    assert GOOD not in file.getvalue()  # a blocked reply is a result, not a failure
    assert print_transcript([run], target=GOOD, file=file) == 2
    assert print_transcript([run], failed=True, target=GOOD, file=file) == 0


@pytest.fixture
def judged(tmp_path: Path) -> Run:
    """A dialogue with checks on its turns and on the whole; `DRIFT` fails one of them, and its last turn is pending."""
    scripted = {
        "id": "d",
        "tags": ["zh", "date"],
        "turns": [
            {"user": "one", "checks": [{"contains": "27"}, {"contains": "2025", "name": "year"}]},
            {"user": "two", "checks": [{"contains": "年"}]},
        ],
        "checks": [{"not_contains": "26"}],
    }
    made = MadeRun(tmp_path / "judged", [Dialogue.from_plain(scripted), dialogue("e", "x")], targets=(GOOD, DRIFT))
    for index, turn, target in ((0, 1, GOOD), (0, 2, GOOD), (1, 1, GOOD), (1, 1, DRIFT)):
        made.replied(made.ident(index, turn, target))
    made.replied(made.ident(0, 1, DRIFT), SEED_REPLY._replace(text="2025", finish_reason="length"))
    return load(made.write().path)


def test_a_transcript_has_the_verdicts_below_each_reply(judged: Run) -> None:
    file = io.StringIO()
    assert print_transcript([judged], "d", target=GOOD, file=file) == 1
    lines = [line.strip() for line in printed(file)]
    assert lines[lines.index("今天是2025年12月27日。") + 2] == "passed: contains, year"
    assert lines[-4:] == ["dialogue", GOOD, "passed: not_contains", ""]
    file = io.StringIO()
    assert print_transcript([judged], failed=True, file=file) == 1
    lines = [line.strip() for line in printed(file)]
    facts = next(number for number, line in enumerate(lines) if line.startswith("ok · length"))
    assert lines[facts + 1 : facts + 3] == ["passed: year", 'failed: contains: lacks "27": "2025"']
    assert "no verdict: contains: turn 2 is pending" in lines
    assert GOOD not in lines, "nothing of it failed"


def test_failed_with_a_check_means_that_this_check_failed(judged: Run) -> None:
    for check, dialogues in (("contains", 1), ("year", 0)):
        matcher = Matcher(Filters(check=(check,)))
        assert print_transcript([judged], None, matcher, failed=True, file=io.StringIO()) == dialogues
    matcher = Matcher(Filters(text=("TWO",), status=("pending",)))
    file = io.StringIO()
    assert print_transcript([judged], None, matcher, file=file) == 1
    assert GOOD not in file.getvalue(), "its turn is not pending"


@pytest.fixture
def later(tmp_path: Path) -> Run:
    """A run of other dialogues in another order: only `e` and `d` are also in `judged`, `d` with another text."""
    made = MadeRun(tmp_path / "later", [dialogue("new", "x"), dialogue("e", "x"), dialogue("d", "1")], targets=(GOOD,))
    for index in range(3):
        made.replied(made.ident(index, 1), SEED_REPLY._replace(text=f"reply {index}"))
    return load(made.write().path)


def test_targets_of_several_runs_are_side_by_side_matched_by_id(judged: Run, later: Run) -> None:
    file = io.StringIO()
    show.print_wide([judged, later], "passed", file=file)
    assert file.getvalue().splitlines() == [
        f"dialogue,repeat,turn,judged:{GOOD},judged:{DRIFT},later:{GOOD}",
        "d,1,1,true,false,",
        "d,1,2,true,,",
        "d,1,,true,,",
        "e,1,1,,,",
        "new,1,1,,,",
    ]
    file = io.StringIO()
    show.print_wide([judged, later], "reply", Matcher(Filters(text=("reply",))), file=file)
    reply = "今天是2025年12月27日。"
    assert file.getvalue().splitlines()[1:] == [
        f"d,1,1,{reply},2025,reply 2",
        f"e,1,1,{reply},{reply},reply 1",
        "new,1,1,,,reply 0",
    ]
    file = io.StringIO()
    assert print_transcript([judged, later], file=file) == 3
    lines = [line.strip() for line in printed(file)]
    assert [line.split()[0] for line in lines if line.endswith("──")] == ["d", "e", "new"]
    assert "turn 1 of this run: 1" in lines


def test_the_last_argument_of_show_is_a_dialogue_or_a_run(judged: Run, later: Run) -> None:
    first, second = str(judged.path), str(later.path)
    assert split_dialogue([first]) == ([first], None)
    assert split_dialogue([first, second]) == ([first, second], None)
    assert split_dialogue([first, second, "d"]) == ([first, second], "d")
    with pytest.raises(SetupError, match="is given more than once"):
        show.print_wide([judged, judged], file=io.StringIO())


def test_every_repeat_is_shown_with_its_number(tmp_path: Path) -> None:
    made = MadeRun(tmp_path / "r", [dialogue("d", "x")], targets=(DRIFT,), repeats=2)
    file = io.StringIO()
    print_transcript([load(made.write().path)], file=file)
    assert f"{DRIFT} (repeat 2)" in file.getvalue()


def test_an_unknown_dialogue_or_target_is_refused_with_the_closest_name(run: Run) -> None:
    with pytest.raises(SetupError, match="did you mean 'dates-zh'"):
        print_transcript([run], "dates-zn", file=io.StringIO())
    with pytest.raises(SetupError, match=f"did you mean '{GOOD}'"):
        print_transcript([run], target="sim-god@simulator", file=io.StringIO())


def test_runs_lists_state_progress_and_unreadable_runs(run: Run, tmp_path: Path) -> None:
    broken = MadeRun(tmp_path / "broken", [dialogue("d", "x")]).write()
    (broken.path / "run.json").write_text("{")
    waiting = MadeRun(tmp_path / "waiting", [dialogue("d", "x")], state="interrupted").write()
    file = io.StringIO()
    listed = [read_run(folder) for folder in (run.folder, waiting, broken)]
    print_runs(listed, file=file)
    lines = [re.split("  +", line) for line in printed(file)]
    assert lines[0] == ["run", "date (UTC)", "dataset", "targets", "state", "done", "passed", "cost"]
    assert lines[1] == ["r", "2026-11-21 23:30", "–", f"{REAL}, {GOOD}", "finished, 1 failed", "6/6", "–", "–"]
    assert lines[2] == ["waiting", "2026-11-21 23:30", "–", REAL, "interrupted", "0/1", "–", "–"]
    assert (lines[3][0], lines[3][-4]) == ("broken", "unreadable")
    assert listed[1].to_json()["passed"] is None
    assert listed[2].to_json()["planned"] is None


def test_runs_finds_folders_at_any_depth_below_a_path(tmp_path: Path) -> None:
    made = [MadeRun(tmp_path / place, [dialogue("d", "x")]).write() for place in ("a/b/one", "two", ".hidden/three")]
    (tmp_path / "a/link").symlink_to(tmp_path / "two")
    assert [folder.path for folder in find_runs(tmp_path)] == [folder.path for folder in made[:2]]
    assert [folder.path for folder in find_runs(tmp_path / "two")] == [tmp_path / "two"]
    with pytest.raises(SetupError, match=r"there is no folder .*\n.*did you mean .*two"):
        find_runs(tmp_path / "twoo")


def test_a_tab_does_not_wrap_the_text_around_it(tmp_path: Path) -> None:
    made = MadeRun(tmp_path / "r", [dialogue("d", "\tif x:\n\t\treturn", system="a\tb")])
    made.replied(made.ident(0, 1), SEED_REPLY._replace(text="all:\n\tmake"))
    file = io.StringIO()
    print_transcript([load(made.write().path)], file=file)
    lines = printed(file)
    assert [line.split() for line in lines[1:4]] == [["system", "a", "b"], ["1", "user", "if", "x:"], ["return"]]
    assert "          make" in lines


def test_a_run_that_reuses_nothing_says_so(convbatch: Command, tmp_path: Path) -> None:
    for name, text in (("a", "one"), ("b", "two")):
        (tmp_path / f"{name}.jsonl").write_text(f'{{"turns": [{{"user": "{text}"}}]}}\n')
    said = "nothing was reused from first: it has no reply to an identical request"
    assert said not in convbatch("run", "a.jsonl", "-o", "first").out
    assert said in convbatch("run", "b.jsonl", "-o", "second", "--reuse", "first").out
    again = convbatch("run", "a.jsonl", "-o", "third", "--reuse", "first").out
    assert "reused" in again
    assert said not in again
    stopped = convbatch("run", "b.jsonl", "-o", "fourth", "--reuse", "first", "--max-requests", "1").out
    assert said not in stopped, "nothing is known of turns that were not reached"
