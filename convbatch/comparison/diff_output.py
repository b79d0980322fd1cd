"""What `convbatch diff` writes: JSON, a Markdown page and an HTML page; what a terminal shows is `cli/diff.py`."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from convbatch.comparison.reply_diff import ReplyDiff, SideTurn, TurnDiff
from convbatch.comparison.word_diff import Piece
from convbatch.console.html import Markup, element, joined
from convbatch.console.markdown import md
from convbatch.console.text import printable, shorten
from convbatch.results.export import Content

CONTEXT = 160
"""Characters of an unchanged part that stay beside a change."""
_USER_SHOWN = 300
_REPLY_SHOWN = 50_000


def diff_content(diff: ReplyDiff, *, everything: bool) -> Content:
    """Return the diff as what it can be written as."""
    return {
        "value": lambda: to_json(diff, everything=everything),
        "markdown": lambda: "\n".join(_markdown(diff, everything)) + "\n",
        "page": lambda: _page(diff, everything),
    }


def to_json(diff: ReplyDiff, *, everything: bool) -> dict[str, Any]:
    """Return the JSON form; a part of the contract."""
    return {
        "base": diff.names[0],
        "candidate": diff.names[1],
        **diff.counts._asdict(),
        "turns": [_turn_to_json(turn) for turn in diff.turns(everything=everything)],
    }


def _turn_to_json(turn: TurnDiff) -> dict[str, Any]:
    return {
        **turn.key._asdict(),
        "target": turn.key.target or None,
        "changed": turn.is_changed,
        "base": None if turn.base is None else turn.base._asdict(),
        "candidate": None if turn.candidate is None else turn.candidate._asdict(),
        "reply_diff": [list(piece) for piece in turn.pieces],
    }


# --- words that all outputs share ------------------------------------------------------------------------------------


def summary_lines(diff: ReplyDiff) -> Iterator[str]:
    """Yield what changed, in numbers."""
    counts = diff.counts
    changed = f"{counts.changed:,} of {_count(counts.paired, 'turn')} changed"
    yield changed + (f", in {_count(counts.dialogues, 'dialogue')}" if counts.changed else "")
    if counts.pending:
        yield f"{_count(counts.pending, 'turn')} not asked yet on one side, not compared"
    if counts.only_base:
        yield f"{_count(counts.only_base, 'turn')} only in {diff.names[0]}"
    if counts.only_candidate:
        yield f"{_count(counts.only_candidate, 'turn')} only in {diff.names[1]}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def turn_title(turn: TurnDiff) -> str:
    """Return where a turn is."""
    dialogue, target, repeat, number = turn.key
    return " · ".join(
        [dialogue, f"turn {number}", *([f"repeat {repeat}"] if repeat > 1 else []), *filter(None, [target])]
    )


def turn_facts(turn: TurnDiff, names: Sequence[str]) -> Iterator[str]:
    """Yield what differs beside the text: status, finish reason, or that one side has no such turn."""
    base, candidate = turn.base, turn.candidate
    if base is None or candidate is None:
        yield f"only in {names[0] if candidate is None else names[1]}"
        return
    if base.status != candidate.status:
        yield f"status: {base.status} → {candidate.status}"
    if base.finish_reason != candidate.finish_reason:
        yield f"finish reason: {base.finish_reason or 'none'} → {candidate.finish_reason or 'none'}"
    if turn.is_changed and (base.reply or "") == (candidate.reply or ""):
        yield "the text is the same"


def asked(turn: TurnDiff) -> str:
    """Return the user message of a turn, as one line."""
    side: SideTurn | None = turn.base or turn.candidate
    return "" if side is None else shorten(" ".join(side.user.split()), _USER_SHOWN)


def elided(pieces: Sequence[Piece]) -> Iterator[Piece]:
    """Yield the pieces, with the middle of a long unchanged part left out, and its beginning or end at the ends."""
    for place, piece in enumerate(pieces):
        text = piece.text
        if piece.op != "same":
            yield Piece(piece.op, shorten(text, _REPLY_SHOWN))
            continue
        head = CONTEXT if place else 0
        tail = CONTEXT if place < len(pieces) - 1 else 0
        left_out = len(text) - head - tail
        if len(pieces) == 1 or left_out < CONTEXT:
            yield Piece("same", shorten(text, _REPLY_SHOWN))
        else:
            yield Piece("same", f"{text[:head]} … ({left_out:,} characters the same) … {text[len(text) - tail :]}")


def marked(pieces: Iterable[Piece]) -> str:
    """Return the pieces as text: `[-old-]{+new+}`."""
    marks = {"same": "{}", "old": "[-{}-]", "new": "{{+{}+}}"}
    return "".join(marks[op].format(text) for op, text in pieces)


def parts_of(turn: TurnDiff) -> Iterator[tuple[str, list[Piece]]]:
    """Yield the diffs of a turn with their titles: user message and tool calls only where they differ."""
    if turn.user_pieces:
        yield "user", turn.user_pieces
    if any(piece.op != "same" for piece in turn.call_pieces):
        yield "tool calls", turn.call_pieces
    if turn.pieces:
        yield "", turn.pieces


# --- Markdown --------------------------------------------------------------------------------------------------------


def _markdown(diff: ReplyDiff, everything: bool) -> Iterator[str]:
    yield f"# {_md(diff.names[0])} → {_md(diff.names[1])}"
    yield ""
    yield from (f"- {_md(line)}" for line in summary_lines(diff))
    for turn in diff.turns(everything=everything):
        yield from ("", f"## {_md(turn_title(turn))}", "")
        yield f"*{_md(asked(turn))}*  "
        yield from (f"{_md(fact)}  " for fact in turn_facts(turn, diff.names))
        for title, pieces in parts_of(turn):
            yield ""
            yield (f"{title}: " if title else "") + "".join(_md_piece(piece) for piece in elided(pieces))


def _md(text: str) -> str:
    return md(printable(text))


def _md_piece(piece: Piece) -> str:
    """Return a piece as HTML within Markdown, which GitHub shows: `~~` does not work within words."""
    text = "<br>".join(_md(line) for line in _chunks(piece.text))
    tag = {"old": "del", "new": "ins"}.get(piece.op)
    return text if tag is None else f"<{tag}>{text}</{tag}>"


def _chunks(text: str) -> list[str]:
    return text.replace("\r\n", "\n").split("\n")


# --- HTML ------------------------------------------------------------------------------------------------------------

_STYLE = """
:root { color-scheme: light dark; --old: #ffd7d5; --new: #c9f0d3; --line: #8888; }
@media (prefers-color-scheme: dark) { :root { --old: #6b2422; --new: #1d5631; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
article { border-top: 1px solid var(--line); padding: .5rem 0 1rem; }
h2 { font-size: 1.05rem; margin: .5rem 0; }
.asked, .facts { opacity: .8; margin: .2rem 0; }
.text { white-space: pre-wrap; }
del { background: var(--old); } ins { background: var(--new); text-decoration: none; border-bottom: 2px solid; }
"""


def _page(diff: ReplyDiff, everything: bool) -> bytes:
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    title = f"{diff.names[0]} → {diff.names[1]}"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="referrer", content="no-referrer"),
        element("meta", name="generator", content="convbatch"),
        element("title", f"Changed replies: {title}"),
        Markup(f"<style>{_STYLE}</style>"),
    )
    lines = element("ul", *(element("li", line) for line in summary_lines(diff)))
    articles = joined(_article(turn, diff.names) for turn in diff.turns(everything=everything))
    body = element("body", element("main", element("h1", title), lines, articles))
    return joined([Markup("<!DOCTYPE html>\n"), element("html", head, body, lang="en")]).encode()


def _article(turn: TurnDiff, names: Sequence[str]) -> Markup:
    facts = [element("p", fact, class_="facts") for fact in turn_facts(turn, names)]
    texts: list[Markup] = []
    for title, pieces in parts_of(turn):
        texts += [element("p", title, class_="facts")] if title else []
        texts.append(element("div", *map(_html_piece, elided(pieces)), class_="text", dir="auto"))
    heading, user = element("h2", turn_title(turn)), element("p", asked(turn), class_="asked", dir="auto")
    return element("article", heading, user, *facts, *texts)


def _html_piece(piece: Piece) -> Markup:
    tag = {"old": "del", "new": "ins"}.get(piece.op, "span")
    return element(tag, piece.text)
