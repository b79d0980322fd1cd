"""Media of other formats as canonical parts: values in their many forms, and columns beside the messages.

LLaMA-Factory has lists `images`, `videos` and `audios` beside the messages, and `<image>`, `<video>` or `<audio>` in
their texts; LLaVA has one `image`; Ollama a list of `images` in a message.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from convbatch.errors import Issue
from convbatch.media import HEAD_BYTES, MediaKind, media_type_of, type_of_path

_DATA_URL = re.compile(r"data:([^;,]+)(?:;[\w-]+=[^;,]*)*;base64,(.*)", re.DOTALL)
_ADDRESS = re.compile(r"(?:https?|gs)://\S+")
_FILE_NAME = re.compile(r"(?!\w+:)[^\s\"'<>|][^\n\"'<>|]{0,250}\.\w{2,5}")
_PLACEHOLDER = re.compile(r"<(image|video|audio)>")
_NAMES = ("url", "uri", "path", "file", "bytes", "data", "base64")
_ANY: Mapping[str, str] = {"image": "image/*", "audio": "audio/*", "video": "video/*", "document": "application/pdf"}


def media_item(kind: MediaKind, value: Any) -> dict[str, Any] | None:
    """Return the canonical part of a value: a path, an address, a data URL, base64, or an object with one of them."""
    if isinstance(value, dict):
        named = next((value[name] for name in _NAMES if isinstance(value.get(name), str) and value[name]), None)
        declared = next((value[name] for name in ("mime_type", "media_type", "mimeType") if value.get(name)), None)
        part = None if named is None else media_item(kind, named)
        if part is None or not isinstance(declared, str):
            return part
        return {**part, "mime_type": declared} if "data" in part or "uri" in part else part
    if not isinstance(value, str):
        return None
    if (inline := _DATA_URL.fullmatch(value)) is not None:
        return {"data": inline[2], "mime_type": inline[1]}
    if _ADDRESS.fullmatch(value):
        return address(kind, value)
    if (found := _type_of_base64(value, kind)) is not None:
        return {"data": value, "mime_type": found}
    return {kind: value.removeprefix("./")} if _FILE_NAME.fullmatch(value) else None


def source_item(kind: MediaKind, source: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the canonical part of a `source` of Anthropic's API."""
    content = source.get("url") if source.get("type") == "url" else source.get("data")
    if not isinstance(content, str):
        return None
    match source.get("type"):
        case "base64":
            return {"data": content, "mime_type": source.get("media_type")}
        case "url":
            return media_item(kind, content)
        case "text":
            encoded = base64.b64encode(content.encode("utf-8", "surrogatepass")).decode()
            return {"data": encoded, "mime_type": "text/plain"}
        case _:
            return None


def address(kind: MediaKind, uri: str, mime_type: Any = None) -> dict[str, Any]:
    """Return the canonical part of an address; without a type, that which its ending names."""
    if isinstance(mime_type, str) and mime_type:
        return {"uri": uri, "mime_type": mime_type}
    ending = uri.partition("?")[0].lower().replace(".jpeg", ".jpg")
    known = type_of_path(ending)
    return {"uri": uri, "mime_type": known.mime_type if known is not None and known.kind == kind else _ANY[kind]}


def _type_of_base64(value: str, kind: MediaKind) -> str | None:
    if len(value) < 8 or not re.fullmatch(r"[A-Za-z0-9+/]+={0,2}", value[-64:]):
        return None
    try:
        head = base64.b64decode(value[: HEAD_BYTES // 3 * 4], validate=True)
    except (binascii.Error, ValueError):
        return None
    found = media_type_of(head, kind=kind)
    return found.mime_type if found is not None and not found.mime_type.startswith("text/") else None


def media_items(kind: MediaKind, value: Any) -> list[dict[str, Any]] | None:
    """Return the canonical parts of a value or a list of values; None if one is of an unknown form."""
    items = [media_item(kind, one) for one in (value if isinstance(value, list) else [value])]
    known = [item for item in items if item is not None]
    return known if len(known) == len(items) else None


def place_media(turns: Sequence[dict[str, Any]], columns: Mapping[MediaKind, Sequence[dict[str, Any]]]) -> list[Issue]:
    """Put media into the user messages of turns: where their placeholders are, else before the first message.

    Returns:
        The issues of a number of placeholders that is not that of the media.
    """
    issues: list[Issue] = []
    for kind, items in columns.items():
        named = [_placeholders(text, kind) for turn in turns for text in _texts(turn["user"])]
        count = sum(named)
        if count not in (0, len(items)):
            what = f"{count} placeholders <{kind}> in the user messages, and {len(items)} {kind} files beside them"
            issues.append(Issue(what=what, hint=f"as many <{kind}> as files, or none: then they come first"))
        elif count == 0 and turns:
            turns[0]["user"] = [*items, *_parts(turns[0]["user"])]
        else:
            queue = iter(items)
            for turn in turns:
                turn["user"] = [one for part in _parts(turn["user"]) for one in _filled(part, kind, queue)]
    for turn in turns:
        turn["user"] = _simple(turn["user"])
    return issues


def _placeholders(text: str, kind: str) -> int:
    return sum(found[1] == kind for found in _PLACEHOLDER.finditer(text))


def _texts(user: Any) -> list[str]:
    return [part["text"] for part in _parts(user) if isinstance(part.get("text"), str)]


def _parts(user: Any) -> list[dict[str, Any]]:
    if isinstance(user, str):
        return [{"text": user}]
    return [part for part in user if isinstance(part, dict)] if isinstance(user, list) else []


def _filled(part: dict[str, Any], kind: str, queue: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    text = part.get("text")
    if not isinstance(text, str) or not _placeholders(text, kind):
        return [part]
    filled: list[dict[str, Any]] = []
    items = iter(queue)
    for at, piece in enumerate(text.split(f"<{kind}>")):
        filled += [next(items)] if at else []
        words = piece.strip("\n")
        filled += [{"text": words}] if words.strip() else []
    return filled


def _simple(user: Any) -> Any:
    only_text = isinstance(user, list) and len(user) == 1 and set(user[0]) == {"text"}
    return user[0]["text"] if only_text else user
