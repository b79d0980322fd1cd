"""What gateways say in an error, in the words, codes and shapes of each vendor, gets its kind.

`error_cases.jsonl` has one body a line (`body`, or `text` if it is not JSON), in groups: `refusal` (the content is
refused, on which side and in which word), `mention` (only mentions a filter), `in_200` (with what must stand in the
message), `words` (quota, limits, keys and models), `too_long` and `other_limit` (a limit that is not the context's).
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convbatch.protocols import PROTOCOLS
from convbatch.protocols.error_bodies import claims_error, find_error
from convbatch.protocols.error_mapping import classify_error, error_in_body
from convbatch.protocols.reading import read_answer
from convbatch.protocols.wire import ErrorInBody, encode_json
from convbatch.reply import NO_USAGE, Failure, failure_from_plain, failure_to_plain
from tests.conftest import examples
from tests.support.tables import each

CASES: list[dict[str, Any]] = [
    json.loads(line) for line in (Path(__file__).parent / "error_cases.jsonl").read_text("utf-8").splitlines()
]


def cases(group: str) -> list[Any]:
    return [pytest.param(case, id=str(number)) for number, case in enumerate(CASES, 1) if case["group"] == group]


def classify(status: int, body: Any) -> Failure:
    return classify_error(status, {}, body if isinstance(body, bytes) else encode_json(body))


def classify_case(case: dict[str, Any]) -> Failure:
    return classify(case["status"], case["text"].encode() if "text" in case else case["body"])


def error(message: str, **fields: Any) -> dict[str, Any]:
    return {"error": {"message": message, **fields}}


@each("case", cases("refusal"))
def test_a_refusal_of_the_content_is_known_by_its_words(case: dict[str, Any]) -> None:
    failure = classify_case(case)
    assert (failure.kind, failure.blocked, failure.finish_reason_raw) == (
        "content_filter",
        case["blocked"],
        case["word"],
    )
    assert not failure.retryable


@each("case", cases("mention"))
def test_an_error_that_only_mentions_a_filter_is_no_refusal(case: dict[str, Any]) -> None:
    failure = classify_case(case)
    assert (failure.kind, failure.blocked) == (case["kind"], None)


@each("case", cases("words") + cases("other_limit"))
def test_quota_limits_keys_and_models_are_told_apart_by_words(case: dict[str, Any]) -> None:
    assert classify_case(case).kind == case["kind"]


@each("case", cases("too_long"))
def test_a_dialogue_that_does_not_fit_has_its_own_kind(case: dict[str, Any]) -> None:
    failure = classify_case(case)
    assert (failure.kind, failure.retryable) == ("context_length", False)
    with pytest.raises(ErrorInBody) as caught:
        PROTOCOLS["openai"].parse_response(encode_json(case["body"]))
    assert caught.value.failure.kind == "context_length"


@each("case", cases("in_200"))
def test_an_error_in_a_200_keeps_its_message_and_has_the_kind_of_its_code(case: dict[str, Any]) -> None:
    for wire in PROTOCOLS.values():
        with pytest.raises(ErrorInBody) as caught:
            wire.parse_response(encode_json(case["body"]))
        failure = caught.value.failure
        assert (failure.kind, failure.structured, failure.usage) == (case["kind"], True, NO_USAGE)
        assert case["said"] in failure.message


CHOICE = {"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}


@each(
    "beside",
    [
        {"base_resp": {"status_code": 0, "status_msg": ""}},
        {"base_resp": {"status_code": 0, "status_msg": "success"}},
        {"code": 0, "message": "Success", "sid": "s"},
        {"code": 200, "msg": "success"},
        {"code": "", "message": ""},
        {"header": {"code": 0, "message": "Success"}},
        {"error": {"message": "", "type": "", "param": "", "code": None}},
        {"error": {"code": 0, "message": "ok"}},
        {"error": {"code": "", "message": None, "type": "none"}},
        {"error": {}},
        {"error": None},
        {"error": ""},
        {"errors": []},
        {"error_code": 0, "error_msg": ""},
        {"success": True, "message": "done"},
        {"status": "success", "detail": "cached"},
        {"message": "from cache"},
        {"code": 17, "msg": "another field of a gateway"},
        {"type": "message", "detail": "x"},
        {"contentFilter": [{"level": 3, "role": "assistant"}]},
        {"need_clear_history": False, "ban_round": 0},
    ],
)
def test_a_reply_with_keys_of_an_error_beside_it_stays_a_reply(beside: dict[str, Any]) -> None:
    usage = {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3}
    reply = PROTOCOLS["openai"].parse_response(encode_json({"choices": [CHOICE], "usage": usage, **beside}))
    assert (reply.text, reply.finish_reason, reply.usage.output_tokens) == ("hello", "stop", 1)
    candidate = {"content": {"parts": [{"text": "hello"}]}, "finishReason": "STOP"}
    assert PROTOCOLS["gemini"].parse_response(encode_json({"candidates": [candidate], **beside})).text == "hello"


def test_a_refusal_beside_an_empty_choice_of_minimax_is_the_prompt_s() -> None:
    empty = {**CHOICE, "message": {"role": "assistant", "content": ""}}
    body = {
        "choices": [empty],
        "usage": {"total_tokens": 30},
        "base_resp": {"status_code": 1026, "status_msg": "input new_sensitive"},
    }
    with pytest.raises(ErrorInBody) as caught:
        PROTOCOLS["openai"].parse_response(encode_json(body))
    failure = caught.value.failure
    assert (failure.kind, failure.blocked, failure.usage.total_tokens) == ("content_filter", "prompt", 30)


def test_an_error_beside_text_keeps_the_text() -> None:
    body = {"choices": [CHOICE], "base_resp": {"status_code": 1027, "status_msg": "output new_sensitive"}}
    with pytest.raises(ErrorInBody) as caught:
        PROTOCOLS["openai"].parse_response(encode_json(body))
    assert (caught.value.failure.text, caught.value.failure.blocked) == ("hello", "output")


@each(
    ("status", "body", "no_model"),
    [
        (404, b"404 page not found", True),
        (404, b"", True),
        (404, b"<html><h1>Not Found</h1></html>", True),
        (405, {"detail": "Method Not Allowed"}, True),
        (404, {"detail": "Not Found"}, True),
        (404, error("Resource not found", code="404"), True),
        (404, error("Invalid URL (POST /v1/v1/chat/completions)", type="invalid_request_error"), True),
        (404, {"message": "no Route matched with those values"}, True),
        (404, {"timestamp": 1, "status": 404, "error": "Not Found", "path": "/v1/chat/completions"}, True),
        (404, error("Unknown request URL: POST /v1/chat. Please check the URL for typos.", code="unknown_url"), True),
        (404, error("The model `x` does not exist", code="model_not_found"), False),
        (404, {"error": "model 'x' not found, try pulling it first"}, False),
        (404, error("m"), False),
        (502, b"<html>Bad Gateway</html>", False),
        (403, b"<html>Forbidden</html>", False),
    ],
)
def test_a_path_that_does_not_exist_asked_no_model(status: int, body: Any, no_model: bool) -> None:
    failure = classify(status, body)
    assert failure.no_model is no_model
    assert failure.kind == "not_found" or not no_model


def test_an_unexpected_endpoint_inside_a_200_asked_no_model() -> None:
    with pytest.raises(ErrorInBody) as caught:
        PROTOCOLS["openai"].parse_response(b'{"error": "Unexpected endpoint or method. (POST /chat/completions)"}')
    assert caught.value.failure.no_model


KEYS = [
    "error",
    "errors",
    "message",
    "msg",
    "code",
    "type",
    "status",
    "detail",
    "base_resp",
    "status_code",
    "header",
    "sid",
    "Response",
    "Error",
    "Code",
    "error_code",
    "success",
    "choices",
    "metadata",
    "raw",
    "reasons",
    "contentFilter",
    "role",
    "innererror",
    "content_filter_result",
    "details",
    "reason",
    "violations",
    "quotaId",
    "param",
    "data",
    "object",
]
SAID = st.sampled_from(
    ["", "m", "1301", "error", "success", "1026", "敏感词", "rate limit exceeded", '{"error": {"code": 1}}']
)
BODIES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | SAID | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=12,
)


@given(BODIES, st.integers(200, 599))
@settings(max_examples=examples(120), deadline=None)
def test_any_body_has_a_kind_that_survives_the_journal(body: Any, status: int) -> None:
    failure = classify(status, encode_json(body))
    assert (failure.blocked is None) is (failure.kind != "content_filter")
    assert failure_from_plain(failure_to_plain(failure)) == failure
    assert claims_error(body) <= (find_error(body) is not None)
    inside = error_in_body(body)
    assert inside is None or inside.failure.structured


@given(BODIES)
@settings(max_examples=examples(60), deadline=None)
def test_text_in_a_choice_is_a_reply_unless_something_else_claims_an_error(body: Any) -> None:
    beside = body if isinstance(body, dict) else {}
    whole = {**beside, "choices": [CHOICE]}
    claims = any(beside.get(key) for key in ("error", "errors", "base_resp", "header", "Response", "Error"))
    assert claims or not claims_error(whole)


def test_a_hostile_message_is_classified_quickly() -> None:
    begun = time.perf_counter()
    classify(400, error("prompt was blocked for " * 4000))
    classify(400, error("[{" * 4000))
    assert time.perf_counter() - begun < 2


NOW = {"date": "Sat, 21 Nov 2026 23:30:00 GMT"}


@each(
    ("headers", "number", "said", "kind", "wait_s"),
    [
        ({"retry-after": "7"}, 1002, "rate limit exceeded(RPM)", "rate_limit", 7.0),
        (NOW, 2056, "usage limit exceeded, resets at 2026-11-21T23:31:00Z", "rate_limit", 60.0),
        ({}, 2056, "usage limit exceeded, resets at 2026-11-21T23:31:00Z", "quota", None),
        ({"retry-after": "7"}, 1004, "login fail", "auth", None),
    ],
)
def test_an_error_in_a_200_has_the_wait_of_its_headers(
    headers: dict[str, str], number: int, said: str, kind: str, wait_s: float | None
) -> None:
    body = encode_json({"base_resp": {"status_code": number, "status_msg": said}})
    failure = read_answer(PROTOCOLS["openai"], 200, headers, body).outcome
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.retry_after_s) == (kind, wait_s)
