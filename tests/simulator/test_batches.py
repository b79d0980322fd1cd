"""The simulator's batch APIs, in process and in virtual time: how jobs run, end, are billed and are refused."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convbatch.simulator import FaultError, FaultScript, JobLimits, JobTimes, Provider, Request, Script
from convbatch.simulator.fault_script import JOB_KINDS, LINE_KINDS
from tests.simulator.batch_clients import (
    END_S,
    JOB_KEY,
    AnthropicClient,
    Batches,
    Client,
    GeminiClient,
    OpenAIClient,
    json_lines,
    names,
)
from tests.support.tables import each

TIMES = JobTimes(validate_s=10, run_s=100, finish_s=10, cancel_s=5)
Make = Callable[[Provider], Batches]
MAKES: dict[str, Make] = {
    "openai": OpenAIClient,
    "anthropic": AnthropicClient,
    "gemini inline": GeminiClient,
    "gemini file": lambda provider: GeminiClient(provider, in_file=True),
}
TEXTS = [f"text {n}" for n in range(8)]
FEW = TEXTS[:4]
COURSES = {
    "openai": ["validating", "in_progress", "finalizing", "completed"],
    "anthropic": ["in_progress", "in_progress", "in_progress", "ended"],
    "gemini inline": ["PENDING", "RUNNING", "RUNNING", "SUCCEEDED"],
    "gemini file": ["PENDING", "RUNNING", "RUNNING", "SUCCEEDED"],
}


def provider_of(*rules: dict[str, Any], times: JobTimes = TIMES, **options: Any) -> Provider:
    return Provider(faults=FaultScript.of(rules), job_times=times, **options)


def billed(provider: Provider) -> list[Any]:
    return [entry for entry in provider.ledger.entries if entry.billed]


@each("name", MAKES)
def test_a_job_runs_through_its_states_and_is_billed_at_half_the_price(name: str) -> None:
    client = MAKES[name](provider_of())
    job = client.created(TEXTS)
    states: list[str] = []
    for client.now in (0.0, 60.0, 115.0, 120.0):
        states.append(client.state(job))

    assert states == COURSES[name]
    assert client.ends(job) == {line: ["ok"] for line in names(TEXTS)}
    entries = billed(client.provider)
    assert [(entry.operation, entry.batch, entry.price) for entry in entries] == [("generate", job, 0.5)] * 8
    assert [entry.delivered for entry in entries] == [True] * 8, "the results have been fetched"
    assert client.listed() == [job]
    made_at = [entry.arrived_at for entry in entries]
    assert made_at == sorted(made_at)
    assert 10 < made_at[0] < made_at[-1] == 110, "lines are made one after another, while nobody looks"


@each("name", MAKES)
def test_the_reply_of_a_line_is_that_of_the_same_request_by_itself(name: str) -> None:
    """Only the tier of Anthropic's usage differs."""
    client = MAKES[name](Provider(job_times=TIMES, script=Script.of([{"turns": [{"user": "hi", "assistant": "ho"}]}])))
    job = client.created(["hi"], **({"generationConfig": {"seed": 1}} if "gemini" in name else {}))
    client.now = END_S
    if isinstance(client, OpenAIClient):
        (line,) = client.lines(job)
        whole = client.send("POST", "/v1/chat/completions", client.line("", "hi")["body"])
        assert line["response"]["body"] == json.loads(whole.content)
    elif isinstance(client, AnthropicClient):
        (line,) = json_lines(client.send("GET", f"/v1/messages/batches/{job}/results").content)
        whole = json.loads(client.send("POST", "/v1/messages", client.line("", "hi")["params"]).content)
        whole["usage"]["service_tier"] = "batch"
        assert line["result"]["message"] == whole
    elif isinstance(client, GeminiClient):
        ((_, result),) = client.results(job)
        body = {"contents": [{"parts": [{"text": "hi"}]}], "generationConfig": {"seed": 1}}
        whole = client.send("POST", "/v1beta/models/sim-good:generateContent", body)
        assert result["response"] == json.loads(whole.content)


