"""What a page shows of a run that goes on, folded from its journal record by record.

Rows, requests in flight, refusals by limits, tokens, spend and the latest errors. Whether checks pass is not in the
journal: `watched_run.py` gets it from the tables. Memory grows with failed rows and requests in flight only.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NamedTuple

from convbatch.console.text import shorten
from convbatch.journal.manifest import Manifest, ManifestTarget
from convbatch.pricing import Money
from convbatch.reply import POSSIBLY_PAID
from convbatch.results.costs import attempt_cost

ERRORS_KEPT = 20
RATE_OVER_S = 60
_SHOWN_OF_A_MESSAGE = 300
_REOPENED = frozenset({"error", "skipped"})
"""States that a later session may ask again."""


class LatestError(NamedTuple):
    """One request without a reply."""

    at: float
    target: str
    dialogue: str
    turn: int | None
    kind: str
    http_status: int | None
    message: str


class Refusal(NamedTuple):
    """One answer that said that a limit is reached."""

    at: float
    wait_s: float | None
    """How long the gateway asks to wait; None if it did not say."""


@dataclass(slots=True)
class TargetCounts:
    """What the journal says of one target, or of a judge."""

    entry: ManifestTarget | None
    """In `run.json`."""
    statuses: Counter[str] = field(default_factory=Counter[str])
    in_flight: set[tuple[Any, ...]] = field(default_factory=set[tuple[Any, ...]])
    attempts: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    refusals: int = 0
    latest_refusal: Refusal | None = None
    spent: Decimal = Decimal(0)
    has_cost: bool = False
    """Whether any cost is known: `spent` is 0 otherwise."""
    unpriced: int = 0
    """Requests that were or may have been paid and whose cost is unknown."""

    @property
    def currency(self) -> str | None:
        """Of `spent`; None without prices."""
        return None if self.entry is None or self.entry.prices is None else self.entry.prices.currency

    @property
    def cost(self) -> Money | None:
        """Known cost so far; None when none is known."""
        currency = self.currency
        return Money(amount=self.spent, currency=currency) if self.has_cost and currency is not None else None

    @property
    def done(self) -> int:
        """Rows with a result."""
        return self.statuses.total()


class RunCounts:
    """Counts of a whole run, over all sessions.

    Args:
        manifest: The content of `run.json`.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._entries: dict[str, ManifestTarget] = {}
        self.update_entries(manifest)
        self.targets = {name: TargetCounts(self._entries[name]) for name in manifest.target_names}
        self.judges: dict[str, TargetCounts] = {}
        self.errors: deque[LatestError] = deque(maxlen=ERRORS_KEPT)
        self.session_began: float | None = None
        self.sessions = 0
        self.stopped: Mapping[str, Any] | None = None
        """The `stop` record of the last session, once it has one."""
        self.lost = 0
        """Requests of sessions that were killed: possibly paid."""
        self._failed: dict[tuple[Any, ...], str] = {}
        self._per_second: Counter[int] = Counter()

    def update_entries(self, manifest: Manifest) -> None:
        """Take the entries of a changed `run.json`: a later session may name another judge."""
        self._entries = {entry.name: entry for entry in (*manifest.judges, *manifest.targets)}

    def add(self, record: Mapping[str, Any]) -> None:
        """Fold in the next record."""
        match record["kind"]:
            case "run":
                self._end_session()
                self.sessions += 1
                self.session_began, self.stopped = record["at"], None
                self._per_second.clear()
            case "stop":
                self._end_session()
                self.stopped = record
            case "intent":
                self._of(record).in_flight.add(_request(record))
                self._reopen(record)
            case "outcome":
                self._add_outcome(record)
            case "turn":
                self._add_row(record)
            case _:
                pass

    @property
    def in_flight(self) -> int:
        """Requests without an outcome so far."""
        return sum(len(counts.in_flight) for counts in (*self.targets.values(), *self.judges.values()))

    def rate_per_s(self, now: float) -> float | None:
        """Return the rows that got a result per second, over the last minute; None before the first one."""
        if self.session_began is None or not self._per_second:
            return None
        over_s = min(float(RATE_OVER_S), max(1.0, now - self.session_began))
        recent = sum(count for second, count in self._per_second.items() if second > now - over_s)
        return recent / over_s

    def _end_session(self) -> None:
        self.lost += self.in_flight
        for counts in (*self.targets.values(), *self.judges.values()):
            counts.in_flight.clear()

    def _of(self, record: Mapping[str, Any]) -> TargetCounts:
        """Return the counts of the target or judge that a record is about."""
        group, name = (self.judges if "of" in record else self.targets), record["target"]
        if name not in group:
            group[name] = TargetCounts(self._entries.get(name))
        return group[name]

    def _add_outcome(self, record: Mapping[str, Any]) -> None:
        counts = self._of(record)
        counts.in_flight.discard(_request(record))
        if record["attempt"] == 0 or record.get("read_again"):  # reused, or counted before
            return
        counts.attempts += 1
        usage = record.get("reply", {}).get("usage", {})
        counts.input_tokens += usage.get("input_tokens") or 0
        counts.output_tokens += usage.get("output_tokens") or 0
        cost = attempt_cost(counts.entry, record)
        if cost is not None:
            counts.spent, counts.has_cost = counts.spent + cost, True
        elif record["class"] == "replied" or record["class"] in POSSIBLY_PAID:
            counts.unpriced += 1
        if record["class"] != "replied":
            self._add_failure(counts, record)

    def _add_failure(self, counts: TargetCounts, record: Mapping[str, Any]) -> None:
        error, status = record["error"], record.get("http_status")
        if status == 429 or error["kind"] == "rate_limit":
            counts.refusals += 1
            counts.latest_refusal = Refusal(record["at"], error.get("retry_after_s"))
            return
        message = shorten(" ".join(error["message"].split()), _SHOWN_OF_A_MESSAGE)
        self.errors.append(
            LatestError(
                record["at"], record["target"], record["dialogue"], record["turn"], error["kind"], status, message
            )
        )

    def _add_row(self, record: Mapping[str, Any]) -> None:
        if "of" in record:
            self._of(record).statuses[record["status"]] += 1
            return
        self._reopen(record)
        status = record["status"]
        if status == "pending":  # opened again by `--retry-failed`
            if record["reopens"] not in _REOPENED:
                self._of(record).statuses[record["reopens"]] -= 1
            return
        self._of(record).statuses[status] += 1
        if status in _REOPENED:
            self._failed[_row(record)] = status
        second = int(record["at"])
        if second not in self._per_second:
            for old in [each for each in self._per_second if each < second - RATE_OVER_S]:
                del self._per_second[old]
        self._per_second[second] += 1

    def _reopen(self, record: Mapping[str, Any]) -> None:
        """Take back what a row had, if it is asked again."""
        if self._failed and (status := self._failed.pop(_row(record), None)) is not None:
            self._of(record).statuses[status] -= 1


def _row(record: Mapping[str, Any]) -> tuple[Any, ...]:
    return record["target"], record["index"], record["repeat"], record["turn"]


def _request(record: Mapping[str, Any]) -> tuple[Any, ...]:
    return record["index"], record["repeat"], record["turn"], record["attempt"], record.get("of"), record.get("asked")
