"""From `--judge` to a `SessionSpec` that asks it, and the questions that its session asks; nothing is sent here.

Judge calls pass the same limiter, retries and journal as any other call, with the role `judge`. The text of a question
is `checks/llm_rubric.py`, which replies need one is `results/verdicts.py`, and the answers are read by `results/`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from convbatch.config.credentials import Credentials
from convbatch.config.gateways import (
    Config,
    Overrides,
    Target,
    asked_gateways,
    target_from_manifest,
    target_to_manifest,
)
from convbatch.config.targets import resolve_judge
from convbatch.dialogue import NO_SETTINGS, Settings, effective_settings
from convbatch.engine.runner import DEFAULT_MAX_ATTEMPTS, RunRules
from convbatch.errors import ConvbatchError, SetupError
from convbatch.exit_codes import ExitCode, worst
from convbatch.journal.manifest import Manifest, ManifestTarget
from convbatch.pricing import ExchangeRates
from convbatch.session.cost_cap import resolve_caps
from convbatch.session.next_command import resume_line
from convbatch.session.options import CheckOptions
from convbatch.session.preflight import check_reachable
from convbatch.session.run_caps import given_caps
from convbatch.session.run_log import log_spec
from convbatch.session.spec import Role, SessionResult, SessionSpec
from convbatch.session.trust import remember_endpoint
from convbatch.session.unsupported import unsupported_setting

if TYPE_CHECKING:
    from convbatch.engine.conversation import Past, PastTurn
    from convbatch.engine.plan import Conversation
    from convbatch.journal.index import Archive, JudgeCall, TurnHistory
    from convbatch.journal.run_folder import RunFolder
    from convbatch.reply import Reply

MAX_OUTPUT_TOKENS = 4096
"""Default output limit of a judge: room for a model that thinks, and not more than what older models accept."""
_OF_THE_RUN = ("max_output_tokens", "stop", "response_schema")
"""Settings under `[run.settings]` that are meant for the replies of a run and would spoil the answers of its judge."""


def judge_target(name: str, config: Config, overrides: Overrides, max_output_tokens: int | None) -> Target:
    """Return the judge with this name.

    Args:
        name: `model@gateway`.
        config: The configuration.
        overrides: Limits that precede those of the configuration.
        max_output_tokens: Its output limit; None = that of `[judge]`, else of its model, else a default.

    Raises:
        SetupError: The gateway is unknown or missing, or a setting of the judge cannot be sent.
    """
    settings = config.run.settings.without(_OF_THE_RUN)
    config = replace(config, run=replace(config.run, settings=settings))
    target = resolve_judge(name, config, overrides)
    own = target.gateway.settings
    limit = max_output_tokens or config.judge.max_output_tokens or own.max_output_tokens
    if limit is None:  # some models refuse a limit that is not above their thinking budget
        limit = MAX_OUTPUT_TOKENS + max(0, own.thinking_budget or 0)
    limited = own.under(Settings(max_output_tokens=limit))
    settings = effective_settings(target=limited, unset=target.gateway.unset)
    if (refused := unsupported_setting(target, settings)) is not None:
        raise SetupError(f"the judge {target.name}: {refused}", hint="remove the setting, or name another judge")
    return replace(target, gateway=replace(target.gateway, settings=limited))


def judge_to_manifest(judge: Target, config: Config, day: datetime) -> ManifestTarget:
    """Return a judge's entry in `run.json`, with its prices."""
    from convbatch.config.list_prices import price_table

    prices = price_table(judge, config, day.date(), NO_SETTINGS)
    return target_to_manifest(judge, prices, config.served_prices_of(judge, prices))


