"""Validation of the `[bills.NAME]` tables of a config file, which describe formats of usage logs.

Tables for `loader.py`, like `validators.py`; the formats are used by `reporting/usage_log.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, cast

from convbatch.config.usage_log_form import COLUMN_KEYS, NEEDED_KEYS, UsageLogForm
from convbatch.config.validators import InvalidValue, Validator, amount, currency, zone
from convbatch.errors import did_you_mean


def _column(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise InvalidValue(f"{key} must be the name of a column", f'write {key} = "column"', found=value)
    return value.strip()


def _per_unit(key: str, value: Any) -> Decimal:
    number = amount(key, value)
    if number == 0:
        raise InvalidValue(
            f"{key} must be more than 0", "write how many of them are one unit of the currency", found=value
        )
    return number


def _only(key: str, value: Any) -> dict[str, tuple[str, ...]]:
    hint = "write only = { type = 2 }: a column and the value, or the list of values, of rows that are calls"
    if not isinstance(value, dict) or not value:
        raise InvalidValue(f"{key} must be a table of columns", hint, found=value)
    wanted: dict[str, tuple[str, ...]] = {}
    for column, given in cast(dict[str, Any], value).items():
        values = cast(list[Any], given) if isinstance(given, list) else [given]
        if not values or not all(isinstance(item, str | int) and not isinstance(item, bool) for item in values):
            raise InvalidValue(f"{key}.{column} must be a text or a whole number, or a list of them", hint, found=given)
        wanted[column] = tuple(str(item).strip() for item in values)
    return wanted


def _names(key: str, value: Any) -> tuple[str, ...]:
    names = cast(list[Any], value) if isinstance(value, list) else [value]
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise InvalidValue(f"{key} must be a name or a list of names", f'write {key} = "dmxapi"', found=value)
    return tuple(cast(list[str], names))


def _keys(key: str, value: Any) -> tuple[str, ...]:
    allowed = [name for name in COLUMN_KEYS if name not in NEEDED_KEYS]
    hint = "list keys whose column may be missing from a file: " + ", ".join(allowed)
    names = cast(list[Any], value) if isinstance(value, list) else None
    if names is None or not all(name in allowed for name in names):
        raise InvalidValue(f"{key} must be a list of keys", hint, found=value)
    return tuple(cast(list[str], names))


# TOML key → the field of UsageLogForm, and the validator.
USAGE_LOG_KEYS: Mapping[str, tuple[str, Validator]] = {
    **{key: (key, _column) for key in COLUMN_KEYS},
    "time_zone": ("time_zone", zone),
    "amount_per_unit": ("amount_per_unit", _per_unit),
    "currency": ("currency", currency),
    "only": ("only", _only),
    "gateway": ("gateways", _names),
    "optional": ("optional", _keys),
}


def build_usage_log_form(
    name: str, own: Mapping[str, Any], preset: UsageLogForm | None, gateways: Sequence[str], *, written: Sequence[str]
) -> Iterator[UsageLogForm | tuple[str, InvalidValue]]:
    """Yield the format built from validated values, merged over a preset; or else its problems with their keys.

    Args:
        name: The name of the format.
        own: Validated values by field.
        preset: The preset of the same name.
        gateways: The known gateways.
        written: The keys of the table, valid or not.
    """
    base = {} if preset is None else {key: getattr(preset, key) for key, _ in USAGE_LOG_KEYS.values()}
    values = {**base, **own}
    sound = True
    for key in NEEDED_KEYS:
        if key not in values:
            sound = False
            if key not in written:
                yield (
                    "",
                    InvalidValue(
                        f"the usage log format {name!r} has no {key}",
                        f'write {key} = "..." with the name of its column',
                    ),
                )
    for gateway in own.get("gateways", ()):
        if gateway not in gateways:
            sound = False
            yield (
                "gateway",
                InvalidValue(f"a usage log of an unknown gateway {gateway!r}", did_you_mean(gateway, gateways)),
            )
    for key in ("amount_per_unit", "currency"):
        if key in own and values.get("amount") is None and "amount" not in written:
            sound = False
            yield key, InvalidValue(f"{key} without amount", 'name the column: amount = "quota"')
    if sound:
        yield UsageLogForm(name=name, **values)
