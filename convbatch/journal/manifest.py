"""`run.json` as a typed value: what a run asks, of which targets, at which prices, and its state.

`Manifest.from_json` is the one place that checks the file; everything behind it trusts the types. Keys this version
does not know are kept in `other`, so that they survive a rewrite. What a gateway's fields mean is `config/gateways.py`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any, Self, TypeVar

from convbatch.dialogue import MAX_REPEATS, NO_SETTINGS, SETTING_NAMES, Dialogue, HistoryMode, Settings, Variant
from convbatch.errors import Place, SetupError
from convbatch.journal.records import JournalEnd
from convbatch.pricing import NO_EXCHANGE_RATES, ExchangeRates, PriceTable, is_exchange_rates, is_price_table
from convbatch.served_model import Aliases

_T = TypeVar("_T")

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
        others = _Fields(plain)
        limits = _Fields(others.required("limits", _OBJECT), "limits")
        for key, kind in _LIMITS.items():
            limits.optional(key, kind)
        for key, kind in _GATEWAY.items():
            others.optional(key, kind)
        fields = _Fields(plain)
        return cls(
            name=fields.required("name", _TEXT),
            protocol=fields.required("protocol", _TEXT),
            base_url=fields.required("base_url", _TEXT),
            currency=fields.optional("currency", _TEXT),
            settings=_settings(fields.required("settings", _OBJECT), "settings"),
            unset=tuple(fields.optional("unset", _SETTING_LIST, ())),
            aliases=fields.optional("aliases", _ALIASES, {}),
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
        fields = _Fields(plain)
        prices = fields.optional("prices", _PRICES)
        batch_prices = fields.optional("batch_prices", _PRICES)
        return cls(
            name=fields.required("name", _TEXT),
            model=fields.required("model", _TEXT),
            simulated=fields.required("simulated", _FLAG),
            gateway=fields.nested("gateway", ManifestGateway.from_json),
            members=fields.each("members", ManifestGateway.from_json),
            variant=fields.optional_nested("variant", _variant),
            prices=None if prices is None else PriceTable.from_plain(prices),
            served_prices={
                name: PriceTable.from_plain(table)
                for name, table in fields.optional("served_prices", _PRICES_BY_NAME, {}).items()
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
        fields = _Fields(plain)
        return cls(
            path=fields.required("path", _PATH),
            sha256=fields.required("sha256", _TEXT),
            size=fields.optional("size", _COUNT),
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
        fields = _Fields(plain)
        return cls(
            sources=fields.each("sources", ManifestSource.from_json),
            sha256=fields.optional("sha256", _TEXT),
            dialogues=fields.optional("dialogues", _COUNT, 0),
            asked_turns=fields.optional("asked_turns", _COUNT, 0),
            selection=fields.optional("selection", _OBJECT, {}),
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
        fields = _Fields(plain)
        return cls(
            concurrency=fields.optional("concurrency", _POSITIVE),
            max_attempts=fields.optional("max_attempts", _POSITIVE),
            in_rounds=fields.optional("in_rounds", _FLAG, False),
            batch=fields.optional("batch", _FLAG, False),
            batch_window=fields.optional("batch_window", _TEXT),
            reuse=fields.optional("reuse", _PATH),
            max_cost=fields.optional("max_cost", _TEXT),
            max_tokens_total=fields.optional("max_tokens_total", _POSITIVE),
            max_requests=fields.optional("max_requests", _POSITIVE),
            fail_under=fields.optional("fail_under", _TEXT),
            judge=fields.optional("judge", _TEXT),
            given=fields.optional("given", _OBJECT, {}),
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
        fields = _Fields(plain)
        return cls(
            rows=fields.required("rows", _COUNT),
            per_target=fields.optional("per_target", _COUNT),
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
        fields = _Fields(plain)
        return cls(seed=fields.required("seed", _WHOLE), other=fields.rest())

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
            return cls._from_fields(_Fields(plain))
        except _WrongField as error:
            what = f"{MANIFEST_NAME} is not as convbatch wrote it: {error.key!r} is missing or wrong"
            raise SetupError(what, place=Place(path=path), found=str(error), hint=MANIFEST_HINT) from None

    @classmethod
    def _from_fields(cls, fields: _Fields) -> Self:
        targets = fields.each("targets", ManifestTarget.from_json)
        if not targets:
            raise _WrongField("targets", "is missing or empty")
        return cls(
            targets=targets,
            history=fields.required("history", _HISTORY),
            repeats=fields.required("repeats", _REPEATS),
            planned=fields.nested("planned", PlannedRows.from_json),
            settings=_settings(fields.required("settings", _OBJECT), "settings"),
            options=fields.nested("options", ManifestOptions.from_json),
            dataset=fields.nested("dataset", ManifestDataset.from_json),
            run=fields.optional("run", _PATH),
            name=fields.optional("name", _TEXT),
            note=fields.optional("note", _TEXT),
            origin=fields.optional("origin", _TEXT),
            convbatch=fields.optional("convbatch", _TEXT),
            python=fields.optional("python", _TEXT),
            created_at=fields.optional("created_at", _TEXT, ""),
            state=fields.optional("state", _TEXT, "running"),
            journal=fields.optional_nested("journal", _journal_end),
            config=fields.optional("config", _PATH),
            judges=fields.each("judges", ManifestTarget.from_json),
            rates=ExchangeRates.from_plain(fields.optional("rates", _RATES)),
            simulator=fields.optional_nested("simulator", SimulatorSetup.from_json),
            checks=fields.optional("checks", _COUNT, 0),
            judges_needed=fields.optional("judges_needed", _COUNT, 0),
            preferences=fields.optional("preferences", _COUNT, 0),
            python_checks=tuple(fields.optional("python_checks", _TEXTS, ())),
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


# --- reading fields --------------------------------------------------------------------------------------------------


class _WrongField(ValueError):
    """A field that is missing or wrong: its path from the top, and what is wrong with it."""

    def __init__(self, path: str, what: str) -> None:
        super().__init__(f"{path} {what}" if path else what)
        self.path = path
        self.what = what

    @property
    def key(self) -> str:
        """The top-level key."""
        return self.path.partition(".")[0].partition("[")[0]

    def under(self, parent: str) -> _WrongField:
        """The same error, seen from one level up."""
        joined = f"{parent}.{self.path}" if self.path else parent
        return _WrongField(joined, self.what)


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a field may hold."""

    name: str
    holds: Callable[[Any], bool]


