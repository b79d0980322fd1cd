"""The state of a conversation while it runs: its history, its keys, its turns in earlier sessions.

`runner.py` drives it. Nothing here waits, sends or writes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from convbatch.config.gateways import Target
from convbatch.dataset.tool_script import NoResult, ToolScript, is_order_dependent
from convbatch.dialogue import HistoryMode, Message, Part, Settings, ToolResult, Turn, scripted_messages, text_part
from convbatch.engine.media_tokens import most_media_tokens
from convbatch.engine.plan import Conversation, TokenBound, TurnKeys, max_output_bound
from convbatch.journal.records import RecordHead, encode_head
from convbatch.media import type_of_path
from convbatch.protocols.history_pieces import HistoryPieces
from convbatch.protocols.replay import WITHOUT_SIGNATURES
from convbatch.protocols.wire import Ask
from convbatch.reply import NO_USAGE, RESULT_KINDS, Attempt, Reply, Status, Usage, is_open, status_of

_OF_CONVERSATION = ("index", "dialogue", "target", "repeat")


class PastTurn(Protocol):
    """One turn in earlier sessions (`journal.index.TurnHistory`)."""

    status: Status | None
    attempts: int
    is_reopened: bool
    """Whether a user asked for another answer to its question."""

    @property
    def error_kind(self) -> str | None:
        """Kind of the latest failure; None without one, and where there is a reply."""
        ...

    @property
    def kept(self) -> Mapping[str, Any] | None:
        """The `outcome` record of the reply that counts, if there is one; of its last step."""
        ...

    @property
    def key(self) -> str | None:
        """Key of the latest question."""
        ...

    @property
    def steps(self) -> Sequence[Mapping[str, Any]]:
        """The `outcome` records of the steps before `kept`, or before the one to ask next."""
        ...

    @property
    def reason(self) -> str | None:
        """Why the turn ended as it did, where that needs words."""
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
    """Why it was skipped, failed, or ended in a tool call."""
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
        self.attempts = 0
        """Requests made for the current turn, over all sessions."""
        self.step = 1
        """Number of the step that is asked next in the current turn."""
        self._step_messages: list[Message] = []
        self._tool_script = ToolScript(conversation.dialogue)
        self._is_order_dependent = is_order_dependent(conversation.dialogue, history)
        self._bound_of_turn: TokenBound | None = None
        self._token_bound = TokenBound(conversation.dialogue)
        self._history_mode: HistoryMode = history
        self._head: RecordHead | None = None
        self._pieces = HistoryPieces()
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

    def replies_with_media(self) -> Iterator[Mapping[str, Any]]:
        """Yield the `outcome` records of earlier sessions whose replies have media."""
        for past in self.past.values():
            kept = () if past.kept is None else (past.kept,)
            yield from (record for record in (*past.steps, *kept) if record["reply"].get("media"))

    def turns(self) -> Iterator[tuple[int, Turn]]:
        """Yield every turn after adding its user message to the history; a scripted reply is added after it."""
        for number, turn in enumerate(self.conversation.dialogue.turns, 1):
            is_asked = number in self.asked
            before, behind = scripted_messages(turn, self._history_mode, is_asked=is_asked)
            for message in (Message(role="user", parts=turn.user), *before):
                self._add(message)
            past = self.past.get(number)
            self.attempts = 0 if past is None else past.attempts
            yield number, turn
            for message in behind:
                self._add(message)

    def restore_steps(self, replies: Iterable[Reply]) -> None:
        """Add replies of earlier sessions that the current turn went on from."""
        for reply in replies:
            if self._go_on(reply) is not None:
                return

    def take_over(self, replies: Sequence[Reply]) -> TurnEnd | None:
        """Add the replies that another run received to the current turn, step by step.

        Returns:
            How the turn ends; None, with nothing changed, if here it would not end with exactly the last of them, or
            would not give its calls the same results for certain.
        """
        if any(reply.tool_calls for reply in replies) and self._is_order_dependent:
            return None
        begun = self.step, self.measured, self._step_messages
        counted = self._bound_of_turn, self._token_bound, self._tool_script
        self._tool_script, self._token_bound = copy.copy(self._tool_script), copy.copy(self._token_bound)
        self._step_messages = self._step_messages.copy()
        *steps, last = (TurnEnd(status=status_of(reply), reply=reply) for reply in replies)
        goes_on = all(self.end_of_step(end) is None for end in steps)
        end = self.end_of_step(last) if goes_on else None
        if end is None:
            self.step, self.measured, self._step_messages = begun
            self._bound_of_turn, self._token_bound, self._tool_script = counted
        return end

    def end_of_step(self, end: TurnEnd | None) -> TurnEnd | None:
        """Return how the turn ends with a step; None if it goes on with a request that has the results of its calls."""
        if end is None or end.reply is None:
            return end
        why = self._go_on(end.reply)
        if why is None:
            return None
        return end._replace(reason=why) if why else end

    def _go_on(self, reply: Reply) -> str | None:
        """Add a reply that is not the turn's last, with the results of its calls.

        Returns:
            None if the turn goes on with another request; else why it ends here, "" where that needs no words.
        """
        calls = reply.tool_calls if reply.finish_reason == "tool_call" else ()
        if not (calls or reply.is_paused) or self.conversation.about is not None:
            return ""
        most = self.conversation.dialogue.max_steps
        if self.step >= most:
            return f"max_steps ({most}) is reached"
        try:
            results = self._tool_script.answer(calls)
        except NoResult as missing:
            return str(missing)
        self._add_step(reply, results)
        return None

    def _add_step(self, reply: Reply, results: tuple[ToolResult, ...]) -> None:
        if self._bound_of_turn is None:
            self._bound_of_turn = copy.copy(self._token_bound)
        self.step += 1
        self.measured = reply.usage
        self._step_messages.append(Message(role="assistant", parts=(text_part(reply.text or ""),), raw=reply.raw_turn))
        usage = reply.usage
        if usage.input_tokens is not None and usage.output_tokens is not None:
            self._token_bound.counted(usage.input_tokens + usage.output_tokens)
        else:
            said = (text_part(reply.text or ""), text_part(reply.thought or ""))
            self._token_bound.add_message(Message(role="assistant", parts=said, calls=reply.tool_calls))
        if results:
            self._step_messages.append(Message(role="tool", parts=(), results=results))
            self._token_bound.add_message(self._step_messages[-1])

    def advance(self, number: int, end: TurnEnd) -> None:
        """Add a reply to the history, or end the dialogue: no turn is sent after a failed one."""
        if end.reply is not None:
            self.measured = end.reply.usage
        if self._live and self.ended is None:
            self._advance_live(number, end)
        self._end_steps(end.reply)

    def _end_steps(self, reply: Reply | None) -> None:
        """Update the token bound, and forget the steps of the turn: its messages are history now, or never will be."""
        if self._live or self._bound_of_turn is None:
            self._count(reply)
        else:
            self._token_bound = self._bound_of_turn
        self.step, self._step_messages, self._bound_of_turn = 1, [], None

    def _advance_live(self, number: int, end: TurnEnd) -> None:
        if end.status != "ok" or end.reply is None:
            why = f" ({end.error_kind})" if end.error_kind in RESULT_KINDS else ""
            self.ended = f"turn {number} ended {end.status}{why}"
        elif end.reply.finish_reason == "tool_call" or end.reply.is_paused:
            why = end.reason or "no result is scripted"
            self.ended = f"turn {number} ended in a {'paused reply' if end.reply.is_paused else 'tool call'}: {why}"
        else:
            for message in self._step_messages:
                self._keep(message)
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

    def question(self, target: Target, settings: Settings, *, in_pieces: bool = False) -> Ask:
        """Return the question of the current step; `in_pieces`: with what earlier questions have encoded."""
        return Ask(
            model=target.model,
            messages=(*self.history, *self._step_messages),
            tools=self.conversation.dialogue.tools,
            system=self.conversation.dialogue.system,
            settings=settings,
            stream=target.gateway.stream,
            pieces=self._pieces if in_pieces else None,
        )

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

    def head(self, number: int) -> RecordHead:
        """Return the fields that identify a turn, for its records."""
        if self.conversation.about is not None:
            return RecordHead(self.ident(number), None)
        begun = self._head
        if begun is None:  # the turn is the last of the fields
            begun = self._head = encode_head({name: self.ident(0)[name] for name in _OF_CONVERSATION})
        fields = {**begun.fields, "turn": number}
        return RecordHead(fields, None if begun.encoded is None else b'%b,"turn":%d' % (begun.encoded, number))

    def attempt_fields(self, key: str, attempt: int, *, step: int | None = None) -> dict[str, Any]:
        """Return the fields that identify an attempt at a step of a turn, the current one unless told."""
        step = step or self.step
        fields: dict[str, Any] = {"key": key, "attempt": attempt, "role": self.role}
        if step != 1:
            fields["step"] = step
        return fields

    def token_bounds(self, settings: Settings) -> dict[str, int]:
        """Return the most tokens of the next request, and of its reply if that is limited."""
        size = {"most_input_tokens": self._token_bound.max_input(settings)}
        limit = max_output_bound(settings)
        if limit is not None:
            size["max_output_tokens"] = limit
        return size

    def _add_reply(self, reply: Reply) -> None:
        self._add(Message(role="assistant", parts=(text_part(reply.text or ""),), raw=reply.raw_turn))
        if reply.has_media:  # goes back as input, and some providers do not count it as output
            kinds = [type_of_path(one.path) for one in reply.media]
            parts = [Part(kind="image" if kind is None else kind.kind) for kind in kinds]
            self._token_bound.add_tokens(most_media_tokens(parts or [Part(kind="image")]))
        gateway = self.conversation.target.gateway
        if gateway.thinking_tags is not None and gateway.replay == "exact":
            self._token_bound.add(reply.thought or "")  # goes back in the text that `raw_turn` keeps

    def _add(self, message: Message) -> None:
        self._keep(message)
        self._token_bound.add_message(message)

    def _keep(self, message: Message) -> None:
        self.history.append(message)
        self.keys.add(message)
