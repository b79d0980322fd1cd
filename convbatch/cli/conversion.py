"""Convert usual values of the command line without Typer, which imports pydantic to do so.

Importing pydantic takes as long as the rest of a command's start. Only values whose result is certain are converted
here: Typer gets all others, and has the messages.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast, get_args, get_origin

_UNSURE = object()
_WHOLE = re.compile("[0-9]{1,15}")
_DECIMAL = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


def convert_directly(param: Any) -> None:
    """Let a parameter of Typer convert what is certain without pydantic; a second call does nothing."""
    if "process_value" in vars(param):
        return
    descriptor = getattr(param, "type_descriptor", None)
    info = getattr(descriptor, "parameter_info", None)
    if info is None or info.parser is not None:  # earlier versions of Typer do not use pydantic
        return
    convert = _converter(getattr(descriptor, "annotation", None), info)
    is_many = param.multiple or param.nargs == -1
    by_typer: Callable[[Any, Any], Any] = param.process_value

    def process_value(ctx: Any, value: Any) -> Any:
        converted = (() if is_many else None) if value is None else convert(value)
        if converted is _UNSURE or (param.required and not converted):
            return by_typer(ctx, value)
        return converted if param.callback is None else param.callback(ctx, param, converted)

    param.process_value = process_value


def _converter(kind: Any, info: Any) -> Callable[[Any], Any]:
    """Return a function from a value as typed to one of this type, or to `_UNSURE`."""
    if get_origin(kind) is list:
        one = _converter(get_args(kind)[0], info)
        return lambda values: _each(one, values)
    if kind is str:
        return _text
    if kind is bool:
        return lambda value: value if type(value) is bool else _UNSURE
    if kind is int:
        return lambda value: _number(_WHOLE, int, value, info)
    if kind is float:
        return lambda value: _number(_DECIMAL, float, value, info)
    checks = info.exists or info.readable or info.writable or info.resolve_path or info.allow_dash
    if kind is Path and not checks and info.file_okay and info.dir_okay and info.path_type is None:
        return lambda value: _UNSURE if _text(value) is _UNSURE else Path(value)
    return lambda _: _UNSURE


def _each(one: Callable[[Any], Any], values: Any) -> Any:
    if not isinstance(values, (list, tuple)):
        return _UNSURE
    converted = [one(value) for value in cast("list[Any]", values)]
    return _UNSURE if _UNSURE in converted else converted


def _text(value: Any) -> Any:
    return value if type(value) is str and value.isprintable() else _UNSURE


def _number(form: re.Pattern[str], kind: type[int] | type[float], value: Any, info: Any) -> Any:
    if type(value) is not str or form.fullmatch(value) is None:
        return _UNSURE
    number = kind(value)
    is_within = (info.min is None or number >= info.min) and (info.max is None or number <= info.max)
    return number if is_within else _UNSURE
