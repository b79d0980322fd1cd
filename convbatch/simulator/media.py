"""Media that a simulated model is given: what it sees of them, and what a provider refuses.

A model sees a mark with kind, type, size and digest; so a reply that quotes its message names what really arrived.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import struct
import zlib
from collections.abc import Mapping
from typing import NamedTuple

MARK = re.compile(r"<(?:image|audio|video|document) [^<>]*>")
"""What stands for media in the text of a message."""
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,([A-Za-z0-9+/=]*)")

# Pictures and sound of Gemini, sound of OpenAI and pictures of Anthropic are as in the providers' SDKs of 2026-11-26,
# the size of a PDF as on Google's page; the other types and sizes were not compared with a page.
_TYPES: Mapping[str, Mapping[str, str]] = {
    "gemini": {
        "image": "png jpeg webp heic heif",
        "audio": "wav mp3 mpeg aiff aac ogg flac mp4",
        "video": "mp4 mpeg quicktime x-msvideo x-flv webm x-ms-wmv 3gpp",
        "document": "pdf plain markdown csv html css xml json",
    },
    "openai": {"image": "png jpeg webp gif", "audio": "wav mp3", "document": "pdf"},
    "responses": {
        "image": "png jpeg webp gif",
        "audio": "wav mp3",
        "document": "pdf plain markdown csv html css xml json",
    },
    "anthropic": {"image": "png jpeg webp gif", "document": "pdf plain"},
}
_LARGEST = {("anthropic", "image"): 5 * 10**6, ("gemini", "document"): 50 * 10**6}
_SIGNS: tuple[tuple[bytes, str], ...] = (
    (rb"\x89PNG", "image/png"),
    (rb"\xff\xd8\xff", "image/jpeg"),
    (rb"GIF8", "image/gif"),
    (rb"RIFF....WEBP", "image/webp"),
    (rb"RIFF....WAVE", "audio/wav"),
    (rb"ID3|\xff[\xe2\xe3\xf2\xf3\xfa\xfb]", "audio/mp3"),
    (rb"%PDF-", "application/pdf"),
)


class WrongMedia(Exception):  # control flow: the wire adds its own form of an error
    """Media that no model is given, and why."""


class Seen(NamedTuple):
    """One medium that a model was given."""

    kind: str
    mime_type: str
    content: bytes

    @property
    def mark(self) -> str:
        """What stands for it in the text of its message."""
        name = self.mime_type.partition("/")[2]
        return f"<{self.kind} {name} {len(self.content)} bytes {hashlib.sha256(self.content).hexdigest()[:12]}>"


def kind_of(mime_type: str) -> str:
    """Return the kind of a MIME type."""
    family = mime_type.partition("/")[0]
    return family if family in ("image", "audio", "video") else "document"


def seen(wire: str, mime_type: object, data: object) -> Seen:
    """Return a medium that came as base64; raises `WrongMedia` for what the provider refuses."""
    plain = mime_type.partition(";")[0].lower() if isinstance(mime_type, str) else ""
    kind = kind_of(plain)
    if plain.partition("/")[2] not in _TYPES[wire].get(kind, "").split():
        raise WrongMedia(f"Unsupported MIME type: {plain or mime_type}")
    content = decoded(data)
    if len(content) > _LARGEST.get((wire, kind), 10**9):
        raise WrongMedia(f"{kind} exceeds {_LARGEST[wire, kind] // 10**6} MB maximum: {len(content)} bytes")
    found = next((known for sign, known in _SIGNS if re.match(sign, content, re.DOTALL)), None)
    if found is not None and found != plain.replace("audio/mpeg", "audio/mp3"):
        raise WrongMedia(f"The {kind} was specified using the {plain} media type, but appears to be {found}")
    return Seen(kind, plain, content)


def seen_in_url(wire: str, url: object) -> Seen | str:
    """Return a medium in a data URL, or the mark of an address that the provider would fetch."""
    inline = _DATA_URL.fullmatch(url) if isinstance(url, str) else None
    if inline is not None:
        return seen(wire, inline[1], inline[2])
    if not isinstance(url, str) or not url.startswith(("https://", "http://")):
        raise WrongMedia("Invalid URL: expected a data URL or an address that begins with https://")
    return address_mark("image", url)


def address_mark(kind: str, url: str) -> str:
    """Return what stands for media that the provider fetches."""
    return f"<{kind} at {hashlib.sha256(url.encode()).hexdigest()[:12]}>"


def decoded(data: object) -> bytes:
    """Return the bytes of base64 in either alphabet."""
    if not isinstance(data, str) or not data:
        raise WrongMedia("The data is empty")
    try:
        return base64.b64decode(data.translate(str.maketrans("-_", "+/")), validate=True)
    except (binascii.Error, ValueError):
        raise WrongMedia("Base64 decoding failed") from None


def mark_of(medium: Seen | str) -> str:
    """Return the mark of a medium or address."""
    return medium if isinstance(medium, str) else medium.mark


OPENAI_DETAILS = ("auto", "low", "high", "original")
GEMINI_DETAILS = tuple(f"MEDIA_RESOLUTION_{level}" for level in ("LOW", "MEDIUM", "HIGH", "ULTRA_HIGH"))


def in_detail(mark: str, detail: object, known: tuple[str, ...]) -> str:
    """Return the mark of a picture with how closely a model looks at it; raises `WrongMedia` for an unknown value."""
    if detail in (None, "auto"):
        return mark
    if detail not in known:
        raise WrongMedia(f"'{detail}' is not one of {', '.join(known)}")
    return f"{mark[:-1]} {str(detail).removeprefix('MEDIA_RESOLUTION_').lower()}>"


def without_marks(text: str) -> str:
    """Return what the user wrote beside the media."""
    return MARK.sub("", text) if "<" in text else text


# Pictures that a model draws

PICTURE_TOKENS = 1290
"""What a picture counts where it is counted as output."""
_DRAW = re.compile(r"\b(?:draw|redraw)\b( only)?", re.IGNORECASE)


class Order(NamedTuple):
    """What a user's text says about a picture."""

    is_given: bool
    is_silent: bool
    """Whether the picture comes without a text."""


def order(text: str) -> Order:
    """Return whether a user's text asks for a picture: `draw`, or `draw only` for one without a text."""
    found = _DRAW.search(text)
    return Order(found is not None, found is not None and found[1] is not None)


def drawing(seed: bytes) -> bytes:
    """Return a PNG of one colour that depends on the seed."""
    rgb = hashlib.sha256(seed).digest()[:3]
    rows = (b"\0" + rgb * 16) * 16
    header = struct.pack(">IIBBBBB", 16, 16, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )


def signature_of(content: bytes) -> str:
    """Return the signature of a picture that a model has drawn."""
    return base64.b64encode(hashlib.blake2b(content, key=b"picture", digest_size=24).digest()).decode()
