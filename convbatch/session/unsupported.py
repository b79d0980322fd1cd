"""Settings that a target cannot carry, by themselves or beside tools: all of all targets and dialogues in one message.

A protocol names one kind of refusal at a time (fields it does not have, values a model refuses, a schema outside the
subset, a way of caching); here the rest is asked again without what was named.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from itertools import chain
from pathlib import Path
from typing import Any

from convbatch.config.gateways import Target
from convbatch.dialogue import NO_SETTINGS, Message, Settings, effective_settings, text_part
from convbatch.errors import ConvbatchError, InputError, Problem, SetupError
from convbatch.protocols import PROTOCOLS
from convbatch.protocols.wire import Ask, CannotCarry, encode_json

UNSUPPORTED_HINT = (
    "remove the setting, list it in `unset` of the gateway or model, or ask this target in a separate run"
)
Tools = tuple[Mapping[str, Any], ...]
_QUESTION = (Message(role="user", parts=(text_part("?"),)),)


def unsupported_setting(target: Target, settings: Settings) -> str | None:
    """Return why no request with these settings can be built for a target, all reasons in one; None if one can."""
    return "; ".join(reason for reason, _ in _reasons(target, settings, ())) or None


def _reasons(target: Target, settings: Settings, tools: Tools) -> Iterator[tuple[str, frozenset[str]]]:
    """Yield each reason with the settings that it names; the next one is found without them."""
    while (reason := _first_reason(target, settings, tools)) is not None:
        # A reason may also name a setting as the way out: without that one it stays the same.
        named = frozenset(
            name
            for name in _set_in(settings)
            if re.search(rf"\b{name}\b", reason)
            and _first_reason(target, replace(settings, **{name: None}), tools) != reason
        )
        yield reason, named
        if not named:
            return
        settings = replace(settings, **dict.fromkeys(named))


def _first_reason(target: Target, settings: Settings, tools: Tools) -> str | None:
    ask = Ask(target.model, _QUESTION, settings=settings, stream=target.gateway.stream, tools=tools)
    try:
        PROTOCOLS[target.gateway.protocol].build_request(ask, target.gateway.endpoint)
    except CannotCarry as limit:
        return str(limit)
    return None


def _set_in(settings: Settings) -> list[str]:
    return [field.name for field in fields(settings) if getattr(settings, field.name) is not None]


class _Refusals:
    """Collects what targets cannot carry; the same value of a setting is named once for each target."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._named: dict[str, set[tuple[str, bytes]]] = {}
        self._tried: set[bytes] = set()

    def check(self, target: Target, settings: Settings, where: str, tools: Tools = ()) -> bool:
        """Check settings and tools, and return whether something new is refused."""
        named = self._named.setdefault(target.name, set())
        rest = replace(settings, **{name: None for name in _set_in(settings) if _valued(settings, name) in named})
        fingerprint = encode_json([target.name, rest.to_plain(), tools])
        if fingerprint in self._tried:
            return False
        self._tried.add(fingerprint)
        reasons = list(_reasons(target, rest, tools))
        if reasons:
            limit = "; ".join(reason for reason, _ in reasons)
            self.problems.append(Problem(what=f"{where}{target.name}: {limit}", hint=UNSUPPORTED_HINT))
            named |= {_valued(rest, name) for _, names in reasons for name in names}
        return bool(reasons)


def _valued(settings: Settings, name: str) -> tuple[str, bytes]:
    return name, encode_json(Settings(**{name: getattr(settings, name)}).to_plain())


def is_refused(targets: Iterable[Target], command_line: Settings) -> bool:
    """Return whether a target cannot carry the settings of the command line and the configuration."""
    refusals = _Refusals()
    return any([_check_target(refusals, target, command_line) for target in targets])


def _check_target(refusals: _Refusals, target: Target, command_line: Settings) -> bool:
    gateway = target.gateway
    settings = effective_settings(
        command_line=command_line,
        dialogue=NO_SETTINGS if target.variant is None else target.variant.settings,
        target=gateway.settings,
        unset=gateway.unset,
    )
    return refusals.check(target, settings, "")


def refuse_unsupported(copy: Path, targets: Sequence[Target], command_line: Settings) -> None:
    """Refuse the settings of a run that a target cannot carry; each combination is checked once.

    Args:
        copy: The selected dialogues.
        targets: The targets of the run.
        command_line: Settings of the command line.

    Raises:
        InputError: Dialogues have such settings.
        SetupError: Only the command line or the configuration has.
    """
    refusals = _Refusals()
    for target in targets:
        _check_target(refusals, target, command_line)
    of_targets = len(refusals.problems)
    _check_dialogues(refusals, copy, targets, command_line)
    if refusals.problems:
        kind = SetupError if len(refusals.problems) == of_targets else InputError
        raise kind.of(refusals.problems)


def _check_dialogues(refusals: _Refusals, copy: Path, targets: Sequence[Target], command_line: Settings) -> None:
    from convbatch.dataset.snapshot import read_copy

    for _, dialogue in chain(read_copy(copy, with_key="settings"), read_copy(copy, with_key="tools")):
        scripts = [(target, target.asked(dialogue)) for target in targets]
        for number in range(1, len(dialogue.turns) + 1):
            for target, script in scripts:
                settings = effective_settings(
                    command_line=command_line,
                    turn=script.turns[number - 1].settings,
                    dialogue=script.settings,
                    target=target.gateway.settings,
                    unset=target.gateway.unset,
                )
                refusals.check(target, settings, f"dialogue {dialogue.id!r}, turn {number}, at ", dialogue.tools)


def merged(errors: Sequence[ConvbatchError]) -> ConvbatchError | None:
    """Return one error with all problems of several; None if there are none."""
    problems = [problem for error in errors for problem in error.problems]
    if not problems:
        return None
    kind = InputError if any(isinstance(error, InputError) for error in errors) else SetupError
    return kind.of(problems)
