"""Which endpoints of a run folder may receive keys: a `run.json` names URLs and key variables, and may be from anyone.

A folder that is still where this user created it is trusted. A folder from elsewhere gets a key only for an endpoint
that a preset or this user's own `convbatch.toml` pairs with that key, or that is on this machine. No key is read here.

A `key_command` is stricter: `run.json` alone never starts a program, wherever the folder was created. The command runs
only if `convbatch.toml` has it for this endpoint, or if a run was started with it for this endpoint in this working
directory; the digests of those are kept in the user's state directory, outside of all run folders.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from convbatch.config.credentials import is_loopback
from convbatch.config.gateways import Config, Gateway, Target
from convbatch.config.key_command import display_command
from convbatch.config.loader import load_config, load_shipped_config
from convbatch.errors import Place, Problem, SetupError
from convbatch.journal.manifest import Manifest
from convbatch.journal.run_folder import RunFolder


class _Endpoint(NamedTuple):
    """Everything that decides who can read which secret."""

    host: str
    """Scheme, host and port."""
    key_env: str | None
    key_command: tuple[str, ...] | None
    secret_headers: tuple[tuple[str, str], ...]
    """Name in lower case and variable of each."""
    proxy: str | None
    ca_file: str | None

    @property
    def secrets(self) -> str:
        """What is sent: the names of variables, the output of a command."""
        names = [name for name in (self.key_env, *(env for _, env in self.secret_headers)) if name is not None]
        names += [] if self.key_command is None else [f"the output of `{display_command(self.key_command)}`"]
        return " and ".join(dict.fromkeys(names))

    @property
    def digest(self) -> str:
        """A digest of the endpoint and the working directory: a relative path in a command depends on it."""
        return hashlib.sha256(json.dumps([*self, str(Path.cwd())]).encode()).hexdigest()


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
        untrusted = [target for target in untrusted if target.gateway.key_command is not None]
    if any(target.gateway.key_command is not None for target in untrusted):
        used = _used_commands()
        untrusted = [target for target in untrusted if _endpoint(target.gateway).digest not in used]
    for config in (load_shipped_config, load_config):
        untrusted = [target for target in untrusted if not _is_trusted(target, config())] if untrusted else []
    if not untrusted:
        return
    place = Place(path=str(folder.path / "run.json"))
    problems = {_endpoint(target.gateway): _problem(target, place) for target in untrusted}
    raise SetupError.of(list(problems.values()))


def remember_commands(gateways: Iterable[Gateway]) -> None:
    """Record that this user's configuration uses these key commands, so that `resume` may run them again.

    Without a writable state directory nothing is recorded, and `resume` asks for a `convbatch.toml`.
    """
    digests = {_endpoint(gateway).digest for gateway in gateways if gateway.key_command is not None}
    new = sorted(digests - _used_commands()) if digests else []
    if not new:
        return
    with contextlib.suppress(OSError, RuntimeError):
        path = _state_file()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | _WITHOUT_WAITING, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write("".join(f"{digest}\n" for digest in new))


def _used_commands() -> frozenset[str]:
    """Return the recorded digests; none if the file is not this user's own."""
    try:
        path = _state_file()
        status = path.lstat()
        is_own = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022
        return frozenset(path.read_text("ascii").split()) if is_own else frozenset()
    except (OSError, RuntimeError, ValueError):  # none yet, no home, or not text
        return frozenset()


_WITHOUT_WAITING = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""Flags that refuse a link and a pipe without a reader."""


def _state_file() -> Path:
    state = os.environ.get("XDG_STATE_HOME", "")
    folder = Path(state) if state.startswith("/") else Path.home() / ".local" / "state"
    return folder / "convbatch" / "key-commands"


def _sends_key(gateway: Gateway) -> bool:
    if gateway.key_command is not None:
        return True
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
        key_command=gateway.key_command,
        secret_headers=tuple(sorted((name.lower(), header.env) for name, header in gateway.secret_headers.items())),
        proxy=gateway.proxy,
        ca_file=gateway.ca_file,
    )


def _problem(target: Target, place: Place) -> Problem:
    endpoint = _endpoint(target.gateway)
    by = f" through the proxy {endpoint.proxy}" if endpoint.proxy else ""
    certified = f", with the CA file {endpoint.ca_file}" if endpoint.ca_file else ""
    refused = f"refusing to send {endpoint.secrets} to {endpoint.host}{by}{certified}"
    if endpoint.key_command is not None:
        what = f"a run folder cannot start a program; {refused}"
        found = f"target {target.name}; no run was started with this command in this directory"
    else:
        what = f"this run folder was created elsewhere; {refused}"
        found = f"target {target.name}; no preset and no convbatch.toml here sends this key to this host"
    return Problem(
        what=what,
        place=place,
        found=found,
        hint=f"if the key belongs there, add the gateway to convbatch.toml: [gateways.NAME] base_url = "
        f'"{endpoint.host}...", {_key_setting(endpoint)}; docs: SECURITY.md',
    )


def _key_setting(endpoint: _Endpoint) -> str:
    """Return the keys of a gateway's table that name these secrets."""
    parts = [] if endpoint.key_env is None else [f'key_env = "{endpoint.key_env}"']
    if endpoint.key_command is not None:
        parts.append("key_command = [...]")
    if endpoint.secret_headers:
        headers = ", ".join(f'"{name}" = "{env}"' for name, env in endpoint.secret_headers)
        parts.append(f"secret_headers = {{ {headers} }}")
    return ", ".join(parts)
