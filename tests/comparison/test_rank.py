"""Rankings: agreement with `compare`, groups that are not told apart, what is left out, refused input, exit codes."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import convbatch as package
from convbatch.comparison.metrics import DialogueValue
from convbatch.comparison.rank import Difference, group_letters, simultaneous_interval
from convbatch.comparison.rank_render import facts, sentence
from convbatch.dialogue import Dialogue
from convbatch.errors import SetupError
from convbatch.results.run import Run, load
from tests.conftest import Command, examples
from tests.support.made_runs import SEED_REPLY, MadeRun

NAMES = ("a@simulator", "b@simulator", "c@simulator", "d@simulator")


def run_of(folder: Path, failing: dict[str, int], count: int = 30, missing: dict[str, int] | None = None) -> Run:
    """Make a run in which each target fails its first `failing` dialogues, and lacks its last `missing` ones."""
    turns = [{"user": "u", "checks": [{"contains": "27"}]}]
    script = [Dialogue.from_plain({"id": f"d{n}", "turns": turns}) for n in range(count)]
    made = MadeRun(folder, script, targets=tuple(failing), checks=1, history="script")
    for index, (name, bad) in itertools.product(range(count), failing.items()):
        if index < count - (missing or {}).get(name, 0):
            text = "x" if index < bad else SEED_REPLY.text
            made.replied(made.ident(index, 1, name), SEED_REPLY._replace(text=text))
    return load(made.write().path)


def pair(first: str, second: str, better: str | None) -> Difference:
    return Difference(first=first, second=second, result=None, ci=None, p_adjusted=None, dialogues=9, better=better)


def test_two_targets_agree_with_compare(tmp_path: Path) -> None:
    for number, worse in enumerate((0, 2, 5, 6, 7, 15)):
        run = run_of(tmp_path / str(number), {NAMES[0]: 0, NAMES[1]: worse})
        ranking = package.rank(run)
        told = package.compare((run, NAMES[0]), (run, NAMES[1]))
        (one,) = ranking.differences
        result = told.judged[0].result
        assert one.result is not None
        assert (one.result.difference, one.ci, one.p_adjusted) == (result.difference, result.ci, result.p)
        assert (one.better == NAMES[0]) == told.verdict.startswith("regression")


@settings(max_examples=examples(60))
@given(bad=st.lists(st.integers(0, 12), min_size=3, max_size=4))
def test_nothing_is_proven_that_compare_of_the_two_denies(
    tmp_path_factory: pytest.TempPathFactory, bad: list[int]
) -> None:
    run = run_of(tmp_path_factory.mktemp("r") / "run", dict(zip(NAMES, bad, strict=False)), count=12)
    for one in package.rank(run).proven:
        base = str(one.better)
        candidate = one.second if base == one.first else one.first
        assert package.compare((run, base), (run, candidate)).verdict.startswith("regression")


@given(
    count=st.integers(2, 7),
    apart=st.sets(st.tuples(st.integers(0, 6), st.integers(0, 6)).filter(lambda p: p[0] < p[1])),
)
def test_two_share_a_letter_exactly_where_they_are_not_told_apart(count: int, apart: set[tuple[int, int]]) -> None:
    names = [f"t{n}" for n in range(count)]
    pairs = list(itertools.combinations(range(count), 2))
    letters = group_letters(names, [pair(names[a], names[b], names[a] if (a, b) in apart else None) for a, b in pairs])
    for a, b in pairs:
        assert bool(set(letters[names[a]].split()) & set(letters[names[b]].split())) == ((a, b) not in apart)
    assert all(letters.values())


def test_an_interval_of_passes_is_that_of_clopper_and_pearson() -> None:
    values = [DialogueValue(1.0, 1.0)] * 10
    low, high = simultaneous_interval(values, 0.05)
    assert (low, high) == (pytest.approx(0.025 ** (1 / 10)), 1.0)
    low, high = simultaneous_interval([*values[:9], DialogueValue(0.0, 0.0)], 0.05)
    assert (low, high) == (pytest.approx(0.55498, abs=1e-4), pytest.approx(0.99747, abs=1e-4))


def test_pending_dialogues_are_left_out_and_too_many_leave_a_pair_open(tmp_path: Path) -> None:
    run = run_of(tmp_path / "r", {NAMES[0]: 0, NAMES[1]: 20, NAMES[2]: 20}, missing={NAMES[2]: 5})
    ranking = package.rank(run)
    assert dict(ranking.left_out) == {"pending at some target": 5}
    assert {one.dialogues for one in ranking.standings} == {25}
    open_ones = {(one.first, one.second) for one in ranking.differences if one.why_open}
    assert open_ones == {(NAMES[0], NAMES[2]), (NAMES[1], NAMES[2])}
    assert [(one.first, one.better) for one in ranking.proven] == [(NAMES[0], NAMES[0])]
    assert package.rank(run, fail_if_beaten=NAMES[0]).exit_code == 3
    assert package.rank(run, fail_if_beaten=NAMES[1]).exit_code == 1


def test_the_same_target_of_two_runs_is_told_apart_by_its_run(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / name, {NAMES[0]: bad}) for name, bad in (("one", 0), ("two", 15))]
    assert [one.name for one in package.rank(*runs).standings] == [f"one:{NAMES[0]}", f"two:{NAMES[0]}"]


def test_one_target_a_repeated_one_and_other_metrics_are_refused(tmp_path: Path) -> None:
    run = run_of(tmp_path / "r", {NAMES[0]: 0, NAMES[1]: 3})
    with pytest.raises(SetupError, match="at least two targets"):
        package.rank((run, NAMES[0]))
    with pytest.raises(SetupError, match="named twice"):
        package.rank(run, (run, NAMES[0]))
    with pytest.raises(SetupError, match="not ranked by cost"):
        package.rank(run, metric="cost")
    with pytest.raises(SetupError, match="unknown metric 'turnpass'\n  hint: did you mean 'turn_pass'"):
        package.rank(run, metric="turnpass")
    with pytest.raises(SetupError, match="names no ranked target"):
        package.rank(run, fail_if_beaten="x")


def test_runs_without_a_check_are_told_how_to_get_a_verdict(tmp_path: Path) -> None:
    script = [Dialogue.from_plain({"id": "d", "turns": [{"user": "u"}]})]
    made = MadeRun(tmp_path / "r", script, targets=NAMES[:2], history="script")
    for name in NAMES[:2]:
        made.replied(made.ident(0, 1, name))
    with pytest.raises(SetupError, match="convbatch check RUN --dataset FILE"):
        package.rank(load(made.write().path))


def test_one_is_no_plural(tmp_path: Path) -> None:
    run = run_of(tmp_path / "r", {NAMES[0]: 0, NAMES[1]: 1}, count=1)
    assert next(facts(package.rank(run))).startswith("1 dialogue with ")
    assert "any false claim (1 pair)" in " ".join(facts(package.rank(run)))
    proven = run_of(tmp_path / "s", {NAMES[0]: 0, NAMES[1]: 30})
    assert sentence(package.rank(proven)).endswith("; 1 of 1 difference is proven")


def test_a_mismatch_is_told_as_compare_tells_it(tmp_path: Path) -> None:
    one = run_of(tmp_path / "one", {NAMES[0]: 0})
    script = [Dialogue.from_plain({"id": f"d{n}", "turns": [{"user": "other"}]}) for n in range(30)]
    made = MadeRun(tmp_path / "two", script, targets=(NAMES[1],), history="script")
    for index in range(30):
        made.replied(made.ident(index, 1))
    with pytest.raises(SetupError, match="cannot be compared"):
        package.rank(one, load(made.write().path))


def test_the_command_writes_all_forms_and_its_exit_code(tmp_path: Path, convbatch: Command) -> None:
    run = run_of(tmp_path / "r", {NAMES[0]: 0, NAMES[1]: 1, NAMES[2]: 20})
    files = [tmp_path / f"rank.{suffix}" for suffix in ("html", "md", "json")]
    done = convbatch("rank", run.path, *(part for path in files for part in ("-o", path)))
    assert done.code == 0
    assert "not proven worse than any other: a@simulator, b@simulator" in done.out
    value = json.loads(files[2].read_text("utf-8"))
    assert [(one["name"], one["groups"]) for one in value["targets"]] == [
        (NAMES[0], ["A"]), (NAMES[1], ["A"]), (NAMES[2], ["B"]),
    ]  # fmt: skip
    assert "Targets that share a letter are not told apart" in files[1].read_text("utf-8")
    assert files[0].read_bytes().startswith(b"<!DOCTYPE html>")
    assert convbatch("rank", run.path, "--fail-if-beaten", NAMES[2]).code == 1
    assert convbatch("rank", run.path, "--fail-if-beaten", NAMES[0]).code == 0
    assert convbatch("rank", f"{run.path}:{NAMES[0]}").code == 2
