"""Whole runs in virtual time from one seed: the real session, runner, rate limiter, client, journal and folder.

Three parts of the environment are simulated: the clock (`VirtualLoop`), the network and its servers (`Host`: the
simulator's provider behind delays, cut bodies and refused connections) and the disk with its power switch
(`virtual_disk.py`). A kill disconnects disk and network at a virtual time, before a disk call or in the middle of a
write; after it the process can use neither. Clocks jump, laptops sleep, processes are stopped. Files are real files.
This module checks nothing; the laws are in `virtual_run_laws.py`.
"""

from __future__ import annotations

import asyncio
import email.utils
import gzip
import itertools
import random
import re
import signal
import zlib
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NoReturn

import orjson

from convbatch.config.credentials import Credentials
from convbatch.config.gateways import Gateway, Limits, Target, target_to_manifest
from convbatch.dialogue import Dialogue
from convbatch.engine.http_values import (
    CONNECT_TIMEOUT_S,
    MAX_BODY_BYTES,
    HttpResponse,
    NoResponse,
    NotSentCancelled,
    OutgoingRequest,
)
from convbatch.engine.runner import RunRules
from convbatch.errors import JournalError
from convbatch.journal.manifest import Manifest, ManifestDataset, ManifestOptions, PlannedRows
from convbatch.journal.run_folder import RunFolder
from convbatch.pricing import Money, PriceTable
from convbatch.session.session import run_session_async
from convbatch.session.spec import SessionResult, SessionSpec
from convbatch.simulator.http import Answer, Request
from convbatch.simulator.ledger import Entry
from convbatch.simulator.provider import Provider
from convbatch.system import Disk, System
from tests.support.virtual_disk import Kill, Platter, Power, Trouble, VirtualDisk
from tests.support.virtual_time import VirtualClock, VirtualLoop

EPOCH = 1_800_000_000.0
KEY_ENV, KEY = "VIRTUAL_RUN_KEY", "sk-virtual-run-01"
MAX_SESSION_S = 30 * 86_400.0
"""Virtual time; a longer session is an endless loop."""


class _NumberedTask(asyncio.Task[Any]):
    """Task that hashes by number instead of address, so that every process cancels task groups in the same order."""

    def __init__(self, *args: Any, number: int, **more: Any) -> None:
        self._number = number
        super().__init__(*args, **more)

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other


class SignalLoop(VirtualLoop):
    """Virtual loop that delivers signals at virtual times to their handlers."""

    def __init__(self, start: float) -> None:
        super().__init__(start)
        self._on_signal: dict[int, Callable[[], object]] = {}
        numbers = itertools.count()
        self.set_task_factory(lambda loop, main, **more: _NumberedTask(main, loop=loop, number=next(numbers), **more))

    def add_signal_handler(self, sig: int, callback: Callable[..., object], *args: Any) -> None:
        self._on_signal[sig] = lambda: callback(*args)

    def remove_signal_handler(self, sig: int) -> bool:
        return self._on_signal.pop(sig, None) is not None

    def leap(self, seconds: float) -> None:
        """Stop the process for this long, as SIGSTOP does; afterwards all elapsed timers are due at once."""
        self._now += seconds

    def deliver(self, sig: int) -> None:
        """Deliver a signal; without a handler it is ignored, because the session is over."""
        if sig in self._on_signal:
            self._on_signal[sig]()


@dataclass(slots=True, kw_only=True)
class Sent:
    """One request as seen by the network. Times are loop times."""

    session: int
    host: str
    left_at: float
    arrived_at: float | None = None
    entry: Entry | None = None
    """Entry in the server's ledger; None when the request never arrived."""
    resolved_at: float | None = None
    """When the client received the answer or an error; None when it was killed or gave up before."""
    status: int | None = None
    """HTTP status of a complete answer that the client received."""
    asks_to_wait_s: float | None = None
    """Wait that this answer announces."""


Unreachable = Literal["refused", "dns", "connect timeout", "no tls", "certificate"]
NOT_CONNECTED: Mapping[Unreachable, Mapping[str, Any]] = {
    "refused": {"kind": "connection", "message": "could not connect: connection refused"},
    "dns": {"kind": "connection", "message": "could not connect: host not found"},
    "connect timeout": {"kind": "timeout", "message": "could not connect: connection timed out"},
    "no tls": {"kind": "connection", "message": "could not connect: no TLS at"},
    "certificate": {"kind": "connection", "message": "certificate refused: ", "certificate": True},
}
"""How the report of `AiohttpTransport` begins for each reason; checked by `tests/engine/test_connections.py`."""


