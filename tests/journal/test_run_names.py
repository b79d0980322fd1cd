"""Tests of `run --name` and `--note`: what may be a name, where it is shown, and which run it stands for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from convbatch.errors import SetupError
from convbatch.journal.run_names import check_run_name
from tests.conftest import Command, write_dataset
from tests.support.tables import each

GOOD = "sim-good@simulator"


@each(
    ("name", "note", "what"),
    [
        ("", None, "--name is blank"),
        ("  ", None, "--name is blank"),
        ("x" * 201, None, "--name has 201 characters"),
        ("a\nb", None, "a character that cannot be shown"),
        ("a\u202eb", None, "a character that cannot be shown"),
        ("\x1b[2J", None, "a character that cannot be shown"),
        (" a", None, "begins or ends with a space"),
        ("-x", None, "--name begins with '-'"),
        ("~x", None, "--name begins with '~'"),
        ("latest", None, "latest is the newest run"),
        (3, None, "--name is not a text"),
        ("a", "x" * 2_001, "--note has 2,001 characters"),
        ("a", "\n", "--note is blank"),
    ],
)
def test_what_cannot_be_a_name_is_refused(name: object, note: object, what: str) -> None:
    with pytest.raises(SetupError, match=what):
        check_run_name(name, note)


NAMES = ("base", "a b", 'it\'s "x"', "feature/x", "a:b", "émoji 🦊", "عربي", "x" * 200, "{}", "$(touch x)", "*")


@pytest.mark.parametrize("name", NAMES)
def test_a_name_stands_for_its_run_wherever_one_is_given(name: str, convbatch: Command, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "d.jsonl", 1, 1)
    done = convbatch("run", dataset, "-m", GOOD, "--name", name, "--note", "Why: a test.", "--no-progress")
    assert done.code == 0, done.err
    (folder,) = (tmp_path / "results").iterdir()
    manifest = json.loads((folder / "run.json").read_text())
    assert (manifest["name"], manifest["note"], manifest["run"]) == (name, "Why: a test.", folder.name)
    assert "answer 1" in convbatch("table", name, "--wide", "reply").out
    assert f"run {name}: Why: a test." in convbatch("show", name).err
    assert convbatch("resume", name).code == 0
    listed = json.loads(convbatch("runs", "--json").out)["runs"]
    assert [(run["name"], run["note"]) for run in listed] == [(name, "Why: a test.")]
    report = json.loads(convbatch("report", name, "--json").out)
    assert f"{folder.name}: {name}: Why: a test." in json.dumps(report, ensure_ascii=False).replace('\\"', '"')


def test_two_runs_of_one_name_are_told_and_the_name_finds_neither(convbatch: Command, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "d.jsonl", 1, 1)
    for folder in ("one", "two"):
        done = convbatch("run", dataset, "-m", GOOD, "--name", "n", "-o", f"results/{folder}", "--no-progress")
        assert ("note: results/one has the name 'n' too" in done.err) == (folder == "two")
    done = convbatch("table", "n")
    assert done.code == 2
    assert "2 runs have the name 'n': results/one, results/two" in done.err
    assert "name the folder of one, e.g. the newest: results/two" in done.err
    assert convbatch("table", "two").code == 0


def test_a_name_that_no_command_will_find_is_told(convbatch: Command, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "d.jsonl", 1, 1)
    told = "note: names are looked up in results/: where a RUN is given, name the folder "
    done = convbatch("run", dataset, "-m", GOOD, "--name", "n", "-o", "elsewhere", "--no-progress")
    assert f"{told}elsewhere" in done.err
    assert convbatch("table", "n").code == 2
    done = convbatch("run", dataset, "-m", GOOD, "--name", "m", "-o", "./results/m1", "--no-progress")
    assert told not in done.err
    assert convbatch("table", "m").code == 0


def test_a_diff_of_two_runs_of_one_name_tells_them_apart(convbatch: Command, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "d.jsonl", 1, 1)
    for folder in ("one", "two"):
        convbatch("run", dataset, "-m", GOOD, "--name", "n", "-o", f"results/{folder}", "--no-progress")
    assert convbatch("diff", "one", "two").out.startswith(f"one:{GOOD} → two:{GOOD}")
    assert convbatch("diff", "one", "one").out.startswith(f"n:{GOOD} → n:{GOOD}")


def test_paths_folder_names_and_latest_come_before_a_name(convbatch: Command, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "d.jsonl", 1, 1)
    convbatch("run", dataset, "-m", GOOD, "-o", "results/one", "--no-progress")
    convbatch("run", dataset, "-m", "sim-drift@simulator", "-o", "results/two", "--name", "one", "--no-progress")
    assert GOOD in convbatch("table", "one", "--wide", "reply").out


def test_a_misspelt_name_is_answered_with_the_nearest(convbatch: Command, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "d.jsonl", 1, 1)
    convbatch("run", dataset, "-m", GOOD, "--name", "candidate", "--no-progress")
    assert "did you mean candidate?" in convbatch("table", "canddate").err


def test_a_bad_name_ends_a_run_before_anything_is_sent(convbatch: Command, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "d.jsonl", 1, 1)
    done = convbatch("run", dataset, "--name", "latest")
    assert (done.code, (tmp_path / "results").exists()) == (2, False)
    assert "choose another name" in done.err
