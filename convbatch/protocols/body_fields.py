"""Which fields of a request body `extra` and `-p` may set: each protocol names one table, a `BodyFields`.

Refused are only fields with which no request of the protocol can work, each with what to write instead. A field that
no row names is sent as given: servers have fields of their own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from convbatch.protocols.wire import CannotCarry

TURNS = "write the turns into the dataset"
SYSTEM = 'write the text into the dataset, as "system" of the dialogue'
MODEL = "name the model with -m MODEL@GATEWAY"
REPEATS = "use --repeats to ask several times"
STREAMING = "use --stream, or `stream` of the gateway in the config"


class Kind(NamedTuple):
    """JSON values that a field can have; null, which unsets a field, always fits."""

    name: str
    fits: Callable[[Any], bool]
    example: str
    """The end of a `-p` option, behind the field's path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyFields:
    """The fields of a request body that the protocol knows; a path has dots between its names."""

    article: str
    """The protocol in a message: `an OpenAI`."""
    built: Mapping[str, str] = field(default_factory=dict[str, str])
    """Top-level fields that only convbatch sets → what to write instead."""
    kinds: Mapping[str, Kind] = field(default_factory=dict[str, Kind])
    """Path → its values. Objects without a row below them are not looked into."""
    settings: Mapping[str, str] = field(default_factory=dict[str, str])
    """Path → the setting that is sent in it."""
    foreign: Mapping[str, str] = field(default_factory=dict[str, str])
    """Names of other APIs that no server of this protocol reads → the path of this one, or what to write instead."""
    single: frozenset[str] = frozenset()
    """Paths that ask for several replies at once: only 1 works, since one reply is read and all are billed."""
    exact: bool = True
    """Servers know each field under one spelling; else in snake case and camel case."""


def refuse_impossible(extra: Mapping[str, Any], fields: BodyFields) -> None:
    """Raise `CannotCarry` with every field of `extra` that cannot work."""
    if found := list(_impossible(extra, fields, "")):
        raise CannotCarry("; ".join(found))


def plain_spelling(key: str) -> str:
    """Return a field's name without case and underscores: servers accept several spellings."""
    return key.replace("_", "").lower()


def _impossible(extra: Mapping[str, Any], fields: BodyFields, above: str) -> Iterator[str]:
    for key, value in extra.items():
        path = f"{above}{key}"
        known = _known_path(fields, above, key)
        if known is None:
            if instead := _instead(fields, key):
                yield f"extra sets {path!r}, which is no field of {fields.article} request: {instead}"
        elif known in fields.built:
            yield f"extra may not set {path!r}: convbatch builds that field itself; {fields.built[known]}"
        elif fields.exact and known != path:
            yield f"extra sets {path!r}, which {fields.article} request calls {known}: {_use(fields, known)}"
        elif known in fields.single and value not in (1, None):
            yield f"extra sets {path} to {_display(value)}: only one reply is read, and all are billed; {REPEATS}"
        elif value is not None and not fields.kinds[known].fits(value):
            kind = fields.kinds[known]
            yield f"extra sets {path} to {_display(value)}, but it is {kind.name}: write -p {path}{kind.example}"
        elif isinstance(value, Mapping) and any(row.startswith(f"{known}.") for row in fields.kinds):
            yield from _impossible(value, fields, f"{known}.")


def _known_path(fields: BodyFields, above: str, key: str) -> str | None:
    """Return the path of a field in the table, whatever its spelling; None for one that has no row at this place."""
    wanted = plain_spelling(key)
    for path in (*fields.built, *fields.kinds):
        if path.rpartition(".")[0] == above.rstrip(".") and plain_spelling(_last(path)) == wanted:
            return path
    return None


def _instead(fields: BodyFields, key: str) -> str | None:
    """Return what to write instead of a field that has no row at its place; None if a server may know it."""
    wanted = plain_spelling(key)
    named = next((there for name, there in fields.foreign.items() if plain_spelling(name) == wanted), None)
    if named is None:
        rows = (*fields.kinds, *fields.built)  # of another object: its rows of this name were looked up before
        named = next((row for row in rows if plain_spelling(_last(row)) == wanted), None)
    if named is None:
        return None
    if named in fields.built:
        return fields.built[named]
    return _use(fields, named) if named in fields.kinds else named


def _use(fields: BodyFields, path: str) -> str:
    if path in fields.single:
        return REPEATS
    setting = fields.settings.get(path)
    if setting is None:
        in_dataset = "…"
        for name in reversed(path.split(".")):
            in_dataset = f'{{"{name}": {in_dataset}}}'
        return f'use -p {path}=… (in a dataset or config {{"extra": {in_dataset}}})'
    option = f"--{setting.replace('_', '-')}, or " if setting in _WITH_OPTION else ""
    return f'use {option}-p {path}=… (in a dataset or config the setting "{setting}")'


_WITH_OPTION = frozenset({"temperature", "max_output_tokens", "seed", "thinking_budget"})
"""Settings that the command line has an option for."""


def _last(path: str) -> str:
    return path.rpartition(".")[2]


def _display(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}…"


# Kinds of values


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_number_or_its_text(value: Any) -> bool:
    return _is_number(value) or (
        isinstance(value, str) and re.fullmatch(r"-?\d+(\.\d+)?([eE][-+]?\d+)?", value) is not None
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_object(value: Any) -> bool:
    """Whether a value is an object that was not meant as a list: `-p tools.0=…` makes one with the name `0`."""
    return isinstance(value, Mapping) and not (value and all(str(name).isdigit() for name in value))


def _is_list_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(fits, value))


def _any_of(*kinds: Kind) -> Callable[[Any], bool]:
    return lambda value: any(kind.fits(value) for kind in kinds)


FLAG = Kind("true or false", lambda value: isinstance(value, bool), "=true")
NUMBER = Kind("a number", _is_number, "=1")
TEXT = Kind("text", _is_text, "=TEXT")
OBJECT = Kind("an object", _is_object, ".NAME=…")
LIST_OF_OBJECTS = Kind("a list of objects", _is_list_of(_is_object), "='[{…}]'")
LIST_OF_TEXTS = Kind("a list of texts", _is_list_of(_is_text), """='["…"]'""")
TEXT_OR_OBJECT = Kind("text or an object", _any_of(TEXT, OBJECT), "=TEXT")
TEXT_OR_LIST = Kind("text or a list of texts", _any_of(TEXT, LIST_OF_TEXTS), "=TEXT")
TEXT_OR_NUMBER = Kind("text or a number", _any_of(TEXT, NUMBER), "=TEXT")
FLAG_OR_NUMBER = Kind("true, false or a number", _any_of(FLAG, NUMBER), "=true")

GEMINI_FIELDS: Mapping[str, str] = dict.fromkeys(
    ("safetySettings", "cachedContent", "speechConfig", "mediaResolution"),
    "remove it, only the gemini protocol has it",
)
"""Fields that have no counterpart in other protocols."""

# Google's JSON mapping of protocol buffers: a number may be text, and a list of one item may be the item.
# https://protobuf.dev/programming-guides/json, read 2026-11-26.
PROTO_NUMBER = Kind("a number", _is_number_or_its_text, "=1")
PROTO_LIST_OF_OBJECTS = Kind("a list of objects", _any_of(LIST_OF_OBJECTS, OBJECT), "='[{…}]'")
PROTO_LIST_OF_TEXTS = Kind("a list of texts", _any_of(LIST_OF_TEXTS, TEXT), """='["…"]'""")
