"""Which endpoints of a run folder may receive keys: a `run.json` names URLs and key variables, and may be from anyone.

A folder that this user created here has a record outside of it (`origins.py`) with the endpoints that the user's own
configuration named; only those are trusted. Every other endpoint, also one on this machine, must be in a preset or in
this user's `convbatch.toml`, with everything that decides who reads the key. No key is read here.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self
from urllib.parse import unquote, urlsplit

from convbatch.config.credentials import is_loopback
from convbatch.config.gateways import SIMULATOR_URL, Config, Gateway, Target
from convbatch.config.key_command import display_command
from convbatch.config.loader import load_config, load_shipped_config
from convbatch.console.text import log_note
from convbatch.errors import Place, Problem, SetupError
from convbatch.journal.manifest import Manifest
from convbatch.journal.run_folder import RunFolder
from convbatch.session.origins import Origin, add_endpoints, read_origin, record_origin, state_folder


class Endpoint(NamedTuple):
    """Everything that decides who can read which secret of a request."""

    base_url: str
    protocol: str
    path: str | None
    api_version: str | None
    query: tuple[tuple[str, str], ...]
    auth: str
    key_env: str | None
    key_command: tuple[str, ...] | None
    headers: tuple[tuple[str, str], ...]
    """Name in lower case and value of each: `Host` can name another server behind the same address."""
    secret_headers: tuple[tuple[str, str, str], ...]
    """Name in lower case, variable and prefix of each."""
    proxy: str | None
    ca_file: str | None

    @classmethod
    def of(cls, gateway: Gateway) -> Self:
        """Return the endpoint of a gateway."""
        secret = ((name.lower(), header.env, header.prefix) for name, header in gateway.secret_headers.items())
        return cls(
            base_url=gateway.base_url,
            protocol=gateway.protocol,
            path=gateway.path,
            api_version=gateway.api_version,
            query=tuple(sorted(gateway.query.items())),
            auth=gateway.auth,
            key_env=gateway.key_env,
            key_command=gateway.key_command,
            headers=tuple(sorted((name.lower(), value) for name, value in gateway.headers.items())),
            secret_headers=tuple(sorted(secret)),
            proxy=gateway.proxy,
            ca_file=gateway.ca_file,
        )

    @property
    def secrets(self) -> str:
        """What is sent: the names of variables, the output of a command; `""` for nothing."""
        names = [] if self.auth == "none" or self.key_env is None else [self.key_env]
        names += [env for _, env, _ in self.secret_headers]
        names += [] if self.key_command is None else [f"the output of `{display_command(self.key_command)}`"]
        return " and ".join(dict.fromkeys(names))

    @property
    def host(self) -> str:
        """Scheme, host and port."""
        parts = urlsplit(self.base_url)
        return f"{parts.scheme}://{parts.netloc}".lower()

    @property
    def digest(self) -> str:
        """A digest of the endpoint; with a command also of the working directory, where its relative paths start."""
        here = [] if self.key_command is None else [str(Path.cwd())]
        return hashlib.sha256(json.dumps([*self, *here]).encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def needs_no_trust(self) -> bool:
        """Whether anyone may name it: the built-in simulator, or a TLS server elsewhere that gets no secret.

        A server on this machine may do what it is told without a key, and plain http needs `allow_http` of the user.
        """
        if self.secrets or self.ca_file is not None:
            return False
        parts = urlsplit(self.base_url)
        is_elsewhere = _HOST.fullmatch(parts.netloc) is not None and not is_loopback(parts.hostname or "")
        return self.base_url == SIMULATOR_URL or (parts.scheme == "https" and is_elsewhere)


_HOST = re.compile(r"[A-Za-z0-9.-]+(?::[0-9]+)?|\[[0-9A-Fa-f:]+\](?::[0-9]+)?")
"""Matches only hosts that all URL parsers read alike (not `http://a\\@b`)."""


@dataclass(frozen=True, slots=True)
class Trust:
    """What is known about a run folder from outside of it; None = it was created elsewhere."""

    origin: Origin | None

    @classmethod
    def in_folder(cls, folder: RunFolder, manifest: Manifest) -> Trust:
        """Look up the record of a folder; a record of another folder does not count."""
        origin = read_origin(manifest.origin)
        return cls(origin if origin is not None and origin.is_at(folder.path) else None)

    def reusable(self, manifest: Manifest) -> str | None:
        """Return the run whose replies this run reuses, if this user said so."""
        return None if self.origin is None or self.origin.reuse != manifest.options.reuse else self.origin.reuse

    def require_endpoints(self, folder: RunFolder, targets: Iterable[Target]) -> None:
        """Refuse to send to endpoints that only the run folder names.

        Raises:
            SetupError: An endpoint is in no record, no preset and no `convbatch.toml`.
            InputError: The `convbatch.toml` that could name the endpoint cannot be read.
        """
        known = frozenset[str]() if self.origin is None else frozenset(self.origin.endpoints)
        asked = (one for target in targets for one in target.asked_targets)
        untrusted = [target for target in asked if not self._is_recorded(target, known)]
        configs: list[Config] = []
        for load in (load_shipped_config, load_config):
            if untrusted and not (load is load_config and is_inside(folder)):
                configs.append(load())
                untrusted = [target for target in untrusted if not _is_named(target, configs[-1])]
        if untrusted:
            place = Place(path=str(folder.path / "run.json"))
            problems = {Endpoint.of(one.gateway): self._problem(one, place, configs) for one in untrusted}
            raise SetupError.of(list(problems.values()))

    def _is_recorded(self, target: Target, known: frozenset[str]) -> bool:
        endpoint = Endpoint.of(target.gateway)
        return endpoint.needs_no_trust or (bool(known) and endpoint.digest in known)

    def _problem(self, target: Target, place: Place, configs: Iterable[Config]) -> Problem:
        endpoint = Endpoint.of(target.gateway)
        by = f" through the proxy {endpoint.proxy}" if endpoint.proxy else ""
        certified = f", with the CA file {endpoint.ca_file}" if endpoint.ca_file else ""
        refused = f"refusing to send {endpoint.secrets or 'requests'} to {endpoint.host}{by}{certified}"
        if endpoint.key_command is not None:
            why = "a run folder cannot start a program"
        elif self.origin is None:
            why = "this run folder was created elsewhere"
        else:
            why = "run.json names an endpoint that this run was not started with"
        return Problem(
            what=f"{why}; {refused}",
            place=place,
            found=f"target {target.name}; {self._reason(target, configs)}",
            hint=f"if it belongs there, add the gateway to convbatch.toml: [gateways.NAME] {_table_keys(endpoint)}; "
            "docs: SECURITY.md",
        )

    def _reason(self, target: Target, configs: Iterable[Config]) -> str:
        near = next((named for config in configs if (named := _nearly_named(target, config))), None)
        missing = near or "no preset and no convbatch.toml here has this endpoint"
        if self.origin is not None:
            return missing
        return f"{missing}, and {_display_state()} has no record of a folder that was created here"


def remember_folder(folder: RunFolder, targets: Iterable[Target], *, reuse: str | None) -> str | None:
    """Record a new run folder with the endpoints of its targets; return the name of the record for `run.json`.

    Without a writable state directory nothing is recorded: the folder is a strange one, which is said if it matters.
    """
    targets = tuple(one for target in targets for one in target.asked_targets)
    try:
        endpoints = [Endpoint.of(target.gateway).digest for target in targets]
        return record_origin(folder.path, endpoints, reuse=reuse)
    except (OSError, RuntimeError) as error:
        if not all(_needs_no_record(target) for target in targets):
            log_note(
                f"note: {_display_state()} cannot be written ({getattr(error, 'strerror', None) or error}): "
                "a resume of this run needs its gateways in a convbatch.toml"
            )
        return None


def remember_endpoint(folder: RunFolder, manifest: Manifest, target: Target) -> None:
    """Add an endpoint that this user's configuration named to the record of a folder that was created here."""
    if Trust.in_folder(folder, manifest).origin is not None and manifest.origin is not None:
        try:
            add_endpoints(manifest.origin, [Endpoint.of(one.gateway).digest for one in target.asked_targets])
        except (OSError, RuntimeError) as error:
            log_note(f"note: {_display_state()} cannot be written ({getattr(error, 'strerror', None) or error})")


