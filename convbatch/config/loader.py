"""Read a config file (TOML) to a `Config`, or report all its problems with their lines.

Presets are shipped as `presets.toml` and read by the same rules. Keys and their validation are in `validators.py`,
the meaning of values in `gateways.py`. Anything that looks like a secret is an error, and never part of a message.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import math
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from convbatch.config.gateways import Config, GatewayTable, JudgeTable, ModelTable, PriceRow, RunTable, merge_tables
from convbatch.config.pool_tables import build_pool
from convbatch.config.pools import PoolTable
from convbatch.config.prices import batch_price_row, build_exchange_rates, price_row
from convbatch.config.toml_faults import toml_hint
from convbatch.config.toml_positions import KeyPath, TomlPositions
from convbatch.config.usage_log_form import UsageLogForm
from convbatch.config.usage_logs import USAGE_LOG_KEYS, build_usage_log_form
from convbatch.config.validators import (
    GATEWAY_KEYS,
    GATEWAY_NAME,
    JUDGE_KEYS,
    LATER_KEYS,
    MODEL_KEYS,
    POOL_KEYS,
    RULES,
    RUN_KEYS,
    VARIANT_KEYS,
    InvalidValue,
    Validator,
    secret_holder,
)
from convbatch.config.variants import build_variant
from convbatch.dataset.plain import is_plain_settings
from convbatch.dialogue import NO_SETTINGS, SETTING_NAMES, Settings, Variant
from convbatch.errors import InputError, Place, Problem, did_you_mean, nearest
from convbatch.paths import expand_home
from convbatch.redaction import display

if TYPE_CHECKING:
    from pydantic import TypeAdapter

CONFIG_NAME = "convbatch.toml"
SCHEMA_KEY = "$schema"
"""Names the JSON Schema of the file, for editors; nothing reads it."""
TOP_KEYS = (
    *("gateways", "pools", "variants", "run", "judge", "prices", "rates", "bills", "env_file"),
    SCHEMA_KEY,
)


def load_config(explicit: Path | None = None, *, folder: Path = Path()) -> Config:
    """Load the config of a command: the file of `-c`, else `convbatch.toml` in `folder`, else only the presets.

    Raises:
        InputError: The file is missing, unreadable or invalid; contains all problems.
    """
    path = folder / CONFIG_NAME if explicit is None else explicit
    if explicit is None and not path.exists():
        return load_shipped_config()
    return read_config(_text_of(path), path)


def read_config(text: str, path: Path) -> Config:
    """Parse the text of a config file; `path` is for messages and for finding `ca_file`.

    Raises:
        InputError: As `load_config`.
    """
    reader = _Reader(text, _relative(path))
    config = reader.config(load_shipped_config())
    if reader.problems:
        raise InputError.of(sorted(reader.problems, key=lambda problem: (problem.place and problem.place.line) or 0))
    return config


def read_mapping(
    document: Mapping[str, Any], place: Callable[[KeyPath], Place], *, known: Config | None = None
) -> Config:
    """Check a config that is given as a mapping with the keys of a config file; relative paths start here.

    Args:
        document: The mapping, in the types that a TOML file has.
        place: Returns the place of a key, for messages.
        known: What it is merged over; default: the presets.

    Raises:
        InputError: It is invalid; contains all problems.
    """
    reader = _Reader("", Path(CONFIG_NAME), document=document, place=place)
    config = reader.config(load_shipped_config() if known is None else known)
    if reader.problems:
        raise InputError.of(reader.problems)
    return dataclasses.replace(config, path=None)


def presets() -> Mapping[str, GatewayTable]:
    """Return the gateways that are shipped with convbatch."""
    return load_shipped_config().gateways


@functools.cache
def load_shipped_config() -> Config:
    """Load `presets.toml`: the gateways and formats of usage logs that are shipped with convbatch."""
    from importlib import resources

    text = resources.files("convbatch.config").joinpath("presets.toml").read_text(encoding="utf-8")
    reader = _Reader(text, Path("presets.toml"), is_preset=True)
    config = reader.config(Config(gateways={}))
    if reader.problems:
        raise AssertionError(str(reader.problems[0]))  # shipped data, which a test reads
    return dataclasses.replace(config, path=None)


def place_of_model_key(config: Config, gateway: str, model: str, key: str) -> Place | None:
    """Return where the config file sets a key for a model; None if a preset sets it, or the file is gone.

    Args:
        config: The config that was read from the file.
        gateway: Name of the gateway.
        model: Name of the model: the model table that decides is the one with the longest glob.
        key: A key of a model table that has the same name in `Gateway`.
    """
    if config.path is None:
        return None
    try:
        lines = TomlPositions(Path(config.path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return None
    matching = [table for table in config.gateways[gateway].models if table.matches(model) and key in table.values]
    globs = [table.glob for table in sorted(matching, key=lambda table: len(table.glob), reverse=True)]
    paths = [*(("gateways", gateway, "models", glob, key) for glob in globs), ("gateways", gateway, key)]
    found = next((line for path in paths if (line := lines.of(path)) is not None), None)
    return Place(path=config.path, line=found)


def _relative(path: Path) -> Path:
    """Return a path relative to the working directory if it is below it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _text_of(path: Path) -> str:
    place = Place(path=str(_relative(path)))
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"the config file cannot be read: {error.strerror}",
            place=place,
            hint=f"-c takes a TOML file; without -c, {CONFIG_NAME} of the working directory is used",
        ) from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        from convbatch.dataset.file_kinds import encoding_hint

        line = raw[: error.start].count(b"\n") + 1
        hint = encoding_hint(raw, error.start, _relative(path))
        raise InputError(
            "the config file is not UTF-8 text", place=Place(path=place.path, line=line), hint=hint
        ) from None


