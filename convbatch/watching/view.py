"""`convbatch view`: serve the page of a run until Ctrl-C, whether it goes on, has ended, or was killed."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable

from convbatch.journal.run_folder import RunFolder
from convbatch.watching.access import new_token
from convbatch.watching.server import WatchServer, address
from convbatch.watching.watched_run import WatchedRun

_ENDS = {
    "finished": "the run has finished",
    "interrupted": "the run was interrupted",
    "incomplete": "the run has ended, incomplete",
    "killed": "the run's process was killed",
}


def view(
    folder: RunFolder, listening: socket.socket, on_address: Callable[[str], object], on_note: Callable[[str], object]
) -> None:
    """Serve a run until SIGINT or SIGTERM.

    Args:
        folder: The run folder; it is only read.
        listening: From `server.listen`.
        on_address: Gets the address of the page once it is served.
        on_note: Gets a line when the run ends.

    Raises:
        SetupError: `run.json` cannot be read.
    """
    run = WatchedRun(folder)
    asyncio.run(_view(run, listening, on_address, on_note))


async def _view(
    run: WatchedRun, listening: socket.socket, on_address: Callable[[str], object], on_note: Callable[[str], object]
) -> None:
    token = new_token()
    server = WatchServer(run, listening, token)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with server.serving():
        on_address(address(listening, token))
        noting = asyncio.create_task(_note_end(server, on_note))
        await server.until(stop.wait())
        noting.cancel()


async def _note_end(server: WatchServer, on_note: Callable[[str], object]) -> None:
    while True:
        await server.ended.wait()
        on_note(f"{_ENDS[server.run.state]}; the page has its report")
        await server.running.wait()  # in another session
