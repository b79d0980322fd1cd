"""Faults of networks, servers and clocks and how a run handles each: in virtual time, against the ledger.

`tests/support/faults.py` lists all faults with their tests.
"""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from convbatch.config.gateways import Limits
from convbatch.engine.runner import RunRules
from convbatch.session.spec import SessionResult
from convbatch.simulator.fault_script import FaultScript
from convbatch.simulator.provider import Provider
from tests.support.fault_cases import CASES, Plain
from tests.support.faults import TESTS_OF, table
from tests.support.tables import each
from tests.support.virtual_run import KEY, NOT_CONNECTED, Host, Shift, Unreachable, VirtualRun
from tests.support.virtual_run_laws import Story, no_window_exceeds, obeys


def text_of(turn: int, dialogue: int) -> str:
    return f"question {turn} of dialogue {dialogue:04}"


def texts(count: int, turns: int) -> list[Plain]:
    return [{"id": f"d{d}", "turns": [{"user": text_of(t, d)} for t in range(1, turns + 1)]} for d in range(count)]


def provider_with(*faults: Plain, latency_s: float = 0.2, **more: Any) -> Provider:
    return Provider(keys={KEY}, latency_s=latency_s, faults=FaultScript.of(faults), **more)


def run_once(
    path: Path, host: Host, *, count: int = 1, turns: int = 2, **rules: Any
) -> tuple[VirtualRun, SessionResult]:
    """Run one session of a small run at one host."""
    virtual_run = VirtualRun(path / "run", [host], texts(count, turns), rules=RunRules(**rules))
    result = virtual_run.run_session()
    assert result is not None
    return virtual_run, result


def remove_faults(virtual_run: VirtualRun) -> None:
    for host in virtual_run.hosts:
        host.provider.faults = FaultScript()
        host.unreachable = host.stale = 0.0


# -- every fault of the table, alone: classes, suspended targets, exit codes


@pytest.mark.parametrize("name", CASES)
def test_each_fault_has_its_class_suspension_and_exit_code(tmp_path: Path, name: str):
    case = CASES[name]
    host = Host(provider_with(case.fault, latency_s=0.0), attempt_timeout_s=0.5 if case.short_timeout else 60.0)
    virtual_run, result = run_once(tmp_path, host, max_attempts=3)
    story = obeys(
        virtual_run, finished=False, honest_usage="usage" not in name, honest_bills=name != "200 with an error object"
    )
    classes = [one.cls for one in story.by_row[0, "sim-good@north", 1, 1]]
    ended_well = case.status in ("ok", "blocked", "empty") or case.finish is not None
    assert classes == [case.cls] * (case.attempts - ended_well) + ["replied"] * ended_well
    assert result.exit_code == case.exit_code
    assert bool(result.suspended) == case.suspends


# -- before anything is sent


UNSENT: dict[Unreachable, tuple[str, int]] = {
    "refused": ("connection", 3), "dns": ("connection", 3), "connect timeout": ("timeout", 3),
    "no tls": ("connection", 3), "certificate": ("connection", 1),
}  # fmt: skip
"""Error kind, and the number of attempts with `--max-attempts 3`."""


@pytest.mark.parametrize("why", NOT_CONNECTED)
def test_an_unsent_request_is_retried_is_not_paid_and_can_be_resumed(tmp_path: Path, why: Unreachable):
    kind, attempts = UNSENT[why]
    virtual_run, result = run_once(tmp_path, Host(provider_with(), unreachable=1.0, why=why), max_attempts=3)
    story = obeys(virtual_run, finished=False)
    sent = story.by_row[0, "sim-good@north", 1, 1]
    assert [one.cls for one in sent] == ["not_sent"] * attempts
    assert {one.outcome.plain["error"]["kind"] for one in sent if one.outcome} == {kind}
    suspended = why == "certificate"
    assert (result.exit_code, bool(result.suspended)) == (3, suspended)
    assert list(story.states.values()) == ([] if suspended else ["error", "skipped"])
    remove_faults(virtual_run)
    assert virtual_run.finish(most=1).exit_code == 0
    obeys(virtual_run, faultless=True)


# -- after sending


