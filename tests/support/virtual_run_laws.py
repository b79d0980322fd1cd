"""Laws that hold after any virtual run, with any faults and interruptions: the journal against the servers' ledgers.

Two sources are compared: what each process wrote to its journal (recorded by the virtual disk), and what is left of it
in the run folder. Both are parsed here, not with the package's reader, and every request is followed from its `intent`
through the network into the ledger and back to its `outcome`. The message of a law says what broke it.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise
from pathlib import Path
from typing import Any

from convbatch.config.gateways import Limits
from convbatch.dialogue import Dialogue
from convbatch.results.parquet import read_rows
from convbatch.results.run import load
from convbatch.simulator.ledger import Entry
from tests.support.virtual_disk import Written
from tests.support.virtual_run import Sent, VirtualRun

Row = tuple[int, str, int, int]
"""Dialogue index, target, repeat, turn."""
POSSIBLY_PAID = {"ambiguous", "timeout", "abandoned"}
NEEDS_A_REPLY = {"ok", "blocked", "empty"}


@dataclass(frozen=True, slots=True)
class Record:
    """One journal line, as a process wrote it."""

    plain: Mapping[str, Any]
    session: int
    number: int
    """Position among all lines ever written; `seq` is reused when a power cut lost its line."""
    durable_at: float
    """Time since when it would survive a power cut; infinite for never."""
    kept: bool
    """True when it is still in the journal."""

    @property
    def row(self) -> Row:
        """Return the row it belongs to."""
        return (self.plain["index"], self.plain["target"], self.plain["repeat"], self.plain["turn"])

    def was_known_in(self, session: int) -> bool:
        """Return whether that session could know of it; a later session reads what is left."""
        return self.kept or self.session == session


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt: its intent, the request as seen by network and ledger, and its outcome."""

    intent: Record
    sent: Sent | None
    """None when the process was killed between writing the intent and sending."""
    outcome: Record | None
    """None when the process was killed before the outcome was written."""

    @property
    def entry(self) -> Entry | None:
        """Return its ledger entry."""
        return None if self.sent is None else self.sent.entry

    @property
    def cls(self) -> str | None:
        """Return the class of the outcome."""
        return None if self.outcome is None else self.outcome.plain["class"]

    @property
    def kept_cls(self) -> str | None:
        """Return the class of the outcome in the journal; None when only the intent is left, or nothing."""
        return self.cls if self.outcome is not None and self.outcome.kept else None


class Story:
    """Everything that happened in a virtual run, in the journal's order."""

    def __init__(self, virtual_run: VirtualRun) -> None:
        self.virtual_run = virtual_run
        self.records = list(_records(virtual_run))
        self.attempts = self._match_attempts()
        self.by_row: dict[Row, list[Attempt]] = defaultdict(list)
        for one in self.attempts:
            self.by_row[one.intent.row].append(one)
        self.states: dict[Row, str] = {}
        self.replies: dict[Row, Record] = {}
        """The final reply of each row."""
        for record in self.records:
            if record.kept:
                self._fold(record)

    def of_kind(self, kind: str) -> list[Record]:
        """Return the records of one kind."""
        return [record for record in self.records if record.plain["kind"] == kind]

    def _match_attempts(self) -> list[Attempt]:
        outcomes = {(o.session, o.row, o.plain["attempt"]): o for o in self.of_kind("outcome")}
        sent: dict[int, list[Sent]] = defaultdict(list)
        for one in self.virtual_run.sent:
            sent[one.session].append(one)
        attempts: list[Attempt] = []
        begun: Counter[int] = Counter()
        for intent in self.of_kind("intent"):
            number = begun[intent.session]
            begun[intent.session] += 1
            mine = sent[intent.session][number] if number < len(sent[intent.session]) else None
            attempts.append(Attempt(intent, mine, outcomes.get((intent.session, intent.row, intent.plain["attempt"]))))
        for session, requests in sent.items():
            assert len(requests) <= begun[session], f"a request was sent without an intent in session {session}"
        return attempts

    def _fold(self, record: Record) -> None:
        plain = record.plain
        if plain["kind"] == "outcome" and plain["class"] == "replied":
            # A complete reply finishes a row by itself: a kill may have cut off the `turn` record after it.
            self.replies[record.row] = record
            self.states[record.row] = "replied"
        elif plain["kind"] == "turn":
            self.states[record.row] = plain["status"]

    def ending_rows(self) -> dict[Row, tuple[str, Any]]:
        """Return the state of each row and its reply, if any."""
        found: dict[Row, tuple[str, Any]] = {}
        for row in self.virtual_run.planned:
            record = self.replies.get(row)
            reply = None if record is None else record.plain["reply"]
            state = self.states.get(row, "pending")
            if state == "replied" and reply is not None:
                state = _state_of(reply)
            found[row] = (state, None if state in {"error", "skipped"} else reply)
        return found


