"""Keys and proxies: `Credentials` reads them from the environment, `apply_auth` puts a key into a request.

Which gateway uses which variable and scheme is `gateways.py`; what is sent is `engine/client.py`; how keys stay out of
logs, journals and reports is `redaction.py`.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import difflib
import functools
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote, unquote, urlsplit

from convbatch.config.gateways import Gateway, SecretHeader
from convbatch.errors import InputError, Place, Problem, SetupError
from convbatch.redaction import SHORTEST_IN_BODY, Redactor, Secret, watch

if TYPE_CHECKING:
    from convbatch.config.key_command import KeyCommand


@dataclass(frozen=True, slots=True)
class Credentials:
    """The environment that keys and proxies are read from, and the secrets that were found in it.

    Made by `load`, which also registers the secrets with the redactor, and handed down to whatever sends requests. No
    value is part of its repr.
    """

    env: Mapping[str, str] = field(repr=False)
    secrets: tuple[Secret, ...] = ()
    commands: _KeyCommands = field(default_factory=lambda: _KeyCommands(), repr=False, compare=False)
    env_file: Path | None = None
    """The file of `--env-file`, else `env_file` of the config if it exists."""
    absent_env_file: Path | None = None
    """`env_file` of the config if it does not exist: where variables come from elsewhere, nobody needs it."""

    @classmethod
    def load(
        cls,
        gateways: Iterable[Gateway],
        *,
        env_file: Path | None = None,
        configured: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Credentials:
        """Read the environment and register the secrets of these gateways with the redactor.

        Args:
            gateways: Every gateway that requests may be sent to.
            env_file: Further `KEY=VALUE` lines; variables that are set take precedence.
            configured: `env_file` of the config, which `env_file` replaces.
            env: The environment; default: that of the process.

        Raises:
            InputError: The file cannot be read.
        """
        absent = configured if env_file is None and configured is not None and not configured.exists() else None
        env_file = configured if env_file is None and absent is None else env_file
        merged = with_env_file(os.environ if env is None else env, env_file)
        return cls(merged, env_file=env_file, absent_env_file=absent).covering(gateways)

    def covering(self, gateways: Iterable[Gateway]) -> Credentials:
        """Return the same credentials with the secrets of further gateways, registered with the redactor."""
        secrets = tuple(dict.fromkeys((*self.secrets, *secrets_of(gateways, self.env))))
        watch(secrets)
        return dataclasses.replace(self, secrets=secrets)

    def redactor(self) -> Redactor:
        """Return a redactor of all secrets, also of the tokens that key commands will print."""
        redactor = Redactor((*self.secrets, *self.commands.secrets))
        self.commands.redactors.append(redactor)
        return redactor

    def key(self, gateway: Gateway) -> str | None:
        """Return the gateway's key, of its key command the current token.

        Raises:
            SetupError: As `key_for`, or the key command fails.
        """
        command = self.key_command(gateway)
        return key_for(gateway, self.env) if command is None else command.token.value

    def key_command(self, gateway: Gateway) -> KeyCommand | None:
        """Return the command that prints the gateway's key, shared by gateways with the same one; None without one."""
        from convbatch.config.key_command import KeyCommand

        command = gateway.key_command
        if command is None or gateway.auth == "none":
            return None
        if command not in self.commands.by_command:
            self.commands.by_command[command] = KeyCommand(
                command, self.env, origin=gateway.key_origin, on_token=self.commands.add_secret
            )
        return self.commands.by_command[command]

    def secret_headers(self, gateway: Gateway) -> dict[str, str]:
        """Return the gateway's secret headers with their values; raises `SetupError` as `secret_header_value` does."""
        return {name: secret_header_value(name, header, self.env) for name, header in gateway.secret_headers.items()}

    def proxy(self, gateway: Gateway) -> str | None:
        """Return the proxy for the gateway's base URL; raises `SetupError` as `proxy_for` does."""
        return proxy_for(gateway.base_url, gateway, self.env)

    def missing(self, gateways: Iterable[Gateway]) -> tuple[str, ...]:
        """Return the names of the variables that these gateways need and that are not set or blank."""
        names = dict.fromkeys(name for gateway in gateways for name in variables_of(gateway))
        return tuple(name for name in names if not self.env.get(name, "").strip())

    def require_keys(self, gateways: Iterable[Gateway], *, run_commands: bool = True) -> None:
        """Check that every key and secret header is there, and run the key commands, last.

        Raises:
            SetupError: As `require_variables`; else as `key`, with one problem for each command.
        """
        gateways = tuple(gateways)
        self.require_variables(gateways)
        if run_commands:
            _report_all({str(one.key_command): functools.partial(self.key, one) for one in gateways if one.key_command})

    def require_variables(self, gateways: Iterable[Gateway], *, except_for: Collection[str] = ()) -> None:
        """Check that every variable has a usable value; reports all missing or unusable ones at once.

        Args:
            gateways: The gateways.
            except_for: Names of variables that may be missing.

        Raises:
            SetupError: As `key_for` and `secret_header_value`, with one problem for each variable.
        """
        checks: dict[str, Callable[[], object]] = {}
        for gateway in gateways:
            if gateway.key_command is None:
                checks.setdefault(gateway.key_env or gateway.name, functools.partial(key_for, gateway, self.env))
            for name, header in gateway.secret_headers.items():
                checks.setdefault(header.env, functools.partial(secret_header_value, name, header, self.env))
        _report_all({name: check for name, check in checks.items() if name not in except_for}, self._note())

    def _note(self) -> str:
        """Return what to know about files of keys that were not read; `""` if there is nothing."""
        if self.absent_env_file is not None:
            return f"; the env_file of the config, {self.absent_env_file}, does not exist"
        if self.env_file is None and Path(".env").is_file():
            return '; the file .env here is read only with --env-file .env, or with env_file = ".env" in the config'
        return ""


