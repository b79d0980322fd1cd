"""Run folders → the sides of an audit: which targets claim one model, which of them is the reference, their replies."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import orjson

from convbatch.auditing.judge import Pair
from convbatch.auditing.replies import BORDER, AuditedReply, Side
from convbatch.checks.builtin import CheckRunner
from convbatch.checks.json_schema import NotJson, first_violation, parse_reply_json
from convbatch.checks.numbers import last_number
from convbatch.checks.safe_regex import CheckError, CheckTimeout
from convbatch.checks.tool_calls import call_flaw
from convbatch.checks.values import CalledTool
from convbatch.comparison.inputs import split_run_and_target
from convbatch.dialogue import Dialogue, Part, Settings, effective_settings
from convbatch.errors import SetupError, did_you_mean
from convbatch.journal.index import Archive, TurnHistory
from convbatch.journal.manifest import Manifest, ManifestTarget
from convbatch.results.conversations import StoredConversation, stored_conversations
from convbatch.results.run import Run
from convbatch.results.target_names import named_target
from convbatch.results.verdicts import CheckOutcome, evaluate_checks
from convbatch.results.wire_notes import is_history_cut, join_notes
from convbatch.served_model import canonical_name, match_served


@dataclass(frozen=True, slots=True, kw_only=True)
class _Claim:
    """A target of a run; `explicit` if it was named on the command line."""

    run: Run
    target: ManifestTarget
    explicit: bool = False

    @property
    def place(self) -> tuple[str, str, str]:
        """Target, protocol and address: the same in two runs is one side, unless time is what is compared."""
        return self.target.name, self.target.gateway.protocol, self.target.gateway.base_url


@dataclass(slots=True, kw_only=True)
class _Group:
    """The claims of one side."""

    name: str
    claims: list[_Claim] = field(default_factory=list)

    @property
    def gateway(self) -> str:
        return self.claims[0].target.gateway.name


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditInputs:
    """The pairs to judge."""

    pairs: Sequence[Pair]
    notes: Sequence[str]
    groups: Mapping[str, Sequence[tuple[Run, str]]]
    """Runs and targets of each side, by its name."""

    @property
    def runs(self) -> list[Run]:
        """The runs, each once."""
        return list({run.path.resolve(): run for those in self.groups.values() for run, _ in those}.values())


def load_pairs(runs: Sequence[str | Path | Run], *, reference: str | None = None) -> AuditInputs:
    """Find the targets that claim one model and pair each with the reference.

    Args:
        runs: Runs, or `RUN:target`. Two targets that are named so are a pair whatever their models are called. A single
            target in several runs is compared with itself, the earliest run as reference.
        reference: Gateway or target to trust; None: the first one.

    Raises:
        SetupError: There is no such run, target or reference, or nothing to pair.
    """
    claims = [claim for one in runs for claim in _claims(one)]
    if not claims:
        raise SetupError("no run to audit", hint="name one or more, such as `latest`")
    models = _by_model(claims)
    paired: list[tuple[_Group, _Group]] = []
    notes: list[str] = []
    for model, those in models.items():
        sides = _sides(those)
        if len(sides) < 2:
            continue
        trusted = _trusted(sides, reference)
        if trusted is None:
            continue
        if reference is None and not _is_drift(sides):
            notes.append(
                f"{model}: {trusted.name} is taken as the reference, because it is the first; --reference NAME"
            )
        paired += [(trusted, side) for side in sides if side is not trusted]
    if not paired:
        raise _nothing_to_pair(claims, models, reference)
    replies = {side.name: side for pair in paired for side in pair}
    read = _read(list(replies.values()))
    reused = sum(left_out for _, left_out in read.values())
    if reused:
        notes.append(f"left out: {reused} replies reused from other runs; add those runs")
    if any(claim.target.simulated for side in replies.values() for claim in side.claims):
        notes.append("SIMULATED: replies of the built-in simulator")
    return AuditInputs(
        pairs=[Pair(reference=read[one.name][0], candidate=read[other.name][0]) for one, other in paired],
        notes=notes,
        groups={name: [(one.run, one.target.name) for one in side.claims] for name, side in replies.items()},
    )


def _claims(one: str | Path | Run) -> Iterator[_Claim]:
    run, target = (one, None) if isinstance(one, Run) else split_run_and_target(str(one))
    for each in run.manifest.targets if target is None else (named_target(run, target),):
        yield _Claim(run=run, target=each, explicit=target is not None)


def _by_model(claims: Sequence[_Claim]) -> dict[str, list[_Claim]]:
    """Return the claims by model; two targets that are named on the command line claim one model."""
    if len(claims) > 1 and all(claim.explicit for claim in claims):
        return {claims[0].target.model: list(claims)}
    found: dict[str, list[_Claim]] = {}
    for claim in claims:
        found.setdefault(canonical_name(claim.target.model), []).append(claim)
    return {those[0].target.model: those for those in found.values()}


def _sides(claims: Sequence[_Claim]) -> list[_Group]:
    """Return the sides: one for each target at each address; for a single one, one for each run, the earliest first."""
    unique = list({(claim.run.path.resolve(), claim.place): claim for claim in claims}.values())
    places = list(dict.fromkeys(claim.place for claim in unique))
    if len(places) == 1:
        unique.sort(key=lambda claim: claim.run.manifest.created_at)
        return [_Group(name=f"{claim.target.name} in {claim.run.name}", claims=[claim]) for claim in unique]
    names = [place[0] for place in places]
    groups = {
        place: _Group(name=place[0] if names.count(place[0]) == 1 else f"{place[0]} at {place[2]} ({place[1]})")
        for place in places
    }
    for claim in unique:
        groups[claim.place].claims.append(claim)
    return list(groups.values())


def _is_drift(sides: Sequence[_Group]) -> bool:
    return len({side.claims[0].place for side in sides}) == 1


def _trusted(sides: Sequence[_Group], reference: str | None) -> _Group | None:
    """Return the reference among the sides; None where it is none of them."""
    if reference is None:
        return sides[0]
    found = [side for side in sides if reference in (side.gateway, side.name, side.claims[0].target.name)]
    found = found or [side for side in sides if reference == side.claims[0].run.name]
    if len(found) > 1 and not _is_drift(sides):
        names = ", ".join(side.name for side in found)
        raise SetupError(f"--reference {reference} names several sides: {names}", hint="name a target, or one run")
    return found[0] if found else None


def _nothing_to_pair(
    claims: Sequence[_Claim], models: Mapping[str, Sequence[_Claim]], reference: str | None
) -> SetupError:
    names = list(dict.fromkeys(claim.target.name for claim in claims))
    if reference is not None and any(len(_sides(those)) > 1 for those in models.values()):
        known = [name for claim in claims for name in (claim.target.gateway.name, claim.target.name)]
        return SetupError(f"--reference {reference}: no side has this name", hint=did_you_mean(reference, set(known)))
    first = claims[0].run.name
    how = f"{first}:{names[0]} {first}:{names[-1]}" if len(names) > 1 else "an earlier run of the same target as well"
    return SetupError(
        f"nothing to audit: no model is claimed by two targets, and no target is in two runs ({', '.join(names)})",
        hint=f"run the model at two gateways (-m MODEL -g A -g B), or name {how}",
    )


# --- replies ---------------------------------------------------------------------------------------------------------


def _read(groups: Sequence[_Group]) -> dict[str, tuple[Side, int]]:
    """Return each side with its replies, and how many are left out because another run received them; by name.

    Each run is read once, whatever the number of its targets.
    """
    found: dict[str, list[AuditedReply]] = {group.name: [] for group in groups}
    asked: dict[str, set[str]] = {group.name: set() for group in groups}
    reused = dict.fromkeys(found, 0)
    runs: dict[Path, dict[str, tuple[_Group, _Claim]]] = {}
    for group in groups:
        for claim in group.claims:
            runs.setdefault(claim.run.path.resolve(), {})[claim.target.name] = (group, claim)
    for claimed in runs.values():
        run = next(iter(claimed.values()))[1].run
        runner = CheckRunner()
        with Archive(run.folder) as archive:
            for stored in stored_conversations(run.folder, run.manifest, archive):
                if stored.id.target in claimed:
                    group, claim = claimed[stored.id.target]
                    if all(past.reused_from is None for past in stored.asked.values()):
                        asked[group.name].add(stored.dialogue.id)
                    reader = _ConversationReader(run.manifest, claim.target, stored)
                    outcomes = list(evaluate_checks(stored.result, runner))
                    found[group.name] += reader.replies(outcomes, run.name)
                    reused[group.name] += sum(past.reused_from is not None for past in stored.asked.values())
    sides = [
        Side(
            name=group.name,
            replies=found[group.name],
            protocol=group.claims[0].target.gateway.protocol,
            unanswered=frozenset(asked[group.name] - {reply.dialogue for reply in found[group.name]}),
        )
        for group in groups
    ]
    return {side.name: (side, reused[side.name]) for side in sides}


class _ConversationReader:
    """Makes the replies of one conversation."""

    def __init__(self, manifest: Manifest, target: ManifestTarget, stored: StoredConversation) -> None:
        self._manifest = manifest
        self._target = target
        self._stored = stored
        asked = list(stored.asked)
        self._first = asked[0] if asked else 0
        self._last = asked[-1] if asked else 0

    def replies(self, outcomes: Sequence[CheckOutcome], run: str) -> Iterator[AuditedReply]:
        """Yield the complete replies that this run received."""
        for number, past in self._stored.asked.items():
            if past.kept is not None and past.reused_from is None:
                mine = [one for one in outcomes if one.turn == number or (one.turn is None and number == self._last)]
                yield self._reply(number, past, mine, run)

    def _reply(self, number: int, past: TurnHistory, outcomes: Sequence[CheckOutcome], run: str) -> AuditedReply:
        """Return a reply; of several steps, without the counts that belong to their requests."""
        dialogue, kept = self._stored.dialogue, past.kept or {}
        reply = past.reply
        usage: Mapping[str, Any] = reply.get("usage", {}) if not past.steps else {}
        settings = self._settings(number)
        intent = next((one for one in past.intents if one["attempt"] == kept.get("attempt")), {})
        served = reply.get("model_version") or None
        return AuditedReply(
            dialogue=dialogue.id,
            turn=number,
            repeat=self._stored.id.repeat,
            run=run,
            prompt=self._digest(number, settings),
            user=dialogue.turns[number - 1].user_text,
            has_system=dialogue.system is not None,
            is_fixed=self._is_fixed(number),
            text=reply.get("text"),
            finish_reason=reply.get("finish_reason"),
            served=served,
            match=None if served is None else self._match(served),
            input_tokens=usage.get("input_tokens"),
            output_tokens=usage.get("output_tokens"),
            reasoning_tokens=usage.get("reasoning_tokens"),
            counts_agree=usage.get("consistent"),
            max_output_tokens=intent.get("max_output_tokens") if not past.steps else None,
            temperature=self._temperature(number, settings),
            seed=None if settings.seed is None else settings.seed + self._stored.id.repeat - 1,
            tags=frozenset(dialogue.tags),
            passed=_passed(outcomes, dialogue, number, reply.get("text")),
            calls_are_valid=_calls_are_valid(dialogue, reply.get("tool_calls", ())),
            fits_schema=_fits_schema(settings, reply.get("text")),
            is_withheld=past.status == "blocked" or (past.status == "empty" and reply.get("finish_reason") != "length"),
            is_history_cut=is_history_cut(join_notes(past.replied)),
        )

    def _match(self, served: str) -> Any:
        return match_served(self._target.model, served, self._target.gateway.aliases)

    def _is_fixed(self, number: int) -> bool:
        return self._manifest.history != "live" or number == self._first

    def _settings(self, number: int, *, with_unset: bool = False) -> Settings:
        dialogue = self._stored.dialogue
        return effective_settings(
            command_line=self._manifest.settings,
            turn=dialogue.turns[number - 1].settings,
            dialogue=dialogue.settings,
            target=self._target.gateway.settings,
            unset=() if with_unset else self._target.gateway.unset,
        )

    def _temperature(self, number: int, settings: Settings) -> float | None:
        """Return the temperature; where the model takes none (`unset`) and is asked for one above 0, that one.

        Models that refuse the setting draw their replies.
        """
        if "temperature" not in self._target.gateway.unset:
            return settings.temperature
        return self._settings(number, with_unset=True).temperature or None

    def _digest(self, number: int, settings: Settings) -> bytes:
        """Return a digest of the request: equal where the same is asked of two gateways, whatever the seed."""
        dialogue = self._stored.dialogue
        given = [
            [[_part(part) for part in turn.user], *self._given(at, number)]
            for at, turn in enumerate(dialogue.turns[:number], 1)
        ]
        asked = dataclasses.replace(settings, seed=None)
        plain = [dialogue.system, list(dialogue.tools), dialogue.tool_results, given, asked.to_plain()]
        head = b"" if self._is_fixed(number) else b"live"
        text = orjson.dumps(plain, option=orjson.OPT_SORT_KEYS, default=_plain)
        return blake2b(head + text, digest_size=16).digest()

    def _given(self, at: int, number: int) -> list[Any]:
        """Return the reply and the calls of the model's turn at this place, where they come from the script."""
        turn = self._stored.dialogue.turns[at - 1]
        is_given = at < number and (self._manifest.history != "live" or not turn.ask)
        return [turn.assistant, turn.tool_calls] if is_given else [None]


