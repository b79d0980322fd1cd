"""From the options of `session/options.py` to the parameters of a command, and from their values back to options.

An option can be set by an environment variable: CONVBATCH_ and its long name.

A command is registered without its parameters; they are made when the command is used. Otherwise each command, and
`--help`, would wait for the parameters of all.
"""

from __future__ import annotations

import functools
import inspect
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import MISSING
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args, get_origin

import typer
from typer.core import TyperCommand, TyperGroup

from convbatch.cli.conversion import convert_directly
from convbatch.errors import nearest
from convbatch.exit_codes import ExitCode

if TYPE_CHECKING:
    from dataclasses import Field

    from convbatch.results.filters import Filters
    from convbatch.session.options import FilterOptions, OptionSpec

CommandT = TypeVar("CommandT", bound=Callable[..., Any])
OptionsT = TypeVar("OptionsT")


_UsageError: type[Exception] = typer.BadParameter.__bases__[0]
"""Any mistake in a command line; Typer has no public name for it."""


class _Helpful:
    """Part of our commands: their help keeps `[…]` and has no type beside a flag."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        described: Any = self
        if described.rich_markup_mode == "rich":
            for each in (described, *described.params):  # options and arguments have a help text
                each.help = _without_markup(each.help)

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, that of `--help` included."""
        above: Any = super()
        params: list[Any] = above.get_params(ctx)
        for param in params:
            convert_directly(param)
            if getattr(param, "is_flag", False):
                param.metavar = ""  # Typer would print <bool>
        return params


class App(typer.Typer):
    """An app whose commands get their parameters when they are used."""

    def command(self, name: str | None = None, **more: Any) -> Callable[[CommandT], CommandT]:
        """Register a command as `typer.Typer.command` does; one of the class `Command` without its parameters."""
        register = super().command(name, **more)
        if more.get("cls") is not Command:
            return register

        def decorate(body: CommandT) -> CommandT:
            def command() -> None:
                pass

            command.__name__, command.__doc__ = body.__name__, body.__doc__
            setattr(command, _BODY, body)
            register(command)
            return body

        return decorate


_BODY = "convbatch_body"
"""Attribute of what is registered: the function with the parameters."""
_DECLARE = "convbatch_declare"
"""Attribute of a function whose parameters are derived from a class of options: sets its signature."""


def body_of(registered: Any) -> Callable[..., Any]:
    """Return the function of a registered command, with the signature that Typer reads."""
    body: Any = getattr(registered, _BODY)
    declare = getattr(body, _DECLARE, None)
    if declare is not None:
        declare(body)
    return body


class Command(_Helpful, TyperCommand):
    """Command whose errors say what to type instead, and name the environment variables that set its options."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        if hasattr(self.callback, _BODY):
            del self.params  # made by `__getattr__`

    def __getattr__(self, name: str) -> Any:
        """Make the parameters, and the function that takes them."""
        if name != "params":
            raise AttributeError(name)
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=self.rich_markup_mode)
        app.command(name=self.name, cls=Command)(body_of(self.callback))
        made = typer.main.get_command(app)
        self.params, self.callback = made.params, made.callback
        return self.params

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; a mistake in them says what is meant, and the variable that it is from."""
        if ctx.resilient_parsing:  # a shell asks what may follow
            return super().parse_args(ctx, args)
        from convbatch.cli import usage_errors

        typed = list(args)
        own = [name for param in self.get_params(ctx) for name in param.opts]
        problem = next((found for arg in typed if (found := usage_errors.odd_dash(arg, own)) is not None), None)
        if problem is not None:
            ctx.fail(problem)
        try:
            rest = super().parse_args(ctx, args)
        except _UsageError as error:
            _explain(error, ctx, typed, own)
            raise
        for name, value in ctx.params.items():
            ctx.params[name] = [*map(_from_home, value)] if isinstance(value, list) else _from_home(value)
        return rest

    def invoke(self, ctx: Any) -> Any:
        """Run the command; after a mistake in its setup, print the variables: one of them may be the mistake."""
        try:
            return super().invoke(ctx)
        except typer.Exit as end:
            variables = _from_environment(ctx) if end.exit_code == ExitCode.SETUP else ()
            if variables:
                from convbatch.console.text import log_note

                log_note(f"note: options from the environment: {', '.join(variables)}")
            raise


def _without_markup(text: str | None) -> str | None:
    """Escape what Typer would take for rich's markup, such as the name of a TOML table."""
    return None if text is None else re.sub(r"\[(?=[a-z#/@][^[\]]*\])", r"\\[", text)


