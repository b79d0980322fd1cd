"""Look up a journal's records by conversation, key and time, and fold them into `Transcript`s.

The rules that turn records into the state of a row are in `TurnHistory` and nowhere else. Which rows exist, and what a
table shows of them, is `results/run.py`; what is asked again is `engine/runner.py`. Memory holds only an index, which
SQLite moves to a temporary file when it grows.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import orjson

from convbatch.journal.records import Damage, JournalLine, JournalScan, read_record
from convbatch.journal.run_folder import RunFolder
from convbatch.reply import POSSIBLY_PAID, Status, reply_from_plain, status_of, whole_reply

REUSABLE: frozenset[str] = frozenset({"ok", "blocked", "empty"})
"""States that need a complete reply, and that another run may reuse."""

_INTENT, _OUTCOME, _TURN = range(3)
_KINDS = {"intent": _INTENT, "outcome": _OUTCOME, "turn": _TURN}
_CACHE_KIB = 2 * 1024
_Row = tuple[int | float | bytes | None, ...]

# The first fields of a model's record, in the order in which `engine/runner.py` writes them. Any other line, such as a
# judge's, which has its role before its key, is decoded completely, which is only slower.
_HEAD = re.compile(
    rb'\{"v":1,"seq":\d+,"kind":"(intent|outcome|turn)","at":(\d{1,11}(?:\.\d{1,9})?),"index":(\d{1,18})'
    rb',"dialogue":"[^"\\]*(?:\\.[^"\\]*)*","target":"([ -!#-\[\]-~]*)","repeat":(\d{1,18}),"turn":(\d{1,18})'
    rb',"key":"([0-9a-f]{32})"(?:,"attempt":(\d{1,18}),"role":"model"(?:,"step":\d{1,9})?(?:,"class":"(\w+)")?)?,'
)

_TABLE = """
CREATE TABLE records (
    seq INTEGER PRIMARY KEY, kind INTEGER, dialogue INTEGER, target INTEGER, repeat INTEGER, turn INTEGER,
    attempt INTEGER, asked_at REAL, unsent INTEGER, segment INTEGER, start INTEGER, length INTEGER, key BLOB,
    judged INTEGER
)"""
"""`target` was asked; `judged` is the target whose reply a judge was asked about, NULL in a model's own records."""
_BY_CONVERSATION = "CREATE INDEX conversation ON records (dialogue, target, repeat, seq)"
_BY_KEY = "CREATE INDEX question ON records (key, repeat, dialogue, target, turn) WHERE key IS NOT NULL"
_OF_CONVERSATION = (
    "SELECT segment, start, length FROM records"
    " WHERE dialogue = ? AND target = ? AND repeat = ? AND judged IS NULL ORDER BY seq"
)
_ALL_CONVERSATIONS = (
    "SELECT dialogue, target, repeat, segment, start, length FROM records"
    " WHERE judged IS NULL ORDER BY dialogue, target, repeat, seq"
)
_JUDGE_CALLS_OF = (
    "SELECT segment, start, length FROM records WHERE dialogue = ? AND judged = ? AND repeat = ? ORDER BY seq"
)
_JUDGED_CONVERSATIONS = (
    "SELECT DISTINCT dialogue, judged, repeat FROM records WHERE judged IS NOT NULL ORDER BY dialogue, judged, repeat"
)
_JUDGES = "SELECT DISTINCT target FROM records WHERE judged IS NOT NULL ORDER BY target"
_OF_KEY = (
    "SELECT DISTINCT dialogue, target, turn FROM records"
    " WHERE key = ? AND repeat = ? AND judged IS NULL ORDER BY dialogue, target"
)
_SAME_ATTEMPT = (
    "o.dialogue = i.dialogue AND o.target = i.target AND o.repeat = i.repeat AND o.turn IS i.turn"
    f" AND o.attempt = i.attempt AND o.kind = {_OUTCOME}"
    # A judge is asked many questions about one turn, and can also be one of the models under test.
    " AND o.judged IS i.judged AND (o.judged IS NULL OR o.key = i.key)"
)
_INTENTS_BETWEEN = (
    f"SELECT segment, start, length FROM records WHERE kind = {_INTENT} AND seq > ? AND seq <= ? ORDER BY seq"
)
_OUTCOMES_OF_TARGET = f"SELECT segment, start, length FROM records WHERE kind = {_OUTCOME} AND target = ?"
_LATEST_OUTCOMES = f"{_OUTCOMES_OF_TARGET} ORDER BY seq DESC LIMIT 1000"
_ASKED_SINCE = f"SELECT target, COUNT(*) FROM records WHERE kind = {_INTENT} AND asked_at >= ? GROUP BY target"
_UNSENT_SINCE = (
    f"SELECT i.target, COUNT(*) FROM records AS o CROSS JOIN records AS i ON {_SAME_ATTEMPT}"
    f" WHERE o.unsent AND i.kind = {_INTENT} AND i.asked_at >= ? GROUP BY i.target"
)
_INTENTS_SINCE = (
    f"SELECT segment, start, length FROM records WHERE kind = {_INTENT} AND asked_at >= ? AND target = ? ORDER BY seq"
)
_TIMES_SINCE = f"SELECT asked_at FROM records WHERE kind = {_INTENT} AND asked_at >= ? AND target = ?"
_SENT_INTENTS_SINCE = (
    f"SELECT i.segment, i.start, i.length FROM records AS i WHERE i.kind = {_INTENT} AND i.asked_at >= ?"
    f" AND i.target = ? AND NOT EXISTS (SELECT 1 FROM records AS o WHERE {_SAME_ATTEMPT} AND o.unsent)"
)


