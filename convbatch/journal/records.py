"""Lines of the journal: their bytes and checksum, and how to read files of such lines after any accident.

`writer.py` appends such lines, `index.py` reads them. This module does not know what the records mean (the fold into
turns) and opens no file for writing.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from convbatch.errors import Place, SetupError
from convbatch.journal.record_schema import wrong_field

RECORD_VERSION = 1
_CHECKSUM = b',"crc":'
_TAIL = len(_CHECKSUM) + len("4294967295}\n")
_HEAD = b'{"v":%d,"seq":' % RECORD_VERSION
_RUN = b',"kind":"run",'
_EXACT = b',"exact":true'
"""Marker before the checksum of a line that orjson could not write: only `json` decodes its integers exactly."""
_STARTS = re.compile(rb'\{"v":\d+,"seq":')
_MAX_LISTED = 1000
_MAX_DIGITS = 18
"""Of a record number: nineteen digits may exceed 64 bits."""


class RecordHead(NamedTuple):
    """The first fields of several records, such as those of one turn, encoded once."""

    fields: Mapping[str, Any]
    encoded: bytes | None
    """JSON of the fields without braces; None where orjson cannot write it, or where a later field may be the same."""


class Record(NamedTuple):
    """A record of a kind: the fields of a head, and fields of its own."""

    kind: str
    head: RecordHead
    fields: dict[str, Any]


def encode_line(seq: int, at: float, record: Mapping[str, Any] | Record) -> bytes:
    """Encode one record as a line, newline included.

    Args:
        seq: Record number, consecutive over all segments of a run folder.
        at: Unix seconds UTC.
        record: `kind` and the other fields.
    """
    return numbered_line(seq, encode_fields(at, record))


def encode_fields(at: float, record: Mapping[str, Any] | Record) -> bytes:
    """Encode all of a record that follows its number and precedes its checksum."""
    if isinstance(record, Record):
        if record.head.encoded is not None:
            try:
                rest = orjson.dumps(record.fields)
            except TypeError:
                pass
            else:
                return b'"kind":"%b","at":%b,%b,%b' % (
                    record.kind.encode(), orjson.dumps(at), record.head.encoded, rest[1:-1],
                )  # fmt: skip
        record = {"kind": record.kind, **record.head.fields, **record.fields}
    value = {"kind": record["kind"], "at": at, **record}
    value.pop("v", None)  # of a record that was read; the version of a line is this one
    try:
        return orjson.dumps(value)[1:-1]
    except TypeError:
        # orjson refuses integers beyond 64 bits and lone surrogates; a gateway may send both.
        return json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode("ascii")[1:-1] + _EXACT


def numbered_line(seq: int, fields: bytes) -> bytes:
    """Return the line of a record from what `encode_fields` returned."""
    prefix = b"%b%d,%b" % (_HEAD, seq, fields)
    return b'%b,"crc":%d}\n' % (prefix, zlib.crc32(prefix))


def encode_head(fields: Mapping[str, Any]) -> RecordHead:
    """Encode fields that several records begin with, none of which is a field of their own."""
    try:
        return RecordHead(fields, orjson.dumps(fields)[1:-1])
    except TypeError:
        return RecordHead(fields, None)


def decode_line(line: bytes) -> dict[str, Any]:
    """Decode the record of an intact line, `crc` included; the newline is optional."""
    if line.rfind(_EXACT + _CHECKSUM, -_TAIL - len(_EXACT)) < 0:
        return orjson.loads(line)
    return json.loads(line)


def read_record(line: bytes) -> dict[str, Any]:
    """Decode a line and check its fields, because a valid checksum does not prove that convbatch wrote it.

    Raises:
        SetupError: The line has a valid checksum but convbatch cannot have written it.
    """
    try:
        record = decode_line(line)
    except (ValueError, RecursionError):
        raise _foreign_record(line, "not JSON") from None
    if (wrong := wrong_field(record)) is not None:
        raise _foreign_record(line, f"{wrong!r} is missing or wrong")
    return record


def _foreign_record(line: bytes, found: str) -> SetupError:
    number = _seq(line)
    return SetupError(
        f"record {number} of the journal is not as convbatch writes it"
        if number is not None
        else "not a record of a convbatch journal",
        found=f"{found}; the checksum is valid, so it was written this way",
        hint="another program created or changed this run folder: ask the person who gave it to you",
    )


def seq_of(line: bytes) -> int | None:
    """Return the record number of a line, newline included; None when the line is damaged.

    Raises:
        SetupError: The line is intact and was written by a newer version.
    """
    cut = line.rfind(_CHECKSUM, -_TAIL)
    digits = line[cut + len(_CHECKSUM) : -2]
    if cut < 0 or line[-2:] != b"}\n" or not digits.isdigit() or int(digits) != zlib.crc32(line[:cut]):
        return None
    if not line.startswith(_HEAD):
        return _refuse_newer(line)
    return _seq(line)


def _seq(line: bytes) -> int | None:
    digits = line[len(_HEAD) : line.find(b",", len(_HEAD))]
    return int(digits) if digits.isdigit() and len(digits) <= _MAX_DIGITS else None


def _refuse_newer(line: bytes) -> None:
    version = re.match(rb'\{"v":(\d{1,9}),', line)
    if version is not None and int(version[1]) > RECORD_VERSION:
        raise SetupError(
            f"the journal is of version {int(version[1])}; this convbatch reads up to version {RECORD_VERSION}",
            hint="upgrade convbatch to the version that wrote this run folder (run.json names it)",
        )


class JournalEnd(NamedTuple):
    """The last durable record when `run.json` was written; a journal without it was cut or replaced from outside."""

    seq: int
    crc: int


def checksum_of(line: bytes) -> int:
    """Return the checksum that an intact line carries, newline included."""
    return int(line[line.rfind(_CHECKSUM) + len(_CHECKSUM) : -2])


class JournalLine(NamedTuple):
    """An intact line and its position."""

    seq: int
    segment: int
    """Position in the list of segments, from 0."""
    offset: int
    raw: bytes
    """The bytes, newline included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """One damaged place in the journal."""

    place: Place
    what: str

    def __str__(self) -> str:
        return f"{self.place}: {self.what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Torn:
    """A last line that was cut off while it was written."""

    kept: int
    """Length of the segment up to and including its last intact record."""
    cut: int
    """Bytes after that."""
    needs_newline: bool
    """The last intact record lost its newline."""


