"""Kills, power cuts, failing disks and damaged journals at every point of a small run, in virtual time.

Acknowledged replies are kept, calls whose replies were lost are reported as possibly paid, and a resume always ends
like an undisturbed run. `obeys` checks this against the servers' ledgers.
"""

from __future__ import annotations

import errno
import json
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


def small_run(path: Path, seed: int = 0, count: int = 2, turns: int = 2) -> VirtualRun:
    """Prepare a run of few requests at a faultless server."""
    made = dialogues(random.Random(1), count, turns, scripted=0.0)
    provider = Provider(script=Script.of(made), keys={KEY}, latency_s=(0.1, 0.4))
    return VirtualRun(path / "run", [Host(provider)], made, seed=seed, rules=RunRules(concurrency=2))


@contextmanager
def small_run_in_temp_folder(seed: int = 0) -> Generator[VirtualRun]:
    """Prepare the small run in a temporary folder."""
    with TemporaryDirectory(dir=IN_MEMORY) as folder:
        yield small_run(Path(folder), seed)


def copy_of(path: Path, calm: VirtualRun) -> VirtualRun:
    """Copy the finished tiny run into its own folder, where it may be damaged."""
    virtual_run = small_run(path, count=1)
    for name in ("run.json", "journal/000001.jsonl"):
        (virtual_run.path / name).write_bytes((calm.path / name).read_bytes())
    virtual_run.ended, virtual_run.sent, virtual_run.now = list(calm.ended), list(calm.sent), calm.now
    virtual_run.platter.journal = list(calm.platter.journal)
    return virtual_run


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> VirtualRun:
    """Run the small run undisturbed."""
    virtual_run = small_run(tmp_path_factory.mktemp("calm"))
    virtual_run.finish(most=1)
    return virtual_run


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> VirtualRun:
    """Run one dialogue undisturbed."""
    virtual_run = small_run(tmp_path_factory.mktemp("tiny"), count=1)
    virtual_run.finish(most=1)
    return virtual_run


def check_same_end(virtual_run: VirtualRun, calm: VirtualRun) -> Story:
    """Finish the run; check all laws, and that every row ends as in the undisturbed run."""
    virtual_run.finish()
    story = obeys(virtual_run, faultless=True)
    assert story.ending_rows() == Story(calm).ending_rows()
    return story


# -- kills


@pytest.mark.slow
def test_a_kill_before_any_disk_call_loses_no_reply(calm: VirtualRun):
    calls = calm.ended[0].calls
    assert calls > 25
    for call in range(1, calls + 1):
        with small_run_in_temp_folder() as virtual_run:
            virtual_run.run_session(kill=Kill(in_call=call))
            assert virtual_run.ended[0].killed
            check_same_end(virtual_run, calm)


@pytest.mark.slow
def test_a_kill_before_any_disk_call_of_a_recovery_loses_no_reply(calm: VirtualRun):
    with small_run_in_temp_folder() as virtual_run:
        virtual_run.run_session(kill=Kill(in_write=9))
        virtual_run.run_session()
        calls = virtual_run.ended[1].calls
    assert calls > 15
    for call in range(1, calls + 1):
        with small_run_in_temp_folder(seed=call) as virtual_run:
            virtual_run.run_session(kill=Kill(in_write=9))  # within a write: the next session repairs a torn line
            virtual_run.run_session(kill=Kill(in_call=call))
            virtual_run.run_session(kill=Kill(in_call=call))
            first, second = virtual_run.ended[:2]
            assert first.killed
            assert second.killed or second.calls < call  # how many records share a write depends on the seed
            check_same_end(virtual_run, calm)