class Host:
    """One gateway: a simulated provider and the network in front of it. Outlives its client processes."""

    def __init__(
        self,
        provider: Provider,
        *,
        name: str = "north",
        also_named: Sequence[str] = (),
        wire: str = "gemini",
        models: Sequence[str] = ("sim-good",),
        limits: Limits | None = None,
        delay_s: float = 0.9,
        unreachable: float = 0.0,
        why: Unreachable = "refused",
        stale: float = 0.0,
        attempt_timeout_s: float = 60.0,
    ) -> None:
        """Set up a host.

        Args:
            provider: The provider; its ledger must keep histories.
            name: The gateway's name.
            also_named: Further gateways at the same address, with the same key: other names of one quota owner.
            wire: Its protocol.
            models: Models to call.
            limits: Limits in the client's configuration.
            delay_s: One-way delays to the server are drawn from [0, delay_s).
            unreachable: Share of connections that fail before anything is sent.
            why: Reason of these failures.
            stale: Share of requests written to a connection that the server has just closed: sent, and never read.
            attempt_timeout_s: Attempt timeout of the client.
        """
        self.provider = provider
        self.name = name
        self.delay_s = delay_s
        self.unreachable = unreachable
        self.why: Unreachable = why
        self.ahead_s = 0.0
        """Server time minus loop time: servers go on while a laptop sleeps and its loop does not."""
        self.stale = stale
        base = f"https://{name}.test" + ("" if wire == "gemini" else "/v1")
        gateway = Gateway(
            name=name,
            protocol=wire,
            base_url=base,
            api_version="v1beta" if wire == "gemini" else None,
            auth="x-goog-api-key" if wire == "gemini" else "bearer",
            key_env=KEY_ENV,
            limits=limits or Limits(),
            attempt_timeout_s=attempt_timeout_s,
        )
        self.targets = tuple(
            Target(model=model, gateway=replace(gateway, name=each)) for each in (name, *also_named) for model in models
        )
        self._refuses_until = -1.0
        self._in_transit: list[_Departed] = []
        """Requests in transit, in no order; each has its own timer."""

    def refuses(self, now: float) -> bool:
        """Return whether new connections are refused."""
        return now < self._refuses_until

    def refuse_until(self, when: float) -> None:
        """Refuse new connections until this time; for the action `refuse`."""
        self._refuses_until = when

    def depart(self, sent: Sent, request: Request, when: float) -> asyncio.Future[Answer]:
        """Send a request that arrives at `when`, even if its client is gone by then."""
        loop = asyncio.get_running_loop()
        departed = _Departed(when, sent, request, loop.create_future())
        self._in_transit.append(departed)
        loop.call_at(when, self._arrive, departed)
        return departed.answer

    def settle(self) -> None:
        """Deliver all requests in transit; their client is gone."""
        for departed in sorted(self._in_transit, key=lambda departed: departed.when):
            departed.answer.cancel()
            self._arrive(departed)

    def _arrive(self, departed: _Departed) -> None:
        self._in_transit.remove(departed)
        sent, at = departed.sent, EPOCH + departed.when + self.ahead_s
        answer = self.provider.handle(departed.request, at)
        sent.arrived_at = departed.when
        sent.entry = self.provider.ledger.entries[-1]
        if departed.answer.cancelled():
            answer.lost(at)
        else:
            departed.answer.set_result(answer)


@dataclass(eq=False, slots=True)
class _Departed:
    when: float
    sent: Sent
    request: Request
    answer: asyncio.Future[Answer]