def _state_of(reply: Mapping[str, Any]) -> str:
    """Return the state of a row with a reply whose `turn` record was cut off by a kill."""
    state = {"error": "error", "content_filter": "blocked"}.get(reply["finish_reason"])
    return state or ("ok" if reply.get("text") or reply.get("tool_calls") else "empty")


def _records(virtual_run: VirtualRun) -> Iterator[Record]:
    left = {line.strip(b"\n") for path in segments(virtual_run) for line in path.read_bytes().split(b"\n")}
    number = 0
    for session, writes in groupby(virtual_run.platter.journal, key=lambda written: written.session):
        for line, durable_at in _lines(writes):
            plain = _whole(line)
            if plain is not None:
                number += 1
                if line in left:  # a line left by a power cut is on the disk, synced or not
                    cuts = (ended.ended for ended in virtual_run.ended[session - 1 :] if ended.power_cut)
                    durable_at = min(durable_at, next(cuts, durable_at))
                yield Record(plain, session, number, durable_at, line in left)


def segments(virtual_run: VirtualRun) -> list[Path]:
    """Return the files of the journal, in order."""
    return sorted((virtual_run.path / "journal").glob("*.jsonl"))


def _lines(writes: Iterable[Written]) -> Iterator[tuple[bytes, float]]:
    """Yield the lines that one process wrote, with the time when the last byte was durable."""
    begun, durable_at = b"", float("inf")
    for written in writes:
        durable_at = written.durable_at
        *whole, rest = written.data.split(b"\n")
        for line in whole:
            yield begun + line, durable_at
            begun = b""
        begun += rest
    yield begun, durable_at


def _whole(line: bytes) -> Mapping[str, Any] | None:
    """Return the record of a line, or None when the line is incomplete."""
    try:
        return json.loads(line)  # not orjson: a reply may hold lone surrogates
    except ValueError:
        return None


# -- no received reply is lost, no call is billed twice without being reported


def every_answer_is_journaled_once(story: Story) -> None:
    """Each complete answer that reached the client is in the journal once; a kill loses at most its own write."""
    numbers = Counter((o.row, o.plain["attempt"]) for o in story.of_kind("outcome") if o.kept)
    assert max(numbers.values(), default=1) == 1, f"two outcomes of one attempt: {numbers.most_common(1)}"
    lost: Counter[int] = Counter()
    for one in story.attempts:
        if one.sent is not None and one.sent.resolved_at is not None:
            if one.outcome is None:
                lost[one.sent.session] += 1
            elif one.sent.status is not None:
                kept = one.outcome.plain.get("http_status")
                assert kept == one.sent.status, f"received {one.sent.status}, journaled {kept}: {one.intent.plain}"
    for session, times in lost.items():
        ended = story.virtual_run.ended[session - 1]
        assert ended.killed or ended.broken, (
            f"{times} answers were lost in session {session} without a kill or disk error"
        )
        most = 1 if ended.killed else _all_places(story)
        assert times <= most, f"{times} answers were lost in session {session}: one kill tears at most one write"


def durable_records_are_kept(story: Story) -> None:
    """A durable record stays in the journal; any other record is lost only by a power cut."""
    for record in story.records:
        if not record.kept:
            assert record.durable_at == float("inf"), f"durable since {record.durable_at}, but lost: {record.plain}"
            cut = any(ended.power_cut for ended in story.virtual_run.ended[record.session - 1 :])
            assert cut, f"written in session {record.session} and lost without a power cut: {record.plain}"


