"""Media that a target's wire does not take: all of them are refused before the first request."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from convbatch.config.gateways import Target
from convbatch.dataset.media_files import media_of, shown_part
from convbatch.dialogue import Dialogue, Part
from convbatch.errors import Issue
from convbatch.journal.media_store import read_media
from convbatch.media import type_of_path
from convbatch.protocols.media_limits import media_problem, request_problem, wires_for


def refuse_media(targets: Sequence[Target]) -> Callable[[Dialogue, Dialogue], Iterator[Issue]]:
    """Return a function that yields what the wires of these targets do not take of a dialogue.

    It takes the dialogue with kept media, and as it was read.
    """
    by_wire: dict[str, list[str]] = {}
    for target in targets:
        by_wire.setdefault(target.gateway.protocol, []).append(target.name)

    def issues(dialogue: Dialogue, as_read: Dialogue) -> Iterator[Issue]:
        found = media_of(dialogue)
        for (place, part, in_result), (_, given, _) in zip(found, media_of(as_read), strict=True):
            for issue in _part_issues(part, place, by_wire, in_result=in_result):
                yield replace(issue, found=shown_part(given))
        if found:
            yield from _size_issues(dialogue, by_wire)

    return issues


def _part_issues(part: Part, place: str | None, by_wire: dict[str, list[str]], *, in_result: bool) -> Iterator[Issue]:
    stored = None if part.path is None else type_of_path(part.path)
    mime_type = part.mime_type or "" if stored is None else stored.mime_type
    for protocol, names in by_wire.items():
        problem = media_problem(protocol, part.kind, mime_type, part.size, part.uri, in_result=in_result)
        if problem is not None:
            wires = wires_for(part.kind, mime_type, part.size, part.uri, in_result=in_result)
            others = f"taken by the protocols {', '.join(wires)}" if wires else "no protocol takes it"
            yield Issue(
                what=f"{problem} ({', '.join(names)})",
                field=place,
                hint=f"{others}; leave the dialogue out with --id or --tag, or ask these targets in a separate run",
            )


def _size_issues(dialogue: Dialogue, by_wire: dict[str, list[str]]) -> Iterator[Issue]:
    """Yield the turns from which on a dialogue is too large for a wire, with the media of all turns before."""
    for protocol, names in by_wire.items():
        sizes: list[int] = []
        for number, turn in enumerate(dialogue.turns, 1):
            sizes += [part.size or 0 for part in turn.user]
            if (problem := request_problem(protocol, sizes)) is not None:
                hint = "make the files smaller, or split the dialogue"
                yield Issue(what=f"{problem} ({', '.join(names)})", field=f"turn {number}", hint=hint)
                break


def require_media(folder: Path, dataset: Path) -> None:
    """Check that every content that the dialogues of a run name is in its folder, unchanged.

    Raises:
        SetupError: One is missing or changed.
    """
    from convbatch.dataset.snapshot import read_copy

    seen: set[str] = set()
    for _, dialogue in read_copy(dataset, with_media=True):
        for _, part, _ in media_of(dialogue):
            if part.path is not None and part.path not in seen:
                seen.add(part.path)
                read_media(folder, part.path)
