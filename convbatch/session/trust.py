"""Which endpoints of a run folder may receive keys: a `run.json` names URLs and key variables, and may be from anyone.

A folder that is still where this user created it is trusted. A folder from elsewhere gets a key only for an endpoint
that a preset or this user's own `convbatch.toml` pairs with that key, or that is on this machine. No key is read here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from convbatch.config.credentials import is_loopback
from convbatch.config.gateways import Config, Gateway, Target
from convbatch.config.loader import load_config, load_shipped_config
from convbatch.errors import Place, Problem, SetupError
from convbatch.journal.manifest import Manifest
from convbatch.journal.run_folder import RunFolder

_Endpoint = tuple[str, str | None, str | None, str | None]
"""Everything that decides who can read a key: scheme, host and port; the key's variable; the proxy; the CA file."""


_HOST = re.compile(r"[A-Za-z0-9.-]+(?::[0-9]+)?|\[[0-9A-Fa-f:]+\](?::[0-9]+)?")
"""Matches only hosts that all URL parsers read alike (not `http://a\\@b`)."""


def require_trusted_endpoints(folder: RunFolder, manifest: Manifest, targets: Iterable[Target]) -> None:
    """Refuse to send keys to endpoints that only the run folder names.

    Raises:
        SetupError: The folder was created elsewhere, and a key would be sent to an unknown endpoint.
        InputError: The `convbatch.toml` that could name the endpoint cannot be read.
    """
    untrusted = [target for target in targets if _sends_key(target.gateway)]
    if folder.is_original_location(manifest):
        return
    for config in (load_shipped_config, load_config):
        untrusted = [target for target in untrusted if not _is_trusted(target, config())] if untrusted else []
    if not untrusted:
        return
    place = Place(path=str(folder.path / "run.json"))
    problems = {_endpoint(target.gateway): _problem(target, place) for target in untrusted}
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
    by = f" through the proxy {proxy}" if proxy else ""
    certified = f", with the CA file {ca_file}" if ca_file else ""
    return Problem(
        what=f"this run folder was created elsewhere; refusing to send {key_env} to {host}{by}{certified}",
        place=place,
        found=f"target {target.name}; no preset and no convbatch.toml here sends this key to this host",
        hint=f'if the key belongs there, add the gateway to convbatch.toml: [gateways.NAME] base_url = "{host}...", '
        f'key_env = "{key_env}"; docs: SECURITY.md',
    )
