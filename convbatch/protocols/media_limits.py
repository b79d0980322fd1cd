"""Which media each wire takes in a message, and how large: data with its sources, and the one rule over it.

A gateway may take less than its provider. What a wire does not take is refused before the first request.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from convbatch.dialogue import PartKind
from convbatch.media import type_named

MB = 1_000_000
_TEXT = ("text/plain", "text/markdown", "text/csv", "text/html", "text/css", "text/xml", "application/json")


@dataclass(frozen=True, slots=True, kw_only=True)
class WireMedia:
    """What one wire takes. Sizes are of the content, before it becomes base64, except `max_request`."""

    types: Mapping[PartKind, tuple[str, ...]]
    """Kind → MIME types of content in the request; a kind that is absent is not taken."""
    uris: tuple[PartKind, ...] = ()
    """Kinds that the provider fetches itself."""
    schemes: tuple[str, ...] = ("https://", "http://")
    """How their addresses begin."""
    in_results: tuple[PartKind, ...] = ()
    """Kinds that the result of a tool may have."""
    details: Mapping[str, str] = field(default_factory=dict)
    """`detail` of a picture → the wire's own word; `auto` is what a wire does without one."""
    has_details_in_results: bool = False
    max_bytes: Mapping[PartKind, int] = field(default_factory=dict)
    max_request: int
    """Bytes of the whole request."""


# From the types of google-genai 3.6.1, openai 3.57.0 and anthropic 2.14.0, 2026-11-26: which wire takes which kind, in
# results of tools too; Gemini's types of pictures and sound (m4a: only of its Interactions API), OpenAI's types of
# sound, Anthropic's types of pictures. From https://ai.google.dev/gemini-api/docs/file-input-methods: 50 MB of a PDF.
# Generally known: Gemini's 100 MB and Anthropic's 32 MB of a request. Not compared with any page: all other sizes
# (OpenAI's 50 MB, Anthropic's 5 MB of a picture) and all other lists of types (video, texts as documents, OpenAI's
# pictures).
WIRE_MEDIA: Mapping[str, WireMedia] = {
    "gemini": WireMedia(
        types={
            "image": ("image/png", "image/jpeg", "image/webp", "image/heic", "image/heif"),
            "audio": ("audio/wav", "audio/mp3", "audio/aiff", "audio/aac", "audio/ogg", "audio/flac", "audio/mp4"),
            "video": (
                "video/mp4", "video/mpeg", "video/quicktime", "video/x-msvideo", "video/x-flv", "video/webm",
                "video/x-ms-wmv", "video/3gpp",
            ),
            "document": ("application/pdf", *_TEXT),
        },
        uris=("image", "audio", "video", "document"),
        schemes=("https://", "http://", "gs://", "files/"),
        in_results=("image", "document"),
        details={level: f"MEDIA_RESOLUTION_{level.upper()}" for level in ("low", "medium", "high", "ultra_high")},
        max_bytes={"document": 50 * MB},
        max_request=100 * MB,
    ),
    "openai": WireMedia(
        types={
            "image": ("image/png", "image/jpeg", "image/webp", "image/gif"),
            "audio": ("audio/wav", "audio/mp3"),
            "document": ("application/pdf",),
        },
        uris=("image",),
        details={level: level for level in ("auto", "low", "high", "original")},
        max_request=50 * MB,
    ),
    "responses": WireMedia(
        types={
            "image": ("image/png", "image/jpeg", "image/webp", "image/gif"),
            "audio": ("audio/wav", "audio/mp3"),
            "document": ("application/pdf", *_TEXT),
        },
        uris=("image", "document"),
        in_results=("image", "document"),
        details={level: level for level in ("auto", "low", "high", "original")},
        has_details_in_results=True,
        max_request=50 * MB,
    ),
    "anthropic": WireMedia(
        types={
            "image": ("image/png", "image/jpeg", "image/webp", "image/gif"),
            "document": ("application/pdf", *_TEXT),
        },
        uris=("image", "document"),
        in_results=("image", "document"),
        max_bytes={"image": 5 * MB},
        max_request=32 * MB,
    ),
}  # fmt: skip


def media_problem(
    protocol: str, kind: PartKind, mime_type: str, size: int | None, uri: str | None, *, in_result: bool = False
) -> str | None:
    """Return why a wire does not take a part; None if it does.

    Args:
        protocol: The wire.
        kind: Of the part.
        mime_type: Of its content; `image/*` where only the kind is known.
        size: Bytes of its content; None for an address.
        uri: Its address, if the provider fetches it.
        in_result: Whether it is in the result of a tool.
    """
    wire = WIRE_MEDIA[protocol]
    if in_result and kind not in wire.in_results:
        return f"the {protocol} protocol takes no {kind} in the result of a tool"
    if kind not in wire.types:
        return f"the {protocol} protocol takes no {kind}"
    if uri is not None:
        return _uri_problem(protocol, kind, uri)
    known = type_named(mime_type)
    if known is None or known.mime_type not in wire.types[kind]:
        return f"the {protocol} protocol takes no {mime_type} ({kind}: {', '.join(map(_short, wire.types[kind]))})"
    most = wire.max_bytes.get(kind, wire.max_request * 3 // 4)
    if size is not None and size > most:
        return f"{kind} of {size / MB:,.1f} MB; the {protocol} protocol takes at most {most / MB:,.1f} MB"
    return None


def _uri_problem(protocol: str, kind: PartKind, uri: str) -> str | None:
    wire = WIRE_MEDIA[protocol]
    if kind not in wire.uris:
        return f"the {protocol} protocol takes no address of {kind}, only its content"
    if not uri.startswith(wire.schemes):
        return f"the {protocol} protocol takes addresses that begin with {', '.join(wire.schemes)}"
    return None


def _short(mime_type: str) -> str:
    return mime_type.partition("/")[2]


def detail_problem(protocol: str, detail: str | None, *, in_result: bool = False) -> str | None:
    """Return why a wire does not take the `detail` of a picture; None if it does, and without one."""
    wire = WIRE_MEDIA[protocol]
    if detail in (None, "auto"):
        return None
    if not wire.details or (in_result and not wire.has_details_in_results):
        where = " in the result of a tool" if wire.details else ""
        return f"the {protocol} protocol takes no detail of an image{where}"
    if detail in wire.details:
        return None
    return f"the {protocol} protocol takes no detail {detail!r} of an image ({', '.join(wire.details)})"


def wires_for(
    kind: PartKind,
    mime_type: str,
    size: int | None,
    uri: str | None,
    *,
    in_result: bool = False,
    detail: str | None = None,
) -> list[str]:
    """Return the wires that take a part."""
    return [
        protocol
        for protocol in WIRE_MEDIA
        if media_problem(protocol, kind, mime_type, size, uri, in_result=in_result) is None
        and detail_problem(protocol, detail, in_result=in_result) is None
    ]


def request_problem(protocol: str, sizes: Iterable[int]) -> str | None:
    """Return why these contents are too large for one request of a wire; None if they are not."""
    total, most = sum((size + 2) // 3 * 4 for size in sizes), WIRE_MEDIA[protocol].max_request
    if total <= most:
        return None
    return (
        f"the media up to this turn, results of tools included, are {total / MB:,.1f} MB in a request; "
        f"the {protocol} protocol takes at most {most / MB:,.0f} MB"
    )