@pytest.mark.slow
def test_a_hundred_kills_at_random_times_lose_no_reply(tmp_path: Path):
    (tmp_path / "calm").mkdir()
    calm = small_run(tmp_path / "calm", count=150, turns=3)
    calm.finish(most=1)
    virtual_run = small_run(tmp_path, count=150, turns=3)
    chance = random.Random(20261122)
    in_flight = 0
    for _ in range(100):
        virtual_run.run_session(kill=Kill(after_s=chance.uniform(0.0, 1.0)))
        in_flight += virtual_run.ended[-1].in_flight > 0
    assert all(ended.killed for ended in virtual_run.ended)
    assert in_flight > 75
    check_same_end(virtual_run, calm)


# -- power cuts


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_power_cut_before_any_disk_call_loses_no_synced_record(calm: VirtualRun, seed: int):
    for call in range(1, calm.ended[0].calls + 1):
        with small_run_in_temp_folder(seed * 1000 + call) as virtual_run:
            virtual_run.run_session(kill=Kill(in_call=call, power=True))
            assert virtual_run.ended[0].power_cut
            run_with_salvage_if_needed(virtual_run)
            check_same_end(virtual_run, calm)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_repeated_power_cuts_lose_no_synced_record(tmp_path: Path, seed: int):
    chance = random.Random(seed)
    (tmp_path / "calm").mkdir()
    calm = small_run(tmp_path / "calm", count=10, turns=3)
    calm.finish(most=1)
    virtual_run = small_run(tmp_path, seed, count=10, turns=3)
    for _ in range(8):
        run_with_salvage_if_needed(virtual_run, kill=Kill(after_s=chance.uniform(0, 1.5), power=True))
    run_with_salvage_if_needed(virtual_run)
    check_same_end(virtual_run, calm)


@pytest.mark.parametrize("call", range(1, 8))
def test_a_segment_whose_name_was_not_durable_at_a_kill_becomes_durable_in_the_next_session(
    calm: VirtualRun, call: int
):
    for seed in range(4):  # each seed loses other names
        with small_run_in_temp_folder(seed) as virtual_run:
            virtual_run.run_session(kill=Kill(in_call=call))
            virtual_run.run_session(kill=Kill(after_s=0.8, power=True))
            run_with_salvage_if_needed(virtual_run)
            check_same_end(virtual_run, calm)


def test_some_unsynced_data_is_lost_in_power_cuts():
    """Check that the tests above really lose data."""
    lost = torn = 0
    for seed in range(30):
        with small_run_in_temp_folder(seed) as virtual_run:
            virtual_run.run_session(kill=Kill(after_s=0.5, power=True))
            records = Story(virtual_run).records
            lost += any(not record.kept for record in records)
            torn += any(b"\0" in path.read_bytes() for path in segments(virtual_run))
    assert lost > 5
    assert torn > 5


def run_with_salvage_if_needed(virtual_run: VirtualRun, **event: Any) -> None:
    """Run a session; if a power cut damaged the journal, check the refusal and run with --salvage."""
    refusal = run_refused(virtual_run, **event)
    if refusal is not None:
        assert any(ended.power_cut for ended in virtual_run.ended)
        virtual_run.run_session(salvage=True, **event)


def run_refused(virtual_run: VirtualRun, **event: Any) -> JournalDamaged | None:
    """Run a session without `--salvage`; return the refusal, or None."""
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
@pytest.mark.parametrize("lasting", [True, False], ids=["lasting", "once"])
@pytest.mark.parametrize("code", CODES, ids=[errno.errorcode[code] for code in CODES])
@pytest.mark.parametrize("call", CALLS)
def test_a_failing_nth_disk_call_is_exit_5_and_a_resume_ends_like_an_undisturbed_run(
    calm: VirtualRun, call: Call, code: int, lasting: bool
):
    nth = 0
    for nth in range(1, 100):
        with small_run_in_temp_folder(nth) as virtual_run:
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
            check_same_end(virtual_run, calm)
    assert nth > (8 if call in ("write", "sync") else 2), "too few calls of this kind"


