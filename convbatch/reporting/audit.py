"""Audit of gateways that serve the same model: comparison of their replies to the same requests.

The rules are in docs/audit.md: each finding `differs`, is the `same`, or is `inconclusive` with the reason. What could
not be tested is never `same`. Costs are not compared.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal

import orjson

from convbatch.dataset.snapshot import read_copy
from convbatch.dialogue import Dialogue, Part, Settings, effective_settings
from convbatch.journal.index import Archive, TurnHistory
from convbatch.journal.manifest import Manifest, ManifestTarget
from convbatch.reporting.section import Section
from convbatch.results.columns import Column, Row
from convbatch.results.parquet import Rows
from convbatch.results.wire_notes import is_history_cut, join_notes

if TYPE_CHECKING:
    from convbatch.results.run import Run

AuditVerdict = Literal["differs", "same", "inconclusive"]

MIN_TESTED = 3
"""`same` needs at least this many testable replies (on each side), prompts or turns."""
MIN_PAIRS = 20
"""Pairs of repeats on each side that are needed to detect a cache."""
PAIRS_APART, PAIRS_ALIKE = Fraction(4, 10), Fraction(2, 10)
"""Difference between the shares of identical pairs: `differs` from the first, `same` up to the second."""
REASONING_MISSING, REASONING_ODD = 0.5, 0.1
"""Share of turns with reasoning on one side only: `differs` above the first, `same` up to the second."""
MAX_EXAMPLES = 3

FINDINGS: tuple[Column, ...] = (
    Column("model", "string", "requested at both gateways"),
    Column("one", "string", "first gateway"),
    Column("other", "string", "second gateway"),
    Column("finding", "string", "what was compared"),
    Column("verdict", "string", "`differs`, `same` or `inconclusive`"),
    Column("tested", "Int64", "replies, prompts, turns or pairs that could be tested"),
    Column("differing", "Int64", "how many of them differ or are wrong"),
    Column("detail", "string", "in words"),
    Column("examples", "string", "up to three turns that differ"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditedReply:
    """What the audit compares of one reply."""

    place: str
    """Dialogue and turn, for messages."""
    question: bytes
    """Digest of the request: equal for the same turn of the same dialogue with the same settings."""
    is_fixed: bool
    """Whether the prompt contains no live reply, so that it is the same at every gateway."""
    series: tuple[str, int, int]
    """Run, dialogue index and turn; the repeats of a turn form a series."""
    repeat: int
    version: str | None
    response_id: str | None
    usage: Mapping[str, Any]
    max_output_tokens: int | None
    """The requested limit."""
    temperature: float | None
    text: bytes | None
    """Digest of the visible text; None without text."""
    is_history_cut: bool = False
    """Whether the provider removed a part of the history before the model saw it."""

    def count(self, name: str) -> int | None:
        """Return one of the usage counts."""
        return self.usage.get(name)


@dataclass(slots=True, kw_only=True)
class GatewayReplies:
    """The replies of one gateway for one model."""

    name: str
    replies: list[AuditedReply] = field(default_factory=list)

    def fixed(self) -> Iterator[AuditedReply]:
        """Yield the replies to prompts that are the same at every gateway."""
        return (reply for reply in self.replies if reply.is_fixed)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFinding:
    """One row, without model and gateways."""

    verdict: AuditVerdict
    tested: int
    detail: str
    differing: int = 0
    examples: Sequence[str] = ()


def audit(runs: Sequence[Run]) -> Section | None:
    """Compare the gateways that served the same model.

    Args:
        runs: One run or several; the replies of a gateway in all of them are combined.

    Returns:
        A row per finding and pair of gateways; None if no model was served by two.
    """
    runs = list({run.path.resolve(): run for run in runs}.values())
    asked = _gateways_by_model(runs)
    sides = {model: {place: GatewayReplies(name=name) for place, name in at.items()} for model, at in asked.items()}
    if not sides:
        return None
    reused = sum(_collect_replies(run, sides) for run in runs)
    frame = Rows(columns=FINDINGS, rows=_rows(sides)).frame()
    notes = [
        f"`same` needs at least {MIN_TESTED} testable replies, prompts or turns, and {MIN_PAIRS} pairs of repeats on "
        "each side; `inconclusive` does not mean `same`",
    ]
    if reused:
        notes.append(
            f"left out: {reused} {'reply' if reused == 1 else 'replies'} reused from other runs; add those runs"
        )
    return Section(key="audit", title="Gateway audit", frame=frame, notes=tuple(notes))


# --- replies

_GatewayKey = tuple[str, str]
"""Gateway and base URL."""


def _gateways_by_model(runs: Iterable[Run]) -> dict[str, dict[_GatewayKey, str]]:
    """Return, for each model served by two or more gateways, the gateways and their display names."""
    found: dict[str, dict[_GatewayKey, None]] = {}
    for run in runs:
        for target in run.manifest.targets:
            found.setdefault(target.model, {})[_gateway_key(target)] = None
    return {model: _display_names(list(places)) for model, places in found.items() if len(places) > 1}


def _gateway_key(target: ManifestTarget) -> _GatewayKey:
    return target.gateway.name, target.gateway.base_url


def _display_names(places: Sequence[_GatewayKey]) -> dict[_GatewayKey, str]:
    counts = Counter(name for name, _ in places)
    return {(name, url): name if counts[name] == 1 else f"{name} at {url}" for name, url in places}


def _collect_replies(run: Run, sides: Mapping[str, Mapping[_GatewayKey, GatewayReplies]]) -> int:
    """Add the replies of a run to their sides; return how many are left out because another run received them."""
    targets = [target for target in run.manifest.targets if target.model in sides]
    reused = 0
    if not targets:
        return 0
    with Archive(run.folder) as archive:
        for index, dialogue in read_copy(run.folder.dataset):
            for target in targets:
                asked = _DialogueRequests(run.manifest, target, dialogue)
                side = sides[target.model][_gateway_key(target)]
                for repeat in range(1, run.manifest.repeats + 1):
                    turns = archive.transcript(index, target.name, repeat).turns
                    kept = [(n, past) for n, past in turns.items() if past.kept is not None]
                    reused += sum(past.reused_from is not None for _, past in kept)
                    side.replies += [
                        asked.audited_reply(past, number, repeat, (run.name, index, number))
                        for number, past in kept
                        if past.reused_from is None and number <= len(dialogue.turns)
                    ]
    return reused


class _DialogueRequests:
    """The requests of one dialogue to one target, by turn."""

    def __init__(self, manifest: Manifest, target: ManifestTarget, dialogue: Dialogue) -> None:
        self._dialogue = dialogue
        self._history = manifest.history
        asked = dialogue.asked(manifest.history)
        self._first = asked[0] if asked else 0
        self._command_line = manifest.settings
        self._gateway = target.gateway
        self._questions: dict[int, tuple[bytes, Settings]] = {}

    def audited_reply(self, past: TurnHistory, number: int, repeat: int, series: tuple[str, int, int]) -> AuditedReply:
        """Return the reply of a turn that counts; of several steps, without what belongs to one of their requests."""
        kept: Mapping[str, Any] = past.kept or {}
        reply = kept["reply"]
        question, settings = self._question(number)
        intent = next((one for one in past.intents if one["attempt"] == kept["attempt"]), {})
        text = reply.get("text") if not past.steps else None
        return AuditedReply(
            place=f"{self._dialogue.id} turn {number}",
            question=question,
            is_fixed=self._is_fixed(number),
            series=series,
            repeat=repeat,
            version=reply.get("model_version"),
            response_id=reply.get("response_id"),
            usage=reply.get("usage", {}) if not past.steps else {},
            max_output_tokens=intent.get("max_output_tokens") if not past.steps else None,
            temperature=settings.temperature,
            text=blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest() if text else None,
            is_history_cut=is_history_cut(join_notes(past.replied)),
        )

    def _is_fixed(self, number: int) -> bool:
        return self._history != "live" or number == self._first

    def _question(self, number: int) -> tuple[bytes, Settings]:
        if number not in self._questions:
            dialogue, turns = self._dialogue, self._dialogue.turns[:number]
            settings = effective_settings(
                command_line=self._command_line,
                turn=turns[-1].settings,
                dialogue=dialogue.settings,
                target=self._gateway.settings,
                unset=self._gateway.unset,
            )
            given = [
                [[_part(part) for part in turn.user], *self._given(at, number)] for at, turn in enumerate(turns, 1)
            ]
            asked = dataclasses.replace(settings, seed=None)  # repeats differ in it, and it is not part of a prompt
            plain = [dialogue.system, list(dialogue.tools), dialogue.tool_results, given, asked.to_plain()]
            head = b"" if self._is_fixed(number) else b"live"
            text = orjson.dumps(plain, option=orjson.OPT_SORT_KEYS, default=_plain)
            self._questions[number] = (blake2b(head + text, digest_size=16).digest(), settings)
        return self._questions[number]

    def _given(self, at: int, number: int) -> list[Any]:
        """Return the reply and the calls of the model's turn at this place, where they come from the script."""
        turn = self._dialogue.turns[at - 1]
        is_given = at < number and (self._history != "live" or not turn.ask)
        return [turn.assistant, turn.tool_calls] if is_given else [None]


