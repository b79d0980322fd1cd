"""Media that a target's wire does not take: all of them are refused before the first request."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from convbatch.config.gateways import Target
from convbatch.dataset.media_files import media_of, shown_part
from convbatch.dialogue import Dialogue, HistoryMode, Message, Part, scripted_messages
from convbatch.errors import Issue
from convbatch.journal.media_store import read_media
from convbatch.media import type_of_path
from convbatch.protocols.gemini_tools import is_before_3
from convbatch.protocols.media_limits import detail_problem, media_problem, request_problem, wires_for

_OTHERWISE = "leave the dialogue out with --id or --tag, or ask these targets in a separate run"
_RESOLUTION_HINT = (
    'remove "detail"; for all media of a request, "settings": {"extra": {"generationConfig": {"mediaResolution": '
    '"MEDIA_RESOLUTION_LOW"}}}'
)


def refuse_media(
    targets: Sequence[Target], history: HistoryMode, folder: Path
) -> Callable[[Dialogue, Dialogue], Iterator[Issue]]:
    """Return a function that yields what the wires of these targets do not take of a dialogue.

    It takes the dialogue with media that are kept in `folder`, and as it was read.
    """
    by_wire: dict[str, list[str]] = {}
    for target in targets:
        by_wire.setdefault(target.gateway.protocol, []).append(target.name)
    before_3 = [one.name for one in targets if one.gateway.protocol == "gemini" and is_before_3(one.model)]

    def issues(dialogue: Dialogue, as_read: Dialogue) -> Iterator[Issue]:
        found = media_of(dialogue)
        for (place, part, in_result), (_, given, _) in zip(found, media_of(as_read), strict=True):
            of_part = [*_part_issues(part, place, folder, by_wire, in_result=in_result)]
            if before_3 and part.detail not in (None, "auto"):
                what = f"models before Gemini 3 take no detail of an image ({', '.join(before_3)})"
                of_part.append(Issue(what=what, field=place or "tool_results", hint=_RESOLUTION_HINT))
            yield from (replace(issue, found=shown_part(given)) for issue in of_part)
        if found:
            yield from _size_issues(_sizes(dialogue, history, folder), by_wire)

    return issues


def _part_issues(
    part: Part, place: str | None, folder: Path, by_wire: dict[str, list[str]], *, in_result: bool
) -> Iterator[Issue]:
    stored = None if part.path is None else type_of_path(part.path)
    mime_type = part.mime_type or "" if stored is None else stored.mime_type
    size = _size(part, folder)
    for protocol, names in by_wire.items():
        problem = media_problem(protocol, part.kind, mime_type, size, part.uri, in_result=in_result)
        of_detail = detail_problem(protocol, part.detail, in_result=in_result)
        remove = "" if problem is not None or of_detail is None else 'remove "detail", '
        if (problem := problem or of_detail) is not None:
            wires = wires_for(part.kind, mime_type, size, part.uri, in_result=in_result, detail=part.detail)
            others = f"taken by the protocols {', '.join(wires)}" if wires else "no protocol takes it"
            yield Issue(
                what=f"{problem} ({', '.join(names)})",
                field=place or "tool_results",
                hint=f"{others}; {remove}{_OTHERWISE}",
            )


def _size(part: Part, folder: Path) -> int | None:
    """Return the bytes of a content; in `tool_results`, which are plain JSON, a part does not know them."""
    return (folder / part.path).stat().st_size if part.size is None and part.path is not None else part.size


def _sizes(dialogue: Dialogue, history: HistoryMode, folder: Path) -> Iterator[tuple[int, list[int]]]:
    """Yield the sizes of the media in the request of each asked turn; each scripted result of a tool counts once."""
    asked = dialogue.asked(history)
    scripted = [_size(part, folder) or 0 for place, part, _ in media_of(dialogue) if place is None]
    sizes: list[int] = []
    for number, turn in enumerate(dialogue.turns, 1):
        sizes += [_size(part, folder) or 0 for part in turn.user]
        before, behind = scripted_messages(turn, history, is_asked=number in asked)
        sizes += _result_sizes(before, folder)
        if number in asked:
            yield number, [*sizes, *scripted]
        sizes += _result_sizes(behind, folder)


def _result_sizes(messages: Iterable[Message], folder: Path) -> list[int]:
    parts = (part for message in messages for result in message.results for part in result.media)
    return [_size(part, folder) or 0 for part in parts]


def _size_issues(requests: Iterable[tuple[int, list[int]]], by_wire: dict[str, list[str]]) -> Iterator[Issue]:
    """Yield the turns from which on a dialogue is too large for a wire, with the media of all turns before."""
    requests = list(requests)
    for protocol, names in by_wire.items():
        for number, sizes in requests:
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
