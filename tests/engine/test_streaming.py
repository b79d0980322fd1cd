"""Streamed replies through real sockets: any chunking, any server, broken and silent streams, keys in pieces."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
import tracemalloc
import zlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from convbatch.config.gateways import Gateway, Target
from convbatch.dialogue import Message, text_part
from convbatch.engine.client import Client
from convbatch.engine.http_values import SentCancelled
from convbatch.engine.streaming import StreamWatch
from convbatch.engine.transport import AiohttpTransport
from convbatch.protocols import PROTOCOLS
from convbatch.protocols.reading import read_answer
from convbatch.protocols.sse import SseParser
from convbatch.protocols.stream_fold import StreamFold
from convbatch.protocols.stream_text import added_text
from convbatch.protocols.wire import Ask
from convbatch.redaction import Redactor, Secret
from convbatch.reply import Attempt, Failure, Reply
from convbatch.simulator.fault_script import FaultScript
from convbatch.simulator.provider import Provider
from convbatch.simulator.server import Server, serve_in_thread
from convbatch.system import RealClock
from tests.support.tables import each

BODIES = Path(__file__).parent.parent / "bodies"
STREAMS = [
    (fixture["protocol"], (BODIES / fixture["file"]).read_bytes())
    for fixture in json.loads((BODIES / "index.json").read_bytes())["fixtures"]
    if fixture["file"].endswith(".sse")
]
KEY = "sk-0123456789abcdefghij"
Pieces = Sequence[bytes | float]
"""What a server sends: bytes, and seconds to wait."""


def piece(text: str, finish: str | None = None) -> bytes:
    """Return an event of chat completions."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return b"data: " + json.dumps({"id": "c", "model": "m", "choices": [choice]}).encode() + b"\n\n"


@asynccontextmanager
async def serving(pieces: Pieces, *, headers: str = "", ends: bool = True) -> AsyncGenerator[str]:
    """Answer each request with these pieces, chunked; without an end the connection is closed after them."""

    at_work: set[asyncio.Task[Any] | None] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        at_work.add(asyncio.current_task())
        try:
            await send(reader, writer)
        except OSError:
            pass  # the client has left
        finally:
            writer.close()

    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65_536)
        head = f"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n{headers}\r\n"
        writer.write(head.encode())
        for item in pieces:
            if isinstance(item, bytes):
                writer.write(b"%x\r\n%b\r\n" % (len(item), item))
                await writer.drain()
            await asyncio.sleep(item if isinstance(item, float) else 0)
        if ends:
            writer.write(b"0\r\n\r\n")

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        left = [task for task in at_work if task is not None]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


@asynccontextmanager
async def client_of(url: str, protocol: str = "openai", **more: Any) -> AsyncGenerator[Client]:
    base = f"{url}/v1" if protocol in ("openai", "responses") else url
    target = Target(model="sim-good", gateway=Gateway(name="g", protocol=protocol, base_url=base, auth="none"))
    transport = AiohttpTransport(by_session=more.pop("by_session", False))
    redactor = more.pop("redactor", Redactor())
    try:
        yield Client(target, None, transport=transport, redactor=redactor, clock=RealClock(), **more)
    finally:
        await transport.close()


QUESTION = Ask(
    model="sim-good",
    messages=(Message(role="user", parts=(text_part("Tell me a story, and a long one, please."),)),),
    stream=True,
)


async def answered(pieces: Pieces, protocol: str = "openai", *, ends: bool = True, **more: Any) -> Attempt:
    """Ask a server that sends these pieces."""
    headers = more.pop("headers", "")
    async with serving(pieces, headers=headers, ends=ends) as url, client_of(url, protocol, **more) as client:
        return await client.attempt(QUESTION)


def in_pieces(body: bytes, chance: random.Random) -> list[bytes]:
    cuts = sorted({0, len(body), *(chance.randrange(len(body) + 1) for _ in range(chance.randrange(30)))})
    return [body[start:end] for start, end in itertools.pairwise(cuts)]