@dataclass(slots=True)
class Gap:
    """Missing record numbers, first and last included."""

    first: int
    last: int
    damage: Damage | None
    """None when damaged lines explain the gap."""


class JournalScan:
    """One pass over the segments of a journal: iterate `lines()` to the end, then read the findings.

    Memory does not grow with the journal: the list of damage stops at 1,000 entries, the count does not.
    """

    def __init__(self, segments: Sequence[Path], end: JournalEnd | None = None) -> None:
        """Args: segments: The files, in order. end: The record that must be among theirs."""
        self.segments = segments
        self._end = end
        self._holds_end = end is None
        self.next_seq = 0
        self.runs: list[dict[str, Any]] = []
        self.torn: Torn | None = None
        self.damaged_segments: set[int] = set()
        self._bad: list[Damage] = []
        self._bad_count = 0
        self._gaps: list[Gap] = []
        self._after_damage = False
        """Whether a damaged line follows the last intact one."""
        self._where = Place(path="")

    def lines(self) -> Iterator[JournalLine]:
        """Yield every intact line whose number is in sequence.

        Raises:
            OSError: A segment cannot be read.
            SetupError: A newer convbatch wrote this journal.
        """
        for segment, path in enumerate(self.segments):
            offset = number = 0
            with path.open("rb", buffering=1 << 20) as file:
                for raw in file:
                    number += 1
                    seq = seq_of(raw)
                    if seq is not None and seq == self.next_seq and not self._after_damage:
                        self.next_seq = seq + 1
                        if self._end is not None and seq == self._end.seq:
                            self._holds_end = checksum_of(raw) == self._end.crc
                        if raw.startswith(_RUN, raw.find(b",", len(_HEAD))):
                            self.runs.append(read_record(raw))
                        yield JournalLine(seq, segment, offset, raw)
                    else:
                        self._where = Place(path=str(path), line=number)
                        yield from self._examine(raw, seq, segment, offset)
                    offset += len(raw)

    @property
    def damage(self) -> list[Damage]:
        """Damage that no earlier salvage accepted."""
        found = self._bad + [gap.damage for gap in self.open_gaps if gap.damage is not None]
        found += [] if self.lost_end is None else [self.lost_end]
        return sorted(found, key=lambda damage: (damage.place.path, damage.place.line or 0))[:_MAX_LISTED]

    @property
    def damage_count(self) -> int:
        """Number of damaged places, including those beyond the list's end."""
        lost = self.lost_end is not None
        return self._bad_count + sum(gap.damage is not None for gap in self.open_gaps) + lost

    @property
    def lost_end(self) -> Damage | None:
        """The damage that no line shows: an end that was cut off between two records, or another journal."""
        if self._end is None or self._holds_end or self._bad_count or self._gaps:
            return None
        place = Place(path=str(self.segments[-1]) if self.segments else "journal")
        if self.next_seq <= self._end.seq:
            what = f"records {self.next_seq} to {self._end.seq} are missing at the end; was an older copy put here?"
        else:
            what = f"record {self._end.seq} is not the one of this run; was the journal of another run put here?"
        return Damage(place=place, what=what)

    @property
    def open_gaps(self) -> list[Gap]:
        """Gaps that no `run` record has accepted."""
        accepted = [gap for run in self.runs for gap in run.get("accepted_gaps", ())]
        return [g for g in self._gaps if not any(first <= g.first and g.last <= last for first, last in accepted)]

    def _examine(self, raw: bytes, seq: int | None, segment: int, offset: int) -> Iterator[JournalLine]:
        if seq is not None:
            yield from self._out_of_step(JournalLine(seq, segment, offset, raw))
            return
        pieces = list(_intact_pieces(raw))
        last = segment == len(self.segments) - 1
        if last and not raw.endswith(b"\n") and self._may_be_torn(raw, [start for start, _ in pieces]):
            # A line without an end is only left by a writer that was stopped during a write, at the end of the journal.
            whole = len(pieces[0][1]) - 1 if pieces else 0
            self.torn = Torn(kept=offset + whole, cut=len(raw) - whole, needs_newline=bool(pieces))
        else:
            self._damaged(segment, _name_damage(raw, len(pieces)))
        for start, piece in pieces:
            number = seq_of(piece)
            if number is not None:
                yield from self._out_of_step(JournalLine(number, segment, offset + start, piece))

    def _may_be_torn(self, raw: bytes, starts: list[int]) -> bool:
        # In a file without a whole record, only the start of one (or zeros, from a power cut) can be a torn line.
        begun = self.next_seq > 0 or _HEAD.startswith(raw[: len(_HEAD)]) or not raw.strip(b"\0")
        return starts == [0] or (begun and not starts)

    def _out_of_step(self, line: JournalLine) -> Iterator[JournalLine]:
        if line.seq < self.next_seq:
            self._damaged(line.segment, f"record {line.seq} is repeated or out of order")
            return
        if line.seq > self.next_seq:
            what = f"records {self.next_seq} to {line.seq - 1} are missing before this line"
            damage = Damage(place=self._where, what=what) if not self._after_damage else None
            self._gaps.append(Gap(self.next_seq, line.seq - 1, damage))
        self._after_damage = False
        self.next_seq = line.seq + 1
        record = read_record(line.raw)
        if record["kind"] == "run":
            self.runs.append(record)
        yield line

    def _damaged(self, segment: int, what: str) -> None:
        self.damaged_segments.add(segment)
        self._after_damage = True
        self._bad_count += 1
        if len(self._bad) < _MAX_LISTED:
            self._bad.append(Damage(place=self._where, what=what))


def _intact_pieces(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield whole records inside a damaged line: a damaged newline joins two good ones."""
    starts = [match.start() for match in _STARTS.finditer(raw)]
    for start, stop in pairwise([*starts, len(raw)]):
        end = raw.rfind(b"}", start, stop) + 1
        piece = raw[start:end] + b"\n"
        if end and seq_of(piece) is not None:
            yield start, piece


def _name_damage(raw: bytes, readable: int) -> str:
    if not raw.strip():
        return "an empty line"
    if readable:
        return f"the line is damaged; whole records in it that can still be read: {readable}"
    if not raw.endswith(b"\n"):
        return "the line is cut short, and is not the journal's last"
    return "the line does not match its checksum"


def kept_body(outcome: Mapping[str, Any]) -> bytes:
    """Return the body of a reply as it was received, from its `outcome` record."""
    body = outcome.get("body")
    return base64.b64decode(outcome["body_b64"]) if body is None else body.encode("utf-8", "surrogatepass")
