"""The check `image`: how many pictures a reply has, of which size and type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from convbatch.checks.values import CheckInput, Finding
from convbatch.reply import MediaFile

_COUNTS = ("exactly", "at_least")
_SIZES = ("width", "height", "min_width", "min_height", "max_width", "max_height")
_MOST_NAMED = 5


def image_argument(value: Any) -> str | None:
    """Return what a valid argument is; None for one."""
    wanted = (
        'true, a number of pictures, or an object with "exactly" or "at_least", "width", "height", "min_width", '
        '"min_height", "max_width", "max_height", "mime_type"'
    )
    if value is True or _is_count(value):
        return None
    if not isinstance(value, dict) or not value or value.keys() - {*_COUNTS, *_SIZES, "mime_type"}:
        return wanted
    if all(name in value for name in _COUNTS):
        return 'either "exactly" or "at_least"'
    if not isinstance(value.get("mime_type", "image/png"), str):
        return '"mime_type" as text, e.g. "image/png"'
    return None if all(_is_count(value[name]) for name in value if name != "mime_type") else "whole numbers"


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def image(argument: Any, check_input: CheckInput) -> Finding:
    """Return whether the reply has the pictures that are wanted."""
    wanted: Mapping[str, Any] = argument if isinstance(argument, dict) else {}
    if _is_count(argument):
        wanted = {"exactly": argument}
    found = [one for one in check_input.media if (one.mime_type or "").startswith("image/")]
    fitting = [one for one in found if _fits(one, wanted)]
    holds = len(fitting) == wanted["exactly"] if "exactly" in wanted else len(fitting) >= wanted.get("at_least", 1)
    reason = _described(found)
    if wanted.keys() - {*_COUNTS} and found:
        reason += f"; {len(fitting)} of the wanted size and type"
    return Finding(holds, reason)


def _fits(one: MediaFile, wanted: Mapping[str, Any]) -> bool:
    if one.mime_type != wanted.get("mime_type", one.mime_type):
        return False
    for name in wanted.keys() & {*_SIZES}:
        bound, _, side = name.rpartition("_")
        size = getattr(one, side)
        if size is None or (bound == "" and size != wanted[name]):
            return False
        if (bound == "min" and size < wanted[name]) or (bound == "max" and size > wanted[name]):
            return False
    return True


def _described(found: Sequence[MediaFile]) -> str:
    if not found:
        return "the reply has no picture"
    sizes = [f"{one.width}x{one.height} {one.mime_type}" if one.width else str(one.mime_type) for one in found]
    named = ", ".join(sizes[:_MOST_NAMED]) + (", …" if len(sizes) > _MOST_NAMED else "")
    return f"the reply has {len(found)} picture{'' if len(found) == 1 else 's'}: {named}"
