"""Tests of `runs`: filters, order, and what it says about times and states that are none."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convbatch.results.listing import SORT_KEYS, STATES, ListedRun, RunQuery
from tests.conftest import Command
from tests.support.made_runs import DRIFT, GOOD, REAL, MadeRun, dialogue
from tests.support.tables import each


def listed(folder: str, **more: Any) -> ListedRun:
    return ListedRun(path=Path("results") / folder, state=more.pop("state", "finished"), **more)


RUNS = [
    listed("a", created_at="2026-11-01T00:00:00Z", targets=(REAL,), datasets=("x/d.jsonl",), planned=9, failed=1,
           cost={"USD": Decimal(2)}),
    listed("b", created_at="2026-11-02T00:00:00Z", targets=(GOOD, DRIFT), datasets=("e.jsonl.gz",), planned=3,
           name="base", state="interrupted", cost={"CNY": Decimal(9)}),
    listed("c", created_at="2026-11-03T00:00:00Z", targets=(GOOD,), planned=5, failed=4, cost={"USD": Decimal("0.5")}),
    listed("d", error="torn", state="unreadable"),
]  # fmt: skip


def test_equal_runs_keep_their_order_and_reverse_turns_it() -> None:
    assert [run.path.name for run in RunQuery().select(RUNS)] == ["d", "a", "b", "c"]
    assert [run.path.name for run in RunQuery(is_reversed=True).select(RUNS)] == ["c", "b", "a", "d"]


@each(
    ("options", "names"),
    [
        ({"targets": (REAL,)}, "a"),
        ({"targets": ("gemini-*",)}, "a"),
        ({"targets": ("simulator",)}, "bc"),
        ({"targets": ("sim-drift", "google")}, "ab"),
        ({"datasets": ("d",)}, "a"),
        ({"datasets": ("*.gz", "x/*")}, "ab"),
        ({"names": ("ba*",)}, "b"),
        ({"names": ("c",)}, "c"),
        ({"states": ("interrupted", "unreadable")}, "db"),
        ({"sort": "cost"}, "dbca"),
        ({"sort": "turns"}, "dbca"),
        ({"sort": "failures"}, "bdac"),
        ({"targets": ("sim-*",), "states": ("finished",)}, "c"),
    ],
)
def test_filters_and_order(options: dict[str, Any], names: str) -> None:
    found = "".join(run.path.name for run in RunQuery(**options).select(RUNS))
    assert (
        found == names if options.get("sort") != "failures" else sorted(found) == sorted(names) and found[-2:] == "ac"
    )


@given(st.sampled_from(SORT_KEYS), st.lists(st.sampled_from(RUNS)), st.booleans())
def test_sorting_loses_no_run(key: Any, runs: list[ListedRun], reverse: bool) -> None:
    found = RunQuery(sort=key, is_reversed=reverse).select(runs)
    assert sorted(run.path for run in found) == sorted(run.path for run in runs)


@pytest.fixture
def three(tmp_path: Path) -> None:
    for name, target in (("one", GOOD), ("two", DRIFT), ("three", GOOD)):
        made = MadeRun(tmp_path / "results" / name, [dialogue("d", "x")], targets=(target,))
        made.replied(made.ident(0, 1))
        made.write()


@pytest.mark.usefixtures("three")
def test_the_command_filters_sorts_and_says_when_nothing_fits(convbatch: Command) -> None:
    def names(*options: str) -> list[str]:
        return [run["run"] for run in json.loads(convbatch("runs", "--json", *options).out)["runs"]]

    assert names("--target", GOOD) == ["one", "three"]
    assert names("--name", "t*", "--reverse") == ["two", "three"]
    assert names("--since", "2026-11-21") == ["one", "three", "two"]
    assert names("--since", "2026-11-22") == []
    assert names("--older-than", "2026-11-21T23:30:01") == ["one", "three", "two"]
    assert "none of 3 runs fits these options" in convbatch("runs", "--status", "running").err


@each(
    ("options", "told"),
    [
        (("--since", "soon"), "--since needs a duration"),
        (("--since", "soon"), "write 7d, 12h or 2026-11-01"),
        (("--older-than", "0d"), "--older-than needs a duration above 0 found: '0d' hint: write 7d"),
        (("--since", "2026-13-01"), "--since 2026-13-01: no such day"),
        (("--older-than", "7"), "--older-than 7: no unit"),
        (("--older-than", "99999999d"), "before the first year"),
        (("--status", "finishd"), "did you mean 'finished'?"),
        (("--sort", "price"), "--sort 'price': runs have no such key"),
        (("--keep", "3"), "--keep without --prune has no effect"),
        (("--yes",), "--yes without --prune has no effect"),
    ],
)
@pytest.mark.usefixtures("three")
def test_a_bad_value_is_refused_with_the_good_ones(convbatch: Command, options: tuple[str, ...], told: str) -> None:
    done = convbatch("runs", *options)
    assert done.code == 2
    assert told in " ".join(done.err.split())


def test_the_states_of_the_help_are_those_of_the_filter(convbatch: Command) -> None:
    told = " ".join(convbatch("runs", "--help", COLUMNS="200").out.replace("│", " ").split())
    assert f"{', '.join(STATES[:-1])} or {STATES[-1]}" in told
