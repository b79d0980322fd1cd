"""Media of a message in the form of each wire: pictures, sound, video and documents.

A part has its content as base64 in `data`, or an address in `uri` that the provider fetches. Reading files is not done
here; which types a wire takes is `media_limits.py`.
"""

from __future__ import annotations

import base64
import binascii
import posixpath
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from convbatch.dialogue import Part
from convbatch.media import type_named
from convbatch.protocols.media_limits import WIRE_MEDIA, detail_problem, media_problem
from convbatch.protocols.wire import CannotCarry

_AUDIO_FORMATS = {"audio/wav": "wav", "audio/mp3": "mp3"}


def has_media(parts: Sequence[Part]) -> bool:
    """Return whether one of the parts is no text."""
    return any(part.kind != "text" for part in parts)


def media_parts(protocol: str, parts: Sequence[Part]) -> list[dict[str, Any]]:
    """Return the parts of a user's message, text included; raises `CannotCarry`."""
    text, media = _FORMS[protocol]
    return [text(part.text or "") if part.kind == "text" else media(_carried(protocol, part)) for part in parts]


def media_part(protocol: str, part: Part, *, in_result: bool = False) -> dict[str, Any]:
    """Return one part that is no text; raises `CannotCarry`."""
    return _FORMS[protocol][1](_carried(protocol, part, in_result=in_result))


def _carried(protocol: str, part: Part, *, in_result: bool = False) -> Part:
    if part.data is None and part.uri is None:
        raise CannotCarry(f"the content of {part.path} was not read")
    problem = media_problem(protocol, part.kind, part.mime_type or "", None, part.uri, in_result=in_result)
    problem = problem or detail_problem(protocol, part.detail, in_result=in_result)
    if problem is not None:
        raise CannotCarry(f"{problem}; remove the part or the target")
    return part


def _gemini(part: Part) -> dict[str, Any]:
    known = {} if (part.mime_type or "").endswith("/*") else {"mimeType": part.mime_type}
    level = WIRE_MEDIA["gemini"].details.get(part.detail or "")
    detail = {} if level is None else {"mediaResolution": {"level": level}}
    if part.uri is not None:
        return {"fileData": {**known, "fileUri": part.uri}, **detail}
    return {"inlineData": {**known, "data": part.data}, **detail}


def _data_url(part: Part) -> str:
    return f"data:{part.mime_type};base64,{part.data}"


def _openai(part: Part) -> dict[str, Any]:
    match part.kind:
        case "image":
            detail = {} if part.detail is None else {"detail": part.detail}
            return {"type": "image_url", "image_url": {"url": part.uri or _data_url(part), **detail}}
        case "audio":
            return {"type": "input_audio", "input_audio": _audio(part)}
        case _:
            return {"type": "file", "file": {"filename": _file_name(part), "file_data": _data_url(part)}}


def _responses(part: Part) -> dict[str, Any]:
    match part.kind:
        case "image":
            return {"type": "input_image", "image_url": part.uri or _data_url(part), "detail": part.detail or "auto"}
        case "audio":
            return {"type": "input_audio", "input_audio": _audio(part)}
        case _ if part.uri is not None:
            return {"type": "input_file", "file_url": part.uri}
        case _:
            return {"type": "input_file", "filename": _file_name(part), "file_data": _data_url(part)}


def _audio(part: Part) -> dict[str, Any]:
    known = type_named(part.mime_type or "")
    return {"data": part.data, "format": _AUDIO_FORMATS[known.mime_type if known else ""]}


def _file_name(part: Part) -> str:
    """Return a name that is the same for the same content: the user's own would be sent, but is no part of a key."""
    known = type_named(part.mime_type or "")
    stem = posixpath.basename(part.path or "document").partition(".")[0][:12]
    return f"{stem}.{known.extension if known else 'pdf'}"


def _anthropic(part: Part) -> dict[str, Any]:
    if part.uri is not None:
        return {"type": part.kind, "source": {"type": "url", "url": part.uri}}
    if part.kind == "document" and part.mime_type != "application/pdf":
        return {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": _text(part)}}
    return {"type": part.kind, "source": {"type": "base64", "media_type": part.mime_type, "data": part.data}}


def _text(part: Part) -> str:
    data = part.data or ""
    try:
        return base64.b64decode(data, validate=True).decode("utf-8", "replace")
    except binascii.Error:  # a name that stands for the content
        return data


def _typed_text(kind: str) -> Callable[[str], dict[str, Any]]:
    return lambda text: {"type": kind, "text": text}


_FORMS: Mapping[str, tuple[Callable[[str], dict[str, Any]], Callable[[Part], dict[str, Any]]]] = {
    "gemini": (lambda text: {"text": text}, _gemini),
    "openai": (_typed_text("text"), _openai),
    "responses": (_typed_text("input_text"), _responses),
    "anthropic": (_typed_text("text"), _anthropic),
}
