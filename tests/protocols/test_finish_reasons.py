"""Finish reasons in the words of all gateways, in any spelling."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convbatch.protocols import PROTOCOLS
from convbatch.protocols.finish_reasons import deciding_word, finish_reason_of, finish_word, is_finish
from convbatch.protocols.sse import SseEvent
from convbatch.protocols.wire import Draft, ErrorInBody, encode_json
from convbatch.reply import FinishReason, Reply, status_of
from tests.support.tables import each

MEANINGS: dict[FinishReason, str] = {
    "stop": "stop STOP Stop stopped eos eos_token EOS end end_turn endOfTurn stop_sequence STOP_SEQUENCE COMPLETE "
    "completed done finished FINISHED normal natural_stop FinishReason.STOP FINISH_REASON_STOP REASON_STOP "
    "STOP_CRITERIA_MET <|im_end|> <|endoftext|> </s> stop_reason_end_turn eosFound stopStringFound",
    "length": "length LENGTH max_tokens MAX_TOKENS max-tokens maxTokens model_length model_context_window_exceeded "
    "length_limit max_output_tokens token_limit CONTINUATION max_new_tokens ERROR_LIMIT REASON_MAX_LEN context "
    "maxPredictedTokensReached contextLengthReached FinishReason.MAX_TOKENS maximum_tokens total_token_limit_reached",
    "content_filter": "content_filter contentFilter content-filter sensitive SAFETY safety refusal blocked RECITATION "
    "content_filtered guardrail_intervened BLOCKLIST PROHIBITED_CONTENT SPII ESCALATION MODEL_ARMOR IMAGE_SAFETY "
    "IMAGE_PROHIBITED_CONTENT IMAGE_RECITATION ERROR_TOXIC security_audit moderation banned risk_control flagged "
    "safety_violation output_moderation_hit content_risk JAILBREAK content_filter:hate "
    "unsafe_content blocked_by_filter",
    "tool_call": "tool_calls function_call tool_use tool_call TOOL_CALL toolCalls tool-calls REASON_TOOL_CALLS",
    "error": "network_error insufficient_system_resource error ERROR abort aborted cancelled canceled USER_CANCEL "
    "engine_error upstream_error timeout TIMEOUT MALFORMED_FUNCTION_CALL MALFORMED_RESPONSE UNEXPECTED_TOOL_CALL "
    "TOO_MANY_TOOL_CALLS PUP_LIMITED_DISABLED MISSING_THOUGHT_SIGNATURE malformed_model_output failed internal_error "
    "server_error userStopped modelUnloaded time_limit MALFORMED_IMAGE worker_exception "
    "user_abort",
    "other": "OTHER LANGUAGE IMAGE_OTHER NO_IMAGE FINISH_REASON_UNSPECIFIED pause_turn SOME_FUTURE_REASON null 7 "
    "banana unknown steered",
}
SPELLED = [(word, meaning) for meaning, words in MEANINGS.items() for word in words.split()]


@each(("word", "meaning"), SPELLED)
def test_a_word_has_one_meaning_on_every_protocol(word: str, meaning: FinishReason) -> None:
    openai = PROTOCOLS["openai"].parse_response(
        encode_json({"choices": [{"message": {"content": "half"}, "finish_reason": word}]})
    )
    content = {"role": "model", "parts": [{"text": "half"}]}
    gemini = PROTOCOLS["gemini"].parse_response(
        encode_json({"candidates": [{"content": content, "finishReason": word}]})
    )
    for reply in (openai, gemini):
        assert (reply.finish_reason, reply.finish_reason_raw, reply.text) == (meaning, word, "half")
        assert reply.blocked == ("output" if meaning == "content_filter" else None)
    expected = {"content_filter": "blocked", "error": "error"}.get(meaning, "ok")
    assert status_of(openai) == status_of(gemini) == expected


@given(st.sampled_from(SPELLED), st.sampled_from([str.lower, str.upper, str.title]), st.sampled_from("_- "))
def test_case_and_separators_do_not_change_the_meaning(
    spelled: tuple[str, FinishReason], case: Any, separator: str
) -> None:
    word, meaning = spelled
    if re.fullmatch(r"[a-z_]+", word):
        assert finish_reason_of(case(word.replace("_", separator))) == meaning


@given(st.text())
def test_any_text_has_a_finish_reason(text: str) -> None:
    assert finish_reason_of(text) in get_args(FinishReason)
    assert finish_word(text) == text


def test_the_words_named_in_the_docs_have_the_documented_meaning() -> None:
    page = (Path(__file__).parents[2] / "docs/tables.md").read_text("utf-8")
    table = page.partition("| finish_reason | the gateway's words |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", table, re.MULTILINE)
    assert [meaning for meaning, _ in rows] == list(MEANINGS)
    for meaning, words in rows:
        for word in re.findall(r"`(\w+)`", words.partition(";")[0]):
            assert finish_reason_of(word) == meaning


@each(
    ("choice", "finish", "raw"),
    [
        ({"finish_reason": "stop", "native_finish_reason": "STOP"}, "stop", "stop"),
        ({"finish_reason": "stop", "native_finish_reason": "completed"}, "stop", "stop"),
        ({"finish_reason": "stop", "native_finish_reason": "SAFETY"}, "content_filter", "SAFETY"),
        ({"finish_reason": "stop", "native_finish_reason": "MALFORMED_FUNCTION_CALL"}, "error",
         "MALFORMED_FUNCTION_CALL"),
        ({"finish_reason": "stop", "native_finish_reason": "max_tokens"}, "length", "max_tokens"),
        ({"finish_reason": "stop", "native_finish_reason": "tool_use"}, "stop", "stop"),
        ({"finish_reason": "length", "native_finish_reason": "SAFETY"}, "length", "length"),
        ({"finish_reason": None, "native_finish_reason": "STOP"}, "stop", "STOP"),
        ({"finish_reason": "", "stop_reason": "end_turn"}, "stop", "end_turn"),
        ({"finish_reason": "stop", "stop_reason": "length"}, "stop", "stop"),
        ({"finish_reason": None, "stop_reason": 151645}, "other", None),
        ({"finish_reason": "", "stop_reason": None}, "other", ""),
        ({"finishReason": "MAX_TOKENS"}, "length", "MAX_TOKENS"),
        ({"finish_reason": {"type": "length", "length": 5}}, "length", "length"),
        ({"finish_details": {"type": "max_tokens"}}, "length", "max_tokens"),
        ({"finish_reason": ["stop"]}, "other", None),
        ({"finish_reason": "banana"}, "other", "banana"),
        ({}, "other", None),
    ],
)  # fmt: skip
def test_of_several_words_the_one_that_says_most_decides(choice: Any, finish: str, raw: str | None) -> None:
    whole = {"choices": [{"message": {"content": "a"}, **choice}]}
    reply = PROTOCOLS["openai"].parse_response(encode_json(whole))
    assert (reply.finish_reason, reply.finish_reason_raw) == (finish, raw)


def test_without_any_word_nothing_decides() -> None:
    assert deciding_word([None, {}, []]) is None
    assert [is_finish(value) for value in (None, "", "null", "not_finished", "stop", 1)] == [False] * 4 + [True] * 2


def stream(*finish_reasons: Any, done: bool) -> Reply:
    wire, draft = PROTOCOLS["openai"], Draft()
    for finish in finish_reasons:
        chunk = {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": finish}]}
        draft = wire.parse_event(draft, SseEvent(event="", data=encode_json(chunk).decode()))
    if done:
        draft = wire.parse_event(draft, SseEvent(event="", data="[DONE]"))
    return wire.finish(draft)


def test_a_stream_is_not_finished_by_the_word_null() -> None:
    with pytest.raises(ErrorInBody, match="before a finish reason"):
        stream("null", "null", done=False)
    assert stream("null", "stop", done=False).finish_reason == "stop"


def test_an_empty_word_after_the_finish_reason_does_not_replace_it() -> None:
    reply = stream("", "MAX_TOKENS", "", done=True)
    assert (reply.text, reply.finish_reason, reply.finish_reason_raw) == ("aaa", "length", "MAX_TOKENS")