class VirtualTransport:
    """A gateway's `Transport` backed by the simulator's provider: the same values and exceptions as over HTTP."""

    def __init__(self, host: Host, power: Power, chance: random.Random, session: int, log: list[Sent]) -> None:
        self._host = host
        self._power = power
        self._chance = chance
        self._session = session
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._open: dict[asyncio.Timeout, bool] = {}
        """Connections in use; False for one that was lost while the machine slept."""

    async def send(self, outgoing: OutgoingRequest) -> HttpResponse:
        """Send one request and return its complete answer, in virtual time."""
        if not self._power.alive:
            raise NoResponse("connection", "no power", sent=False)
        sent = Sent(session=self._session, host=self._host.name, left_at=self._loop.time())
        self._log.append(sent)
        partial = _Partial()
        connection = asyncio.timeout(outgoing.timeout_s)
        self._open[connection] = True
        try:
            async with connection:
                await self._connect()
                response = await self._exchange(sent, outgoing, partial)
        except TimeoutError:
            self._resolve(sent)
            if not self._open[connection]:
                raise partial.gone("connection", "connection lost after sending") from None
            raise NoResponse(
                "timeout", "no complete answer within the attempt timeout", sent=True, own_timeout=True,
                status=partial.status, headers=partial.headers, partial=bytes(partial.body),
            ) from None  # fmt: skip
        except NoResponse:
            self._resolve(sent)
            raise
        finally:
            del self._open[connection]
        if self._resolve(sent):
            sent.status = response.status
            sent.asks_to_wait_s = announced_wait_s(response)
        return response

    async def close(self) -> None:
        """Do nothing; there is no connection pool."""

    def sever(self) -> None:
        """Break all connections, as a long sleep of the machine does."""
        for connection in self._open:
            self._open[connection] = False
            connection.reschedule(self._loop.time())

    def _resolve(self, sent: Sent) -> bool:
        if self._power.alive:
            sent.resolved_at = self._loop.time()
        return self._power.alive

    async def _connect(self) -> None:
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError as cancelled:
            raise NotSentCancelled from cancelled
        if self._host.refuses(self._loop.time()) or self._chance.random() < self._host.unreachable:
            if self._host.why == "connect timeout":
                await asyncio.sleep(CONNECT_TIMEOUT_S)
            raise NoResponse(sent=False, **NOT_CONNECTED[self._host.why])
        if self._chance.random() < self._host.stale:
            raise NoResponse("connection", "connection lost after sending", sent=True)

    async def _exchange(self, sent: Sent, outgoing: OutgoingRequest, partial: _Partial) -> HttpResponse:
        request = Request.of(outgoing.method, outgoing.url, outgoing.headers, bytes(outgoing.body or b""))
        when = self._loop.time() + self._chance.random() * self._host.delay_s
        answer = await self._host.depart(sent, request, when)
        try:
            body = await self._receive(answer, partial, outgoing)
        except BaseException:
            answer.lost(EPOCH + self._loop.time())
            raise
        answer.delivered(EPOCH + self._loop.time())
        if "content-encoding" in answer.headers:
            body = _unpacked(body, partial)
        await asyncio.sleep(0.001 + self._chance.random() * 0.02)
        assert answer.status is not None
        return HttpResponse(status=answer.status, headers=partial.headers, body=body)

    async def _receive(self, answer: Answer, partial: _Partial, outgoing: OutgoingRequest) -> bytes:
        await asyncio.sleep(answer.wait_s)
        if answer.refuse_s > 0:
            self._host.refuse_until(self._loop.time() + answer.refuse_s)
        if answer.framing == "raw":
            raise partial.gone("bad_response", "the response cannot be read")
        if answer.status is None:
            await self._fail(answer, partial)
        assert answer.status is not None
        partial.status = answer.status
        partial.headers = self._headers(answer)
        for wait_s, piece in answer.pieces:
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            partial.body += piece
            if outgoing.watch is not None:
                outgoing.watch.received(piece)
            if len(partial.body) > MAX_BODY_BYTES:
                raise partial.gone("bad_response", "the response body is too large")
        if answer.ending in {"keep", "close"} or (answer.ending == "cut" and answer.framing == "close"):
            return bytes(partial.body)
        await self._fail(answer, partial)

    async def _fail(self, answer: Answer, partial: _Partial) -> NoReturn:
        if answer.ending == "hang":
            await asyncio.sleep(answer.ending_wait_s)
        raise partial.gone("connection", "connection lost after sending")

    def _headers(self, answer: Answer) -> Mapping[str, str]:
        now = email.utils.formatdate(EPOCH + self._loop.time() + self._host.ahead_s, usegmt=True)
        return {name.lower(): value for name, value in {"date": now, **answer.headers}.items()}


@dataclass(slots=True)
class _Partial:
    """The part of an answer received so far."""

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: bytearray = field(default_factory=bytearray)

    def gone(self, kind: str, message: str) -> NoResponse:
        return NoResponse(kind, message, sent=True, status=self.status, headers=self.headers, partial=bytes(self.body))