class Sender(NamedTuple):
    """Who sent requests: a target, or one member of a pool."""

    target: str
    gateway: str | None = None
    """The member; None = the target is no pool."""

    def sent(self, record: Mapping[str, Any]) -> bool:
        """Return whether a record of the target is of this member."""
        return self.gateway is None or record.get("gateway") == self.gateway


@dataclass(slots=True, kw_only=True)
class TurnHistory:
    """State of one turn, folded from the journal record by record: the latest record wins.

    A complete reply finishes a turn even where its `turn` record is missing; a `turn` record that needs a reply is
    ignored where the reply was lost to damage. Another key is another question: the reply to the former key does not
    answer it, but its attempts still count.
    """

    turn: int
    key: str | None = None
    """Of the latest record that carries one."""
    status: Status | None = None
    """None = pending."""
    reason: str | None = None
    kept: dict[str, Any] | None = None
    """The `outcome` record of the current reply, body included; of its last step."""
    steps: list[dict[str, Any]] = field(default_factory=list)
    """The `outcome` records of replies to this question that the turn goes on from: the steps before `kept`."""
    last_failure: dict[str, Any] | None = None
    """The latest `outcome` record without a complete reply, for this key."""
    reused_from: str | None = None
    is_reopened: bool = False
    """Whether a user asked for another answer to this question."""
    outcomes: list[dict[str, Any]] = field(default_factory=list)
    intents: list[dict[str, Any]] = field(default_factory=list)
    attempts: int = 0
    """Requests made, over all sessions; the highest number an attempt carries."""
    in_flight_from: int | None = None
    """While a writer is active: intents from this `seq` on may still be answered."""

    def add(self, record: dict[str, Any]) -> None:
        """Fold in the next record of this turn, in journal order."""
        key = record.get("key")
        if key is not None and key != self.key:
            self._ask_anew(key)
        match record["kind"]:
            case "intent":
                self._add_intent(record)
            case "outcome":
                self._add_outcome(record)
            case _:
                self._add_turn(record)

    def finished(self, key: str) -> bool:
        """Return whether this question (key) has a terminal state; not if damage took an earlier step of its reply."""
        return self.status is not None and self.key == key and not self.lacks_steps

    @property
    def lacks_steps(self) -> bool:
        """Whether steps before the current reply are lost."""
        return self.kept is not None and self.kept.get("step", 1) != len(self.steps) + 1

    @property
    def replied(self) -> Sequence[Mapping[str, Any]]:
        """The `outcome` records that the complete reply is made of, step by step; none without one."""
        return () if self.kept is None else (*self.steps, self.kept)

    @property
    def reply(self) -> Mapping[str, Any]:
        """The complete reply of the turn, all steps together, in plain form; empty without one."""
        return whole_reply([record["reply"] for record in self.replied]) if self.kept is not None else {}

    def unread_answers(self, key: str) -> list[dict[str, Any]]:
        """Return answers to this question (key) that were stored without a reply since the latest one, newest first.

        A later version may find a reply in their bodies.
        """
        found: list[dict[str, Any]] = []
        for outcome in reversed(self.outcomes):
            if outcome["class"] == "replied":
                break
            if outcome.get("key") == key and "http_status" in outcome and ("body" in outcome or "body_b64" in outcome):
                found.append(outcome)
        return found if self.key == key else []

    @property
    def error_kind(self) -> str | None:
        """Kind of the latest failure; None without one, and where there is a reply."""
        return None if self.kept is not None or self.last_failure is None else self.last_failure["error"]["kind"]

    @property
    def open_intents(self) -> list[dict[str, Any]]:
        """Requests that were sent and have no outcome, or none yet."""
        answered = {outcome["attempt"] for outcome in self.outcomes}
        return [intent for intent in self.intents if intent["attempt"] not in answered]

    @property
    def possibly_paid(self) -> int:
        """Number of requests sent and never fully answered, so possibly billed."""
        lost = [i for i in self.open_intents if self.in_flight_from is None or i["seq"] < self.in_flight_from]
        return len(lost) + sum(outcome["class"] in POSSIBLY_PAID for outcome in self.outcomes)

    def _ask_anew(self, key: str) -> None:
        self.key = key
        self.status = self.reason = self.kept = self.last_failure = self.reused_from = None
        self.steps = []
        self.is_reopened = False

    def _add_intent(self, record: dict[str, Any]) -> None:
        self.intents.append(record)
        self.attempts = max(self.attempts, record["attempt"])
        if self.status not in REUSABLE:
            self.status = self.reason = self.kept = None

    def _add_outcome(self, record: dict[str, Any]) -> None:
        if record.get("read_again"):  # the same attempt, whose body turned out to be a reply
            read = record["attempt"], record.get("key")
            self.outcomes = [other for other in self.outcomes if (other["attempt"], other.get("key")) != read]
        self.outcomes.append(record)
        self.attempts = max(self.attempts, record["attempt"])
        if record["class"] != "replied":
            self.last_failure = record
            return
        step = record.get("step", 1)
        del self.steps[step - 1 :]  # asked again
        if record.get("continues"):
            self._add_step(record, step)
            return
        self.kept = record
        self.status = status_of(reply_from_plain(record["reply"]))
        self.reason = None
        self.reused_from = record.get("reused_from")

    def _add_step(self, record: dict[str, Any], step: int) -> None:
        self.status = self.reason = self.kept = self.last_failure = None
        if step == len(self.steps) + 1:
            self.steps.append(record)

    def _add_turn(self, record: dict[str, Any]) -> None:
        status = record["status"]
        if "reopens" in record:  # `resume --retry-failed`: what the turn had is history, and its earlier steps stand
            self.status = self.reason = self.kept = self.reused_from = None
            self.is_reopened = self.is_reopened or record["reopens"] != "skipped"
            return
        if status == "skipped":
            self.kept = self.reused_from = None
        if status in REUSABLE and self.kept is None:
            return
        self.status = status
        self.reason = record.get("reason")


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """One conversation with its replies so far."""

    index: int
    dialogue: str | None
    """The dialogue's id; None when the journal has no record of this conversation."""
    target: str
    repeat: int
    turns: dict[int, TurnHistory]
    """By turn number, from 1; a turn without a record is absent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeCall:
    """One question to a judge about a reply or a whole dialogue, with its outcome."""

    judge: str
    """The judge's target name."""
    target: str
    """The target whose reply is judged."""
    turn: int | None
    """None for a question about the whole dialogue."""
    question: str
    """Digest of the question (`llm_rubric.Question.digest`)."""
    history: TurnHistory
    repairs: str | None = None
    """Digest of the question whose answer this one asks to repair; None for a first question."""