def gzipped(pieces: Sequence[bytes]) -> list[bytes]:
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    return [*(packer.compress(item) + packer.flush(zlib.Z_SYNC_FLUSH) for item in pieces), packer.flush()]


# -- any chunking


async def test_every_recorded_stream_in_any_chunks_is_what_its_whole_body_is(by_session: bool):
    chance = random.Random(14)
    for protocol, body in STREAMS:
        pieces = in_pieces(body, chance)
        packed = chance.random() < 0.3
        headers = "content-encoding: gzip\r\n" if packed else ""
        attempt = await answered(
            gzipped(pieces) if packed else pieces, protocol, headers=headers, by_session=by_session
        )
        expected = read_answer(PROTOCOLS[protocol], 200, {}, body).outcome
        assert attempt.outcome == expected
        assert attempt.body == body
        events = SseParser()
        each = [StreamFold(PROTOCOLS[protocol]).add([event]) for event in (*events.feed_raw(body), *events.close_raw())]
        assert attempt.chunks == sum(one.chunks for one in each)
        assert (attempt.ttft_s is None) is (attempt.chunks == 0)


def test_the_texts_of_the_events_are_those_of_the_reply():
    complete = 0
    for protocol, body in STREAMS:
        reply = read_answer(PROTOCOLS[protocol], 200, {}, body).outcome
        if isinstance(reply, Reply):
            events, fold = SseParser(), StreamFold(PROTOCOLS[protocol])
            added = [fold.add([event]) for event in (*events.feed_raw(body), *events.close_raw())]
            assert "".join(one.text for one in added) == (reply.text or "")
            assert "".join(one.thought for one in added) == (reply.thought or "")
            complete += 1
    assert complete > 10


@each("odd", [{"type": []}, {"type": {}}, {"choices": [{"delta": {"content": [{"type": []}]}}]}, {"candidates": 3}])
def test_an_event_of_an_odd_type_adds_nothing(odd: dict[str, Any]):
    assert added_text(odd) == ("", "")


HABITS: dict[str, dict[str, Any]] = {
    "as the provider streams": {},
    "CR": {"lines": "cr"},
    "CRLF, no spaces, no [DONE]": {"lines": "crlf", "space": False, "done": False},
    "comments and [DONE]": {"comments": True, "keep_alive": 3, "done": True},
    "three bytes at a time": {"bytes": 3},
    "gzip, cut inside its blocks": {"gzip": True},
    "usage in the event with the finish reason": {"usage": "finish"},
    "usage after it": {"usage": "after"},
    "running usage": {"usage": "running"},
    "one whole body": {"form": "whole"},
}


def test_servers_of_any_habit_give_the_reply_that_is_not_streamed():
    with serve_in_thread(Provider()) as server:
        for protocol in PROTOCOLS:
            whole = asyncio.run(ask_simulator(server, protocol, [], stream=False))
            for name, habit in HABITS.items():
                attempt = asyncio.run(ask_simulator(server, protocol, [{"action": "stream", **habit}]))
                assert of_reply(attempt) == of_reply(whole), name
                is_note = "form" in habit
                assert attempt.wire_note == ("a stream was asked for, and this is none" if is_note else None), name
                assert (attempt.chunks is None) is is_note, name
            missing = asyncio.run(ask_simulator(server, protocol, [{"action": "stream", "usage": "missing"}]))
            assert isinstance(missing.outcome, Reply)
            assert missing.outcome.usage.source == "missing"
            tier = {"service_tier": missing.outcome.service_tier}  # Anthropic names it beside the counts
            assert of_reply(missing)[0] == of_reply(whole)[0]._replace(**tier)


async def ask_simulator(server: Server, protocol: str, rules: list[dict[str, Any]], *, stream: bool = True) -> Attempt:
    server.provider.faults = FaultScript.of(rules)
    async with client_of(server.url, protocol, silence_s=5.0) as client:
        return await client.attempt(QUESTION._replace(stream=stream))


