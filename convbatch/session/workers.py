"""From a `SessionSpec` to its `TargetWorker`s: rate limiters, connections, clients, and what earlier sessions left.

Targets that share a quota owner share a rate limiter, and a connection pool if their proxy and `ca_file` are the same.
How a limiter waits is `engine/limiter.py`; what a client sends is `engine/client.py`.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from convbatch.config.credentials import Credentials
    from convbatch.config.gateways import Gateway, Limits, Target
    from convbatch.engine.http_values import Transport
    from convbatch.engine.limiter import RateLimiter
    from convbatch.engine.turn_tokens import TokenEstimates
    from convbatch.engine.worker import TargetWorker
    from convbatch.journal.index import Archive, Sender
    from convbatch.journal.media_store import MediaStore
    from convbatch.pricing import PriceTable
    from convbatch.redaction import Redactor
    from convbatch.session.progress import Progress
    from convbatch.session.spec import SessionSpec
    from convbatch.system import System


def http_transports(credentials: Credentials) -> Callable[[Gateway], Transport]:
    """Return a function that opens the HTTP transport to a gateway, through its proxy if there is one."""
    from convbatch.engine.transport import AiohttpTransport

    def connect(gateway: Gateway) -> Transport:
        return AiohttpTransport(ca_file=gateway.ca_file, proxy=credentials.proxy(gateway))

    return connect


async def build_workers(
    spec: SessionSpec,
    stack: AsyncExitStack,
    system: System,
    connect: Callable[[Gateway], Transport],
    past: Archive | None,
    progress: Progress,
    simulator_url: str | None,
) -> list[TargetWorker]:
    """Build a worker for each target, in the order of the spec.

    Args:
        spec: The session.
        stack: Closes transports at the end of the session.
        system: Clock of limiters and clients.
        connect: Opens the transport to a gateway; called once for each quota owner, proxy and `ca_file`.
        past: The run's journal; None in its first session.
        progress: Receives notes on changes of the rate.
        simulator_url: From `embedded_simulator`.

    Raises:
        SetupError: A key is missing.
    """
    from convbatch.config.gateways import merge_limits
    from convbatch.engine.turn_tokens import TokenEstimates
    from convbatch.journal.media_store import MediaStore

    media = MediaStore(spec.folder.path, disk=system.disk)
    parts = Parts(spec, system, past, progress, spec.credentials.redactor(), simulator_url, media)
    sharers = _senders_by_quota_owner(spec)
    senders: dict[tuple[str, str], TargetWorker] = {}
    for owner, asked in asked_by_quota_owner(spec.targets).items():
        limits = merge_limits(one.target.gateway.limits for one in asked)
        limiter = parts.limiter([one.target for one in asked], limits, sharers.get(owner, ()))
        token_estimates = TokenEstimates(limits)
        for one, transport in zip(asked, open_transports(asked, stack, connect), strict=True):
            senders[one.by.name, one.target.name] = parts.worker(
                one, limiter, token_estimates, transport, shares=len(asked) > 1
            )
    return [
        parts.pool(target, [senders[target.name, one.name] for one in target.asked_targets])
        if target.members
        else senders[target.name, target.name]
        for target in spec.targets
    ]


class Asked(NamedTuple):
    """A target that requests are sent to, and the target of the run that asks there: itself, or a pool."""

    target: Target
    by: Target


def asked_by_quota_owner(targets: Iterable[Target]) -> dict[tuple[str, str, str], list[Asked]]:
    """Return whom requests are sent to, by the owner of the limits that they count against."""
    shared: dict[tuple[str, str, str], list[Asked]] = {}
    for target in targets:
        for one in target.asked_targets:
            shared.setdefault(one.quota_owner, []).append(Asked(one, by=target))
    return shared


def open_transports(
    asked: Sequence[Asked], stack: AsyncExitStack, connect: Callable[[Gateway], Transport]
) -> list[Transport]:
    """Return the transport of each; those with the same proxy and `ca_file` share one."""
    opened: dict[tuple[str | None, str | None], Transport] = {}
    for one in asked:
        gateway = one.target.gateway
        if (gateway.proxy, gateway.ca_file) not in opened:
            transport = opened[gateway.proxy, gateway.ca_file] = connect(gateway)
            stack.push_async_callback(transport.close)
    return [opened[one.target.gateway.proxy, one.target.gateway.ca_file] for one in asked]


@dataclass(frozen=True, slots=True)
class Parts:
    """Builds limiters and workers from what all of a session's targets have in common."""

    spec: SessionSpec
    system: System
    past: Archive | None
    progress: Progress | None
    """None where limiters are built elsewhere."""
    redactor: Redactor
    simulator_url: str | None
    media: MediaStore

    def limiter(self, targets: Sequence[Target], limits: Limits, sharers: Sequence[Sender]) -> RateLimiter:
        """Build the rate limiter of targets with one quota owner; `sharers` are all of the run that have it."""
        from convbatch.config.gateways import max_in_flight
        from convbatch.engine.limiter import RateLimiter

        assert self.progress is not None
        most = self.spec.rules.concurrency
        limiter = RateLimiter(
            clock=self.system.clock,
            concurrency=sum(max_in_flight(target.gateway.limits, most) for target in targets),
            rates=_rates(limits),
            tpm=limits.tpm,
            rpd=limits.rpd,
            rpd_resets=limits.rpd_resets,
            used_today=_used_today(sharers, limits, self.past, self.system),
            jitter_s=limits.jitter_s,
            on_change=_named(self.progress.note, targets[0].name),
            on_swing=_named(self.progress.swing, targets[0].name),
        )
        if self.past is not None:
            _carry_over(limiter, sharers, limits, self.past, self.system)
        return limiter

    def worker(
        self,
        asked: Asked,
        limiter: RateLimiter,
        token_estimates: TokenEstimates,
        transport: Transport,
        *,
        shares: bool,
    ) -> TargetWorker:
        """Build a target's worker; one that shares its limiter has places of its own within it."""
        from convbatch.config.gateways import max_in_flight
        from convbatch.engine.client import Client
        from convbatch.engine.retry import TargetHealth
        from convbatch.engine.worker import TargetWorker

        target, credentials = asked.target, self.spec.credentials
        gateway = target.gateway
        is_open = gateway.auth == "none" and not gateway.secret_headers
        client = Client(
            target,
            credentials.key_command(gateway) or credentials.key(gateway),
            secret_headers=credentials.secret_headers(gateway),
            transport=transport,
            redactor=self.redactor.marking() if is_open else self.redactor,
            clock=self.system.clock,
            simulator_url=self.simulator_url,
            media=self.media,
        )
        places = max_in_flight(gateway.limits, self.spec.rules.concurrency)
        return TargetWorker(
            target=target,
            client=client,
            limiter=limiter,
            health=TargetHealth(answered=_has_answered(self.past, asked), address=client.address()),
            token_estimates=token_estimates,
            places=places,
            find_prices=_prices_as_served(self.spec, asked.by, self.system),
            own_places=asyncio.Semaphore(places) if shares else None,
        )

    def pool(self, target: Target, members: Sequence[TargetWorker]) -> TargetWorker:
        """Build the worker of a pool, which reads with the first member and sends with any."""
        from convbatch.config.gateways import max_in_flight
        from convbatch.engine.worker import TargetWorker

        first = members[0]
        places = min(max_in_flight(target.gateway.limits, self.spec.rules.concurrency), sum(m.places for m in members))
        return TargetWorker(
            target=target,
            client=first.client,
            limiter=first.limiter,
            health=first.health,
            token_estimates=first.token_estimates,
            places=places,
            find_prices=first.find_prices,
            own_places=asyncio.Semaphore(places),
            members=tuple(members),
        )


