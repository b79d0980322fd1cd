"""`convbatch diff`: the replies that changed between two runs, on a terminal in colours, elsewhere with marks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from convbatch.cli.show import print_json
from convbatch.comparison.diff_output import (
    asked,
    diff_content,
    elided,
    marked,
    parts_of,
    summary_lines,
    to_json,
    turn_facts,
    turn_title,
)
from convbatch.comparison.reply_diff import ReplyDiff, TurnDiff, TurnFilter
from convbatch.comparison.word_diff import Piece
from convbatch.console import tables
from convbatch.console.text import ignoring_broken_pipe, log_note
from convbatch.exit_codes import ExitCode
from convbatch.results.export import check_files, write_files

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_STYLES = {"same": "", "old": "red strike", "new": "green"}
_VISIBLE = str.maketrans({" ": "·", "\t": "→", "\n": "↵\n", "\r": "␍"})


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffRequest:
    """The options of `convbatch diff`."""

    base: str
    candidate: str
    ids: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    turns: tuple[int, ...] = ()
    everything: bool = False
    as_json: bool = False
    out: tuple[Path, ...] = ()


def run_diff(request: DiffRequest) -> ExitCode:
    """Print or write what changed."""
    check_files(request.out, ("value", "markdown", "page"))
    chosen = TurnFilter(ids=request.ids, tags=request.tags, turns=request.turns)
    diff = ReplyDiff(request.base, request.candidate, chosen)
    if request.as_json:
        print_json(to_json(diff, everything=request.everything))
    elif not request.out:
        with ignoring_broken_pipe():
            print_diff(diff, everything=request.everything)
    write_files(diff_content(diff, everything=request.everything), request.out)
    if request.out or request.as_json:
        for line in summary_lines(diff):
            log_note(line)
    return ExitCode.OK


def print_diff(diff: ReplyDiff, *, everything: bool = False, file: IO[str] | None = None) -> None:
    """Print the changed turns, and last what changed in numbers."""
    console = tables.console(file)
    tables.print_note(console, f"{diff.names[0]} → {diff.names[1]}", "bold")
    for turn in diff.turns(everything=everything):
        _print_turn(console, turn, diff.names)
    console.print()
    for line in summary_lines(diff):
        tables.print_note(console, line)


def _print_turn(console: Console, turn: TurnDiff, names: tuple[str, str]) -> None:
    console.print()
    tables.print_note(console, turn_title(turn), "bold cyan")
    tables.print_note(console, f"> {asked(turn)}", "dim")
    for fact in turn_facts(turn, names):
        tables.print_note(console, fact, "yellow")
    is_whole_line = tables.screen_width(console) is None
    for title, pieces in parts_of(turn):
        text = _text(f"{title}: " if title else "", list(elided(pieces)), coloured=_has_colours(console))
        console.print(text, soft_wrap=is_whole_line)


def _has_colours(console: Console) -> bool:
    return console.is_terminal and console.color_system is not None


def _text(title: str, pieces: list[Piece], *, coloured: bool) -> Text:
    """Return the diff of a text; on a terminal with colours, blanks that changed are made visible."""
    if not coloured:
        return tables.multiline_text(title + marked(pieces))
    text = tables.multiline_text(title, "yellow")
    for op, content in pieces:
        shown = content.translate(_VISIBLE) if op != "same" and not content.strip() else content
        text.append_text(tables.multiline_text(shown, _STYLES[op]))
    return text
