"""Questions about names and counts: which model replied, and do both sides count alike. Pure."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from convbatch.auditing.finding import (
    Evidence,
    Finding,
    Question,
    Rules,
    combine,
    evidence,
    exact_limit,
    replies_for,
    signed_percent,
    untested,
)
from convbatch.auditing.permutation import Stratum, difference_test, normal_power, times_needed
from convbatch.auditing.replies import (
    AuditedReply,
    Both,
    Side,
    by_dialogue,
    by_place,
    by_prompt,
    conversations,
    group,
    pair_up,
)
from convbatch.auditing.shares import ShareQuestion, compare_shares
from convbatch.comparison.stats import Interval, Mean, paired_mean, ratio_of_totals
from convbatch.served_model import canonical_name

OTHER_NAMES = 0.1
"""Share of conversations under another name that `served_name` rules out."""
OTHER_COUNTS = 0.2
"""Share of prompts with another count that `input_counts` rules out."""
OUTPUT_INFLATED = 0.05
"""Relative inflation of output counts that `output_counts` rules out."""
REASONING_CHANGED = 0.25
"""Relative change of reasoning tokens that `reasoning_tokens` rules out."""
COUNTED_APART = 0.01
"""Relative difference of output counts that honest gateways may show: they trim texts differently."""
LEAST_TOKENS = 10
"""Replies with fewer tokens tell little of tokens per character: rounding and markers outweigh all else."""
LONGER = 1.5
"""Output per character, as a multiple of the other side's visible output, from which reasoning may be inside."""
MARKERS = (-1, 0, 1)
"""Tokens of a reply that one gateway may count and another not: the token that ends it."""
SAME_TEXT_APART = 2.0
"""Tokens by which two gateways may count the same reply differently: a marker, a text that is split otherwise."""
WRAPPER = 16
"""Tokens by which two protocols may count each prompt differently, and each earlier turn of it: frames of messages."""
LATER_COUNTS = 0.05
"""Relative difference of what later turns add to the input count, above which it is looked at."""
SLOPE_APART = 0.02
"""Tokens per token of the other side, more or less than 1, that are a factor and not rounding."""
NAMES_SHOWN = 3


# --- served name


def served_name(reference: Side, candidate: Side, rules: Rules) -> Finding | None:
    """Check that the replies of the candidate name the model that was asked.

    A name is what a gateway says of itself: the same name proves nothing, another name is `different`. Names differ in
    dull ways (`served_model.py`); a name that the reference has as well is no difference.
    """
    del rules
    if not candidate.replies:
        return None
    named = [reply for reply in candidate.replies if reply.served is not None]
    names = "; ".join(f"{side.name}: {_names(side)}" for side in (reference, candidate))
    if not named:
        return untested("served_name", f"no reply of {candidate.name} names its model; {names}")
    known = {canonical_name(reply.served) for reply in reference.replies if reply.served}
    odd = [one for one in named if one.match == "other" and canonical_name(one.served or "") not in known]
    told, wrong = conversations(named), conversations(odd)
    limit = exact_limit(told)
    silent = conversations(reply for reply in candidate.replies if reply.served is None)
    nameless = f"{silent:,} conversations have a reply without a name" if silent > OTHER_NAMES * told else None
    return Finding(
        question="served_name",
        detail=names,
        measure="share of conversations under another model's name",
        effect=wrong / told,
        interval=Interval(0.0, limit) if not wrong else Interval(wrong / told, wrong / told),
        p=0.0 if wrong else 1.0,
        limit=OTHER_NAMES,
        power=1 - (1 - OTHER_NAMES) ** told,
        needed=f"{replies_for(OTHER_NAMES)} conversations" if limit >= OTHER_NAMES else None,
        open=_other_snapshot(reference, candidate) or nameless,
        evidence=_named_otherwise(reference, odd),
    )


def _named_otherwise(reference: Side, odd: Iterable[AuditedReply]) -> tuple[Evidence, ...]:
    """Return one reply of each prompt under another name, beside the reference's."""
    ours = {reply.place: reply for reply in reversed(reference.replies)}
    theirs = list({reply.place: reply for reply in odd}.values())
    return evidence([(ours.get(one.place), one) for one in theirs], [f"served by {one.served}" for one in theirs])


