"""Run folders made by hand for tests of the read half: real files written by the real journal, without a run."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from convbatch.config.gateways import Gateway, Target, target_to_manifest
from convbatch.dialogue import Dialogue, HistoryMode
from convbatch.journal.manifest import Manifest, ManifestDataset, ManifestTarget, PlannedRows
from convbatch.journal.run_folder import RunFolder
from convbatch.journal.writer import Journal
from convbatch.pricing import ExchangeRates, PriceTable
from convbatch.reply import Failure, Reply, Usage, failure_to_plain, reply_to_plain, status_of
from convbatch.results.run import Run, load
from convbatch.system import System

GOOD, DRIFT = "sim-good@simulator", "sim-drift@simulator"
REAL = "gemini-2.5-flash@google"
SEED_USAGE = Usage(
    input_tokens=22, output_tokens=192, reasoning_tokens=178, total_tokens=214, source="reported", consistent=True
)
SEED_REPLY = Reply(
    text="今天是2025年12月27日。",
    finish_reason="stop",
    finish_reason_raw="STOP",
    usage=SEED_USAGE,
    model_version="gemini-2.5-flash",
    response_id="r-1",
)
STARTED_AT = 1_780_000_000.25
Record = dict[str, Any]


def dialogue(name: str, *users: str, tags: Sequence[str] = (), **more: Any) -> Dialogue:
    return Dialogue.from_plain({"id": name, "turns": [{"user": user} for user in users], "tags": list(tags), **more})


@dataclass
class MadeRun:
    """Builder of a run folder: add records, then call `write()`."""

    path: Path
    dialogues: Sequence[Dialogue]
    targets: Sequence[str] = (REAL,)
    repeats: int = 1
    history: HistoryMode = "live"
    state: str = "finished"
    checks: int = 0
    prices: Mapping[str, PriceTable] = field(default_factory=dict)
    """By target name."""
    rates: Mapping[str, str] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)

    def ident(self, index: int, turn: int, target: str | None = None, repeat: int = 1) -> Record:
        return {
            "index": index,
            "dialogue": self.dialogues[index].id,
            "target": target or self.targets[0],
            "repeat": repeat,
            "turn": turn,
            "key": f"{index:08x}{repeat:08x}{turn:016x}",
        }

    def intent(self, ident: Record, attempt: int = 1, **more: Any) -> None:
        self.records.append({"kind": "intent", **ident, "attempt": attempt, "role": "model", **more})

    def outcome(self, ident: Record, attempt: int = 1, *, cls: str, **more: Any) -> None:
        head = {"kind": "outcome", **ident, "attempt": attempt, "role": "model", "class": cls}
        timing = {"started_at": STARTED_AT, "latency_s": 0.5, "limiter_wait_s": 0.25, "retry_wait_s": 0.0}
        self.records.append({**head, **timing, **more})

    def turn(self, ident: Record, status: str, **more: Any) -> None:
        self.records.append({"kind": "turn", **ident, "status": status, **more})

    def replied(self, ident: Record, reply: Reply = SEED_REPLY, attempt: int = 1, **more: Any) -> None:
        """Add the records of an answered call, as the runner writes them; the asked model answers by default."""
        if reply.model_version == SEED_REPLY.model_version:
            reply = reply._replace(model_version=ident["target"].rpartition("@")[0])
        self.intent(ident, attempt)
        self.outcome(ident, attempt, cls="replied", http_status=200, reply=reply_to_plain(reply), **more)
        self.turn(ident, status_of(reply))

    def failed(self, ident: Record, failure: Failure, attempt: int = 1, *, cls: str, **more: Any) -> None:
        """Add a failed attempt without a `turn` record, so that the row is pending."""
        self.intent(ident, attempt)
        self.outcome(ident, attempt, cls=cls, error=failure_to_plain(failure), **more)

    def write(self) -> RunFolder:
        folder = RunFolder.create(self.path)
        with gzip.open(folder.dataset, "wb", compresslevel=1) as copy:
            copy.writelines(orjson.dumps(dialogue.to_plain()) + b"\n" for dialogue in self.dialogues)
        folder.write_manifest(self.manifest(folder))
        asyncio.run(append(folder, self.records))
        return folder

    def manifest(self, folder: RunFolder) -> Manifest:
        rows = sum(len(d.asked(self.history)) for d in self.dialogues) * self.repeats
        return Manifest(
            run=folder.name,
            created_at="2026-11-21T23:30:00Z",
            state=self.state,
            dataset=ManifestDataset(dialogues=len(self.dialogues)),
            history=self.history,
            repeats=self.repeats,
            targets=tuple(_target(name, self.prices.get(name)) for name in self.targets),
            rates=ExchangeRates.from_plain(self.rates),
            planned=PlannedRows(rows=rows * len(self.targets), per_target=rows),
            checks=self.checks,
        )


def run_served_by(folder: Path, target: str, *served: str | None, length: int = 10) -> Run:
    """Make a run of one-turn dialogues, one for each model that answered."""
    made = MadeRun(folder, [dialogue(f"d{n}", "x") for n in range(len(served))], targets=(target,))
    for index, name in enumerate(served):
        usage = Usage(input_tokens=9, output_tokens=length + index, source="reported")
        made.replied(made.ident(index, 1), SEED_REPLY._replace(model_version=name, usage=usage))
    return load(made.write().path)


def manifest_of(*targets: str, **changes: Any) -> Manifest:
    """Return a minimal manifest with these targets."""
    recorded = tuple(_target(name, None) for name in targets)
    return Manifest(targets=recorded, history="live", repeats=1, planned=PlannedRows(rows=len(recorded)), **changes)


async def append(folder: RunFolder, records: Iterable[Record], reason: str = "finished") -> None:
    """Open the folder's journal as a session, write the records and close it."""
    journal = Journal.open(folder, system=System(), version="0.1.0")
    for record in records:
        journal.append(record)
    await journal.close({"reason": reason})


def _target(name: str, prices: PriceTable | None) -> ManifestTarget:
    model, _, at = name.rpartition("@")
    base_url = "simulator:" if at == "simulator" else f"https://{at}.example"
    gateway = Gateway(name=at, protocol="gemini", base_url=base_url, auth="none")
    return target_to_manifest(Target(model=model, gateway=gateway), prices)