def test_results_of_openai_and_anthropic_are_not_in_the_order_of_the_input() -> None:
    for make in (OpenAIClient, AnthropicClient):
        client: Batches = make(provider_of())
        job = client.created(TEXTS)
        client.now = END_S
        found = list(client.ends(job))
        assert found != names(TEXTS)
        assert sorted(found) == names(TEXTS)


@each("name", MAKES)
def test_a_wrong_request_fails_alone(name: str) -> None:
    wrong = {"generationConfig": {"temperature": 9}} if "gemini" in name else {"temperature": 9}
    client = MAKES[name](provider_of())
    job = client.created(["one"], **wrong)
    client.now = END_S

    assert client.state(job) in {"completed", "ended", "SUCCEEDED"}
    assert client.ends(job) == {"line-0": ["error"]}
    assert billed(client.provider) == []


EXPIRED = {"openai": "expired", "anthropic": "ended", "gemini inline": "EXPIRED", "gemini file": "EXPIRED"}


@each("name", MAKES)
def test_a_job_that_misses_its_window_expires(name: str) -> None:
    """What was made by then is billed; Gemini does not deliver it."""
    client = MAKES[name](provider_of(times=JobTimes(validate_s=10, run_s=100, window_s=60)))
    job = client.created(TEXTS)
    client.now = 60.0

    assert client.state(job) == EXPIRED[name]
    ends = [end for line in client.ends(job).values() for end in line]
    assert len(billed(client.provider)) == 4
    assert sorted(ends) == ([] if "gemini" in name else ["expired"] * 4 + ["ok"] * 4)


@each("name", MAKES)
def test_a_cancelled_job_delivers_what_was_made_unless_it_is_geminis(name: str) -> None:
    client = MAKES[name](provider_of())
    job = client.created(TEXTS)
    client.now = 60.0
    assert client.cancel(job).status == 200
    assert client.cancel(job).status == 200, "twice is as good as once"
    assert client.state(job) in {"cancelling", "canceling", "RUNNING"}
    client.now = 65.0

    assert client.state(job) in {"cancelled", "ended", "CANCELLED"}
    made = len(billed(client.provider))
    assert made == 4
    ends = sorted(end for line in client.ends(job).values() for end in line)
    assert ends == ([] if "gemini" in name else ["cancelled"] * 4 + ["ok"] * 4)
    client.now = END_S
    assert len(billed(client.provider)) == made


def test_a_job_of_google_that_is_cancelled_too_late_succeeds() -> None:
    client = GeminiClient(provider_of())
    job = client.created(TEXTS)
    client.now = 108.0
    client.cancel(job)
    client.now = 113.0

    assert client.state(job) == "SUCCEEDED"
    assert client.ends(job) == {line: ["ok"] for line in names(TEXTS)}


@each("name", MAKES)
def test_a_reply_is_delivered_when_the_results_have_arrived_whole(name: str) -> None:
    operation = "poll" if name == "gemini inline" else "results"
    rule = {"match": {"operation": operation, "count": 1, "after_s": 500}, "action": "truncate"}
    client = MAKES[name](provider_of(rule))
    job = client.created(FEW)
    client.now = 1000.0
    with contextlib.suppress(json.JSONDecodeError):
        client.ends(job)
    before = [entry.delivered for entry in billed(client.provider)]
    client.ends(job)

    assert (before, [entry.delivered for entry in billed(client.provider)]) == ([None] * 4, [True] * 4)
    assert client.provider.in_flight == 0


def test_a_job_that_has_ended_cannot_be_cancelled_except_at_google() -> None:
    statuses: dict[str, int | None] = {}
    for name, make in MAKES.items():
        client = make(provider_of())
        job = client.created(TEXTS)
        client.now = END_S
        statuses[name] = client.cancel(job).status
        assert client.state(job) in {"completed", "ended", "SUCCEEDED"}

    assert statuses == {"openai": 400, "anthropic": 400, "gemini inline": 200, "gemini file": 200}


@each("name", MAKES)
def test_a_job_belongs_to_its_key(name: str) -> None:
    client = MAKES[name](provider_of())
    job = client.created(["hi"])
    other = type(client)(client.provider, key="k-other-0001")  # pyright: ignore[reportCallIssue]  # every client takes a key

    assert isinstance(other, Client)
    assert other.cancel(job).status == 404
    assert other.listed() == []
    assert client.cancel(job).status == 200


