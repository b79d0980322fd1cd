"""How unlike the replies to one prompt are, and the statistics that an audit makes of it. Pure.

The distance of two texts is the share of places at which they differ, counted from their beginning and from their end.
A place counts the less the farther it is from there: after a first difference, two texts differ by chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from convbatch.auditing.replies import Both

if TYPE_CHECKING:
    from convbatch.auditing.permutation import Floats, Labels

CHARACTERS = 200
"""Places of a text that are compared, from each end."""
_HALVED = 5
"""Place that counts half as much as the first one."""
_AT_ONCE = 32
"""Places that are compared at once: limits the memory."""
STATISTICS = ("beginnings", "endings", "variety", "length")
"""Squared discrepancies of beginnings and of endings, difference of the distances within a side, of log lengths."""
SQUARED = slice(0, 2)
"""Those that a difference makes larger, whichever side it favours."""


@dataclass(frozen=True, slots=True)
class PromptDistances:
    """Distances between all replies to one prompt, those of the reference first."""

    both: Both
    beginnings: Floats
    endings: Floats
    lengths: Floats
    """Logarithms."""

    @classmethod
    def of(cls, both: Both) -> PromptDistances:
        """Measure the replies of both sides; spaces around a text do not count."""
        import numpy as np

        texts = [(reply.text or "").strip() for reply in (*both.reference, *both.candidate)]
        lengths = np.log([max(1, len(text)) for text in texts])
        return cls(both, distances(texts), distances([text[::-1] for text in texts]), lengths)

    @property
    def labels(self) -> Labels:
        """Whether each reply is one of the candidate, as it is: one row."""
        import numpy as np

        return (np.arange(len(self.lengths)) >= len(self.both.reference))[None, :]

    def statistics(self, labels: Labels) -> Floats:
        """Return `STATISTICS` as rows, for replies so labelled against the others, each row of labels as a column."""
        import numpy as np

        theirs = labels.astype(float)
        begun, variety = _squared(self.beginnings, theirs)
        sums, m = theirs @ self.lengths, theirs[0].sum()
        longer = sums / m - (self.lengths.sum() - sums) / (theirs.shape[1] - m)
        return np.array([begun, _squared(self.endings, theirs)[0], variety, longer])

    def within(self) -> tuple[float, float]:
        """Return the mean distance of two replies of the reference, and of two of the candidate."""
        ours = len(self.both.reference)
        theirs = len(self.lengths) - ours
        sums = self.beginnings[:ours, :ours].sum(), self.beginnings[ours:, ours:].sum()
        return float(sums[0]) / (ours * (ours - 1)), float(sums[1]) / (theirs * (theirs - 1))


def _squared(apart: Floats, theirs: Floats) -> tuple[Floats, Floats]:
    """Return the unbiased squared maximum mean discrepancy, and the mean distance within theirs minus the other's."""
    import numpy as np

    m = theirs[0].sum()
    n = theirs.shape[1] - m
    inside_theirs = np.einsum("ij,ij->i", theirs @ apart, theirs)
    across = theirs @ apart.sum(axis=1) - inside_theirs
    inside_ours = apart.sum() - inside_theirs - 2 * across
    within = inside_theirs / (m * (m - 1)), inside_ours / (n * (n - 1))
    return 2 * across / (m * n) - within[0] - within[1], within[0] - within[1]


def foreign(prompts: Sequence[PromptDistances]) -> Floats:
    """Return the mean squared discrepancies of the reference's replies to each prompt and to the next one.

    Returns:
        Of beginnings and of endings.
    """
    import numpy as np

    found = np.zeros(2)
    if len(prompts) < 2:
        return found
    for one, other in zip(prompts, [*prompts[1:], prompts[0]], strict=True):
        joined = PromptDistances.of(Both(one.both.reference, other.both.reference))
        found += joined.statistics(joined.labels)[SQUARED, 0]
    return found / len(prompts)


def distances(texts: Sequence[str]) -> Floats:
    """Return the weighted share of places at which two texts differ, up to the end of the longest or `CHARACTERS`."""
    import numpy as np

    length = max(1, min(CHARACTERS, max(map(len, texts))))
    whole = "".join(text[:length].ljust(length, "\0") for text in texts)  # \0: behind the end of a text
    codes = np.frombuffer(whole.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).reshape(len(texts), length)
    weights = _weights(length)
    found = np.zeros((len(texts), len(texts)))
    for start in range(0, length, _AT_ONCE):
        part = codes[:, start : start + _AT_ONCE]
        found += (part[:, None, :] != part[None, :, :]) @ weights[start : start + _AT_ONCE]
    return found


@cache
def _weights(length: int) -> Any:
    import numpy as np

    weights = 1.0 / (np.arange(length) + _HALVED)
    return weights / weights.sum()