def of_reply(attempt: Attempt) -> tuple[Any, Any]:
    """Return what must not depend on the way of delivery; the raw turn may have more empty fields in a whole body."""
    reply = attempt.outcome
    assert isinstance(reply, Reply), reply
    return reply._replace(raw_turn=None, usage=None), reply.usage  # pyright: ignore[reportArgumentType]  # compared only


# -- streams that do not end well


async def test_a_broken_stream_is_ambiguous_and_keeps_its_text(by_session: bool):
    for ends in (True, False):
        attempt = await answered([piece("one "), piece("two "), b"data: {"], ends=ends, by_session=by_session)
        assert isinstance(attempt.outcome, Failure)
        assert (attempt.cls, attempt.outcome.text) == ("ambiguous", "one two ")
        assert (attempt.chunks, attempt.ttft_s is None) == (2, False)


ERROR = b'data: {"error": {"message": "overloaded", "type": "server_error", "code": 503}}\n\n'


@pytest.mark.parametrize("ends", [True, False], ids=["whole", "connection lost"])
async def test_an_error_in_a_stream_counts_as_its_code_only_before_the_first_text(ends: bool, by_session: bool):
    before = await answered([b": hi\n\n", ERROR], ends=ends, by_session=by_session)
    assert isinstance(before.outcome, Failure)
    assert (before.cls, before.outcome.kind, before.outcome.text) == ("refused", "overloaded", None)
    after = await answered([piece("one"), ERROR], ends=ends, by_session=by_session)
    assert isinstance(after.outcome, Failure)
    assert (after.cls, after.outcome.kind, after.outcome.text) == ("ambiguous", "overloaded", "one")
    thinking = piece("hm").replace(b"content", b"reasoning")
    thought = await answered([thinking, ERROR], ends=ends, by_session=by_session)
    assert (thought.cls, thought.outcome.text) == ("ambiguous", None)


async def test_a_silent_stream_is_ended_and_a_comment_is_no_silence(by_session: bool):
    silent = await answered([piece("one"), 5.0], silence_s=0.1, by_session=by_session)
    assert isinstance(silent.outcome, Failure)
    assert (silent.cls, silent.outcome.kind, silent.outcome.text) == ("timeout", "timeout", "one")
    assert "sent nothing for 0.1 s" in silent.outcome.message
    alive = await answered([*[b": hi\n\n", 0.03] * 5, piece("late", "stop")], silence_s=0.1, by_session=by_session)
    assert isinstance(alive.outcome, Reply)
    assert alive.ttft_s is not None
    assert alive.ttft_s > 0.12


UNNAMED = [
    b'data: {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "all"}}\n\n',
    b'data: {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}\n\n',
    b'data: {"type": "message_stop"}\n\n',
]
"""Events of Messages without their names, as some gateways send them."""


@pytest.mark.parametrize(
    ("protocol", "pieces"), [("openai", [piece("all", "stop"), b"data: [DONE]\n\n"]), ("anthropic", UNNAMED)]
)
async def test_a_reply_counts_when_the_connection_stays_open_after_its_last_event(
    protocol: str, pieces: list[bytes], by_session: bool
):
    begun = time.monotonic()
    attempt = await answered([*pieces, 5.0], protocol, silence_s=0.1, by_session=by_session)
    assert isinstance(attempt.outcome, Reply)
    assert attempt.wire_note == "whole, although the stream sent nothing for 0.1 s after its last event"
    assert attempt.latency_s is not None
    assert attempt.latency_s < 0.1 < time.monotonic() - begun


async def test_usage_after_the_last_event_is_read(by_session: bool):
    usage = b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}}\n\n'
    attempt = await answered([piece("all", "stop"), b"data: [DONE]\n\n", 0.02, usage], by_session=by_session)
    assert isinstance(attempt.outcome, Reply)
    assert attempt.outcome.usage.total_tokens == 7