@each("name", MAKES)
def test_the_same_creation_twice_makes_two_jobs(name: str) -> None:
    client = MAKES[name](provider_of())
    first, second = client.created(TEXTS), client.created(TEXTS)
    client.now = END_S
    client.state(first)
    client.state(second)

    assert first != second
    assert client.listed() == [second, first]
    assert len(billed(client.provider)) == 16


UPLOADS = {"openai": ("POST", "/v1/files"), "gemini file": ("POST", "/upload/v1beta/files")}


@each("name", MAKES)
def test_a_wrong_key_is_refused_and_makes_no_job(name: str) -> None:
    provider = provider_of()
    client = MAKES[name](provider)
    provider.revoke(JOB_KEY)
    if name in ("openai", "gemini file"):  # their first request is an upload
        assert client.send(*UPLOADS[name]).status in {400, 401}
    else:
        assert client.create(FEW).status in {400, 401}
    assert provider.batches.store.jobs.of_key(JOB_KEY) == []


# --- refusals of a whole job -----------------------------------------------------------------------------------------


def openai_lines(*lines: dict[str, Any] | bytes) -> bytes:
    return b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)


GOOD_LINE = OpenAIClient(Provider()).line("a", "hi")
PROBLEMS: dict[str, tuple[bytes, str, int | None]] = {
    "empty": (b"\n", "empty_file", None),
    "no JSON": (openai_lines(GOOD_LINE, b"{"), "invalid_json_line", 2),
    "twice": (openai_lines(GOOD_LINE, GOOD_LINE), "duplicate_custom_id", 2),
    "no id": (openai_lines({**GOOD_LINE, "custom_id": ""}), "missing_required_parameter", 1),
    "GET": (openai_lines({**GOOD_LINE, "method": "GET"}), "invalid_method", 1),
    "other URL": (openai_lines({**GOOD_LINE, "url": "/v1/responses"}), "url_mismatch", 1),
    "two models": (
        openai_lines(GOOD_LINE, {**GOOD_LINE, "custom_id": "b", "body": {"model": "sim-echo"}}),
        "model_mismatch",
        2,
    ),
    "too many": (openai_lines(*({**GOOD_LINE, "custom_id": f"{n}"} for n in range(4))), "too_many_tasks", None),
}


@each("name", PROBLEMS)
def test_a_wrong_input_file_fails_the_batch_after_its_creation(name: str) -> None:
    content, code, line = PROBLEMS[name]
    client = OpenAIClient(provider_of(job_limits=JobLimits(lines=3)))
    answer = client.create_from(content)
    job = json.loads(answer.content)
    client.now = 10.0
    failed = client.get(f"/v1/batches/{job['id']}")

    assert (answer.status, job["status"], failed["status"]) == (200, "validating", "failed")
    assert [(problem["code"], problem["line"]) for problem in failed["errors"]["data"]] == [(code, line)]
    assert (failed["output_file_id"], failed["error_file_id"], billed(client.provider)) == (None, None, [])


@each(
    ("fields", "message"),
    [
        ({"completion_window": "2h"}, "Value must be '24h'"),
        ({"endpoint": "/v1/embedding"}, "Supported values are"),
        ({"metadata": {"a": 1}}, "Invalid 'metadata.a'"),
        ({"metadata": {f"{n}": "" for n in range(17)}}, "at most 16 pairs"),
        ({"displayName": "d"}, "Unknown parameter: 'displayName'"),
        ({"input_file_id": "file-nope"}, "No such File object: file-nope"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "expires_after"),
    ],
)
def test_openai_refuses_a_wrong_creation_at_once(fields: dict[str, Any], message: str) -> None:
    client = OpenAIClient(provider_of())
    answer = client.create_from(openai_lines(GOOD_LINE), **fields)
    if "output_expires_after" in fields:  # seen when the files are written
        client.now = END_S
        answer = client.send("GET", f"/v1/batches/{json.loads(answer.content)['id']}")

    assert answer.status in {400, 404}
    assert message in answer.content.decode()


