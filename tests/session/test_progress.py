"""What the status lines of a run say, and how they are painted; whole runs in a terminal are in `test_signals.py`."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convbatch.console.status_block import StatusBlock, cell_width
from convbatch.dialogue import Dialogue
from convbatch.engine.call import Call
from convbatch.engine.retry import INITIAL_RETRY_STATE, SendAgain
from convbatch.reply import Attempt, Failure
from convbatch.session.progress import PLAIN_EVERY_S, Progress, TargetView
from convbatch.session.status_lines import DOWN, RunStatus, TargetStatus, clip, duration, plain_line, screen_lines
from convbatch.session.time_left import Pace
from tests.conftest import examples
from tests.support.tables import each

CALL = Call("m@down", "d1", 1, 2, 1, 0.0, 1, Dialogue(id="d", turns=()))
REFUSED = "connection refused 127.0.0.1:1"
GOOD = TargetStatus(name="sim-good@lab", done=42, planned=279, in_flight=4, left_s=79)
PAUSED = TargetStatus(
    name="gemini-3.5-flash@dmxapi",
    done=6,
    planned=279,
    state=["waiting: 429, 49 s", "429, 49 s"],
    severity=3,
    failed=12,
    others="2 blocked",
    left_s=190,
)
LOST = TargetStatus(
    name="gpt-4o@down", done=0, planned=279, state=[f"{REFUSED}, next try in 17 s", REFUSED], severity=DOWN
)


def running(*targets: TargetStatus, spent: str = "2.31 of 5.00 USD") -> RunStatus:
    done = sum(target.done for target in targets)
    planned = sum(target.planned or 0 for target in targets)
    return RunStatus(done=done, planned=planned, unit="turn", targets=targets, spent=spent, elapsed_s=75, per_s=3.3)


def test_each_target_has_a_line_with_everything_that_matters():
    head, good, paused, lost = screen_lines(running(GOOD, PAUSED, LOST), 160, 24)
    assert head.split("  ")[0] == "48/837 turns"
    assert head.endswith("01:15  4 in flight  12 failed  3.3 turn/s  2.31 of 5.00 USD  over 4 min left")
    assert good == f"{GOOD.name:23}  42/279  4 in flight  79 s left"
    assert (
        paused == "gemini-3.5-flash@dmxapi   6/279  0 in flight  waiting: 429, 49 s  12 failed  2 blocked  4 min left"
    )
    assert lost == f"{LOST.name:23}   0/279  0 in flight  {REFUSED}, next try in 17 s"


def test_without_room_for_all_the_worst_target_has_the_line():
    for rows in (3, 5, 10):
        lines = screen_lines(running(*[GOOD] * 11, LOST), 80, rows)
        assert [line.split()[0] for line in lines] == ["462/3,348", "gpt-4o@down"], rows
    assert len(screen_lines(running(*[GOOD] * 11, LOST), 80, 24)) == 13
    assert len(screen_lines(running(GOOD, LOST), 80, 2)) == 1


@each(
    ("columns", "shown"),
    [
        (80, "429, 49 s"),
        (40, "429, 49 s"),
        (20, "429, 49 s"),
        (80, REFUSED),
        (100, "next try in 17 s"),
        (60, "connection refused..."),
    ],
)
def test_a_narrow_terminal_still_shows_why_a_target_waits(columns: int, shown: str):
    assert shown in "\n".join(screen_lines(running(GOOD, PAUSED, LOST), columns, 24))


def test_shortened_names_tell_the_targets_apart():
    path = "projects/x/locations/us-central1/publishers/google/models"
    flash, pro = (TargetStatus(name=f"{path}/gemini-9-{size}@al", done=0, planned=93) for size in ("flash", "pro"))
    _, *lines = screen_lines(running(flash, pro), 80, 24)
    assert [line.split()[0] for line in lines] == ["...models/gemini-9-flash@al", "...models/gemini-9-pro@al"]
    _, *lines = screen_lines(running(flash, GOOD), 80, 24)
    assert [line.split()[0] for line in lines] == ["projects/x/locations/us...", GOOD.name]


def test_a_request_rate_gives_way_to_the_time_left_and_a_pause_to_nothing_but_its_length():
    limited = TargetStatus(
        name="m" * 30, done=7, planned=279, in_flight=1, state=["request rate 60/min"], severity=1, left_s=299
    )
    assert screen_lines(running(limited, GOOD), 60, 24)[1].endswith("7/279  5 min left")
    least = TargetStatus(name="m@busy", done=1, planned=279, at_least_s=600, state=["waiting: 429, 10 min"], severity=3)
    assert screen_lines(running(least, GOOD), 80, 24)[0].endswith("over 10 min left")


_WORDS = st.lists(
    st.sampled_from(["429,", "49 s", "in 1,234.5 s", "127.0.0.1:8080", "接口", "HTTP 502", "x" * 30]), max_size=8
)
_TARGETS = st.builds(
    lambda name, done, more, state, in_flight, failed, left_s: TargetStatus(
        name=name,
        done=done,
        planned=done + more,
        state=[" ".join(state)] if state else [],
        severity=DOWN if state else 0,
        in_flight=in_flight,
        failed=failed,
        left_s=left_s,
    ),
    st.sampled_from(["m@g", "gemini-3.5-flash-lite@dmxapi", "通义千问-2.5-72b@lab", "a" * 60]),
    *[st.integers(0, 3_000_000)] * 2,
    _WORDS,
    *[st.integers(0, 5000)] * 2,
    st.none() | st.floats(0, 1e6),
)


def numbers(text: str) -> list[str]:
    return [found.rstrip(".,:") for found in re.findall(r"\d[\d.,:]*", text)]


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(_TARGETS, min_size=1, max_size=5), st.integers(1, 200), st.integers(1, 12))
def test_lines_fit_and_never_end_within_a_number(targets: list[TargetStatus], columns: int, rows: int):
    run = running(*targets)
    lines = screen_lines(run, columns, rows)
    assert len(lines) <= max(1, rows)
    whole = set(numbers(plain_line(run, shown=99)))
    for target in targets:
        whole |= set(numbers(f"{target.name} {target.failed:,} {target.in_flight} {target.done:,}/{target.planned:,}"))
        whole |= set() if target.left_s is None else set(numbers(duration(target.left_s)))
    whole |= {"01:15", "3.3", str(100 * run.done // run.planned if run.planned else 0)}
    for line in lines:
        assert cell_width(line) < columns or not line
        bare = re.sub(r"\|[#\d ]*\|", "", line)  # the bar ends in a digit
        assert set(numbers(bare)) <= whole, line


@each(
    ("text", "width", "expected"),
    [
        ("connection refused 127.0.0.1:1", 30, "connection refused 127.0.0.1:1"),
        ("connection refused 127.0.0.1:1", 29, "connection refused..."),
        ("接口不存在", 9, "接口不..."),
        ("1234567890", 5, ""),
    ],
)
def test_a_cut_is_between_words(text: str, width: int, expected: str):
    assert clip(text, width) == expected


@each(
    ("seconds", "expected"),
    [(0.2, "1 s"), (99.5, "100 s"), (101, "2 min"), (6001, "1 h 41 min"), (86_400 * 3, "3 days")],
)
def test_a_duration_is_rounded_up(seconds: float, expected: str):
    assert duration(seconds) == expected


def paced(pace: Pace, begin: float, seconds: float, *, rows_per_s: float = 0, is_paused: bool = False) -> float:
    """Update a pace five times a second; return the time afterwards."""
    for number in range(1, int(seconds * 5) + 1):
        pace.update(begin + number / 5, rows_per_s / 5, is_paused=is_paused)  # pyright: ignore[reportArgumentType]  # parts of rows keep the sum exact
    return begin + seconds


def test_the_time_left_follows_a_pause():
    pace = Pace()
    now = paced(pace, 0, 60, rows_per_s=2)
    assert pace.left_s(120) == pytest.approx(60, rel=0.05)
    assert pace.left_s(120, 60.0) == pytest.approx(120, rel=0.05)
    now = paced(pace, now, 30, is_paused=True)
    assert pace.left_s(120, 30.0) == pytest.approx(90, rel=0.05)
    now = paced(pace, now, 60, rows_per_s=2)
    assert pace.left_s(120) == pytest.approx(60, rel=0.05)  # one pause is no rule
    for _ in range(4):
        now = paced(pace, paced(pace, now, 30, is_paused=True), 30, rows_per_s=2)
    assert pace.left_s(120) == pytest.approx(105, rel=0.15)  # half of the time
    assert Pace().left_s(10) is None


class Stream(io.StringIO):
    """A stream that may claim to be a terminal; of the fallback size, as it has no descriptor."""

    def __init__(self, *, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


def failed(message: str, status: int | None = None) -> Attempt:
    return Attempt(Failure(kind="connection", message=message), "not_sent", http_status=status)


def test_an_unreachable_server_is_named_at_once_and_then_once_a_minute():
    stream, now = Stream(is_terminal=False), [0.0]
    progress = Progress(10, targets=["m@down"], stream=stream, clock=lambda: now[0])
    for at in (0.0, 0.1, 59.0):
        now[0] = at
        attempt = failed(f"could not connect: {REFUSED}")
        progress.attempt_done(CALL, attempt, SendAgain(wait_s=1.0, retry_state=INITIAL_RETRY_STATE))
    assert stream.getvalue() == f"convbatch: m@down: {REFUSED}; asked again\n"
    why = progress.troubles()["m@down"]
    assert why.startswith(f"{REFUSED} (3 requests without a reply): start the server, or correct base_url")


def test_without_a_terminal_each_line_is_complete_and_one_every_30_s(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TERM", "dumb")
    for is_terminal in (False, True):
        stream = Stream(is_terminal=is_terminal)
        progress = Progress(10, targets=["m@g"], stream=stream)
        for second in range(100):
            if second == 40:
                progress.turn_done("m@g", "error", before=False)
            view = TargetView("m@g", 3, ("pause", 34.0), "429, 34 s")
            progress.refresh(float(second), [view], spent="1.00 of 5.00 USD")
        assert stream.getvalue().splitlines() == [
            "convbatch: 0/10 turns, 3 in flight, 1.00 of 5.00 USD; waiting: 429, 34 s",
            *["convbatch: 1/10 turns, 3 in flight, 1 failed, 1.00 of 5.00 USD; waiting: 429, 34 s"] * 2,
        ]
        assert PLAIN_EVERY_S == 30.0


class Screen(Stream):
    """A terminal of the fallback size that obeys what the status lines send."""

    def __init__(self) -> None:
        super().__init__(is_terminal=True)
        self.cells = [""]
        self.row = self.column = 0

    def write(self, text: str) -> int:
        for sent in re.findall(r"\x1b\[\d*[AKJ]|[\r\n]|[^\x1b\r\n]+", text):
            self._obey(sent)
        return len(text)

    def _obey(self, sent: str) -> None:
        line = self.cells[self.row]
        if sent == "\r":
            self.column = 0
        elif sent == "\n":
            self.row, self.column = self.row + 1, 0
            self.cells += [""] * (self.row + 1 - len(self.cells))
        elif sent.endswith("A"):
            self.row -= int(sent[2:-1])
        elif sent.startswith("\x1b"):
            self.cells[self.row] = line[: self.column]
            if sent.endswith("J"):
                del self.cells[self.row + 1 :]
        else:
            self.cells[self.row] = line[: self.column] + sent + line[self.column + len(sent) :]
            self.column += len(sent)

    def lines(self) -> list[str]:
        """Return what is shown, without empty lines at the end."""
        return "\n".join(self.cells).rstrip("\n").split("\n")


def test_notes_scroll_by_above_the_lines_and_nothing_stays_after_them():
    screen = Screen()
    block = StatusBlock(screen)
    block.paint(["one", "two"])
    block.print_above("a note")
    block.paint(["one more", "two", "three"])
    assert screen.lines() == ["a note", "one more", "two", "three"]
    block.paint(["only one"])
    assert screen.lines() == ["a note", "only one"]
    block.erase()
    assert screen.lines() == ["a note"]