def _part(part: Part) -> list[str | None]:
    return [part.kind, part.text, part.path, part.data, part.mime_type]


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else list(value)


# --- findings


def _rows(sides: Mapping[str, Mapping[_GatewayKey, GatewayReplies]]) -> Iterator[Row]:
    for model, at in sides.items():
        for one, other in itertools.combinations(at.values(), 2):
            for name in _FINDERS:
                found = evaluate_finding(name, one, other)
                yield (
                    model,
                    one.name,
                    other.name,
                    name,
                    found.verdict,
                    found.tested,
                    found.differing,
                    found.detail,
                    "; ".join(dict.fromkeys(found.examples).keys() if found.examples else ()) or None,
                )


def evaluate_finding(finding: str, one: GatewayReplies, other: GatewayReplies) -> AuditFinding:
    """Evaluate one finding for two gateways."""
    return _FINDERS[finding](one, other)


def _model_version(one: GatewayReplies, other: GatewayReplies) -> AuditFinding:
    """Compare the model names in the replies."""
    replies = [*one.replies, *other.replies]
    named = [{reply.version for reply in side.replies} - {None} for side in (one, other)]
    detail = "; ".join(f"{side.name}: {_versions(side)}" for side in (one, other))
    if not one.replies or not other.replies:
        return AuditFinding(verdict="inconclusive", tested=0, detail=f"no replies at both; {detail}")
    if not named[0] and not named[1]:
        return AuditFinding(verdict="inconclusive", tested=0, detail="no reply of either names its model")
    common = named[0] & named[1]
    odd = [reply for reply in replies if reply.version not in common]
    return _finding(len(replies), odd, detail, enough=min(len(one.replies), len(other.replies)) >= MIN_TESTED)


