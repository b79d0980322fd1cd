"""What a judge is shown of a stored conversation: texts, calls of tools with their results, and pictures.

The journal has the calls. The results that were sent with the next request are read from the dialogue by the same rule
as in the run (`dataset/tool_script.py`). The form of the question is `checks/llm_rubric.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from convbatch.checks.llm_rubric import Picture, Scene, SceneStep, SceneTurn
from convbatch.dataset.tool_script import NoResult, ToolScript
from convbatch.dialogue import Part, ToolResult, scripted_messages
from convbatch.reply import MediaFile
from convbatch.tools import ToolCall

if TYPE_CHECKING:
    from convbatch.results.verdicts import ConversationResult

_Steps = Mapping[int, Sequence[SceneStep]]


def scene(result: ConversationResult, number: int | None) -> Scene:
    """Return what a judge is shown of a turn, or of the whole dialogue."""
    is_whole = number is None
    last = max(result.turns) if number is None else number
    steps = _steps(result, number, last)
    turns = [
        SceneTurn(turn.user_text, _assistant_text(result, at, is_whole=is_whole), steps[at])
        for at, turn in enumerate(result.dialogue.turns[:last], 1)
    ]
    pictures = list(_pictures(result, number, last, steps))
    if number is None:
        return Scene(result.dialogue.system, turns, None, None, pictures)
    turns[-1] = turns[-1]._replace(assistant=None)
    scripted = result.dialogue.turns[number - 1].assistant
    return Scene(result.dialogue.system, turns, reply_text(result, number), scripted, pictures)


def reply_text(result: ConversationResult, number: int) -> str:
    """Return the text of a reply; empty where the turn is blocked or empty."""
    past = result.turns[number]
    return (past.kept or {})["reply"].get("text") or "" if past.status == "ok" else ""


def _is_real(result: ConversationResult, at: int, *, is_whole: bool) -> bool:
    """Whether a turn is shown as the model's own; else as the script that was sent as history."""
    return at in result.turns and (is_whole or result.history == "live")


def _assistant_text(result: ConversationResult, at: int, *, is_whole: bool) -> str | None:
    if _is_real(result, at, is_whole=is_whole):
        return reply_text(result, at)
    return result.dialogue.turns[at - 1].assistant


def _steps(result: ConversationResult, number: int | None, last: int) -> _Steps:
    """Return the steps of each turn up to the last one that is shown."""
    real = _real_steps(result)
    found: dict[int, Sequence[SceneStep]] = {}
    for at, turn in enumerate(result.dialogue.turns[:last], 1):
        before, behind = scripted_messages(turn, result.history, is_asked=at in result.turns)
        if at == number or _is_real(result, at, is_whole=number is None):
            behind = []
            own = real.get(at, ())
        else:
            own = ()
        scripted = [
            SceneStep(None, [(one.call, one) for one in message.results])
            for message in (*before, *behind)
            if message.results
        ]
        found[at] = (*scripted, *own)
    return found


def _real_steps(result: ConversationResult) -> _Steps:
    """Return what the model did before the text of each reply, and the calls with which a turn ended."""
    script = ToolScript(result.dialogue)
    found: dict[int, Sequence[SceneStep]] = {}
    for at, past in result.turns.items():
        steps = [_answered(script, record["reply"]) for record in past.steps]
        if past.kept is not None and (calls := _calls(past.kept["reply"])):
            steps.append(SceneStep(None, [(call, None) for call in calls]))
        found[at] = steps
    return found


def _answered(script: ToolScript, reply: Mapping[str, Any]) -> SceneStep:
    """Return a step with the results that its calls got."""
    calls = _calls(reply)
    results: Sequence[ToolResult | None]
    try:
        results = script.answer(calls)
    except NoResult:  # an earlier step is lost
        results = [None] * len(calls)
    return SceneStep(reply.get("text"), list(zip(calls, results, strict=True)))


def _calls(reply: Mapping[str, Any]) -> list[ToolCall]:
    return [ToolCall(**call) for call in reply.get("tool_calls", ())]


def _pictures(result: ConversationResult, number: int | None, last: int, steps: _Steps) -> Iterator[Picture]:
    """Yield the pictures that a judge is shown: of the users, of results of tools, and of what is judged."""
    for at, turn in enumerate(result.dialogue.turns[:last], 1):
        yield from _given(f"user of turn {at}", turn.user)
    for at, of_turn in steps.items():
        for answer in (answer for step in of_turn for _, answer in step.calls if answer is not None):
            yield from _given(f"result of {answer.call.name} in turn {at}", answer.media)
    for at in sorted(result.turns) if number is None else [number]:
        reply = result.turns[at].reply if result.turns[at].status == "ok" else {}
        name = "reply" if number is not None else f"assistant of turn {at}"
        files = [MediaFile(**one) for one in reply.get("media", ())]
        yield from (Picture(name, one.path) for one in files if (one.mime_type or "").startswith("image/"))


def _given(of: str, parts: Iterable[Part]) -> Iterator[Picture]:
    return (Picture(of, part.path) for part in parts if part.kind == "image" and part.path is not None)
