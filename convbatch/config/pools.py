"""Pools: several gateways that serve one model as one target, from the config's `[pools.NAME]`.

Members may differ in address, key and limits, in nothing that changes what is sent or what it costs: a conversation may
go on at another member, with a history that the first one received.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from convbatch.errors import Place, SetupError

if TYPE_CHECKING:
    from convbatch.config.gateways import Gateway, Limits

SIMULATOR_URL = "simulator:"

_ALIKE = {
    "protocol": "protocol",
    "api_version": "api_version",
    "path": "path",
    "max_output_tokens_field": "max_output_tokens_field",
    "seed_field": "seed_field",
    "anthropic_version": "anthropic_version",
    "system_role": "system_role",
    "replay": "replay",
    "thinking_tags": "thinking_tags",
    "stream": "stream",
    "settings": "settings",
    "unset": "unset",
    "currency": "currency",
}
"""Fields of `Gateway` that decide what is sent, how it is read or billed → their keys in the config."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolTable:
    """The table of a pool."""

    name: str
    gateways: tuple[str, ...]
    """Names of its members."""
    place: Place | None = None
    """Where the config defines it."""


def pool_gateway(pool: PoolTable, model: str, members: Sequence[Gateway]) -> Gateway:
    """Return a pool as one gateway: what its members have in common, without any secret.

    Its base URL is theirs if they share one, else all of them, so that a turn keeps its key when a key is added to the
    pool, and not when an address is.

    Args:
        pool: Name and place.
        model: The model that is asked, for messages.
        members: Its gateways for this model.

    Raises:
        SetupError: Two members differ in what is sent, or in the currency of their bills.
    """
    first, *others = members
    for other in others:
        if (first.base_url == SIMULATOR_URL) != (other.base_url == SIMULATOR_URL):
            raise SetupError(
                f"the pool {pool.name!r} mixes the built-in simulator with a real gateway",
                place=pool.place,
                found=", ".join(member.name for member in members),
                hint="make two pools",
            )
        differing = [key for field, key in _ALIKE.items() if getattr(first, field) != getattr(other, field)]
        if differing:
            shown = "; ".join(
                f"{key} = {_shown(first, key)} at {first.name}, {_shown(other, key)} at {other.name}"
                for key in differing
            )
            raise SetupError(
                f"the members of the pool {pool.name!r} do not send or bill {model} alike",
                place=pool.place,
                found=shown,
                hint=f"give {first.name} and {other.name} the same {' and '.join(differing)}, "
                f"or ask them as two targets: -m {model}@{first.name} -m {model}@{other.name}",
            )
    return dataclasses.replace(
        first,
        name=pool.name,
        base_url=" ".join(sorted({member.base_url for member in members})),
        auth="none",
        key_env=None,
        key_command=None,
        key_origin=None,
        headers={},
        secret_headers={},
        query={},
        proxy=None,
        ca_file=None,
        allow_http=False,
        attempt_timeout_s=max(member.attempt_timeout_s for member in members),
        limits=add_limits([member.limits for member in members]),
        aliases=_all_aliases(members),
    )


def _shown(gateway: Gateway, field: str) -> str:
    value = getattr(gateway, field)
    if field == "settings":
        return str(value.to_plain())
    return "not set" if value in (None, ()) else str(value)


def _all_aliases(members: Sequence[Gateway]) -> Mapping[str, Sequence[str]]:
    aliases: dict[str, tuple[str, ...]] = {}
    for member in members:
        for asked, served in member.aliases.items():
            aliases[asked] = tuple(dict.fromkeys((*aliases.get(asked, ()), *served)))
    return aliases


def add_limits(several: Sequence[Limits]) -> Limits:
    """Return the limits that quota owners have together; a limit that one of them does not have is unknown."""

    def total(name: str) -> int | None:
        values = [getattr(limits, name) for limits in several]
        return None if None in values else sum(values)

    return dataclasses.replace(
        several[0],
        rpm=total("rpm"),
        tpm=total("tpm"),
        rpd=total("rpd"),
        concurrency=total("concurrency"),
        rates=(),
        jitter_s=max(limits.jitter_s for limits in several),
    )
