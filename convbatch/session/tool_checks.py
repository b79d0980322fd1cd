"""Declarations of tools that a target's wire does not take: all of them are refused before the first request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from convbatch.config.gateways import Target
from convbatch.dialogue import Dialogue
from convbatch.errors import Issue
from convbatch.protocols.tool_declarations import declaration_problem

TOOLS_HINT = "change the declaration, or ask this target in a separate run"


def tool_issues(dialogue: Dialogue, targets: Sequence[Target]) -> Iterator[Issue]:
    """Yield what the wires of these targets do not take of a dialogue's declarations."""
    if not dialogue.tools:
        return
    by_wire: dict[str, list[str]] = {}
    for target in targets:
        by_wire.setdefault(target.gateway.protocol, []).append(target.name)
    for protocol, names in by_wire.items():
        if (problem := declaration_problem(protocol, dialogue.tools)) is not None:
            yield Issue(what=f"{problem} ({', '.join(names)})", hint=TOOLS_HINT)
