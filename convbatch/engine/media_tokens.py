"""Tokens of media before a gateway has counted them: what to expect, and the most that they can be.

Providers count pictures by their size in pixels, sound and video by their length, documents by their pages; none of
that is known here but the bytes. The figures were not compared with a page: a picture is at most 48,169 tokens
(OpenAI's mini models) and about 1,100 elsewhere; sound is 32 tokens a second, video about 300, a page of a PDF at most
3,300. No codec needs less than 8 bytes for a token of sound or video.
"""

from __future__ import annotations

from collections.abc import Iterable

from convbatch.dialogue import Message, Part, PartKind

MOST_OF_A_REQUEST = 2_000_000
"""Input tokens that no model takes more than."""
_USUAL: dict[PartKind, int] = {"image": 1_200, "audio": 500, "video": 5_000, "document": 2_000}
"""Tokens of media of an unknown size."""
_USUAL_BYTES: dict[PartKind, int] = {"audio": 500, "video": 600, "document": 50}
"""Bytes for a token, of usual files."""
_LEAST: dict[PartKind, int] = {"image": 50_000, "audio": 2_000, "video": 20_000, "document": 10_000}
"""The bound for the smallest file."""


def most_media_tokens(parts: Iterable[Part]) -> int:
    """Return the most tokens of the parts that are no text."""
    return sum(min(_most(part), MOST_OF_A_REQUEST) for part in parts if part.kind != "text")


def _most(part: Part) -> int:
    if part.kind == "image":
        return _LEAST["image"]
    if part.size is None:
        return MOST_OF_A_REQUEST
    by_size = 2 * part.size if part.kind == "document" else part.size // 8
    return max(_LEAST[part.kind], by_size)


def usual_media_tokens(parts: Iterable[Part]) -> int:
    """Return the tokens to expect of the parts that are no text."""
    return sum(_usual(part) for part in parts if part.kind != "text")


def _usual(part: Part) -> int:
    if part.size is None or part.kind not in _USUAL_BYTES:
        return _USUAL[part.kind]
    return max(_USUAL[part.kind] // 5, min(part.size // _USUAL_BYTES[part.kind], MOST_OF_A_REQUEST))


def media_in(message: Message) -> list[Part]:
    """Return the parts of a message that are no text, those of results included."""
    found = [part for part in message.parts if part.kind != "text"]
    return found + [part for result in message.results for part in result.media]
