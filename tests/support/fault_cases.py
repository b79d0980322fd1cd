"""Faults in the first turn of a dialogue and their expected results, one row per fault.

`tests/engine/test_runner.py` runs all of them in one run over real sockets and checks the tables;
`tests/scenarios/test_faults.py` runs each one alone in virtual time and checks the journal, the suspended targets and
the exit code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Plain = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A fault in the first turn and its expected result."""

    fault: Plain
    attempts: int
    """Attempts, and requests for this turn in the ledger."""
    status: str
    paid: int = 0
    """Number of possibly paid attempts."""
    kind: str | None = None
    then: str = "skipped"
    """State of the second turn."""
    short_timeout: bool = False
    """Runs at the gateway with an attempt timeout of 0.5 s."""
    finish: str | None = None
    cls: str = "replied"
    """Class of every failed attempt; `replied` when no attempt fails."""

    @property
    def suspends(self) -> bool:
        """Return whether the target is suspended for the rest of the session."""
        return self.status == "pending"

    @property
    def exit_code(self) -> int:
        """Exit code of a run that has only this fault."""
        return 3 if {"error", "pending"} & {self.status, self.then} else 0


def once(**fault: Any) -> Plain:
    return {"match": {"count": 1}, **fault}


def always(**fault: Any) -> Plain:
    return fault


OK: Mapping[str, Any] = {"status": "ok", "then": "ok"}
LOST: Mapping[str, Any] = {"attempts": 2, "paid": 2, "status": "error", "cls": "ambiguous"}
"""Possibly paid, sent again once, and lost again."""
NO_MODEL: Mapping[str, Any] = {"attempts": 1, "status": "error", "cls": "final"}
SUSPENDED: Mapping[str, Any] = {"attempts": 1, "status": "pending", "then": "pending", "cls": "final"}
REFUSED: Mapping[str, Any] = {"cls": "refused", "attempts": 3, "status": "error"}

