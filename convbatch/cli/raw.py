"""`convbatch show RUN --raw DIALOGUE TURN`: the request of a turn, and what came back for each attempt.

Requests are not stored. They are built again from the run folder by the code that sent them, without a key; answers are
printed as stored, that is as received, with keys redacted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from convbatch.console.text import printable_lines
from convbatch.dialogue import effective_settings
from convbatch.engine.client import Client
from convbatch.engine.conversation import ConversationState, TurnEnd
from convbatch.engine.http_values import NoResponse
from convbatch.engine.plan import Conversation
from convbatch.engine.turn_records import kept_reply
from convbatch.errors import SetupError, did_you_mean
from convbatch.journal.index import Archive, TurnHistory
from convbatch.journal.media_store import with_names
from convbatch.journal.records import kept_body
from convbatch.protocols import PROTOCOLS
from convbatch.protocols.wire import Ask, WireRequest
from convbatch.redaction import Redactor, redact
from convbatch.results.target_names import named_target
from convbatch.system import RealClock

if TYPE_CHECKING:
    from convbatch.dialogue import Dialogue
    from convbatch.engine.http_values import HttpResponse, OutgoingRequest
    from convbatch.journal.manifest import Manifest
    from convbatch.results.run import Run


class _Nowhere:
    """A transport that sends nothing: a client is needed only to read stored answers."""

    async def send(self, outgoing: OutgoingRequest) -> HttpResponse:
        raise NoResponse("connection", "nothing is sent", sent=False)

    async def close(self) -> None:
        pass


def print_raw(run: Run, dialogue_id: str, turn: int, *, target: str | None = None) -> None:
    """Print the request of a turn and every answer to it, for each target and repeat.

    Raises:
        SetupError: The run has no such dialogue, turn or target.
    """
    index, dialogue = _find(run, dialogue_id)
    manifest = run.manifest
    if not 1 <= turn <= len(dialogue.turns):
        raise SetupError(f"no turn {turn} in {dialogue_id!r}", hint=f"its turns are 1 to {len(dialogue.turns)}")
    only = None if target is None else named_target(run, target)
    from convbatch.config.gateways import target_from_manifest

    with Archive(run.folder) as past:
        for recorded in manifest.targets:
            if only in (None, recorded):
                for repeat in range(1, manifest.repeats + 1):
                    asked = target_from_manifest(recorded)
                    conversation = Conversation(
                        dialogue=asked.asked(dialogue), index=index, target=asked, repeat=repeat
                    )
                    for line in _conversation_lines(conversation, turn, manifest, past):
                        print(printable_lines(redact(line)))  # noqa: T201  # the command's output


def _find(run: Run, dialogue_id: str) -> tuple[int, Dialogue]:
    from convbatch.dataset.snapshot import read_copy

    names: list[str] = []
    for index, dialogue in read_copy(run.folder.dataset):
        if dialogue.id == dialogue_id:
            return index, dialogue
        names.append(dialogue.id)
    raise SetupError(f"no dialogue {dialogue_id!r} in this run", hint=did_you_mean(dialogue_id, names))


def _conversation_lines(conversation: Conversation, turn: int, manifest: Manifest, past: Archive) -> Iterator[str]:
    name = conversation.target.name
    repeat = "" if conversation.repeat == 1 else f", repeat {conversation.repeat}"
    yield f"── {name}{repeat}: {conversation.dialogue.id}, turn {turn}"
    turns = past.transcript(conversation.index, name, conversation.repeat).turns
    history = turns.get(turn, TurnHistory(turn=turn))
    requests = _requests(conversation, turn, manifest, turns)
    if not requests:
        yield "not asked"
    for step, request in enumerate(requests, 1):
        if len(requests) > 1:
            yield f"step {step}"
        yield f"{request.method} {request.url}"
        yield json.dumps(request.json, ensure_ascii=False, indent=2)
        outcomes = [outcome for outcome in history.outcomes if outcome.get("step", 1) == step]
        intents = [intent for intent in history.open_intents if intent.get("step", 1) == step]
        for outcome in outcomes:
            yield from _outcome_lines(outcome)
        for intent in intents:
            yield f"attempt {intent['attempt']}: sent, and no answer is stored"
        if not outcomes and not intents:
            yield "no attempt"


def _outcome_lines(outcome: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is known of one attempt, and the body of its answer."""
    status = outcome.get("http_status")
    facts = ["no HTTP answer" if status is None else f"HTTP {status}", outcome["class"]]
    if outcome.get("latency_s") is not None:
        facts.append(f"{outcome['latency_s']:.3f} s")
    facts += [f"request id {outcome['request_id']}"] if outcome.get("request_id") else []
    facts += [f"reused from {outcome['reused_from']}"] if outcome.get("reused_from") else []
    error = outcome.get("error")
    facts += [f"{error['kind']}: {error['message']}"] if error else []
    yield f"attempt {outcome['attempt']}: {', '.join(facts)}"
    if "body" in outcome or "body_b64" in outcome:
        yield kept_body(outcome).decode("utf-8", "replace")


def _named(ask: Ask) -> Ask:
    return ask._replace(messages=with_names(ask.messages))


def _requests(
    conversation: Conversation, turn: int, manifest: Manifest, turns: Mapping[int, TurnHistory]
) -> list[WireRequest]:
    """Build the requests of a turn again, step by step; none if an earlier turn did not end well."""
    target = conversation.target
    client = Client(target, None, transport=_Nowhere(), redactor=Redactor(), clock=RealClock())
    state = ConversationState(conversation, manifest.history, lambda _: turns)
    for number, asked in state.turns():
        history = turns.get(number, TurnHistory(turn=number))
        steps = [kept_reply(client, outcome) for outcome in history.steps]
        if number == turn:
            if number not in state.asked or state.ended is not None:
                return []
            settings = effective_settings(
                command_line=manifest.settings,
                turn=asked.settings,
                dialogue=conversation.dialogue.settings,
                target=target.gateway.settings,
                repeat=conversation.repeat,
                unset=target.gateway.unset,
            )
            build = PROTOCOLS[target.gateway.protocol].build_request
            requests = [build(_named(state.question(target, settings)), target.gateway.endpoint)]
            for step in steps:
                state.restore_steps([step])
                requests.append(build(_named(state.question(target, settings)), target.gateway.endpoint))
            return requests
        if number in state.asked:
            if history.status is None:
                return []
            state.restore_steps(steps)
            reply = None if history.kept is None else kept_reply(client, history.kept)
            state.advance(number, TurnEnd(status=history.status, reply=reply, error_kind=history.error_kind))
    return []
