"""Certificates are always verified; redirects of servers and proxies are never followed."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime
import re
import ssl
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from convbatch.engine.http_values import MAX_BODY_BYTES, HttpResponse, NoResponse, OutgoingRequest
from convbatch.engine.transport import AiohttpTransport
from tests.support.canary import CANARY

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Authority:
    """A certificate authority."""

    name: x509.Name
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def called(cls, name: str) -> Authority:
        return cls(
            x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]), ec.generate_private_key(ec.SECP256R1())
        )

    def sign(self, path: Path, host: str, *, ends: datetime.timedelta = DAY, own: bool = False) -> Path:
        """Write a certificate for a host and its key to one file; `own`: the authority's own certificate."""
        key = self.key if own else ec.generate_private_key(ec.SECP256R1())
        subject = self.name if own else x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self.name).public_key(key.public_key())
        dated = (
            builder.serial_number(x509.random_serial_number())
            .not_valid_before(NOW - 30 * DAY)
            .not_valid_after(NOW + ends)
        )
        named = dated.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        done = named.add_extension(x509.BasicConstraints(ca=own, path_length=None), critical=True)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path.write_bytes(private + done.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        return path


OURS, THEIRS = Authority.called("ours"), Authority.called("theirs")


@pytest.fixture
def ca_file(tmp_path: Path) -> Path:
    return OURS.sign(tmp_path / "ca.pem", "ca", own=True)


@dataclass
class Listener:
    """A server that records request heads; uses TLS if it has a certificate."""

    certificate: Path | None = None
    answer: bytes = OK
    endless: bytes = b""
    """Sent repeatedly until the client disconnects."""
    received: list[bytes] = field(default_factory=list)
    port: int = 0

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncGenerator[Listener]:
        context = None
        if self.certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate)
        async with await asyncio.start_server(self._answer, "127.0.0.1", 0, ssl=context) as server:
            self.port = server.sockets[0].getsockname()[1]
            yield self

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            self.received.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(self.answer)
            while self.endless:
                writer.write(self.endless)
                await writer.drain()
            await writer.drain()
        writer.close()


async def ask(
    url: str, *, by_session: bool, ca_file: Path | None = None, proxy: str | None = None, timeout_s: float = 20
) -> HttpResponse:
    transport = AiohttpTransport(ca_file=None if ca_file is None else str(ca_file), proxy=proxy, by_session=by_session)
    try:
        headers = {"Authorization": f"Bearer {CANARY}"}
        return await transport.send(
            OutgoingRequest(method="POST", url=url, headers=headers, body=b"{}", timeout_s=timeout_s)
        )
    finally:
        await transport.close()


async def test_a_certificate_of_a_configured_authority_is_accepted(
    tmp_path: Path, ca_file: Path, by_session: bool
) -> None:
    async with Listener(OURS.sign(tmp_path / "good.pem", "localhost")).serving() as server:
        assert (await ask(f"https://localhost:{server.port}/", ca_file=ca_file, by_session=by_session)).status == 200
        with pytest.raises(NoResponse, match="certificate refused"):
            await ask(f"https://localhost:{server.port}/", by_session=by_session)
    assert len(server.received) == 1


