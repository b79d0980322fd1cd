"""What one line of the journal is: its bytes, its checksum, and how files of such lines read after any accident.

Both ends of the journal stand on this: `writer.py` appends such lines, `index.py` reads them. What the records mean
(the fold into turns) is not known here, and nothing here opens a file for writing.
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
"""Before the checksum of a line that orjson could not write: only the slow decoder keeps its integers exact."""
_STARTS = re.compile(rb'\{"v":\d+,"seq":')
_MAX_LISTED = 1000
_MOST_DIGITS = 18
"""Of a number: nineteen may be more than 64 bits hold."""


def encode_line(seq: int, at: float, record: Mapping[str, Any]) -> bytes:
    """One record as its line, newline included.

    Args:
        seq: Its number, consecutive over all segments of a run folder.
        at: Unix seconds UTC.
        record: `kind` and whatever else belongs to it.
    """
    value = {"v": RECORD_VERSION, "seq": seq, "kind": record["kind"], "at": at, **record}
    try:
        prefix = orjson.dumps(value)[:-1]
    except TypeError:
        # What orjson refuses and a gateway may send all the same: integers beyond 64 bits, lone surrogates.
        prefix = json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode("ascii")[:-1] + _EXACT
    return b'%b,"crc":%d}\n' % (prefix, zlib.crc32(prefix))


def decode_line(line: bytes) -> dict[str, Any]:
    """The record of an intact line, `crc` included; with or without its newline."""
    if line.rfind(_EXACT + _CHECKSUM, -_TAIL - len(_EXACT)) < 0:
        return orjson.loads(line)
    return json.loads(line)


def read_record(line: bytes) -> dict[str, Any]:
    """As `decode_line`, for lines that anybody may have written.

    Raises:
        SetupError: The checksum is right, and yet convbatch cannot have written this.
    """
    try:
        record = decode_line(line)
    except (ValueError, RecursionError):
        raise _not_ours(line, "no JSON") from None
    if (wrong := wrong_field(record)) is not None:
        raise _not_ours(line, f"{wrong!r} is missing or wrong")
    return record


def _not_ours(line: bytes, found: str) -> SetupError:
    number = _seq(line)
    return SetupError(
        f"record {number} of the journal is not as convbatch writes it"
        if number is not None
        else "no journal's record",
        found=f"{found}; its checksum is right, so it was written so",
        hint="this run folder was made or changed by something else: ask whoever gave it to you",
    )


def seq_of(line: bytes) -> int | None:
    """The number of an intact line of this version, newline included; None when a byte of it is wrong.

    Raises:
        SetupError: The line is intact, and of a version this convbatch does not know.
    """
    cut = line.rfind(_CHECKSUM, -_TAIL)
    digits = line[cut + len(_CHECKSUM) : -2]
    if cut < 0 or line[-2:] != b"}\n" or not digits.isdigit() or int(digits) != zlib.crc32(line[:cut]):
        return None
    if not line.startswith(_HEAD):
        return _refuse_other(line)
    return _seq(line)


def _seq(line: bytes) -> int | None:
    digits = line[len(_HEAD) : line.find(b",", len(_HEAD))]
    return int(digits) if digits.isdigit() and len(digits) <= _MOST_DIGITS else None


def _refuse_other(line: bytes) -> None:
    version = re.match(rb'\{"v":(\d{1,9}),', line)
    if version is not None and int(version[1]) > RECORD_VERSION:
        raise SetupError(
            f"the journal is of version {int(version[1])}; this convbatch reads up to version {RECORD_VERSION}",
            hint="upgrade convbatch to the version that wrote this run folder (run.json names it)",
        )


class JournalLine(NamedTuple):
    """An intact line and where it stands."""

    seq: int
    segment: int
    """Position in the list of segments, from 0."""
    offset: int
    raw: bytes
    """With its newline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """One place where the journal cannot be trusted."""

    place: Place
    what: str

    def __str__(self) -> str:
        return f"{self.place}: {self.what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Torn:
    """A last line that was cut while it was written."""

    kept: int
    """Length of the segment up to and including its last intact record."""
    cut: int
    """Bytes behind that."""
    needs_newline: bool
    """The last intact record lost its newline."""


