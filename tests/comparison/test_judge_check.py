"""Agreement of a judge with people: kappa, intervals, labels with problems, the template, exit codes."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import convbatch as package
from convbatch.comparison.agreement import Rated, measures
from convbatch.dataset.csv_dialogues import read_table
from convbatch.errors import InputError, SetupError
from convbatch.results.run import Run
from tests.conftest import Command

TARGET, JUDGE = "sim-good@simulator", "sim-judge@simulator"


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a run whose judge passes the odd dialogues: their replies repeat the word that the rubric quotes."""
    folder = tmp_path_factory.mktemp("judged")
    lines = [
        {"id": f"d{n}", "tags": ["odd" if n % 2 else "even"],
         "turns": [{"user": "apple" if n % 2 else "pear",
                    "checks": [{"llm_rubric": 'Says "apple".', "name": "fruit"}]}]}
        for n in range(20)
    ]  # fmt: skip
    (folder / "set.jsonl").write_text("\n".join(map(json.dumps, lines)), "utf-8")
    return package.run(folder / "set.jsonl", models=[TARGET], judge=JUDGE, out=folder / "run", progress=False)


def labels_file(path: Path, rows: Sequence[tuple[object, ...]], columns: str = "dialogue,label") -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns.split(","))
        writer.writerows(rows)
    return path


def by_hand(pairs: list[tuple[int, int]]) -> float | None:
    """Return Cohen's kappa from observed and expected agreement."""
    n = len(pairs)
    x, y = (sum(side) / n for side in zip(*pairs, strict=True))
    observed = sum(a == b for a, b in pairs) / n
    expected = x * y + (1 - x) * (1 - y)
    return None if expected == 1 else (observed - expected) / (1 - expected)


@settings(max_examples=40, deadline=None)
@given(pairs=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=2, max_size=30))
def test_kappa_is_cohens_and_in_its_interval(pairs: list[tuple[int, int]]) -> None:
    found = measures([Rated(f"d{n // 2}", *map(float, one)) for n, one in enumerate(pairs)], is_score=False)
    expected = by_hand(pairs)
    if expected is None:
        assert found.kappa.value is None
        return
    assert found.kappa.value == pytest.approx(expected)
    if found.kappa.ci is not None:
        assert found.kappa.ci.low <= expected <= found.kappa.ci.high


def test_perfect_agreement_in_few_dialogues_is_no_proof(judged: Run, tmp_path: Path) -> None:
    file = labels_file(tmp_path / "l.csv", [(f"d{n}", "pass" if n % 2 else "fail") for n in range(4)])
    few = package.judge_check(judged, file, fail_under=0.6)
    assert few.overall.kappa.value == 1
    assert few.overall.kappa.ci is not None
    assert few.overall.kappa.ci.low < 0.6
    assert few.exit_code == 3
    file = labels_file(tmp_path / "all.csv", [(f"d{n}", "yes" if n % 2 else "no") for n in range(20)])
    many = package.judge_check(judged, file, fail_under=0.6)
    assert (many.exit_code, many.disagreements, repr(many).count("TRUSTED")) == (0, [], 1)


def test_a_judge_that_contradicts_people_fails_and_its_items_are_listed(judged: Run, tmp_path: Path) -> None:
    file = labels_file(tmp_path / "l.csv", [(f"d{n}", 1 - n % 2, "why") for n in range(20)], "dialogue,label,reason")
    found = package.judge_check(judged, file, fail_under=0.4)
    assert found.exit_code == 1
    assert len(found.differing) == 20
    assert {one.people_reason for one in found.disagreements} == {"why"}
    assert found.disagreements[0].place == f"{file}:2"
    fail, passed = found.classes
    assert (fail.people, fail.judge, fail.both, passed.recall.value) == (10, 10, 0, 0.0)


def test_people_are_compared_with_each_other_and_a_tie_is_left_out(judged: Run, tmp_path: Path) -> None:
    rows = [(f"d{n}", "pass" if n % 2 else "fail", who) for n in range(20) for who in ("ann", "bob")]
    rows[1] = ("d0", "pass", "bob")
    found = package.judge_check(judged, labels_file(tmp_path / "l.csv", rows, "dialogue,label,rater"))
    assert found.people is not None
    assert (found.people.items, found.people.accuracy.value) == (20, pytest.approx(0.95))
    assert [key.dialogue for key in found.tied] == ["d0"]
    assert found.by_rater["ann"].kappa.value == 1
    assert found.by_rater["bob"].kappa.value == pytest.approx(0.9)
    assert {name: one.items for name, one in found.by_tag.items()} == {"even": 9, "odd": 10}