def test_a_request_on_a_just_closed_connection_is_sent_once_more_and_possibly_paid(tmp_path: Path):
    virtual_run, result = run_once(tmp_path, Host(provider_with(), stale=0.3), count=40)
    story = obeys(virtual_run, finished=False)
    classes = Counter(tuple(one.cls for one in attempts) for attempts in story.by_row.values())
    assert set(classes) == {("replied",), ("ambiguous", "replied"), ("ambiguous", "ambiguous")}
    lost = classes["ambiguous", "ambiguous"]
    assert (result.exit_code, Counter(story.states.values())["error"]) == (3, lost)
    assert sum(entry.billed for entry in virtual_run.ledger()) == 80 - lost - sum(
        state == "skipped" for state in story.states.values()
    )


FRAMINGS = ("length", "chunked", "close")


@pytest.mark.slow
@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_body_cut_at_any_byte_is_possibly_paid_and_sent_once_more(tmp_path: Path, framing: str):
    whole, _ = run_once(tmp_path / "whole", Host(provider_with()), turns=1)
    size = len(Story(whole).replies[whole.planned[0]].plain["body"])
    assert size > 200
    cuts = [
        {"match": {"contains": text_of(1, cut), "attempt": 1}, "action": "truncate", "bytes": cut, "framing": framing}
        for cut in range(size)
    ]
    virtual_run, result = run_once(tmp_path / "cut", Host(provider_with(*cuts)), count=size, turns=1)
    story = obeys(virtual_run, finished=False)
    assert result.exit_code == 0
    for index, row in enumerate(story.virtual_run.planned):
        first, second = story.by_row[row]
        assert (first.cls, second.cls) == ("ambiguous", "replied"), f"cut at byte {index}"
        assert first.outcome is not None
        kind = first.outcome.plain["error"]["kind"]
        assert kind == ("bad_response" if framing == "close" else "connection"), f"cut at byte {index}"
    assert sum(entry.billed for entry in virtual_run.ledger()) == 2 * size, "billed, cut, and billed again"


def test_one_byte_per_second_is_read_to_the_end_within_the_attempt_timeout(tmp_path: Path):
    drip = {"match": {"turn": 1}, "action": "drip", "bytes": 1, "seconds": 1.0}
    finished, result = run_once(tmp_path / "finished", Host(provider_with(drip), attempt_timeout_s=600.0))
    assert result.exit_code == 0
    assert finished.sent[0].resolved_at is not None
    assert finished.sent[0].resolved_at - finished.sent[0].left_at > 200
    obeys(finished, faultless=True)
    timed_out, result = run_once(tmp_path / "timed_out", Host(provider_with(drip), attempt_timeout_s=60.0))
    story = obeys(timed_out, finished=False)
    assert result.exit_code == 3
    assert [one.cls for one in story.attempts] == ["timeout"], "our own timeout: no further attempt in this session"
    remove_faults(timed_out)
    assert timed_out.finish(most=1).exit_code == 0, "a resume sends it again"
    assert [one.cls for one in obeys(timed_out).attempts] == ["timeout", "replied", "replied"]


# -- refusals


NOW = "Fri, 15 Jan 2027 08:00:01 GMT"  # the server's clock when it answers the first request, to the second
LATER = "Fri, 15 Jan 2027 08:00:31 GMT"


def quota_failure(**detail: Any) -> Plain:
    return {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "Quota exceeded", "details": [detail]}}


def retry_info(delay: Any) -> Plain:
    return quota_failure(**{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay})


