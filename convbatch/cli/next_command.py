"""The next command, as text that can be pasted into a shell in any directory: every path in it is absolute."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convbatch.errors import ConvbatchError
from convbatch.journal.run_folder import shell_quote
from convbatch.session.options import CheckOptions, OptionSpec, ResumeOptions, RunOptions, option_fields

if TYPE_CHECKING:
    from convbatch.journal.run_folder import RunFolder
    from convbatch.session.spec import SessionResult, SessionSpec

_PATHS = ("run", "reuse")
"""Options whose value is the path of a run folder, as text."""


def command_line(command: str, options: Any) -> str:
    """Return the command with every option that differs from its default, positional arguments first."""
    pairs = sorted(option_fields(options), key=lambda pair: bool(pair[1].names))
    words = [word for field, spec in pairs for word in _words(field, spec, getattr(options, field.name))]
    return " ".join(["convbatch", command, *words])


def resume_line(
    folder: RunFolder, max_cost: str | None = None, env_file: Path | None = None, out: Sequence[Path] = ()
) -> str:
    """Return the `resume` command of a run folder, with the file that the keys came from and the files to write."""
    options = ResumeOptions(run=str(folder.path), max_cost=max_cost, env_file=env_file, out=tuple(out))
    return command_line("resume", options)


def read_line(command: str, folder: RunFolder, *options: str) -> str:
    """Return a command that reads a run folder."""
    return " ".join(["convbatch", command, shell_quote(folder.path.absolute()), *options])


def with_resume_line(error: ConvbatchError, folder: RunFolder, line: str) -> ConvbatchError:
    """Return an error of the run folder whose hint has this command in place of a plain `resume`."""
    plain = f"convbatch resume {shell_quote(folder.path)}"
    return type(error).of([replace(one, hint=one.hint and one.hint.replace(plain, line)) for one in error.problems])


def ask_again_line(spec: SessionSpec) -> str:
    """Return the `check` command that asks the judge of a run again about the verdicts that it did not give."""
    config = spec.manifest.config
    return command_line(
        "check",
        CheckOptions(
            run=str(spec.folder.path),
            judge=spec.manifest.judges[-1].name,
            config=None if config is None else Path(config),
            env_file=spec.credentials.env_file,
            ask_again=True,
        ),
    )


def rerun_line(spec: SessionSpec) -> str:
    """Return the `run` command that plans the same run anew and reuses its replies."""
    manifest, settings = spec.manifest, spec.manifest.settings
    selection = manifest.dataset.selection
    config = None if manifest.config is None else Path(manifest.config)
    return command_line(
        "run",
        RunOptions(
            datasets=tuple(Path(source.path) for source in manifest.dataset.sources),
            models=manifest.target_names,
            config=config if config is not None and config.exists() else None,
            env_file=spec.credentials.env_file,
            ids=tuple(selection.get("ids", ())),
            tags=tuple(selection.get("tags", ())),
            limit=selection.get("limit"),
            repeats=None if manifest.repeats == 1 else manifest.repeats,
            history=None if manifest.history == "live" else manifest.history,
            temperature=settings.temperature,
            max_output_tokens=settings.max_output_tokens,
            seed=settings.seed,
            thinking_budget=settings.thinking_budget,
            params=tuple(_params(settings.extra or {})),
            judge=manifest.options.judge,
            fail_under=manifest.options.fail_under,
            max_cost=manifest.options.max_cost,
            reuse=str(spec.folder.path),
        ),
    )


def _params(extra: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Yield the values of `-p` for further fields of the request body."""
    for name, value in extra.items():
        if isinstance(value, Mapping) and value:
            yield from _params(value, f"{above}{name}.")
        else:
            yield f"{above}{name}={json.dumps(value, ensure_ascii=False)}"


def larger_budget(result: SessionResult) -> str | None:
    """Return a budget that lets the next request through, as an option's value; None if the budget did not end it."""
    larger = result.larger_budget
    return None if larger is None else f"{larger.amount:f}{larger.currency}"


def _words(field: Field[Any], spec: OptionSpec, value: Any) -> Iterator[str]:
    if value == field.default:
        return
    for item in value if isinstance(value, tuple) else (value,):
        if isinstance(item, bool):
            yield spec.names[0]
        elif isinstance(item, Path) or field.name in _PATHS:
            yield " ".join([*spec.names[:1], shell_quote(Path(item).absolute())])
        else:
            yield f"{spec.names[0]} {shlex.quote(f'{item:g}s' if spec.seconds else str(item))}"
