"""Reader of a gateway's usage log (CSV): its lines, or everything that is wrong with the file.

Encoding and separator are detected, and the form unless it is named. `usage_log.py` compares the lines with calls.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from decimal import Decimal, InvalidOperation
from pathlib import Path
from zoneinfo import ZoneInfo

from convbatch.config.usage_log_form import UsageLogForm
from convbatch.errors import InputError, Place, Problem, SetupError, did_you_mean
from convbatch.redaction import display

PROBLEMS_KEPT = 1_000
"""Maximum problems in an exception, as for a dataset; the rest is counted."""
SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}

_MILLISECONDS_FROM = 1e11
"""A Unix time from here on is in milliseconds: in seconds it would be the year 5138."""
_FIRST_YEAR = 1970
_TIMES = ("%Y/%m/%d %H:%M:%S", "%Y/%m/%d %H:%M", "%Y-%m-%d %H:%M")
"""Time formats of spreadsheets, besides ISO 8601."""
_MOST_DIGITS = 18
_COUNT = re.compile(r"[0-9]{1,15}(?:\.0+)?")
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_EXPORT = "export the usage log as CSV, saved as UTF-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageLogLine:
    """One call as billed by the gateway; None if the log has no value."""

    line: int
    """Line number in the file, from 1."""
    at: float
    """Unix seconds."""
    model: str
    request_id: str | None
    input_tokens: int | None
    output_tokens: int | None
    amount: Decimal | None
    """In units of the currency."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageLog:
    """The content of a usage log."""

    path: Path
    form: UsageLogForm
    lines: tuple[UsageLogLine, ...]
    left_out: int
    """Number of lines that are not calls, by the form's `only`."""
    encoding: str
    has_local_times: bool
    """Whether some times had no offset, so that the form's time zone was used."""


def read_usage_log(path: Path, forms: Mapping[str, UsageLogForm], name: str | None = None) -> UsageLog:
    """Read a usage log.

    Args:
        path: The CSV file.
        forms: Known forms.
        name: The form of the log; None selects the one whose columns are all present.

    Raises:
        InputError: The file is wrong; lists every wrong line.
        SetupError: An unknown form, or one has to be named.
    """
    if name is not None and name not in forms:
        raise SetupError(f"no bill has the form {name!r}", hint=_form_hint(name, forms))
    text, encoding = _text_of(path)
    sheet = _Sheet(path, text)
    form = _form_of(sheet, forms) if name is None else forms[name]
    sheet.refuse_missing(form)
    return _LineParser(sheet, form).usage_log(encoding)


def _form_hint(name: str, forms: Mapping[str, UsageLogForm]) -> str:
    return did_you_mean(name, forms) + "; a form of your own is a [bills.NAME] table of the config (docs/audit.md)"


def _text_of(path: Path) -> tuple[str, str]:
    """Return the text of a file, and its encoding."""
    place = Place(path=str(path))
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"the bill cannot be read: {error.strerror}", place=place, hint="--bill takes a CSV file"
        ) from None
    if not raw.strip(b"\xef\xbb\xbf \t\r\n"):
        raise InputError("the bill is empty", place=place, hint=_EXPORT)
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return _decoded(raw, ("utf-16",), place)
    if raw.startswith(b"PK\x03\x04"):
        raise InputError("the bill is a spreadsheet or an archive, not text", place=place, hint=_EXPORT)
    if b"\0" in raw:
        raise InputError("the bill is not text", place=place, found="a byte of value 0", hint=_EXPORT)
    return _decoded(raw, ("utf-8-sig", "gb18030"), place)


def _decoded(raw: bytes, encodings: Sequence[str], place: Place) -> tuple[str, str]:
    at = 0
    for encoding in encodings:
        try:
            return raw.decode(encoding), encoding.removesuffix("-sig").upper()
        except UnicodeDecodeError as error:
            at = at or error.start
    where = Place(path=place.path, line=raw[:at].count(b"\n") + 1)
    what = "the bill is neither UTF-8 nor GB18030 (GBK) text"
    raise InputError(what, place=where, found=f"the byte 0x{raw[at]:02x}", hint="save it as UTF-8")


