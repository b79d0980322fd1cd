"""`Run` as Arrow streams and typed results: the same values as the frames, null where they are null."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

import convbatch as cb
from convbatch.results.columns import TURNS
from convbatch.results.parquet import BATCH_ROWS, schema


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> cb.Run:
    folder = tmp_path_factory.mktemp("run")
    dialogue = {"tags": ["a", "b"], "turns": [{"user": "x", "checks": [{"contains": "x"}]}, {"user": "y"}]}
    models = ["sim-good@simulator", "no-such-model@simulator"]
    return cb.run(cb.Dataset([dialogue, "z"]), models=models, out=folder / "out")


class Capsule:
    """What polars, DuckDB and others see of a run: nothing but the method of the protocol."""

    def __init__(self, run: cb.Run) -> None:
        self._run = run

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self._run.__arrow_c_stream__(requested_schema)


def plain(value: Any) -> Any:
    if isinstance(value, list):
        return value
    return None if pd.isna(value) else value


@pytest.mark.parametrize("table", ["turns", "verdicts", "conversations", "attempts"])
def test_a_table_as_arrow_has_the_values_of_its_frame(run: cb.Run, table: str) -> None:
    frame: pd.DataFrame = getattr(run, table)
    arrow = run.arrow(table).read_all()
    assert arrow.column_names == list(frame.columns)
    assert arrow.num_rows == len(frame) > 0
    for name in arrow.column_names:
        found = arrow.column(name)
        if pa.types.is_timestamp(found.type):
            assert [plain(one) for one in frame[name]] == [plain(one) for one in found.to_pandas()]
        else:
            assert [plain(one) for one in frame[name]] == found.to_pylist(), name


def test_a_run_is_an_arrow_stream_of_its_turns(run: cb.Run) -> None:
    expected = schema(TURNS).remove_metadata()
    for source in (run, Capsule(run)):
        table = pa.table(source)
        assert table.schema.equals(expected)
        assert table.equals(run.arrow().read_all())
    narrow = pa.schema([pa.field(field.name, field.type) for field in expected])
    assert pa.RecordBatchReader.from_stream(run, schema=narrow).read_all().num_rows == len(run.turns)
    with pytest.raises(cb.SetupError, match="has no table 'turn'"):
        run.arrow("turn")


@pytest.mark.slow
def test_a_large_table_comes_in_bounded_batches(tmp_path: Path) -> None:
    dataset = cb.Dataset([f"question {n}" for n in range(BATCH_ROWS // 4)])
    run = cb.run(dataset, models="sim-good@simulator", repeats=5, out=tmp_path / "out", rpm=None)
    sizes = [batch.num_rows for batch in run.arrow()]
    assert sum(sizes) == len(run.turns) > BATCH_ROWS
    assert max(sizes) <= BATCH_ROWS
    assert sum(1 for _ in run.results()) == len(run.turns)


def test_results_are_the_rows_of_turns_with_python_types(run: cb.Run) -> None:
    results = list(run.results())
    assert [one.status for one in results] == run.turns["status"].tolist()
    by_status = {one.status: one for one in results}
    done, pending = by_status["ok"], by_status["pending"]
    assert isinstance(done.input_tokens, int)
    assert isinstance(done.latency_s, float)
    assert not math.isnan(done.latency_s)
    assert done.started_at is not None
    assert done.started_at.tzinfo is not None
    assert (pending.reply, pending.input_tokens, pending.cost, pending.passed) == (None, None, None, None)
    assert results[0].tags == ("a", "b")
    with pytest.raises(AttributeError):
        done.reply = "changed"  # pyright: ignore[reportAttributeAccessIssue]  # that is the test


def test_values_are_shown_without_what_they_do_not_have() -> None:
    dataset = cb.Dataset([{"id": "a", "turns": [{"user": "hi"}]}])
    assert repr(dataset[0]) == "Dialogue.from_plain({'id': 'a', 'turns': [{'user': 'hi'}]})"
    assert eval(repr(dataset[0]), {"Dialogue": cb.Dialogue}) == dataset[0]


def test_a_result_shows_what_it_knows(run: cb.Run) -> None:
    shown = repr(next(run.results()))
    assert shown.startswith("TurnResult(run=")
    assert "None" not in shown
