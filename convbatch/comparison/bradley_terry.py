"""Wins of targets over each other → their strengths by Bradley and Terry, with a clustered bootstrap. Pure numbers.

A tie is half a win for each. The quantity that is shown is the share: the chance to win against another target, mean
over all others. Unlike a strength it has a limit where a target always wins, and a target that always loses does not
move the shares of the others to infinity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from convbatch.comparison.stats import Interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

PRIOR = 0.1
"""Comparisons added to each pair, tied: without any, the strength of a target that always wins is infinite."""
DRAWS = 2_000
_CHUNK = 500
_STEPS, _LONGEST_STEP = 60, 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """One target."""

    strength: float
    """Natural logarithm of the odds, against the mean of all targets."""
    share: float
    """Mean chance to win against another target, ties as half."""
    ci: Interval
    """Of the share."""
    is_bounded: tuple[bool, bool]
    """Whether the strength has a lower and an upper limit: not where a target, or a group, never lost or never won."""


def fit(wins: Floats, level: float, *, draws: int = DRAWS, seed: int = 0) -> list[Fitted]:
    """Fit the strengths of all targets.

    An interval's ends are quantiles under random weights of whole dialogues, each with one more dialogue of mean size
    in which the target loses (low end) or wins (high end) every time: a spread that believes in no defeat but those
    seen is too short.

    Args:
        wins: Dialogue, target, other target: wins of the one over the other, a tie counts as 0.5.
        level: Error probability of an interval, already divided by the number of targets.
        draws: Random weightings.
        seed: Of them.

    Source: Bradley and Terry 1952, Biometrika 39:324; exponential weights: Rubin 1981, Annals of Statistics 9:130; the
        additional dialogue as in `harm_bound`, by analogy (`python -m benchmarks -s prefer`).
    """
    import numpy as np

    count = wins.shape[1]
    total = wins.sum(axis=0)
    strengths = solve(total[None])[0]
    shares = mean_shares(strengths[None])[0]
    weights = np.random.default_rng(seed).standard_exponential((draws, len(wins) + 1))
    flat = wins.reshape(len(wins), -1)
    drawn = (weights[:, :-1] @ flat).reshape(draws, count, count)
    sizes = (wins + wins.transpose(0, 2, 1)).mean(axis=0)
    reaches = _reach(total)
    found: list[Fitted] = []
    for n in range(count):
        ends: list[float] = []
        for side, share in ((0, level / 2), (1, 1 - level / 2)):
            more = np.zeros((count, count))
            if side:
                more[n] = sizes[n]
            else:
                more[:, n] = sizes[:, n]
            again = drawn + weights[:, -1, None, None] * more
            values = np.concatenate(
                [mean_shares(solve(part, strengths))[:, n] for part in np.array_split(again, max(1, draws // _CHUNK))]
            )
            ends.append(float(np.quantile(values, share)))
        found.append(
            Fitted(
                strength=float(strengths[n]),
                share=float(shares[n]),
                ci=Interval(
                    min(ends[0], float(shares[n])) if total[n].any() else 0.0,
                    max(ends[1], float(shares[n])) if total[:, n].any() else 1.0,
                ),
                is_bounded=(bool(reaches[n].all()), bool(reaches[:, n].all())),
            )
        )
    return found


def solve(wins: Floats, start: Floats | None = None) -> Floats:
    """Return the strengths with the largest likelihood, mean 0, for each of several tables of wins.

    Args:
        wins: Table, target, other target.
        start: Strengths to begin with.
    """
    import numpy as np

    count = wins.shape[1]
    prior = PRIOR / 2 * (1 - np.eye(count))
    wins = wins + prior
    games = wins + wins.transpose(0, 2, 1)
    won = wins.sum(axis=2)
    strengths = np.zeros(won.shape) if start is None else np.broadcast_to(start, won.shape).copy()
    for _ in range(_STEPS):
        chances = 1 / (1 + np.exp(strengths[:, None, :] - strengths[:, :, None]))
        slope = won - (games * chances).sum(axis=2)
        if np.abs(slope).max() <= 1e-6 * games.max():
            break
        spread = games * chances * (1 - chances)
        curve = -spread
        index = np.arange(count)
        curve[:, index, index] = spread.sum(axis=2)
        curve += spread.mean(axis=(1, 2))[:, None, None]  # fixes the mean, which the likelihood leaves open
        step = np.linalg.solve(curve, slope[:, :, None])[:, :, 0]
        longest = np.abs(step).max(axis=1, keepdims=True)
        strengths = strengths + step * np.minimum(1.0, _LONGEST_STEP / np.maximum(longest, 1e-300))
    return strengths - strengths.mean(axis=1, keepdims=True)


def mean_shares(strengths: Floats) -> Floats:
    """Return each target's mean chance to win against another one."""
    import numpy as np

    count = strengths.shape[1]
    chances = 1 / (1 + np.exp(strengths[:, None, :] - strengths[:, :, None]))
    return (chances.sum(axis=2) - 0.5) / (count - 1)


def _reach(wins: Floats) -> NDArray[np.bool_]:
    """Return whether a target has scored against another, or against one that has, and so on.

    A strength is finite where it reaches all others and all others reach it (Ford 1957, American Mathematical Monthly
    64:28).
    """
    import numpy as np

    found = (wins > 0) | np.eye(len(wins), dtype=bool)
    for middle in range(len(wins)):
        found |= found[:, middle, None] & found[None, middle, :]
    return found
