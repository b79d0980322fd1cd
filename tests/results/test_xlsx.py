"""Tests of workbooks: what openpyxl reads from a file that was written, limits of a sheet, memory."""

from __future__ import annotations

import errno
import gc
import io
import re
import resource
import tempfile
import tracemalloc
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import repeat
from pathlib import Path
from typing import Any

import openpyxl
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openpyxl.utils.escape import unescape

from convbatch.errors import SetupError
from convbatch.results.columns import TURNS, Column, Dtype
from convbatch.results.export import write_content, write_table
from convbatch.results.parquet import Rows
from convbatch.results.xlsx import MAX_ROWS, MAX_TEXT, Sheet, sheet_name, write_workbook
from tests.conftest import Command, examples
from tests.support.made_runs import MadeRun, dialogue

KINDS: dict[str, Dtype] = {
    "reply": "string", "turns": "Int64", "cost": "Float64", "share": "Float64", "latency_s": "Float64",
    "passed": "boolean", "tags": "list[string]", "started_at": "timestamp[us, UTC]",
}  # fmt: skip
STARTED = datetime(2026, 11, 21, 23, 30, 0, 250_000, tzinfo=UTC)


def table(*rows: tuple[Any, ...], columns: Sequence[str] = tuple(KINDS)) -> Rows:
    return Rows(columns=[Column(name, KINDS[name], "") for name in columns], rows=iter(rows))


def texts(*values: str) -> Rows:
    return table(*((value,) for value in values), columns=["reply"])


def written(content: Rows | pd.DataFrame, path: Path) -> Any:
    """Write a table and return the sheet as openpyxl reads it."""
    write_table(content, path)
    return openpyxl.load_workbook(path).worksheets[0]


def column(sheet: Any) -> list[Any]:
    return [unescape(row[0]) if isinstance(row[0], str) else row[0] for row in sheet.iter_rows(2, values_only=True)]


def test_values_have_their_types_and_formats(tmp_path: Path) -> None:
    sheet = written(table(("好", 1234, 0.000012, 0.5, 1.25, True, ["x", "=y"], STARTED)), tmp_path / "x.xlsx")
    cells = next(iter(sheet.iter_rows(2, 2)))
    assert [cell.value for cell in cells] == [
        "好", 1234, 0.000012, 0.5, 1.25, True, '["x", "=y"]', STARTED.replace(tzinfo=None)
    ]  # fmt: skip
    formats = [cell.number_format for cell in cells]
    assert formats[1:5] == ["#,##0", "#,##0.00######", "0.0%", "#,##0.000"]
    assert cells[-1].is_date
    assert formats[-1].endswith('"Z"')
    assert cells[0].alignment.wrap_text


def test_the_header_stays_and_has_filters(tmp_path: Path) -> None:
    sheet = written(texts("a", "b"), tmp_path / "x.xlsx")
    assert (sheet.freeze_panes, sheet.auto_filter.ref, sheet["A1"].font.bold) == ("A2", "A1:A3", True)


def test_unknown_is_no_cell_and_differs_from_an_empty_text(tmp_path: Path) -> None:
    sheet = written(table((None,) * len(KINDS), ("", *(None,) * (len(KINDS) - 1))), tmp_path / "x.xlsx")
    assert [cell.value for cell in sheet[2]] == [None] * len(KINDS)
    assert sheet["A3"].value == ""


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋"])
def test_a_text_that_looks_like_a_formula_stays_a_text(start: str, tmp_path: Path) -> None:
    text = f'{start}HYPERLINK("http://127.0.0.1/?"&A1)'
    sheet = written(table((text,), columns=["reply"]), tmp_path / "x.xlsx")
    assert column(sheet) == [text]
    assert sheet["A2"].data_type == "s"
    assert sheet["A2"].quotePrefix  # also after someone edits the cell


@settings(max_examples=examples(20))
@given(st.lists(st.text(st.characters(codec=None), max_size=20), max_size=50))
def test_any_text_is_read_back_without_what_xml_cannot_hold(
    tmp_path_factory: pytest.TempPathFactory, values: list[str]
) -> None:
    path = tmp_path_factory.mktemp("x") / "x.xlsx"
    expected = [re.sub("[\ud800-\udfff\ufffe\uffff]", "\ufffd", value) for value in values]
    assert column(written(texts(*values), path)) == expected