def _report_all(checks: Mapping[str, Callable[[], object]], note: str = "") -> None:
    """Run all checks and raise the problems of all that fail, their hints with a note."""
    problems: list[Problem] = []
    for check in checks.values():
        try:
            check()
        except SetupError as error:
            problem = error.problems[0]
            more = note if "is not set" in problem.what else ""
            problems.append(dataclasses.replace(problem, hint=f"{problem.hint or ''}{more}" or None))
    if problems:
        raise SetupError.of(problems)


@dataclass(slots=True)
class _KeyCommands:
    """The key commands in use, what they printed, and the redactors that must know it."""

    by_command: dict[tuple[str, ...], KeyCommand] = field(default_factory=dict)
    secrets: list[Secret] = field(default_factory=list)
    redactors: list[Redactor] = field(default_factory=list)

    def add_secret(self, secret: Secret) -> None:
        self.secrets.append(secret)
        watch([secret])
        for redactor in self.redactors:
            redactor.add(secret)


def variables_of(gateway: Gateway) -> tuple[str, ...]:
    """Return the names of the variables that requests to a gateway need."""
    names = (gateway.key_env, *(header.env for header in gateway.secret_headers.values()))
    return tuple(dict.fromkeys(name for name in names if name is not None))


# --- placing a key ---------------------------------------------------------------------------------------------------

AUTH_SCHEMES = ("bearer", "raw", "x-goog-api-key", "x-api-key", "header:NAME", "query:NAME", "none")


@dataclass(frozen=True, slots=True)
class Carrier:
    """The place of a key in a request: a header or a query parameter of this name, with a prefix."""

    kind: Literal["header", "query", "none"]
    name: str = ""
    prefix: str = ""


_CARRIERS: Mapping[str, Carrier] = {
    "bearer": Carrier("header", "Authorization", "Bearer "),
    "raw": Carrier("header", "Authorization"),
    "x-goog-api-key": Carrier("header", "x-goog-api-key"),
    "x-api-key": Carrier("header", "x-api-key"),
    "none": Carrier("none"),
}
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_QUERY_NAME = re.compile(r"[A-Za-z0-9._~-]+")


@functools.cache
def parse_auth_scheme(scheme: str) -> Carrier:
    """Parse an auth scheme; raises ValueError for an unknown one."""
    kind, colon, name = scheme.partition(":")
    if kind == "header" and _HEADER_NAME.fullmatch(name):
        return Carrier("header", name)
    if kind == "query" and _QUERY_NAME.fullmatch(name):
        return Carrier("query", name)
    if colon or scheme not in _CARRIERS:
        raise ValueError("unknown auth scheme")
    return _CARRIERS[scheme]