def _from_home(value: Any) -> Any:
    """Return a path with the `~` at its beginning expanded, as no shell does within quotes or behind a `=`."""
    if not isinstance(value, Path) or not str(value).startswith("~") or os.path.lexists(value):
        return value
    from convbatch.paths import expand_home

    return expand_home(value)


def _explain(error: Any, ctx: Any, typed: Sequence[str], own: Sequence[str]) -> None:
    """Put what to type instead into the message of an error, and the variable that the mistake is from."""
    if hasattr(error, "possibilities"):
        error.message, error.possibilities = _unknown_option(str(error.option_name), ctx, typed, own), None
    param: Any = getattr(error, "param", None)
    if param is None or not isinstance(error, typer.BadParameter):
        return
    is_from_environment = _is_from_environment(ctx, param)
    given = os.environ[param.envvar] if is_from_environment else _as_typed(ctx, typed, param)
    error.message = _number_problem(param, given) or error.message or _example(ctx.command)
    if is_from_environment:
        error.message += f", found in {param.envvar}"


def _example(command: Any) -> str:
    """Return the example of a command's help."""
    lines = (command.callback.__doc__ or "").splitlines()
    return next((line.strip() for line in lines if line.strip().startswith("Example: ")), "")


def _unknown_option(name: str, ctx: Any, typed: Sequence[str], own: Sequence[str]) -> str:
    from convbatch.cli.usage_errors import unknown_option

    at = next((at for at, arg in enumerate(typed) if arg.startswith(name)), len(typed))
    name, equals, value = (typed[at] if at < len(typed) else name).partition("=")
    following = value if equals else next(iter(typed[at + 1 :]), None)
    elsewhere: dict[str, list[str]] = {}
    for other, command in ctx.parent.command.commands.items():
        for option in (option for each in command.params for option in each.opts):
            elsewhere.setdefault(option, []).append(other)
    return f"No such option {name}: {unknown_option(name, following, own, elsewhere)}"


def _number_problem(param: Any, given: Any) -> str | None:
    """Return what is wrong with the value of a parameter that is a number; None for any other parameter."""
    from convbatch.cli.usage_errors import number_problem

    described = getattr(param, "type_descriptor", None)
    if getattr(getattr(described, "parameter_info", None), "parser", None) is not None:
        return None  # the parser of the option says what it takes
    kind = getattr(described, "annotation", None)
    least, most = getattr(param, "min", None), getattr(param, "max", None)
    if kind in (int, float) and isinstance(given, str):
        return number_problem(param.opts, given, whole=kind is int, least=least, most=most)
    if get_origin(kind) is list and get_args(kind) == (int,) and given:
        wrong = next((text for text in given if not _is_whole(text, least, most)), given[0])
        return number_problem(param.opts, wrong, whole=True, least=least, most=most)
    if get_origin(kind) is tuple and get_args(kind)[-1] is int and isinstance(given, tuple):
        return number_problem((f"{param.opts[0]} {given[0]}",), given[-1], whole=True, least=1)
    return None


def _is_whole(text: str, least: int | None, most: int | None) -> bool:
    try:
        return (least is None or least <= int(text)) and (most is None or int(text) <= most)
    except ValueError:
        return False


def _as_typed(ctx: Any, typed: Sequence[str], param: Any) -> Any:
    """Return the value of a parameter before it is converted."""
    values, _, _ = ctx.command.make_parser(ctx).parse_args(args=list(typed))
    return values.get(param.name)


def takes(kind: type[OptionsT] | str) -> Callable[[Callable[[OptionsT], ExitCode]], Callable[..., None]]:
    """Return a decorator that makes a command out of a function of its options.

    Typer reads the parameters from the signature, which is derived from the fields of `kind`. The exit code that the
    function returns ends the command.

    Args:
        kind: A class of options, or the name of one in `session/options.py`, which is then imported when it is needed.
    """

    def options_class() -> type[OptionsT]:
        from convbatch.session import options

        found: Any = getattr(options, kind) if isinstance(kind, str) else kind
        return found

    def decorate(body: Callable[[OptionsT], ExitCode]) -> Callable[..., None]:
        @functools.wraps(body)
        def command(ctx: typer.Context, **values: Any) -> None:
            raise typer.Exit(body(_read_options(options_class(), ctx, values)))

        def declare(function: Any) -> None:
            derived = [_from_field(field, spec) for field, spec in _by_panel(options_class())]
            _set_signature(function, [_parameter("ctx", typer.Context), *derived])

        if isinstance(kind, str):
            setattr(command, _DECLARE, declare)
        else:
            declare(command)
        return command

    return decorate


