"""Which tools the simulated models call, and when: by the script, or because the user says so.

A user's text can order calls: `call NAME {json}` is one, several are parallel, and those after `then` come one step
later; without arguments only a declared NAME is one, for people call each other, too. Bad models are ordered the same
way: a NAME that is not declared, arguments that are not JSON, `forever` (calls without end), `without ids`. `aloud`
puts a text beside the calls; `pause N` lets the first N replies of the turn stop in its middle, where a wire has that.
Pure, and without a wire.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import orjson

from convbatch.simulator import schemas

_ORDER = re.compile(r"\bcall\s+([\w.:-]+)\s*")
_THEN = re.compile(r"\bthen\b")
_PAUSE = re.compile(r"\bpause (\d+)\b")
_MOST_SHOWN = 400


class Call(NamedTuple):
    """A call that a model makes; `arguments` are a text where they are not JSON."""

    name: str
    arguments: Any
    id: str | None = None

    @property
    def text(self) -> str:
        """The arguments in a text, as some wires send them."""
        return self.arguments if isinstance(self.arguments, str) else json.dumps(self.arguments, ensure_ascii=False)


Step = tuple[Call, ...]


class Orders(NamedTuple):
    """What the last text of the user orders."""

    steps: tuple[Step, ...]
    is_endless: bool = False
    without_ids: bool = False
    is_loud: bool = False
    pauses: int = 0


def orders(text: str, declared: Collection[str]) -> Orders:
    """Return what a text of the user orders, where these tools are declared."""
    pause = _PAUSE.search(text)
    pauses = 0 if pause is None else int(pause[1])
    if "call" not in text:
        return Orders((), pauses=pauses)
    steps = tuple(step for part in _THEN.split(text) if (step := tuple(_calls_in(part, declared))))
    return Orders(steps, "forever" in text, "without ids" in text, "aloud" in text, pauses)


def _calls_in(text: str, declared: Collection[str]) -> Iterator[Call]:
    found = list(_ORDER.finditer(text))
    for place, order in enumerate(found, 1):
        end = found[place].start() if place < len(found) else len(text)
        written = text[order.end() : end]
        if not written.startswith("{"):
            if order[1] in declared:
                yield Call(order[1], {})
            continue
        try:
            arguments, _ = json.JSONDecoder().raw_decode(written)
        except ValueError:
            arguments = written.strip()
        yield Call(order[1], arguments)


def scripted_steps(turn: Mapping[str, Any]) -> tuple[Step, ...]:
    """Return the calls of a turn of a canonical dataset, step by step."""
    listed = cast("list[Any]", turn.get("tool_calls") or [])
    steps = cast("list[list[dict[str, Any]]]", listed if listed and isinstance(listed[0], list) else [listed])
    return tuple(tuple(Call(call["name"], call.get("arguments", {})) for call in step) for step in steps if step)


def wanted_calls(dialogue: Mapping[str, Any], turn: int) -> Step:
    """Return a call of each tool that has a scripted result for this turn, where a dialogue does not say which."""
    results = cast("Mapping[str, Any]", dialogue.get("tool_results") or {})
    calls: list[Call] = []
    for tool in cast("list[dict[str, Any]]", dialogue.get("tools") or []):
        entry = results.get(tool["name"])
        if isinstance(entry, list):
            listed = cast("list[Any]", entry)
            entry = listed[turn] if turn < len(listed) else None
        if entry is None:
            continue
        asked = json.loads(schemas.fit(tool.get("parameters") or {"type": "object"}, "x"))
        match = cast("dict[str, Any]", entry).get("match") if isinstance(entry, dict) else None
        calls.append(Call(tool["name"], {**(asked if isinstance(asked, dict) else {}), **(match or {})}))
    return tuple(calls)


def next_step(scripted: Sequence[Step] | None, ordered: Orders, answered: int, seal: str) -> Step:
    """Return the calls that come next in a turn of which some steps are answered; empty at its end.

    Args:
        scripted: The calls of the turn by the script, if it has the turn.
        ordered: What the user orders, which applies where the script has no calls.
        answered: The steps of the turn whose results the request has.
        seal: What the ids of the calls are made of.
    """
    steps = scripted or ordered.steps
    if not steps or (answered >= len(steps) and not ordered.is_endless):
        return ()
    step = steps[answered % len(steps)]
    if ordered.without_ids:
        return step
    return tuple(call._replace(id=f"{seal}{at}") for at, call in enumerate(step))


def mark_of(call_id: object, name: object, arguments: object) -> str:
    """Return a mark for a call in a history: the same however a client orders and spells its fields."""
    said = orjson.dumps([call_id, name, arguments], option=orjson.OPT_SORT_KEYS)
    return f"<call {hashlib.sha256(said).hexdigest()[:8]}>"


def quote_results(text: str) -> str:
    """Return what a reply says of the results."""
    return f"The tools returned: {text[:_MOST_SHOWN]}"
