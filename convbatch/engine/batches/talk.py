"""Requests about batch jobs: polls, lists, cancellations and results are sent until they are answered.

All of them can be repeated without harm; the creation of a job, which cannot, is sent once by `TargetJobs`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import NamedTuple

from convbatch.engine.client import Client
from convbatch.engine.http_values import NoResponse
from convbatch.engine.retry import attempt_class
from convbatch.errors import SetupError
from convbatch.protocols.batches.jobs import JobCall
from convbatch.protocols.error_mapping import classify_error
from convbatch.reply import AttemptClass, Failure
from convbatch.system import System

FIRST_POLL_S = 1.0
MAX_WAIT_S = 60.0
_MAX_RESULTS_BYTES = 512 * 2**20
_AT_ONCE = 32
_MAX_BODY_BYTES = 64 * 2**20
_PASSING = frozenset({"refused", "not_sent", "ambiguous", "timeout"})


class Answered(NamedTuple):
    """A complete answer with a status of success."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


class Refusal(NamedTuple):
    """No such answer."""

    failure: Failure
    cls: AttemptClass
    http_status: int | None = None
    body: bytes | None = None

    @property
    def passes(self) -> bool:
        """Whether the same request may succeed later."""
        return self.cls in _PASSING or self.failure.kind in ("rate_limit", "overloaded", "server_error")


class JobTalk:
    """Sends requests about jobs for one target."""

    def __init__(self, client: Client, system: System, *, timeout_s: float) -> None:
        self._client = client
        self._clock = system.clock
        self._timeout_s = timeout_s
        self._places = asyncio.Semaphore(_AT_ONCE)
        self.detached = asyncio.Event()
        """Set when nothing more is sent in this session."""

    async def once(self, call: JobCall) -> Answered | Refusal:
        """Send a request once."""
        async with self._places:
            return await self._once(call)

    async def _once(self, call: JobCall) -> Answered | Refusal:
        most = _MAX_RESULTS_BYTES if call.step == "results" else _MAX_BODY_BYTES
        try:
            response = await self._client.send_job_call(call, timeout_s=self._timeout_s, max_body_bytes=most)
        except NoResponse as gone:
            failure = Failure(kind=gone.kind, message=str(gone), retryable=not gone.certificate)  # pyright: ignore[reportArgumentType]  # these kinds only
            cls = attempt_class(
                failure, http_status=None, sent=gone.sent, own_timeout=gone.own_timeout, certificate=gone.certificate
            )
            return Refusal(self._client.redacted(failure), cls, gone.status)
        except SetupError as error:  # the key command failed
            return Refusal(Failure(kind="auth", message=str(error)), "final")
        headers = {name.lower(): value for name, value in response.headers.items()}
        if 200 <= response.status < 300:
            return Answered(response.status, headers, response.body)
        failure = self._client.redacted(classify_error(response.status, headers, response.body))
        cls = attempt_class(failure, http_status=response.status, sent=True)
        return Refusal(failure, cls, response.status, response.body)

    async def until_answered(self, call: JobCall) -> Answered | Refusal | None:
        """Send a request until it is answered or refused for good; None once `detached` is set."""
        wait_s = FIRST_POLL_S
        while not self.detached.is_set():
            answer = await self.once(call)
            if isinstance(answer, Answered) or not answer.passes:
                return answer
            if not await self.pause(max(wait_s, answer.failure.retry_after_s or 0.0)):
                return None
            wait_s = min(MAX_WAIT_S, 2 * wait_s)
        return None

    async def pause(self, seconds: float) -> bool:
        """Wait; return False as soon as `detached` is set."""
        if seconds <= 0:
            return not self.detached.is_set()
        sleep = asyncio.ensure_future(self._clock.sleep(seconds))
        stop = asyncio.ensure_future(self.detached.wait())
        try:
            await asyncio.wait((sleep, stop), return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleep.cancel()
            stop.cancel()
        return not self.detached.is_set()
