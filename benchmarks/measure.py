"""Measured processes: pinned to one CPU, sampled while they run, with totals at the end.

CPU time is the kernel's figure for the process, its threads and the processes that it starts. Peak memory is the
largest resident set. Samples from `/proc` give the values at a given time; without it (macOS) there are only totals.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from resource import struct_rusage

ROOT = Path(__file__).resolve().parent.parent
LONGEST_S = 240.0
_SAMPLE_S = 0.02
_NICE = -10
_MEMORY = ("VmHWM", "VmRSS")
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


class Failed(Exception):
    """A measured process did not complete its work, so its figures are invalid."""


@dataclass(frozen=True, slots=True)
class Sample:
    """CPU time and memory of a process and those that it started, at one time."""

    at: float
    """Unix seconds."""
    cpu_s: float
    peak_bytes: int
    """The peak of the largest process so far."""
    sum_bytes: int
    """Resident sets of all processes at this time; pages that they share count more than once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Figures of a process that succeeded."""

    began: float
    """Unix seconds, just before the process was started."""
    wall_s: float
    cpu_s: float
    peak_bytes: int
    """Of the largest process."""
    samples: tuple[Sample, ...]
    stdout: str

    @property
    def ended(self) -> float:
        """Return when it exited, in Unix seconds."""
        return self.began + self.wall_s

    def cpu_between(self, began: float, ended: float) -> float | None:
        """Return CPU seconds between two times, interpolated between samples every 20 ms; None without samples."""
        if not self.samples:
            return None
        return self._cpu_at(ended) - self._cpu_at(began)

    def peak_at(self, moment: float) -> int:
        """Return peak memory up to a time."""
        return next((sample.peak_bytes for sample in self.samples if sample.at >= moment), self.peak_bytes)

    @property
    def peak_sum_bytes(self) -> int:
        """Return the peak of all processes together."""
        return max((sample.sum_bytes for sample in self.samples), default=self.peak_bytes)

    def _cpu_at(self, moment: float) -> float:
        if self.began < moment < self.samples[0].at:
            share = (moment - self.began) / (self.samples[0].at - self.began)
            return share * self.samples[0].cpu_s
        before = self.samples[0]
        for sample in self.samples:
            if sample.at >= moment:
                span = sample.at - before.at
                share = (moment - before.at) / span if span > 0 else 0.0
                return before.cpu_s + share * (sample.cpu_s - before.cpu_s)
            before = sample
        return before.cpu_s


@dataclass(frozen=True, slots=True)
class Cores:
    """CPUs that clients and server are pinned to; None where pinning is not possible."""

    client: int | None
    server: int | None

    @classmethod
    def choose(cls) -> Cores:
        if not hasattr(os, "sched_getaffinity"):
            return cls(None, None)
        allowed = sorted(os.sched_getaffinity(0))
        return cls(allowed[-1], allowed[0]) if len(allowed) > 1 else cls(None, None)

    def __str__(self) -> str:
        if self.client is None:
            return "clients and server share all CPUs (pinning is not possible)"
        return f"clients pinned to CPU {self.client}, server and watcher to CPU {self.server}"


def raise_priority() -> bool:
    """Raise the priority of this process and of those it starts; return whether it was allowed (root only)."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)
    except PermissionError:
        return False
    return True


@contextmanager
def bound_to(core: int | None) -> Generator[None]:
    """Pin this process to a CPU; processes started inside inherit it."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def environment(**more: str) -> dict[str, str]:
    """Return the caller's environment without convbatch options, and with this checkout first on the path."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CONVBATCH_")}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


def measured(
    command: Sequence[str],
    cwd: Path,
    core: int | None,
    env: dict[str, str],
    *,
    watch: bool = True,
    longest_s: float = LONGEST_S,
) -> Measured:
    """Run a command and return its figures.

    Raises:
        Failed: It failed, or took longer than `longest_s` while it was watched.
    """
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        began_at = time.time()
        began = time.perf_counter()
        with bound_to(core):
            process = subprocess.Popen(
                command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr
            )
        samples: list[Sample] = []
        if watch:
            status, usage = _watched(process, samples, began + longest_s)
        else:
            _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)  # already reaped: Popen must not wait for it again
        stdout.seek(0)
        if process.returncode:
            stderr.seek(0)
            raise Failed(f"{' '.join(command)}: exit {process.returncode}\n{stderr.read()[-2000:]}")
        return Measured(
            began=began_at,
            wall_s=wall_s,
            cpu_s=usage.ru_utime + usage.ru_stime,
            peak_bytes=usage.ru_maxrss * _RSS_UNIT,
            samples=tuple(samples),
            stdout=stdout.read(),
        )