def takes_filters(body: Callable[..., None]) -> Callable[..., None]:
    """Replace the last parameter of a command, its `FilterOptions`, by an option for each of their fields."""
    *_, last = inspect.signature(body).parameters

    @functools.wraps(body)
    def command(**values: Any) -> None:
        from convbatch.session.options import FilterOptions, option_fields

        given = {field.name: tuple(values.pop(field.name) or ()) for field, _ in option_fields(FilterOptions)}
        body(**values, **{last: FilterOptions(**given)})

    def declare(function: Any) -> None:
        from convbatch.session.options import FilterOptions, option_fields

        types = {FilterOptions.__name__: FilterOptions}
        *own, _ = inspect.signature(body, locals=types, eval_str=True).parameters.values()
        derived = [_from_field(field, spec) for field, spec in option_fields(FilterOptions)]
        _set_signature(function, [*(each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own), *derived])

    setattr(command, _DECLARE, declare)
    return command


def _set_signature(function: Any, parameters: Sequence[inspect.Parameter]) -> None:
    function.__signature__ = inspect.Signature(parameters)
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}


def read_filters(options: FilterOptions) -> Filters:
    """Return the filters that these options stand for.

    Raises:
        SetupError: A value that no turn can have.
    """
    from convbatch.results.filters import Filters
    from convbatch.session.options import FilterOptions, option_fields

    return Filters(**{field.name: getattr(options, field.name) for field, _ in option_fields(FilterOptions)})


_LIKE_RUN = [
    "eval",
    "evaluate",
    "eval-set",
    "exec",
    "start",
    "test",
    "replay",
    "play",
    "generate",
    "perf",
    "benchmark",
    "bench",
    "pytest",
]
_OTHER_COMMANDS = {
    **dict.fromkeys(_LIKE_RUN, "run"),
    **dict.fromkeys(("list", "ls", "history", "log", "logs", "status"), "runs"),
    **dict.fromkeys(("open", "print", "cat", "app"), "show"),
    "cmp": "compare",
    **dict.fromkeys(("score", "judge", "grade", "assert", "eval-retry-errors"), "check"),
    **dict.fromkeys(("cost", "bill", "usage", "stats", "summary"), "report"),
    **dict.fromkeys(("lint", "check-dataset"), "validate"),
    **dict.fromkeys(("import", "transform"), "convert"),
    **dict.fromkeys(("continue", "retry"), "resume"),
    **dict.fromkeys(("ping", "models", "config"), "doctor"),
    **dict.fromkeys(("serve", "mock", "server"), "simulate"),
    **dict.fromkeys(("export", "csv", "rows"), "table"),
    **dict.fromkeys(("new", "setup", "quickstart"), "init"),
    **dict.fromkeys(("rm", "delete", "clean", "prune"), "runs --prune"),
    "help": "--help",
    "version": "--version",
}
"""Commands of other tools, and ours that does the same."""


class Commands(_Helpful, TyperGroup):
    """The commands; one of another tool is answered with ours."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command; an unknown one ends the program with a suggestion."""
        if ctx.resilient_parsing:
            return super().resolve_command(ctx, args) if args and args[0] in self.commands else (None, None, [])
        ours = _OTHER_COMMANDS.get(args[0].lower()) if args and args[0] not in self.commands else None
        if ours is not None:
            hint = f"did you mean `convbatch {ours}`?"
            ctx.fail(f"No such command {args[0]!r}: {hint}")
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            near = nearest(args[0], self.commands)
            hint = "`convbatch --help` lists them" if near is None else f"did you mean `convbatch {near}`?"
            ctx.fail(f"No such command {args[0]!r}: {hint}")
        return super().resolve_command(ctx, args)