def test_enqueued_tokens_are_limited_per_model() -> None:
    limits = JobLimits(enqueued_tokens=20)
    openai, gemini = OpenAIClient(provider_of(job_limits=limits)), GeminiClient(provider_of(job_limits=limits))
    first, second = openai.created(["x" * 40]), openai.created(["x" * 40])
    openai.now = 10.0
    problems = openai.get(f"/v1/batches/{second}")["errors"]["data"]
    statuses = [gemini.create(["x" * 40]).status for _ in range(2)]
    gemini.now = openai.now = END_S

    assert (openai.state(first), problems[0]["code"]) == ("completed", "token_limit_exceeded")
    assert openai.state(openai.created(["x" * 40])) == "validating"
    assert [*statuses, gemini.create(["x" * 40]).status] == [200, 429, 200]


def test_google_limits_the_jobs_at_once_and_the_size_of_inline_requests() -> None:
    client = GeminiClient(provider_of(job_limits=JobLimits(jobs=2, size=1000)))

    assert [client.create(["hi"]).status for _ in range(3)] == [200, 200, 429]
    assert client.create(["x" * 1000]).status == 400


@each(
    ("change", "message"),
    [
        ({"custom_id": "a b"}, "should match pattern"),
        ({"custom_id": "a" * 65}, "should match pattern"),
        ({"custom_id": None}, "requests.1.custom_id: Field required"),
        ({"params": None}, "requests.1.params: Field required"),
        ({"custom_id": "one"}, "Duplicate custom_id 'one'"),
        ({"key": 1}, "Extra inputs are not permitted"),
    ],
)
def test_anthropic_refuses_a_wrong_batch_at_once(change: dict[str, Any], message: str) -> None:
    client = AnthropicClient(provider_of())
    requests = [client.line("one", "hi"), {**client.line("two", "hi"), **change}]
    answer = client.send("POST", "/v1/messages/batches", {"requests": requests})

    assert answer.status == 400
    assert message in answer.content.decode()
    assert client.listed() == []


def test_anthropic_gives_no_counts_and_no_results_before_the_end() -> None:
    client = AnthropicClient(provider_of())
    job = client.created(TEXTS)
    client.now = 100.0
    running = client.get(f"/v1/messages/batches/{job}")
    results = client.send("GET", f"/v1/messages/batches/{job}/results")
    deleted = client.send("DELETE", f"/v1/messages/batches/{job}")

    assert running["request_counts"] == {"processing": 8, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}
    assert (running["results_url"], results.status, deleted.status) == (None, 400, 400)
    client.now = 29 * 86_400.0 + 200
    assert client.get(f"/v1/messages/batches/{job}")["archived_at"] is not None
    assert client.send("GET", f"/v1/messages/batches/{job}/results").status == 404
    assert client.send("DELETE", f"/v1/messages/batches/{job}").status == 200


@each(
    ("batch", "message"),
    [
        ({"displayName": "d"}, "Exactly one of requests and file_name"),
        ({"inputConfig": {"requests": {"requests": []}}}, "no requests"),
        ({"inputConfig": {"fileName": "files/nope"}}, "was not found"),
        ({"inputConfig": {"requests": {"requests": [{"key": "a", "request": {}}]}}}, 'Unknown name \\"key\\"'),
        ({"input_config": {"requests": {"requests": [{"metadata": {}}]}}}, "request is not specified"),
        ({"metadata": {"run": "r"}}, 'Unknown name \\"metadata\\"'),
    ],
)
def test_google_refuses_a_wrong_batch_at_once(batch: dict[str, Any], message: str) -> None:
    client = GeminiClient(provider_of())
    answer = client.create_from(batch)

    assert answer.status in {400, 404}
    assert message in answer.content.decode()
    assert client.listed() == []


def test_an_unreadable_line_fails_googles_whole_batch() -> None:
    client = GeminiClient(provider_of())
    file = client.upload(b'{"key": "a", "request": {"contents": []}}\n{"key":')
    job = json.loads(client.create_from({"inputConfig": {"fileName": file}}).content)["name"]
    client.now = END_S
    operation = client.get(f"/v1beta/{job}")

    assert (client.state(job), operation["done"], operation["error"]["code"]) == ("FAILED", True, 3)


