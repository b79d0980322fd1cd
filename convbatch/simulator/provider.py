"""The core of the simulator: requests in, answers out, without sockets or a clock.

It processes a request in this order: path, key, fault script, form, model, limits, then the reply and its billing. A
reply is billed when it is made, before its first byte is sent; a later failure does not refund it. The same provider
serves HTTP (`server.py`) and, in virtual time, callers in the process: call `handle`, send the `Answer`, end it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import orjson

from convbatch.simulator import cheats, fault_actions
from convbatch.simulator.batches.jobs import JobLimits, JobMark, JobTimes, LineRequest, MadeLine
from convbatch.simulator.batches.paths import JOB_OPERATIONS
from convbatch.simulator.batches.service import BatchService
from convbatch.simulator.batches.store import JobRequest, Served
from convbatch.simulator.draws import draw
from convbatch.simulator.fault_script import Facts, FaultScript, Rule
from convbatch.simulator.gateways import GatewayName, behind, gateway_headers, mistaken, new_api_id
from convbatch.simulator.http import Answer, Piece, Request
from convbatch.simulator.ledger import Entry, Ledger, key_hash
from convbatch.simulator.limits import Gatekeeper, Refusal, ServerLimits
from convbatch.simulator.prompt_cache import PromptCache
from convbatch.simulator.replies import (
    PER_MESSAGE_TOKENS,
    Actor,
    ParsedRequest,
    Script,
    SimulatedReply,
    count_tokens,
    history_sha,
    reword,
)
from convbatch.simulator.routes import WIRES, key_of, likely_wire, route
from convbatch.simulator.stored_responses import StoredResponses
from convbatch.simulator.wire import (
    ErrorCause,
    Hint,
    LeftOver,
    RefusedRequest,
    ReplySpec,
    Route,
    Wire,
    encode,
    refuse,
)

ONLY_STREAMED = "This model only supports stream mode, please enable the stream parameter to access the model."
ONLY_RESPONSES = "This model is only supported in v1/responses and not in v1/chat/completions."
_COUNTED = frozenset(("generate", *JOB_OPERATIONS))
REQUEST_IDS = ("x-oneapi-request-id", "x-request-id", "request-id", "x-generation-id")


@dataclass(slots=True, kw_only=True)
class Arrival:
    """A request whose headers have been received."""

    seq: int
    at: float
    key: str
    in_flight: int
    path: str
    query: Mapping[str, str]
    route: Route | None
    bare_wire: Wire
    """Without a gateway in front; for a path that is not served the one in whose format it is refused."""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    nth: int = 0
    """Number among the requests of its operation, from 1."""
    mark: JobMark | None = None
    """For the request of a line of a job, which no client has sent."""
    job_id: str | None = None
    """The job that the request is about."""
    delivers: Sequence[MadeLine] = ()
    """The lines of jobs whose results are in the answer."""
    reply: SimulatedReply | None = None
    """What was billed."""
    reply_spec: ReplySpec | None = None
    sha: str | None = None
    fault: Rule | None = None
    answer: Answer | None = None
    """Set if the answer was decided without the body."""


class Provider:
    """The state of the simulated provider: models, keys, limits, faults and the ledger."""

    def __init__(
        self,
        *,
        seed: int = 0,
        script: Script | None = None,
        keys: Collection[str] | None = None,
        limits: ServerLimits | None = None,
        faults: FaultScript | None = None,
        latency_s: float | tuple[float, float] = 0.0,
        event_s: float = 0.0,
        gateway: GatewayName | None = None,
        wires: Sequence[str] | None = None,
        answers_as: str | None = None,
        served_tier: str | None = None,
        hidden_system: str = "",
        varies: bool = False,
        job_times: JobTimes | None = None,
        job_limits: JobLimits | None = None,
        aliases: Mapping[str, str] | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        """Set up a provider.

        Args:
            seed: The same seed, model and history give the same reply.
            script: Scripted replies.
            keys: The accepted keys; None accepts any key, and none.
            limits: Per key and model; None means no limit.
            faults: Rules for deliberate faults.
            latency_s: Seconds before the first byte of a reply; drawn from a range, the same for the same history.
            event_s: Seconds between two events of a stream.
            gateway: The gateway in front of the provider, with its own replies, errors and headers.
            wires: The wires that are served; other paths are refused in the format of the first. None serves all.
            answers_as: The wire in which every request is answered, as by a server that is asked in a wrong protocol.
            served_tier: The service tier that serves every request, whatever tier it asks for.
            hidden_system: Text silently put before every prompt: counted and billed, without effect on the reply.
            varies: Vary the wording each time the same history is sent, as at a temperature above 0.
            job_times: How long batch jobs and background responses take.
            job_limits: What a batch job may hold; None: as much as at the provider.
            aliases: Additional model names, each with its simulated model.
            ledger: Where requests are recorded; default: in memory, with histories.
        """
        self.ledger = ledger if ledger is not None else Ledger()
        self.faults = faults or FaultScript()
        self.actor = Actor(seed=seed, script=script, aliases=aliases)
        cheats.check_models(self.faults, self.actor)
        self.in_flight = 0
        self.most_in_flight = 0
        self._keys = None if keys is None else set(keys)
        self._revoked: set[str] = set()
        self._balances: dict[str, int] = {}
        self._gate: Gatekeeper | None = None
        self.set_limits(limits)
        self._latency_s = latency_s if isinstance(latency_s, tuple) else (latency_s, latency_s)
        self._event_s = event_s
        self._gateway: GatewayName | None = gateway
        self._wires = wires
        self._answers_as = answers_as
        self._served_tier = served_tier
        self._hidden_tokens = count_tokens(hidden_system) + PER_MESSAGE_TOKENS if hidden_system else 0
        self._varies = varies
        self._answers: dict[tuple[str, str], int] = {}
        self.responses = StoredResponses()
        self._cache = PromptCache()
        self._arrivals = 0
        self.batches = BatchService(
            self._make_line,
            self.responses,
            times=job_times or JobTimes(),
            limits=job_limits or JobLimits(),
            seed=seed,
        )
        self._asked_by: dict[str, int] = {}
        self._asked_of: dict[str, int] = {}
        self._tries: dict[tuple[str, str], int] = {}
        self._first_at: float | None = None

    def revoke(self, key: str) -> None:
        """Reject this key from now on."""
        self._revoked.add(key)

    def set_balance(self, key: str, tokens: int) -> None:
        """Set the tokens that a key may still use; replies continue while any are left, and the last may overdraw."""
        self._balances[key] = tokens

    def set_limits(self, limits: ServerLimits | None) -> None:
        """Replace the limits and reset all counters."""
        self._gate = None if limits is None else Gatekeeper(limits)

    def handle(self, request: Request, now: float) -> Answer:
        """Answer a complete request that arrived at `now`; the clock must not go back."""
        arrival = self.arrive(request, now)
        return arrival.answer or self.answer(arrival, request.body, now)

    def arrive(self, head: Request, now: float) -> Arrival:
        """Register a request whose headers have been received; some faults apply before the body is read."""
        self._arrivals += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        where = self._in_front(route(head.method, self._path(head.path), head.query, head.headers))
        wire = self._bare_wire(where, head.path)
        arrival = Arrival(
            seq=self._arrivals,
            at=now,
            key=key_of(wire, head.query, head.headers),
            in_flight=self.in_flight,
            path=head.path,
            query=head.query,
            headers=head.headers,
            route=where,
            bare_wire=wire,
        )
        if where is not None and where.operation in _COUNTED:
            self._count(arrival, where.operation, now)
            if self.faults.rules:
                self._strike_at_head(arrival, where, now)
        return arrival

    def _count(self, arrival: Arrival, operation: str, now: float) -> None:
        arrival.nth = self._asked_by[operation] = self._asked_by.get(operation, 0) + 1
        if self._first_at is None:
            self._first_at = now

    def answer(self, arrival: Arrival, body: bytes, now: float) -> Answer:
        """Answer a request that `arrive` has not answered."""
        try:
            where = self._admit_key(arrival)
            if where.operation in JOB_OPERATIONS:
                return self._answer_about_jobs(arrival, where, body, now)
            if where.operation != "generate":
                return self._answer_plain(arrival, where)
            return self._generate(arrival, where, body, now)
        except RefusedRequest as refused:
            arrival.fault = None  # a rule that was picked but not reached
            return self._refusal(arrival, refused.cause, now)

    def advance(self, now: float) -> None:
        """Make the lines of batch jobs, and the background responses, that are due."""
        self.batches.store.jobs.advance(now)

    def _generate(self, arrival: Arrival, where: Route, body: bytes, now: float) -> Answer:
        if arrival.mark is None and where.wire.name == "responses":
            self.advance(now)  # it may go on from a background response
        reply_spec = self._understand(arrival, where, body)
        background = reply_spec.background if arrival.mark is None else None
        if background is not None:
            arrival.route = where = replace(where, operation="create")
            self._count(arrival, "create", now)
        if self.faults.rules:
            arrival.fault = self.faults.pick(self._facts(arrival, where, reply_spec, now), seed=self.actor.seed)
        if arrival.fault is not None and fault_actions.is_refusal(arrival.fault):
            return self._refuse_by_rule(arrival, arrival.fault, now)
        if arrival.fault is not None and fault_actions.leaves_unmade(arrival.fault):
            return self._send(arrival, Answer(status=None, whole=False))
        self._check_order(where, reply_spec)
        if arrival.mark is not None:
            return self._reply(arrival, where, self._in_job(where, reply_spec), now)
        self._check_limits(arrival, reply_spec, now)
        if background is not None:
            request = self._job_request(arrival, replace(where, operation="generate"), body, now)
            return self._serve(arrival, where, self.batches.background.create(reply_spec, background, request))
        return self._reply(arrival, where, reply_spec, now)

    def _in_job(self, where: Route, reply_spec: ReplySpec) -> ReplySpec:
        """Return the request of a line as it is served in a job; refuses a streamed one."""
        if reply_spec.form != "whole":
            refuse("bad_request", "stream: streaming is not supported in a batch", field="stream")
        return replace(reply_spec, tier="batch") if where.wire.name == "anthropic" else reply_spec

    def _make_line(self, request: LineRequest, now: float) -> MadeLine:
        """Answer the request of a line as a single request, beside the limits of those."""
        self._arrivals += 1
        arrival = Arrival(
            seq=self._arrivals,
            at=now,
            key=request.key,
            in_flight=self.in_flight,
            path="",
            query={},
            route=request.route,
            bare_wire=WIRES[request.route.wire.name],
            mark=request.mark,
            job_id=request.mark.job_id,
        )
        self._count(arrival, "line", now)
        answer = self.answer(arrival, request.body, now)
        rule, reply = arrival.fault, arrival.reply
        tokens = (0, 0, 0) if reply is None else (reply.input_tokens, reply.output_tokens, reply.reasoning_tokens or 0)
        return MadeLine(
            answer=answer, fault=rule if rule is not None and rule.action == "line" else None, tokens=tokens
        )

    def _answer_about_jobs(self, arrival: Arrival, where: Route, body: bytes, now: float) -> Answer:
        request = self._job_request(arrival, where, body, now)
        if self.faults.rules:
            facts = Facts(
                wire=where.wire.name,
                key=arrival.key,
                nth=arrival.nth,
                elapsed_s=now - (self._first_at or 0.0),
                operation=where.operation,
                model=where.model or self.batches.model_of(request),
            )
            arrival.fault = self.faults.pick(facts, seed=self.actor.seed)
        rule = arrival.fault
        if rule is not None and fault_actions.is_refusal(rule):
            if fault_actions.bills(rule):  # it is done, and the answer says that it is not
                self._note(arrival, self.batches.serve(request))
            return self._refuse_by_rule(arrival, rule, now)
        return self._serve(arrival, where, self.batches.serve(replace(request, fault=_of_jobs(rule))))

    def _job_request(self, arrival: Arrival, where: Route, body: bytes, now: float) -> JobRequest:
        return JobRequest(
            route=where,
            key=arrival.key,
            query=arrival.query,
            headers=arrival.headers,
            body=body,
            at=now,
            fault=_of_jobs(arrival.fault),
        )

    def _note(self, arrival: Arrival, served: Served) -> None:
        arrival.job_id = served.job_id
        if served.model is not None and arrival.route is not None:
            arrival.route = replace(arrival.route, model=served.model)

    def _serve(self, arrival: Arrival, where: Route, served: Served) -> Answer:
        self._note(arrival, served)
        arrival.delivers = served.delivers
        headers = {**self._headers(arrival, where.wire.content_type), **served.headers}
        answer = Answer(status=200, headers=headers, pieces=[(0.0, served.content)])
        if arrival.fault is not None:
            answer = fault_actions.spoil_answer(arrival.fault, answer, where.wire)
        return self._send(arrival, answer)

    def _path(self, path: str) -> str:
        return path.removeprefix("/api") if self._gateway == "openrouter" else path

    def _in_front(self, where: Route | None) -> Route | None:
        """Return a route as the gateway in front of the provider serves it; None if it does not."""
        if where is None or not self._serves(where):
            return None
        if where.operation in JOB_OPERATIONS:  # these gateways relay generation requests only
            return where if self._answers_as is None and self._gateway is None else None
        if self._answers_as is not None:
            return replace(where, wire=mistaken(where.wire, WIRES[self._answers_as]))
        if self._gateway is None:
            return where
        wire = behind(self._gateway, where.wire)
        return None if wire is None else replace(where, wire=wire)

    def _serves(self, where: Route) -> bool:
        wires = self._wires
        if wires is None or where.wire.name in wires:
            return True
        return "responses" in wires and where.wire.name == "openai" and where.operation in JOB_OPERATIONS

    def _bare_wire(self, where: Route | None, path: str) -> Wire:
        if self._answers_as is not None:
            return WIRES[self._answers_as]
        if where is not None:
            return WIRES[where.wire.name]
        return likely_wire(path) if self._wires is None else WIRES[next(iter(self._wires))]

    def abandon(self, arrival: Arrival, now: float) -> None:
        """Record that the client disconnected before its body was received."""
        self._send(arrival, Answer(status=None, whole=False)).lost(now)

    def _strike_at_head(self, arrival: Arrival, where: Route, now: float) -> None:
        facts = Facts(
            wire=where.wire.name,
            key=arrival.key,
            nth=arrival.nth,
            elapsed_s=now - (self._first_at or 0.0),
            operation=where.operation,
            model=where.model,
        )
        arrival.fault = self.faults.pick(facts, seed=self.actor.seed, at_head=True)
        if arrival.fault is not None:
            arrival.answer = self._send(arrival, fault_actions.replacement_answer(arrival.fault))

    def _admit_key(self, arrival: Arrival) -> Route:
        where, key = arrival.route, arrival.key
        if where is None:
            refuse("no_path", f"Invalid URL ({arrival.path})")
        if where.operation == "upload" and "upload_id" in arrival.query:
            return where  # Google's address for the pieces of an upload stands for the key
        if key in self._revoked:
            refuse("bad_key")
        if self._keys is not None and key not in self._keys:
            refuse("bad_key" if key else "no_key")
        if self._balances.get(key, 1) <= 0 and where.operation == "generate":
            refuse("no_balance")
        return where

    def _understand(self, arrival: Arrival, where: Route, body: bytes) -> ReplySpec:
        try:
            plain = orjson.loads(body)
        except orjson.JSONDecodeError:
            refuse("bad_request", "Invalid JSON payload received. Could not parse the request body.")
        reply_spec = where.wire.parse_request(where, self.responses.with_history(plain))
        arrival.reply_spec = reply_spec
        arrival.sha = history_sha(reply_spec.parsed.system, reply_spec.parsed.messages)
        model = reply_spec.parsed.model
        self._asked_of[model] = self._asked_of.get(model, 0) + 1
        return reply_spec

    def _check_order(self, where: Route, reply_spec: ReplySpec) -> None:
        model = reply_spec.parsed.model
        player = self.actor.base_model(model)
        if player is None:
            refuse("no_model", model=model)
        if player == "sim-streamed" and reply_spec.form == "whole":
            refuse("bad_request", ONLY_STREAMED)
        if player == "sim-responses" and where.wire.name != "responses":
            refuse("no_path", ONLY_RESPONSES, field="model")
        if (broken := self.actor.broken_signature(reply_spec.parsed)) is not None:
            refuse("bad_request", broken)

    def _check_limits(self, arrival: Arrival, reply_spec: ReplySpec, now: float) -> None:
        if self._gate is None:
            return
        where = arrival.route
        tokens = reply_spec.parsed.input_tokens + self._hidden_tokens
        if where is not None and where.wire.counts_output_at_admission:
            tokens += reply_spec.budgeted_output
        refusal = self._gate.admit(arrival.key, reply_spec.parsed.model, tokens, now)
        if refusal is not None:
            raise RefusedRequest(ErrorCause(kind="rate_limit", model=reply_spec.parsed.model, hint=_hint(refusal)))

    def _facts(self, arrival: Arrival, where: Route, reply_spec: ReplySpec, now: float) -> Facts:
        model = reply_spec.parsed.model
        texts = reply_spec.parsed.user_texts
        attempt = 0
        if self.faults.counts_attempts and arrival.sha is not None:
            attempt = self._tries[model, arrival.sha] = self._tries.get((model, arrival.sha), 0) + 1
        return Facts(
            wire=where.wire.name,
            key=arrival.key,
            nth=arrival.nth,
            elapsed_s=now - (self._first_at or 0.0),
            operation="line" if arrival.mark is not None else where.operation,
            model=model,
            model_nth=self._asked_of[model],
            turn=len(texts),
            attempt=attempt,
            text=texts[-1] if texts else "",
            streamed=reply_spec.form != "whole",
            history_sha=arrival.sha or "",
        )

    def _refuse_by_rule(self, arrival: Arrival, rule: Rule, now: float) -> Answer:
        if rule.action == "revoke-key":
            self.revoke(arrival.key)
        if rule.action == "drain-balance":
            self.set_balance(arrival.key, 0)
        model = arrival.reply_spec.parsed.model if arrival.reply_spec else None
        cause = fault_actions.error_cause(rule, model)
        if cause is None:
            reply = self._preview_reply(arrival) if fault_actions.bills(rule) else None
            return self._send(arrival, fault_actions.replacement_answer(rule), reply)
        shape = "gateway" if rule.action == "no-channel" else rule.options.get("shape")
        reply = self._preview_reply(arrival) if fault_actions.bills(rule) else None
        return self._refusal(arrival, cause, now, shape=shape, reply=reply)

    def _preview_reply(self, arrival: Arrival) -> SimulatedReply | None:
        reply_spec = arrival.reply_spec
        if reply_spec is None or arrival.sha is None or self.actor.base_model(reply_spec.parsed.model) is None:
            return None
        return self._build_reply(reply_spec, arrival.sha)

    def _build_reply(self, reply_spec: ReplySpec, sha: str, cheat: Rule | None = None) -> SimulatedReply:
        sent = reply_spec.parsed
        asked = self._taken(sent, sha, is_cheat=cheat is not None and cheat.action == "cheat")
        if (instead := cheats.asked_instead(cheat, asked)) is not asked:
            sha = history_sha(instead.system, instead.messages)
            if self.actor.base_model(instead.model) is None:
                refuse("no_model", model=instead.model)
        reply = self.actor.answer(instead, sha)
        if self._varies:
            reply = reword(reply, instead.take)
        unseen_tokens = sent.input_tokens - instead.input_tokens
        return replace(reply, input_tokens=reply.input_tokens + unseen_tokens + self._hidden_tokens)

    def _taken(self, parsed: ParsedRequest, sha: str, *, is_cheat: bool) -> ParsedRequest:
        """Count how often a history was sent, where that makes a difference to the reply."""
        if not (self._varies or is_cheat or self.actor.samples(parsed.model)):
            return parsed
        take = self._answers[parsed.model, sha] = self._answers.get((parsed.model, sha), 0) + 1
        return replace(parsed, take=take)

    def _reply(self, arrival: Arrival, where: Route, reply_spec: ReplySpec, now: float) -> Answer:
        rule = arrival.fault
        reply = self._build_reply(reply_spec, arrival.sha or "", rule)
        if arrival.mark is not None and arrival.mark.reply_id is not None:
            reply = replace(reply, reply_id=arrival.mark.reply_id)
        wait_s = self._latency(reply_spec, arrival)
        if reply_spec.cache_ttl is not None:
            marks = reply_spec.marks_system
            cached = self._cache.use(reply_spec.parsed, marks_system=marks, now=now, reply_at=now + wait_s)
            reply_spec = replace(reply_spec, cached=cached)
        if self._served_tier is not None:
            reply_spec = replace(reply_spec, tier=self._served_tier)
        shown = fault_actions.spoil_reply(rule, reply) if rule is not None and rule.action == "reply" else reply
        answer = self._worded(arrival, where, cheats.renamed(rule, reply_spec), cheats.reported(rule, shown))
        answer.wait_s = wait_s
        if rule is not None:
            answer = fault_actions.spoil_answer(rule, answer, where.wire)
        answer.headers.update(self._limit_headers(arrival, now))
        return self._send(arrival, answer, None if rule is not None and fault_actions.asks_no_model(rule) else shown)

    def _worded(self, arrival: Arrival, where: Route, reply_spec: ReplySpec, reply: SimulatedReply) -> Answer:
        wire, rule = where.wire, arrival.fault
        headers = self._headers(arrival, wire.content_type)
        streamed = reply_spec.form != "whole" and not (rule is not None and fault_actions.refuses_stream(rule))
        plains = wire.events(reply_spec, reply) if streamed else [wire.whole(reply_spec, reply)]
        if reply_spec.stored_input is not None:
            self.responses.keep(reply_spec, wire.whole(reply_spec, reply))
        if streamed and rule is not None and rule.action == "stream":
            plains = fault_actions.place_usage(rule, plains, wire)
        if rule is not None and rule.action == "usage":
            encoded = [fault_actions.spoil_usage(rule, plain, wire) for plain in plains]
        else:
            encoded = [encode(plain) for plain in plains]
        if not streamed:
            return Answer(status=200, headers=headers, pieces=[(0.0, encoded[0])])
        if reply_spec.form == "sse":
            headers["content-type"] = "text/event-stream"
        frames = wire.frame(reply_spec, encoded)
        pieces: list[Piece] = [(self._event_s if at else 0.0, frame) for at, frame in enumerate(frames)]
        return Answer(status=200, headers=headers, pieces=pieces, framing="chunked")

    def _latency(self, reply_spec: ReplySpec, arrival: Arrival) -> float:
        low, high = self._latency_s
        return low if low == high else low + (high - low) * draw("latency", self.actor.seed, arrival.sha)

    def _answer_plain(self, arrival: Arrival, where: Route) -> Answer:
        models = self.actor.models
        if where.model is not None and where.model not in models:
            refuse("no_model", model=where.model)
        wire = where.wire
        plain = wire.list_models(models, arrival.query) if where.model is None else wire.show_model(where.model)
        headers = self._headers(arrival, wire.content_type)
        return self._send(arrival, Answer(status=200, headers=headers, pieces=[(0.0, encode(plain))]))

    def _refusal(
        self,
        arrival: Arrival,
        cause: ErrorCause,
        now: float,
        *,
        shape: str | None = None,
        reply: SimulatedReply | None = None,
    ) -> Answer:
        bare = arrival.bare_wire
        gateway: GatewayName | None = self._gateway if shape is None else None
        if shape == "gateway":
            gateway = self._gateway or "new-api"
        wire = bare if gateway is None else behind(gateway, bare) or bare
        model = arrival.reply_spec.parsed.model if arrival.reply_spec is not None else None
        cause = replace(
            cause,
            model=cause.model or model,
            request_id=None if bare.request_id_header is None else _request_id(arrival),
            gateway_id=new_api_id(arrival.seq),
        )
        error = wire.api_error(arrival.route, cause, now)
        headers = self._headers(arrival, bare.content_type)
        if gateway is None and cause.kind == "rate_limit":
            headers |= self._limit_headers(arrival, now)
        headers |= error.headers
        return self._send(
            arrival, Answer(status=error.status, headers=headers, pieces=[(0.0, encode(error.body))]), reply
        )

    def _headers(self, arrival: Arrival, content_type: str) -> dict[str, str]:
        headers = {"content-type": content_type}
        if self._gateway is not None:
            model = arrival.reply_spec.parsed.model if arrival.reply_spec is not None else None
            return headers | gateway_headers(self._gateway, arrival.bare_wire, arrival.seq, model)
        if arrival.route is not None and arrival.route.wire.request_id_header is not None:
            headers[arrival.route.wire.request_id_header] = _request_id(arrival)
        return headers

    def _limit_headers(self, arrival: Arrival, now: float) -> dict[str, str]:
        if self._gate is None or arrival.route is None or arrival.reply_spec is None:
            return {}
        amounts = self._gate.left(arrival.key, arrival.reply_spec.parsed.model, now)
        return arrival.route.wire.limit_headers(LeftOver(amounts=amounts, window_s=self._gate.limits.window_s), now)

    def _send(
        self, arrival: Arrival, answer: Answer, reply: SimulatedReply | None = None, *, billed: bool | None = None
    ) -> Answer:
        """Write the ledger and return the answer; a `reply` is billed."""
        entry = self._entry(arrival, reply)
        arrival.reply = reply
        entry.status = answer.status
        entry.request_id = next((answer.headers[name] for name in REQUEST_IDS if name in answer.headers), None)
        if reply is not None:
            entry.billed = True
            entry.output_tokens = reply.output_tokens
            entry.reasoning_tokens = reply.reasoning_tokens
            if arrival.key in self._balances:
                self._balances[arrival.key] -= reply.input_tokens + reply.output_tokens
        self.ledger.arrived(entry)

        def ended(delivered: bool, now: float) -> None:
            self.in_flight -= arrival.mark is None
            entry.delivered = delivered
            entry.finished_at = now
            self.ledger.ended(entry)
            for made in arrival.delivers if delivered else ():
                made.answer.delivered(now)

        answer.on_end = ended
        return answer

    def _entry(self, arrival: Arrival, reply: SimulatedReply | None) -> Entry:
        where, reply_spec = arrival.route, arrival.reply_spec
        entry = Entry(
            seq=arrival.seq,
            arrived_at=arrival.at,
            wire=arrival.bare_wire.name,
            operation=where.operation if where else "unknown",
            key=key_hash(arrival.key),
            in_flight=arrival.in_flight,
            model=where.model if where else None,
            fault=arrival.fault.action if arrival.fault else None,
            batch=arrival.job_id,
            price=1.0 if arrival.mark is None else arrival.mark.price,
        )
        if reply_spec is not None:
            parsed = reply_spec.parsed
            entry.model = parsed.model
            entry.stream = reply_spec.form != "whole"
            entry.turn = len(parsed.user_texts)
            entry.history_sha = arrival.sha
            entry.input_tokens = parsed.input_tokens if reply is None else reply.input_tokens
            if self.ledger.keeps_history:
                system = [["system", parsed.system]] if parsed.system else []
                entry.history = system + [list(message) for message in parsed.messages]
        return entry


def _of_jobs(rule: Rule | None) -> Rule | None:
    return rule if rule is not None and rule.action == "job" else None


def _hint(refusal: Refusal) -> Hint:
    return Hint(seconds=refusal.retry_after_s, dimension=refusal.dimension, limit=refusal.limit)


def _request_id(arrival: Arrival) -> str:
    return f"req_{arrival.seq:012d}"
