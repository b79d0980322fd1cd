"""The text of the progress display: what one line says, and what it leaves out where the terminal is narrow.

A line never ends within a number, a name of a host or a word: whole facts are left out, the least important first.
Pure functions over values.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from convbatch.console.status_block import cell_width

DOWN, SUSPENDED = 4, 5
"""Severities: a target that does not answer, and one that is suspended."""
_GAP = "  "
_BAR_CELLS = 24
_SHORTEST_TEXT = 12
_SHORTEST_NAME = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetStatus:
    """What is known of one target at one moment."""

    name: str
    done: int
    planned: int | None
    """None if it is not known."""
    in_flight: int = 0
    state: Sequence[str] = ()
    """What it waits for and how long, why it does not answer, or why it is suspended; in shorter and shorter forms."""
    severity: int = 0
    """0: it runs. The target with the highest one is shown if there is room for one only."""
    failed: int = 0
    others: str = ""
    """Counts of other results than `ok`, as text."""
    left_s: float | None = None
    at_least_s: float = 0.0
    """What is left of its pause: it needs more than this."""

    @property
    def is_finished(self) -> bool:
        """Whether all its rows are done."""
        return self.planned is not None and self.done >= self.planned


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """What is known of a session at one moment."""

    done: int
    planned: int
    unit: str
    targets: Sequence[TargetStatus]
    spent: str = ""
    """Money spent of the budget."""
    elapsed_s: float = 0.0
    per_s: float | None = None
    stopping: bool = False

    @property
    def in_flight(self) -> int:
        """Requests in flight at all targets."""
        return sum(target.in_flight for target in self.targets)

    @property
    def left_s(self) -> float | None:
        """Seconds that the slowest target still needs; None while one of them is unknown."""
        open_targets = [one for one in self.targets if not one.is_finished and one.severity < SUSPENDED]
        known = [one.left_s for one in open_targets if one.left_s is not None]
        return max(known) if known and len(known) == len(open_targets) and not self.stopping else None

    @property
    def failed(self) -> int:
        """Turns that failed."""
        return sum(target.failed for target in self.targets)


class _Fact:
    """Part of a line, in its forms from the longest to the shortest, and at last left out."""

    def __init__(self, *forms: str) -> None:
        self.forms = [*dict.fromkeys(form for form in forms if form), ""]
        """The present one is the first."""

    @property
    def text(self) -> str:
        return self.forms[0]

    @property
    def is_shortest(self) -> bool:
        """Whether the next form leaves it out."""
        return len(self.forms) <= 2

    def shorten(self) -> None:
        """Take the next form."""
        if len(self.forms) > 1:
            del self.forms[0]

    def clip(self, width: int) -> None:
        """Take the beginning of the present form, if there is room for a telling one."""
        if _SHORTEST_TEXT <= width < cell_width(self.text):
            self.forms[0] = clip(self.text, width) or self.text


def screen_lines(run: RunStatus, columns: int, rows: int) -> list[str]:
    """Return the lines of the display for a terminal of this size."""
    width = columns - 1  # a full last column makes some terminals wrap
    head = _total_line(run, width)
    if rows < 3:
        return [head]
    if len(run.targets) == 1:
        only = run.targets[0]
        return [head, _reason_line(only, width)] if only.state or only.others else [head]
    shown = run.targets if len(run.targets) + 1 <= max(3, rows - 6) else [_worst(run.targets)]
    return [head, *_target_lines(shown, width)]


def plain_line(run: RunStatus, shown: int = 3) -> str:
    """Return everything in one line without limit, for a log: the totals, and the targets that wait or fail."""
    facts = [f"{_count(run.done, run.planned)} {run.unit}s", *_totals(run)]
    targets = sorted((one for one in run.targets if one.state), key=lambda one: -one.severity)
    parts = [", ".join(filter(None, facts))]
    if len(run.targets) == 1:
        parts += [one.state[0] for one in targets]
    else:
        parts += [f"{one.name} {_count(one.done, one.planned)}: {one.state[0]}" for one in targets[:shown]]
    if len(targets) > shown:
        parts.append(f"{len(targets) - shown} more wait or fail")
    return "; ".join(parts)


def _worst(targets: Sequence[TargetStatus]) -> TargetStatus:
    return max(targets, key=lambda one: (one.severity, not one.is_finished, one.failed, one.left_s or 0.0))


def _totals(run: RunStatus) -> list[str]:
    return [
        "stopping" if run.stopping else "",
        f"{run.in_flight} in flight",
        f"{run.failed} failed" if run.failed else "",
        run.spent,
        total_left(run),
    ]


def total_left(run: RunStatus) -> str:
    """Return the time that the slowest target still needs; `over …` if that of another is unknown."""
    open_targets = [one for one in run.targets if not one.is_finished and one.severity < SUSPENDED]
    known = [one.left_s for one in open_targets if one.left_s is not None]
    least = max((one.at_least_s for one in open_targets if one.left_s is None), default=0.0)
    if run.stopping or not known:
        return ""
    is_whole = len(known) == len(open_targets)
    return f"{'' if is_whole else 'over '}{duration(max(*known, least))} left"


def _total_line(run: RunStatus, width: int) -> str:
    stopping, in_flight, failed, spent, left = map(_Fact, _totals(run))
    count = _count(run.done, run.planned)
    number = _Fact(f"{count} {run.unit}s", count, _percent(run))
    bar, speed = _Fact(_bar(run), _percent(run)), _Fact(_speed(run))
    from tqdm import tqdm

    elapsed = _Fact(tqdm.format_interval(run.elapsed_s))
    facts = [number, bar, elapsed, stopping, in_flight, failed, speed, spent, left]
    drop = [speed, bar, elapsed, bar, number, in_flight, spent, failed, left, number, stopping, number]
    return _fitted(facts, drop, width)


def _reason_line(target: TargetStatus, width: int) -> str:
    """Return the second line of a run with one target: all that is not in the first."""
    name, state, others = _Fact(target.name), _Fact(*target.state), _Fact(target.others)
    return _fitted([name, state, others], [others, *_shortened(state, name)], width, elastic=state, keep=1)


def _target_lines(targets: Sequence[TargetStatus], width: int) -> list[str]:
    widest = max(cell_width(one.name) for one in targets)
    widest = min(widest, max(_SHORTEST_NAME, 2 * width // 5))  # the rest holds a count and a reason
    names = _short_names([one.name for one in targets], widest)
    counts = _right_aligned([_count(one.done, one.planned) for one in targets])
    flights = _right_aligned([f"{one.in_flight} in flight" for one in targets])
    return [
        _target_line(one, _padded(name, widest), count, flight, width)
        for one, name, count, flight in zip(targets, names, counts, flights, strict=True)
    ]


def _target_line(target: TargetStatus, name: str, count: str, in_flight: str, width: int) -> str:
    left = ""
    if target.is_finished:
        left = "finished"
    elif target.left_s is not None:
        left = f"{duration(target.left_s)} left"
    label, number, flight = _Fact(name, *_shorter_names(name.rstrip())), _Fact(count, count.strip()), _Fact(in_flight)
    state, others, time = _Fact(*target.state), _Fact(target.others), _Fact(left)
    fail = _Fact(f"{target.failed:,} failed" if target.failed else "")
    if target.is_finished or target.severity >= SUSPENDED:
        flight.shorten()
    facts = [label, number, flight, state, fail, others, time]
    is_held_up = target.severity > 1
    first = [others, flight, *(_shortened(state, time) if is_held_up else [state, time])]
    drop = [*first, label, number, label, fail, label, state, number]
    return _fitted(facts, drop, width, elastic=state if is_held_up else None, keep=2)


def _shortened(state: _Fact, other: _Fact) -> list[_Fact]:
    """Return in which order a reason and another fact give way: the last form of the reason stays longest."""
    return [*[state] * (len(state.forms) - 2), other]


def _fitted(
    facts: Sequence[_Fact], drop: Sequence[_Fact], width: int, *, elastic: _Fact | None = None, keep: int = 0
) -> str:
    """Join the facts; while they are too wide, shorten or leave out the next of `drop`.

    Args:
        facts: In their order on the line.
        drop: The least important first; a fact is named once for each of its forms.
        width: Room, in cells.
        elastic: May also be cut between its words, once nothing but its last form is left of it.
        keep: How many of `drop` go before it is cut.
    """
    for number, fact in enumerate((*drop, *facts)):
        too_wide = cell_width(_joined(facts)) - width
        if too_wide > 0 and elastic is not None and elastic.is_shortest and number >= keep:
            elastic.clip(cell_width(elastic.text) - too_wide)
            too_wide = cell_width(_joined(facts)) - width
        if too_wide <= 0:
            break
        fact.shorten()
    line = _joined(facts)
    return line if cell_width(line) <= width else ""


def _joined(facts: Sequence[_Fact]) -> str:
    return _GAP.join(fact.text for fact in facts if fact.text).rstrip()


def _count(done: int, planned: int | None) -> str:
    return f"{done:,}" if planned is None else f"{done:,}/{planned:,}"


def _percent(run: RunStatus) -> str:
    return f"{100 * run.done // run.planned}%" if run.planned else ""


def _bar(run: RunStatus) -> str:
    if not run.planned:
        return ""
    from tqdm import tqdm

    bar = tqdm.format_meter(run.done, run.planned, 0, ncols=_BAR_CELLS, bar_format="|{bar}|", ascii=True)
    return f"{_percent(run)} {bar}"


def _speed(run: RunStatus) -> str:
    return f"{run.per_s:.1f} {run.unit}/s" if run.per_s else ""


def duration(seconds: float) -> str:
    """Format a duration for people, rounded up."""
    if seconds < 100:
        return f"{math.ceil(seconds)} s"
    if seconds < 100 * 60:
        return f"{math.ceil(seconds / 60)} min"
    minutes = math.ceil(seconds / 60)
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{math.ceil(minutes / 60 / 24)} days"


def clip(text: str, width: int) -> str:
    """Return the beginning of a text, at most so many cells wide, cut only between words; `...` marks a cut."""
    if cell_width(text) <= width:
        return text
    ends = [0, *accumulate(cell_width(char) for char in text)]
    room = max(0, width - 3)
    at = max(place for place, end in enumerate(ends) if end <= room)
    while at > 0 and _is_within_word(text, at):
        at -= 1
    beginning = text[:at].rstrip(" ,;:")
    return f"{beginning}..." if beginning else ""


def _is_within_word(text: str, at: int) -> bool:
    """Whether a cut before the character at this place would split a word, a number or an address."""
    before, after = text[at - 1], text[at]
    return before.isascii() and after.isascii() and not before.isspace() and not after.isspace()


def _short_names(names: Sequence[str], width: int) -> list[str]:
    """Return names of at most this width: their beginnings, or their ends where only those tell them apart."""
    beginnings = [_widest_that_fits([name, *_shorter_names(name)], width) for name in names]
    if len(set(beginnings)) == len(set(names)):
        return beginnings
    ends = [_widest_that_fits([name, *_ends(name)], width) for name in names]
    return ends if len(set(ends)) > len(set(beginnings)) else beginnings


def _widest_that_fits(forms: Sequence[str], width: int) -> str:
    return next((form for form in forms if cell_width(form) <= width), "")


def _ends(name: str) -> list[str]:
    """Return ends of a target's name, the longest first, cut between its parts."""
    return [f"...{name[place:].lstrip('-_/:. ')}" for place in _places(name) if place > len("...")]


def _places(name: str) -> list[int]:
    """Return the places between the parts of a name."""
    places = (match.start() for match in re.finditer(r"[-_@/:. ]|(?<=[^\x00-\x7f])", name))
    return [place for place in places if place and not _is_decimal_point(name, place)]


def _shorter_names(name: str) -> list[str]:
    """Return beginnings of a target's name, the longest first, cut between its parts."""
    cuts = [f"{name[:place]}..." for place in reversed(_places(name))]
    return [cut for cut in cuts if cell_width(cut) < cell_width(name)]


def _is_decimal_point(name: str, place: int) -> bool:
    return place < len(name) and name[place] == "." and name[:place][-1:].isdigit() and name[place + 1 :][:1].isdigit()


def _padded(text: str, width: int) -> str:
    return text + " " * (width - cell_width(text))


def _right_aligned(texts: Sequence[str]) -> list[str]:
    widest = max(map(len, texts))
    return [text.rjust(widest) for text in texts]
