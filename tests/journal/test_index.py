"""The journal reader: folding records into turns, finding them, damage, and reading beside a writer."""

from __future__ import annotations

import os
import random
import resource
import tracemalloc
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convbatch.errors import SetupError
from convbatch.journal.index import Archive, TurnHistory
from convbatch.journal.records import encode_line
from convbatch.journal.run_folder import RunFolder
from convbatch.journal.writer import Journal
from convbatch.system import Clock, Disk, RealClock, System
from tests.conftest import examples
from tests.support.made_runs import manifest_of
from tests.support.tables import each

A, B = "a" * 32, "b" * 32
TARGETS = ["zulu@g", "alpha@g"]


class QuickDisk(Disk):
    """A disk without syncs, because no test here cuts the power."""

    def sync(self, fd: int) -> None:
        pass

    def sync_folder(self, folder: Path) -> None:
        pass


class SetClock(RealClock):
    """A wall clock that is set by the test."""

    now = 1000.0

    def wall(self) -> float:
        return self.now


def ident(index: int = 0, target: str = "zulu@g", repeat: int = 1, turn: int = 1, key: str = A) -> dict[str, Any]:
    dialogue = f"d{index}"
    return {"index": index, "dialogue": dialogue, "target": target, "repeat": repeat, "turn": turn, "key": key}


def intent(attempt: int = 1, **where: Any) -> dict[str, Any]:
    return {"kind": "intent", **ident(**where), "attempt": attempt, "role": "model"}


def replied(attempt: int = 1, *, text: str | None = "hi", finish: str = "stop", **where: Any) -> dict[str, Any]:
    reply = {"finish_reason": finish, "usage": {"source": "missing"}, **({} if text is None else {"text": text})}
    head = {"kind": "outcome", **ident(**where), "attempt": attempt, "role": "model", "class": "replied"}
    return {**head, "started_at": 1.0, "reply": reply, "body": "{}"}


def failed(cls: str, attempt: int = 1, **where: Any) -> dict[str, Any]:
    head = {"kind": "outcome", **ident(**where), "attempt": attempt, "role": "model", "class": cls}
    return {**head, "started_at": 1.0, "error": {"kind": "server_error", "message": "boom"}}


def step(number: int, attempt: int, *, goes_on: bool = False, **reply: Any) -> dict[str, Any]:
    """Return the record of a reply to a step, with its keys in the order of the writer."""
    record = replied(attempt, finish="tool_call" if goes_on else "stop")
    record["reply"] |= reply
    head = {name: record[name] for name in ("kind", *ident(), "attempt", "role")}
    return {**head, "step": number, **record, **({"continues": True} if goes_on else {})}


def ended(status: str, reason: str | None = None, **where: Any) -> dict[str, Any]:
    return {"kind": "turn", **ident(**where), "status": status, **({} if reason is None else {"reason": reason})}


def judged(record: dict[str, Any]) -> dict[str, Any]:
    """Return the record as a judge call about the same turn, with its keys in the order of the writer."""
    identity = {name: record[name] for name in ("kind", "index", "dialogue", "target", "repeat", "turn")}
    of = {"target": "judge@g", "role": "judge", "of": record["target"], "asked": "f" * 32}
    return {**identity, **of, **{name: value for name, value in record.items() if name not in ("target", "role")}}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder.create(tmp_path / "run", disk=QuickDisk())
    folder.write_manifest(manifest_of(*TARGETS))
    return folder


def write_session(
    folder: RunFolder, *records: dict[str, Any], clock: Clock | None = None, stop: bool = True
) -> Journal:
    """Write records in one session; end the session unless `stop` is false."""
    system = System(clock=clock or RealClock(), disk=QuickDisk())
    journal = Journal.open(folder, system=system, version="0.1")
    for record in records:
        journal.append(record)
    if stop:
        journal.append({"kind": "stop", "reason": "finished"})
        journal.release()
    return journal


def fold(*records: dict[str, Any]) -> TurnHistory:
    history = TurnHistory(turn=1)
    for seq, record in enumerate(records):
        history.add({"seq": seq, **record})
    return history


