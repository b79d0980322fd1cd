"""Batch jobs: exact requests, results that are read as single replies are, and whole jobs at the simulator."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convbatch.dialogue import Message, Settings
from convbatch.protocols import PROTOCOLS
from convbatch.protocols.batches import BATCH_APIS
from convbatch.protocols.batches.background import (
    Pending,
    cancel_background,
    create_background,
    poll_background,
    read_background,
)
from convbatch.protocols.batches.jobs import Job, JobCall, JobLimits, JobPlan, place_of, split_lines
from convbatch.protocols.batches.lines import ResultLine, match_lines
from convbatch.protocols.reading import Answer, read_answer
from convbatch.protocols.wire import Ask, CannotCarry, Endpoint, MalformedReply, encode_json
from convbatch.reply import Failure, Reply
from convbatch.simulator import FaultScript, JobTimes, Provider, Request
from convbatch.simulator import JobLimits as ServerJobLimits
from tests.conftest import examples
from tests.protocols.test_protocols import BODIES, FIXTURES, assistant, user
from tests.support.tables import each

BASES = {
    "gemini": "http://any",
    "openai": "http://any/v1",
    "responses": "http://any/v1",
    "anthropic": "http://any",
}
NAMES = sorted(BASES)
END_S = 48 * 3600.0


def endpoint_of(name: str) -> Endpoint:
    return Endpoint(base_url=BASES[name])


def built(name: str, text: str, **settings: Any) -> dict[str, Any]:
    ask = Ask(model="sim-good", messages=(user(text),), settings=Settings(**settings))
    return PROTOCOLS[name].build_request(ask, endpoint_of(name)).json


def plan_of(name: str, *texts: str, plan: str = "run1-w1", **settings: Any) -> JobPlan:
    bodies = [built(name, text, **settings) for text in texts]
    return JobPlan(name=plan, model="sim-good", bodies=bodies, endpoint=endpoint_of(name))


class Talk:
    """Sends what a batch API says to the simulator, in virtual time."""

    def __init__(self, name: str, *rules: Mapping[str, Any], **options: Any) -> None:
        times = JobTimes(validate_s=10, run_s=100, finish_s=10, cancel_s=5)
        self.provider = Provider(faults=FaultScript.of(rules), job_times=times, **options)
        self.api = BATCH_APIS[name]
        self.endpoint = endpoint_of(name)
        self.now = 0.0
        self.sent: list[JobCall] = []

    def send(self, call: JobCall) -> tuple[int | None, Mapping[str, str], bytes]:
        self.sent.append(call)
        headers = {"host": "any", **call.headers}
        answer = self.provider.handle(Request.of(call.method, call.url, headers, call.body or b""), self.now)
        answer.delivered(self.now)
        return answer.status, answer.headers, b"" if answer.status is None else answer.content

    def make(self, plan: JobPlan) -> Job | Failure | None:
        """Return the job, why it is not made, or None without an answer."""
        step: JobCall | Job | Failure = self.api.begin(plan)
        while isinstance(step, JobCall):
            status, headers, body = self.send(step)
            if status is None:
                return None
            step = self.api.proceed(plan, step, status, headers, body)
        return step

    def made(self, plan: JobPlan) -> str:
        job = self.make(plan)
        assert isinstance(job, Job), job
        return job.job_id

    def poll(self, job_id: str) -> Job:
        return self.api.read_job(self.send(self.api.poll(self.endpoint, job_id))[2])

    def lines(self, job: Job) -> Iterator[ResultLine]:
        for call in self.api.results(self.endpoint, job):
            status, _, body = self.send(call)
            for line in body.split(b"\n") if status == 200 else ():
                if line.strip():
                    yield self.api.read_line(line)

    def all_jobs(self) -> list[Job]:
        jobs: list[Job] = []
        page = self.api.read_page(self.send(self.api.find(self.endpoint))[2])
        jobs += page.jobs
        while page.next_page is not None:
            page = self.api.read_page(self.send(self.api.find(self.endpoint, page.next_page))[2])
            jobs += page.jobs
        return jobs

    def single(self, body: Mapping[str, Any], name: str) -> Reply | Failure:
        ask = Ask(model="sim-good", messages=(user(""),))
        request = PROTOCOLS[name].build_request(ask, self.endpoint)
        sent = Request.of("POST", request.url, {**request.headers}, encode_json(body))
        answer = self.provider.handle(sent, self.now)
        return read_answer(PROTOCOLS[name], answer.status or 0, {}, answer.content).outcome


# --- lines of results ------------------------------------------------------------------------------------------------


def line_around(name: str, body: bytes, status: int) -> bytes | None:
    """Return a line of results with a body; None if the provider has no such line."""
    try:
        value = json.loads(body)
    except ValueError:
        return None
    if name in ("openai", "responses"):
        line: Any = {"custom_id": "a", "response": {"status_code": status, "request_id": "r", "body": value}}
    elif name == "anthropic":
        result = {"type": "succeeded", "message": value} if status == 200 else {"type": "errored", "error": value}
        line = {"custom_id": "a", "result": result}
    else:
        line = {"key": "a", "response": value}
    return json.dumps(line).encode()


def whole(name: str, body: bytes, status: int) -> Answer:
    return read_answer(PROTOCOLS[name], status, {}, body)


def test_the_reply_of_a_line_is_the_reply_of_the_recorded_body() -> None:
    read = 0
    for fixture in FIXTURES:
        name, status = fixture["protocol"], fixture["status"]
        body = (BODIES / fixture["file"]).read_bytes()
        line = line_around(name, body, status)
        if line is None or (name == "gemini" and status != 200):
            continue
        found = BATCH_APIS[name].read_line(line)
        if name == "anthropic" and status != 200:  # whose status is told by its type
            status = found.status or 0
        assert found[:2] == ("a", whole(name, body, status).outcome), fixture["file"]
        read += 1

    assert read >= 100


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["choices", "message", "content", "finish_reason", "error", "code", "status", "output", "type", "text",
             "candidates", "parts", "usage", "stop_reason", "id", "data", "response", "key", "custom_id", "result",
             "metadata", "state", "name", "done", "operations", "request_counts", "created_at", "errors"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=examples(60))
@given(value=JSON_VALUES, status=st.sampled_from([200, 400, 401, 404, 429, 500, 503, 504, 529]))
def test_a_line_of_any_body_is_read_as_that_body_is(value: Any, status: int) -> None:
    for name in ("openai", "responses"):
        body = encode_json(value)
        line = line_around(name, body, status)
        assert line is not None
        assert BATCH_APIS[name].read_line(line).outcome == whole(name, body, status).outcome


@settings(max_examples=examples(60))
@given(value=JSON_VALUES, cut=st.integers(0, 40))
def test_reading_raises_nothing_but_malformed_reply(value: Any, cut: int) -> None:
    for body in (encode_json(value), encode_json(value)[:cut], encode_json({"id": "a", "status": "x", "data": value})):
        for api in BATCH_APIS.values():
            for read in (api.read_job, api.read_page, api.read_line):
                try:
                    read(body)
                except MalformedReply:
                    continue
        read_background(200, {}, body)


@each(
    ("name", "line", "kind", "status", "is_free"),
    [
        ("openai", {"custom_id": "a", "response": None, "error": {"code": "batch_expired"}}, "timeout", None, True),
        ("responses", {"custom_id": "a", "error": {"code": "batch_cancelled"}}, "connection", None, True),
        ("openai", {"custom_id": "a", "error": {"code": "request_timeout", "message": "m"}}, "timeout", 500, False),
        ("anthropic", {"custom_id": "a", "result": {"type": "expired"}}, "timeout", None, True),
        ("anthropic", {"custom_id": "a", "result": {"type": "canceled"}}, "connection", None, True),
        (
            "anthropic",
            {"custom_id": "a", "result": {"type": "errored", "error": {"error": {"type": "overloaded_error"}}}},
            "overloaded",
            529,
            True,
        ),
        ("gemini", {"key": "a", "error": {"code": 3, "message": "m"}}, "invalid_request", 400, False),
        ("gemini", {"key": "a", "error": {"code": 8, "message": "m"}}, "rate_limit", 429, False),
        ("gemini", {"key": "a", "error": {"code": 13, "message": "m"}}, "server_error", 500, False),
        ("gemini", {"key": "a", "error": {"code": 503, "message": "m"}}, "overloaded", 503, False),
        ("gemini", {"key": "a", "error": {"code": 4, "message": "m"}}, "timeout", 504, False),
    ],
)
def test_a_line_without_a_reply_says_why(
    name: str, line: dict[str, Any], kind: str, status: int | None, is_free: bool
) -> None:
    found = BATCH_APIS[name].read_line(json.dumps(line).encode())

    assert isinstance(found.outcome, Failure)
    assert (found.outcome.kind, found.status, found.is_free) == (kind, status, is_free)


def test_an_odd_line_is_read_and_noted_and_a_cut_one_is_refused() -> None:
    body = json.dumps({"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}], "usage": {"x": 0.5}})
    line = f'{{"custom_id": "a", "response": {{"status_code": 200, "body": {body}}}}}'.encode()
    odd = BATCH_APIS["openai"].read_line(line.replace(b"0.5", b"NaN"))

    assert (odd.outcome, odd.note) == (BATCH_APIS["openai"].read_line(line).outcome, "NaN read as null")
    for cut in (b"", b"[]", b'"a"', line[:-3], line + line.replace(b"hi", b"ho"), b"<html>"):
        with pytest.raises(MalformedReply):
            BATCH_APIS["openai"].read_line(cut)


def result(line_id: str, outcome: Reply | Failure, body: bytes = b"{}") -> ResultLine:
    return ResultLine(line_id=line_id, outcome=outcome, status=200, body=body)


def test_results_are_matched_with_the_requests_by_their_ids() -> None:
    reply, failure = Reply("hi", "stop", "stop"), Failure(kind="server_error", message="m")
    twice, broken = result("twice", reply), result("both", failure, b"[]")
    lines = [result("a", reply), twice, twice, broken, result("both", reply), result("other", reply)]
    matched = match_lines(["a", "twice", "both", "gone"], lines)

    assert {name: (line.outcome, line.note) for name, line in matched.found.items()} == {
        "a": (reply, None),
        "twice": (reply, None),
        "both": (reply, "another result with the same id was ignored"),
    }
    assert (matched.missing, matched.strays) == (("gone",), ("other",))


# --- plans -----------------------------------------------------------------------------------------------------------


@settings(max_examples=examples(60))
@given(sizes=st.lists(st.integers(1, 30), max_size=30), lines=st.integers(1, 5), size=st.integers(1, 40))
def test_lines_are_divided_over_jobs_that_hold_them(sizes: list[int], lines: int, size: int) -> None:
    parts = list(split_lines(sizes, JobLimits(lines=lines, size=size)))

    assert [at for part in parts for at in part] == list(range(len(sizes)))
    for part, after in itertools.zip_longest(parts, parts[1:]):
        total = sum(sizes[at] for at in part)
        assert 1 <= len(part) <= lines
        assert total <= size or len(part) == 1
        if after is not None:
            assert len(part) == lines or total + sizes[after[0]] > size, "as many as fit"


def test_a_line_id_tells_its_job_and_its_place() -> None:
    plan = plan_of("openai", "one", "two", plan="run-1-w2")

    assert plan.line_ids == ["run-1-w2-0", "run-1-w2-1"]
    assert [place_of(line_id, plan.name) for line_id in plan.line_ids] == [0, 1]
    assert [place_of(odd, plan.name) for odd in ("run-1-w2-01", "run-1-w2", "run-1-w3-0", "run-1-w2--1")] == [None] * 4


@each("name", NAMES)
def test_a_plan_that_cannot_be_a_job_is_refused(name: str) -> None:
    plan = plan_of(name, "hi")
    streamed = plan._replace(bodies=[{**plan.bodies[0], "stream": True}])

    for wrong, message in ((streamed, "cannot stream"), (plan._replace(name="run 1"), "1 to 50 of a-z")):
        with pytest.raises(CannotCarry, match=message):
            BATCH_APIS[name].begin(wrong)


def test_anthropic_takes_no_warm_up_in_a_batch() -> None:
    plan = plan_of("anthropic", "hi")
    with pytest.raises(CannotCarry, match="max_tokens 0"):
        BATCH_APIS["anthropic"].begin(plan._replace(bodies=[{**plan.bodies[0], "max_tokens": 0}]))


REQUESTS = {
    "openai": [
        ("upload", "POST /v1/files"),
        ("create", "POST /v1/batches"),
        ("find", "GET /v1/batches?limit=100"),
        ("poll", "GET /v1/batches/J"),
        ("results", "GET /v1/files/file-output-J/content"),
        ("cancel", "POST /v1/batches/J/cancel"),
    ],
    "anthropic": [
        ("create", "POST /v1/messages/batches"),
        ("find", "GET /v1/messages/batches?limit=100"),
        ("poll", "GET /v1/messages/batches/J"),
        ("results", "GET /v1/messages/batches/J/results"),
        ("cancel", "POST /v1/messages/batches/J/cancel"),
    ],
    "gemini": [
        ("upload", "POST /upload/v1beta/files"),
        ("upload", "POST /upload/v1beta/files?upload_id=F"),
        ("create", "POST /v1beta/models/sim-good:batchGenerateContent"),
        ("find", "GET /v1beta/batches?pageSize=100"),
        ("poll", "GET /v1beta/J"),
        ("results", "GET /v1beta/files/batch-F:download?alt=media"),
        ("cancel", "POST /v1beta/J:cancel"),
    ],
}


@each("name", [*NAMES])
def test_the_requests_of_a_job_are_exactly_these(name: str) -> None:
    talk = Talk(name)
    job_id = talk.made(plan_of(name, "hi"))
    talk.all_jobs()
    talk.now = END_S
    list(talk.lines(talk.poll(job_id)))
    talk.send(talk.api.cancel(talk.endpoint, job_id))
    file = job_id.removeprefix("batches/")

    expected = REQUESTS["openai" if name == "responses" else name]
    uploads = [call.url for call in talk.sent if "upload_id" in call.url]
    given_id = uploads[0].partition("upload_id=")[2] if uploads else ""
    found = [(call.step, f"{call.method} {call.url.removeprefix('http://any')}") for call in talk.sent]
    named = [
        (
            step,
            path.replace("upload_id=F", f"upload_id={given_id}")
            .replace("batch-F", f"batch-{file}")
            .replace("J", job_id),
        )
        for step, path in expected
    ]
    assert found == named
    assert [call.has_key for call in talk.sent if "upload_id" in call.url] == [False] * len(uploads)
    assert sum(call.step == "create" for call in talk.sent) == 1


def test_an_upload_goes_to_no_other_server() -> None:
    plan = plan_of("gemini", "hi")
    api = BATCH_APIS["gemini"]
    first = api.begin(plan)
    for url in ("http://evil/upload", "https://any/upload", "http://any.evil/upload", "//any/upload", ""):
        refused = api.proceed(plan, first, 200, {"x-goog-upload-url": url}, b"")
        assert isinstance(refused, Failure)
        assert refused.kind == "bad_response"


# --- whole jobs at the simulator -------------------------------------------------------------------------------------


@each("name", NAMES)
def test_a_job_gives_the_replies_of_single_requests(name: str) -> None:
    talk = Talk(name)
    texts = ["hi", "明天是几号", 'quote " and \\ and \U0001f600']
    plan = plan_of(name, *texts, temperature=0.5)
    job_id = talk.made(plan)
    phases = [talk.poll(job_id).phase]
    talk.now = END_S
    job = talk.poll(job_id)
    matched = match_lines(plan.line_ids, talk.lines(job))

    assert (phases, job.phase, job.done, job.total) == (["open"], "ended", 3, 3)
    assert job.name == (None if name == "anthropic" else "run1-w1")
    assert (matched.missing, matched.strays) == ((), ())
    for line_id, body in zip(plan.line_ids, plan.bodies, strict=True):
        reply, single = matched.found[line_id].outcome, talk.single(body, name)
        assert isinstance(reply, Reply)
        assert isinstance(single, Reply)
        assert reply.response_id == single.response_id
        assert reply._replace(service_tier=None) == single._replace(service_tier=None)
        assert (reply.service_tier == "batch") is (name == "anthropic")


@each("name", NAMES)
def test_a_signed_dialogue_goes_on_from_the_replies_of_jobs(name: str) -> None:
    """The simulated model refuses a turn that comes back without its signature, or with another."""
    talk = Talk(name)
    messages: tuple[Message, ...] = ()
    for wave in range(3):
        messages = (*messages, user(f"question {wave}"))
        ask = Ask(model="sim-signed", messages=messages, system="Be brief.")
        body = PROTOCOLS[name].build_request(ask, talk.endpoint).json
        plan = JobPlan(name=f"run1-w{wave}", model="sim-signed", bodies=[body], endpoint=talk.endpoint)
        job_id = talk.made(plan)
        talk.now += 200.0
        (line,) = talk.lines(talk.poll(job_id))
        assert isinstance(line.outcome, Reply), line.outcome
        assert str(line.outcome.text).startswith("[signed]")
        messages = (*messages, assistant(line.outcome.text or "", line.outcome.raw_turn))

    assert [entry.turn for entry in talk.provider.ledger.entries if entry.billed] == [1, 2, 3]


@each("name", NAMES)
def test_a_request_that_fails_in_a_job_fails_as_it_does_by_itself(name: str) -> None:
    talk = Talk(name, {"match": {"contains": "busy"}, "action": "error", "kind": "overloaded"})
    plan = plan_of(name, "fine", "busy")
    job_id = talk.made(plan)
    talk.now = END_S
    matched = match_lines(plan.line_ids, talk.lines(talk.poll(job_id)))
    fine, busy = (matched.found[line_id] for line_id in plan.line_ids)
    single = talk.single(plan.bodies[1], name)

    assert isinstance(fine.outcome, Reply)
    assert isinstance(busy.outcome, Failure)
    assert isinstance(single, Failure)
    assert (busy.outcome.kind, busy.outcome.retryable) == (single.kind, single.retryable)
    assert busy.is_free is (name == "anthropic")


@each("name", NAMES)
def test_a_job_whose_creation_was_not_answered_is_found_again(name: str) -> None:
    talk = Talk(name, {"match": {"operation": "create", "nth": 2}, "action": "reset", "when": "billed"})
    talk.made(plan_of(name, "one", "two", plan="run1-w1"))
    lost = plan_of(name, "three", plan="run1-w2")
    answer = talk.make(lost)
    found = [job for job in talk.all_jobs() if job.name == lost.name or (job.name is None and job.total == 1)]
    talk.now = END_S
    (job,) = found
    matched = match_lines(lost.line_ids, talk.lines(talk.poll(job.job_id)))

    assert answer is None
    assert job.created_at == 0.0
    assert (list(matched.found), matched.strays) == (lost.line_ids, ()), "the ids of its lines prove it"


def described(name: str, number: int) -> dict[str, Any]:
    """Return the description of a job, as short as it can be."""
    if name == "gemini":
        return {"name": f"batches/{number}", "metadata": {"state": "BATCH_STATE_PENDING"}}
    status = {"processing_status": "in_progress"} if name == "anthropic" else {"status": "in_progress"}
    return {"id": f"job-{number}", **status}


@each("name", NAMES)
def test_a_list_of_many_jobs_is_read_page_by_page(name: str) -> None:
    api, jobs = BATCH_APIS[name], [described(name, number) for number in range(2)]
    is_googles = name == "gemini"
    first = {"operations": jobs, "nextPageToken": "2"} if is_googles else {"data": jobs, "has_more": True}
    last: dict[str, Any] = {} if is_googles else {"data": [], "has_more": True}
    page, end = api.read_page(json.dumps(first).encode()), api.read_page(json.dumps(last).encode())
    cursor = {"gemini": "pageToken=2", "anthropic": "after_id=job-1"}.get(name, "after=job-1")

    assert [job.phase for job in page.jobs] == ["open", "open"]
    assert (end.jobs, end.next_page) == ((), None)
    assert api.find(endpoint_of(name), page.next_page).url.endswith(cursor)


@each(
    ("kind", "phases", "is_paid"),
    [
        ("fail", {"openai": "failed", "anthropic": "ended", "gemini": "failed"}, {"gemini": False}),
        ("expire", {"openai": "ended", "anthropic": "ended", "gemini": "failed"}, {"gemini": True}),
        ("cancel", {"openai": "ended", "anthropic": "ended", "gemini": "failed"}, {"gemini": True}),
        ("lose", {"openai": "ended", "anthropic": "failed", "gemini": "ended"}, {"anthropic": True}),
    ],
)
def test_a_job_that_ends_badly_says_what_may_be_paid(
    kind: str, phases: dict[str, str], is_paid: dict[str, bool]
) -> None:
    for name, phase in phases.items():
        talk = Talk(name, {"action": "job", "kind": kind})
        plan = plan_of(name, *(f"text {n}" for n in range(4)))
        job_id = talk.made(plan)
        talk.now = END_S
        job = talk.poll(job_id)
        lines = match_lines(plan.line_ids, talk.lines(job))

        assert (job.phase, job.may_be_paid) == (phase, is_paid.get(name, False)), name
        assert (job.failure is None) is (phase == "ended")
        ends = [line.outcome for line in lines.found.values()]
        if kind in ("expire", "cancel") and phase == "ended":
            assert sorted(isinstance(end, Reply) for end in ends) == [False, False, True, True]
        elif kind == "lose" or phase == "failed":
            assert lines.missing == tuple(plan.line_ids)


def test_what_is_wrong_with_a_job_is_told() -> None:
    talk = Talk("openai", job_limits=ServerJobLimits(enqueued_tokens=1))
    job_id = talk.made(plan_of("openai", "hi"))
    talk.now = 20.0
    full = talk.poll(job_id).failure
    plan = plan_of("openai", "hi", "ho")
    mixed = plan._replace(bodies=[plan.bodies[0], {**plan.bodies[1], "model": "sim-echo"}])
    wrong = Talk("openai")
    job_id = wrong.made(mixed)
    wrong.now = 20.0
    refused = wrong.poll(job_id).failure

    assert full is not None
    assert (full.kind, full.code, full.retryable) == ("rate_limit", "token_limit_exceeded", True)
    assert refused is not None
    assert (refused.kind, refused.retryable) == ("invalid_request", False)
    assert "(line 2 of the input)" in refused.message


@each(
    ("name", "rule", "kind"),
    [
        ("openai", {"match": {"operation": "create"}, "action": "rate-limit"}, "rate_limit"),
        ("gemini", {"match": {"operation": "create"}, "action": "rate-limit"}, "rate_limit"),
        ("anthropic", {"match": {"operation": "create"}, "action": "error", "kind": "no_balance"}, "quota"),
        ("openai", {"match": {"operation": "upload"}, "action": "error", "kind": "bad_key"}, "auth"),
        ("gemini", {"match": {"operation": "upload", "nth": 2}, "action": "error"}, "server_error"),
        ("anthropic", {"match": {"operation": "create"}, "action": "broken", "kind": "cut-json"}, "bad_response"),
        ("openai", {"match": {"operation": "upload"}, "action": "broken", "kind": "empty-object"}, "bad_response"),
    ],
)
def test_a_refused_creation_is_a_failure_like_any_other(name: str, rule: dict[str, Any], kind: str) -> None:
    refused = Talk(name, rule).make(plan_of(name, "hi"))

    assert isinstance(refused, Failure)
    assert refused.kind == kind


def test_a_cancelled_job_is_polled_until_it_has_ended() -> None:
    for name in NAMES:
        talk = Talk(name)
        plan = plan_of(name, *(f"text {n}" for n in range(4)))
        job_id = talk.made(plan)
        talk.now = 60.0
        assert talk.send(talk.api.cancel(talk.endpoint, job_id))[0] == 200
        assert talk.poll(job_id).phase == "open"
        talk.now = 65.0
        job = talk.poll(job_id)
        ends = [line.outcome for line in match_lines(plan.line_ids, talk.lines(job)).found.values()]
        assert (job.phase, len(ends)) == (("failed", 0) if name == "gemini" else ("ended", 4))


def test_other_words_for_the_states_of_google_are_read_alike() -> None:
    api = BATCH_APIS["gemini"]
    output = {"responsesFile": "files/f"}
    done = {"name": "batches/b", "metadata": {"state": "JOB_STATE_PARTIALLY_SUCCEEDED", "outputInfo": output}}
    ended = api.read_job(json.dumps(done).encode())
    queued = api.read_job(json.dumps({"name": "batches/b", "metadata": {"state": "JOB_STATE_QUEUED"}}).encode())

    assert (ended.phase, ended.results, queued.phase) == ("ended", ("files/f",), "open")


# --- background responses --------------------------------------------------------------------------------------------


def test_a_background_response_is_read_as_the_same_response_at_once() -> None:
    talk = Talk("responses")
    body = built("responses", "hi", temperature=0.5)
    status, headers, content = talk.send(create_background(body, talk.endpoint, "2h"))
    queued = read_background(status or 0, headers, content)
    assert isinstance(queued, Pending)
    talk.now = 60.0
    open_ = read_background(200, {}, talk.send(poll_background(talk.endpoint, queued.response_id))[2])
    talk.now = END_S
    done = read_background(200, {}, talk.send(poll_background(talk.endpoint, queued.response_id))[2])
    single = talk.single({**body, "store": True}, "responses")

    assert open_ == Pending(queued.response_id, "in_progress")
    assert isinstance(done, Answer)
    assert isinstance(done.outcome, Reply)
    assert isinstance(single, Reply)
    assert done.outcome.response_id == queued.response_id
    assert (done.outcome.text, done.outcome.usage) == (single.text, single.usage)
    (billed,) = (entry for entry in talk.provider.ledger.entries if entry.billed and entry.batch)
    assert (billed.price, billed.delivered) == (0.5, True)


def test_a_background_response_that_is_cancelled_or_fails_is_a_failure() -> None:
    talk = Talk("responses", {"match": {"operation": "create", "nth": 2}, "action": "job", "kind": "stall"})
    pending: list[Pending] = []
    for _ in range(2):
        created = talk.send(create_background(built("responses", "hi"), talk.endpoint, "8h"))
        queued = read_background(created[0] or 0, created[1], created[2])
        assert isinstance(queued, Pending)
        pending.append(queued)
    cancelled = read_background(200, {}, talk.send(cancel_background(talk.endpoint, pending[0].response_id))[2])
    talk.now = END_S
    failed = read_background(200, {}, talk.send(poll_background(talk.endpoint, pending[1].response_id))[2])
    status, headers, content = talk.send(poll_background(talk.endpoint, "resp_gone"))
    gone = read_background(status or 0, headers, content)

    kinds = [
        answer.outcome.kind
        for answer in (cancelled, failed, gone)
        if isinstance(answer, Answer) and isinstance(answer.outcome, Failure)
    ]
    assert kinds == ["connection", "server_error", "invalid_request"]


@each(
    ("change", "message"),
    [({"stream": True}, "cannot be streamed"), ({"service_tier": "flex"}, "has the default tier")],
)
def test_a_window_excludes_streams_and_other_tiers(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CannotCarry, match=message):
        create_background({**built("responses", "hi"), **change}, endpoint_of("responses"), "8h")