# --- faults ----------------------------------------------------------------------------------------------------------


@each("name", MAKES)
def test_a_job_is_made_although_the_answer_to_its_creation_is_lost(name: str) -> None:
    rule = {"match": {"operation": "create", "nth": 1}, "action": "reset", "when": "billed"}
    client = MAKES[name](provider_of(rule))
    answer = client.create(TEXTS)
    (job,) = client.listed()
    client.now = END_S

    assert (answer.status, answer.ending) == (None, "reset")
    assert client.ends(job) == {line: ["ok"] for line in names(TEXTS)}
    (created,) = (entry for entry in client.provider.ledger.entries if entry.operation == "create")
    assert (created.batch, created.billed, created.delivered) == (job, False, False)


@each(
    ("rule", "listed"),
    [
        ({"action": "reset"}, 0),
        ({"action": "error", "kind": "internal"}, 0),
        ({"action": "error", "kind": "internal", "billed": True}, 1),
        ({"action": "rate-limit"}, 0),
        ({"action": "broken", "kind": "html"}, 1),
        ({"action": "truncate"}, 1),
    ],
)
def test_a_creation_fails_with_or_without_making_the_job(rule: dict[str, Any], listed: int) -> None:
    for make in MAKES.values():
        client = make(provider_of({"match": {"operation": "create"}, **rule}))
        client.create(["hi"])
        assert len(client.listed()) == listed


KIND_STATES = {
    "expire": ("expired", "ended", "EXPIRED"),
    "cancel": ("cancelled", "ended", "CANCELLED"),
    "fail": ("failed", "ended", "FAILED"),
    "stall": ("expired", "ended", "EXPIRED"),
    "lose": ("completed", "ended", "SUCCEEDED"),
}
KIND_BILLS = {"expire": 1, "cancel": 1, "fail": 0, "stall": 0, "lose": 4, "vanish": 4}


@each("kind", JOB_KINDS)
def test_a_rule_says_how_a_job_ends(kind: str) -> None:
    for name, make in MAKES.items():
        rule = {"match": {"model": "sim-*"}, "action": "job", "kind": kind, "share": 0.25}
        client = make(provider_of(rule))
        job = client.created(FEW)
        client.now = END_S
        client.provider.advance(END_S)

        assert len(billed(client.provider)) == KIND_BILLS[kind]
        if kind == "vanish":
            assert client.listed() == []
            assert client.cancel(job).status == 404
            continue
        assert client.state(job) in KIND_STATES[kind]
        has_none = kind == "lose" or name.startswith("gemini") or (kind, name) == ("fail", "openai")
        assert len(client.ends(job)) == (0 if has_none else 4)


LINE_ENDS = {
    "expired": ["expired"], "cancelled": ["cancelled"], "missing": [], "twice": ["ok", "ok"], "stray": ["ok"],
}  # fmt: skip


@each("kind", LINE_KINDS)
def test_a_rule_says_what_becomes_of_a_line(kind: str) -> None:
    for name, make in MAKES.items():
        client = make(provider_of({"match": {"contains": "text 3"}, "action": "line", "kind": kind}))
        job = client.created(FEW)
        client.now = END_S
        client.provider.advance(END_S)
        assert len(billed(client.provider)) == (3 if kind in ("expired", "cancelled") else 4)
        if kind == "garbled":
            if name != "gemini inline":
                with pytest.raises(json.JSONDecodeError):
                    client.ends(job)
            continue
        ends = client.ends(job)
        assert ends.pop("line-3", []) == LINE_ENDS[kind]
        assert ends.pop("stray-line-3", None) == (["ok"] if kind == "stray" else None)
        assert len(ends) == 3


