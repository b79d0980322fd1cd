"""`TurnResult`: a row of `turns` as a typed value; and `LiveTurns`, which makes them while a run goes on.

The values are those of the table, filled by the same functions (`columns.py`), so a result that was streamed is equal
to the one that `Run.results` reads later. Unread results are kept nowhere: they are read from the journal when they are
asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import orjson

from convbatch.dataset.snapshot import read_copy
from convbatch.dialogue import Dialogue
from convbatch.journal.index import TurnHistory
from convbatch.journal.records import read_record
from convbatch.journal.run_folder import RunFolder
from convbatch.journal.stream import JournalStream
from convbatch.results.columns import TURNS, Row, row_builder
from convbatch.results.conversations import ConversationId, StoredConversation, gateway_of
from convbatch.results.rows import judged_conversations
from convbatch.results.verdicts import ConversationResult

_READ_LINES = 256
"""Journal lines that are looked at in one piece."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnResult:
    """One asked turn of one dialogue at one target: a row of `run.turns`, with the names of its columns.

    >>> first, second = run.results()
    >>> first.reply, first.passed, second.passed
    ('Paris.', True, None)

    None is what is null in the table: unknown, or not applicable; docs/tables.md has the meaning and unit of each
    column. Seconds end in `_s`, money is in `currency`. `tags` are a tuple, `tool_calls` and `media` are parsed.
    """

    run: str
    dialogue: str
    dialogue_index: int
    """From 0."""
    target: str
    """`model@gateway`, with `#variant` if it has one."""
    model: str
    gateway: str
    variant: str | None
    repeat: int
    """From 1."""
    turn: int
    """From 1."""
    tags: tuple[str, ...]
    status: str
    """`ok`, `blocked`, `empty`, `error`, `skipped` or `pending`."""
    user: str
    reply: str | None
    thought: str | None
    tool_calls: tuple[Mapping[str, Any], ...] | None
    """Each with `id`, `name` and `arguments`."""
    media: tuple[str, ...] | None
    """Paths, relative to the run folder."""
    steps: int | None
    finish_reason: str | None
    """`stop`, `length`, `content_filter`, `tool_call`, `error` or `other`."""
    finish_reason_raw: str | None
    blocked: str | None
    input_tokens: int | None
    cached_input_tokens: int | None
    cache_write_input_tokens: int | None
    output_tokens: int | None
    reasoning_tokens: int | None
    total_tokens: int | None
    service_tier: str | None
    mean_logprob: float | None
    usage_source: str | None
    usage_consistent: bool | None
    cost: float | None
    currency: str | None
    price_source: str | None
    cache_saving: float | None
    failed_cost: float | None
    possibly_paid_bound: float | None
    possibly_paid_unbounded: int
    model_version: str | None
    served_as_asked: bool | None
    response_id: str | None
    request_id: str | None
    http_status: int | None
    wire_note: str | None
    attempts: int
    possibly_paid: int
    limiter_wait_s: float | None
    retry_wait_s: float | None
    latency_s: float | None
    ttft_s: float | None
    chunks: int | None
    itl_p50_s: float | None
    itl_p95_s: float | None
    started_at: datetime | None
    error_kind: str | None
    error_message: str | None
    reused_from: str | None
    checks_passed: int | None
    checks_failed: int | None
    checks_without_verdict: int | None
    score: float | None

    def __repr__(self) -> str:
        named = ((name, getattr(self, name)) for name in NAMES)
        known = ", ".join(f"{name}={value!r}" for name, value in named if value is not None and value != ())
        return f"TurnResult({known})"

    @property
    def passed(self) -> bool | None:
        """Whether all checks of the turn passed; None without checks, or while a verdict is open."""
        if self.checks_failed:
            return False
        return True if self.checks_passed and not self.checks_without_verdict else None

    @classmethod
    def from_row(cls, row: Row) -> TurnResult:
        """Build a result from a row of `turns`."""
        cells: dict[str, Any] = dict(zip(NAMES, row, strict=True))
        for name in ("tool_calls", "media"):
            if cells[name] is not None:
                cells[name] = tuple(orjson.loads(cells[name]))
        cells["tags"] = tuple(cells["tags"])
        return cls(**cells)


NAMES = tuple(field.name for field in dataclasses.fields(TurnResult))
"""Columns of `turns`, in order."""


