"""The next command, as text that can be pasted into a shell in any directory: every path in it is absolute."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import Field, replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from convbatch.console.text import shell_word
from convbatch.errors import ConvbatchError
from convbatch.journal.run_folder import shell_quote
from convbatch.session.options import (
    CheckOptions,
    OptionSpec,
    ResumeOptions,
    RunOptions,
    absolute,
    given_options,
    option_fields,
    read_given,
)
from convbatch.session.run_caps import larger_options

if TYPE_CHECKING:
    from convbatch.journal.manifest import Manifest
    from convbatch.journal.run_folder import RunFolder
    from convbatch.session.spec import SessionResult, SessionSpec


NO_CAPS: Mapping[str, str] = {}


def command_line(command: str, options: Any) -> str:
    """Return the command with every option that differs from its default, positional arguments first."""
    pairs = sorted(option_fields(options), key=lambda pair: bool(pair[1].names))
    words = [word for field, spec in pairs for word in _words(field, spec, getattr(options, field.name))]
    return " ".join(["convbatch", command, *words])


def resume_line(spec: SessionSpec, caps: Mapping[str, str] = NO_CAPS) -> str:
    """Return the `resume` command of a run: with what this session was given and the run folder does not keep.

    Args:
        spec: The session.
        caps: Other caps, by field of the options.
    """
    given: dict[str, Any] = {}
    if spec.options is not None:
        is_new = isinstance(spec.options, RunOptions)
        done = {f.name for f, each in option_fields(spec.options) if each.one_session or (is_new and each.in_folder)}
        given = {name: value for name, value in given_options(spec.options).items() if name not in done}
        given["out"] = list(map(str, map(absolute, spec.options.reports)))
    options = read_given(ResumeOptions, given, run=str(spec.folder.path), env_file=spec.credentials.env_file)
    return command_line("resume", replace(options, **caps))


def read_line(command: str, folder: RunFolder, *options: str) -> str:
    """Return a command that reads a run folder."""
    return " ".join(["convbatch", command, shell_quote(absolute(folder.path)), *options])


def with_resume_line(error: ConvbatchError, path: Path, line: str) -> ConvbatchError:
    """Return an error of the run folder at this path whose hint has this command in place of a plain `resume`."""
    plain = f"convbatch resume {shell_quote(path)}"
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
    """Return the `run` command that plans the same run anew and reuses its replies.

    It has every option that was given except the run folder; what a `resume` was given replaces what the run was given.
    """
    given = _given_to_run(spec)
    given.setdefault("datasets", [str(spec.folder.dataset)])
    return _run_line(given | {"reuse": str(spec.folder.path)})


def run_line(spec: SessionSpec) -> str | None:
    """Return `rerun_line` for a run whose folder is gone; None where no dataset is left to run."""
    given = _given_to_run(spec)
    return _run_line({name: value for name, value in given.items() if name != "reuse"}) if "datasets" in given else None


def _run_line(given: Mapping[str, Any]) -> str:
    options = read_given(RunOptions, given)
    return command_line("run", replace(options, out=options.reports))


def _given_to_run(spec: SessionSpec) -> dict[str, Any]:
    given = dict(spec.manifest.options.given) or _given_before(spec.manifest)
    if not spec.made_here:  # paths of another machine mean nothing here, and could name any file
        paths = {field.name for field, each in option_fields(RunOptions) if each.names_run or Path in _kinds(field)}
        given = {name: value for name, value in given.items() if name not in paths}
    if isinstance(spec.options, ResumeOptions):
        given |= given_options(spec.options)
    if spec.credentials.env_file is not None:
        given.setdefault("env_file", str(absolute(spec.credentials.env_file)))
    if not given.get("datasets"):  # they were given in Python
        given.pop("datasets", None)
    return given


def _kinds(field: Field[Any]) -> tuple[Any, ...]:
    return (field.type, *get_args(field.type))


def _given_before(manifest: Manifest) -> dict[str, Any]:
    """Return what can be told of the options of a run whose `run.json` does not have them."""
    selection, settings = manifest.dataset.selection, manifest.settings
    given = {
        "datasets": [source.path for source in manifest.dataset.sources],
        "models": list(manifest.target_names),
        "config": manifest.config,
        "repeats": None if manifest.repeats == 1 else manifest.repeats,
        "history": None if manifest.history == "live" else manifest.history,
        "params": list(_params(settings.extra or {})),
        **{name: selection.get(name) for name in ("ids", "tags", "limit")},
        **{name: getattr(settings, name) for name in ("temperature", "max_output_tokens", "seed", "thinking_budget")},
        **{name: getattr(manifest.options, name) for name in ("judge", "fail_under", "max_cost")},
        **{name: str(cap) for name in ("max_tokens_total", "max_requests") if (cap := getattr(manifest.options, name))},
    }
    return {name: value for name, value in given.items() if value is not None}


def _params(extra: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Yield the values of `-p` for further fields of the request body."""
    for name, value in extra.items():
        if isinstance(value, Mapping) and value:
            yield from _params(value, f"{above}{name}.")
        else:
            yield f"{above}{name}={json.dumps(value, ensure_ascii=False)}"


def larger_budget(result: SessionResult) -> dict[str, str]:
    """Return caps that let the next request through, as options by field; none if no cap ended the session."""
    return larger_options(result.larger_budget) if result.reason == "budget" else {}


def _words(field: Field[Any], spec: OptionSpec, value: Any) -> Iterator[str]:
    if value == field.default:
        return
    for item in value if isinstance(value, tuple) else (value,):
        if isinstance(item, bool):
            yield spec.names[0]
        elif isinstance(item, Path) or spec.names_run:
            yield " ".join([*spec.names[:1], shell_quote(absolute(Path(item)))])
        else:
            yield f"{spec.names[0]} {shell_word(f'{Decimal(str(item)).normalize():f}s' if spec.seconds else str(item))}"
