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

from convbatch.engine.runner import Rules
from convbatch.errors import JournalDamaged
from convbatch.simulator.provider import World
from convbatch.simulator.replies import Script
from tests.support.played import KEY, Host, Played
from tests.support.played_disk import Call, Kill, Trouble
from tests.support.played_laws import Story, obeys, segments
from tests.support.played_mix import dialogues

IN_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # thousands of folders need no real disk


def small(path: Path, seed: int = 0, count: int = 2, turns: int = 2) -> Played:
    """An honest server, and a run of few requests."""
    made = dialogues(random.Random(1), count, turns, scripted=0.0)
    world = World(script=Script.of(made), keys={KEY}, latency_s=(0.1, 0.4))
    return Played(path / "run", [Host(world)], made, seed=seed, rules=Rules(concurrency=2))


@contextmanager
def another(seed: int = 0) -> Generator[Played]:
    """The small run, in a folder that is gone afterwards."""
    with TemporaryDirectory(dir=IN_MEMORY) as folder:
        yield small(Path(folder), seed)


def again(path: Path, calm: Played) -> Played:
    """The finished tiny run once more, in a folder of its own: it was not played again, and may be damaged."""
    played = small(path, count=1)
    for name in ("run.json", "journal/000001.jsonl"):
        (played.path / name).write_bytes((calm.path / name).read_bytes())
    played.sat, played.sent, played.now = list(calm.sat), list(calm.sent), calm.now
    played.platter.journal = list(calm.platter.journal)
    return played


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Played:
    """The small run, undisturbed."""
    played = small(tmp_path_factory.mktemp("calm"))
    played.finish(most=1)
    return played


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Played:
    """One dialogue, undisturbed."""
    played = small(tmp_path_factory.mktemp("tiny"), count=1)
    played.finish(most=1)
    return played


def ends_alike(played: Played, calm: Played) -> Story:
    """Finish; all laws hold, and every row ends as in the undisturbed run."""
    played.finish()
    story = obeys(played, faultless=True)
    assert story.ending_rows() == Story(calm).ending_rows()
    return story


# -- kills


@pytest.mark.slow
def test_a_kill_before_any_call_to_the_disk_loses_nothing(calm: Played):
    calls = calm.sat[0].calls
    assert calls > 25
    for call in range(1, calls + 1):
        with another() as played:
            played.sit(kill=Kill(in_call=call))
            assert played.sat[0].killed
            ends_alike(played, calm)


@pytest.mark.slow
def test_a_kill_before_any_call_of_a_recovery_loses_nothing(calm: Played):
    with another() as played:
        played.sit(kill=Kill(in_write=9))
        played.sit()
        calls = played.sat[1].calls
    assert calls > 15
    for call in range(1, calls + 1):
        with another(seed=call) as played:
            played.sit(kill=Kill(in_write=9))  # within a write: a torn line is to be mended
            played.sit(kill=Kill(in_call=call))
            played.sit(kill=Kill(in_call=call))
            assert [sat.killed for sat in played.sat[:2]] == [True, True]
            ends_alike(played, calm)


@pytest.mark.slow
def test_two_hundred_kills_at_random_moments_lose_nothing(tmp_path: Path):
    (tmp_path / "calm").mkdir()
    calm = small(tmp_path / "calm", count=150, turns=3)
    calm.finish(most=1)
    played = small(tmp_path, count=150, turns=3)
    chance = random.Random(20261122)
    in_flight = 0
    for _ in range(200):
        played.sit(kill=Kill(after_s=chance.uniform(0.0, 1.0)))
        in_flight += played.sat[-1].in_flight > 0
    assert all(sat.killed for sat in played.sat)
    assert in_flight > 150
    ends_alike(played, calm)


# -- power cuts


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_power_cut_before_any_call_to_the_disk_loses_nothing_that_was_synced(calm: Played, seed: int):
    for call in range(1, calm.sat[0].calls + 1):
        with another(seed * 1000 + call) as played:
            played.sit(kill=Kill(in_call=call, power=True))
            assert played.sat[0].power_cut
            salvage_if_need_be(played)
            ends_alike(played, calm)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_power_cuts_in_a_row_lose_nothing_that_was_synced(tmp_path: Path, seed: int):
    chance = random.Random(seed)
    (tmp_path / "calm").mkdir()
    calm = small(tmp_path / "calm", count=10, turns=3)
    calm.finish(most=1)
    played = small(tmp_path, seed, count=10, turns=3)
    for _ in range(8):
        salvage_if_need_be(played, kill=Kill(after_s=chance.uniform(0, 1.5), power=True))
    salvage_if_need_be(played)
    ends_alike(played, calm)


@pytest.mark.parametrize("call", range(1, 8))
def test_a_segment_whose_name_was_not_durable_at_a_kill_is_named_by_the_next_process(calm: Played, call: int):
    for seed in range(4):  # each loses other names
        with another(seed) as played:
            played.sit(kill=Kill(in_call=call))
            played.sit(kill=Kill(after_s=0.8, power=True))
            salvage_if_need_be(played)
            ends_alike(played, calm)


