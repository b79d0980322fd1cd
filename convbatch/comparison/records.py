"""Parts of a comparison as plain values: the keys of `--json`, and of the frames' rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from convbatch.comparison.metrics import MetricResult
from convbatch.comparison.pairing import Pair, PairedTurn, mean

if TYPE_CHECKING:
    from convbatch.comparison.compare import Flip, JudgedMetric, Slice


def metric_record(one: JudgedMetric) -> dict[str, Any]:
    """Return a metric with the keys of `--json`."""
    record = _result_record(one.result)
    judged = {"margin": one.margin, "p_adjusted": _to_json_value(one.p_adjusted), "verdict": one.verdict}
    return {**record, "uneven": one.coverage.uneven, **judged}


def slice_record(one: Slice) -> dict[str, Any]:
    """Return a slice with the keys of `--json`."""
    record = _result_record(one.result)
    return {"slice": one.slice, **record, "p_adjusted": _to_json_value(one.p_adjusted), "exploratory": True}


def flip_record(one: Flip) -> dict[str, Any]:
    """Return a flipped turn with the keys of `--json`."""
    return {name: getattr(one, name) for name in type(one).__slots__}


def _result_record(one: MetricResult) -> dict[str, Any]:
    return {name: _to_json_value(getattr(one, name)) for name in type(one).__slots__ if name != "ratio" or one.is_ratio}


def _to_json_value(value: Any) -> Any:
    """Return a JSON value: intervals as lists, numbers rounded to 12 places to hide floating-point noise."""
    if isinstance(value, tuple):
        return [_to_json_value(limit) for limit in value]
    return round(value, 12) if isinstance(value, float) else value


def turn_record(one: Pair, turn: PairedTurn) -> dict[str, Any]:
    """Return a paired turn, averaged over its repeats."""
    record: dict[str, Any] = {"dialogue": one.dialogue, "turn": turn.number, "strictly_paired": turn.strictly}
    for name, samples in (("base", turn.base), ("candidate", turn.candidate)):
        record[f"{name}_repeats"] = len(samples)
        record[f"{name}_failed"] = sum(sample.status in ("error", "skipped") for sample in samples.values())
        record[f"{name}_pass"] = mean(sample.passed for sample in samples.values())
        for value in ("score", "input_tokens", "output_tokens", "cost", "latency_s"):
            record[f"{name}_{value}"] = mean(getattr(sample, value) for sample in samples.values())
    return record


def flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record whose intervals are two keys each."""
    found: dict[str, Any] = {}
    for name, value in record.items():
        if name in ("ci95", "ci90", "ci"):
            found[f"{name}_low"], found[f"{name}_high"] = value or (None, None)
        else:
            found[name] = value
    return found
