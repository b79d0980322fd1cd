"""Post export requests to an OTLP endpoint over HTTP, in JSON.

Source: the OTLP specification: `/v1/traces` below the base endpoint, 429, 502, 503 and 504 are sent again after
`Retry-After`, a 200 can report rejected spans. Ids are the same in every export, so sending again is harmless.
"""

from __future__ import annotations

import gzip
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

import orjson

from convbatch._version import __version__
from convbatch.errors import SetupError

TIMEOUT_S = 30.0
_ATTEMPTS = 5
_LONGEST_WAIT_S = 60.0
_PASSING = frozenset((429, 502, 503, 504))
_LOOPBACK = ("127.", "localhost", "::1")


class Rejected(Exception):
    """The endpoint took no more spans."""


def _has_a_port(address: SplitResult) -> bool:
    """Whether the port is none, or one that exists."""
    try:
        return address.port is None or address.port > 0
    except ValueError:
        return False


class Endpoint(NamedTuple):
    """Where spans are posted to."""

    url: str
    headers: Mapping[str, str]
    """May hold secrets; never printed."""

    @classmethod
    def of(cls, url: str, headers: str) -> Endpoint:
        """Read the options.

        Args:
            url: A base endpoint, to which `/v1/traces` is appended, or one that ends in it.
            headers: `name=value,name=value`, percent-encoded, as in OTEL_EXPORTER_OTLP_HEADERS.

        Raises:
            SetupError: It is no URL, or would carry headers in plain text to another machine.
        """
        address = urlsplit(url)
        if address.scheme not in ("http", "https") or not address.hostname or not _has_a_port(address):
            hint = "write --endpoint http://127.0.0.1:4318"
            raise SetupError("--endpoint is not an http URL", found=repr(url.rpartition("@")[2]), hint=hint)
        if address.username is not None or address.password is not None:
            raise SetupError(
                "--endpoint contains a user or a password",
                hint="put it into the variable OTEL_EXPORTER_OTLP_HEADERS: Authorization=Basic%20...",
            )
        named = dict(_headers(headers))
        if named and address.scheme == "http" and not address.hostname.startswith(_LOOPBACK):
            raise SetupError(
                "the headers of OTEL_EXPORTER_OTLP_HEADERS would be sent in plain text to another machine",
                found=f"{address.scheme}://{address.netloc}",
                hint="use an https:// endpoint, or a collector on this machine",
            )
        path = address.path.rstrip("/")
        path = path if path.endswith("/v1/traces") else f"{path}/v1/traces"
        return cls(address._replace(path=path).geturl(), named)

    def post(self, request: Mapping[str, Any], on_wait: Callable[[str, float], None]) -> int:
        """Post one export request.

        Args:
            request: It.
            on_wait: Is told before each wait why it is, and how many seconds it takes.

        Returns:
            How many of its spans the endpoint rejected.

        Raises:
            Rejected: It does not take them: the reason.
        """
        body = gzip.compress(orjson.dumps(request), mtime=0)
        headers = {
            "Content-Type": "application/json",
            "Content-Encoding": "gzip",
            "User-Agent": f"convbatch/{__version__}",
            **self.headers,
        }
        for attempt in range(1, _ATTEMPTS + 1):
            asked = urllib.request.Request(self.url, body, headers, method="POST")  # http or https, checked
            try:
                with _OPENER.open(asked, timeout=TIMEOUT_S) as answer:
                    return _rejected(answer.read(1_000_000))
            except urllib.error.HTTPError as error:
                why, wait_s = f"HTTP {error.code}: {_excerpt(error.read(1000))}", _retry_after(error)
                error.close()
                if error.code not in _PASSING:
                    raise Rejected(why) from None
            except (OSError, ValueError) as error:
                why, wait_s = str(getattr(error, "reason", error)), None
            if attempt == _ATTEMPTS:
                raise Rejected(f"{why}, {_ATTEMPTS} times")
            wait_s = min(_LONGEST_WAIT_S, 2.0 ** (attempt - 1) if wait_s is None else wait_s)
            on_wait(why, wait_s)
            time.sleep(wait_s)
        raise AssertionError("unreachable")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Refuses redirects: they would carry the headers to another host."""

    def redirect_request(self, *args: Any, **more: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirects)


def _headers(text: str) -> list[tuple[str, str]]:
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    if not all(mark for _, mark, _ in pairs):
        hint = "write name=value,name=value, percent-encoded"
        raise SetupError("OTEL_EXPORTER_OTLP_HEADERS is not a list of headers", hint=hint)
    return [(name.strip(), unquote(value.strip())) for name, _, value in pairs]


def _retry_after(error: urllib.error.HTTPError) -> float | None:
    hint = error.headers.get("Retry-After", "")
    return float(hint) if hint.isdecimal() else None


def _rejected(body: bytes) -> int:
    try:
        partial = orjson.loads(body or b"{}").get("partialSuccess") or {}
        return int(partial.get("rejectedSpans", 0))
    except (ValueError, AttributeError, TypeError):
        return 0


def _excerpt(body: bytes) -> str:
    return " ".join(body.decode("utf-8", "replace").split())[:200] or "no reason given"
