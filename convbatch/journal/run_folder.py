"""The run folder: file names, permissions, atomic writes, the lock, and how to find a run.

It decides where files are and that each is written completely or not at all. The content of the journal is
`records.py`, of the tables `results/run.py`, of `run.json` `manifest.py`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import os
import re
import shutil
import stat
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from zlib import crc32

from convbatch.console.text import shell_word
from convbatch.errors import JournalError, Place, SetupError, nearest
from convbatch.journal.manifest import MANIFEST_HINT, MANIFEST_NAME, Manifest
from convbatch.journal.records import JournalEnd
from convbatch.journal.run_names import LATEST, named_run, names_of
from convbatch.paths import expand_home
from convbatch.system import Disk

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

DELETED = ".deleted-"
"""How the name of a folder begins that `runs --prune` is deleting, or could not delete wholly."""
_SEGMENT = re.compile(r"[0-9]{6,}\.jsonl")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFolder:
    """The folder of one run; folders are 0700 and files 0600, whatever the umask is."""

    path: Path
    disk: Disk = field(default_factory=Disk, repr=False, compare=False)

    @classmethod
    def create(cls, path: Path, *, disk: Disk | None = None) -> RunFolder:
        """Create a new run folder at a path that is absent or an empty folder.

        Raises:
            SetupError: The folder is not empty, or cannot be written.
        """
        folder = cls(path=path, disk=disk or Disk())
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if any(path.iterdir()):
                raise SetupError(f"the folder {path} is not empty", hint=_occupied_hint(path))
            folder._create_layout()
        except OSError as error:
            raise _cannot_create(path, error) from error
        return folder

    @classmethod
    def create_in(cls, results: Path, name: str, *, disk: Disk | None = None) -> RunFolder:
        """Create `results/name`, or `name-2`, `name-3` … when the name is taken.

        Raises:
            SetupError: The results folder cannot be written.
        """
        number = 1
        while True:
            folder = cls(path=results / (name if number == 1 else f"{name}-{number}"), disk=disk or Disk())
            try:
                results.mkdir(parents=True, exist_ok=True)
                folder.path.mkdir(mode=0o700)
                folder._create_layout()
            except FileExistsError as error:
                if not results.is_dir():
                    raise _cannot_create(folder.path, error) from error
                number += 1
            except OSError as error:
                raise _cannot_create(folder.path, error) from error
            else:
                return folder

    @classmethod
    def open(cls, path: Path, *, disk: Disk | None = None) -> RunFolder:
        """Open an existing run folder.

        Raises:
            SetupError: There is none at this path.
        """
        if _is_closed(path):
            raise SetupError(f"the run folder {path} may not be read", hint="run folders are private: ask its owner")
        if not path.is_dir():
            what = f"{path} is a file, not a run folder" if path.exists() else f"there is no run folder {path}"
            raise SetupError(what, hint="`convbatch runs` lists the run folders")
        if not (path / MANIFEST_NAME).is_file():
            hint = "a run folder holds run.json and journal/; `convbatch runs` lists the run folders"
            raise SetupError(f"{path} is not a run folder: it has no {MANIFEST_NAME}", hint=hint)
        return cls(path=path, disk=disk or Disk())

    @property
    def name(self) -> str:
        """The folder's own name, also for `.`."""
        return self.path.name or self.path.resolve().name

    @property
    def journal(self) -> Path:
        """Folder of the journal's segments."""
        return self.path / "journal"

    @property
    def lock(self) -> Path:
        """The file that the writer locks; it is never replaced, because a new file would be a second lock."""
        return self.journal / "lock"

    @property
    def dataset(self) -> Path:
        """Normalised copy of the selected dialogues; line i is dialogue index i."""
        return self.path / "dataset.jsonl.gz"

    @property
    def turns(self) -> Path:
        """The table with one row per turn."""
        return self.path / "turns.parquet"

    @property
    def verdicts(self) -> Path:
        """The table with one row per check."""
        return self.path / "verdicts.parquet"

    @property
    def checks(self) -> Path:
        """A copy like `dataset` whose checks replace those of the run; absent until checks are edited."""
        return self.path / "checks.jsonl.gz"

    @property
    def media(self) -> Path:
        """Folder of input media and non-text parts of replies."""
        return self.path / "media"

    def segments(self) -> list[Path]:
        """Return the journal's segments in order; empty before the first record."""
        try:
            with self.reading_journal():
                names = [entry for entry in self.journal.iterdir() if _SEGMENT.fullmatch(entry.name)]
        except FileNotFoundError:
            return []
        return sorted(names, key=lambda path: int(path.stem))

    @contextmanager
    def reading_journal(self) -> Generator[None]:
        """Turn an OSError while the journal is read into a SetupError; FileNotFoundError passes."""
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise SetupError(
                f"the journal cannot be read: {error.strerror or error}",
                place=Place(path=str(error.filename or self.journal)),
                hint="check that the run folder is complete and that you may read it",
            ) from error

    def refuse_lost_journal(self, manifest: Manifest) -> None:
        """Refuse a run whose journal is lost; only a run that was killed at its start may have none.

        Without a journal every turn would look as if it had never been asked, and a resume would ask all again.

        Raises:
            SetupError: The journal is missing or empty.
        """
        if (manifest.state == "running" and manifest.journal is None) or any(self._segment_sizes()):
            return
        raise SetupError(
            f"the journal of this run is gone (run.json calls the run {manifest.state})",
            place=Place(path=str(self.journal)),
            hint=f"restore journal/ from a copy ({self.turns.name} may still hold the last table); "
            "to ask and pay for every turn again, run the dataset into a new folder",
        )

    def journal_mark(self) -> str:
        """Return a text that changes whenever the journal does, to detect stale tables.

        It includes the checksum of the last record: another journal may have the same length.
        """
        sizes = self._segment_sizes()
        with self.reading_journal():
            last = _last_bytes(self.segments()[-1]).hex() if any(sizes) else ""
        return f"{len(sizes)}:{sum(sizes)}:{last}"

    def journal_checksum(self) -> int:
        """Return the CRC-32 of all segments, one after the other."""
        checksum = 0
        with self.reading_journal():
            for path in self.segments():
                with path.open("rb", buffering=0) as file:
                    while block := file.read(1 << 20):
                        checksum = crc32(block, checksum)
        return checksum

    def recorded_end(self) -> JournalEnd | None:
        """Return the record that `run.json` expects in the journal; None if it cannot be read or names none."""
        with contextlib.suppress(SetupError):
            plain = self._read_json()
            end = plain.get("journal") if isinstance(plain, dict) else None
            match end:
                case {"seq": int(seq), "crc": int(crc)}:
                    return JournalEnd(seq, crc)
                case _:
                    return None
        return None

    def checks_mark(self) -> str:
        """Return a text that changes with the length or gzip checksum of `checks`; `""` without the file."""
        try:
            with self.checks.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(size - 8, 0))
                return f"{size}:{file.read().hex()}"
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise SetupError(
                f"the checks of this run cannot be read: {error.strerror or error}",
                place=Place(path=str(self.checks)),
                hint="check that the run folder is complete and that you may read it",
            ) from error

    def read_manifest(self) -> Manifest:
        """Read `run.json`.

        Raises:
            SetupError: It cannot be read, a newer version wrote it, or a key is missing or wrong.
        """
        return Manifest.from_json(self._read_json(), path=str(self.path / MANIFEST_NAME))

    def write_manifest(self, manifest: Manifest) -> None:
        """Write `run.json`, whole or not at all.

        Raises:
            JournalError: It could not be written; the former one stays.
        """
        with self.replacing(MANIFEST_NAME) as file:
            text = json.dumps(manifest.to_json(), ensure_ascii=False, indent=2)
            # A path need not be text: its odd bytes are lone surrogates in Python, and `\udcff` is JSON's word for one.
            file.write(text.encode(errors="backslashreplace") + b"\n")

    def created_at(self) -> str:
        """Return when `run.json` says that the run was created, even if another key is wrong; `""` if unknown."""
        try:
            plain = self._read_json()
        except SetupError:
            return ""
        return str(plain.get("created_at", "")) if isinstance(plain, dict) else ""

    def given_name(self) -> str | None:
        """Return the `--name` of the run, even if another key of `run.json` is wrong; None without one."""
        try:
            plain = self._read_json()
        except SetupError:
            return None
        name = plain.get("name") if isinstance(plain, dict) else None
        return name if isinstance(name, str) else None

    def _read_json(self) -> Any:
        self._refuse_traps()
        path = self.path / MANIFEST_NAME
        try:
            return json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            hint = "ask the owner of this run" if isinstance(error, PermissionError) else MANIFEST_HINT
            reason = error.strerror if isinstance(error, OSError) else error
            raise SetupError(
                f"cannot read {MANIFEST_NAME}: {reason}", place=Place(path=str(path)), hint=hint
            ) from error

    @contextmanager
    def replacing(self, name: str) -> Generator[IO[bytes], None, None]:
        """Open a file that gets its name, durably, when the block succeeds; after an error nothing has changed.

        Raises:
            JournalError: The disk reported an error.
        """
        target = self.path / name
        # Readers rebuild tables too: two processes must not write the same draft.
        draft = target.with_name(f".{target.name}.{os.getpid()}.new")
        try:
            fd = self.disk.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW)
            try:
                with io.BufferedWriter(_DescriptorFile(self.disk, fd), buffer_size=1 << 20) as file:
                    yield file
                self.disk.sync(fd)
            finally:
                self.disk.close(fd)
            self.disk.replace(draft, target)
            self.disk.sync_folder(target.parent)
        except BaseException as error:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise cannot_write(target, error, self.path) from error
            raise

    def adopt_media(self, source: Path) -> None:
        """Copy the files of a folder into `media/`, durably; a folder that does not exist has none.

        Raises:
            JournalError: The disk reported an error.
        """
        if not source.is_dir():
            return
        try:
            self.media.mkdir(mode=0o700, exist_ok=True)
            self.disk.sync_folder(self.path)
        except OSError as error:
            raise cannot_write(self.media, error, self.path) from error
        for path in sorted(source.iterdir()):
            with path.open("rb") as content, self.replacing(f"{self.media.name}/{path.name}") as kept:
                shutil.copyfileobj(content, kept, 1 << 20)

    @contextmanager
    def creating(self) -> Generator[None]:
        """Remove the new folder if an error occurs while its first files are written: no command could use it.

        Raises:
            JournalError: The disk reported an error.
        """
        try:
            yield
        except BaseException as error:
            self._remove()
            if isinstance(error, JournalError):
                problem = error.problems[0]
                hint = "nothing was sent; free some space or name another folder with --out DIR, then run again"
                raise JournalError(problem.what, place=problem.place, hint=hint) from error
            raise

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            for path in (self.path / MANIFEST_NAME, self.dataset):
                path.unlink(missing_ok=True)
            for path in self.media.iterdir() if self.media.is_dir() else ():
                path.unlink()
            if self.media.is_dir():
                self.media.rmdir()
            self.journal.rmdir()
            self.path.rmdir()

    def take_lock(self) -> FolderLock:
        """Become the folder's only writer.

        Raises:
            SetupError: Another process uses the folder, or the file system has no locks.
            OSError: The lock file cannot be opened.
        """
        with contextlib.ExitStack() as stack:
            fd = self.disk.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
            stack.callback(self.disk.close, fd)
            if not self._locked(fd):
                pid = os.pread(fd, 20, 0).decode("ascii", "replace").strip()
                raise SetupError(
                    f"the run folder {self.path} is in use by another process" + (f" (pid {pid})" if pid else ""),
                    hint="wait until it ends, or stop it with Ctrl-C",
                )
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
            # A second lock serves `is_in_use`, which takes it shared for an instant. The writer can wait for that
            # instant here; on the first lock it could not tell it from a second writer.
            folder = self.disk.open(self.journal, os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(self.disk.close, folder)
            fcntl.flock(folder, fcntl.LOCK_EX)
            return FolderLock(stack.pop_all())

    def is_in_use(self) -> bool:
        """Return whether a writer is active."""
        try:
            fd = os.open(self.journal, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def state(self, manifest: Manifest) -> str:
        """Return the run's state for readers: `running` without an active writer means interrupted."""
        if self.is_in_use():
            return "running"
        return "interrupted" if manifest.state == "running" else manifest.state

    def _refuse_traps(self) -> None:
        """Refuse pipes, which would block a reader, and linked folders, which would make a writer write elsewhere."""
        found = "a run folder holds plain files and folders, and its journal and media are no links"
        for folder in (self.journal, self.media):
            if folder.is_symlink():
                raise _trap(folder, "is a link", found)
        inside: list[Path] = []
        with contextlib.suppress(OSError):  # absent or unreadable: reported where it is needed
            inside = list(self.journal.iterdir())
        for path in (self.path / MANIFEST_NAME, self.dataset, self.checks, self.turns, self.verdicts, *inside):
            with contextlib.suppress(OSError):
                mode = path.stat().st_mode
                if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                    raise _trap(path, "is a pipe, a socket or a device", found)

    def _segment_sizes(self) -> list[int]:
        with self.reading_journal():
            return [path.stat().st_size for path in self.segments()]

    def _create_layout(self) -> None:
        with contextlib.suppress(PermissionError):  # a file system without permissions
            self.path.chmod(0o700)
        self.journal.mkdir(mode=0o700)
        self.disk.sync_folder(self.path)
        self.disk.sync_folder(self.path.parent)

    def _locked(self, fd: int) -> bool:
        try:
            return self.disk.lock(fd)
        except OSError as error:
            raise SetupError(
                f"the run folder {self.path} cannot be locked: {error.strerror}",
                hint="use a folder on a local disk: --out DIR",
            ) from error


class FolderLock:
    """The exclusive right to write to a run folder, until it is released or the process ends."""

    def __init__(self, locks: contextlib.ExitStack) -> None:
        self._locks = locks

    def release(self) -> None:
        """Release the lock."""
        self._locks.close()


class _DescriptorFile(io.RawIOBase):
    """A file object that writes to a descriptor through the `Disk`; it does not own the descriptor."""

    def __init__(self, disk: Disk, fd: int) -> None:
        super().__init__()
        self._disk = disk
        self._fd = fd

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        return self._disk.write(self._fd, bytes(data))


def _last_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - 12, 0))
        return file.read()


