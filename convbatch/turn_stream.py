"""`TurnStream`: the turns of a run as they become durable, for `async for`.

The run goes on in a thread of its own, with its own event loop, and never waits for whoever reads the stream: turns
that are not read yet lie in the run's journal, not in memory. Leaving the loop early is what the first Ctrl-C is to the
command: nothing more is sent, what is in flight is finished and stored.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from convbatch.errors import JournalError, Place
from convbatch.journal.stream import BrokenStream
from convbatch.results.run import Run, load
from convbatch.results.turn_results import LiveTurns, TurnResult

if TYPE_CHECKING:
    from convbatch.engine.runner import Runner
    from convbatch.session.spec import SessionSpec


class TurnStream:
    """The turns of a run, in the order in which they ended; made by `stream_replay`.

    >>> async def ask():
    ...     async with convbatch.stream_replay(dataset, models="sim-good@simulator") as stream:
    ...         return [turn.status async for turn in stream], stream.run
    >>> asyncio.run(ask())
    (['ok', 'ok'], <convbatch.Run ...: 1 dialogue x 1 target, finished>)

    Attributes are read between two turns or after the last one. A stream is read once.
    """

    def __init__(self, prepare: Callable[[], SessionSpec], play: Callable[[SessionSpec], Run]) -> None:
        """Args: prepare: Makes the run folder. play: Runs the session to its end, and its judge's; returns the run."""
        self._prepare = prepare
        self._play = play
        self._session: _Session | None = None

    @property
    def run(self) -> Run:
        """The run as it is now; its tables can be read at any time.

        Raises:
            RuntimeError: Nothing was read from the stream yet, so there is no run folder.
        """
        if self._session is None:
            raise RuntimeError("the stream has not begun: its run exists once the first turn is asked for")
        return load(self._session.path)

    def __aiter__(self) -> AsyncGenerator[TurnResult]:
        """Return a generator that prepares the run when the first turn is asked for."""
        return self._turns()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop the run as the first Ctrl-C does, and wait until what is in flight is stored and the tables are written.

        Cancelling this wait abandons what is in flight, as the second Ctrl-C does.
        """
        if self._session is not None:
            await self._session.end()

    async def _turns(self) -> AsyncGenerator[TurnResult]:
        if self._session is not None:
            raise RuntimeError("a stream is read once; the turns so far are stream.run.results()")
        session = self._session = _Session(self._prepare(), self._play)
        left = _Left(session)
        live = LiveTurns(session.spec.folder)
        try:
            session.start()
            try:
                async with contextlib.aclosing(session.read(live)) as turns:
                    async for turn in turns:
                        yield turn
            finally:
                await session.end()
            session.raise_error()
        finally:
            live.close()
            del left


class _Left:
    """Stops the run when the frame that holds it is gone, even where its event loop ended before it."""

    def __init__(self, session: _Session) -> None:
        self._session = session

    def __del__(self) -> None:
        self._session.stop()


class _Session:
    """One run in a thread, with what the reader's event loop needs of it."""

    def __init__(self, spec: SessionSpec, play: Callable[[SessionSpec], Run]) -> None:
        self.spec = replace(spec, on_start=self._started, on_turn=self._turn_done)
        self.path = spec.folder.path
        self._play = play
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._thread = threading.Thread(target=self._work, name=f"convbatch {spec.folder.name}")
        self._lock = threading.RLock()  # `_Left` may stop the run from wherever garbage is collected
        self._durable = 0
        self._is_stopped = self._is_abandoned = self._has_ended = False
        self._runner: tuple[asyncio.AbstractEventLoop, Runner] | None = None
        self._error: BaseException | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    async def read(self, live: LiveTurns) -> AsyncGenerator[TurnResult]:
        """Yield the turns that are durable, until the run has ended."""
        given = 0
        try:
            while True:
                self._changed.clear()
                # Read first: what is written before the end is seen by the look after it.
                has_ended = self._has_ended
                before = given
                for turn in live.read():
                    while given >= self._durable and not self._has_ended:  # written, and not synced yet
                        await self._changed.wait()
                        self._changed.clear()
                    if given >= self._durable and isinstance(self._error, JournalError):
                        return
                    given += 1
                    yield turn
                if given > before:
                    continue
                if has_ended:
                    return
                await self._changed.wait()
        except (BrokenStream, OSError) as error:
            await self.end()
            self.raise_error()
            raise JournalError(
                f"the journal cannot be read while it is written: {error}",
                place=Place(path=str(self.path)),
                hint="the replies are in the run folder: convbatch.load reads them",
            ) from error

    async def end(self) -> None:
        """Stop the run unless it has ended, and wait; when that is cancelled, abandon what is in flight."""
        if not self._thread.ident:
            return
        self.stop()
        try:
            while not self._has_ended:
                self._changed.clear()
                if not self._has_ended:
                    await self._changed.wait()
        except asyncio.CancelledError:
            self.stop(abandon=True)
            raise

    def stop(self, *, abandon: bool = False) -> None:
        """Admit no more requests; `abandon`: and cancel those in flight. Does not wait."""
        with self._lock:
            self._is_stopped, self._is_abandoned = True, self._is_abandoned or abandon
            if self._runner is not None:
                loop, runner = self._runner
                with contextlib.suppress(RuntimeError):  # the loop is closed: the session has ended
                    loop.call_soon_threadsafe(_stop, runner, abandon)

    def raise_error(self) -> None:
        """Raise what ended the run, if it was an error."""
        if self._error is not None:
            raise self._error

    def _started(self, runner: Runner) -> None:
        with self._lock:
            self._runner = asyncio.get_running_loop(), runner
            if self._is_stopped:
                _stop(runner, self._is_abandoned)

    def _turn_done(self) -> None:
        self._durable += 1
        self._notify()

    def _work(self) -> None:
        try:
            self._play(self.spec)
        except BaseException as error:  # noqa: BLE001  # of a thread: raised where the stream is read
            self._error = error
        finally:
            self._has_ended = True
            self._notify()

    def _notify(self) -> None:
        with contextlib.suppress(RuntimeError):  # the reader's loop is closed
            self._loop.call_soon_threadsafe(self._changed.set)


def _stop(runner: Runner, abandon: bool) -> None:
    if abandon:
        runner.abandon()
    else:
        runner.stop("interrupted")
