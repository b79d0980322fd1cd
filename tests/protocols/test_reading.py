"""One complete answer to a reply, a refusal or a failure: envelopes, encodings, shapes; and what is not whole."""

from __future__ import annotations

import base64
import gzip
import json
import re
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convbatch.protocols import PROTOCOLS
from convbatch.protocols.content_encoding import CannotUnpack, Unpacked, unpack
from convbatch.protocols.reading import Answer, read_answer
from convbatch.reply import Failure, Reply, status_of
from tests.conftest import examples
from tests.support.tables import each

TEXT = "hello 你好"
USAGE = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}
MESSAGE = {"role": "assistant", "content": TEXT}
CHOICE = {"index": 0, "message": MESSAGE, "finish_reason": "stop"}
WHOLE: dict[str, Any] = {"id": "c-1", "model": "served", "choices": [CHOICE], "usage": USAGE}
JSON = json.dumps(WHOLE, ensure_ascii=False)
GEMINI: dict[str, Any] = {
    "candidates": [{"content": {"role": "model", "parts": [{"text": TEXT}]}, "finishReason": "STOP"}],
    "usageMetadata": {"promptTokenCount": 20, "candidatesTokenCount": 5, "totalTokenCount": 25},
    "modelVersion": "served",
}
ERROR = '{"error": {"message": "slow down", "code": "rate_limit_exceeded"}}'


def read(body: str | bytes, status: int = 200, wire: str = "openai", **more: Any) -> Answer:
    return read_answer(PROTOCOLS[wire], status, {}, body.encode() if isinstance(body, str) else body, **more)


def lines(*chunks: Any, end: str = "\n") -> str:
    """Write an event stream."""
    return "".join(f"data: {c if isinstance(c, str) else json.dumps(c, ensure_ascii=False)}{end}{end}" for c in chunks)


