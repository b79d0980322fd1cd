"""Tests of what a judge is shown of a conversation in the journal."""

from __future__ import annotations

from typing import Any, cast

from convbatch.checks.llm_rubric import Picture
from convbatch.dialogue import Dialogue, Part, Turn, text_part
from convbatch.journal.index import TurnHistory
from convbatch.journal.manifest import ManifestTarget
from convbatch.pricing import NO_EXCHANGE_RATES
from convbatch.results.judge_scenes import scene
from convbatch.results.verdicts import ConversationResult


def step(number: int, *, calls: int = 0, picture: str | None = None, text: str = "") -> dict[str, Any]:
    """Return the record of a step with calls of the tool `look`, or of the last one."""
    reply: dict[str, Any] = {
        "finish_reason": "tool_call" if calls else "stop",
        "usage": {"source": "missing"},
        "text": text,
        "tool_calls": [{"id": f"{number}-{n}", "name": "look", "arguments": {"n": n}} for n in range(calls)],
    }
    if picture is not None:
        reply |= {"has_media": True, "media": [{"path": picture, "mime_type": "image/png"}]}
    record = {"kind": "outcome", "key": "k", "class": "replied", "attempt": number, "step": number, "reply": reply}
    return {**record, "continues": True} if calls else record


def played(results: list[Any], *turns: list[dict[str, Any]], **kept: Any) -> ConversationResult:
    histories: dict[int, TurnHistory] = {}
    for number, records in enumerate(turns, 1):
        histories[number] = TurnHistory(turn=number)
        for record in records:
            histories[number].add(record)
    users = tuple(Turn(user=(text_part("go"), Part(kind="image", path=f"media/u{n}.png"))) for n in histories)
    dialogue = Dialogue(id="d", turns=users, tools=({"name": "look"},), tool_results={"look": results}, **kept)
    return ConversationResult(
        dialogue=dialogue,
        target="t",
        repeat=1,
        turns=histories,
        history="live",
        recorded=cast(ManifestTarget, None),
        rates=NO_EXCHANGE_RATES,
        judge_calls={},
    )


def test_pictures_of_every_step_and_of_results_are_shown_in_order() -> None:
    results = ["nothing", {"result": 1, "media": [{"image": "media/map.png"}]}]
    first = [step(1, calls=2, picture="media/draft.png"), step(2, picture="media/final.png", text="Done.")]
    conversation = played(results, first, [step(1, picture="media/second.png")])
    users = [Picture("user of turn 1", "media/u1.png")]
    of_result = [Picture("result of look in turn 1", "media/map.png")]
    own = [Picture("reply", "media/draft.png"), Picture("reply", "media/final.png")]
    assert list(scene(conversation, 1).pictures) == users + of_result + own
    whole = [Picture(f"assistant of turn {n}", f"media/{name}.png") for n, name in
             ((1, "draft"), (1, "final"), (2, "second"))]  # fmt: skip
    assert list(scene(conversation, None).pictures) == [
        *users, Picture("user of turn 2", "media/u2.png"), *of_result, *whole,
    ]  # fmt: skip


def test_a_step_whose_results_cannot_be_known_is_shown_without_them() -> None:
    conversation = played(["one"], [step(1, calls=2), step(2, calls=1), step(3, text="Done.")])
    [turn] = scene(conversation, 1).conversation
    shown = [[result and result.value for _, result in one.calls] for one in turn.steps]
    assert shown == [[None, None], ["one"]]