def prepare_judging(folder: RunFolder, name: str, options: CheckOptions) -> SessionSpec:
    """Prepare a session that asks this judge about the replies of a run; from then on its verdicts count.

    Raises:
        SetupError: The judge or `run.json` cannot be used.
        InputError: The configuration cannot be read.
    """
    from convbatch.config.loader import load_config

    manifest = folder.read_manifest()
    for recorded in (*manifest.targets, *manifest.judges):
        target_from_manifest(recorded)  # raises for one that this version does not know
    config = load_config(options.config)
    overrides = Overrides(rpm=options.rpm, tpm=options.tpm, attempt_timeout_s=options.attempt_timeout_s)
    judge = judge_target(name, config, overrides, options.judge_max_output_tokens)
    entry = judge_to_manifest(judge, config, datetime.now(UTC))
    others = {other.name: other for other in manifest.judges}
    former = others.pop(judge.name, None)
    if former is not None and former.prices is not None:
        entry = replace(
            entry, prices=former.prices, served_prices=former.served_prices
        )  # the cost of earlier calls does not change; `report -c` reprices
    manifest = replace(
        manifest,
        judges=(*others.values(), entry),
        rates=ExchangeRates({**config.exchange_rates.rates, **manifest.rates.rates}),
        options=replace(manifest.options, **given_caps(options, manifest.options)),
    )
    spec = SessionSpec(
        folder=folder,
        manifest=manifest,
        targets=(judge,),
        credentials=Credentials.load(asked_gateways([judge]), env_file=options.env_file, configured=config.env_file),
        rules=RunRules(
            concurrency=options.concurrency or config.run.concurrency,
            max_attempts=options.max_attempts or config.run.max_attempts or DEFAULT_MAX_ATTEMPTS,
            deadline_s=options.deadline_s,
        ),
        work=JudgeWork(asks_again=options.ask_again),
        resumed=True,
        progress=options.progress,
        log=log_spec(options),
    )
    spec = _check_ready(spec)
    remember_endpoint(folder, manifest, judge)
    return spec


def prepare_judging_after(spec: SessionSpec, result: SessionResult) -> SessionSpec | None:
    """Prepare the judge's session after a run or resume; None without a judge, or if the run was stopped.

    The deadline is one for both sessions: the judge has what the replies left of it.

    Raises:
        SetupError: As `prepare_judging`.
    """
    if result.reason not in ("finished", "incomplete") or not wants_judge(spec.manifest):
        return None
    manifest = spec.folder.read_manifest()
    if manifest.current_judge != spec.manifest.current_judge:  # the one that was checked
        raise SetupError(
            "run.json was changed during the run: it names another judge",
            hint=f"look at run.json, then: {resume_line(spec)}",
        )
    deadline_s = spec.rules.deadline_s
    rules = RunRules(
        concurrency=spec.rules.concurrency,
        max_attempts=spec.rules.max_attempts,
        deadline_s=None if deadline_s is None else max(0.0, deadline_s - result.elapsed_s),
    )
    judge = target_from_manifest(manifest.judges[-1])
    return _check_ready(
        replace(
            spec,
            manifest=manifest,
            targets=(judge,),
            credentials=spec.credentials.covering([judge.gateway]),
            rules=rules,
            work=JudgeWork(),
            resumed=True,
            salvage=False,
            retry_failed=frozenset(),
            reuse=None,
        ),
        run_commands=False,
    )


def judge_not_asked(error: ConvbatchError) -> SessionResult:
    """Return the result for a judge that could not be asked after the replies of its run had arrived."""
    return SessionResult(exit_code=worst(ExitCode.INCOMPLETE, error.exit_code), reason="error", error=error)


def wants_judge(manifest: Manifest) -> bool:
    """Return whether the run was started with a judge."""
    return bool(manifest.options.judge and manifest.judges)


def _check_ready(spec: SessionSpec, *, run_commands: bool = True) -> SessionSpec:
    """Return the session with its cap, after the preflight checks; without questions no key command has to run."""
    check_reachable(spec.targets, spec.rules.concurrency, spec.credentials, run_commands=run_commands)
    caps = spec.manifest.options
    cap = resolve_caps(
        caps,
        replace(spec.manifest, targets=tuple(one for one in spec.manifest.targets if one.prices is not None)),
        spec.targets,
        NO_SETTINGS,
        None,
    )
    return replace(spec, max_cost=cap, max_tokens=caps.max_tokens_total, max_requests=caps.max_requests)


