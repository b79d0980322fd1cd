"""What goes wrong with the first turn of a dialogue, and what becomes of it: one row a fault.

`tests/engine/test_runner.py` plays them over real sockets, all in one run, and looks at the tables;
`tests/scenarios/test_faults.py` plays each alone in virtual time, and looks at the journal, at what parks, and at the
exit code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Plain = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What goes wrong with the first turn, and what becomes of it."""

    fault: Plain
    attempts: int
    """Also the number of requests for this turn in the ledger."""
    status: str
    paid: int = 0
    """Possibly paid."""
    kind: str | None = None
    then: str = "skipped"
    """State of the second turn."""
    hasty: bool = False
    """At the gateway with an attempt timeout of 0.5 s."""
    finish: str | None = None
    cls: str = "replied"
    """Of every attempt that did not end well; `replied` where none did not."""

    @property
    def suspends(self) -> bool:
        """Is the whole target given up for this sitting?"""
        return self.status == "pending"

    @property
    def exit_code(self) -> int:
        """Of a run that meets nothing else."""
        return 3 if {"error", "pending"} & {self.status, self.then} else 0


def once(**fault: Any) -> Plain:
    return {"match": {"count": 1}, **fault}


def ever(**fault: Any) -> Plain:
    return fault


OK: Mapping[str, Any] = {"status": "ok", "then": "ok"}
LOST: Mapping[str, Any] = {"attempts": 2, "paid": 2, "status": "error", "cls": "ambiguous"}
"""Possibly paid, sent once more, and lost again."""
SUSPENDED: Mapping[str, Any] = {"attempts": 1, "status": "pending", "then": "pending", "cls": "final"}
REFUSED: Mapping[str, Any] = {"cls": "refused", "attempts": 3, "status": "error"}