WRONG = {
    "another host": lambda path: OURS.sign(path, "gateway.example"),
    "expired": lambda path: OURS.sign(path, "localhost", ends=-DAY),
    "another authority": lambda path: THEIRS.sign(path, "localhost"),
    "self-signed": lambda path: THEIRS.sign(path, "localhost", own=True),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_server_with_a_wrong_certificate_receives_no_key(
    tmp_path: Path, ca_file: Path, wrong: str, by_session: bool
) -> None:
    async with Listener(WRONG[wrong](tmp_path / "server.pem")).serving() as server:
        with pytest.raises(NoResponse, match="certificate refused") as caught:
            await ask(f"https://localhost:{server.port}/", ca_file=ca_file, by_session=by_session)
    assert (caught.value.sent, caught.value.certificate) == (False, True)
    assert not server.received


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_to_another_host_is_not_followed(status: int, by_session: bool) -> None:
    async with Listener().serving() as elsewhere:
        there = f"http://localhost:{elsewhere.port}/?key=x"
        refresh = f'Refresh: 0; url={there}\r\nSet-Cookie: a=b\r\nAlt-Svc: h2=":{elsewhere.port}"\r\n'
        head = f"HTTP/1.1 {status} Go\r\nLocation: {there}\r\n{refresh}Content-Length: 0\r\n\r\n"
        async with Listener(answer=head.encode()).serving() as server:
            assert (await ask(f"http://127.0.0.1:{server.port}/", by_session=by_session)).status == status
    assert (len(server.received), elsewhere.received) == (1, [])


async def test_a_proxy_receives_the_host_name_but_not_the_key(by_session: bool) -> None:
    """The key is sent only inside the tunnel, after the host's certificate was verified; a proxy has none for it."""
    async with Listener(answer=b"HTTP/1.1 200 Connected\r\n\r\n").serving() as proxy:
        with pytest.raises(NoResponse) as caught:
            await ask(
                "https://gateway.example/", proxy=f"http://127.0.0.1:{proxy.port}", timeout_s=3, by_session=by_session
            )
    assert caught.value.sent is False
    assert proxy.received[0].startswith(b"CONNECT gateway.example:443 ")
    assert CANARY.encode() not in b"".join(proxy.received)


@pytest.mark.parametrize("login", ["user:word", "us er:p@ss:w/rd", "jörg:grün", "用户:密码"])
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_gets_user_and_password_of_any_characters(scheme: str, login: str) -> None:
    user, password = (quote(part, safe="") for part in login.split(":", 1))
    async with Listener(answer=b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n").serving() as proxy:
        url = f"http://{user}:{password}@127.0.0.1:{proxy.port}"
        with contextlib.suppress(NoResponse):
            await ask(f"{scheme}://gateway.example/", proxy=url, timeout_s=3, by_session=False)
    header = b"\r\nProxy-Authorization: Basic " + base64.b64encode(login.encode()) + b"\r\n"
    assert header.lower() in proxy.received[0].lower()


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (
            "407 Who are you",
            r"the proxy 127\.0\.0\.1:\d+ refuses a connection to gateway\.example:443: 407 Who are you",
        ),
        (
            "302 Go\r\nLocation: http://127.0.0.1:9/",
            r"the proxy .* refuses a connection to gateway\.example:443: 302 Go",
        ),
        ("200 OK\r\nno header", r"the proxy 127\.0\.0\.1:\d+ does not answer in HTTP"),
        ("200 OK\r\nX: ", "connection reset|connection lost|TLS"),
    ],
)
async def test_an_answer_of_the_proxy_itself_is_not_a_response(status: str, said: str, by_session: bool) -> None:
    answer = f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode()
    async with Listener(answer=answer).serving() as proxy:
        with pytest.raises(NoResponse) as caught:
            await ask(
                "https://gateway.example/", proxy=f"http://127.0.0.1:{proxy.port}", timeout_s=3, by_session=by_session
            )
    assert CANARY.encode() not in b"".join(proxy.received)
    assert CANARY not in str(caught.value)
    assert re.search(said, str(caught.value))


ENDLESS = {
    "one header": (b"HTTP/1.1 200 OK\r\nX: ", b"x" * 65_536),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"".join(b"X-%d: y\r\n" % number for number in range(5000))),
    "status line": (b"HTTP/1.1 200 ", b"x" * 65_536),
    "chunk sizes": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0" * 65_536),
}


@pytest.mark.parametrize("what", ENDLESS)
@pytest.mark.slow
async def test_an_endless_response_head_is_given_up_within_the_timeout(what: str, by_session: bool) -> None:
    begin, endless = ENDLESS[what]
    async with Listener(answer=begin, endless=endless).serving() as server:
        begun = asyncio.get_running_loop().time()
        with pytest.raises(NoResponse) as caught:
            await ask(f"http://127.0.0.1:{server.port}/", timeout_s=0.8, by_session=by_session)
    assert caught.value.sent is True
    assert asyncio.get_running_loop().time() - begun < 10
    assert len(caught.value.partial) < MAX_BODY_BYTES