def _names(side: Side) -> str:
    counts = Counter(reply.served or "not named" for reply in side.replies)
    shown = [f"{name} ({count:,})" for name, count in counts.most_common(NAMES_SHOWN)]
    return ", ".join(shown) + (" …" if len(counts) > NAMES_SHOWN else "")


def _other_snapshot(reference: Side, candidate: Side) -> str | None:
    """Return that both name dated snapshots of the asked model and have none in common; they may be equal or not."""
    ours, theirs = (
        {canonical_name(reply.served) for reply in side.replies if reply.served and reply.match == "dated"}
        for side in (reference, candidate)
    )
    if not ours or not theirs or ours & theirs:
        return None
    return f"they name different snapshots: {', '.join(sorted(ours))} and {', '.join(sorted(theirs))}"


# --- input counts


def input_counts(reference: Side, candidate: Side, rules: Rules) -> Finding | None:
    """Check that identical prompts have the same input count.

    Counts are exact: any other count for the same prompt is `different`, unless the two sides speak different protocols
    and the counts differ by a small constant for each number of messages, which is how their frames show. A prompt that
    the reference itself counts differently from one repeat to the next tells nothing.
    """
    prompts = pair_up(reference, candidate, by_prompt, lambda reply: reply.is_fixed)
    if not prompts:
        return None
    found = _same_prompts(reference, candidate, prompts)
    later = _later_turns(reference, candidate, rules)
    return found if later is None else combine("input_counts", [("same prompts", found), ("later turns", later)])


def _same_prompts(reference: Side, candidate: Side, prompts: Mapping[bytes, Both]) -> Finding:
    counted = {key: both for key, both in prompts.items() if _inputs(both.reference) and _inputs(both.candidate)}
    if not counted:
        silent = [s.name for s in (reference, candidate) if all(r.input_tokens is None for r in s.replies)]
        return untested("input_counts", f"{' and '.join(silent) or 'the same prompt at one side'}: no input counts")
    varied = [key for key, both in counted.items() if len(set(_inputs(both.reference))) > 1]
    counted = {key: both for key, both in counted.items() if key not in varied}
    if not counted:
        return untested("input_counts", f"{reference.name} counts the same prompt differently in each repeat")
    different = [both for both in counted.values() if set(_inputs(both.reference)) != set(_inputs(both.candidate))]
    odd = sorted(different, key=lambda both: -abs(_more(both)))
    limit = exact_limit(len(counted))
    is_frame = reference.protocol != candidate.protocol and _is_frame(counted.values())
    reasons = [
        "two protocols, and a small constant between them" if is_frame and odd else None,
        f"{reference.name} counts {len(varied)} other prompts differently in each repeat" if varied else None,
    ]
    return Finding(
        question="input_counts",
        detail=f"{len(odd)} of {len(counted)} identical prompts counted differently"
        + (f": {_describe(odd, candidate.name)}" if odd else ""),
        measure="share of identical prompts with another count",
        effect=len(odd) / len(counted),
        interval=Interval(len(odd) / len(counted), max(limit, len(odd) / len(counted))),
        p=1.0 if not odd or is_frame else 0.0,
        limit=OTHER_COUNTS,
        power=1 - (1 - OTHER_COUNTS) ** len(counted),
        needed=f"{replies_for(OTHER_COUNTS)} identical prompts" if limit >= OTHER_COUNTS else None,
        open="; ".join(filter(None, reasons)) or None,
        evidence=evidence(
            [(both.reference[0], both.candidate[0]) for both in odd],
            [f"{_shown(both.reference)} and {_shown(both.candidate)} input tokens" for both in odd],
        ),
    )


