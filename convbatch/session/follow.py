"""Print turns as they come, for `run --follow`: one dialogue at a time, streamed replies word by word.

Conversations that run beside the printed one wait with their lines until it has ended.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple, TextIO

from convbatch.console.status_block import cell_width
from convbatch.console.text import columns_of, printable_lines
from convbatch.console.wrapping import cut
from convbatch.engine.call import Call
from convbatch.lazy_regex import lazy_regex
from convbatch.redaction import redact
from convbatch.reply import Attempt, Failure, Reply

MAX_COLUMNS = 100
"""Lines are not longer than this, however wide the terminal is."""
PIPE_COLUMNS = 80
_INDENT = 11
_SHORTEST_ID = 20
"""A long id of a dialogue is cut to what the other names leave, but not below this."""
_PIECES = lazy_regex(r"\n|[^\S\n]+|[^\s\u2e80-\u9fff\uac00-\ud7af\uff00-\uffef]+|.", re.DOTALL)
"""What a line may be broken between: words, and single wide characters."""


class ConversationId(NamedTuple):
    """One dialogue at one target, once."""

    target: str
    dialogue: str
    repeat: int


class LiveText:
    """Text that arrives in pieces, wrapped between words and indented as it is printed."""

    def __init__(self, columns: int, label: str) -> None:
        self._columns = columns
        self._column = _INDENT
        self._word = ""
        self._blank = ""
        self._head = f"{label:<{_INDENT}}"

    def add(self, text: str) -> str:
        """Return what to print for the next piece; its last word is kept until it is complete.

        Words are made safe for a terminal, and keys removed, when they are complete: a stream may split both.
        """
        *whole, last = _PIECES.findall(self._word + text) or [""]
        self._word = last
        return self._placed(whole)

    def close(self) -> str:
        """Return the rest, and the end of the line."""
        rest, self._word = self._word, ""
        return f"{self._placed([rest])}{self._taken_head()}\n"

    def break_line(self) -> str:
        """Return the end of a line that is not complete, which the next piece continues on a line of its own."""
        if self._head:
            return ""
        self._head, self._blank, self._column = " " * _INDENT, "", _INDENT
        self._word = self._word.lstrip(" \t")
        return "\n"

    def _placed(self, pieces: list[str]) -> str:
        return "".join(part for piece in pieces for part in self._place(piece))

    def _place(self, piece: str) -> Iterator[str]:
        if piece == "\n":
            yield from (self._taken_head(), self._new_line())
        elif piece.isspace():
            self._blank = piece.replace("\t", "    ")
        elif piece := _safe(piece):
            blank, self._blank = self._blank, ""
            width = cell_width(piece)
            if self._column > _INDENT and self._column + len(blank) + width > self._columns:
                blank = ""
                yield self._new_line()
            yield f"{self._taken_head()}{blank}{piece}"
            self._column += len(blank) + width

    def _taken_head(self) -> str:
        head, self._head = self._head, ""
        return head

    def _new_line(self) -> str:
        self._blank, self._column = "", _INDENT
        return "\n" + " " * _INDENT


class Follower:
    """Gets the events of a run and prints them, the conversations in the order in which they began."""

    def __init__(self, stream: TextIO, *, targets: int) -> None:
        """Set up a follower.

        Args:
            stream: Where to print; a reader that has gone away, as in `| head`, does not end the run.
            targets: Number of targets; with several, each dialogue names its own.
        """
        self._stream: TextIO | None = stream
        self._columns = min(columns_of(stream) or PIPE_COLUMNS, MAX_COLUMNS)
        self._names_target = targets > 1
        self._waiting: dict[ConversationId, list[str]] = {}
        """Conversations in the order in which they began, with what is not printed; the first one is printed live."""
        self._ended: set[ConversationId] = set()
        self._asked: dict[ConversationId, int] = {}
        """The turn whose user message was printed last."""
        self._live: dict[ConversationId, LiveText] = {}
        self._has_printed = False

    def sending(self, call: Call) -> None:
        """Print a user message, when its first request is sent."""
        of = _conversation(call)
        if of not in self._waiting:
            self._waiting[of] = []
            self._print(of, self._title(of))
            if call.script.system:
                self._print_block(of, "system", call.script.system)
        last = self._asked.get(of, 0)
        if last == call.turn:
            return  # sent again
        self._asked[of] = call.turn
        for number, turn in enumerate(call.script.turns[last : call.turn], last + 1):
            self._print_block(of, f"user {number}", turn.user_text)
            if number < call.turn and not turn.ask:
                self._print_block(of, "given", turn.assistant or "")

    def on_text(self, call: Call) -> Callable[[str], None]:
        """Return what prints the pieces of a streamed reply."""
        of = _conversation(call)

        def received(piece: str) -> None:
            live = self._live.setdefault(of, LiveText(self._columns, "reply"))
            self._print(of, live.add(piece))

        return received

    def answered(self, call: Call, attempt: Attempt, *, asks_again: bool) -> None:
        """Print the end of an attempt: its reply, unless that was streamed, and what it was."""
        of = _conversation(call)
        live = self._live.pop(of, None)
        if live is not None:
            self._print(of, live.close())
        outcome = attempt.outcome
        if isinstance(outcome, Failure):
            again = "; asked again" if asks_again else ""
            self._print_block(of, "error", f"{outcome.kind}: {outcome.message}{again}")
            return
        if live is None:
            self._print_block(of, "reply", outcome.text or "(no text)")
        self._print(of, f"{'':<{_INDENT}}{_summary(outcome, attempt)}\n")

    def make_room(self) -> None:
        """End an incomplete line of a reply, so that a note on the same terminal gets a line of its own."""
        live = self._live.get(next(iter(self._waiting))) if self._waiting else None
        if live is not None and self._stream is not None and self._stream.isatty():
            self._write(live.break_line())

    def ended(self, of: ConversationId) -> None:
        """Record that a conversation has no more turns; print those that waited for it."""
        if of not in self._waiting:
            return
        self._ended.add(of)
        self._asked.pop(of, None)
        while self._waiting and (first := next(iter(self._waiting))) in self._ended:
            self._ended.discard(first)
            del self._waiting[first]
            self._catch_up()

    def close(self) -> None:
        """Print what was received of conversations that did not end."""
        while self._waiting:
            first = next(iter(self._waiting))
            if (live := self._live.pop(first, None)) is not None:
                self._print(first, live.close())
            del self._waiting[first]
            self._catch_up()
        if self._has_printed:
            self._write("\n")

    def _catch_up(self) -> None:
        """Print what the conversation that is printed next has so far."""
        if self._waiting:
            lines = next(iter(self._waiting.values()))
            self._write("".join(lines))
            lines.clear()

    def _title(self, of: ConversationId) -> str:
        names = [of.target] if self._names_target else []
        names += [f"repeat {of.repeat}"] if of.repeat > 1 else []
        end = _safe("".join(f" · {name}" for name in names))
        left = self._columns - cell_width(f"── {end} ──")
        line = f"── {cut(_safe(of.dialogue), max(left, _SHORTEST_ID))}{end} "
        return f"\n{line}{'─' * max(2, self._columns - cell_width(line))}\n"

    def _print_block(self, of: ConversationId, label: str, text: str) -> None:
        block = LiveText(self._columns, label)
        self._print(of, block.add(text) + block.close())

    def _print(self, of: ConversationId, text: str) -> None:
        if next(iter(self._waiting), None) == of:
            self._write(text)
        else:
            self._waiting.setdefault(of, []).append(text)

    def _write(self, text: str) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
            self._has_printed = True
        except (OSError, ValueError):
            self._stream = None


def _conversation(call: Call) -> ConversationId:
    return ConversationId(call.target, call.dialogue, call.repeat)


def _safe(text: str) -> str:
    return printable_lines(redact(text))


def _summary(reply: Reply, attempt: Attempt) -> str:
    usage = reply.usage
    words = [reply.finish_reason if reply.blocked is None else f"blocked: {reply.blocked}"]
    words += [f"calls {call.name}" for call in reply.tool_calls]
    for count, name in (
        (usage.input_tokens, "in"),
        (usage.output_tokens, "out"),
        (usage.reasoning_tokens, "reasoning"),
    ):
        words += [f"{count:,} {name}"] if count else []
    words += [f"first text {attempt.ttft_s:.2f} s"] if attempt.ttft_s is not None else []
    words += [f"{attempt.latency_s:.2f} s"] if attempt.latency_s is not None else []
    return _safe(" · ".join(words))
