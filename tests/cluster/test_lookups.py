"""What workers get of the coordinator while they work: replies of another run, and media of the run folder."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from convbatch.session.session import run_session_async
from convbatch.simulator.provider import Provider
from convbatch.simulator.server import Server
from tests.cluster.test_coordinator import prepared, resumed, run_on, turns_of, until
from tests.support.ledger_laws import same_rows, statuses
from tests.support.made_media import png
from tests.support.process_crew import ProcessCrew

Simulators = Callable[[Provider], Server]


@pytest.mark.slow
def test_workers_reuse_what_another_run_has_paid(tmp_path: Path, simulator: Simulators):
    provider = Provider()
    server = simulator(provider)
    assert run_on(prepared(tmp_path, server, dialogues=6, out="first"), 2).exit_code == 0
    assert provider.ledger.billed == 18
    result = run_on(prepared(tmp_path, server, dialogues=9, reuse=str(tmp_path / "first")), 2)
    assert (result.exit_code, result.bugs) == (0, ())
    assert provider.ledger.billed == 18 + 9, "only the three new dialogues are asked"
    turns = turns_of(tmp_path)
    assert statuses(turns)["ok"] == 27
    assert turns["reused_from"].eq("first").sum() == 18
    alone = asyncio.run(
        run_session_async(prepared(tmp_path, server, dialogues=9, out="alone", reuse=str(tmp_path / "first")))
    )
    assert alone.exit_code == 0
    same_rows(turns, turns_of(tmp_path, "alone"))


@pytest.mark.slow
def test_a_worker_killed_while_it_reuses_pays_nothing_twice(tmp_path: Path, simulator: Simulators):
    provider = Provider(latency_s=0.05)
    server = simulator(provider)
    assert run_on(prepared(tmp_path, server, dialogues=10, out="first"), 1).exit_code == 0
    paid = provider.ledger.billed

    async def kill(crew: ProcessCrew) -> None:
        await until(lambda: len(crew.workers) == 2 and provider.ledger.billed >= paid + 5)
        crew.workers[0].process.kill()

    result = run_on(prepared(tmp_path, server, dialogues=25, reuse=str(tmp_path / "first")), 2, kill)
    assert (result.exit_code, result.bugs) == (0, ())
    turns = turns_of(tmp_path)
    assert statuses(turns)["ok"] == 75
    assert turns["reused_from"].eq("first").sum() == 30
    assert turns.loc[turns["reused_from"].notna(), "attempts"].eq(0).all()
    new = provider.ledger.billed - paid
    assert 45 <= new <= 45 + int(turns["possibly_paid"].sum())


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """Write dialogues that send a picture and ask for one."""
    (tmp_path / "cat.png").write_bytes(png())
    turns = [{"user": [{"text": "What?"}, {"image": "cat.png"}]}, {"user": "draw a cat"}, {"user": "And now?"}]
    lines = [json.dumps({"id": f"d{number}", "turns": turns}) for number in range(4)]
    (tmp_path / "media.jsonl").write_text("\n".join(lines))
    return tmp_path / "media.jsonl"


@pytest.mark.slow
def test_media_go_to_and_come_from_workers_on_another_machine(tmp_path: Path, simulator: Simulators, drawn: Path):
    provider = Provider()
    server = simulator(provider)
    elsewhere = tmp_path / "far" / "run"
    result = run_on(prepared(tmp_path, server, dataset=drawn), 2, elsewhere=elsewhere)
    assert (result.exit_code, result.open_turns, result.bugs) == (0, 0, ())
    turns = turns_of(tmp_path)
    assert statuses(turns)["ok"] == 12 == provider.ledger.billed
    assert asyncio.run(run_session_async(prepared(tmp_path, server, out="alone", dataset=drawn))).exit_code == 0
    same_rows(turns, turns_of(tmp_path, "alone"))
    kept = {path.name for path in (tmp_path / "alone" / "media").iterdir()}
    assert len(kept) > 1, "the picture that was sent, and those that came"
    assert {path.name for path in (tmp_path / "out" / "media").iterdir()} == kept
    assert not (elsewhere / "media").exists(), "nothing is left there but spools"


@pytest.mark.slow
def test_a_lost_picture_is_told_as_in_one_process(tmp_path: Path, simulator: Simulators, drawn: Path):
    server = simulator(Provider())
    spec, alone = prepared(tmp_path, server, dataset=drawn), prepared(tmp_path, server, out="alone", dataset=drawn)
    for folder in ("out", "alone"):
        shutil.rmtree(tmp_path / folder / "media")
    assert run_on(spec, 2, elsewhere=tmp_path / "far").exit_code == asyncio.run(run_session_async(alone)).exit_code
    turns = turns_of(tmp_path)
    assert statuses(turns)["error"] == 4
    assert turns.loc[turns["turn"].eq(1), "error_message"].str.contains("media file of this run cannot be read").all()
    same_rows(turns, turns_of(tmp_path, "alone"))


@pytest.mark.slow
def test_resume_with_workers_restores_media_that_are_gone(tmp_path: Path, simulator: Simulators, drawn: Path):
    provider = Provider()
    assert run_on(prepared(tmp_path, simulator(provider), dataset=drawn), 1).exit_code == 0
    media = tmp_path / "out" / "media"
    before = {path.name for path in media.iterdir()}
    received = [path for path in media.iterdir() if path.read_bytes() != png()]
    assert received
    for path in received:
        path.unlink()
    billed = provider.ledger.billed
    assert run_on(resumed(tmp_path), 2).exit_code == 0
    assert {path.name for path in media.iterdir()} == before
    assert provider.ledger.billed == billed