def _versions(side: GatewayReplies) -> str:
    counts = Counter(reply.version or "not named" for reply in side.replies)
    return ", ".join(f"{version} ({count})" for version, count in counts.most_common()) or "no reply"


def _input_tokens(one: GatewayReplies, other: GatewayReplies) -> AuditFinding:
    """Compare the input counts of identical prompts."""
    counts = [_inputs(side) for side in (one, other)]
    both = [question for question in counts[0] if question in counts[1]]
    if not both:
        return AuditFinding(verdict="inconclusive", tested=0, detail="no identical prompt was counted by both")
    odd = [question for question in both if counts[0][question][0] != counts[1][question][0]]
    highest = [(max(counts[0][question][0]), max(counts[1][question][0])) for question in both]
    detail = f"{len(both)} identical prompts counted by both"
    if odd:
        detail = f"{detail}; {len(odd)} differ: {describe_counts(highest, one.name, other.name)}"
    places = [counts[0][question][1] for question in odd]
    return _verdict(len(both), len(odd), detail, places, enough=len(both) >= MIN_TESTED)


def _inputs(side: GatewayReplies) -> dict[bytes, tuple[set[int], str]]:
    """Return, by request, the input counts and the place."""
    found: dict[bytes, tuple[set[int], str]] = {}
    for reply in side.fixed():
        count = reply.count("input_tokens")
        if count is not None:
            found.setdefault(reply.question, (set(), reply.place))[0].add(count)
    return found


