"""Which settings a model takes, by the table `model_settings.toml`; unknown models take every setting."""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal, cast

from convbatch.dialogue import Settings
from convbatch.protocols.wire import CannotCarry

Sampling = Literal["always", "never", "without_thinking"]
_TABLE_OF = {"responses": "openai"}
"""Protocols whose models stand in the table of another one."""
_SAMPLING = ("temperature", "top_p", "top_k")
_MOST_STOPS: Mapping[str, int] = {"gemini": 5, "openai": 4}
_HOTTEST = 2
"""Largest `temperature` of Gemini and OpenAI; Anthropic's is smaller, for every model."""
_OFF = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """What one family of models takes; None = not known, the setting is sent as given."""

    models: tuple[str, ...] = ()
    """Globs of lower-case model names."""
    efforts: tuple[str, ...] | None = None
    """Words of `thinking_level` and `reasoning_effort`, the least first; empty: the family takes none."""
    budget: tuple[int, int] | tuple[()] | None = None
    """Smallest and largest `thinking_budget` in tokens; empty: the family takes none."""
    special_budgets: tuple[int, ...] = ()
    """Further budgets: 0 = no thinking, -1 = the model decides."""
    sampling: Sampling | None = None
    """When `temperature`, `top_p` and `top_k` are taken."""
    takes_both: bool = True
    """Whether `temperature` and `top_p` may be sent together."""
    stop: bool = True
    default_effort: str | None = None
    thinking: tuple[str, ...] | None = None
    """Types of Anthropic's `thinking` that are accepted."""
    max_output_tokens: int | None = None
    """The most that the model can write, with its thinking."""
    always_thinks: bool | None = None
    """Whether the model thinks when the request does not say so (Anthropic)."""


UNKNOWN_MODEL = ModelSettings()
MOST_BY_DEFAULT = 16_384
"""A reply of more tokens may take longer than the attempt timeout; larger limits are the user's choice."""
DEFAULT_OF_UNKNOWN = 8_192


@functools.lru_cache(maxsize=1024)
def settings_of_model(protocol: str, model: str) -> ModelSettings:
    """Return what a model takes: the family with the longest glob that fits its name."""
    name = model.lower().removeprefix("models/")
    fitting = [
        (len(glob), family)
        for family in _table().get(_TABLE_OF.get(protocol, protocol), ())
        for glob in family.models
        if re.match(fnmatch.translate(glob), name)
    ]
    return max(fitting, key=lambda found: found[0])[1] if fitting else UNKNOWN_MODEL


def default_max_tokens(protocol: str, model: str) -> int:
    """Return the limit on output of a request without one, in protocols that require a limit."""
    most = settings_of_model(protocol, model).max_output_tokens
    return DEFAULT_OF_UNKNOWN if most is None else min(most, MOST_BY_DEFAULT)


@functools.cache
def _table() -> dict[str, tuple[ModelSettings, ...]]:
    text = resources.files("convbatch.protocols").joinpath("model_settings.toml").read_text(encoding="utf-8")
    return {protocol: tuple(map(_family, families)) for protocol, families in tomllib.loads(text).items()}


def _family(table: dict[str, Any]) -> ModelSettings:
    values: dict[str, Any] = dict(table)
    for key, value in table.items():
        if isinstance(value, list):
            values[key] = tuple(cast("list[Any]", value))
    return ModelSettings(**values)


def effort_of(settings: Settings) -> str | None:
    """Return `reasoning_effort` or `thinking_level`, which are two names of one setting; the first in lower case."""
    return settings.reasoning_effort if settings.thinking_level is None else settings.thinking_level.lower()


def refused_by_model(protocol: str, model: str, settings: Settings) -> list[str]:
    """Return every setting that the model refuses, each with what the model takes; empty for an unknown model."""
    family = settings_of_model(protocol, model)
    if family is UNKNOWN_MODEL:
        return []
    if protocol == "gemini" and settings.reasoning_effort == _OFF and family.efforts:
        settings = dataclasses.replace(settings, reasoning_effort=None)  # sent as the least level
    found = list(_refusals(family, model, settings))
    named = {line.split(" ")[0] for line in found}
    return found + [line for line in _beyond_bounds(protocol, model, settings) if line.split(" ")[0] not in named]