def apply_auth(url: str, headers: Mapping[str, str], scheme: str, key: str | None) -> tuple[str, dict[str, str]]:
    """Return the URL and headers with the key added.

    Args:
        url: Complete and already encoded; a query parameter is appended to its query.
        headers: A header with the carrier's name is replaced; the name is compared without case.
        scheme: One of `AUTH_SCHEMES`.
        key: None only with `none`.

    Raises:
        ValueError: An unknown scheme, or no key where the scheme needs one.
    """
    place = parse_auth_scheme(scheme)
    if place.kind == "none":
        return url, dict(headers)
    if key is None:
        raise ValueError(f"auth {scheme!r} needs a key")
    if place.kind == "query":
        base, hash_, fragment = url.partition("#")
        joint = "&" if "?" in base else "?"
        return f"{base}{joint}{place.name}={quote(key, safe='')}{hash_}{fragment}", dict(headers)
    lowered = place.name.lower()
    kept = {name: value for name, value in headers.items() if name.lower() != lowered}
    return url, {**kept, place.name: place.prefix + key}


# --- fetching keys ---------------------------------------------------------------------------------------------------


def key_for(gateway: Gateway, env: Mapping[str, str]) -> str | None:
    """Return the gateway's key, without blanks around it; None if the gateway needs no key.

    Blanks and line ends around a value (`$(cat key.txt)`, mounted secrets) are never part of a key and are removed.

    Raises:
        SetupError: The variable is missing or empty, or its value cannot be a key. The value is never in the message.
    """
    if gateway.auth == "none":
        return None
    origin = f"required by {gateway.key_origin or f'gateway {gateway.name}'}"
    if gateway.key_env is None:
        raise SetupError(
            f"the gateway {gateway.name!r} has auth = {gateway.auth!r} but no key_env",
            hint='name the variable that holds the key: key_env = "NAME"; if no key is needed: auth = "none"',
        )
    value = env.get(gateway.key_env)
    if value is None or not value.strip():
        state = "is not set" if value is None else "is set but empty"
        raise SetupError(
            f"no key for the gateway {gateway.name!r}: the environment variable {gateway.key_env} {state}",
            found=origin,
            hint=_how_to_set(gateway.key_env, env),
        )
    problem = key_problem(value.strip())
    if problem is not None:
        what, hint = problem
        raise SetupError(f"the value of {gateway.key_env} {what}", found=origin, hint=hint)
    return value.strip()


_SCHEME_AND_VALUE = re.compile(r"(?i)(?P<scheme>bearer|basic|token|api-?key|key)\s+(?P<value>\S.*)")


def secret_header_value(name: str, header: SecretHeader, env: Mapping[str, str]) -> str:
    """Return the value of a secret header, with its prefix and without blanks around the variable's value.

    Raises:
        SetupError: The variable is missing or empty, or its value cannot be sent. The value is never in the message.
    """
    origin = f"required by the secret header {name}" + (f" in {header.origin}" if header.origin else "")
    value = env.get(header.env, "").strip()
    if not value:
        state = "is set but empty" if header.env in env else "is not set"
        raise SetupError(
            f"no value for the header {name}: the environment variable {header.env} {state}",
            found=origin,
            hint=f"export {header.env}=..., or write {header.env}=... into a file and add --env-file FILE",
        )
    what, hint = None, "copy the value again from the gateway's site"
    if any(not " " <= char <= "~" for char in value):
        what, hint = "has characters that cannot be in a header", "it must be one line of plain ASCII"
    elif value[0] in "\"'" or value[-1] in "\"'":
        what, hint = "is in quotation marks", "remove the quotation marks (docker --env-file keeps them)"
    elif header.prefix and _SCHEME_AND_VALUE.fullmatch(value):
        what, hint = "starts with a scheme word", f"set the bare value: prefix = {header.prefix!r} adds the word"
    if what is not None:
        raise SetupError(f"the value of {header.env} {what}", found=origin, hint=hint)
    return header.prefix + value


def _how_to_set(name: str, env: Mapping[str, str]) -> str:
    hint = f"export {name}=..., or write {name}=... into a file and add --env-file FILE"
    others = [other for other in env if other != name and re.search("KEY|TOKEN", other, re.IGNORECASE)]
    similar = next(iter(difflib.get_close_matches(name, others, n=1, cutoff=0.6)), None)  # GOOGLE_… and GEMINI_…
    if similar is not None:
        hint += f'; {similar} is set: if that is the key, write key_env = "{similar}" in the gateway\'s table'
    return hint


