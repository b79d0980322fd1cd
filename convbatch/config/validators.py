"""Validation of config files: each key's value, rules between keys, and detection of secrets.

Tables for `loader.py`, which handles files and lines; the meaning of the values is in `gateways.py`.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, cast, get_args
from urllib.parse import SplitResult, urlsplit

from convbatch.config.credentials import AUTH_SCHEMES, Carrier, is_loopback, parse_auth_scheme
from convbatch.config.gateways import SIMULATOR_URL, RateLimit, SecretHeader, TpmCounts, build_gateway, foreign_keys
from convbatch.config.toml_positions import KeyPath
from convbatch.counts import read_count
from convbatch.dialogue import SETTING_NAMES, HistoryMode
from convbatch.errors import did_you_mean
from convbatch.pricing import CURRENCY, NOT_CURRENCIES, exact, parse_money
from convbatch.protocols import PROTOCOLS
from convbatch.protocols.encoding import MODEL_PLACEHOLDER
from convbatch.protocols.thinking_tags import parse_thinking_tags
from convbatch.protocols.wire import Replay, SystemRole
from convbatch.redaction import display, looks_like_key

HISTORIES = get_args(HistoryMode)
TPM_COUNTS = get_args(TpmCounts)
SYSTEM_ROLES = get_args(SystemRole)
REPLAYS = get_args(Replay)
# Planned keys; refused with a message of their own until they are implemented.
LATER_KEYS = frozenset(("judge",))


class InvalidValue(Exception):  # becomes a `Problem` in `loader.py`
    """A problem with one value, without its place."""

    def __init__(self, what: str, hint: str | None = None, *, found: object = None) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint
        self.found = None if found is None else display(found)


Validator = Callable[[str, Any], Any]


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise InvalidValue(f"{key} must be a text", f'write {key} = "..."', found=value)
    return value.strip()


def _flag(key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InvalidValue(f"{key} must be true or false", f"write {key} = true, without quotes", found=value)
    return value


def _count(key: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidValue(f"{key} must be a whole number of at least 1", _count_hint(key, value), found=value)
    return value


def _count_hint(key: str, value: Any) -> str:
    if isinstance(value, str) and (number := re.match(r"\s*([1-9]\d{0,9})(?!\.|\d)", value)):
        return f"write {key} = {number[1]}"
    return "omit the key if there is no limit"


def _seconds(key: str, value: Any) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0 or (value == 0 and key != "jitter"):
        least = "0 or more" if key == "jitter" else "more than 0"
        raise InvalidValue(f"{key} must be a number of seconds, {least}", f"write {key} = 90", found=value)
    return float(value)


def currency(key: str, value: Any) -> str:
    """Validate an ISO 4217 code."""
    if (code := NOT_CURRENCIES.get(str(value).upper())) is not None:
        raise InvalidValue(f"{value} is no currency code", f'did you mean {key} = "{code}"?', found=value)
    if not isinstance(value, str) or not CURRENCY.fullmatch(value):
        raise InvalidValue(
            f"{key} must be the three capital letters of a currency", f'write {key} = "CNY"', found=value
        )
    return value


def _multiplier(key: str, value: Any) -> Decimal:
    number = amount(key, value)
    if number == 0:
        raise InvalidValue(
            f"{key} must be more than 0", "for a gateway that bills nothing, write [prices] of 0", found=value
        )
    return number


MAX_AMOUNT = 10**12
"""No price, multiplier or exchange rate is larger; far beyond it, ratios of costs leave the range of numbers."""


def amount(key: str, value: Any) -> Decimal:
    """Validate a number of 0 or more; returns the exact decimal."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0 or value == math.inf:
        number = f"{key} = {_plain_number(value)}"
        raise InvalidValue(f"{key} must be a number of 0 or more", f"write {number}, without quotes", found=value)
    if value > MAX_AMOUNT:
        raise InvalidValue(f"{key} must be at most {MAX_AMOUNT:,}", f"write {key} = 0.3", found=value)
    return exact(value)


def _plain_number(value: Any) -> str:
    """Return the number of a text such as `80%` or `0,8`; an example if there is none."""
    match = re.fullmatch(r"\s*(\d{1,9})(?:[.,](\d{1,9}))?\s*(%?)\s*", value) if isinstance(value, str) else None
    if match is None:
        return "0.3"
    return f"{Decimal(f'{match[1]}.{match[2] or 0}') / (100 if match[3] else 1):f}".rstrip("0").rstrip(".")


