"""Records of the run folders that this user created, kept in the user's state directory and never in a run folder.

Whoever receives a run folder can copy and change everything in it, also the name of its record. So the record itself
says where the folder is and which endpoints its owner paired with their keys. What follows from it is `trust.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import stat
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

MAX_RECORDS = 4_000
"""Records that are kept; of more, the oldest are removed, and their folders count as created elsewhere."""
_MAX_BYTES = 1 << 20
_TOKEN = re.compile(r"[0-9a-f]{32}")
_SAFELY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""Flags that refuse a link and do not wait for a pipe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What is known about a run folder from its creation."""

    path: str
    """The folder's real path."""
    device: int
    inode: int
    endpoints: tuple[str, ...]
    """Digests of the endpoints that the user's own configuration named (`trust.Endpoint.digest`)."""
    reuse: str | None = None
    """The run whose replies it reuses."""

    def is_at(self, folder: Path) -> bool:
        """Return whether the folder is this user's, and still at its path or, renamed, on its disk."""
        try:
            there = folder.stat()
            path = os.path.realpath(folder)
        except OSError:
            return False
        is_same = path == self.path or (there.st_dev, there.st_ino) == (self.device, self.inode)
        return is_same and there.st_uid == os.geteuid()


def record_origin(folder: Path, endpoints: Iterable[str], *, reuse: str | None = None, most: int = MAX_RECORDS) -> str:
    """Record a new run folder and return the token under which `run.json` names the record.

    Args:
        folder: The run folder.
        endpoints: As `Origin.endpoints`.
        reuse: As `Origin.reuse`.
        most: Number of records to keep.

    Raises:
        OSError: The state directory cannot be written, or is not this user's own.
    """
    token = secrets.token_hex(16)
    there = folder.stat()
    origin = Origin(
        path=os.path.realpath(folder),
        device=there.st_dev,
        inode=there.st_ino,
        endpoints=tuple(sorted(endpoints)),
        reuse=reuse,
    )
    with _records(create=True) as records:
        _remove_oldest(records, most)
        _write(records, token, origin)
    return token


def add_endpoints(token: str, endpoints: Iterable[str]) -> None:
    """Add endpoints to a record.

    Raises:
        OSError: As `record_origin`.
    """
    origin = read_origin(token)
    if origin is None or set(endpoints) <= set(origin.endpoints):
        return
    with _records(create=True) as records:
        _write(records, token, replace(origin, endpoints=tuple(sorted({*origin.endpoints, *endpoints}))))


def read_origin(token: str | None) -> Origin | None:
    """Return the record with this name; None if there is none, or if another user could have written it."""
    if token is None or not _TOKEN.fullmatch(token):
        return None
    try:
        with _records() as records:
            plain = json.loads(_read_own(records, token))
            os.utime(token, dir_fd=records, follow_symlinks=False)  # records that are in use are kept longest
    except (OSError, RuntimeError, ValueError, RecursionError):  # none, no home, or damaged
        return None
    return _origin(plain)


def state_folder() -> Path:
    """Return convbatch's folder in the user's state directory: `$XDG_STATE_HOME`, else `~/.local/state`.

    Raises:
        RuntimeError: The user has no home directory.
    """
    state = os.environ.get("XDG_STATE_HOME", "")
    return (Path(state) if state.startswith("/") else Path.home() / ".local" / "state") / "convbatch"


def _origin(plain: Any) -> Origin | None:
    match plain:
        case {"path": str(path), "device": int(device), "inode": int(inode), "endpoints": [*endpoints]}:
            reuse = plain.get("reuse")
            return Origin(path=path, device=device, inode=inode, endpoints=tuple(map(str, endpoints)), reuse=reuse)
        case _:
            return None


@contextmanager
def _records(*, create: bool = False) -> Generator[int]:
    """Open the folder of the records: neither it nor the one above may be a link or writable for others."""
    above = state_folder()
    if create:
        _create(above)
    with _own_folder(above) as parent:
        if create:
            with contextlib.suppress(FileExistsError):
                os.mkdir("runs", 0o700, dir_fd=parent)
        with _own_folder("runs", parent) as records:
            yield records


def _create(folder: Path) -> None:
    if folder.is_dir():
        return
    existing = next(parent for parent in folder.parents if parent.is_dir())
    if os.geteuid() == 0 and existing.stat().st_uid != 0:  # `sudo` in the home of another user
        raise PermissionError(f"{existing} belongs to another user")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


@contextmanager
def _own_folder(path: Path | str, parent: int | None = None) -> Generator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _SAFELY, dir_fd=parent)
    try:
        _refuse_foreign(os.fstat(fd))
        yield fd
    finally:
        os.close(fd)


def _refuse_foreign(status: os.stat_result) -> None:
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise PermissionError("the state directory belongs to another user, or others can write to it")


def _read_own(records: int, name: str) -> bytes:
    fd = os.open(name, os.O_RDONLY | _SAFELY, dir_fd=records)
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        _refuse_foreign(status)
        if not stat.S_ISREG(status.st_mode):
            raise PermissionError("a record is a file")
        return file.read(_MAX_BYTES)


def _write(records: int, token: str, origin: Origin) -> None:
    """Write a record, whole or not at all."""
    draft = f".{token}.{os.getpid()}"
    try:
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _SAFELY, 0o600, dir_fd=records)
        with os.fdopen(fd, "wb") as file:
            file.write(json.dumps(asdict(origin)).encode())
        os.replace(draft, token, src_dir_fd=records, dst_dir_fd=records)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(draft, dir_fd=records)
        raise


def _remove_oldest(records: int, most: int) -> None:
    """Make room for one more record, and for some to come, so that few runs have to sort all."""
    names = os.listdir(records)
    if len(names) < most:
        return
    with contextlib.suppress(OSError):  # another process removes them as well
        times = {name: os.stat(name, dir_fd=records, follow_symlinks=False).st_mtime_ns for name in names}
        surplus = len(names) - most + most // 20 + 1
        for name in sorted(names, key=times.__getitem__)[:surplus]:
            os.unlink(name, dir_fd=records)
