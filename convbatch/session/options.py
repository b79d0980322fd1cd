"""The options of `run`, `resume`, `cancel`, `check` and `doctor`: each is declared here, and only here.

A field carries how its option is written: names, help, panel, smallest value. `cli/options.py` derives the parameters
of a command from the fields, `api.py` its keyword arguments, `next_command.py` the text of a command to print.
Whether options can work together is checked in `prepare.py` and `judge.py`. Nothing here imports Typer.

Options that several commands share are a base class, so that all fields of a command are read and passed flat.
None = not given: the configuration, the run folder or a default decides.
"""

# No `from __future__ import annotations`: `cli/options.py` and `api.py` need the types of the fields, not their text.

import contextlib
import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, get_args, get_origin

from convbatch.errors import SetupError

if TYPE_CHECKING:
    from convbatch.config.in_code import ConfigInCode
    from convbatch.dataset.in_memory import InMemoryDataset

OptionsT = TypeVar("OptionsT")

REQUEST, FILTERS, LIMITS, RETRY, OUTPUT = PANELS = ("Request", "Filters", "Limits", "Retry and stopping", "Output")
"""Panels of `--help`, in their order; options without one come first."""
REPORT_SUFFIXES = (".json", ".md", ".xml")
"""Files that `run -o` can write beside its run folder."""


class OptionSpec(NamedTuple):
    """How an option is written on the command line."""

    names: tuple[str, ...]
    """As typed, e.g. `("-j", "--concurrency")`; empty for a positional argument."""
    help: str
    panel: str | None = None
    metavar: str | None = None
    min: int | None = None
    seconds: bool = False
    """The value is a duration, written `90s` or `2h` on the command line and in seconds in Python."""
    has_variable: bool = True
    """An environment variable CONVBATCH_… can set the option."""
    command_only: bool = False
    """Not accepted by `convbatch.run` and `convbatch.replay`."""
    names_run: bool = False
    """The value names a run folder; printed commands have its path."""
    is_repeated: bool = True
    """A printed command that goes on repeats it."""
    one_session: bool = False
    """Of one session: the `resume` that continues it does without."""
    in_folder: bool = False
    """The run folder keeps what `run` was given: `resume` need not repeat it."""

    @property
    def long_name(self) -> str:
        """The first name with two dashes."""
        return next(name for name in self.names if name.startswith("--"))


def option(*names: str, default: Any = None, **spec: Any) -> Any:
    """Return a dataclass field with an `OptionSpec` of these names and attributes."""
    return field(default=default, metadata={"option": OptionSpec(names, **spec)})


def argument(**spec: Any) -> dict[str, OptionSpec]:
    """Return the metadata of a field that is a required positional argument."""
    return {"option": OptionSpec((), **spec)}


def option_fields(options: Any) -> list[tuple["dataclasses.Field[Any]", OptionSpec]]:
    """Return the fields of a class of options, or of an instance, that can be given, each with its spec."""
    return [(each, each.metadata["option"]) for each in dataclasses.fields(options) if "option" in each.metadata]


