"""Progress on stderr: a line per target on a terminal, else one line every 30 s, with what each target waits for.

Only durable rows are counted: the runner calls `turn_done` after the journal's sync. What a line says is
`status_lines.py`, how it is repainted `console/status_block.py`.
"""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO, cast

from convbatch.console.status_block import StatusBlock, can_repaint
from convbatch.console.text import columns_of, printable
from convbatch.console.wrapping import wrapped
from convbatch.engine.call import Call
from convbatch.engine.connection_errors import way_out
from convbatch.engine.retry import GiveUp, SendAgain, Step, SuspendTarget
from convbatch.protocols.shapes import other_wire
from convbatch.redaction import redact
from convbatch.reply import Attempt, Failure, Reply, Status
from convbatch.session.follow import ConversationId, Follower
from convbatch.session.run_log import RunLog
from convbatch.session.status_lines import (
    DOWN,
    SUSPENDED,
    RunStatus,
    TargetStatus,
    clip,
    duration,
    plain_line,
    screen_lines,
)
from convbatch.session.time_left import Pace

if TYPE_CHECKING:
    from tqdm import tqdm

PLAIN_EVERY_S = 30.0
NAMED_EVERY_S = 60.0
"""An error of a target is named at once, but no more often than this."""
_OTHERS: tuple[Status, ...] = ("blocked", "empty", "skipped")
_PAUSES = frozenset({"pause", "probe", "breaker", "day"})
"""Kinds of obstacles that hold back every request of a target."""
_LONGEST_ERROR = 120
_BRACKETED = re.compile(r" \([^()]*\)")