@each(
    ("rule", "end"),
    [
        ({"action": "error", "kind": "overloaded"}, "error"),
        ({"action": "rate-limit"}, "error"),
        ({"action": "usage", "kind": "nan"}, "ok"),
        ({"action": "reply", "kind": "empty"}, "ok"),
        ({"action": "reset"}, "ok"),
    ],
)
def test_rules_for_requests_apply_to_lines_unless_they_need_a_connection(rule: dict[str, Any], end: str) -> None:
    for make in MAKES.values():
        client = make(provider_of({"match": {"contains": "text 3"}, **rule}))
        job = client.created(FEW)
        client.now = END_S
        assert client.ends(job) == {line: [end if line == "line-3" else "ok"] for line in names(FEW)}


@each(
    ("rule", "message"),
    [
        ({"action": "reset", "match": {"operation": "line"}}, "not possible for the operation 'line'"),
        ({"action": "cheat", "match": {"operation": "poll"}, "name": "x"}, "not possible for the operation 'poll'"),
        ({"action": "line", "match": {"operation": "generate"}}, "not possible for the operation 'generate'"),
        ({"action": "job", "match": {"turn": 1}}, "for generation requests only"),
        ({"action": "error", "match": {"operation": "results", "contains": "x"}}, "for generation requests only"),
        ({"action": "error", "match": {"operation": "fetch"}}, "expected one of: generate, line, create"),
        ({"action": "job", "kind": "explode"}, "expected one of: expire, cancel"),
        ({"action": "job", "share": 2}, "a share from 0 to 1"),
    ],
)
def test_a_rule_that_never_could_apply_is_refused(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(FaultError, match=message):
        FaultScript.of([rule])


# --- background responses --------------------------------------------------------------------------------------------


def background(client: OpenAIClient, **fields: Any) -> Any:
    body = {"model": "sim-good", "input": "hi", "background": True, **fields}
    return json.loads(client.send("POST", "/v1/responses", body).content)


def discounted(window: str = "2h") -> dict[str, Any]:
    return {"background_options": {"completion_window": window}}


def test_a_background_response_is_made_later_and_its_window_decides_the_price() -> None:
    client = OpenAIClient(provider_of())
    soon, later = background(client), background(client, **discounted())
    states: list[str] = []
    for client.now in (0.0, 60.0, 120.0):
        states.append(client.get(f"/v1/responses/{later['id']}")["status"])
    done = client.get(f"/v1/responses/{soon['id']}")
    whole = json.loads(client.send("POST", "/v1/responses", {"model": "sim-good", "input": "hi"}).content)

    assert states == ["queued", "in_progress", "completed"]
    assert [item["content"] for item in done["output"]] == [item["content"] for item in whole["output"]]
    assert done["usage"] == whole["usage"]
    prices = {entry.batch: (entry.price, entry.delivered) for entry in billed(client.provider)}
    assert prices == {soon["id"]: (1.0, True), later["id"]: (0.5, True), None: (1.0, True)}


def test_a_background_response_can_be_continued_and_is_kept_only_if_stored() -> None:
    client = OpenAIClient(provider_of())
    first = background(client, store=True)
    client.now = 120.0
    second = background(client, previous_response_id=first["id"])
    client.now = 300.0
    done = client.get(f"/v1/responses/{second['id']}")
    client.now = 10_000.0

    assert (done["status"], done["previous_response_id"]) == ("completed", first["id"])
    assert client.provider.ledger.entries[-2].turn == 2
    assert client.send("GET", f"/v1/responses/{first['id']}").status == 200
    assert client.send("GET", f"/v1/responses/{second['id']}").status == 404, "paid, and no longer there"


def test_cancelling_a_background_response_is_idempotent() -> None:
    client = OpenAIClient(provider_of())
    first, second = background(client), background(client)
    foreground = json.loads(client.send("POST", "/v1/responses", {"model": "sim-good", "input": "hi"}).content)["id"]
    cancelled = [json.loads(client.send("POST", f"/v1/responses/{first['id']}/cancel").content) for _ in range(2)]
    refused = client.send("POST", f"/v1/responses/{foreground}/cancel")
    client.now = 200.0
    done = json.loads(client.send("POST", f"/v1/responses/{second['id']}/cancel").content)

    assert [response["status"] for response in (*cancelled, done)] == ["cancelled", "cancelled", "completed"]
    assert (refused.status, b"synchronous" in refused.content) == (400, True)
    assert client.get(f"/v1/responses/{first['id']}")["status"] == "cancelled"
    assert [entry.batch for entry in billed(client.provider)] == [None, second["id"]]


@each(
    ("rule", "status"),
    [
        ({"action": "job", "kind": "stall"}, "failed"),
        ({"action": "job", "kind": "cancel", "share": 0.5}, "cancelled"),
        ({"match": {"operation": "line"}, "action": "error"}, "failed"),
        ({"match": {"operation": "line"}, "action": "reply", "kind": "length"}, "incomplete"),
    ],
)
def test_a_background_response_ends_as_a_rule_says(rule: dict[str, Any], status: str) -> None:
    client = OpenAIClient(provider_of(rule))
    response = background(client, store=True, **discounted("8h"))
    client.now = END_S

    assert client.get(f"/v1/responses/{response['id']}")["status"] == status


@each(
    ("fields", "message"),
    [
        (discounted("24h"), "Supported values are: 'soonest', '2h', and '8h'"),
        ({**discounted(), "background": False}, "requires 'background' to be true"),
        ({**discounted(), "service_tier": "flex"}, "requires the default service tier"),
        ({"stream": True}, "cannot be streamed"),
        ({"temperature": 9}, "Invalid value for 'temperature'"),
    ],
)
def test_a_wrong_background_request_is_refused_at_once(fields: dict[str, Any], message: str) -> None:
    client = OpenAIClient(provider_of())

    assert message in background(client, **fields)["error"]["message"]
    assert billed(client.provider) == []


# --- laws ------------------------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(
    name=st.sampled_from(sorted(MAKES)),
    lines=st.integers(1, 12),
    cancel_at=st.none() | st.floats(0, 200),
    window_s=st.floats(1, 300),
    looks=st.lists(st.floats(0, 400), max_size=4),
)
def test_every_line_ends_once_and_only_replies_are_billed(
    name: str, lines: int, cancel_at: float | None, window_s: float, looks: list[float]
) -> None:
    times = JobTimes(validate_s=10, run_s=100, finish_s=10, cancel_s=5, window_s=window_s)
    client = MAKES[name](provider_of(times=times))
    texts = [f"text {n}" for n in range(lines)]
    job = client.created(texts)
    moments: list[float] = [*looks, *([] if cancel_at is None else [cancel_at])]
    for client.now in sorted(moments):
        client.state(job)
        if client.now == cancel_at:
            client.cancel(job)
    client.now = END_S
    ends = client.ends(job)
    paid = billed(client.provider)

    assert len({entry.history_sha for entry in paid}) == len(paid) <= lines, "no line is made twice"
    stopped = client.state(job) in {"EXPIRED", "CANCELLED"}
    assert sorted(ends) == ([] if stopped else sorted(names(texts)))
    assert all(len(end) == 1 for end in ends.values())
    replies = sum(end == ["ok"] for end in ends.values())
    assert replies == (0 if stopped else len(paid))
    assert sum(bool(entry.delivered) for entry in paid) == replies


def test_polling_more_often_changes_nothing() -> None:
    ledgers: list[list[Any]] = []
    for step in (5.0, 50.0):
        client = OpenAIClient(provider_of())
        job = client.created(TEXTS)
        while client.now < 200:
            client.now += step
            client.state(job)
        ledgers.append([(entry.arrived_at, entry.history_sha) for entry in billed(client.provider)])

    assert ledgers[0] == ledgers[1]


def test_an_unknown_path_of_batches_is_not_found_behind_a_gateway() -> None:
    provider = Provider(gateway="new-api")
    answer = provider.handle(Request.of("GET", "http://any/v1/batches", {"authorization": "k"}), 0.0)

    assert answer.status == 404


def test_a_server_of_responses_alone_has_batches_too() -> None:
    for wires, status in ((("responses",), 200), (("anthropic",), 404)):
        provider = Provider(wires=wires)
        answer = provider.handle(Request.of("GET", "http://any/v1/batches", {"authorization": "k"}), 0.0)
        assert answer.status == status
