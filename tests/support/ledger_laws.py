"""What the simulator's ledger must say after any run, whatever happened on the way."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from convbatch.simulator.ledger import Entry

_NAMED = re.compile(r"(?:question|answer) (\d+) of dialogue (\d+)")


def no_history_crosses(entries: Iterable[Entry]) -> int:
    """Every request holds turns of one dialogue only, all of them, in order; the number of requests looked at.

    For datasets of `conftest.write_dataset` played by `sim-good`, where every text names its dialogue and turn.
    """
    looked = 0
    for entry in entries:
        assert entry.history is not None
        named = [_NAMED.search(text) for role, text in entry.history if role != "system"]
        assert all(named), entry.history
        places = [(int(match[2]), int(match[1])) for match in named if match]
        dialogue = places[0][0]
        turns = [turn for turn in range(1, entry.turn + 1) for _ in range(2)][:-1]
        assert places == [(dialogue, turn) for turn in turns], entry.history
        looked += 1
    return looked


def most_in_any_window(entries: Iterable[Entry], window_s: float) -> int:
    """The largest number of arrivals in any half-open window of this length."""
    times = sorted(entry.arrived_at for entry in entries)
    most = begin = 0
    for end, at in enumerate(times):
        while times[begin] <= at - window_s:
            begin += 1
        most = max(most, end - begin + 1)
    return most


Asked = tuple[str, int, int]
"""Wire, dialogue and turn of a request: a row, for targets `sim-good@at-WIRE` played once."""


def asked_of(entry: Entry) -> Asked:
    """Which turn of `conftest.write_dataset` a request was for."""
    assert entry.history is not None
    named = _NAMED.search(entry.history[-1][1])
    assert named, entry.history
    return entry.wire, int(named[2]), int(named[1])


def every_bill_is_told(entries: Iterable[Entry], turns: Any) -> int:
    """No row was billed more often than it says; what it says of tokens is the ledger's. How often was paid again.

    A row owns up to its reply and to each request that is possibly paid.
    """
    bills: dict[Asked, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.billed:
            bills[asked_of(entry)].append(entry)
    told: dict[Asked, Any] = {
        (row.gateway.removeprefix("at-"), row.dialogue_index, row.turn): row for row in turns.itertuples()
    }
    assert bills.keys() <= told.keys()
    for place, row in told.items():
        replied = row.status in ("ok", "blocked", "empty")
        billed = bills.get(place, [])
        assert replied <= len(billed) <= replied + row.possibly_paid, (place, billed, row)
        if replied:
            assert (row.input_tokens, row.output_tokens) in {(b.input_tokens, b.output_tokens) for b in billed}, place
    return sum(len(billed) - 1 for billed in bills.values())


def same_rows(one: Any, other: Any) -> None:
    """Two `turns` frames tell the same, timing and attempts aside."""
    apart = [
        "run", "attempts", "possibly_paid", "limiter_wait_s", "retry_wait_s", "latency_s", "ttft_s", "started_at",
        "request_id", "response_id", "error_kind", "error_message",
    ]  # fmt: skip
    left, right = one.drop(columns=apart), other.drop(columns=apart)
    assert left.equals(right), left.compare(right)


def statuses(frame: Any) -> Mapping[str, int]:
    """Rows by status."""
    return Counter(frame["status"])


def possibly_paid(frame: Any) -> int:
    """Requests of a `turns` frame that were sent and never fully answered."""
    return int(frame["possibly_paid"].sum())
