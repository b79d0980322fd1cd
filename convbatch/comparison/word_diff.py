"""Two texts → what was taken out, put in and kept, word by word; pure functions.

A word is what a reader would call one: letters and digits between spaces; of a script that is written without spaces
(Chinese, Japanese, Thai …) each character. A mark that combines with a character, or joins emoji, belongs to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from rapidfuzz.distance import Indel

Op = Literal["same", "old", "new"]


class Piece(NamedTuple):
    """A part of a diff."""

    op: Op
    text: str


# Han, kana, bopomofo, hangul syllables stay words of Korean; Thai to Myanmar, Khmer.
_ALONE = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3040-\u312f\u31a0-\u31bf"
    "\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00016fe0-\U0001b2ff\U00020000-\U000323af"
)
# Combining marks of the scripts above and of Latin, variation selectors, skin tones, tags, and what a joiner joins.
_MARKS = (
    "\u0300-\u036f\u0483-\u0489\u0591-\u05bd\u0610-\u061a\u064b-\u065f\u0900-\u0903\u093a-\u094f\u0e31\u0e34-\u0e3a"
    "\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ecd\u102b-\u103e\u17b4-\u17d3\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20f0"
    "\u3099\u309a\ufe00-\ufe0f\ufe20-\ufe2f\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f\U000e0100-\U000e01ef"
)
_GLUED = f"(?:[{_MARKS}]|\u200d.)*"
_TOKEN = re.compile(
    rf"\r\n|\n|[^\S\n]+|[\U0001f1e6-\U0001f1ff]{{2}}|[{_ALONE}]{_GLUED}|(?:[^\W{_ALONE}]|(?<=\w)['’](?=\w))"
    rf"(?:[^\W{_ALONE}]|[{_MARKS}]|(?<=\d)[.,](?=\d)|(?<=\w)['’](?=\w))*|.{_GLUED}",
    re.DOTALL,
)
MOST_PAIRS = 10**9
"""Product of the numbers of words that are compared; more would take seconds and hundreds of megabytes."""


def words(text: str) -> list[str]:
    """Split a text into words, blanks and marks; joined they are the text."""
    return _TOKEN.findall(text)


def word_diff(old: str, new: str) -> list[Piece]:
    """Return what leads from one text to the other, `old` before `new` where a part was replaced.

    The pieces that are not `new` give the old text, those that are not `old` the new one. Very long texts are compared
    by lines.
    """
    pieces = _diff(words(old), words(new))
    if pieces is None:
        pieces = _diff(old.splitlines(keepends=True), new.splitlines(keepends=True))
    if pieces is None:
        pieces = [Piece("old", old), Piece("new", new)]
    return list(_joined(_readable(list(_joined(pieces)))))


def _diff(old: Sequence[str], new: Sequence[str]) -> list[Piece] | None:
    """Return the pieces, one for each run of words; None where there are too many words."""
    start = 0
    shorter = min(len(old), len(new))
    while start < shorter and old[start] == new[start]:
        start += 1
    end = 0
    while end < shorter - start and old[-1 - end] == new[-1 - end]:
        end += 1
    left, right = old[start : len(old) - end], new[start : len(new) - end]
    if len(left) * len(right) > MOST_PAIRS:
        return None
    pieces = [Piece("same", "".join(old[:start]))]
    # Each word as a number: numbers are compared in compiled code, and a hash of text could hide a difference.
    numbers: dict[str, int] = {}
    coded = [[numbers.setdefault(word, len(numbers)) for word in side] for side in (left, right)]
    for step in Indel.opcodes(*coded):
        taken, put = "".join(left[step.src_start : step.src_end]), "".join(right[step.dest_start : step.dest_end])
        if step.tag == "equal":
            pieces.append(Piece("same", taken))
        else:
            pieces += [Piece("old", taken), Piece("new", put)]
    return [*pieces, Piece("same", "".join(old[len(old) - end :]))]


def _joined(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Join what belongs together: between two kept parts at most one piece is `old` and, after it, one `new`."""
    old = new = same = ""
    for op, text in pieces:
        if not text:
            continue
        if op == "same":
            if old or new:
                yield from _changed(old, new)
                old = new = ""
            same += text
        else:
            if same:
                yield Piece("same", same)
                same = ""
            old, new = (old + text, new) if op == "old" else (old, new + text)
    if same:
        yield Piece("same", same)
    yield from _changed(old, new)


def _changed(old: str, new: str) -> Iterator[Piece]:
    if old:
        yield Piece("old", old)
    if new:
        yield Piece("new", new)


def _readable(pieces: Sequence[Piece]) -> Iterator[Piece]:
    """Give up kept parts that only split a change: blanks and marks, or few characters between long changes."""
    for place, (op, text) in enumerate(pieces):
        if op == "same" and 0 < place < len(pieces) - 1 and _is_chance(text, pieces, place):
            yield from (Piece("old", text), Piece("new", text))
        else:
            yield Piece(op, text)


def _is_chance(text: str, pieces: Sequence[Piece], place: int) -> bool:
    if "\n" in text:
        return False
    before = max(len(piece.text) for piece in pieces[max(place - 2, 0) : place] if piece.op != "same")
    after = max(len(piece.text) for piece in pieces[place + 1 : place + 3] if piece.op != "same")
    return not any(map(str.isalnum, text)) or 3 * len(text) <= min(before, after)