class _Sheet:
    """The cells of a CSV file with their lines, and the problems found."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.problems: list[Problem] = []
        self.more = 0
        self._text = text
        headers = {separator: self._first(separator) for separator in SEPARATORS}
        self.separator = max(headers, key=lambda separator: len(headers[separator]))
        self.header = [name.strip() for name in headers[self.separator]]

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield (line, cells) below the header; a row with too few or too many cells is a problem."""
        records = self._records(self.separator)
        next(records, None)
        for line, cells in records:
            while len(cells) > len(self.header) and not cells[-1].strip():
                cells.pop()
            if len(cells) == len(self.header):
                yield line, cells
            else:
                found = f"{len(cells)} cells under {len(self.header)} columns"
                self.add_problem(
                    line, "the line does not match the header", found, "quote cells that contain a separator"
                )

    def add_problem(self, line: int, what: str, found: str | None, hint: str) -> None:
        """Add a problem of a line; after the first thousand they are only counted."""
        if len(self.problems) < PROBLEMS_KEPT:
            self.problems.append(
                Problem(what=what, place=Place(path=str(self.path), line=line), found=found, hint=hint)
            )
        else:
            self.more += 1

    def refuse_missing(self, form: UsageLogForm) -> None:
        """Raise InputError unless every column of the form is present once."""
        for key, column in form.needed.items():
            if column not in self.header:
                hint = (
                    f"{key} in [bills.{form.name}] names the column; {did_you_mean(column, filter(None, self.header))}"
                )
                what = f"the bill has no column {column!r}, which the form {form.name!r} needs for {key}"
                self.add_problem(1, what, self.display_header, hint)
        for column in (*form.columns.values(), *form.only):
            if self.header.count(column) > 1:
                what = f"the column {column!r} occurs {self.header.count(column)} times"
                self.add_problem(1, what, self.display_header, "keep one of them")
        self.refuse_any()

    def refuse_any(self) -> None:
        """Raise InputError if there are problems."""
        if self.more:
            self.problems.append(Problem(what=f"and {self.more} more problems", place=Place(path=str(self.path))))
        if self.problems:
            raise InputError.of(self.problems)

    @property
    def display_header(self) -> str:
        """The columns of the file, for messages."""
        return ", ".join(map(display, self.header[:20])) + (", ..." if len(self.header) > 20 else "")

    def _first(self, separator: str) -> list[str]:
        try:
            return next(csv.reader(io.StringIO(self._text, newline=""), delimiter=separator), [])
        except csv.Error:
            return []

    def _records(self, separator: str) -> Iterator[tuple[int, list[str]]]:
        reader = csv.reader(io.StringIO(self._text, newline=""), delimiter=separator)
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                self.add_problem(line, f"not CSV: {error}", None, _EXPORT)
                return
            if any(cell.strip() for cell in cells):
                yield line, cells


def _form_of(sheet: _Sheet, forms: Mapping[str, UsageLogForm]) -> UsageLogForm:
    fitting = [form for form in forms.values() if set(form.needed.values()) <= set(sheet.header)]
    if len(fitting) == 1:
        return fitting[0]
    place = Place(path=str(sheet.path), line=1)
    if fitting:
        names = ", ".join(form.name for form in fitting)
        raise InputError(
            f"the bill has the columns of several forms: {names}", place=place, hint="add --bill-form NAME"
        )
    listed = "".join(f"\n        {form.name}: {', '.join(form.needed.values())}" for form in forms.values())
    hint = (
        "describe its columns in [bills.NAME] of the config (docs/audit.md); known forms and what they need:" + listed
    )
    raise InputError("the bill has the columns of no known form", place=place, found=sheet.display_header, hint=hint)