def cpu_of(pid: int) -> float:
    """Return CPU seconds of a running process, ended threads included; 0 where the kernel does not tell."""
    if sys.platform != "linux":
        return 0.0
    try:
        return time.clock_gettime((~pid << 3) | 2)  # the process's own CPU clock: `clock_getcpuclockid`
    except OSError:
        return 0.0


def _watched(process: subprocess.Popen[bytes], samples: list[Sample], until: float) -> tuple[int, struct_rusage]:
    tree = _Tree(process.pid)
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            return status, usage
        sample = tree.sample()
        if sample.peak_bytes:
            samples.append(sample)
        if time.perf_counter() > until:
            process.kill()
        time.sleep(_SAMPLE_S)


class _Tree:
    """A process and all those below it, ended ones included."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._cpu: dict[int, float] = {}
        self._peak = 0

    def sample(self) -> Sample:
        now, total = time.time(), 0
        for pid in self._running():
            self._cpu[pid] = max(cpu_of(pid), self._cpu.get(pid, 0.0))
            peak, resident = _memory_of(pid)
            self._peak = max(self._peak, peak)
            total += resident
        return Sample(now, sum(self._cpu.values()), self._peak, total)

    def _running(self) -> Iterator[int]:
        waiting = [self._pid]
        while waiting:
            pid = waiting.pop()
            yield pid
            try:
                tasks = list(Path(f"/proc/{pid}/task").iterdir())
            except OSError:
                continue
            for task in tasks:
                with suppress(OSError):
                    waiting += map(int, (task / "children").read_text().split())


def _memory_of(pid: int) -> tuple[int, int]:
    """Return the peak and the present resident set of a process in bytes; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0, 0
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if name in _MEMORY}
    return kib.get("VmHWM", 0) * 1024, kib.get("VmRSS", 0) * 1024


class Server:
    """The benchmark gateway in its own process."""

    def __init__(self, core: int | None, latency_s: float = 0.0, *, reply_bytes: int = 0) -> None:
        command = [sys.executable, "-m", "benchmarks.server", "--latency", str(latency_s)]
        command += ["--reply-bytes", str(reply_bytes)]
        with bound_to(core):
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}"
        self.expected = 0
        """Requests sent by all clients; checked at the end."""
        self.first_request_at = 0.0
        """Unix seconds; known, as the next, once the server is closed."""
        self.last_request_at = 0.0

    def cpu_s(self) -> float:
        return cpu_of(self._process.pid)

    def close(self) -> None:
        """Stop the server; raise `Failed` when it answered more or fewer requests than were sent."""
        out, _ = self._process.communicate()
        answered, first, last = out.split()
        self.first_request_at, self.last_request_at = float(first), float(last)
        if int(answered) != self.expected:
            raise Failed(f"the server has answered {answered} requests, expected were {self.expected}")

    def __enter__(self) -> Server:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self._process.kill()
            self._process.wait()


@contextmanager
def workplace(parent: Path | None) -> Generator[Path]:
    """Make a temporary folder on the disk whose syncs are measured."""
    folder = Path(tempfile.mkdtemp(prefix="convbatch-bench-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sync_time_s(folder: Path, times: int = 200) -> float:
    """Return the median time to append 4 KiB and make it durable."""
    path = folder / "sync-probe"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    times_s: list[float] = []
    for _ in range(times):
        begun = time.perf_counter()
        os.write(fd, b"x" * 4096)
        (os.fdatasync if hasattr(os, "fdatasync") else os.fsync)(fd)
        times_s.append(time.perf_counter() - begun)
    os.close(fd)
    path.unlink()
    return sorted(times_s)[times // 2]