# Shared options, without methods of their own: `--help` imports this file, and each generated method takes time.


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class TargetOptions:
    """Which models to ask, and through which gateways."""

    models: tuple[str, ...] = option(
        "-m", "--model", default=(), help="model@gateway, or a model for every -g.", panel=REQUEST
    )
    gateways: tuple[str, ...] = option(
        "-g", "--gateway", default=(), help="A gateway for every -m that names none.", panel=REQUEST
    )


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class VariantOptions:
    """Which wordings of the dialogues every target is asked."""

    variants: tuple[str, ...] = option(
        "--variant", default=(), help="Ask every target this [variants.NAME]; none = as written.", panel=REQUEST
    )


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class ConfigOptions:
    """Where the configuration is."""

    config: Path | None = option(
        "-c", "--config", help="Configuration file; default: convbatch.toml here.", panel=REQUEST
    )


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class KeyOptions:
    """Where keys are, beside the environment."""

    env_file: Path | None = option("--env-file", help="Read keys from KEY=VALUE lines of this file.", panel=REQUEST)


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class DialogueOptions:
    """Which dialogues are replayed, how often, and with which history."""

    ids: tuple[str, ...] = option("--id", default=(), help="Only this dialogue (globs allowed).", panel=REQUEST)
    tags: tuple[str, ...] = option("--tag", default=(), help="Only dialogues with this tag.", panel=REQUEST)
    limit: int | None = option(
        "-n", "--limit", min=1, help="Only the first N dialogues after --id and --tag.", panel=REQUEST
    )
    sample: int | None = option(
        "--sample", min=1, help="Only N dialogues at random, drawn by --seed; default seed 0.", panel=REQUEST
    )
    shuffle: int | None = option(
        "--shuffle", min=0, metavar="SEED", help="Replay the selected dialogues in a random order.", panel=REQUEST
    )
    only_failed: str | None = option(
        "--only-failed",
        metavar="RUN",
        help="Only dialogues that failed a check or a turn in this run.",
        panel=REQUEST,
        names_run=True,
    )
    repeats: int | None = option(
        "--repeats", "--epochs", min=1, help="Replay every dialogue this often; default 1.", panel=REQUEST
    )
    history: str | None = option(
        "--history", help="Source of the model's earlier turns: live, script or last; default live.", panel=REQUEST
    )


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class SettingOptions:
    """Settings of the model, before those of targets, dialogues and turns."""

    temperature: float | None = option("--temperature", help="Sampling temperature.", panel=REQUEST)
    max_output_tokens: int | None = option(
        "--max-output-tokens", min=1, help="Most output tokens of one reply.", panel=REQUEST
    )
    seed: int | None = option("--seed", help="Repeat k sends seed + k - 1.", panel=REQUEST)
    thinking_budget: int | None = option(
        "--thinking-budget", min=-1, help="Thinking tokens; -1 = dynamic (gemini).", panel=REQUEST
    )
    reasoning_effort: str | None = option(
        "--reasoning-effort", metavar="LEVEL", help="none, minimal, low, medium, high, xhigh or max.", panel=REQUEST
    )
    params: tuple[str, ...] = option(
        "-p", "--param", default=(), help="Another field of the request body: a.b=value.", panel=REQUEST
    )


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class StreamOptions:
    """How replies are delivered."""

    stream: bool = option(
        "--stream", default=False, help="Ask for streamed replies; measures the time to the first text.", panel=REQUEST
    )
    """Not part of a turn's identity: a streamed reply is the same reply. Not given = what the config says."""


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class LimitOptions:
    """How much may be asked at a time, per minute, and in all."""

    concurrency: int | None = option(
        "-j", "--concurrency", min=1, help="Requests in flight per target; default 16.", panel=LIMITS, in_folder=True
    )
    rpm: int | None = option("--rpm", min=1, help="Requests per minute, per quota owner.", panel=LIMITS, in_folder=True)
    tpm: int | None = option("--tpm", min=1, help="Tokens per minute, per quota owner.", panel=LIMITS, in_folder=True)
    max_cost: str | None = option(
        "--max-cost",
        metavar="5USD",
        help="Cost cap of the whole run; exit 4 when reached.",
        panel=LIMITS,
        in_folder=True,
    )
    """`5USD`; a bare number where all targets bill in one currency. Includes the cost of earlier sessions."""
    max_tokens_total: str | None = option(
        "--max-tokens-total",
        metavar="2M",
        help="Cap on input and output tokens of the whole run; exit 4 when reached.",
        panel=LIMITS,
        in_folder=True,
    )
    """`2M`, `500k` or `1_000_000`; includes earlier sessions, retries and judges. So does `max_requests`."""
    max_requests: str | None = option(
        "--max-requests",
        metavar="5k",
        help="Cap on requests of the whole run, retries and judges included; exit 4 when reached.",
        panel=LIMITS,
        in_folder=True,
    )


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class WorkerOptions:
    """On how many processes a run goes on, and where they are."""

    workers: int | None = option(
        "--workers",
        min=1,
        help="Run on this many processes, by Ray; default: this one. One core each.",
        panel=LIMITS,
        command_only=True,
    )
    on: str | None = option(
        "--on",
        metavar="ray",
        help="Run on a Ray cluster, at RAY_ADDRESS or on this machine; default: a private one for --workers.",
        panel=LIMITS,
        has_variable=False,
        command_only=True,
    )


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class DailyLimitOptions:
    """How much may be asked per day."""

    rpd: int | None = option("--rpd", min=1, help="Requests per day, per quota owner.", panel=LIMITS, in_folder=True)


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class RetryOptions:
    """When an attempt, a turn and the whole run are given up."""

    max_attempts: int | None = option(
        "--max-attempts", min=1, help="Unpaid attempts per turn; default 5.", panel=RETRY, in_folder=True
    )
    attempt_timeout_s: float | None = option(
        "--attempt-timeout",
        seconds=True,
        help="From sending to the last byte, e.g. 90s; default 600s.",
        panel=RETRY,
        in_folder=True,
    )
    deadline_s: float | None = option(
        "--deadline", seconds=True, help="Start no request after this time, e.g. 2h.", panel=RETRY, one_session=True
    )


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class VerdictOptions:
    """Who judges the replies, and how many dialogues must pass."""

    judge: str | None = option("--judge", metavar="MODEL@GATEWAY", help="Judge llm_rubric checks with this model.")
    """Asked about the replies of a run once all of them have been received."""
    judge_max_output_tokens: int | None = option(
        "--judge-max-output-tokens", min=1, help="Most output tokens of one answer of the judge; default 4096."
    )
    """None = that of `[judge]`, else of the judge's model; more by the model's thinking budget, if it has one."""
    fail_under: str | None = option(
        "--fail-under",
        metavar="RATE",
        help="Exit 1 when a target passes a smaller share of its dialogues, e.g. 0.95.",
        command_only=True,
    )
    """`0.95` or `95%`."""


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class OutputOptions:
    """What is printed while a run goes on."""

    progress: bool = option("--no-progress", default=True, help="No status lines.", panel=OUTPUT, is_repeated=False)
    log: Path | None = option(
        "--log", metavar="FILE", help="Append what happens, in order, to this file.", panel=OUTPUT
    )
    log_bodies: bool = option(
        "--log-bodies", default=False, help="Log each request as sent, without keys.", panel=OUTPUT
    )
    verbose: bool = option("-v", "--verbose", default=False, help="Print the log on stderr.", panel=OUTPUT)


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class WatchOptions:
    """A page that shows a run while it goes on."""

    watch: bool = option(
        "--watch",
        default=False,
        help="Show the run on a page of this machine, live; its address is printed.",
        panel=OUTPUT,
        is_repeated=False,
        command_only=True,
    )
    port: int | None = option(
        "--port",
        min=1,
        metavar="PORT",
        help="Port of --watch; default: any free one.",
        panel=OUTPUT,
        has_variable=False,
        is_repeated=False,
        command_only=True,
    )


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class ResultOptions:
    """Where the result of a command on a run is written."""

    out: tuple[Path, ...] = option(
        "-o",
        "--out",
        default=(),
        metavar="FILE",
        help="Write FILE.json, .md, or .xml (JUnit, with --fail-under) as well; repeatable.",
        has_variable=False,
    )
    as_json: bool = option("--json", default=False, help="Print one JSON object.", has_variable=False)