class LiveTurns:
    """Makes the results of a new run from its journal, in the order in which its turns ended.

    Memory holds the records of turns that have not ended, and the dialogues of conversations that have not.

    Args:
        folder: The run folder; its writer is active.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._manifest = folder.read_manifest()
        self._run = self._manifest.run or folder.name
        self._stream = JournalStream(folder)
        self._open: dict[tuple[int, str, int, int], TurnHistory] = {}
        times = 1 if self._manifest.options.in_rounds else self._manifest.repeats
        self._targets = {one.name: (one, _OpenDialogues(folder, times)) for one in self._manifest.targets}
        self._row = row_builder(TURNS)

    def close(self) -> None:
        """Close the files that are read."""
        self._stream.close()
        for _, dialogues in self._targets.values():
            dialogues.close()

    def read(self) -> Iterator[TurnResult]:
        """Yield the results of the turns whose end was written since the last call, up to a bound.

        Raises:
            BrokenStream: The journal is damaged, or was replaced.
            OSError: It cannot be read.
        """
        for line in self._stream.lines(_READ_LINES):
            record = read_record(line.raw)
            if record["kind"] in ("intent", "outcome", "turn") and record.get("role", "model") == "model":
                ended = self._add(record)
                if ended is not None:
                    yield ended

    def _add(self, record: dict[str, Any]) -> TurnResult | None:
        key = record["index"], record["target"], record["repeat"], record["turn"]
        past = self._open.get(key)
        if past is None:
            past = self._open[key] = TurnHistory(turn=key[3])
        past.add(record)
        if record["kind"] != "turn":
            return None
        del self._open[key]
        return self._result(*key[:3], past)

    def _result(self, index: int, name: str, repeat: int, past: TurnHistory) -> TurnResult:
        manifest, number = self._manifest, past.turn
        target, dialogues = self._targets[name]
        dialogue = dialogues.turn_ended(index, len(dialogues.get(index).asked(manifest.history)))
        variant = None if target.variant is None else target.variant.name
        gateway = gateway_of(target)
        turns = {number: past}
        # Without the checks on the whole dialogue, which needs all its turns.
        judged = replace(target.asked(dialogue), checks=())
        stored = StoredConversation(
            dialogue=target.asked(dialogue),
            target=target,
            id=ConversationId(self._run, dialogue.id, index, name, target.model, gateway, variant, repeat),
            turns=turns,
            asked=turns,
            judge_calls=(),
            result=ConversationResult(
                dialogue=judged,
                target=name,
                repeat=repeat,
                turns=turns,
                history=manifest.history,
                recorded=target,
                rates=manifest.rates,
                judge_calls={},
            ),
        )
        ((asked, _),) = judged_conversations([stored])
        (source,) = asked
        return TurnResult.from_row(self._row(source))


class _OpenDialogues:
    """The dialogues of one target's open conversations, read in the order in which it asks them.

    Args:
        folder: The run folder.
        times: How often a dialogue is asked before it can be forgotten.
    """

    def __init__(self, folder: RunFolder, times: int) -> None:
        self._folder = folder
        self._times = times
        self._known: dict[int, Dialogue] = {}
        self._left: dict[int, int] = {}
        """Turns of each known dialogue that have not ended."""
        self._next = 0
        self._rest: Iterator[tuple[int, Dialogue]] = iter(())

    def close(self) -> None:
        """Close the copy of the dataset."""
        self._rest = iter(())

    def get(self, index: int) -> Dialogue:
        """Return a dialogue; read on, or again from the start, until it comes."""
        if index not in self._known and (index < self._next or self._next == 0):
            self._rest, self._next = read_copy(self._folder.dataset), 0
        while index not in self._known:
            found, dialogue = next(self._rest)
            self._next = found + 1
            self._known[found] = dialogue
        return self._known[index]

    def turn_ended(self, index: int, asked: int) -> Dialogue:
        """Return a dialogue one of whose turns ended; forget it after the last one of them.

        Args:
            index: Of the dialogue.
            asked: How many of its turns are asked.
        """
        dialogue = self.get(index)
        left = self._left.pop(index, asked * self._times) - 1
        if left:
            self._left[index] = left
        else:
            del self._known[index]
        return dialogue