def _prices_as_served(
    spec: SessionSpec, target: Target, system: System
) -> Callable[[str | None, str | None], PriceTable | None]:
    """Return a function that looks up the prices of the model and tier that a reply names, if they are others."""
    recorded = next(one for one in spec.work.recorded_targets(spec.manifest) if one.name == target.name)

    @functools.lru_cache(maxsize=256)
    def look_up(served: str | None, tier: str | None) -> PriceTable | None:
        from convbatch.config.list_prices import served_price_table

        if served is not None and served in recorded.served_prices:
            return recorded.served_prices[served]
        today = datetime.fromtimestamp(system.clock.wall(), UTC).date()
        name = served or target.model
        return served_price_table(target, recorded.prices, name, today, spec.rules.command_line, tier=tier)

    return look_up


def _has_answered(past: Archive | None, asked: Asked) -> bool:
    """Whether the target has answered in an earlier session; of a member of a pool that is not known."""
    return past is not None and not asked.by.members and past.has_reply(asked.by.name)


def _rates(limits: Limits) -> list[tuple[int, float]]:
    rates = [(rate.count, rate.window_s) for rate in limits.rates]
    return rates if limits.rpm is None else [(limits.rpm, 60.0), *rates]


def _carry_over(limiter: RateLimiter, senders: Sequence[Sender], limits: Limits, past: Archive, system: System) -> None:
    """Carry rate-limit state over from earlier sessions: at the server, their requests and its pauses still count."""
    from convbatch.engine.limiter import MAX_HINT_S
    from convbatch.engine.quota import seconds_until_drained

    now = system.clock.wall()
    # Unix seconds are stored with microsecond precision; the margin keeps a rounded wait from ending early.
    left_s = past.server_wait_s(senders, now) + 0.01
    limiter.block_for(min(left_s, MAX_HINT_S), "asked to wait before the resume")
    rates = _rates(limits)
    span_s = max([60.0, *(window_s for _, window_s in rates)]) + limits.jitter_s
    times = [min(at, now) for at in past.request_times(senders, now - span_s)]  # the clock may have been set back
    if rates:
        drained_s = seconds_until_drained(times, now, rates, limits.jitter_s)
        limiter.block_for(min(drained_s, span_s), "earlier requests still count")
    if limits.tpm is not None and times:
        # The token count of a killed session is incomplete, so the whole minute is waited out.
        limiter.block_for(max(times) + 60.0 + limits.jitter_s - now, "earlier tokens still count")


