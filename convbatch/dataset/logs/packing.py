"""Values of a log as bytes, while they wait in a temporary database."""

from __future__ import annotations

import json
from typing import Any

import orjson


def pack(value: Any) -> bytes:
    """Return a JSON value as bytes that `orjson.loads` reads; what JSON does not have becomes text."""
    try:
        return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:  # nested deeper than orjson writes, which reads more than it writes
        return json.dumps(value, default=str).encode("ascii")
