"""Kills, power cuts, failing disks, damaged journals: whole runs in virtual time, at every single point of a small one.

What is promised: a reply that was acknowledged stands, a call whose reply was lost is told as possibly paid, and
whatever happened, a resume ends where an undisturbed run ends. `obeys` holds all of it against the servers' ledgers.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from convbatch.engine.runner import RunRules
from convbatch.errors import JournalDamaged
from convbatch.simulator.provider import Provider
from convbatch.simulator.replies import Script
from tests.support.virtual_disk import Call, Kill, Trouble
from tests.support.virtual_run import KEY, Host, VirtualRun
from tests.support.virtual_run_laws import Story, obeys, segments
from tests.support.virtual_run_mix import dialogues

IN_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # thousands of folders need no real disk


def small(path: Path, seed: int = 0, count: int = 2, turns: int = 2) -> VirtualRun:
    """An honest server, and a run of few requests."""
    made = dialogues(random.Random(1), count, turns, scripted=0.0)
    provider = Provider(script=Script.of(made), keys={KEY}, latency_s=(0.1, 0.4))
    return VirtualRun(path / "run", [Host(provider)], made, seed=seed, rules=RunRules(concurrency=2))


@contextmanager
def another(seed: int = 0) -> Generator[VirtualRun]:
    """The small run, in a folder that is gone afterwards."""
    with TemporaryDirectory(dir=IN_MEMORY) as folder:
        yield small(Path(folder), seed)


def again(path: Path, calm: VirtualRun) -> VirtualRun:
    """The finished tiny run once more, in a folder of its own: it was not played again, and may be damaged."""
    virtual_run = small(path, count=1)
    for name in ("run.json", "journal/000001.jsonl"):
        (virtual_run.path / name).write_bytes((calm.path / name).read_bytes())
    virtual_run.ended, virtual_run.sent, virtual_run.now = list(calm.ended), list(calm.sent), calm.now
    virtual_run.platter.journal = list(calm.platter.journal)
    return virtual_run


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> VirtualRun:
    """The small run, undisturbed."""
    virtual_run = small(tmp_path_factory.mktemp("calm"))
    virtual_run.finish(most=1)
    return virtual_run


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> VirtualRun:
    """One dialogue, undisturbed."""
    virtual_run = small(tmp_path_factory.mktemp("tiny"), count=1)
    virtual_run.finish(most=1)
    return virtual_run


def ends_alike(virtual_run: VirtualRun, calm: VirtualRun) -> Story:
    """Finish; all laws hold, and every row ends as in the undisturbed run."""
    virtual_run.finish()
    story = obeys(virtual_run, faultless=True)
    assert story.ending_rows() == Story(calm).ending_rows()
    return story


# -- kills


@pytest.mark.slow
def test_a_kill_before_any_call_to_the_disk_loses_nothing(calm: VirtualRun):
    calls = calm.ended[0].calls
    assert calls > 25
    for call in range(1, calls + 1):
        with another() as virtual_run:
            virtual_run.run_session(kill=Kill(in_call=call))
            assert virtual_run.ended[0].killed
            ends_alike(virtual_run, calm)


@pytest.mark.slow
def test_a_kill_before_any_call_of_a_recovery_loses_nothing(calm: VirtualRun):
    with another() as virtual_run:
        virtual_run.run_session(kill=Kill(in_write=9))
        virtual_run.run_session()
        calls = virtual_run.ended[1].calls
    assert calls > 15
    for call in range(1, calls + 1):
        with another(seed=call) as virtual_run:
            virtual_run.run_session(kill=Kill(in_write=9))  # within a write: a torn line is to be mended
            virtual_run.run_session(kill=Kill(in_call=call))
            virtual_run.run_session(kill=Kill(in_call=call))
            assert [ended.killed for ended in virtual_run.ended[:2]] == [True, True]
            ends_alike(virtual_run, calm)


@pytest.mark.slow
def test_two_hundred_kills_at_random_moments_lose_nothing(tmp_path: Path):
    (tmp_path / "calm").mkdir()
    calm = small(tmp_path / "calm", count=150, turns=3)
    calm.finish(most=1)
    virtual_run = small(tmp_path, count=150, turns=3)
    chance = random.Random(20261122)
    in_flight = 0
    for _ in range(200):
        virtual_run.run_session(kill=Kill(after_s=chance.uniform(0.0, 1.0)))
        in_flight += virtual_run.ended[-1].in_flight > 0
    assert all(ended.killed for ended in virtual_run.ended)
    assert in_flight > 150
    ends_alike(virtual_run, calm)


# -- power cuts


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_power_cut_before_any_call_to_the_disk_loses_nothing_that_was_synced(calm: VirtualRun, seed: int):
    for call in range(1, calm.ended[0].calls + 1):
        with another(seed * 1000 + call) as virtual_run:
            virtual_run.run_session(kill=Kill(in_call=call, power=True))
            assert virtual_run.ended[0].power_cut
            salvage_if_need_be(virtual_run)
            ends_alike(virtual_run, calm)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_power_cuts_in_a_row_lose_nothing_that_was_synced(tmp_path: Path, seed: int):
    chance = random.Random(seed)
    (tmp_path / "calm").mkdir()
    calm = small(tmp_path / "calm", count=10, turns=3)
    calm.finish(most=1)
    virtual_run = small(tmp_path, seed, count=10, turns=3)
    for _ in range(8):
        salvage_if_need_be(virtual_run, kill=Kill(after_s=chance.uniform(0, 1.5), power=True))
    salvage_if_need_be(virtual_run)
    ends_alike(virtual_run, calm)


@pytest.mark.parametrize("call", range(1, 8))
def test_a_segment_whose_name_was_not_durable_at_a_kill_is_named_by_the_next_process(calm: VirtualRun, call: int):
    for seed in range(4):  # each loses other names
        with another(seed) as virtual_run:
            virtual_run.run_session(kill=Kill(in_call=call))
            virtual_run.run_session(kill=Kill(after_s=0.8, power=True))
            salvage_if_need_be(virtual_run)
            ends_alike(virtual_run, calm)


def test_what_was_never_synced_is_really_lost_sometimes():
    """Or the tests above would try nothing."""
    lost = torn = 0
    for seed in range(30):
        with another(seed) as virtual_run:
            virtual_run.run_session(kill=Kill(after_s=0.5, power=True))
            records = Story(virtual_run).records
            lost += any(not record.kept for record in records)
            torn += any(b"\0" in path.read_bytes() for path in segments(virtual_run))
    assert lost > 5
    assert torn > 5


def salvage_if_need_be(virtual_run: VirtualRun, **event: Any) -> None:
    """A sitting; what a power cut tore inside the journal is refused with its place, and set aside."""
    refusal = refused(virtual_run, **event)
    if refusal is not None:
        assert any(ended.power_cut for ended in virtual_run.ended)
        virtual_run.run_session(salvage=True, **event)


def refused(virtual_run: VirtualRun, **event: Any) -> JournalDamaged | None:
    """A sitting without `--salvage`, and how it was refused."""
    before = [path.read_bytes() for path in segments(virtual_run)]
    try:
        virtual_run.run_session(**event)
    except JournalDamaged as damaged:
        refusal = damaged
    else:
        return None
    assert "--salvage" in str(refusal)
    assert "000001.jsonl:" in str(refusal)
    assert before == [path.read_bytes() for path in segments(virtual_run)], "a refusal changed the journal"
    return refusal


# -- disks that fail


CALLS: tuple[Call, ...] = ("open", "write", "sync", "replace", "sync_folder")
CODES = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@pytest.mark.slow
@pytest.mark.parametrize("lasting", [True, False], ids=["for good", "once"])
@pytest.mark.parametrize("code", CODES, ids=[errno.errorcode[code] for code in CODES])
@pytest.mark.parametrize("call", CALLS)
def test_the_nth_call_that_fails_is_exit_5_and_a_resume_ends_as_if_nothing_had_been(
    calm: VirtualRun, call: Call, code: int, lasting: bool
):
    nth = 0
    for nth in range(1, 100):
        with another(nth) as virtual_run:
            result = virtual_run.run_session(trouble=Trouble(call=call, nth=nth, code=code, lasting=lasting))
            broken = virtual_run.ended[0].broken
            if broken is None:
                assert result is not None
                assert result.exit_code == 0
                break
            assert broken.exit_code == 5
            assert f"convbatch resume {virtual_run.path}" in str(broken)
            assert os.strerror(code) in str(broken)
            obeys(virtual_run, finished=False)
            ends_alike(virtual_run, calm)
    assert nth > (8 if call in ("write", "sync") else 2), "so few calls of this kind were made"


@pytest.mark.slow
def test_a_disk_that_fills_up_is_exit_5_at_any_size_and_a_resume_goes_on(calm: VirtualRun):
    needed = sum(len(path.read_bytes()) for path in segments(calm)) + 3000
    for room in range(0, needed, 150):
        with another(room) as virtual_run:
            result = virtual_run.run_session(room=room)
            broken = virtual_run.ended[0].broken
            assert (broken is None) == (result is not None)
            if broken is not None:
                assert "No space left on device" in str(broken)
                obeys(virtual_run, finished=False)
            ends_alike(virtual_run, calm)


@pytest.mark.parametrize("seed", range(5))
def test_writes_that_take_only_a_part_are_written_on(calm: VirtualRun, seed: int):
    with another(seed) as virtual_run:
        result = virtual_run.run_session(short=0.7)
        assert result is not None
        assert result.exit_code == 0
        ends_alike(virtual_run, calm)


# -- damage that came afterwards


def goes_on_after(tiny: VirtualRun, segment: bytes, *, must_refuse: bool | None, lines: int = 1) -> None:
    """A run whose journal was replaced by this one ends as the undisturbed one, and pays again only for lost lines.

    Args:
        tiny: The undisturbed run.
        segment: Its journal, damaged.
        must_refuse: Is a resume without `--salvage` to be refused? None: it may.
        lines: How many were lost.
    """
    with TemporaryDirectory(dir=IN_MEMORY) as folder:
        virtual_run = again(Path(folder), tiny)
        segments(virtual_run)[0].write_bytes(segment)
        refusal = refused(virtual_run)
        assert must_refuse in (None, refusal is not None), f"refused: {refusal}"
        result = virtual_run.run_session(salvage=True) if refusal is not None else virtual_run.ended[-1].result
        assert result is not None
        assert result.exit_code == 0
        assert Story(virtual_run).ending_rows() == Story(tiny).ending_rows()
        assert sum(entry.billed for entry in virtual_run.ledger()) <= lines


def journal_of(tiny: VirtualRun) -> bytes:
    (path,) = segments(tiny)
    return path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_a_journal_torn_at_any_byte_goes_on_from_there(tiny: VirtualRun, part: int):
    whole = journal_of(tiny)
    for cut in range(part, len(whole), 8):
        goes_on_after(tiny, whole[:cut], must_refuse=False, lines=2)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_a_flipped_bit_is_refused_with_its_place_and_salvage_asks_only_its_turn_again(tiny: VirtualRun, part: int):
    whole = journal_of(tiny)
    chance = random.Random(part)
    last = whole.rfind(b"\n", 0, -1)
    for place in range(part, len(whole), 48):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << chance.randrange(8)
        # In the last line it may look torn: nothing behind it shows that more was written.
        goes_on_after(tiny, bytes(flipped), must_refuse=True if place < last else None)


def test_a_missing_line_is_refused_with_its_place_and_salvage_asks_only_its_turn_again(tiny: VirtualRun):
    lines = journal_of(tiny).splitlines(keepends=True)
    for gone in range(1, len(lines) - 1):
        goes_on_after(tiny, b"".join(lines[:gone] + lines[gone + 1 :]), must_refuse=True)
