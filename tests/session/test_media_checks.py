"""Media that are too large for a wire are refused before the first request, also in results of tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from convbatch.config.loader import load_shipped_config
from convbatch.config.targets import resolve_targets
from convbatch.dialogue import Dialogue, HistoryMode, Part, ToolResult, Turn, text_part
from convbatch.session.media_checks import refuse_media
from convbatch.tools import ToolCall

MB = 10**6


def picture(folder: Path, megabytes: int) -> dict[str, Any]:
    """Write a kept picture of this size, which needs no space; return it as a part of a result."""
    path = f"media/{megabytes:064}.png"
    (folder / "media").mkdir(exist_ok=True)
    with (folder / path).open("wb") as file:
        file.truncate(megabytes * MB)
    return {"image": path}


def problems(dialogue: Dialogue, folder: Path, history: HistoryMode = "live") -> list[tuple[str | None, str]]:
    targets = resolve_targets(["claude-opus-5@anthropic"], [], load_shipped_config())
    return [(issue.field, issue.what) for issue in refuse_media(targets, history, folder)(dialogue, dialogue)]


def dialogue(*results: dict[str, Any], calls: int = 0) -> Dialogue:
    """Return two turns, the first with scripted calls whose results have a picture of 4 MB each."""
    part = Part(kind="image", path=f"media/{4:064}.png", size=4 * MB)
    scripted = tuple(ToolResult(call=ToolCall(None, "look", {}), value=1, media=(part,)) for _ in range(calls))
    turns = (
        Turn(user=(text_part("Look."),), assistant="I see.", tool_calls=(scripted,) if calls else ()),
        Turn(user=(text_part("Again."),)),
    )
    media = [{"result": 1, "media": [result]} for result in results]
    return Dialogue(id="d", turns=turns, tools=({"name": "look"},), tool_results={"look": media})


def test_one_picture_in_a_result_has_the_limit_of_any_picture(tmp_path: Path) -> None:
    assert not problems(dialogue(picture(tmp_path, 5)), tmp_path)
    [(place, what)] = problems(dialogue(picture(tmp_path, 6)), tmp_path)
    assert place == "tool_results"
    assert what.startswith("image of 6.0 MB; the anthropic protocol takes at most 5.0 MB")


def test_the_results_of_tools_count_in_a_request(tmp_path: Path) -> None:
    shown = [picture(tmp_path, 4)] * 5
    assert not problems(dialogue(*shown), tmp_path)
    [(place, what)] = problems(dialogue(*shown, *shown[:1]), tmp_path)
    assert (place, "results of tools included, are 32.0 MB" in what) == ("turn 1", True)


@pytest.mark.parametrize(("history", "places"), [("live", []), ("script", ["turn 2"]), ("last", ["turn 2"])])
def test_scripted_calls_count_where_they_are_sent(tmp_path: Path, history: HistoryMode, places: list[str]) -> None:
    assert [place for place, _ in problems(dialogue(calls=6), tmp_path, history)] == places
    assert not problems(dialogue(calls=5), tmp_path, history)
