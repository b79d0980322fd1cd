"""Delete a run folder: what is in it, how large it is, and nothing that a link in it leads to.

Whether a run may be deleted is decided in `cli/prune.py`; here only a run that another process uses is refused.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

from convbatch.console.text import log_note
from convbatch.errors import SetupError
from convbatch.journal.run_folder import DELETED, RunFolder, shell_quote


def size_of(folder: RunFolder) -> int:
    """Return the bytes of all files in a run folder; links count nothing, and are not followed."""
    total = 0
    for root, _, files in os.walk(folder.path):
        for name in files:
            path = Path(root) / name
            if not path.is_symlink():
                try:
                    total += path.stat().st_size
                except FileNotFoundError:  # a draft that got its name meanwhile
                    continue
    return total


def remove_run(folder: RunFolder) -> None:
    """Delete a run folder. It disappears at once under its name, so that no command finds half of it.

    Raises:
        SetupError: It is a link, another process uses it, or a file cannot be deleted.
    """
    path = folder.path
    if path.is_symlink():
        raise SetupError(f"{path} is a link, and what it leads to is not deleted", hint="delete the link by hand")
    with ExitStack() as stack:
        try:
            stack.callback(folder.take_lock().release)
            aside = Path(tempfile.mkdtemp(prefix=DELETED, dir=path.parent))
            stack.callback(_remove_empty, aside)
            path.rename(aside)
        except OSError as error:
            hint = "nothing of it was deleted; check that you may write to the folder it is in"
            raise SetupError(f"cannot delete {path}: {error.strerror}", hint=hint) from error
        left = f"delete what is left of it: rm -r {shell_quote(aside)}"
        try:
            shutil.rmtree(aside)
        except OSError as error:
            raise SetupError(f"cannot delete all of {path}: {error.strerror}", hint=left) from error
        except KeyboardInterrupt:
            log_note(left)
            raise


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
