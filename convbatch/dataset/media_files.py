"""Media that dialogues name or hold: checked where a dataset is read, kept once in `media/` where a run is prepared.

A file is opened without following links out of the dataset's folder, and what is checked, hashed and kept is what was
read through that one descriptor. A part that is kept names its content, `media/<sha256>.<extension>`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import stat
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from convbatch.dataset.jsonl import display_json
from convbatch.dialogue import Dialogue, Part, ToolResult, part_from_plain, part_to_plain
from convbatch.errors import Issue
from convbatch.media import HEAD_BYTES, LARGEST, MEDIA_TYPES, MediaType, media_type_of
from convbatch.tools import is_conditional_result

FOLDER = "media"
_MB = 1_000_000
_CHUNK = 1 << 20
_FILES_REMEMBERED = 4_096
Change = Callable[[str | None, Part], Part]
"""Takes the place of a part and the part."""


class _Unusable(Exception):  # caught where the place is known
    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.what, self.hint = what, hint


# The media of a dialogue, wherever they stand


def media_of(dialogue: Dialogue) -> list[tuple[str | None, Part, bool]]:
    """Return the parts of a dialogue that are no text: place, part, and whether it is in the result of a tool."""
    found: list[tuple[str | None, Part, bool]] = []
    for number, turn in enumerate(dialogue.turns, 1):
        place = f"turn {number}"
        found += [(place, part, False) for part in turn.user if part.kind != "text"]
        found += [(place, part, True) for step in turn.tool_calls for result in step for part in result.media]
    if dialogue.tool_results:

        def note(place: str | None, part: Part) -> Part:
            found.append((place, part, True))
            return part

        for value in dialogue.tool_results.values():
            _with_scripted_media(value, note)
    return found


def with_media(dialogue: Dialogue, change: Change) -> Dialogue:
    """Return a dialogue whose parts that are no text went through `change`; the same one if it has none."""
    if not media_of(dialogue):
        return dialogue
    turns = tuple(
        replace(
            turn,
            user=tuple(part if part.kind == "text" else change(f"turn {number}", part) for part in turn.user),
            tool_calls=tuple(
                tuple(_with_result_media(result, f"turn {number}", change) for result in step)
                for step in turn.tool_calls
            ),
        )
        for number, turn in enumerate(dialogue.turns, 1)
    )
    scripted = {name: _with_scripted_media(value, change) for name, value in dialogue.tool_results.items()}
    return replace(dialogue, turns=turns, tool_results=scripted)


def _with_result_media(result: ToolResult, place: str, change: Change) -> ToolResult:
    return result._replace(media=tuple(change(place, part) for part in result.media)) if result.media else result


def _with_scripted_media(value: Any, change: Change) -> Any:
    """Change the media of a scripted result, in any of its forms (`dataset/tool_script.py`)."""
    if isinstance(value, list):
        return [_with_entry_media(entry, change) for entry in value]
    return _with_entry_media(value, change)


def _with_entry_media(entry: Any, change: Change) -> Any:
    if not is_conditional_result(entry) or not entry.get("media"):
        return entry
    return {**entry, "media": [part_to_plain(change(None, part_from_plain(part))) for part in entry["media"]]}


def with_sizes(dialogue: Dialogue, folder: Path) -> Dialogue:
    """Return a dialogue of a run's copy whose parts know the size of their content in the run folder."""

    def sized(_: str | None, part: Part) -> Part:
        try:
            return part if part.path is None else part._replace(size=(folder / part.path).stat().st_size)
        except OSError:
            return part

    return with_media(dialogue, sized)


# Checks


def media_issues(dialogue: Dialogue, folder: Path) -> list[Issue]:
    """Return the issues of the media that a dialogue names, relative to `folder`, or holds.

    Of each file only the beginning is read.
    """
    issues: list[Issue] = []
    for place, part, _ in media_of(dialogue):
        try:
            _look_at(part, folder)
        except _Unusable as problem:
            issues.append(_issue(part, place, problem))
    return issues


def _issue(part: Part, place: str | None, problem: _Unusable) -> Issue:
    what = f"{part.kind} {problem.what}" if place is not None else f"tool_results: {part.kind} {problem.what}"
    return Issue(what=what, field=place, found=shown_part(part), hint=problem.hint)


def shown_part(part: Part) -> str:
    """Return a part for a message, with the beginning of its content."""
    plain = part_to_plain(part)
    return display_json(plain if part.data is None else {**plain, "data": part.data[:24] + "…"})


