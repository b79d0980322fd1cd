"""What every wire shares when it words a question: refusing what it cannot carry, and laying `extra` over the body.

The fields themselves are each wire's own; nothing here knows their names.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from convbatch.dialogue import Message, Settings
from convbatch.protocols.wire import CannotCarry

JSON_HEADERS: Mapping[str, str] = MappingProxyType({"Content-Type": "application/json"})
STREAM_HEADERS: Mapping[str, str] = MappingProxyType(
    {"Content-Type": "application/json", "Accept": "text/event-stream"}
)


def refuse_settings(settings: Settings, refused: Mapping[str, str], wire: str) -> None:
    """Raise `CannotCarry` when a setting is set that this wire has no field for; names all of them at once."""
    named = [f"{name} ({instead})" for name, instead in refused.items() if getattr(settings, name) is not None]
    if named:
        raise CannotCarry(f"the {wire} wire cannot carry {'; '.join(named)}")


def refuse_media(message: Message, wire: str) -> None:
    """Raise `CannotCarry` when a message holds anything but text."""
    for part in message.parts:
        if part.kind != "text":
            where = part.path or part.mime_type or "given in the line"
            raise CannotCarry(
                f"the {wire} wire carries text only so far: a {message.role} message has a part of kind "
                f"{part.kind!r} ({where}); leave the part out or the target away"
            )


def merge_extra(
    body: dict[str, Any], extra: Mapping[str, Any], reserved: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """The body with `extra` merged in, object by object; a field that is already built is never overridden.

    Args:
        body: The body as built; neither it nor `extra` is changed.
        extra: As the user wrote it.
        reserved: Top-level fields that belong to convbatch even where it did not build them.

    Raises:
        CannotCarry: `extra` names a built or reserved field, also in another spelling of it (`generation_config`
            beside `generationConfig`: servers take both, and which one wins is anybody's guess).
    """
    for key in extra:
        if key in reserved:
            raise CannotCarry(f"extra may not set {key!r}: convbatch builds that field itself")
    return _merged(body, extra, "")


def _merged(built: Mapping[str, Any], extra: Mapping[str, Any], path: str) -> dict[str, Any]:
    merged = dict(built)
    spelled = {_plain_spelling(key): key for key in built}
    for key, value in extra.items():
        known = spelled.get(_plain_spelling(key))
        if known is None:
            merged[key] = value
        elif known != key:
            raise CannotCarry(f"extra sets {path}{key}, which is {path}{known} in the body: write it as {known!r}")
        elif isinstance(built[key], Mapping) and isinstance(value, Mapping):
            merged[key] = _merged(built[key], value, f"{path}{key}.")
        else:
            raise CannotCarry(f"extra overrides {path}{key}, a field that convbatch builds: use the setting instead")
    return merged


def _plain_spelling(key: str) -> str:
    return key.replace("_", "").lower()