class JudgeWork:
    """The questions to a judge about the replies of a run; the judge is the session's only target."""

    role: Role = "judge"
    unit = "question"

    def __init__(self, *, asks_again: bool = False) -> None:
        """Define the work.

        Args:
            asks_again: Ask questions again to which the judge gave no verdict.
        """
        self._asks_again = asks_again

    def plan(self, spec: SessionSpec, target: Target, past: Archive | None) -> Iterator[Conversation]:
        """Yield a one-turn conversation for each question to the judge, in table order, answered ones included."""
        from convbatch.dialogue import Dialogue, Part, Turn, text_part
        from convbatch.engine.plan import Conversation, JudgedItem
        from convbatch.results.conversations import stored_conversations
        from convbatch.results.verdicts import questions_for_judge

        assert past is not None  # replies are judged from the journal, so the session is a resumed one
        for stored in stored_conversations(spec.folder, spec.manifest, past):
            for turn, question in questions_for_judge(stored.result):
                user = (text_part(question.text), *(Part(kind="image", path=path) for path in question.pictures))
                asked = Conversation(
                    dialogue=Dialogue(id=stored.dialogue.id, system=question.system, turns=(Turn(user=user),)),
                    index=stored.id.dialogue_index,
                    target=target,
                    repeat=stored.result.repeat,
                    about=JudgedItem(stored.result.target, turn, question.digest),
                )
                yield replace(asked, follow_up=partial(_repair, asked))

    def count_rows(self, spec: SessionSpec, past: Archive | None) -> int:
        """Count the questions."""
        return sum(1 for target in spec.targets for _ in self.plan(spec, target, past))

    def past_turns(self, past: Archive) -> Past:
        """Return a look-up of the earlier calls for a question, as the history of its conversation's one turn."""

        def history_of(question: Conversation) -> Mapping[int, PastTurn]:
            about = question.about
            assert about is not None
            calls = {
                call.question: call
                for call in past.judge_calls(question.index, about.target, question.repeat)
                if (call.judge, call.turn) == (question.target.name, about.turn)
            }
            return {1: self._past_turn(question, calls)} if about.asked in calls else {}

        return history_of

    def _past_turn(self, question: Conversation, calls: Mapping[str, JudgeCall]) -> PastTurn:
        from convbatch.journal.index import TurnHistory
        from convbatch.results.verdicts import read_judge_answer

        assert question.about is not None
        history = calls[question.about.asked].history
        answer = read_judge_answer(calls.get, question.about.asked)
        if self._asks_again and answer.no_verdict is not None:
            return TurnHistory(turn=history.turn, attempts=history.attempts)
        return _with_todays_limit(question, history, is_settled=answer.finding is not None)

    def recorded_targets(self, manifest: Manifest) -> Sequence[ManifestTarget]:
        """Return the judges of the run."""
        return manifest.judges

    def initial_state(self, folder: RunFolder) -> str:
        """Return the state as it is: a judge does not change how far the run is."""
        return folder.read_manifest().state

    def final_state(self, result: SessionResult) -> str | None:
        """Return None: `run.json` stays as it is."""
        return None


def _repair(asked: Conversation, reply: Reply) -> Conversation | None:
    """Return the question that asks for the form of an answer; None where it can be read, or has no text."""
    from convbatch.checks.llm_rubric import UnreadableAnswer, finding, repair_question
    from convbatch.dialogue import Message, Turn, text_part

    text, about = reply.text or "", asked.about
    assert about is not None
    if not text.strip():
        return None
    try:
        finding(text, about.asked, is_cut=reply.finish_reason == "length")
    except UnreadableAnswer:
        repair = repair_question(about.asked, text)
        question = Message(role="user", parts=asked.dialogue.turns[0].user)
        return replace(
            asked,
            dialogue=replace(asked.dialogue, turns=(Turn(user=(text_part(repair.text),)),)),
            about=about._replace(asked=repair.digest, repairs=about.asked),
            earlier=((question, reply),),
        )
    return None


def _with_todays_limit(question: Conversation, history: TurnHistory, *, is_settled: bool) -> TurnHistory:
    """Return the history with today's key where only the judge's output limit has changed: its answer stands.

    An answer that was cut off and gave no verdict (`is_settled` is false) does not stand under a higher limit.
    """
    from convbatch.engine.conversation import ConversationState

    own = question.target.gateway.settings
    sent = next((one for one in reversed(history.intents) if one.get("key") == history.key), {})
    limit = sent.get("max_output_tokens")
    was_cut = history.kept is not None and history.kept["reply"]["finish_reason"] == "length"
    if was_cut and not is_settled and limit is not None and limit < (own.max_output_tokens or 0):
        return history
    state = ConversationState(question, "live", None)
    next(state.turns())

    def key(settings: Settings) -> str:
        unset = question.target.gateway.unset
        return state.keys.key(effective_settings(target=settings, repeat=question.repeat, unset=unset))

    return replace(history, key=key(own)) if history.key == key(replace(own, max_output_tokens=limit)) else history