@pytest.mark.slow
def test_a_disk_that_fills_up_at_any_size_is_exit_5_and_a_resume_finishes_the_run(calm: VirtualRun):
    needed = sum(len(path.read_bytes()) for path in segments(calm)) + 3000
    for room in range(0, needed, 150):
        with small_run_in_temp_folder(room) as virtual_run:
            result = virtual_run.run_session(room=room)
            broken = virtual_run.ended[0].broken
            assert (broken is None) == (result is not None)
            if broken is not None:
                assert "No space left on device" in str(broken)
                obeys(virtual_run, finished=False)
            check_same_end(virtual_run, calm)


@pytest.mark.parametrize("seed", range(5))
def test_short_writes_are_continued(calm: VirtualRun, seed: int):
    with small_run_in_temp_folder(seed) as virtual_run:
        result = virtual_run.run_session(short=0.7)
        assert result is not None
        assert result.exit_code == 0
        check_same_end(virtual_run, calm)


# -- damage after the run


def check_recovery(
    tiny: VirtualRun, segment: bytes, *, must_refuse: bool | None, lines: int = 1, was_killed: bool = False
) -> None:
    """Check that a run with this journal ends like the undisturbed one and pays again only for lost lines.

    Args:
        tiny: The undisturbed run.
        segment: Its journal, damaged.
        must_refuse: Whether a resume without `--salvage` must be refused; None allows both.
        lines: Number of lost lines.
        was_killed: Whether `run.json` is as a killed session leaves it, without the journal's end.
    """
    with TemporaryDirectory(dir=IN_MEMORY) as folder:
        virtual_run = copy_of(Path(folder), tiny)
        segments(virtual_run)[0].write_bytes(segment)
        if was_killed:
            recorded = json.loads((virtual_run.path / "run.json").read_bytes())
            del recorded["journal"]
            (virtual_run.path / "run.json").write_text(json.dumps({**recorded, "state": "running"}))
        refusal = run_refused(virtual_run)
        assert must_refuse in (None, refusal is not None), f"refused: {refusal}"
        result = virtual_run.run_session(salvage=True) if refusal is not None else virtual_run.ended[-1].result
        assert result is not None
        assert result.exit_code == 0
        assert Story(virtual_run).ending_rows() == Story(tiny).ending_rows()
        assert sum(entry.billed for entry in virtual_run.ledger()) <= lines


def journal_of(tiny: VirtualRun) -> bytes:
    (path,) = segments(tiny)
    return path.read_bytes()


def torn_places(whole: bytes) -> list[int]:
    """Return every place in the first and the last line and near the end of a line; of all others each eighth."""
    ends = [at for at, byte in enumerate(whole) if byte == ord("\n")]
    near = {end + step for end in ends for step in range(-2, 4)}
    of_last = range(ends[-2], len(whole))
    return sorted({*near, *range(ends[0]), *of_last, *range(0, len(whole), 8)} & set(range(len(whole))))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_a_journal_torn_at_any_byte_continues_from_there(tiny: VirtualRun, part: int):
    whole = journal_of(tiny)
    for cut in torn_places(whole)[part::8]:
        check_recovery(tiny, whole[:cut], must_refuse=False, lines=2, was_killed=True)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_a_flipped_bit_is_refused_with_its_position_and_salvage_repeats_only_its_turn(tiny: VirtualRun, part: int):
    whole = journal_of(tiny)
    chance = random.Random(part)
    last = whole.rfind(b"\n", 0, -1)
    for place in range(part, len(whole), 48):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << chance.randrange(8)
        # A damaged last line may look torn: no later line shows that more was written.
        check_recovery(tiny, bytes(flipped), must_refuse=True if place < last else None)


def test_a_missing_line_is_refused_with_its_position_and_salvage_repeats_only_its_turn(tiny: VirtualRun):
    lines = journal_of(tiny).splitlines(keepends=True)
    for gone in range(1, len(lines) - 1):
        check_recovery(tiny, b"".join(lines[:gone] + lines[gone + 1 :]), must_refuse=True)
