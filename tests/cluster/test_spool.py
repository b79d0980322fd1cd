"""What workers had received when the command was killed is added by the next session, once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import convbatch as cb
from convbatch.cluster.messages import EncodedRecord
from convbatch.cluster.spool import Spool, groups
from convbatch.journal.records import decode_line
from convbatch.session.session import run_session_async
from convbatch.simulator.provider import Provider
from convbatch.simulator.server import Server
from tests.cluster.test_coordinator import prepared, resumed
from tests.support.ledger_laws import statuses


def replies_of(run: Path) -> list[list[dict[str, Any]]]:
    """Return the records of each reply: an outcome, and the end of its turn."""
    lines = (run / "journal" / "000001.jsonl").read_bytes().splitlines()
    records = [decode_line(line) for line in lines]
    kept = [one for one in records if one["kind"] in ("outcome", "turn")]
    plain = [{name: value for name, value in one.items() if name not in ("v", "seq", "at", "crc")} for one in kept]
    return [plain[at : at + 2] for at in range(0, len(plain), 2)]


def test_replies_in_spools_are_delivered_once(tmp_path: Path, simulator: Callable[[Provider], Server]):
    provider = Provider(latency_s=0.1)
    server = simulator(provider)
    assert asyncio.run(run_session_async(prepared(tmp_path, server, out="whole"))).exit_code == 0
    spec = prepared(tmp_path, server)
    stopped = asyncio.run(run_session_async(replace(spec, rules=replace(spec.rules, concurrency=2, deadline_s=0.35))))
    assert stopped.exit_code == 3
    answered = {(one[0]["index"], one[0]["turn"]) for one in replies_of(tmp_path / "out")}
    whole = replies_of(tmp_path / "whole")
    lost = [one for one in whole if one[0]["turn"] == 1 and (one[0]["index"], 1) not in answered]
    known = [one for one in whole if (one[0]["index"], one[0]["turn"]) in answered]
    assert len(lost) > 3
    assert known

    path = tmp_path / "out" / "spool" / "0001-0001.jsonl"
    spool = Spool(path)
    for number, group in enumerate([*known, *lost], 1):
        spool.write(number, 0.0, [EncodedRecord.of(record) for record in group])
    with path.open("ab") as file:
        file.write(path.read_bytes()[:100])  # a group that was cut off
    assert [[record["kind"] for record in group] for group in groups(path)] == [["outcome", "turn"]] * (
        len(known) + len(lost)
    )

    before = provider.ledger.billed
    assert asyncio.run(run_session_async(resumed(tmp_path))).exit_code == 0
    assert provider.ledger.billed - before == 36 - len(answered) - len(lost)
    turns: Any = cb.load(tmp_path / "out").turns
    assert statuses(turns)["ok"] == 36
    assert len(replies_of(tmp_path / "out")) == 36
    assert not path.parent.exists()


def test_a_spool_that_comes_after_its_turns_were_asked_again_changes_nothing(
    tmp_path: Path, simulator: Callable[[Provider], Server]
):
    server = simulator(Provider())
    assert asyncio.run(run_session_async(prepared(tmp_path, server))).exit_code == 0
    before = replies_of(tmp_path / "out")
    path = tmp_path / "out" / "spool" / "0001-0001.jsonl"
    spool = Spool(path)
    for number, (outcome, turn) in enumerate(before, 1):
        late = {**outcome, "attempt": outcome["attempt"] + 1}
        spool.write(number, 0.0, [EncodedRecord.of(late), EncodedRecord.of(turn)])
    assert asyncio.run(run_session_async(resumed(tmp_path))).exit_code == 0
    assert replies_of(tmp_path / "out") == before
    assert not path.parent.exists()
