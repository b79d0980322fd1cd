"""Shared by all protocols for building requests: refuse unsupported settings and parts, merge `extra` into the body.

Field names belong to each protocol.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from convbatch.dialogue import Message, Settings, text_part
from convbatch.protocols.body_fields import BodyFields, plain_spelling, refuse_impossible
from convbatch.protocols.wire import CannotCarry

MODEL_PLACEHOLDER = "{model}"
JSON_HEADERS: Mapping[str, str] = MappingProxyType({"Content-Type": "application/json"})
STREAM_HEADERS: Mapping[str, str] = MappingProxyType(
    {"Content-Type": "application/json", "Accept": "text/event-stream"}
)


def refuse_cache_control(settings: Settings, provider: str) -> None:
    """Raise `CannotCarry` for a provider that caches prompts by itself and takes no other `cache` than `auto`."""
    if settings.cache not in (None, "auto"):
        raise CannotCarry(f'cache {settings.cache!r}: {provider} caches by itself, use cache = "auto" or leave it out')


PATH_SAFE = "/:@!$&'()*+,;=~"
"""Characters of a model's name that need no escape in a path."""


def path_url(base_url: str, path: str, model: str) -> str:
    """Return the URL of a configured `path` below the base URL."""
    named = path.replace(MODEL_PLACEHOLDER, quote(model, safe=PATH_SAFE))
    return f"{base_url.rstrip('/')}/{named.lstrip('/')}"


def set_seed(fields: dict[str, Any], seed: int, seed_field: str | None) -> None:
    """Set the seed in a field that the protocol does not use for anything else; raises `CannotCarry`."""
    name = seed_field or "seed"
    if name in fields:
        raise CannotCarry(f"seed_field names {name!r}, a field that convbatch builds itself: name the gateway's own")
    fields[name] = seed


def put_system_into_user(messages: Sequence[Message], system: str) -> tuple[Message, ...]:
    """Return the messages with the system text, an empty line behind it, in front of the first user message."""
    at = next((at for at, message in enumerate(messages) if message.role == "user"), None)
    if at is None:
        return (Message(role="user", parts=(text_part(system),)), *messages)
    first, *others = messages[at].parts or (text_part(""),)
    parts = (
        (text_part(f"{system}\n\n{first.text or ''}"), *others)
        if first.kind == "text"
        else (text_part(system), first, *others)
    )
    return (*messages[:at], messages[at]._replace(parts=parts), *messages[at + 1 :])


def merge_extra(body: dict[str, Any], extra: Mapping[str, Any], fields: BodyFields) -> dict[str, Any]:
    """Merge `extra` into the body, object by object; never overrides a field that is already built, but adds tools.

    Args:
        body: The body as built; neither it nor `extra` is changed.
        extra: As the user wrote it.
        fields: What the protocol knows of its bodies.

    Raises:
        CannotCarry: `extra` has a field that cannot work, or names a built one, also in another spelling
            (`generation_config` beside `generationConfig`: servers accept both, and which one applies is undefined).
    """
    refuse_impossible(extra, fields)
    return _merged(body, extra, "")


def _merged(built: Mapping[str, Any], extra: Mapping[str, Any], path: str) -> dict[str, Any]:
    merged = dict(built)
    spelled = {plain_spelling(key): key for key in built}
    for key, value in extra.items():
        known = spelled.get(plain_spelling(key))
        if known is None:
            merged[key] = value
        elif known != key:
            raise CannotCarry(f"extra sets {path}{key}, which is {path}{known} in the body: write it as {known!r}")
        elif isinstance(built[key], Mapping) and isinstance(value, Mapping):
            merged[key] = _merged(built[key], value, f"{path}{key}.")
        elif (path, key) == ("", "tools") and isinstance(value, list):  # of the server, beside the dialogue's own
            merged[key] = [*built[key], *value]
        else:
            raise CannotCarry(f"extra overrides {path}{key}, a field that convbatch builds: use the setting instead")
    return merged