def _later_turns(reference: Side, candidate: Side, rules: Rules) -> Finding | None:
    """Compare by how much the count grows from turn to turn beyond the reply between them, which is live.

    This is the count of the new message, so the same at both sides. None unless it differs by far: protocols, and a
    model's signatures, add tokens of their own. The replies of both sides are counted as the reference counts, so that
    inflated output counts do not show here.
    """
    if reference.protocol != candidate.protocol or _hides_reasoning(reference, candidate):
        return None
    spoken = group(reference, by_place, lambda reply: bool(reply.text) and reply.visible_tokens is not None)
    rates = {place: _visible(replies) for place, replies in spoken.items()}
    sides = [_growth(side, rates) for side in (reference, candidate)]
    places = [place for place in sides[0] if place in sides[1]]
    if not places:
        return None
    added = [[[grown for _, grown, _ in side[place]] for side in sides] for place in places]
    strata = [Stratum(ours, theirs) for ours, theirs in added]
    test = difference_test(strata, draws=rules.draws, seed=rules.seed)
    more = test.effect / statistics.fmean(size for place in places for _, _, size in sides[0][place])
    if abs(more) <= LATER_COUNTS or abs(test.effect) <= WRAPPER / 2:
        return None
    order = sorted(zip(strata, places, strict=True), key=lambda one: -abs(one[0].difference))
    return Finding(
        question="input_counts",
        detail=f"{candidate.name} adds {test.effect:+.3g} tokens a turn to what {reference.name} counts for it "
        f"({signed_percent(more)} of the prompt; turns: {len(places)})",
        measure="relative difference of what a turn adds to the count",
        effect=more,
        p=test.p,
        limit=LATER_COUNTS,
        open="later turns are counted differently",
        evidence=evidence([(sides[0][place][0][0], sides[1][place][0][0]) for _, place in order]),
    )


def _growth(
    side: Side, rates: Mapping[tuple[str, int], float]
) -> dict[tuple[str, int], list[tuple[AuditedReply, float, int]]]:
    """Return for each live turn its replies, what each added to the count, and the count."""
    known = {(reply.conversation, reply.turn): reply for reply in side.replies}
    found: dict[tuple[str, int], list[tuple[AuditedReply, float, int]]] = {}
    for reply in side.replies:
        earlier = known.get((reply.conversation, reply.turn - 1))
        if reply.is_fixed or earlier is None or not reply.input_tokens or not earlier.input_tokens:
            continue
        if (rate := rates.get(earlier.place)) is not None:
            grown = reply.input_tokens - earlier.input_tokens - rate * len(earlier.text or "")
            found.setdefault(reply.place, []).append((reply, grown, reply.input_tokens))
    return found


def _inputs(replies: Sequence[AuditedReply]) -> list[int]:
    """Return the counts that are known: no prompt has 0 tokens."""
    return [reply.input_tokens for reply in replies if reply.input_tokens]


def _more(both: Both) -> int:
    return max(_inputs(both.candidate)) - max(_inputs(both.reference))


def _shown(replies: Sequence[AuditedReply]) -> str:
    return "/".join(str(count) for count in sorted(set(_inputs(replies))))


def _is_frame(prompts: Iterable[Both]) -> bool:
    """Whether counts differ by a small constant wherever a prompt has the same number of turns and a system text."""
    found: dict[tuple[int, bool], set[int]] = {}
    for both in prompts:
        if len(set(_inputs(both.candidate))) > 1:
            return False
        found.setdefault((both.reference[0].turn, both.reference[0].has_system), set()).add(_more(both))
    return all(
        len(more) == 1 and max(map(abs, more)) <= WRAPPER * (turns + has_system)
        for (turns, has_system), more in found.items()
    )


def _describe(odd: Sequence[Both], name: str) -> str:
    """Describe how counts differ: by a constant, as a hidden system prompt does, or by a factor in a script."""
    pairs = [(max(_inputs(both.reference)), max(_inputs(both.candidate)), both) for both in odd]
    more = [theirs - ours for ours, theirs, _ in pairs]
    if not any(more):
        return "the counts of one prompt vary between repeats"
    if len(set(more)) == 1:
        return f"{name} counts {more[0]:+d} on each, as with a hidden system prompt"
    slopes = {
        script: slope
        for script in ("Latin", "CJK")
        if (slope := _slope([(a, b) for a, b, both in pairs if _script(both.reference[0].user) == script])) is not None
    }
    told = ", ".join(f"{slope:.2f} per token in {script} text" for script, slope in slopes.items())
    kind = "another tokenizer or a factor" if any(abs(s - 1) > SLOPE_APART for s in slopes.values()) else "no factor"
    middle = statistics.median(more)
    return f"{name} counts {min(more):+d} to {max(more):+d}, median {middle:+g}" + (f"; {told}: {kind}" if told else "")


