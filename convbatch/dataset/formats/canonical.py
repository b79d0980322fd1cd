"""The canonical format: `turns` of objects. Its keys are defined in `schema.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convbatch.dataset.formats.builder import DatasetFormat
from convbatch.dataset.formats.messages import has_question_turns


def _detect(line: Mapping[str, Any]) -> bool:
    return "turns" in line and not has_question_turns(line)


FORMAT = DatasetFormat(
    name="canonical",
    label='canonical ("turns" of objects)',
    markers=("turns",),
    id_keys=("id",),
    detect=_detect,
    read=None,
    rank=20,
)
