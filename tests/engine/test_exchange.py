"""Requests on connections of aiohttp, without its session: what is sent, when, and on which connection."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

import pytest

from convbatch.engine.exchange import is_tried
from convbatch.engine.http_values import NoResponse, NotSentCancelled, OutgoingRequest, SentCancelled
from convbatch.engine.transport import AiohttpTransport
from convbatch.errors import JournalError, JournalReplaced
from tests.support.tables import each

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@dataclass
class Recorder:
    """A server that keeps the requests of each connection, and answers them in order."""

    answers: list[bytes] = field(default_factory=lambda: [OK])
    """The last one is repeated; an empty one closes the connection."""
    connections: list[list[bytes]] = field(default_factory=list[list[bytes]])
    url: str = ""

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncGenerator[Recorder]:
        writers: list[asyncio.StreamWriter] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            requests: list[bytes] = []
            self.connections.append(requests)
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while answer := await self._next(reader, requests):
                    writer.write(answer)
                    await writer.drain()
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            try:
                yield self
            finally:
                for writer in writers:
                    writer.transport.abort()

    async def _next(self, reader: asyncio.StreamReader, requests: list[bytes]) -> bytes:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        requests.append(head + await reader.readexactly(0 if length is None else int(length[1])))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def post(url: str, body: bytes = b"{}", *, headers: dict[str, str] | None = None, timeout_s: float = 9.0):
    return OutgoingRequest(method="POST", url=url, headers=headers or {}, body=body, timeout_s=timeout_s)


REQUESTS: dict[str, tuple[str, dict[str, str], bytes]] = {
    "plain": ("/v1/chat/completions", {"Content-Type": "application/json", "x-key": "k"}, b"{}"),
    "no type": ("/", {}, b"\x00\xff"),
    "a query": ("/a%2Fb:generate?key=a%20b&x=%C3%A9", {"Accept": "text/event-stream"}, b"1" * 70_000),
    "a header in UTF-8": ("/", {"X-Name": "Zoë"}, b"{}"),
    "by a session: an encoding": ("/", {"Content-Encoding": "identity"}, b"{}"),
    "by a session: another host": ("/", {"host": "gateway.example"}, b"{}"),
    "by a session: a large body": ("/", {}, b"x" * (512 * 1024 + 1)),
}


@pytest.mark.parametrize(("path", "headers", "body"), REQUESTS.values(), ids=REQUESTS)
async def test_both_ways_send_the_same_bytes(path: str, headers: dict[str, str], body: bytes):
    async with Recorder().serving() as server:
        for by_session in (False, True):
            transport = AiohttpTransport(by_session=by_session)
            assert (await transport.send(post(server.url + path, body, headers=headers))).body == b"{}"
            await transport.close()
    [[one], [other]] = server.connections
    assert one == other


async def test_a_header_with_a_line_break_is_never_sent(by_session: bool):
    async with Recorder().serving() as server:
        transport = AiohttpTransport(by_session=by_session)
        with pytest.raises(NoResponse):
            await transport.send(post(server.url, headers={"X": "a\r\nY: b"}))
        await transport.close()
    assert [request for requests in server.connections for request in requests] == []


async def test_a_connection_is_used_again_until_an_answer_says_close(by_session: bool):
    closing = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    async with Recorder([OK, b"HTTP/1.1 103 Early\r\n\r\n" + OK, closing, OK]).serving() as server:
        transport = AiohttpTransport(by_session=by_session)
        for _ in range(5):
            assert (await transport.send(post(server.url))).status == 200
        await transport.close()
    assert [len(requests) for requests in server.connections] == [3, 2]


async def test_a_connection_that_the_server_closed_while_it_was_idle_is_not_used_again(by_session: bool):
    idle = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n{}")
        writer.write(OK)
        await writer.drain()
        writer.close()
        idle.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        transport = AiohttpTransport(by_session=by_session)
        for _ in range(3):
            idle.clear()
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            assert (await transport.send(post(url))).status == 200
            await idle.wait()
            await asyncio.sleep(0.01)
        await transport.close()


async def test_what_arrived_before_the_time_was_up_is_kept(by_session: bool):
    async with Recorder([OK.replace(b"2\r\n", b"9\r\n")]).serving() as server:
        transport = AiohttpTransport(by_session=by_session)
        with pytest.raises(NoResponse, match=r"attempt timeout of 0\.1 s") as caught:
            await transport.send(post(server.url, timeout_s=0.1))
        with pytest.raises(NoResponse, match="attempt timeout") as again:  # on a connection of its own
            await transport.send(post(server.url, timeout_s=0.1))
        await transport.close()
    for gone in (caught.value, again.value):
        assert (gone.kind, gone.sent, gone.own_timeout, gone.status, gone.partial) == (
            "timeout",
            True,
            True,
            200,
            b"{}",
        )
    assert [len(requests) for requests in server.connections] == [1, 1]


async def test_the_time_of_each_request_counts_from_its_own_start():
    """One timer ends them all; each deadline holds, also behind many requests that have ended."""
    never = Recorder([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}"])
    async with never.serving() as silent, Recorder().serving() as server:
        transport = AiohttpTransport()
        loop = asyncio.get_running_loop()

        async def time_of(timeout_s: float) -> float:
            begun = loop.time()
            with pytest.raises(NoResponse, match="attempt timeout"):
                await transport.send(post(silent.url, timeout_s=timeout_s))
            return loop.time() - begun

        first = asyncio.ensure_future(time_of(0.4))
        for _ in range(300):
            await transport.send(post(server.url, timeout_s=0.4))
        late = asyncio.ensure_future(time_of(0.4))
        assert 0.1 <= await time_of(0.1) < 5
        assert 0.4 <= await first < 5
        assert 0.4 <= await late < 5
        await transport.close()


class Intent:
    """An intent that is written, or refused, when the test says so."""

    def __init__(self, log: list[str], *, refused: JournalError | None = None) -> None:
        self._log = log
        self._refused = refused
        self.held: list[Callable[[], None]] = []

    def write(self) -> None:
        self._log.append("written")
        if self._refused is not None:
            raise self._refused

    def write_then(self, send: Callable[[], None], refuse: Callable[[JournalError], None]) -> None:
        self._log.append("staged")
        refused = self._refused
        self.held.append(send if refused is None else lambda: refuse(refused))


async def test_nothing_is_sent_before_its_intent_is_written(by_session: bool):
    log: list[str] = []
    async with Recorder().serving() as server:
        transport = AiohttpTransport(by_session=by_session)
        await transport.send_with(post(server.url), Intent(log))
        assert log == ["written"]
        intent = Intent(log)
        sending = asyncio.ensure_future(transport.send_with(post(server.url), intent))
        await asyncio.sleep(0.02)
        if by_session:
            assert log == ["written", "written"]
        else:
            assert log == ["written", "staged"]
            assert sum(map(len, server.connections)) == 1
            intent.held[0]()
        assert (await sending).status == 200
        await transport.close()
    assert [len(requests) for requests in server.connections] == [2]


async def test_a_refused_intent_sends_nothing(by_session: bool):
    log: list[str] = []
    async with Recorder().serving() as server:
        transport = AiohttpTransport(by_session=by_session)
        refused = JournalReplaced("gone")
        with pytest.raises(JournalReplaced):
            await transport.send_with(post(server.url), Intent(log, refused=refused))
        assert server.connections == []
        await transport.send(post(server.url))
        intent = Intent(log, refused=refused)
        sending = asyncio.ensure_future(transport.send_with(post(server.url), intent))
        await asyncio.sleep(0)
        for end in intent.held:
            end()
        with pytest.raises(JournalReplaced):
            await sending
        await transport.close()
    assert sum(map(len, server.connections)) == 1


async def test_a_request_that_is_cancelled_while_its_intent_is_written_is_never_sent():
    log: list[str] = []
    async with Recorder().serving() as server:
        transport = AiohttpTransport()
        await transport.send(post(server.url))
        intent = Intent(log)
        sending = asyncio.ensure_future(transport.send_with(post(server.url), intent))
        await asyncio.sleep(0)
        sending.cancel()
        with pytest.raises(NotSentCancelled):
            await sending
        intent.held[0]()
        await asyncio.sleep(0.01)
        await transport.close()
    assert sum(map(len, server.connections)) == 1


async def test_a_cancelled_request_keeps_what_had_arrived(by_session: bool):
    async with Recorder([OK.replace(b"2\r\n", b"9\r\n")]).serving() as server:
        transport = AiohttpTransport(by_session=by_session)
        sending = asyncio.ensure_future(transport.send(post(server.url)))
        await asyncio.sleep(0.05)
        sending.cancel()
        with pytest.raises(SentCancelled) as caught:
            await sending
        await transport.close()
    assert (caught.value.gone.status, caught.value.gone.partial) == (200, b"{}")


async def test_a_connection_lost_without_an_answer_may_have_been_paid(by_session: bool):
    async with Recorder([OK, b""]).serving() as server:
        transport = AiohttpTransport(by_session=by_session)
        await transport.send(post(server.url))
        with pytest.raises(NoResponse, match="without an answer") as caught:
            await transport.send(post(server.url))
        await transport.close()
    assert (caught.value.kind, caught.value.sent, caught.value.status) == ("connection", True, None)
    assert [len(requests) for requests in server.connections] == [2]  # never sent again by itself


@each(
    ("version", "tried"),
    [("3.11.18", False), ("3.12.0", True), ("3.13.1", True), ("3.14.5", True), ("3.15.0", False), ("4.0.0a1", False)],
)
def test_only_releases_of_aiohttp_that_were_tried_are_used_without_a_session(version: str, tried: bool):
    assert is_tried(version) == tried


async def test_a_request_whose_answer_was_lost_gets_a_new_connection(by_session: bool):
    async with Recorder([OK, OK, b"", OK]).serving() as server:
        transport = AiohttpTransport(by_session=by_session)
        await asyncio.gather(transport.send(post(server.url)), transport.send(post(server.url)))
        with pytest.raises(NoResponse, match="without an answer"):
            await transport.send(post(server.url))
        again = post(server.url)._replace(on_new_connection=True)
        assert (await transport.send(again)).status == 200
        await transport.close()
    assert [len(requests) for requests in server.connections] == [2, 1, 1]
