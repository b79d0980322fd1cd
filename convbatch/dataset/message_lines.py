"""Read files in which each line is an array of messages instead of an object with one: `[{"role", "content"}, …]`."""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from convbatch.dataset.formats.messages import is_messages
from convbatch.dataset.jsonl import (
    MAX_LINE_BYTES,
    JsonLine,
    RefusedValue,
    decompressed,
    display_json,
    excerpt,
    open_regular,
    parse_value,
)
from convbatch.errors import Issue

_BOM = b"\xef\xbb\xbf"


@contextlib.contextmanager
def opened(path: Path) -> Generator[tuple[BinaryIO, BinaryIO]]:
    """Open a text file that may be compressed: the raw file, for its position, and its text."""
    with open_regular(path) as raw, decompressed(raw) as text:
        yield raw, text


def holds_message_arrays(path: Path) -> bool:
    """Whether the first line with content is a whole array of messages."""
    try:
        with opened(path) as (_, text):
            first = b""
            while not first.strip() and (line := text.readline(MAX_LINE_BYTES)):
                first = line.removeprefix(_BOM)
        return first.lstrip().startswith(b"[") and first.strip() != b"[" and is_messages(parse_value(first))
    except (RefusedValue, EOFError, zlib.error, OSError):
        return False  # reading it as lines reports the problem


class MessageLines:
    """Iterates over the lines of one file, each as an object with `messages`; has the interface of `JsonLines`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.consumed = 0
        self.blank_lines = 0

    def __iter__(self) -> Iterator[JsonLine]:
        number = 0
        try:
            with opened(self.path) as (raw, text):
                while line := text.readline(MAX_LINE_BYTES + 1):
                    number += 1
                    self.consumed = raw.tell()
                    line = line.removeprefix(_BOM) if number == 1 else line
                    if line.strip():
                        yield _parsed(number, line)
                    else:
                        self.blank_lines += 1
        except RefusedValue as refusal:
            yield JsonLine(None, {}, refusal.issue)
        except (EOFError, zlib.error, gzip.BadGzipFile, OSError) as error:
            issue = Issue(what="reading failed", found=excerpt(str(error)), hint="copy or download it again")
            yield JsonLine(number + 1, {}, issue)


def _parsed(number: int, line: bytes) -> JsonLine:
    try:
        value: Any = parse_value(line)
    except RefusedValue as refusal:
        return JsonLine(number, {}, refusal.issue)
    if isinstance(value, list):
        return JsonLine(number, {"messages": value})
    if isinstance(value, dict):
        return JsonLine(number, value)
    hint = '[{"role": "user", "content": "…"}], as the first line of the file'
    return JsonLine(number, {}, Issue(what="not an array of messages", found=display_json(value), hint=hint))
