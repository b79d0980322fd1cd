"""The format of a gateway's usage log: `UsageLogForm`.

Reading such a file is `reporting/usage_log_reader.py`; its table in a config file is `usage_logs.py`; known formats are
in `presets.toml`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

COLUMN_KEYS = ("request_id", "time", "model", "input_tokens", "output_tokens", "amount")
"""Keys whose value is the name of a column."""
NEEDED_KEYS = ("time", "model", "input_tokens", "output_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageLogForm:
    """The meaning of the columns of a usage log."""

    name: str
    time: str
    model: str
    input_tokens: str
    output_tokens: str
    request_id: str | None = None
    amount: str | None = None
    amount_per_unit: Decimal = Decimal(1)
    """How many units of the column `amount` are one unit of the currency."""
    currency: str | None = None
    """None: the currency of the gateway."""
    time_zone: str = "UTC"
    """The zone of times without an offset."""
    only: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Column → the values of rows that are calls; other rows (top-ups, errors) are ignored."""
    gateways: tuple[str, ...] = ()
    """The gateways of the log; empty: the only host of the runs."""
    optional: tuple[str, ...] = ()
    """Keys whose column may be missing from a file."""

    @property
    def columns(self) -> dict[str, str]:
        """Return the column of each key that has one."""
        return {key: column for key in COLUMN_KEYS if (column := getattr(self, key)) is not None}

    @property
    def needed(self) -> dict[str, str]:
        """Return the required column of each key; columns of `only` have the key `only.COLUMN`."""
        columns = {key: column for key, column in self.columns.items() if key not in self.optional}
        return {**columns, **{f"only.{column}": column for column in self.only}}
