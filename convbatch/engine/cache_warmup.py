"""Send the first request of each shared prefix ahead of the others, so that they can read its prompt cache entry.

A cache entry is readable only once the first reply has begun: without this, all dialogues that start together pay for
writing the same system prompt.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

MAX_PREFIXES = 10_000
"""Prefixes remembered; with more, the oldest is warmed up again."""


@dataclass(slots=True)
class _Prefix:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    is_warm: bool = False


class FirstRequest:
    """One request that may be the first of its prefix."""

    __slots__ = ("_prefix",)

    def __init__(self, prefix: _Prefix) -> None:
        self._prefix = prefix

    def replied(self) -> None:
        """Record that the prefix is cached now."""
        self._prefix.is_warm = True


class CacheWarmup:
    """The prefixes of one target; one request at a time is sent for a prefix until one got a reply."""

    def __init__(self) -> None:
        self._prefixes: dict[bytes, _Prefix] = {}

    @asynccontextmanager
    async def turn(self, prefix: str) -> AsyncGenerator[FirstRequest]:
        """Wait until the prefix is cached, or until this request is the one that caches it.

        Args:
            prefix: What the requests have in common, such as the system text.
        """
        digest = hashlib.blake2b(prefix.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        known = self._prefixes.setdefault(digest, _Prefix())
        if len(self._prefixes) > MAX_PREFIXES:
            del self._prefixes[next(iter(self._prefixes))]
        if not known.is_warm:
            async with known.lock:
                if not known.is_warm:
                    yield FirstRequest(known)
                    return
        yield FirstRequest(known)
