"""Answers through new-api, LiteLLM and OpenRouter: what they change, and that it is read as without them."""

from __future__ import annotations

import itertools
import json
from typing import Any, NamedTuple

import pytest

from convbatch.dialogue import Message, Settings, text_part
from convbatch.protocols import PROTOCOLS
from convbatch.protocols.reading import Answer, read_answer
from convbatch.protocols.wire import Ask, Endpoint
from convbatch.reply import Failure, Reply
from convbatch.simulator import FaultScript, Provider, Request
from convbatch.simulator.gateways import GATEWAYS, GatewayName

SERVED = {name: tuple(wire for wire in PROTOCOLS if (name, wire) != ("openrouter", "gemini")) for name in GATEWAYS}
ROUTES = [pytest.param(name, wire, id=f"{name}-{wire}") for name in GATEWAYS for wire in SERVED[name]]
STREAMS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


class Sent(NamedTuple):
    """What a gateway sent, and what was read."""

    answer: Answer
    headers: dict[str, str]
    body: bytes


def send(
    gateway: GatewayName | None,
    wire: str,
    model: str = "sim-good",
    *history: Message,
    text: str = "Hi?",
    stream: bool = False,
    faults: list[dict[str, Any]] | None = None,
    provider: Provider | None = None,
    **settings: Any,
) -> Sent:
    provider = provider or Provider(gateway=gateway, faults=FaultScript.of(faults or []))
    messages = (*history, user(text))
    ask = Ask(model=model, messages=messages, settings=Settings(**settings), stream=stream)
    base = "http://any" + ("/api" if gateway == "openrouter" else "") + ("" if wire == "gemini" else "/v1")
    asked = PROTOCOLS[wire].build_request(ask, Endpoint(base_url=base))
    request = Request.of(asked.method, asked.url, {**asked.headers, "authorization": "Bearer k"},
                         json.dumps(asked.json).encode())  # fmt: skip
    got = provider.handle(request, 0.0)
    body = got.content
    got.delivered(0.0)
    assert got.status is not None
    return Sent(read_answer(PROTOCOLS[wire], got.status, got.headers, body, streamed=stream), got.headers, body)


def user(text: str) -> Message:
    return Message(role="user", parts=(text_part(text),))


def outcome(sent: Sent) -> dict[str, Any]:
    """Return what an answer counts as."""
    found = sent.answer.outcome
    if isinstance(found, Failure):
        return {"kind": found.kind, "note": sent.answer.note}
    usage = found.usage
    return {
        "text": found.text, "finish": found.finish_reason, "raw": found.finish_reason_raw, "blocked": found.blocked,
        "input": usage.input_tokens, "output": usage.output_tokens, "reasoning": usage.reasoning_tokens,
        "thought": found.thought or None, "model": found.model_version, "tier": found.service_tier,
        "note": sent.answer.note,
    }  # fmt: skip


REPLIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "thinking": {"model": "sim-think"},
    "signed": {"model": "sim-signed"},
    "empty": {"model": "sim-empty"},
    "prompt refused": {"model": "sim-safety", "text": "a bomb"},
    "output refused": {"model": "sim-safety", "text": "an insult"},
    "cut": {"max_output_tokens": 16, "text": "a question that is longer than the limit " * 4},
    "malformed": {"faults": [{"action": "reply", "kind": "malformed-call"}]},
    "unknown end": {"faults": [{"action": "reply", "kind": "unknown-finish"}]},
}


@STREAMS
@pytest.mark.parametrize(("gateway", "wire"), ROUTES)
def test_a_reply_counts_as_the_same_with_a_gateway_in_front_and_without(
    gateway: GatewayName, wire: str, stream: bool
) -> None:
    for name, asked in REPLIES.items():
        through, direct = (outcome(send(front, wire, stream=stream, **asked)) for front in (gateway, None))
        if (gateway, wire) == ("litellm", "anthropic"):  # two counts are left of the usage
            through |= {key: direct[key] for key in ("reasoning", "tier") if through.get(key) is None and key in direct}
            if through.get("output") == 0:
                through["output"] = direct["output"]  # Anthropic's own stream begins with 1, and 0 changes no count
        if gateway == "openrouter" and wire == "openai" and through.get("raw") != direct.get("raw"):
            through["raw"] = {"STOP": "stop", "MAX_TOKENS": "length", "SAFETY": "content_filter"}[through["raw"]]
        assert through == direct, name


@STREAMS
@pytest.mark.parametrize(("gateway", "wire"), ROUTES)
def test_a_signature_comes_back_unchanged_through_a_gateway(gateway: GatewayName, wire: str, stream: bool) -> None:
    provider = Provider(gateway=gateway)
    first = send(gateway, wire, "sim-signed", stream=stream, provider=provider).answer.outcome
    assert isinstance(first, Reply)
    reply = Message(role="assistant", parts=(text_part(first.text or ""),), raw=first.raw_turn)
    second = send(gateway, wire, "sim-signed", user("Hi?"), reply, text="And?", stream=stream, provider=provider)
    assert isinstance(second.answer.outcome, Reply), second.answer
    lost = reply._replace(raw=None)
    refused = send(gateway, wire, "sim-signed", user("Hi?"), lost, text="And?", stream=stream, provider=provider)
    assert isinstance(refused.answer.outcome, Failure)
    assert refused.answer.outcome.kind == "invalid_request"


