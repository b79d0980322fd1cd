"""The simulated provider, on which other tests rely: tested in process and over raw sockets."""

from __future__ import annotations

import ast
import asyncio
import email.utils
import gzip
import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convbatch.simulator import (
    Answer,
    FaultError,
    FaultScript,
    Ledger,
    Provider,
    Request,
    Script,
    ScriptError,
    Server,
    ServerLimits,
    busiest_window,
    key_hash,
    read_ledger,
    serve_in_thread,
)
from convbatch.simulator.fault_script import ACTIONS, BODY_KINDS, REPLY_KINDS, USAGE_KINDS
from convbatch.simulator.limits import (
    FixedWindow,
    Gatekeeper,
    LimitCounter,
    QuantisedWindow,
    SlidingWindow,
    TokenBucket,
)
from convbatch.simulator.replies import count_tokens, cut_to_tokens, history_sha
from tests.support.tables import each

ROOT = Path(__file__).parents[2]
PATHS = {"gemini": "/v1beta/models/{model}:generateContent", "openai": "/v1/chat/completions"}


# --- requests in process ---------------------------------------------------------------------------------------------


def gemini_body(*texts: str, system: str = "", **config: Any) -> dict[str, Any]:
    contents = [{"role": ("user", "model")[at % 2], "parts": [{"text": text}]} for at, text in enumerate(texts)]
    body: dict[str, Any] = {"contents": contents}
    if system:
        body["systemInstruction"] = {"parts": [{"text": system}]}
    if config:
        body["generationConfig"] = config
    return body


def openai_body(*texts: str, model: str = "sim-good", **fields: object) -> dict[str, Any]:
    messages = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)]
    return {"model": model, "messages": messages, **fields}


def request(
    body: Any, *, model: str = "sim-good", wire: str = "gemini", url: str = "", headers: dict[str, str] | None = None
) -> Request:
    target = url or PATHS[wire].format(model=model)
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Request.of("POST", f"http://any{target}", headers or {}, content)


def answer_to(provider: Provider, http_request: Request, now: float = 0.0) -> Answer:
    """Return the answer to a request, marked as delivered."""
    answer = provider.handle(http_request, now)
    answer.delivered(now)
    return answer


def plain(answer: Answer) -> Any:
    return json.loads(answer.content)


def reply_text(provider: Provider, *texts: str, model: str = "sim-good", **config: Any) -> str:
    reply = plain(answer_to(provider, request(gemini_body(*texts, **config), model=model)))
    return "".join(part.get("text", "") for part in reply["candidates"][0]["content"].get("parts", []))


# --- replies ---------------------------------------------------------------------------------------------------------

DIALOGUES = [
    {
        "id": "a",
        "system": "Be brief.",
        "turns": [
            {"user": "one", "assistant": "first", "ask": False},
            {"user": [{"text": "t"}, {"text": "wo"}], "assistant": "second"},
            {"user": "three"},
        ],
    }
]


@given(
    seed=st.integers(0, 3), texts=st.lists(st.text(max_size=20), min_size=1, max_size=5).filter(lambda t: len(t) % 2)
)
def test_answers_depend_only_on_seed_model_and_history(seed: int, texts: list[str]) -> None:
    requests = [request(gemini_body(*texts), model=model) for model in ("sim-good", "sim-drift", "sim-think")]
    used, fresh = Provider(seed=seed), Provider(seed=seed)
    answer_to(used, request(gemini_body("something else before")))

    assert [answer_to(used, r).content for r in requests] == [answer_to(fresh, r).content for r in requests]


def test_another_seed_gives_different_reply_ids() -> None:
    ids = {plain(answer_to(Provider(seed=seed), request(gemini_body("hi"))))["responseId"] for seed in range(5)}

    assert len(ids) == 5


MESSAGES = st.lists(st.tuples(st.sampled_from(["user", "model"]), st.text(max_size=5)), max_size=4)


@given(MESSAGES, MESSAGES, st.text(max_size=3), st.text(max_size=3))
def test_histories_share_a_digest_only_when_they_are_equal(
    one: list[tuple[str, str]], other: list[tuple[str, str]], system: str, prompt: str
) -> None:
    same = (system, one) == (prompt, other)

    assert (history_sha(system, one) == history_sha(prompt, other)) is same


def test_a_different_history_gives_a_different_reply() -> None:
    provider = Provider()

    assert reply_text(provider, "hi", "my own words", "and now?") != reply_text(
        provider, "hi", "another's words", "and now?"
    )


def test_scripted_replies_are_found_by_the_user_turns_only(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + json.dumps(DIALOGUES[0]).encode() + b"\r\n\r\n"))
    provider = Provider(script=Script.load(path))

    replies = [
        plain(answer_to(provider, request(gemini_body(*texts, system="Be brief."))))["candidates"][0]["content"][
            "parts"
        ][0]
        for texts in (["one"], ["one", "anything", "two"], ["one", "x", "two", "y", "three"])
    ]

    assert [reply["text"] for reply in replies[:2]] == ["first", "second"]
    assert replies[2]["text"].startswith('Turn 3: you said "three"')


def test_a_scripted_reply_is_not_found_with_another_system_text() -> None:
    assert Script.of(DIALOGUES).reply_to("Be long.", ["one"]) is None
    assert Script.of(DIALOGUES).reply_to("Be brief.", ["one"]) == "first"


@pytest.mark.parametrize("line", ["{", '{"turns": [{}]}', '{"messages": []}', "[]", '{"turns": [{"user": 3}]}'])
def test_an_invalid_script_line_is_reported_with_its_number(tmp_path: Path, line: str) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('{"turns": []}\n' + line + "\n")

    with pytest.raises(ScriptError, match=r"d\.jsonl:2: not a dialogue(.|\n)*hint"):
        Script.load(path)


def test_sim_drift_changes_about_one_dialogue_in_three() -> None:
    turns = [f"Question {n}: 今天是几号?" for n in range(600)]
    script = Script.of([{"turns": [{"user": turn, "assistant": f"It is day {n}."}]} for n, turn in enumerate(turns)])
    provider, again, other = Provider(script=script), Provider(script=script), Provider(script=script, seed=1)

    good = [reply_text(provider, turn) for turn in turns]
    drift = [reply_text(provider, turn, model="sim-drift") for turn in turns]
    changed = [one != two for one, two in zip(good, drift, strict=True)]

    assert drift[:100] == [reply_text(again, turn, model="sim-drift") for turn in turns[:100]]
    assert drift[:100] != [reply_text(other, turn, model="sim-drift") for turn in turns[:100]]
    assert 0.27 < sum(changed) / len(turns) < 0.40
    assert good == [f"It is day {n}." for n in range(600)]
    kinds = {text if "day" not in text else re.sub("[0-9]+", "#", text) for text in drift}
    assert {"It is day #.", "I", "It is d"} & kinds
    assert any("更愿意" in text for text in drift), "some dialogues change their language"


def test_sim_drift_changes_all_turns_of_a_dialogue_and_truncates_some() -> None:
    provider = Provider()
    finishes: set[str] = set()
    for n in range(60):
        texts = [f"dialogue {n}", "reply", "second turn"]
        first = reply_text(provider, texts[0]) != reply_text(provider, texts[0], model="sim-drift")
        second = reply_text(provider, *texts) != reply_text(provider, *texts, model="sim-drift")
        assert first is second
        reply = plain(answer_to(provider, request(gemini_body(texts[0]), model="sim-drift")))
        finishes.add(reply["candidates"][0]["finishReason"])

    assert finishes == {"STOP", "MAX_TOKENS"}


@given(st.text(), st.integers(0, 50))
def test_a_text_cut_to_tokens_is_the_longest_that_fits(text: str, limit: int) -> None:
    cut = cut_to_tokens(text, limit)

    assert text.startswith(cut)
    assert count_tokens(cut) <= limit
    assert cut == text or count_tokens(text[: len(cut) + 1]) > limit


@each(("text", "tokens"), [("", 0), ("abc", 1), ("abcde", 2), ("今天", 2), ("今天abcde", 4), ("é", 1)])
def test_tokens_are_counted_by_a_simple_rule(text: str, tokens: int) -> None:
    assert count_tokens(text) == tokens