def quota_message(message: str) -> Plain:
    return {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": message}}


PER_DAY = quota_failure(
    **{
        "@type": "type.googleapis.com/google.rpc.QuotaFailure",
        "violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}],
    }
)
PER_DAY["error"]["details"].append(retry_info("7s")["error"]["details"][0])
PLAIN = quota_message("Too many requests")
SUSPENDS = float("inf")

HINTS: dict[str, tuple[Plain, Plain, float | None]] = {
    # Name: headers, body, seconds that the rate limiter waits; None: no hint, so that it uses its default wait.
    "retry-after": ({"retry-after": "30"}, PLAIN, 30),
    "retry-after with a fraction": ({"retry-after": "1.5"}, PLAIN, 1.5),
    "retry-after with a unit": ({"retry-after": "12s"}, PLAIN, 12),
    "retry-after in blanks": ({"retry-after": "  8  "}, PLAIN, 8),
    "retry-after-ms": ({"retry-after-ms": "2500"}, PLAIN, 2.5),
    "both, milliseconds first": ({"retry-after-ms": "2500", "retry-after": "9"}, PLAIN, 2.5),
    "a date": ({"date": NOW, "retry-after": LATER}, PLAIN, 30),
    "a date in ISO form": ({"date": NOW, "retry-after": "2027-01-15T08:00:31Z"}, PLAIN, 30),
    "a date in the past": ({"date": LATER, "retry-after": NOW}, PLAIN, None),
    "an invalid date": ({"date": NOW, "retry-after": "Fri, 99 Jan 2027 08:00:01 GMT"}, PLAIN, None),
    "a negative number": ({"retry-after": "-5"}, PLAIN, None),
    "zero": ({"retry-after": "0"}, PLAIN, None),
    "a word": ({"retry-after": "soon"}, PLAIN, None),
    "an empty value": ({"retry-after": ""}, PLAIN, None),
    "not a number": ({"retry-after": "nan"}, PLAIN, None),
    "infinite": ({"retry-after": "inf"}, PLAIN, None),
    "four hundred digits": ({"retry-after": "9" * 400}, PLAIN, None),
    "year 9999": ({"date": NOW, "retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, PLAIN, SUSPENDS),
    "a thousand years": ({"retry-after": "31536000000"}, PLAIN, SUSPENDS),
    "retryDelay": ({}, retry_info("34.07s"), 34.07),
    "retryDelay in two fields": ({}, retry_info({"seconds": 5, "nanos": 500_000_000}), 5.5),
    "retryDelay of zero": ({}, retry_info("0s"), None),
    "negative retryDelay": ({}, retry_info("-3s"), None),
    "retryDelay of garbage": ({}, retry_info("whenever"), None),
    "retryDelay of another type": ({}, retry_info([1, 2]), None),
    "a sentence": ({}, quota_message("Please retry in 11.5s."), 11.5),
    "another sentence": ({}, quota_message("Rate limit reached. Please try again in 6m0s."), 360),
    "a sentence in milliseconds": ({}, quota_message("Please try again in 850ms."), 0.85),
    "requests used up": (
        {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "17s"}, PLAIN, 17,
    ),
    "tokens used up": ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1m3s"}, PLAIN, 63),
    "requests left": ({"x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "17s"}, PLAIN, None),
    "per day, with a short delay": ({}, PER_DAY, SUSPENDS),
    "no hint at all": ({}, PLAIN, None),
}  # fmt: skip


@pytest.mark.parametrize("name", HINTS)
def test_the_wait_of_a_429_is_kept_and_uses_no_attempt(tmp_path: Path, name: str):
    headers, body, wait_s = HINTS[name]
    answer = {"action": "body", "status": 429, "text": json.dumps(body), "billed": False}
    refusal = {"match": {"nth": 1}, "headers": {"content-type": "application/json", **headers}, **answer}
    virtual_run, result = run_once(tmp_path, Host(provider_with(refusal), delay_s=0.0), turns=1, max_attempts=1)
    story = obeys(virtual_run, finished=False)
    if wait_s == SUSPENDS:
        assert (result.exit_code, len(virtual_run.sent)) == (3, 1)
        assert set(result.suspended) == {"sim-good@north"}
        return
    assert [one.cls for one in story.attempts] == ["refused", "replied"]
    assert (result.exit_code, result.suspended) == (0, {})
    first, second = virtual_run.sent
    assert first.resolved_at is not None
    paused_s = second.left_at - first.resolved_at
    least = 0.5 if wait_s is None else wait_s
    # A hint is waited out in full; the default wait is a second or two.
    assert least <= paused_s + 1e-6 <= least + 2.0


@pytest.mark.slow
@pytest.mark.parametrize("hint", ["retry-info", "retry-after", "none"])
def test_many_429_responses_lose_no_turn_and_the_rate_recovers(tmp_path: Path, hint: str):
    storm = {"match": {"after_s": 10, "before_s": 70}, "action": "rate-limit", "hint": hint, "seconds": 4}
    virtual_run, result = run_once(
        tmp_path, Host(provider_with(storm), delay_s=0.05), count=500, turns=3, max_attempts=1
    )
    assert result.exit_code == 0
    story = obeys(virtual_run)
    assert set(story.states.values()) == {"ok"}
    assert sum(entry.billed for entry in virtual_run.ledger()) == 1500, "a refusal is not paid"
    began = virtual_run.sent[0].left_at
    during = [sent for sent in virtual_run.sent if 12 <= sent.left_at - began < 70]
    assert len(during) <= 60 / 4 * 16, "the rate limiter waits, not each request by itself"

    def sent_in(since: float, span_s: float) -> int:
        return sum(since <= sent.left_at - began < since + span_s for sent in virtual_run.sent)

    # A quota of a minute that is used up looks like this, so the rate returns to what the minute before let through.
    end = virtual_run.sent[-1].left_at - began
    assert sent_in(end - 8, 8) / 8 >= 0.9 * sent_in(0, 10) / 60


@pytest.mark.slow
def test_with_30_percent_of_5xx_no_turn_is_paid_twice(tmp_path: Path):
    overloaded = {"match": {"probability": 0.3}, "action": "error", "kind": "overloaded"}
    virtual_run, result = run_once(tmp_path, Host(provider_with(overloaded)), count=200, turns=3, max_attempts=5)
    story = obeys(virtual_run, finished=False)
    failed = [row for row, state in story.states.items() if state == "error"]
    assert len(failed) <= 600 * 0.3**5 * 4
    assert all([one.cls for one in story.by_row[row]] == ["refused"] * 5 for row in failed)
    assert result.exit_code == (3 if failed else 0)
    assert sum(entry.billed for entry in virtual_run.ledger()) == sum(state == "ok" for state in story.states.values())
    refused = sum(one.cls == "refused" for one in story.attempts)
    assert 0.2 < refused / len(story.attempts) < 0.4
    remove_faults(virtual_run)
    assert virtual_run.finish(most=1).exit_code == 0
    assert sum(entry.billed for entry in virtual_run.ledger()) == 600


def test_a_model_removed_during_a_run_is_suspended_after_three_probes_and_a_resume_finishes(tmp_path: Path):
    removed = {"match": {"nth": "20-"}, "action": "error", "kind": "no_model"}
    virtual_run, result = run_once(tmp_path, Host(provider_with(removed)), count=20, turns=3, concurrency=4)
    assert result.exit_code == 3
    assert "there is no such model" in result.suspended["sim-good@north"]
    story = obeys(virtual_run, finished=False)
    assert "error" not in story.states.values()
    refused = [sent.left_at for sent in virtual_run.sent if sent.status == 404]
    assert len(refused) <= 4 + 3, "requests in flight, and three probes"
    remove_faults(virtual_run)
    assert virtual_run.finish(most=1).exit_code == 0
    obeys(virtual_run, faultless=True)


def test_dialogues_refused_alike_during_a_run_suspend_the_target_after_three_probes(tmp_path: Path):
    closed = {"match": {"nth": "20-"}, "action": "error", "kind": "permission"}
    virtual_run, result = run_once(tmp_path, Host(provider_with(closed)), count=20, turns=3, concurrency=4)
    assert result.exit_code == 3
    assert "permission is denied" in result.suspended["sim-good@north"]
    story = obeys(virtual_run, finished=False)
    refused = sorted(sent.left_at for sent in virtual_run.sent if sent.status == 403)
    assert list(story.states.values()).count("error") == 2, "the first two; the third waits for a probe"
    assert len(refused) <= 4 + 2 + 3, "requests in flight, one after each failed turn, and three probes"
    gaps = [after - before for before, after in pairwise(refused[-4:])]
    assert all(gap >= wait_s for gap, wait_s in zip(gaps, (30, 60, 120), strict=True))
    remove_faults(virtual_run)
    assert virtual_run.finish(most=1).exit_code == 0
    obeys(virtual_run, honest_bills=True)


# -- usage counts


USAGE: dict[str, tuple[int | None, int | None, str]] = {
    "missing": (None, None, "missing"), "partial": (11, None, "partial"), "negative": (None, None, "partial"),
    "huge": (None, None, "partial"), "zero": (None, None, "partial"), "text": (None, None, "partial"),
}  # fmt: skip


@pytest.mark.parametrize("kind", USAGE)
def test_an_implausible_token_count_is_unknown_and_never_zero(tmp_path: Path, kind: str):
    virtual_run, result = run_once(tmp_path, Host(provider_with({"action": "usage", "kind": kind})), turns=1)
    story = obeys(virtual_run, honest_usage=False)
    usage = story.replies[virtual_run.planned[0]].plain["reply"]["usage"]
    assert (usage.get("input_tokens"), usage.get("output_tokens"), usage["source"]) == USAGE[kind]
    assert result.exit_code == 0


# -- clocks


NIGHT_S = 9 * 3600.0


def saturated(path: Path, **limits: Any) -> VirtualRun:
    """Prepare a run with limits and more requests than they allow."""
    return VirtualRun(path / "run", [Host(provider_with(), limits=Limits(**limits), delay_s=0.9)], texts(60, 3))


@pytest.mark.parametrize(
    "seconds",
    [NIGHT_S, -NIGHT_S, *(pytest.param(s, marks=pytest.mark.slow) for s in (90.0, -90.0))],
    ids=lambda seconds: f"{seconds:+.0f}s",
)
def test_setting_the_wall_clock_causes_no_burst_and_loses_no_turn(tmp_path: Path, seconds: float):
    virtual_run = saturated(tmp_path, rpm=60)
    result = virtual_run.run_session(shifts=[Shift(40.0, "jump", seconds), Shift(70.0, "jump", -seconds / 2)])
    assert result is not None
    assert result.exit_code == 0
    obeys(virtual_run, faultless=True)
    assert virtual_run.ended[0].ended < 200, "it costs no time"


@pytest.mark.parametrize("kind", ["nap", "stop"])
def test_a_run_continues_after_a_laptop_sleep_without_a_burst_or_a_lost_turn(tmp_path: Path, kind: Any):
    virtual_run = saturated(tmp_path, rpm=60)
    result = virtual_run.run_session(shifts=[Shift(40.0, kind, NIGHT_S), Shift(100.0, kind, NIGHT_S)])
    assert result is not None
    story = obeys(virtual_run, finished=False)
    no_window_exceeds(virtual_run.sent, 60, 60.0)
    unsure = [one for one in story.attempts if one.cls in ("ambiguous", "timeout")]
    assert unsure, "no request was in flight during the sleep"
    if kind == "nap":  # connections break: possibly paid, and sent once more
        assert result.exit_code == 0
        assert {one.cls for one in unsure} == {"ambiguous"}
    virtual_run.finish(most=1)
    obeys(virtual_run)
    assert sum(entry.billed for entry in virtual_run.ledger()) <= 180 + len(unsure)


@pytest.mark.parametrize("seconds", [NIGHT_S, -NIGHT_S])
def test_setting_the_clock_between_two_sessions_loses_no_turn(tmp_path: Path, seconds: float):
    virtual_run = saturated(tmp_path, rpm=60)
    virtual_run.run_session(shifts=[Shift(20.0, "jump", seconds)], deadline_s=30.0)
    virtual_run.finish(most=1)
    obeys(virtual_run, faultless=True)
    assert virtual_run.now < 3600 if seconds > 0 else virtual_run.now < 2 * NIGHT_S


def test_a_new_day_begins_when_the_old_one_ends_during_a_sleep(tmp_path: Path):
    virtual_run = saturated(tmp_path, rpd=50)
    result = virtual_run.run_session(shifts=[Shift(30.0, "nap", 86_400.0)], deadline_s=600.0)
    assert result is not None
    days = Counter(int(entry.arrived_at // 86_400) for entry in virtual_run.ledger())
    assert len(days) == 2
    assert max(days.values()) <= 50
    obeys(virtual_run, finished=False)


# -- the table of docs/reliability.md


@each("fault", TESTS_OF)
def test_every_listed_test_of_a_fault_exists(fault: str):
    here = Path(__file__).parents[1]
    for named in TESTS_OF[fault]:
        file, _, test = named.partition("::")
        name, _, case = test.partition("[")
        source = next(here.rglob(file)).read_text()
        assert f"def {name}(" in source, f"{named} does not exist"
        if case:
            tables = source + (here / "support" / "fault_cases.py").read_text()
            assert f'"{case.rstrip("]")}"' in tables, f"{named}: no such case"


def test_the_reliability_page_has_the_table():
    page = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text("utf-8")
    missing = [line for line in table() if line not in page]
    assert not missing, "\n".join(table())