# Base classes are listed last to first: that is the order in which dataclasses collect their fields.


@dataclass(frozen=True, kw_only=True, eq=False)
class RunOptions(
    WatchOptions,
    OutputOptions,
    VerdictOptions,
    RetryOptions,
    WorkerOptions,
    DailyLimitOptions,
    LimitOptions,
    StreamOptions,
    SettingOptions,
    DialogueOptions,
    KeyOptions,
    ConfigOptions,
    VariantOptions,
    TargetOptions,
):
    """Options of `convbatch run`."""

    datasets: tuple[Path, ...] = field(
        metadata=argument(metavar="DATASET", help="JSONL files of dialogues, plain or .gz.")
    )
    reuse: str | None = option(
        "--reuse", metavar="RUN", help="Reuse this run's replies to identical requests.", panel=REQUEST, names_run=True
    )
    out: tuple[Path, ...] = option(
        "-o",
        "--out",
        default=(),
        metavar="PATH",
        help="Run folder, absent or empty; default results/<time>-<name>. FILE.json, .md, .xml (JUnit): the result.",
        panel=OUTPUT,
    )
    """At most one folder, and any number of files."""
    name: str | None = option(
        "--name",
        metavar="NAME",
        help="Name of the run; may stand wherever a RUN is given.",
        panel=OUTPUT,
        has_variable=False,
        is_repeated=False,
    )
    note: str | None = option(
        "--note",
        metavar="TEXT",
        help="A note on the run, shown by runs, show and report.",
        panel=OUTPUT,
        has_variable=False,
        is_repeated=False,
    )
    dry_run: bool = option(
        "--dry-run",
        default=False,
        help="Print plan, calls, tokens, cost and time; send nothing.",
        panel=OUTPUT,
        is_repeated=False,
        command_only=True,
    )
    currency: str | None = option(
        "--currency",
        metavar="CNY",
        help="With --dry-run: the sum in this currency too, by [rates].",
        panel=OUTPUT,
        has_variable=False,
        is_repeated=False,
        command_only=True,
    )
    follow: bool = option(
        "--follow",
        default=False,
        help="Print turns as they come, one dialogue at a time; default -j 1.",
        panel=OUTPUT,
        command_only=True,
    )
    as_json: bool = option(
        "--json",
        default=False,
        help="Print one JSON object instead of the table.",
        panel=OUTPUT,
        has_variable=False,
        command_only=True,
    )
    from_environment: tuple[str, ...] = ()
    """`NAME=value` of the environment variables that set an option; printed in the plan."""
    in_memory: "InMemoryDataset | None" = None
    """Dialogues given in Python, in place of `datasets`."""
    in_code: "ConfigInCode | None" = None
    """Gateways, variants and a configuration given in Python."""
    batch: bool = option(
        "--batch",
        default=False,
        help="Ask by the providers' batch jobs: half the price, within 24 h a turn.",
        panel=REQUEST,
        in_folder=True,
    )
    batch_window: str | None = option(
        "--batch-window",
        metavar="2h|8h",
        help="With --batch, protocol responses: each response by itself, within this time.",
        panel=REQUEST,
        in_folder=True,
    )
    unset: tuple[str, ...] = ()
    """Settings that no target is sent, whatever its configuration says."""
    in_rounds: bool = False
    """All dialogues once before any is repeated; else the repeats of a dialogue together."""

    @property
    def reports(self) -> tuple[Path, ...]:
        """The files among `out`, by their suffix."""
        return tuple(path for path in self.out if path.suffix.lower() in REPORT_SUFFIXES)

    @property
    def folder(self) -> Path | None:
        """The run folder among `out`.

        Raises:
            SetupError: There are several.
        """
        folders = [path for path in self.out if path not in self.reports]
        if len(folders) > 1:
            raise SetupError(
                f"-o names {len(folders)} run folders: {', '.join(map(str, folders))}",
                hint="name one; files of the result end in .json, .md or .xml",
            )
        return folders[0] if folders else None

    @property
    def sources(self) -> "tuple[Path | InMemoryDataset, ...]":
        """What the dialogues are read from."""
        return self.datasets if self.in_memory is None else (self.in_memory,)