class _TolerantStream:
    """A stream that ignores its errors: a closed terminal or pipe must not end a paid run."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream  # None if the process has no stderr

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            if self._stream is not None:
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            if self._stream is not None:
                self._stream.flush()

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _tolerant(stream: TextIO | None) -> TextIO:
    return cast("TextIO", _TolerantStream(stream if stream is not None else sys.stderr))


class TargetView(NamedTuple):
    """What the session sees of one target at one moment."""

    name: str
    in_flight: int
    obstacle: tuple[str, float | None] | None = None
    """`RateLimiter.obstacle`."""
    why: str | None = None
    """`RateLimiter.why_waiting`."""
    suspended: str | None = None


@dataclass(slots=True)
class _Target:
    """What the display remembers of one target."""

    planned: int | None
    counts: Counter[Status] = field(default_factory=Counter)
    new_rows: int = 0
    """Finished in this session since the last refresh."""
    pace: Pace = field(default_factory=Pace)
    trouble: str | None = None
    """The latest error, if no answer came since."""
    failures: int = 0
    """Requests without an answer since the last one."""
    named_at: float | None = None
    names_wire: bool = False
    """Whether it was said that the replies come in the shape of another protocol."""
    waits_for: str = ""
    """Kind of obstacle that was logged last."""


class Progress:
    """The listener of a session: shows how far each target is and what it waits for.

    Args:
        total: Rows in the plans of all targets.
        targets: Names of the targets, in order.
        enabled: Whether status lines are shown.
        notes: Whether permanent lines are printed.
        stream: Where; default stderr.
        unit: What a row is.
        clock: Seconds that never go back, for how often an error is named.
    """

    def __init__(
        self,
        total: int,
        *,
        targets: Sequence[str] = (),
        enabled: bool = True,
        notes: bool = True,
        stream: TextIO | None = None,
        unit: str = "turn",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = _tolerant(stream)
        self._enabled = enabled
        self._notes = notes
        self._total = total
        self._unit = unit
        self._clock = clock
        planned = total // len(targets) if targets and total % len(targets) == 0 else None
        self._targets = {name: _Target(planned) for name in targets}
        self._began: float | None = None
        self._last_line = 0.0
        self._pace = Pace()
        self.log: RunLog | None = None
        """Gets every event, if there is one."""
        self.follower: Follower | None = None
        """Gets every turn, if there is one."""
        self.on_status: Callable[[RunStatus], str | None] | None = None
        """Gets every status; what it returns is printed."""
        self.on_turn: Callable[[], None] | None = None
        """Called after each row that became durable."""
        self.shows_log = False
        """Whether the log is printed for the user, notes included."""
        self._block = StatusBlock(self._stream) if enabled and can_repaint(self._stream) else None

    @property
    def wants_status(self) -> bool:
        """Whether `refresh` must be called."""
        return self._enabled or self.log is not None or self.on_status is not None

    def turn_done(self, target: str, status: Status, *, before: bool) -> None:
        """Count one durable row; rows of earlier sessions do not count towards the speed."""
        of_target = self._of(target)
        of_target.counts[status] += 1
        of_target.new_rows += not before
        if self.on_turn is not None:
            self.on_turn()

    def sending(self, call: Call) -> None:
        """Log a request that is sent next."""
        if self.log is not None:
            self.log.write("send", f"{call}; waited {call.waited_s:.3f} s, {call.in_flight} in flight")
        if self.follower is not None:
            self.follower.sending(call)

    def on_text(self, call: Call) -> Callable[[str], None] | None:
        """Return what prints a streamed reply as it arrives; None if turns are not printed."""
        return None if self.follower is None else self.follower.on_text(call)

    def conversation_done(self, target: str, dialogue: str, repeat: int) -> None:
        """Let the follower print the dialogues that waited for this one."""
        if self.follower is not None:
            self.follower.ended(ConversationId(target, dialogue, repeat))

    def attempt_done(self, call: Call, attempt: Attempt, step: Step | None) -> None:
        """Remember the error of a request that got no reply, and name the first one at once; and another protocol."""
        if self.log is not None:
            self.log.write("answer", f"{call}: {attempt_text(attempt, step)}")
        if self.follower is not None:
            self.follower.answered(call, attempt, asks_again=isinstance(step, SendAgain))
        of_target = self._of(call.target)
        failure = attempt.outcome
        if isinstance(failure, Reply):
            of_target.trouble, of_target.failures = None, 0
            if not of_target.names_wire and (found := other_wire(attempt.wire_note)) is not None:
                of_target.names_wire = True
                self.note(f"{call.target}: {found} Its replies are read all the same")
            return
        if attempt.http_status == 429 or failure.kind == "rate_limit":
            return  # a pause, which the rate limiter explains
        of_target.trouble = error_text(failure, attempt.http_status)
        of_target.failures += 1
        now = self._clock()
        is_due = of_target.named_at is None or now - of_target.named_at >= NAMED_EVERY_S
        if of_target.failures == 1 and is_due and attempt.http_status is None and not isinstance(step, SuspendTarget):
            of_target.named_at = now
            again = "; asked again" if isinstance(step, SendAgain) else ""
            self.note(f"{call.target}: {of_target.trouble}{again}")

    def troubles(self) -> dict[str, str]:
        """Return what the latest requests of each target ended with that has not answered since, and what to do."""
        return {
            name: f"{of_target.trouble} ({of_target.failures} requests without a reply){way_out(of_target.trouble)}"
            for name, of_target in self._targets.items()
            if of_target.trouble is not None and of_target.failures > 1
        }

    def note(self, text: str) -> None:
        """Print a permanent line, if notes are enabled."""
        self._announce("note", text, is_shown=self._notes)

    def swing(self, text: str) -> None:
        """Print a permanent line about the rate or the requests in flight; like the progress, it can be turned off."""
        self._announce("limit", text, is_shown=self._notes and self._enabled)

    def answer(self, text: str) -> None:
        """Print a permanent line even if notes are disabled: it responds to what the user just did."""
        self._announce("signal", text, is_shown=True)

    def show(self, text: str) -> None:
        """Print a permanent line that is not logged."""
        line = wrapped(f"convbatch: {printable(redact(text))}", columns_of(self._stream))
        if self.follower is not None:
            self.follower.make_room()
        if self._block is not None:
            self._block.print_above(line)
        else:
            print(line, file=self._stream, flush=True)  # this class writes to stderr

    def _announce(self, event: str, text: str, *, is_shown: bool) -> None:
        """Log an event, and print it unless the log is printed anyway."""
        if self.log is not None:
            self.log.write(event, text)
        if is_shown and not self.shows_log:
            self.show(text)

    def refresh(self, now: float, views: Sequence[TargetView], *, spent: str = "", stopping: bool = False) -> None:
        """Show counts and reasons for waiting; called several times a second with a monotonic time."""
        if self.log is not None:
            self._log_waits(self.log, views)
        if not self._enabled and self.on_status is None:
            return
        if self._began is None:
            self._began = self._last_line = now
        statuses = [self._status(view, now) for view in views]
        run = RunStatus(
            done=sum(status.done for status in statuses),
            planned=self._total,
            unit=self._unit,
            targets=statuses,
            spent=spent,
            elapsed_s=now - self._began,
            per_s=self._pace.per_s,
            stopping=stopping,
        )
        if self.on_status is not None and (note := self.on_status(run)) is not None:
            self.note(note)
        if not self._enabled:
            return
        if self._block is not None:
            self._block.paint(screen_lines(run, *self._block.size()))
        elif now - self._last_line >= PLAIN_EVERY_S:
            self._last_line = now
            if self._notes:
                self.show(plain_line(run))

    def close(self) -> None:
        """Remove the status lines, and print what was received of turns that did not end."""
        if self.follower is not None:
            self.follower.close()
        if self._block is not None:
            self._block.erase()

    def _log_waits(self, log: RunLog, views: Sequence[TargetView]) -> None:
        """Log when a target begins to wait, waits for something else, or waits no longer."""
        for view in views:
            of_target = self._of(view.name)
            kind = "" if view.obstacle is None or view.why is None else view.obstacle[0]
            if kind != of_target.waits_for:
                of_target.waits_for = kind
                log.write("wait", f"{view.name}: {view.why or 'no longer'}")

    def _of(self, target: str) -> _Target:
        of_target = self._targets.get(target)
        if of_target is None:
            of_target = self._targets[target] = _Target(None)
        return of_target

    def _status(self, view: TargetView, now: float) -> TargetStatus:
        of_target = self._of(view.name)
        kind, wait_s = view.obstacle or ("", None)
        is_paused = kind in _PAUSES
        of_target.pace.update(now, of_target.new_rows, is_paused=is_paused)
        self._pace.update(now, of_target.new_rows, is_paused=False)
        of_target.new_rows = 0
        done = sum(of_target.counts.values())
        severity, state = _state(view, of_target.trouble)
        left_s = None
        if severity < DOWN and of_target.planned is not None:
            left_s = of_target.pace.left_s(of_target.planned - done, (wait_s or 0.0) if is_paused else 0.0)
        return TargetStatus(
            name=printable(view.name),
            done=done,
            planned=of_target.planned,
            in_flight=view.in_flight,
            state=[printable(redact(form)) for form in state],
            severity=severity,
            failed=of_target.counts["error"],
            others=", ".join(f"{n:,} {status}" for status in _OTHERS if (n := of_target.counts[status])),
            left_s=left_s,
            at_least_s=(wait_s or 0.0) if is_paused else 0.0,
        )


def attempt_text(attempt: Attempt, step: Step | None) -> str:
    """Return the result of an attempt and what follows it, for the log."""
    took = "" if attempt.latency_s is None else f" in {attempt.latency_s:.3f} s"
    outcome = attempt.outcome
    if isinstance(outcome, Reply):
        counts = f"{outcome.usage.input_tokens} in, {outcome.usage.output_tokens} out"
        note = "" if attempt.wire_note is None else f"; {attempt.wire_note}"
        return f"HTTP {attempt.http_status}{took}, {outcome.finish_reason}, {counts}{note}"
    status = "no answer" if attempt.http_status is None else f"HTTP {attempt.http_status}"
    hint = "" if outcome.retry_after_s is None else f"; asks to wait {outcome.retry_after_s:g} s"
    message = " ".join(outcome.message.split())
    return f"{status}{took}, {outcome.kind}, {attempt.cls}: {message}{hint}; {_step_text(step)}"


def _step_text(step: Step | None) -> str:
    match step:
        case SendAgain(wait_s=0.0):
            return "sent again when the limiter admits it"
        case SendAgain():
            return f"sent again after {step.wait_s:.3f} s"
        case GiveUp():
            return f"given up: {step.reason}"
        case SuspendTarget():
            return f"the target is suspended: {step.reason}"
        case None:
            return "the turn ends"


def error_text(failure: Failure, http_status: int | None) -> str:
    """Return an error as one short line: what a connection ended with, or what the server said."""
    message = " ".join(failure.message.split()).removeprefix("could not connect: ")
    text = message if http_status is None else f"HTTP {http_status} {failure.kind}: {message}"
    return clip(text, _LONGEST_ERROR)


def _state(view: TargetView, trouble: str | None) -> tuple[int, list[str]]:
    """Return how bad the state of a target is, and the state in shorter and shorter forms; none if it just runs."""
    if view.suspended is not None:
        text = f"suspended: {view.suspended}"
        return SUSPENDED, [text, _BRACKETED.sub("", text)]
    kind, wait_s = view.obstacle or ("", None)
    if kind == "breaker":
        error = trouble or "no answers"
        again = "asked again now" if wait_s is None else f"next try in {duration(wait_s)}"
        return DOWN, [f"{error}, {again}", error]
    if view.why is not None and kind in _PAUSES:
        return 3, [f"waiting: {view.why}", view.why]
    if view.why is not None:
        return 1, [view.why]
    return (2, [trouble]) if trouble is not None else (0, [])


class ReadingBar:
    """Progress bar in bytes while a large dataset is read; not shown for small files."""

    def __init__(self, *, enabled: bool = True, stream: TextIO | None = None) -> None:
        self._stream = _tolerant(stream)
        self._enabled = enabled and self._stream.isatty()
        self._bar: tqdm[Any] | None = None

    def show(self, done: int, total: int, dialogues: int) -> None:
        """Update the bar with bytes read, bytes in total, and dialogues so far."""
        if not self._enabled or total < 4_000_000:
            return
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(total=total, unit="B", unit_scale=True, desc="reading", file=self._stream, leave=False)
        self._bar.set_postfix_str(f"{dialogues:,} dialogues", refresh=False)
        self._bar.update(done - self._bar.n)

    def __enter__(self) -> ReadingBar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