@dataclass(slots=True)
class Gap:
    """Numbers that no line carries, first and last included."""

    first: int
    last: int
    damage: Damage | None
    """None when damaged lines in between explain it."""


class JournalScan:
    """One pass over the segments of a journal: iterate `lines()` to the end, then ask what was found.

    Memory does not grow with the journal: a list of damage stops at 1,000 entries, the count goes on.
    """

    def __init__(self, segments: Sequence[Path]) -> None:
        self.segments = segments
        self.next_seq = 0
        self.runs: list[dict[str, Any]] = []
        self.torn: Torn | None = None
        self.damaged_segments: set[int] = set()
        self._bad: list[Damage] = []
        self._bad_count = 0
        self._gaps: list[Gap] = []
        self._after_damage = False
        """A damaged line stands between here and the last intact one."""
        self._where = Place(path="")

    def lines(self) -> Iterator[JournalLine]:
        """Every intact line with its due number, in order.

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
                        if raw.startswith(_RUN, raw.find(b",", len(_HEAD))):
                            self.runs.append(read_record(raw))
                        yield JournalLine(seq, segment, offset, raw)
                    else:
                        self._where = Place(path=str(path), line=number)
                        yield from self._look_closer(raw, seq, segment, offset)
                    offset += len(raw)

    @property
    def damage(self) -> list[Damage]:
        """What is wrong and was not accepted by an earlier salvage."""
        found = self._bad + [gap.damage for gap in self.open_gaps if gap.damage is not None]
        return sorted(found, key=lambda damage: (damage.place.path, damage.place.line or 0))[:_MAX_LISTED]

    @property
    def damage_count(self) -> int:
        """How many places are damaged, also beyond those listed."""
        return self._bad_count + sum(gap.damage is not None for gap in self.open_gaps)

    @property
    def open_gaps(self) -> list[Gap]:
        """Runs of missing numbers that no `run` record has accepted."""
        accepted = [gap for run in self.runs for gap in run.get("accepted_gaps", ())]
        return [g for g in self._gaps if not any(first <= g.first and g.last <= last for first, last in accepted)]

    def _look_closer(self, raw: bytes, seq: int | None, segment: int, offset: int) -> Iterator[JournalLine]:
        if seq is not None:
            yield from self._out_of_step(JournalLine(seq, segment, offset, raw))
            return
        pieces = list(_intact_pieces(raw))
        last = segment == len(self.segments) - 1
        if last and not raw.endswith(b"\n") and self._may_be_torn(raw, [start for start, _ in pieces]):
            # Only a writer that was stopped in a write leaves a line without an end, and only at the very end.
            whole = len(pieces[0][1]) - 1 if pieces else 0
            self.torn = Torn(kept=offset + whole, cut=len(raw) - whole, needs_newline=bool(pieces))
        else:
            self._damaged(segment, _name_damage(raw, len(pieces)))
        for start, piece in pieces:
            number = seq_of(piece)
            if number is not None:
                yield from self._out_of_step(JournalLine(number, segment, offset + start, piece))

    def _may_be_torn(self, raw: bytes, starts: list[int]) -> bool:
        # In a file without one whole record, anything but the start of one (or zeros, from a power cut) is not ours.
        begun = self.next_seq > 0 or _HEAD.startswith(raw[: len(_HEAD)]) or not raw.strip(b"\0")
        return starts == [0] or (begun and not starts)

    def _out_of_step(self, line: JournalLine) -> Iterator[JournalLine]:
        if line.seq < self.next_seq:
            self._damaged(line.segment, f"record {line.seq} stands here again, or out of its place")
            return
        if line.seq > self.next_seq:
            what = f"record(s) {self.next_seq} to {line.seq - 1} before this line are missing"
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
    """Whole records inside a damaged line: a newline that went bad glues two good ones together."""
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
        return f"the line is damaged; {readable} whole record(s) in it can still be read"
    if not raw.endswith(b"\n"):
        return "the line is cut short, and is not the journal's last"
    return "the line does not match its checksum"


def kept_body(outcome: Mapping[str, Any]) -> bytes:
    """The body of a reply as it was received, from its `outcome` record."""
    body = outcome.get("body")
    return base64.b64decode(outcome["body_b64"]) if body is None else body.encode("utf-8", "surrogatepass")
