"""What must hold after any played run, whatever happened on the way: the journal against the servers' ledgers.

Two books are held against each other: what each process wrote to its journal (kept by the played disk as it was
written), and what is left of that in the run folder. Both are read with a few lines of our own, not with the package's
reader, and every request is followed from its `intent` through the network into the ledger and back to its `outcome`.
Each law says in its message what broke it.
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
    """One line of the journal, as a process wrote it."""

    plain: Mapping[str, Any]
    session: int
    number: int
    """Its place among all that was ever written; `seq` is used again when a power cut took its line."""
    durable_at: float
    """When it would have survived a power cut for the first time; infinite for never."""
    kept: bool
    """It is still in the journal."""

    @property
    def row(self) -> Row:
        """Whose it is."""
        return (self.plain["index"], self.plain["target"], self.plain["repeat"], self.plain["turn"])

    def was_known_in(self, session: int) -> bool:
        """Could that sitting know of it? A later one reads what is left."""
        return self.kept or self.session == session


@dataclass(frozen=True, slots=True)
class Try:
    """One request: what was meant, what the network and the ledger saw, and what came of it."""

    intent: Record
    sent: Sent | None
    """None: killed between writing the intent and sending."""
    outcome: Record | None
    """None: killed before anything was known."""

    @property
    def entry(self) -> Entry | None:
        """The ledger's entry."""
        return None if self.sent is None else self.sent.entry

    @property
    def cls(self) -> str | None:
        """Class of the outcome."""
        return None if self.outcome is None else self.outcome.plain["class"]

    @property
    def kept_cls(self) -> str | None:
        """Class of the outcome as the journal still tells it; None: the intent alone is left, or nothing."""
        return self.cls if self.outcome is not None and self.outcome.kept else None


class Story:
    """Everything that happened in a played run, in the journal's order."""

    def __init__(self, virtual_run: VirtualRun) -> None:
        self.virtual_run = virtual_run
        self.records = list(_records(virtual_run))
        self.tries = self._tries()
        self.by_row: dict[Row, list[Try]] = defaultdict(list)
        for one in self.tries:
            self.by_row[one.intent.row].append(one)
        self.states: dict[Row, str] = {}
        self.replies: dict[Row, Record] = {}
        """The outcome that counts for each row."""
        for record in self.records:
            if record.kept:
                self._fold(record)

    def of_kind(self, kind: str) -> list[Record]:
        """Records of one kind."""
        return [record for record in self.records if record.plain["kind"] == kind]

    def _tries(self) -> list[Try]:
        outcomes = {(o.session, o.row, o.plain["attempt"]): o for o in self.of_kind("outcome")}
        sent: dict[int, list[Sent]] = defaultdict(list)
        for one in self.virtual_run.sent:
            sent[one.session].append(one)
        tries: list[Try] = []
        begun: Counter[int] = Counter()
        for intent in self.of_kind("intent"):
            number = begun[intent.session]
            begun[intent.session] += 1
            mine = sent[intent.session][number] if number < len(sent[intent.session]) else None
            tries.append(Try(intent, mine, outcomes.get((intent.session, intent.row, intent.plain["attempt"]))))
        for session, requests in sent.items():
            assert len(requests) <= begun[session], f"a request left without an intent in sitting {session}"
        return tries

    def _fold(self, record: Record) -> None:
        plain = record.plain
        if plain["kind"] == "outcome" and plain["class"] == "replied":
            # A complete reply finishes a row by itself: a kill may have torn off the `turn` record behind it.
            self.replies[record.row] = record
            self.states[record.row] = "replied"
        elif plain["kind"] == "turn":
            self.states[record.row] = plain["status"]

    def ending_rows(self) -> dict[Row, tuple[str, Any]]:
        """For each row its state and, where one counts, its reply."""
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
    """Of a row whose reply is there, and whose `turn` record a kill tore off."""
    said = {"error": "error", "content_filter": "blocked"}.get(reply["finish_reason"])
    return said or ("ok" if reply.get("text") or reply.get("tool_calls") else "empty")


