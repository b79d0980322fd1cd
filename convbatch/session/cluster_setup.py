"""What a session gives to its workers when it runs on several: `ClusterSetup`, and the crew that it starts them with.

The setup travels to each worker, so it holds values: the targets, their keys' variables, and what only the session
knows. `ClusterSetup.targets` is `workers.build_workers` for such a process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from convbatch.engine.runner import RunRules
from convbatch.session.spec import ModelWork, SessionSpec

if TYPE_CHECKING:
    from convbatch.cluster.messages import LimiterState
    from convbatch.cluster.ray_cluster import RayCrew
    from convbatch.cluster.worker import LimiterOf
    from convbatch.config.gateways import Target
    from convbatch.engine.budget import BudgetShare
    from convbatch.engine.worker import TargetWorker
    from convbatch.journal.index import Archive
    from convbatch.journal.manifest import Manifest
    from convbatch.journal.media_store import MediaStore
    from convbatch.pricing import Money
    from convbatch.system import System

_PROXIES = tuple(
    spelled for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy") for spelled in (name, name.upper())
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSetup:
    """What a worker builds its targets from."""

    folder: Path
    manifest: Manifest
    asked: tuple[Target, ...]
    env: Mapping[str, str]
    """The variables that hold keys and proxies."""
    rules: RunRules
    max_cost: Money | None
    max_tokens: int | None
    max_requests: int | None
    simulator_url: str | None
    answered: frozenset[str]
    """Targets that have answered in an earlier session."""
    states: Mapping[str, LimiterState]
    """By target."""
    places: Mapping[str, int]
    """Most requests of each target in flight at one worker."""
    tells_all: bool
    reuse: str | None

    def __repr__(self) -> str:  # the values of variables are keys
        return f"ClusterSetup({self.folder})"

    async def targets(
        self, stack: AsyncExitStack, system: System, limiter: LimiterOf, media: MediaStore
    ) -> list[tuple[TargetWorker, BudgetShare | None]]:
        """Build what each target needs; targets of one quota owner share a limiter, as in `workers.build_workers`."""
        from convbatch.config.credentials import Credentials
        from convbatch.config.gateways import merge_limits
        from convbatch.engine.budget import Budget
        from convbatch.engine.turn_tokens import TokenEstimates
        from convbatch.journal.run_folder import RunFolder
        from convbatch.session.run_caps import budget_share, caps_of
        from convbatch.session.workers import Parts, asked_by_quota_owner, http_transports, open_transports

        credentials = Credentials.load([target.gateway for target in self.asked], env=self.env)
        spec = SessionSpec(
            folder=RunFolder(path=self.folder),
            manifest=self.manifest,
            targets=self.asked,
            credentials=credentials,
            rules=self.rules,
            max_cost=self.max_cost,
            max_tokens=self.max_tokens,
            max_requests=self.max_requests,
        )
        parts = Parts(spec, system, None, None, credentials.redactor(), self.simulator_url, media)
        built: dict[str, TargetWorker] = {}
        for asked in asked_by_quota_owner(spec.targets).values():
            limits = merge_limits(one.target.gateway.limits for one in asked)
            first = asked[0].target
            shared = limiter(first, state=self.states[first.name], jitter_s=limits.jitter_s)
            estimates = TokenEstimates(limits)
            for one, transport in zip(asked, open_transports(asked, stack, http_transports(credentials)), strict=True):
                worker = parts.worker(one, shared, estimates, transport, shares=False)
                name = one.target.name
                worker.places = self.places[name]
                worker.health = type(worker.health)(answered=name in self.answered, address=worker.client.address())
                built[name] = worker
        caps = caps_of(spec)
        budget = Budget(*caps) if caps else None
        return [
            (built[target.name], None if budget is None else budget_share(spec, target, budget))
            for target in self.asked
        ]


def cluster_setup(
    spec: SessionSpec, workers: Iterable[TargetWorker], past: Archive | None, simulator_url: str | None, size: int
) -> ClusterSetup:
    """Return what the workers of a session are started with."""
    from convbatch.cluster.links import state_of
    from convbatch.config.credentials import variables_of

    workers = tuple(workers)
    assert isinstance(spec.work, ModelWork)  # a judge is asked by the session itself
    gateways = [target.gateway for target in spec.targets]
    names = {name for gateway in gateways for name in variables_of(gateway)} | set(_PROXIES)
    if any(gateway.key_command is not None for gateway in gateways):
        env = dict(spec.credentials.env)  # the command may need any
    else:
        env = {name: value for name, value in spec.credentials.env.items() if name in names}
    return ClusterSetup(
        folder=spec.folder.path.absolute(),
        manifest=spec.manifest,
        asked=spec.targets,
        env=env,
        rules=replace(spec.rules, deadline_s=None),
        max_cost=spec.max_cost,
        max_tokens=spec.max_tokens,
        max_requests=spec.max_requests,
        simulator_url=simulator_url,
        answered=frozenset(
            worker.target.name for worker in workers if past is not None and past.has_reply(worker.target.name)
        ),
        states={worker.target.name: state_of(worker.limiter) for worker in workers},
        places={worker.target.name: -(-worker.places // size) for worker in workers},
        tells_all=spec.log.is_wanted,
        reuse=None if spec.reuse is None else spec.reuse.name,
    )


async def open_crew(spec: SessionSpec, stack: AsyncExitStack) -> RayCrew:
    """Start or join Ray as the session asks; it ends with the stack.

    Raises:
        SetupError: Ray is not installed, or there is no usable cluster; nothing was sent.
    """
    from convbatch.cluster.ray_cluster import RayCrew
    from convbatch.config.credentials import variables_of

    assert spec.cluster is not None
    secrets = frozenset(name for target in spec.targets for name in variables_of(target.gateway))
    crew = RayCrew(spec.cluster.workers, address=spec.cluster.address, secrets=secrets)
    await crew.open()
    stack.callback(crew.close)
    return crew
