"""Whole runs with `--stream`: the same rows as without, on every wire; what a run folder keeps of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import convbatch as package
from convbatch.protocols import PROTOCOLS
from convbatch.simulator.fault_script import FaultScript
from convbatch.simulator.ledger import Ledger
from convbatch.simulator.provider import Provider
from convbatch.simulator.server import Server
from tests.conftest import CANARY, CANARY_ENV, Command, config_for, write_dataset

WIRES = tuple(PROTOCOLS)
STREAM_COLUMNS = ["ttft_s", "chunks", "itl_p50_s", "itl_p95_s"]
OF_A_REPLY = [
    "target",
    "dialogue",
    "turn",
    "status",
    "reply",
    "thought",
    "finish_reason",
    "input_tokens",
    "output_tokens",
]


def rows(run: Path, table: str = "turns") -> list[dict[str, Any]]:
    """Return the rows of a table, with None for null."""
    return json.loads(getattr(package.load(run), table).to_json(orient="records", date_format="iso"))


def test_a_streamed_run_has_the_rows_of_one_that_is_not(
    convbatch: Command, simulator: Callable[[Provider], Server], tmp_path: Path
):
    server = simulator(Provider(ledger=Ledger(history=True)))
    (tmp_path / "convbatch.toml").write_text(config_for(server.url, wires=WIRES))
    write_dataset(tmp_path / "d.jsonl", 1, 2)
    key = {CANARY_ENV: CANARY}
    run = ("run", "d.jsonl", *(f"-msim-think@at-{wire}" for wire in WIRES), "--no-progress", "-o")
    assert convbatch(*run, "plain", **key).code == 0
    assert convbatch(*run, "streamed", CONVBATCH_STREAM="1", **key).code == 0
    plain, streamed = rows(tmp_path / "plain"), rows(tmp_path / "streamed")
    for row, streamed_row in zip(plain, streamed, strict=True):
        assert {name: streamed_row[name] for name in OF_A_REPLY} == {name: row[name] for name in OF_A_REPLY}
        assert streamed_row["wire_note"] is None
        assert {row[name] for name in STREAM_COLUMNS} == {None}
        assert streamed_row["chunks"] > 2
        assert 0 < streamed_row["ttft_s"] <= streamed_row["latency_s"]
    assert [call.stream for call in server.provider.ledger.entries] == [False] * 8 + [True] * 8
    histories = [sorted(str(call.history) for call in server.provider.ledger.entries[at : at + 8]) for at in (0, 8)]
    assert histories[0] == histories[1]
    assert "Streamed replies" in convbatch("report", "streamed").out
    assert "Streamed replies" not in convbatch("report", "plain").out
    assert convbatch(*run, "again", "--stream", "--reuse", "plain", **key).code == 0
    assert all(row["reused_from"] for row in rows(tmp_path / "again"))


def test_resume_asks_as_the_run_began_and_a_model_table_decides_for_its_model(
    convbatch: Command, simulator: Callable[[Provider], Server], tmp_path: Path
):
    faults = FaultScript.of([{"match": {"turn": 2, "count": 2}, "action": "error", "kind": "bad_request"}])
    server = simulator(Provider(faults=faults))
    table = '[gateways.at-gemini.models."sim-think"]\nstream = true\n'
    (tmp_path / "convbatch.toml").write_text(config_for(server.url, models=table))
    write_dataset(tmp_path / "d.jsonl", 1, 2)
    key = {CANARY_ENV: CANARY}
    models = ("-m", "sim-think@at-gemini", "-m", "sim-good@at-gemini")
    assert convbatch("run", "d.jsonl", *models, "--no-progress", "-o", "r", **key).code == 3
    (tmp_path / "convbatch.toml").write_text(config_for(server.url))
    assert convbatch("resume", "r", **key).code == 0
    asked = {(call.model, call.turn, call.stream) for call in server.provider.ledger.entries}
    assert asked == {("sim-think", turn, True) for turn in (1, 2)} | {("sim-good", turn, False) for turn in (1, 2)}
    assert '"stream":true' in json.dumps(json.loads((tmp_path / "r/run.json").read_text()), separators=(",", ":"))
    shown = convbatch("show", "r", "--raw", "d00000", "2").out
    assert "streamGenerateContent?alt=sse" in shown


def test_a_stream_that_breaks_is_possibly_paid_and_its_text_is_in_the_table(
    convbatch: Command, simulator: Callable[[Provider], Server], tmp_path: Path
):
    rules = [{"match": {"count": 1}, "action": "truncate", "bytes": 400, "framing": "chunked"}]
    server = simulator(Provider(faults=FaultScript.of(rules)))
    (tmp_path / "convbatch.toml").write_text(config_for(server.url))
    write_dataset(tmp_path / "d.jsonl", 1, 1)
    run = convbatch("run", "d.jsonl", "-m", "sim-good@at-gemini", "--stream", "-o", "r", **{CANARY_ENV: CANARY})
    assert run.code == 0
    assert "1 possibly paid" in run.out
    first, last = rows(tmp_path / "r", "attempts")
    assert (first["class"], last["class"]) == ("ambiguous", "replied")
    (turn,) = rows(tmp_path / "r")
    assert first["partial_text"]
    assert turn["reply"].startswith(first["partial_text"])