def _budget(key: str, value: Any) -> str:
    money = parse_money(value) if isinstance(value, str) else None
    if money is None or money[0] <= 0:
        raise InvalidValue(f"{key} must be an amount of money", f'write {key} = "5USD"', found=value)
    return cast(str, value)


def _large_count(key: str, value: Any) -> int:
    count = read_count(str(value)) if isinstance(value, str | int) and not isinstance(value, bool) else None
    if count is None:
        raise InvalidValue(f"{key} must be a whole number of at least 1", f'write {key} = "2M" or 500_000', found=value)
    return count


def _one_of(names: Sequence[str]) -> Validator:
    def check(key: str, value: Any) -> str:
        if value not in names:
            raise InvalidValue(f"unknown {key} {display(value)}", did_you_mean(str(value), names))
        return cast(str, value)

    return check


def _protocol(key: str, value: Any) -> str:
    meant = _OTHER_PROTOCOLS.get(str(value).lower())
    if meant is not None:
        raise InvalidValue(f"unknown {key} {display(value)}", f'write {key} = "{meant}"')
    return _one_of(tuple(PROTOCOLS))(key, value)


_OTHER_PROTOCOLS = {
    **dict.fromkeys(("google", "vertex", "generativelanguage", "genai"), "gemini"),
    **dict.fromkeys(("claude", "messages", "anthropic-messages"), "anthropic"),
    **dict.fromkeys(("chat", "openai-chat", "chat-completions", "openai-compatible", "chat/completions"), "openai"),
    **dict.fromkeys(("openai-responses", "responses-api"), "responses"),
}
"""Protocols by other names."""


def _auth(key: str, value: Any) -> str:
    try:
        place = parse_auth_scheme(value) if isinstance(value, str) else None
    except ValueError:
        place = None
    if place is None:
        hint = did_you_mean(str(value), AUTH_SCHEMES) + "; the key itself is in the variable that key_env names"
        raise InvalidValue(f"unknown auth scheme {display(value)}", hint)
    if place.kind == "header" and place.name.lower() in _OWN_HEADERS:
        raise InvalidValue(
            f"the header {place.name} cannot carry a key: convbatch sets it", "name the gateway's key header"
        )
    return cast(str, value)