class _Fields:
    """The fields of one JSON object; remembers which were read, so that the rest can be kept."""

    def __init__(self, plain: Any, path: str = "") -> None:
        if not isinstance(plain, dict):
            raise _WrongField(path, f"is {_excerpt(plain)}, not an object")
        self._plain: dict[str, Any] = plain
        self._path = path
        self._read: set[str] = set()

    def required(self, key: str, kind: _Kind) -> Any:
        self._read.add(key)
        if key not in self._plain:
            raise _WrongField(self._at(key), f"is missing; expected {kind.name}")
        return self._checked(key, kind)

    def optional(self, key: str, kind: _Kind, default: Any = None) -> Any:
        self._read.add(key)
        return default if self._plain.get(key) is None else self._checked(key, kind)

    def nested(self, key: str, read: Callable[[Any], _T]) -> _T:
        return self._in(key, read, self.required(key, _OBJECT))

    def optional_nested(self, key: str, read: Callable[[Any], _T]) -> _T | None:
        plain = self.optional(key, _OBJECT)
        return None if plain is None else self._in(key, read, plain)

    def each(self, key: str, read: Callable[[Any], _T]) -> tuple[_T, ...]:
        items = self.optional(key, _LIST, [])
        return tuple(self._in(f"{key}[{number}]", read, item) for number, item in enumerate(items))

    def rest(self, *read_elsewhere: str) -> dict[str, Any]:
        return {key: value for key, value in self._plain.items() if key not in self._read.union(read_elsewhere)}

    def _checked(self, key: str, kind: _Kind) -> Any:
        value = self._plain[key]
        if not kind.holds(value):
            raise _WrongField(self._at(key), f"is {_excerpt(value)}, not {kind.name}")
        return value

    def _at(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key

    def _in(self, key: str, read: Callable[[Any], _T], plain: Any) -> _T:
        try:
            return read(plain)
        except _WrongField as error:
            raise error.under(self._at(key)) from None


def _journal_end(plain: Any) -> JournalEnd:
    fields = _Fields(plain)
    return JournalEnd(seq=fields.required("seq", _COUNT), crc=fields.required("crc", _COUNT))


def _variant(plain: Any) -> Variant:
    fields = _Fields(plain)
    fields.required("name", _TEXT)
    for name in ("system", "prefix", "suffix"):
        fields.optional(name, _TEXT)
    _settings(fields.optional("settings", _OBJECT, {}), "settings")
    if unknown := fields.rest():
        raise _WrongField("", f"holds {_excerpt(min(unknown))}, which this version does not know")
    return Variant.from_plain(plain)


def _settings(plain: Any, path: str) -> Settings:
    fields = _Fields(plain, path)
    for name in SETTING_NAMES:
        fields.optional(name, _SETTINGS[name])
    if unknown := fields.rest():
        raise _WrongField(path, f"holds {_excerpt(min(unknown))}, which is no setting this version knows")
    return Settings.from_plain(plain)


def _excerpt(value: Any) -> str:
    return "an object" if isinstance(value, dict) else "a list" if isinstance(value, list) else json.dumps(value)[:60]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_text(value: Any) -> bool:
    # A lone surrogate is half a character: it cannot be printed or written to a table.
    return isinstance(value, str) and not any("\ud800" <= char <= "\udfff" for char in value)


def _is_text_map(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_AUTH = re.compile(rf"bearer|raw|x-goog-api-key|x-api-key|none|(?:header|query):{_HEADER_NAME.pattern}")


def _is_headers(value: Any) -> bool:
    if not _is_text_map(value) or not all(map(_HEADER_NAME.fullmatch, value)):
        return False
    return all(map(str.isprintable, value.values()))


def _is_secret_headers(value: Any) -> bool:
    if not isinstance(value, dict) or not all(map(_HEADER_NAME.fullmatch, value)):
        return False
    return all(map(_is_secret_header, value.values()))


def _is_secret_header(value: Any) -> bool:
    match value:
        case {"env": env, "prefix": prefix, "origin": origin, **rest}:
            is_sent = _is_text(env) and isinstance(prefix, str) and prefix.isprintable()
            return not rest and is_sent and (origin is None or isinstance(origin, str))
        case _:
            return False


def _is_decimal(value: Any) -> bool:
    try:
        return isinstance(value, str) and Decimal(value).is_finite()
    except InvalidOperation:
        return False


def _is_rate_limit(value: Any) -> bool:
    match value:
        case {"count": count, "window_s": window_s, **rest}:
            return not rest and _is_whole(count) and count > 0 and _is_number(window_s) and window_s > 0
        case _:
            return False


_TEXT = _Kind("text", _is_text)
_PATH = _Kind("text", lambda value: isinstance(value, str))  # a path may hold bytes that are not text
_TEXTS = _Kind("a list of texts", lambda value: isinstance(value, list) and all(map(_is_text, value)))
_SETTING_LIST = _Kind(
    "a list of settings", lambda value: isinstance(value, list) and all(one in SETTING_NAMES for one in value)
)
_TEXT_MAP = _Kind("an object of texts", _is_text_map)
_FLAG = _Kind("true or false", lambda value: isinstance(value, bool))
_WHOLE = _Kind("a whole number", _is_whole)
_COUNT = _Kind("a whole number from 0", lambda value: _is_whole(value) and value >= 0)
_POSITIVE = _Kind("a whole number from 1", lambda value: _is_whole(value) and value >= 1)
_NUMBER = _Kind("a number", _is_number)
_SECONDS = _Kind("a number of seconds", lambda value: _is_number(value) and value >= 0)
_ALIASES = _Kind(
    "an object of lists of texts",
    lambda value: isinstance(value, dict) and all(map(_TEXTS.holds, value.values())),
)
_DECIMAL = _Kind("a decimal number as text", _is_decimal)
_OBJECT = _Kind("an object", lambda value: isinstance(value, dict))
_LIST = _Kind("a list", lambda value: isinstance(value, list))
_HISTORY = _Kind("live, script or last", lambda value: value in ("live", "script", "last"))
_REPEATS = _Kind(
    f"a whole number from 1 to {MAX_REPEATS}", lambda value: _is_whole(value) and 1 <= value <= MAX_REPEATS
)
_PRICES = _Kind("a price table", is_price_table)
_PRICES_BY_NAME = _Kind(
    "an object of price tables",
    lambda value: isinstance(value, dict) and all(map(is_price_table, value.values())),
)
_RATES = _Kind("an object of exchange rates", is_exchange_rates)
_RATE_LIMITS = _Kind(
    "a list of {count, window_s}", lambda value: isinstance(value, list) and all(map(_is_rate_limit, value))
)
_SECRET_HEADERS = _Kind("an object of {env, prefix, origin}", _is_secret_headers)

_GATEWAY: Mapping[str, _Kind] = {
    "api_version": _TEXT,
    "auth": _Kind("an auth scheme", lambda value: isinstance(value, str) and _AUTH.fullmatch(value) is not None),
    "key_env": _TEXT,
    "key_command": _TEXTS,
    "headers": _Kind("an object of header names and texts", _is_headers),
    "secret_headers": _SECRET_HEADERS,
    "query": _TEXT_MAP,
    "proxy": _TEXT,
    "ca_file": _PATH,
    "allow_http": _FLAG,
    "max_output_tokens_field": _TEXT,
    "path": _Kind("a path of a URL", lambda value: _is_text(value) and value.isprintable() and " " not in value),
    "seed_field": _TEXT,
    "anthropic_version": _TEXT,
    "replay": _Kind("exact, content or stored", lambda value: value in ("exact", "content", "stored")),
    "thinking_tags": _TEXT,
    "system_role": _Kind("system, developer or user", lambda value: value in ("system", "developer", "user")),
    "list_prices": _FLAG,
    "price_multiplier": _DECIMAL,
    "attempt_timeout_s": _SECONDS,
    "stream": _FLAG,
    "key_origin": _PATH,
}
_LIMITS: Mapping[str, _Kind] = {
    "rpm": _POSITIVE,
    "tpm": _POSITIVE,
    "tpm_counts": _TEXT,
    "rpd": _POSITIVE,
    "rpd_resets": _TEXT,
    "rates": _RATE_LIMITS,
    "concurrency": _POSITIVE,
    "jitter_s": _SECONDS,
}
_SETTINGS: Mapping[str, _Kind] = {
    "temperature": _NUMBER,
    "top_p": _NUMBER,
    "top_k": _WHOLE,
    "max_output_tokens": _WHOLE,
    "stop": _TEXTS,
    "seed": _WHOLE,
    "thinking_budget": _WHOLE,
    "thinking_level": _TEXT,
    "reasoning_effort": _TEXT,
    "include_thoughts": _FLAG,
    "response_schema": _OBJECT,
    "safety": _TEXT_MAP,
    "logprobs": _WHOLE,
    "service_tier": _TEXT,
    "cache": _Kind("auto, off or 1h", lambda value: value in ("auto", "off", "1h")),
    "extra": _OBJECT,
}