STATES: dict[str, tuple[list[dict[str, Any]], str | None, int, int]] = {
    # records: status (None = pending), attempts, possibly paid
    "only an intent": ([intent()], None, 1, 1),
    "a reply and its turn": ([intent(), replied(), ended("ok")], "ok", 1, 0),
    "a reply whose turn record was lost": ([intent(), replied()], "ok", 1, 0),
    "an empty reply whose turn record was lost": ([intent(), replied(text=None, finish="length")], "empty", 1, 0),
    "a refusal whose turn record was lost": ([intent(), replied(finish="content_filter")], "blocked", 1, 0),
    "a broken generation": ([intent(), replied(finish="error"), ended("error")], "error", 1, 0),
    "a reply whose intent was lost in a power cut": ([replied(), ended("ok")], "ok", 1, 0),
    "a turn whose reply was lost by damage": ([intent(), ended("ok")], None, 1, 1),
    "refused, not ended": ([intent(), failed("refused")], None, 1, 0),
    "refused, then answered": ([intent(), failed("refused"), intent(2), replied(2), ended("ok")], "ok", 2, 0),
    "ambiguous, then answered": ([intent(), failed("ambiguous"), intent(2), replied(2), ended("ok")], "ok", 2, 1),
    "our own timeout": ([intent(), failed("timeout"), ended("error", "timed out")], "error", 1, 1),
    "abandoned by a second Ctrl-C": ([intent(), failed("abandoned")], None, 1, 1),
    "killed twice, then answered": ([intent(1), intent(2), intent(3), replied(3), ended("ok")], "ok", 3, 2),
    "an error that resume sends again": ([intent(), failed("final"), ended("error"), intent(2)], None, 2, 1),
    "an error, then answered": (
        [intent(), failed("final"), ended("error"), intent(2), replied(2), ended("ok")], "ok", 2, 0,
    ),
    "skipped": ([ended("skipped", "turn 1 ended blocked")], "skipped", 0, 0),
    "skipped, then answered": ([ended("skipped"), intent(key=B), replied(key=B), ended("ok", key=B)], "ok", 1, 0),
    "reused from another run": ([{**replied(0), "reused_from": "r"}, ended("ok")], "ok", 0, 0),
    "a reply, then a further intent": ([intent(), replied(), intent(2)], "ok", 2, 1),
    "a step that the turn goes on from": ([intent(), step(1, 1, goes_on=True)], None, 1, 0),
    "killed in the second step": ([intent(), step(1, 1, goes_on=True), intent(2)], None, 2, 1),
    "two steps": ([intent(), step(1, 1, goes_on=True), intent(2), step(2, 2), ended("ok")], "ok", 2, 0),
    "steps of another key": ([intent(), step(1, 1, goes_on=True), intent(2, key=B)], None, 2, 1),
    "a reply to another key": ([intent(), replied(), ended("ok"), intent(2, key=B)], None, 2, 1),
}  # fmt: skip


@each(("records", "status", "attempts", "possibly_paid"), STATES.values())
def test_records_fold_into_a_state(
    records: list[dict[str, Any]], status: str | None, attempts: int, possibly_paid: int
) -> None:
    history = fold(*records)
    assert (history.status, history.attempts, history.possibly_paid) == (status, attempts, possibly_paid)


def test_judge_calls_are_not_part_of_the_turn_that_they_judge(folder: RunFolder) -> None:
    calls = [judged(record) for record in (intent(), replied(), ended("ok"), intent(2))]
    write_session(folder, intent(), replied(), ended("ok"), *calls)
    with Archive(folder) as archive:
        (turn,) = archive.transcript(0, "zulu@g", 1).turns.values()
        assert (turn.status, turn.attempts, turn.possibly_paid) == ("ok", 1, 0)
        assert [transcript.target for transcript in archive.transcripts()] == ["zulu@g"]
        (judge_call,) = archive.all_judge_calls()
        assert (judge_call.judge, judge_call.target, judge_call.turn) == ("judge@g", "zulu@g", 1)
        assert (judge_call.history.status, judge_call.history.attempts, judge_call.history.possibly_paid) == (
            "ok",
            2,
            1,
        )
        assert archive.requests_since(0.0) == {"zulu@g": 1, "judge@g": 2}


def test_an_unsent_judge_call_reduces_the_day_count_only_by_itself(folder: RunFolder) -> None:
    calls = [judged({**record, "turn": turn}) for turn in (1, None) for record in (intent(), intent(key=B))]
    unsent = [judged({**failed("not_sent"), "turn": turn}) for turn in (1, None)]
    write_session(folder, intent(target="judge@g"), *calls, *unsent)
    with Archive(folder) as archive:
        assert archive.requests_since(0.0) == {"judge@g": 3}