def _part(part: Part) -> list[str | None]:
    return [part.kind, part.text, part.path, part.data, part.mime_type]


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else list(value)


def _passed(outcomes: Iterable[CheckOutcome], dialogue: Dialogue, number: int, text: str | None) -> bool | None:
    """Return whether all checks passed; without checks, of a border question, whether the answer is as expected."""
    verdicts = [one.verdict.passed for one in outcomes if one.verdict.passed is not None]
    if verdicts:
        return all(verdicts)
    expected = dialogue.turns[number - 1].assistant
    return _checked(lambda: _is_expected(text or "", expected)) if expected and BORDER in dialogue.tags else None


def _is_expected(text: str, expected: str) -> bool:
    """Return whether the last number of a reply is that of the expected answer; without a number, whether it is in."""
    wanted = last_number(expected)
    if wanted is None:
        return expected.strip().casefold() in text.casefold()
    return last_number(text) == wanted


def _calls_are_valid(dialogue: Dialogue, calls: Sequence[Mapping[str, Any]]) -> bool | None:
    if not calls or not dialogue.tools:
        return None
    called = [CalledTool(name=call["name"], arguments=call["arguments"]) for call in calls]
    return _checked(lambda: all(call_flaw(call, dialogue.tools) is None for call in called))


def _fits_schema(settings: Settings, text: str | None) -> bool | None:
    schema = settings.response_schema
    if not schema or text is None:
        return None
    return _checked(lambda: first_violation(parse_reply_json(text), json.dumps(dict(schema))) is None)


def _checked(holds: Callable[[], bool]) -> bool | None:
    """Return the result of a check; None if it could not be carried out."""
    try:
        return holds()
    except NotJson:
        return False
    except (CheckError, CheckTimeout):
        return None