@pytest.mark.parametrize(("end", "cls"), [(None, "abandoned"), ("stop", "replied")], ids=["part", "all"])
async def test_a_cancelled_stream_keeps_what_it_has(end: str | None, cls: str, by_session: bool):
    async with serving([piece("one", end), 5.0]) as url, client_of(url, by_session=by_session) as client:
        task = asyncio.create_task(client.attempt(QUESTION))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(SentCancelled) as caught:
            await task
    attempt = caught.value.attempt
    assert attempt is not None
    assert (attempt.cls, attempt.outcome.text, attempt.body) == (cls, "one", piece("one", end))


# -- keys


@pytest.mark.parametrize("end", ["stop", None], ids=["whole", "broken"])
async def test_a_key_that_a_stream_gives_in_pieces_is_kept_nowhere(end: str | None, by_session: bool):
    redactor = Redactor([Secret("MY_KEY", KEY)])
    pieces = [piece("it is "), piece(KEY[:9]), piece(KEY[9:15]), piece(KEY[15:]), piece(", yes", end)]
    attempt = await answered(pieces, redactor=redactor, by_session=by_session)
    assert attempt.outcome.text == "it is [redacted:MY_KEY], yes"
    assert attempt.body is not None
    assert KEY[9:15].encode() not in attempt.body
    assert KEY[:9].encode() not in attempt.body
    if isinstance(attempt.outcome, Reply):
        assert attempt.outcome.raw_turn["content"] == attempt.outcome.text
        assert read_answer(PROTOCOLS["openai"], 200, {}, attempt.body).outcome == attempt.outcome


# -- times


class Ticking:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError


def test_times_are_of_events_with_text_and_gaps_are_between_them():
    clock = Ticking()
    watch = StreamWatch(PROTOCOLS["openai"], clock)
    for at, sent in ((1, b": hi\n\n"), (2, piece("")), (3, piece("a")), (4, piece("b")[:9]), (6, piece("b")[9:])):
        clock.now = at
        watch.received(sent)
    for at in (6.5, 7.5):
        clock.now = at
        watch.received(piece("c"))
    clock.now = 9
    watch.received(piece("", "stop") + b"data: [DONE]\n\n")
    reply = watch.close()
    times = watch.times(0.5)
    assert reply is not None
    assert reply.text == "abcc"
    assert (times.ttft_s, times.chunks, times.itl_p50_s, times.itl_p95_s) == (2.5, 4, 1.0, 3.0)
    assert watch.last_at == 9


@each("body", [b'{"choices": []}', b"<html>", b"[1]", b"", b"da", b": only a comment\n\n"])
def test_a_body_that_is_no_stream_has_no_times(body: bytes):
    watch = StreamWatch(PROTOCOLS["openai"], Ticking())
    for at in range(len(body)):
        watch.received(body[at : at + 1])
    assert watch.close() is None
    assert set(watch.times(0.0)) == {None}


def test_a_compressed_bomb_does_not_grow_the_watch():
    bomb = zlib.compress(b"data: " + b"x" * 2**25, 1)
    watch = StreamWatch(PROTOCOLS["openai"], Ticking())
    tracemalloc.start()
    watch.received(bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert watch.close() is None
    assert peak < 20 * 2**20


def test_a_stream_for_which_nothing_was_asked_is_noted():
    body = piece("a", "stop")
    asked, not_asked = (read_answer(PROTOCOLS["openai"], 200, {}, body, streamed=flag) for flag in (True, False))
    assert (asked.note, not_asked.note) == (None, "an event stream that was not asked for")
    assert asked.outcome == not_asked.outcome


async def test_what_a_reply_says_about_itself_is_noted_streamed_as_whole(by_session: bool) -> None:
    removed = [{"type": "reasoning", "id": "rs_1", "action": "removed", "reason": "model_mismatch"}]
    text = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "hi"}]}
    response = {"status": "completed", "output": [text], "input_transformations": removed}
    event = json.dumps({"type": "response.completed", "response": response}).encode()
    attempt = await answered(
        [b"event: response.completed\ndata: " + event + b"\n\n"], "responses", by_session=by_session
    )
    assert attempt.wire_note == "the provider removed 1 reasoning item from the history (model_mismatch)"
