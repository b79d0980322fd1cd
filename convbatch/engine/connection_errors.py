"""Why no complete answer arrived, in words: the error, and the host and port that gave it.

Texts of aiohttp and of the system are not passed on: they may quote URLs with keys, and name no port. Whether a request
may have been sent is `client.py`.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from urllib.parse import SplitResult, urlsplit

from convbatch.console.text import printable

_DEFAULT_PORTS = {"http": 80, "https": 443}
_WORDS = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "connection reset",
    errno.ECONNABORTED: "connection reset",
    errno.EPIPE: "connection reset",
    errno.ETIMEDOUT: "connection timed out",
    errno.ENETUNREACH: "network unreachable",
    errno.EHOSTUNREACH: "no route to host",
}


def connect_error(
    error: Exception, url: str, proxy: str | None, *, timeout_s: float, proxy_status: int | None = None
) -> str:
    """Say why there was no connection to the host of `url`, or to the proxy.

    Args:
        error: The exception of aiohttp.
        url: The URL of the request.
        proxy: The URL of the proxy, if there is one.
        timeout_s: Longest time for a connection.
        proxy_status: Status of the proxy's answer, 0 for one that cannot be read; None if it did not answer.
    """
    place = _place(urlsplit(url))
    through = None if proxy is None else urlsplit(proxy)
    if proxy_status is not None and through is not None:
        if not proxy_status:
            return f"the proxy {_place(through)} does not answer in HTTP"
        why = f"{proxy_status} {printable(str(getattr(error, 'message', ''))[:60])}".rstrip()
        return f"the proxy {_place(through)} refuses a connection to {place}: {why}"
    is_proxy = through is not None and getattr(error, "host", through.hostname) == through.hostname
    if is_proxy and through is not None:
        place = f"{_place(through)} (the proxy)"
    inner = _inner(error)
    if isinstance(inner, TimeoutError) or isinstance(error, TimeoutError):
        return f"connection timed out {place}: no answer within {timeout_s:g} s"
    if isinstance(inner, socket.gaierror):
        return f"host not found {place}"
    if isinstance(inner, ssl.SSLError):
        return _tls_error(inner, place)
    during = " during the TLS handshake" if url.startswith("https:") and not is_proxy and _is_reset(inner) else ""
    return f"{_words(inner)} {place}{during}"


def certificate_error(error: Exception, url: str) -> str:
    """Say why the certificate of the host of `url` was refused."""
    inner = getattr(error, "certificate_error", error)
    why = getattr(inner, "verify_message", None) or getattr(inner, "reason", None) or type(inner).__name__
    return f"certificate refused: {str(why)[:200]} ({_place(urlsplit(url))})"


def lost_connection(error: Exception, url: str, *, has_begun: bool) -> str:
    """Say how a connection ended on which a request was sent; `has_begun`: part of the answer had arrived."""
    place = _place(urlsplit(url))
    if has_begun:
        return f"connection lost after sending: the answer of {place} broke off"
    inner = _inner(error)
    if not inner.errno:
        return f"connection lost after sending: closed by {place} without an answer"
    return f"connection lost after sending: {_words(inner)} {place}"


_WAYS_OUT = (
    ("(the proxy)", "check `proxy` of the gateway, else HTTPS_PROXY and HTTP_PROXY"),
    ("the proxy ", "check what the proxy allows, and the user in its URL"),
    ("certificate refused", "set ca_file for an authority of your own, or correct the host of base_url"),
    ("no TLS at", "correct base_url and start a new run"),
    ("connection refused", "start the server, or correct base_url and start a new run"),
    ("host not found", "check base_url and the network"),
    ("unreachable", "check the network, and whether a proxy is needed"),
    ("no route", "check the network, and whether a proxy is needed"),
    ("not asked for and is not supported", "turn that compression off at the server, or at the proxy before it"),
    ("timed out", "check the network, and whether a proxy is needed"),
)


def way_out(error: str) -> str:
    """Return what to do about an error worded here or in `content_encoding.py`, as the end of a sentence; else ""."""
    return next((f": {remedy}" for words, remedy in _WAYS_OUT if words in error), "")


def _place(url: SplitResult) -> str:
    """Return host and port, as a person would type them; no user and no path, which may hold a key."""
    host = url.hostname or "?"
    try:
        port = url.port or _DEFAULT_PORTS.get(url.scheme)
    except ValueError:  # not a number
        port = None
    named = f"[{host}]" if ":" in host else host
    return named if port is None else f"{named}:{port}"


def _inner(error: BaseException) -> OSError:
    """Return the system's error behind one of aiohttp; an empty one if there is none."""
    inner = getattr(error, "os_error", None)
    candidates = (inner, error, error.__cause__)
    known = [each for each in candidates if isinstance(each, OSError)]
    return next((each for each in known if each.errno), known[0] if known else OSError())


def _is_reset(error: OSError) -> bool:
    """Whether the other side ended the connection; the event loop raises such errors without a number."""
    is_named = isinstance(error, ConnectionResetError | ConnectionAbortedError | BrokenPipeError)
    return is_named or _WORDS.get(error.errno or 0) == "connection reset"


def _words(error: OSError) -> str:
    if _is_reset(error):
        return "connection reset"
    if not error.errno:
        return f"no connection ({type(error).__name__})"
    return _WORDS.get(error.errno) or os.strerror(error.errno).lower()


def _tls_error(error: ssl.SSLError, place: str) -> str:
    reason = (error.reason or type(error).__name__).replace("_", " ").lower()
    if reason in ("wrong version number", "unknown protocol", "http request", "record layer failure"):
        return f"no TLS at {place}: does base_url need http:// instead of https://?"
    return f"TLS failed {place}: {reason}"
