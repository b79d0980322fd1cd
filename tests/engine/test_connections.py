"""Failed connections over real sockets: names, ports, handshakes, certificates. The request is never sent.

Virtual runs simulate these failures from `virtual_run.NOT_CONNECTED`; these tests compare it with the real client.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

import convbatch as cb
from convbatch.engine.connection_errors import way_out
from convbatch.engine.http_values import NoResponse, OutgoingRequest
from convbatch.engine.transport import AiohttpTransport
from convbatch.protocols.content_encoding import CannotUnpack, unpack
from tests.support.virtual_run import NOT_CONNECTED, Unreachable

BODY = b'{"contents":[]}'
NOW = datetime.now(UTC)


def self_signed(path: Path, *, name: str = "localhost", until: datetime = NOW + timedelta(days=1)) -> Path:
    """Write a self-signed certificate and its key to one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=9))
        .not_valid_after(until)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(made.public_bytes(pem) + secret)
    return path


@asynccontextmanager
async def listening(certificate: Path | None) -> AsyncGenerator[tuple[int, bytearray]]:
    """Serve `{}` on a free port; yield the port and the bytes received so far."""
    received = bytearray()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.extend(await reader.read(65_536))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        writer.close()

    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1], received


async def failure_of(
    url: str, *, by_session: bool, ca_file: Path | None = None, proxy: str | None = None
) -> NoResponse | None:
    """Send a request; return the failure, or None when it was answered."""
    transport = AiohttpTransport(ca_file=None if ca_file is None else str(ca_file), proxy=proxy, by_session=by_session)
    try:
        await transport.send(OutgoingRequest(method="POST", url=url, headers={}, body=BODY, timeout_s=30))
    except NoResponse as failure:
        return failure
    finally:
        await transport.close()
    return None


def check_failure(failure: NoResponse | None, why: Unreachable) -> None:
    assert failure is not None
    expected = NOT_CONNECTED[why]
    assert (failure.kind, failure.certificate) == (expected["kind"], expected.get("certificate", False))
    assert (failure.sent, failure.own_timeout, failure.status) == (False, False, None)
    assert str(failure).startswith(str(expected["message"]))


async def test_a_request_to_an_unknown_host_name_is_not_sent(by_session: bool):
    check_failure(await failure_of("http://no-such-name.localhost:9/", by_session=by_session), "dns")


async def test_a_request_to_a_port_without_a_server_is_not_sent(by_session: bool):
    check_failure(await failure_of("http://127.0.0.1:9/", by_session=by_session), "refused")


@asynccontextmanager
async def answering(line: str | None) -> AsyncGenerator[int]:
    """Answer each request with this status line, or reset its connection; yield the port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65_536)
        if line is None:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        else:
            writer.write(f"HTTP/1.1 {line}\r\ncontent-length: 0\r\n\r\n".encode())
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_a_failed_connection_is_named_with_host_and_port(by_session: bool):
    key = "sk-in-the-query-0123456789"
    async with answering(None) as port, answering("407 Proxy Authentication Required") as gate:
        cases = [
            (f"http://127.0.0.1:9/?key={key}", None, "could not connect: connection refused 127.0.0.1:9"),
            ("http://[::1]:9/", None, "could not connect: connection refused [::1]:9"),
            ("https://a.example/", "http://u:pw@127.0.0.1:9", "connection refused 127.0.0.1:9 (the proxy)"),
            ("http://no-such-name.localhost/", None, "host not found no-such-name.localhost:80"),
            ("http://a.example/", "http://no-such-name.localhost:1", "no-such-name.localhost:1 (the proxy)"),
            (
                "https://a.example/",
                f"http://127.0.0.1:{gate}",
                f"the proxy 127.0.0.1:{gate} refuses a connection to a.example:443: 407 Proxy Authentication Required",
            ),
            (
                f"http://127.0.0.1:{port}/?key={key}",
                None,
                f"connection lost after sending: connection reset 127.0.0.1:{port}",
            ),
        ]
        for url, proxy, words in cases:
            failure = await failure_of(url, proxy=proxy, by_session=by_session)
            assert words in str(failure)
            assert key not in str(failure)
            assert "pw@" not in str(failure)


@pytest.mark.slow
async def test_a_request_to_a_server_that_accepts_no_connection_is_not_sent(by_session: bool):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        port = server.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]  # fill the backlog
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        check_failure(await failure_of(f"http://127.0.0.1:{port}/", by_session=by_session), "connect timeout")
        for one in waiting:
            one.close()


def expired(path: Path) -> Path:
    return self_signed(path, until=NOW - timedelta(days=1))


def for_another_host(path: Path) -> Path:
    return self_signed(path, name="elsewhere.test")


WRONG: dict[str, tuple[Callable[[Path], Path] | None, bool, Unreachable]] = {
    # Name: the server's certificate, whether its issuer is trusted, and the expected failure.
    "unknown issuer": (self_signed, False, "certificate"),
    "expired": (expired, True, "certificate"),
    "another host name": (for_another_host, True, "certificate"),
    "no TLS": (None, False, "no tls"),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_tls_failure_is_reported_and_nothing_is_sent(tmp_path: Path, wrong: str, by_session: bool):
    make, trusted, why = WRONG[wrong]
    certificate = None if make is None else make(tmp_path / "server.pem")
    async with listening(certificate) as (port, received):
        check_failure(
            await failure_of(
                f"https://localhost:{port}/", ca_file=certificate if trusted else None, by_session=by_session
            ),
            why,
        )
        assert BODY not in received


async def test_a_self_signed_certificate_is_trusted_as_ca_file(tmp_path: Path, by_session: bool):
    certificate = self_signed(tmp_path / "server.pem")
    async with listening(certificate) as (port, received):
        assert await failure_of(f"https://localhost:{port}/", ca_file=certificate, by_session=by_session) is None
        assert BODY in received


async def test_a_run_whose_gateway_has_an_untrusted_certificate_ends_at_once_with_what_to_do(tmp_path: Path):
    certificate = self_signed(tmp_path / "server.pem")
    async with listening(certificate) as (port, received):
        run = await cb.replay(
            cb.Dataset(f"{n}?" for n in range(20)),
            models="m@lab",
            config={
                "gateways": {"lab": {"protocol": "openai", "base_url": f"https://localhost:{port}/v1", "auth": "none"}}
            },
            out=tmp_path / "run",
            deadline_s=60,
        )
    assert not received, "no key and no question reached a server that nobody vouches for"
    assert set(run.turns["status"]) == {"pending"}
    reason = run.suspended["m@lab"]
    assert reason.startswith("the certificate of the gateway cannot be trusted (certificate refused: self-signed")
    assert "set ca_file" in reason
    assert run.attempts["target"].size <= 20


def test_a_compression_that_was_not_asked_for_is_named_with_what_to_change():
    with pytest.raises(CannotUnpack, match="compressed with br") as caught:
        unpack(b"\x8b\x00\x80{}\x03", "br", "application/json", max_bytes=100)
    assert "compression off at the server" in way_out(str(caught.value))
