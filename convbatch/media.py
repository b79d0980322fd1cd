"""Types of media: which one a content has, told by its first bytes, and the size of a picture.

A table of the types that some wire takes, or that people give by mistake. Which wire takes which type is
`protocols/media_limits.py`. No files are read here.
"""

from __future__ import annotations

import re
import struct
from typing import Literal, NamedTuple

from convbatch.lazy_regex import lazy_regex

MediaKind = Literal["image", "audio", "video", "document"]
HEAD_BYTES = 8 * 2**10
"""How much of a content `media_type_of` needs."""
LARGEST = 75_000_000
"""Bytes of the largest content that fits a request of any wire (`protocols/media_limits.py`)."""
DETAILS = ("auto", "low", "medium", "high", "ultra_high", "original")
"""How closely a model may look at a picture; each wire takes some of them (`protocols/media_limits.py`)."""


class MediaType(NamedTuple):
    """A type of content; `extension` names exactly one type."""

    kind: MediaKind
    mime_type: str
    extension: str


MEDIA_TYPES: tuple[MediaType, ...] = (
    MediaType("image", "image/png", "png"),
    MediaType("image", "image/jpeg", "jpg"),
    MediaType("image", "image/gif", "gif"),
    MediaType("image", "image/webp", "webp"),
    MediaType("image", "image/bmp", "bmp"),
    MediaType("image", "image/tiff", "tiff"),
    MediaType("image", "image/heic", "heic"),
    MediaType("image", "image/heif", "heif"),
    MediaType("image", "image/avif", "avif"),
    MediaType("image", "image/svg+xml", "svg"),
    MediaType("audio", "audio/wav", "wav"),
    MediaType("audio", "audio/mp3", "mp3"),
    MediaType("audio", "audio/aac", "aac"),
    MediaType("audio", "audio/flac", "flac"),
    MediaType("audio", "audio/ogg", "ogg"),
    MediaType("audio", "audio/aiff", "aiff"),
    MediaType("audio", "audio/mp4", "m4a"),
    MediaType("audio", "audio/webm", "weba"),
    MediaType("audio", "audio/l16", "pcm"),
    MediaType("video", "video/mp4", "mp4"),
    MediaType("video", "video/quicktime", "mov"),
    MediaType("video", "video/webm", "webm"),
    MediaType("video", "video/x-matroska", "mkv"),
    MediaType("video", "video/ogg", "ogv"),
    MediaType("video", "video/x-msvideo", "avi"),
    MediaType("video", "video/mpeg", "mpg"),
    MediaType("video", "video/x-flv", "flv"),
    MediaType("video", "video/x-ms-wmv", "wmv"),
    MediaType("video", "video/3gpp", "3gp"),
    MediaType("document", "application/pdf", "pdf"),
    MediaType("document", "text/plain", "txt"),
    MediaType("document", "text/markdown", "md"),
    MediaType("document", "text/csv", "csv"),
    MediaType("document", "text/html", "html"),
    MediaType("document", "text/css", "css"),
    MediaType("document", "text/xml", "xml"),
    MediaType("document", "application/json", "json"),
    MediaType("document", "application/rtf", "rtf"),
    MediaType("document", "application/vnd.openxmlformats-officedocument.wordprocessingml.document", "docx"),
    MediaType("document", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", "xlsx"),
    MediaType("document", "application/vnd.openxmlformats-officedocument.presentationml.presentation", "pptx"),
)
_BY_EXTENSION = {known.extension: known for known in MEDIA_TYPES}
_BY_MIME_TYPE = {known.mime_type: known for known in MEDIA_TYPES}
_OTHER_NAMES = {
    "image/jpg": "image/jpeg",
    "image/pjpeg": "image/jpeg",
    "audio/mpeg": "audio/mp3",
    "audio/x-wav": "audio/wav",
    "audio/wave": "audio/wav",
    "audio/vnd.wave": "audio/wav",
    "audio/x-aiff": "audio/aiff",
    "audio/x-flac": "audio/flac",
    "audio/m4a": "audio/mp4",
    "audio/x-m4a": "audio/mp4",
    "audio/opus": "audio/ogg",
    "audio/pcm": "audio/l16",
    "video/mov": "video/quicktime",
    "video/avi": "video/x-msvideo",
    "video/mpg": "video/mpeg",
    "application/xml": "text/xml",
    "text/rtf": "application/rtf",
    "text/x-markdown": "text/markdown",
    "application/csv": "text/csv",
}
_TEXTS = {"md": "md", "markdown": "md", "csv": "csv", "html": "html", "htm": "html", "css": "css", "xml": "xml",
          "json": "json"}  # fmt: skip
"""Ending of a text's name → the extension of its type; any other text is plain."""
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (rb"\x89PNG\r\n\x1a\n", "png"),
    (rb"\xff\xd8\xff", "jpg"),
    (rb"GIF8[79]a", "gif"),
    (rb"RIFF....WEBP", "webp"),
    (rb"RIFF....WAVE", "wav"),
    (rb"RIFF....AVI ", "avi"),
    (rb"BM....\0\0\0\0", "bmp"),
    (rb"II\*\0|MM\0\*", "tiff"),
    (rb"....ftyp(?:avif|avis)", "avif"),
    (rb"....ftyp(?:heic|heix|hevc|hevx|heim|heis)", "heic"),
    (rb"....ftyp(?:mif1|msf1)", "heif"),
    (rb"....ftyp(?:M4A |M4B |F4A )", "m4a"),
    (rb"....ftypqt  |....(?:moov|wide|mdat)", "mov"),
    (rb"....ftyp3g", "3gp"),
    (rb"....ftyp", "mp4"),
    (rb"ID3|\xff[\xe2\xe3\xf2\xf3\xfa\xfb]", "mp3"),
    (rb"\xff[\xf0\xf1\xf8\xf9]", "aac"),
    (rb"fLaC", "flac"),
    (rb"FORM....AIF[FC]", "aiff"),
    (rb"OggS.{24,512}?\x80theora", "ogv"),
    (rb"OggS", "ogg"),
    (rb"\x1aE\xdf\xa3.{0,64}?webm", "webm"),
    (rb"\x1aE\xdf\xa3", "mkv"),
    (rb"\0\0\x01[\xba\xb3]", "mpg"),
    (rb"FLV\x01", "flv"),
    (rb"0&\xb2u\x8ef\xcf\x11", "wmv"),
    (rb".{0,1024}?%PDF-\d", "pdf"),
    (rb"\{\\rtf", "rtf"),
)
_PATTERNS = tuple((lazy_regex(pattern, re.DOTALL), extension) for pattern, extension in _MAGIC)
_OFFICE = {b"word/": "docx", b"xl/": "xlsx", b"ppt/": "pptx"}
_SVG = re.compile(rb"\s*(?:<\?xml.{0,512}?\?>|<!--.{0,1024}?-->|<!DOCTYPE.{0,512}?>|\s)*<svg[\s>]", re.DOTALL)
_ALSO_AUDIO = {"mp4": "m4a", "webm": "weba", "mkv": "weba", "ogv": "ogg", "3gp": "m4a"}
"""Containers of video that may hold only sound → their type then."""


