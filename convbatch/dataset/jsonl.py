"""Read JSON lines from a file: each line as an object, or as an issue with its line number.

Defines the accepted files: regular, UTF-8 with or without BOM, LF or CRLF, plain or gzip, one object per line, no
duplicate keys, numbers that JSON can represent. Dialogues are not known here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import errno
import gzip
import io
import json
import os
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from convbatch import strict_json
from convbatch.dataset.file_kinds import binary_kind, not_utf8, other_word, text_kind
from convbatch.dataset.json_faults import fault_of, pieces
from convbatch.errors import Issue, nearest

MAX_LINE_BYTES = 64 * 2**20
MAX_ARRAY_BYTES = 512 * 2**20
_BUFFER_BYTES = 256 * 2**10
_SNIFFED_BYTES = 8 * 2**10
_DOCUMENT_CHECKED = 16 * 2**20
"""Largest file that is read whole only to say what is wrong with it."""
_NAMES_COMPARED = 2_000
_GZIP_MAGIC = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"


class RefusedValue(Exception):  # caught in the loop that knows the line
    """A value that cannot be used, with its issue."""

    def __init__(self, issue: Issue) -> None:
        super().__init__(issue.what)
        self.issue = issue


@dataclass(frozen=True, slots=True)
class JsonLine:
    """One line that is not blank; `value` is empty when `issue` is set."""

    number: int | None
    """From 1; in an array, the position of the item. None when the issue concerns the whole file."""
    value: dict[str, Any]
    issue: Issue | None = None


class JsonLines:
    """Iterates over the lines of one file in constant memory.

    `consumed` counts bytes of the file (compressed for gzip), `blank_lines` the skipped lines.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.consumed = 0
        self.blank_lines = 0

    def __iter__(self) -> Iterator[JsonLine]:
        try:
            with open_regular(self.path) as raw:
                yield from self._lines(raw)
        except RefusedValue as refusal:
            yield JsonLine(None, {}, refusal.issue)

    def _lines(self, raw: BinaryIO) -> Iterator[JsonLine]:
        number = 0
        empty, in_text = True, False
        try:
            with decompressed(raw) as text:
                while line := text.readline(MAX_LINE_BYTES + 1):
                    number += 1
                    if number == 1:
                        line = line.removeprefix(_BOM)
                    if number % 64 == 0:
                        self.consumed = raw.tell()
                    if len(line) > MAX_LINE_BYTES:
                        skip_line(text)
                        yield JsonLine(number, {}, _too_long())
                    elif not line.strip():
                        self.blank_lines += 1
                        continue
                    elif empty and (whole := self._other_kind(number, line, text)) is not None:
                        yield whole
                        return
                    elif not in_text or line.lstrip().startswith(b"{"):
                        parsed = parse_line(number, line)
                        in_text = parsed.issue is not None and parsed.issue.hint == _BREAK_IN_TEXT
                        yield parsed
                    empty = False
                self.consumed = raw.tell()
        except (EOFError, zlib.error, gzip.BadGzipFile, OSError) as error:
            yield JsonLine(number + 1, {}, _broken_stream(error))
            return
        if empty:
            what = "the file is empty" if number == 0 else "no dialogue: every line is blank"
            yield JsonLine(None, {}, Issue(what=what, hint="one JSON dialogue a line; see docs/dataset.md"))

    def _other_kind(self, number: int, line: bytes, text: io.BufferedReader) -> JsonLine | None:
        """Return the one problem of a file that is not JSON lines; `line` is its first line with content."""
        following = text.peek(_SNIFFED_BYTES)[:_SNIFFED_BYTES]
        parsed = parse_line(number, line)
        if parsed.issue is None:
            return None
        other = text_kind(line[:_SNIFFED_BYTES] + following, self.path)
        if other is None and _opens_a_document(line, following):
            return parsed if _is_json(line) else self._document(number, line)
        return None if other is None else JsonLine(None, {}, other)

    def _document(self, number: int, line: bytes) -> JsonLine:
        """Return what is wrong with a file that is an array or indented: an error inside it, or only its form."""
        if _size(self.path) <= _DOCUMENT_CHECKED:
            for item in JsonArray(self.path):
                if item.issue is not None and (item.number is None or item.issue.line is not None):
                    return JsonLine(item.issue.line or number, {}, item.issue)
        found = excerpt(line.decode("utf-8", "replace").strip())
        hint = f"a JSON array or an indented file: `convbatch convert {self.path} OUT.jsonl` converts it to JSON lines"
        return JsonLine(number, {}, Issue(what="not one JSON object on this line", found=found, hint=hint))