def _unpacked(body: bytes, partial: _Partial) -> bytes:
    unpacker = zlib.decompressobj(31)
    plain = unpacker.decompress(body, MAX_BODY_BYTES)
    if unpacker.unconsumed_tail:
        raise partial.gone("bad_response", "the response body decompresses to more than 64 MiB")
    return plain


_STATED_WAIT = re.compile(rb'"retryDelay":"([0-9.]+)s"|(?:re)?try (?:again )?in ([0-9.]+)s')


def announced_wait_s(response: HttpResponse) -> float | None:
    """Return the wait that an answer announces, or None; independent of the package's own reader."""
    if response.status == 200:
        return None
    headers = response.headers
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "")
        if re.fullmatch("[0-9.]{1,15}", value):
            return float(value) * unit_s
    if re.fullmatch(r"\w{3}, [0-3]\d \w{3} \d{4} .*", headers.get("retry-after", "")):
        then, now = (email.utils.parsedate_to_datetime(headers[name]) for name in ("retry-after", "date"))
        return (then - now).total_seconds() if then > now else None
    if match := _STATED_WAIT.search(response.body):
        return float(match[1] or match[2])
    if headers.get("x-ratelimit-remaining-requests") == "0":
        return _go_seconds(headers["x-ratelimit-reset-requests"])
    return None


def _go_seconds(text: str) -> float:
    units = {"ms": 0.001, "s": 1.0, "m": 60.0}
    return sum(float(number) * units[unit] for number, unit in re.findall("([0-9.]+)(ms|s|m)", text))


@dataclass(frozen=True, slots=True)
class Shift:
    """A disturbance of a process's clocks.

    `jump`: the wall clock is set. `nap`: the machine is suspended; servers and its wall clock go on, its monotonic
    clock does not, and all connections break. `stop`: the process is stopped; all clocks go on.
    """

    after_s: float
    kind: Literal["jump", "nap", "stop"]
    seconds: float