@dataclass(frozen=True, kw_only=True, eq=False)
class ResumeOptions(
    ResultOptions,
    WatchOptions,
    OutputOptions,
    RetryOptions,
    WorkerOptions,
    DailyLimitOptions,
    LimitOptions,
    KeyOptions,
):
    """Options of `convbatch resume`."""

    run: str = field(
        metadata=argument(metavar="RUN", help="A run folder, its name under results/, or `latest`.", names_run=True)
    )
    retry_errors: bool = option(
        "--no-retry-errors",
        default=True,
        help="Leave turns that ended in an error as they are.",
        panel=RETRY,
        one_session=True,
    )
    retry_failed: tuple[str, ...] = option(
        "--retry-failed",
        default=(),
        metavar="KIND",
        help="Of the failed turns, ask only those again, e.g. timeout; blocked, empty too; any = all errors.",
        panel=RETRY,
        one_session=True,
    )
    batch: bool = option(
        "--no-batch",
        default=True,
        help="Wait for the open batch jobs of a run with --batch, and ask the rest live, at the full price.",
        panel=REQUEST,
    )
    salvage: bool = option(
        "--salvage",
        default=False,
        help="Set damaged journal lines aside; ask only their turns again.",
        panel=RETRY,
        one_session=True,
    )
    out: tuple[Path, ...] = option(
        "-o",
        "--out",
        default=(),
        metavar="FILE",
        help="Write the result as FILE.json, .md, or .xml (JUnit, if the run has --fail-under).",
        panel=OUTPUT,
        has_variable=False,
    )
    as_json: bool = option(
        "--json", default=False, help="Print one JSON object instead of the table.", panel=OUTPUT, has_variable=False
    )
    from_environment: tuple[str, ...] = ()
    """As in `RunOptions`."""
    cancels: bool = False
    """Cancel the open batch jobs, and ask nothing: `convbatch cancel`."""

    @property
    def reports(self) -> tuple[Path, ...]:
        """The files to write; named as in `RunOptions`."""
        return self.out


