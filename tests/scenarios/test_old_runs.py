"""Run folders of earlier versions can be read, compared and resumed with the same results.

`old_runs/` has the folders and the earlier version's output. Sentences are not compared, because they may be reworded;
names, numbers, and texts of dialogues and replies are.
"""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import convbatch as cb
from tests.conftest import Command

TESTS = next(folder for folder in Path(__file__).parents if folder.name == "tests")
ARCHIVE = TESTS / "old_runs" / "v0.1.0" / "runs.tar.gz"

PROSE = {"title", "notes", "summary", "reason", "base_reason", "candidate_reason"}
MEASURED = {"latency_s", "limiter_wait_s", "retry_wait_s", "started_at"}
JUDGED = {"checks_without_verdict", "repairs", "without_verdict"}
LATER = {
    "cache_saving",
    "service_tier",
    "mean_logprob",
    "chunks",
    "itl_p50_s",
    "itl_p95_s",
    "wire_note",
    "served_as_asked",
    "possibly_paid_unbounded",
    "media",
    "step",
    "kept",
    "variant",
    *JUDGED,
}
"""Columns and keys of later versions."""
REPLACED = {"currency", "histories_cut", "warnings", "gate", "harm_bound", "dialogues_for_margin"}
"""Keys that were added, and figures that are computed by another method since (`docs/decisions/018-harm-bound.md`)."""
GOOD, DRIFT = "sim-good@simulator", "sim-drift@simulator"
INCOMPLETE, INCONCLUSIVE = 3, 3


