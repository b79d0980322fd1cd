"""Shared by the batch APIs for reading descriptions of jobs: fields that may be missing or of another type."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from convbatch.protocols.decoding import read_reply
from convbatch.protocols.wire import MalformedReply


def read_object(body: bytes, what: str) -> dict[str, Any]:
    """Return the JSON object of a body; raises `MalformedReply`."""
    value = read_reply(body)
    if not isinstance(value, dict):
        raise MalformedReply(f"not {what}")
    return value


def object_under(value: Any, key: str) -> dict[str, Any]:
    """Return the object under a key; an empty one if there is none."""
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def objects_under(value: Any, key: str) -> list[dict[str, Any]]:
    """Return the objects in the list under a key."""
    found = value.get(key) if isinstance(value, dict) else None
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def text_under(value: Any, key: str) -> str | None:
    """Return the text under a key; None if there is none, or an empty one."""
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, str) and found else None


def required_id(value: Any, key: str, what: str) -> str:
    """Return the id under a key; raises `MalformedReply` if there is none."""
    found = text_under(value, key)
    if found is None:
        raise MalformedReply(f"{what} without {key!r}")
    return found


def number_under(value: Any, key: str) -> int | None:
    """Return the count under a key, also one that is written as text; None if there is none."""
    found = value.get(key) if isinstance(value, dict) else None
    if isinstance(found, str) and found.isascii() and found.isdecimal():
        return int(found[:18])
    return found if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else None


def time_under(value: Any, key: str) -> float | None:
    """Return the RFC 3339 time under a key as Unix seconds; None if there is none."""
    found = text_under(value, key)
    try:
        return None if found is None else datetime.fromisoformat(found).timestamp()
    except (ValueError, OverflowError):
        return None
