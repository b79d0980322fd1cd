"""What the coordinator and its workers tell each other, and how it is packed.

Messages travel in batches, because a call between processes costs the same for one byte and for 64 KB. They are
pickled: both sides are processes of one run and one version (`ray_cluster.py` checks it), and nothing from outside is
read this way. A record of the journal is encoded where it is made (`EncodedRecord`), so that the coordinator only adds
its number, time and checksum.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal, NamedTuple

import orjson

from convbatch.dialogue import Dialogue
from convbatch.engine.call import Call
from convbatch.engine.retry import Step
from convbatch.engine.throttling import Dimension, Signal
from convbatch.journal.records import Record, decode_line, numbered_line
from convbatch.reply import Attempt, Status

_EXACT = b',"exact":true'


class EncodedRecord(NamedTuple):
    """A record without its number, time and checksum."""

    kind: str
    fields: bytes
    """All other fields, as they stand in the line."""

    @classmethod
    def of(cls, record: Mapping[str, Any] | Record) -> EncodedRecord:
        """Encode a record."""
        if isinstance(record, Record):
            if record.head.encoded is not None:
                try:
                    return cls(record.kind, b"%b,%b" % (record.head.encoded, orjson.dumps(record.fields)[1:-1]))
                except TypeError:
                    pass
            record = {"kind": record.kind, **record.head.fields, **record.fields}
        rest = {name: value for name, value in record.items() if name != "kind"}
        try:
            return cls(record["kind"], orjson.dumps(rest)[1:-1])
        except TypeError:
            # as in `journal.records`: integers beyond 64 bits and lone surrogates
            text = json.dumps(rest, ensure_ascii=True, separators=(",", ":"))
            return cls(record["kind"], text.encode("ascii")[1:-1] + _EXACT)

    def at(self, wall: float) -> bytes:
        """Return all of the line that follows the number and precedes the checksum."""
        return b'"kind":"%b","at":%b,%b' % (self.kind.encode(), orjson.dumps(wall), self.fields)

    def decoded(self) -> dict[str, Any]:
        """Return the record, with a number and a time of 0."""
        return decode_line(numbered_line(0, self.at(0.0)))


# From the coordinator to a worker.


class Lease(NamedTuple):
    """A conversation to run."""

    number: int
    dialogue: Dialogue
    place: int
    """Position of the dialogue in the run's copy of the dataset, from 0."""
    repeat: int
    past: Mapping[int, Any]
    """Its turns in earlier sessions, and at a worker that was lost: `journal.index.TurnHistory` by turn number."""


class Work(NamedTuple):
    """Conversations of one target."""

    target: str
    leases: list[Lease]


class LimiterState(NamedTuple):
    """What a worker must know of a rate limiter that is at the coordinator."""

    counts_tokens: bool
    tpm: int | None
    held_s: float


class Granted(NamedTuple):
    """A request may be sent now; its intent is in the journal."""

    ticket: int
    at: float
    """Monotonic seconds of the coordinator."""
    is_probe: bool
    in_flight: int
    state: LimiterState


class Refused(NamedTuple):
    """A request may not be sent."""

    ticket: int
    why: Literal["closed", "stalled", "budget"]
    text: str


class Found(NamedTuple):
    """The answer to `Wanted`."""

    number: int
    value: Any
    """None if there is nothing."""


class Durable(NamedTuple):
    """All records up to the group of this number are durable."""

    number: int


class JournalFailed(NamedTuple):
    """No further record can be written."""

    text: str


class Stop(NamedTuple):
    """Send no more; finish what is in flight."""

    reason: Any


class Abandon(NamedTuple):
    """Cancel what is in flight."""


class Suspend(NamedTuple):
    """Another worker found that a target cannot be asked."""

    target: str
    reason: str
    of_account: bool


class Finish(NamedTuple):
    """There is no more work."""


# From a worker to the coordinator.


class Asked(NamedTuple):
    """A request waits for admission."""

    ticket: int
    target: str
    lease: int
    intent: EncodedRecord
    tokens: int
    size: Mapping[str, int]


class Cancelled(NamedTuple):
    """A request waits no longer."""

    ticket: int


class Settled(NamedTuple):
    """`Permit.settle`."""

    ticket: int
    tokens: int


class Refunded(NamedTuple):
    """`Permit.refund`."""

    ticket: int
    never_left: bool


class Reported(NamedTuple):
    """`RateLimiter.report`."""

    ticket: int
    signal: Signal
    retry_after_s: float | None
    counted: Dimension


class Stated(NamedTuple):
    """`RateLimiter.use_stated`."""

    target: str
    requests: tuple[int, float] | None
    tokens: tuple[int, float] | None
    may_lower: bool


class Spent(NamedTuple):
    """`Reservation.settle`."""

    ticket: int
    amounts: Sequence[Fraction | int | None] | None
    """One for each cap; None = unknown."""


class Released(NamedTuple):
    """`Permit.release`, of a request whose outcome is durable or that was not sent."""

    ticket: int
    is_sent: bool


class Records(NamedTuple):
    """A group of records to write; the answer is `Durable`."""

    number: int
    lease: int
    ticket: int | None
    """Whose place in flight is free once the group is durable."""
    records: list[EncodedRecord]


class RowDone(NamedTuple):
    """A row of a conversation has reached a terminal state, in the order of its turns."""

    lease: int
    status: Status
    is_closed: bool
    before: bool


class Sending(NamedTuple):
    """`Listener.sending`, for the log."""

    call: Call


class Attempted(NamedTuple):
    """`Listener.attempt_done`, of a failure or for the log."""

    call: Call
    attempt: Attempt
    step: Step | None


class ReusableTurn(NamedTuple):
    """A reply of the run of `--reuse`: `ReplySource.turn_by_key`."""

    key: str
    repeat: int


class StoredMedia(NamedTuple):
    """A content of the run folder."""

    path: str
    """`media/<sha256>.<extension>`."""


class Wanted(NamedTuple):
    """A worker needs what only the coordinator reads; the answer is `Found`."""

    number: int
    what: ReusableTurn | StoredMedia


class Ended(NamedTuple):
    """A conversation has no more turns at this worker."""

    lease: int


class Suspended(NamedTuple):
    """A target cannot be asked."""

    target: str
    reason: str
    of_account: bool


class Note(NamedTuple):
    """A note to the user."""

    text: str


class Bug(NamedTuple):
    """Traceback of an internal error."""

    text: str


class Stopped(NamedTuple):
    """The worker stopped by itself."""

    reason: Any


class Bye(NamedTuple):
    """The worker has ended; nothing follows."""


def pack(value: Any) -> bytes:
    """Return a value as bytes."""
    return pickle.dumps(value, protocol=5)


def unpack(data: bytes) -> Any:
    """Return the value that `pack` got, in a process of the same run."""
    return pickle.loads(data)
