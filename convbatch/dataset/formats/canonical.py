"""The canonical format: `turns` of objects. Its keys are defined in `schema.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convbatch.dataset.formats.builder import DatasetFormat


def _detect(line: Mapping[str, Any]) -> bool:
    return "turns" in line


FORMAT = DatasetFormat(
    name="canonical",
    label='canonical ("turns" of objects)',
    markers=("turns",),
    id_keys=("id",),
    detect=_detect,
    read=None,
    rank=20,
)