def test_a_text_longer_than_a_cell_is_cut_and_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fits = "😀" * (MAX_TEXT // 2)
    first, second, third = column(written(texts(fits, fits + "ab", "x" * 40_000), tmp_path / "x.xlsx"))
    assert first == fits
    assert second.startswith("😀😀")
    assert len(second.encode("utf-16-le")) // 2 <= MAX_TEXT
    assert third.endswith("x… [cut: 40,000 characters]")
    assert len(third) == MAX_TEXT
    said = capsys.readouterr().err
    assert said.startswith("2 texts were longer than the 32,767 characters")
    assert ".parquet" in said


@pytest.mark.parametrize(
    ("number", "cell"),
    [(2**53, 2**53), (2**53 + 1, str(2**53 + 1)), (-(2**70), str(-(2**70))), (float("nan"), "NaN"),
     (float("-inf"), "-Infinity"), (1e300, 1e300)],
)  # fmt: skip
def test_a_number_that_a_sheet_would_change_is_a_text(number: float, cell: Any, tmp_path: Path) -> None:
    assert column(written(table((number,), columns=["turns"]), tmp_path / "x.xlsx")) == [cell]


def test_a_time_before_the_calendar_of_sheets_is_a_text(tmp_path: Path) -> None:
    time = datetime(1815, 12, 10, tzinfo=UTC)
    assert column(written(table((time,), columns=["started_at"]), tmp_path / "x.xlsx")) == [time.isoformat()]


def test_a_table_with_too_many_rows_is_refused_before_it_is_read(tmp_path: Path) -> None:
    def never() -> Iterator[tuple[Any]]:
        raise AssertionError("read")
        yield

    rows = Rows(columns=[Column("reply", "string", "")], rows=never())
    with pytest.raises(SetupError, match=r"1,048,575 rows below its header, the table 1,048,576") as caught:
        write_table(rows, tmp_path / "x.xlsx", row_count=MAX_ROWS)
    assert ".parquet" in str(caught.value.problems[0].hint)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_table_that_turns_out_too_long_leaves_no_file(tmp_path: Path) -> None:
    rows = Rows(columns=[Column("turns", "Int64", "")], rows=repeat((None,), MAX_ROWS))
    with pytest.raises(SetupError, match="the table more"):
        write_table(rows, tmp_path / "x.xlsx")
    assert list(tmp_path.iterdir()) == []


class FullDisk(io.BytesIO):
    def write(self, data: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_one_error(tmp_path: Path) -> None:
    with FullDisk() as file, pytest.raises(OSError, match="No space left"):
        write_workbook([Sheet(name="x", table=texts("x"))], file)
    gc.collect()


def test_a_full_temporary_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(SetupError, match=f"cannot write to {tmp_path}") as caught:
            write_table(texts(*["x" * 1000] * 200), tmp_path / "x.xlsx")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "TMPDIR" in str(caught.value.problems[0].hint)
    assert list(tmp_path.iterdir()) == []


def test_a_table_with_too_many_columns_is_refused(tmp_path: Path) -> None:
    columns = [Column(str(number), "Int64", "") for number in range(16_385)]
    with pytest.raises(SetupError, match="16,384 columns, the table 16,385"):
        write_table(Rows(columns=columns, rows=iter([])), tmp_path / "x.xlsx")


@given(st.lists(st.text(st.characters(codec=None), max_size=40), max_size=8))
def test_names_of_sheets_are_valid_and_unique(names: list[str]) -> None:
    taken: list[str] = []
    for name in names:
        taken.append(sheet_name(name, taken))
    assert all(1 <= len(name) <= 31 and not set(name) & set("[]:*?/\\") and name.strip("'") == name for name in taken)
    assert len({name.casefold() for name in taken}) == len(taken)
    assert "history" not in {name.casefold() for name in taken}


def test_a_hostile_sheet_name_opens(tmp_path: Path) -> None:
    sheet = Sheet(name="<a>&'/*[x]\ud800" * 9, table=texts("x"), notes=["=1+1", "two\nlines"])
    write_content({"sheets": lambda: [sheet, sheet]}, tmp_path / "x.xlsx")
    first, second = openpyxl.load_workbook(tmp_path / "x.xlsx").worksheets
    assert first.title != second.title
    assert column(first) == ["x", None, "=1+1", "two", "lines"]
    assert first.auto_filter.ref == "A1:A2"  # the notes are not sorted with the rows


def test_table_and_report_write_workbooks(tmp_path: Path, convbatch: Command) -> None:
    made = MadeRun(tmp_path / "run", [dialogue("=d", "今天是几号")])
    made.replied(made.ident(0, 1))
    run = str(made.write().path)
    assert convbatch("table", run, "-o", str(tmp_path / "t.xlsx")).code == 0
    turns, meanings = openpyxl.load_workbook(tmp_path / "t.xlsx").worksheets
    assert (turns.title, meanings.title) == ("turns", "columns")
    header, row = turns.iter_rows(values_only=True)
    assert header == tuple(each.name for each in TURNS)
    assert row[header.index("dialogue")] == "=d"
    assert [row[0] for row in meanings.iter_rows(2, values_only=True)] == list(header)
    assert convbatch("table", run, "--wide", "cost", "-o", str(tmp_path / "w.xlsx")).code == 0
    assert convbatch("report", run, "-o", str(tmp_path / "r.xlsx")).code == 0
    usage, *others = openpyxl.load_workbook(tmp_path / "r.xlsx").worksheets
    assert (usage.title, usage["A2"].value) == ("Usage and cost", "run")
    assert "Finish reasons" in [sheet.title for sheet in others]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows() -> None:
    def peak(count: int) -> int:
        rows = ((f"text {number} 今天",) * 10 for number in range(count))
        table = Rows(columns=[Column(f"c{number}", "string", "") for number in range(10)], rows=rows)
        tracemalloc.start()
        write_workbook([Sheet(name="x", table=table)], io.BytesIO())
        _, found = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return found

    peak(10)  # imports
    assert peak(1_000) < peak(100) + 500_000