def key_problem(value: str) -> tuple[str, str] | None:
    """Return why a value cannot be a key and a hint, without the value itself; None if it can."""
    if re.match(r"(?i)bearer\s", value):
        return "starts with the word Bearer", 'set the bare key; auth = "bearer" adds the word'
    if re.search(r"\s", value):
        return "contains blanks or line ends", "a key has none: were two keys pasted, or a whole file?"
    if value[0] in "\"'" or value[-1] in "\"'":
        return "is in quotation marks", "remove the quotation marks (docker --env-file keeps them)"
    bad = next((char for char in value if not "!" <= char <= "~"), None)
    if bad is not None:
        return (
            f"has a character that cannot be in a header (U+{ord(bad):04X}, position {value.index(bad) + 1})",
            "keys are plain ASCII: copy it again from the gateway's site",
        )
    return None


_ENV_LINE = re.compile(r"(?:export\s+)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)\s*=\s*(?P<value>.*)")
_ENV_DOUBLE = re.compile(r'"(?P<text>(?:[^"\\]|\\.)*)"\s*(?:#.*)?')
_ENV_SINGLE = re.compile(r"'(?P<text>[^']*)'\s*(?:#.*)?")
_ENV_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


def read_env_file(path: Path) -> dict[str, str]:
    r"""Read `KEY=VALUE` lines with comments, `export`, single quotes (verbatim) and double quotes (\n, \", \\).

    Variables are not expanded, and no value is ever part of a message.

    Raises:
        InputError: The file cannot be read, or lines are not assignments; all such lines are reported at once.
    """
    values: dict[str, str] = {}
    problems: list[Problem] = []
    for number, raw in enumerate(_env_text(path).splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        place = Place(path=str(path), line=number)
        match = _ENV_LINE.fullmatch(line)
        value = None if match is None else _env_value(match["value"])
        if match is None:
            problems.append(Problem(what="this line is not KEY=VALUE", place=place, hint="write NAME=value"))
        elif value is None:
            what = f"the value of {match['name']} has a quotation mark that is not closed, or text after it"
            problems.append(Problem(what=what, place=place, hint="close it on the same line, or remove the quotes"))
        elif match["name"] in values:
            problems.append(Problem(what=f"{match['name']} is set twice", place=place, hint="remove one of the lines"))
        else:
            values[match["name"]] = value
    if problems:
        raise InputError.of(problems)
    return values


def with_env_file(env: Mapping[str, str], path: Path | None) -> dict[str, str]:
    """Merge an env file into the environment; a variable that is set and not blank takes precedence."""
    from_file = {} if path is None else read_env_file(path)
    return {**from_file, **{name: value for name, value in env.items() if value.strip() or name not in from_file}}


def _env_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(
            f"the env file cannot be read: {error.strerror}",
            place=Place(path=str(path)),
            hint="--env-file takes a file of KEY=VALUE lines",
        ) from None
    except UnicodeDecodeError as error:
        from convbatch.dataset.file_kinds import encoding_hint

        line = error.object[: error.start].count(b"\n") + 1
        hint = encoding_hint(error.object, error.start, path)
        raise InputError("the env file is not UTF-8 text", place=Place(path=str(path), line=line), hint=hint) from None


def _env_value(text: str) -> str | None:
    """Parse the value of one line; None if its quotes are not closed."""
    if text.startswith('"'):
        match = _ENV_DOUBLE.fullmatch(text)
        return match and re.sub(r"\\(.)", lambda m: _ENV_ESCAPES.get(m[1], m[1]), match["text"])
    if text.startswith("'"):
        match = _ENV_SINGLE.fullmatch(text)
        return match and match["text"]
    return re.sub(r"(^|\s)#.*", "", text).strip()


# --- proxies ---------------------------------------------------------------------------------------------------------


_PORTS = {"http": 80, "https": 443}


def is_loopback(host: str) -> bool:
    """Return whether this host name or address is the machine itself."""
    import ipaddress

    host = host.lower().rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def proxy_for(url: str, gateway: Gateway, env: Mapping[str, str]) -> str | None:
    """Return the proxy for a URL, with its user and password, or None for a direct connection.

    The gateway's own `proxy` comes first (`"none"` = direct), then HTTPS_PROXY / HTTP_PROXY in lower or upper case,
    unless NO_PROXY names the host. Loopback uses a proxy only if the gateway sets one. `~/.netrc` is never read.

    Raises:
        SetupError: The variable's value is not an http:// or https:// proxy.
    """
    if gateway.proxy is not None:
        return None if gateway.proxy == "none" else gateway.proxy
    parts = urlsplit(url)
    host = parts.hostname or ""
    if not host or is_loopback(host):
        return None
    variable = _proxy_variable(parts.scheme, env)
    if (
        variable is None
        or not env[variable].strip()
        or _bypasses_proxy(host, parts.port or _PORTS.get(parts.scheme), env)
    ):
        return None
    proxy = env[variable].strip()
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    if not _is_proxy(proxy):
        raise SetupError(
            f"the environment variable {variable} is not an http:// or https:// proxy",
            hint=f"write {variable}=http://HOST:PORT (socks is not supported), or unset it",
        )
    return proxy


def _is_proxy(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # unclosed brackets, an invalid port, or a password with an unescaped `/`
        return False


def _proxy_variable(scheme: str, env: Mapping[str, str]) -> str | None:
    lower = f"{scheme}_proxy"
    if lower in env:
        return lower
    if scheme == "http" and "REQUEST_METHOD" in env:
        return None  # under CGI a client sets HTTP_PROXY with a `Proxy:` header (CVE-2016-1000110)
    return lower.upper() if lower.upper() in env else None


def _bypasses_proxy(host: str, port: int | None, env: Mapping[str, str]) -> bool:
    """Return whether NO_PROXY names the host: `*`, a domain with or without its dot, `host:port`, address, network."""
    for entry in env.get("no_proxy", env.get("NO_PROXY", "")).lower().split(","):
        name = entry.strip().removeprefix("*").removeprefix(".")
        if entry.strip() == "*" or (name and _matches_entry(name, host, port)):
            return True
    return False


def _matches_entry(name: str, host: str, port: int | None) -> bool:
    import ipaddress

    if "/" in name:
        try:
            return ipaddress.ip_address(host) in ipaddress.ip_network(name, strict=False)
        except ValueError:
            return False
    return any(full == name or full.endswith(f".{name}") for full in (host, f"{host}:{port}", f"[{host}]"))


def secrets_of(gateways: Iterable[Gateway], env: Mapping[str, str]) -> tuple[Secret, ...]:
    """Return the keys and proxy credentials that requests to these gateways carry."""
    found: dict[Secret, None] = {}
    for gateway in gateways:
        value = env.get(gateway.key_env or "", "").strip()
        if gateway.auth != "none" and gateway.key_env is not None and value:
            found[Secret(gateway.key_env, value)] = None
        for header in gateway.secret_headers.values():
            found.update(dict.fromkeys(_header_secrets(header, env.get(header.env, "").strip())))
    for name in ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY"):
        for secret in _proxy_secrets(name.upper(), env.get(name, "").strip()):
            found[secret] = None
    return tuple(found)


def _header_secrets(header: SecretHeader, value: str) -> Iterator[Secret]:
    """Yield the value of a secret header, without its scheme word too, and the user and password of a Basic one."""
    if not value:
        return
    yield Secret(header.env, value)
    scheme = _SCHEME_AND_VALUE.fullmatch(f"{header.prefix}{value}")
    if scheme is None:
        return
    yield Secret(header.env, scheme["value"])
    if scheme["scheme"].lower() == "basic":
        with contextlib.suppress(ValueError):
            plain = base64.b64decode(scheme["value"], validate=True).decode()
            for part in dict.fromkeys((plain, plain.partition(":")[2])):
                if len(part) >= SHORTEST_IN_BODY:
                    yield Secret(header.env, part)


def _proxy_secrets(name: str, proxy: str) -> tuple[Secret, ...]:
    userinfo, at, _ = proxy.partition("://")[2].partition("/")[0].rpartition("@")
    if not at:
        userinfo, at, _ = proxy.partition("/")[0].rpartition("@")
    if not at:
        return ()
    password = unquote(userinfo.partition(":")[2])
    values = dict.fromkeys((unquote(userinfo), userinfo, password))
    return tuple(Secret(name, value) for value in values if value.strip(":"))
