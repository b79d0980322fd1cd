"""What the coordinator needs of whatever starts its workers and carries its calls; `ray_cluster.py` does so by Ray."""

from __future__ import annotations

from typing import Protocol

from convbatch.errors import ConvbatchError
from convbatch.exit_codes import ExitCode


class WorkerLost(Exception):
    """A worker has ended without being told to."""


class WorkerUnavailable(Exception):
    """A call to a worker failed; it may be alive."""


class Remote(Protocol):
    """A started worker."""

    @property
    def place(self) -> str:
        """Where it runs, for people."""
        ...

    async def exchange(self, payload: bytes, hold_s: float) -> bytes:
        """Call `Worker.exchange`; raises `WorkerLost` or `WorkerUnavailable`."""
        ...

    async def give(self, payload: bytes) -> bytes:
        """Call `Worker.give`; raises as `exchange`."""
        ...

    def kill(self) -> None:
        """End it at once, if it still runs."""
        ...


class Crew(Protocol):
    """Starts workers."""

    size: int
    """Number of workers."""

    async def hire(self, payload: bytes) -> Remote:
        """Start a worker with a packed `Hiring`.

        Raises:
            SetupError: No worker of this kind can run.
            WorkerLost: It ended while it started.
        """
        ...


class NoWorkers(ConvbatchError):
    """All workers are lost, and none can be started."""

    exit_code = ExitCode.INCOMPLETE
