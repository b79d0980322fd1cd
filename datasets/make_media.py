"""Write the small pictures, the sound and the document of `media.jsonl` into `datasets/media/`.

Run it from anywhere: python datasets/make_media.py. The files are stored, too; the same script gives the same bytes.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

FOLDER = Path(__file__).parent / "media"
Colour = tuple[int, int, int]
WHITE, RED, BLUE, GREEN, BLACK = (255, 255, 255), (214, 40, 40), (38, 84, 124), (46, 160, 67), (0, 0, 0)


def png(size: int, colour_at: Callable[[int, int], Colour]) -> bytes:
    """Return a square picture."""
    rows = b"".join(b"\0" + b"".join(bytes(colour_at(x, y)) for x in range(size)) for y in range(size))

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def circle(colour: Colour) -> Callable[[int, int], Colour]:
    """Return a filled circle on white."""
    return lambda x, y: colour if (x - 32) ** 2 + (y - 32) ** 2 < 24**2 else WHITE


def bars(*heights: int) -> Callable[[int, int], Colour]:
    """Return a chart of blue bars on white."""
    width = 64 // len(heights)
    return lambda x, y: BLUE if x % width > 3 and 63 - y < heights[min(x // width, len(heights) - 1)] else WHITE


def wav(tones: int) -> bytes:
    """Return short tones of 440 Hz with silence between them, 8 kHz and 8 bits."""
    tone = bytes(128 + round(60 * math.sin(2 * math.pi * 440 * at / 8_000)) for at in range(400))
    content = b"".join(tone + b"\x80" * 800 for _ in range(tones))
    form = struct.pack("<IHHIIHH", 16, 1, 1, 8_000, 8_000, 1, 8)
    head = b"RIFF" + struct.pack("<I", 36 + len(content)) + b"WAVEfmt " + form
    return head + b"data" + struct.pack("<I", len(content)) + content


def pdf(lines: list[str]) -> bytes:
    """Return a document of one page."""
    drawn = " ".join(f"({line}) Tj 0 -24 Td" for line in lines)
    stream = f"BT /F1 16 Tf 40 240 Td {drawn} ET".encode()
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 360 280]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(stream), stream),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    body, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(body))
        body += b"%d 0 obj%s endobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    head = b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    tail = b"trailer<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, len(body))
    return body + head + table + tail


FILES = {
    "red-circle.png": png(64, circle(RED)),
    "green-circle.png": png(64, circle(GREEN)),
    "bars.png": png(64, bars(20, 40, 60)),
    "half.png": png(64, lambda x, _: BLACK if x < 32 else WHITE),
    "three-tones.wav": wav(3),
    "invoice.pdf": pdf(["Invoice 1207", "Two lamps: 84.00 EUR", "Shipping: 6.00 EUR", "Total: 90.00 EUR"]),
}

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, content in FILES.items():
        (FOLDER / name).write_bytes(content)
