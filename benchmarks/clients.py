"""The compared clients: `convbatch run` as a user starts it, and the bare loops."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import orjson

from benchmarks.dialogues import KEY, MODEL, write_dataset
from benchmarks.measure import LONGEST_S, Cores, Failed, Measured, Server, environment, measured

CONFIG = """\
[gateways.bench]
protocol = "gemini"
base_url = "{url}"
auth = "x-goog-api-key"
key_env = "BENCH_KEY"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRun:
    """A finished run of one client over all dialogues."""

    turns: int
    began: float
    """Unix seconds; first request."""
    ended: float
    """Unix seconds; last reply durable (for the unsynced loop: written to the file)."""
    process: Measured
    server_cpu_s: float

    @property
    def span_s(self) -> float:
        return self.ended - self.began

    @property
    def rate(self) -> float:
        """Return turns per second."""
        return self.turns / self.span_s

    @property
    def cpu_per_1000(self) -> float:
        """Return CPU seconds per 1,000 turns between first request and last reply."""
        cpu_s = self.process.cpu_between(self.began, self.ended)
        return (self.process.cpu_s if cpu_s is None else cpu_s) / self.turns * 1000


@dataclass(frozen=True, slots=True)
class Work:
    """Number of dialogues and turns, and concurrency."""

    dialogues: int
    turns: int
    concurrency: int
    stream: bool = False
    message_bytes: int = 0
    """Length of a user's message; 0: short."""

    @property
    def requests(self) -> int:
        return self.dialogues * self.turns


class Clients:
    """Runs work against a server and removes the files of each run."""

    def __init__(self, folder: Path, cores: Cores) -> None:
        self._folder = folder
        self._cores = cores

    def bare(self, server: Server, work: Work, *, sync: bool) -> MeasuredRun:
        """Run the bare loop: baseline (i), with `sync` baseline (ii)."""
        out = self._folder / "bare.jsonl"
        command = [sys.executable, "-m", "benchmarks.bare", server.url, str(out)]
        command += ["--dialogues", str(work.dialogues), "--turns", str(work.turns)]
        command += ["--concurrency", str(work.concurrency), *(["--sync"] if sync else [])]
        command += ["--message-bytes", str(work.message_bytes), *(["--stream"] if work.stream else [])]
        before = server.cpu_s()
        process = measured(command, self._folder, self._cores.client, environment())
        server.expected += work.requests
        lines = out.read_bytes().count(b"\n")
        out.unlink()
        if lines != work.requests:
            raise Failed(f"the bare loop wrote {lines} lines, expected were {work.requests}")
        return MeasuredRun(
            turns=lines, process=process, server_cpu_s=server.cpu_s() - before, **json.loads(process.stdout)
        )

    def convbatch(
        self,
        server: Server,
        work: Work,
        *,
        keep: Path | None = None,
        longest_s: float = LONGEST_S,
        workers: int | None = None,
        pinned: bool = True,
    ) -> MeasuredRun:
        """Run a real `convbatch run`, with validation, plan, rate limiter, journal, table and summary.

        Args:
            server: Who answers.
            work: What is asked.
            keep: Where the run folder is made and stays; None: it is removed.
            longest_s: After this time the run is killed.
            workers: As `--workers`.
            pinned: Whether it has one CPU only.
        """
        config = self._folder / "bench.toml"
        config.write_text(CONFIG.format(url=server.url), encoding="utf-8")
        out = self._folder / "run" if keep is None else keep
        dataset = self.dataset(work.dialogues, work.turns, work.message_bytes)
        command = [sys.executable, "-m", "convbatch", "run", str(dataset)]
        command += ["-m", f"{MODEL}@bench", "-c", str(config), "-o", str(out), "-j", str(work.concurrency)]
        command += ["--stream"] if work.stream else []
        command += [] if workers is None else ["--workers", str(workers)]
        before = server.cpu_s()
        core = self._cores.client if pinned else None
        process = measured(command, self._folder, core, environment(BENCH_KEY=KEY), longest_s=longest_s)
        server.expected += work.requests
        began, ended = _run_times(out, work.requests)
        if keep is None:
            shutil.rmtree(out)
        return MeasuredRun(
            turns=work.requests, began=began, ended=ended, process=process, server_cpu_s=server.cpu_s() - before
        )

    def validate(self, dialogues: int) -> Measured:
        """Run `convbatch validate` on a dataset of one turn per dialogue."""
        command = [sys.executable, "-m", "convbatch", "validate", str(self.dataset(dialogues, 1))]
        return measured(command, self._folder, self._cores.client, environment())

    def dataset(self, dialogues: int, turns: int, message_bytes: int = 0) -> Path:
        """Return the path of the dataset of this size; written once."""
        path = self._folder / f"d{dialogues}x{turns}x{message_bytes}.jsonl"
        if not path.exists():
            write_dataset(path, dialogues, turns, message_bytes)
        return path


def _run_times(run: Path, turns: int) -> tuple[float, float]:
    """Return from the journal when the first request was sent and the last reply was durable; all turns must be `ok`.

    The `stop` record is written after the sync of the last reply, so its time is an upper bound.
    """
    began = ended = 0.0
    ok = 0
    for segment in sorted((run / "journal").glob("*.jsonl")):
        with segment.open("rb") as lines:
            for line in lines:
                record = orjson.loads(line)
                match record["kind"]:
                    case "intent":
                        began = began or record["at"]
                    case "turn":
                        ok += record["status"] == "ok"
                    case "stop":
                        ended = record["at"]
                    case _:
                        pass
    if ok != turns or not ended:
        raise Failed(f"the journal of convbatch has {ok} turns that ended ok, expected were {turns}")
    return began, ended