def every_billed_request_is_journaled(story: Story) -> None:
    """Every billed request is in the journal as a reply or as possibly paid.

    Exception: requests whose records a power cut erased, because an intent is not synced.
    """
    journaled: set[int] = set()
    for one in story.attempts:
        if one.entry is not None and one.entry.billed:
            journaled.add(id(one.entry))
            excepted = not one.intent.kept and (one.outcome is None or not one.outcome.kept)
            is_reported = excepted or one.kept_cls is None or one.kept_cls == "replied" or one.kept_cls in POSSIBLY_PAID
            assert is_reported, f"billed, but journaled as {one.cls}: {one.outcome}"
    missing = [entry for entry in story.virtual_run.ledger() if entry.billed and id(entry) not in journaled]
    assert not missing, f"{len(missing)} billed requests are not in the journal: {missing[0]}"


def billed_requests_are_bounded(story: Story, *, faultless: bool) -> None:
    """Billed requests <= replies + ambiguous attempts + in flight at each kill; without faults, one per turn.

    In flight at a kill: sent without an outcome in the journal, at most the concurrency of all targets.
    """
    billed = sum(entry.billed for entry in story.virtual_run.ledger())
    replied = sum(one.kept_cls == "replied" for one in story.attempts)
    unsure = sum(one.kept_cls in POSSIBLY_PAID for one in story.attempts)
    cut_off = Counter(one.intent.session for one in story.attempts if one.kept_cls is None)
    for session, requests in cut_off.items():
        _check_requests_without_outcome(story, session, requests)
    most = replied + unsure + cut_off.total()
    assert billed <= most, f"{billed} billed, {replied} replied + {unsure} unsure + {cut_off.total()} cut off"
    if faultless and not cut_off and not unsure:
        assert billed == len(story.virtual_run.planned), f"{billed} billed for {len(story.virtual_run.planned)} turns"


def _check_requests_without_outcome(story: Story, session: int, requests: int) -> None:
    after = story.virtual_run.ended[session - 1 :]
    ended = after[0]
    if not any(later.power_cut for later in after):  # a power cut also erases unsynced outcomes of earlier sessions
        assert ended.killed or ended.broken, f"{requests} requests without an outcome in session {session}, and no kill"
    assert requests <= _all_places(story), f"{requests} requests without an outcome in session {session}"


def token_counts_equal_the_ledger(story: Story) -> None:
    """Token counts of a reply equal the ledger's; only for servers that report usage correctly."""
    for one in story.attempts:
        if one.cls == "replied" and one.entry is not None and one.outcome is not None:
            usage = one.outcome.plain["reply"]["usage"]
            known = (usage.get("input_tokens"), usage.get("output_tokens"))
            true = (one.entry.input_tokens, one.entry.output_tokens)
            assert known == true, f"usage {known}, ledger {true}"


def finished_turns_are_not_repeated(story: Story) -> None:
    """After a complete reply whose generation succeeded, there is no further intent for the turn."""
    finished: dict[Row, Record] = {}
    for record in story.records:
        if record.plain["kind"] == "outcome":
            if record.plain["class"] == "replied" and record.plain["reply"]["finish_reason"] != "error":
                finished[record.row] = record
        elif record.plain["kind"] == "intent" and record.row in finished:
            former = finished[record.row]
            assert not former.was_known_in(record.session), f"finished: {former.plain}, requested again: {record.plain}"


def ambiguous_attempts_are_limited(story: Story) -> None:
    """In one session a turn is sent once more after an ambiguous outcome, and not at all after our own timeout."""
    per_turn: dict[tuple[Row, int], list[str]] = defaultdict(list)
    for one in story.attempts:
        if one.cls in POSSIBLY_PAID:
            per_turn[one.intent.row, one.intent.session].append(one.cls or "")
    for (row, session), classes in per_turn.items():
        assert len(classes) <= 2, f"{row} ended ambiguously {len(classes)} times in session {session}: {classes}"
        assert "timeout" not in classes[:-1], f"{row} was sent again after our own timeout: {classes}"


# -- rows, order and histories


def every_row_has_a_final_state(story: Story) -> None:
    """Each planned row has a terminal state, and there are no other rows."""
    rows = set(story.virtual_run.planned)
    assert rows == set(story.states), f"open or unknown rows: {sorted(rows ^ set(story.states))[:5]}"
    for row, state in story.states.items():
        if state in NEEDS_A_REPLY:
            assert row in story.replies, f"{row} is {state} without a reply"


def skipped_turns_follow_a_failed_turn(story: Story) -> None:
    """In `live` history a turn is skipped if and only if an earlier turn did not end ok; for finished runs."""
    ended: dict[tuple[int, str, int], Row] = {}
    for row in story.virtual_run.planned:
        plain = story.states[row]
        reply = story.replies.get(row)
        state = plain if plain != "replied" or reply is None or reply.plain["reply"].get("text") else "empty"
        assert (state == "skipped") == (row[:3] in ended), f"{row} is {state}, after {ended.get(row[:3])}"
        if state not in {"ok", "replied"}:
            ended.setdefault(row[:3], row)


