"""The files that a simulated provider keeps for batch jobs, and how they arrive: as a form, or in pieces.

Sources: https://platform.openai.com/docs/api-reference/files, the resumable upload that google-genai 3.6.1 sends, and
RFC 7578 (multipart/form-data).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from convbatch.simulator.batches.jobs import MadeLine
from convbatch.simulator.wire import refuse

_BOUNDARY = re.compile(r'boundary="?([^";]+)"?', re.IGNORECASE)
_NAME = re.compile(rb'[; ]name="([^"]*)"')
_FILE_NAME = re.compile(rb'filename="([^"]*)"')


@dataclass(slots=True, kw_only=True)
class StoredFile:
    """A file of one key."""

    file_id: str
    key: str
    name: str
    purpose: str
    content_type: str = "application/jsonl"
    created_at: float
    expires_at: float
    content: bytes = b""
    size: int | None = None
    """Bytes that were announced for an upload in pieces."""
    is_whole: bool = True
    job_id: str | None = None
    """The job whose results it holds."""
    made: Sequence[MadeLine] = ()
    """The lines of that job."""


class Files:
    """The files of one provider."""

    def __init__(self) -> None:
        """Start without any."""
        self._files: dict[str, StoredFile] = {}

    def add(self, file: StoredFile) -> StoredFile:
        """Keep a file."""
        self._files[file.file_id] = file
        return file

    def find(self, file_id: str, key: str, now: float, *, otherwise: str) -> StoredFile:
        """Return a file; refuses one that is unknown, of another key, or expired."""
        file = self._files.get(file_id)
        if file is None or file.key != key or now >= file.expires_at or not file.is_whole:
            refuse("no_path", otherwise, field="id")
        return file

    def has(self, file_id: str) -> bool:
        """Return whether there is, or was, a file with this id."""
        return file_id in self._files

    def get(self, file_id: str) -> StoredFile | None:
        """Return a file of any key; None if there is none."""
        return self._files.get(file_id)

    def begun(self, file_id: str) -> StoredFile | None:
        """Return a file whose upload has begun, for the next piece."""
        file = self._files.get(file_id)
        return file if file is not None and not file.is_whole else None

    def of_key(self, key: str, now: float) -> list[StoredFile]:
        """Return the files of a key, newest first."""
        files = reversed(self._files.values())
        return [file for file in files if file.key == key and now < file.expires_at and file.is_whole]

    def forget(self, file: StoredFile) -> None:
        """Delete a file; its id is not used again."""
        file.expires_at, file.content = 0.0, b""


@dataclass(frozen=True, slots=True)
class Form:
    """A form that was sent."""

    fields: Mapping[str, str]
    files: Mapping[str, tuple[str, bytes]] = field(default_factory=dict[str, tuple[str, bytes]])
    """Name and content."""


def read_form(content_type: str, body: bytes) -> Form | None:
    """Return the fields of a multipart form; None for anything else."""
    found = _BOUNDARY.search(content_type)
    if not content_type.lower().startswith("multipart/form-data") or found is None:
        return None
    fields: dict[str, str] = {}
    files: dict[str, tuple[str, bytes]] = {}
    for part in (b"\r\n" + body).split(b"\r\n--" + found[1].encode())[1:-1]:
        head, gap, content = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        name = _NAME.search(head)
        if not gap or name is None:
            return None
        file_name = _FILE_NAME.search(head)
        if file_name is None:
            fields[name[1].decode()] = content.decode("utf-8", "replace")
        else:
            files[name[1].decode()] = (file_name[1].decode("utf-8", "replace"), content)
    return Form(fields, files)


def lines_of(content: bytes) -> list[tuple[int, bytes]]:
    """Return the lines that are not blank, with their numbers from 1."""
    return [(number, line) for number, line in enumerate(content.split(b"\n"), 1) if line.strip()]
