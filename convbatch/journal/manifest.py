"""`run.json` as a typed value: what a run asks, of which targets, at which prices, and its state.

`Manifest.from_json` is the one place that checks the file; everything behind it trusts the types. Keys this version
does not know are kept in `other`, so that they survive a rewrite. What a gateway's fields mean is `config/gateways.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from convbatch.dialogue import NO_SETTINGS, SETTING_NAMES, Dialogue, HistoryMode, Settings, Variant
from convbatch.errors import Place, SetupError
from convbatch.journal.manifest_fields import (
    ALIASES,
    COUNT,
    FLAG,
    GATEWAY_KINDS,
    HISTORY,
    LIMIT_KINDS,
    OBJECT,
    PATH,
    POSITIVE,
    PRICES,
    PRICES_BY_NAME,
    RATES,
    REPEATS,
    SETTING_KINDS,
    SETTING_LIST,
    TEXT,
    TEXTS,
    WHOLE,
    Fields,
    WrongField,
    excerpt,
)
from convbatch.journal.records import JournalEnd
from convbatch.pricing import NO_EXCHANGE_RATES, ExchangeRates, PriceTable
from convbatch.served_model import Aliases

MANIFEST_VERSION = 1
MANIFEST_NAME = "run.json"
MANIFEST_HINT = "restore run.json from a copy, or run the dataset again with --reuse of an intact run"


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestGateway:
    """A gateway as the run used it; no keys, only the name of their variable."""

    name: str
    protocol: str
    base_url: str
    currency: str | None = None
    """What it bills in."""
    settings: Settings = NO_SETTINGS
    """The gateway's own model settings, under those of the command line."""
    unset: tuple[str, ...] = ()
    """Settings that are never sent, whatever sets them."""
    aliases: Aliases = field(default_factory=dict[str, Sequence[str]])
    """Asked model → names under which the gateway may serve it."""
    other: Mapping[str, Any] = field(default_factory=dict)
    """The remaining fields of `config.gateways.Gateway` in their JSON form, of the right types."""

    @classmethod
    def from_json(cls, plain: Any) -> Self:
        """Read a gateway.

        Raises:
            ValueError: A field is missing or wrong.
        """
        others = Fields(plain)
        limits = Fields(others.required("limits", OBJECT), "limits")
        for key, kind in LIMIT_KINDS.items():
            limits.optional(key, kind)
        for key, kind in GATEWAY_KINDS.items():
            others.optional(key, kind)
        fields = Fields(plain)
        return cls(
            name=fields.required("name", TEXT),
            protocol=fields.required("protocol", TEXT),
            base_url=fields.required("base_url", TEXT),
            currency=fields.optional("currency", TEXT),
            settings=_settings(fields.required("settings", OBJECT), "settings"),
            unset=tuple(fields.optional("unset", SETTING_LIST, ())),
            aliases=fields.optional("aliases", ALIASES, {}),
            other=fields.rest(),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form, the reverse of `from_json`."""
        return {
            "name": self.name,
            "protocol": self.protocol,
            "base_url": self.base_url,
            "currency": self.currency,
            "settings": self.settings.to_plain(),
            **({"unset": list(self.unset)} if self.unset else {}),
            **({"aliases": self.aliases} if self.aliases else {}),
            **self.other,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestTarget:
    """A target or a judge as the run asked it, with the prices of that day."""

    name: str
    """`model@gateway`."""
    model: str
    simulated: bool
    gateway: ManifestGateway
    members: tuple[ManifestGateway, ...] = ()
    """The gateways of a pool."""
    variant: Variant | None = None
    """The wording of the dialogues."""
    prices: PriceTable | None = None
    """None where no price was known."""
    served_prices: Mapping[str, PriceTable | None] = field(default_factory=dict[str, PriceTable | None])
    """Prices of replies that name this model instead of the asked one; before those in the journal."""
    batch_prices: PriceTable | None = None
    """Prices of the same tokens in batch jobs; None in a run without any."""
    is_repriced: bool = False
    """Whether these prices replace those of the run's day; never in `run.json`."""
    other: Mapping[str, Any] = field(default_factory=dict)
    """Keys of another version."""

    @classmethod
    def from_json(cls, plain: Any) -> Self:
        """Read a target.

        Raises:
            ValueError: A field is missing or wrong.
        """
        fields = Fields(plain)
        prices = fields.optional("prices", PRICES)
        batch_prices = fields.optional("batch_prices", PRICES)
        return cls(
            name=fields.required("name", TEXT),
            model=fields.required("model", TEXT),
            simulated=fields.required("simulated", FLAG),
            gateway=fields.nested("gateway", ManifestGateway.from_json),
            members=fields.each("members", ManifestGateway.from_json),
            variant=fields.optional_nested("variant", _variant),
            prices=None if prices is None else PriceTable.from_plain(prices),
            served_prices={
                name: PriceTable.from_plain(table)
                for name, table in fields.optional("served_prices", PRICES_BY_NAME, {}).items()
            },
            batch_prices=None if batch_prices is None else PriceTable.from_plain(batch_prices),
            other=fields.rest(),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form, the reverse of `from_json`."""
        return {
            "name": self.name,
            "model": self.model,
            "simulated": self.simulated,
            "gateway": self.gateway.to_json(),
            **({"members": [member.to_json() for member in self.members]} if self.members else {}),
            **({} if self.variant is None else {"variant": self.variant.to_plain()}),
            "prices": None if self.prices is None else self.prices.to_plain(),
            **self._served_prices_to_json(),
            **({} if self.batch_prices is None else {"batch_prices": self.batch_prices.to_plain()}),
            **self.other,
        }

    def asked(self, dialogue: Dialogue) -> Dialogue:
        """Return a dialogue as this target is asked, in its variant."""
        return dialogue if self.variant is None else self.variant.applied_to(dialogue)

    def _served_prices_to_json(self) -> dict[str, Any]:
        plain = {name: table.to_plain() for name, table in self.served_prices.items() if table is not None}
        return {"served_prices": plain} if plain else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestSource:
    """A dataset file as it was when the run copied it."""

    path: str
    sha256: str
    size: int | None = None
    """Bytes."""
    other: Mapping[str, Any] = field(default_factory=dict)
    """Keys of another version."""

    @classmethod
    def from_json(cls, plain: Any) -> Self:
        """Read a source.

        Raises:
            ValueError: A field is missing or wrong.
        """
        fields = Fields(plain)
        return cls(
            path=fields.required("path", PATH),
            sha256=fields.required("sha256", TEXT),
            size=fields.optional("size", COUNT),
            other=fields.rest(),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form, the reverse of `from_json`."""
        return {"path": self.path, "size": self.size, "sha256": self.sha256, **self.other}


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestDataset:
    """The dialogues of the run: where they came from, and what was selected."""

    sources: tuple[ManifestSource, ...] = ()
    sha256: str | None = None
    """Digest of the run's own copy."""
    dialogues: int = 0
    asked_turns: int = 0
    """Turns of all selected dialogues that are asked under the run's history mode, each counted once."""
    selection: Mapping[str, Any] = field(default_factory=dict)
    """`--id`, `--tag` and `--limit`, for people to read."""
    other: Mapping[str, Any] = field(default_factory=dict)
    """Keys of another version."""

    @classmethod
    def from_json(cls, plain: Any) -> Self:
        """Read the dataset's description.

        Raises:
            ValueError: A field is missing or wrong.
        """
        fields = Fields(plain)
        return cls(
            sources=fields.each("sources", ManifestSource.from_json),
            sha256=fields.optional("sha256", TEXT),
            dialogues=fields.optional("dialogues", COUNT, 0),
            asked_turns=fields.optional("asked_turns", COUNT, 0),
            selection=fields.optional("selection", OBJECT, {}),
            other=fields.rest(),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form, the reverse of `from_json`."""
        return {
            "sources": [source.to_json() for source in self.sources],
            "sha256": self.sha256,
            "dialogues": self.dialogues,
            "asked_turns": self.asked_turns,
            "selection": dict(self.selection),
            **self.other,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestOptions:
    """Options of `convbatch run` that a resume takes over; None where one was not given."""

    concurrency: int | None = None
    max_attempts: int | None = None
    in_rounds: bool = False
    """All dialogues once before any is repeated, as `convbatch audit --plan` asks them."""
    batch: bool = False
    """Whether turns are asked in batch jobs."""
    batch_window: str | None = None
    """`2h` or `8h`: as background responses of OpenAI in place of jobs."""
    reuse: str | None = None
    """Path of the run folder whose replies were reused."""
    max_cost: str | None = None
    max_tokens_total: int | None = None
    max_requests: int | None = None
    fail_under: str | None = None
    judge: str | None = None
    """Name of the judge the run was started with."""
    given: Mapping[str, Any] = field(default_factory=dict)
    """Every option that was given, as `session.options.given_options` returns them; empty in older runs."""
    other: Mapping[str, Any] = field(default_factory=dict)
    """Keys of another version."""

    @classmethod
    def from_json(cls, plain: Any) -> Self:
        """Read the options.

        Raises:
            ValueError: A field is wrong.
        """
        fields = Fields(plain)
        return cls(
            concurrency=fields.optional("concurrency", POSITIVE),
            max_attempts=fields.optional("max_attempts", POSITIVE),
            in_rounds=fields.optional("in_rounds", FLAG, False),
            batch=fields.optional("batch", FLAG, False),
            batch_window=fields.optional("batch_window", TEXT),
            reuse=fields.optional("reuse", PATH),
            max_cost=fields.optional("max_cost", TEXT),
            max_tokens_total=fields.optional("max_tokens_total", POSITIVE),
            max_requests=fields.optional("max_requests", POSITIVE),
            fail_under=fields.optional("fail_under", TEXT),
            judge=fields.optional("judge", TEXT),
            given=fields.optional("given", OBJECT, {}),
            other=fields.rest(),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form, the reverse of `from_json`."""
        return {
            "concurrency": self.concurrency,
            "max_attempts": self.max_attempts,
            "reuse": self.reuse,
            "max_cost": self.max_cost,
            "fail_under": self.fail_under,
            "judge": self.judge,
            **({} if self.max_tokens_total is None else {"max_tokens_total": self.max_tokens_total}),
            **({} if self.max_requests is None else {"max_requests": self.max_requests}),
            **({"in_rounds": True} if self.in_rounds else {}),
            **({"batch": True} if self.batch else {}),
            **({"batch_window": self.batch_window} if self.batch_window is not None else {}),
            **({"given": dict(self.given)} if self.given else {}),
            **self.other,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRows:
    """Rows the run has when it is complete."""

    rows: int
    per_target: int | None = None
    """None in a run of a version that did not write it."""
    other: Mapping[str, Any] = field(default_factory=dict)
    """Keys of another version."""

    @classmethod
    def from_json(cls, plain: Any) -> Self:
        """Read the numbers of rows.

        Raises:
            ValueError: A field is missing or wrong.
        """
        fields = Fields(plain)
        return cls(
            rows=fields.required("rows", COUNT),
            per_target=fields.optional("per_target", COUNT),
            other=fields.rest(),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form, the reverse of `from_json`."""
        return {"rows": self.rows, "per_target": self.per_target, **self.other}


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorSetup:
    """How the built-in simulator was started."""

    seed: int = 0
    other: Mapping[str, Any] = field(default_factory=dict)
    """Keys of another version."""

    @classmethod
    def from_json(cls, plain: Any) -> Self:
        """Read the simulator's setup.

        Raises:
            ValueError: A field is missing or wrong.
        """
        fields = Fields(plain)
        return cls(seed=fields.required("seed", WHOLE), other=fields.rest())

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form, the reverse of `from_json`."""
        return {"seed": self.seed, **self.other}


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything `run.json` says about a run; change it with `dataclasses.replace`."""

    targets: tuple[ManifestTarget, ...]
    """At least one, in the order they were asked for."""
    history: HistoryMode
    repeats: int
    planned: PlannedRows
    settings: Settings = NO_SETTINGS
    """Settings of the command line, over all others."""
    options: ManifestOptions = ManifestOptions()
    dataset: ManifestDataset = ManifestDataset()
    run: str | None = None
    """The run's own name, which stays when its folder is renamed; None before the folder is created."""
    name: str | None = None
    """`--name`: what people call the run."""
    note: str | None = None
    """`--note`."""
    origin: str | None = None
    """Name of the record of this folder in its creator's state directory (`session/origins.py`)."""
    convbatch: str | None = None
    """Version that created the run."""
    python: str | None = None
    created_at: str = ""
    """ISO 8601, UTC."""
    state: str = "running"
    """running | finished | interrupted | incomplete; `running` without a live writer means it was killed."""
    journal: JournalEnd | None = None
    """The journal's last durable record when this was written."""
    config: str | None = None
    """Path of the config file."""
    judges: tuple[ManifestTarget, ...] = ()
    """Every judge that was ever named; the last one's verdicts count."""
    rates: ExchangeRates = NO_EXCHANGE_RATES
    simulator: SimulatorSetup | None = None
    """None where no target is simulated."""
    checks: int = 0
    judges_needed: int = 0
    preferences: int = 0
    """`prefer` checks; they are not among `checks`."""
    """Checks that only a judge can decide."""
    python_checks: tuple[str, ...] = ()
    """Names of the custom checks in the dataset."""
    other: Mapping[str, Any] = field(default_factory=dict)
    """Keys of another version."""

    @property
    def target_names(self) -> tuple[str, ...]:
        """Target names in the order they were asked for."""
        return tuple(target.name for target in self.targets)

    @property
    def current_judge(self) -> ManifestTarget | None:
        """The judge whose verdicts count: the one named last; None without one."""
        return self.judges[-1] if self.judges else None

    @classmethod
    def from_json(cls, plain: Any, *, path: str = MANIFEST_NAME) -> Self:
        """Check and read the content of a `run.json`.

        An optional key that is null counts as absent.

        Args:
            plain: The parsed JSON.
            path: Of the file, for messages.

        Raises:
            SetupError: It is not a JSON object, a newer version wrote it, or a key is missing or wrong.
        """
        _refuse_version(plain, path=path)
        try:
            return cls._from_fields(Fields(plain))
        except WrongField as error:
            what = f"{MANIFEST_NAME} is not as convbatch wrote it: {error.key!r} is missing or wrong"
            raise SetupError(what, place=Place(path=path), found=str(error), hint=MANIFEST_HINT) from None

    @classmethod
    def _from_fields(cls, fields: Fields) -> Self:
        targets = fields.each("targets", ManifestTarget.from_json)
        if not targets:
            raise WrongField("targets", "is missing or empty")
        return cls(
            targets=targets,
            history=fields.required("history", HISTORY),
            repeats=fields.required("repeats", REPEATS),
            planned=fields.nested("planned", PlannedRows.from_json),
            settings=_settings(fields.required("settings", OBJECT), "settings"),
            options=fields.nested("options", ManifestOptions.from_json),
            dataset=fields.nested("dataset", ManifestDataset.from_json),
            run=fields.optional("run", PATH),
            name=fields.optional("name", TEXT),
            note=fields.optional("note", TEXT),
            origin=fields.optional("origin", TEXT),
            convbatch=fields.optional("convbatch", TEXT),
            python=fields.optional("python", TEXT),
            created_at=fields.optional("created_at", TEXT, ""),
            state=fields.optional("state", TEXT, "running"),
            journal=fields.optional_nested("journal", _journal_end),
            config=fields.optional("config", PATH),
            judges=fields.each("judges", ManifestTarget.from_json),
            rates=ExchangeRates.from_plain(fields.optional("rates", RATES)),
            simulator=fields.optional_nested("simulator", SimulatorSetup.from_json),
            checks=fields.optional("checks", COUNT, 0),
            judges_needed=fields.optional("judges_needed", COUNT, 0),
            preferences=fields.optional("preferences", COUNT, 0),
            python_checks=tuple(fields.optional("python_checks", TEXTS, ())),
            other=fields.rest("v"),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form, the reverse of `from_json`."""
        return {
            "v": MANIFEST_VERSION,
            "run": self.run,
            **({"name": self.name} if self.name is not None else {}),
            **({"note": self.note} if self.note is not None else {}),
            **({"origin": self.origin} if self.origin is not None else {}),
            "convbatch": self.convbatch,
            "python": self.python,
            "created_at": self.created_at,
            "state": self.state,
            **({"journal": self.journal._asdict()} if self.journal is not None else {}),
            "config": self.config,
            "dataset": self.dataset.to_json(),
            "history": self.history,
            "repeats": self.repeats,
            "settings": self.settings.to_plain(),
            "options": self.options.to_json(),
            "targets": [target.to_json() for target in self.targets],
            "judges": [judge.to_json() for judge in self.judges],
            "rates": self.rates.to_plain(),
            "planned": self.planned.to_json(),
            "simulator": None if self.simulator is None else self.simulator.to_json(),
            "checks": self.checks,
            "judges_needed": self.judges_needed,
            **({"preferences": self.preferences} if self.preferences else {}),
            "python_checks": list(self.python_checks),
            **self.other,
        }


def _refuse_version(plain: Any, *, path: str) -> None:
    """Refuse the content of a `run.json` that is not a JSON object, or that a newer version wrote.

    Raises:
        SetupError: It is either.
    """
    if not isinstance(plain, dict):
        raise SetupError(f"{MANIFEST_NAME} is not a JSON object", place=Place(path=path), hint=MANIFEST_HINT)
    version: Any = plain.get("v")
    if isinstance(version, int) and version > MANIFEST_VERSION:
        raise SetupError(
            f"{MANIFEST_NAME} is of version {version}; this convbatch reads up to version {MANIFEST_VERSION}",
            place=Place(path=path),
            hint=f"upgrade convbatch to {plain.get('convbatch') or 'the version that wrote it'}",
        )


def _journal_end(plain: Any) -> JournalEnd:
    fields = Fields(plain)
    return JournalEnd(seq=fields.required("seq", COUNT), crc=fields.required("crc", COUNT))


def _variant(plain: Any) -> Variant:
    fields = Fields(plain)
    fields.required("name", TEXT)
    for name in ("system", "prefix", "suffix"):
        fields.optional(name, TEXT)
    _settings(fields.optional("settings", OBJECT, {}), "settings")
    if unknown := fields.rest():
        raise WrongField("", f"holds {excerpt(min(unknown))}, which this version does not know")
    return Variant.from_plain(plain)


def _settings(plain: Any, path: str) -> Settings:
    fields = Fields(plain, path)
    for name in SETTING_NAMES:
        fields.optional(name, SETTING_KINDS[name])
    if unknown := fields.rest():
        raise WrongField(path, f"holds {excerpt(min(unknown))}, which is no setting this version knows")
    return Settings.from_plain(plain)
