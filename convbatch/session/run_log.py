"""The log of a session, `--log FILE` and `-v`: what happened, in order, a line each.

Every line passes the redactor. A log that can no longer be written (a full disk, a closed pipe) ends with a note; it
never ends a run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from convbatch.console.text import printable
from convbatch.errors import SetupError
from convbatch.redaction import Redactor, redact
from convbatch.session.options import OutputOptions
from convbatch.session.spec import LogSpec

if TYPE_CHECKING:
    from convbatch.engine.http_values import HttpResponse, OutgoingRequest, Transport

_BEGINS_LIKE_A_LOG = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:")
_STANDARD_STREAMS = ("-", "/dev/stdout", "/dev/stderr")
_NAME_OF_A_KEY = re.compile(r"authorization|key|token|secret|cookie", re.IGNORECASE)


def log_spec(options: OutputOptions, *, run_folder: Path | None = None) -> LogSpec:
    """Return the log that these options ask for.

    Args:
        options: The options.
        run_folder: A folder that is still to be made, absent or empty; a log in it is made after it.

    Raises:
        SetupError: It cannot be written, or bodies are asked for without a log.
    """
    if options.log_bodies and options.log is None and not options.verbose:
        raise SetupError("--log-bodies needs a log", hint="add --log FILE, or -v to print it")
    if options.log is not None and str(options.log) in _STANDARD_STREAMS:
        raise SetupError(f"--log {options.log} is no file", hint="-v prints the log on stderr")
    if options.log is not None and (run_folder is None or options.log.parent != run_folder):
        os.close(_open(options.log))
    return LogSpec(path=options.log, is_shown=options.verbose, has_bodies=options.log_bodies)


class RunLog:
    """Writes lines to a file, to the user, or to both.

    Args:
        path: The file, which is appended to; None = no file.
        show: Prints a line for the user; None = only the file.
        redactor: Knows the keys of the session.
        wall: Unix seconds.
        on_failure: Called once with a note if the file cannot be written any more.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        show: Callable[[str], None] | None,
        redactor: Redactor,
        wall: Callable[[], float],
        on_failure: Callable[[str], None],
    ) -> None:
        self._path = path
        self._show = show
        self._redactor = redactor
        self._wall = wall
        self._on_failure = on_failure
        try:
            self._fd = None if path is None else _open(path)
        except SetupError as error:  # `log_spec` has tried it, but something can have changed since
            self._fd = None
            on_failure(f"{error.problems[0].what}; the run goes on")

    def write(self, event: str, text: str) -> None:
        """Write what happened; one line, whatever the text holds."""
        line = printable(f"{event:7} {redact(self._redactor.text(text))}")
        if self._show is not None:
            self._show(line)
        if self._fd is None:
            return
        time = datetime.fromtimestamp(self._wall(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        rest = f"{time} {line}\n".encode()
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError as error:
            self.close()
            self._on_failure(f"the log {self._path} cannot be written any more ({error.strerror}); the run goes on")

    def request(self, outgoing: OutgoingRequest) -> None:
        """Write a request as it is sent, without keys."""
        body = "" if outgoing.body is None else bytes(outgoing.body).decode("utf-8", "replace")
        headers = " ".join(f"{name}: {value};" for name, value in _without_keys(outgoing.headers).items())
        self.write("request", f"{outgoing.method} {outgoing.url} {headers} {body}")

    def close(self) -> None:
        """Close the file; later lines go to the user only."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)


class LoggedTransport:
    """A transport that writes each request to the log before it is sent."""

    def __init__(self, transport: Transport, log: RunLog) -> None:
        self._transport = transport
        self._log = log

    async def send(self, outgoing: OutgoingRequest) -> HttpResponse:
        """Send one request and return the complete response; raises `NoResponse`."""
        self._log.request(outgoing)
        return await self._transport.send(outgoing)

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()


def _open(path: Path) -> int:
    """Open a log to append to it.

    Raises:
        SetupError: It cannot be opened, or the file is something else than a log.
    """
    try:
        # O_NONBLOCK: a pipe that nobody reads must not hold up the run.
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SetupError(
            f"--log {path} cannot be written: {error.strerror}", hint="name a file in a folder that exists"
        ) from None
    begins = b"" if not path.is_file() else os.pread(fd, 32, 0)
    if begins and not _BEGINS_LIKE_A_LOG.match(begins):
        os.close(fd)
        raise SetupError(f"--log {path} is a file that is not a log", hint="name a new file, or a log to append to")
    return fd


def _without_keys(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: "[redacted]" if _NAME_OF_A_KEY.search(name) else value for name, value in headers.items()}