def no_request_is_sent_after_a_stop(story: Story) -> None:
    """After a signal, a deadline or a cancellation, the session sends no further request."""
    for sent in story.virtual_run.sent:
        stopped_at = story.virtual_run.ended[sent.session - 1].stop_requested_at
        assert sent.left_at <= stopped_at + 1e-6, f"stop requested at {stopped_at}, sent at {sent.left_at}"


def each_session_sets_a_state_once(story: Story) -> None:
    """A session sets the state of a row at most once."""
    turns = Counter((turn.row, turn.session) for turn in story.of_kind("turn"))
    assert max(turns.values(), default=1) == 1, f"set twice: {turns.most_common(1)}"


def histories_equal_the_journal(story: Story) -> None:
    """A request holds all earlier turns of its dialogue, in order, byte-equal to the journal at that time."""
    for one in story.attempts:
        if one.entry is not None and one.entry.history is not None:
            expected = _expected_history(story, one.intent)
            assert one.entry.history == expected, f"{one.intent.row} sent {one.entry.history}\n  not {expected}"


def _expected_history(story: Story, intent: Record) -> list[list[str]]:
    index, target, repeat, number = intent.row
    dialogue = story.virtual_run.dialogues[index]
    messages = [["system", dialogue.system]] if dialogue.system else []
    for at in range(1, number + 1):
        messages.append(["user", dialogue.turns[at - 1].user_text])
        if at < number:
            messages.append(["model", _model_text(story, dialogue, intent, (index, target, repeat, at))])
    return messages


def _model_text(story: Story, dialogue: Dialogue, intent: Record, row: Row) -> str:
    turn = dialogue.turns[row[3] - 1]
    if story.virtual_run.rules.history != "live" or not turn.ask:
        return turn.assistant or ""
    known = [outcome for outcome in _known_before(story, intent, row) if outcome.plain["class"] == "replied"]
    assert known, f"{intent.row} was sent before turn {row[3]} had a reply"
    return known[-1].plain["reply"]["text"]


def _known_before(story: Story, intent: Record, row: Row) -> list[Record]:
    """Return the outcomes of a row that the process knew when it wrote an intent."""
    outcomes = [one.outcome for one in story.by_row[row] if one.outcome is not None]
    return [o for o in outcomes if o.number < intent.number and o.was_known_in(intent.session)]


def replies_are_durable_before_the_next_turn(story: Story) -> None:
    """No request is sent before all earlier replies of its dialogue would survive a power cut."""
    for one in story.attempts:
        if one.sent is None:
            continue
        index, target, repeat, turn = one.intent.row
        for earlier in range(1, turn):
            for outcome in _known_before(story, one.intent, (index, target, repeat, earlier))[-1:]:
                durable_at = outcome.durable_at
                assert durable_at <= one.sent.left_at, f"{one.intent.row} sent at {one.sent.left_at} < {durable_at}"


def slots_are_held_until_durable(story: Story) -> None:
    """A target never exceeds its concurrency; a slot is released when the outcome is durable."""
    for target in {one.intent.row[1] for one in story.attempts}:
        for ended in story.virtual_run.ended:
            mine = [one for one in story.attempts if one.intent.session == ended.number and one.intent.row[1] == target]
            most = _most_at_once(mine)
            assert most <= _places(story, target), f"{most} requests in flight at {target}"


def _places(story: Story, target: str) -> int:
    limit = next(t.gateway.limits.concurrency for t in story.virtual_run.targets if t.name == target)
    asked = story.virtual_run.rules.concurrency
    return min(n for n in (asked, limit) if n is not None) if (asked, limit) != (None, None) else 16


def _all_places(story: Story) -> int:
    return sum(_places(story, target.name) for target in story.virtual_run.targets)


def _most_at_once(attempts: Iterable[Attempt]) -> int:
    moments: list[tuple[float, int]] = []
    for one in attempts:
        if one.sent is not None:
            ended = float("inf") if one.outcome is None else one.outcome.durable_at
            moments += [(one.sent.left_at, 1), (ended, -1)]
    most = now = 0
    for _, step in sorted(moments):
        now += step
        most = max(most, now)
    return most


