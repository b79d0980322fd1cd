"""Pictures and sound in a model's turn as it was received, in the forms of all wires.

Drafts that a model made while it thought are not part of its answer. What cannot be decoded is left in the turn.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

_DATA_URL = re.compile(r"data:([^;,]+)(?:;[^,]*)?;base64,(.*)", re.DOTALL)


class ReplyMedia(NamedTuple):
    """One content of a reply."""

    content: bytes
    mime_type: str | None
    """As the provider names it; None where it does not."""


def media_of_turn(turn: Any) -> list[ReplyMedia]:
    """Return the media of a model's turn (`Reply.raw_turn`), in order."""
    found: list[ReplyMedia] = []
    for mime_type, data in _found(turn):
        try:
            content = base64.b64decode(data.translate(str.maketrans("-_", "+/")), validate=True)
        except (binascii.Error, ValueError):
            continue
        if content:
            found.append(ReplyMedia(content, mime_type))
    return found


def _found(turn: Any) -> Iterator[tuple[str | None, str]]:
    if isinstance(turn, list):  # items of Responses
        for item in turn:
            yield from _of_item(item)
    elif isinstance(turn, dict):
        for part in _objects(turn.get("parts")):
            if not part.get("thought"):
                yield from _of_blob(part.get("inlineData") or part.get("inline_data"))
        for part in (*_objects(turn.get("content")), *_objects(turn.get("images"))):
            yield from _of_part(part)
        audio = turn.get("audio")
        if isinstance(audio, dict) and isinstance(audio.get("data"), str):
            yield None, audio["data"]


def _of_item(item: Any) -> Iterator[tuple[str | None, str]]:
    if not isinstance(item, dict):
        return
    if item.get("type") == "image_generation_call" and isinstance(item.get("result"), str):
        form = item.get("output_format")
        yield f"image/{form}" if isinstance(form, str) else None, item["result"]
    for part in _objects(item.get("content")):
        yield from _of_part(part)


def _of_blob(blob: Any) -> Iterator[tuple[str | None, str]]:
    if isinstance(blob, dict) and isinstance(blob.get("data"), str):
        mime_type = blob.get("mimeType") or blob.get("mime_type") or blob.get("media_type")
        yield mime_type if isinstance(mime_type, str) else None, blob["data"]


def _of_part(part: Any) -> Iterator[tuple[str | None, str]]:
    """Yield the content of a part or block of OpenAI's and Anthropic's form."""
    source = part.get("source")
    if isinstance(source, dict) and source.get("type") == "base64":
        yield from _of_blob(source)
    url = part.get("image_url")
    url = url.get("url") if isinstance(url, dict) else url
    inline = _DATA_URL.fullmatch(url) if isinstance(url, str) else None
    if inline is not None:
        yield inline[1], inline[2]
    if part.get("type") in ("output_audio", "audio"):
        yield from _of_blob({"data": part.get("data")})


def _objects(value: Any) -> list[Any]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
