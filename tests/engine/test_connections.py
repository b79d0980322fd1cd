"""Connections that never come about, over real sockets: names, ports, handshakes, certificates. Nothing is sent.

`played.NOT_CONNECTED` tells runs in virtual time the same; here it is held to what the client really says.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from convbatch.engine.client import AiohttpTransport, NoResponse, OutgoingRequest
from tests.support.virtual_run import NOT_CONNECTED, Unreachable

BODY = b'{"contents":[]}'
NOW = datetime.now(UTC)


def certified(path: Path, *, name: str = "localhost", until: datetime = NOW + timedelta(days=1)) -> Path:
    """A self-signed certificate with its key, made for one test."""
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
    """A port that answers nothing but its own name, and what it was sent."""
    heard = bytearray()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.extend(await reader.read(65_536))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        writer.close()

    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1], heard


async def said(url: str, *, ca_file: Path | None = None) -> NoResponse | None:
    """What became of a question; None when it was answered."""
    transport = AiohttpTransport(ca_file=None if ca_file is None else str(ca_file))
    try:
        await transport.send(OutgoingRequest(method="POST", url=url, headers={}, body=BODY, timeout_s=30))
    except NoResponse as gone:
        return gone
    finally:
        await transport.close()
    return None


def is_as_played(gone: NoResponse | None, why: Unreachable) -> None:
    assert gone is not None
    played = NOT_CONNECTED[why]
    assert (gone.kind, gone.certificate) == (played["kind"], played.get("certificate", False))
    assert (gone.sent, gone.own_timeout, gone.status) == (False, False, None)
    assert str(gone).partition(":")[0] == str(played["message"]).partition(":")[0]


async def test_a_name_that_is_unknown_was_never_sent():
    is_as_played(await said("http://no-such-name.localhost:9/"), "dns")


async def test_a_port_where_nobody_listens_was_never_sent_to():
    is_as_played(await said("http://127.0.0.1:9/"), "refused")


@pytest.mark.slow
async def test_a_server_that_does_not_accept_was_never_sent():
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        port = deaf.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]  # they fill the line
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        is_as_played(await said(f"http://127.0.0.1:{port}/"), "connect timeout")
        for one in waiting:
            one.close()


def expired(path: Path) -> Path:
    return certified(path, until=NOW - timedelta(days=1))


def of_another(path: Path) -> Path:
    return certified(path, name="elsewhere.test")


WRONG: dict[str, tuple[Callable[[Path], Path] | None, bool, Unreachable]] = {
    # Name: the server's certificate, whether we trust its maker, and what it is like.
    "of an unknown maker": (certified, False, "certificate"),
    "expired": (expired, True, "certificate"),
    "of another name": (of_another, True, "certificate"),
    "no TLS at all": (None, False, "no tls"),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_what_is_wrong_with_tls_is_told_and_nothing_is_sent(tmp_path: Path, wrong: str):
    make, trusted, why = WRONG[wrong]
    certificate = None if make is None else make(tmp_path / "server.pem")
    async with listening(certificate) as (port, heard):
        is_as_played(await said(f"https://localhost:{port}/", ca_file=certificate if trusted else None), why)
        assert BODY not in heard


async def test_an_authority_of_ones_own_is_trusted_when_it_is_named(tmp_path: Path):
    certificate = certified(tmp_path / "server.pem")
    async with listening(certificate) as (port, heard):
        assert await said(f"https://localhost:{port}/", ca_file=certificate) is None
        assert BODY in heard
