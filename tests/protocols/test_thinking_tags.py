"""Thoughts between tags in the text of a reply: what is the reply, what is thought, and what goes back."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convbatch.protocols import PROTOCOLS
from convbatch.protocols.replay import as_configured
from convbatch.protocols.thinking_tags import ThinkingTags, parse_thinking_tags, split_thoughts
from convbatch.protocols.tool_history import DUMMY_SIGNATURE
from convbatch.protocols.wire import Endpoint, Replay, encode_json
from convbatch.reply import Reply, status_of
from tests.support.tables import each

THINK = ThinkingTags("<think>", "</think>")


@each(
    ("written", "opening", "closing"),
    [
        ("<think>", "<think>", "</think>"),
        ("<thinking>", "<thinking>", "</thinking>"),
        ("<seed:think>", "<seed:think>", "</seed:think>"),
        ("<|channel|>", "<|channel|>", "</|channel|>"),
        ("[THINK]", "[THINK]", "[/THINK]"),
        ("◁think▷", "◁think▷", "◁/think▷"),
        ("<|START_THINKING|> <|END_THINKING|>", "<|START_THINKING|>", "<|END_THINKING|>"),
        (" <a>  </b> ", "<a>", "</b>"),
    ],
)
def test_one_tag_gives_both(written: str, opening: str, closing: str) -> None:
    assert parse_thinking_tags(written) == (opening, closing)


@each("written", ["", "think", "</think>", "<a></a>", "<>", "<a", "a>", "<a> <a>", "<a> <b> <c>"])
def test_what_is_no_tag_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="not a tag"):
        parse_thinking_tags(written)


@each(
    ("text", "thought", "reply"),
    [
        ("<think>\nIt is 42.\n</think>\n\nhello", "It is 42.", "hello"),
        ("\n <think>a</think> hello \n", "a", "hello \n"),
        ("<think>\n\n</think>\n\nagain", None, "again"),
        ("It is 42.\n</think>\n\nhello", "It is 42.", "hello"),
        ("</think>hello", None, "hello"),
        ("<think>a</think>\n<think>b</think>\nhello", "a\n\nb", "hello"),
        ("a</think><think>b</think>hello", "a\n\nb", "hello"),
        ("<think>cut at the lim", "cut at the lim", ""),
        ("<think>a</think>", "a", ""),
        ("<think>", None, ""),
        ("<think><think>a</think></think>hello", "<think>a", "hello"),
        ("<think>a</think></think>hello", "a", "hello"),
        ("hello", None, "hello"),
        ("  hello", None, "  hello"),
        ("", None, ""),
        ("hello <think>a</think>", None, "hello <think>a</think>"),
        ("Write `</think>` at the end.", None, "Write `</think>` at the end."),
        ("```xml\n<b>x</b>\n</think>\n```\n", None, "```xml\n<b>x</b>\n</think>\n```\n"),
        ("Is it `</think>`?\nYes.\n</think>\nIt is `</think>`.", "Is it `</think>`?\nYes.", "It is `</think>`."),
        ("<think>a</think>\n```\n<think>b</think>\n```", "a", "```\n<think>b</think>\n```"),
        ("<thinking>a</thinking>hello", None, "<thinking>a</thinking>hello"),
    ],
)
def test_only_blocks_in_front_of_the_reply_are_thoughts(text: str, thought: str | None, reply: str) -> None:
    split = split_thoughts(text, THINK)
    assert (split.thought, text[split.start :]) == (thought, reply)


@pytest.mark.parametrize(
    ("text", "reply"),
    [("<think></think>" * 60_000 + "hello", "hello"), (code := "```" + "</think>" * 60_000, code)],
)
def test_many_tags_are_split_in_one_pass(text: str, reply: str) -> None:
    started = time.perf_counter()
    assert text[split_thoughts(text, THINK).start :] == reply
    assert time.perf_counter() - started < 2


@given(st.lists(st.sampled_from(["a", "`", "```", "\n", "</think>"]), max_size=12).map("".join))
def test_a_closing_tag_in_code_ends_no_thought(text: str) -> None:
    ends = [match.start() for match in re.finditer("</think>", text)]
    outside = [end for end in ends if text[:end].count("```") % 2 == 0]
    outside = [end for end in outside if text[:end].rpartition("\n")[2].replace("```", "").count("`") % 2 == 0]
    split = split_thoughts(text, THINK)
    assert (split.start > 0) == bool(outside)
    assert not outside or split.start >= outside[0] + len("</think>")


plain = st.text(st.sampled_from("ab \n"), max_size=6)


@given(st.lists(plain, max_size=3), plain.map(str.lstrip), st.sampled_from(["<think>", "[THINK]", "<a> <z>"]))
def test_blocks_and_reply_are_found_again(blocks: list[str], reply: str, written: str) -> None:
    tags = parse_thinking_tags(written)
    text = "\n".join([*(f"{tags.opening}{block}{tags.closing}" for block in blocks), reply])
    split = split_thoughts(text, tags)
    assert text[split.start :] == (reply if blocks else text)
    assert split.thought == ("\n\n".join(filter(None, map(str.strip, blocks))) or None)


# --- in a reply


def openai_reply(message: dict[str, Any], endpoint: Endpoint, finish: str = "stop") -> Reply:
    body = {"choices": [{"message": {"role": "assistant", **message}, "finish_reason": finish}]}
    return read("openai", body, endpoint)


def gemini_reply(parts: list[dict[str, Any]], endpoint: Endpoint) -> Reply:
    body = {"candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": "STOP"}]}
    return read("gemini", body, endpoint)


def read(protocol: str, body: Any, endpoint: Endpoint) -> Reply:
    wire = PROTOCOLS[protocol]
    reply = as_configured(wire.parse_response(encode_json(body)), wire, endpoint)
    assert isinstance(reply, Reply)
    return reply


def tagged(replay: Replay | None = None, tags: str | None = "<think>") -> Endpoint:
    return Endpoint(base_url="https://h", thinking_tags=tags, replay=replay)


TEXT = "<think>\nWhy?\n</think>\n\nhello"
PARTS = [{"type": "text", "text": "<think>Wh"}, {"type": "text", "text": "y?</think>\nhel"}, "lo"]


@each(
    ("content", "replay", "sent"),
    [
        (TEXT, None, "hello"),
        (TEXT, "exact", TEXT),
        (TEXT, "content", "hello"),
        (PARTS, None, [{"type": "text", "text": "hel"}, "lo"]),
        (PARTS, "exact", PARTS),
        (PARTS, "content", "hello"),
    ],
)
def test_thoughts_between_tags_are_not_sent_back_unless_asked(content: Any, replay: Any, sent: Any) -> None:
    reply = openai_reply({"content": content, "annotations": []}, tagged(replay))
    assert (reply.text, reply.thought) == ("hello", "Why?")
    assert reply.raw_turn["content"] == sent
    assert ("annotations" in reply.raw_turn) == (replay != "content")


@pytest.mark.parametrize(("known", "thought"), [("Why?", "Why?"), ("First.", "First.\n\nWhy?"), (None, "Why?")])
def test_thoughts_of_a_field_and_of_tags_are_joined(known: str | None, thought: str) -> None:
    reply = openai_reply({"content": TEXT, "reasoning_content": known}, tagged())
    assert (reply.text, reply.thought) == ("hello", thought)
    assert reply.raw_turn == {"role": "assistant", "content": "hello", "reasoning_content": known}


def test_a_reply_cut_inside_its_thought_is_empty() -> None:
    reply = openai_reply({"content": "<think>Well, if"}, tagged(), "length")
    assert (status_of(reply), reply.finish_reason, reply.text, reply.thought) == ("empty", "length", "", "Well, if")


def test_a_call_after_a_thought_has_no_text() -> None:
    calls = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    reply = openai_reply({"content": "<think>a</think>\n", "tool_calls": calls}, tagged())
    assert (status_of(reply), reply.text, reply.thought) == ("ok", None, "a")


def test_tags_in_gemini_parts_leave_signatures_in_place() -> None:
    parts: list[dict[str, Any]] = [
        {"text": "summary", "thought": True}, {"text": "<think>a</thi"},
        {"text": "nk>", "thoughtSignature": "xx"}, {"text": " hello"},
    ]  # fmt: skip
    reply = gemini_reply(parts, tagged())
    assert (reply.text, reply.thought) == ("hello", "summary\n\na")
    assert reply.raw_turn["parts"] == [parts[0], {"text": "", "thoughtSignature": "xx"}, {"text": "hello"}]
    assert gemini_reply(parts, tagged("content")).raw_turn == {"role": "model", "parts": [{"text": "hello"}]}
    assert gemini_reply(parts, tagged("exact")).raw_turn["parts"] == parts


@given(st.lists(plain, min_size=1, max_size=4), st.integers(0, 24))
def test_skipping_text_skips_the_same_characters_in_every_shape(texts: list[str], count: int) -> None:
    whole = "".join(texts)
    openai, gemini = PROTOCOLS["openai"].turns, PROTOCOLS["gemini"].turns
    assert openai.skip_text({"content": whole}, count)["content"] == whole[count:]
    parts = openai.skip_text({"content": [{"type": "text", "text": text} for text in texts]}, count)["content"]
    assert "".join(part["text"] for part in parts) == whole[count:]
    parts = gemini.skip_text({"parts": [{"text": text} for text in texts]}, count)["parts"]
    assert "".join(part["text"] for part in parts) == whole[count:]


# --- replay = "content"


@each(
    ("received", "sent"),
    [
        ({"content": "Hi", "reasoning_content": "\n", "tool_calls": None}, {"content": "Hi"}),
        ({"content": "Hi", "reasoning": "r", "reasoning_details": [{"data": "x"}], "refusal": None, "annotations": [1]},
         {"content": "Hi"}),
        ({"content": [{"type": "thinking", "thinking": [{"text": "t"}]}, {"type": "text", "text": "Hi"}]},
         {"content": "Hi"}),
        ({"content": [{"type": "text", "text": "Hi", "annotations": []}, {"type": "image_url", "image_url": {}}]},
         {"content": [{"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": {}}]}),
        ({"content": None, "audio": {"id": "a", "data": "AA==", "transcript": "Hi"}}, {"content": "Hi"}),
        ({"content": None, "tool_calls": [{"id": "c", "type": "function", "index": 0, "function": {"name": "f"},
                                           "extra_content": {"google": {"thought_signature": "xx"}}}]},
         {"content": None, "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f"},
                                           "extra_content": {"google": {"thought_signature": DUMMY_SIGNATURE}}}]}),
        ({"reasoning_content": "r"}, {"content": ""}),
    ],
)  # fmt: skip
def test_only_the_content_of_an_openai_message_goes_back(received: Any, sent: Any) -> None:
    turns = PROTOCOLS["openai"].turns
    assert turns.only_content({"role": "assistant", **received}) == {"role": "assistant", **sent}
    assert turns.only_content(received) == {"role": "assistant", **sent}


def test_only_the_content_of_a_gemini_turn_goes_back() -> None:
    call = {"id": "c", "name": "f", "args": {}}
    received = {
        "parts": [
            {"text": "Hm.", "thought": True, "thoughtSignature": "xx"},
            {"text": "Hi", "thoughtSignature": "xx"},
            {"inlineData": {"mimeType": "image/png", "data": "AA=="}, "thoughtSignature": "xx"},
            {"functionCall": call, "thought_signature": "xx"},
            {"text": "", "thoughtSignature": "xx"},
        ],
        "role": "model",
    }
    assert PROTOCOLS["gemini"].turns.only_content(received) == {
        "role": "model",
        "parts": [
            {"text": "Hi"},
            {"inlineData": {"mimeType": "image/png", "data": "AA=="}},
            {"functionCall": call, "thoughtSignature": DUMMY_SIGNATURE},
        ],
    }


@each("turn", [None, "text", [], {}, {"content": {"a": 1}}, {"parts": 3}, {"parts": [1, None]}])
@each("protocol", PROTOCOLS)
def test_a_turn_of_another_shape_does_no_harm(protocol: str, turn: Any) -> None:
    turns = PROTOCOLS[protocol].turns
    turns.skip_text(turn, 3)
    turns.only_content(turn)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.sampled_from(["", "<think>a</think>b", "thinking", "text"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["type", "text", "thought", "thoughtSignature", "signature", "content", "parts", "tool_calls",
                         "audio", "transcript", "role", "functionCall"]),
        inner, max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@given(json_values, st.sampled_from([None, "exact", "content"]))
def test_any_turn_can_be_cut_down(turn: Any, replay: Replay | None) -> None:
    for wire in PROTOCOLS.values():
        reply = Reply(text="<think>a</think>b", finish_reason="stop", finish_reason_raw="stop", raw_turn=turn)
        read = as_configured(reply, wire, tagged(replay))
        assert isinstance(read, Reply)
        encode_json([read.raw_turn, wire.turns.without_signatures(turn)])
        if replay == "exact":
            assert read.raw_turn == turn
        assert wire.turns.only_content(wire.turns.only_content(turn)) == wire.turns.only_content(turn)
        assert wire.turns.without_signatures(wire.turns.without_signatures(turn)) == wire.turns.without_signatures(turn)
