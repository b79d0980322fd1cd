"""What `run --follow` prints: one dialogue at a time, streamed replies word by word, within 80 columns."""

from __future__ import annotations

import io
import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from convbatch.console.status_block import cell_width
from convbatch.dialogue import Dialogue, Turn, text_part
from convbatch.engine.call import Call
from convbatch.reply import Attempt, Failure, Reply
from convbatch.session.follow import ConversationId, Follower, LiveText
from tests.conftest import Command

REPLY = Attempt(outcome=Reply("", "stop", "STOP"), cls="replied")


def call(dialogue: str, turn: int = 1) -> Call:
    turns = tuple(Turn(user=(text_part(f"question {n} of {dialogue}"),)) for n in (1, 2))
    return Call("m@g", dialogue, 1, turn, 1, 0.0, 1, Dialogue(id=dialogue, turns=turns, system="Be brief."))


def test_conversations_that_run_side_by_side_are_printed_one_after_the_other() -> None:
    out = io.StringIO()
    follower = Follower(out, targets=1)
    first, second = call("a"), call("b")
    pieces = {each.dialogue: follower.on_text(each) for each in (first, second)}
    follower.sending(first)
    follower.sending(second)
    pieces["b"]("from b")
    pieces["a"]("from a")
    follower.answered(second, REPLY, asks_again=False)
    follower.ended(ConversationId("m@g", "b", 1))
    assert "question 1 of b" not in out.getvalue()
    follower.answered(first, REPLY, asks_again=False)
    follower.sending(call("a", 2))
    pieces["a"]("second turn of a")
    follower.answered(call("a", 2), REPLY, asks_again=False)
    follower.ended(ConversationId("m@g", "a", 1))
    follower.close()
    words = [line[11:] for line in out.getvalue().splitlines() if line and not line.startswith("──")]
    assert words == [
        *("Be brief.", "question 1 of a", "from a", "stop", "question 2 of a", "second turn of a", "stop"),
        *("Be brief.", "question 1 of b", "from b", "stop"),
    ]


def test_a_failed_attempt_is_named_and_the_question_is_not_repeated() -> None:
    out = io.StringIO()
    follower = Follower(out, targets=2)
    follower.sending(call("a"))
    failure = Failure(kind="overloaded", message="the model is overloaded\x1b[2J")
    follower.answered(call("a"), Attempt(outcome=failure, cls="refused"), asks_again=True)
    follower.sending(call("a"))
    follower.close()
    assert "error      overloaded: the model is overloaded" in out.getvalue()
    assert "; asked again" in out.getvalue()
    assert "\x1b" not in out.getvalue()
    assert out.getvalue().count("question 1 of a") == 1


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_note_gets_a_line_of_its_own_on_a_terminal_only() -> None:
    printed: list[str] = []
    for out in (Terminal(), io.StringIO()):
        follower = Follower(out, targets=1)
        follower.make_room()
        follower.sending(call("a"))
        follower.make_room()
        piece = follower.on_text(call("a"))
        piece("one two ")
        follower.make_room()
        follower.make_room()
        out.write("NOTE\n" if out.isatty() else "")
        piece("three ")
        follower.answered(call("a"), REPLY, asks_again=False)
        printed.append(out.getvalue().partition("of a\n")[2])
    assert printed[0].splitlines()[:3] == ["reply      one two", "NOTE", " " * 11 + "three"]
    assert printed[1].splitlines()[0] == "reply      one two three"


@given(name=st.text(st.sampled_from("ab 1-中"), min_size=1, max_size=120))
def test_a_long_id_is_cut_so_that_its_heading_fits(name: str) -> None:
    out = io.StringIO()
    follower = Follower(out, targets=2)
    follower.sending(call(name))
    follower.close()
    heading = next(line for line in out.getvalue().splitlines() if line.startswith("──"))
    assert cell_width(heading) <= 80
    assert " · m@g ──" in heading


@given(pieces=st.lists(st.text(st.sampled_from("ab 中，\n\t"), max_size=12), max_size=12))
def test_a_text_in_any_pieces_is_printed_as_the_whole_text_is(pieces: list[str]) -> None:
    live, whole = LiveText(40, "reply"), LiveText(40, "reply")
    printed = "".join(map(live.add, pieces)) + live.close()
    assert printed == whole.add("".join(pieces)) + whole.close()
    assert all(cell_width(line) <= 40 for line in printed.splitlines())
    assert "".join(printed.removeprefix("reply").split()) == "".join("".join(pieces).split())


def test_a_followed_run_prints_streamed_turns_before_its_table(convbatch: Command, tmp_path: Path) -> None:
    lines = [{"id": d, "turns": [{"user": f"hello {d}"}, {"user": "and now?"}]} for d in "xy"]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = convbatch("run", "d.jsonl", "-m", "sim-echo@simulator", "--follow", "--stream", "-o", "r")
    assert done.code == 0, done.err
    assert "up to 1 in flight" in done.err
    shown = done.out.partition("target  ")[0]
    places = [shown.index(text) for text in ("── x", "hello x", "first text", "and now?", "── y", "hello y")]
    assert places == sorted(places)
    assert max(map(cell_width, shown.splitlines())) <= 80
    refused = convbatch("run", "d.jsonl", "--follow", "--json")
    assert refused.code == 2
    assert "--follow and --json both print on stdout" in refused.err
