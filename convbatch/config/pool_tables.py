"""Read `[pools.NAME]` of the config; what a pool is, is `pools.py`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from convbatch.config.pools import PoolTable
from convbatch.config.validators import GATEWAY_NAME, InvalidValue
from convbatch.errors import Place, did_you_mean


def build_pool(
    name: str,
    own: Mapping[str, Any],
    gateways: Collection[str],
    pools: Collection[str],
    *,
    place: Place,
    written: Collection[str],
) -> Iterator[PoolTable | tuple[str, str | None, InvalidValue]]:
    """Yield the pool built from validated values, or else its problems: key, member, what is wrong.

    Args:
        name: Its name.
        own: Validated values by key.
        gateways: The names of all gateways.
        pools: The names of all pools.
        place: Where its members are listed.
        written: The keys of the table, valid or not.
    """
    members = own.get("gateways", ())
    unknown = [member for member in members if member not in gateways]
    for member in unknown:
        if member in pools:
            what, hint = f"{member!r} is a pool, and a pool has gateways", "name its gateways one by one"
        else:
            what, hint = f"unknown gateway {member!r}", did_you_mean(member, gateways)
        yield "gateways", member, InvalidValue(f"{what} in pools.{name}", hint)
    if not GATEWAY_NAME.fullmatch(name):
        yield "", None, InvalidValue(f"{name!r} cannot be a pool's name", "use letters, digits, dots, - and _")
    elif name in gateways:
        yield "", None, InvalidValue(f"{name!r} is the name of a gateway, too", "give the pool a name of its own")
    elif "gateways" not in written:
        yield "", None, InvalidValue(f"the pool {name!r} has no gateways", 'write gateways = ["NAME", "OTHER"]')
    elif members and not unknown:
        yield PoolTable(name=name, gateways=members, place=place)
