"""The state of a conversation while it runs: its history, its keys, its turns in earlier sessions.

`runner.py` drives it. Nothing here waits, sends or writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from convbatch.dialogue import HistoryMode, Message, Settings, Turn, text_part
from convbatch.engine.plan import Conversation, TokenBound, TurnKeys, max_output_bound
from convbatch.engine.worker import TargetWorker
from convbatch.protocols.replay import WITHOUT_SIGNATURES
from convbatch.protocols.wire import Ask
from convbatch.reply import NO_USAGE, RESULT_KINDS, Attempt, Reply, Status, Usage, is_open


class PastTurn(Protocol):
    """One turn in earlier sessions (`journal.index.TurnHistory`)."""

    status: Status | None
    attempts: int

    @property
    def error_kind(self) -> str | None:
        """Kind of the latest failure; None without one, and where there is a reply."""
        ...

    @property
    def kept(self) -> Mapping[str, Any] | None:
        """The `outcome` record of the reply that counts, if there is one."""
        ...

    def finished(self, key: str) -> bool:
        """Return whether the turn with exactly this key has a terminal state."""
        ...

    def unread_answers(self, key: str) -> Iterable[Mapping[str, Any]]:
        """Return the `outcome` records of answers to this question in which no reply was found, newest first."""
        ...


Past = Callable[[Conversation], Mapping[int, PastTurn]]
"""Look-up of a conversation's turns in earlier sessions, by turn number."""


class TurnEnd(NamedTuple):
    """Terminal state of a turn, with its reply if there is one."""

    status: Status
    reply: Reply | None
    reason: str | None = None
    error_kind: str | None = None
    """Of a turn that a failure ended."""


class ConversationState:
    """State of a running conversation: its history, its keys, and its turns in earlier sessions."""

    def __init__(self, conversation: Conversation, history: HistoryMode, past: Past | None) -> None:
        self.conversation = conversation
        self.asked = frozenset(conversation.dialogue.asked(history))
        self.history: list[Message] = []
        self.keys = TurnKeys(conversation.target, conversation.dialogue)
        self.ended: str | None = None
        """Why the dialogue was ended early."""
        self.past: Mapping[int, PastTurn] = {}
        self.leaves_out_signatures = False
        """Whether the gateway refused signatures of this conversation; its keys stay those of turns as received."""
        self.measured: Usage | None = None
        """Usage of the latest reply."""
        self._token_bound = TokenBound(conversation.dialogue.system)
        self._live = history == "live"
        if past is not None:
            self.past = past(conversation)
        for question, reply in conversation.earlier:
            self._add(question)
            self._add_reply(reply)
            self.measured = reply.usage
            self._count(reply)

    @property
    def role(self) -> str:
        """Role of the calls in the journal."""
        return "model" if self.conversation.about is None else "judge"

    def settled(self, *, retry_errors: bool) -> list[TurnEnd] | None:
        """Return how the rows ended if all are terminal, else None; None for a judge: its question may have changed."""
        if self.conversation.about is not None:
            return None
        ends: list[TurnEnd] = []
        ended = False
        for number in sorted(self.asked):
            past = self.past.get(number)
            if past is None or past.status is None or (retry_errors and is_open(past.status, past.error_kind)):
                return None
            if past.status == "skipped" and not ended:
                return None  # a session resent the failed turn before it, and was killed before this one
            ended = ended or past.status != "ok"
            ends.append(TurnEnd(status=past.status, reply=None, error_kind=past.error_kind))
        return ends

    def turns(self) -> Iterator[tuple[int, Turn]]:
        """Yield every turn after adding its user message to the history; a scripted reply is added after it."""
        for number, turn in enumerate(self.conversation.dialogue.turns, 1):
            self._add(Message(role="user", parts=turn.user))
            yield number, turn
            is_scripted = not self._live or number not in self.asked
            if is_scripted and turn.assistant is not None:
                self._add(Message(role="assistant", parts=(text_part(turn.assistant),)))

    def advance(self, number: int, end: TurnEnd) -> None:
        """Add a reply to the history, or end the dialogue: no turn is sent after a failed one."""
        if end.reply is not None:
            self.measured = end.reply.usage
        if self._live and self.ended is None:
            self._advance_live(number, end)
        self._count(end.reply)

    def _advance_live(self, number: int, end: TurnEnd) -> None:
        if end.status != "ok" or end.reply is None:
            why = f" ({end.error_kind})" if end.error_kind in RESULT_KINDS else ""
            self.ended = f"turn {number} ended {end.status}{why}"
        elif end.reply.finish_reason == "tool_call":
            self.ended = f"turn {number} ended in a tool call without a scripted result"
        else:
            self._add_reply(end.reply)

    def follow_up(self, end: TurnEnd) -> Conversation | None:
        """Return the conversation that the reply to the only turn leads to; None when its row is finished."""
        make = self.conversation.follow_up
        return None if make is None or end.status != "ok" or end.reply is None else make(end.reply)

    def _count(self, reply: Reply | None) -> None:
        """Update the token bound from reported usage; outside live mode only the input count applies."""
        usage = NO_USAGE if reply is None else reply.usage
        output = usage.output_tokens if self._live else 0
        if usage.input_tokens is not None and output is not None:
            self._token_bound.counted(usage.input_tokens + output)

    def question(self, worker: TargetWorker, settings: Settings) -> Ask:
        """Return the question whose user message was added last."""
        ask = Ask(
            model=worker.target.model,
            messages=tuple(self.history),
            system=self.conversation.dialogue.system,
            settings=settings,
            stream=worker.target.gateway.stream,
        )
        return worker.client.without_signatures(ask) if self.leaves_out_signatures else ask

    def noted(self, attempt: Attempt) -> Attempt:
        """Return an attempt with what is odd about the history that it was sent with."""
        if not self.leaves_out_signatures:
            return attempt
        return attempt._replace(wire_note="; ".join(filter(None, (attempt.wire_note, WITHOUT_SIGNATURES))))

    def ident(self, number: int) -> dict[str, Any]:
        """Return the fields that identify a turn in a record; `journal/index.py` reads them fastest in this order."""
        conversation, about = self.conversation, self.conversation.about
        ident = {
            "index": conversation.index,
            "dialogue": conversation.dialogue.id,
            "target": conversation.target.name,
            "repeat": conversation.repeat,
            "turn": number,
        }
        if about is not None:
            ident |= {"turn": about.turn, "role": self.role, "of": about.target, "asked": about.asked}
            ident |= {} if about.repairs is None else {"repairs": about.repairs}
        return ident

    def token_bounds(self, settings: Settings) -> dict[str, int]:
        """Return the most tokens of the next request, and of its reply if that is limited."""
        size = {"most_input_tokens": self._token_bound.max_input(settings)}
        limit = max_output_bound(settings)
        if limit is not None:
            size["max_output_tokens"] = limit
        return size

    def _add_reply(self, reply: Reply) -> None:
        self._add(Message(role="assistant", parts=(text_part(reply.text or ""),), raw=reply.raw_turn))
        gateway = self.conversation.target.gateway
        if gateway.thinking_tags is not None and gateway.replay == "exact":
            self._token_bound.add(reply.thought or "")  # goes back in the text that `raw_turn` keeps

    def _add(self, message: Message) -> None:
        self.history.append(message)
        self.keys.add(message)
        self._token_bound.add(message.text)