KINDS = (
    "internal", "overloaded", "bad_gateway", "deadline", "permission", "bad_request", "no_model", "bad_key",
    "no_balance",
)  # fmt: skip
OTHERWISE = {
    ("openrouter", "overloaded"): "server_error",  # reported as 502
    ("openrouter", "deadline"): "timeout",
}


@pytest.mark.parametrize(("gateway", "wire"), ROUTES)
def test_an_error_counts_as_the_same_with_a_gateway_in_front_and_without(gateway: GatewayName, wire: str) -> None:
    for kind, stream in itertools.product(KINDS, (False, True)):
        faults = [{"action": "error", "kind": kind}]
        through, direct = (outcome(send(name, wire, stream=stream, faults=faults)) for name in (gateway, None))
        assert through["kind"] in (direct["kind"], OTHERWISE.get((gateway, kind))), (kind, stream, through, direct)


@pytest.mark.parametrize(("gateway", "wire"), ROUTES)
def test_the_wait_that_the_upstream_asks_for_is_found(gateway: GatewayName, wire: str) -> None:
    failure = send(gateway, wire, faults=[{"action": "rate-limit", "seconds": 7}]).answer.outcome
    assert isinstance(failure, Failure)
    assert failure.kind == "rate_limit"
    is_lost = (gateway, wire) == ("new-api", "anthropic")  # Anthropic's only hint is a header, which new-api drops
    assert failure.retry_after_s == (None if is_lost else 7.0)


@pytest.mark.parametrize(("gateway", "wire"), ROUTES)
def test_a_stream_that_ends_with_an_error_keeps_its_text(gateway: GatewayName, wire: str) -> None:
    begun = 9 if wire == "responses" else 7
    failure = send(gateway, wire, stream=True, faults=[{"action": "mid-error", "events": begun}]).answer.outcome
    assert isinstance(failure, Failure)
    assert failure.kind in ("overloaded", "server_error")
    assert (failure.text or "").startswith("Turn 1: ")


def test_bodies_have_the_shapes_that_the_gateways_give_them() -> None:
    chat = json.loads(send("litellm", "openai", "sim-think").body)
    assert [*chat][:5] == ["id", "created", "model", "object", "choices"]
    assert [*chat["usage"]][:3] == ["completion_tokens", "prompt_tokens", "total_tokens"]
    assert json.loads(send("litellm", "anthropic").body)["usage"].keys() == {"input_tokens", "output_tokens"}
    streamed = send("litellm", "anthropic", stream=True).body
    assert streamed.startswith(b'event: message_start\ndata: {"type": "message_start", "message": {')
    assert b'"usage": {"input_tokens": 0, "output_tokens": 0' in streamed
    routed = json.loads(send("openrouter", "openai", "sim-think").body)
    assert (routed["provider"], routed["choices"][0]["native_finish_reason"]) == ("Google AI Studio", "STOP")
    assert routed["usage"]["cost"] > 0
    message = routed["choices"][0]["message"]
    assert message["reasoning_details"][0]["text"] == message["reasoning"]
    assert send("openrouter", "openai", stream=True).body.startswith(b": OPENROUTER PROCESSING\n\n")


OWN: dict[GatewayName, tuple[str, str]] = {
    "new-api": ("x-oneapi-request-id", "无可用渠道"),
    "litellm": ("x-litellm-call-id", "Invalid model name passed in model=sim-no"),
    "openrouter": ("x-generation-id", "sim-no is not a valid model ID"),
}


def test_each_gateway_identifies_its_responses_and_words_its_own_refusals() -> None:
    for gateway, (header, words) in OWN.items():
        provider = Provider(gateway=gateway)
        first, refused = (send(gateway, "openai", model, provider=provider) for model in ("sim-good", "sim-no"))
        assert first.headers[header] != refused.headers[header]
        assert words in json.loads(refused.body)["error"]["message"]
    in_success = send("openrouter", "openai", faults=[{"action": "error", "kind": "internal"}])
    error = json.loads(in_success.body)["error"]
    assert (error["code"], error["metadata"]["provider_name"]) == (502, "Google AI Studio")


def test_new_api_loses_fields_and_openrouter_serves_no_gemini() -> None:
    assert outcome(send("new-api", "gemini", service_tier="flex"))["tier"] is None
    assert outcome(send(None, "gemini", service_tier="flex"))["tier"] == "flex"
    assert outcome(send("openrouter", "gemini"))["kind"] == "not_found"
