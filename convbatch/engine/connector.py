"""Connections of aiohttp that keep what arrives, and that are never reused after bytes for which nobody asked."""

from __future__ import annotations

import contextvars
import functools
import os
import select
import socket
import ssl
import weakref
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler

from convbatch.errors import Place, SetupError

_KEPT_BYTES = 1024 * 1024

connected: contextvars.ContextVar[list[Any] | None] = contextvars.ContextVar(
    "convbatch_sending_connected", default=None
)
"""Gets the connection of the request that is sent by a `ClientSession`, when there is one."""
only_new: contextvars.ContextVar[bool] = contextvars.ContextVar("convbatch_sending_only_new", default=False)
"""Whether the request that is sent takes no connection that was used before."""


class KeepingHandler(ResponseHandler):
    """Keeps the beginning of what arrives, for a response that aiohttp refuses to read."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.received = bytearray()

    def data_received(self, data: bytes) -> None:
        """Keep what arrives, and parse it."""
        if len(self.received) < _KEPT_BYTES:
            self.received += data
        super().data_received(data)

    def expire(self) -> None:
        """End the request that is waiting on this connection with `TimeoutError`."""
        payload = self._payload
        self.set_exception(TimeoutError())
        if payload is not None:
            payload.set_exception(TimeoutError())

    def resume_reading(self, *args: Any, **options: Any) -> None:
        """Do nothing unless reading was paused: aiohttp calls it for each chunk of HTTP that it hands out."""
        if getattr(self, "_reading_paused", True):
            super().resume_reading(*args, **options)


class NotingConnector(aiohttp.TCPConnector):
    """Connector that records when a request gets its connection, from which moment bytes may be sent.

    It also never reuses a connection on which unrequested bytes arrived, such as a reply delivered twice: they would be
    read as the response to the next request, possibly of another dialogue. aiohttp checks only when a connection is
    returned, which is too early for bytes that arrive a moment later. After the first such event no connection is
    reused at all: a late copy that arrives during the next request cannot be distinguished from its response.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._factory = functools.partial(KeepingHandler, loop=self._loop)
        self._used: weakref.WeakSet[Any] = weakref.WeakSet()
        self._trusts_used = True

    async def connect(self, *args: Any, **kwargs: Any) -> Any:
        """Return a connection that is new, or whose last response was the last that came on it."""
        connection = await super().connect(*args, **kwargs)
        while (protocol := connection.protocol) in self._used and (only_new.get() or not self.is_clean(protocol)):
            connection.close()
            connection = await super().connect(*args, **kwargs)
        self._used.add(protocol)
        if isinstance(protocol, KeepingHandler):
            protocol.received.clear()
        if (seen := connected.get()) is not None:
            seen.append(protocol)
        return connection

    def is_clean(self, used: Any) -> bool:
        """Whether a connection that was used, and is open, may be used again: nothing more has come on it.

        What the event loop has not read yet counts too: on a busy machine it is some milliseconds behind.
        """
        self._trusts_used = self._trusts_used and not used.should_close
        transport: Any = used.transport
        if not self._trusts_used or transport is None:
            return False
        waiting = _unread(transport)
        if waiting == b"":
            return True
        # Its end is no reason to distrust the others, nor is what TLS sends by itself.
        self._trusts_used = waiting is None or transport.get_extra_info("ssl_object") is not None
        return False


def _unread(transport: Any) -> bytes | None:
    """Return a byte that waits in the socket of a connection; empty without one, None at the end of the stream."""
    opened = transport.get_extra_info("socket")
    if opened is None:  # a transport over another one may not tell
        return b""
    if (descriptor := opened.fileno()) < 0:
        return None
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    if not poll.poll(0):
        return b""
    with socket.socket(fileno=os.dup(descriptor)) as same:
        try:
            return same.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) or None
        except BlockingIOError:
            return b""
        except OSError:
            return None


def trusting(ca_file: str) -> ssl.SSLContext:
    """Return a context that trusts the authorities in a PEM file; raises `SetupError`."""
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # includes ssl.SSLError; the file was readable when the config was loaded
        raise SetupError(
            f"ca_file cannot be read: {error.strerror or error}",
            place=Place(path=ca_file),
            hint="restore the PEM file, or remove ca_file from the config",
        ) from None