class _Reader:
    """Reads one file and collects its problems."""

    def __init__(
        self,
        text: str,
        path: Path,
        *,
        is_preset: bool = False,
        document: Mapping[str, Any] | None = None,
        place: Callable[[KeyPath], Place] | None = None,
    ) -> None:
        """`document` takes the place of the text, and `place` that of its lines."""
        self.problems: list[Problem] = []
        self._given = document
        self._place_of = place
        self._path = path
        self._is_preset = is_preset
        self._text = text
        self._lines = TomlPositions("")  # until the text has been parsed
        self._secret: set[KeyPath] = set()

    def config(self, known: Config) -> Config:
        document = self._document()
        self._lines = TomlPositions(self._text)
        self._refuse_secrets(document)
        self._refuse_unknown(document, (), TOP_KEYS, "the file")
        if not isinstance(document.get(SCHEMA_KEY, ""), str):
            self._add((SCHEMA_KEY,), InvalidValue("$schema is not the address of a JSON Schema", "remove it"))
        gateways = dict(known.gateways)
        for name, table in self._tables(document, ("gateways",)):
            gateway = self._gateway(name, table, known.gateways.get(name))
            if gateway is not None:
                gateways[name] = gateway
        pools = dict(self._pools(document, gateways))
        return Config(
            gateways=gateways,
            pools=pools,
            variants=dict(self._variants(document)),
            run=self._run(document),
            judge=self._judge(document),
            prices=tuple(self._prices(document, gateways, pools)),
            exchange_rates=build_exchange_rates(document.get("rates", {}), self._add),
            usage_logs={**known.usage_logs, **self._bills(document, known.usage_logs, gateways)},
            env_file=self._env_file(document),
            path=str(self._path),
        )

    def _env_file(self, document: Mapping[str, Any]) -> Path | None:
        given = document.get("env_file")
        if given is None or self._is_secret(("env_file",)):
            return None
        if not isinstance(given, str) or not given.strip():
            self._add(("env_file",), InvalidValue("env_file is not a path", 'env_file = "keys.env"', found=given))
            return None
        return self._path.parent / expand_home(given)

    def _document(self) -> Mapping[str, Any]:
        if self._given is not None:
            return self._given
        try:
            return tomllib.loads(self._text)
        except tomllib.TOMLDecodeError as error:
            what, _, where = str(error).rpartition(" (at ")
            line = re.match(r"line (\d+)", where)
            number = int(line[1]) if line else self._text.count("\n") + 1
            lines = self._text.split("\n")
            faulty = lines[min(number, len(lines)) - 1]
            problem = Problem(
                what=f"not TOML: {what or str(error)}",
                place=Place(path=str(self._path), line=number),
                hint=_unclosed(what) or toml_hint(faulty, what),
            )
            raise InputError.of([problem]) from None
        except RecursionError:
            raise InputError("not TOML: nested too deep", place=Place(path=str(self._path))) from None

    # -- gateways

    def _gateway(self, name: str, table: Mapping[str, Any], preset: GatewayTable | None) -> GatewayTable | None:
        path = ("gateways", name)
        if not GATEWAY_NAME.fullmatch(name):
            self._add(path, InvalidValue(f"{name!r} cannot be a gateway's name", "use letters, digits, dots, - and _"))
            return None
        own = self._checked(table, path, GATEWAY_KEYS, also=("models",))
        if "ca_file" in own:
            own["ca_file"] = self._certificates(own["ca_file"], path)
        for header, secret in own.get("secret_headers", {}).items():
            origin = str(self._place((*path, "secret_headers", header)))
            own["secret_headers"][header] = dataclasses.replace(secret, origin=origin)
        if "key_command" in own:
            own["key_command"] = self._from_here(own["key_command"])
        values = merge_tables({} if preset is None else preset.values, own)
        for key, other in (("key_env", "key_command"), ("key_command", "key_env")):
            if key in own and other not in own:
                values.pop(other, None)  # of the preset
        for key in ("list_prices", "batches"):  # another address may bill other prices, and have no batch API
            if "base_url" in own and key not in own:
                values.pop(key, None)
        if not self._has_basics(name, values, table, preset):
            return None
        named = {key: "KEY" for key in ("key_env",) if key not in own and {"key_env", "key_command"} & table.keys()}
        sound = self._agrees(name, {**named, **values}, own, path)
        models = [
            model
            for glob, inner in self._tables(table, (*path, "models"))
            if (model := self._model(name, glob, inner, values, check=sound)) is not None
        ]
        return GatewayTable(
            name=name,
            values=values,
            models=(*(() if preset is None else preset.models), *models),
            key_origin=self._key_origin(name, own, preset),
        )

    def _key_origin(self, name: str, own: Mapping[str, Any], preset: GatewayTable | None) -> str | None:
        if self._is_preset:
            return f"the preset {name!r}"
        if "key_env" in own or "key_command" in own or preset is None:
            key = "key_command" if "key_command" in own else "key_env"
            return str(self._place(("gateways", name, key)))
        return preset.key_origin

    def _from_here(self, command: tuple[str, ...]) -> tuple[str, ...]:
        """Return a command with the path of its program absolute; relative paths start at the config file's folder."""
        program, *arguments = command
        if "/" in program:
            program = str((self._path.parent / expand_home(program)).absolute())
        return (program, *arguments)

    def _has_basics(
        self, name: str, values: Mapping[str, Any], table: Mapping[str, Any], preset: GatewayTable | None
    ) -> bool:
        missing = [key for key in ("protocol", "base_url") if key not in values]
        absent = [key for key in missing if key not in table]  # invalid values have messages of their own
        if absent and preset is None:
            hint = 'e.g. protocol = "openai", base_url = "https://HOST/v1"; presets that can be changed: '
            known = () if self._is_preset else presets()
            self._add(
                ("gateways", name),
                InvalidValue(f"the gateway {name!r} has no {' and no '.join(absent)}", hint + ", ".join(sorted(known))),
            )
        return not missing

    def _model(
        self, name: str, glob: str, table: Mapping[str, Any], gateway: Mapping[str, Any], *, check: bool
    ) -> ModelTable | None:
        path = ("gateways", name, "models", glob)
        if not glob or glob != glob.strip():
            self._add(path, InvalidValue("a model table needs a name or a glob", '[gateways.NAME.models."gemini-*"]'))
            return None
        own = self._checked(table, path, MODEL_KEYS, also=("settings",))
        if check:
            self._agrees(name, merge_tables(gateway, own), own, path)
        return ModelTable(glob=glob, values=own, settings=self._settings(table, path))

    def _agrees(self, name: str, values: Mapping[str, Any], own: Mapping[str, Any], path: KeyPath) -> bool:
        """Whether the keys of one table are consistent with each other and with the table below; reports problems."""
        before = len(self.problems)
        for rule in RULES:
            for key, invalid in rule(name, values, own):
                self._add((*path, key), invalid)
        return len(self.problems) == before

    def _certificates(self, given: str, path: KeyPath) -> str:
        """Return the absolute path of the CA file; relative paths start at the config file's folder."""
        import ssl

        file = (self._path.parent / expand_home(given)).absolute()
        try:
            ssl.create_default_context(cafile=str(file))
        except ssl.SSLError:
            self._add(
                (*path, "ca_file"),
                InvalidValue("ca_file contains no certificate", "it must be a PEM file", found=given),
            )
        except OSError as error:
            hint = f"the path is relative to {self._path.parent}/"
            self._add((*path, "ca_file"), InvalidValue(f"ca_file cannot be read: {error.strerror}", hint, found=given))
        return str(file)

    # -- pools and variants

    def _pools(
        self, document: Mapping[str, Any], gateways: Mapping[str, GatewayTable]
    ) -> Iterator[tuple[str, PoolTable]]:
        known = frozenset(gateways), frozenset(name for name, _ in self._tables(document, ("pools",)))
        for name, table in self._tables(document, ("pools",)):
            path = ("pools", name)
            own = self._checked(table, path, POOL_KEYS, also=())
            place = self._place((*path, "gateways"))
            for found in build_pool(name, own, *known, place=place, written=tuple(table)):
                if isinstance(found, PoolTable):
                    yield name, found
                else:
                    key, member, invalid = found
                    self._add((*path, key) if key else path, invalid, containing=member)

    def _variants(self, document: Mapping[str, Any]) -> Iterator[tuple[str, Variant]]:
        for name, table in self._tables(document, ("variants",)):
            path = ("variants", name)
            before = len(self.problems)
            own = self._checked(table, path, VARIANT_KEYS, also=("settings",))
            settings = self._settings(table, path)
            is_sound = len(self.problems) == before
            for found in build_variant(name, own, settings, folder=self._path.parent, written=tuple(table)):
                if not isinstance(found, Variant):
                    self._add((*path, found[0]) if found[0] else path, found[1])
                elif is_sound:
                    yield name, found

    # -- prices

    def _prices(
        self, document: Mapping[str, Any], gateways: Mapping[str, GatewayTable], pools: Mapping[str, PoolTable]
    ) -> Iterator[PriceRow]:
        for gateway, models in self._tables(document, ("prices",)):
            if gateway not in gateways and gateway not in pools:
                model, at, name = gateway.rpartition("@")
                hint = f"write [prices.{name}.{_dotted([model])}]" if at and name in gateways else None
                hint = (
                    hint or f"write [prices.GATEWAY.MODEL]; gateways are {did_you_mean(gateway, {**gateways, **pools})}"
                )
                self._add(("prices", gateway), InvalidValue(f"prices for an unknown gateway {gateway!r}", hint))
                continue
            for glob, rows in models.items():
                path = ("prices", gateway, glob)
                billing = gateways[pools[gateway].gateways[0] if gateway in pools else gateway]
                billed_in = billing.for_model(glob).currency
                table = price_row(rows, path, billed_in, self._place, self._add)
                batch = None if table is None else batch_price_row(rows, path, table, self._add)
                if table is not None and batch is not None:
                    yield PriceRow(gateway=gateway, glob=glob, table=table, batch=batch)

    # -- bills

    def _bills(
        self, document: Mapping[str, Any], known: Mapping[str, UsageLogForm], gateways: Mapping[str, GatewayTable]
    ) -> dict[str, UsageLogForm]:
        forms: dict[str, UsageLogForm] = {}
        for name, table in self._tables(document, ("bills",)):
            path = ("bills", name)
            own = self._checked(table, path, USAGE_LOG_KEYS, also=())
            for found in build_usage_log_form(name, own, known.get(name), tuple(gateways), written=tuple(table)):
                if isinstance(found, UsageLogForm):
                    forms[name] = found
                else:
                    key, invalid = found
                    self._add((*path, key) if key else path, invalid)
        return forms

    # -- run and settings

    def _judge(self, document: Mapping[str, Any]) -> JudgeTable:
        table = document.get("judge", {})
        if not isinstance(table, dict):
            self._add(("judge",), InvalidValue("judge must be a table", "write [judge] and below it its keys"))
            return JudgeTable()
        return JudgeTable(**self._checked(cast(dict[str, Any], table), ("judge",), JUDGE_KEYS, also=()))

    def _run(self, document: Mapping[str, Any]) -> RunTable:
        table = document.get("run", {})
        if not isinstance(table, dict):
            self._add(
                ("run",), InvalidValue("run must be a table", 'write [run] and below it models = ["MODEL@GATEWAY"]')
            )
            return RunTable()
        table = cast(dict[str, Any], table)
        values = self._checked(table, ("run",), RUN_KEYS, also=("settings",))
        places = tuple(self._place(("run", "models"), containing=model) for model in values.get("models", ()))
        variant_places = tuple(self._place(("run", "variants"), containing=name) for name in values.get("variants", ()))
        return RunTable(
            **values, model_places=places, variant_places=variant_places, settings=self._settings(table, ("run",))
        )

    def _settings(self, table: Mapping[str, Any], above: KeyPath) -> Settings:
        path = (*above, "settings")
        plain = table.get("settings", {})
        if plain == {}:
            return NO_SETTINGS
        if not isinstance(plain, dict):
            self._add(
                path, InvalidValue("settings must be a table", "write settings = { temperature = 0 }", found=plain)
            )
            return NO_SETTINGS
        plain = cast(dict[str, Any], plain)
        self._refuse_unknown(plain, path, SETTING_NAMES, f"[{_dotted(path)}]")
        known = {key: value for key, value in plain.items() if key in SETTING_NAMES}
        before = len(self.problems)
        if not any(secret[: len(path)] == path for secret in self._secret):
            self._check_settings(known, path)
        return Settings.from_plain(known) if len(self.problems) == before else NO_SETTINGS

    def _check_settings(self, plain: dict[str, Any], path: KeyPath) -> None:
        if is_plain_settings(plain):
            return
        from pydantic import ValidationError

        try:
            _settings_adapter().validate_python(plain)
        except ValidationError as error:
            for detail in error.errors(include_url=False, include_context=False):
                steps = tuple(str(step) for step in detail["loc"])
                what = f"{_dotted(steps)} {detail['msg'].removeprefix('Input ').lower()}"
                self._add((*path, *steps), InvalidValue(what, "see docs/dataset.md, settings", found=detail["input"]))

    # -- tables

    def _tables(self, table: Mapping[str, Any], path: KeyPath) -> Iterator[tuple[str, Mapping[str, Any]]]:
        inner = table.get(path[-1], {})
        if not isinstance(inner, dict):
            self._add(
                path, InvalidValue(f"{_dotted(path)} must be a table", f"write [{_dotted(path)}.NAME]", found=inner)
            )
            return
        for name, value in cast(dict[str, Any], inner).items():
            if isinstance(value, dict):
                yield name, cast(dict[str, Any], value)
            else:
                where = _dotted((*path, name))
                self._add((*path, name), InvalidValue(f"{where} must be a table", f"write [{where}]", found=value))

    def _checked(
        self,
        table: Mapping[str, Any],
        path: KeyPath,
        checks: Mapping[str, tuple[str, Validator]],
        *,
        also: Sequence[str],
    ) -> dict[str, Any]:
        self._refuse_unknown(table, path, (*checks, *also), f"[{_dotted(path)}]")
        values: dict[str, Any] = {}
        for key, value in table.items():
            if key not in checks or self._is_secret((*path, key)):
                continue
            field, check = checks[key]
            try:
                values[field] = check(key, value)
            except InvalidValue as invalid:
                self._add((*path, key), invalid)
        return values

    def _refuse_unknown(self, table: Mapping[str, Any], path: KeyPath, known: Sequence[str], where: str) -> None:
        for key in table:
            if key in known or self._is_secret((*path, key)):
                continue
            if key in LATER_KEYS:
                hint = "remove it: keys without an effect are refused"
                invalid = InvalidValue(f"{key!r} is not built in this version", hint)
            elif key == "env_file":
                hint = "write it at the top of the file, above the first [table]"
                invalid = InvalidValue(f"unknown key 'env_file' in {where}", hint)
            elif (name := _OTHER_NAMES.get(key, key)) in SETTING_NAMES and path[-1:] != ("settings",):
                table_of = f"[{_settings_table(path)}]"
                hint = f"it belongs to {table_of}" if name == key else f"did you mean {name!r}, in {table_of}?"
                invalid = InvalidValue(f"unknown key {display(key)} in {where}", hint)
            elif key == "settings":
                models = path if path[:1] == ("gateways",) else ("gateways", "NAME")
                hint = f"settings belong to models: [{_settings_table(models)}], or to all: [run.settings]"
                invalid = InvalidValue(f"unknown key 'settings' in {where}", hint)
            else:
                elsewhere = None if nearest(key, known) else _elsewhere(key, path)
                hint = did_you_mean(key, known) if elsewhere is None else elsewhere
                invalid = InvalidValue(f"unknown key {display(key)} in {where}", hint)
            self._add((*path, key), invalid)

    # -- secrets

    def _refuse_secrets(self, document: Mapping[str, Any]) -> None:
        """Report keys, by name or by form; later checks skip them, so that no message contains one."""
        for path, value in _leaves(document, ()):
            dated = isinstance(value, datetime.date | datetime.time) and path[0] != "prices"
            if dated or (isinstance(value, float) and not _finite(value)):
                hint = "write it as a text" if dated else "write a finite number, or leave the key out"
                self._add(path, InvalidValue(f"{_dotted(path[-1:])} has a value that JSON cannot represent", hint))
            holder = secret_holder(path, value)
            if holder is None:
                continue
            self._secret.add(path)
            hint = (
                "put the key into an environment variable (or an --env-file) and name it here: "
                'key_env = "NAME", with auth = "bearer", "x-goog-api-key", "header:NAME", "query:NAME" ...'
            )
            self._add(path, InvalidValue(f"{holder} contains a key; keys are not allowed in this file", hint))

    def _is_secret(self, path: KeyPath) -> bool:
        return any(secret[: len(path)] == path for secret in self._secret)

    # -- places

    def _add(self, path: KeyPath, invalid: InvalidValue, *, containing: str | None = None) -> None:
        place = self._place(path, containing=containing)
        self.problems.append(Problem(what=invalid.what, place=place, found=invalid.found, hint=invalid.hint))

    def _place(self, path: KeyPath, *, containing: str | None = None) -> Place:
        if self._place_of is not None:
            return self._place_of(path)
        return Place(path=str(self._path), line=self._lines.of(path, containing=containing))