def _records(virtual_run: VirtualRun) -> Iterator[Record]:
    left = {line.strip(b"\n") for path in segments(virtual_run) for line in path.read_bytes().split(b"\n")}
    number = 0
    for session, writes in groupby(virtual_run.platter.journal, key=lambda written: written.session):
        for line, durable_at in _lines(writes):
            plain = _whole(line)
            if plain is not None:
                number += 1
                if line in left:  # what a power cut left has reached the disk, synced or not
                    cuts = (ended.ended for ended in virtual_run.ended[session - 1 :] if ended.power_cut)
                    durable_at = min(durable_at, next(cuts, durable_at))
                yield Record(plain, session, number, durable_at, line in left)


def segments(virtual_run: VirtualRun) -> list[Path]:
    """The files of the journal, in order."""
    return sorted((virtual_run.path / "journal").glob("*.jsonl"))


def _lines(writes: Iterable[Written]) -> Iterator[tuple[bytes, float]]:
    """What one process wrote, line by line, each with the moment its last byte was durable."""
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
    """The record of a line that was written to its end."""
    try:
        return json.loads(line)  # not orjson: a reply may hold lone surrogates
    except ValueError:
        return None


# -- nothing received is lost, nothing is paid twice in silence


def every_answer_is_kept_once(story: Story) -> None:
    """A complete answer that reached the client is written to the journal, once; a kill loses at most its own write."""
    numbers = Counter((o.row, o.plain["attempt"]) for o in story.of_kind("outcome") if o.kept)
    assert max(numbers.values(), default=1) == 1, f"two outcomes of one attempt: {numbers.most_common(1)}"
    lost: Counter[int] = Counter()
    for one in story.tries:
        if one.sent is not None and one.sent.heard_at is not None:
            if one.outcome is None:
                lost[one.sent.session] += 1
            elif one.sent.status is not None:
                kept = one.outcome.plain.get("http_status")
                assert kept == one.sent.status, f"heard {one.sent.status}, journaled {kept}: {one.intent.plain}"
    for session, times in lost.items():
        ended = story.virtual_run.ended[session - 1]
        assert ended.killed or ended.broken, f"{times} answers were lost in sitting {session}: nothing happened to it"
        most = 1 if ended.killed else _all_places(story)
        assert times <= most, f"{times} answers were lost in sitting {session}: one kill tears one write"


def what_was_synced_stands(story: Story) -> None:
    """A record that was durable once is still in the journal; any other is lost to nothing but a power cut."""
    for record in story.records:
        if not record.kept:
            assert record.durable_at == float("inf"), f"durable since {record.durable_at}, and gone: {record.plain}"
            cut = any(ended.power_cut for ended in story.virtual_run.ended[record.session - 1 :])
            assert cut, f"written in sitting {record.session} and gone without a power cut: {record.plain}"


def nothing_is_paid_in_silence(story: Story) -> None:
    """Whatever a server billed is a reply we hold, or told as possibly paid; nothing was billed behind our back.

    Excepted is what a power cut left no trace of: an intent is not synced.
    """
    told: set[int] = set()
    for one in story.tries:
        if one.entry is not None and one.entry.billed:
            told.add(id(one.entry))
            excepted = not one.intent.kept and (one.outcome is None or not one.outcome.kept)
            honest = excepted or one.kept_cls is None or one.kept_cls == "replied" or one.kept_cls in POSSIBLY_PAID
            assert honest, f"billed, but journaled as {one.cls}: {one.outcome}"
    silent = [entry for entry in story.virtual_run.ledger() if entry.billed and id(entry) not in told]
    assert not silent, f"{len(silent)} billed requests are in no journal: {silent[0]}"


