"""XLSX files as datasets: the cells as a spreadsheet shows them, and a place for everything that cannot be read."""

from __future__ import annotations

import datetime
import functools
import io
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convbatch.dataset.csv_dialogues import CsvDialogues
from convbatch.dataset.reader import Located, Reader
from convbatch.dataset.xlsx_rows import XlsxRows
from convbatch.errors import Problem
from tests.conftest import Command

HEAD = ["id", "turn", "user", "assistant", "tags"]
ROWS: list[Sequence[Any]] = [HEAD, ["d1", 1, "今天是几号", "星期六", "date;zh"], ["d1", 2, "明天呢", None, None]]


def write(path: Any, rows: Sequence[Sequence[Any]] = ROWS, change: Callable[[Any], object] = lambda _: None) -> Any:
    book: Any = openpyxl.Workbook()
    for row in rows:
        book.active.append(list(row))
    change(book)
    book.save(path)
    return path


def edited(path: Path, part: str, edit: Callable[[bytes], bytes]) -> Path:
    """Replace a part of an XLSX file by an edited one."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, edit(content) if name == part else content)
    return path


def problems(path: Path) -> list[str]:
    return [str(item) for item in Reader([path]) if isinstance(item, Problem)]


def cells(path: Path) -> list[dict[str, Any]]:
    return [row.value for row in XlsxRows(path)]


def test_a_sheet_of_turns_is_the_dialogues_of_the_same_csv_file(tmp_path: Path) -> None:
    write(tmp_path / "d.xlsx", [*ROWS, [], ["d2", 1, 42, None, "x"]])
    (tmp_path / "d.csv").write_text(
        "id,turn,user,assistant,tags\nd1,1,今天是几号,星期六,date;zh\nd1,2,明天呢,,\n\nd2,1,42,,x\n"
    )
    read = {
        suffix: [
            (item.place.line, item.dialogue) for item in Reader([tmp_path / f"d.{suffix}"]) if isinstance(item, Located)
        ]
        for suffix in ("csv", "xlsx")
    }
    assert read["xlsx"] == read["csv"]
    assert len(read["xlsx"]) == 2


def test_cells_become_the_text_that_a_spreadsheet_shows(tmp_path: Path) -> None:
    values = [
        1.0,
        2.7000000000000002,
        10**12,
        0.1 + 0.2,
        -3,
        True,
        "007",
        " a\nb ",
        None,
        1e300,
        datetime.date(2025, 12, 26),
        datetime.datetime(2025, 12, 26, 14, 30),  # noqa: DTZ001  # cells have no time zone
        datetime.time(9, 5),
    ]
    path = write(tmp_path / "d.xlsx", [["v", "w"], *([value, "w"] for value in values)])
    assert [row["v"] for row in cells(path)] == [
        "1", "2.7", "1000000000000", "0.3", "-3", "TRUE", "007", " a\nb ", "", "1e+300",
        "2025-12-26", "2025-12-26 14:30:00", "09:05:00",
    ]  # fmt: skip


def test_a_merged_id_holds_for_its_rows_and_a_merged_message_is_refused(tmp_path: Path) -> None:
    rows = [HEAD, ["d1", 1, "one", "1", "t"], [None, 2, "two", None, None], ["d2", 1, "three", None, None]]
    path = write(tmp_path / "d.xlsx", rows, lambda book: book.active.merge_cells("A2:A3"))
    assert [(item.dialogue.id, len(item.dialogue.turns)) for item in Reader([path]) if isinstance(item, Located)] == [
        ("d1", 2),
        ("d2", 1),
    ]

    def merge(book: Any) -> None:
        book.active.merge_cells("A2:A3")
        book.active.merge_cells("C2:C3")

    found = problems(write(tmp_path / "e.xlsx", rows, merge))
    assert [line.split("\n")[0] for line in found] == [f"{tmp_path}/e.xlsx:2: Sheet!C2: merged cells"]


@pytest.mark.parametrize(
    ("row", "place", "what"),
    [
        (["a", 1, "=A1&B1"], "2: Sheet!C2", "a formula without a stored value"),
        (["a", 1, "hi", None, None, "x"], "2: Sheet!F2", "a cell in a column without a name"),
        (["a", 2, "hi"], "2: turn 1", '"turn" is not 1'),
    ],
)
def test_a_problem_names_its_row_and_cell(row: list[Any], place: str, what: str, tmp_path: Path) -> None:
    (found,) = problems(write(tmp_path / "d.xlsx", [HEAD, row]))
    assert found.startswith(f"{tmp_path}/d.xlsx:{place}: {what}\n")
    assert "hint:" in found


def test_a_calculated_formula_is_its_value_and_an_error_is_a_problem(tmp_path: Path) -> None:
    def calculated(content: bytes) -> bytes:
        content = content.replace(b"<f>A1</f><v />", b"<f>A1</f><v>7</v>").replace(
            b"<f>A2</f><v />", b"<f>A2</f><v></v>"
        )
        return content.replace(b'<c r="B2"><f>A2', b'<c r="B2" t="str"><f>A2').replace(
            b'<c r="C2"><f>A3</f><v />', b'<c r="C2" t="e"><f>A3</f><v>#DIV/0!</v>'
        )

    path = write(tmp_path / "d.xlsx", [["a", "b", "c"], ["=A1", "=A2", "=A3"]])
    first, second = (
        next(iter(XlsxRows(edited(write(tmp_path / name, rows), "xl/worksheets/sheet1.xml", calculated))))
        for name, rows in (
            ("v.xlsx", [["a", "b"], ["=A1", "=A2"]]),
            (path.name, [["a", "b", "c"], ["=A1", "=A2", "=A3"]]),
        )
    )
    assert first.value == {"a": "7", "b": ""}
    assert second.issue is not None
    assert (second.issue.field, second.issue.found) == ("Sheet!C2", "#DIV/0!")


def test_other_sheets_are_named_in_a_note(convbatch: Command, tmp_path: Path) -> None:
    write(tmp_path / "d.xlsx", change=lambda book: book.create_sheet("more"))
    done = convbatch("convert", "d.xlsx", "out.jsonl")
    assert done.code == 0, done.err
    assert 'note: d.xlsx: only the first sheet is read, not "more"' in done.err
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 1


def test_a_table_of_rows_for_a_template_may_be_a_sheet(convbatch: Command, tmp_path: Path) -> None:
    write(tmp_path / "rows.xlsx", [["country", "year"], ["France", 1999.0]])
    (tmp_path / "t.jsonl").write_text('{"id": "t", "turns": [{"user": "{{country}} in {{year}}?"}]}\n')
    assert convbatch("expand", "t.jsonl", "rows.xlsx", "out.jsonl").code == 0
    assert "France in 1999?" in (tmp_path / "out.jsonl").read_text()


def zipped(**parts: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(f"{name}.xml", content)
    return made.getvalue()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "not an XLSX file"),
        (b'{"turns": []}\n', "it looks like JSON"),
        (b"id,user\na,b\n", "it looks like CSV"),
        (b"\xd0\xcf\x11\xe0rest", "old or encrypted Office document"),
        (b"PK\x03\x04rest", "the XLSX file is damaged"),
        (zipped(a=b"x"), "the XLSX file is damaged"),
        (zipped(a=b'<!DOCTYPE x [<!ENTITY a "b">]><x/>'), "a document type declaration"),
    ],
)
def test_a_file_that_is_no_sheet_is_named_for_what_it_is(content: bytes, what: str, tmp_path: Path) -> None:
    (tmp_path / "d.xlsx").write_bytes(content)
    (found,) = problems(tmp_path / "d.xlsx")
    assert found.startswith(f"{tmp_path}/d.xlsx: ")
    assert what in found
    assert "hint: " in found


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = write(tmp_path / "d.xlsx")
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02")
    content[at + 24 : at + 28] = (2**31).to_bytes(4, "little")  # the unpacked size of the first part
    path.write_bytes(content)
    (found,) = problems(path)
    assert "an XLSX file of more than 512 MiB when it is unpacked" in found


def test_rows_out_of_order_are_refused_as_they_would_be_lost(tmp_path: Path) -> None:
    path = edited(write(tmp_path / "d.xlsx"), "xl/worksheets/sheet1.xml", lambda xml: xml.replace(b'r="3"', b'r="1"'))
    (found,) = problems(path)
    assert "row 1 after row 2" in found


@functools.cache
def whole() -> bytes:
    made = io.BytesIO()
    write(made)
    return made.getvalue()


@settings(max_examples=15, deadline=None)
@given(part=st.integers(0), at=st.integers(0), junk=st.binary(max_size=12), cut=st.integers(0, 40))
def test_a_damaged_file_gives_rows_or_problems(
    part: int, at: int, junk: bytes, cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.xlsx"
    path.write_bytes(whole())
    with zipfile.ZipFile(path) as archive:
        name = archive.namelist()[part % len(archive.namelist())]
    edited(path, name, lambda text: text[: (start := at % len(text))] + junk + text[start + cut :])
    for line in CsvDialogues(path):
        assert (line.issue is None) == bool(line.value.get("rows"))


def test_without_openpyxl_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "d.xlsx")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    (found,) = problems(path)
    assert "pip install 'convbatch[xlsx]'" in found