def test_a_turn_is_finished_only_for_the_same_key() -> None:
    history = fold(intent(), replied(), ended("ok"))
    assert history.finished(A)
    assert not history.finished(B)
    assert not fold(intent()).finished(A)


def test_a_turn_stores_its_reply_with_the_body_and_its_last_failure() -> None:
    history = fold(intent(), failed("refused"), intent(2), replied(2, text="there"), ended("ok"))
    assert history.kept is not None
    assert (history.kept["reply"]["text"], history.kept["body"]) == ("there", "{}")
    assert history.last_failure is not None
    assert history.last_failure["attempt"] == 1


def test_a_reply_to_an_earlier_key_is_not_used_for_the_new_key() -> None:
    assert fold(intent(), replied(), ended("ok"), intent(2, key=B), failed("final", 2, key=B)).kept is None


def test_the_reply_of_a_turn_is_made_of_its_steps() -> None:
    first: dict[str, Any] = {"thought": "Look it up.", "tool_calls": [{"id": None, "name": "f", "arguments": {}}]}
    first["usage"] = {"source": "reported", "input_tokens": 10, "output_tokens": 5, "consistent": True}
    last: dict[str, Any] = {"text": "Done.", "thought": "Now I know."}
    last["usage"] = {**first["usage"], "cached_input_tokens": 8}
    history = fold(intent(), step(1, 1, goes_on=True, **first), failed("refused", 2), step(2, 3, **last), ended("ok"))
    assert history.finished(A)
    assert history.reply == {
        "finish_reason": "stop", "text": "Done.", "thought": "Look it up.\n\nNow I know.",
        "tool_calls": first["tool_calls"],
        "usage": {"source": "reported", "input_tokens": 20, "output_tokens": 10, "consistent": True},
    }  # fmt: skip
    assert [record["attempt"] for record in history.replied] == [1, 3]


def test_a_turn_whose_first_step_was_lost_by_damage_is_asked_again() -> None:
    history = fold(intent(2), step(2, 2), ended("ok"))
    assert (history.status, history.finished(A), history.steps) == ("ok", False, [])
    again = [intent(3), step(1, 3, goes_on=True), intent(4), step(2, 4), ended("ok")]
    assert fold(intent(2), step(2, 2), ended("ok"), *again).finished(A)


def test_a_step_that_was_asked_again_replaces_the_former_one_and_what_followed() -> None:
    two = [step(1, 1, goes_on=True), step(2, 2, goes_on=True)]
    history = fold(*two, step(1, 3, goes_on=True))
    assert [record["attempt"] for record in history.steps] == [3]


def test_the_reason_of_a_skip_and_the_source_of_a_reuse_are_read() -> None:
    assert fold(ended("skipped", "turn 1 ended blocked")).reason == "turn 1 ended blocked"
    assert fold({**replied(0), "reused_from": "older"}, ended("ok")).reused_from == "older"


def test_conversations_are_sorted_by_dialogue_configured_target_and_repeat(folder: RunFolder) -> None:
    expected = [(i, target, repeat) for i in (0, 1, 2, 10) for target in TARGETS for repeat in (1, 2)]
    mixed = random.Random(1).sample(expected, len(expected))
    write_session(folder, *(replied(index=i, target=target, repeat=repeat) for i, target, repeat in mixed))
    with Archive(folder) as archive:
        assert [(t.index, t.target, t.repeat) for t in archive.transcripts()] == expected
        assert all(t.dialogue == f"d{t.index}" for t in archive.transcripts())


def test_a_conversation_is_found_with_its_turns_in_order(folder: RunFolder) -> None:
    write_session(folder, replied(turn=2), replied(turn=1), replied(index=1), replied(target="alpha@g", turn=9))
    with Archive(folder.path) as archive:
        assert list(archive.transcript(0, "zulu@g", 1).turns) == [1, 2]
        assert archive.transcript(0, "zulu@g", 2).turns == {}
        assert archive.transcript(0, "unknown@g", 1).dialogue is None


def test_sessions_and_their_ends_are_counted(folder: RunFolder) -> None:
    write_session(folder, intent())
    write_session(folder, intent(2), stop=False).release()
    with Archive(folder) as archive:
        assert (archive.session_count, len(archive.stops)) == (2, 1)
        assert archive.runs[1]["run"] == folder.name


