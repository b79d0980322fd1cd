"""May a run folder have a key sent where it says? A `run.json` names addresses and key variables, and can be anybody's.

A folder that lies where this user made it is believed. One that came from elsewhere gets a key only for a way that a
preset or this user's own `convbatch.toml` pairs with that key, or that does not leave the machine. What the keys are is
`config/credentials.py`; nothing here reads one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from convbatch.config.credentials import is_loopback
from convbatch.config.gateways import Config, Gateway, Target
from convbatch.config.loader import load_config, load_shipped_config
from convbatch.errors import Place, Problem, SetupError
from convbatch.journal.run_folder import RunFolder

_Endpoint = tuple[str, str | None, str | None, str | None]
"""Who can read a key under way: scheme, host and port; the key's variable; the proxy; who may vouch for the host."""


_HOST = re.compile(r"[A-Za-z0-9.-]+(?::[0-9]+)?|\[[0-9A-Fa-f:]+\](?::[0-9]+)?")
"""Nothing in it that two readers of URLs could understand differently (`http://a\\@b`)."""


def require_trusted_endpoints(folder: RunFolder, meta: Mapping[str, Any], targets: Iterable[Target]) -> None:
    """Refuse to send keys where nobody but the folder says they belong.

    Raises:
        SetupError: The folder came from elsewhere, and a key would take a way that is not known here.
        InputError: The `convbatch.toml` that might vouch for it cannot be read.
    """
    strange = [target for target in targets if _sends_key(target.gateway)]
    if folder.is_original_location(meta):
        return
    for config in (load_shipped_config, load_config):
        strange = [target for target in strange if not _is_trusted(target, config())] if strange else []
    if not strange:
        return
    place = Place(path=str(folder.path / "run.json"))
    problems = {_endpoint(target.gateway): _problem(target, place) for target in strange}
    raise SetupError.of(list(problems.values()))


def _sends_key(gateway: Gateway) -> bool:
    if gateway.auth == "none" or gateway.key_env is None:
        return False
    parts = urlsplit(gateway.base_url)
    is_here = _HOST.fullmatch(parts.netloc) is not None and is_loopback(parts.hostname or "")
    return gateway.proxy not in (None, "none") or not is_here


def _is_trusted(target: Target, config: Config) -> bool:
    return any(
        _endpoint(table.for_model(target.model)) == _endpoint(target.gateway) for table in config.gateways.values()
    )


def _endpoint(gateway: Gateway) -> _Endpoint:
    parts = urlsplit(gateway.base_url)
    return f"{parts.scheme}://{parts.netloc}".lower(), gateway.key_env, gateway.proxy, gateway.ca_file


def _problem(target: Target, place: Place) -> Problem:
    host, key_env, proxy, ca_file = _endpoint(target.gateway)
    by = f" by the proxy {proxy}" if proxy else ""
    certified = f", certified by {ca_file}" if ca_file else ""
    return Problem(
        what=f"this run folder did not begin here, and would have the key {key_env} sent to {host}{by}{certified}",
        place=place,
        found=f"target {target.name}; no preset and no convbatch.toml here sends that key there",
        hint=f'if it belongs there, say so in convbatch.toml: [gateways.NAME] base_url = "{host}...", '
        f'key_env = "{key_env}"; docs: SECURITY.md',
    )
