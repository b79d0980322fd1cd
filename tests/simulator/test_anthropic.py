"""Messages as the simulator serves it: what it refuses and in which words, and the order of its events."""

from __future__ import annotations

import json
from typing import Any

from convbatch.simulator import FaultScript, Provider, Request, ServerLimits
from tests.simulator.test_simulator import answer_to, plain
from tests.support.tables import each

ASKED: dict[str, Any] = {"model": "sim-good", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
HEADERS = {"anthropic-version": "2023-06-01"}
USER, MODEL = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "Hello."}


def ask(provider: Provider, headers: dict[str, str] = HEADERS, **fields: Any) -> Any:
    body = {name: value for name, value in {**ASKED, **fields}.items() if value is not None}
    content = json.dumps(body).encode()
    return answer_to(provider, Request.of("POST", "http://any/v1/messages", headers, content))


@each(
    ("fields", "words"),
    [
        ({"max_tokens": None}, "max_tokens: Field required"),
        ({"max_tokens": 0}, "max_tokens: Input should be greater than or equal to 1"),
        ({"seed": 7}, "seed: Extra inputs are not permitted"),
        ({"temperature": 1.5}, "temperature: Input should be less than or equal to 1"),
        ({"messages": []}, "messages: at least one message is required"),
        ({"messages": [MODEL, USER]}, 'messages: first message must use the "user" role'),
        ({"messages": [USER, MODEL]}, "The conversation must end with a user message."),
        ({"messages": [{"role": "user", "content": ""}]}, "messages.0: all messages must have non-empty content"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}]}, "must be non-empty"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages.0.role: Input should be 'user' or 'assistant'"),
        ({"messages": [{"role": "user", "content": [{"type": "thinking"}]}]}, "Input tag 'thinking' found"),
        ({"thinking": {"type": "enabled", "budget_tokens": 9}}, "greater than or equal to 1024"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, "must be greater than `thinking.budget_tokens`"),
        ({"thinking": {"type": "adaptive"}, "temperature": 0}, "may only be set to 1 when thinking is enabled"),
        ({"output_config": {"effort": "none"}}, "output_config: effort: Input should be"),
        ({"stop_sequences": [" "]}, "stop_sequences: each stop sequence must contain non-whitespace"),
        ({"cache_control": {"type": "ephemeral", "ttl": "1d"}}, "cache_control: Input should be"),
    ],
)
def test_a_wrong_request_is_refused_in_the_words_of_the_api(fields: dict[str, Any], words: str) -> None:
    answer = ask(Provider(), **fields)
    assert (answer.status, plain(answer)["type"], plain(answer)["error"]["type"]) == (
        400, "error", "invalid_request_error",
    )  # fmt: skip
    assert words in plain(answer)["error"]["message"]


@each(
    ("headers", "status"),
    [
        ({**HEADERS, "x-api-key": "k"}, 200),
        ({**HEADERS, "authorization": "Bearer k"}, 200),
        ({**HEADERS, "authorization": "k"}, 200),
        ({**HEADERS, "x-api-key": "other"}, 401),
        (HEADERS, 401),
        ({"x-api-key": "k"}, 400),
    ],
)
def test_the_key_comes_in_either_header_and_the_version_is_required(headers: dict[str, str], status: int) -> None:
    assert ask(Provider(keys={"k"}), headers).status == status


def test_neighbours_of_one_role_are_one_message() -> None:
    provider = Provider()
    ask(provider, messages=[USER, {"role": "user", "content": [{"type": "text", "text": " there"}]}, MODEL, USER])
    assert provider.ledger.entries[-1].history == [["user", "hi there"], ["model", "Hello."], ["user", "hi"]]


def test_a_stream_has_the_events_of_the_api_in_their_order() -> None:
    answer = ask(Provider(), model="sim-think", stream=True, max_tokens=99)
    names = [line.removeprefix("event: ") for line in answer.content.decode().splitlines() if line.startswith("event")]
    assert answer.headers["content-type"] == "text/event-stream"
    assert [name for at, name in enumerate(names) if names[at - 1] != name] == [
        "message_start",
        *("content_block_start", "content_block_delta", "content_block_stop", "ping"),
        *("content_block_start", "content_block_delta", "content_block_stop"),
        *("message_delta", "message_stop"),
    ]


def test_a_gateway_in_front_reports_its_own_errors_and_those_of_the_provider() -> None:
    overloaded = FaultScript.of([{"action": "error", "kind": "overloaded"}])
    relayed = ask(Provider(gateway="new-api", faults=overloaded))
    own = ask(Provider(gateway="new-api"), model="sim-nope")
    assert (relayed.status, plain(relayed)["type"], plain(relayed)["error"]["type"]) == (529, "error", "upstream_error")
    assert (own.status, plain(own)["error"]["code"]) == (503, "model_not_found")


def test_a_reply_and_a_refusal_name_the_limits_and_an_error_names_its_request() -> None:
    provider = Provider(limits=ServerLimits(rpm=1, tpm=1000))
    first, refused = ask(provider), ask(provider)
    for answer, left in ((first, "0"), (refused, "0")):
        assert answer.headers["anthropic-ratelimit-requests-limit"] == "1"
        assert answer.headers["anthropic-ratelimit-requests-remaining"] == left
        assert answer.headers["anthropic-ratelimit-requests-reset"] == "1970-01-01T00:01:00Z"
        assert answer.headers["anthropic-ratelimit-input-tokens-limit"] == "1000"
    assert refused.status == 429
    assert plain(refused)["request_id"] == refused.headers["request-id"] != first.headers["request-id"]


def test_the_tier_of_a_reply_is_the_one_that_served_it() -> None:
    assert plain(ask(Provider(), service_tier="auto"))["usage"]["service_tier"] == "standard"
    assert plain(ask(Provider(served_tier="priority")))["usage"]["service_tier"] == "priority"
    assert ask(Provider(), service_tier="flex").status == 400