def test_sent_requests_are_counted_per_target_since_a_time(folder: RunFolder) -> None:
    clock = SetClock()
    journal = write_session(folder, intent(), intent(index=1), clock=clock, stop=False)
    clock.now = 2000.0
    for record in (
        failed("not_sent"), intent(2), failed("not_sent", 2), intent(3), replied(3), intent(index=2),
        intent(target="alpha@g"), {**replied(0, index=5), "reused_from": "r"},
    ):  # fmt: skip
        journal.append(record)
    journal.release()
    with Archive(folder) as archive:
        assert archive.requests_since(0.0) == {"zulu@g": 3, "alpha@g": 1}
        assert archive.requests_since(2000.0) == {"zulu@g": 2, "alpha@g": 1}
        assert archive.requests_since(2000.1) == {}


def test_a_turn_is_found_by_key_and_repeat_only_with_a_complete_reply(folder: RunFolder) -> None:
    c = "c" * 32
    write_session(
        folder,
        *(intent(), replied(text="reuse me"), ended("ok")),
        *(intent(index=1, key=B), failed("final", index=1, key=B), ended("error", index=1, key=B)),
        *(intent(index=2, key=c), replied(index=2, key=c), intent(2, index=2, key="d" * 32)),
    )
    with Archive(folder, by_key=True) as archive:
        found = archive.turn_by_key(A, 1)
        assert found is not None
        assert found.kept is not None
        assert found.kept["reply"]["text"] == "reuse me"
        assert [archive.turn_by_key(key, repeat) for key, repeat in ((A, 2), (B, 1), (c, 1), ("e" * 32, 1))] == [
            None
        ] * 4


def test_has_reply_is_true_only_for_targets_that_answered(folder: RunFolder) -> None:
    write_session(folder, failed("final"), failed("refused", target="alpha@g"), replied(2, target="alpha@g"))
    with Archive(folder) as archive:
        assert [archive.has_reply(target) for target in ("zulu@g", "alpha@g", "unknown@g")] == [False, True, False]


def test_a_reader_beside_a_writer_sees_complete_lines_and_no_lost_requests(folder: RunFolder) -> None:
    write_session(folder, intent(), stop=False).release()
    journal = write_session(folder, intent(2), intent(index=1), stop=False)
    with folder.segments()[0].open("ab") as segment:
        segment.write(encode_line(99, 1.0, replied(2))[:70])
        segment.flush()
        with Archive(folder) as archive:
            assert archive.damage == []
            assert archive.transcript(0, "zulu@g", 1).turns[1].possibly_paid == 1
            assert archive.transcript(1, "zulu@g", 1).turns[1].possibly_paid == 0
    journal.release()
    with Archive(folder) as archive:
        assert archive.transcript(0, "zulu@g", 1).turns[1].possibly_paid == 2


def test_a_damaged_line_is_skipped_and_reported_and_the_rest_is_read(folder: RunFolder) -> None:
    write_session(
        folder, *(record for i in range(5) for record in (intent(index=i), replied(index=i), ended("ok", index=i)))
    )
    segment = folder.segments()[0]
    raw = segment.read_bytes()
    segment.write_bytes(raw.replace(b'"index":2,"dialogue":"d2"', b'"index":2,"dialogue":"dX"', 1))
    with Archive(folder) as archive:
        assert archive.damage_count == 1
        assert str(archive.damage[0]).startswith(f"{segment}:8: ")
        assert [t.turns[1].status for t in archive.transcripts()] == ["ok"] * 5


def test_a_foreign_line_does_not_hide_a_missing_record_after_it(folder: RunFolder) -> None:
    write_session(folder, *(intent(index=i) for i in range(5)))
    segment = folder.segments()[0]
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"".join([*lines[:2], b"rubbish\n", *lines[2:4], *lines[5:]]))
    with Archive(folder) as archive:
        assert [damage.place.line for damage in archive.damage] == [3, 6]


def test_records_joined_into_one_damaged_line_are_read(folder: RunFolder) -> None:
    write_session(folder, intent(), replied(), ended("ok"))
    segment = folder.segments()[0]
    segment.write_bytes(segment.read_bytes().replace(b"}\n{", b"}J{", 2))
    with Archive(folder) as archive:
        assert archive.damage_count == 1
        history = archive.transcript(0, "zulu@g", 1).turns[1]
        assert (history.status, len(history.intents)) == ("ok", 1)