def _script(text: str) -> str:
    wide = sum("\u2e80" <= char <= "\u9fff" or "\uac00" <= char <= "\ud7af" for char in text)
    return "CJK" if 2 * wide > len(text) else "Latin"


def _slope(pairs: Sequence[tuple[int, int]]) -> float | None:
    """Return the slope of one side's counts over the other's; None with fewer than three different lengths."""
    if len({ours for ours, _ in pairs}) < 3:
        return None
    return statistics.linear_regression(*zip(*pairs, strict=True)).slope


# --- counts that contradict themselves


def contradictory_counts(side: Side) -> Finding | None:
    """Return that some counts cannot be right, as an open question about money; None if all can.

    Translated usage has such counts at honest gateways as well: a bill can tell, replies alone cannot.
    """
    odd = [reply for reply in side.replies if reply.counts_agree is False]
    if not odd:
        return None
    told = f"{side.name}: the counts of {len(odd):,} of {len(side.replies):,} replies contradict themselves"
    return untested("money", told, needed="the gateway's bill: --bill FILE.csv")


# --- output counts


def output_counts(reference: Side, candidate: Side, rules: Rules) -> Finding | None:
    """Compare output tokens per character: per turn the mean logarithm at each side, paired, the dialogue as the unit.

    One tokenizer gives one ratio whatever the replies say, so that inflated counts show as a shift. A token more or
    less a reply is no difference: some gateways count the token that ends it. Without reasoning counts at one side
    only, its counts cannot be compared.
    """
    turns = pair_up(reference, candidate, by_place, _has_text)
    if not turns:
        return None
    if hides := _hides_reasoning(reference, candidate):
        return untested("output_counts", f"{hides} does not report the reasoning inside its output counts")
    found = _per_character(reference, candidate, turns, rules)
    same = _identical_replies(turns, candidate.name)
    return found if same is None else combine("output_counts", [("by length", found), ("identical replies", same)])


def _per_character(reference: Side, candidate: Side, turns: Mapping[tuple[str, int], Both], rules: Rules) -> Finding:
    counted = {key: both for key, both in turns.items() if all(map(_counted, (both.reference, both.candidate)))}
    if not counted:
        silent = [s.name for s in (reference, candidate) if all(r.output_tokens is None for r in s.replies)]
        why = f"{' and '.join(silent)}: no output counts" if silent else f"no replies of {LEAST_TOKENS} tokens or more"
        return untested("output_counts", why)
    shifts = {marker: paired_mean(_dialogue_means(counted, marker)) for marker in MARKERS}
    chances = {marker: _mean_p(mean) for marker, mean in shifts.items()}
    marker = max(chances, key=lambda one: (chances[one], one == 0))
    p = chances[marker]
    if p <= rules.alpha:
        marker = 0  # no marker explains it: say what the counts are
    mean = shifts[marker]
    effect = math.expm1(mean.estimate)
    order = sorted(counted.values(), key=lambda both: -abs(_shift(both, marker)))
    names = reference.name, candidate.name
    return _mean_finding(
        "output_counts",
        mean,
        p,
        rules,
        detail=f"{names[1]} counts {signed_percent(effect)} tokens per character (dialogues: {mean.dialogues})",
        measure="relative change of output tokens per character",
        change=math.log1p(OUTPUT_INFLATED),
        relative=math.expm1,
        limit=OUTPUT_INFLATED,
        tolerance=COUNTED_APART,
        shown=order,
    )


