"""Questions about what the replies say: repeats that are identical, and whether both sides draw from one distribution.

Pure. Only prompts without a live reply in them are used, and only replies at a temperature that is known to be above 0:
at 0, repeats are expected to agree, and honest servers of one model may each agree on another text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from convbatch.auditing.finding import (
    LEVEL,
    Finding,
    Rules,
    evidence,
    exact_limit,
    percent,
    signed_percent,
    untested,
)
from convbatch.auditing.permutation import (
    drawn_labels,
    fisher,
    normal_power,
    normal_quantile,
    share_beyond,
    share_interval,
    share_power,
    times_needed,
)
from convbatch.auditing.replies import AuditedReply, Both, Side, by_prompt, pair_up, repeats_in_order
from convbatch.auditing.shares import needed_to_find
from convbatch.comparison.stats import Interval, sign_flip_midp

if TYPE_CHECKING:
    from convbatch.auditing.permutation import Floats, Labels

MIN_PAIRS = 60
"""Pairs of repeats at each side below which `replay` is not tested."""
REPLAYED = 0.1
"""Difference of the shares of identical pairs that `replay` rules out."""
CHARACTERS = 200
"""Beginning of a reply that is compared; what follows a first difference says little more."""
SWAPPED, SWAPPED_FOUND = 0.2, 0.3
"""Share of foreign replies that `distribution` rules out, and the one that its power is for."""
MAX_REPLIES = 100
"""Replies to a prompt at each side that are compared: the time grows with their square."""
MIN_REPLIES = 2
"""Replies to a prompt at each side without which no distance within a side is known."""


# --- replay


def replay(reference: Side, candidate: Side, rules: Rules) -> Finding | None:
    """Compare how often repeats of a prompt have the same text: more often than at the reference suggests a cache.

    Fisher's exact test over pairs of repeats k and k + 1, and a sign-flip test over dialogues, because the pairs of a
    dialogue are not independent: the larger p counts.
    """
    prompts = pair_up(reference, candidate, by_prompt, _is_drawn)
    pairs = {key: (_alike(both.reference), _alike(both.candidate)) for key, both in prompts.items()}
    pairs = {key: both for key, both in pairs.items() if both[0] and both[1]}
    if not pairs:
        return None
    counts = [sum(len(both[side]) for both in pairs.values()) for side in (0, 1)]
    alike = [sum(sum(both[side]) for both in pairs.values()) for side in (0, 1)]
    detail = "; ".join(
        f"{side.name}: {alike[at]} of {counts[at]} pairs of repeats identical"
        for at, side in enumerate((reference, candidate))
    )
    if min(counts) < MIN_PAIRS:
        return untested("replay", f"fewer than {MIN_PAIRS} pairs; {detail}", needed=f"{MIN_PAIRS} pairs at each side")
    shares = alike[0] / counts[0], alike[1] / counts[1]
    effect = shares[1] - shares[0]
    told = sorted(prompts, key=lambda key: -abs(_excess(pairs[key])) if key in pairs else 0.0)
    change = min(REPLAYED, max(shares[0], 1 - shares[0]))
    enough = needed_to_find(shares[0], change, (counts[0], counts[1]), rules.level)
    return Finding(
        question="replay",
        detail=detail,
        measure="difference of the share of identical pairs of repeats",
        effect=effect,
        interval=share_interval(*shares, (counts[0], counts[1]), level=LEVEL),
        p=max(fisher(alike, counts), _by_dialogue(prompts, pairs)),
        limit=REPLAYED,
        power=share_power(shares[0], change, (counts[0], counts[1]), level=rules.level),
        needed=None if enough is None else f"about {max(enough, MIN_PAIRS):,} pairs at each side",
        evidence=evidence([_identical(prompts[key]) for key in told if key in pairs and _excess(pairs[key])]),
    )


def _is_drawn(reply: AuditedReply) -> bool:
    return reply.is_fixed and reply.is_sampled and bool(reply.text)


def _alike(replies: Sequence[AuditedReply]) -> list[bool]:
    return [one.text == other.text for one, other in repeats_in_order(replies)]


def _excess(both: tuple[list[bool], list[bool]]) -> float:
    """Return the share of identical pairs of the candidate above that of the reference."""
    return sum(both[1]) / len(both[1]) - sum(both[0]) / len(both[0])


def _by_dialogue(prompts: Mapping[bytes, Both], pairs: Mapping[bytes, tuple[list[bool], list[bool]]]) -> float:
    sums: dict[str, float] = {}
    for key, both in pairs.items():
        name = prompts[key].reference[0].dialogue
        sums[name] = sums.get(name, 0.0) + _excess(both)
    return sign_flip_midp(list(sums.values())).p


def _identical(both: Both) -> tuple[AuditedReply | None, AuditedReply | None]:
    alike = next((one for one, other in repeats_in_order(both.candidate) if one.text == other.text), both.candidate[0])
    return both.reference[0], alike


# --- distribution


@dataclass(frozen=True, slots=True)
class _Prompt:
    """Distances between all replies to one prompt, those of the reference first."""

    both: Both
    ours: int
    distances: Floats
    lengths: Floats
    """Logarithms."""

    def squared(self, labels: Labels) -> Floats:
        """Return, for each row of labels, the unbiased squared MMD between replies so labelled and the others."""
        import numpy as np

        theirs = labels.astype(float)
        m = theirs[0].sum()
        n = theirs.shape[1] - m
        inside_theirs = np.einsum("ij,ij->i", theirs @ self.distances, theirs)
        across = theirs @ self.distances.sum(axis=1) - inside_theirs
        inside_ours = self.distances.sum() - inside_theirs - 2 * across
        return 2 * across / (m * n) - inside_theirs / (m * (m - 1)) - inside_ours / (n * (n - 1))

    def longer(self, labels: Labels) -> Floats:
        """Return, for each row of labels, the mean log length of replies so labelled minus that of the others."""
        sums, m = labels @ self.lengths, labels[0].sum()
        return sums / m - (self.lengths.sum() - sums) / (labels.shape[1] - m)

    @property
    def labels(self) -> Labels:
        """The labels as they are: one row."""
        import numpy as np

        return (np.arange(len(self.lengths)) >= self.ours)[None, :]


def distribution(reference: Side, candidate: Side, rules: Rules) -> Finding | None:
    """Test that both sides draw their replies to each prompt from the same distribution.

    The statistic is the mean over prompts of the squared maximum mean discrepancy with a Hamming kernel on the first
    characters, and the mean difference of log lengths; the larger of both, each in its own standard deviations,
    is compared with permutations within prompts. The effect is a share of foreign replies: the share of the reference's
    replies that, exchanged for its replies to other prompts, would give the same discrepancy.

    Source: Gao, Liang, Guestrin 2024, "Model Equality Testing", arXiv:2410.20247.
    """
    found = pair_up(reference, candidate, by_prompt, lambda reply: reply.is_fixed and bool(reply.text))
    if not found:
        return None
    drawn = pair_up(reference, candidate, by_prompt, _is_drawn)
    if not drawn:
        why = "no reply to a common prompt at a temperature that is known to be above 0"
        return untested("distribution", why, needed="a run with a temperature above 0, e.g. --temperature 1")
    usable = [both for both in drawn.values() if min(len(both.reference), len(both.candidate)) >= MIN_REPLIES]
    if not usable:
        why = f"one reply to each of {len(drawn)} prompts: no distance within a side is known"
        return untested("distribution", why, needed="a run with repeats, e.g. --repeats 5")
    least = [Both(both.reference[:MAX_REPLIES], both.candidate[:MAX_REPLIES]) for both in usable]
    return _compare_prompts([_measured(both) for both in least], (reference.name, candidate.name), rules)


def _compare_prompts(prompts: Sequence[_Prompt], names: tuple[str, str], rules: Rules) -> Finding:
    import numpy as np

    squared, longer = np.zeros(rules.draws), np.zeros(rules.draws)
    sizes = [(one.ours, len(one.lengths) - one.ours) for one in prompts]
    for one, labels in zip(prompts, drawn_labels(sizes, rules.draws, rules.seed), strict=True):
        squared += one.squared(labels) / len(prompts)
        longer += one.longer(labels) / len(prompts)
    apart = np.array([one.squared(one.labels)[0] for one in prompts])
    more = float(np.mean([one.longer(one.labels)[0] for one in prompts]))
    sds = float(squared.std()), float(longer.std())
    scores = np.maximum(_score(squared, sds[0]), _score(np.abs(longer), sds[1]))
    observed = max(_score(np.array([apart.mean()]), sds[0])[0], _score(np.array([abs(more)]), sds[1])[0])
    foreign = _foreign(prompts)
    share = _as_share(float(apart.mean()), foreign)
    replies = sum(len(one.lengths) - one.ours for one in prompts)
    interval = _share_interval(apart, foreign, replies)
    power = 0.0 if foreign <= 0 else normal_power(SWAPPED_FOUND**2 * foreign, sds[0], sds[0], level=rules.level)
    times = None if foreign <= 0 else times_needed(SWAPPED_FOUND**2 * foreign, sds[0], level=rules.level)
    order = np.argsort(-apart)
    return Finding(
        question="distribution",
        detail=f"{len(prompts)} prompts, {replies} replies of {names[1]}: as unlike those of {names[0]} as with "
        f"{percent(share)} foreign replies; lengths {signed_percent(math.expm1(more))}",
        measure="share of foreign replies that would differ as much",
        effect=share or abs(math.expm1(more)) * float(sds[1] > 0),
        interval=interval,
        p=share_beyond(float(observed), scores),
        limit=SWAPPED,
        power=power,
        power_for=SWAPPED_FOUND,
        needed=_more_prompts(times, len(prompts)),
        evidence=evidence([_farthest(prompts[at]) for at in order if apart[at] > 0]),
    )


def _more_prompts(times: float | None, prompts: int) -> str | None:
    """Return how many prompts with as many repeats it takes; the statistic's deviation falls with their root."""
    return None if times is None else f"about {max(2, math.ceil(times * prompts)):,} prompts with as many repeats"