def _look_at(part: Part, folder: Path) -> None:
    if part.path is not None:
        with _opened(part.path, folder) as fd:
            _fitting_type(os.pread(fd, HEAD_BYTES, 0), part)
    elif part.data is not None:
        _refuse_size(len(part.data) // 4 * 3)
        _fitting_type(_decoded(part.data[: HEAD_BYTES // 3 * 4]), part)


def _decoded(data: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise _Unusable("is not base64", "standard base64 without line breaks or a data: prefix") from None


def _fitting_type(head: bytes, part: Part) -> MediaType:
    """Return the type of a content that begins with `head`; raises `_Unusable` if it is of another kind."""
    if not head:
        raise _Unusable("is empty", "give a file with content, or remove the part")
    found = media_type_of(head, part.path or "", part.kind)
    if found is None:
        known = ", ".join(one.extension for one in MEDIA_TYPES if one.kind == part.kind)
        raise _Unusable("has content of no known type", f"known for {part.kind}: {known}")
    if found.kind != part.kind:
        mended = {found.kind: part.path} if part.path is not None else {"data": "…", "mime_type": found.mime_type}
        raise _Unusable(
            f"holds {found.kind} ({found.mime_type})", f"write {display_json(mended)}, or give another file"
        )
    return found


def _refuse_size(size: int) -> None:
    if size > LARGEST:
        hint = 'upload it to the provider and give its address: {"uri": "…", "mime_type": "…"}'
        raise _Unusable(f"of {size / _MB:,.1f} MB is larger than any request may be ({LARGEST / _MB:,.0f} MB)", hint)


@contextmanager
def _opened(path: str, folder: Path) -> Generator[int]:
    """Open a regular file below a folder, so that no link and no pipe can take its place; raises `_Unusable`."""
    inside = f"media paths are relative to the dataset's folder and stay inside it: {folder.absolute()}"
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", path):
        hint = 'media are never fetched: save the file, or let the provider do it: {"uri": "…", "mime_type": "…"}'
        raise _Unusable("is a URL", hint)
    if "\0" in path or "\\" in path:
        raise _Unusable("path has a backslash or a null character", "use / between folder names")
    relative = Path(path)
    if relative.is_absolute() or path.startswith("~") or ".." in relative.parts:
        raise _Unusable("path leaves the dataset's folder", inside)
    try:
        root = folder.resolve(strict=True)
        real = (folder / relative).resolve(strict=True)
    except (OSError, RuntimeError) as error:
        if isinstance(error, PermissionError):
            raise _Unusable("file cannot be read: Permission denied", "make it readable for you") from None
        raise _Unusable("file does not exist", inside) from None
    if not real.is_relative_to(root):
        raise _Unusable("path is a link out of the dataset's folder", inside)
    try:
        fd = _open_below(root, real.relative_to(root).parts)
    except OSError as error:
        if stat.S_ISREG(_mode(real)):
            what = f"file cannot be read: {error.strerror or error}"
            raise _Unusable(what, "make it readable for you") from None
        raise _Unusable("path is not a regular file", inside) from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise _Unusable("path is not a regular file", inside)
        _refuse_size(status.st_size)
        yield fd
    finally:
        os.close(fd)


def _mode(path: Path) -> int:
    try:
        return path.lstat().st_mode
    except OSError:
        return 0


def _open_below(root: Path, names: tuple[str, ...]) -> int:
    """Open a file name by name from a folder; a link that has taken the place of a name fails."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    at = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in names[:-1]:
            below = os.open(name, flags | os.O_DIRECTORY, dir_fd=at)
            os.close(at)
            at = below
        return os.open(names[-1] if names else ".", flags | os.O_NONBLOCK, dir_fd=at)
    finally:
        os.close(at)


# Keeping


class MediaSpool:
    """Keeps the content of media, each once, in a folder beside the copy of the dialogues that name it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: OrderedDict[tuple[Any, ...], Part] = OrderedDict()

    def keep(self, dialogue: Dialogue, root: Path) -> tuple[Dialogue, list[Issue]]:
        """Return the dialogue with parts that name their kept content; or issues.

        Args:
            dialogue: With paths relative to `root`.
            root: The dataset's folder.
        """
        issues: list[Issue] = []

        def kept(place: str | None, part: Part) -> Part:
            try:
                return self._keep(part, root)._replace(detail=part.detail)
            except _Unusable as problem:
                issues.append(_issue(part, place, problem))
                return part

        return with_media(dialogue, kept), issues

    def _keep(self, part: Part, root: Path) -> Part:
        if part.data is not None:
            content = _decoded(part.data)
            _refuse_size(len(content))
            return self._write(part, iter([content]))
        if part.path is None:
            return part
        with _opened(part.path, root) as fd:
            status = os.fstat(fd)
            times = (status.st_mtime_ns, status.st_ctime_ns, status.st_size)
            mark = (status.st_dev, status.st_ino, *times, part.kind, Path(part.path).suffix)
            if mark in self._known:
                self._known.move_to_end(mark)
                return self._known[mark]
            stored = self._write(part, _chunks(fd))
        self._known[mark] = stored
        if len(self._known) > _FILES_REMEMBERED:
            self._known.popitem(last=False)
        return stored

    def _write(self, part: Part, chunks: Iterator[bytes]) -> Part:
        """Write a content under its digest and return the part that names it."""
        first = next(chunks, b"")
        found = _fitting_type(first[:HEAD_BYTES], part)
        self._folder.mkdir(mode=0o700, exist_ok=True)
        draft = self._folder / ".new"
        digest, size = hashlib.sha256(), 0
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "wb", buffering=0) as file:
            chunk = first
            while chunk:
                size += len(chunk)
                _refuse_size(size)  # it may grow while it is read
                digest.update(chunk)
                file.write(chunk)
                chunk = next(chunks, b"")
        name = f"{digest.hexdigest()}.{found.extension}"
        draft.replace(self._folder / name)
        return Part(kind=part.kind, path=f"{FOLDER}/{name}", size=size)


def _chunks(fd: int) -> Iterator[bytes]:
    while chunk := os.read(fd, _CHUNK):
        yield chunk