def the_bill_is_bounded(story: Story, *, faultless: bool) -> None:
    """Billed <= complete replies we hold + ambiguous attempts + in flight at each kill; nothing wrong: one a turn.

    In flight at a kill is what left and has no outcome in the journal: at most the places of all targets.
    """
    billed = sum(entry.billed for entry in story.virtual_run.ledger())
    replied = sum(one.kept_cls == "replied" for one in story.tries)
    unsure = sum(one.kept_cls in POSSIBLY_PAID for one in story.tries)
    cut_off = Counter(one.intent.session for one in story.tries if one.kept_cls is None)
    for session, requests in cut_off.items():
        _is_cut_off(story, session, requests)
    most = replied + unsure + cut_off.total()
    assert billed <= most, f"{billed} billed, {replied} replied + {unsure} unsure + {cut_off.total()} cut off"
    if faultless and not cut_off and not unsure:
        assert billed == len(story.virtual_run.planned), f"{billed} billed for {len(story.virtual_run.planned)} turns"


def _is_cut_off(story: Story, session: int, requests: int) -> None:
    after = story.virtual_run.ended[session - 1 :]
    ended = after[0]
    if not any(later.power_cut for later in after):  # which takes unsynced outcomes of an earlier one along
        assert ended.killed or ended.broken, f"{requests} requests without an outcome in sitting {session}, and no kill"
    assert requests <= _all_places(story), f"{requests} requests without an outcome in sitting {session}"


def tokens_are_the_ledgers(story: Story) -> None:
    """Counts of a reply we hold are the server's own; not for worlds that lie about usage."""
    for one in story.tries:
        if one.cls == "replied" and one.entry is not None and one.outcome is not None:
            usage = one.outcome.plain["reply"]["usage"]
            known = (usage.get("input_tokens"), usage.get("output_tokens"))
            true = (one.entry.input_tokens, one.entry.output_tokens)
            assert known == true, f"usage {known}, the ledger says {true}"


def nothing_finished_is_asked_again(story: Story) -> None:
    """After a complete reply, unless the generation itself broke, no further request for the turn is meant."""
    finished: dict[Row, Record] = {}
    for record in story.records:
        if record.plain["kind"] == "outcome":
            if record.plain["class"] == "replied" and record.plain["reply"]["finish_reason"] != "error":
                finished[record.row] = record
        elif record.plain["kind"] == "intent" and record.row in finished:
            former = finished[record.row]
            assert not former.was_known_in(record.session), f"finished: {former.plain}, asked: {record.plain}"


def ambiguous_tries_are_few(story: Story) -> None:
    """In one sitting a turn is asked once more after an ambiguous end, and never after our own timeout."""
    per_turn: dict[tuple[Row, int], list[str]] = defaultdict(list)
    for one in story.tries:
        if one.cls in POSSIBLY_PAID:
            per_turn[one.intent.row, one.intent.session].append(one.cls or "")
    for (row, session), classes in per_turn.items():
        assert len(classes) <= 2, f"{row} ended ambiguously {len(classes)} times in sitting {session}: {classes}"
        assert "timeout" not in classes[:-1], f"{row} was sent again after our own timeout: {classes}"


# -- rows, order and histories


def every_row_is_closed(story: Story) -> None:
    """Each planned row has a terminal state, and no other row has any."""
    rows = set(story.virtual_run.planned)
    assert rows == set(story.states), f"open or unknown rows: {sorted(rows ^ set(story.states))[:5]}"
    for row, state in story.states.items():
        if state in NEEDS_A_REPLY:
            assert row in story.replies, f"{row} is {state} without a reply"


def skipped_turns_stand_behind_an_end(story: Story) -> None:
    """In `live` history a turn is skipped if and only if one before it did not end ok; for finished runs."""
    ended: dict[tuple[int, str, int], Row] = {}
    for row in story.virtual_run.planned:
        plain = story.states[row]
        reply = story.replies.get(row)
        state = plain if plain != "replied" or reply is None or reply.plain["reply"].get("text") else "empty"
        assert (state == "skipped") == (row[:3] in ended), f"{row} is {state}, and before it: {ended.get(row[:3])}"
        if state not in {"ok", "replied"}:
            ended.setdefault(row[:3], row)


