"""`--workers` and `--on` to a `ClusterSpec`, and what cannot run on several workers yet."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from convbatch.errors import SetupError
from convbatch.session.options import ResumeOptions, RunOptions, WorkerOptions
from convbatch.session.spec import ClusterSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convbatch.config.gateways import Target
    from convbatch.engine.runner import RunRules

_ALWAYS_ALLOWED = 8
_PER_CORE = 2


def cluster_spec(options: RunOptions | ResumeOptions) -> ClusterSpec | None:
    """Return on what a session runs; None = this process alone.

    Raises:
        SetupError: Ray is not installed, or an option needs one process.
    """
    if options.on not in (None, "ray"):
        raise SetupError(f"--on {options.on}", hint="the only value is ray: --on ray")
    if options.workers is None and options.on is None:
        return None
    from convbatch.cluster.ray_cluster import require_ray

    require_ray()
    _refuse_other_options(options)
    address = os.environ.get("RAY_ADDRESS", "").strip() or ("auto" if options.on == "ray" else None)
    if address is not None and address.startswith("ray://"):
        raise SetupError(
            f"RAY_ADDRESS is {address}, an address of Ray's client server",
            hint="give the address of the cluster itself, HOST:6379, on one of its machines",
        )
    if address is None and options.workers is not None:
        _refuse_too_many(options.workers)
    return ClusterSpec(workers=options.workers, address=address)


def _refuse_too_many(workers: int) -> None:
    """Refuse more processes than this machine can carry: each one takes about 150 MB, and Ray starts all at once."""
    cores = os.cpu_count() or 1
    if workers > max(_ALWAYS_ALLOWED, _PER_CORE * cores):
        raise SetupError(
            f"--workers {workers}: this machine has {cores} core{'' if cores == 1 else 's'}, and each worker needs one",
            hint=f"use at most --workers {cores}, or more machines: --on ray",
        )


def _refuse_other_options(options: WorkerOptions) -> None:
    """Refuse options that need all requests to be sent by this process."""
    needs_one = (
        ("--follow", getattr(options, "follow", False), "texts are printed by the process that receives them"),
        ("--log-bodies", getattr(options, "log_bodies", False), "each worker sends its own requests"),
    )
    for name, is_given, why in needs_one:
        if is_given:
            raise SetupError(f"--workers and {name}: {why}", hint="leave one out")


def refuse_for_workers(cluster: ClusterSpec | None, targets: Sequence[Target], rules: RunRules) -> None:
    """Refuse targets and rules that need all requests to be sent by this process.

    Raises:
        SetupError: There are some.
    """
    if cluster is None:
        return
    if rules.batch is not None:
        raise SetupError(
            "--workers and batch jobs: a wave is one upload, which one process makes as fast as the provider takes it",
            hint="leave --workers out",
        )
    for target in targets:
        if target.members:
            raise SetupError(
                f"--workers: {target.name} is a pool, and which member sends is decided by the process that sends",
                hint="leave --workers out, or run each member by itself: "
                + ", ".join(one.name for one in target.asked_targets),
            )
    if cluster.address is not None and any(target.simulated for target in targets):
        raise SetupError(
            "the built-in simulator answers on this machine alone",
            hint="use --workers without --on and RAY_ADDRESS, or a gateway at the address of a `convbatch simulate`",
        )