def _score(values: Floats, sd: float) -> Any:
    import numpy as np

    return values / sd if sd > 0 else np.zeros_like(values)


def _measured(both: Both) -> _Prompt:
    import numpy as np

    texts = [reply.text or "" for reply in (*both.reference, *both.candidate)]
    lengths = np.log([len(text) for text in texts])
    return _Prompt(both, len(both.reference), _distances(texts), lengths)


def _distances(texts: Sequence[str]) -> Floats:
    """Return the share of places at which two texts differ, up to the end of the longest or `CHARACTERS`."""
    import numpy as np

    length = min(CHARACTERS, max(map(len, texts)))
    codes = np.zeros((len(texts), length), dtype=np.int32)  # 0: behind the end of a text
    for row, text in enumerate(texts):
        codes[row, : len(text)] = [ord(char) for char in text[:length]]
    return (codes[:, None, :] != codes[None, :, :]).mean(axis=2)


def _foreign(prompts: Sequence[_Prompt]) -> float:
    """Return the mean squared MMD between the reference's replies to each prompt and to the next one."""
    import numpy as np

    if len(prompts) < 2:
        return 0.0
    found: list[float] = []
    for one, other in zip(prompts, [*prompts[1:], prompts[0]], strict=True):
        texts = [[reply.text or "" for reply in prompt.both.reference] for prompt in (one, other)]
        joined = _Prompt(one.both, one.ours, _distances([*texts[0], *texts[1]]), np.zeros(sum(map(len, texts))))
        found.append(float(joined.squared(joined.labels)[0]))
    return float(np.mean(found))


def _as_share(squared: float, foreign: float) -> float:
    """Return the share of foreign replies with this squared MMD: a mixture's grows with the square of its share."""
    return min(1.0, math.sqrt(max(0.0, squared) / foreign)) if foreign > 0 else 0.0


def _share_interval(apart: Floats, foreign: float, replies: int) -> Interval | None:
    if foreign <= 0 or len(apart) < 2:
        return None
    half = normal_quantile(0.5 + LEVEL / 2) * float(apart.std(ddof=1)) / math.sqrt(len(apart))
    low, high = (float(apart.mean()) + sign * half for sign in (-1, 1))
    return Interval(_as_share(low, foreign), max(_as_share(high, foreign), exact_limit(replies)))


def _farthest(prompt: _Prompt) -> tuple[AuditedReply | None, AuditedReply | None]:
    """Return the candidate's reply farthest from the reference's, and the reference's nearest to its own."""
    ours = prompt.ours
    across = prompt.distances[:ours, ours:].mean(axis=0)
    inside = prompt.distances[:ours, :ours].mean(axis=0)
    return prompt.both.reference[int(inside.argmin())], prompt.both.candidate[int(across.argmax())]
