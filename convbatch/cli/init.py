"""`convbatch init`: a configuration, a dataset and a CI workflow to start from; nothing that is there is changed.

The files are in `cli/starter/`. Each is written whole or not at all.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path

from convbatch.errors import Problem, SetupError
from convbatch.exit_codes import ExitCode
from convbatch.journal.run_folder import shell_quote

_WORKFLOW = Path(".github/workflows/dialogues.yml")
STARTER: Mapping[Path, tuple[str, str]] = {
    Path("convbatch.toml"): ("convbatch.toml", "targets, settings and limits"),
    Path("dialogues.jsonl"): ("dialogues.jsonl", "six dialogues with checks"),
    Path(".gitignore"): ("gitignore", "keeps run folders and keys out of git"),
    _WORKFLOW: ("workflow.yml", "GitHub Actions: compares each pull request with the main branch"),
}
"""Files by where they go: their name in `cli/starter/`, and what they are."""
_NEXT = (
    ("convbatch run dialogues.jsonl --name base", "asks the built-in simulator"),
    ("convbatch table base --wide reply", "the replies"),
    ("convbatch run dialogues.jsonl -m sim-drift@simulator --name candidate", "a worse model"),
    ("convbatch diff base candidate", "what it says differently"),
)


def run_init(folder: Path, *, ci: bool) -> ExitCode:
    """Write what is not there yet, print what was written and what stays, and the next commands.

    Raises:
        SetupError: A file cannot be written; what was written before it stays.
    """
    written: list[Path] = []
    kept: list[Path] = []
    problems: list[Problem] = []
    for path, (source, _) in STARTER.items():
        if path == _WORKFLOW and not ci:
            continue
        try:
            (written if _write(folder / path, _content(source)) else kept).append(path)
        except SetupError as error:
            problems += error.problems
    for line in _lines(folder, written, kept):
        print(line)  # noqa: T201  # the command's output
    if problems:
        raise SetupError.of(problems)
    return ExitCode.OK


def _content(name: str) -> bytes:
    return (files("convbatch.cli") / "starter" / name).read_bytes()


def _write(path: Path, content: bytes) -> bool:
    """Write a new file; return whether it was new.

    Raises:
        SetupError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:  # fails where there is anything, also a link that leads nowhere
            try:
                file.write(content)
                file.flush()
            except BaseException:
                path.unlink()
                raise
    except FileExistsError as error:
        if path.parent.is_dir() and os.path.lexists(path):
            return False
        raise _cannot_write(path, error) from error
    except OSError as error:
        raise _cannot_write(path, error) from error
    return True


def _cannot_write(path: Path, error: OSError) -> SetupError:
    if isinstance(error, FileExistsError | NotADirectoryError):
        in_the_way = next(place for place in path.parents if os.path.lexists(place))
        return SetupError(f"cannot write {path}: {in_the_way} is in the way", hint="name another folder")
    remedy = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else "name another folder"
    hint = f"{remedy}; what is there already stays as it is"
    return SetupError(f"cannot write {path}: {error.strerror}", hint=hint)


def _lines(folder: Path, written: list[Path], kept: list[Path]) -> Iterator[str]:
    width = max(len(shell_quote(folder / path)) for path in STARTER)
    for path in written:
        yield f"wrote {shell_quote(folder / path):<{width}}  {STARTER[path][1]}"
    for path in kept:
        yield f"left  {shell_quote(folder / path):<{width}}  it was there: not changed"
    if not written:
        return
    yield "next:"
    commands = [(f"cd {shell_quote(folder)}", ""), *_NEXT] if folder.resolve() != Path.cwd() else [*_NEXT]
    most = max(len(command) for command, _ in commands)
    for command, why in commands:
        yield f"  {command:<{most}}  # {why}" if why else f"  {command}"
    yield "real models: the comments in convbatch.toml; `convbatch doctor` checks keys"