def test_the_list_of_damage_is_bounded_but_its_count_is_complete(folder: RunFolder) -> None:
    write_session(folder, intent())
    with folder.segments()[0].open("ab") as segment:
        segment.write(b"rubbish\n" * 5000)
    with Archive(folder) as archive:
        assert (len(archive.damage), archive.damage_count) == (1000, 5000)


def test_a_folder_without_records_is_an_empty_archive(folder: RunFolder) -> None:
    with Archive(folder) as archive:
        assert list(archive.transcripts()) == []
        assert (archive.session_count, archive.requests_since(0.0), archive.damage) == (0, {}, [])


def test_a_folder_that_is_not_a_run_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="is not a run folder"):
        Archive(tmp_path)


def test_a_closed_archive_leaves_no_open_file(folder: RunFolder) -> None:
    write_session(folder, intent())
    before = sorted(path.name for path in Path("/dev/fd").iterdir())
    for _ in range(3):
        Archive(folder).close()
    assert sorted(path.name for path in Path("/dev/fd").iterdir()) == before


name = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@given(dialogue=name, target=name, turn=st.integers(1, 10**6), shuffle=st.randoms(use_true_random=False))
@settings(max_examples=examples(60), deadline=None)
def test_arbitrary_names_and_any_order_of_json_keys_are_read(
    tmp_path_factory: pytest.TempPathFactory, dialogue: str, target: str, turn: int, shuffle: random.Random
) -> None:
    folder = RunFolder.create(tmp_path_factory.mktemp("any") / "run", disk=QuickDisk())
    folder.write_manifest(manifest_of("m@g"))
    lines: list[bytes] = []
    for index in (0, 1):
        for record in (
            intent(index=index),
            failed("not_sent", index=index),
            intent(2, index=index),
            replied(2, index=index),
        ):
            named = {**record, "dialogue": dialogue, "target": target, "turn": turn}
            items = list(named.items())
            if index:
                shuffle.shuffle(items)
            lines.append(encode_line(len(lines), 5.0, dict(items)))
    (folder.journal / "000001.jsonl").write_bytes(b"".join(lines))
    with Archive(folder) as archive:
        first, second = archive.transcripts()
        assert (first.dialogue, first.target) == (second.dialogue, second.target) == (dialogue, target)
        for transcript in (first, second):
            assert (transcript.turns[turn].status, transcript.turns[turn].attempts) == ("ok", 2)
        assert archive.requests_since(5.0) == {target: 2}


@pytest.mark.slow
def test_reading_keeps_one_conversation_in_memory_at_a_time(folder: RunFolder) -> None:
    lines = [encode_line(0, 1.0, {"kind": "run", "session": 1})]
    lines += [
        encode_line(seq, 1.0, replied(index=seq // 4, turn=seq % 4 + 1, text="x" * 900)) for seq in range(1, 4_000)
    ]
    (folder.journal / "000001.jsonl").write_bytes(b"".join(lines))
    size = sum(map(len, lines))
    lines.clear()
    tracemalloc.start()
    try:
        with Archive(folder) as archive:
            assert sum(len(t.turns) for t in archive.transcripts()) == 3_999
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * 2**20 < size, os.fspath(folder.path)


@pytest.fixture
def no_temporary_files() -> Generator[None]:
    """Make every write to a file fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def large_journal(folder: RunFolder) -> RunFolder:
    """A journal whose index is larger than the cache of SQLite."""
    lines = [encode_line(seq, 1.0, replied(index=seq)) for seq in range(40_000)]
    (folder.journal / "000001.jsonl").write_bytes(b"".join(lines))
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("large_journal", "no_temporary_files")
def test_a_full_disk_for_temporary_files_does_not_prevent_reading(folder: RunFolder) -> None:
    with Archive(folder) as archive:
        assert archive.transcript(39_999, "zulu@g", 1).turns[1].status == "ok"


@pytest.mark.slow
@pytest.mark.usefixtures("large_journal")
def test_a_disk_that_fills_up_after_the_index_was_made_does_not_prevent_looking_up(folder: RunFolder) -> None:
    with Archive(folder, by_key=True) as archive:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
        try:
            found = archive.turn_by_key(A, 1)
            statuses = [archive.transcript(index, "zulu@g", 1).turns[1].status for index in range(0, 40_000, 100)]
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert found is not None
    assert set(statuses) == {"ok"}
