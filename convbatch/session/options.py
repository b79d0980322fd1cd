"""The options of a run, a resumed run and a judge, as they were given; None = not given.

Whether they can work together is checked in `prepare.py` and `judge.py`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convbatch.errors import SetupError


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What `convbatch run` was asked; None = not said, the configuration or the default decides."""

    datasets: tuple[Path, ...]
    models: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    config: Path | None = None
    out: Path | None = None
    concurrency: int | None = None
    rpm: int | None = None
    tpm: int | None = None
    rpd: int | None = None
    repeats: int | None = None
    limit: int | None = None
    ids: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    history: str | None = None
    temperature: float | None = None
    max_output_tokens: int | None = None
    seed: int | None = None
    thinking_budget: int | None = None
    params: tuple[str, ...] = ()
    max_attempts: int | None = None
    attempt_timeout_s: float | None = None
    deadline_s: float | None = None
    reuse: str | None = None
    max_cost: str | None = None
    """`5USD`; a bare number where all targets bill one currency."""
    fail_under: str | None = None
    """`0.95` or `95%`: the share of dialogues that must pass."""
    judge: str | None = None
    """`model@gateway`: who judges the replies whose checks ask for it, once they have been received."""
    progress: bool = True
    env_file: Path | None = None
    from_environment: tuple[str, ...] = ()
    """Environment variables that stood in for options; printed in the plan."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeOptions:
    """What `convbatch resume` was asked."""

    run: str
    concurrency: int | None = None
    rpm: int | None = None
    tpm: int | None = None
    rpd: int | None = None
    max_attempts: int | None = None
    attempt_timeout_s: float | None = None
    deadline_s: float | None = None
    retry_errors: bool = True
    salvage: bool = False
    max_cost: str | None = None
    """For the whole run, earlier sessions included; None = as before."""
    progress: bool = True
    env_file: Path | None = None
    from_environment: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeOptions:
    """What `convbatch check` was asked about its judge."""

    judge: str
    config: Path | None = None
    concurrency: int | None = None
    rpm: int | None = None
    tpm: int | None = None
    max_cost: str | None = None
    """For the whole run, earlier sessions included; None = as before."""
    progress: bool = True
    env_file: Path | None = None


_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def parse_seconds(text: str | None, option: str) -> float | None:
    """A duration as people write it: 90, 90s, 1.5m, 2h.

    Raises:
        SetupError: Not a positive duration.
    """
    if text is None:
        return None
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)\s*", text)
    value = float(match[1]) * _UNITS.get(match[2], math.nan) if match else math.nan
    if not (math.isfinite(value) and value > 0):
        raise SetupError(f"{option} needs a duration", found=repr(text), hint="write 90s, 15m or 2h")
    return value


_COUNTS = ("concurrency", "rpm", "tpm", "rpd", "repeats", "limit", "max_attempts")
_DURATIONS = ("attempt_timeout_s", "deadline_s")


def refuse_numbers(options: RunOptions) -> None:
    """Counts and durations that mean nothing: from Python they come unchecked, and 0 must not mean the default."""
    for name in (*_COUNTS, *_DURATIONS):
        value: Any = getattr(options, name)
        if value is None:
            continue
        least, kind = (1, int) if name in _COUNTS else (1e-9, (int, float))
        if not isinstance(value, kind) or not least <= value < math.inf:
            what = "a whole number of at least 1" if name in _COUNTS else "a number of seconds above 0"
            raise SetupError(f"{name} must be {what}", found=repr(value), hint="leave it out for the default")
