"""Token counts: what is read under which name, and what cannot be right."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from convbatch.pricing import Period, TokenPrice, exact
from convbatch.protocols import PROTOCOLS
from convbatch.protocols.decoding import usage_of
from convbatch.protocols.wire import encode_json
from convbatch.reply import PRICED_PARTS, USAGE_COUNTS, Reply, Usage, usage_to_plain
from tests.support.tables import each

PRICE = Period(input=TokenPrice(base=exact(1)), output=TokenPrice(base=exact(10)))


def openai(usage: Any, content: str | None = "hello", finish: str = "stop") -> Usage:
    choice = {"message": {"role": "assistant", "content": content}, "finish_reason": finish}
    return _usage_in("openai", {"choices": [choice], "usage": usage})


def gemini(usage: Any, text: str = "hello", finish: str = "STOP") -> Usage:
    candidate = {"content": {"role": "model", "parts": [{"text": text}]}, "finishReason": finish}
    return _usage_in("gemini", {"candidates": [candidate], "usageMetadata": usage})


def _usage_in(protocol: str, body: Any) -> Usage:
    reply = PROTOCOLS[protocol].parse_response(encode_json(body))
    assert isinstance(reply, Reply)
    return reply.usage


def total(prompt: Any, completion: Any, whole: Any, **more: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": whole, **more}


IMPOSSIBLE: dict[str, tuple[Usage, dict[str, int | None]]] = {
    "all zero": (openai(total(0, 0, 0)), {"input_tokens": None, "output_tokens": None, "total_tokens": None}),
    "text, no output": (openai(total(20, 0, 20)), {"input_tokens": 20, "output_tokens": None}),
    "question, no input": (openai(total(0, 5, 5)), {"input_tokens": None, "output_tokens": 5}),
    "text, output unknown, all of the total is input": (
        openai({"prompt_tokens": 20, "total_tokens": 20}), {"input_tokens": 20, "output_tokens": None}),
    "reasoning above output": (
        openai(total(21, 10, 31, completion_tokens_details={"reasoning_tokens": 60})),
        {"input_tokens": 21, "output_tokens": None, "reasoning_tokens": None}),
    "reasoning without output": (
        openai(total(21, 0, 21, completion_tokens_details={"reasoning_tokens": 60}), content=""),
        {"input_tokens": 21, "output_tokens": None, "reasoning_tokens": None}),
    "cached above input": (
        openai(total(20, 5, 25, prompt_tokens_details={"cached_tokens": 21})),
        {"input_tokens": None, "cached_input_tokens": None, "output_tokens": 5}),
    "cached and written above input": (
        openai(total(20, 5, 25, prompt_tokens_details={"cached_tokens": 15, "cache_write_tokens": 6})),
        {"input_tokens": None, "cached_input_tokens": None, "cache_write_input_tokens": None}),
    "negative input": (openai(total(-20, 5, 25)), {"input_tokens": None, "output_tokens": 5}),
    "negative output": (openai(total(20, -5, 25)), {"input_tokens": 20, "output_tokens": None}),
    "negative total": (openai(total(20, 5, -25)), {"input_tokens": 20, "total_tokens": None}),
    "negative cached": (openai(total(20, 5, 25, cached_tokens=-1)), {"cached_input_tokens": None}),
    "total below input": (openai(total(20, 5, 15)), {"input_tokens": 20, "output_tokens": 5, "total_tokens": None}),
    "total is not the sum": (openai(total(20, 5, 22)), {"input_tokens": 20, "output_tokens": 5, "total_tokens": 22}),
    "more in the total": (openai(total(20, 5, 95)), {"input_tokens": 20, "output_tokens": 5, "total_tokens": 95}),
    "gemini, all zero": (
        gemini({"promptTokenCount": 0, "candidatesTokenCount": 0, "totalTokenCount": 0}),
        {"input_tokens": None, "output_tokens": None}),
    "gemini, cached above prompt": (
        gemini({"promptTokenCount": 9, "candidatesTokenCount": 1, "totalTokenCount": 10,
                "cachedContentTokenCount": 8192}),
        {"input_tokens": None, "cached_input_tokens": None, "output_tokens": 1}),
    "gemini, negative thoughts": (
        gemini({"promptTokenCount": 9, "candidatesTokenCount": 5, "thoughtsTokenCount": -2, "totalTokenCount": 12}),
        {"input_tokens": 9, "output_tokens": None, "reasoning_tokens": None}),
}  # fmt: skip


@each(("usage", "known"), IMPOSSIBLE.values())
def test_counts_that_cannot_be_right_are_unknown_and_have_no_cost(usage: Usage, known: dict[str, int | None]) -> None:
    assert {name: getattr(usage, name) for name in known} == known
    assert usage.consistent is False
    assert PRICE.cost(usage) is None


POSSIBLE: dict[str, tuple[Usage, dict[str, Any]]] = {
    "a total of 0 is not filled in": (openai(total(20, 5, 0)), {"total_tokens": None, "consistent": None}),
    "an empty reply has no output": (openai(total(20, 0, 20), content=""), {"output_tokens": 0, "consistent": True}),
    "a prompt that no model read": (
        openai(total(0, 0, 0), content=None, finish="content_filter"),
        {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0, "consistent": True}),
    "reasoning is all of the output": (
        openai(total(20, 5, 25, completion_tokens_details={"reasoning_tokens": 5}), content=""),
        {"output_tokens": 5, "reasoning_tokens": 5, "consistent": True}),
    "xAI excludes reasoning": (
        openai(total(20, 5, 85, completion_tokens_details={"reasoning_tokens": 60})),
        {"output_tokens": 65, "reasoning_tokens": 60, "consistent": True}),
    "all of the prompt is cached": (
        openai(total(20, 5, 25, prompt_cache_hit_tokens=20, prompt_cache_miss_tokens=0)),
        {"input_tokens": 20, "cached_input_tokens": 20, "consistent": True}),
    "Kimi": (openai(total(29567, 21, 29588, cached_tokens=29534)), {"cached_input_tokens": 29534, "consistent": True}),
    "Anthropic's names inside the prompt": (
        openai(total(2112, 5, 2117, cache_read_input_tokens=2000, cache_creation_input_tokens=100)),
        {"input_tokens": 2112, "cached_input_tokens": 2000, "cache_write_input_tokens": 100, "consistent": True}),
    "Anthropic's names beside the prompt": (
        openai(total(12, 5, 2117, cache_read_input_tokens=2000, cache_creation_input_tokens=100)),
        {"input_tokens": 2112, "cached_input_tokens": 2000, "cache_write_input_tokens": 100, "consistent": True}),
    "Anthropic's own form": (
        openai({"input_tokens": 12, "output_tokens": 5, "cache_read_input_tokens": 2000}),
        {"input_tokens": 2012, "cached_input_tokens": 2000, "output_tokens": 5, "consistent": None}),
    "reasoning and cache beside their wholes": (
        openai(total(12, 5, 177, cached_tokens=100, completion_tokens_details={"reasoning_tokens": 60})),
        {"input_tokens": 112, "output_tokens": 65, "consistent": True}),
    "the names of the Responses API": (
        openai({"input_tokens": 20, "output_tokens": 5, "total_tokens": 25,
                "input_tokens_details": {"cached_tokens": 8}, "output_tokens_details": {"reasoning_tokens": 3}}),
        {"input_tokens": 20, "cached_input_tokens": 8, "output_tokens": 5, "reasoning_tokens": 3, "consistent": True}),
    "new-api's names": (
        openai(total(20, 5, 25, input_tokens=0, output_tokens=0, input_tokens_details=None,
                     prompt_tokens_details={"cached_tokens": 3, "cached_creation_tokens": 4})),
        {"input_tokens": 20, "cached_input_tokens": 3, "cache_write_input_tokens": 4, "output_tokens": 5}),
    "strings of digits": (openai(total("20", "5", "25")), {"input_tokens": 20, "output_tokens": 5, "consistent": True}),
}  # fmt: skip


@each(("usage", "known"), POSSIBLE.values())
def test_counts_are_read_under_the_names_and_rules_of_each_vendor(usage: Usage, known: dict[str, Any]) -> None:
    assert {name: getattr(usage, name) for name in known} == known
    assert usage.consistent is not False
    assert PRICE.cost(usage) is not None


def test_the_usage_of_a_kimi_stream_stands_in_its_choice() -> None:
    choice = {"message": {"content": "hello"}, "finish_reason": "stop", "usage": total(20, 5, 25, cached_tokens=8)}
    usage = _usage_in("openai", {"choices": [choice]})
    assert (usage.input_tokens, usage.cached_input_tokens, usage.consistent) == (20, 8, True)


def test_image_tokens_and_hourly_cache_writes_are_read_for_their_prices() -> None:
    details = {"image_tokens": 1120, "reasoning_tokens": 100, "audio_tokens": 0}
    image = openai(total(20, 1300, 1320, completion_tokens_details=details))
    assert (image.output_image_tokens, image.has_uncounted_media) == (1120, False)
    parts = {"ephemeral_5m_input_tokens": 30, "ephemeral_1h_input_tokens": 70}
    hourly = openai(total(120, 5, 125, cache_creation_input_tokens=100, cache_creation=parts))
    assert (hourly.cache_write_input_tokens, hourly.cache_write_1h_input_tokens) == (100, 70)
    summed = openai(total(120, 5, 125, prompt_tokens_details={"cache_creation_token_details": parts}))
    assert (summed.cache_write_input_tokens, summed.cache_write_1h_input_tokens) == (100, 70)
    routed = openai(total(120, 5, 125, claude_cache_creation_1_h_tokens=70, claude_cache_creation_5_m_tokens=30))
    assert (routed.cache_write_input_tokens, routed.cache_write_1h_input_tokens) == (100, 70)
    for usage in (image, hourly, summed, routed):
        assert usage.consistent is True
        assert Usage(**usage_to_plain(usage)) == usage


@each(
    ("details", "images", "is_uncounted"),
    [
        ([{"modality": "IMAGE", "tokenCount": 1290}, {"modality": "TEXT", "tokenCount": 10}], 1290, False),
        ([{"modality": "AUDIO", "tokenCount": 900}, {"modality": "IMAGE", "tokenCount": 400}], 400, False),
        ([{"modality": "VIDEO", "tokenCount": 900}, {"modality": "IMAGE", "tokenCount": 400}], 400, True),
        ([{"modality": "TEXT", "tokenCount": 1300}], None, True),
        ([{"modality": "IMAGE"}, "?"], None, True),
        (None, None, True),
    ],
)
def test_the_image_tokens_of_a_gemini_reply_are_told_apart(
    details: Any, images: int | None, is_uncounted: bool
) -> None:
    content = {"role": "model", "parts": [{"inlineData": {"mimeType": "image/png", "data": "AAAA"}}]}
    counted = {"promptTokenCount": 20, "candidatesTokenCount": 1300, "totalTokenCount": 1320}
    body = {
        "candidates": [{"content": content, "finishReason": "STOP"}],
        "usageMetadata": {**counted, "candidatesTokensDetails": details},
    }
    usage = _usage_in("gemini", body)
    assert (usage.output_tokens, usage.consistent) == (1300, True)
    assert (usage.output_image_tokens, usage.has_uncounted_media) == (images, is_uncounted)
    assert Usage(**usage_to_plain(usage)) == usage
    assert PRICE.cost(usage) is None


def test_audio_tokens_are_read_for_their_prices() -> None:
    given = {"audio_tokens": 200, "cached_tokens": 0}
    spoken = openai(total(260, 90, 350, prompt_tokens_details=given, completion_tokens_details={"audio_tokens": 70}))
    assert (spoken.input_audio_tokens, spoken.output_audio_tokens, spoken.has_uncounted_media) == (200, 70, False)
    body = {
        "candidates": [{"content": {"parts": [{"text": "hi"}]}, "finishReason": "STOP"}],
        "usageMetadata": {
            "promptTokenCount": 260, "candidatesTokenCount": 5, "totalTokenCount": 265, "cachedContentTokenCount": 60,
            "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 200}, {"modality": "TEXT", "tokenCount": 60}],
            "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 40}, {"modality": "TEXT", "tokenCount": 20}],
        },
    }  # fmt: skip
    heard = _usage_in("gemini", body)
    assert (heard.input_audio_tokens, heard.cached_input_audio_tokens) == (200, 40)
    for usage in (spoken, heard):
        assert usage.consistent is True
        assert Usage(**usage_to_plain(usage)) == usage
    impossible = openai(total(20, 5, 25, prompt_tokens_details={"audio_tokens": 21}))
    assert (impossible.input_tokens, impossible.consistent) == (None, False)


def test_more_image_than_output_tokens_are_impossible() -> None:
    usage = openai(total(20, 5, 25, completion_tokens_details={"image_tokens": 6}))
    assert (usage.output_tokens, usage.output_image_tokens, usage.consistent) == (None, None, False)
    more = openai(total(20, 5, 25, cache_creation_input_tokens=3, cache_creation={"ephemeral_1h_input_tokens": 4}))
    assert (more.input_tokens, more.cache_write_input_tokens, more.consistent) == (None, None, False)


counts = st.none() | st.integers(-3, 12) | st.sampled_from([0, 10**15, 2.0, 2.5, "3", "-3", "x", True, [1]])
openai_usages = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(
            ("prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens"), counts
        ),
        **dict.fromkeys(("cached_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"), counts),
        "prompt_tokens_details": st.none()
        | st.fixed_dictionaries({}, optional={"cached_tokens": counts, "cache_write_tokens": counts}),
        "completion_tokens_details": st.none()
        | st.fixed_dictionaries({}, optional={"reasoning_tokens": counts, "image_tokens": counts}),
        "cache_creation": st.none() | st.fixed_dictionaries({"ephemeral_1h_input_tokens": counts}),
    },
)
gemini_usages = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        ("promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount", "totalTokenCount",
         "cachedContentTokenCount", "toolUsePromptTokenCount"),
        counts,
    ),
)  # fmt: skip


def obeys_the_invariants(usage: Usage, *, has_text: bool) -> None:
    known = {name: count for name in (*USAGE_COUNTS, *PRICED_PARTS) if (count := getattr(usage, name)) is not None}
    assert all(type(count) is int and count >= 0 for count in known.values())
    if usage.input_tokens is not None:
        assert usage.input_tokens > 0
        assert (usage.cached_input_tokens or 0) + (usage.cache_write_input_tokens or 0) <= usage.input_tokens
    if usage.output_tokens is not None:
        assert (usage.reasoning_tokens or 0) + (usage.output_image_tokens or 0) <= usage.output_tokens
        assert usage.output_tokens > 0 or not has_text
    if usage.total_tokens is not None:
        assert usage.total_tokens >= max(usage.input_tokens or 0, usage.output_tokens or 0)
    if usage.consistent is True:
        assert known["input_tokens"] + known["output_tokens"] == known["total_tokens"]
    if usage.consistent is None:
        assert not {"input_tokens", "output_tokens", "total_tokens"} <= known.keys()
    if usage.source != "missing":
        assert (usage.source == "reported") is ({"input_tokens", "output_tokens"} <= known.keys())
    if usage.consistent is False:
        assert PRICE.cost(usage) is None


@given(sent=openai_usages, text=st.sampled_from(["", "hello"]))
def test_no_openai_usage_has_an_impossible_count(sent: dict[str, Any], text: str) -> None:
    obeys_the_invariants(openai(sent, content=text), has_text=bool(text))


@given(sent=gemini_usages, text=st.sampled_from(["", "hello"]))
def test_no_gemini_usage_has_an_impossible_count(sent: dict[str, Any], text: str) -> None:
    obeys_the_invariants(gemini(sent, text=text), has_text=bool(text))


@given(
    st.integers(1, 10**6), st.integers(1, 10**6), st.floats(0, 1), st.floats(0, 1), st.booleans()
)  # fmt: skip
def test_true_counts_are_read_as_they_are(
    prompt: int, output: int, cached: float, reasoning: float, named: bool
) -> None:
    cached_tokens, reasoning_tokens = int(prompt * cached), int(output * reasoning)
    more: dict[str, Any] = (
        {"prompt_tokens_details": {"cached_tokens": cached_tokens}} if named else {"cached_tokens": cached_tokens}
    )
    sent = total(
        prompt, output, prompt + output, completion_tokens_details={"reasoning_tokens": reasoning_tokens}, **more
    )
    assert openai(sent) == Usage(
        input_tokens=prompt,
        cached_input_tokens=cached_tokens,
        output_tokens=output,
        reasoning_tokens=reasoning_tokens,
        total_tokens=prompt + output,
        source="reported",
        consistent=True,
    )


COUNTS = st.none() | st.integers(-1, 30)


@given(st.tuples(COUNTS, COUNTS, COUNTS, COUNTS, COUNTS), st.booleans(), st.booleans())
def test_usual_counts_are_judged_as_those_with_parts(
    counts: tuple[int | None, ...], was_read: bool, has_output: bool
) -> None:
    given, cached, taken, reasoned, total = counts
    sent = Usage(given, cached, output_tokens=taken, reasoning_tokens=reasoned, total_tokens=total)
    usual = usage_of(sent, was_read=was_read, has_output=has_output)
    with_part = usage_of(sent._replace(output_image_tokens=0), was_read=was_read, has_output=has_output)
    assert usual == with_part._replace(output_image_tokens=None)


ODD_COUNTS = st.sampled_from([None, -1, 0, 3, 7, 2**41, 2**60, 1.0, "5", True])
DETAILS = st.sampled_from(
    [None, [], {}, [{"modality": "TEXT", "tokenCount": 3}], [{"modality": "AUDIO", "tokenCount": 2}], ["x"]]
)


@given(st.lists(ODD_COUNTS, min_size=4, max_size=4), DETAILS, DETAILS, st.booleans())
def test_usual_counts_of_gemini_are_read_as_those_beside_others(
    counts: list[Any], given: Any, made: Any, has_image: bool
) -> None:
    names = ("promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount", "totalTokenCount")
    usage = {name: count for name, count in zip(names, counts, strict=True) if count is not None}
    usage |= {name: value for name, value in (("promptTokensDetails", given), ("candidatesTokensDetails", made))}
    parts = [{"text": "a"}, *([{"inlineData": {"mimeType": "image/png", "data": "aGk="}}] if has_image else [])]
    candidate = {"content": {"role": "model", "parts": parts}, "finishReason": "STOP"}
    read = [
        _usage_in("gemini", {"candidates": [candidate], "usageMetadata": {**usage, **other}})
        for other in ({}, {"cachedContentTokenCount": None})
    ]
    assert read[0] == read[1]
