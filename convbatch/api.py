"""The Python API: `run`, `replay` and `stream_replay` accept the options of `convbatch run`.

They execute the same code as the command; only printing is left out. Their parameters are those of `_run_options`.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import os
import threading
import warnings
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import Field
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeAlias, TypeVar, cast, get_args, get_origin

from convbatch.config.in_code import ConfigInCode, Gateway, Target
from convbatch.dataset.collection import Dataset
from convbatch.dialogue import Dialogue, HistoryMode, Variant
from convbatch.errors import ConvbatchError, JournalError, SetupError, did_you_mean, named_by_keyword, with_keywords
from convbatch.results.cache import write_turns
from convbatch.results.run import Run, load
from convbatch.session.judge import judge_not_asked, prepare_judging_after
from convbatch.session.next_command import resume_line
from convbatch.session.options import OptionSpec, RunOptions, option_fields
from convbatch.session.prepare import prepare_run
from convbatch.session.session import run_session, run_session_async
from convbatch.session.spec import SessionResult, SessionSpec
from convbatch.turn_stream import TurnStream

ParamsT = ParamSpec("ParamsT")
ResultT = TypeVar("ResultT")

Names: TypeAlias = str | Iterable[str] | None
"""One name or several."""


Models: TypeAlias = str | Target | Iterable[str | Target] | None
"""`model@gateway`, a model for every gateway of `gateways`, or a target built in code; one or several."""
Gateways: TypeAlias = str | Gateway | Iterable[str | Gateway] | None
Variants: TypeAlias = str | Variant | Iterable[str | Variant] | None


class ArrowStream(Protocol):
    """A frame of polars, a table of pyarrow, or another value that gives its columns as Arrow."""

    def __arrow_c_stream__(self, requested_schema: Any = None) -> object:
        """Give the columns."""


class DataFrame(Protocol):
    """A pandas frame, without importing pandas."""

    @property
    def columns(self) -> Any:
        """Names of the columns."""

    @property
    def iloc(self) -> Any:
        """Rows by position."""


_Row: TypeAlias = Mapping[str, Any] | Dialogue | Sequence[Mapping[str, Any]]
_Files: TypeAlias = str | Path | Iterable[str | Path]
Dialogues: TypeAlias = _Files | Dataset | Mapping[str, Any] | Dialogue | Iterable[_Row] | DataFrame | ArrowStream
"""Files of dialogues, or the dialogues themselves; an array of messages is a dialogue too."""


def _run_options(
    dataset: Dialogues,
    *,
    models: Models = (),
    gateways: Gateways = (),
    variants: Variants = (),
    config: str | Path | Mapping[str, Any] | None = None,
    env_file: str | Path | None = None,
    ids: Names = (),
    tags: Names = (),
    limit: int | None = None,
    sample: int | None = None,
    shuffle: int | None = None,
    only_failed: str | Path | Run | None = None,
    repeats: int | None = None,
    history: HistoryMode | None = None,
    temperature: float | None = None,
    max_output_tokens: int | None = None,
    seed: int | None = None,
    thinking_budget: int | None = None,
    reasoning_effort: str | None = None,
    params: Names | Mapping[str, Any] = (),
    stream: bool = False,
    concurrency: int | None = None,
    rpm: int | None = None,
    tpm: int | None = None,
    max_cost: str | float | None = None,
    max_tokens_total: str | int | None = None,
    max_requests: str | int | None = None,
    rpd: int | None = None,
    max_attempts: int | None = None,
    attempt_timeout_s: float | None = None,
    deadline_s: float | None = None,
    judge: str | Target | None = None,
    judge_max_output_tokens: int | None = None,
    reuse: str | Path | Run | None = None,
    batch: bool = False,
    batch_window: str | None = None,
    out: str | Path | None = None,
    name: str | None = None,
    note: str | None = None,
    progress: bool = False,
    log: str | Path | None = None,
    log_bodies: bool = False,
    verbose: bool = False,
) -> RunOptions:
    """Return the options of a run; parameters and defaults are those of `RunOptions`, except `progress`."""
    from convbatch.dataset.in_memory import in_memory_dataset

    values = dict(locals())
    if (
        isinstance(dataset, Iterable)
        and not isinstance(dataset, str | bytes | Mapping | Dataset)
        and not hasattr(dataset, "columns")
        and not hasattr(dataset, "__arrow_c_stream__")
    ):
        dataset = list(cast("Iterable[Any]", dataset))
    if hasattr(dataset, "__arrow_c_stream__") and not hasattr(dataset, "iloc"):
        dataset = Dataset(dataset)
    in_memory = dataset.source() if isinstance(dataset, Dataset) else in_memory_dataset(dataset)
    in_code = _named(values)
    options = {field.name: _value(field, values[field.name]) for field, _ in _FIELDS if field.name in values}
    files = () if in_memory is not None else tuple(map(Path, _items(dataset)))
    given = RunOptions(datasets=files, in_memory=in_memory, in_code=in_code, **options)
    if given.reports:
        raise SetupError(f"--out names a file, {given.reports[0]}", hint="in Python it is the run folder")
    return given


def _named(values: dict[str, Any]) -> ConfigInCode | None:
    """Replace what was built in code by its name; return it, or None without any."""
    gateways: list[Gateway] = []
    variants: list[Variant] = []

    def name(value: Any) -> Any:
        if isinstance(value, Target):
            for part in (value.gateway, value.variant):
                name(part)
        elif isinstance(value, Gateway):
            gateways.append(value)
        elif isinstance(value, Variant):
            variants.append(value)
        return value.name if isinstance(value, Target | Gateway | Variant) else value

    for field in ("models", "gateways", "variants", "judge"):
        value = values[field]
        is_several = isinstance(value, Iterable) and not isinstance(value, str)
        kind = tuple if isinstance(value, tuple) else list  # () is the default, and [] none at all
        values[field] = kind(map(name, cast("Iterable[Any]", value))) if is_several else name(value)
    document: Mapping[str, Any] | None = None
    if isinstance(values["config"], Mapping):
        document, values["config"] = cast("Mapping[str, Any]", values["config"]), None
        table = document.get("run")
        if not values["models"] and not values["gateways"] and not (isinstance(table, Mapping) and "models" in table):
            raise SetupError(
                "config= has no models to ask, and there is no --model",
                hint='models="MODEL@GATEWAY", or config={"run": {"models": ["MODEL@GATEWAY"]}, ...}',
            )
    if not gateways and not variants and document is None:
        return None
    return ConfigInCode(document=document, gateways=tuple(gateways), variants=tuple(variants))


_FIELDS: Sequence[tuple[Field[Any], OptionSpec]] = [
    (field, spec) for field, spec in option_fields(RunOptions) if spec.names and not spec.command_only
]
_KEYWORDS = {name: field.name for field, spec in _FIELDS for name in spec.names}
"""Keyword argument by option of the command line."""


def _value(field: Field[Any], value: Any) -> Any:
    """Return the value in the type of its field: one name for a list of names, text for a path or an amount."""
    types = get_args(field.type)
    if get_origin(field.type) is tuple:
        items = () if value is None else tuple(_items(value)) if isinstance(value, Iterable | Path) else (value,)
        _refuse_items(field.name, value, items)
        return tuple(map(Path, items)) if Path in types else items
    if hasattr(value, "item"):
        value = value.item()  # a number of numpy
    if value is None:
        return value
    if isinstance(value, Run):
        return str(value.path)
    is_text = isinstance(value, str)
    if field.name == "history" or Path in types:
        if not is_text and (field.name == "history" or not isinstance(value, os.PathLike)):
            raise SetupError(f"{field.name}= must be a text{' or a path' * (Path in types)}", found=repr(value))
        return Path(value) if Path in types else value
    if str in types and isinstance(value, bool):
        raise SetupError(f"{field.name}= must be a text", found=repr(value))
    return str(value) if str in types else value


def _refuse_items(name: str, value: Any, items: Sequence[Any]) -> None:
    if not all(isinstance(item, str | Path) for item in items):
        raise SetupError(f"{name}= must be a text or several", found=repr(value))
    is_default = value is None or isinstance(value, tuple)
    if not items and not is_default and name != "params":  # as from a filter that found nothing
        raise SetupError(f"{name}= is empty", hint=f"leave out {name}= for the default")


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):  # params
        pairs = cast("Mapping[str, Any]", value).items()
        return [f"{name}={json.dumps(each, ensure_ascii=False)}" for name, each in pairs]
    return (value,) if isinstance(value, str | Path) else value


def _takes(
    parameters: Callable[ParamsT, RunOptions], returns: str = "Run"
) -> Callable[[Callable[[RunOptions], ResultT]], Callable[ParamsT, ResultT]]:
    """Return a decorator that gives a function of options the parameters of another, for type checkers and `help`.

    Errors name the keyword argument where those of the command name the option.
    """
    signature = inspect.signature(parameters)

    def decorate(body: Callable[[RunOptions], ResultT]) -> Callable[ParamsT, ResultT]:
        def read(*args: ParamsT.args, **kwargs: ParamsT.kwargs) -> RunOptions:
            for name in kwargs:
                if name not in signature.parameters:
                    hint = did_you_mean(name, [one for one in signature.parameters if one != "dataset"])
                    raise SetupError(f"unknown option {name!r}", hint=hint)
            return parameters(*args, **kwargs)

        def call(*args: ParamsT.args, **kwargs: ParamsT.kwargs) -> ResultT:
            with named_by_keyword(_KEYWORDS):
                return body(read(*args, **kwargs))

        async def call_async(*args: ParamsT.args, **kwargs: ParamsT.kwargs) -> Any:
            with named_by_keyword(_KEYWORDS):
                return await cast("Coroutine[Any, Any, Any]", body(read(*args, **kwargs)))

        decorated: Any = functools.wraps(body)(call_async if inspect.iscoroutinefunction(body) else call)
        decorated.__annotations__ = {**parameters.__annotations__, "return": returns}
        decorated.__signature__ = signature.replace(return_annotation=returns)
        decorated.__doc__ = body.__doc__ and body.__doc__.replace("        ...\n", _described(signature))
        return cast("Callable[ParamsT, ResultT]", decorated)

    return decorate


_OTHER_HELPS = {
    "models": "`model@gateway`, a model for every gateway, or a `Target`; one or several, also mixed.",
    "gateways": "A gateway for every model that names none: a name, or a `Gateway`; one or several.",
    "variants": "Wordings that every target is asked: names, or `Variant`s; `none` = as written.",
    "config": "Configuration file, or its content as a dictionary; default: convbatch.toml here.",
    "judge": "Model that judges llm_rubric checks: `model@gateway`, or a `Target`.",
    "out": "Run folder, absent or empty; default results/<time>-<name>.",
    "max_cost": 'Cost cap of the whole run, e.g. "5USD".',
    "attempt_timeout_s": "Seconds from sending to the last byte; default 600.",
    "deadline_s": "Start no request after this many seconds.",
    "params": 'Other fields of the request body: {"a.b": value}.',
}
"""Help texts of parameters that take other values than the option of the command line."""


def _described(signature: inspect.Signature) -> str:
    """Return the lines of a docstring for the parameters, with the help texts of the command line."""
    helps = {field.name: spec.help for field, spec in _FIELDS if field.name != "progress"} | _OTHER_HELPS
    lines = [f"{name}: {with_keywords(helps[name], _KEYWORDS)}" for name in signature.parameters if name in helps]
    return "".join(f"        {line}\n" for line in lines)


@_takes(_run_options)
def run(options: RunOptions) -> Run:  # noqa: D417  # callers see the parameters of `_run_options`
    """Replay a dataset and wait until it is done.

    >>> dataset = Dataset([["What is the capital of France?", "How many people live there?"]])
    >>> run = convbatch.run(dataset, models=["sim-good@simulator", "sim-drift@simulator"])
    >>> run.turns["status"].tolist()
    ['ok', 'ok', 'ok', 'ok']

    Args:
        dataset: Files of dialogues, or the dialogues: a `Dataset`, a list of dictionaries in any format that a file may
            have, or a frame of pandas, polars or Arrow with one row a turn (columns as in a CSV file) or a dialogue.
        ...
        progress: Show status lines and notes on stderr. `Run.suspended` has the suspended targets in any case.

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
    in_main = threading.current_thread() is threading.main_thread()
    return _play(prepare_run(options, handle_signals=in_main, notes=options.progress))


