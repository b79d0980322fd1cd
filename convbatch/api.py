"""The Python API: `run` and `replay` accept the options of `convbatch run` and return the run.

They execute the same code as the command; only printing is left out.
"""

from __future__ import annotations

import asyncio
import inspect
import textwrap
import threading
import warnings
from collections.abc import Iterable
from dataclasses import Field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin

from convbatch.errors import ConvbatchError, JournalError, SetupError, did_you_mean
from convbatch.journal.run_folder import shell_quote
from convbatch.results.cache import write_turns
from convbatch.results.run import Run, load
from convbatch.session.judge import judge_not_asked, prepare_judging_after
from convbatch.session.options import RunOptions, option_fields
from convbatch.session.prepare import prepare_run
from convbatch.session.session import run_session, run_session_async
from convbatch.session.spec import SessionResult, SessionSpec

if TYPE_CHECKING:
    from convbatch.dialogue import HistoryMode

Names = str | Iterable[str] | None
Paths = str | Path | Iterable[str | Path]


def run(
    dataset: Paths,
    *,
    models: Names = None,
    gateways: Names = None,
    history: HistoryMode | None = None,
    progress: bool = False,
    **options: Any,
) -> Run:
    """Replay a dataset and wait until it is done.

    Args:
        dataset: A JSONL file of dialogues, or several.
        models: `model@gateway`, or names for all of `gateways`; None = those of the config, or the built-in simulator.
        gateways: Gateways for models that name none.
        history: `live` (default), `script` or `last`.
        progress: Show the progress bar and notes on stderr. `Run.suspended` has the suspended targets in any case.
        **options: Options of `convbatch run`, by the names of the fields of `RunOptions`: OPTIONS.

    Returns:
        The run, finished or not: `run.turns["status"]` has the state of every turn. If the judge could not be asked
        after the replies had arrived, a `UserWarning` is issued and the verdicts are open.

    Raises:
        ConvbatchError: Options, files or keys are wrong and nothing was sent; or, after the tables were written, the
            journal could not be written or the run's copy of the dataset could not be read.
        KeyboardInterrupt: Ctrl-C was pressed; replies in flight were kept and the table was written.
        RuntimeError: An event loop is running (use `replay`), or convbatch has a bug.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise RuntimeError("an event loop is running (a notebook?): use `await convbatch.replay(...)`")
    run_options = _options(dataset, models, gateways, history, progress, options)
    in_main = threading.current_thread() is threading.main_thread()
    spec = prepare_run(run_options, handle_signals=in_main, notes=progress)
    result = run_session(spec)
    try:
        judge_spec = prepare_judging_after(spec, result)
        judged = None if judge_spec is None else run_session(judge_spec)
    except ConvbatchError as error:
        judged = judge_not_asked(error)
    return _load_finished(spec, result, judged)


async def replay(
    dataset: Paths,
    *,
    models: Names = None,
    gateways: Names = None,
    history: HistoryMode | None = None,
    progress: bool = False,
    **options: Any,
) -> Run:
    """Do the same as `run` inside a running event loop; signals are left to its owner.

    Cancelling the task abandons requests in flight; they are journaled as possibly paid, and the run can be resumed.
    """
    run_options = _options(dataset, models, gateways, history, progress, options)
    spec = prepare_run(run_options, handle_signals=False, notes=progress)
    result = await run_session_async(spec)
    try:
        judge_spec = prepare_judging_after(spec, result)
        judged = None if judge_spec is None else await run_session_async(judge_spec)
    except ConvbatchError as error:
        judged = judge_not_asked(error)
    return _load_finished(spec, result, judged)


def _options(
    dataset: Paths, models: Names, gateways: Names, history: str | None, progress: bool, more: dict[str, Any]
) -> RunOptions:
    for name in more:
        if name not in _OPTIONS:
            raise SetupError(f"unknown option {name!r}", hint=did_you_mean(name, _OPTIONS))
    values = {"models": models, "gateways": gateways, "history": history, "progress": progress, **more}
    return RunOptions(
        datasets=tuple(map(Path, _items(dataset))),
        **{name: _value(_FIELDS[name], value) for name, value in values.items()},
    )


_FIELDS = {field.name: field for field, spec in option_fields(RunOptions) if not spec.command_only}
_OPTIONS = [name for name in _FIELDS if name not in {"datasets", *inspect.signature(run).parameters}]
"""Names that `**options` accepts."""
if run.__doc__ is not None:  # None under `python -OO`
    run.__doc__ = run.__doc__.replace("OPTIONS", textwrap.fill(", ".join(_OPTIONS), 100, subsequent_indent=" " * 12))


def _value(field: Field[Any], value: Any) -> Any:
    """Return the value in the type of its field: one name for a list of names, text for a path."""
    if get_origin(field.type) is tuple:
        return () if value is None else tuple(_items(value))
    return Path(value) if value is not None and Path in get_args(field.type) else value


def _items(value: Any) -> Iterable[Any]:
    return (value,) if isinstance(value, str | Path) else value


def _load_finished(spec: SessionSpec, result: SessionResult, judged: SessionResult | None) -> Run:
    """Write the tables; then raise the error that stopped the run, or warn that the judge could not be asked."""
    error = result.error or (None if judged is None else judged.error)
    try:
        write_turns(spec.folder)
    except JournalError as unwritten:
        error = error or unwritten
    last = judged or result
    if bugs := (*result.bugs, *last.bugs):
        raise RuntimeError(f"a bug in convbatch; the received replies are in {spec.folder.path}\n{bugs[0]}")
    if last.reason == "interrupted" and spec.handle_signals:
        raise KeyboardInterrupt
    if error is not None and (result.error is not None or isinstance(error, JournalError)):
        raise error
    if error is not None:
        warnings.warn(
            f"the judge could not be asked; the replies are kept: {error}\n"
            f"  its questions are open; ask them with: convbatch resume {shell_quote(spec.folder.path)}",
            stacklevel=3,
        )
    return load(spec.folder.path)