CASES: dict[str, Case] = {
    # Refused: not paid.
    "429 with a hint": Case(
        fault=once(action="rate-limit", hint="retry-after", seconds=0.1), attempts=2, cls="refused", **OK
    ),
    "429 without a hint": Case(fault=once(action="rate-limit", hint="none"), attempts=2, cls="refused", **OK),
    "500 json once": Case(fault=once(action="error"), attempts=2, cls="refused", **OK),
    "500 json": Case(fault=always(action="error"), **REFUSED, kind="server_error"),
    "503 json": Case(fault=always(action="error", kind="overloaded"), **REFUSED, kind="overloaded"),
    "529 json": Case(fault=always(action="error", status=529), **REFUSED),
    "200 with an error object": Case(fault=always(action="broken", kind="error-object"), **REFUSED),
    # Ambiguous: one more attempt, counted as possibly paid.
    "502 html once": Case(
        fault=once(action="error", kind="bad_gateway", body="html"), attempts=2, paid=1, cls="ambiguous", **OK
    ),
    "502 html": Case(fault=always(action="error", kind="bad_gateway", body="html"), **LOST),
    "502 json": Case(fault=always(action="error", status=502), **LOST),
    "500 html": Case(fault=always(action="error", body="html"), **LOST),
    "503 text": Case(fault=always(action="error", status=503, body="text"), **LOST),
    "503 empty": Case(fault=always(action="error", status=503, body="empty"), **LOST),
    "408": Case(fault=always(action="error", status=408), **LOST),
    "504 json": Case(fault=always(action="error", kind="deadline"), **LOST),
    "524 html": Case(fault=always(action="error", status=524, body="html"), **LOST),
    "reset on arrival": Case(fault=always(action="reset", when="arrival"), kind="connection", **LOST),
    "reset when read": Case(fault=always(action="reset", when="read"), kind="connection", **LOST),
    "reset when billed": Case(fault=always(action="reset", when="billed"), kind="connection", **LOST),
    "reset in the body": Case(fault=always(action="reset", when="body"), kind="connection", **LOST),
    "truncated once": Case(fault=once(action="truncate"), attempts=2, paid=1, cls="ambiguous", **OK),
    "truncated": Case(fault=always(action="truncate"), **LOST),
    "truncated chunks": Case(fault=always(action="truncate", framing="chunked"), **LOST),
    "truncated without a length": Case(fault=always(action="truncate", framing="close"), kind="bad_response", **LOST),
    "no candidates": Case(fault=always(action="reply", kind="no-candidates"), kind="empty_response", **LOST),
    "html 200": Case(fault=always(action="broken", kind="html"), kind="bad_response", **NO_MODEL),
    "empty 200": Case(fault=always(action="broken", kind="empty"), kind="bad_response", **LOST),
    "array 200": Case(fault=always(action="broken", kind="array"), kind="bad_response", **LOST),
    "empty object 200": Case(fault=always(action="broken", kind="empty-object"), kind="bad_response", **LOST),
    "NaN 200": Case(fault=always(action="body", text='{"candidates":NaN}'), kind="empty_response", **LOST),
    "million-deep json 200": Case(fault=always(action="body", text="[" * 1_000_000), kind="bad_response", **LOST),
    # Wrong bytes are replaced; this reply holds them in a field that is not its text.
    "not utf-8 200": Case(
        fault=always(action="broken", kind="not-utf8"), attempts=1, status="empty", finish="stop", then="skipped"
    ),
    "text 200": Case(fault=always(action="broken", kind="text"), kind="bad_response", **NO_MODEL),
    "cut json 200": Case(fault=always(action="broken", kind="cut-json"), kind="bad_response", **LOST),
    "deep json 200": Case(fault=always(action="broken", kind="deep"), kind="bad_response", **LOST),
    "twice json 200": Case(fault=always(action="broken", kind="twice"), attempts=1, **OK),
    "gzip bomb": Case(fault=always(action="gzip-bomb", mebibytes=80), kind="bad_response", **LOST),
    "endless headers": Case(fault=always(action="endless-headers"), kind="bad_response", **LOST),
    # Our own timeout: no further attempt in this session.
    "silence": Case(
        fault=always(action="silence", when="billed"),
        attempts=1,
        paid=1,
        status="error",
        kind="timeout",
        cls="timeout",
        short_timeout=True,
    ),
    "silence in the body": Case(
        fault=always(action="silence", when="body"),
        attempts=1,
        paid=1,
        status="error",
        kind="timeout",
        cls="timeout",
        short_timeout=True,
    ),
    # Final: no further attempt.
    "400": Case(
        fault=always(action="error", kind="bad_request"),
        attempts=1,
        status="error",
        cls="final",
        kind="invalid_request",
    ),
    "403": Case(
        fault=always(action="error", kind="permission"), attempts=1, status="error", cls="final", kind="permission"
    ),
    "redirect": Case(fault=always(action="redirect"), attempts=1, status="error", cls="final", kind="bad_response"),
    # Replied, with any finish reason: no further attempt.
    "blocked prompt": Case(
        fault=always(action="reply", kind="prompt-blocked"), attempts=1, status="blocked", finish="content_filter"
    ),
    "blocked output": Case(
        fault=always(action="reply", kind="output-blocked"), attempts=1, status="blocked", finish="content_filter"
    ),
    "empty reply": Case(fault=always(action="reply", kind="empty"), attempts=1, status="empty", finish="stop"),
    "thoughts only": Case(
        fault=always(action="reply", kind="thoughts-only"), attempts=1, status="empty", finish="length"
    ),
    "malformed call": Case(
        fault=always(action="reply", kind="malformed-call"), attempts=1, status="error", finish="error"
    ),
    "length": Case(fault=once(action="reply", kind="length"), attempts=1, finish="length", **OK),
    "unknown finish": Case(fault=once(action="reply", kind="unknown-finish"), attempts=1, finish="other", **OK),
    # Implausible usage counts are unknown and the reply is kept.
    "usage missing": Case(fault=always(action="usage", kind="missing"), attempts=1, **OK),
    "usage partial": Case(fault=always(action="usage", kind="partial"), attempts=1, **OK),
    "usage negative": Case(fault=always(action="usage", kind="negative"), attempts=1, **OK),
    "usage huge": Case(fault=always(action="usage", kind="huge"), attempts=1, **OK),
    "usage zero": Case(fault=always(action="usage", kind="zero"), attempts=1, **OK),
    "usage text": Case(fault=always(action="usage", kind="text"), attempts=1, **OK),
    "usage NaN": Case(fault=always(action="usage", kind="nan"), attempts=1, **OK),
    "usage inconsistent": Case(fault=always(action="usage", kind="inconsistent"), attempts=1, **OK),
    # A reply may contain lone surrogates; the simulator, like strict servers, rejects a history that contains them.
    "lone surrogates": Case(fault=always(action="broken", kind="surrogates"), attempts=1, status="ok", then="error"),
    # The target is suspended, its rows stay pending.
    "wrong key": Case(fault=always(action="error", kind="bad_key"), **SUSPENDED),
    "unknown model": Case(fault=always(action="error", kind="no_model"), **SUSPENDED),
    "no channel": Case(fault=always(action="no-channel"), **SUSPENDED),
    "no balance": Case(fault=always(action="error", kind="no_balance"), **SUSPENDED),
    "day quota": Case(fault=always(action="rate-limit", hint="per-day"), **SUSPENDED),
    "year 9999": Case(
        fault=always(action="rate-limit", hint="year-9999"), attempts=1, status="pending", then="pending", cls="refused"
    ),
    "one byte at a time": Case(fault=always(action="drip", bytes=1, seconds=0.0005), attempts=1, **OK),
    "nothing wrong": Case(fault=always(action="delay", seconds=0.0), attempts=1, **OK),
}
