"""What must hold after any played run, whatever happened on the way: the journal against the servers' ledgers.

The journal is read here line by line with a few lines of our own, not with the package's reader, and every request is
followed from its `intent` through the network into the ledger and back to its `outcome`. Each law says in its message
what broke it.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from convbatch.dialogue import Dialogue
from convbatch.simulator.ledger import Entry
from tests.played import EPOCH, Played, Sent

Row = tuple[int, str, int, int]
"""Dialogue index, target, repeat, turn."""
POSSIBLY_PAID = {"ambiguous", "timeout", "abandoned"}
NEEDS_A_REPLY = {"ok", "blocked", "empty"}


@dataclass(frozen=True, slots=True)
class Record:
    """One line of the journal."""

    plain: Mapping[str, Any]
    sitting: int
    durable_at: float
    """When it had survived a power cut for the first time; infinite for never."""

    @property
    def row(self) -> Row:
        """Whose it is."""
        return (self.plain["index"], self.plain["target"], self.plain["repeat"], self.plain["turn"])

    @property
    def seq(self) -> int:
        """Its place in the journal."""
        return self.plain["seq"]


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


class Story:
    """Everything that happened in a played run, in the journal's order."""

    def __init__(self, played: Played) -> None:
        self.played = played
        self.records = list(_records(played))
        self.tries = self._tries()
        self.by_row: dict[Row, list[Try]] = defaultdict(list)
        for one in self.tries:
            self.by_row[one.intent.row].append(one)
        self.states: dict[Row, str] = {}
        self.replies: dict[Row, Record] = {}
        """The outcome that counts for each row."""
        for record in self.records:
            self._fold(record)

    def of_kind(self, kind: str) -> list[Record]:
        """Records of one kind."""
        return [record for record in self.records if record.plain["kind"] == kind]

    def _tries(self) -> list[Try]:
        outcomes = {(o.row, o.plain["attempt"]): o for o in self.of_kind("outcome")}
        sent: dict[int, list[Sent]] = defaultdict(list)
        for one in self.played.sent:
            sent[one.sitting].append(one)
        tries: list[Try] = []
        begun: Counter[int] = Counter()
        for intent in self.of_kind("intent"):
            number = begun[intent.sitting]
            begun[intent.sitting] += 1
            mine = sent[intent.sitting][number] if number < len(sent[intent.sitting]) else None
            tries.append(Try(intent, mine, outcomes.get((intent.row, intent.plain["attempt"]))))
        for sitting, requests in sent.items():
            assert len(requests) <= begun[sitting], f"a request left without an intent in sitting {sitting}"
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
        for row in self.played.planned:
            reply = self.replies.get(row)
            state = self.states.get(row, "pending")
            found[row] = (state, None if reply is None or state in {"error", "skipped"} else reply.plain["reply"])
        return found


def _records(played: Played) -> Iterator[Record]:
    durable = _Durable(played)
    began = [EPOCH + sat.began for sat in played.sat]
    for path in sorted((played.path / "journal").glob("*.jsonl")):
        end = 0
        for line in path.read_bytes().splitlines(keepends=True):
            end += len(line)
            if not line.endswith(b"\n"):
                return  # torn by the last kill
            plain = json.loads(line)  # not orjson: a reply may hold lone surrogates
            yield Record(plain, bisect_right(began, plain["at"]), durable.since(path.name, end))


class _Durable:
    """From when on how much of each segment would have survived."""

    def __init__(self, played: Played) -> None:
        self._sizes: dict[str, list[int]] = defaultdict(list)
        self._times: dict[str, list[float]] = defaultdict(list)
        for synced in played.synced:
            name = synced.path.name
            if not self._sizes[name] or synced.size > self._sizes[name][-1]:
                self._sizes[name].append(synced.size)
                self._times[name].append(synced.at)

    def since(self, name: str, size: int) -> float:
        at = bisect_left(self._sizes[name], size)
        return self._times[name][at] if at < len(self._times[name]) else float("inf")


# -- nothing received is lost, nothing is paid twice in silence


def every_answer_is_kept_once(story: Story) -> None:
    """A complete answer that reached the client is in the journal, once; only a kill in that very write may lose it."""
    numbers = Counter((o.row, o.plain["attempt"]) for o in story.of_kind("outcome"))
    assert max(numbers.values(), default=1) == 1, f"two outcomes of one attempt: {numbers.most_common(1)}"
    lost: Counter[int] = Counter()
    for one in story.tries:
        if one.sent is not None and one.sent.heard_at is not None:
            if one.outcome is None:
                lost[one.sent.sitting] += 1
            elif one.sent.status is not None:
                kept = one.outcome.plain.get("http_status")
                assert kept == one.sent.status, f"heard {one.sent.status}, journaled {kept}: {one.intent.plain}"
    for sitting, times in lost.items():
        assert story.played.sat[sitting - 1].killed, f"{times} answers were lost in sitting {sitting}: no kill"
        assert times == 1, f"{times} answers were lost in sitting {sitting}: one kill tears one write"


