"""Checks before the first request: keys, host names, and the limit on open files.

A failure is a mistake in the configuration, or a missing network: it is reported at once instead of after 15 minutes of
failed requests.
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


def check_reachable(
    targets: Sequence[Target], concurrency: int | None, credentials: Credentials, *, run_commands: bool = True
) -> None:
    """Check the keys and hosts of these targets, and raise the limit on open files if necessary.

    Args:
        targets: The targets.
        concurrency: `-j`.
        credentials: Where keys and proxies are from.
        run_commands: Run key commands now; else each is run before the first request that needs it.

    Raises:
        SetupError: A key is missing, a host cannot be resolved, or the limit on open files is too low.
    """
    _make_room_for_sockets(targets, concurrency)
    asked = tuple(one for target in targets for one in target.asked_targets)
    credentials.require_keys((target.gateway for target in asked), run_commands=run_commands)
    _refuse_unresolved(asked, credentials)


def _refuse_unresolved(targets: Iterable[Target], credentials: Credentials) -> None:
    """Refuse host names that cannot be resolved."""
    looked_up: set[str] = set()
    for target in targets:
        gateway = target.gateway
        proxy = credentials.proxy(gateway)
        host = urlsplit(proxy or gateway.base_url).hostname  # a proxy resolves the gateway's host itself
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
"""Open files of a run besides its connections: journal, dataset, index, libraries; with a margin."""


def _make_room_for_sockets(targets: Iterable[Target], concurrency: int | None) -> None:
    """Raise the soft limit on open files: each request in flight needs one, and the default is often 256 or 1,024.

    Above the limit every connection fails, which looks as if the gateway were down.
    """
    needed = _OTHER_FILES
    for target in targets:
        ends = 2 if target.simulated else 1  # the built-in simulator's end of the connection is ours, too
        needed += ends * max_in_flight(target.gateway.limits, concurrency)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise SetupError(
            f"this many requests in flight need {needed} open files; this process may open {hard}",
            hint=f"lower -j, or raise the limit: ulimit -n {needed}",
        )
    with contextlib.suppress(OSError, ValueError):  # macOS has a further limit that cannot be read
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