@dataclass(frozen=True, kw_only=True, eq=False)
class CancelOptions(OutputOptions, KeyOptions):
    """Options of `convbatch cancel`."""

    run: str = field(
        metadata=argument(metavar="RUN", help="A run folder, its name under results/, or `latest`.", names_run=True)
    )
    from_environment: tuple[str, ...] = ()
    """As in `RunOptions`."""


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class JudgeOptions(OutputOptions, RetryOptions, LimitOptions, KeyOptions, ConfigOptions):
    """How the judge of a finished run is called."""


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class FilterOptions:
    """Which turns of a run `table`, `show`, `check` and `report` are about; each option may be repeated."""

    tag: tuple[str, ...] = option(
        "--tag", default=(), metavar="TAG", help="Only dialogues with this tag.", panel=FILTERS, has_variable=False
    )
    status: tuple[str, ...] = option(
        "--status",
        default=(),
        metavar="STATUS",
        help="Only turns that are ok, blocked, empty, error, skipped or pending.",
        panel=FILTERS,
        has_variable=False,
    )
    finish_reason: tuple[str, ...] = option(
        "--finish-reason",
        default=(),
        metavar="REASON",
        help="Only turns that ended by stop, length, content_filter, tool_call, error or other.",
        panel=FILTERS,
        has_variable=False,
    )
    check: tuple[str, ...] = option(
        "--check",
        default=(),
        metavar="NAME",
        help="Only turns with a check of this name or kind.",
        panel=FILTERS,
        has_variable=False,
    )
    text: tuple[str, ...] = option(
        "--text",
        default=(),
        metavar="TEXT",
        help="Only turns whose user message or reply contains this, in upper or lower case.",
        panel=FILTERS,
        has_variable=False,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class CheckOptions(ResultOptions, JudgeOptions, FilterOptions, VerdictOptions):
    """Options of `convbatch check`."""

    run: str = field(
        metadata=argument(metavar="RUN", help="A run folder, its name under results/, or `latest`.", names_run=True)
    )
    datasets: tuple[Path, ...] = option(
        "--dataset",
        default=(),
        metavar="FILE",
        help="Judge by the checks of this edited dataset, and store them in the run folder.",
        has_variable=False,
    )
    ask_again: bool = option(
        "--ask-again",
        default=False,
        help="Ask --judge again where it gave no verdict; paid once more.",
        has_variable=False,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class DoctorOptions(KeyOptions, ConfigOptions, TargetOptions):
    """Options of `convbatch doctor`."""

    list_models: bool = option(
        "--models", default=False, help="Print the whole list of models, with limits and capabilities.", panel=REQUEST
    )


# Options as plain values


def given_options(options: Any) -> dict[str, Any]:
    """Return what was given and a next command repeats, by field: JSON values, in which paths are absolute."""
    given: dict[str, Any] = {}
    for each, spec in option_fields(options):
        value = getattr(options, each.name)
        if value != each.default and spec.is_repeated:
            items = [_to_plain(item, spec) for item in (value if isinstance(value, tuple) else (value,))]
            given[each.name] = items if isinstance(value, tuple) else items[0]
    return given


def _to_plain(value: Any, spec: OptionSpec) -> Any:
    return str(absolute(Path(value))) if isinstance(value, Path) or spec.names_run else value


def absolute(path: Path) -> Path:
    """Return the absolute path; the path as it is where the working directory was deleted meanwhile."""
    try:
        return path.absolute()
    except FileNotFoundError:
        return path


def read_given(kind: type[OptionsT], given: Mapping[str, Any], **values: Any) -> OptionsT:
    """Return options of this kind with what `given_options` returned, of whatever kind that was.

    Args:
        kind: The class of the options.
        given: Values by field; a field that `kind` does not have, or with another type, is left out.
        values: Values that replace those of `given`.
    """
    read: dict[str, Any] = {}
    for each, _ in option_fields(kind):
        if each.name in given and each.name not in values:
            with contextlib.suppress(TypeError, ValueError):
                read[each.name] = _from_plain(given[each.name], each.type)
    return kind(**(read | values))


def _from_plain(value: Any, kind: Any) -> Any:
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise TypeError(kind)
        return tuple(_from_plain(item, get_args(kind)[0]) for item in value)
    kinds = get_args(kind) or (kind,)
    if Path in kinds and isinstance(value, str):
        return Path(value)
    if float in kinds and _is_number(value, int):
        return float(value)
    if type(value) not in kinds:
        raise TypeError(kind)
    return value


def _is_number(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def refuse_numbers(options: RunOptions) -> None:
    """Check counts and durations: from Python they arrive unchecked, and 0 must not mean the default.

    Raises:
        SetupError: A count is not a whole number or too small, or a duration is not above 0 s.
    """
    settings = {each.name for each in dataclasses.fields(SettingOptions)}  # checked as the settings of a dataset are
    for each, spec in option_fields(options):
        value: Any = getattr(options, each.name)
        if value is None or each.name in settings:
            continue
        if spec.seconds and not (_is_number(value, int | float) and 0 < value < math.inf):
            problem = "a number of seconds above 0"
        elif spec.min is not None and not (_is_number(value, int) and value >= spec.min):
            problem = f"a whole number of at least {spec.min}"
        else:
            continue
        raise SetupError(f"{spec.long_name} must be {problem}", found=repr(value), hint="leave it out for the default")
