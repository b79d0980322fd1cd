"""Checked fields of the JSON objects in `run.json`: what each may hold, and the path of one that is wrong."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, TypeVar

from convbatch.dialogue import MAX_REPEATS, SETTING_NAMES
from convbatch.pricing import is_exchange_rates, is_price_table

_T = TypeVar("_T")


class WrongField(ValueError):
    """A field that is missing or wrong: its path from the top, and what is wrong with it."""

    def __init__(self, path: str, what: str) -> None:
        super().__init__(f"{path} {what}" if path else what)
        self.path = path
        self.what = what

    @property
    def key(self) -> str:
        """The top-level key."""
        return self.path.partition(".")[0].partition("[")[0]

    def under(self, parent: str) -> WrongField:
        """The same error, seen from one level up."""
        joined = f"{parent}.{self.path}" if self.path else parent
        return WrongField(joined, self.what)


@dataclass(frozen=True, slots=True)
class Kind:
    """What a field may hold."""

    name: str
    holds: Callable[[Any], bool]


class Fields:
    """The fields of one JSON object; remembers which were read, so that the rest can be kept."""

    def __init__(self, plain: Any, path: str = "") -> None:
        if not isinstance(plain, dict):
            raise WrongField(path, f"is {excerpt(plain)}, not an object")
        self._plain: dict[str, Any] = plain
        self._path = path
        self._read: set[str] = set()

    def required(self, key: str, kind: Kind) -> Any:
        """Return a value; raise `WrongField` where it is missing or of another kind."""
        self._read.add(key)
        if key not in self._plain:
            raise WrongField(self._at(key), f"is missing; expected {kind.name}")
        return self._checked(key, kind)

    def optional(self, key: str, kind: Kind, default: Any = None) -> Any:
        """Return a value, the default for null or none; raise `WrongField` where it is of another kind."""
        self._read.add(key)
        return default if self._plain.get(key) is None else self._checked(key, kind)

    def nested(self, key: str, read: Callable[[Any], _T]) -> _T:
        """Return what `read` makes of an object that must be there; a `WrongField` in it gets the path from here."""
        return self._in(key, read, self.required(key, OBJECT))

    def optional_nested(self, key: str, read: Callable[[Any], _T]) -> _T | None:
        """Return what `read` makes of an object; None for null or none."""
        plain = self.optional(key, OBJECT)
        return None if plain is None else self._in(key, read, plain)

    def each(self, key: str, read: Callable[[Any], _T]) -> tuple[_T, ...]:
        """Return what `read` makes of each item of a list; empty for null or none."""
        items = self.optional(key, LIST, [])
        return tuple(self._in(f"{key}[{number}]", read, item) for number, item in enumerate(items))

    def rest(self, *read_elsewhere: str) -> dict[str, Any]:
        """Return the fields that were not read, by key."""
        return {key: value for key, value in self._plain.items() if key not in self._read.union(read_elsewhere)}

    def _checked(self, key: str, kind: Kind) -> Any:
        value = self._plain[key]
        if not kind.holds(value):
            raise WrongField(self._at(key), f"is {excerpt(value)}, not {kind.name}")
        return value

    def _at(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key

    def _in(self, key: str, read: Callable[[Any], _T], plain: Any) -> _T:
        try:
            return read(plain)
        except WrongField as error:
            raise error.under(self._at(key)) from None


def excerpt(value: Any) -> str:
    """Return a value as a message shows it: the kind of a collection, or JSON cut at 60 characters."""
    return "an object" if isinstance(value, dict) else "a list" if isinstance(value, list) else json.dumps(value)[:60]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_text(value: Any) -> bool:
    # A lone surrogate is half a character: it cannot be printed or written to a table.
    return isinstance(value, str) and not any("\ud800" <= char <= "\udfff" for char in value)


def _is_text_map(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_AUTH = re.compile(rf"bearer|raw|x-goog-api-key|x-api-key|none|(?:header|query):{_HEADER_NAME.pattern}")


def _is_headers(value: Any) -> bool:
    if not _is_text_map(value) or not all(map(_HEADER_NAME.fullmatch, value)):
        return False
    return all(map(str.isprintable, value.values()))


def _is_secret_headers(value: Any) -> bool:
    if not isinstance(value, dict) or not all(map(_HEADER_NAME.fullmatch, value)):
        return False
    return all(map(_is_secret_header, value.values()))


def _is_secret_header(value: Any) -> bool:
    match value:
        case {"env": env, "prefix": prefix, "origin": origin, **rest}:
            is_sent = _is_text(env) and isinstance(prefix, str) and prefix.isprintable()
            return not rest and is_sent and (origin is None or isinstance(origin, str))
        case _:
            return False


def _is_decimal(value: Any) -> bool:
    try:
        return isinstance(value, str) and Decimal(value).is_finite()
    except InvalidOperation:
        return False


def _is_rate_limit(value: Any) -> bool:
    match value:
        case {"count": count, "window_s": window_s, **rest}:
            return not rest and _is_whole(count) and count > 0 and _is_number(window_s) and window_s > 0
        case _:
            return False


TEXT = Kind("text", _is_text)
PATH = Kind("text", lambda value: isinstance(value, str))  # a path may hold bytes that are not text
TEXTS = Kind("a list of texts", lambda value: isinstance(value, list) and all(map(_is_text, value)))
SETTING_LIST = Kind(
    "a list of settings", lambda value: isinstance(value, list) and all(one in SETTING_NAMES for one in value)
)
TEXT_MAP = Kind("an object of texts", _is_text_map)
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
WHOLE = Kind("a whole number", _is_whole)
COUNT = Kind("a whole number from 0", lambda value: _is_whole(value) and value >= 0)
POSITIVE = Kind("a whole number from 1", lambda value: _is_whole(value) and value >= 1)
NUMBER = Kind("a number", _is_number)
SECONDS = Kind("a number of seconds", lambda value: _is_number(value) and value >= 0)
ALIASES = Kind(
    "an object of lists of texts",
    lambda value: isinstance(value, dict) and all(map(TEXTS.holds, value.values())),
)
DECIMAL = Kind("a decimal number as text", _is_decimal)
OBJECT = Kind("an object", lambda value: isinstance(value, dict))
LIST = Kind("a list", lambda value: isinstance(value, list))
HISTORY = Kind("live, script or last", lambda value: value in ("live", "script", "last"))
REPEATS = Kind(f"a whole number from 1 to {MAX_REPEATS}", lambda value: _is_whole(value) and 1 <= value <= MAX_REPEATS)
PRICES = Kind("a price table", is_price_table)
PRICES_BY_NAME = Kind(
    "an object of price tables",
    lambda value: isinstance(value, dict) and all(map(is_price_table, value.values())),
)
RATES = Kind("an object of exchange rates", is_exchange_rates)
RATE_LIMITS = Kind(
    "a list of {count, window_s}", lambda value: isinstance(value, list) and all(map(_is_rate_limit, value))
)
SECRET_HEADERS = Kind("an object of {env, prefix, origin}", _is_secret_headers)

GATEWAY_KINDS: Mapping[str, Kind] = {
    "api_version": TEXT,
    "auth": Kind("an auth scheme", lambda value: isinstance(value, str) and _AUTH.fullmatch(value) is not None),
    "key_env": TEXT,
    "key_command": TEXTS,
    "headers": Kind("an object of header names and texts", _is_headers),
    "secret_headers": SECRET_HEADERS,
    "query": TEXT_MAP,
    "proxy": TEXT,
    "ca_file": PATH,
    "allow_http": FLAG,
    "max_output_tokens_field": TEXT,
    "path": Kind("a path of a URL", lambda value: _is_text(value) and value.isprintable() and " " not in value),
    "seed_field": TEXT,
    "anthropic_version": TEXT,
    "replay": Kind("exact, content or stored", lambda value: value in ("exact", "content", "stored")),
    "thinking_tags": TEXT,
    "system_role": Kind("system, developer or user", lambda value: value in ("system", "developer", "user")),
    "list_prices": FLAG,
    "price_multiplier": DECIMAL,
    "attempt_timeout_s": SECONDS,
    "stream": FLAG,
    "key_origin": PATH,
}
LIMIT_KINDS: Mapping[str, Kind] = {
    "rpm": POSITIVE,
    "tpm": POSITIVE,
    "tpm_counts": TEXT,
    "rpd": POSITIVE,
    "rpd_resets": TEXT,
    "rates": RATE_LIMITS,
    "concurrency": POSITIVE,
    "jitter_s": SECONDS,
}
SETTING_KINDS: Mapping[str, Kind] = {
    "temperature": NUMBER,
    "top_p": NUMBER,
    "top_k": WHOLE,
    "max_output_tokens": WHOLE,
    "stop": TEXTS,
    "seed": WHOLE,
    "thinking_budget": WHOLE,
    "thinking_level": TEXT,
    "reasoning_effort": TEXT,
    "include_thoughts": FLAG,
    "response_schema": OBJECT,
    "safety": TEXT_MAP,
    "logprobs": WHOLE,
    "service_tier": TEXT,
    "cache": Kind("auto, off or 1h", lambda value: value in ("auto", "off", "1h")),
    "extra": OBJECT,
}
