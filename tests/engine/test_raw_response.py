"""Responses that break a rule of HTTP are read from their bytes; and what of them the real client can still say."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convbatch.engine.http_values import HttpResponse, NoResponse, OutgoingRequest
from convbatch.engine.raw_response import RawResponse, read_raw
from convbatch.engine.transport import AiohttpTransport
from tests.conftest import examples

BODY = b'{"choices": [1, 2, 3]}'
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)


def response(body: bytes, *headers: str) -> bytes:
    return b"".join((b"HTTP/1.1 200 X\r\n", *(line.encode() + b"\r\n" for line in headers), b"\r\n", body))


LENGTH = f"Content-Length: {len(BODY)}"
BROKEN: dict[str, tuple[bytes, str]] = {
    "both lengths": (response(CHUNKED, LENGTH, "Transfer-Encoding: chunked"), "Transfer-Encoding and Content-Length"),
    "two lengths": (response(BODY, LENGTH, "Content-Length: 3"), "Content-Length"),
    "length is no number": (response(BODY, "Content-Length: abc"), "Content-Length"),
    "length too small": (response(BODY, "Content-Length: 9"), "status line"),
    "length too large": (response(BODY, "Content-Length: 99"), "connection lost"),
    "no last chunk": (response(CHUNKED[:-5], "Transfer-Encoding: chunked"), "connection lost"),
    "a wrong last chunk": (response(CHUNKED[:-5] + b"zz\r\n", "Transfer-Encoding: chunked"), "chunked"),
    "chunked only in its header": (response(BODY, "Transfer-Encoding: chunked"), "chunked"),
    "a header without a colon": (response(BODY, LENGTH, "rubbish"), "header"),
    "another version": (response(BODY, LENGTH).replace(b"HTTP/1.1", b"HTTP/2"), "status line"),
    "an interim response": (b"HTTP/1.1 100 X\r\n\r\n" + response(BODY, LENGTH, "rubbish"), "header"),
}
TOO_MUCH: dict[str, tuple[bytes, str]] = {
    "a long header": (response(BODY, LENGTH, f"X: {'a' * 70_000}"), "longer than 64 KiB"),
    "many headers": (response(BODY, LENGTH, *(f"X-{n}: a" for n in range(1_100))), "more than 1,000 headers"),
}
ALLOWED: dict[str, bytes] = {
    "a long header": response(BODY, LENGTH, f"X: {'a' * 60_000}"),
    "many headers": response(BODY, LENGTH, *(f"X-{n}: a" for n in range(900))),
}


async def sent_to(answer: bytes, *, by_session: bool) -> HttpResponse | NoResponse:
    """Return what the client makes of an answer after which the connection ends."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65_536)
        writer.write(answer)
        await writer.drain()
        writer.close()

    transport = AiohttpTransport(by_session=by_session)
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        try:
            return await transport.send(OutgoingRequest(method="POST", url=url, headers={}, body=b"{}", timeout_s=9))
        except NoResponse as gone:
            return gone
        finally:
            await transport.close()


@pytest.mark.parametrize("name", BROKEN)
async def test_a_response_that_breaks_a_rule_is_named_and_its_bytes_are_kept(name: str, by_session: bool) -> None:
    answer, said = BROKEN[name]
    gone = await sent_to(answer, by_session=by_session)
    assert isinstance(gone, NoResponse)
    assert (gone.status, gone.partial, gone.sent) == (200, BODY, True)
    assert said.lower() in str(gone).lower()


@pytest.mark.parametrize("name", TOO_MUCH)
async def test_headers_beyond_the_limits_are_refused_by_name(name: str, by_session: bool) -> None:
    answer, said = TOO_MUCH[name]
    gone = await sent_to(answer, by_session=by_session)
    assert isinstance(gone, NoResponse)
    assert (gone.status, gone.partial, gone.sent) == (None, b"", True)
    assert said in str(gone)


@pytest.mark.parametrize("name", ALLOWED)
async def test_headers_within_the_limits_are_read(name: str, by_session: bool) -> None:
    answer = await sent_to(ALLOWED[name], by_session=by_session)
    assert isinstance(answer, HttpResponse)
    assert answer.body == BODY


@settings(max_examples=examples(50))
@given(st.data())
def test_raw_bytes_never_raise_and_a_cut_response_gives_a_prefix_of_its_body(data: st.DataObject) -> None:
    whole = response(CHUNKED, LENGTH, "Transfer-Encoding: chunked")
    read = read_raw(whole[: data.draw(st.integers(0, len(whole)))])
    assert read is None or (read.status == 200 and (BODY.startswith(read.body) or CHUNKED.startswith(read.body)))
    arbitrary = read_raw(b"HTTP/1.1 200\r\n" + data.draw(st.binary(max_size=99)))
    assert isinstance(arbitrary, RawResponse | None)