class JsonArray:
    """Iterates over the items of a file that is one JSON array or objects over several lines; reads it whole.

    Has the same interface as `JsonLines`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.consumed = 0
        self.blank_lines = 0

    def __iter__(self) -> Iterator[JsonLine]:
        try:
            with open_regular(self.path) as raw, decompressed(raw) as text:
                content = text.read(MAX_ARRAY_BYTES + 1).removeprefix(_BOM)
                self.consumed = raw.tell()
            if len(content) > MAX_ARRAY_BYTES:
                what = f"a JSON array of more than {MAX_ARRAY_BYTES // 2**20} MiB"
                raise RefusedValue(Issue(what=what, hint="convert it to JSON lines: jq -c '.[]' IN.json > OUT.jsonl"))
        except RefusedValue as refusal:
            yield JsonLine(None, {}, refusal.issue)
        except (EOFError, zlib.error, gzip.BadGzipFile, OSError) as error:
            yield JsonLine(None, {}, _broken_stream(error))
        else:
            yield from self._content(content)

    def _content(self, content: bytes) -> Iterator[JsonLine]:
        try:
            value = parse_value(content)
        except RefusedValue:
            try:
                yield from _each_piece(content)
            except RefusedValue as refusal:
                yield JsonLine(None, {}, refusal.issue)
        else:
            yield from self._items(value)

    def _items(self, value: Any) -> Iterator[JsonLine]:
        items = value if isinstance(value, list) else [value]
        if not items:
            yield JsonLine(None, {}, Issue(what="the array is empty", hint="a JSON array of dialogues"))
        for number, item in enumerate(items, 1):
            if isinstance(item, dict):
                yield JsonLine(number, item)
            else:
                yield JsonLine(number, {}, _not_an_object(item))


def is_one_document(path: Path) -> bool:
    """Whether a file is one JSON array, or one object over several lines, instead of JSON lines."""
    if path.suffix.lower() == ".toml":  # `[table]` opens no array
        return False
    try:
        with open_regular(path) as raw, decompressed(raw) as text:
            first = b""
            while not first.strip() and (line := text.readline(MAX_LINE_BYTES)):
                first = line.removeprefix(_BOM)
            return _opens_a_document(first, text.read(1))
    except (RefusedValue, EOFError, zlib.error, OSError):
        return False  # reading it as lines reports the problem


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading.

    Raises:
        RefusedValue: The file is missing, a folder, a pipe or device, or unreadable.
    """
    try:
        # Checked before opening, because opening a FIFO would wait for a writer.
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            return path.open("rb", buffering=0)
    except (OSError, ValueError) as error:
        raise RefusedValue(_cannot_open(path, error)) from None
    if stat.S_ISDIR(mode):
        names = sorted(p.name for p in path.glob("[!.]*.jsonl*"))[:3]
        example = f"{path}/{names[0]}" if names else f"{path}/NAME.jsonl"
        raise RefusedValue(Issue(what="is a folder, not a dataset file", hint=f"name the file itself, e.g. {example}"))
    raise RefusedValue(
        Issue(
            what="is not a regular file (a pipe, socket or device)",
            hint="a dataset is read more than once: save it to a file first",
        )
    )


