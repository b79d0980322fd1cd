"""What must be at hand before anything is sent: keys, addresses of hosts, and room for as many connections.

Each is a mistake in a configuration, or no network: better known now than after 15 minutes of failing requests.
"""

from __future__ import annotations

import contextlib
import resource
import socket
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from convbatch.config.credentials import Credentials
from convbatch.config.gateways import Target, max_in_flight
from convbatch.errors import SetupError


def check_reachable(targets: Sequence[Target], concurrency: int | None, credentials: Credentials) -> None:
    """Keys, hosts, and room for connections.

    Raises:
        SetupError: One of them is missing.
    """
    _make_room_for_sockets(targets, concurrency)
    credentials.require_keys(target.gateway for target in targets)
    _refuse_unresolved(targets, credentials)


def _refuse_unresolved(targets: Iterable[Target], credentials: Credentials) -> None:
    """A host that has no address is a mistake in the configuration, or no network: known now, not after 15 minutes."""
    looked_up: set[str] = set()
    for target in targets:
        gateway = target.gateway
        proxy = credentials.proxy(gateway)
        host = urlsplit(proxy or gateway.base_url).hostname  # behind a proxy it is the proxy that looks the host up
        if host is None or host in looked_up:
            continue
        looked_up.add(host)
        try:
            socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            what = "the host" if proxy is None else "the proxy"
            raise SetupError(
                f"{target.name}: {what} {host!r} cannot be found: {getattr(error, 'strerror', None) or error}",
                found=f"base_url of the gateway {gateway.name!r}: {gateway.base_url}",
                hint="check base_url and the network; behind a proxy set HTTPS_PROXY, or `proxy` for the gateway"
                if proxy is None
                else 'check `proxy` of the gateway, else HTTPS_PROXY or HTTP_PROXY; `proxy = "none"` goes without',
            ) from None


_OTHER_FILES = 64
"""Journal, dataset, index, libraries: what a run has open besides its connections, with room to spare."""


def _make_room_for_sockets(targets: Iterable[Target], concurrency: int | None) -> None:
    """Each request in flight is an open file, of which systems grant 256 or 1,024 until they are asked for more.

    Without room every connection fails, and it looks as if the gateway were down.
    """
    needed = _OTHER_FILES
    for target in targets:
        ends = 2 if target.simulated else 1  # of the built-in simulator both ends are ours
        needed += ends * max_in_flight(target.gateway.limits, concurrency)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise SetupError(
            f"so many requests in flight need {needed} open files; this process may open {hard}",
            hint=f"lower -j, or raise the limit: ulimit -n {needed}",
        )
    with contextlib.suppress(OSError, ValueError):  # macOS has a further limit that it does not tell
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
