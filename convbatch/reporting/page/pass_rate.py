"""The share of dialogues that passed, with its interval: in words, and as a bar."""

from __future__ import annotations

import math
from typing import NamedTuple

from convbatch.console.html import Markup, element
from convbatch.reporting.page.tables import counted

_Z95 = 1.959963984540054
_BAR = 1_000
"""Units of a bar's width."""


class PassRate(NamedTuple):
    """The share of dialogues that passed at one target."""

    passed: int
    judged: int
    low: float
    high: float
    """Ends of the 95 % interval."""
    undecided: int = 0

    @classmethod
    def of(cls, passed: int, judged: int, *, undecided: int = 0, repeats: int = 1) -> PassRate:
        """Compute the interval; repeats of a dialogue count as one dialogue for it."""
        low, high = wilson_interval(passed / judged, max(1, judged // repeats))
        return cls(passed, judged, low, high, undecided)

    @property
    def rate(self) -> float:
        """The share."""
        return self.passed / self.judged

    @property
    def sentence(self) -> str:
        """The counts and the interval in words."""
        open_ones = f"; {self.undecided:,} neither passed nor failed" if self.undecided else ""
        counts = f"{self.passed:,} of {counted(self.judged, 'dialogue')} passed"
        return f"{counts} (95 % interval {share_text(self.low)} to {share_text(self.high)}){open_ones}"

    def bar(self) -> Markup:
        """Return a bar of the share with its interval."""
        low, rate, high = (round(_BAR * share) for share in (self.low, self.rate, self.high))
        parts = (
            element("rect", class_="track", width=str(_BAR), height="10"),
            element("rect", class_="value", width=str(rate), height="10"),
            element("rect", class_="interval", x=str(low), y="4", width=str(max(2, high - low)), height="2"),
            element("rect", class_="limit", x=str(min(low, _BAR - 4)), y="1", width="4", height="8"),
            element("rect", class_="limit", x=str(max(high - 4, 0)), y="1", width="4", height="8"),
        )
        return element(
            "svg", *parts, class_="bar", viewBox=f"0 0 {_BAR} 10", preserveAspectRatio="none", aria_hidden="true"
        )


def share_text(share: float) -> str:
    """Return a share in per cent; one that is almost none or all is never rounded to none or all."""
    text = f"{share * 100:.1f}".removesuffix(".0")
    if text in ("0", "100") and share not in (0.0, 1.0):
        return "< 0.1 %" if text == "0" else "> 99.9 %"
    return f"{text} %"


def wilson_interval(rate: float, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share.

    Args:
        rate: The share, 0 to 1.
        count: Of what it is the share; at least 1.

    Source: Wilson 1927, Journal of the American Statistical Association 22:209.
    """
    spread = _Z95 * _Z95 / count
    centre = (rate + spread / 2) / (1 + spread)
    half = _Z95 * math.sqrt(rate * (1 - rate) / count + spread / (4 * count)) / (1 + spread)
    # The interval of none and of all reaches the end exactly, but for rounding.
    return max(0.0, centre - half) if rate > 0 else 0.0, min(1.0, centre + half) if rate < 1 else 1.0