def decompressed(raw: BinaryIO) -> io.BufferedReader:
    """Return a buffered reader of the uncompressed bytes; gzip is detected by its first bytes, not by its name.

    Raises:
        RefusedValue: The content is not text.
        EOFError, zlib.error, OSError: The first block cannot be read.
    """
    head = raw.read(_SNIFFED_BYTES)
    raw.seek(0)
    text: io.BufferedReader
    if head.startswith(_GZIP_MAGIC):
        text = io.BufferedReader(gzip.GzipFile(fileobj=raw), _BUFFER_BYTES)  # pyright: ignore[reportArgumentType]  # GzipFile is a raw reader at runtime, but not in its stub
        head = text.peek(_SNIFFED_BYTES)[:_SNIFFED_BYTES]
    else:
        text = io.BufferedReader(raw, _BUFFER_BYTES)  # pyright: ignore[reportArgumentType]  # an unbuffered file is a RawIOBase
    if (issue := binary_kind(head, Path(str(raw.name)))) is not None:
        raise RefusedValue(issue)
    return text


def parse_line(number: int, line: bytes) -> JsonLine:
    """Parse one JSON object strictly, with its issue if it cannot be used."""
    try:
        return JsonLine(number, parse_object(line))
    except RefusedValue as refusal:
        return JsonLine(number, {}, refusal.issue)


def parse_object(line: bytes) -> dict[str, Any]:
    """Parse one JSON object strictly.

    Raises:
        RefusedValue: Not JSON, not UTF-8, not an object, duplicate keys, nested too deep, or a number or text that
            cannot be written back unchanged.
    """
    value = parse_value(line)
    if not isinstance(value, dict):
        raise RefusedValue(_not_an_object(value))
    return value


def parse_value(text: bytes) -> Any:
    """Parse one JSON value of any kind as strictly as `parse_object`."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = _parse_carefully(text)
        _refuse_depth(text, value)
        return value
    _refuse_depth(text, value)
    return _parse_carefully(text) if _may_lose_precision(text, value) else value


def encode_json_line(value: Any) -> bytes:
    """Encode a value as one line of JSON with a newline."""
    try:
        return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # orjson encodes only 254 levels, two fewer than are read
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def excerpt(text: str, limit: int = 120) -> str:
    """Truncate a text for a message."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def display_json(value: Any) -> str:
    """Format a value as truncated JSON for a message."""
    return excerpt(json.dumps(value, ensure_ascii=False, default=str))


def skip_line(text: BinaryIO) -> None:
    """Read to the end of the line and discard it."""
    while (rest := text.readline(_BUFFER_BYTES)) and not rest.endswith(b"\n"):
        pass


def _opens_a_document(line: bytes, following: bytes) -> bool:
    # An array or an indented object is one problem, not one for each line.
    start = line.strip()
    if start.startswith(b"[") or start == b"{":
        return True
    is_open = start.startswith(b"{") and start.endswith((b"{", b"[", b",", b":"))
    return is_open and following[:1] not in (b"", b"{") and not _is_json(start[:-1])


def _is_json(text: bytes) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def _each_piece(content: bytes) -> Iterator[JsonLine]:
    """Yield the items of a document that is not one strict JSON value: of several values, or up to a syntax error.

    Raises:
        RefusedValue: Not UTF-8, or nested too deeply.
    """
    try:
        text = content.decode("utf-8")
        for piece in pieces(text):
            line = text.count("\n", 0, piece.start) + 1
            if piece.error is not None:
                yield JsonLine(piece.number, {}, _document_issue(text, piece.error))
                continue
            parsed = parse_line(piece.number, text[piece.start : piece.end].encode())
            where = None if parsed.issue is None else dataclasses.replace(parsed.issue, line=line)
            yield JsonLine(piece.number, parsed.value, where)
    except UnicodeDecodeError as error:
        start = content.rfind(b"\n", 0, error.start) + 1
        line = content.count(b"\n", 0, error.start) + 1
        issue = not_utf8(content[start : error.start + 200], error.start - start)
        raise RefusedValue(dataclasses.replace(issue, line=line)) from None
    except RecursionError:
        raise RefusedValue(_too_deep()) from None


