"""Keys that a command prints: `KeyCommand` runs it, keeps its token, and replaces a token that expired or was refused.

Commands are lists of a program and its arguments, never shell text. Which commands of a run folder may run is decided
by `session/trust.py`; where the token is put in a request by `credentials.py`.
"""

from __future__ import annotations

import base64
import contextlib
import heapq
import json
import os
import re
import selectors
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from convbatch.config.credentials import key_problem
from convbatch.console.text import printable_lines
from convbatch.errors import SetupError
from convbatch.redaction import Redactor, Secret, hide_key_shapes, redact

if TYPE_CHECKING:
    import asyncio

TIMEOUT_S = 10.0
RENEW_BEFORE_S = 60.0
"""How long before it expires a token is replaced; one that is valid for a short time only: after half of it."""
_STDERR_LINES = 5
_MAX_OUTPUT = 16384
"""Bytes of each stream that are kept; servers refuse headers of this length."""
_MAX_WORDS = 50
"""Words of the output, the longest, that are removed from the text on stderr: the search for each takes time."""
_LAST_READ_S = 0.5
"""How long to read on after the program has ended: a process that it left behind may keep its pipes open."""
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)


class Token(NamedTuple):
    """What a command printed."""

    number: int
    """Counts the tokens of the command, from 1."""
    value: str
    renew_at: float | None = None
    """Unix seconds; None if the token does not say when it expires, or that is past by the clock of this machine."""


