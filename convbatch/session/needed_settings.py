"""Refuse `unset` of a setting that the plan relies on: a seed for repeats, JSON output or a limit for a check.

Without the setting such a run would look complete and mean something else. `--max-cost`, which needs a limit on
output, is `cost_cap.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from convbatch.config.gateways import Config, Target
from convbatch.config.loader import place_of_model_key
from convbatch.dialogue import Dialogue, Settings, Turn, effective_settings
from convbatch.engine.runner import RunRules
from convbatch.errors import InputError, Problem

_HINT = "remove it from `unset`, or ask this target in a separate run without what needs it"
_JSON_CHECKS = frozenset(("is_json", "json_schema"))


def refuse_needed_unset(config: Config, targets: Sequence[Target], rules: RunRules, copy: Path) -> None:
    """Refuse targets whose `unset` names a setting that a check, `--seed` or the repeats need.

    Args:
        config: Where `unset` is written.
        targets: The targets of the run, and no judge.
        rules: Command line and repeats.
        copy: The selected dialogues.

    Raises:
        InputError: With one problem for each target and setting, at the line of `unset`.
    """
    from convbatch.dataset.snapshot import read_copy

    concerned = [target for target in targets if not _NEEDED.isdisjoint(target.gateway.unset)]
    if not concerned:
        return
    found: dict[tuple[str, str], Problem] = {}
    for _, dialogue in read_copy(copy):
        for target in concerned:
            for name, why in _needs(target, target.asked(dialogue), rules):
                if (target.name, name) not in found:
                    what = f"unset of {name!r} at {target.name}: {why}"
                    place = place_of_model_key(config, target.gateway.name, target.model, "unset")
                    found[target.name, name] = Problem(what=what, place=place, hint=_HINT)
    if found:
        raise InputError.of(list(found.values()))


_NEEDED = frozenset(("seed", "response_schema", "max_output_tokens"))


def _needs(target: Target, dialogue: Dialogue, rules: RunRules) -> Iterator[tuple[str, str]]:
    """Yield settings that this dialogue needs and the target never sends, with why."""
    asked = dialogue.asked(rules.history)
    for number, turn in enumerate(dialogue.turns, 1):
        if number not in asked:
            continue
        settings = effective_settings(
            command_line=rules.command_line,
            turn=turn.settings,
            dialogue=dialogue.settings,
            target=target.gateway.settings,
        )
        where = f"of dialogue {dialogue.id!r}, turn {number}"
        for name in target.gateway.unset:
            if getattr(settings, name) is not None and (why := _need(name, settings, dialogue, turn, rules, where)):
                yield name, why


def _need(name: str, settings: Settings, dialogue: Dialogue, turn: Turn, rules: RunRules, where: str) -> str | None:
    checks = (*turn.checks, *dialogue.checks)
    match name:
        case "seed" if rules.command_line.seed is not None:
            return "--seed asks for it, and without it replies cannot be reproduced"
        case "seed" if rules.repeats > 1:
            return f"{rules.repeats} repeats are told apart by the seed {where}: repeat k sends seed + k - 1"
        case "response_schema" if kind := next((one for check in checks for one in _JSON_CHECKS & check.keys()), None):
            return f"the check {kind!r} {where} expects the JSON that it asks for"
        case "max_output_tokens" if check := next((one for one in checks if _needs_limit(one, settings)), None):
            return f"the check {_kind_of(check)!r} {where} needs the limit on output"
        case _:
            return None


def _needs_limit(check: Mapping[str, Any], settings: Settings) -> bool:
    """Whether a check expects a reply cut at the limit, or passes by the limit alone."""
    finish = check.get("finish_reason")
    most = check.get("output_tokens")
    limit = settings.max_output_tokens
    cut = finish == "length" or (isinstance(finish, list) and finish == ["length"])
    return cut or (isinstance(most, int | float) and limit is not None and limit <= most)


def _kind_of(check: Mapping[str, Any]) -> str:
    return "finish_reason" if "finish_reason" in check else "output_tokens"