def test_what_was_never_synced_is_really_lost_sometimes():
    """Or the tests above would try nothing."""
    lost = torn = 0
    for seed in range(30):
        with another(seed) as played:
            played.sit(kill=Kill(after_s=0.5, power=True))
            records = Story(played).records
            lost += any(not record.kept for record in records)
            torn += any(b"\0" in path.read_bytes() for path in segments(played))
    assert lost > 5
    assert torn > 5


def salvage_if_need_be(played: Played, **event: Any) -> None:
    """A sitting; what a power cut tore inside the journal is refused with its place, and set aside."""
    refusal = refused(played, **event)
    if refusal is not None:
        assert any(sat.power_cut for sat in played.sat)
        played.sit(salvage=True, **event)


def refused(played: Played, **event: Any) -> JournalDamaged | None:
    """A sitting without `--salvage`, and how it was refused."""
    before = [path.read_bytes() for path in segments(played)]
    try:
        played.sit(**event)
    except JournalDamaged as damaged:
        refusal = damaged
    else:
        return None
    assert "--salvage" in str(refusal)
    assert "000001.jsonl:" in str(refusal)
    assert before == [path.read_bytes() for path in segments(played)], "a refusal changed the journal"
    return refusal


# -- disks that fail


CALLS: tuple[Call, ...] = ("open", "write", "sync", "replace", "sync_folder")
CODES = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@pytest.mark.slow
@pytest.mark.parametrize("lasting", [True, False], ids=["for good", "once"])
@pytest.mark.parametrize("code", CODES, ids=[errno.errorcode[code] for code in CODES])
@pytest.mark.parametrize("call", CALLS)
def test_the_nth_call_that_fails_is_exit_5_and_a_resume_ends_as_if_nothing_had_been(
    calm: Played, call: Call, code: int, lasting: bool
):
    nth = 0
    for nth in range(1, 100):
        with another(nth) as played:
            ending = played.sit(trouble=Trouble(call=call, nth=nth, code=code, lasting=lasting))
            broken = played.sat[0].broken
            if broken is None:
                assert ending is not None
                assert ending.exit_code == 0
                break
            assert broken.exit_code == 5
            assert f"convbatch resume {played.path}" in str(broken)
            assert os.strerror(code) in str(broken)
            obeys(played, finished=False)
            ends_alike(played, calm)
    assert nth > (8 if call in ("write", "sync") else 2), "so few calls of this kind were made"


@pytest.mark.slow
def test_a_disk_that_fills_up_is_exit_5_at_any_size_and_a_resume_goes_on(calm: Played):
    needed = sum(len(path.read_bytes()) for path in segments(calm)) + 3000
    for room in range(0, needed, 150):
        with another(room) as played:
            ending = played.sit(room=room)
            broken = played.sat[0].broken
            assert (broken is None) == (ending is not None)
            if broken is not None:
                assert "No space left on device" in str(broken)
                obeys(played, finished=False)
            ends_alike(played, calm)


@pytest.mark.parametrize("seed", range(5))
def test_writes_that_take_only_a_part_are_written_on(calm: Played, seed: int):
    with another(seed) as played:
        ending = played.sit(short=0.7)
        assert ending is not None
        assert ending.exit_code == 0
        ends_alike(played, calm)


# -- damage that came afterwards


def goes_on_after(tiny: Played, segment: bytes, *, must_refuse: bool | None, lines: int = 1) -> None:
    """A run whose journal was replaced by this one ends as the undisturbed one, and pays again only for lost lines.

    Args:
        tiny: The undisturbed run.
        segment: Its journal, damaged.
        must_refuse: Is a resume without `--salvage` to be refused? None: it may.
        lines: How many were lost.
    """
    with TemporaryDirectory(dir=IN_MEMORY) as folder:
        played = again(Path(folder), tiny)
        segments(played)[0].write_bytes(segment)
        refusal = refused(played)
        assert must_refuse in (None, refusal is not None), f"refused: {refusal}"
        ending = played.sit(salvage=True) if refusal is not None else played.sat[-1].ending
        assert ending is not None
        assert ending.exit_code == 0
        assert Story(played).ending_rows() == Story(tiny).ending_rows()
        assert sum(entry.billed for entry in played.ledger()) <= lines


def journal_of(tiny: Played) -> bytes:
    (path,) = segments(tiny)
    return path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_a_journal_torn_at_any_byte_goes_on_from_there(tiny: Played, part: int):
    whole = journal_of(tiny)
    for cut in range(part, len(whole), 8):
        goes_on_after(tiny, whole[:cut], must_refuse=False, lines=2)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_a_flipped_bit_is_refused_with_its_place_and_salvage_asks_only_its_turn_again(tiny: Played, part: int):
    whole = journal_of(tiny)
    chance = random.Random(part)
    last = whole.rfind(b"\n", 0, -1)
    for place in range(part, len(whole), 48):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << chance.randrange(8)
        # In the last line it may look torn: nothing behind it shows that more was written.
        goes_on_after(tiny, bytes(flipped), must_refuse=True if place < last else None)


def test_a_missing_line_is_refused_with_its_place_and_salvage_asks_only_its_turn_again(tiny: Played):
    lines = journal_of(tiny).splitlines(keepends=True)
    for gone in range(1, len(lines) - 1):
        goes_on_after(tiny, b"".join(lines[:gone] + lines[gone + 1 :]), must_refuse=True)