def _unclosed(what: str) -> str | None:
    """Return a hint for what opens on one line and is missed on a later one."""
    if what.startswith(("Unclosed array", "Unclosed inline table")):
        return f"add the {']' if 'array' in what else '}'} that closes it; the fault is on this line or above"
    return None


def _settings_table(path: KeyPath) -> str:
    """Return the name of the table that holds the settings of what a table configures."""
    if path[:1] == ("variants",):
        return _dotted((*path, "settings"))
    if path[:1] != ("gateways",):
        return "run.settings"
    return _dotted(path) + (".settings" if len(path) > 3 else '.models."*".settings')


_COMMAND_LINE = {
    **{"deadline": "--deadline 5m", "fail_under": "--fail-under 95%", "judge": "--judge MODEL@GATEWAY"},
    **{"tag": "--tag NAME", "tags": "--tag NAME", "log": "--log FILE", "out": "-o FOLDER", "sample": "--sample N"},
    **{"dry_run": "--dry-run", "reuse": "--reuse RUN", "env": "--env-file FILE"},
}
"""Keys that the config does not have, and the options that do it."""
_OTHER_RUN_KEYS = {
    **dict.fromkeys(("retries", "max_retries", "retry"), "max_attempts"),
    **dict.fromkeys(("timeout", "request_timeout"), "attempt_timeout"),
    **dict.fromkeys(("workers", "threads", "max_connections", "parallel", "max_concurrency"), "concurrency"),
    **dict.fromkeys(("epochs", "repeat", "n"), "repeats"),
    **dict.fromkeys(("budget", "cost_limit"), "max_cost"),
    **dict.fromkeys(("max_tokens", "token_limit", "token_budget", "max_total_tokens"), "max_tokens_total"),
    **dict.fromkeys(("request_limit", "max_calls"), "max_requests"),
}
_OTHER_GATEWAY_KEYS = {
    **dict.fromkeys(("url", "api_base", "baseURL", "baseUrl", "base-url", "endpoint", "host", "api_url"), "base_url"),
    **dict.fromkeys(("type", "provider", "api", "kind"), "protocol"),
    **dict.fromkeys(("apikey_env", "api_key_env", "token_env", "apiKeyEnvar", "env_key"), "key_env"),
    **dict.fromkeys(("timeout", "request_timeout"), "attempt_timeout"),
    **dict.fromkeys(("workers", "threads", "max_concurrency", "max_connections"), "concurrency"),
}