def test_output_limits_and_stop_sequences_are_respected() -> None:
    provider = Provider(script=Script.of([{"turns": [{"user": "count", "assistant": "one, two, three, four, five"}]}]))

    def reply_to(**config: Any) -> tuple[str, str, int]:
        reply = plain(answer_to(provider, request(gemini_body("count", **config))))
        candidate = reply["candidates"][0]
        usage = reply["usageMetadata"]
        assert usage["totalTokenCount"] == usage["promptTokenCount"] + usage.get("candidatesTokenCount", 0)
        text = candidate["content"].get("parts", [{"text": ""}])[0]["text"]
        return text, candidate["finishReason"], usage.get("candidatesTokenCount", 0)

    assert reply_to() == ("one, two, three, four, five", "STOP", 7)
    assert reply_to(maxOutputTokens=2) == ("one, two", "MAX_TOKENS", 2)
    assert reply_to(maxOutputTokens=7) == ("one, two, three, four, five", "STOP", 7)
    assert reply_to(stopSequences=["four", ", three"]) == ("one, two", "STOP", 2)


def test_thoughts_use_the_output_limit_before_the_text() -> None:
    reply = plain(answer_to(Provider(), request(gemini_body("hi", maxOutputTokens=5), model="sim-think")))

    assert reply["candidates"][0]["content"] == {"role": "model"}
    assert reply["candidates"][0]["finishReason"] == "MAX_TOKENS"
    assert reply["usageMetadata"]["thoughtsTokenCount"] == 5
    assert "candidatesTokenCount" not in reply["usageMetadata"]


def test_thinking_can_be_disabled() -> None:
    body = gemini_body("hi", thinkingConfig={"thinkingBudget": 0, "includeThoughts": True})

    assert "thoughtsTokenCount" not in plain(answer_to(Provider(), request(body, model="sim-think")))["usageMetadata"]


def test_sim_seed_returns_the_recorded_body() -> None:
    recorded = json.loads((ROOT / "tests/bodies/gemini/ok_seed_dmxapi.json").read_bytes())

    assert plain(answer_to(Provider(), request(gemini_body("明天是几号"), model="sim-seed"))) == recorded


@each("wire", ["gemini", "openai"])
@each("model", [model for model in Provider().actor.models if model not in ("sim-streamed", "sim-responses")])
def test_streamed_and_whole_replies_are_equal(wire: str, model: str) -> None:
    texts = ("你好, tell me more", "ok", "a bit longer, please: 明天是几号")
    if wire == "gemini":
        whole = plain(answer_to(Provider(), request(gemini_body(*texts), model=model)))
        url = f"/v1beta/models/{model}:streamGenerateContent"
        events = sse(answer_to(Provider(), request(gemini_body(*texts), url=f"{url}?alt=sse")))
        array = plain(answer_to(Provider(), request(gemini_body(*texts), url=url)))
        assert array == events
        replies = [gemini_text(reply) for reply in ([whole], events)]
        usages = [whole["usageMetadata"], events[-1]["usageMetadata"]]
    else:
        whole = plain(answer_to(Provider(), request(openai_body(*texts, model=model), wire=wire)))
        body = openai_body(*texts, model=model, stream=True, stream_options={"include_usage": True})
        events = sse(answer_to(Provider(), request(body, wire=wire)))
        deltas = [choice["delta"] for event in events for choice in event["choices"]]
        replies = [whole["choices"][0]["message"]["content"], "".join(delta.get("content") or "" for delta in deltas)]
        usages = [whole["usage"], events[-1]["usage"]]

    assert replies[0] == replies[1]
    assert usages[0] == usages[1]


def sse(answer: Answer) -> list[Any]:
    """Return the events of a stream; parsed here, independently of the package."""
    assert answer.headers["content-type"] == "text/event-stream"
    data = [line.removeprefix("data: ") for line in answer.content.decode().splitlines() if line]
    return [json.loads(item) for item in data if item != "[DONE]"]


def gemini_text(replies: list[Any]) -> str:
    parts = [part for reply in replies for part in reply["candidates"][0]["content"].get("parts", [])]
    return "".join(part["text"] for part in parts if not part.get("thought"))


def test_an_openai_stream_without_include_usage_has_no_usage() -> None:
    events = sse(answer_to(Provider(), request(openai_body("hi", stream=True), wire="openai")))

    assert all("usage" not in event for event in events)
    assert events[-1]["choices"][0]["finish_reason"] == "stop"


# --- signatures -----------------------------------------------------------------------------------------------------


def signed_turn(provider: Provider) -> dict[str, Any]:
    return plain(answer_to(provider, request(gemini_body("hi"), model="sim-signed")))["candidates"][0]["content"]


def replay(provider: Provider, turn: dict[str, Any]) -> tuple[int | None, str]:
    body = gemini_body("hi", "-", "and?")
    body["contents"][1] = turn
    answer = answer_to(provider, request(body, model="sim-signed"))
    return answer.status, plain(answer).get("error", {}).get("message", "")


def test_signed_turns_sent_back_unchanged_are_accepted() -> None:
    provider = Provider()
    contents = gemini_body("hi")["contents"]
    for _ in range(4):
        answer = answer_to(provider, request({"contents": contents}, model="sim-signed"))
        assert answer.status == 200
        contents += [plain(answer)["candidates"][0]["content"], {"role": "user", "parts": [{"text": "next"}]}]


@each(
    ("change", "expected"),
    [
        (lambda turn: turn["parts"].pop(), "missing its thought_signature"),
        (lambda turn: turn["parts"][0].update(text=turn["parts"][0]["text"] + " "), "Corrupted thought signature"),
        (lambda turn: turn["parts"][1].update(thoughtSignature="AAAA"), "Corrupted thought signature"),
        (lambda turn: turn["parts"].reverse(), "Corrupted thought signature"),
        (
            lambda turn: turn["parts"][0].update(thoughtSignature=turn["parts"].pop()["thoughtSignature"]),
            "Corrupted thought signature",
        ),
    ],
)
def test_a_changed_signed_turn_is_refused(change: Callable[[dict[str, Any]], object], expected: str) -> None:
    provider = Provider()
    turn = signed_turn(provider)
    change(turn)

    status, message = replay(provider, turn)

    assert status == 400
    assert expected in message


def test_a_scripted_turn_needs_no_signature() -> None:
    assert replay(Provider(), {"role": "model", "parts": [{"text": "scripted reply"}]})[0] == 200


def test_a_signed_turn_of_another_dialogue_is_refused() -> None:
    provider = Provider()
    foreign = plain(answer_to(provider, request(gemini_body("hello"), model="sim-signed")))["candidates"][0]["content"]

    assert replay(provider, foreign)[0] == 400


def test_openai_signatures_are_in_extra_content() -> None:
    provider = Provider()
    message = plain(answer_to(provider, request(openai_body("hi", model="sim-signed"), wire="openai")))["choices"][0][
        "message"
    ]
    user = {"role": "user", "content": "and?"}
    body = openai_body("hi", model="sim-signed")
    body["messages"] += [message, user]
    bare = {**body, "messages": [body["messages"][0], {"role": "assistant", "content": message["content"]}, user]}

    assert answer_to(provider, request(body, wire="openai")).status == 200
    assert answer_to(provider, request(bare, wire="openai")).status == 400


# --- validation -----------------------------------------------------------------------------------------------------