def _may_lose_precision(text: bytes, value: Any) -> bool:
    # orjson keeps the last of two equal keys and converts integers beyond 64 bits to floats. A dropped pair loses its
    # colon, and \u003a is its only other spelling, so counting colons finds every duplicate without a hook for every
    # object (which would take longer than the whole validation).
    if b"\\u003" in text or strict_json.may_hold_big_integer(text):
        return True
    try:
        return text.count(b":") != orjson.dumps(value).count(b":")
    except TypeError:  # orjson encodes 254 levels and decodes 1024
        return True


def _parse_carefully(text: bytes) -> Any:
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RefusedValue(not_utf8(text, error.start)) from None
    try:
        value = strict_json.parse(decoded, finite=True, int64=True, unique_keys=True)
    except json.JSONDecodeError as error:
        raise RefusedValue(_not_json(decoded, error)) from None
    except strict_json.StrictJsonError as error:
        raise RefusedValue(_broken_rule(error)) from None
    _refuse_surrogates(value)
    return value


def _broken_rule(error: strict_json.StrictJsonError) -> Issue:
    match error:
        case strict_json.RepeatedKey(key=key, values=values):
            return Issue(
                what=f"key {display_json(key)} appears twice in one object",
                found=display_json(values),
                hint="keep one of them; JSON parsers disagree about which one applies",
            )
        case strict_json.NotANumber(word=word):
            hint = "omit the key, or write a number"
            return Issue(what=f"{word} is not a JSON number", found=word, hint=hint)
        case strict_json.NumberTooLarge(digits=digits, is_integer=True):
            hint = "write it as text, in quotes"
            return Issue(what="a whole number beyond 64 bits", found=excerpt(digits, 60), hint=hint)
        case strict_json.NumberTooLarge(digits=digits):
            hint = "at most about 1e308"
            return Issue(what="a number too large for JSON parsers", found=excerpt(digits, 60), hint=hint)
        case _:
            return _too_deep()


