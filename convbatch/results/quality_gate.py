"""`--fail-under`: parse the share of dialogues that must pass, and decide whether a run reaches it.

The gate is decided for complete runs only: with an open turn it neither passes nor fails, and with a check without a
verdict it fails only where that verdict would not change the result.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from convbatch.dataset.reader import count_of
from convbatch.errors import SetupError
from convbatch.lazy_regex import lazy_regex

if TYPE_CHECKING:
    from convbatch.results.summary import TargetSummary

_PASS_RATE = lazy_regex(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(%?)\s*")


class QualityGate(NamedTuple):
    """Result of the gate."""

    passed: bool | None
    """None: not decided."""
    lines: list[str]
    """Text to print."""


def parse_pass_rate(text: str | float | None) -> str | None:
    """Parse a share written as 0.95 or 95%; return it as a plain decimal.

    Raises:
        SetupError: Not a share from 0 to 1.
    """
    if text is None:
        return None
    match = _PASS_RATE.fullmatch(str(text))
    value = None if match is None else Decimal(match[1]) / (100 if match[2] else 1)
    if value is None or value > 1:
        hint = f"write --fail-under {_plain_share(str(text)) or '0.95, or --fail-under 95%'}"
        raise SetupError("--fail-under needs a share from 0 to 1", found=repr(text), hint=hint)
    return f"{value:f}"


def _plain_share(text: str) -> str | None:
    """Return a share of another form as `parse_pass_rate` reads it: `95`, `0,95` or `95 percent`; None for no share."""
    plain = unicodedata.normalize("NFKC", text).strip().lower().replace(",", ".")
    number = re.fullmatch(r"(\d{1,3}(?:\.\d+)?)\s*(%|percent)?", plain)
    if number is None or not 0 <= Decimal(number[1]) <= 100:
        return None
    if number[2] is None and 1 < Decimal(number[1]) < 2:  # 1.5: a share or a percentage
        return None
    return f"{number[1]}%" if number[2] or Decimal(number[1]) > 1 else number[1]


def evaluate_gate(totals: Sequence[TargetSummary], fail_under: str, *, lacks_verdicts: bool = False) -> QualityGate:
    """Return whether every target passes its share of dialogues; dialogues without checks do not count.

    Args:
        totals: A row per target.
        fail_under: The share, from `parse_pass_rate`.
        lacks_verdicts: Whether the run's judge has left a verdict open, even one that would not change the result: the
            gate can then fail, but not pass.
    """
    if any(total.open or not total.judged + total.undecided for total in totals):
        return QualityGate(None, [f"gate: not decided, the run is incomplete (--fail-under {fail_under})"])
    failed = [_failure(total, fail_under) for total in totals if falls_short(total, fail_under)]
    undecided = [
        f"gate: not decided, the run is incomplete: {count_of(total.undecided, 'dialogue')} of {total.target} "
        f"without a verdict (--fail-under {fail_under})"
        for total in totals
        if total.undecided
    ]
    if failed:
        return QualityGate(False, failed)
    if lacks_verdicts and not undecided:
        undecided = [f"gate: not decided, checks are without a verdict (--fail-under {fail_under})"]
    return (
        QualityGate(None, undecided) if undecided else QualityGate(True, [f"gate: passed (--fail-under {fail_under})"])
    )


def falls_short(total: TargetSummary, fail_under: str) -> bool:
    """Return whether too few dialogues pass, even if all undecided ones did."""
    return total.passed + total.undecided < Decimal(fail_under) * (total.judged + total.undecided)


def _failure(total: TargetSummary, fail_under: str) -> str:
    of_all = count_of(total.judged + total.undecided, "dialogue")
    even_so = f"; the {total.undecided:,} without a verdict cannot change that" if total.undecided else ""
    return f"gate: {total.target} passed {total.passed} of {of_all}, less than --fail-under {fail_under}{even_so}"
