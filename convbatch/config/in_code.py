"""Gateways, targets and a configuration that a program builds: `Gateway`, `Target`, and `ConfigInCode`.

Each becomes a table of the config file and is checked by the same rules (`loader.py`), so nothing that a file refuses
can be built here. Keys are never values: a gateway names the environment variable, as in a file.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from convbatch.dialogue import Settings, Variant
from convbatch.errors import Place, SetupError

if TYPE_CHECKING:
    from convbatch.config.gateways import Config

_NOT_KEYS = ("name", "prices")
"""Fields that are no keys of a gateway's table."""


@dataclass(frozen=True, slots=True, repr=False)
class Gateway:
    """An endpoint that serves models, with the keys of a table `[gateways.NAME]` as arguments.

    What is not given has the default of the protocol. With the name of a preset, what is given replaces the preset's:
    `Gateway(name="google", rpm=10)`. Relative paths start at the working directory.

    >>> here = Gateway("http://127.0.0.1:8080/v1", protocol="openai", auth="none", rpm=600)
    >>> here
    Gateway('http://127.0.0.1:8080/v1', protocol='openai', name='127.0.0.1-8080', auth='none', rpm=600)
    >>> Target("qwen3", here).name
    'qwen3@127.0.0.1-8080'

    Raises:
        InputError: Values that a config file may not have either, such as a key; contains all problems.
        SetupError: Neither a name nor an address.

    Source: docs/gateways.md describes every key.
    """

    base_url: str | None = None
    _: KW_ONLY
    protocol: str | None = None
    """gemini | openai | responses | anthropic."""
    name: str = ""
    """What follows the `@` of its targets; default: host and port of the address."""
    api_version: str | None = None
    auth: str | None = None
    """bearer | raw | x-goog-api-key | x-api-key | header:NAME | query:NAME | none."""
    key_env: str | None = None
    """Name of the environment variable that has the key."""
    key_command: Sequence[str] | None = None
    """Program and arguments of a command that prints a short-lived key."""
    headers: Mapping[str, str] | None = None
    secret_headers: Mapping[str, Any] | None = None
    query: Mapping[str, str] | None = None
    proxy: str | None = None
    ca_file: str | Path | None = None
    allow_http: bool | None = None
    max_output_tokens_field: str | None = None
    system_role: str | None = None
    path: str | None = None
    seed_field: str | None = None
    anthropic_version: str | None = None
    replay: str | None = None
    thinking_tags: str | None = None
    unset: Sequence[str] | None = None
    aliases: Mapping[str, Sequence[str]] | None = None
    attempt_timeout: float | None = None
    """Seconds from sending to the last byte."""
    stream: bool | None = None
    batches: bool | None = None
    rpm: int | None = None
    """Requests a minute."""
    tpm: int | None = None
    """Tokens a minute."""
    tpm_counts: str | None = None
    rpd: int | None = None
    """Requests a day."""
    rpd_resets: str | None = None
    rate: Sequence[str] | None = None
    """Other windows, such as `["10/10s"]`."""
    concurrency: int | None = None
    jitter: float | None = None
    """Seconds."""
    currency: str | None = None
    list_prices: bool | None = None
    price_multiplier: float | Decimal | None = None
    models: Mapping[str, Mapping[str, Any]] | None = field(default=None)
    """Tables by glob, as `[gateways.NAME.models."GLOB"]`: limits, `settings`, protocol."""
    prices: Mapping[str, Any] | None = None
    """Tables by glob, as `[prices.NAME."GLOB"]`: amounts per million tokens."""

    def __post_init__(self) -> None:
        if not self.name:
            if self.base_url is None:
                raise SetupError("a Gateway needs an address", hint='Gateway("https://HOST/v1", protocol="openai")')
            object.__setattr__(self, "name", _name_of(self.base_url))
        _read_gateways([self])

    def __repr__(self) -> str:
        given = [f"{name}={value!r}" for name, value in self._given() if name != "base_url"]
        first = [] if self.base_url is None else [repr(self.base_url)]
        return f"Gateway({', '.join([*first, *given])})"

    def _given(self) -> Iterable[tuple[str, Any]]:
        values = ((one.name, getattr(self, one.name)) for one in dataclasses.fields(self))
        return ((name, value) for name, value in values if value is not None)

    def table(self) -> dict[str, Any]:
        """Return the table `[gateways.NAME]` of a config file that says the same; without prices."""
        return {name: _as_toml(value) for name, value in self._given() if name not in _NOT_KEYS}