def _elsewhere(key: str, path: KeyPath) -> str | None:
    """Return the hint for a key of another table, of the command line, or of another tool; None if it is none."""
    match path:
        case ("pools", _) if key in ("members", "keys", "endpoints", "targets"):
            return 'did you mean gateways = ["NAME", "OTHER"]?'
        case ("run",) if key in _OTHER_RUN_KEYS:
            return f"did you mean {_OTHER_RUN_KEYS[key]!r}?"
        case ("gateways", _) | ("gateways", _, "models", _) if key in _OTHER_GATEWAY_KEYS:
            return f"did you mean {_OTHER_GATEWAY_KEYS[key]!r}?"
        case ("judge",) if key == "model":
            return "name it on the command line: --judge MODEL@GATEWAY"
        case ("gateways", *_) if key in ("prices", "price"):
            return "it belongs to the top of the file: prices.GATEWAY.MODEL = { … }"
        case _:
            pass
    if path != ("run",) and key in RUN_KEYS:
        return "it belongs to [run]"
    if path[:1] != ("gateways",) and key in {*GATEWAY_KEYS, *_OTHER_GATEWAY_KEYS}:
        return f"it belongs to [gateways.NAME], as {_OTHER_GATEWAY_KEYS.get(key, key)!r}"
    if key in _COMMAND_LINE and path in ((), ("run",)):
        return f"give it on the command line: {_COMMAND_LINE[key]}"
    if not path and key in ("providers", "targets", "models"):
        return 'models to ask are in [run], as models = ["MODEL@GATEWAY"]; their servers are [gateways.NAME]'
    return None


_OTHER_NAMES = {
    **dict.fromkeys(
        ("max_tokens", "max_completion_tokens", "max_new_tokens", "maxOutputTokens", "maxTokens"), "max_output_tokens"
    ),
    "topP": "top_p",
    "topK": "top_k",
    "stop_sequences": "stop",
    "stopSequences": "stop",
}
"""Settings by the names that providers give them."""


@functools.cache
def _settings_adapter() -> TypeAdapter[Any]:
    """Return the schema of settings, that of the dataset; pydantic is imported only when it is needed."""
    from pydantic import TypeAdapter

    from convbatch.dataset.forms import SettingsForm

    return TypeAdapter(SettingsForm)


def _leaves(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    if isinstance(value, Mapping):
        for name, item in cast(Mapping[str, Any], value).items():
            yield from _leaves(item, (*path, name))
    elif isinstance(value, list):
        for item in cast(list[Any], value):
            yield from _leaves(item, path)
    else:
        yield path, value


def _finite(value: float) -> bool:
    return math.isfinite(value)


def _dotted(path: Sequence[str]) -> str:
    return ".".join(name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else f'"{name}"' for name in path)