def _beyond_bounds(protocol: str, model: str, settings: Settings) -> Iterator[str]:
    """Yield the values that no model of the provider takes; other servers may take them."""
    most = _MOST_STOPS.get(protocol)
    if most is not None and len(settings.stop or ()) > most:
        yield f"stop with {len(settings.stop or ())} texts ({model} takes {most})"
    if protocol != "anthropic" and (settings.temperature or 0) > _HOTTEST:
        yield f"temperature {settings.temperature:g} ({model} takes 0 to {_HOTTEST})"


def refuse_settings(
    settings: Settings, refused: Mapping[str, str], protocol: str, model: str, others: Iterable[str] = ()
) -> None:
    """Raise `CannotCarry` with all settings that the protocol has no field for, or that the model refuses.

    Args:
        settings: The settings of the request.
        refused: Settings without a field in this protocol → what to use in their place.
        protocol: Its name.
        model: The asked model.
        others: Further settings that the protocol refuses, each with what it takes.
    """
    named = [f"{name} ({instead})" for name, instead in refused.items() if getattr(settings, name) is not None]
    by_model = [line for line in refused_by_model(protocol, model, settings) if line.split(" ")[0] not in refused]
    level, effort = settings.thinking_level, settings.reasoning_effort
    if level is not None and effort is not None and level.lower() != effort.lower():
        by_model.append(f"thinking_level {level!r} and reasoning_effort {effort!r} (two names of one setting)")
    by_model += others
    told = [f"the {protocol} protocol cannot carry {'; '.join(named)}"] if named else []
    if by_model:
        told.append(f"not accepted: {'; '.join(by_model)}")
    if told:
        raise CannotCarry("; ".join(told))


def _refusals(family: ModelSettings, model: str, settings: Settings) -> Iterator[str]:
    for name in ("thinking_level", "reasoning_effort"):
        value = getattr(settings, name)
        if value is None or family.efforts is None or value.lower() in family.efforts:
            continue
        taken = f"{model} takes {', '.join(family.efforts)}" if family.efforts else _instead_of_effort(family, model)
        yield f"{name} {value!r} ({taken})"
    budget = settings.thinking_budget
    if budget is not None and family.budget is not None and not _takes_budget(family, budget):
        yield f"thinking_budget {budget} ({_budgets(family, model)})"
    if family.sampling in ("never", "without_thinking"):
        yield from _sampling_refusals(family, model, settings)
    if not family.takes_both and settings.temperature is not None and settings.top_p is not None:
        yield f"top_p {settings.top_p:g} ({model} takes temperature or top_p, not both)"
    if settings.stop and not family.stop:
        yield f"stop ({model} takes none)"


def _instead_of_effort(family: ModelSettings, model: str) -> str:
    return f"{model} takes thinking_budget" if family.budget else f"{model} does not take it"


def _takes_budget(family: ModelSettings, budget: int) -> bool:
    if budget in family.special_budgets:
        return True
    return bool(family.budget) and family.budget[0] <= budget <= family.budget[1]


def _budgets(family: ModelSettings, model: str) -> str:
    words = {0: "0 = off", -1: "-1 = the model decides"}
    special = [words[value] for value in family.special_budgets]
    if not family.budget:
        taken = f"takes only {', '.join(special)}" if special else "does not take it"
        instead = f"; use reasoning_effort: {', '.join(family.efforts)}" if family.efforts else ""
        return f"{model} {taken}{instead}"
    return f"{model} takes {', '.join([f'{family.budget[0]} to {family.budget[1]}', *special])}"


def _sampling_refusals(family: ModelSettings, model: str, settings: Settings) -> Iterator[str]:
    if family.sampling == "without_thinking" and not _thinks(family, settings):
        return
    condition = "" if family.sampling == "never" else " while it thinks"
    takes_one = family.thinking is None or family.sampling == "without_thinking"
    for name in _SAMPLING:
        value = getattr(settings, name)
        if value is None:
            continue
        if name != "temperature" or not takes_one:
            yield f"{name} {value:g} ({model} does not take it{condition})"
        elif value != 1:
            yield f"{name} {value:g} ({model} takes only 1{condition})"


def _thinks(family: ModelSettings, settings: Settings) -> bool:
    if family.thinking is not None:  # Anthropic: an effort alone does not switch thinking on
        return bool(settings.thinking_budget) or bool(family.always_thinks)
    return (effort_of(settings) or family.default_effort or _OFF) != _OFF