class KeyCommand:
    """A `key_command` and the token it printed last; shared by all gateways with the same command."""

    def __init__(
        self,
        command: tuple[str, ...],
        env: Mapping[str, str],
        *,
        origin: str | None = None,
        on_token: Callable[[Secret], None],
        timeout_s: float = TIMEOUT_S,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Create the command without running it.

        Args:
            command: Program and arguments.
            env: Its environment.
            origin: Where it is set, for messages.
            on_token: Called with each new token before it is used, to register it with redactors.
            timeout_s: Time after which the command and its children are killed.
            wall: Unix seconds, to compare with the expiry of a token.
        """
        self._command = command
        self._env = env
        self._origin = origin
        self._on_token = on_token
        self._timeout_s = timeout_s
        self._wall = wall
        self._token: Token | None = None
        self._running: asyncio.Task[Token] | None = None
        self._is_refused = False
        self._is_untried = False

    @property
    def token(self) -> Token:
        """The current token; runs the command the first time.

        Raises:
            SetupError: The command failed, hung, or printed no token.
        """
        return self._renew() if self._token is None else self._token

    @property
    def is_due(self) -> bool:
        """Whether the current token was refused or is about to expire."""
        if self._token is None or self._is_refused:
            return True
        return self._token.renew_at is not None and self._wall() >= self._token.renew_at

    async def renew_if_due(self) -> None:
        """Run the command in a thread if the token is due; callers that come meanwhile share this one run.

        Raises:
            SetupError: As `token`.
        """
        import asyncio

        if not self.is_due:
            return
        if self._running is None or self._running.done():
            self._running = asyncio.ensure_future(asyncio.to_thread(self._renew))
            self._running.add_done_callback(_retrieve)
        await asyncio.shield(self._running)

    def accepted(self, number: int) -> None:
        """Record that a request with this token was answered."""
        if self._token is not None and number == self._token.number:
            self._is_untried = False

    def refused(self, number: int) -> bool:
        """Record that the gateway refused a token; return whether a request with another token may succeed.

        False if the token was itself a replacement and no request with it has succeeded: then the account is refused.
        """
        if self._token is None or number != self._token.number:
            return True  # replaced since the request was sent
        if self._is_untried:
            return False
        self._is_refused = True
        return True

    def _renew(self) -> Token:
        replaces_refused = self._is_refused
        output = self._output()
        if problem := key_problem(output):
            raise self._error(f"printed no token: its output {problem[0]}", hint="it must print the token alone")
        self._on_token(Secret("key_command", output))
        number = 1 if self._token is None else self._token.number + 1
        self._token = Token(number, output, self._renewal_of(output))
        self._is_refused, self._is_untried = False, replaces_refused
        return self._token

    def _renewal_of(self, token: str) -> float | None:
        expires_at, now = _expiry(token), self._wall()
        if expires_at is None or expires_at <= now:
            return None
        return max(expires_at - RENEW_BEFORE_S, (now + expires_at) / 2)

    def _output(self) -> str:
        """Run the command and return what it printed."""
        process = self._start()
        try:
            out, err, has_ended = _read(process, self._timeout_s)
        finally:
            _kill(process)
        if not has_ended:
            problem = f"did not end within {self._timeout_s:g} s"
            raise self._error(problem, out, err, hint="does it wait for input? it gets none")
        if process.returncode != 0:
            raise self._error(f"failed with exit code {process.returncode}", out, err, hint="run it in a terminal")
        text = out.decode("utf-8", "replace").strip()
        if not text or len(out) > _MAX_OUTPUT:
            problem = f"printed more than {_MAX_OUTPUT} bytes" if text else "printed nothing"
            raise self._error(problem, out, err, hint="it must print the token alone")
        return text

    def _start(self) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(  # a list from the user's own config; no shell
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=dict(self._env),
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "its arguments cannot be passed on"
            hint = "install the program, or write its full path"
            raise self._error(f"cannot be started: {reason}", hint=hint) from None

    def _error(self, problem: str, out: bytes = b"", err: bytes = b"", *, hint: str) -> SetupError:
        printed = out.decode("utf-8", "replace").strip()
        possible = {word for word in printed.split() if key_problem(word) is None} if err.strip() else set[str]()
        words = heapq.nlargest(_MAX_WORDS, possible, key=len)
        named = [*self._env.items(), *(("key_command", word) for word in words)]
        secrets = [Secret(name, text) for name, text in named if len(text) >= 8 and _SECRET_NAME.search(name)]
        hidden = Redactor(secrets).text(err.decode("utf-8", "replace"))
        lines = [line for line in hide_key_shapes(redact(hidden)).splitlines() if line.strip()][:_STDERR_LINES]
        origin = f" of {self._origin}" if self._origin else ""
        return SetupError(
            f"the key_command{origin} {problem}: {display_command(self._command)}",
            found=printable_lines("\n    ".join(["on stderr:", *(line[:300] for line in lines)])) if lines else None,
            hint=hint,
        )


def display_command(command: tuple[str, ...]) -> str:
    """Return a command as a shell would show it, without texts that look like keys."""
    text = hide_key_shapes(redact(shlex.join(command)))
    return text if len(text) <= 200 else f"{text[:197]}..."


def _retrieve(run: asyncio.Task[Token]) -> None:
    """Mark the exception of a run as seen: every caller may have been cancelled."""
    if not run.cancelled():
        run.exception()


class _Printed(NamedTuple):
    """What a command printed: the first bytes of each stream, one more than are kept if there were more."""

    out: bytes
    err: bytes
    has_ended: bool
    """Whether the program ended in time."""


def _read(process: subprocess.Popen[bytes], timeout_s: float) -> _Printed:
    """Read what a command prints until it has ended or the time is up."""
    assert process.stdout is not None
    assert process.stderr is not None
    kept: dict[IO[bytes], bytearray] = {process.stdout: bytearray(), process.stderr: bytearray()}
    deadline = reads_until = time.monotonic() + timeout_s
    with selectors.DefaultSelector() as selector:
        for pipe in kept:
            selector.register(pipe, selectors.EVENT_READ, pipe)
        while selector.get_map() and (left := reads_until - time.monotonic()) > 0:
            for key, _ in selector.select(min(left, 0.05)):
                data = os.read(key.fd, _MAX_OUTPUT)
                kept[key.data].extend(data[: _MAX_OUTPUT + 1 - len(kept[key.data])])
                if not data:
                    selector.unregister(key.fileobj)
            if process.poll() is not None:
                reads_until = min(reads_until, time.monotonic() + _LAST_READ_S)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(max(0.0, deadline - time.monotonic()))
    return _Printed(*map(bytes, kept.values()), has_ended=process.returncode is not None)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Close the pipes of a command and kill it, with its children, if it still runs."""
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(1.0)


def _expiry(token: str) -> float | None:
    """Return when a JSON Web Token expires, in Unix seconds; None for other tokens."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        padded = parts[1] + "=" * (-len(parts[1]) % 4)
        claims: Any = json.loads(base64.urlsafe_b64decode(padded))
        expires_at = claims["exp"]
    except (ValueError, KeyError, TypeError):
        return None
    is_number = isinstance(expires_at, int | float) and not isinstance(expires_at, bool)
    return float(expires_at) if is_number else None