_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _variable(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InvalidValue(f"{key} must be the name of an environment variable", f'write {key} = "NAME"', found=value)
    if (named := re.fullmatch(r"\$\{?([A-Z_][A-Z0-9_]*)\}?|%([A-Z_][A-Z0-9_]*)%", value)) is not None:
        name = named[1] or named[2]
        raise InvalidValue(f"{key} is the bare name of an environment variable", f'write {key} = "{name}"', found=value)
    if not _VARIABLE.fullmatch(value) or (len(value) >= 20 and re.search("[a-z]", value) and re.search("[0-9]", value)):
        raise InvalidValue(
            f"{key} must be the name of an environment variable; this looks like a key itself",
            f'put the key into a variable (export NAME=...) and write {key} = "NAME"',
        )
    return value


def _command(key: str, value: Any) -> tuple[str, ...]:
    items = cast(list[Any], value) if isinstance(value, list) else []
    example = f'write {key} = ["gcloud", "auth", "print-access-token"]'
    if isinstance(value, str):
        raise InvalidValue(f"{key} must be a list of a program and its arguments: no shell reads it", example)
    if not items or not all(isinstance(item, str) and item.isprintable() for item in items) or not items[0].strip():
        raise InvalidValue(f"{key} must be a list of a program and its arguments", example, found=value)
    return tuple(cast(list[str], items))


_HOST = re.compile(r"[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\]")


def _url(key: str, value: Any) -> str:
    """Validate and normalise a URL without userinfo, query or fragment; the base URL is part of every turn's key."""
    if value == SIMULATOR_URL and key == "base_url":
        return SIMULATOR_URL
    if not isinstance(value, str) or not value.strip():
        raise InvalidValue(f"{key} must be a URL", f'write {key} = "https://HOST"', found=value)
    text = value.strip()
    parts = _split_url(text)
    if parts is None or re.search(r"[\s\\]", text) or not text.isprintable():
        raise InvalidValue(
            f"{key} is not a URL",
            f'write {key} = "{_plain_url(text) or "https://HOST/PATH"}"',
            found=None if re.search("[@?]", text) else value,
        )
    if parts.username is not None or parts.password is not None:
        raise InvalidValue(
            f"{key} has a user name or password in it",
            "put proxy credentials into HTTPS_PROXY"
            if key == "proxy"
            else "put keys into a variable: auth and key_env",
        )
    if "?" in text or "#" in text:
        raise InvalidValue(
            f"{key} has a query or a fragment",
            'a key in the query is auth = "query:key" with key_env; the others go into query = { name = "value" }',
        )
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = "" if parts.port is None else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"


def _plain_url(text: str) -> str | None:
    """Return the URL that was meant by one in another form; None if it may hold a secret, or cannot be told."""
    plain = unicodedata.normalize("NFKC", text.replace("。", ".")).replace("\\", "/")
    plain = "".join(char for char in plain if char.isprintable() and not char.isspace())
    rest = re.sub(r"^[a-z]{3,6}(?::/{0,3}|/{2,3})(?!\d+(?:/|$))", "", plain, flags=re.IGNORECASE)
    is_here = re.match(r"localhost|127\.|\[::1\]", rest) is not None
    url = f"{'http' if is_here or plain.lower().startswith('http:') else 'https'}://{rest}"
    if not (is_here or re.match(r"[\w-]+(\.[\w-]+|:\d+)", rest)):
        return None
    return (
        url if not re.search("[@?#]", url) and re.match(r"\w+://[\w.-]+(:\d+)?(/|$)", url) and _split_url(url) else None
    )


def _split_url(text: str) -> SplitResult | None:
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    host = parts.netloc.rpartition("@")[2]
    return parts if usable and _HOST.fullmatch(re.sub(r":\d*$", "", host)) else None


def _version_date(key: str, value: Any) -> str:
    if not isinstance(value, str) or _DATE.fullmatch(value) is None:
        raise InvalidValue(f"{key} is not a date in quotation marks", f'write {key} = "2023-06-01"', found=value)
    return value


_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


def _proxy(key: str, value: Any) -> str:
    return "none" if value == "none" else _url(key, value)


_ENDPOINTS = re.compile(
    f"({'|'.join(re.escape(end) for wire in PROTOCOLS.values() for end in wire.config.endpoints)}|/models)$"
)


def _base_url(key: str, value: Any) -> str:
    url = _url(key, value)
    if endpoint := _ENDPOINTS.search(url):
        base = re.sub(r"/models/[^/]*$", "", url[: endpoint.start()])
        raise InvalidValue(f"{key} names an endpoint, not its base", f'write {key} = "{base}"', found=value)
    return url


_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_OWN_HEADERS = frozenset(
    ("host", "content-length", "content-type", "transfer-encoding", "connection", "accept-encoding", "content-encoding",
     "expect", "te", "trailer", "upgrade", "proxy-authorization", "proxy-connection")
)  # fmt: skip


def _headers(key: str, value: Any) -> dict[str, str]:
    headers = _texts(key, value)
    seen: set[str] = set()
    for name in headers:
        if not _HEADER.fullmatch(name):
            raise InvalidValue(f"{name!r} is not a header name", f'write {key} = {{ "X-Name" = ... }}')
        if name.lower() in _OWN_HEADERS:
            raise InvalidValue(f"the header {name} is set by convbatch", "remove it")
        if name.lower() in seen:
            raise InvalidValue(f"the header {name} is given twice", "header names are not case-sensitive")
        if not headers[name].isascii():
            raise InvalidValue(
                f"the value of the header {name} is not plain ASCII", "encode it as the gateway's manual describes"
            )
        seen.add(name.lower())
    return headers


def _secret_headers(key: str, value: Any) -> dict[str, SecretHeader]:
    example = f'write {key} = {{ X-Name = "VARIABLE" }}, or {{ X-Name = {{ env = "VARIABLE", prefix = "Basic " }} }}'
    if not isinstance(value, dict):
        raise InvalidValue(f"{key} must be a table of header names and variables", example, found=value)
    table = cast(dict[str, Any], value)
    _headers(key, dict.fromkeys(table, ""))
    return {name: _secret_header(f"{key}.{name}", item, example) for name, item in table.items()}


def _secret_header(key: str, value: Any, example: str) -> SecretHeader:
    if isinstance(value, str):
        return SecretHeader(env=_variable(key, value))
    table = cast(dict[str, Any], value) if isinstance(value, dict) else {}
    for name in table:
        if name not in ("env", "prefix"):
            raise InvalidValue(f"unknown key {display(name)} in {key}", did_you_mean(name, ("env", "prefix")))
    if "env" not in table:
        raise InvalidValue(f"{key} must be the name of an environment variable", example)
    prefix = table.get("prefix", "")
    if not isinstance(prefix, str) or not prefix.isascii() or not prefix.isprintable() or len(prefix) > 40:
        raise InvalidValue(f"{key}.prefix must be a word that is sent before the value", 'write prefix = "Basic "')
    if prefix and prefix[-1].isalnum():
        raise InvalidValue(
            f"{key}.prefix must end with a blank or a sign: the value follows at once", f'write prefix = "{prefix} "'
        )
    return SecretHeader(env=_variable(f"{key}.env", table["env"]), prefix=prefix)


def _texts(key: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise InvalidValue(f"{key} must be a table of texts", f'write {key} = {{ name = "value" }}', found=value)
    table = cast(dict[str, Any], value)
    for name, item in table.items():
        if not isinstance(item, str) or not item.isprintable() or not name:
            raise InvalidValue(f"{key}.{name} must be a text", f'write {key} = {{ {name} = "value" }}')
    return cast(dict[str, str], dict(table))


_RATE = re.compile(r"\s*(\d{1,9})\s*/\s*(\d{1,9}(?:\.\d{1,6})?)?\s*([smh])\s*")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def _rates(key: str, value: Any) -> tuple[RateLimit, ...]:
    if not isinstance(value, list) or not value:
        raise InvalidValue(f"{key} must be a list of windows", 'write rate = ["10/10s"]', found=value)
    rates: list[RateLimit] = []
    for item in cast(list[Any], value):
        match = _RATE.fullmatch(item) if isinstance(item, str) else None
        count = 0 if match is None else int(match[1])
        window = 0.0 if match is None else float(match[2] or 1) * _UNITS[match[3]]
        if not count or not window:
            hint = 'write COUNT/WINDOW with s, m or h: "10/10s", "1000/1h"'
            raise InvalidValue(f"{key} has no window of the form COUNT/WINDOW", hint, found=item)
        rates.append(RateLimit(count=count, window_s=window))
    return tuple(rates)


def _resets(key: str, value: Any) -> str:
    match = re.fullmatch(r"([01]\d|2[0-3]):([0-5]\d) (\S+)", value) if isinstance(value, str) else None
    if match is None:
        raise InvalidValue(
            f"{key} must be a time and a zone", 'write rpd_resets = "00:00 America/Los_Angeles"', found=value
        )
    zone(key, match[3])
    return value


def zone(key: str, value: Any) -> str:
    """Validate the IANA name of a time zone."""
    import zoneinfo

    try:
        return zoneinfo.ZoneInfo(value).key
    except (TypeError, KeyError, ValueError, OSError):
        hint = did_you_mean(str(value), zoneinfo.available_timezones()).partition(" known:")[0]
        hint = hint if hint.startswith("did") else 'zones have names like "UTC" or "Asia/Shanghai"'
        raise InvalidValue(f"unknown time zone {display(value)} in {key}", hint) from None


def _names(key: str, value: Any) -> tuple[str, ...]:
    items = cast(list[Any], value) if isinstance(value, list) else None
    if items is None or not all(isinstance(item, str) and item.strip() for item in items):
        raise InvalidValue(f"{key} must be a list of texts", f'write {key} = ["MODEL@GATEWAY"]', found=value)
    return tuple(cast(list[str], items))


def _wording(key: str, value: Any) -> str:
    """Validate a text that may have several lines, and may be empty."""
    if not isinstance(value, str):
        raise InvalidValue(f"{key} must be a text", f'write {key} = "..."', found=value)
    return value


def _variant_names(key: str, value: Any) -> tuple[str, ...]:
    items = cast(list[Any], value) if isinstance(value, list) else None
    if items is None or not all(isinstance(item, str) and item.strip() for item in items):
        raise InvalidValue(f"{key} must be a list of names", f'write {key} = ["none", "terse"]', found=value)
    return tuple(cast(list[str], items))


def _members(key: str, value: Any) -> tuple[str, ...]:
    """Validate the gateways of a pool: at least two, none of them twice."""
    items = cast(list[Any], value) if isinstance(value, list) else None
    if items is None or not all(isinstance(item, str) and item.strip() for item in items):
        raise InvalidValue(f"{key} must be a list of names", f'write {key} = ["NAME", "OTHER"]', found=value)
    names = tuple(cast(list[str], items))
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InvalidValue(f"{display(twice)} is twice in {key}", "name each gateway once", found=value)
    if len(names) < 2:
        raise InvalidValue("a pool has at least two gateways", f'write {key} = ["NAME", "OTHER"]', found=value)
    return names


def _path(key: str, value: Any) -> str:
    """Validate a path below the base URL; without its leading slash, so that both spellings are one identity."""
    text = _text(key, value).lstrip("/")
    hint = f'write {key} = "v2/chat/completions", to be appended to base_url'
    if "://" in text or text != value.lstrip("/").strip() or str(value).startswith("//"):
        raise InvalidValue(f"{key} must be a path below base_url, without a host", hint, found=value)
    if "?" in text or "#" in text:
        hint = 'parameters of every URL go into query = { "api-version" = "..." }'
        raise InvalidValue(f"{key} has a query or a fragment", hint, found=value)
    if not text or re.search(r"[\s\\]", text) or ".." in text.split("/"):
        raise InvalidValue(f"{key} is not a path", hint, found=value)
    if re.search(r"[{}]", text.replace(MODEL_PLACEHOLDER, "")):
        raise InvalidValue(f"{key} has a placeholder other than {MODEL_PLACEHOLDER}", hint, found=value)
    return text


def _field(key: str, value: Any) -> str:
    if not isinstance(value, str) or not _VARIABLE.fullmatch(value):
        raise InvalidValue(f"{key} must be the name of a field", f'write {key} = "random_seed"', found=value)
    return value


def _tags(key: str, value: Any) -> str:
    try:
        parse_thinking_tags(value if isinstance(value, str) and value.isprintable() else "")
    except ValueError:
        hint = 'write the opening tag, thinking_tags = "<think>", or both: "<|START_THINKING|> <|END_THINKING|>"'
        raise InvalidValue(f"{key} must be an opening tag, or both tags", hint, found=value) from None
    return " ".join(cast(str, value).split())


def _settings(key: str, value: Any) -> tuple[str, ...]:
    names = cast(list[Any], value) if isinstance(value, list) else None
    if names is None or not all(isinstance(name, str) for name in names):
        raise InvalidValue(f"{key} must be a list of settings", f'write {key} = ["temperature"]', found=value)
    for name in names:
        if name not in SETTING_NAMES:
            raise InvalidValue(f"unknown setting {display(name)} in {key}", did_you_mean(name, SETTING_NAMES))
    return tuple(dict.fromkeys(cast(list[str], names)))


def _aliases(key: str, value: Any) -> dict[str, tuple[str, ...]]:
    example = 'write aliases = { "ASKED" = "SERVED" }, or a list of served names'
    if not isinstance(value, dict) or not value:
        raise InvalidValue(f"{key} must be a table of model names", example, found=value)
    aliases: dict[str, tuple[str, ...]] = {}
    for asked, served in cast(dict[str, Any], value).items():
        names = cast(list[Any], served) if isinstance(served, list) else [served]
        if not asked.strip() or not names or not all(_is_name(name) for name in names):
            raise InvalidValue(f"{key}.{asked!r} must be a model name or a list of them", example, found=served)
        aliases[asked] = tuple(names)
    return aliases


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and value.isprintable()


# TOML key → the field of Gateway, Limits or RunTable, and the validator.
_LIMITS: Mapping[str, tuple[str, Validator]] = {
    "rpm": ("rpm", _count),
    "tpm": ("tpm", _count),
    "tpm_counts": ("tpm_counts", _one_of(TPM_COUNTS)),
    "rpd": ("rpd", _count),
    "rpd_resets": ("rpd_resets", _resets),
    "rate": ("rates", _rates),
    "concurrency": ("concurrency", _count),
    "jitter": ("jitter_s", _seconds),
}
MODEL_KEYS: Mapping[str, tuple[str, Validator]] = {
    "protocol": ("protocol", _protocol),
    "base_url": ("base_url", _base_url),
    "api_version": ("api_version", _text),
    "auth": ("auth", _auth),
    "max_output_tokens_field": ("max_output_tokens_field", _text),
    "system_role": ("system_role", _one_of(SYSTEM_ROLES)),
    "path": ("path", _path),
    "seed_field": ("seed_field", _field),
    "anthropic_version": ("anthropic_version", _version_date),
    "replay": ("replay", _one_of(REPLAYS)),
    "thinking_tags": ("thinking_tags", _tags),
    "unset": ("unset", _settings),
    "attempt_timeout": ("attempt_timeout_s", _seconds),
    "stream": ("stream", _flag),
    "batches": ("batches", _flag),
    "currency": ("currency", currency),
    "list_prices": ("list_prices", _flag),
    "price_multiplier": ("price_multiplier", _multiplier),
    "aliases": ("aliases", _aliases),
    **_LIMITS,
}
GATEWAY_KEYS: Mapping[str, tuple[str, Validator]] = {
    **MODEL_KEYS,
    "key_env": ("key_env", _variable),
    "key_command": ("key_command", _command),
    "headers": ("headers", _headers),
    "secret_headers": ("secret_headers", _secret_headers),
    "query": ("query", _texts),
    "proxy": ("proxy", _proxy),
    "ca_file": ("ca_file", _text),
    "allow_http": ("allow_http", _flag),
}
RUN_KEYS: Mapping[str, tuple[str, Validator]] = {
    "models": ("models", _names),
    "variants": ("variants", _variant_names),
    "repeats": ("repeats", _count),
    "history": ("history", _one_of(HISTORIES)),
    "concurrency": ("concurrency", _count),
    "max_attempts": ("max_attempts", _count),
    "attempt_timeout": ("attempt_timeout_s", _seconds),
    "max_cost": ("max_cost", _budget),
    "max_tokens_total": ("max_tokens_total", _large_count),
    "max_requests": ("max_requests", _large_count),
}
VARIANT_KEYS: Mapping[str, tuple[str, Validator]] = {
    "system": ("system", _wording),
    "system_file": ("system_file", _text),
    "prefix": ("prefix", _wording),
    "suffix": ("suffix", _wording),
}
POOL_KEYS: Mapping[str, tuple[str, Validator]] = {"gateways": ("gateways", _members)}
JUDGE_KEYS: Mapping[str, tuple[str, Validator]] = {"max_output_tokens": ("max_output_tokens", _count)}
GATEWAY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


_Rule = Callable[[str, Mapping[str, Any], Mapping[str, Any]], Iterator[tuple[str, InvalidValue]]]


def _rule_protocol_keys(
    name: str, values: Mapping[str, Any], own: Mapping[str, Any]
) -> Iterator[tuple[str, InvalidValue]]:
    for key, owners in foreign_keys(values["protocol"]).items():
        if key in own:
            hint = f"it belongs to {' and '.join(map(repr, owners))}"
            yield key, InvalidValue(f"{key} does not apply to the protocol {values['protocol']!r}", hint)
    roles = PROTOCOLS[values["protocol"]].config.system_roles
    if own.get("system_role", roles[0]) not in roles:
        what = f"system_role {own['system_role']!r} does not apply to the protocol {values['protocol']!r}"
        yield "system_role", InvalidValue(what, f"known there: {', '.join(roles)}")
    replays = PROTOCOLS[values["protocol"]].config.replays
    if own.get("replay", replays[0]) not in replays:
        what = f"replay {own['replay']!r} does not apply to the protocol {values['protocol']!r}"
        yield "replay", InvalidValue(what, f"known there: {', '.join(replays)}; only the protocol 'responses' stores")


def _rule_version_in_url(
    name: str, values: Mapping[str, Any], own: Mapping[str, Any]
) -> Iterator[tuple[str, InvalidValue]]:
    tail = re.search(r"/(v\d\w*)$", values["base_url"])
    versioned = PROTOCOLS[values["protocol"]].config.api_version is not None
    if versioned and tail and tail[1] != values.get("api_version", tail[1]):
        hint = f'write base_url = "{values["base_url"][: tail.start()]}" and api_version = "{tail[1]}"'
        key = "base_url" if "base_url" in own else "protocol"
        yield key, InvalidValue(f"base_url ends with /{tail[1]}, and api_version is {values['api_version']}", hint)


def _rule_plain_http(
    name: str, values: Mapping[str, Any], own: Mapping[str, Any]
) -> Iterator[tuple[str, InvalidValue]]:
    parts = urlsplit(values["base_url"])
    if parts.scheme == "http" and not is_loopback(parts.hostname or "") and not values.get("allow_http"):
        key = "base_url" if "base_url" in own else "allow_http"
        yield (
            key,
            InvalidValue(
                f"plain http to {parts.hostname}: keys and dialogues would be sent unencrypted",
                "use https://, or write allow_http = true for a server in your own network",
            ),
        )


def _rule_key(name: str, values: Mapping[str, Any], own: Mapping[str, Any]) -> Iterator[tuple[str, InvalidValue]]:
    gateway = build_gateway(name, values)
    for key in ("key_env", "key_command"):
        if gateway.auth == "none" and own.get(key):
            yield key, InvalidValue(f'{key} with auth = "none": no key is sent', "remove one of the two")
    if own.get("key_env") and own.get("key_command"):
        hint = "remove one of the two: the key is in a variable, or a command prints it"
        yield "key_command", InvalidValue("key_env and key_command are both set", hint)
    has_key = gateway.key_env is not None or gateway.key_command is not None
    if gateway.auth != "none" and not has_key and not ("auth" in own and own.get("auth") is None):
        yield (
            "auth" if "auth" in own else "key_env",
            InvalidValue(
                f"the gateway {name!r} has no key: key_env is missing (auth is {gateway.auth!r})",
                'write key_env = "NAME" for the variable that contains the key, or auth = "none" if none is needed',
            ),
        )


def _rule_carrier(name: str, values: Mapping[str, Any], own: Mapping[str, Any]) -> Iterator[tuple[str, InvalidValue]]:
    place: Carrier = parse_auth_scheme(build_gateway(name, values).auth)
    table, same = ("headers", str.lower) if place.kind == "header" else ("query", str)
    if place.kind != "none" and same(place.name) in {same(given) for given in values.get(table, {})}:
        what = f"{table} sets {place.name}, which carries the key"
        yield table if table in own else "auth", InvalidValue(what, "remove it there: auth sets it")
    plain = {name.lower() for name in values.get("headers", {})}
    for name in values.get("secret_headers", {}):
        key = "secret_headers" if "secret_headers" in own else "headers"
        if name.lower() in plain:
            yield key, InvalidValue(f"the header {name} is in headers and in secret_headers", "remove one of the two")
        elif place.kind == "header" and name.lower() == place.name.lower():
            key = key if "secret_headers" in own else "auth"
            hint = 'remove it, or write auth = "none" if no other key is sent'
            yield key, InvalidValue(f"secret_headers sets {name}, which carries the key", hint)


def _rule_prices(name: str, values: Mapping[str, Any], own: Mapping[str, Any]) -> Iterator[tuple[str, InvalidValue]]:
    if "price_multiplier" in own and "currency" not in values:
        hint = 'write currency = "CNY": the multiplier is the amount of it that is billed for a list price of 1 USD'
        yield "price_multiplier", InvalidValue("price_multiplier without currency", hint)
    if own.get("list_prices") and values.get("currency", "USD") != "USD" and "price_multiplier" not in values:
        hint = f"write how much {values['currency']} is billed for 1 USD of list price: price_multiplier = 7.1"
        yield "list_prices", InvalidValue(f"list prices are in USD, and this gateway bills {values['currency']}", hint)


RULES: tuple[_Rule, ...] = (
    _rule_prices,
    _rule_protocol_keys,
    _rule_version_in_url,
    _rule_plain_http,
    _rule_key,
    _rule_carrier,
)


_KEY_NAME = re.compile(
    r"(?i)(?:.*[-_.])?(?:key|apikey|api_key|token|secret|password|passwd|authorization|cookie|credentials?)"
)
_NOT_KEY_NAMES = frozenset(("key_env",))


def secret_holder(path: KeyPath, value: Any) -> str | None:
    """Describe a place that contains a key, by its name or its value; None for others."""
    if not isinstance(value, str) or not value.strip():
        return None
    name = path[-1]
    in_query = "query" in path[-2:-1]
    in_header = "headers" in path[-2:-1]
    in_table = len(path) >= 3 and path[0] == "gateways" and not in_query and not in_header and "settings" not in path
    in_table = in_table and "secret_headers" not in path[2:3]  # its values are names of variables
    named = name not in _NOT_KEY_NAMES and _KEY_NAME.fullmatch(name) is not None
    if named and (in_query or in_header or in_table or len(path) <= 2):
        return f"the {'query parameter' if in_query else 'header' if in_header else 'key'} {name!r}"
    return f"{name!r}" if looks_like_key(value) and name != "models" else None
