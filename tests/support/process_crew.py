"""Workers as plain processes behind Unix sockets: a second transport, which starts in a second and can be killed.

Tests of the coordinator and its workers use it; those of Ray itself are in `tests/cluster/test_ray.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import pickle
import struct
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from convbatch.cluster.crew import WorkerLost, WorkerUnavailable
from convbatch.cluster.worker import Worker

_HEAD = struct.Struct("<IQ")


async def _read(reader: asyncio.StreamReader) -> tuple[int, Any]:
    size, number = _HEAD.unpack(await reader.readexactly(_HEAD.size))
    return number, pickle.loads(await reader.readexactly(size))


def _write(writer: asyncio.StreamWriter, number: int, value: Any) -> None:
    data = pickle.dumps(value)
    writer.write(_HEAD.pack(len(data), number) + data)


async def serve(path: str) -> None:
    """Be a worker until the connection ends."""
    worker = Worker()
    ended = asyncio.Event()

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks: set[asyncio.Task[None]] = set()

        async def answer(number: int, name: str, arguments: tuple[Any, ...]) -> None:
            _write(writer, number, await getattr(worker, name)(*arguments))

        try:
            while True:
                number, (name, arguments) = await _read(reader)
                task = asyncio.create_task(answer(number, name, arguments))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                await asyncio.sleep(0)  # messages are taken in the order of the calls
        except (EOFError, ConnectionError):
            ended.set()

    async with await asyncio.start_unix_server(on_connection, path):
        await ended.wait()


class ProcessWorker:
    """A worker process as its coordinator calls it."""

    def __init__(self, process: subprocess.Popen[bytes], reader: Any, writer: Any) -> None:
        self.process = process
        self.place = f"process {process.pid}"
        self.unreachable = False
        """Calls fail while this is set, though the worker runs."""
        self._writer = writer
        self._numbers = itertools.count()
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._reading = asyncio.create_task(self._read_answers(reader))

    async def _read_answers(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                number, value = await _read(reader)
                if not (call := self._calls.pop(number)).done():
                    call.set_result(value)
        self._writer.close()
        for call in self._calls.values():
            if not call.done():
                call.set_exception(WorkerLost("the process ended"))

    async def call(self, name: str, *arguments: Any) -> Any:
        """Call the worker."""
        if self._reading.done():
            raise WorkerLost("the process ended")
        if self.unreachable:
            raise WorkerUnavailable("told to be unreachable")
        number = next(self._numbers)
        call = self._calls[number] = asyncio.get_running_loop().create_future()
        _write(self._writer, number, (name, arguments))
        value = await call
        if self.unreachable:
            raise WorkerUnavailable("told to be unreachable")
        return value

    async def exchange(self, payload: bytes, hold_s: float) -> bytes:
        return await self.call("exchange", payload, hold_s)

    async def give(self, payload: bytes) -> bytes:
        return await self.call("give", payload)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class ProcessCrew:
    """Starts worker processes; `workers` are those started so far.

    Args:
        size: Number of workers.
        elsewhere: A folder that workers have in place of the run folder, as on a machine with another disk.
    """

    def __init__(self, size: int, *, elsewhere: Path | None = None) -> None:
        self.size = size
        self.workers: list[ProcessWorker] = []
        self._elsewhere = elsewhere

    async def hire(self, payload: bytes) -> ProcessWorker:
        if self._elsewhere is not None:
            hiring = pickle.loads(payload)
            payload = pickle.dumps(replace(hiring, setup=replace(hiring.setup, folder=self._elsewhere)))
        folder = Path(tempfile.mkdtemp(prefix="crew-"))
        path = folder / "socket"
        command = [sys.executable, "-m", "tests.support.process_crew", str(path)]
        process = subprocess.Popen(command, cwd=Path(__file__).parents[2], env=dict(os.environ))  # noqa: ASYNC220
        try:
            return await self._started(process, path, payload)
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            path.unlink(missing_ok=True)
            folder.rmdir()  # noqa: ASYNC240

    async def _started(self, process: subprocess.Popen[bytes], path: Path, payload: bytes) -> ProcessWorker:
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_unix_connection(path)
                break
            if process.poll() is not None:
                raise WorkerLost(f"exit code {process.returncode}")
            await asyncio.sleep(0.02)
        worker = ProcessWorker(process, reader, writer)
        await worker.call("start", payload)
        self.workers.append(worker)
        return worker


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