def _play(spec: SessionSpec) -> Run:
    result = run_session(spec)
    try:
        judge_spec = prepare_judging_after(spec, result)
        judged = None if judge_spec is None else run_session(judge_spec)
    except ConvbatchError as error:
        judged = judge_not_asked(error)
    return _load_finished(spec, result, judged)


@_takes(_run_options, "TurnStream")
def stream_replay(options: RunOptions) -> TurnStream:  # noqa: D417  # as `run`
    """Do the same as `run`, and give each turn as soon as it is durable, in the order in which they end.

    >>> async def ask():
    ...     async for turn in convbatch.stream_replay(dataset, models="sim-good@simulator"):
    ...         print(turn.dialogue, turn.turn, turn.reply)
    >>> asyncio.run(ask())
    capital 1 Paris.
    capital 2 About two million.

    The run starts when the first turn is asked for, in a thread of its own, and never waits for the loop: turns that
    are not read yet lie in the run folder. Leaving the loop early (`break`, an error, a cancelled task) is the first
    Ctrl-C: nothing more is sent, what is in flight is finished and stored, and `convbatch resume` continues the run. To
    wait for that, use `async with convbatch.stream_replay(...) as stream:`, or `await stream.aclose()`.

    Verdicts of a judge come after the last turn: `stream.run` has them.

    Args:
        dataset: As in `run`: files of dialogues, or the dialogues.
        ...
        progress: Show status lines and notes on stderr.

    Returns:
        A `TurnStream`, an asynchronous iterable of `TurnResult`; `stream.run` is the run.

    Raises:
        ConvbatchError: In the loop: before the first turn as in `run`; or after the last one, if the journal could not
            be written.
    """
    return TurnStream(lambda: _prepare_stream(options), _play)