def _connect(database: str) -> sqlite3.Connection:
    db = sqlite3.connect(database, isolation_level=None, check_same_thread=False)
    db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    db.execute("PRAGMA journal_mode = OFF")
    db.execute("PRAGMA synchronous = OFF")
    return db


class Archive:
    """Snapshot of a run folder's journal at the time of opening; a writer may be active meanwhile.

    Attributes:
        runs: The `run` records, one a session.
        stops: The `stop` records; a session that was killed has none.
        targets: Target names in the order of run.json, then other names found in the journal.
        damage: Places that could not be read, at most 1,000 of them; `damage_count` counts all.
    """

    def __init__(self, folder: RunFolder | Path, *, by_key: bool = False) -> None:
        """Read the whole journal once.

        Args:
            folder: The run folder.
            by_key: Prepare `turn_by_key`.

        Raises:
            SetupError: There is no run folder, a newer convbatch wrote it, its `run.json` is wrong, or its journal is
                gone or may not be read.
        """
        self._prepare(folder, by_key=by_key)
        in_use = self.folder.is_in_use()
        try:
            with self.folder.reading_journal():
                scan = self._index()
                self._files.extend(os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in scan.segments)
        except BaseException:
            self.close()
            raise
        self.runs: list[dict[str, Any]] = scan.runs
        self.damage: list[Damage] = scan.damage
        self.damage_count = scan.damage_count
        self._is_torn = scan.torn is not None
        self._in_flight_from = self._session_start() if in_use else None

    def _prepare(self, folder: RunFolder | Path, *, by_key: bool) -> None:
        """Set up everything that does not depend on the journal's content."""
        self.folder = folder if isinstance(folder, RunFolder) else RunFolder.open(folder)
        manifest = self.folder.read_manifest()
        self.folder.refuse_lost_journal(manifest)
        self.targets = list(manifest.target_names)
        self._by_key = by_key
        self._seen: dict[bytes, int] = {}
        self._numbers = {name: number for number, name in enumerate(self.targets)}
        self.stops: list[dict[str, Any]] = []
        self.jobs: list[dict[str, Any]] = []
        """The `job` records: what was written of batch jobs."""
        self.has_judge_calls = False
        """Whether a judge was ever asked."""
        self._checksum = 0
        self._last_line = b""
        self._files: list[int] = []
        # An unnamed database lives in SQLite's cache and moves to an unlinked temporary file when it outgrows it.
        self._db = _connect("")

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop the index; records that were returned stay valid."""
        self._db.close()
        while self._files:
            os.close(self._files.pop())

    @property
    def session_count(self) -> int:
        """Number of sessions: the start of the run and every resume."""
        return len(self.runs)

    @property
    def closed_checksum(self) -> int | None:
        """The CRC-32 of all segments, one after the other; None where a place is damaged or no session closed them."""
        last = read_record(self._last_line) if self._last_line else {}
        return None if self.damage_count or self._is_torn or last.get("kind") != "stop" else self._checksum

    @property
    def last_version(self) -> str:
        """The version of convbatch that ran the last session."""
        return str(self.runs[-1].get("convbatch", "")) if self.runs else ""

    @property
    def suspended(self) -> dict[str, str]:
        """Targets suspended at the end of the last session, with reasons; empty after a kill or during a session."""
        if not self.stops or self._session_start() is not None:
            return {}
        last = {
            stop.get("role", "model"): stop for stop in self.stops
        }  # a judge's session does not change the state of models
        return {str(target): str(why) for stop in last.values() for target, why in stop.get("parked", {}).items()}

    def transcript(self, index: int, target: str, repeat: int) -> Transcript:
        """Return one conversation; it has no turns when none was ever sent."""
        number = self._numbers.get(target, -1)
        return self._fold(index, target, repeat, self._db.execute(_OF_CONVERSATION, (index, number, repeat)))

    def transcripts(self) -> Iterator[Transcript]:
        """Yield every conversation that has a record, by dialogue, target in the order of run.json, and repeat."""
        rows = self._db.execute(_ALL_CONVERSATIONS)
        for (index, target, repeat), group in groupby(rows, key=lambda row: row[:3]):
            yield self._fold(index, self.targets[target], repeat, (row[3:] for row in group))

    def judge_calls(self, index: int, target: str, repeat: int) -> list[JudgeCall]:
        """Return all questions to judges about one conversation, in the order in which they were first asked."""
        rows = self._db.execute(_JUDGE_CALLS_OF, (index, self._numbers.get(target, -1), repeat))
        found: dict[tuple[Any, ...], JudgeCall] = {}
        for record in map(self._read, rows):
            place = record["target"], record["turn"], record["asked"]
            if place not in found:
                history = TurnHistory(turn=record["turn"] or 0, in_flight_from=self._in_flight_from)
                judge, turn, asked = place
                found[place] = JudgeCall(
                    judge=judge,
                    target=target,
                    turn=turn,
                    question=asked,
                    repairs=record.get("repairs"),
                    history=history,
                )
            found[place].history.add(record)
        return list(found.values())

    def all_judge_calls(self) -> Iterator[JudgeCall]:
        """Yield all questions to judges in this run, with one conversation in memory at a time."""
        for calls in self.judge_calls_by_conversation():
            yield from calls

    def judge_calls_by_conversation(self) -> Iterator[list[JudgeCall]]:
        """Yield the questions to judges about each conversation that was judged."""
        for index, target, repeat in self._db.execute(_JUDGED_CONVERSATIONS).fetchall():
            yield self.judge_calls(index, self.targets[target], repeat)

    def turn_by_key(self, key: str, repeat: int) -> TurnHistory | None:
        """Return the first turn in the dataset with a complete reply to this question, for `--reuse`.

        The archive must have been opened with `by_key`: an index that is made later may find no space.
        """
        assert self._by_key
        for index, target, turn in self._db.execute(_OF_KEY, (bytes.fromhex(key), repeat)).fetchall():
            history = self.transcript(index, self.targets[target], repeat).turns[turn]
            if history.status in REUSABLE and history.finished(key):
                return history
        return None

    def judges(self) -> list[str]:
        """Return the names of all judges that were ever asked."""
        return [self.targets[number] for (number,) in self._db.execute(_JUDGES).fetchall()]

    def job_intents(self, asked: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the `intent` records of a batch job that have no outcome yet.

        Args:
            asked: The `job` record that was written with them, before the first one.
        """
        rows = self._db.execute(_INTENTS_BETWEEN, (asked["seq"], asked["seq"] + asked["lines"]))
        intents = [intent for intent in map(self._read, rows.fetchall()) if intent.get("job") == asked["job"]]
        return [intent for intent in intents if "of" not in intent and self._is_open(intent)]

    def _is_open(self, intent: Mapping[str, Any]) -> bool:
        history = self.transcript(intent["index"], intent["target"], intent["repeat"]).turns[intent["turn"]]
        return any(other["seq"] == intent["seq"] for other in history.open_intents)

    def has_reply(self, target: str) -> bool:
        """Return whether this run has a complete reply from this target."""
        rows = self._db.execute(_OUTCOMES_OF_TARGET, (self._numbers.get(target, -1),))
        return any(self._read(row)["class"] == "replied" for row in rows)

    def requests_since(self, at: float) -> dict[str, int]:
        """Count requests since a moment (unix seconds) by target name, without those that were never sent."""
        counts: dict[str, int] = {}
        for sign, query in ((1, _ASKED_SINCE), (-1, _UNSENT_SINCE)):
            for target, count in self._db.execute(query, (at,)):
                name = self.targets[target]
                counts[name] = counts.get(name, 0) + sign * count
        return counts

    def count_since(self, at: float, senders: Iterable[Sender]) -> int:
        """Count the requests of these senders as `requests_since` does."""
        by_target = self.requests_since(at)
        return sum(
            by_target.get(sender.target, 0)
            if sender.gateway is None
            else sum(map(sender.sent, self._read_all(_SENT_INTENTS_SINCE, at, sender.target)))
            for sender in senders
        )

    def request_times(self, senders: Iterable[Sender], since: float) -> list[float]:
        """Return when these senders sent requests since a moment, in unix seconds and ascending."""
        times: list[float] = []
        for sender in senders:
            if sender.gateway is None:
                rows = self._db.execute(_TIMES_SINCE, (since, self._numbers.get(sender.target, -1)))
                times += [at for (at,) in rows]
            else:
                intents = self._read_all(_INTENTS_SINCE, since, sender.target)
                times += [record["at"] for record in intents if sender.sent(record)]
        return sorted(times)

    def _read_all(self, query: str, since: float, target: str) -> Iterator[dict[str, Any]]:
        return map(self._read, self._db.execute(query, (since, self._numbers.get(target, -1))))

    def server_wait_s(self, senders: Iterable[Sender], now: float) -> float:
        """Return the seconds from `now` (unix) for which the gateway of these senders asked to wait; 0 if it did not.

        Nothing is sent during such a wait, so the latest outcomes are enough. No wait is longer than it was when it was
        announced, even if the clock was set back since.
        """
        left_s = 0.0
        for sender in senders:
            rows = self._db.execute(_LATEST_OUTCOMES, (self._numbers.get(sender.target, -1),))
            for record in filter(sender.sent, map(self._read, rows)):
                wait_s = record.get("error", {}).get("retry_after_s")
                if wait_s is not None:
                    left_s = max(left_s, min(wait_s, record["at"] + wait_s - now))
        return left_s

    def _fold(self, index: int, target: str, repeat: int, rows: Iterable[tuple[int, int, int]]) -> Transcript:
        turns: dict[int, TurnHistory] = {}
        dialogue: str | None = None
        for record in map(self._read, rows):
            dialogue, number = record["dialogue"], record["turn"]
            if number not in turns:
                turns[number] = TurnHistory(turn=number, in_flight_from=self._in_flight_from)
            turns[number].add(record)
        return Transcript(
            index=index, dialogue=dialogue, target=target, repeat=repeat, turns=dict(sorted(turns.items()))
        )

    def _read(self, row: tuple[int, int, int]) -> dict[str, Any]:
        segment, start, length = row
        return read_record(os.pread(self._files[segment], length, start))

    def _index(self) -> JournalScan:
        """Index the journal; in memory if the temporary file cannot be written, because /tmp is often small."""
        try:
            return self._fill()
        except sqlite3.OperationalError:
            self._db.close()
            self.stops.clear()
            self._checksum = 0
            self.jobs.clear()
            self._db = _connect(":memory:")
            self._db.execute("PRAGMA temp_store = MEMORY")
            return self._fill()

    def _fill(self) -> JournalScan:
        scan = JournalScan(self.folder.segments(), self.folder.recorded_end())
        self._create_table()
        self._insert(scan.lines())
        self._create_look_up()
        if self._by_key:
            self._db.execute(_BY_KEY)
        # Pages that are not in the temporary file yet stay in memory, so that a look-up writes nothing.
        self._db.execute("PRAGMA cache_spill = OFF")
        return scan

    def _create_table(self) -> None:
        self._db.execute(_TABLE)

    def _create_look_up(self) -> None:
        self._db.execute(_BY_CONVERSATION)

    def _insert(self, lines: Iterable[JournalLine]) -> None:
        self._db.execute("BEGIN")
        self._db.executemany(f"INSERT INTO records VALUES ({','.join('?' * 14)})", self._rows(lines))
        self._db.execute("COMMIT")

    def _rows(self, lines: Iterable[JournalLine]) -> Iterator[_Row]:
        for line in lines:
            self._checksum = crc32(line.raw, self._checksum)
            self._last_line = line.raw
            head = _HEAD.match(line.raw)
            row = None if head is None else self._row_of_head(line, head)
            row = row or self._row_of_record(line)
            if row is not None:
                self._check_row(row)
                yield row

    def _check_row(self, row: _Row) -> None:
        """Accept a row; a reader that refuses some overrides it."""

    def _row_of_head(self, line: JournalLine, head: re.Match[bytes]) -> _Row | None:
        """Return the row of a line with its fields in the usual order; None when the whole record must be decoded."""
        word, at, index, target, repeat, turn, key, attempt, cls = head.groups()
        kind = _KINDS[word.decode()]
        number = self._seen.get(target)
        if number is None:
            number = self._seen[target] = self._number(orjson.loads(b'"%b"' % target))
        asked_at = paid_key = None
        if kind == _INTENT:
            # A request in a batch job counts against no rate.
            asked_at = None if b',"job":"' in line.raw else float(at)
        else:
            paid_key = bytes.fromhex(key.decode())
        if kind != _TURN and (attempt is None or (cls is None and kind == _OUTCOME)):
            return None
        return (
            line.seq, kind, int(index), number, int(repeat), int(turn), int(attempt or 0), asked_at, cls == b"not_sent",
            line.segment, line.offset, len(line.raw) - 1, paid_key, None,
        )  # fmt: skip

    def _row_of_record(self, line: JournalLine) -> _Row | None:
        record = read_record(line.raw)
        kind = _KINDS.get(record["kind"])
        if kind is None:
            if record["kind"] == "stop":
                self.stops.append(record)
            elif record["kind"] == "job":
                self.jobs.append(record)
            return None
        key, judged = record.get("key"), record.get("of")
        if kind == _INTENT and judged is None:
            key = None
        self.has_judge_calls = self.has_judge_calls or judged is not None
        return (
            line.seq, kind, record["index"], self._number(record["target"]), record["repeat"], record["turn"],
            record.get("attempt", 0), record["at"] if kind == _INTENT and "job" not in record else None,
            record.get("class") == "not_sent",
            line.segment, line.offset, len(line.raw) - 1, bytes.fromhex(key) if key else None,
            None if judged is None else self._number(judged),
        )  # fmt: skip

    def _number(self, target: str) -> int:
        if target not in self._numbers:
            self._numbers[target] = len(self.targets)
            self.targets.append(target)
        return self._numbers[target]

    def _session_start(self) -> int | None:
        if not self.runs or (self.stops and self.stops[-1]["seq"] > self.runs[-1]["seq"]):
            return None
        return self.runs[-1]["seq"]