def test_every_problem_is_named_with_its_line(judged: Run, tmp_path: Path) -> None:
    rows = [("d1", 1, "pass"), ("d1", 1, "fail"), ("d99", 1, "pass"), ("d2", 7, "pass"), ("d3", 1, "maybe"),
            ("d4", 1, "nan"), ("d5", 1, "")]  # fmt: skip
    file = labels_file(tmp_path / "l.csv", rows, "dialogue,turn,label")
    with pytest.raises(InputError) as caught:
        package.judge_check(judged, file)
    places = [one.place.line for one in caught.value.problems if one.place is not None]
    assert places == [3, 4, 5, 6, 7]
    with pytest.raises(InputError, match="no column label"):
        package.judge_check(judged, labels_file(tmp_path / "no.csv", [("d1", "pass")], "dialogue,verdict"))


def test_scores_are_compared_by_weighted_kappa(judged: Run, tmp_path: Path) -> None:
    file = tmp_path / "l.jsonl"
    lines = [{"dialogue": f"d{n}", "turn": 1, "label": 0.9 if n % 2 else 0.1} for n in range(20)]
    file.write_text("\n".join(map(json.dumps, lines)), "utf-8")
    found = package.judge_check(judged, file)
    assert found.is_score
    # mean square 0.01 against 0.01 + 2 x 0.5 x 0.4: the judge says 0 and 1, both means are 0.5
    assert found.overall.kappa.value == pytest.approx(2 * 0.2 / (0.25 + 0.16))


def test_a_template_is_blind_is_not_replaced_and_can_be_read_back(
    judged: Run, tmp_path: Path, convbatch: Command
) -> None:
    file = tmp_path / "t.csv"
    assert convbatch("judge-check", judged.path, "--template", file, "-n", "12").code == 0
    with file.open(encoding="utf-8-sig", newline="") as read:
        rows = list(csv.DictReader(read))
    assert len(rows) == 12
    assert set(rows[0]) == {"dialogue", "target", "repeat", "turn", "check", "rubric", "conversation", "label",
                            "rater", "reason"}  # fmt: skip
    assert {row["rubric"] for row in rows} == {'Says "apple".'}
    assert convbatch("judge-check", judged.path, "--template", file).code == 2
    assert convbatch("judge-check", judged.path, file).code == 2  # no label yet
    for row in rows:
        row["label"] = "pass" if "apple" in row["conversation"].splitlines()[0] else "fail"
    filled = labels_file(tmp_path / "f.csv", [tuple(row.values()) for row in rows], ",".join(rows[0]))
    outs = [tmp_path / f"o.{suffix}" for suffix in ("html", "md", "json")]
    done = convbatch("judge-check", judged.path, filled, *(part for path in outs for part in ("-o", path)))
    assert done.code == 0
    assert json.loads(outs[2].read_text("utf-8"))["judge"]["kappa"]["estimate"] == 1
    assert all(path.stat().st_size for path in outs)


@pytest.mark.parametrize("suffix", ["csv", "xlsx"])
def test_a_template_of_checks_on_turns_and_on_dialogues_with_odd_ids_can_be_read_back(
    tmp_path: Path, convbatch: Command, suffix: str
) -> None:
    check = {"llm_rubric": "Is it good?"}
    ids = [" spaces ", "spaces", "=1+1", "'quoted", "-1", 'a,"b"', "中文"]
    lines = [{"id": one, "turns": [{"user": one, "checks": [check]}], "checks": [check | {"name": " whole "}]}
             for one in ids]  # fmt: skip
    (tmp_path / "set.jsonl").write_text("\n".join(map(json.dumps, lines)), "utf-8")
    run = package.run(tmp_path / "set.jsonl", models=[TARGET], judge=JUDGE, out=tmp_path / "run", progress=False)
    file = tmp_path / f"t.{suffix}"
    assert convbatch("judge-check", run.path, "--template", file).code == 0
    rows = list(read_table(file))
    assert sorted(str(row.value["turn"]) for row in rows) == ["1"] * 7 + ["dialogue"] * 7
    columns = [name for name in rows[0].value if name != "label"]
    values = [tuple(row.value[name] for name in columns) for row in rows]
    filled = labels_file(tmp_path / "f.csv", [(*one, "pass") for one in values], ",".join([*columns, "label"]))
    found = package.judge_check(run, filled)
    assert (found.overall.items, found.overall.dialogues) == (14, 7)


def test_a_run_without_a_judge_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set.jsonl").write_text('{"id": "d", "turns": [{"user": "u", "checks": [{"contains": "u"}]}]}', "utf-8")
    run = package.run(tmp_path / "set.jsonl", models=[TARGET], out=tmp_path / "run", progress=False)
    with pytest.raises(SetupError, match="no llm_rubric check"):
        package.judge_check(run, tmp_path / "l.csv")
