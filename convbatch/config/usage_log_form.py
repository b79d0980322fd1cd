"""What the columns of a gateway's usage log mean: `UsageLogForm`.

A value; how such a file is read is `reporting/usage_log_reader.py`. How a form is written in a config file is
`usage_logs.py`; the known ones ship in `presets.toml`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

COLUMN_KEYS = ("request_id", "time", "model", "input_tokens", "output_tokens", "amount")
"""Keys of a form whose value is a column's name."""
NEEDED_KEYS = ("time", "model", "input_tokens", "output_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageLogForm:
    """Which column of a usage log says what."""

    name: str
    time: str
    model: str
    input_tokens: str
    output_tokens: str
    request_id: str | None = None
    amount: str | None = None
    amount_per_unit: Decimal = Decimal(1)
    """So many of what stands in `amount` are one unit of the currency."""
    currency: str | None = None
    """None: the gateway's own."""
    time_zone: str = "UTC"
    """Of times that name no offset."""
    only: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Column → the values of the lines that are calls; others (top-ups, errors) are no lines of the bill."""
    gateways: tuple[str, ...] = ()
    """Whose log it is; empty: of the only host the runs asked."""
    optional: tuple[str, ...] = ()
    """Keys whose column a file may lack."""

    @property
    def columns(self) -> dict[str, str]:
        """Key → column, of those that are named."""
        return {key: column for key in COLUMN_KEYS if (column := getattr(self, key)) is not None}

    @property
    def needed(self) -> dict[str, str]:
        """Key → column, of those a file must have; a column of `only` stands under `only`."""
        columns = {key: column for key, column in self.columns.items() if key not in self.optional}
        return {**columns, **{f"only.{column}": column for column in self.only}}