def nothing_is_paid_in_silence(story: Story) -> None:
    """Whatever a server billed is a reply we hold, or told as possibly paid; nothing was billed behind our back."""
    told: set[int] = set()
    for one in story.tries:
        if one.entry is not None and one.entry.billed:
            told.add(id(one.entry))
            honest = one.cls is None or one.cls == "replied" or one.cls in POSSIBLY_PAID
            assert honest, f"billed, but journaled as {one.cls}: {one.outcome}"
    silent = [entry for entry in story.played.ledger() if entry.billed and id(entry) not in told]
    assert not silent, f"{len(silent)} billed requests are in no journal: {silent[0]}"


def the_bill_is_bounded(story: Story, *, faultless: bool) -> None:
    """Billed <= complete replies + ambiguous attempts + kills x in flight; without faults and kills: one a turn."""
    billed = sum(entry.billed for entry in story.played.ledger())
    replied = sum(one.cls == "replied" for one in story.tries)
    unsure = sum(one.cls in POSSIBLY_PAID for one in story.tries)
    cut_off = sum(sat.in_flight for sat in story.played.sat)
    torn = sum(sat.killed for sat in story.played.sat)
    assert billed <= replied + unsure + cut_off + torn, f"{billed} billed, {replied} + {unsure} + {cut_off} + {torn}"
    if faultless and not cut_off and not torn:
        assert billed == len(story.played.planned), f"{billed} billed for {len(story.played.planned)} turns"


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
        elif record.plain["kind"] == "intent":
            assert record.row not in finished, f"finished at {finished[record.row].plain}, asked: {record.plain}"


def ambiguous_tries_are_few(story: Story) -> None:
    """In one sitting a turn is asked once more after an ambiguous end, and never after our own timeout."""
    per_turn: dict[tuple[Row, int], list[str]] = defaultdict(list)
    for one in story.tries:
        if one.cls in POSSIBLY_PAID:
            per_turn[one.intent.row, one.intent.sitting].append(one.cls or "")
    for (row, sitting), classes in per_turn.items():
        assert len(classes) <= 2, f"{row} ended ambiguously {len(classes)} times in sitting {sitting}: {classes}"
        assert "timeout" not in classes[:-1], f"{row} was sent again after our own timeout: {classes}"


# -- rows, order and histories


def every_row_is_closed(story: Story) -> None:
    """Each planned row has a terminal state, and no other row has any."""
    rows = set(story.played.planned)
    assert rows == set(story.states), f"open or unknown rows: {sorted(rows ^ set(story.states))[:5]}"
    for row, state in story.states.items():
        if state in NEEDS_A_REPLY:
            assert row in story.replies, f"{row} is {state} without a reply"


def skipped_turns_stand_behind_an_end(story: Story) -> None:
    """In `live` history a turn is skipped if and only if one before it did not end ok; for finished runs."""
    ended: dict[tuple[int, str, int], Row] = {}
    for row in story.played.planned:
        plain = story.states[row]
        reply = story.replies.get(row)
        state = plain if plain != "replied" or reply is None or reply.plain["reply"].get("text") else "empty"
        assert (state == "skipped") == (row[:3] in ended), f"{row} is {state}, and before it: {ended.get(row[:3])}"
        if state not in {"ok", "replied"}:
            ended.setdefault(row[:3], row)


def nothing_leaves_after_the_word_to_end(story: Story) -> None:
    """After a signal, a deadline or a cancellation no further request is sent in that sitting."""
    for sent in story.played.sent:
        told_at = story.played.sat[sent.sitting - 1].told_to_end_at
        assert sent.left_at <= told_at + 1e-6, f"told to end at {told_at}, sent at {sent.left_at}"


def one_terminal_state_a_sitting(story: Story) -> None:
    """No sitting decides about a row twice."""
    turns = Counter((turn.row, turn.sitting) for turn in story.of_kind("turn"))
    assert max(turns.values(), default=1) == 1, f"decided twice: {turns.most_common(1)}"


def histories_are_the_journals(story: Story) -> None:
    """A request holds its own dialogue's turns, all of them, in order, byte-equal to the journal of that moment."""
    for one in story.tries:
        if one.entry is not None and one.entry.history is not None:
            expected = _expected_history(story, one.intent)
            assert one.entry.history == expected, f"{one.intent.row} sent {one.entry.history}\n  not {expected}"


def _expected_history(story: Story, intent: Record) -> list[list[str]]:
    index, target, repeat, number = intent.row
    dialogue = story.played.dialogues[index]
    messages = [["system", dialogue.system]] if dialogue.system else []
    for at in range(1, number + 1):
        messages.append(["user", dialogue.turns[at - 1].user_text])
        if at < number:
            messages.append(["model", _model_word(story, dialogue, intent, (index, target, repeat, at))])
    return messages