def _identical_replies(turns: Mapping[tuple[str, int], Both], name: str) -> Finding | None:
    """Compare the counts of replies with the same text, which short ones often are. None unless they differ by far."""
    apart: dict[str, list[float]] = {}
    shown: list[tuple[float, AuditedReply, AuditedReply]] = []
    for (dialogue, _), both in turns.items():
        ours, theirs = (_by_text(side) for side in (both.reference, both.candidate))
        for text in [text for text in ours if text in theirs]:
            (one, count), (other, other_count) = ours[text], theirs[text]
            apart.setdefault(dialogue, []).append(other_count - count)
            shown.append((abs(other_count - count), one, other))
    mean = paired_mean([statistics.fmean(those) for those in apart.values()]) if apart else None
    if mean is None or abs(mean.estimate) <= SAME_TEXT_APART:
        return None
    return Finding(
        question="output_counts",
        detail=f"{name} counts {mean.estimate:+.3g} tokens on each reply with the same text (dialogues: {len(apart)})",
        measure="relative change of the output tokens of replies with the same text",
        effect=mean.estimate / statistics.fmean(one.visible_tokens or 0 for _, one, _ in shown),
        p=_mean_p(mean),
        open="identical replies are counted differently",
        evidence=evidence([(one, other) for _, one, other in sorted(shown, key=lambda each: -each[0])]),
    )


def _by_text(replies: Sequence[AuditedReply]) -> dict[str, tuple[AuditedReply, float]]:
    """Return a reply with each text, and the mean visible tokens of that text."""
    found: dict[str, list[AuditedReply]] = {}
    for reply in replies:
        if reply.visible_tokens:
            found.setdefault(reply.text or "", []).append(reply)
    return {
        text: (those[0], statistics.fmean(one.visible_tokens or 0 for one in those)) for text, those in found.items()
    }


def _has_text(reply: AuditedReply) -> bool:
    return bool(reply.text) and reply.calls_are_valid is None


def _counted(replies: Sequence[AuditedReply]) -> list[AuditedReply]:
    return [reply for reply in replies if (reply.visible_tokens or 0) >= LEAST_TOKENS]


def _hides_reasoning(reference: Side, candidate: Side) -> str | None:
    """Return the side that reports no reasoning while the other does.

    Some gateways report 0 for what they do not know: their output counts then have the reasoning inside.
    """
    for side, other in ((reference, candidate), (candidate, reference)):
        if any(reply.reasoning_tokens for reply in other.replies) and not any(
            reply.reasoning_tokens for reply in side.replies
        ):
            is_silent = all(reply.reasoning_tokens is None for reply in side.replies)
            if is_silent or _has_reasoning_inside(side, other):
                return side.name
    return None


def _has_reasoning_inside(side: Side, other: Side) -> bool:
    """Whether a side without reasoning counts clearly more output for its text than the other's visible output is."""
    turns = pair_up(other, side, by_place, lambda reply: bool(reply.text) and reply.visible_tokens is not None)
    ratios = [_visible(both.candidate) / ours for both in turns.values() if (ours := _visible(both.reference)) > 0]
    return bool(ratios) and statistics.median(ratios) >= LONGER


def _visible(replies: Sequence[AuditedReply]) -> float:
    """Return the visible tokens per character."""
    return sum(reply.visible_tokens or 0 for reply in replies) / sum(len(reply.text or "") for reply in replies)


def _ratio(replies: Sequence[AuditedReply], marker: int) -> float:
    """Return the mean logarithm of tokens per character."""
    return statistics.fmean(
        math.log(max(0.5, (reply.visible_tokens or 0) + marker) / len(reply.text or "x")) for reply in _counted(replies)
    )


def _shift(both: Both, marker: int) -> float:
    return _ratio(both.candidate, marker) - _ratio(both.reference, 0)


def _dialogue_means(turns: Mapping[tuple[str, int], Both], marker: int) -> list[float]:
    found: dict[str, list[float]] = {}
    for (dialogue, _), both in turns.items():
        found.setdefault(dialogue, []).append(_shift(both, marker))
    return [statistics.fmean(shifts) for shifts in found.values()]


def _mean_p(mean: Mean) -> float:
    """Return the p of a paired mean; without any spread that of the sign test, 1 where nothing differs."""
    if (p := mean.p()) is not None:
        return p
    return 1.0 if abs(mean.estimate) < 1e-9 else min(1.0, 2.0 ** (1 - mean.dialogues))


