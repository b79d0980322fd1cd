"""The content of media in a run folder: `media/<sha256>.<extension>`, read and encoded once for many requests.

A request is built with a name in place of each content, which is put in between when the body is sent: bodies in
flight share one copy of it.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import re
import secrets
import stat
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

from convbatch.dialogue import Message, Part
from convbatch.errors import Place, SetupError
from convbatch.media import HEAD_BYTES, media_type_of, pixel_size, type_named, type_of_path
from convbatch.reply import MediaFile
from convbatch.system import Disk

STORED = re.compile(r"media/([0-9a-f]{64})\.[a-z0-9]{1,8}")
_MOST_CACHED = 64 * 2**20


class SharedBody:
    """A body in pieces, some of which are shared with other bodies."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.pieces = tuple(pieces)

    def __len__(self) -> int:
        return sum(map(len, self.pieces))

    def __bytes__(self) -> bytes:
        return b"".join(self.pieces)


class MediaStore:
    """Reads media of a run folder; keeps the most recent contents encoded, up to a number of bytes."""

    def __init__(self, folder: Path, *, disk: Disk | None = None, most_cached: int = _MOST_CACHED) -> None:
        """Read below a run folder, and keep at most `most_cached` bytes of base64, but always the last content."""
        self._folder = folder
        self._disk = disk or Disk()
        self._most = most_cached
        self._cached: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0
        # Random, so that no text of a user or model is taken for a content.
        self._mark = secrets.token_hex(16)
        self._marked = re.compile(f"{self._mark}({STORED.pattern}){self._mark}".encode())

    def keep(self, content: bytes, mime_type: str | None) -> MediaFile:
        """Name a content of a reply, and write it durably if it is not there.

        The name is the same whether or not it can be written: the next session that reads the reply again writes it.
        """
        named = None if mime_type is None else type_named(mime_type)
        found = media_type_of(content[:HEAD_BYTES], kind=None if named is None else named.kind)
        if found is None or (found.mime_type == "text/plain" and named is not None):
            found = named
        path = f"media/{hashlib.sha256(content).hexdigest()}.{'bin' if found is None else found.extension}"
        if not self.has(path):
            with contextlib.suppress(OSError):
                _write_durably(self._folder / path, content, self._disk)
        width, height = pixel_size(content) or (None, None)
        return MediaFile(path, None if found is None else found.mime_type, width, height)

    def put(self, path: str, content: bytes) -> None:
        """Write a content that another process read, under its name in the run folder; raises OSError."""
        _write_durably(self._folder / path, content, self._disk)

    def has(self, path: str) -> bool:
        """Return whether a file of the run folder is there, without reading it."""
        return (self._folder / path).exists()

    def filled(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """Return the messages with a name as the content of their media, for which `body` puts in the content.

        Raises:
            SetupError: A file is missing, or is not what it was when the run began.
        """
        if not any(map(has_files, messages)):
            return tuple(messages)
        return tuple(_changed(message, self._marked_part) if has_files(message) else message for message in messages)

    def body(self, built: bytes) -> bytes | SharedBody:
        """Return the body of a request that was built from messages of `filled`, with the content of their media.

        Raises:
            SetupError: As `filled`.
        """
        if self._mark.encode() not in built:
            return built
        pieces: list[bytes] = []
        end = 0
        for found in self._marked.finditer(built):
            pieces += [built[end : found.start()], self._encoded(found[1].decode())]
            end = found.end()
        return SharedBody([*pieces, built[end:]])

    def _marked_part(self, part: Part) -> Part:
        if part.path is None or part.data is not None:
            return part
        known = type_of_path(part.path)
        if known is not None and known.kind == "document" and known.mime_type != "application/pdf":
            data = self._encoded(part.path).decode("ascii")  # some wires take text as it is
        else:
            data = f"{self._mark}{part.path}{self._mark}"
        return part._replace(data=data, mime_type=None if known is None else known.mime_type)

    def _encoded(self, path: str) -> bytes:
        if path in self._cached:
            self._cached.move_to_end(path)
            return self._cached[path]
        encoded = base64.b64encode(read_media(self._folder, path))
        self._cached[path] = encoded
        self._bytes += len(encoded)
        while self._bytes > self._most and len(self._cached) > 1:
            self._bytes -= len(self._cached.popitem(last=False)[1])
        return encoded


def _write_durably(path: Path, content: bytes, disk: Disk) -> None:
    is_new = not path.parent.exists()
    path.parent.mkdir(mode=0o700, exist_ok=True)
    if is_new:
        disk.sync_folder(path.parent.parent)
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        _write(draft, content, disk)
        disk.replace(draft, path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    disk.sync_folder(path.parent)


def _write(path: Path, content: bytes, disk: Disk) -> None:
    fd = disk.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[disk.write(fd, bytes(rest[: 1 << 20])) :]
        disk.sync(fd)
    finally:
        disk.close(fd)


def with_names(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return the messages with the names of their media instead of the content, to show them."""
    return tuple(_changed(message, _with_name) if has_files(message) else message for message in messages)


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


def has_files(message: Message) -> bool:
    """Return whether a message has media."""
    for part in message.parts:
        if part.path is not None:
            return True
    return bool(message.results) and any(result.media for result in message.results)


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
