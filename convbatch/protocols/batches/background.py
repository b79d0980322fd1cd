"""OpenAI's background responses: one request, made within a window at a lower price, and polled by its id.

A creation makes a response of its own each time. It is stored, so that a run that was interrupted can still fetch it.
Sources: https://developers.openai.com/api/docs/guides/background and the types of openai 3.57.0, read 2026-11-27.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

from convbatch.protocols.batches.descriptions import read_object, required_id, text_under
from convbatch.protocols.batches.jobs import Job, JobCall, JobLimits, JobPage, JobPlan, check_plan
from convbatch.protocols.batches.lines import CANCELLED, ResultLine, answered_line
from convbatch.protocols.encoding import JSON_HEADERS
from convbatch.protocols.error_mapping import classify_error
from convbatch.protocols.reading import Answer, read_answer
from convbatch.protocols.responses import Responses
from convbatch.protocols.wire import CannotCarry, Endpoint, MalformedReply, encode_json
from convbatch.reply import Failure

Window = Literal["2h", "8h"]
_OPEN = frozenset({"queued", "in_progress"})
_TIERS = frozenset({None, "auto", "default"})
_PROTOCOL = Responses()


class Pending(NamedTuple):
    """A response that is not made yet."""

    response_id: str
    state: str
    """The provider's word."""


def create_background(body: Mapping[str, Any], endpoint: Endpoint, window: Window) -> JobCall:
    """Return the request that lets a response be made within a window.

    Args:
        body: As `WireProtocol.build_request` has built it.
        endpoint: Of the gateway.
        window: How long it may take.

    Raises:
        CannotCarry: It is to be streamed, or by another service tier.
    """
    if body.get("stream"):
        raise CannotCarry(f"a response within {window} cannot be streamed")
    if (tier := body.get("service_tier")) not in _TIERS:
        raise CannotCarry(f"service_tier {tier!r}: a response within {window} has the default tier")
    asked = {**body, "background": True, "background_options": {"completion_window": window}, "store": True}
    return JobCall("create", "POST", _route(endpoint), JSON_HEADERS, encode_json(asked))


def poll_background(endpoint: Endpoint, response_id: str) -> JobCall:
    """Return the request for a response."""
    return JobCall("poll", "GET", _route(endpoint, response_id), {})


def cancel_background(endpoint: Endpoint, response_id: str) -> JobCall:
    """Return the request that cancels a response; it is answered with the response."""
    return JobCall("cancel", "POST", _route(endpoint, response_id, "cancel"), {})


def read_background(status: int, headers: Mapping[str, str], body: bytes) -> Pending | Answer:
    """Read the answer to a creation, a poll or a cancellation: a reply is read as if it had come at once."""
    if 200 <= status < 300:
        try:
            response = read_object(body, "a response")
            state = text_under(response, "status")
            if state in _OPEN:
                return Pending(required_id(response, "id", "a response"), state)
            if state == "cancelled":
                return Answer(Failure(kind="connection", message="the response was cancelled", code=state))
        except MalformedReply:
            pass  # `read_answer` says what is wrong with it
    return read_answer(_PROTOCOL, status, headers, body)


class BackgroundResponses:
    """See `jobs.BatchApi`: each response is a job of one line. There is no list of them, so none is found again."""

    limits = JobLimits(lines=1, size=256_000_000)
    longest_h: int
    lists_jobs = False
    has_whole_results = True

    def __init__(self, window: Window) -> None:
        """Build the API for responses within a window."""
        self._window: Window = window
        self.longest_h = int(window.removesuffix("h"))

    def begin(self, plan: JobPlan) -> JobCall:
        """See `jobs.BatchApi`."""
        check_plan(plan)
        (body,) = plan.bodies
        return create_background(body, plan.endpoint, self._window)

    def proceed(
        self, plan: JobPlan, call: JobCall, status: int, headers: Mapping[str, str], body: bytes
    ) -> JobCall | Job | Failure:
        """See `jobs.BatchApi`."""
        if not 200 <= status < 300:
            return classify_error(status, headers, body)
        try:
            return self.read_job(body)
        except MalformedReply as malformed:
            return Failure(kind="bad_response", message=f"unreadable answer: {malformed}", retryable=malformed.cut)

    def find(self, endpoint: Endpoint, page: str | None = None) -> JobCall:
        """See `jobs.BatchApi`; never asked for."""
        raise CannotCarry("background responses are not listed")

    def read_page(self, body: bytes) -> JobPage:
        """See `jobs.BatchApi`; never asked for."""
        raise MalformedReply("background responses are not listed")

    def poll(self, endpoint: Endpoint, job_id: str) -> JobCall:
        """See `jobs.BatchApi`."""
        return poll_background(endpoint, job_id)

    def read_job(self, body: bytes) -> Job:
        """See `jobs.BatchApi`."""
        response = read_object(body, "a response")
        job_id, state = required_id(response, "id", "a response"), text_under(response, "status") or ""
        is_open = state in _OPEN
        return Job(
            job_id=job_id,
            name=None,
            phase="open" if is_open else "ended",
            state=state,
            done=0 if is_open else 1,
            total=1,
            results=() if is_open else (job_id,),
        )

    def cancel(self, endpoint: Endpoint, job_id: str) -> JobCall:
        """See `jobs.BatchApi`."""
        return cancel_background(endpoint, job_id)

    def results(self, endpoint: Endpoint, job: Job) -> tuple[JobCall, ...]:
        """See `jobs.BatchApi`: the response itself."""
        return tuple(poll_background(endpoint, name)._replace(step="results") for name in job.results)

    def read_line(self, content: bytes) -> ResultLine:
        """See `jobs.BatchApi`; the response names no line."""
        response = read_object(content, "a response")
        if text_under(response, "status") == "cancelled":  # whether what was generated is billed is not stated
            failure = Failure(kind="connection", message="the response was cancelled", code=CANCELLED, retryable=True)
            return ResultLine(line_id="", outcome=failure, status=None)
        return answered_line(_PROTOCOL, "", 200, response)


def _route(endpoint: Endpoint, *parts: str) -> str:
    return "/".join([f"{endpoint.base_url.rstrip('/')}/responses", *(quote(part, safe="") for part in parts)])