def _prepare_stream(options: RunOptions) -> SessionSpec:
    with named_by_keyword(_KEYWORDS):
        return prepare_run(options, handle_signals=False, notes=options.progress)


@_takes(_run_options)
async def replay(options: RunOptions) -> Run:  # noqa: D417  # as `run`
    """Do the same as `run` inside a running event loop, e.g. in a notebook; signals are left to its owner.

    >>> asyncio.run(convbatch.replay(dataset, models="sim-good@simulator")).targets
    ('sim-good@simulator',)

    Cancelling the task abandons requests in flight; they are journaled as possibly paid, and the run can be resumed.

    Args:
        dataset: As in `run`: files of dialogues, or the dialogues.
        ...
        progress: Show status lines and notes on stderr.
    """
    spec = prepare_run(options, handle_signals=False, notes=options.progress)
    result = await run_session_async(spec)
    try:
        judge_spec = prepare_judging_after(spec, result)
        judged = None if judge_spec is None else await run_session_async(judge_spec)
    except ConvbatchError as error:
        judged = judge_not_asked(error)
    return _load_finished(spec, result, judged)


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
            f"the judge could not be asked; the replies are kept: {with_keywords(str(error), _KEYWORDS)}\n"
            f"  its questions are open; ask them with: {resume_line(spec)}",
            stacklevel=4,
        )
    return load(spec.folder.path)
