"""Values of the configuration: `Config`, `Gateway`, `Target`, `Limits`, and how tables combine to a gateway.

Reading and validating TOML is `loader.py`. Keys appear here only as names of environment variables (`credentials.py`
reads them); limits are enforced by `engine/limiter.py`.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from convbatch.config.pools import SIMULATOR_URL as SIMULATOR_URL
from convbatch.config.pools import PoolTable, add_limits, pool_gateway
from convbatch.config.usage_log_form import UsageLogForm
from convbatch.dialogue import NO_SETTINGS, Dialogue, HistoryMode, Settings, Variant
from convbatch.errors import Place, SetupError
from convbatch.journal.manifest import ManifestGateway, ManifestTarget
from convbatch.pricing import NO_EXCHANGE_RATES, ExchangeRates, PriceTable
from convbatch.protocols import PROTOCOLS
from convbatch.protocols.model_settings import default_max_tokens
from convbatch.protocols.thinking_tags import parse_thinking_tags
from convbatch.protocols.wire import Endpoint, Replay, SystemRole

TpmCounts = Literal["input", "input+max_output", "uncached_input"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """At most `count` requests in any window of `window_s` seconds."""

    count: int
    window_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of a quota owner; None = no known limit."""

    rpm: int | None = None
    tpm: int | None = None
    tpm_counts: TpmCounts = "input"
    rpd: int | None = None
    rpd_resets: str = "00:00 UTC"
    """Local time and IANA zone at which the daily count resets."""
    rates: tuple[RateLimit, ...] = ()
    """Additional request windows; all limits apply."""
    concurrency: int | None = None
    """Maximum of requests in flight at the gateway, in addition to `-j`."""
    jitter_s: float = 1.0
    """Variation of the one-way delay for which no window overflows at the server (J of the derated rate)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretHeader:
    """A header whose value is a secret in an environment variable, sent in addition to the key."""

    env: str
    """The variable's name."""
    prefix: str = ""
    """Sent before the value, for example `Bearer `."""
    origin: str | None = None
    """Where it is set, for messages: `file:line`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """An endpoint that serves models: one base URL, one protocol, one kind of auth."""

    name: str
    protocol: str
    base_url: str
    api_version: str | None = None
    auth: str = "bearer"
    """bearer | raw | x-goog-api-key | x-api-key | header:NAME | query:NAME | none."""
    key_env: str | None = None
    key_command: tuple[str, ...] | None = None
    """Program and arguments of a command that prints a short-lived key; in place of `key_env`."""
    headers: Mapping[str, str] = field(default_factory=dict)
    secret_headers: Mapping[str, SecretHeader] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    proxy: str | None = None
    """Overrides HTTPS_PROXY / HTTP_PROXY."""
    ca_file: str | None = None
    allow_http: bool = False
    max_output_tokens_field: str | None = None
    path: str | None = None
    """Path of a generation below `base_url`; None = the protocol's own."""
    seed_field: str | None = None
    """Field of the body that carries the seed."""
    anthropic_version: str | None = None
    """Version of Anthropic's API; None = the protocol's own."""
    system_role: SystemRole | None = None
    """Role of the system text; None = the protocol's own."""
    replay: Replay | None = None
    """What of a model's turn goes back into the history; None = `exact`, with the ways out that the docs name."""
    thinking_tags: str | None = None
    """Tags around thoughts in the text of a reply."""
    currency: str | None = None
    """The currency of its bills."""
    list_prices: bool = False
    """Whether it bills the provider's list price."""
    price_multiplier: Decimal | None = None
    """Amount of `currency` per USD of list price."""
    stream: bool = False
    """Whether replies are asked for as streams; not part of a turn's identity: the reply is the same."""
    batches: bool = False
    """Whether it has the batch API of its protocol; only asked when a run begins, so `run.json` is without it."""
    attempt_timeout_s: float = 600.0
    limits: Limits = Limits()
    settings: Settings = NO_SETTINGS
    """Model settings of the gateway, merged over `[run.settings]`; all other settings override them."""
    unset: tuple[str, ...] = ()
    """Names of settings that are never sent, whatever sets them."""
    key_origin: str | None = None
    """Where `key_env` or `key_command` is set, for messages: a preset, or `file:line`."""
    aliases: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Asked model → names under which the gateway may serve it (`served_model.py`)."""

    @property
    def key_name(self) -> str:
        """What identifies the account: the key's variable or command; else the variables of the secret headers."""
        headers = sorted({header.env for header in self.secret_headers.values()})
        return self.key_env or " ".join(self.key_command or headers)

    @property
    def endpoint(self) -> Endpoint:
        """The part that a protocol needs."""
        # The simulator's addresses end as those of any gateway do.
        is_bare = self.base_url == SIMULATOR_URL and self.protocol in ("openai", "responses")
        return Endpoint(
            base_url=f"{self.base_url}/v1" if is_bare else self.base_url,
            api_version=self.api_version,
            max_output_tokens_field=self.max_output_tokens_field,
            path=self.path,
            seed_field=self.seed_field,
            anthropic_version=self.anthropic_version,
            system_role=self.system_role,
            replay=self.replay,
            thinking_tags=self.thinking_tags,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A model at a gateway, or at a pool of them; `gateway` includes the overrides of its model table."""

    model: str
    gateway: Gateway
    """Of a pool, what its members have in common, without secrets (`pools.pool_gateway`)."""
    members: tuple[Gateway, ...] = ()
    """The gateways of a pool; empty without a pool."""
    variant: Variant | None = None
    """The wording of the dialogues; None = as they are."""

    @property
    def name(self) -> str:
        """`model@gateway`, or `model@gateway#variant`."""
        place = f"{self.model}@{self.gateway.name}"
        return place if self.variant is None else f"{place}#{self.variant.name}"

    def asked(self, dialogue: Dialogue) -> Dialogue:
        """Return a dialogue as this target is asked, in its variant."""
        return dialogue if self.variant is None else self.variant.applied_to(dialogue)

    @property
    def asked_targets(self) -> tuple[Target, ...]:
        """The targets that get the requests: one for each member of a pool, else only this one."""
        if not self.members:
            return (self,)
        return tuple(dataclasses.replace(self, gateway=member, members=()) for member in self.members)

    @property
    def quota_owner(self) -> tuple[str, str, str]:
        """The owner of the limits that a request counts against: host, key variable, model; a pool has its members'."""
        if self.members:
            return ("", self.gateway.name, self.model)
        return (urlsplit(self.gateway.base_url).netloc, self.gateway.key_name, self.model)

    @property
    def simulated(self) -> bool:
        """Whether this is the built-in simulator."""
        return self.gateway.base_url.startswith("simulator:")


def asked_gateways(targets: Iterable[Target]) -> list[Gateway]:
    """Return the gateways that get the requests of these targets, each member of a pool for itself."""
    return [one.gateway for target in targets for one in target.asked_targets]


DEFAULT_IN_FLIGHT = 16
DEFAULT_ATTEMPT_TIMEOUT_S = 600.0

_GATEWAY_FIELDS = frozenset(f.name for f in dataclasses.fields(Gateway))
_LIMIT_FIELDS = frozenset(f.name for f in dataclasses.fields(Limits))


def matches(glob: str, model: str) -> bool:
    """Whether a glob matches a model name; case-sensitive."""
    return re.match(fnmatch.translate(glob), model) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTable:
    """Overrides of a gateway for the models that a glob matches."""

    glob: str
    values: Mapping[str, Any]
    """Validated values by the field names of `Gateway` and `Limits`."""
    settings: Settings = NO_SETTINGS

    def matches(self, model: str) -> bool:
        """Whether the glob matches this model name."""
        return matches(self.glob, model)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayTable:
    """The table of a gateway: a preset, a table of the config, or one merged over the other."""

    name: str
    values: Mapping[str, Any]
    """Validated values by the field names of `Gateway` and `Limits`."""
    models: tuple[ModelTable, ...] = ()
    key_origin: str | None = None

    def for_model(self, model: str | None, *, run: RunTable | None = None) -> Gateway:
        """Build the gateway for a model; None = without model tables (for the list of models).

        Every matching model table applies, key by key; if two set the same key, the longer glob applies, and the later
        one of equally long globs.
        """
        values = dict(self.values)
        settings = NO_SETTINGS if run is None else run.settings
        matching = [] if model is None else [table for table in self.models if table.matches(model)]
        for table in sorted(matching, key=lambda table: len(table.glob)):
            aliases = {**values.get("aliases", {}), **table.values.get("aliases", {})}
            values = merge_tables(values, table.values)
            values.update({"aliases": aliases} if aliases else {})
            settings = settings.under(table.settings)
        if run is not None and run.attempt_timeout_s is not None:
            values.setdefault("attempt_timeout_s", run.attempt_timeout_s)
        if model is not None:
            settings = _required_settings(values["protocol"], model).under(settings)
        return build_gateway(self.name, values, settings=settings, key_origin=self.key_origin)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTable:
    """`[run]`: defaults of the options of `run`; None = not set."""

    models: tuple[str, ...] = ()
    model_places: tuple[Place, ...] = ()
    """The place of each entry of `models`."""
    variants: tuple[str, ...] = ()
    variant_places: tuple[Place, ...] = ()
    """The place of each entry of `variants`."""
    repeats: int | None = None
    history: HistoryMode | None = None
    concurrency: int | None = None
    max_attempts: int | None = None
    attempt_timeout_s: float | None = None
    max_cost: str | None = None
    max_tokens_total: int | None = None
    max_requests: int | None = None
    settings: Settings = NO_SETTINGS


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeTable:
    """`[judge]`: how a judge is asked; None = not set."""

    max_output_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceRow:
    """A table `[prices.GATEWAY."GLOB"]`."""

    gateway: str
    glob: str
    table: PriceTable
    batch: PriceTable
    """Prices of the same tokens in a batch job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Presets with a config file merged over them."""

    gateways: Mapping[str, GatewayTable]
    pools: Mapping[str, PoolTable] = field(default_factory=dict)
    variants: Mapping[str, Variant] = field(default_factory=dict)
    run: RunTable = RunTable()
    judge: JudgeTable = JudgeTable()
    prices: tuple[PriceRow, ...] = ()
    exchange_rates: ExchangeRates = NO_EXCHANGE_RATES
    """`[rates]`."""
    usage_logs: Mapping[str, UsageLogForm] = field(default_factory=dict)
    """`[bills]`: formats of usage logs, with the presets."""
    env_file: Path | None = None
    """A file of `KEY=VALUE` lines; a relative path starts at the folder of the config file."""
    path: str | None = None
    """The path as given by the user; None = presets only."""

    @property
    def places(self) -> Collection[str]:
        """Names that may follow the `@` of a target: gateways and pools."""
        return {**self.gateways, **self.pools}

    def target(self, model: str, place: str, overrides: Overrides | None = None) -> Target:
        """Return the target of a model at a gateway or pool.

        Args:
            model: The model's name.
            place: One of `places`.
            overrides: Options; they apply to each member of a pool.

        Raises:
            SetupError: The members of the pool do not send or bill this model alike.
        """
        overrides = overrides or NO_OVERRIDES
        pool = self.pools.get(place)
        names = (place,) if pool is None else pool.gateways
        gateways = tuple(self.gateways[name].for_model(model, run=self.run) for name in names)
        if pool is None:
            return overrides.of_target(Target(model=model, gateway=gateways[0]))
        pooled = Target(model=model, gateway=pool_gateway(pool, model, gateways), members=gateways)
        return overrides.of_target(pooled)

    def prices_of(self, target: Target) -> PriceTable | None:
        """Return the `[prices]` of a target: of the longest matching glob, the later one of equally long globs."""
        row = self._price_row(target)
        return None if row is None else row.table

    def batch_prices_of(self, target: Target) -> PriceTable | None:
        """Return the `[prices]` of a target in batch jobs."""
        row = self._price_row(target)
        return None if row is None else row.batch

    def _price_row(self, target: Target) -> PriceRow | None:
        rows = [row for row in self.prices if row.gateway == target.gateway.name and matches(row.glob, target.model)]
        return None if not rows else max(reversed(rows), key=lambda row: len(row.glob))

    def served_prices_of(self, target: Target, asked: PriceTable | None) -> dict[str, PriceTable | None]:
        """Return the `[prices]` of this gateway that name a model exactly, for replies served by it instead.

        Only those in the currency of the asked model's prices: a target has one currency.
        """
        return {
            row.glob: row.table
            for row in self.prices
            if row.gateway == target.gateway.name
            and row.glob != target.model
            and not set(row.glob) & set("*?[")
            and (asked is None or asked.currency == row.table.currency)
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """Options that override the limits in presets and config; None = not set.

    `-j` is not one of them: it is the wanted number of requests in flight, a gateway's `concurrency` is the maximum
    (`max_in_flight`).
    """

    rpm: int | None = None
    tpm: int | None = None
    rpd: int | None = None
    attempt_timeout_s: float | None = None
    stream: bool = False
    """True asks for streams wherever the config does not; False leaves that to the config."""
    unset: tuple[str, ...] = ()
    """Settings that are not sent, in addition to those of the config."""

    def of_target(self, target: Target) -> Target:
        """Return the target with these options applied; limits apply to each member of a pool."""
        gateway, members = self.apply_to(target.gateway), tuple(map(self.apply_to, target.members))
        if members:
            gateway = dataclasses.replace(gateway, limits=add_limits([member.limits for member in members]))
        return dataclasses.replace(target, gateway=gateway, members=members)

    def apply_to(self, gateway: Gateway) -> Gateway:
        """Return the gateway with these options applied."""
        limits = {name: value for name in ("rpm", "tpm", "rpd") if (value := getattr(self, name)) is not None}
        changes: dict[str, Any] = {"limits": dataclasses.replace(gateway.limits, **limits)} if limits else {}
        if self.attempt_timeout_s is not None:
            changes["attempt_timeout_s"] = self.attempt_timeout_s
        if self.stream:
            changes["stream"] = True
        if self.unset:
            changes["unset"] = tuple(dict.fromkeys((*gateway.unset, *self.unset)))
        return dataclasses.replace(gateway, **changes) if changes else gateway


NO_OVERRIDES = Overrides()


_BOUND_TO_PROTOCOL = ("path", "seed_field")


def merge_tables(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a table over those of the table below it.

    A path and a field of the body do not outlive a change of the protocol, a path not one of the base URL either.
    """
    kept = dict(below)
    if above.get("protocol", below.get("protocol")) != below.get("protocol"):
        for key in _BOUND_TO_PROTOCOL:
            kept.pop(key, None)
    if above.get("base_url", below.get("base_url")) != below.get("base_url"):
        kept.pop("path", None)
    return {**kept, **above}


def _required_settings(protocol: str, model: str) -> Settings:
    """Return the settings without which a protocol has no request; all others override them."""
    if not PROTOCOLS[protocol].config.requires_max_tokens:
        return NO_SETTINGS
    return Settings(max_output_tokens=default_max_tokens(protocol, model))


def foreign_keys(protocol: str) -> Mapping[str, list[str]]:
    """Return the configuration keys that have no meaning in a protocol, with the protocols that have them."""
    owners: dict[str, list[str]] = {}
    for name, wire in PROTOCOLS.items():
        for key in wire.config.keys:
            owners.setdefault(key, []).append(name)
    return {key: names for key, names in owners.items() if protocol not in names}


def build_gateway(
    name: str, values: Mapping[str, Any], *, settings: Settings = NO_SETTINGS, key_origin: str | None = None
) -> Gateway:
    """Build a gateway from validated values by field name and the defaults of its protocol."""
    protocol: str = values["protocol"]
    rules = PROTOCOLS[protocol].config
    defaults: dict[str, Any] = {"auth": rules.auth, "tpm_counts": rules.tpm_counts, "api_version": rules.api_version}
    if str(values["base_url"]).startswith(SIMULATOR_URL):
        defaults["auth"] = "none"
    merged = {**defaults, **values}
    for key in foreign_keys(protocol):
        merged.pop(key, None)  # inherited from a table with another protocol
    if merged.get("system_role") not in rules.system_roles:
        merged.pop("system_role", None)
    if merged.get("replay") not in rules.replays:
        merged.pop("replay", None)
    if merged.get("auth") == "none":
        merged.pop("key_env", None)
        merged.pop("key_command", None)
    limits = Limits(**{key: value for key, value in merged.items() if key in _LIMIT_FIELDS})
    own = {key: value for key, value in merged.items() if key in _GATEWAY_FIELDS}
    origin = key_origin if own.get("key_env") or own.get("key_command") else None
    return Gateway(name=name, limits=limits, settings=settings, key_origin=origin, **own)


def merge_limits(several: Iterable[Limits]) -> Limits:
    """Combine the limits of targets with the same quota owner (host, key and model under two gateway names)."""
    merged, *others = several
    for other in others:
        merged = Limits(
            rpm=_least(merged.rpm, other.rpm),
            tpm=_least(merged.tpm, other.tpm),
            tpm_counts=_stricter(merged.tpm_counts, other.tpm_counts),
            rpd=_least(merged.rpd, other.rpd),
            rpd_resets=merged.rpd_resets if merged.rpd is not None else other.rpd_resets,
            rates=(*merged.rates, *(rate for rate in other.rates if rate not in merged.rates)),
            concurrency=_least(merged.concurrency, other.concurrency),
            jitter_s=max(merged.jitter_s, other.jitter_s),
        )
    return merged


_STRICTER: tuple[TpmCounts, ...] = ("uncached_input", "input", "input+max_output")


def _stricter(one: TpmCounts, other: TpmCounts) -> TpmCounts:
    return one if _STRICTER.index(one) > _STRICTER.index(other) else other


def _least(one: int | None, other: int | None) -> int | None:
    known = [value for value in (one, other) if value is not None]
    return min(known) if known else None


def max_in_flight(limits: Limits, requested: int | None) -> int:
    """Return how many requests of one target may be in flight.

    Args:
        limits: The gateway's `concurrency` is the maximum, and the default.
        requested: `-j`, else `[run] concurrency`, else None.
    """
    if requested is None:
        return limits.concurrency or DEFAULT_IN_FLIGHT
    return requested if limits.concurrency is None else min(requested, limits.concurrency)


# --- run.json ---------------------------------------------------------------------------------------------------------


def target_to_manifest(
    target: Target,
    prices: PriceTable | None = None,
    served_prices: Mapping[str, PriceTable | None] | None = None,
    *,
    batch_prices: PriceTable | None = None,
) -> ManifestTarget:
    """Return a target as `run.json` keeps it: all but keys; with its prices, so that its costs stay the same."""
    return ManifestTarget(
        name=target.name,
        model=target.model,
        simulated=target.simulated,
        gateway=ManifestGateway.from_json(gateway_to_plain(target.gateway)),
        members=tuple(ManifestGateway.from_json(gateway_to_plain(member)) for member in target.members),
        variant=target.variant,
        prices=prices,
        served_prices=served_prices or {},
        batch_prices=batch_prices,
    )


def target_from_manifest(target: ManifestTarget) -> Target:
    """Return the target that `run.json` describes.

    Raises:
        SetupError: It has a protocol or a gateway field that this version does not know.
    """
    gateway, *members = (_gateway_from_manifest(target.name, one) for one in (target.gateway, *target.members))
    return Target(model=target.model, gateway=gateway, members=tuple(members), variant=target.variant)


def _gateway_from_manifest(target: str, gateway: ManifestGateway) -> Gateway:
    plain = _without_nulls(gateway.to_json())
    plain["limits"] = {"rates": [], **_without_nulls(plain["limits"])}
    unknown = [
        *([f"protocol {gateway.protocol!r}"] if gateway.protocol not in PROTOCOLS else []),
        *(f"field {name!r}" for name in plain.keys() - _GATEWAY_FIELDS),
        *([f"thinking_tags {plain['thinking_tags']!r}"] if not _is_tags(plain.get("thinking_tags")) else []),
        *(f"limit {name!r}" for name in plain["limits"].keys() - _LIMIT_FIELDS),
    ]
    if unknown:
        raise SetupError(
            f"run.json is not as convbatch wrote it: the gateway of {target} has the unknown {min(unknown)}",
            hint="restore run.json from a copy, or use the version of convbatch that created the run",
        )
    return gateway_from_plain(plain)


def _is_tags(written: str | None) -> bool:
    try:
        return written is None or bool(parse_thinking_tags(written))
    except ValueError:
        return False


_OMITTED_DEFAULTS = (
    "aliases", "anthropic_version", "key_command", "path", "replay", "secret_headers", "seed_field", "stream",
    "system_role", "thinking_tags", "unset",
)  # fmt: skip
"""Fields that `run.json` has only where they are set, as in the runs of versions that did not know them."""


def _without_nulls(plain: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in plain.items() if value is not None}


def gateway_to_plain(gateway: Gateway) -> dict[str, Any]:
    """Return the JSON form of a gateway, by field name."""
    plain: dict[str, Any] = {f.name: getattr(gateway, f.name) for f in dataclasses.fields(Gateway)}
    del plain["batches"]
    plain["headers"] = dict(gateway.headers)
    plain["key_command"] = None if gateway.key_command is None else list(gateway.key_command)
    plain["secret_headers"] = {name: dataclasses.asdict(header) for name, header in gateway.secret_headers.items()}
    plain["query"] = dict(gateway.query)
    plain["aliases"] = {asked: list(served) for asked, served in gateway.aliases.items()}
    plain["limits"] = {f.name: getattr(gateway.limits, f.name) for f in dataclasses.fields(Limits)}
    plain["limits"]["rates"] = [{"count": rate.count, "window_s": rate.window_s} for rate in gateway.limits.rates]
    plain["settings"] = gateway.settings.to_plain()
    plain["unset"] = list(gateway.unset)
    for key in _OMITTED_DEFAULTS:
        if not plain[key]:
            del plain[key]
    if gateway.price_multiplier is not None:
        plain["price_multiplier"] = str(gateway.price_multiplier)
    return plain


def gateway_from_plain(plain: Mapping[str, Any]) -> Gateway:
    """Build a gateway from `gateway_to_plain`; trusts its input."""
    values = dict(plain)
    limits = dict(values.pop("limits"))
    limits["rates"] = tuple(RateLimit(**rate) for rate in limits["rates"])
    settings = Settings.from_plain(values.pop("settings"))
    secret_headers: Mapping[str, Any] = values.pop("secret_headers", {})
    values["secret_headers"] = {name: SecretHeader(**header) for name, header in secret_headers.items()}
    values["key_command"] = tuple(values.get("key_command") or ()) or None
    if values.get("price_multiplier") is not None:
        values["price_multiplier"] = Decimal(values["price_multiplier"])
    values["unset"] = tuple(values.get("unset", ()))
    values["aliases"] = {asked: tuple(served) for asked, served in values.get("aliases", {}).items()}
    return Gateway(limits=Limits(**limits), settings=settings, **values)