def _refuse_surrogates(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise RefusedValue(
            Issue(
                what="half of a surrogate pair in a text: it cannot be encoded as UTF-8",
                found=excerpt(json.dumps(value, ensure_ascii=True)),
                hint=r"a \ud83d without its \ude00 is usually text cut in the middle of an emoji: remove it",
            )
        ) from None


_BREAK_IN_TEXT = r"one whole JSON object a line; a line break inside a text is written \n"
"""The lines after it are the rest of the text, and no problem of their own."""


def _not_json(line: str, error: json.JSONDecodeError) -> Issue:
    body = line.rstrip()
    fault = fault_of(body, error)
    if fault is not None:
        what, at, hint = f"not JSON: {fault.what} at character {fault.position + 1}", fault.position, fault.hint
    elif error.pos >= len(body) or error.msg.startswith("Unterminated string"):
        in_text = error.msg.startswith(("Unterminated string", "Invalid control character"))
        hint = _BREAK_IN_TEXT if in_text else "one whole JSON object a line"
        hint = "copy the file again, or delete this line" if body == line else hint
        what = "the line ends in the middle of its JSON" + (": the file looks truncated" if body == line else "")
        return Issue(what=what, found="…" + body[-60:] if len(body) > 60 else body, hint=hint)
    else:
        what, at, hint = f"not JSON: {error.msg} at character {error.colno}", error.pos, "one JSON object a line"
    return Issue(what=what, found=excerpt(line[max(0, at - 20) :].strip(), 60), hint=hint)


def _document_issue(text: str, error: json.JSONDecodeError) -> Issue:
    """Describe a syntax error in a file of several lines."""
    body = text.rstrip()
    fault = fault_of(body, error)
    if fault is not None:
        what, at, hint = fault.what, fault.position, fault.hint
    elif error.pos >= len(body) or error.msg.startswith("Unterminated string"):
        what, at, hint = "the file ends in the middle of its JSON", len(body), "it looks truncated: copy it again"
    else:
        what, at, hint = error.msg, error.pos, "mend it there, then give the command again"
    start = text.rfind("\n", 0, at) + 1
    found = excerpt(text[max(start, at - 20) : at + 40].split("\n")[0].strip(), 60)
    return Issue(
        what=f"not JSON: {what} at column {at - start + 1}", found=found, hint=hint, line=text.count("\n", 0, at) + 1
    )


def _not_an_object(value: Any) -> Issue:
    if isinstance(value, list):
        hint = "a JSON array of dialogues: `convbatch convert IN.json OUT.jsonl` converts it to JSON lines"
    else:
        hint = 'one JSON object a line: {"id": …, "turns": […]}'
    return Issue(what="not a JSON object", found=display_json(value), hint=hint)


def _too_long() -> Issue:
    return Issue(
        what=f"line longer than {MAX_LINE_BYTES // 2**20} MiB",
        hint="one dialogue a line; put large media into files beside the dataset and name their paths",
    )


def _too_deep() -> Issue:
    return Issue(
        what=f"JSON nested deeper than {strict_json.MAX_DEPTH} levels", hint="no dialogue needs that: fix its source"
    )


def _refuse_depth(text: bytes, value: Any) -> None:
    try:
        strict_json.refuse_deep(text, value)
    except strict_json.TooDeep:
        raise RefusedValue(_too_deep()) from None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _cannot_open(path: Path, error: OSError | ValueError) -> Issue:
    number = error.errno if isinstance(error, OSError) else errno.EINVAL
    if number in (errno.ENOENT, errno.ENOTDIR):
        return other_word(path) or Issue(what="no such file", hint=_nearest_file(path))
    if number in (errno.EACCES, errno.EPERM):
        return Issue(what="cannot be read: permission denied", hint=f"chmod u+r {path}")
    return Issue(what=f"cannot be read: {os.strerror(number or errno.EIO)}", hint="name a readable file")


_DATASET_NAMES = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".ndjson", ".csv", ".xlsx")


def _nearest_file(path: Path) -> str:
    """Return what to write instead of a file that does not exist."""
    folder = path.parent
    if not folder.is_dir():
        near = nearest(folder.name, _names(folder.parent, is_folder=True)) if folder.parent.is_dir() else None
        wanted = "" if near is None else f"; did you mean {folder.parent / near / path.name}?"
        return f"there is no folder {folder}{wanted}"
    names = [name for name in _names(folder) if name.endswith(_DATASET_NAMES)]
    near = _nearest_name(path.name, names)
    if near is not None:
        return f"did you mean {folder / near}?"
    below = [found for found in (folder / "datasets" / path.name, folder / "data" / path.name) if found.is_file()]
    if below:
        return f"did you mean {below[0]}?"
    return f"in {folder}: " + ", ".join(names[:8]) if names else f"looked in {folder.absolute()}"


def _nearest_name(name: str, known: list[str]) -> str | None:
    # Without the ending, which all of them share: it would make any two short names look alike.
    stems = {known_name.split(".")[0].lower(): known_name for known_name in reversed(known)}
    close = difflib.get_close_matches(name.split(".")[0].lower(), list(stems), n=1, cutoff=0.5)
    return stems[close[0]] if close else None


def _names(folder: Path, *, is_folder: bool = False) -> list[str]:
    with contextlib.suppress(OSError):
        return sorted(item.name for item in folder.iterdir() if item.is_dir() == is_folder)[:_NAMES_COMPARED]
    return []


def _broken_stream(error: Exception) -> Issue:
    if isinstance(error, EOFError):
        return Issue(what="the gzip file is truncated", hint="copy or download it again")
    if isinstance(error, zlib.error | gzip.BadGzipFile):
        return Issue(what="the gzip file is damaged", found=excerpt(str(error)), hint="copy or download it again")
    return Issue(what="reading failed", found=excerpt(str(error)), hint="is the disk or the network share all right?")
