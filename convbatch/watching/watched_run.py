"""One run as its page shows it: counts from the journal, pass rates from the tables, and its report.

The run folder is only read: tables are made in a temporary place. The costly parts, pass rates and the report, are made
again only after a multiple of the time that they took, so that looking at a large run does not slow it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from convbatch.console.text import printable
from convbatch.errors import ConvbatchError
from convbatch.journal.manifest import Manifest
from convbatch.journal.run_folder import RunFolder
from convbatch.pricing import Money, display_amount, parse_money
from convbatch.results.cache import scratch_file
from convbatch.results.run import Run
from convbatch.results.summary import TargetSummary, summarise
from convbatch.watching.counts import LatestError, RunCounts, TargetCounts
from convbatch.watching.tail import JournalTail

_LOOK_BYTES = 8 * 2**20
"""Read from the journal before other work gets its turn."""
SETTLE_S, JUDGE_SETTLE_S = 3.0, 15.0
"""Without a writer for so long, a run has ended; the session of its judge begins some time after that of its models."""
_REST = 20
"""The costly parts take at most one part in so many of the time."""
_LEAST_S = 5.0


@dataclass(slots=True)
class _Paced:
    """When a costly part was made, and when it is due again."""

    due: float = 0.0
    made_at: float | None = None
    """Unix seconds; None = never."""

    def made(self, began: float, ended: float) -> None:
        """Set when it is due again by the time that it took; both are of a monotonic clock."""
        self.due = ended + max(_LEAST_S, _REST * (ended - began))
        self.made_at = time.time()


@dataclass(slots=True)
class WatchedRun:
    """What is known of a run; all methods are called by one thread at a time."""

    folder: RunFolder
    clock: Callable[[], float] = time.monotonic
    is_held: bool = False
    """The process of the run tells when it ends: until then it goes on, also between two sessions."""
    live: dict[str, Any] = field(default_factory=dict[str, Any])
    """What the process of the run tells of itself, beside the journal: by target name."""
    live_totals: dict[str, Any] = field(default_factory=dict[str, Any])
    error: str | None = None
    """Why the run cannot be read."""
    _tail: JournalTail = field(init=False)
    _manifest: Manifest = field(init=False)
    _counts: RunCounts = field(init=False)
    _generation: int = 0
    _sessions: int = 0
    _is_current: bool = False
    _unused_since: float | None = None
    _passes: _Paced = field(default_factory=_Paced)
    _totals: list[TargetSummary] = field(default_factory=list[TargetSummary])
    _counted: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Read `run.json`.

        Raises:
            SetupError: It cannot be read.
        """
        self._tail = JournalTail(self.folder)
        self._manifest = self.folder.read_manifest()
        self._counts = RunCounts(self._manifest)

    def refresh(self) -> None:
        """Read what is new in the journal, up to a bound; note whether a writer is active."""
        try:
            self._read_journal()
            self.error = None
        except (ConvbatchError, OSError) as error:
            self.error = printable(str(error))
        in_use = self.is_held or self.folder.is_in_use()
        if in_use:
            self._unused_since = None
        elif self._unused_since is None:
            self._unused_since = self.clock()

    @property
    def is_current(self) -> bool:
        """Whether everything that the journal has now is read."""
        return self._is_current

    def _read_journal(self) -> None:
        read = 0
        for record in self._tail.read(_LOOK_BYTES):
            if self._tail.generation != self._generation:
                self._generation, self._counts = self._tail.generation, RunCounts(self._manifest)
            if record["kind"] == "run":  # run.json may have a new judge
                self._manifest = self.folder.read_manifest()
                self._counts.update_entries(self._manifest)
            self._counts.add(record)
            read += 1
        self._is_current = read == 0

    @property
    def state(self) -> str:
        """`running`, `killed`, or how the run ended: `finished`, `interrupted` or `incomplete`."""
        if self._unused_since is None or not self._has_settled:
            return "running"
        if self._counts.stopped is None:
            return "killed"
        return self._manifest_state()

    @property
    def _has_settled(self) -> bool:
        if self._unused_since is None:
            return False
        stopped = self._counts.stopped or {}
        awaits_judge = self._manifest.current_judge is not None and stopped.get("role") == "model"
        wait_s = JUDGE_SETTLE_S if awaits_judge else SETTLE_S
        return self.clock() - self._unused_since >= wait_s

    def _manifest_state(self) -> str:
        try:
            return self.folder.read_manifest().state
        except ConvbatchError:
            return self._manifest.state

    def settle(self, *, is_over: bool = True) -> None:
        """Take the run as ended at once; not over = its process died."""
        self.is_held = False
        if is_over or not self.folder.is_in_use():
            self._unused_since = float("-inf")

    def update_passes(self, *, is_final: bool = False) -> None:
        """Count which dialogues passed, if anything has changed and it is due or final; slow for a large run."""
        began = self.clock()
        if (began < self._passes.due and not is_final) or not self._manifest.checks:
            return
        counted = tuple(counts.done for counts in (*self._counts.targets.values(), *self._counts.judges.values()))
        if counted == self._counted or not any(counted):
            return
        try:
            with scratch_file(self.folder, self._manifest) as turns:
                self._totals = summarise(turns, self._manifest.targets)
        except (ConvbatchError, OSError) as error:
            self.error = printable(str(error))
        self._counted = counted
        self._passes.made(began, self.clock())

    def report(self) -> bytes:
        """Return the report of the run as it is now, as `report -o report.html` writes it.

        Raises:
            ConvbatchError: The run cannot be read.
        """
        from convbatch.reporting.page.report_page import report_page
        from convbatch.reporting.report import DEFAULT_BY, grouping, sections_of
        from convbatch.reporting.runs import load_runs
        from convbatch.results.filters import Filters, Matcher

        matcher = Matcher(Filters())
        reported = load_runs([Run(self.folder, keeps_folder=True)], None, None)
        return report_page(reported, sections_of(reported, grouping(DEFAULT_BY), matcher), matcher)

    def to_state(self) -> dict[str, Any]:
        """Return everything that the page shows, as plain JSON; texts are safe to show as text."""
        now = time.time()
        state, counts = self.state, self._counts
        planned = self._manifest.planned
        rate = counts.rate_per_s(now) if state == "running" else None
        done = sum(each.done for each in counts.targets.values())
        left = None if not rate else max(0, planned.rows - done) / rate
        return {
            "run": printable(self._manifest.run or self.folder.name),
            "folder": printable(str(self.folder.path)),
            "state": state,
            "error": self.error,
            "session": counts.sessions,
            "began": counts.session_began,
            "now": now,
            "done": done,
            "planned": planned.rows,
            "per_s": rate,
            "left_s": self.live_totals.get("left_s", left) if state == "running" else None,
            "simulated": [printable(entry.name) for entry in self._manifest.targets if entry.simulated],
            "spent": self._spent(),
            "budget": self._budget(),
            "lost": counts.lost + (counts.in_flight if state == "killed" else 0),
            "damaged": self._tail.damaged,
            "targets": [self._target(name, each, now) for name, each in counts.targets.items()],
            "judges": [self._target(name, each, now) for name, each in counts.judges.items()],
            "passes_at": self._passes.made_at if self._totals else None,
            "has_checks": bool(self._manifest.checks),
            "errors": [_error(error) for error in reversed(counts.errors)],
        }

    def _target(self, name: str, counts: TargetCounts, now: float) -> dict[str, Any]:
        total = next((total for total in self._totals if total.target == name), None)
        live = self.live.get(name, {}) if self.state == "running" else {}
        is_judge = name in self._counts.judges and counts is self._counts.judges[name]
        refusal = counts.latest_refusal
        return {
            "name": printable(name),
            "planned": None if is_judge else self._manifest.planned.per_target,
            "done": counts.done,
            "statuses": {status: count for status, count in counts.statuses.items() if count},
            "in_flight": live.get("in_flight", len(counts.in_flight)),
            "state": live.get("state") or self._suspended(name),
            "attempts": counts.attempts,
            "input_tokens": counts.input_tokens,
            "output_tokens": counts.output_tokens,
            "spent": None if counts.cost is None else str(counts.cost),
            "unpriced": counts.unpriced,
            "refusals": counts.refusals,
            "refused_s": None if refusal is None else max(0.0, now - refusal.at),
            "asked_wait_s": None if refusal is None else refusal.wait_s,
            "judged": None if total is None else total.judged,
            "passed": None if total is None else total.passed,
        }

    def _suspended(self, name: str) -> str | None:
        """Return why a target was suspended when the last session ended."""
        why = (self._counts.stopped or {}).get("parked", {}).get(name)
        return None if why is None else printable(f"suspended: {why}")

    def _spent(self) -> str:
        """Return the known cost so far by currency, judges included; empty when none is known."""
        amounts: dict[str, Decimal] = {}
        for counts in (*self._counts.targets.values(), *self._counts.judges.values()):
            if (cost := counts.cost) is not None:
                amounts[cost.currency] = amounts.get(cost.currency, Decimal(0)) + cost.amount
        return " + ".join(str(Money(amount=amount, currency=currency)) for currency, amount in sorted(amounts.items()))

    def _budget(self) -> str | None:
        """Return what is spent of the budget; None without one. Only the run itself knows what it assumes as spent."""
        if (text := self.live_totals.get("spent")) and self.state == "running":
            return text
        cap = parse_money(self._manifest.options.max_cost or "")
        if cap is None:
            return None
        amount, currency = cap
        groups = [*self._counts.targets.values(), *self._counts.judges.values()]
        currency = currency or next((each.currency for each in groups if each.currency is not None), None)
        if currency is None:
            return None
        spent = [self._manifest.rates.convert(cost, currency) for each in groups if (cost := each.cost) is not None]
        known = sum((money.amount for money in spent if money is not None), Decimal(0))
        is_whole = all(money is not None for money in spent) and not any(each.unpriced for each in groups)
        return f"{'' if is_whole else 'at least '}{display_amount(known)} of {Money(amount=amount, currency=currency)}"


def _error(error: LatestError) -> dict[str, Any]:
    return {
        **error._asdict(),
        "target": printable(error.target),
        "dialogue": printable(error.dialogue),
        "kind": printable(error.kind),
        "message": printable(error.message),
    }
