"""Lines of text that describe the plan of a run, a dry run or a judge: what is asked, where, under which limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from convbatch.checks.custom import missing_checks
from convbatch.config.gateways import Target, max_in_flight
from convbatch.dataset.reader import count_of
from convbatch.session.run_caps import cap_lines

if TYPE_CHECKING:
    from convbatch.config.gateways import Gateway, Limits
    from convbatch.engine.runner import RunRules
    from convbatch.journal.manifest import Manifest
    from convbatch.pricing import Money
    from convbatch.session.options import RunOptions
    from convbatch.session.spec import SessionResult, SessionSpec


class Planned(Protocol):
    """A session or a dry run."""

    @property
    def manifest(self) -> Manifest:
        """Content of `run.json`."""
        ...

    @property
    def targets(self) -> tuple[Target, ...]:
        """Targets to ask."""
        ...

    @property
    def max_cost(self) -> Money | None:
        """Cost cap of the whole run."""
        ...

    @property
    def max_tokens(self) -> int | None:
        """Token cap of the whole run."""
        ...

    @property
    def max_requests(self) -> int | None:
        """Request cap of the whole run."""
        ...

    @property
    def rules(self) -> RunRules:
        """Concurrency, retries, history mode and the like."""
        ...


def plan_lines(planned: Planned, options: RunOptions) -> list[str]:
    """Return the plan of a run, to be read before anything is sent."""
    manifest, dataset = planned.manifest, planned.manifest.dataset
    repeats = f" x {manifest.repeats} repeats" if manifest.repeats > 1 else ""
    asked = f"{count_of(dataset.dialogues, 'dialogue')}, {count_of(dataset.asked_turns, 'turn')}"
    targets = count_of(len(planned.targets), "target")
    rows = count_of(manifest.planned.rows, "row")
    lines = [f"{asked} x {targets}{repeats} = {rows}; history {manifest.history}"]
    lines += endpoint_lines(planned, options.from_environment)
    if manifest.config is None and not options.models:
        lines.append("  no -m and no convbatch.toml: asking the built-in SIMULATOR, nothing is sent anywhere")
    if manifest.checks:
        lines.append(f"  {count_of(manifest.checks, 'check')} to judge")
    if manifest.judges_needed:
        judge = manifest.options.judge
        lines.append(
            f"  {manifest.judges_needed} of them {be_verb(manifest.judges_needed)} an llm_rubric"
            + (", and get no verdict without a --judge" if judge is None else f", for the judge {judge}")
        )
    if manifest.preferences:
        asked = count_of(manifest.preferences, "prefer check")
        verb = "compares" if manifest.preferences == 1 else "compare"
        lines.append(f"  {asked} {verb} targets, after the run: convbatch prefer RUN --judge MODEL@GATEWAY")
    lines += [f"  {note}" for note in missing_checks(manifest.python_checks)]
    return lines


def endpoint_lines(session: Planned, from_environment: Sequence[str]) -> list[str]:
    """Return where requests go, under which limits, and which options the environment set."""
    lines = [f"  {target.name}: {_target_line(target, session)}" for target in session.targets]
    for target in session.targets:
        for one in target.asked_targets:
            if one.gateway.base_url.startswith("http://") and one.gateway.allow_http:
                lines.append(f"  {one.gateway.name}: plain http (allow_http), key and text travel unencrypted")
            if ways := _request_line(one.gateway):
                lines.append(f"  {one.name}: {ways}")
    if session.max_cost is not None:
        lines.append(
            f"  cost cap {session.max_cost}: the highest possible cost of a request is reserved before it is sent"
        )
    lines += cap_lines(session)
    if from_environment:
        lines.append(f"  options from the environment: {', '.join(from_environment)}")
    return lines


def judge_lines(judge_spec: SessionSpec) -> list[str]:
    """Return which judge is asked, where, and within which cost cap."""
    judge = judge_spec.targets[0]
    lines = [f"asking the judge {judge.name} about replies with an llm_rubric", f"  {_target_line(judge, judge_spec)}"]
    for one in judge.asked_targets:
        if ways := _request_line(one.gateway):
            lines.append(f"  {one.name}: {ways}")
    if judge_spec.max_cost is not None:
        lines.append(f"  cost cap {judge_spec.max_cost}, including what the run has spent")
    return [*lines, *cap_lines(judge_spec)]


def unused_judge_lines(result: SessionResult) -> list[str]:
    """Return a note if the judge of this session had nothing to judge."""
    return [] if result.rows else ["note: the judge has nothing to judge: no received reply has an llm_rubric check"]


def _target_line(target: Target, session: Planned) -> str:
    gateway = target.gateway
    parts = ["SIMULATED" if target.simulated else f"{gateway.protocol} at {gateway.base_url}"]
    if target.variant is not None:
        parts.append(f"with its own {', '.join(target.variant.changes)}")
    if target.members:
        parts.append(f"a pool of {', '.join(member.name for member in target.members)}")
    if session.rules.batch == "cancel":
        return f"{parts[0]}, its open batch jobs are cancelled"
    if session.rules.batch == "batch":
        if (window := session.rules.batch_window) is not None:
            return f"{parts[0]}, each response within {window}, at the batch price; store: true, the provider keeps it"
        return f"{parts[0]}, by batch jobs, one for each turn of all dialogues together, at the batch price"
    parts.append(f"up to {max_in_flight(gateway.limits, session.rules.concurrency)} in flight")
    parts.append(_limits_text(gateway.limits) or "no rate configured (slow start)")
    return ", ".join(parts)


def _request_line(gateway: Gateway) -> str:
    """Return how requests and replies differ from what the protocol does by itself, and the sources of secrets."""
    ways: list[str] = []
    if gateway.key_command is not None:
        from convbatch.config.key_command import display_command

        ways.append(f"key from the command {display_command(gateway.key_command)}")
    ways += [f"secret header {name} from {header.env}" for name, header in gateway.secret_headers.items()]
    ways += [f"never sends {', '.join(gateway.unset)} (unset)"] if gateway.unset else []
    for key in ("path", "anthropic_version", "seed_field", "system_role", "replay", "thinking_tags"):
        if (value := getattr(gateway, key)) is not None:
            ways.append(f"{key} {value}")
    ways += ["store: true, the provider keeps every turn"] if gateway.replay == "stored" else []
    ways += ["streamed"] if gateway.stream else []
    return ", ".join(ways)


def _limits_text(limits: Limits) -> str:
    named = (("rpm", limits.rpm), ("tpm", limits.tpm), ("rpd", limits.rpd))
    parts = [f"{name} {value}" for name, value in named if value is not None]
    parts += [f"{rate.count}/{rate.window_s:g}s" for rate in limits.rates]
    return ", ".join(parts)


def be_verb(count: int) -> str:
    """Return "is" or "are" for this count."""
    return "is" if count == 1 else "are"