def parse_share(text: str) -> float:
    """Read a share as 0.02 or 2%."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(%?)\s*", str(text))
    if match is None:
        raise typer.BadParameter(f"{text!r} is not a share: write 0.02 or 2%")
    return float(Decimal(match[1]) / (100 if match[2] else 1))


@functools.cache
def completing(kind: str) -> Callable[[str], list[str]] | None:
    """Return what Typer calls for the values of a parameter when TAB is pressed; `completion.py` has the kinds.

    Typer inspects each such function, which takes time: there is none unless a shell asks.
    """
    if "_CONVBATCH_COMPLETE" not in os.environ:
        return None

    def complete(incomplete: str) -> list[str]:
        from convbatch.cli.completion import values_of

        return values_of(kind, incomplete)

    return complete


_COMPLETED = {
    "models": "models",
    "judge": "models",
    "gateways": "gateways",
    "run": "runs",
    "reuse": "runs",
    "only_failed": "runs",
    **{name: name for name in ("history", "reasoning_effort", "status", "finish_reason")},
}
"""Fields of options whose values a shell completes, and their kind."""


def typer_option(*names: str, help: str, **more: Any) -> Any:
    """Return a Typer option that an environment variable can set as well."""
    from convbatch.session.options import OptionSpec

    return _option(OptionSpec(names, help), **more)


def _by_panel(kind: type) -> list[tuple[Field[Any], OptionSpec]]:
    """Fields by panel: `--help` prints panels in the order in which their first option comes."""
    from convbatch.session.options import PANELS, option_fields

    panels = (None, *PANELS)
    return sorted(option_fields(kind), key=lambda pair: panels.index(pair[1].panel))


def _from_field(field: Field[Any], spec: OptionSpec) -> inspect.Parameter:
    if not spec.names:
        info = typer.Argument(metavar=spec.metavar, help=spec.help, readable=False, autocompletion=_completion(field))
        return _parameter(field.name, Annotated[_cli_type(field, spec), info])
    more: dict[str, Any] = {"metavar": spec.metavar, "min": spec.min, "autocompletion": _completion(field)}
    if _is_list(field):
        more["metavar"] = spec.metavar or "TEXT"
        more["callback"] = _split_variable if spec.has_variable else None
    default = None if _is_list(field) or not isinstance(field.default, bool) else False
    return _parameter(field.name, Annotated[_cli_type(field, spec), _option(spec, **more)], default)


def _completion(field: Field[Any]) -> Callable[[str], list[str]] | None:
    return completing(_COMPLETED[field.name]) if field.name in _COMPLETED else None


def _option(spec: OptionSpec, **more: Any) -> Any:
    variable = "CONVBATCH_" + spec.long_name.lstrip("-").upper().replace("-", "_")
    return typer.Option(
        *spec.names,
        help=spec.help,
        envvar=variable if spec.has_variable else None,
        show_envvar=False,
        rich_help_panel=spec.panel,
        readable=False,  # the reader of the file has the better message
        **more,
    )


def _parameter(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _is_list(field: Field[Any]) -> bool:
    return get_origin(field.type) is tuple


def _cli_type(field: Field[Any], spec: OptionSpec) -> Any:
    if spec.seconds:
        return str | None
    if _is_list(field):
        items: Any = list[get_args(field.type)[0]]
        return items if field.default is MISSING else items | None
    return field.type


def _read_options(kind: type[OptionsT], ctx: typer.Context, values: dict[str, Any]) -> OptionsT:
    """Return the options that these values of a command's parameters stand for."""
    from convbatch.session.options import option_fields

    given = {field.name: _from_cli(field, spec, values[field.name]) for field, spec in option_fields(kind)}
    if hasattr(kind, "from_environment"):
        given["from_environment"] = _from_environment(ctx)
    return kind(**given)


def _from_cli(field: Field[Any], spec: OptionSpec, value: Any) -> Any:
    if spec.seconds:
        from convbatch.session.durations import parse_seconds

        return parse_seconds(value, spec.long_name)
    if _is_list(field):  # an environment variable, split at its commas, arrives as text
        return tuple(map(Path, value or ())) if Path in get_args(field.type) else tuple(value or ())
    return not value if field.default is True else value  # a flag that switches off: --no-progress


def _split_variable(ctx: typer.Context, param: Any, value: Any) -> Any:
    """Split the value of an environment variable at commas; on the command line a list option is repeated instead."""
    if value and _is_from_environment(ctx, param):
        return [item.strip() for item in os.environ[param.envvar].split(",") if item.strip()]
    return value


def _is_from_environment(ctx: typer.Context, param: Any) -> bool:
    source = ctx.get_parameter_source(param.name or "")
    return source is not None and source.name == "ENVIRONMENT"


def _from_environment(ctx: typer.Context) -> tuple[str, ...]:
    """Return `NAME=value` of every environment variable that set an option."""
    names: list[str] = []
    for param in ctx.command.params:
        if _is_from_environment(ctx, param):
            names.append(f"{param.envvar}={os.environ[str(param.envvar)]}")
    return tuple(names)