class _LineParser:
    """Parses the rows of a sheet by a form."""

    def __init__(self, sheet: _Sheet, form: UsageLogForm) -> None:
        self._sheet = sheet
        self._form = form
        self._zone: tzinfo = UTC if form.time_zone == "UTC" else ZoneInfo(form.time_zone)
        self._local = False
        self._places = {name: number for number, name in enumerate(sheet.header)}

    def usage_log(self, encoding: str) -> UsageLog:
        """Return all lines; raises InputError with every problem."""
        lines: list[UsageLogLine] = []
        left_out = 0
        for number, cells in self._sheet.rows():
            if not self._is_call(cells):
                left_out += 1
            elif (line := self._line(number, cells)) is not None:
                lines.append(line)
        self._sheet.refuse_any()
        if not lines and not left_out:
            hint = "export the days on which the runs were made"
            raise InputError("the bill has no lines", place=Place(path=str(self._sheet.path)), hint=hint)
        return UsageLog(
            path=self._sheet.path,
            form=self._form,
            lines=tuple(lines),
            left_out=left_out,
            encoding=encoding,
            has_local_times=self._local,
        )

    def _is_call(self, cells: Sequence[str]) -> bool:
        return all(cells[self._places[column]].strip() in values for column, values in self._form.only.items())

    def _line(self, number: int, cells: Sequence[str]) -> UsageLogLine | None:
        before = len(self._sheet.problems) + self._sheet.more
        at = self._time(number, self._cell("time", cells))
        model = self._cell("model", cells)
        if not model:
            self._add_problem(number, "model", "has no model", model, "every call has a model; see `only`")
        given = self._count(number, "input_tokens", cells)
        taken = self._count(number, "output_tokens", cells)
        amount = self._amount(number, cells)
        if at is None or len(self._sheet.problems) + self._sheet.more > before:
            return None
        return UsageLogLine(
            line=number,
            at=at,
            model=model,
            request_id=self._cell("request_id", cells) or None,
            input_tokens=given,
            output_tokens=taken,
            amount=amount,
        )

    def _cell(self, key: str, cells: Sequence[str]) -> str:
        place = self._places.get(self._form.columns.get(key, ""))
        return "" if place is None else cells[place].strip()

    def _add_problem(self, number: int, key: str, what: str, cell: str, hint: str) -> None:
        self._sheet.add_problem(
            number, f"{self._form.columns[key]} {what}", display(cell) if cell else "an empty cell", hint
        )

    def _count(self, number: int, key: str, cells: Sequence[str]) -> int | None:
        cell = self._cell(key, cells)
        if not cell:
            return None
        if _COUNT.fullmatch(cell):
            return int(cell.partition(".")[0])
        self._add_problem(
            number, key, "is not a number of tokens", cell, "a whole number of 0 or more, without separators"
        )
        return None

    def _amount(self, number: int, cells: Sequence[str]) -> Decimal | None:
        cell = self._cell("amount", cells)
        if not cell:
            return None
        try:
            amount = Decimal("NaN" if "_" in cell else cell)  # Decimal reads 1_0 as ten
        except InvalidOperation:
            amount = Decimal("NaN")
        if not amount.is_finite() or amount.adjusted() > _MOST_DIGITS:
            self._add_problem(
                number, "amount", "is not a number", cell, "a number such as 0.0012, without a currency sign"
            )
            return None
        return amount / self._form.amount_per_unit

    def _time(self, number: int, cell: str) -> float | None:
        moment = _moment(cell)
        if isinstance(moment, datetime):
            if moment.tzinfo is None:
                self._local = True
                moment = moment.replace(tzinfo=self._zone)
            moment = None if moment.year < _FIRST_YEAR else moment.timestamp()
        if moment is None:
            hint = 'Unix seconds, "2026-01-31 12:00:05" or "2026-01-31T12:00:05Z"'
            self._add_problem(number, "time", "is not a time", cell, hint)
        return moment


def _moment(cell: str) -> float | datetime | None:
    """Return Unix seconds or a time, None for anything else."""
    if _NUMBER.fullmatch(cell):
        number = float(cell)
        seconds = number / 1000 if number >= _MILLISECONDS_FROM else number
        return seconds if seconds < _MILLISECONDS_FROM else None
    try:
        return datetime.fromisoformat(cell) if len(cell) > len("2026-01-31") else None
    except ValueError:
        pass
    for form in _TIMES:
        try:
            return datetime.strptime(cell, form)  # noqa: DTZ007  # the form's time zone is added by the caller
        except ValueError:
            continue
    return None