def nothing_leaves_after_the_word_to_end(story: Story) -> None:
    """After a signal, a deadline or a cancellation no further request is sent in that sitting."""
    for sent in story.virtual_run.sent:
        told_at = story.virtual_run.ended[sent.session - 1].told_to_end_at
        assert sent.left_at <= told_at + 1e-6, f"told to end at {told_at}, sent at {sent.left_at}"


def one_terminal_state_a_session(story: Story) -> None:
    """No sitting decides about a row twice."""
    turns = Counter((turn.row, turn.session) for turn in story.of_kind("turn"))
    assert max(turns.values(), default=1) == 1, f"decided twice: {turns.most_common(1)}"


def histories_are_the_journals(story: Story) -> None:
    """A request holds its own dialogue's turns, all of them, in order, byte-equal to the journal of that moment."""
    for one in story.tries:
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
            messages.append(["model", _model_word(story, dialogue, intent, (index, target, repeat, at))])
    return messages


def _model_word(story: Story, dialogue: Dialogue, intent: Record, row: Row) -> str:
    turn = dialogue.turns[row[3] - 1]
    if story.virtual_run.rules.history != "live" or not turn.ask:
        return turn.assistant or ""
    known = [outcome for outcome in _known_before(story, intent, row) if outcome.plain["class"] == "replied"]
    assert known, f"{intent.row} was asked before turn {row[3]} had a reply"
    return known[-1].plain["reply"]["text"]


def _known_before(story: Story, intent: Record, row: Row) -> list[Record]:
    """Outcomes of a row that the process knew of when it wrote an intent."""
    outcomes = [one.outcome for one in story.by_row[row] if one.outcome is not None]
    return [o for o in outcomes if o.number < intent.number and o.was_known_in(intent.session)]


def replies_are_durable_before_what_follows(story: Story) -> None:
    """No request leaves before every reply of its dialogue's earlier turns would survive a power cut."""
    for one in story.tries:
        if one.sent is None:
            continue
        index, target, repeat, turn = one.intent.row
        for earlier in range(1, turn):
            for outcome in _known_before(story, one.intent, (index, target, repeat, earlier))[-1:]:
                durable_at = outcome.durable_at
                assert durable_at <= one.sent.left_at, f"{one.intent.row} left at {one.sent.left_at} < {durable_at}"


def places_are_kept_until_durable(story: Story) -> None:
    """No more requests of a target at once than it has places; a place is free when the outcome is durable."""
    for target in {one.intent.row[1] for one in story.tries}:
        for ended in story.virtual_run.ended:
            mine = [one for one in story.tries if one.intent.session == ended.number and one.intent.row[1] == target]
            most = _most_at_once(mine)
            assert most <= _places(story, target), f"{most} at once in flight at {target}"


def _places(story: Story, target: str) -> int:
    limit = next(t.gateway.limits.concurrency for t in story.virtual_run.targets if t.name == target)
    asked = story.virtual_run.rules.concurrency
    return min(n for n in (asked, limit) if n is not None) if (asked, limit) != (None, None) else 16


def _all_places(story: Story) -> int:
    return sum(_places(story, target.name) for target in story.virtual_run.targets)


def _most_at_once(tries: Iterable[Try]) -> int:
    moments: list[tuple[float, int]] = []
    for one in tries:
        if one.sent is not None:
            ended = float("inf") if one.outcome is None else one.outcome.durable_at
            moments += [(one.sent.left_at, 1), (ended, -1)]
    most = now = 0
    for _, step in sorted(moments):
        now += step
        most = max(most, now)
    return most


def one_request_at_a_time_a_conversation(story: Story) -> None:
    """Turns of one conversation never overlap, nor do tries of one turn."""
    by_conversation: dict[tuple[int, Any], list[Try]] = defaultdict(list)
    for one in story.tries:
        by_conversation[one.intent.session, one.intent.row[:3]].append(one)
    for tries in by_conversation.values():
        for former, latter in pairwise(tries):
            assert former.outcome is not None, f"asked while unanswered: {former.intent.plain}"
            assert former.outcome.number < latter.intent.number, f"overlapping: {former.intent.plain}"