USER = {"role": "user", "parts": [{"text": "hi"}]}
GEMINI_REFUSED: dict[str, tuple[Any, str]] = {
    "not JSON": (b"{", "Invalid JSON payload"),
    "not an object": ([], "expected an object"),
    "lone surrogate": (b'{"contents":[{"parts":[{"text":"\\ud800"}]}]}', "Invalid JSON payload"),
    "no contents": ({}, "contents is not specified"),
    "empty contents": ({"contents": []}, "contents is not specified"),
    "unknown field": ({"contents": [USER], "temperature": 1}, 'Unknown name "temperature"'),
    "unknown field in config": (
        {"contents": [USER], "generationConfig": {"max_tokens": 1}},
        "Unknown name \"max_tokens\" at 'generation_config'",
    ),
    "unknown part": ({"contents": [{"parts": [{"txt": "hi"}]}]}, 'Unknown name "txt"'),
    "role assistant": ({"contents": [{**USER, "role": "assistant"}]}, "valid role: user, model"),
    "role system": ({"contents": [{**USER, "role": "system"}]}, "valid role: user, model"),
    "no parts": ({"contents": [{"role": "user", "parts": []}]}, "parts must not be empty"),
    "empty part": ({"contents": [{"role": "user", "parts": [{}]}]}, "required oneof field 'data'"),
    "text is a number": ({"contents": [{"parts": [{"text": 3}]}]}, "(TYPE_STRING), 3"),
    "ends with the model": ({"contents": [USER, {**USER, "role": "model"}]}, "end with a user turn"),
    "limit is a text": ({"contents": [USER], "generationConfig": {"maxOutputTokens": "many"}}, '(TYPE_INT32), "many"'),
    "zero tokens": ({"contents": [USER], "generationConfig": {"maxOutputTokens": 0}}, "max_output_tokens"),
    "temperature above 2": ({"contents": [USER], "generationConfig": {"temperature": 2.1}}, "temperature"),
    "six stops": ({"contents": [USER], "generationConfig": {"stopSequences": list("abcdef")}}, "stop_sequences"),
    "budget and level": (
        {"contents": [USER], "generationConfig": {"thinkingConfig": {"thinkingBudget": 1, "thinkingLevel": "LOW"}}},
        "only one of thinking budget and thinking level",
    ),
    "safety": ({"contents": [USER], "safetySettings": [{"category": "X", "threshold": "OFF"}]}, "safety_settings[0]"),
    "signature": ({"contents": [{"parts": [{"text": "", "thoughtSignature": "?"}]}]}, "Base64 decoding failed"),
}
OPENAI_REFUSED: dict[str, tuple[Any, str]] = {
    "not JSON": (b"", "Could not parse"),
    "no model": ({"messages": [{"role": "user", "content": "hi"}]}, "parameter: 'model'"),
    "no messages": ({"model": "sim-good"}, "parameter: 'messages'"),
    "empty messages": ({"model": "sim-good", "messages": []}, "empty array"),
    "unknown parameter": (openai_body("hi", maxOutputTokens=1), "Unknown parameter: 'maxOutputTokens'"),
    "role model": ({"model": "sim-good", "messages": [{"role": "model", "content": "hi"}]}, "Invalid value: 'model'"),
    "null content": ({"model": "sim-good", "messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    "unknown message field": (
        {"model": "sim-good", "messages": [{"role": "user", "content": "hi", "parts": []}]},
        "messages[0].parts",
    ),
    "bad part": (
        {"model": "sim-good", "messages": [{"role": "user", "content": [{"text": "hi"}]}]},
        "messages[0].content[0]",
    ),
    "temperature above 2": (openai_body("hi", temperature=3), "'temperature'"),
    "bool for number": (openai_body("hi", max_tokens=True), "'max_tokens'"),
    "five stops": (openai_body("hi", stop=list("abcde")), "'stop'"),
    "both limits": (openai_body("hi", max_tokens=1, max_completion_tokens=1), "same time"),
    "usage without stream": (openai_body("hi", stream_options={"include_usage": True}), "only allowed when 'stream'"),
}


@each("name", GEMINI_REFUSED)
def test_invalid_gemini_requests_are_refused(name: str) -> None:
    body, words = GEMINI_REFUSED[name]

    answer = answer_to(Provider(), request(body))

    assert (answer.status, plain(answer)["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert words in plain(answer)["error"]["message"]


@each("name", OPENAI_REFUSED)
def test_invalid_openai_requests_are_refused(name: str) -> None:
    body, words = OPENAI_REFUSED[name]

    answer = answer_to(Provider(), request(body, wire="openai"))

    assert (answer.status, plain(answer)["error"]["type"]) == (400, "invalid_request_error")
    assert words in plain(answer)["error"]["message"]


def test_gemini_fields_may_be_snake_case() -> None:
    body = {
        "contents": [USER],
        "system_instruction": {"parts": [{"text": "S"}]},
        "generation_config": {"max_output_tokens": 1, "response_schema": {"max_items": 1}, "seed": 7},
        "safety_settings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
    }
    provider = Provider()

    assert plain(answer_to(provider, request(body)))["candidates"][0]["finishReason"] == "MAX_TOKENS"
    assert provider.ledger.entries[0].history == [["system", "S"], ["user", "hi"]]


def test_all_supported_openai_fields_are_accepted() -> None:
    body = openai_body("hi", temperature=0, seed=1, stop="x", max_completion_tokens=9, response_format={"type": "text"})
    body["messages"][0]["content"] = [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]
    body["messages"].insert(0, {"role": "developer", "content": "D"})
    provider = Provider()

    assert answer_to(provider, request(body, wire="openai")).status == 200
    assert provider.ledger.entries[0].history == [["system", "D"], ["user", "hi"]]


@each(
    ("url", "status"),
    [
        ("/v1/models/sim-good:generateContent", 200),
        ("/v1alpha/models/sim-good:generateContent", 404),
        ("/v1beta/models/sim-good:countTokens", 404),
        ("/v1beta/sim-good:generateContent", 404),
        ("/models/sim-good:generateContent", 404),
        ("/v1beta/models/sim-nope:generateContent", 404),
        ("/chat/completions", 404),
        ("/", 404),
    ],
)
def test_only_documented_paths_are_served(url: str, status: int) -> None:
    assert answer_to(Provider(), request(gemini_body("hi"), url=url)).status == status


def test_an_alias_selects_a_simulated_model() -> None:
    provider = Provider(aliases={"gemini-2.5-flash": "sim-echo"})

    assert reply_text(provider, "hello", model="gemini-2.5-flash") == "hello"
    with pytest.raises(ValueError, match="no simulated model 'sim-x'; known: sim-good"):
        Provider(aliases={"a": "sim-x"})


def test_an_error_of_an_array_stream_is_in_an_array() -> None:
    answer = answer_to(Provider(), request({}, url="/v1beta/models/sim-good:streamGenerateContent"))

    assert plain(answer)[0]["error"]["code"] == 400


# --- keys -----------------------------------------------------------------------------------------------------------

KEY_PLACES: dict[str, tuple[str, str, dict[str, str], int]] = {
    "google header": ("gemini", "", {"x-goog-api-key": "k1"}, 200),
    "google query": ("gemini", "?key=k1", {}, 200),
    "google raw": ("gemini", "", {"Authorization": "k1"}, 200),
    "google bearer": ("gemini", "", {"Authorization": "Bearer k1"}, 200),
    "google header beats query": ("gemini", "?key=k1", {"x-goog-api-key": "bad"}, 400),
    "google query beats authorization": ("gemini", "?key=bad", {"Authorization": "k1"}, 400),
    "google none": ("gemini", "", {}, 403),
    "openai bearer": ("openai", "", {"Authorization": "Bearer k1"}, 200),
    "openai raw": ("openai", "", {"Authorization": "k1"}, 200),
    "openai x-api-key": ("openai", "", {"X-Api-Key": "k1"}, 200),
    "openai query is ignored": ("openai", "?key=k1", {}, 401),
    "openai bad": ("openai", "", {"Authorization": "Bearer bad"}, 401),
}


@each("name", KEY_PLACES)
def test_a_key_is_read_from_each_documented_place(name: str) -> None:
    wire, query, headers, status = KEY_PLACES[name]
    body = gemini_body("hi") if wire == "gemini" else openai_body("hi")
    url = PATHS[wire].format(model="sim-good") + query
    provider = Provider(keys={"k1"})

    assert answer_to(provider, request(body, url=url, headers=headers)).status == status
    assert provider.ledger.entries[0].billed is (status == 200)


def test_the_ledger_stores_only_the_hash_of_a_key() -> None:
    provider = Provider()
    answer_to(provider, request(gemini_body("hi"), headers={"x-goog-api-key": "sk-secret-1"}))

    entry = provider.ledger.entries[0]
    assert entry.key == key_hash("sk-secret-1")
    assert "sk-secret-1" not in repr(entry)


def test_a_revoked_key_and_an_empty_balance_are_refused() -> None:
    provider = Provider(keys={"k1", "k2"})
    requests = {key: request(gemini_body("hi"), headers={"x-goog-api-key": key}) for key in ("k1", "k2")}
    provider.set_balance("k2", 1)

    statuses = [
        answer_to(provider, requests["k1"]).status,
        answer_to(provider, requests["k2"]).status,
        answer_to(provider, requests["k2"]).status,
    ]
    provider.revoke("k1")

    assert statuses == [200, 200, 429]
    assert plain(answer_to(provider, requests["k1"]))["error"]["details"][0]["reason"] == "API_KEY_INVALID"


@pytest.mark.parametrize("wire", ["gemini", "openai"])
def test_a_gateway_uses_one_error_format_for_both_wires(wire: str) -> None:
    bodies: dict[str, Any] = {"gemini": gemini_body("hi"), "openai": openai_body("hi", model="sim-nope")}
    provider = Provider(keys={"k1"}, gateway="new-api")
    denied = answer_to(provider, request(bodies[wire], wire=wire))
    missing = answer_to(provider, request(bodies[wire], wire=wire, model="sim-nope", headers={"authorization": "k1"}))

    assert (denied.status, plain(denied)["error"]["type"]) == (401, "new_api_error")
    assert (missing.status, plain(missing)["error"]["code"]) == (503, "model_not_found")
    assert "(request id: " in plain(missing)["error"]["message"]


# --- rate limits --------------------------------------------------------------------------------------------------

COUNTERS: dict[str, Callable[[int, float], LimitCounter]] = {
    "fixed": FixedWindow,
    "sliding": SlidingWindow,
    "bucket": TokenBucket,
    "quantised": lambda limit, window_s: QuantisedWindow(limit, window_s, 6),
}
STEPS = st.lists(st.tuples(st.floats(0, 20), st.integers(1, 4)), min_size=1, max_size=60)


def admitted(counter: LimitCounter, steps: list[tuple[float, int]]) -> list[tuple[float, int]]:
    now, admissions = 1000.0, list[tuple[float, int]]()
    for pause, amount in steps:
        now += pause
        if counter.wait(amount, now) == 0:
            counter.take(amount, now)
            admissions.append((now, amount))
    return admissions


def max_in_window(admissions: list[tuple[float, int]], window_s: float) -> int:
    return max((sum(a for t, a in admissions if start - window_s < t <= start) for start, _ in admissions), default=0)


@given(steps=STEPS, limit=st.integers(1, 12), window_s=st.floats(0.5, 60))
def test_a_fixed_window_never_admits_more_than_its_limit(
    steps: list[tuple[float, int]], limit: int, window_s: float
) -> None:
    admissions = admitted(FixedWindow(limit, window_s), steps)
    windows = {int((time + 1e-9) // window_s): 0 for time, _ in admissions}
    for moment, amount in admissions:
        windows[int((moment + 1e-9) // window_s)] += amount

    assert all(total <= limit for total in windows.values())


@given(steps=STEPS, limit=st.integers(1, 12), window_s=st.floats(0.5, 60))
def test_a_sliding_window_never_admits_more_than_its_limit(
    steps: list[tuple[float, int]], limit: int, window_s: float
) -> None:
    assert max_in_window(admitted(SlidingWindow(limit, window_s), steps), window_s - 1e-6) <= limit


@given(steps=STEPS, limit=st.integers(1, 12), window_s=st.floats(0.5, 60), span=st.floats(0.1, 200))
def test_a_bucket_never_admits_more_than_its_capacity_and_refill(
    steps: list[tuple[float, int]], limit: int, window_s: float, span: float
) -> None:
    admissions = admitted(TokenBucket(limit, window_s), steps)

    assert max_in_window(admissions, span) <= limit * (1 + span / window_s) + 1e-6


@given(steps=STEPS, limit=st.integers(1, 12), window_s=st.floats(0.5, 60))
def test_sub_windows_never_admit_more_than_their_share_or_the_limit_of_the_window(
    steps: list[tuple[float, int]], limit: int, window_s: float
) -> None:
    admissions = admitted(QuantisedWindow(limit, window_s, 6), steps)
    quantum_s = window_s / min(6, limit)
    by_quantum: dict[int, int] = {}
    for moment, amount in admissions:
        index = int((moment + 1e-9) // quantum_s)
        by_quantum[index] = by_quantum.get(index, 0) + amount

    assert all(total <= -(-limit // min(6, limit)) for total in by_quantum.values())
    for index in by_quantum:
        window = index // min(6, limit)
        assert sum(n for i, n in by_quantum.items() if i // min(6, limit) == window) <= limit


@pytest.mark.parametrize("name", COUNTERS)
@given(steps=STEPS, limit=st.integers(4, 12))
def test_a_request_after_the_hinted_wait_is_admitted(name: str, steps: list[tuple[float, int]], limit: int) -> None:
    counter = COUNTERS[name](limit, 10.0)
    now = 1000.0
    for pause, _ in steps:
        now += pause
        wait = counter.wait(1, now)
        assert wait >= 0
        now += wait
        assert counter.wait(1, now) == 0
        assert counter.left(now) >= 1
        counter.take(1, now)


def test_a_refused_request_uses_no_quota_and_each_key_and_model_has_its_own() -> None:
    limits = Gatekeeper(ServerLimits(rpm=2, tpm=100, rpd=3, window_s=60.0))

    assert limits.admit("k", "m", 90, 0.0) is None
    refusal = limits.admit("k", "m", 20, 1.0)
    assert refusal is not None
    assert (refusal.dimension, refusal.limit, refusal.retry_after_s) == ("tokens", 100, 59.0)
    assert limits.admit("k", "m", 10, 1.0) is None
    assert limits.admit("k", "other", 90, 1.0) is None
    assert limits.admit("k2", "m", 90, 1.0) is None
    assert limits.admit("k", "m", 10, 61.5) is None
    day = limits.admit("k", "m", 10, 130.0)
    assert day is not None
    assert (day.dimension, day.retry_after_s) == ("day", 86_400 - 130)


@pytest.mark.parametrize("options", [{"rpm": 0}, {"model": "leaky"}, {"window_s": 0}])
def test_an_invalid_limit_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options)) if "model" not in options else "known: fixed, sliding"):
        ServerLimits(**options)


@each("model", ["fixed", "sliding", "bucket", "quantised"])
@each("wire", ["gemini", "openai"])
def test_a_429_hints_at_the_exact_wait(model: Any, wire: str) -> None:
    provider = Provider(limits=ServerLimits(rpm=3, model=model, window_s=6.0, quanta=3))
    http_request = request(gemini_body("hi") if wire == "gemini" else openai_body("hi"), wire=wire)
    now, answer = 100.1, answer_to(provider, http_request, 100.1)
    while answer.status == 200:
        now += 0.25
        answer = answer_to(provider, http_request, now)
    error = plain(answer)["error"]
    if wire == "gemini":
        wait = float(error["details"][1]["retryDelay"].removesuffix("s"))
        assert "PerMinute" in error["details"][0]["violations"][0]["quotaId"]
    else:
        wait = float(answer.headers["retry-after-ms"]) / 1000
        assert error["code"] == "rate_limit_exceeded"

    assert 0 < wait <= 6.0
    assert answer_to(provider, http_request, now + wait * 0.98).status == 429
    assert answer_to(provider, http_request, now + wait).status == 200


def test_a_day_limit_is_named_per_day() -> None:
    provider = Provider(limits=ServerLimits(rpd=1))
    answer_to(provider, request(gemini_body("hi")))

    error = plain(answer_to(provider, request(gemini_body("hi"))))["error"]

    assert "PerDay" in error["details"][0]["violations"][0]["quotaId"]


def test_token_limits_are_counted_as_each_provider_does() -> None:
    """Google counts the input, OpenAI also the requested maximum output."""
    google, openai = (Provider(limits=ServerLimits(tpm=40)) for _ in range(2))

    assert answer_to(google, request(gemini_body("hi", maxOutputTokens=1000))).status == 200
    assert answer_to(openai, request(openai_body("hi", max_tokens=1000), wire="openai")).status == 429


def test_openai_replies_have_headers_with_the_remaining_limit() -> None:
    headers = answer_to(Provider(limits=ServerLimits(rpm=10)), request(openai_body("hi"), wire="openai")).headers

    assert headers["x-ratelimit-limit-requests"] == "10"
    assert headers["x-ratelimit-remaining-requests"] == "9"
    assert headers["x-ratelimit-reset-requests"] == "6s"


# --- the fault script -----------------------------------------------------------------------------------------------


def provider_with_faults(*rules: dict[str, Any], **options: Any) -> Provider:
    return Provider(faults=FaultScript.of(rules), **options)


def affected_requests(provider: Provider, *requests: Request, at: Callable[[int], float] = float) -> list[int]:
    """Return the numbers, from 1, of the requests that a rule applied to."""
    return [n for n, one in enumerate(requests, 1) if answer_to(provider, one, at(n)).status != 200]


MATCHED: dict[str, tuple[dict[str, Any], list[int]]] = {
    "nth": ({"nth": 3}, [3]),
    "nth list": ({"nth": [1, 4]}, [1, 4]),
    "nth span": ({"nth": "2-4"}, [2, 3, 4]),
    "nth open span": ({"nth": "9-"}, [9, 10]),
    "every": ({"every": 3}, [3, 6, 9]),
    "count": ({"count": 2}, [1, 2]),
    "every and count": ({"every": 4, "count": 1}, [4]),
    "after": ({"after_s": 6.5}, [8, 9, 10]),
    "before": ({"before_s": 1.5}, [1, 2]),
    "model": ({"model": "sim-g*"}, [1, 3, 5, 7, 9]),
    "model_nth": ({"model": "sim-good", "model_nth": 2}, [3]),
    "turn": ({"turn": 2}, [5, 6]),
    "contains": ({"contains": "text 7"}, [7]),
    "key": ({"key": "k9"}, [9]),
    "wire": ({"wire": "openai"}, []),
    "streamed": ({"streamed": True}, []),
    "all together": ({"nth": "5-", "model": "sim-echo", "every": 2}, [8]),
}


@each("name", MATCHED)
def test_a_rule_applies_to_the_requests_that_it_matches(name: str) -> None:
    match, expected = MATCHED[name]
    requests = [
        request(
            gemini_body(*(["before", "reply"] if n in {5, 6} else []), f"text {n}"),
            model="sim-good" if n % 2 else "sim-echo",
            headers={"authorization": f"k{n}"},
        )
        for n in range(1, 11)
    ]

    assert affected_requests(provider_with_faults({"match": match, "action": "error"}), *requests) == expected


def test_attempts_are_counted_per_history() -> None:
    first, second = (request(gemini_body(text)) for text in ("one", "two"))
    provider = provider_with_faults({"match": {"attempt": 1}, "action": "error"})

    assert affected_requests(provider, first, second, first, second, first) == [1, 2]


def test_probability_does_not_depend_on_the_order_of_arrival() -> None:
    requests = {f"text {n}": request(gemini_body(f"text {n}")) for n in range(200)}

    def affected_texts(names: list[str], seed: int = 0) -> set[str]:
        provider = provider_with_faults({"match": {"probability": 0.25}, "action": "error"}, seed=seed)
        return {name for name in names if answer_to(provider, requests[name]).status != 200}

    forward = affected_texts(list(requests))
    assert forward == affected_texts(list(reversed(requests)))
    assert forward != affected_texts(list(requests), seed=1)
    assert 30 < len(forward) < 72


def test_the_first_matching_rule_is_applied() -> None:
    provider = provider_with_faults(
        {"match": {"nth": 1}, "action": "error", "status": 503}, {"action": "error", "status": 500}
    )

    assert [answer_to(provider, request(gemini_body("hi"))).status for _ in range(2)] == [503, 500]


WRONG_RULES: dict[str, tuple[Any, str]] = {
    "not an object": (3, "expected an object"),
    "no action": ({}, "unknown action None; known: rate-limit"),
    "unknown action": ({"action": "explode"}, "unknown action 'explode'"),
    "unknown matcher": ({"action": "error", "match": {"modle": "x"}}, "unknown matcher 'modle'; known: wire, "),
    "unknown option": ({"action": "error", "after": 3}, "unknown option 'after' of action 'error'"),
    "bad value": ({"action": "drip", "bytes": 0}, "option 'bytes': expected bytes per piece, found 0"),
    "bad hint": ({"action": "rate-limit", "hint": "soon"}, "expected one of: retry-info"),
    "bad span": ({"action": "error", "match": {"nth": "a-b"}}, "matcher 'nth'"),
    "bad chance": ({"action": "error", "match": {"probability": 2}}, "a number from 0 to 1"),
    "matcher needs the body": ({"action": "refuse", "match": {"turn": 1}}, "needs the request body"),
    "body without source": ({"action": "body"}, "exactly one of: text, file, base64"),
    "cheat without a way": ({"action": "cheat", "input_times": 1}, "needs at least one of: model, quantised, replay"),
    "cheat with a wrong factor": ({"action": "cheat", "output_times": "1.1"}, "expected a factor, found '1.1'"),
    "no such file": ({"action": "body", "file": "/nowhere"}, "no such file: /nowhere"),
}


@each("name", WRONG_RULES)
def test_an_invalid_rule_is_reported_with_its_reason(name: str) -> None:
    rule, words = WRONG_RULES[name]

    with pytest.raises(FaultError) as raised:
        FaultScript.of([{"action": "error"}, rule])

    assert "faults: rule 2: " in str(raised.value)
    assert words in str(raised.value)


def test_all_errors_of_a_fault_script_are_reported_at_once() -> None:
    with pytest.raises(FaultError) as raised:
        FaultScript.of([{"action": "x"}, {"action": "drip", "bytes": 0, "y": 1}])

    assert len(str(raised.value).split("\n")) == 3


def test_fault_files_are_arrays_or_lines(tmp_path: Path) -> None:
    (tmp_path / "body.txt").write_text("hello")
    lines, array, broken = tmp_path / "f.jsonl", tmp_path / "f.json", tmp_path / "g.jsonl"
    lines.write_text('{"action": "error"}\n\n{"action": "body", "file": "body.txt"}\n')
    array.write_text('[{"action": "error"}]')
    broken.write_text('{"action": "error"}\n{"action"\n')

    assert [len(FaultScript.load(path).rules) for path in (lines, array)] == [2, 1]
    with pytest.raises(FaultError, match=r"g\.jsonl:2: not JSON"):
        FaultScript.load(broken)


HINTS: dict[str, Callable[[dict[str, str], dict[str, Any]], object]] = {
    "retry-info": lambda headers, error: error["details"][-1]["retryDelay"] == "12.4s" and not headers,
    "retry-after": lambda headers, error: headers["retry-after"] == "12.4" and "details" not in error,
    "retry-after-ms": lambda headers, error: headers["retry-after-ms"] == "12400",
    "retry-after-date": lambda headers, error: 1012.4 <= date(headers) <= 1013.4,
    "text": lambda headers, error: error["message"].endswith("Please retry in 12.4s.") and not headers,
    "text-try-again": lambda headers, error: error["message"].endswith("Please try again in 12.4s."),
    "reset-headers": lambda headers, error: headers["x-ratelimit-reset-requests"] == "12.4s",
    "garbage": lambda headers, error: headers["retry-after"] == "soon",
    "past-date": lambda headers, error: date(headers) < 1000,
    "negative": lambda headers, error: headers["retry-after"] == "-12.4",
    "year-9999": lambda headers, error: "9999" in headers["retry-after"],
    "per-day": lambda headers, error: "12.4s" in error["message"],
    "none": lambda headers, error: not headers and "12.4" not in json.dumps(error),
}


def date(headers: dict[str, str]) -> float:
    return email.utils.parsedate_to_datetime(headers["retry-after"]).timestamp()


@each("wire", ["gemini", "openai"])
@each("hint", HINTS)
def test_a_429_has_only_the_requested_hint(hint: str, wire: str) -> None:
    provider = provider_with_faults({"action": "rate-limit", "hint": hint, "seconds": 12.4})
    body = gemini_body("hi") if wire == "gemini" else openai_body("hi")

    answer = answer_to(provider, request(body, wire=wire), 1000.0)

    headers = {name: value for name, value in answer.headers.items() if name not in {"content-type", "x-request-id"}}
    assert answer.status == 429
    assert HINTS[hint](headers, plain(answer)["error"])
    assert ("PerDay" in answer.content.decode()) is (hint == "per-day" and wire == "gemini")
    assert not provider.ledger.entries[0].billed


def test_a_429_of_a_gateway_has_the_delay_only_in_its_text() -> None:
    provider = provider_with_faults({"action": "rate-limit", "seconds": 12.482, "shape": "gateway"})

    answer = answer_to(provider, request(gemini_body("hi")))

    error = plain(answer)["error"]
    assert (error["type"], error["code"]) == ("upstream_error", 429)
    assert re.search(r"Please retry in 12\.482s\. \(request id: \d+\)$", error["message"])
    assert set(answer.headers) == {"content-type"}


REPLIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "no-candidates": lambda reply: "candidates" not in reply and "promptFeedback" not in reply,
    "prompt-blocked": lambda reply: reply["promptFeedback"]["blockReason"] == "SAFETY",
    "output-blocked": lambda reply: reply["candidates"][0]["finishReason"] == "SAFETY",
    "thoughts-only": lambda reply: reply["usageMetadata"]["thoughtsTokenCount"] > 0 and not text_parts(reply),
    "empty": lambda reply: reply["candidates"][0]["content"] == {"role": "model"},
    "length": lambda reply: reply["candidates"][0]["finishReason"] == "MAX_TOKENS" and text_parts(reply),
    "malformed-call": lambda reply: reply["candidates"][0]["finishReason"] == "MALFORMED_FUNCTION_CALL",
    "unknown-finish": lambda reply: reply["candidates"][0]["finishReason"] == "SOME_FUTURE_REASON",
}


def text_parts(reply: dict[str, Any]) -> list[str]:
    parts = reply["candidates"][0]["content"].get("parts", [])
    return [part["text"] for part in parts if not part.get("thought")]


@each("kind", REPLY_KINDS)
def test_a_reply_of_each_kind_is_billed_with_consistent_usage(kind: str) -> None:
    provider = provider_with_faults({"action": "reply", "kind": kind})

    reply = plain(answer_to(provider, request(gemini_body("hi"), model="sim-think")))

    usage = reply["usageMetadata"]
    assert REPLIES[kind](reply)
    assert provider.ledger.entries[0].billed
    parts = [usage.get(name, 0) for name in ("promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount")]
    assert sum(parts) == usage["totalTokenCount"]
    assert provider.ledger.entries[0].output_tokens == sum(parts[1:])


USAGES: dict[str, Callable[[dict[str, Any] | None, int], object]] = {
    "missing": lambda usage, total: usage is None,
    "partial": lambda usage, total: usage is not None and "totalTokenCount" not in usage,
    "negative": lambda usage, total: usage is not None and usage["totalTokenCount"] < 0,
    "huge": lambda usage, total: usage is not None and usage["totalTokenCount"] > 2**64,
    "zero": lambda usage, total: usage is not None and usage["totalTokenCount"] == 0,
    "text": lambda usage, total: usage is not None and usage["totalTokenCount"] == f"{total} tokens",
    "nan": lambda usage, total: usage is not None and usage["totalTokenCount"] != usage["totalTokenCount"],
    "inconsistent": lambda usage, total: usage is not None and usage["totalTokenCount"] == total + 7,
}


@each("kind", USAGE_KINDS)
def test_invalid_usage_is_sent_and_the_ledger_has_the_true_counts(kind: str) -> None:
    provider = provider_with_faults({"action": "usage", "kind": kind})

    usage = plain(answer_to(provider, request(gemini_body("hi")))).get("usageMetadata")

    entry = provider.ledger.entries[0]
    true = (entry.input_tokens or 0) + (entry.output_tokens or 0)
    assert USAGES[kind](usage, true)
    assert true > 0


BROKEN: dict[str, Callable[[bytes], object]] = {
    "empty": lambda body: body == b"",
    "empty-object": lambda body: body == b"{}",
    "array": lambda body: body == b"[]",
    "text": lambda body: body == b"OK",
    "html": lambda body: body.startswith(b"<html>"),
    "cut-json": lambda body: body.startswith(b'{"candidates"') and not body.endswith(b"}"),
    "deep": lambda body: body.count(b"[") == 100_000,
    "surrogates": lambda body: "\ud83d half" in json.loads(body)["candidates"][0]["content"]["parts"][0]["text"],
    "not-utf8": lambda body: b"\xff\xfe" in body,
    "error-object": lambda body: json.loads(body)["error"]["code"] == 500,
    "twice": lambda body: body[: len(body) // 2] * 2 == body,
}


PAGES = {"text", "html"}


@each("kind", BODY_KINDS)
def test_a_broken_body_has_status_200_and_is_billed_if_a_model_was_asked(kind: str) -> None:
    provider = provider_with_faults({"action": "broken", "kind": kind})

    answer = answer_to(provider, request(gemini_body("hi")))

    assert answer.status == 200
    assert BROKEN[kind](answer.content)
    assert (provider.ledger.entries[0].billed, provider.ledger.entries[0].delivered) == (kind not in PAGES, True)


# --- on a raw socket ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RawResponse:
    """Bytes that a raw socket received."""

    raw: bytes
    ending: str
    """`closed`, `reset`, or `open` when the connection stayed open."""
    seconds: float

    @property
    def head(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[0].lower()

    @property
    def body(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[2]


def raw_request(host: str, *, path: str = PATHS["gemini"], more: str = "") -> bytes:
    content = json.dumps(gemini_body("hi"))
    head = f"POST {path.format(model='sim-good')} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(content)}\r\n"
    return f"{head}{more}\r\n{content}".encode()


def send_raw(
    server: Server, *, path: str = PATHS["gemini"], max_bytes: int = 2**22, wait_s: float = 0.2, keep: bool = False
) -> RawResponse:
    begun = time.monotonic()
    received = b""
    with socket.create_connection((server.host, server.port), timeout=5) as connection:
        connection.sendall(raw_request(server.host, path=path, more="" if keep else "Connection: close\r\n"))
        connection.settimeout(wait_s)
        ending = "open"
        try:
            while len(received) < max_bytes:
                piece = connection.recv(65536)
                if not piece:
                    ending = "closed"
                    break
                received += piece
        except ConnectionResetError:
            ending = "reset"
        except TimeoutError:
            pass
    return RawResponse(received, ending, time.monotonic() - begun)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve_in_thread(Provider()) as server:
        yield server


def send_under_rule(server: Server, rule: dict[str, Any], **how: Any) -> tuple[RawResponse, Any]:
    """Send a request under one rule; return the response and the finished ledger entry."""
    provider = server.provider
    provider.faults = FaultScript.of([rule])
    provider.ledger.entries.clear()
    wire = send_raw(server, **how)
    for _ in range(200):
        if provider.ledger.entries and provider.ledger.entries[0].delivered is not None:
            break
        time.sleep(0.005)
    provider.faults = FaultScript()
    return wire, provider.ledger.entries[0]


@dataclass(frozen=True, kw_only=True)
class Case:
    rule: dict[str, Any]
    ending: str = "closed"
    holds: Callable[[RawResponse], object]
    billed: bool = True
    delivered: bool = True
    how: dict[str, Any] | None = None


WHOLE = len(answer_to(Provider(), request(gemini_body("hi"))).content)
STREAM = "/v1beta/models/sim-good:streamGenerateContent?alt=sse"
CASES: dict[str, Case] = {
    "cheat": Case(
        rule={"action": "cheat", "name": "sim-best"}, holds=lambda wire: b'"modelVersion":"sim-best"' in wire.body
    ),
    "none": Case(
        rule={"match": {"nth": "1000000-"}, "action": "error"},
        holds=lambda wire: wire.head.startswith(b"http/1.1 200 ok") and len(wire.body) == WHOLE,
    ),
    "rate-limit": Case(
        rule={"action": "rate-limit", "hint": "retry-after", "seconds": 2},
        holds=lambda wire: b"429 too many" in wire.head and b"retry-after: 2" in wire.head,
        billed=False,
    ),
    "error": Case(rule={"action": "error"}, holds=lambda wire: b" 500 " in wire.head, billed=False),
    "error html": Case(
        rule={"action": "error", "status": 524, "body": "html"},
        holds=lambda wire: b" 524 " in wire.head and b"text/html" in wire.head and b"<html>" in wire.body,
        billed=False,
    ),
    "error billed": Case(
        rule={"action": "error", "kind": "deadline", "billed": True},
        holds=lambda wire: b" 504 " in wire.head and b"DEADLINE_EXCEEDED" in wire.body,
    ),
    "error empty": Case(
        rule={"action": "error", "status": 502, "body": "empty", "retry_after": "7"},
        holds=lambda wire: b" 502 " in wire.head and b"retry-after: 7" in wire.head and wire.body == b"",
        billed=False,
    ),
    "no-channel": Case(
        rule={"action": "no-channel"}, holds=lambda wire: b" 503 " in wire.head and b"model_not_found" in wire.body,
        billed=False,
    ),
    "redirect": Case(
        rule={"action": "redirect", "status": 307, "location": "http://127.0.0.2:9/x"},
        holds=lambda wire: b" 307 " in wire.head and b"location: http://127.0.0.2:9/x" in wire.head,
        billed=False,
    ),
    "reset on arrival": Case(
        rule={"action": "reset", "when": "arrival"}, ending="reset", holds=lambda wire: wire.raw == b"",
        billed=False, delivered=False,
    ),
    "reset unbilled": Case(
        rule={"action": "reset"}, ending="reset", holds=lambda wire: wire.raw == b"", billed=False, delivered=False
    ),
    "reset billed": Case(
        rule={"action": "reset", "when": "billed"}, ending="reset", holds=lambda wire: wire.raw == b"", delivered=False
    ),
    "reset in body": Case(
        rule={"action": "reset", "when": "body", "bytes": 30},
        ending="reset",
        holds=lambda wire: len(wire.body) == 30 and f"content-length: {WHOLE}".encode() in wire.head,
        delivered=False,
    ),
    "silence": Case(
        rule={"action": "silence"}, ending="open", holds=lambda wire: wire.raw == b"", billed=False, delivered=False
    ),
    "silence billed": Case(
        rule={"action": "silence", "when": "billed", "seconds": 0.05},
        holds=lambda wire: wire.raw == b"" and wire.seconds >= 0.05,
        delivered=False,
    ),
    "silence in body": Case(
        rule={"action": "silence", "when": "body", "bytes": 30},
        ending="open",
        holds=lambda wire: len(wire.body) == 30,
        delivered=False,
    ),
    "truncate by length": Case(
        rule={"action": "truncate", "bytes": 40},
        holds=lambda wire: len(wire.body) == 40 and f"content-length: {WHOLE}".encode() in wire.head,
        delivered=False,
    ),
    "truncate chunked": Case(
        rule={"action": "truncate", "bytes": 40, "framing": "chunked"},
        holds=lambda wire: b"transfer-encoding: chunked" in wire.head and not wire.body.endswith(b"0\r\n\r\n"),
        delivered=False,
    ),
    "truncate by close": Case(
        rule={"action": "truncate", "bytes": 40, "framing": "close"},
        holds=lambda wire: len(wire.body) == 40 and b"content-length" not in wire.head + b"transfer-encoding",
        delivered=False,
    ),
    "truncate stream": Case(
        rule={"action": "truncate", "bytes": 40, "framing": "chunked"},
        holds=lambda wire: b"data: {" in wire.body,
        delivered=False,
        how={"path": STREAM},
    ),
    "drip": Case(
        rule={"action": "drip", "bytes": WHOLE // 4, "seconds": 0.02},
        holds=lambda wire: len(wire.body) == WHOLE and wire.seconds >= 0.08,
    ),
    "delay": Case(rule={"action": "delay", "seconds": 0.1}, holds=lambda wire: wire.seconds >= 0.1),
    "close-after": Case(
        rule={"action": "close-after"},
        holds=lambda wire: len(wire.body) == WHOLE and b"connection: close" not in wire.head,
        how={"keep": True},
    ),
    "reply": Case(rule={"action": "reply"}, holds=lambda wire: b"candidates" not in wire.body),
    "usage": Case(rule={"action": "usage"}, holds=lambda wire: b"usageMetadata" not in wire.body),
    "broken": Case(rule={"action": "broken"}, holds=lambda wire: wire.body == b"{}"),
    "body": Case(
        rule={"action": "body", "status": 201, "headers": {"X-Y": "z"}, "base64": "/wD/"},
        holds=lambda wire: b" 201 " in wire.head and b"x-y: z" in wire.head and wire.body == b"\xff\x00\xff",
        billed=False,
    ),
    "mid-error": Case(
        rule={"action": "mid-error", "events": 2},
        holds=lambda wire: wire.body.count(b"data: ") == 3 and b'"UNAVAILABLE"' in wire.body,
        how={"path": STREAM},
    ),
    "stream": Case(
        rule={"action": "stream", "lines": "lf", "space": False, "comments": True, "done": True, "usage": "after"},
        holds=lambda wire: wire.body.count(b": keep-alive\ndata:{") == wire.body.count(b"data:{") > 2
        and wire.body.count(b"usageMetadata") == 1
        and wire.body.index(b'"STOP"') < wire.body.index(b"usageMetadata")
        and b"data:[DONE]" in wire.body,
        how={"path": STREAM},
    ),
    "gzip-bomb": Case(
        rule={"action": "gzip-bomb", "mebibytes": 8},
        holds=lambda wire: b"content-encoding: gzip" in wire.head
        and len(wire.body) < 2**17
        and len(zlib.decompress(wire.body, 31)) == 8 * 2**20 + 2,
        how={"wait_s": 20.0},
    ),
    "endless-body": Case(
        rule={"action": "endless-body"}, ending="open", holds=lambda wire: len(wire.raw) >= 2**21, delivered=False,
        how={"max_bytes": 2**21},
    ),
    "endless-headers": Case(
        rule={"action": "endless-headers"},
        ending="open",
        holds=lambda wire: len(wire.raw) >= 2**20 and b"\r\n\r\n" not in wire.raw,
        delivered=False,
        how={"max_bytes": 2**20},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_each_fault_has_its_effect_on_the_socket(server: Server, name: str) -> None:
    case = CASES[name]

    wire, entry = send_under_rule(server, case.rule, **(case.how or {}))

    assert wire.ending == case.ending
    assert case.holds(wire), wire
    assert (entry.billed, entry.delivered) == (case.billed, case.delivered)
    assert entry.fault == (None if name == "none" else case.rule["action"])
    assert server.provider.in_flight == 0


def test_every_action_has_a_test() -> None:
    elsewhere = {"refuse", "revoke-key", "drain-balance", "job", "line"}

    assert {case.rule["action"] for case in CASES.values()} | elsewhere == set(ACTIONS)


def test_connections_are_refused_for_the_configured_time(server: Server) -> None:
    wire, entry = send_under_rule(server, {"match": {"count": 1}, "action": "refuse", "seconds": 0.2})
    refused = False
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            again = send_raw(server)
            break
        except ConnectionRefusedError:
            refused = True
            time.sleep(0.02)
    else:
        pytest.fail("the port never opened again")

    assert (wire.ending, entry.billed) == ("reset", False)
    assert refused
    assert b"200 OK" in again.raw


@pytest.mark.parametrize(("action", "words"), [("revoke-key", b"API_KEY_INVALID"), ("drain-balance", b"credits")])
def test_a_key_can_be_revoked_or_lose_its_balance_permanently(action: str, words: bytes) -> None:
    provider = provider_with_faults({"match": {"nth": 2}, "action": action})
    requests = [request(gemini_body("hi"), headers={"authorization": key}) for key in ("k1", "k1", "k1", "k2")]

    answers = [answer_to(provider, one) for one in requests]

    assert [answer.status == 200 for answer in answers] == [True, False, False, True]
    assert all(words in answer.content for answer in answers[1:3])


def test_a_recorded_body_is_served_unchanged(server: Server) -> None:
    path = ROOT / "tests/bodies/gemini/err_429_rpm_retryinfo.json"
    headers = {"content-type": "application/json; charset=UTF-8"}

    wire, _ = send_under_rule(server, {"action": "body", "status": 429, "file": str(path), "headers": headers})

    assert b" 429 " in wire.head
    assert wire.body == path.read_bytes()


# --- the ledger -----------------------------------------------------------------------------------------------------


def test_a_request_whose_client_disconnects_is_billed_but_not_delivered(server: Server) -> None:
    wire, entry = send_under_rule(server, {"action": "delay", "seconds": 30}, wait_s=0.05)

    assert wire.raw == b""
    assert (entry.billed, entry.delivered) == (True, False)
    assert entry.finished_at - entry.arrived_at < 5


def test_an_incomplete_request_is_in_the_ledger_and_not_billed(server: Server) -> None:
    server.provider.ledger.entries.clear()
    with socket.create_connection((server.host, server.port)) as connection:
        head = (
            f"POST {PATHS['gemini'].format(model='sim-good')} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf"
        )
        connection.sendall(head.encode())
        time.sleep(0.05)
    for _ in range(200):
        if server.provider.ledger.entries:
            break
        time.sleep(0.005)

    entry = server.provider.ledger.entries[0]
    assert (entry.billed, entry.delivered, entry.turn) == (False, False, 0)
    assert server.provider.in_flight == 0


def test_a_ledger_entry_has_all_fields_of_a_request() -> None:
    provider = Provider()
    answer_to(provider, request(gemini_body("one", "first", "two", system="S"), headers={"authorization": "k"}), 5.0)

    entry = provider.ledger.entries[0]
    assert (entry.seq, entry.arrived_at, entry.finished_at) == (1, 5.0, 5.0)
    assert (entry.wire, entry.operation, entry.model, entry.turn) == ("gemini", "generate", "sim-good", 2)
    assert entry.history == [["system", "S"], ["user", "one"], ["model", "first"], ["user", "two"]]
    assert entry.history_sha == history_sha("S", [("user", "one"), ("model", "first"), ("user", "two")])
    assert (entry.status, entry.billed, entry.delivered, entry.in_flight) == (200, True, True, 1)
    assert entry.input_tokens == 4 * 4 + 1 + 1 + 2 + 1


def test_the_ledger_file_equals_the_ledger_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    provider = provider_with_faults({"match": {"every": 3}, "action": "reset"}, ledger=Ledger(path))
    answers = [provider.handle(request(gemini_body(f"hi {n}")), float(n)) for n in range(7)]
    for at, answer in enumerate(reversed(answers)):
        answer.delivered(100.0 + at)
    open_answer = provider.handle(request(gemini_body("still open")), 200.0)
    provider.ledger.close()

    assert read_ledger(path) == provider.ledger.entries
    assert read_ledger(path)[-1].delivered is None
    assert [entry.in_flight for entry in provider.ledger.entries][:3] == [1, 2, 3]
    assert open_answer.status == 200


def test_a_torn_ledger_line_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    provider = Provider(ledger=Ledger(path, history=False))
    for n in range(3):
        answer_to(provider, request(gemini_body(f"hi {n}")))
    provider.ledger.close()
    path.write_bytes(path.read_bytes()[:-9])

    entries = read_ledger(path)
    assert [entry.seq for entry in entries] == [1, 2, 3]
    assert (entries[0].history, entries[2].delivered) == (None, None)


@given(st.lists(st.floats(0, 100), max_size=40), st.floats(0.1, 50))
def test_the_busiest_window_is_found(times: list[float], window_s: float) -> None:
    expected = max((sum(end - window_s < one <= end for one in times) for end in times), default=0)

    assert busiest_window(times, window_s) == expected


# --- the server and the command -------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_five_hundred_concurrent_clients_are_answered() -> None:
    provider = Provider(latency_s=0.3)
    async with Server(provider) as server, aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        url = f"{server.url}{PATHS['gemini'].format(model='sim-echo')}"

        async def one(n: int) -> str:
            async with session.post(url, json=gemini_body(f"client {n}")) as response:
                return (await response.json())["candidates"][0]["content"]["parts"][0]["text"]

        replies = await asyncio.gather(*(one(n) for n in range(500)))

    assert replies == [f"client {n}" for n in range(500)]
    assert provider.most_in_flight > 300
    assert all(entry.delivered for entry in provider.ledger.entries)


def test_a_running_simulator_returns_its_ledger_and_accepts_faults(server: Server) -> None:
    def call(path: str, body: bytes | None = None) -> Any:
        with urllib.request.urlopen(urllib.request.Request(server.url + path, data=body), timeout=5) as response:
            return json.loads(response.read())

    server.provider.ledger.entries.clear()
    assert call("/__faults__", b'[{"action": "error"}]') == {"rules": 1}
    assert b" 500 " in send_raw(server).head
    assert [entry["fault"] for entry in call("/__ledger__")["entries"]] == ["error"]
    assert call("/__health__")["ok"] is True
    assert call("/__faults__", b"[]") == {"rules": 0}
    for rule in (b'[{"action": "explode"}]', b'[{"action": "cheat", "model": "sim-huge"}]'):
        with pytest.raises(urllib.error.HTTPError, match="400"):
            call("/__faults__", rule)


def test_a_port_in_use_is_an_error(server: Server) -> None:
    with pytest.raises(OSError, match="in use"), serve_in_thread(Provider(), port=server.port):
        pass


@contextmanager
def running(**options: object) -> Generator[tuple[subprocess.Popen[str], str]]:
    arguments = ", ".join(f"{name}={value!r}" for name, value in options.items())
    code = f"from pathlib import Path, PosixPath; from convbatch.simulator import serve; serve({arguments})"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.fullmatch(r"simulator listening on (http://127\.0\.0\.1:\d+)\n", line)
        assert match, line
        yield process, match[1]
        process.kill()


def post(url: str) -> bytes:
    http_request = urllib.request.Request(url, data=json.dumps(gemini_body("hi")).encode())
    with urllib.request.urlopen(http_request, timeout=5) as response:
        return response.read()


def test_the_command_serves_until_sigterm(tmp_path: Path) -> None:
    script, faults, ledger = tmp_path / "d.jsonl", tmp_path / "f.jsonl", tmp_path / "l.jsonl"
    script.write_text('{"turns": [{"user": "hi", "assistant": "scripted"}]}\n')
    faults.write_text('{"match": {"nth": 2}, "action": "error"}\n')
    with running(script=[script], faults=faults, ledger=ledger, rpm=2, seed=1) as (process, url):
        target = f"{url}/v1beta/models/sim-good:generateContent"
        assert b"scripted" in post(target)
        with pytest.raises(urllib.error.HTTPError, match="500"):
            post(target)
        post(target)
        with pytest.raises(urllib.error.HTTPError, match="429"):
            post(target)
        process.send_signal(signal.SIGTERM)

        assert process.wait(5) == 0

    assert [entry.status for entry in read_ledger(ledger)] == [200, 500, 200, 429]


def test_calls_in_flight_at_a_kill_are_in_the_ledger(tmp_path: Path) -> None:
    ledger = tmp_path / "l.jsonl"
    with running(ledger=ledger, latency_s=30.0) as (process, url):
        host, _, port = url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(raw_request(host))
            for _ in range(400):
                if ledger.stat().st_size:
                    break
                time.sleep(0.005)
            process.kill()

    (entry,) = read_ledger(ledger)
    assert (entry.billed, entry.delivered) == (True, None)


def test_the_simulator_does_not_import_the_tool_and_loads_aiohttp_only_to_serve() -> None:
    folder = ROOT / "convbatch/simulator"
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            ours = [name for name in names if name.startswith("convbatch")]
            assert all(name.startswith("convbatch.simulator") for name in ours), path

    code = "import sys, convbatch.simulator; assert 'aiohttp' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