@pytest.fixture
def expected(tmp_path: Path) -> Path:
    """Unpack the folders into the working directory, and return the folder of the earlier version's output."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    # The settings are in the run folders. A config with the same settings would hide a failure to read them there.
    (tmp_path / "convbatch.toml").rename(tmp_path / "made.toml")
    return tmp_path / "expected"


def without(value: Any, names: set[str]) -> Any:
    """Return the JSON value without the keys of these names."""
    match value:
        case dict():
            return {name: without(item, names) for name, item in value.items() if name not in names}
        case list():
            return [without(item, names) for item in value]
        case _:
            return value


def stored(path: Path, *, masked: set[str] = PROSE) -> Any:
    return without(json.loads(path.read_text("utf-8")), masked)


def table(convbatch: Command, folder: str, *, masked: set[str] = PROSE) -> Any:
    done = convbatch("table", folder, "-o", f"{folder}.json")
    assert done.code == 0, done.err
    return stored(Path(f"{folder}.json"), masked=masked | LATER)


def verdicts(folder: str, *, masked: set[str] = PROSE) -> Any:
    return without(json.loads(str(cb.load(folder).verdicts.to_json(orient="records"))), masked | {"variant"})


def records(folder: str) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for segment in sorted(Path(folder, "journal").glob("*.jsonl"))
        for line in segment.read_text("utf-8").splitlines()
    ]


def rows(table: list[dict[str, Any]], *statuses: str) -> set[tuple[str, str, int]]:
    return {place(row) for row in table if row["status"] in statuses}


def place(row: dict[str, Any]) -> tuple[str, str, int]:
    return row["dialogue"], row["target"], row["turn"]


def test_a_finished_folder_has_the_same_rows_and_verdicts(expected: Path, convbatch: Command) -> None:
    rows = table(convbatch, "old-finished")
    assert rows == stored(expected / "finished-table.json")
    assert {row["status"] for row in rows} == {"ok", "blocked", "error", "skipped"}
    assert verdicts("old-finished") == stored(expected / "finished-verdicts.json")


def test_rebuilt_tables_are_the_same(expected: Path, convbatch: Command) -> None:
    for kept in Path("old-finished").glob("*.parquet"):
        kept.unlink()
    assert table(convbatch, "old-finished") == stored(expected / "finished-table.json")
    assert verdicts("old-finished") == stored(expected / "finished-verdicts.json")


@pytest.mark.parametrize(
    ("folder", "by", "file"),
    [
        ("old-finished", "target", "finished-report.json"),
        ("old-finished", "tag,target", "finished-report-by-tag.json"),
        ("old-interrupted", "target", "interrupted-report.json"),
    ],
)
def test_reports_are_the_same(expected: Path, convbatch: Command, folder: str, by: str, file: str) -> None:
    done = convbatch("report", folder, "--by", by, "--json")
    assert done.code == 0, done.err
    assert without(json.loads(done.out), PROSE | JUDGED) == stored(expected / file)


def test_comparisons_are_the_same(expected: Path, convbatch: Command) -> None:
    done = convbatch("compare", f"old-finished:{GOOD}", f"old-finished:{DRIFT}", "--json")
    assert done.code == INCONCLUSIVE, done.err
    again = without(json.loads(done.out), PROSE | JUDGED | {"served", "score_change"} | REPLACED)
    before = stored(expected / "finished-compare.json", masked=PROSE | REPLACED)
    for each in (again, before):  # the worst are first since
        each["flipped"].sort(key=lambda flip: (flip["dialogue"], flip["turn"]))
    assert again == before


def test_transcripts_show_the_same_words(expected: Path, convbatch: Command) -> None:
    done = convbatch("show", "old-finished")
    assert done.code == 0, done.err
    before = Counter((expected / "finished-show.txt").read_text("utf-8").split())
    assert before - Counter(done.out.split()) == Counter(), "verdicts were added since, and nothing left out"


def test_resume_of_a_finished_folder_repeats_only_failed_turns(expected: Path, convbatch: Command) -> None:
    before = records("old-finished")
    done = convbatch("resume", "old-finished", "--no-progress")
    assert done.code == INCOMPLETE, done.err
    asked = [place(record) for record in records("old-finished")[len(before) :] if record["kind"] == "intent"]
    assert sorted(asked) == sorted(rows(stored(expected / "finished-table.json"), "error"))


def test_the_replies_of_an_old_folder_are_reused(expected: Path, convbatch: Command) -> None:
    done = convbatch("run", "made.jsonl", "-c", "made.toml", "--reuse", "old-finished", "-o", "new", "--no-progress")
    assert done.code == INCOMPLETE, done.err
    asked = [place(record) for record in records("new") if record["kind"] == "intent"]
    assert sorted(asked) == sorted(rows(stored(expected / "finished-table.json"), "error"))


def test_an_interrupted_folder_has_the_same_rows(expected: Path, convbatch: Command) -> None:
    rows = table(convbatch, "old-interrupted")
    assert rows == stored(expected / "interrupted-table.json")
    assert {row["status"] for row in rows} == {"ok", "pending"}
    assert sum(row["possibly_paid"] for row in rows) > 0


def test_an_interrupted_folder_resumes_to_the_same_rows(expected: Path, convbatch: Command) -> None:
    segment = Path("old-interrupted/journal/000001.jsonl")
    before, old = segment.read_bytes(), records("old-interrupted")
    done = convbatch("resume", "old-interrupted", "--no-progress")
    assert done.code == INCOMPLETE, done.err

    masked = PROSE | MEASURED
    after = stored(expected / "resumed-table.json", masked=masked)
    assert table(convbatch, "old-interrupted", masked=masked) == after
    # The simulated judge answers the rubric `polite` at random, seeded by the wording of its question.
    by_words = [row for row in verdicts("old-interrupted", masked=PROSE | {"judge_reply"}) if row["check"] != "polite"]
    kept = stored(expected / "resumed-verdicts.json", masked=PROSE | {"judge_reply"})
    assert by_words == [row for row in kept if row["check"] != "polite"]

    assert segment.read_bytes().startswith(before)
    asked = [r for r in records("old-interrupted")[len(old) :] if r["kind"] == "intent" and r["role"] == "model"]
    open_rows = rows(stored(expected / "interrupted-table.json"), "pending") - rows(after, "skipped")
    assert sorted(map(place, asked)) == sorted(open_rows)
