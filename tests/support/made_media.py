"""Small pictures, sound and documents, made here: a few dozen bytes each."""

from __future__ import annotations

import struct
import zlib


def png(width: int = 8, height: int = 8, rgb: tuple[int, int, int] = (255, 0, 0)) -> bytes:
    """Return a picture of one colour."""
    rows = (b"\0" + bytes(rgb) * width) * height

    def chunk(name: bytes, content: bytes) -> bytes:
        check = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def wav(samples: int = 8) -> bytes:
    """Return silence at 8 kHz."""
    content = b"\0\0" * samples
    form = struct.pack("<IHHIIHH", 16, 1, 1, 8_000, 16_000, 2, 16)
    return (
        b"RIFF" + struct.pack("<I", 36 + len(content)) + b"WAVEfmt " + form
        + b"data" + struct.pack("<I", len(content)) + content
    )  # fmt: skip


PDF = b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"
MP4 = b"\0\0\0\x18ftypisom\0\0\2\0isomiso2\0\0\0\x08mdat"
JPEG = (
    b"\xff\xd8\xff\xe0\x00\x10JFIF\0\1\1\0\0\1\0\1\0\0\xff\xc0\x00\x11\x08\x00\x05\x00\x07\x03\1\x22\0\2\x11\1\3\x11\1"
)
GIF = b"GIF89a\x03\0\x02\0\0\0\0;"