def _mean_finding(
    question: Question,
    mean: Mean,
    p: float,
    rules: Rules,
    *,
    detail: str,
    measure: str,
    change: float,
    relative: Callable[[float], float],
    limit: float,
    shown: Sequence[Both],
    tolerance: float = 0.0,
) -> Finding:
    """Return the finding of a paired mean on a scale where `change` is the limit."""
    interval = mean.interval(0.95)
    if interval is None and abs(mean.estimate) < 1e-9 and 2.0 ** (1 - mean.dialogues) <= rules.level:
        interval = Interval(0.0, 0.0)
    sd = mean.se if mean.se is not None else 0.0 if interval is not None else math.inf
    power = 0.0 if sd == math.inf else normal_power(change, sd, sd, level=rules.level)
    times = times_needed(change, sd, level=rules.level) if 0 < sd < math.inf else None
    enough = mean.dialogues if times is None else max(2, math.ceil(times * mean.dialogues))
    return Finding(
        question=question,
        detail=detail,
        measure=measure,
        effect=relative(mean.estimate),
        interval=None if interval is None else Interval(relative(interval.low), relative(interval.high)),
        p=p,
        limit=limit,
        tolerance=tolerance,
        power=power,
        needed=None if times is None and sd == 0 else f"about {max(enough, 10):,} dialogues",
        evidence=evidence([(both.reference[0], both.candidate[0]) for both in shown]),
    )


# --- reasoning tokens


def reasoning_tokens(reference: Side, candidate: Side, rules: Rules) -> Finding | None:
    """Compare how often and how much both sides reason: shares of replies, and the ratio of totals by dialogue."""
    names = reference.name, candidate.name
    if not any(reply.reasoning_tokens for side in (reference, candidate) for reply in side.replies):
        return None
    if hides := _hides_reasoning(reference, candidate):
        return untested("reasoning_tokens", f"{hides} does not report its reasoning tokens")
    dialogues = pair_up(reference, candidate, by_dialogue, lambda reply: reply.reasoning_tokens is not None)
    often = ShareQuestion(
        question="reasoning_tokens", words="replies with reasoning", holds=_reasons, limit=REASONING_CHANGED
    )
    parts = [("how often", compare_shares(often, dialogues, names, rules)), ("how much", _how_much(dialogues, rules))]
    return combine("reasoning_tokens", [(name, part) for name, part in parts if part is not None])


def _reasons(reply: AuditedReply) -> bool | None:
    return None if reply.reasoning_tokens is None else reply.reasoning_tokens > 0


def _how_much(dialogues: Mapping[str, Both], rules: Rules) -> Finding | None:
    totals = [[_mean_reasoning(side) for side in (both.reference, both.candidate)] for both in dialogues.values()]
    base, other = ([pair[side] for pair in totals] for side in (0, 1))
    if not sum(base) or not sum(other):
        return None
    ratio = ratio_of_totals(base, other)
    excess, interval = ratio.excess, ratio.interval(0.95)
    order = sorted(dialogues.values(), key=lambda both: -_apart(both))
    found = _mean_finding(
        "reasoning_tokens",
        excess,
        _mean_p(excess),
        rules,
        detail=f"{ratio.estimate:.2f} times the reasoning tokens (dialogues: {ratio.dialogues})",
        measure="relative change of reasoning tokens",
        change=REASONING_CHANGED,
        relative=lambda change: change,
        limit=REASONING_CHANGED,
        shown=order,
    )
    if interval is None:
        return found
    return dataclasses.replace(found, interval=Interval(interval.low - 1, interval.high - 1))


def _mean_reasoning(replies: Sequence[AuditedReply]) -> float:
    """Return the reasoning tokens of a dialogue, of a mean repeat."""
    return sum(reply.reasoning_tokens or 0 for reply in replies) / conversations(replies)


def _apart(both: Both) -> float:
    return abs(_mean_reasoning(both.reference) - _mean_reasoning(both.candidate))