async def _cancelled(session: Coroutine[Any, Any, SessionResult], after_s: float | None) -> SessionResult | None:
    """Return the result of a session, or None when it was cancelled after `after_s`."""
    task = asyncio.ensure_future(session)
    if after_s is not None:
        asyncio.get_running_loop().call_later(after_s, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        return None


def _stopped_s(shifts: Iterable[Shift]) -> float:
    return sum(shift.seconds for shift in shifts if shift.kind == "stop")


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedSession:
    """A finished session."""

    number: int
    began: float
    ended: float
    result: SessionResult | None
    """None when it was killed, cancelled or stopped by a disk error."""
    killed: bool
    power_cut: bool
    """Killed by a power cut of the machine."""
    broken: JournalError | None
    """Its disk error."""
    stop_requested_at: float
    """Time of the first signal, deadline or cancellation; infinite for none."""
    in_flight: int
    """Requests without an answer or error when it ended."""
    calls: int
    """Number of its disk calls."""
    clock_set_forward: bool
    """Its wall clock was set forward: a later session cannot tell how long ago it was."""


class VirtualRun:
    """A run folder, its hosts, and everything that happened; call `run_session` any number of times."""

    def __init__(
        self,
        path: Path,
        hosts: Sequence[Host],
        dialogues: Iterable[Mapping[str, Any]],
        *,
        seed: int = 0,
        rules: RunRules | None = None,
        sync_s: float = 0.02,
        prices: PriceTable | None = None,
    ) -> None:
        """Create the folder; no request is sent yet.

        Args:
            path: Run folder; its last part is the run's name.
            hosts: Gateways to call.
            dialogues: Dialogues in canonical form.
            seed: Seed of everything random outside the providers.
            rules: Rules as for a real run.
            sync_s: Longest duration of a sync.
            prices: Prices of all targets.
        """
        self.prices = prices
        self.seed = seed
        self.hosts = tuple(hosts)
        self.rules = rules or RunRules()
        self.dialogues = [Dialogue.from_plain(plain) for plain in dialogues]
        self.targets = tuple(target for host in hosts for target in host.targets)
        self.sent: list[Sent] = []
        self.platter = Platter()
        self.ended: list[EndedSession] = []
        self.now = 0.0
        self.clock_off_s = 0.0
        """The client's wall clock minus the loop's time."""
        self._sync_s = sync_s
        self.path = path
        folder = RunFolder.create(path, disk=_NoSyncDisk())
        with gzip.open(folder.dataset, "wb", compresslevel=1) as copy:
            copy.writelines(orjson.dumps(dialogue.to_plain()) + b"\n" for dialogue in self.dialogues)
        self.manifest = self._manifest(folder)
        folder.write_manifest(self.manifest)

    @property
    def planned(self) -> list[tuple[int, str, int, int]]:
        """Return every expected row as (dialogue index, target, repeat, turn)."""
        return [
            (index, target.name, repeat, turn)
            for index, dialogue in enumerate(self.dialogues)
            for target in self.targets
            for repeat in range(1, self.rules.repeats + 1)
            for turn in dialogue.asked(self.rules.history)
        ]

    def ledger(self, host: str | None = None) -> list[Entry]:
        """Return the ledger entries of all hosts, or of one."""
        return [e for each in self.hosts if host in (None, each.name) for e in each.provider.ledger.entries]

    def run_session(
        self,
        *,
        kill: Kill | None = None,
        signals: Sequence[tuple[float, signal.Signals]] = (),
        shifts: Sequence[Shift] = (),
        cancel_after_s: float | None = None,
        gap_s: float = 5.0,
        max_cost: Money | None = None,
        max_tokens: int | None = None,
        max_requests: int | None = None,
        retry_failed: Iterable[str] = (),
        trouble: Trouble | None = None,
        room: int | None = None,
        short: float = 0.0,
        salvage: bool = False,
        **rules: Any,
    ) -> SessionResult | None:
        """Run one session, from opening the folder to closing it or to the kill.

        Args:
            kill: When the process is killed.
            signals: Signals and their times in seconds of the session.
            shifts: Disturbances of the clocks.
            cancel_after_s: When to cancel the session, as a caller that awaits `convbatch.replay` can.
            gap_s: Time since the previous session; longer than any request is in transit.
            max_cost: The budget of the whole run.
            max_tokens: Its cap on tokens.
            max_requests: Its cap on requests.
            retry_failed: Kinds of `--retry-failed`; other failed turns stay as they are.
            trouble: Disk failure.
            room: Bytes until the disk is full.
            short: Share of writes that accept only a part of their bytes.
            salvage: Value of `--salvage`.
            **rules: Changes to the rules.

        Returns:
            Its result; None when it was killed, cancelled or stopped by a disk error.
        """
        number = len(self.ended) + 1
        chance = random.Random(f"{self.seed}/{number}")
        begins = self.now + (gap_s if self.ended else 0.0)
        result = broken = None
        with _Process(SignalLoop(begins)) as process:
            loop = process.loop
            disk = VirtualDisk(
                self.platter, loop, process.power, chance,
                session=number, sync_s=self._sync_s, kill=kill, trouble=trouble, room=room, short=short,
            )  # fmt: skip
            clock = VirtualClock(loop, EPOCH + self.clock_off_s)
            transports: list[VirtualTransport] = []

            async def main() -> SessionResult | None:
                spec = self._session_spec(disk, salvage=salvage, **rules)
                spec = replace(spec, max_cost=max_cost, max_tokens=max_tokens, max_requests=max_requests)
                spec = replace(spec, retry_failed=frozenset(retry_failed))
                system = System(clock=clock, random=chance, disk=disk)
                connect = self._network(process.power, transports)
                return await _cancelled(run_session_async(spec, system=system, connect=connect), cancel_after_s)

            for at, sig in signals:
                loop.call_later(at, loop.deliver, sig)
            for shift in shifts:
                loop.call_later(shift.after_s, self._shift, shift, loop, clock, transports)
            if kill is not None and kill.after_s is not None:
                loop.call_later(kill.after_s, process.power.cut)
            try:
                result = process.run(main())
                if result is not None and result.error is not None:
                    stopped, result = result.error, None
                    raise stopped
            except JournalError as error:
                if not disk.failed:
                    raise
                broken = error
            finally:
                self.now = loop.time()
                killed = not process.power.alive
        stops = [at for at, _ in signals] + [at for at in (cancel_after_s, rules.get("deadline_s")) if at is not None]
        self.ended.append(
            EndedSession(
                number=number,
                began=begins,
                ended=self.now,
                result=result,
                killed=killed,
                power_cut=killed and kill is not None and kill.power,
                broken=broken,
                stop_requested_at=begins + min(stops, default=float("inf")) + _stopped_s(shifts),
                in_flight=sum(sent.session == number and sent.resolved_at is None for sent in self.sent),
                calls=disk.calls,
                clock_set_forward=any(shift.kind == "jump" and shift.seconds > 0 for shift in shifts),
            )
        )
        for host in self.hosts:
            host.settle()
        if self.ended[-1].power_cut:
            self.platter.lose_power(chance)
        return result

    def _session_spec(self, disk: VirtualDisk, *, salvage: bool, **rules: Any) -> SessionSpec:
        return SessionSpec(
            folder=RunFolder.open(self.path, disk=disk),
            manifest=self.manifest,
            targets=self.targets,
            credentials=Credentials.load((target.gateway for target in self.targets), env={KEY_ENV: KEY}),
            rules=replace(self.rules, **rules),
            resumed=bool(self.ended),
            salvage=salvage,
            progress=False,
            notes=False,
        )

    def _network(self, power: Power, transports: list[VirtualTransport]) -> Callable[[Gateway], VirtualTransport]:
        hosts = {target.gateway.name: host for host in self.hosts for target in host.targets}
        number = len(self.ended) + 1

        def connect(gateway: Gateway) -> VirtualTransport:
            # Its own random source: one gateway's network must not depend on another's.
            chance = random.Random(f"{self.seed}/{number}/{gateway.name}")
            transports.append(VirtualTransport(hosts[gateway.name], power, chance, number, self.sent))
            return transports[-1]

        return connect

    def _shift(
        self, shift: Shift, loop: SignalLoop, clock: VirtualClock, transports: Sequence[VirtualTransport]
    ) -> None:
        match shift.kind:
            case "jump":
                clock.jump(shift.seconds)
                self.clock_off_s += shift.seconds
            case "nap":
                clock.jump(shift.seconds)
                self.clock_off_s += shift.seconds
                for host in self.hosts:
                    host.ahead_s += shift.seconds
                for transport in transports:
                    transport.sever()
            case "stop":
                loop.leap(shift.seconds)

    def finish(self, *, most: int = 12) -> SessionResult:
        """Run sessions until everything is done."""
        result = None
        for _ in range(most):
            result = self.run_session(gap_s=60.0)
            if result is not None and result.exit_code == 0:
                return result
        raise AssertionError(f"still not finished after {most} more sessions: {result}")

    def _manifest(self, folder: RunFolder) -> Manifest:
        rows = len(self.planned)
        return Manifest(
            run=folder.name,
            created_at="2027-01-15T08:00:00Z",
            dataset=ManifestDataset(dialogues=len(self.dialogues)),
            history=self.rules.history,
            repeats=self.rules.repeats,
            settings=self.rules.command_line,
            options=ManifestOptions(concurrency=self.rules.concurrency, max_attempts=self.rules.max_attempts),
            targets=tuple(target_to_manifest(target, self.prices) for target in self.targets),
            planned=PlannedRows(rows=rows, per_target=rows // max(1, len(self.targets))),
        )


class _NoSyncDisk(Disk):
    """Disk without syncs, for setting up folders."""

    def sync(self, fd: int) -> None:
        pass

    def sync_folder(self, folder: Path) -> None:
        pass


class _Process:
    """One process with its event loop; cleans up after any kind of end."""

    def __init__(self, loop: SignalLoop) -> None:
        self.loop = loop
        self.power = Power(loop)
        self._endless = loop.call_later(MAX_SESSION_S, loop.stop)

    def __enter__(self) -> _Process:
        return self

    def run(self, main: Coroutine[Any, Any, SessionResult | None]) -> SessionResult | None:
        """Run to the end; return None when the power is cut."""
        task = self.loop.create_task(main)
        try:
            return self.loop.run_until_complete(task)
        except Exception as stopped:
            if not self.power.alive:
                return None  # exceptions of a killed process do not count
            if not isinstance(stopped, RuntimeError):
                raise
            if self.loop.time() < self._endless.when():
                raise
            stuck = "\n".join(sorted(str(task) for task in asyncio.all_tasks(self.loop)))
            raise AssertionError(f"this session does not end:\n{stuck}") from stopped

    def __exit__(self, *exc: object) -> None:
        # A killed process does nothing more; its tasks are cancelled without disk and network to free their resources.
        self.power.alive = False
        self.loop.set_exception_handler(lambda loop, context: None)
        while left := asyncio.all_tasks(self.loop):
            for task in left:
                task.cancel()
            self.loop.run_until_complete(asyncio.wait(left))
            for task in left:
                if not task.cancelled():
                    task.exception()
        self.loop.close()
