"""Tests of what transcripts say of calls of tools."""

from __future__ import annotations

from pathlib import Path

from convbatch.reply import Reply
from convbatch.results.filters import Filters, Matcher
from convbatch.results.run import load
from convbatch.results.transcripts import TranscriptColumn, transcripts
from convbatch.tools import ToolCall
from tests.support.made_runs import SEED_REPLY, MadeRun, dialogue

RESULTS = {"look": ["first", {"error": "broken"}, {"result": {"n": 3}, "media": [{"image": "media/a.png"}]}]}


def calling(*names: str) -> Reply:
    calls = tuple(ToolCall(str(n), name, {}) for n, name in enumerate(names))
    return SEED_REPLY._replace(text=None, finish_reason="tool_call", tool_calls=calls)


def column_of(folder: Path, *turns: list[Reply]) -> TranscriptColumn:
    """Return the transcript of a conversation, given the steps of each turn; as other readers get it, through JSON."""
    script = dialogue("d", *("u" for _ in turns), tools=[{"name": "look"}], tool_results=RESULTS)
    made = MadeRun(folder, [dialogue("other", "u"), script])
    for number, steps in enumerate(turns, 1):
        for at, reply in enumerate(steps, 1):
            more = {"continues": True} if at < len(steps) else {}
            made.replied(made.ident(1, number), reply, at, step=at, **more)
    ((_, [column]),) = transcripts([load(made.write().path)], "d", Matcher(Filters()))
    assert TranscriptColumn.from_plain(column.to_plain()) == column
    return column


def test_each_call_has_the_result_that_the_run_sent(tmp_path: Path) -> None:
    column = column_of(tmp_path / "run", [calling("look", "look"), SEED_REPLY], [calling("look"), SEED_REPLY])
    assert column.results == {
        1: [("result of look: first", []), ("result of look: error broken", [])],
        2: [('result of look: {"n": 3}', ["media/a.png"])],
    }


def test_calls_with_which_a_turn_ended_have_no_result(tmp_path: Path) -> None:
    column = column_of(tmp_path / "run", [calling("look"), calling("look")], [calling("look"), SEED_REPLY])
    assert column.results == {
        1: [("result of look: first", []), None],
        2: [("result of look: error broken", [])],
    }


def test_results_that_cannot_be_told_are_left_out(tmp_path: Path) -> None:
    column = column_of(tmp_path / "run", [calling("look"), calling("look", "look")], [calling("look"), SEED_REPLY])
    assert column.results == {1: [None, None, None]}