def _model_word(story: Story, dialogue: Dialogue, intent: Record, row: Row) -> str:
    turn = dialogue.turns[row[3] - 1]
    if story.played.rules.history != "live" or not turn.ask:
        return turn.assistant or ""
    kept = [
        one.outcome
        for one in story.by_row[row]
        if one.cls == "replied" and one.outcome is not None and one.outcome.seq < intent.seq
    ]
    assert kept, f"{intent.row} was asked before turn {row[3]} had a reply"
    return kept[-1].plain["reply"]["text"]


def replies_are_durable_before_what_follows(story: Story) -> None:
    """No request leaves before every reply its history rests on would survive a power cut."""
    for one in story.tries:
        if one.sent is None or one.intent.row[3] == 1:
            continue
        before = (*one.intent.row[:3], one.intent.row[3] - 1)
        kept = [o.outcome for o in story.by_row[before] if o.outcome is not None and o.outcome.seq < one.intent.seq]
        if kept:
            durable_at = kept[-1].durable_at
            assert durable_at <= one.sent.left_at, f"{one.intent.row} left at {one.sent.left_at} < {durable_at}"


def places_are_kept_until_durable(story: Story) -> None:
    """No more requests of a target at once than it has places; a place is free when the outcome is durable."""
    for target in {one.intent.row[1] for one in story.tries}:
        for sat in story.played.sat:
            mine = [one for one in story.tries if one.intent.sitting == sat.number and one.intent.row[1] == target]
            most = _most_at_once(mine)
            assert most <= _places(story, target), f"{most} at once in flight at {target}"


def _places(story: Story, target: str) -> int:
    limit = next(t.gateway.limits.concurrency for t in story.played.targets if t.name == target)
    asked = story.played.rules.concurrency
    return min(n for n in (asked, limit) if n is not None) if (asked, limit) != (None, None) else 16


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
        by_conversation[one.intent.sitting, one.intent.row[:3]].append(one)
    for tries in by_conversation.values():
        for former, latter in pairwise(tries):
            assert former.outcome is not None, f"asked while unanswered: {former.intent.plain}"
            assert former.outcome.seq < latter.intent.seq, f"overlapping: {former.intent.plain}"


# -- limits and pauses


def no_window_is_overfull(sent: Iterable[Sent], count: int, window_s: float) -> None:
    """No window of this length, wherever it begins, holds more arrivals at the server."""
    arrivals = sorted(one.arrived_at for one in sent if one.arrived_at is not None)
    for at in range(len(arrivals) - count):
        span = arrivals[at + count] - arrivals[at]
        assert span >= window_s, f"{count + 1} arrivals within {span} s, from {arrivals[at]} s on"


def nothing_leaves_in_an_announced_pause(story: Story) -> None:
    """From the moment a wait was heard until it is over nothing leaves for that host, model and sitting."""
    for tries in _by_gate(story).values():
        heard = [one.sent for one in tries if one.sent is not None and one.sent.asks_to_wait_s is not None]
        for told in heard:
            assert told.heard_at is not None
            assert told.asks_to_wait_s is not None
            # HTTP dates and decimal texts are rounded; the law is not about nanoseconds.
            until = told.heard_at + told.asks_to_wait_s - 1e-6
            early = [o.sent.left_at for o in tries if o.sent is not None and told.heard_at < o.sent.left_at < until]
            assert not early, f"told at {told.heard_at} to wait {told.asks_to_wait_s} s, sent again at {early[0]}"


def _by_gate(story: Story) -> dict[tuple[int, str], list[Try]]:
    gates: dict[tuple[int, str], list[Try]] = defaultdict(list)
    for one in story.tries:
        gates[one.intent.sitting, one.intent.row[1]].append(one)
    return gates


ALWAYS = (
    every_answer_is_kept_once,
    nothing_is_paid_in_silence,
    nothing_finished_is_asked_again,
    ambiguous_tries_are_few,
    one_terminal_state_a_sitting,
    histories_are_the_journals,
    replies_are_durable_before_what_follows,
    places_are_kept_until_durable,
    one_request_at_a_time_a_conversation,
    nothing_leaves_in_an_announced_pause,
    nothing_leaves_after_the_word_to_end,
)
"""Laws of every story, finished or not."""


def obeys(played: Played, *, finished: bool = True, faultless: bool = False, honest_usage: bool = True) -> Story:
    """The story, after all laws were held against it.

    Args:
        played: What to judge.
        finished: It was played to its end.
        faultless: Servers and network did nothing wrong.
        honest_usage: No reply lied about its tokens.
    """
    story = Story(played)
    for law in ALWAYS:
        law(story)
    the_bill_is_bounded(story, faultless=faultless)
    if honest_usage:
        tokens_are_the_ledgers(story)
    if finished:
        every_row_is_closed(story)
        if played.rules.history == "live":
            skipped_turns_stand_behind_an_end(story)
    return story
