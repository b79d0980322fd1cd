"""The content of media in a run folder: `media/<sha256>.<extension>`, read and encoded once for many requests."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import stat
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

from convbatch.dialogue import Message, Part
from convbatch.errors import Place, SetupError
from convbatch.media import type_of_path

STORED = re.compile(r"media/([0-9a-f]{64})\.[a-z0-9]{1,8}")
_MOST_CACHED = 64 * 2**20


class MediaStore:
    """Reads media of a run folder; keeps the most recent contents encoded, up to a number of bytes."""

    def __init__(self, folder: Path, *, most_cached: int = _MOST_CACHED) -> None:
        """Read below a run folder, and keep at most `most_cached` bytes of base64, but always the last content."""
        self._folder = folder
        self._most = most_cached
        self._cached: OrderedDict[str, str] = OrderedDict()
        self._bytes = 0

    def filled(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """Return the messages with the content of their media; equal contents are one object in memory.

        Raises:
            SetupError: A file is missing, or is not what it was when the run began.
        """
        return tuple(message if not _has_files(message) else self._filled(message) for message in messages)

    def _filled(self, message: Message) -> Message:
        return _changed(message, self._with_content)

    def _with_content(self, part: Part) -> Part:
        if part.path is None or part.data is not None:
            return part
        known = type_of_path(part.path)
        return part._replace(data=self._encoded(part.path), mime_type=None if known is None else known.mime_type)

    def _encoded(self, path: str) -> str:
        if path in self._cached:
            self._cached.move_to_end(path)
            return self._cached[path]
        encoded = base64.b64encode(read_media(self._folder, path)).decode("ascii")
        self._cached[path] = encoded
        self._bytes += len(encoded)
        while self._bytes > self._most and len(self._cached) > 1:
            self._bytes -= len(self._cached.popitem(last=False)[1])
        return encoded


def with_names(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return the messages with the names of their media instead of the content, to show them."""
    return tuple(_changed(message, _with_name) if _has_files(message) else message for message in messages)


def _with_name(part: Part) -> Part:
    if part.path is None:
        return part
    known = type_of_path(part.path)
    return part._replace(data=f"<{part.path}>", mime_type=None if known is None else known.mime_type)


def _changed(message: Message, change: Callable[[Part], Part]) -> Message:
    return message._replace(
        parts=tuple(map(change, message.parts)),
        results=tuple(result._replace(media=tuple(map(change, result.media))) for result in message.results),
    )


def _has_files(message: Message) -> bool:
    return any(part.path is not None for part in message.parts) or any(result.media for result in message.results)


def read_media(folder: Path, path: str) -> bytes:
    """Return a content of a run folder after checking its digest.

    Raises:
        SetupError: The file is missing, is no regular file, or has another content.
    """
    named = STORED.fullmatch(path)
    if named is None:
        raise SetupError(f"{path} is no name of media in a run folder", place=Place(path=str(folder)))
    try:
        fd = os.open(folder / path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            content = file.read() if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    except OSError as error:
        raise _lost(folder, path, f"cannot be read: {error.strerror or error}") from None
    if hashlib.sha256(content).hexdigest() != named[1]:
        raise _lost(folder, path, "is not the content that the run began with")
    return content


def _lost(folder: Path, path: str, why: str) -> SetupError:
    hint = "restore media/ from a copy of this run folder, or start a new run from the original dataset"
    return SetupError(f"a media file of this run {why}", place=Place(path=str(folder / path)), hint=hint)