@dataclass(frozen=True, slots=True)
class Target:
    """A model at a gateway, in a wording of the dialogues if one is given.

    >>> Target("gemini-3.5-flash-lite", "google").name
    'gemini-3.5-flash-lite@google'
    >>> Target("sim-good", "simulator", Variant(name="terse", system="Be brief.")).name
    'sim-good@simulator#terse'
    """

    model: str
    gateway: Gateway | str
    """One built in code, or the name of a preset, or of a gateway or pool in the config."""
    variant: Variant | str | None = None
    """One built in code, or the name of one in the config; None = every variant of the run."""

    @property
    def name(self) -> str:
        """`model@gateway`, or `model@gateway#variant`: its name in every table."""
        place = self.gateway if isinstance(self.gateway, str) else self.gateway.name
        wording = self.variant.name if isinstance(self.variant, Variant) else self.variant
        return f"{self.model}@{place}" + ("" if wording is None else f"#{wording}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigInCode:
    """What a program gives in place of a config file, or in addition to one."""

    document: Mapping[str, Any] | None = None
    """The keys of a config file; None = a file is read, or `convbatch.toml`."""
    gateways: tuple[Gateway, ...] = ()
    variants: tuple[Variant, ...] = ()

    def load(self, path: Path | None) -> Config:
        """Return the configuration of a run.

        A gateway built in code takes the place of one in the config with its name, prices included.

        Args:
            path: The file of `config=`, if it is one.

        Raises:
            InputError: The configuration is invalid.
            SetupError: Two gateways or two variants have one name.
        """
        from convbatch.config.loader import load_config, read_mapping

        if self.document is None:
            config = load_config(path)
        else:
            config = read_mapping(_as_toml(self.document), lambda keys: Place(path="config=", field=".".join(keys)))
        for kind, several in (("Gateway", self.gateways), ("Variant", self.variants)):
            _refuse_namesakes(kind, several)
        own = _read_gateways(self.gateways)
        added = _read_variants(self.variants)
        names = {gateway.name for gateway in self.gateways}
        return dataclasses.replace(
            config,
            gateways={**config.gateways, **{name: own.gateways[name] for name in names}},
            prices=(*(row for row in config.prices if row.gateway not in names), *own.prices),
            variants={**config.variants, **added.variants},
        )


def _read_gateways(gateways: Sequence[Gateway]) -> Config:
    from convbatch.config.loader import read_mapping

    prices = {one.name: _as_toml(one.prices) for one in gateways if one.prices is not None}
    document = {"gateways": {one.name: one.table() for one in gateways}, "prices": prices}
    return read_mapping(document, _place_of)


def _read_variants(variants: Sequence[Variant]) -> Config:
    from convbatch.config.loader import read_mapping

    tables = {one.name: {key: value for key, value in one.to_plain().items() if key != "name"} for one in variants}
    return read_mapping({"variants": _as_toml(tables)}, _place_of)


def _place_of(keys: Sequence[str]) -> Place:
    """Return the place of a key in messages: `Gateway("here"): rpm`."""
    table, *names = keys
    kind = "Variant" if table == "variants" else "Gateway"
    label = f'{kind}("{names[0]}")' if names else kind
    inner = [*(["prices"] if table == "prices" else []), *names[1:]]
    return Place(path=label, field=".".join(inner) or None)


def _name_of(base_url: str) -> str:
    """Return the name of a gateway at this address: its host and port, or its scheme."""
    parts = urlsplit(base_url)
    place = parts.netloc.rpartition("@")[2] or parts.scheme or base_url
    return re.sub(r"[^A-Za-z0-9._-]+", "-", place).strip("-._") or "gateway"


def _refuse_namesakes(kind: str, several: Sequence[Gateway | Variant]) -> None:
    known: dict[str, Gateway | Variant] = {}
    for one in several:
        if known.setdefault(one.name, one) != one:
            raise SetupError(
                f"two different {kind}s have the name {one.name!r}",
                hint=f'give one of them another: {kind}(..., name="{one.name}-2")',
            )


def _as_toml(value: Any) -> Any:
    """Return a value with the types that a TOML file has."""
    if isinstance(value, Settings):
        return value.to_plain()
    if isinstance(value, Mapping):
        return {str(key): _as_toml(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_as_toml(item) for item in cast("Sequence[Any]", value)]
    if isinstance(value, Path):
        return str(value)
    return float(value) if isinstance(value, Decimal) else value
