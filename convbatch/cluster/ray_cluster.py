"""Workers as actors of Ray: on a private cluster of this machine, or on one that is there.

Only this module knows Ray. A private cluster listens on loopback alone, with a token of its own, and ends with the
process that started it. Keys go to a worker in the argument of one call: Ray keeps small arguments in memory, writes
them to no log, and shows them nowhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import platform
import re
import secrets
import shutil
import socket
import tempfile
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from convbatch._version import __version__
from convbatch.cluster.crew import WorkerLost, WorkerUnavailable
from convbatch.cluster.worker import Worker
from convbatch.errors import SetupError

INSTALL = "pip install 'convbatch[ray]'"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m|\\x1b\[[0-9;]*m")
_START_S = 120.0
_ALWAYS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
_FOLDER = "convbatch-ray-"
_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""With 0, Ray takes 127.0.0.1 for this node's address and listens there, not on the address of the default route."""


def require_ray() -> None:
    """Raise `SetupError` if Ray is not installed; imports nothing."""
    if importlib.util.find_spec("ray") is None:
        raise SetupError("--workers needs Ray, which is not installed", hint=INSTALL)


class RayWorker:
    """The actor. Ray makes one object a process, and runs its calls on one event loop."""

    def __init__(self) -> None:
        self._worker = Worker()

    async def facts(self) -> dict[str, str]:
        """Return the versions in this process, and where it runs."""
        return {
            "convbatch": __version__,
            "python": platform.python_version(),
            "host": socket.gethostname(),
            "pid": str(os.getpid()),
        }

    async def start(self, payload: bytes) -> None:
        """Call `Worker.start`."""
        from convbatch.cluster.worker_process import prepare

        prepare()
        await self._worker.start(payload)

    async def exchange(self, payload: bytes, hold_s: float) -> bytes:
        """Call `Worker.exchange`."""
        return await self._worker.exchange(payload, hold_s)

    async def give(self, payload: bytes) -> bytes:
        """Call `Worker.give`."""
        return await self._worker.give(payload)


class _Actor:
    """A worker as its coordinator calls it."""

    def __init__(self, handle: Any, facts: Mapping[str, str]) -> None:
        self._handle = handle
        self.place = f"{facts['host']}, process {facts['pid']}"
        self.pid = int(facts["pid"])

    async def exchange(self, payload: bytes, hold_s: float) -> bytes:
        """Call `Worker.exchange`."""
        return await _result(self._handle.exchange.remote(payload, hold_s))

    async def give(self, payload: bytes) -> bytes:
        """Call `Worker.give`."""
        return await _result(self._handle.give.remote(payload))

    def kill(self) -> None:
        """End the process."""
        import ray

        with contextlib.suppress(Exception):  # it may be gone, or Ray
            ray.kill(self._handle, no_restart=True)


async def _result(ref: Any) -> Any:
    """Return what an actor returned; an error of its code is raised as it is."""
    from ray import exceptions

    try:
        return await ref
    except exceptions.ActorUnavailableError as error:
        raise WorkerUnavailable(_why(error)) from None
    except (exceptions.RayActorError, exceptions.RaySystemError) as error:
        raise WorkerLost(_why(error)) from None