def describe_counts(counts: Sequence[tuple[int, int]], one: str, other: str) -> str:
    """Describe how the counts of identical prompts differ, the higher side first."""
    if sum(b for _, b in counts) < sum(a for a, _ in counts):
        counts, one, other = [(b, a) for a, b in counts], other, one
    more = [b - a for a, b in counts]
    if not any(more):
        return "the counts of one prompt vary between repeats"
    factor = Fraction(sum(b for _, b in counts), max(1, sum(a for a, _ in counts)))
    is_constant = len(set(more)) == 1
    is_factor = all(abs(b - factor * a) <= max(1, Fraction(b, 50)) for a, b in counts)
    has_lengths = max(a for a, _ in counts) >= 1.25 * min(a for a, _ in counts) + 2
    if is_constant and not has_lengths:
        return f"{other} counts {more[0]} more on each ({float(factor):.2f} times): too similar in length to tell which"
    if is_constant:
        return f"{other} counts {more[0]} more on each: constant, as with a hidden system prompt"
    if is_factor and has_lengths:
        return f"{other} counts {float(factor):.2f} times as many on each: a factor, as with inflated billing"
    middle = sorted(more)[len(more) // 2]
    return f"{other} counts {min(more):+d} to {max(more):+d}, median {middle:+d} ({float(factor):.2f} times in all)"


def _usage(one: GatewayReplies, other: GatewayReplies) -> AuditFinding:
    """Check that the counts of each reply add up."""
    return _check_each_reply(one, other, _adds_up, "that do not add up", "whose counts could be added up")


def _adds_up(reply: AuditedReply) -> bool | None:
    """Return whether the counts add up; None if there is nothing to add."""
    parts = (("cached_input_tokens", "input_tokens"), ("reasoning_tokens", "output_tokens"))
    known = [
        (part, whole)
        for a, b in parts
        if (part := reply.count(a)) is not None and (whole := reply.count(b)) is not None
    ]
    claims = [part <= whole for part, whole in known]
    consistent = reply.usage.get("consistent")
    if consistent is not None:
        claims.append(bool(consistent))
    return all(claims) if claims else None


def _max_output(one: GatewayReplies, other: GatewayReplies) -> AuditFinding:
    """Check that `max_output_tokens` was obeyed."""
    found = _check_each_reply(one, other, _is_within, "above their limit", "with a limit and a count of output")
    thoughts = sum(_exceeds_by_reasoning(reply) for side in (one, other) for reply in side.replies)
    if not thoughts:
        return found
    return dataclasses.replace(found, detail=f"{found.detail}; {thoughts} exceed it by reasoning alone")


def _is_within(reply: AuditedReply) -> bool | None:
    taken = reply.count("output_tokens")
    return None if taken is None or reply.max_output_tokens is None else taken <= reply.max_output_tokens


def _exceeds_by_reasoning(reply: AuditedReply) -> bool:
    visible = (reply.count("output_tokens") or 0) - (reply.count("reasoning_tokens") or 0)
    return _is_within(reply) is False and reply.max_output_tokens is not None and visible <= reply.max_output_tokens


def _check_each_reply(
    one: GatewayReplies, other: GatewayReplies, holds: Callable[[AuditedReply], bool | None], broken: str, testable: str
) -> AuditFinding:
    """Check a property of each reply, independently of the other side."""
    tested: list[int] = []
    odd: list[AuditedReply] = []
    words: list[str] = []
    for side in (one, other):
        judged = [(reply, held) for reply in side.replies if (held := holds(reply)) is not None]
        mine = [reply for reply, held in judged if not held]
        tested.append(len(judged))
        odd += mine
        words.append(f"{side.name}: {len(mine)} of {len(judged)} {broken}")
    if not any(tested):
        return AuditFinding(verdict="inconclusive", tested=0, detail=f"no reply {testable}")
    return _finding(sum(tested), odd, "; ".join(words), enough=min(tested) >= MIN_TESTED)


def _repeats(one: GatewayReplies, other: GatewayReplies) -> AuditFinding:
    """Compare the shares of identical repeats at a temperature above 0, which indicate a cache."""
    warm, cold, unknown = _temperatures((one, other))
    if not warm:
        reason = f"no repeats at a temperature known to be above 0 ({cold} replies at 0, {unknown} at the default)"
        return AuditFinding(verdict="inconclusive", tested=0, detail=reason)
    pairs = [_pairs(side) for side in (one, other)]
    common = pairs[0].keys() & pairs[1].keys()
    mine = [[pair for question in those if question in common for pair in those[question]] for those in pairs]
    shares = [Fraction(sum(map(_is_alike, those)), len(those) or 1) for those in mine]
    words = [
        f"{side.name}: {sum(map(_is_alike, those))} of {len(those)} pairs identical" + _same_ids(those)
        for side, those in zip((one, other), mine, strict=True)
    ]
    detail, tested = "; ".join(words), sum(map(len, mine))
    alike = max(range(2), key=lambda side: shares[side])
    odd = [pair[0] for pair in mine[alike] if _is_alike(pair)]
    apart = abs(shares[0] - shares[1])
    if min(map(len, mine)) < MIN_PAIRS:
        detail = f"fewer than {MIN_PAIRS} pairs of repeats at each side; {detail}"
        return AuditFinding(verdict="inconclusive", tested=tested, detail=detail)
    if apart >= PAIRS_APART:
        return _finding(tested, odd, detail, enough=True)
    verdict: AuditVerdict = "same" if apart <= PAIRS_ALIKE else "inconclusive"
    return AuditFinding(verdict=verdict, tested=tested, detail=detail)


def _temperatures(sides: Iterable[GatewayReplies]) -> tuple[int, int, int]:
    """Count the replies at a temperature above 0, at 0, and at an unknown default."""
    known = [reply.temperature for side in sides for reply in side.fixed()]
    unknown = sum(temperature is None for temperature in known)
    cold = sum(temperature == 0 for temperature in known)
    return len(known) - unknown - cold, cold, unknown


_ReplyPair = tuple[AuditedReply, AuditedReply]


def _pairs(side: GatewayReplies) -> dict[bytes, list[_ReplyPair]]:
    """Return, by request, pairs of replies in repeats k and k + 1 of one run, at a temperature above 0."""
    series: dict[tuple[Any, ...], dict[int, AuditedReply]] = {}
    for reply in side.fixed():
        if reply.temperature and reply.text is not None:
            series.setdefault((reply.question, *reply.series), {})[reply.repeat] = reply
    found: dict[bytes, list[_ReplyPair]] = {}
    for (question, *_), replies in series.items():
        found.setdefault(question, []).extend((replies[k], replies[k + 1]) for k in replies if k + 1 in replies)
    return {question: pairs for question, pairs in found.items() if pairs}


def _is_alike(pair: _ReplyPair) -> bool:
    return pair[0].text == pair[1].text


def _same_ids(pairs: Iterable[_ReplyPair]) -> str:
    same = sum(a.response_id is not None and a.response_id == b.response_id for a, b in pairs)
    return f" ({same} under one response id)" if same else ""


def _reasoning(one: GatewayReplies, other: GatewayReplies) -> AuditFinding:
    """Compare on which turns the two sides used reasoning."""
    thought = [_reasoned(side) for side in (one, other)]
    both = [question for question in thought[0] if question in thought[1]]
    tested = [question for question in both if thought[0][question][0] or thought[1][question][0]]
    if not tested:
        detail = f"neither side counts reasoning tokens on any of {len(both)} common turns"
        return AuditFinding(verdict="inconclusive", tested=0, detail=detail)
    odd = [question for question in tested if thought[0][question][0] != thought[1][question][0]]
    words = [
        f"{side.name}: on {sum(mine[question][0] for question in tested)} of {len(tested)} turns"
        for side, mine in zip((one, other), thought, strict=True)
    ]
    detail, share = "; ".join(words), len(odd) / len(tested)
    if len(tested) < MIN_TESTED or REASONING_ODD < share <= REASONING_MISSING:
        return AuditFinding(verdict="inconclusive", tested=len(tested), differing=len(odd), detail=detail)
    places = [thought[0][question][1] for question in odd]
    verdict: AuditVerdict = "differs" if share > REASONING_MISSING else "same"
    return AuditFinding(
        verdict=verdict, tested=len(tested), differing=len(odd), detail=detail, examples=places[:MAX_EXAMPLES]
    )


def _reasoned(side: GatewayReplies) -> dict[bytes, tuple[bool, str]]:
    """Return, by request with an output count, whether a reply had reasoning tokens, and the place."""
    found: dict[bytes, tuple[bool, str]] = {}
    for reply in side.replies:
        if reply.count("output_tokens") is not None:
            before = found.get(reply.question, (False, reply.place))
            found[reply.question] = (before[0] or bool(reply.count("reasoning_tokens")), before[1])
    return found


def _history_seen(one: GatewayReplies, other: GatewayReplies) -> AuditFinding:
    """Count replies whose provider says that it cut the history; that none says so is no proof that none did."""
    odd = [reply for side in (one, other) for reply in side.replies if reply.is_history_cut]
    if not odd:
        return AuditFinding(verdict="inconclusive", tested=0, detail="no reply says that its history was cut")
    words = [
        f"{side.name}: {sum(reply.is_history_cut for reply in side.replies)} of {len(side.replies)} replies "
        "whose model did not see what was sent"
        for side in (one, other)
    ]
    return _finding(len(one.replies) + len(other.replies), odd, "; ".join(words), enough=True)


def _finding(tested: int, odd: Sequence[AuditedReply], detail: str, *, enough: bool) -> AuditFinding:
    return _verdict(tested, len(odd), detail, [reply.place for reply in odd], enough=enough)


def _verdict(tested: int, differing: int, detail: str, places: Iterable[str], *, enough: bool) -> AuditFinding:
    """Return `differs` for any difference, else `same` if enough was tested, else `inconclusive`."""
    verdict: AuditVerdict = "differs" if differing else "same" if enough else "inconclusive"
    shown = tuple(itertools.islice(dict.fromkeys(places), MAX_EXAMPLES))
    if verdict == "inconclusive":
        detail = f"too few to tell; {detail}"
    return AuditFinding(verdict=verdict, tested=tested, differing=differing, detail=detail, examples=shown)


_FINDERS: Mapping[str, Callable[[GatewayReplies, GatewayReplies], AuditFinding]] = {
    "model_version": _model_version,
    "input_tokens": _input_tokens,
    "usage": _usage,
    "max_output_tokens": _max_output,
    "identical_repeats": _repeats,
    "reasoning_tokens": _reasoning,
    "history_seen": _history_seen,
}
"""The function of each finding."""
