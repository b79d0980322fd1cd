"""Tests of the registry of output formats of `table -o`, `report -o` and `compare -o`."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection
from pathlib import Path
from typing import Any, cast

import pytest

from convbatch.comparison.compare import Comparison
from convbatch.comparison.render import COMPARISON_PARTS, comparison_content
from convbatch.errors import SetupError
from convbatch.reporting.render import REPORT_PARTS, report_content
from convbatch.results.export import FORMATS, TABLE_PARTS, Part, check_files, check_suffix, write_content
from tests.conftest import Command
from tests.support.made_runs import MadeRun, dialogue

PARTS = {"table": TABLE_PARTS, "report": REPORT_PARTS, "compare": COMPARISON_PARTS}


def suffixes(parts: Collection[Part]) -> set[str]:
    return {each.suffix for each in FORMATS if not each.writers.keys().isdisjoint(parts)}


def test_each_command_writes_the_formats_of_its_parts() -> None:
    assert {name: suffixes(parts) for name, parts in PARTS.items()} == {
        "table": {".csv", ".json", ".parquet", ".xlsx"},
        "report": {".csv", ".html", ".json", ".md", ".parquet", ".xlsx"},
        "compare": {".html", ".json", ".md", ".xml"},
    }


def test_the_parts_checked_before_reading_a_run_are_the_parts_offered() -> None:
    assert tuple(report_content([], [], bytes)) == REPORT_PARTS
    assert tuple(comparison_content(cast("Comparison", None))) == COMPARISON_PARTS


@pytest.mark.parametrize("command", PARTS)
def test_the_help_of_a_command_names_each_of_its_formats(command: str, convbatch: Command) -> None:
    words = convbatch(command, "--help").out
    assert [suffix for suffix in sorted(suffixes(PARTS[command])) if suffix not in words] == []


@pytest.mark.parametrize(
    ("name", "parts"),
    [("x.md", TABLE_PARTS), ("x.html", TABLE_PARTS), ("x.csv", COMPARISON_PARTS), ("x", REPORT_PARTS)],
)
def test_a_format_of_another_command_is_refused_with_the_known_ones(name: str, parts: tuple[Part, ...]) -> None:
    with pytest.raises(SetupError, match="cannot tell the format") as caught:
        check_suffix(Path(name), parts)
    hint = caught.value.problems[0].hint or ""
    assert "did you mean" not in hint
    assert [suffix for suffix in sorted(suffixes(parts)) if suffix not in hint] == []


def test_only_the_part_that_a_format_needs_is_computed(tmp_path: Path) -> None:
    def never() -> Any:
        raise AssertionError("not needed")

    write_content({"rows": never, "value": lambda: {"a": 1}, "markdown": never}, tmp_path / "x.JSON")
    assert (tmp_path / "x.JSON").read_bytes() == b'{\n  "a": 1\n}\n'


def test_every_format_has_a_description_and_a_unique_suffix() -> None:
    assert all(each.doc and each.writers and each.suffix == each.suffix.lower() for each in FORMATS)
    assert len({each.suffix for each in FORMATS}) == len(FORMATS)


def test_a_list_of_files_in_one_option_is_refused() -> None:
    with pytest.raises(SetupError, match=r"repeat the option: -o out/a\.csv -o out/b\.json"):
        check_suffix(Path("out/a.csv,b.json"), TABLE_PARTS)
    assert check_suffix(Path("a,b.csv"), TABLE_PARTS).suffix == ".csv"


def test_no_output_replaces_a_part_of_a_run(tmp_path: Path, convbatch: Command) -> None:
    made = MadeRun(tmp_path / "run", [dialogue("d", "u")])
    made.replied(made.ident(0, 1))
    run = made.write().path
    (run / "media").mkdir(exist_ok=True)
    assert convbatch("table", run, "-o", run / "mine.json").code == 0  # makes the tables too
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for part in ("run.json", "turns.parquet", "verdicts.parquet", "media/a.csv", "journal/../run.json"):
        refused = convbatch("table", run, "-o", run / part)
        assert refused.code == 2
        assert "is part of the run" in refused.err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_pipe_is_written_and_never_replaced_by_a_file(tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe.json", tmp_path / "link.json"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    check_files([pipe], ("value",))
    write_content({"value": lambda: {"a": 1}}, pipe)
    reader.join(10)
    assert b'"a": 1' in read[0]
    assert pipe.is_fifo()
    write_content({"value": lambda: {"a": 2}}, link)
    assert link.is_file()
    assert not link.is_symlink(), "a link outside of /dev is not followed"
    assert sorted(tmp_path.iterdir()) == [link, pipe]