def is_part_of_run(path: Path, new_run: Path | None = None) -> bool:
    """Whether a file is one that a run needs, or makes itself.

    Args:
        path: The file; it need not exist.
        new_run: The folder of a run that is going to be made.
    """
    place = path.absolute()
    for folder in (RunFolder(path=place.parent), RunFolder(path=place.parent.parent)):
        files = (folder.path / MANIFEST_NAME, folder.dataset, folder.checks, folder.turns, folder.verdicts)
        is_run = files[0].exists() or (new_run is not None and folder.path == new_run.absolute())
        if is_run and (place in files or place.parent in (folder.journal, folder.media)):
            return True
    return False


def default_name(started_at: float, stem: str) -> str:
    """Return a name like `20261121T233000Z-quickstart`: sorts by time, safe as a file name and in `RUN:target`.

    Args:
        started_at: Unix seconds UTC.
        stem: The dataset's file name without its suffixes.
    """
    safe = re.sub(r"[^\w.-]+", "-", stem).strip("-._")[:40] or "run"
    return f"{datetime.fromtimestamp(started_at, UTC):%Y%m%dT%H%M%SZ}-{safe}"


def list_runs(results: Path) -> list[RunFolder]:
    """Return all run folders under `results`, oldest first by the `created_at` of their run.json.

    Raises:
        SetupError: `results` may not be read.
    """
    try:
        places = [path for path in results.iterdir() if not path.name.startswith(DELETED)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise SetupError(f"{results}/ cannot be read: {error.strerror}", hint="work in a folder you own") from error
    folders = [RunFolder(path=path) for path in places if _is_closed(path) or (path / MANIFEST_NAME).is_file()]
    return sorted(folders, key=lambda folder: (folder.created_at(), folder.name))


def find_run(text: str, results: Path) -> Path:
    """Return the path of a run folder given as a path, a folder name under `results`, `latest`, or by its `--name`.

    Raises:
        SetupError: There is no such run, the hint names the nearest; or several runs have this name.
    """
    if text.startswith("~") and not (
        Path(text).exists() or (results / text).exists()
    ):  # within quotes, or behind a `=`, no shell expands it
        text = str(expand_home(text))
    try:
        for path in (Path(text), results / text):
            if _is_closed(path) or (path / MANIFEST_NAME).is_file():
                return path
    except OSError as error:
        raise SetupError(f"{text[:80]!r} cannot be a run: {error.strerror}", hint=_LISTED) from error
    runs = list_runs(results)
    if text == LATEST:
        if not runs:
            raise SetupError(
                f"there is no run under {results}/ yet", hint="start one: convbatch run datasets/quickstart.jsonl"
            )
        return runs[-1].path
    if (named := named_run(text, runs)) is not None:
        return named.path
    for path in (Path(text), results / text):
        if path.exists():
            return RunFolder.open(path).path  # raises with the reason
    raise _no_such_run(text, results, [name for folder in runs for name in names_of(folder)])


def shell_quote(path: Path) -> str:
    """Return a path as it is typed in a shell; a leading dash, which would start an option, is avoided."""
    text = str(path)
    return shell_word(f"./{text}" if text.startswith("-") else text)


def cannot_write(path: Path, error: OSError, folder: Path) -> JournalError:
    """Return the error for a failed write: what, where, and how to continue."""
    remedy = "free some space or repair the disk"
    if error.errno == errno.ENOMEM:
        remedy = "raise the memory limit"
    elif isinstance(error, FileNotFoundError):
        remedy = "the run folder was moved or deleted: put it back, or use its new path"
    return JournalError(
        f"cannot write: {error.strerror or error}",
        place=Place(path=str(path)),
        hint=f"{remedy}, then: convbatch resume {shell_quote(folder)}",
    )


def _trap(path: Path, what: str, found: str) -> SetupError:
    hint = "ask the person who gave you this run folder; convbatch does not create this"
    return SetupError(f"{path} {what}", found=found, hint=hint)


def _is_closed(path: Path) -> bool:
    """Return whether the folder belongs to another user, so that nothing in it can be looked up."""
    try:
        (path / MANIFEST_NAME).exists()
    except PermissionError:
        return True
    return False


def _occupied_hint(path: Path) -> str:
    if (path / MANIFEST_NAME).is_file():
        return (
            f"to finish the run in it: convbatch resume {shell_quote(path)}; "
            "for a new run name another folder with --out"
        )
    return "name an absent or empty folder with --out"


def _cannot_create(path: Path, error: OSError) -> SetupError:
    reason = error.strerror or str(error)
    if isinstance(error, FileExistsError | NotADirectoryError):
        in_the_way = next(place for place in (path, *path.parents) if place.is_symlink() or place.exists())
        reason = f"{in_the_way} is in the way"
    return SetupError(f"cannot create the run folder {path}: {reason}", hint="name another folder with --out DIR")


_LISTED = "`convbatch runs` lists the run folders"


def _runs_beside(path: Path) -> list[str]:
    """Return the run folders in the folder of a path that is none, written as the path is."""
    with contextlib.suppress(OSError):
        return [str(path.parent / each.parent.name) for each in path.parent.glob(f"*/{MANIFEST_NAME}")]
    return []


def _no_such_run(text: str, results: Path, names: list[str]) -> SetupError:
    above = next((place for place in Path(text).parents if (place / MANIFEST_NAME).is_file()), None)
    beside = _runs_beside(Path(text))
    close = str(above) if above is not None else nearest(text, [*names, *beside])
    hint = _LISTED if close is None else f"did you mean {close}? {_LISTED}"
    return SetupError(f"there is no run {text!r}, neither as a path nor under {results}/", hint=hint)
