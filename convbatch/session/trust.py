"""Which endpoints of a run folder may receive keys: a `run.json` names URLs and key variables, and may be from anyone.

A folder that is still where this user created it is trusted. A folder from elsewhere gets a key only for an endpoint
that a preset or this user's own `convbatch.toml` pairs with that key, or that is on this machine. No key is read here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import urlsplit

from convbatch.config.credentials import is_loopback
from convbatch.config.gateways import Config, Gateway, Target
from convbatch.config.loader import load_config, load_shipped_config
from convbatch.errors import Place, Problem, SetupError
from convbatch.journal.manifest import Manifest
from convbatch.journal.run_folder import RunFolder


class _Endpoint(NamedTuple):
    """Everything that decides who can read which secret."""

    host: str
    """Scheme, host and port."""
    key_env: str | None
    secret_headers: tuple[tuple[str, str], ...]
    """Name in lower case and variable of each."""
    proxy: str | None
    ca_file: str | None

    @property
    def secrets(self) -> str:
        """The names of the variables whose values are sent."""
        names = [name for name in (self.key_env, *(env for _, env in self.secret_headers)) if name is not None]
        return " and ".join(dict.fromkeys(names))


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
    if (gateway.auth == "none" or gateway.key_env is None) and not gateway.secret_headers:
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
    return _Endpoint(
        host=f"{parts.scheme}://{parts.netloc}".lower(),
        key_env=gateway.key_env,
        secret_headers=tuple(sorted((name.lower(), header.env) for name, header in gateway.secret_headers.items())),
        proxy=gateway.proxy,
        ca_file=gateway.ca_file,
    )


def _problem(target: Target, place: Place) -> Problem:
    endpoint = _endpoint(target.gateway)
    by = f" through the proxy {endpoint.proxy}" if endpoint.proxy else ""
    certified = f", with the CA file {endpoint.ca_file}" if endpoint.ca_file else ""
    return Problem(
        what=f"this run folder was created elsewhere; refusing to send {endpoint.secrets} to {endpoint.host}{by}"
        f"{certified}",
        place=place,
        found=f"target {target.name}; no preset and no convbatch.toml here sends this key to this host",
        hint=f"if the key belongs there, add the gateway to convbatch.toml: [gateways.NAME] base_url = "
        f'"{endpoint.host}...", {_key_setting(endpoint)}; docs: SECURITY.md',
    )


def _key_setting(endpoint: _Endpoint) -> str:
    """Return the keys of a gateway's table that name these secrets."""
    parts = [] if endpoint.key_env is None else [f'key_env = "{endpoint.key_env}"']
    if endpoint.secret_headers:
        headers = ", ".join(f'"{name}" = "{env}"' for name, env in endpoint.secret_headers)
        parts.append(f"secret_headers = {{ {headers} }}")
    return ", ".join(parts)