CASES: dict[str, Case] = {
    # Refused: not paid.
    "429 with a hint": Case(
        fault=once(action="rate-limit", hint="retry-after", seconds=0.1), attempts=2, cls="refused", **OK
    ),
    "429 without a hint": Case(fault=once(action="rate-limit", hint="none"), attempts=2, cls="refused", **OK),
    "500 json once": Case(fault=once(action="error"), attempts=2, cls="refused", **OK),
    "500 json": Case(fault=ever(action="error"), **REFUSED, kind="server_error"),
    "503 json": Case(fault=ever(action="error", kind="overloaded"), **REFUSED, kind="overloaded"),
    "529 json": Case(fault=ever(action="error", status=529), **REFUSED),
    "200 with an error object": Case(fault=ever(action="broken", kind="error-object"), **REFUSED),
    # Ambiguous: once more, counted.
    "502 html once": Case(
        fault=once(action="error", kind="bad_gateway", body="html"), attempts=2, paid=1, cls="ambiguous", **OK
    ),
    "502 html": Case(fault=ever(action="error", kind="bad_gateway", body="html"), **LOST),
    "502 json": Case(fault=ever(action="error", status=502), **LOST),
    "500 html": Case(fault=ever(action="error", body="html"), **LOST),
    "503 text": Case(fault=ever(action="error", status=503, body="text"), **LOST),
    "503 empty": Case(fault=ever(action="error", status=503, body="empty"), **LOST),
    "408": Case(fault=ever(action="error", status=408), **LOST),
    "504 json": Case(fault=ever(action="error", kind="deadline"), **LOST),
    "524 html": Case(fault=ever(action="error", status=524, body="html"), **LOST),
    "reset on arrival": Case(fault=ever(action="reset", when="arrival"), kind="connection", **LOST),
    "reset when read": Case(fault=ever(action="reset", when="read"), kind="connection", **LOST),
    "reset when billed": Case(fault=ever(action="reset", when="billed"), kind="connection", **LOST),
    "reset in the body": Case(fault=ever(action="reset", when="body"), kind="connection", **LOST),
    "truncated once": Case(fault=once(action="truncate"), attempts=2, paid=1, cls="ambiguous", **OK),
    "truncated": Case(fault=ever(action="truncate"), **LOST),
    "truncated chunks": Case(fault=ever(action="truncate", framing="chunked"), **LOST),
    "truncated without a length": Case(fault=ever(action="truncate", framing="close"), kind="bad_response", **LOST),
    "no candidates": Case(fault=ever(action="reply", kind="no-candidates"), kind="empty_response", **LOST),
    "html 200": Case(fault=ever(action="broken", kind="html"), kind="bad_response", **LOST),
    "empty 200": Case(fault=ever(action="broken", kind="empty"), kind="bad_response", **LOST),
    "array 200": Case(fault=ever(action="broken", kind="array"), kind="bad_response", **LOST),
    "empty object 200": Case(fault=ever(action="broken", kind="empty-object"), kind="bad_response", **LOST),
    "NaN 200": Case(fault=ever(action="body", text='{"candidates":NaN}'), kind="bad_response", **LOST),
    "million-deep json 200": Case(fault=ever(action="body", text="[" * 1_000_000), kind="bad_response", **LOST),
    "not utf-8 200": Case(fault=ever(action="broken", kind="not-utf8"), kind="bad_response", **LOST),
    "text 200": Case(fault=ever(action="broken", kind="text"), kind="bad_response", **LOST),
    "cut json 200": Case(fault=ever(action="broken", kind="cut-json"), kind="bad_response", **LOST),
    "deep json 200": Case(fault=ever(action="broken", kind="deep"), kind="bad_response", **LOST),
    "twice json 200": Case(fault=ever(action="broken", kind="twice"), kind="bad_response", **LOST),
    "gzip bomb": Case(fault=ever(action="gzip-bomb", mebibytes=80), kind="bad_response", **LOST),
    "endless headers": Case(fault=ever(action="endless-headers"), kind="connection", **LOST),
    # Our own timeout: not again in this run.
    "silence": Case(
        fault=ever(action="silence", when="billed"),
        attempts=1,
        paid=1,
        status="error",
        kind="timeout",
        cls="timeout",
        hasty=True,
    ),
    "silence in the body": Case(
        fault=ever(action="silence", when="body"),
        attempts=1,
        paid=1,
        status="error",
        kind="timeout",
        cls="timeout",
        hasty=True,
    ),
    # Final: no.
    "400": Case(
        fault=ever(action="error", kind="bad_request"), attempts=1, status="error", cls="final", kind="invalid_request"
    ),
    "403": Case(
        fault=ever(action="error", kind="permission"), attempts=1, status="error", cls="final", kind="permission"
    ),
    "redirect": Case(fault=ever(action="redirect"), attempts=1, status="error", cls="final", kind="bad_response"),
    # Replied, whatever the finish reason: never again.
    "blocked prompt": Case(
        fault=ever(action="reply", kind="prompt-blocked"), attempts=1, status="blocked", finish="content_filter"
    ),
    "blocked output": Case(
        fault=ever(action="reply", kind="output-blocked"), attempts=1, status="blocked", finish="content_filter"
    ),
    "empty reply": Case(fault=ever(action="reply", kind="empty"), attempts=1, status="empty", finish="stop"),
    "thoughts only": Case(
        fault=ever(action="reply", kind="thoughts-only"), attempts=1, status="empty", finish="length"
    ),
    "malformed call": Case(
        fault=ever(action="reply", kind="malformed-call"), attempts=1, status="error", finish="error"
    ),
    "length": Case(fault=once(action="reply", kind="length"), attempts=1, finish="length", **OK),
    "unknown finish": Case(fault=once(action="reply", kind="unknown-finish"), attempts=1, finish="other", **OK),
    # Usage that cannot be believed is unknown, and the reply stands; but NaN is no JSON.
    "usage missing": Case(fault=ever(action="usage", kind="missing"), attempts=1, **OK),
    "usage partial": Case(fault=ever(action="usage", kind="partial"), attempts=1, **OK),
    "usage negative": Case(fault=ever(action="usage", kind="negative"), attempts=1, **OK),
    "usage huge": Case(fault=ever(action="usage", kind="huge"), attempts=1, **OK),
    "usage zero": Case(fault=ever(action="usage", kind="zero"), attempts=1, **OK),
    "usage text": Case(fault=ever(action="usage", kind="text"), attempts=1, **OK),
    "usage NaN": Case(fault=ever(action="usage", kind="nan"), kind="bad_response", **LOST),
    "usage inconsistent": Case(fault=ever(action="usage", kind="inconsistent"), attempts=1, **OK),
    # Lone surrogates are a reply; the simulator, like strict servers, takes no history that holds them.
    "lone surrogates": Case(fault=ever(action="broken", kind="surrogates"), attempts=1, status="ok", then="error"),
    # The target parks, its rows stay pending.
    "wrong key": Case(fault=ever(action="error", kind="bad_key"), **SUSPENDED),
    "unknown model": Case(fault=ever(action="error", kind="no_model"), **SUSPENDED),
    "no channel": Case(fault=ever(action="no-channel"), **SUSPENDED),
    "no balance": Case(fault=ever(action="error", kind="no_balance"), **SUSPENDED),
    "day quota": Case(fault=ever(action="rate-limit", hint="per-day"), **SUSPENDED),
    "year 9999": Case(
        fault=ever(action="rate-limit", hint="year-9999"), attempts=1, status="pending", then="pending", cls="refused"
    ),
    "one byte at a time": Case(fault=ever(action="drip", bytes=1, seconds=0.0005), attempts=1, **OK),
    "nothing wrong": Case(fault=ever(action="delay", seconds=0.0), attempts=1, **OK),
}