def conversations_are_sequential(story: Story) -> None:
    """Turns of one conversation never overlap, nor do attempts of one turn."""
    by_conversation: dict[tuple[int, Any], list[Attempt]] = defaultdict(list)
    for one in story.attempts:
        by_conversation[one.intent.session, one.intent.row[:3]].append(one)
    for attempts in by_conversation.values():
        for former, latter in pairwise(attempts):
            assert former.outcome is not None, f"sent while the previous attempt was in flight: {former.intent.plain}"
            assert former.outcome.number < latter.intent.number, f"overlapping: {former.intent.plain}"


# -- limits and waits


def no_window_exceeds(sent: Iterable[Sent], count: int, window_s: float) -> None:
    """Check that no window of this length contains more than `count` arrivals at the server."""
    arrivals = sorted(one.arrived_at for one in sent if one.arrived_at is not None)
    for at in range(len(arrivals) - count):
        span = arrivals[at + count] - arrivals[at]
        assert span >= window_s, f"{count + 1} arrivals within {span} s, from {arrivals[at]} s"


def no_request_limit_is_exceeded(story: Story) -> None:
    """No window at a server contains more requests than the configured limit, across kills and resumes.

    After a power cut that erased intents, or a clock set forward, the next session cannot know what was sent before;
    counting starts again there.
    """
    for attempts in _by_limiter(story):
        limits = _limits(story, attempts)
        for count, window_s in [(limits.rpm, 60.0), *((rate.count, rate.window_s) for rate in limits.rates)]:
            if count is not None:
                no_window_exceeds((one.sent for one in attempts if one.sent is not None), count, window_s)


def no_token_limit_is_exceeded(story: Story) -> None:
    """No window contains more tokens than the limit; only for replies with correct usage."""
    for attempts in _by_limiter(story):
        tpm = _limits(story, attempts).tpm
        if tpm is not None:
            _no_minute_holds_more_tokens([one.entry for one in attempts if one.entry is not None], tpm)


def _limits(story: Story, attempts: Sequence[Attempt]) -> Limits:
    return next(t.gateway.limits for t in story.virtual_run.targets if t.name == attempts[0].intent.row[1])


def _no_minute_holds_more_tokens(entries: Iterable[Entry], tpm: int) -> None:
    """Check the tokens of each minute; only a turn larger than the limit may exceed it, alone in its window."""
    admitted = sorted((e.arrived_at, e.input_tokens or 0) for e in entries if e.billed)
    total = begin = 0
    for at, tokens in admitted:
        total += tokens
        while admitted[begin][0] <= at - 60.0:
            total -= admitted[begin][1]
            begin += 1
        assert total <= tpm or total == tokens, f"{total} tokens of {tpm} in the minute before {at}"


def no_request_is_sent_during_an_announced_wait(story: Story) -> None:
    """During an announced wait no request is sent to that quota owner, even after a resume."""
    for attempts in _by_limiter(story):
        left = sorted((one.sent.left_at, one.intent.session) for one in attempts if one.sent is not None)
        for refused in attempts:
            if refused.sent is not None and refused.sent.asks_to_wait_s is not None:
                _check_wait(story, refused, left)


def _check_wait(story: Story, refused: Attempt, left: Sequence[tuple[float, int]]) -> None:
    sent = refused.sent
    assert sent is not None
    assert sent.resolved_at is not None
    assert sent.asks_to_wait_s is not None
    # HTTP dates and decimal texts are rounded, hence 1e-6. A wait is at most a day.
    until = sent.resolved_at + min(sent.asks_to_wait_s, 86_400.0) - 1e-6
    first = bisect_right(left, (sent.resolved_at, len(story.virtual_run.ended) + 1))
    for left_at, session in left[first:]:
        if left_at >= until:
            return
        unknown = session != sent.session and (refused.outcome is None or not refused.outcome.kept)
        assert unknown, f"wait of {sent.asks_to_wait_s} s announced at {sent.resolved_at}, sent again at {left_at}"


def _by_limiter(story: Story) -> list[list[Attempt]]:
    """Group attempts by quota owner, split where a session could not know the earlier ones."""
    owner = {target.name: target.quota_owner for target in story.virtual_run.targets}
    epoch = list(accumulate(ended.power_cut or ended.clock_set_forward for ended in story.virtual_run.ended))
    limiters: dict[Any, list[Attempt]] = defaultdict(list)
    for one in story.attempts:
        session = one.intent.session
        # The split is before the session that follows the power cut or clock change.
        limiters[owner[one.intent.row[1]], 0 if session == 1 else epoch[session - 2]].append(one)
    return list(limiters.values())


