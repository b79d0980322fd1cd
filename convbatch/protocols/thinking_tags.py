"""Split a reply whose model writes its thoughts between tags in the visible text.

Only blocks in front of the reply are thoughts: a tag further on is part of what the model says. Templates that write
the opening tag into the prompt leave it out of the reply, which then begins inside the thought; a reply cut at the
limit may never close it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple


class ThinkingTags(NamedTuple):
    """The opening and the closing tag."""

    opening: str
    closing: str


class SplitText(NamedTuple):
    """A text in its two parts."""

    thought: str | None
    """Of all blocks; None if there is none, or nothing but white space in it."""
    start: int
    """Where the reply begins; 0 if there are no tags, the length of the text if it is all thought."""


def parse_thinking_tags(written: str) -> ThinkingTags:
    """Return the tags of a configuration value: `<think>` (closed by `</think>`), or both with a space between.

    Raises:
        ValueError: It is neither.
    """
    words = written.split()
    if len(words) == 2 and words[0] != words[1]:
        return ThinkingTags(*words)
    if len(words) != 1 or len(written) < 3 or not _is_bracketed(words[0]):
        raise ValueError(f"not a tag: {written}")
    return ThinkingTags(words[0], f"{words[0][0]}/{words[0][1:]}")


def _is_bracketed(tag: str) -> bool:
    inner = tag[1:-1]
    return not (tag[0].isalnum() or tag[-1].isalnum()) and not inner.startswith("/") and tag[0] not in inner


def split_thoughts(text: str, tags: ThinkingTags) -> SplitText:
    """Split a text into the thoughts in front of it and the reply, without the white space between them."""
    thoughts: list[str] = []
    start = 0
    at = _skip_space(text, 0)
    if not text.startswith(tags.opening, at):
        end = _closing_alone(text, tags)
        if end is None:
            return SplitText(None, 0)
        thoughts.append(text[:end])
        start = at = _skip_space(text, end + len(tags.closing))
    while True:
        if text.startswith(tags.opening, at):
            begin = at + len(tags.opening)
            end = text.find(tags.closing, begin)
            if end < 0:
                thoughts.append(text[begin:])
                start = len(text)
                break
            thoughts.append(text[begin:end])
            at = end + len(tags.closing)
        elif text.startswith(tags.closing, at):  # of a block in a block, or written twice
            at += len(tags.closing)
        else:
            break
        start = at = _skip_space(text, at)
    return SplitText("\n\n".join(filter(None, map(str.strip, thoughts))) or None, start)


_SPACE = re.compile(r"\s*")


def _skip_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return at if match is None else match.end()


def _closing_alone(text: str, tags: ThinkingTags) -> int | None:
    """Return where a thought ends whose opening tag is missing; None if the text does not begin in a thought."""
    opened = text.find(tags.opening)
    for at in _outside_of_code(text, tags.closing):
        return at if opened < 0 or at < opened else None
    return None


def _outside_of_code(text: str, tag: str) -> Iterator[int]:
    """Yield where a tag stands outside of the code blocks and code spans of Markdown; reads the text once."""
    is_block = is_span = False
    begin = 0
    while (at := text.find(tag, begin)) >= 0:
        between = text[begin:at]
        is_block ^= between.count("```") % 2 == 1
        _, line_end, line = between.rpartition("\n")
        is_span = (is_span and not line_end) ^ (line.replace("```", "").count("`") % 2 == 1)
        if not is_block and not is_span:
            yield at
        begin = at + len(tag)
