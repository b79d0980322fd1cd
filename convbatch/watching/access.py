"""Which requests the page of a running run answers: those of the browser on this machine that knows the token.

Other users of the machine do not know the token; a page from elsewhere in the same browser does not either, and its
requests carry its own origin, or, after a name was pointed at this address, its own host.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from typing import NamedTuple

HOST = "127.0.0.1"
_HOSTS = (HOST, "localhost")
_OWN_SITE = (None, "none", "same-origin")
"""Values of `Sec-Fetch-Site`: not sent, typed by the user, or by the page itself."""


class Refusal(NamedTuple):
    """Why a request gets no answer."""

    status: int
    reason: str


def new_token() -> str:
    """Return a secret for one page, as a part of its address."""
    return secrets.token_urlsafe(32)


def refusal(method: str, path: str, headers: Mapping[str, str], *, token: str, port: int) -> Refusal | None:
    """Return why a request is refused; None if it is answered.

    Args:
        method: Of the request.
        path: As sent, `/TOKEN/…`.
        headers: By name in any case.
        token: The secret.
        port: The server listens on this port.
    """
    hosts = {f"{host}:{port}" for host in _HOSTS}
    if headers.get("Host", "").lower() not in hosts:
        return Refusal(403, "another host")
    origin = headers.get("Origin")
    if origin is not None and origin.lower() not in {f"http://{host}" for host in hosts}:
        return Refusal(403, "another origin")
    if headers.get("Sec-Fetch-Site") not in _OWN_SITE:
        return Refusal(403, "another site")
    if method != "GET":
        return Refusal(405, "only GET")
    given = path.split("/", 2)[1] if path.startswith("/") else ""
    if not hmac.compare_digest(given.encode("utf-8", "surrogatepass"), token.encode()):
        return Refusal(404, "no such page")
    return None
