"""Checks of the simulator's ledger that hold after any run, with any faults and interruptions."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from convbatch.simulator.ledger import Entry

_NAMED = re.compile(r"(?:question|answer) (\d+) of dialogue (\d+)")


def check_histories(entries: Iterable[Entry]) -> int:
    """Check that every request holds all turns of a single dialogue, in order; return the number of requests checked.

    Works for datasets of `conftest.write_dataset` answered by `sim-good`, where every text names its dialogue and turn.
    """
    checked = 0
    for entry in entries:
        assert entry.history is not None
        named = [_NAMED.search(text) for role, text in entry.history if role != "system"]
        assert all(named), entry.history
        places = [(int(match[2]), int(match[1])) for match in named if match]
        dialogue = places[0][0]
        turns = [turn for turn in range(1, entry.turn + 1) for _ in range(2)][:-1]
        assert places == [(dialogue, turn) for turn in turns], entry.history
        checked += 1
    return checked


def max_in_any_window(entries: Iterable[Entry], window_s: float) -> int:
    """Return the largest number of arrivals in any half-open window of this length."""
    times = sorted(entry.arrived_at for entry in entries)
    largest = begin = 0
    for end, at in enumerate(times):
        while times[begin] <= at - window_s:
            begin += 1
        largest = max(largest, end - begin + 1)
    return largest


TurnKey = tuple[str, int, int]
"""Wire, dialogue and turn of a request; identifies a row for targets `sim-good@at-WIRE` with one repeat."""


def turn_of_entry(entry: Entry) -> TurnKey:
    """Return which turn of `conftest.write_dataset` a request is for."""
    assert entry.history is not None
    named = _NAMED.search(entry.history[-1][1])
    assert named, entry.history
    return entry.wire, int(named[2]), int(named[1])


def check_bills(entries: Iterable[Entry], turns: Any) -> int:
    """Check bills and token counts of the table against the ledger; return the number of requests paid more than once.

    A row accounts for its reply and for each possibly paid attempt.
    """
    bills: dict[TurnKey, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.billed:
            bills[turn_of_entry(entry)].append(entry)
    rows: dict[TurnKey, Any] = {
        (row.gateway.removeprefix("at-"), row.dialogue_index, row.turn): row for row in turns.itertuples()
    }
    assert bills.keys() <= rows.keys()
    for place, row in rows.items():
        replied = row.status in ("ok", "blocked", "empty")
        billed = bills.get(place, [])
        assert replied <= len(billed) <= replied + row.possibly_paid, (place, billed, row)
        if replied:
            assert (row.input_tokens, row.output_tokens) in {(b.input_tokens, b.output_tokens) for b in billed}, place
    return sum(len(billed) - 1 for billed in bills.values())


def same_rows(one: Any, other: Any) -> None:
    """Check that two `turns` frames are equal apart from timing and attempts."""
    ignored = [
        "run", "attempts", "possibly_paid", "possibly_paid_unbounded", "limiter_wait_s", "retry_wait_s", "latency_s",
        "ttft_s", "started_at", "request_id", "response_id", "error_kind", "error_message",
    ]  # fmt: skip
    left, right = one.drop(columns=ignored), other.drop(columns=ignored)
    assert left.equals(right), left.compare(right)


def statuses(frame: Any) -> Mapping[str, int]:
    """Count rows by status."""
    return Counter(frame["status"])


def possibly_paid(frame: Any) -> int:
    """Return the number of possibly paid attempts in a `turns` frame."""
    return int(frame["possibly_paid"].sum())