# -- limits and pauses


def no_window_is_overfull(sent: Iterable[Sent], count: int, window_s: float) -> None:
    """No window of this length, wherever it begins, holds more arrivals at the server."""
    arrivals = sorted(one.arrived_at for one in sent if one.arrived_at is not None)
    for at in range(len(arrivals) - count):
        span = arrivals[at + count] - arrivals[at]
        assert span >= window_s, f"{count + 1} arrivals within {span} s, from {arrivals[at]} s on"


def no_limit_is_passed(story: Story) -> None:
    """No window at a server holds more requests than its client was told, kills and resumes included.

    Where a power cut took the intents, or somebody set the clock forward, the next sitting cannot know what the one
    before has sent: there the counting begins anew.
    """
    for tries in _by_limiter(story):
        limits = _limits(story, tries)
        for count, window_s in [(limits.rpm, 60.0), *((rate.count, rate.window_s) for rate in limits.rates)]:
            if count is not None:
                no_window_is_overfull((one.sent for one in tries if one.sent is not None), count, window_s)


def no_token_limit_is_passed(story: Story) -> None:
    """The same for tokens, where replies say truly what they used."""
    for tries in _by_limiter(story):
        tpm = _limits(story, tries).tpm
        if tpm is not None:
            _no_minute_holds_more_tokens([one.entry for one in tries if one.entry is not None], tpm)


def _limits(story: Story, tries: Sequence[Try]) -> Limits:
    return next(t.gateway.limits for t in story.virtual_run.targets if t.name == tries[0].intent.row[1])


def _no_minute_holds_more_tokens(entries: Iterable[Entry], tpm: int) -> None:
    """Only a turn larger than the limit may pass it, and goes alone."""
    admitted = sorted((e.arrived_at, e.input_tokens or 0) for e in entries if e.billed)
    total = begin = 0
    for at, tokens in admitted:
        total += tokens
        while admitted[begin][0] <= at - 60.0:
            total -= admitted[begin][1]
            begin += 1
        assert total <= tpm or total == tokens, f"{total} tokens of {tpm} in the minute before {at}"


def nothing_leaves_in_an_announced_pause(story: Story) -> None:
    """From the moment a wait was heard until it is over nothing leaves for that quota owner, resumed or not."""
    for tries in _by_limiter(story):
        left = sorted((one.sent.left_at, one.intent.session) for one in tries if one.sent is not None)
        for told in tries:
            if told.sent is not None and told.sent.asks_to_wait_s is not None:
                _pause_is_kept(story, told, left)


def _pause_is_kept(story: Story, told: Try, left: Sequence[tuple[float, int]]) -> None:
    sent = told.sent
    assert sent is not None
    assert sent.heard_at is not None
    assert sent.asks_to_wait_s is not None
    # HTTP dates and decimal texts are rounded; the law is not about nanoseconds. A day is the most that is waited for.
    until = sent.heard_at + min(sent.asks_to_wait_s, 86_400.0) - 1e-6
    first = bisect_right(left, (sent.heard_at, len(story.virtual_run.ended) + 1))
    for left_at, session in left[first:]:
        if left_at >= until:
            return
        unknown = session != sent.session and (told.outcome is None or not told.outcome.kept)
        assert unknown, f"told at {sent.heard_at} to wait {sent.asks_to_wait_s} s, sent again at {left_at}"


def _by_limiter(story: Story) -> list[list[Try]]:
    """What was asked of each quota owner, cut where a sitting could not know of those before it."""
    owner = {target.name: target.quota_owner for target in story.virtual_run.targets}
    epoch = list(accumulate(ended.power_cut or ended.clock_set_forward for ended in story.virtual_run.ended))
    limiters: dict[Any, list[Try]] = defaultdict(list)
    for one in story.tries:
        session = one.intent.session
        # What is cut off here is cut before the sitting after the one it happened to.
        limiters[owner[one.intent.row[1]], 0 if session == 1 else epoch[session - 2]].append(one)
    return list(limiters.values())


# -- the table