def _needs_no_record(target: Target) -> bool:
    if Endpoint.of(target.gateway).needs_no_trust:
        return True
    return any(_is_named(target, load()) for load in (load_shipped_config, load_config))


def _display_state() -> str:
    try:
        return str(state_folder())
    except RuntimeError:
        return "the user's state directory (there is no home directory)"


def is_inside(folder: RunFolder) -> bool:
    """Return whether the working directory is in the run folder: then a `convbatch.toml` there came with it."""
    return Path.cwd().is_relative_to(folder.path.resolve())


def _is_named(target: Target, config: Config) -> bool:
    if ".." in re.split(r"[/\\]", unquote(target.model)):
        return False  # a model is a part of some URLs, and this one would leave the path that the config names
    return any(
        Endpoint.of(table.for_model(target.model)) == Endpoint.of(target.gateway) for table in config.gateways.values()
    )


def _nearly_named(target: Target, config: Config) -> str | None:
    """Return in what the endpoint differs from a gateway with the same address; None without such a gateway."""
    endpoint = Endpoint.of(target.gateway)
    for name, table in config.gateways.items():
        named = Endpoint.of(table.for_model(target.model))
        if named.base_url == endpoint.base_url:
            differ = [key for key in Endpoint._fields if getattr(named, key) != getattr(endpoint, key)]
            return f"the gateway {name} differs in {', '.join(differ)}" if differ else None
    return None


def _table_keys(endpoint: Endpoint) -> str:
    """Return the keys of a gateway's table that name this endpoint."""
    parts = [f"protocol = {_toml(endpoint.protocol)}", f"base_url = {_toml(endpoint.base_url)}"]
    if endpoint.key_command is not None:
        parts.append("key_command = [...]")
    values: Mapping[str, str | None] = {
        key: getattr(endpoint, key) for key in ("auth", "key_env", "path", "api_version", "proxy", "ca_file")
    }
    parts += [f"{key} = {_toml(value)}" for key, value in values.items() if value is not None]
    secret = [(name, env) for name, env, _ in endpoint.secret_headers]
    for key, pairs in {"query": endpoint.query, "headers": endpoint.headers, "secret_headers": secret}.items():
        if pairs:
            parts.append(f"{key} = {{ {', '.join(f'{_toml(name)} = {_toml(value)}' for name, value in pairs)} }}")
    address = urlsplit(endpoint.base_url)
    if address.scheme == "http" and not is_loopback(address.hostname or ""):
        parts.append("allow_http = true")
    return ", ".join(parts)


def _toml(text: str) -> str:
    return json.dumps(text if len(text) <= 200 else f"{text[:200]}...", ensure_ascii=False)
