"""`run --watch` and `view`: the page of a run on loopback.

With `--watch` the page is served by a process of its own. The run writes a few lines a second into a pipe to it,
without ever waiting: whatever happens to that process, the run goes on as if it had not been started.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import orjson

from convbatch.console.text import log_note
from convbatch.errors import SetupError
from convbatch.exit_codes import ExitCode
from convbatch.journal.run_folder import RunFolder, find_run, shell_quote
from convbatch.session.options import absolute
from convbatch.session.prepare import RESULTS

if TYPE_CHECKING:
    import socket

    from convbatch.session.options import ResumeOptions, RunOptions
    from convbatch.session.spec import SessionSpec
    from convbatch.session.status_lines import RunStatus, TargetStatus

_TELL_EVERY_S = 0.5
_MOST_BYTES = 4_000
"""Of a line: the system writes up to 4,096 bytes into a pipe whole or not at all."""
_SHOWN_OF_A_STATE = 300
_LAST_S = 20.0
"""Longest wait for a browser to get the report after the run."""
_CODE = "from convbatch.watching.child import main; main()"
_KEPT_VARIABLES = ("HOME", "LANG", "PATH", "TMPDIR", "TZ", "VIRTUAL_ENV")
"""The process needs no keys."""


class Watch:
    """The page of one run: a socket that listens from the start, and the process that serves it."""

    def __init__(self, port: int) -> None:
        """Listen.

        Raises:
            SetupError: The port is taken.
        """
        from convbatch.watching.access import new_token
        from convbatch.watching.server import address, listen

        self._socket: socket.socket = listen(port)
        self._token = new_token()
        self.address = address(self._socket, self._token)
        self._process: subprocess.Popen[bytes] | None = None
        self._told_at = float("-inf")
        self._view_line = ""
        """The command that shows the run."""
        self.is_hurried = False
        """The user stopped the run: a browser does not get the report."""

    def release(self) -> None:
        """Stop listening here; the process that serves the page has the socket too."""
        self._socket.close()

    def start(self, folder: Path) -> None:
        """Start the process; say where the page is, or that there is none."""
        descriptor = self._socket.fileno()
        self._view_line = f"convbatch view {shell_quote(absolute(folder))}"
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _CODE, str(descriptor)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=_environment(),
                pass_fds=(descriptor,),
                start_new_session=True,  # Ctrl-C in the terminal is for the run
            )
            hello = {"folder": str(folder.absolute()), "token": self._token}
            _pipe(self._process).write(orjson.dumps(hello) + b"\n")
            _pipe(self._process).flush()
            os.set_blocking(_pipe(self._process).fileno(), False)
        except OSError as error:
            log_note(f"the page of --watch cannot be served: {error.strerror or error}; the run goes on without it")
            self._process = None
            return
        finally:
            self.release()
        log_note(f"watch it: {self.address}")

    def tell(self, run: RunStatus) -> str | None:
        """Pass on what the run knows of itself, if that is due; return a note when the page has ended."""
        now = time.monotonic()
        if self._process is None or now - self._told_at < _TELL_EVERY_S:
            return None
        self._told_at = now
        if self._process.poll() is not None:
            self._process = None
            return f"the page of --watch has ended; the run goes on. Watch it with: {self._view_line}"
        totals = {"spent": run.spent, "stopping": run.stopping, "left_s": run.left_s}
        for message in (totals, *map(_target_message, run.targets)):
            self._write(message)
        return None

    def close(self) -> None:
        """Let a browser that is watching get the report, then end the process; say how to look again."""
        process = self._process
        if process is None:
            return
        try:
            with contextlib.suppress(OSError):
                os.set_blocking(_pipe(process).fileno(), True)
                _pipe(process).write(b'{"end":true}\n')
                _pipe(process).close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0 if self.is_hurried else _LAST_S)
        except KeyboardInterrupt:
            pass
        finally:
            process.kill()
            process.wait()
        host = self.address.rsplit("/", 2)[0]
        log_note(f"the page at {host} is gone; to look again: {self._view_line}")

    def _write(self, message: Mapping[str, Any]) -> None:
        line = orjson.dumps(message) + b"\n"
        if self._process is None or len(line) > _MOST_BYTES:
            return
        with contextlib.suppress(OSError):  # full: the next line is newer; closed: `tell` finds out
            os.write(_pipe(self._process).fileno(), line)


def _pipe(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdin is not None
    return process.stdin


def _target_message(target: TargetStatus) -> dict[str, Any]:
    state = target.state[0][:_SHOWN_OF_A_STATE] if target.state else None
    return {"target": target.name, "in_flight": target.in_flight, "state": state}


def _environment() -> dict[str, str]:
    """Return the variables of the process: none of them has a key."""
    import convbatch

    kept = {name: os.environ[name] for name in os.environ if name in _KEPT_VARIABLES or name.startswith("LC_")}
    return {**kept, "PYTHONPATH": str(Path(convbatch.__file__).parent.parent)}


@contextlib.contextmanager
def listening(options: RunOptions | ResumeOptions) -> Generator[Watch | None]:
    """Listen for `--watch` before anything is prepared; yields None without it.

    Raises:
        SetupError: The port is taken, or given without `--watch`.
    """
    if not options.watch:
        if options.port is not None:
            raise SetupError("--port is the port of --watch", hint="add --watch")
        yield None
        return
    watch = Watch(options.port or 0)
    try:
        yield watch
    finally:
        watch.release()


def finish_watched(spec: SessionSpec, watch: Watch | None, finish: Callable[[SessionSpec], ExitCode]) -> ExitCode:
    """Run a session to its end, `finish`, and serve the page of the run meanwhile, if there is one."""
    if watch is None:
        return finish(spec)
    watch.start(spec.folder.path)
    try:
        code = finish(replace(spec, on_status=watch.tell))
        watch.is_hurried = code == ExitCode.INTERRUPTED
        return code
    finally:
        watch.close()


def run_view(run: str, *, port: int, open_it: bool) -> ExitCode:
    """Serve the page of a run until Ctrl-C."""
    from convbatch.watching.server import listen
    from convbatch.watching.view import view

    folder = RunFolder.open(find_run(run, RESULTS))

    def on_address(address: str) -> None:
        sys.stdout.write(address + "\n")
        sys.stdout.flush()
        log_note("the address is secret: whoever has it, and is on this machine, can read the run; Ctrl-C ends")
        if open_it:
            _open(address)

    view(folder, listen(port), on_address, log_note)
    return ExitCode.OK


def _open(address: str) -> None:
    import webbrowser

    try:
        is_open = webbrowser.open(address)
    except (webbrowser.Error, OSError):
        is_open = False
    if not is_open:
        log_note("no browser found: open the address above")
