"""Print transcripts: the script, the replies of each target side by side, and under each reply its verdicts.

Only layout is decided here: what is said comes from `results/transcripts.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING

from convbatch.console import tables
from convbatch.console.pictures import picture_protocol, picture_text
from convbatch.dataset.snapshot import read_copy
from convbatch.dialogue import Dialogue
from convbatch.errors import SetupError
from convbatch.journal.media_store import read_media
from convbatch.results.filters import Filters, Matcher
from convbatch.results.run import Run, load
from convbatch.results.target_names import target_in
from convbatch.results.transcripts import (
    TranscriptColumn,
    TranscriptVerdict,
    TurnRow,
    call_lines,
    facts,
    scripted,
    transcripts,
    verdict_lines,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from convbatch.console.transcript_layout import Piece

_BETWEEN = " · "
_VERDICT_STYLES = {True: "dim", False: "red", None: "yellow"}


def split_dialogue(arguments: Sequence[str]) -> tuple[Sequence[str], str | None]:
    """Return the runs of `RUN... [DIALOGUE]`, and the dialogue: the last argument, unless only a run has its name.

    Raises:
        SetupError: The last argument names neither.
    """
    *names, last = arguments
    if not names:
        return arguments, None
    if any(dialogue.id == last for _, dialogue in read_copy(load(names[0]).folder.dataset)):
        return names, last
    try:
        load(last)
    except SetupError:
        return names, last  # the error names the nearest dialogue
    return arguments, None


def print_transcript(
    runs: Sequence[Run],
    dialogue_id: str | None = None,
    matcher: Matcher | None = None,
    *,
    failed: bool = False,
    target: str | None = None,
    file: IO[str] | None = None,
) -> int:
    """Print transcripts, dialogue by dialogue, the targets side by side if the terminal is wide enough.

    Args:
        runs: The runs; their dialogues are matched by id.
        dialogue_id: Only this dialogue.
        matcher: Only conversations with a turn that matches.
        failed: Only conversations with a failed check, or a turn that is `error` or `pending`; with a filter by check,
            only those that failed this check.
        target: Only this target.
        file: Where to print; default stdout.

    Returns:
        The number of dialogues printed.

    Raises:
        SetupError: No such dialogue or target in these runs.
    """
    only = None if target is None else target_in(runs, target)
    matcher = matcher or Matcher(Filters())
    console = tables.console(file)
    printed = 0
    for dialogue, columns in transcripts(runs, dialogue_id, matcher):
        chosen = [
            column
            for column in columns
            if column.matches and only in (None, column.target) and (not failed or column.has_failed(matcher.filters))
        ]
        if chosen:
            _print_dialogue(console, dialogue, chosen)
            _print_pictures(console, runs, chosen)
            printed += 1
    return printed


def _print_dialogue(console: Console, dialogue: Dialogue, columns: Sequence[TranscriptColumn]) -> None:
    from rich.text import Text

    lines = Text("\n", no_wrap=True, overflow="ignore").join(_lines(dialogue, columns, console.width))
    console.print(lines, soft_wrap=True)
    console.print()


def _print_pictures(console: Console, runs: Sequence[Run], columns: Sequence[TranscriptColumn]) -> None:
    """Print the pictures of the replies, where the terminal shows pictures."""
    protocol = picture_protocol(os.environ) if console.is_terminal else None
    if protocol is None:
        return
    for column in columns:
        for turn_row in column.turns.values():
            for path in json.loads(turn_row.media or "[]"):
                with contextlib.suppress(SetupError):  # lost: its name stands above
                    content = read_media(runs[column.order[0]].folder.path, path)
                    if (shown := picture_text(content, protocol)) is not None:
                        console.print(tables.single_line_text(f"{turn_row.turn} {column.name} {path}", "dim"))
                        console.file.write(shown)


def _lines(dialogue: Dialogue, columns: Sequence[TranscriptColumn], width: int) -> Iterator[Text]:
    """Yield the lines of a dialogue: its script, and below each turn what the targets replied."""
    from convbatch.console.transcript_layout import beside, labelled, title_line

    def line(label: str, text: str, style: str) -> Iterator[Text]:
        return labelled(tables.single_line_text(label, "dim"), tables.multiline_text(text, style), width)

    def replies(number: int, user: str | None) -> Iterator[Text]:
        cells = [_reply(column, column.turns[number], user) for column in columns if number in column.turns]
        return beside(cells, width) if cells else iter(())

    title = dialogue.id + (f"  [{', '.join(dialogue.tags)}]" if dialogue.tags else "")
    yield title_line(tables.single_line_text(title, "bold"), width)
    if dialogue.system is not None:
        yield from line("system", dialogue.system, "dim")
    for number, turn in enumerate(dialogue.turns, 1):
        media = "".join(f" <{part.path or part.uri}>" for part in turn.user if part.kind != "text")
        yield from line(f"{number} user", turn.user_text + media, "bold")
        for label, text in scripted(turn):
            yield from line(label, text, "dim")
        yield from replies(number, turn.user_text)
    asked = {number for column in columns for number in column.turns}
    for number in sorted(asked - set(range(len(dialogue.turns) + 1))):  # the dialogue is longer in another run
        yield from replies(number, None)
    whole = [(column, verdicts) for column in columns if (verdicts := column.verdicts_on(None))]
    if whole:
        yield from line("dialogue", "", "dim")
        yield from beside([[_name(column), *_verdict_lines(verdicts)] for column, verdicts in whole], width)


def _reply(column: TranscriptColumn, turn_row: TurnRow, user: str | None) -> list[Piece]:
    from convbatch.console.transcript_layout import Piece

    texts: list[Text] = []
    if turn_row.user != user:
        texts.append(tables.multiline_text(f"turn {turn_row.turn} of this run: {turn_row.user}", "bold"))
    if turn_row.thought:
        texts.append(tables.single_line_text(f"(thought: {len(turn_row.thought):,} characters)", "dim"))
    texts += [tables.single_line_text(line, "cyan") for line in call_lines(turn_row)]
    if turn_row.reply is not None:
        texts.append(tables.multiline_text(turn_row.reply))
    texts += [tables.single_line_text(path, "cyan") for path in json.loads(turn_row.media or "[]")]
    below = tables.single_line_text(_BETWEEN.join(facts(turn_row)), tables.STATUS_STYLES[turn_row.status])
    verdicts = _verdict_lines(column.verdicts_on(turn_row.turn))
    return [_name(column), *map(Piece, texts), Piece(below, between=_BETWEEN), *verdicts]


def _verdict_lines(verdicts: Sequence[TranscriptVerdict]) -> Iterator[Piece]:
    from convbatch.console.transcript_layout import Piece

    for passed, line in verdict_lines(verdicts):
        yield Piece(tables.single_line_text(line, _VERDICT_STYLES[passed]))


def _name(column: TranscriptColumn) -> Piece:
    from convbatch.console.transcript_layout import Piece

    return Piece(tables.single_line_text(column.name, "cyan"), is_whole=True)