def chunk(text: str | None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    delta = {} if text is None else {"content": text}
    return {"id": "c-1", "model": "served", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


CHUNKS = (chunk("hello "), chunk("你好"), chunk(None, "stop", usage=USAGE))
ENVELOPES: dict[str, tuple[str | bytes, str]] = {
    "comments before": (f": OPENROUTER PROCESSING\n\n: OPENROUTER PROCESSING\n\n{JSON}", "comments"),
    "comments after": (f"{JSON}\n\n: done\n", "comments"),
    "done after": (f"{JSON}\n\ndata: [DONE]\n\n", "DONE"),
    "bare done after": (f"{JSON}\n[DONE]\n", "DONE"),
    "data before": (f"data: {JSON}", "stream"),
    "data before pretty JSON": (f"data: {json.dumps(WHOLE, ensure_ascii=False, indent=1)}\n\n", "data:"),
    "data and done": (f"event: message\ndata: {JSON}\n\ndata: [DONE]\n\n", "stream"),
    "the whole twice in a stream": (lines(WHOLE, WHOLE, "[DONE]"), "stream"),
    "a stream twice": (lines(*CHUNKS, "[DONE]", *CHUNKS, "[DONE]"), "left out"),
    "a stream of another answer after it": (lines(*CHUNKS, "[DONE]", chunk("x"), chunk("y"), "[DONE]"), "left out"),
    "usage after the end": (lines(*CHUNKS[:2], chunk(None, "stop"), "[DONE]", chunk(None, usage=USAGE)), "stream"),
    "pieces, then the whole": (lines(*CHUNKS, WHOLE), "stream"),
    "a stream": (lines(*CHUNKS, "[DONE]"), "stream"),
    "a stream without its last marker": (lines(*CHUNKS), "stream"),
    "a stream with CRLF": (lines(*CHUNKS, "[DONE]", end="\r\n"), "stream"),
    "a stream with CR": (lines(*CHUNKS, "[DONE]", end="\r"), "stream"),
    "a stream without empty lines": (lines(*CHUNKS, "[DONE]").replace("\n\n", "\n"), "stream"),
    "a stream with names": (f": hi\n\nid: 1\nevent: x\nretry: 9\n{lines(*CHUNKS)}", "stream"),
    "JSON lines": ("\n".join(json.dumps(c) for c in CHUNKS), "stream"),
    "an array of pieces": (json.dumps(CHUNKS), "array"),
    "the same JSON twice": (f"{JSON}\n{JSON}", "2 times"),
    "warning of a script before": (f"<br />\n<b>Warning</b>: x on line <b>3</b><br />\n{JSON}", "before the JSON"),
    "rubbish after": (f"{JSON}\n<!-- 0.3 s -->", "after the JSON"),
    "zeros after": (f"{JSON}\0\0\0", ""),
    "chunk sizes": (f"{len(JSON.encode()):x}\r\n{JSON}\r\n0\r\n\r\n", "chunk sizes"),
    "NaN": (JSON[:-1] + ', "avg": NaN, "low": -Infinity}', "NaN"),
    "raw control characters": (JSON.replace("hello", "a\n\tb"), "control characters"),
    "a wrong byte": (JSON.encode().replace(b"hello", b"hell\xff"), "wrong byte"),
    "GBK without a charset": (JSON.encode("gb18030"), "GB18030"),
    "a byte order mark": (b"\xef\xbb\xbf" + JSON.encode(), "byte order mark"),
    "UTF-16": (JSON.encode("utf-16"), "UTF-16"),
    "UTF-16 without a mark": (JSON.encode("utf-16-le"), "UTF-16"),
    "JSON in a JSON string": (json.dumps(JSON), "string"),
    "a wrapper": (json.dumps({"code": 0, "msg": "success", "data": WHOLE}), "'data'"),
    "a wrapper with 200": (json.dumps({"code": 200, "message": "success", "success": True, "data": WHOLE}), "'data'"),
    "a wrapper with text": (json.dumps({"result": JSON}), "'result'"),
    "an array": (json.dumps([WHOLE]), "array"),
}


@each("name", ENVELOPES)
def test_a_reply_is_found_in_its_envelope_and_the_oddity_is_noted(name: str) -> None:
    body, note = ENVELOPES[name]
    reply, said = read(body)
    assert isinstance(reply, Reply), reply
    text = (reply.text or "").replace("a\n\tb", "hello").replace("\ufffd", "o")
    assert (text, reply.finish_reason, reply.model_version) == (TEXT, "stop", "served")
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (20, 5)
    assert note in (said or "")
    assert said or not note


def test_the_usual_answer_has_no_note() -> None:
    assert read(JSON).note is None
    assert read(json.dumps(GEMINI), wire="gemini").note is None


@each("status", [200, 201, 202, 207, 299, 400, 403, 429, 500, 503])
@each("finish", ["stop", "content_filter"])
def test_a_complete_completion_is_a_reply_under_any_status(status: int, finish: str) -> None:
    reply, note = read(json.dumps({**WHOLE, "choices": [{**CHOICE, "finish_reason": finish}]}), status)
    assert isinstance(reply, Reply)
    assert (reply.text, status_of(reply)) == (TEXT, "ok" if finish == "stop" else "blocked")
    assert note == (None if status == 200 else f"HTTP status {status}")


def test_an_error_beside_a_completion_stays_an_error() -> None:
    for extra in ({"error": {"message": "bad", "code": 400}}, {"choices": [{**CHOICE, "finish_reason": None}]}):
        assert isinstance(read(json.dumps({**WHOLE, **extra}), 400).outcome, Failure)


SHAPES: dict[str, tuple[Any, str]] = {
    "delta in place of message": ({**WHOLE, "choices": [{"delta": MESSAGE, "finish_reason": "stop"}]}, TEXT),
    "text in place of message": ({**WHOLE, "choices": [{"text": TEXT, "finish_reason": "stop"}]}, TEXT),
    "a message that is a text": ({**WHOLE, "choices": [{"message": TEXT, "finish_reason": "stop"}]}, TEXT),
    "choices that are an object": ({**WHOLE, "choices": CHOICE}, TEXT),
    "content with a text": (
        {**WHOLE, "choices": [{**CHOICE, "message": {**MESSAGE, "content": {"type": "text", "text": TEXT}}}]},
        TEXT,
    ),
    "content that is an object": (
        {**WHOLE, "choices": [{**CHOICE, "message": {**MESSAGE, "content": {"a": TEXT, "n": 1}}}]},
        '{"a":"hello 你好","n":1}',
    ),
    "Responses": (
        {
            "object": "response",
            "status": "completed",
            "error": None,
            "model": "served",
            "output": [
                {"type": "reasoning", "summary": []},
                {"type": "message", "content": [{"type": "output_text", "text": TEXT}]},
            ],
            "usage": {"input_tokens": 20, "output_tokens": 5, "total_tokens": 25},
        },
        TEXT,
    ),
    "Anthropic": (
        {
            "type": "message",
            "model": "served",
            "content": [{"type": "text", "text": TEXT}],
            "stop_reason": "stop",
            "usage": {"input_tokens": 14, "cache_read_input_tokens": 6, "output_tokens": 5},
        },
        TEXT,
    ),
    "Ollama": (
        {
            **{"model": "served", "message": MESSAGE, "done": True, "done_reason": "stop"},
            **{"prompt_eval_count": 20, "eval_count": 5},
        },
        TEXT,
    ),
    "DashScope": (
        {"output": {"choices": [CHOICE]}, "usage": {"input_tokens": 20, "output_tokens": 5}, "model": "served"},
        TEXT,
    ),
    "Gemini": (GEMINI, TEXT),
    "Converse": (
        {
            "output": {"message": {"role": "assistant", "content": [{"text": TEXT}]}},
            **{"stopReason": "end_turn", "usage": {"inputTokens": 20, "outputTokens": 5}},
        },
        TEXT,
    ),
    "a text at the top": (
        {"response": TEXT, "stop_reason": "stop", "usage": {"prompt_tokens": 20, "completion_tokens": 5}},
        TEXT,
    ),
}  # fmt: skip


@each("name", SHAPES)
def test_a_reply_of_another_shape_is_read_and_noted(name: str) -> None:
    value, text = SHAPES[name]
    for wire in ("openai", "gemini"):
        reply, note = read(json.dumps(value), wire=wire)
        assert isinstance(reply, Reply), (wire, reply)
        assert (reply.text, reply.finish_reason) == (text, "stop")
        assert (reply.usage.input_tokens, reply.usage.output_tokens) == (20, 5)
        assert note or (wire, name) == ("gemini", "Gemini")
    assert isinstance(read(json.dumps(WHOLE), wire="gemini").outcome, Reply)


def test_a_stream_of_another_shape_is_read() -> None:
    end = {"type": "message_delta", "delta": {"stop_reason": "stop"}, "usage": {"output_tokens": 5}}
    anthropic = (
        {"type": "message_start", "message": {"model": "served", "usage": {"input_tokens": 20}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hello "}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "你好"}},
        end,
    )
    responses = ({"type": "response.created"}, {"type": "response.completed", "response": SHAPES["Responses"][0]})
    ollama = (
        {"message": {"role": "assistant", "content": "hello "}, "done": False},
        {"message": {"role": "assistant", "content": "你好"}, "done": False},
        {"message": {"role": "assistant", "content": ""}, "done": True, "prompt_eval_count": 20, "eval_count": 5},
    )
    for values in (anthropic, responses, ollama, (GEMINI,)):
        reply, note = read(lines(*values))
        assert isinstance(reply, Reply), reply
        assert (reply.text, reply.usage.output_tokens) == (TEXT, 5)
        assert note
    for cut in (anthropic[:-1], ollama[:-1]):
        assert isinstance(read(lines(*cut)).outcome, Failure)


NOT_ONE: dict[str, tuple[str | bytes, str]] = {
    "nothing": ("", "empty"),
    "comments alone": (": OPENROUTER PROCESSING\n\n: OPENROUTER PROCESSING\n\n", ""),
    "a stream without an end": (lines(*CHUNKS[:2]), "finish reason"),
    "two different replies": (JSON + JSON.replace("hello", "bye"), "different"),
    "two different replies in a stream": (lines(WHOLE, {**WHOLE, "id": "c-2"}), "different"),
    "a cut reply after a whole one": (JSON + JSON[:-9], ""),
    "a response in progress": (json.dumps({**SHAPES["Responses"][0], "status": "in_progress"}), ""),
    "a text that failed": ('{"code": 7, "result": "x", "usage": {"prompt_tokens": 1}}', "neither"),
    "a text without an end": ('{"text": "x"}', "keys: text"),
    "an object that is no reply": ('{"status": "ok"}', "keys: status"),
    "a page of a proxy that gave up": ("<html><title>504 Gateway Time-out</title></html>", "504"),
    "text of a proxy that gave up": ("upstream request timeout", "timeout"),
    "a stream that broke off": ("stream closed before the end", "stream closed"),
    "a cut reply below other text": (f"Notice: x\n{JSON[:-9]}", ""),
    "a cut reply below the size of its chunk": (f"{len(JSON):x}\r\n{JSON[:-9]}", ""),
    "compressed with something": (bytes(range(1, 99)), ""),
    "nested too deeply": ('{"a": "\t", "choices": ' + "[" * 100_000, ""),
}


@each("name", NOT_ONE)
def test_what_is_not_one_reply_may_have_been_paid(name: str) -> None:
    body, said = NOT_ONE[name]
    failure = read(body).outcome
    assert isinstance(failure, Failure)
    assert said in failure.message
    assert not failure.no_model
    assert not failure.structured


@each(
    "body",
    [
        "<!DOCTYPE html><html><title>New API</title><body>Sign in</body></html>",
        "404 page not found",
        "Welcome to the gateway!",
        '{"error": "Unexpected endpoint or method. (POST /v1/v1/chat/completions)"}',
        "<h1>We are back soon</h1> Maintenance",
    ],
)
@each("wire", ["openai", "gemini"])
def test_a_page_or_text_says_that_no_model_was_asked(body: str, wire: str) -> None:
    failure = read(body, wire=wire).outcome
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.no_model) == ("bad_response", True)
    assert "base_url" in failure.message


@each("body", [f": wait\n\n{ERROR}", lines(json.loads(ERROR)), ERROR[:-1] + ', "x": NaN}'])
@each("status", [200, 400])
def test_an_error_is_found_in_its_envelope(body: str, status: int) -> None:
    failure, note = read(body, status)
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.message, failure.structured) == ("rate_limit", "slow down", True)
    assert note


def test_a_redirect_names_host_and_path_but_no_query_and_no_password() -> None:
    for location, said in (("https://me:secret@h.test/x/?key=k", "to h.test/x/,"), ("http://[", "redirect,")):
        failure = read_answer(PROTOCOLS["openai"], 307, {"location": location}, b"").outcome
        assert isinstance(failure, Failure)
        assert said in failure.message
        assert "secret" not in failure.message
        assert "key=k" not in failure.message


def decorated() -> st.SearchStrategy[tuple[bytes, int]]:
    """Return bodies that hold one reply, and where its JSON ends."""
    before = st.sampled_from(["", "\n\n", ": wait\n\n", "data: ", "\ufeff", "Notice: x\n"])
    after = st.sampled_from(["", "\n", "\n\ndata: [DONE]\n\n", "\n: bye\n"])
    values = st.sampled_from(
        [WHOLE, GEMINI, {"code": 0, "data": WHOLE}, [GEMINI], *(value for value, _ in SHAPES.values())]
    )
    dumped = st.builds(
        lambda value, indent: json.dumps(value, ensure_ascii=False, indent=indent), values, st.sampled_from([None, 1])
    )
    parts = st.tuples(before, dumped, after)
    return parts.map(lambda p: ("".join(p).encode(), len((p[0] + p[1]).encode())))


@settings(max_examples=examples(60))
@given(decorated(), st.data(), st.sampled_from(["openai", "gemini"]))
def test_a_body_cut_before_its_end_is_never_a_reply_and_may_have_been_paid(
    body: tuple[bytes, int], data: st.DataObject, wire: str
) -> None:
    whole, end = body
    assert isinstance(read(whole, wire=wire).outcome, Reply)
    cut = whole[: data.draw(st.integers(0, end - 1))]
    for status in (200, 500):
        failure = read(cut, status, wire, is_cut=True).outcome
        assert isinstance(failure, Failure)
        assert not (failure.no_model and whole[:6] != b"Notice")


@settings(max_examples=examples(30))
@given(st.data(), st.sampled_from(["\n", "\r\n", "\r"]))
def test_a_stream_cut_before_its_finish_reason_is_never_a_reply(data: st.DataObject, end: str) -> None:
    body = lines(*CHUNKS, "[DONE]", end=end).encode()
    finish = body.index(b'"finish_reason": "stop"')
    cut = read(body[: data.draw(st.integers(0, finish))], is_cut=True).outcome
    assert isinstance(cut, Failure)
    assert not cut.no_model


def test_a_cut_gemini_stream_that_repeats_its_finish_reason_is_not_whole() -> None:
    body = lines(GEMINI, GEMINI)
    assert isinstance(read(body, wire="gemini").outcome, Reply)
    assert isinstance(read(body, wire="gemini", is_cut=True).outcome, Failure)


@settings(max_examples=examples(60))
@given(st.binary(max_size=200) | st.text(max_size=99).map(str.encode), st.integers(100, 599), st.booleans())
def test_reading_never_raises(body: bytes, status: int, is_cut: bool) -> None:
    for wire in PROTOCOLS.values():
        answer = read_answer(wire, status, {}, body, is_cut=is_cut)
        assert isinstance(answer.outcome, Reply | Failure)


PLAIN = JSON.encode()
PACKED: dict[str, tuple[bytes, str, str]] = {
    "gzip": (gzip.compress(PLAIN), "gzip", ""),
    "x-gzip in capitals": (gzip.compress(PLAIN), "X-GZIP", ""),
    "zlib": (zlib.compress(PLAIN), "deflate", ""),
    "raw deflate": (zlib.compress(PLAIN, wbits=-15), "deflate", ""),
    "identity": (PLAIN, "identity", ""),
    "twice": (gzip.compress(gzip.compress(PLAIN)), "gzip, gzip", "twice"),
    "twice, named once": (gzip.compress(gzip.compress(PLAIN)), "gzip", "twice"),
    "once, named twice": (gzip.compress(PLAIN), "gzip, gzip", "once"),
    "gzip around zlib": (gzip.compress(zlib.compress(PLAIN)), "deflate, gzip", "twice"),
    "not named": (gzip.compress(PLAIN), "", "missing"),
    "zlib, not named": (zlib.compress(PLAIN), "", "missing"),
    "named otherwise": (gzip.compress(PLAIN), "br", "'br'"),
    "two members": (gzip.compress(PLAIN[:9]) + gzip.compress(PLAIN[9:]), "gzip", "2 gzip members"),
    "a member for each byte": (
        b"".join(gzip.compress(PLAIN[at : at + 1]) for at in range(len(PLAIN))) + gzip.compress(b"") * 200,
        "gzip",
        f"{len(PLAIN) + 200:,} gzip members",
    ),
    "zeros after": (gzip.compress(PLAIN) + b"\0" * 8, "gzip", ""),
    "plain, named gzip": (PLAIN, "gzip", "not encoded"),
    "plain, named deflate": (PLAIN, "deflate", "not encoded"),
    "plain, named br": (PLAIN, "br", "not encoded"),
    "plain, named zstd": (PLAIN, "zstd", "not encoded"),
    "plain, named UTF-8": (PLAIN, "UTF-8", "'utf-8'"),
    "plain, named none": (PLAIN, "none", "'none'"),
}


@each("name", PACKED)
def test_a_content_encoding_is_undone_as_the_bytes_show_it(name: str) -> None:
    body, encoding, note = PACKED[name]
    unpacked = unpack(body, encoding, "application/json", max_bytes=10_000)
    assert (unpacked.body, unpacked.is_cut) == (PLAIN, False)
    assert note in "; ".join(unpacked.notes)
    assert bool(unpacked.notes) == bool(note)


@each(
    ("body", "encoding", "said"),
    [
        (base64.b64decode("GxgA+KUAgKqqqqrqVGpaIQ=="), "br", "compressed with br"),
        (b"\x28\xb5\x2f\xfd" + bytes(20), "", "compressed with zstd"),
        (bytes(range(200, 220)) + bytes(20), "gzip", "cannot be decompressed"),
        (bytes(20), "snappy", "unknown content encoding 'snappy'"),
        (gzip.compress(bytes(20_000)), "gzip", "decompresses to more than"),
        (gzip.compress(gzip.compress(bytes(20_000))), "gzip, gzip", "decompresses to more than"),
        (gzip.compress(bytes(6_000)) * 2, "gzip", "decompresses to more than"),
        (gzip.compress(gzip.compress(gzip.compress(gzip.compress(gzip.compress(PLAIN))))), "gzip", "more than 4 times"),
    ],
)
def test_what_cannot_be_unpacked_is_refused_by_name(body: bytes, encoding: str, said: str) -> None:
    with pytest.raises(CannotUnpack, match=re.escape(said)):
        unpack(body, encoding, "", max_bytes=10_000)


@settings(max_examples=examples(30))
@given(st.data(), st.sampled_from([gzip.compress(PLAIN), zlib.compress(PLAIN), gzip.compress(gzip.compress(PLAIN))]))
def test_cut_compressed_data_give_a_prefix_of_the_body_marked_as_cut(data: st.DataObject, packed: bytes) -> None:
    cut = packed[: data.draw(st.integers(1, len(packed) - 1))]
    try:
        body, _, is_cut = unpack(cut, "gzip, deflate", "", max_bytes=10_000)
    except CannotUnpack:
        return
    if is_cut:
        assert PLAIN.startswith(body) or gzip.compress(PLAIN)[10:].startswith(body[10:])
    else:
        assert body == cut  # too short to be recognized


@each(
    ("charset", "codec", "note"),
    [
        ("GBK", "gbk", "GBK"),
        ('"gb2312"', "gbk", "gb2312"),
        ("GB18030", "gb18030", "GB18030"),
        ("big5", "big5", "big5"),
        ("utf-16", "utf-16", "utf-16"),
        ("utf-8", "utf-8", ""),
        ("UTF8", "utf-8", ""),
        ("latin-1", "utf-8", "UTF-8, not latin-1"),
        ("GBK", "utf-8", "UTF-8, not GBK"),
        ("rot13", "utf-8", ""),
        ("unknown", "utf-8", ""),
    ],
)
def test_a_body_becomes_utf8_from_the_charset_of_its_header(charset: str, codec: str, note: str) -> None:
    body, notes, _ = unpack(JSON.encode(codec), "", f"application/json; charset={charset}", max_bytes=10_000)
    assert body.decode("utf-8") == JSON
    assert (notes, bool(notes)) == (notes, bool(note))
    assert note in "; ".join(notes)


def test_latin_1_is_read_where_it_is_latin_1() -> None:
    body, notes, _ = unpack('{"a": "café"}'.encode("latin-1"), "", "text/plain; charset=ISO-8859-1", max_bytes=99)
    assert (body.decode(), notes) == ('{"a": "café"}', ("charset ISO-8859-1",))
    assert unpack(b"{}", "", "", max_bytes=99) == Unpacked(b"{}")


def test_a_cut_stream_that_repeats_its_finish_reason_beside_content_is_whole_at_its_end() -> None:
    pieces = [{"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": "stop"}]} for text in "abc"]
    assert isinstance(read(lines(*pieces), is_cut=True).outcome, Failure)
    for ended in (lines(*pieces, "[DONE]"), lines(*CHUNKS)):
        assert isinstance(read(ended, is_cut=True).outcome, Reply)


@pytest.mark.parametrize(
    "body",
    [
        b'[{"candidates": [{"content": {"parts": [{"text": "half"}]}}]}]',
        b'data: {"candidates": [{"content": {"parts": [{"text": "half"}]}}]}\n\n',
    ],
)
def test_a_stream_without_its_end_is_cut_even_if_one_piece_is_all_of_it(body: bytes) -> None:
    outcome = read_answer(PROTOCOLS["gemini"], 200, {}, body).outcome
    assert isinstance(outcome, Failure)
    assert (outcome.kind, outcome.text) == ("stream_truncated", "half")


@pytest.mark.parametrize("body", [b"NaN", b"12", b"null", b"-Infinity", b"true\n"])
def test_a_lone_value_does_not_show_that_no_model_was_asked(body: bytes) -> None:
    outcome = read_answer(PROTOCOLS["openai"], 200, {}, body).outcome
    assert isinstance(outcome, Failure)
    assert not outcome.no_model