def the_table_tells_the_story(story: Story) -> None:
    """One row for each planned turn, in order; every reply we hold in exactly one; attempts and doubts as they were."""
    run = load(story.virtual_run.path)
    rows = list(read_rows(run.turns_path, TOLD))
    keys = [(row[0], row[1], row[2], row[3]) for row in rows]
    assert keys == sorted(story.virtual_run.planned), f"rows: {sorted(set(keys) ^ set(story.virtual_run.planned))[:5]}"
    for key, row in zip(keys, rows, strict=True):
        _row_is_told(story, key, dict(zip(TOLD, row, strict=True)))


TOLD = (
    "dialogue_index", "target", "repeat", "turn", "status", "reply", "input_tokens", "output_tokens", "http_status",
    "attempts", "possibly_paid",
)  # fmt: skip


def _row_is_told(story: Story, row: Row, told: Mapping[str, Any]) -> None:
    tries = story.by_row.get(row, [])
    traces = [one.intent for one in tries] + [one.outcome for one in tries if one.outcome is not None]
    attempts = max((trace.plain["attempt"] for trace in traces if trace.kept), default=0)
    unsure = sum(
        one.kept_cls in POSSIBLY_PAID or (one.intent.kept and (one.outcome is None or not one.outcome.kept))
        for one in tries
    )
    assert (told["attempts"], told["possibly_paid"]) == (attempts, unsure), f"{row}: {told}, {attempts}, {unsure}"
    reply = story.replies.get(row)
    if told["status"] in NEEDS_A_REPLY:
        assert reply is not None, f"{row} is {told['status']} without a reply"
        usage = reply.plain["reply"]["usage"]
        expected = (reply.plain["reply"].get("text"), usage.get("input_tokens"), usage.get("output_tokens"), 200)
        found = (told["reply"], told["input_tokens"], told["output_tokens"], told["http_status"])
        assert tuple(map(_holdable, expected)) == found, f"{row}: {found}, journaled {expected}"
    elif reply is None:
        assert told["reply"] is None, f"{row} has a reply that nobody gave: {told}"
    else:
        state = story.states[row]
        assert told["status"] == "skipped" or reply.plain["reply"]["finish_reason"] == "error", f"{row} is {state}"


def _holdable(value: Any) -> Any:
    """What a column can hold of a value: no lone surrogates, no integers beyond 64 bits."""
    if isinstance(value, str):
        return re.sub("[\ud800-\udfff]", "\ufffd", value)
    return None if isinstance(value, int) and abs(value) >= 2**63 else value


ALWAYS = (
    every_answer_is_kept_once,
    what_was_synced_stands,
    nothing_finished_is_asked_again,
    ambiguous_tries_are_few,
    one_terminal_state_a_session,
    histories_are_the_journals,
    replies_are_durable_before_what_follows,
    places_are_kept_until_durable,
    one_request_at_a_time_a_conversation,
    no_limit_is_passed,
    nothing_leaves_in_an_announced_pause,
    nothing_leaves_after_the_word_to_end,
    the_table_tells_the_story,
)
"""Laws of every story, finished or not."""


def obeys(
    virtual_run: VirtualRun,
    *,
    finished: bool = True,
    faultless: bool = False,
    honest_usage: bool = True,
    honest_bills: bool = True,
) -> Story:
    """The story, after all laws were held against it.

    Args:
        virtual_run: What to judge.
        finished: It was played to its end.
        faultless: Servers and network did nothing wrong.
        honest_usage: No reply lied about its tokens.
        honest_bills: No server billed what it then called an error of its own.
    """
    story = Story(virtual_run)
    for law in ALWAYS:
        law(story)
    if honest_bills:
        nothing_is_paid_in_silence(story)
        the_bill_is_bounded(story, faultless=faultless)
    if honest_usage:
        tokens_are_the_ledgers(story)
        no_token_limit_is_passed(story)
    if finished:
        every_row_is_closed(story)
        if virtual_run.rules.history == "live":
            skipped_turns_stand_behind_an_end(story)
    return story