def _senders_by_quota_owner(spec: SessionSpec) -> dict[tuple[str, str, str], list[Sender]]:
    """Return the run's models and judges by the owner of the limits that their requests count against."""
    from convbatch.config.gateways import target_from_manifest
    from convbatch.journal.index import Sender

    senders: dict[tuple[str, str, str], dict[Sender, None]] = {}
    for recorded in (*spec.manifest.targets, *spec.manifest.judges):
        target = target_from_manifest(recorded)
        for asked in target.asked_targets:
            sender = Sender(target.name, asked.gateway.name if target.members else None)
            senders.setdefault(asked.quota_owner, {})[sender] = None
    return {owner: list(sharing) for owner, sharing in senders.items()}


def _used_today(senders: Sequence[Sender], limits: Limits, past: Archive | None, system: System) -> int:
    """Count the requests of this run folder since the quota day began."""
    from convbatch.engine.quota import day_bounds

    if past is None or limits.rpd is None:
        return 0
    begins, _ = day_bounds(limits.rpd_resets, system.clock.wall())
    return past.count_since(begins, senders)


def _named(show: Callable[[str], None], name: str) -> Callable[[str], None]:
    return lambda text: show(f"{name}: {text}")


async def embedded_simulator(spec: SessionSpec, stack: AsyncExitStack) -> str | None:
    """Start the built-in simulator if a target needs it; return its URL."""
    if not any(one.simulated for target in spec.targets for one in target.asked_targets):
        return None
    from convbatch.dataset.snapshot import read_copy
    from convbatch.simulator.ledger import Ledger
    from convbatch.simulator.provider import Provider
    from convbatch.simulator.replies import Script
    from convbatch.simulator.server import Server

    script = Script.load(spec.folder.dataset)
    for variant in {target.variant.name: target.variant for target in spec.targets if target.variant}.values():
        for _, dialogue in read_copy(spec.folder.dataset):
            script.learn(variant.applied_to(dialogue).to_plain())
    provider = Provider(
        seed=0 if spec.manifest.simulator is None else spec.manifest.simulator.seed,
        script=script,
        ledger=Ledger(history=False, keep=False),
    )
    server = await stack.enter_async_context(Server(provider))
    return server.url
