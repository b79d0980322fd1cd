"""Probes: dialogues that test a model itself, found in a script by their tags, and what a model needs to pass them.

A probe is passed by what a model knows (`border`), by an instruction of its system text (`canary`), or by a fact of an
earlier turn (`fact`). The models of `sampling.py` answer by these rules, so a dropped system text, a shortened history
or another model shows in their replies, as with real models.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from convbatch.simulator.draws import digest

ProbeKind = Literal["border", "canary", "fact", "limit", "temperature"]
_KINDS = get_args(ProbeKind)
_TEXT_CHECKS = ("contains", "icontains", "equals", "starts_with", "contains_all", "contains_any")


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One turn of a probe."""

    kind: ProbeKind
    system: str
    user_texts: tuple[str, ...]
    """All user messages up to this turn."""
    reply: str | None
    """The scripted reply."""
    planted: tuple[str, ...]
    """Words that a check expects and an earlier message has."""
    is_checked: bool

    def is_answerable(self, seen: str) -> bool:
        """Return whether a model that sees only this text can pass."""
        if self.kind == "canary":
            return self.system in seen
        if self.kind != "fact" or not self.is_checked:
            return True
        return all(word in seen for word in self.planted) if self.planted else self.user_texts[0] in seen


class ProbeBook:
    """The probes of a script, looked up by the last user message; other dialogues take no memory."""

    def __init__(self) -> None:
        self._probes: dict[bytes, list[Probe]] = {}

    def learn(self, dialogue: Mapping[str, Any], user_texts: Sequence[str]) -> None:
        """Add a canonical dialogue, if it is tagged as a probe."""
        tags: Sequence[str] = dialogue.get("tags") or ()
        kind = next((tag for tag in tags if tag in _KINDS), None)
        if kind is None:
            return
        system, earlier = dialogue.get("system") or "", dialogue.get("system") or ""
        for number, turn in enumerate(dialogue["turns"]):
            texts, reply = tuple(user_texts[: number + 1]), turn.get("assistant")
            words = tuple(_expected(turn.get("checks") or ()))
            probe = Probe(
                kind=cast("ProbeKind", kind),
                system=system,
                user_texts=texts,
                reply=reply,
                planted=tuple(word for word in words if word in earlier and word not in texts[-1]),
                is_checked=bool(turn.get("checks")),
            )
            self._probes.setdefault(digest(texts[-1]), []).append(probe)
            earlier += f"\n{texts[-1]}\n{reply or ''}"

    def find(self, system: str, user_texts: Sequence[str]) -> Probe | None:
        """Return the probe that ends in the last of `user_texts`; of several, the one with the most equal messages."""
        found = self._probes.get(digest(user_texts[-1]), ()) if user_texts and self._probes else ()

        def likeness(probe: Probe) -> tuple[int, bool, bool]:
            pairs = zip(reversed(probe.user_texts), reversed(user_texts), strict=False)
            alike = next((at for at, (one, other) in enumerate(pairs) if one != other), None)
            length = min(len(probe.user_texts), len(user_texts)) if alike is None else alike
            return length, probe.system == system, len(probe.user_texts) == len(user_texts)

        return max(found, key=likeness, default=None)


def _expected(checks: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the words and numbers that checks expect."""
    for check in checks:
        for kind in _TEXT_CHECKS:
            argument = check.get(kind, ())
            yield from (argument,) if isinstance(argument, str) else argument
        argument = check.get("number")
        value = cast("Mapping[str, Any]", argument).get("value") if isinstance(argument, dict) else argument
        if value is not None:
            yield re.sub(r"\.0$", "", str(value))