def _why(error: BaseException) -> str:
    """Return an error of Ray as one line: its cause, where a worker failed in Python, else its first line."""
    lines = [line.strip() for line in _COLOUR.sub("", str(error)).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[-1] if "Traceback" in str(error) or "ray::" in lines[0] else lines[0]


class RayCrew:
    """Starts workers as actors of a running Ray.

    Args:
        size: Number of workers; None = one for each core of the cluster.
        address: Of the cluster; None = a private one, which is started now.
        secrets: Names of environment variables that the processes of a private cluster do not get.
    """

    def __init__(self, size: int | None, *, address: str | None, secrets: frozenset[str]) -> None:
        self.size = size or 0
        self._address = address
        self._secrets = secrets
        self._folder: Path | None = None
        """Where it is started, with sockets and logs of a private cluster."""

    async def open(self) -> None:
        """Start or join Ray.

        Raises:
            SetupError: There is no such cluster, it is of another version, or it has too few cores.
        """
        require_ray()
        os.environ.update(_ALWAYS)
        if self._address is None:  # before the first import of ray
            os.environ[_LOOPBACK] = "0"
            # Loopback is open to all users of the machine, and who can talk to Ray can execute code.
            os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        await asyncio.to_thread(self._connect)
        try:
            await self._check_versions()
        except BaseException:
            self.close()
            raise

    def _connect(self) -> None:
        import ray
        from ray._private import worker

        # Ray prints what its nodes report on stdout, where tables go; a lost node is told by its lost workers.
        worker._worker_logs_enabled = False  # pyright: ignore[reportAttributeAccessIssue, reportPrivateUsage]
        common: dict[str, Any] = {"log_to_driver": False, "configure_logging": True, "logging_level": "ERROR"}
        self._folder = _own_folder()
        try:
            # Ray lets workers import from the directory in which it is started: not from where the user happens to be.
            with contextlib.chdir(self._folder):
                if self._address is not None:
                    ray.init(address=self._address, namespace="convbatch", **common)
                else:
                    with _without(self._secrets | {"RAY_ADDRESS"}):
                        ray.init(
                            num_cpus=self.size,
                            include_dashboard=False,
                            _node_ip_address="127.0.0.1",
                            _temp_dir=str(self._folder / "ray"),  # which Ray opens to everybody
                            **common,
                        )
        except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as error:
            self.close()
            where = "here" if self._address is None else f"at {self._address}"
            raise SetupError(
                f"there is no usable Ray cluster {where}",
                found=_why(error),
                hint="start one with `ray start --head`, or leave out --on and RAY_ADDRESS to use this machine alone",
            ) from None
        cores = int(ray.cluster_resources().get("CPU", 0))
        if not self.size:
            self.size = max(1, cores)
        if self.size > cores:
            self.close()
            raise SetupError(
                f"{self.size} workers, and the cluster has {cores} cores",
                hint=f"use --workers {max(1, cores)}, or add machines with `ray start --address`",
            )

    async def _check_versions(self) -> None:
        """Refuse a cluster whose processes are of another Python or convbatch."""
        import ray

        handle = self._actor(num_cpus=0)
        try:
            facts = await asyncio.wait_for(_result(handle.facts.remote()), _START_S)
        except (WorkerLost, WorkerUnavailable) as error:
            raise SetupError(
                "the cluster cannot start a worker", found=str(error), hint=f"on each machine: {INSTALL}"
            ) from None
        except TimeoutError:
            raise SetupError("the cluster started no worker in time", found=f"{_START_S:.0f} s") from None
        finally:
            with contextlib.suppress(Exception):
                ray.kill(handle)
        refuse_other_versions(facts)

    def _actor(self, *, num_cpus: int) -> Any:
        import ray

        kind = ray.remote(RayWorker)
        return kind.options(  # pyright: ignore[reportAttributeAccessIssue]
            num_cpus=num_cpus, max_restarts=0, max_task_retries=0, max_concurrency=16, scheduling_strategy="SPREAD"
        ).remote()

    async def hire(self, payload: bytes) -> _Actor:
        """Start a worker.

        Raises:
            SetupError: Its versions are others than here.
            WorkerLost: It ended while it started.
        """
        handle = self._actor(num_cpus=1)
        try:
            facts = await asyncio.wait_for(_result(handle.facts.remote()), _START_S)
            refuse_other_versions(facts)
            await _result(handle.start.remote(payload))
        except (TimeoutError, WorkerUnavailable) as error:
            raise WorkerLost(str(error) or f"it did not start within {_START_S:.0f} s") from None
        return _Actor(handle, facts)

    def close(self) -> None:
        """End a private cluster, or leave one that was joined."""
        import ray

        ray.shutdown()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _own_folder() -> Path:
    """Make a folder for this process, and remove those of processes that were killed."""
    parent = Path("/tmp" if Path("/tmp").is_dir() else tempfile.gettempdir())  # paths of sockets must be short
    for left in parent.glob(f"{_FOLDER}*"):
        pid = left.name.removeprefix(_FOLDER).partition("-")[0]
        with contextlib.suppress(OSError):
            if pid.isdigit() and left.stat().st_uid == os.getuid() and not _is_running(int(pid)):
                shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{_FOLDER}{os.getpid()}-", dir=parent))


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def refuse_other_versions(facts: Mapping[str, str]) -> None:
    """Raise `SetupError` if a worker has another Python or convbatch than this process."""
    for what, ours in (("convbatch", __version__), ("python", platform.python_version())):
        theirs = facts[what]
        if theirs.split(".")[:2] != ours.split(".")[:2] if what == "python" else theirs != ours:
            name = "Python" if what == "python" else what
            raise SetupError(
                f"the machine {facts['host']} has {name} {theirs}, and this one {ours}",
                hint="install the same version on every machine of the cluster; nothing was sent",
            )


@contextlib.contextmanager
def _without(names: frozenset[str]) -> Generator[None]:
    """Take variables out of the environment that child processes get."""
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)