def media_type_of(head: bytes, name: str = "", kind: str | None = None) -> MediaType | None:
    """Return the type of a content.

    Args:
        head: Its first `HEAD_BYTES`.
        name: Name of its file; decides only between types of text.
        kind: What it is given as: decides whether a container of sound or video is sound.

    Returns:
        None for a content of no known type.
    """
    extension = next((found for pattern, found in _PATTERNS if pattern.match(head)), None)
    if extension is None and head.startswith(b"PK\x03\x04"):
        extension = next((found for folder, found in _OFFICE.items() if folder in head), None)
    if extension is None and _is_text(head):
        ending = name.rpartition(".")[2].lower() if "." in name else ""
        extension = "svg" if kind != "document" and _SVG.match(head) else _TEXTS.get(ending, "txt")
    if kind == "audio" and extension in _ALSO_AUDIO:
        extension = _ALSO_AUDIO[extension]
    return None if extension is None else _BY_EXTENSION[extension]


def _is_text(head: bytes) -> bool:
    if not head or b"\0" in head:
        return False
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:  # the head may end inside a character
        return len(head) >= HEAD_BYTES and error.start > len(head) - 4
    return True


def type_of_path(path: str) -> MediaType | None:
    """Return the type that the extension of a file in `media/` names."""
    return _BY_EXTENSION.get(path.rpartition(".")[2])


def type_named(mime_type: str) -> MediaType | None:
    """Return the type of a MIME type, whose parameters are ignored."""
    plain = mime_type.partition(";")[0].strip().lower()
    return _BY_MIME_TYPE.get(_OTHER_NAMES.get(plain, plain))


def kind_named(mime_type: str) -> MediaKind:
    """Return the kind of a MIME type; one that is neither image, audio nor video is a document."""
    family = mime_type.partition("/")[0].strip().lower()
    return family if family in ("image", "audio", "video") else "document"


class PixelSize(NamedTuple):
    """Size of a picture."""

    width: int
    height: int


def pixel_size(content: bytes) -> PixelSize | None:
    """Return the size of a PNG, JPEG, GIF, WebP or BMP; None for another type, or if its header is cut."""
    try:
        if content.startswith(b"\x89PNG"):
            return PixelSize(*struct.unpack_from(">II", content, 16))
        if content.startswith(b"GIF8"):
            return PixelSize(*struct.unpack_from("<HH", content, 6))
        if content.startswith(b"BM"):
            width, height = struct.unpack_from("<ii", content, 18)
            return PixelSize(width, abs(height))
        if content[8:12] == b"WEBP":
            return _webp_size(content)
        return _jpeg_size(content) if content.startswith(b"\xff\xd8") else None
    except (struct.error, IndexError):
        return None


def _webp_size(content: bytes) -> PixelSize | None:
    match content[12:16]:
        case b"VP8 ":
            width, height = struct.unpack_from("<HH", content, 26)
            return PixelSize(width & 0x3FFF, height & 0x3FFF)
        case b"VP8L":
            bits = struct.unpack_from("<I", content, 21)[0]
            return PixelSize((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
        case b"VP8X":
            return PixelSize(int.from_bytes(content[24:27], "little") + 1, int.from_bytes(content[27:30], "little") + 1)
        case _:
            return None


_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
"""Markers of a JPEG that begin a frame."""


def _jpeg_size(content: bytes) -> PixelSize | None:
    at = 2
    while content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", content, at + 5)
            return PixelSize(width, height)
        at += 2 + struct.unpack_from(">H", content, at + 2)[0]
    return None