# -- the table


def the_table_equals_the_journal(story: Story) -> None:
    """The table has one row per planned turn, in order, with its reply, attempts and possibly paid requests."""
    run = load(story.virtual_run.path)
    rows = list(read_rows(run.turns_path, COLUMNS))
    keys = [(row[0], row[1], row[2], row[3]) for row in rows]
    assert keys == sorted(story.virtual_run.planned), f"rows: {sorted(set(keys) ^ set(story.virtual_run.planned))[:5]}"
    for key, row in zip(keys, rows, strict=True):
        _check_row(story, key, dict(zip(COLUMNS, row, strict=True)))


COLUMNS = (
    "dialogue_index", "target", "repeat", "turn", "status", "reply", "input_tokens", "output_tokens", "http_status",
    "attempts", "possibly_paid",
)  # fmt: skip


def _check_row(story: Story, row: Row, found: Mapping[str, Any]) -> None:
    attempts = story.by_row.get(row, [])
    traces = [one.intent for one in attempts] + [one.outcome for one in attempts if one.outcome is not None]
    highest = max((trace.plain["attempt"] for trace in traces if trace.kept), default=0)
    unsure = sum(
        one.kept_cls in POSSIBLY_PAID or (one.intent.kept and (one.outcome is None or not one.outcome.kept))
        for one in attempts
    )
    assert (found["attempts"], found["possibly_paid"]) == (highest, unsure), f"{row}: {found}, {highest}, {unsure}"
    reply = story.replies.get(row)
    if found["status"] in NEEDS_A_REPLY:
        assert reply is not None, f"{row} is {found['status']} without a reply"
        usage = reply.plain["reply"]["usage"]
        expected = (reply.plain["reply"].get("text"), usage.get("input_tokens"), usage.get("output_tokens"), 200)
        values = (found["reply"], found["input_tokens"], found["output_tokens"], found["http_status"])
        assert tuple(map(_as_stored, expected)) == values, f"{row}: {values}, journaled {expected}"
    elif reply is None:
        assert found["reply"] is None, f"{row} has a reply that was never received: {found}"
    else:
        state = story.states[row]
        assert found["status"] == "skipped" or reply.plain["reply"]["finish_reason"] == "error", f"{row} is {state}"


def _as_stored(value: Any) -> Any:
    """Return the value as a column stores it: no lone surrogates, no integers beyond 64 bits."""
    if isinstance(value, str):
        return re.sub("[\ud800-\udfff]", "\ufffd", value)
    return None if isinstance(value, int) and abs(value) >= 2**63 else value


ALWAYS = (
    every_answer_is_journaled_once,
    durable_records_are_kept,
    finished_turns_are_not_repeated,
    ambiguous_attempts_are_limited,
    each_session_sets_a_state_once,
    histories_equal_the_journal,
    replies_are_durable_before_the_next_turn,
    slots_are_held_until_durable,
    conversations_are_sequential,
    no_request_limit_is_exceeded,
    no_request_is_sent_during_an_announced_wait,
    no_request_is_sent_after_a_stop,
    the_table_equals_the_journal,
)
"""Laws for every run, finished or not."""


def obeys(
    virtual_run: VirtualRun,
    *,
    finished: bool = True,
    faultless: bool = False,
    honest_usage: bool = True,
    honest_bills: bool = True,
) -> Story:
    """Check all laws and return the story of the run.

    Args:
        virtual_run: The run to check.
        finished: Whether the run is complete.
        faultless: Whether servers and network had no faults.
        honest_usage: Whether all replies report their tokens correctly.
        honest_bills: Whether no server billed a request that it answered with an error.
    """
    story = Story(virtual_run)
    for law in ALWAYS:
        law(story)
    if honest_bills:
        every_billed_request_is_journaled(story)
        billed_requests_are_bounded(story, faultless=faultless)
    if honest_usage:
        token_counts_equal_the_ledger(story)
        no_token_limit_is_exceeded(story)
    if finished:
        every_row_has_a_final_state(story)
        if virtual_run.rules.history == "live":
            skipped_turns_follow_a_failed_turn(story)
    return story
