from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convbatch.dataset.expand import expand, fill_text
from convbatch.dataset.selection import load_dialogues
from convbatch.errors import InputError, SetupError
from convbatch.tools import ToolCall
from tests.conftest import Command
from tests.support.tables import each

TEMPLATE = {
    "id": "cap",
    "system": "You know {{country}}.",
    "tags": ["{{region}}"],
    "turns": [
        {
            "user": [{"text": "Capital of {{ country }}?"}, {"text": "{{no name"}],
            "assistant": "{{capital}}",
            "checks": [
                {"contains": "{{n}}", "name": "n of {{country}}"},
                {"number": {"value": "{{n}}", "tolerance": 0.5}},
                {"contains_any": ["{{capital}}", "x"]},
            ],
        }
    ],
}
ROWS = '\ufeffcountry,capital,region,n,spare\r\n"France, la","Pa""ris",eu,7,1\r\n\r\n中国,"北\n京 {{n}}",as,8.5,2\r\n'


def write(folder: Path, rows: str | bytes, *, name: str = "rows.csv", template: Any = TEMPLATE) -> tuple[Path, ...]:
    paths = (folder / "t.jsonl", folder / name, folder / "out.jsonl")
    paths[0].write_text(json.dumps(template, ensure_ascii=False) + "\n", encoding="utf-8")
    paths[1].write_bytes(rows if isinstance(rows, bytes) else rows.encode())
    return paths


def test_every_row_fills_every_text_of_a_template_once(convbatch: Command, tmp_path: Path) -> None:
    write(tmp_path, ROWS)
    done = convbatch("expand", "t.jsonl", "rows.csv", "out.jsonl")
    assert done.code == 0, done.err
    assert '1 column is unused: "spare"' in done.err
    first, second = load_dialogues([tmp_path / "out.jsonl"])
    assert first.to_plain() == {
        "id": "cap/1",
        "system": "You know France, la.",
        "tags": ["eu"],
        "turns": [
            {
                "user": [{"text": "Capital of France, la?"}, {"text": "{{no name"}],
                "assistant": 'Pa"ris',
                "checks": [
                    {"contains": "7", "name": "n of France, la"},
                    {"number": {"value": 7, "tolerance": 0.5}},
                    {"contains_any": ['Pa"ris', "x"]},
                ],
            }
        ],
    }
    assert (second.id, second.turns[0].assistant) == ("cap/2", "北\n京 {{n}}")


def test_json_rows_keep_numbers_and_name_their_dialogues(tmp_path: Path) -> None:
    rows = '{"id": "k", "country": "a", "capital": "b", "region": "c", "n": 1.5}\n'
    template, table, out = write(tmp_path, rows, name="rows.jsonl")
    assert expand(template, table, out).dialogues == 1
    [dialogue] = load_dialogues([out])
    assert (dialogue.id, dialogue.turns[0].checks[0]["contains"]) == ("cap/k", "1.5")


@each(
    ("name", "rows", "words"),
    [
        ("r.csv", "countri,capital,region,n\na,b,c,1\n", ["t.jsonl:1: ", 'no column "country"', "mean 'countri'"]),
        ("r.csv", "country,capital,region\na,b,c\n", ["t.jsonl:1: turn 1: ", 'no column "n"']),
        ("r.csv", "a,b\n1,2\n\n3\n", ["r.csv:4: 1 cell in a file of 2 columns"]),
        ("r.csv", 'a,b\n1,"2\n', ["r.csv:2: not CSV", "in quotes"]),
        ("r.csv", "a,a\n1,2\n", ['two columns named "a"']),
        ("r.csv", "a,b\n", ["no row under the column names"]),
        ("r.csv", "", ["the file is empty"]),
        ("r.csv", "a,b\n中国,x\n".encode("gbk"), ["r.csv:2: not UTF-8", "GB18030", "iconv"]),
        ("r.csv", "a,b\n".encode("utf-16"), ["UTF-16"]),
        ("r.jsonl", '{"country": "a", "capital": [1]}\n', ['r.jsonl:1: column "capital" is no text']),
        (
            "r.jsonl",
            '{"country": "a", "capital": "b", "region": "c", "n": 1}\n'
            '{"country": "a", "capital": null, "region": "c", "n": 1}\n',
            ["r.jsonl:2: ", 'no value for "capital"', "t.jsonl:1: turn 1"],
        ),
        (
            "r.csv",
            "id,country,capital,region,n\nk,a,b,c,1\nk,a,b,c,1\n",
            ["r.csv:3: ", 'id "cap/k" is used twice', "line 2"],
        ),
        ("r.csv", "country,capital,region,n\na,b,c,many\n", ["r.csv:2: in ", "turn 1", "number"]),
        ("r.csv", "country;capital;region;n\na;b;c;1.000\n", ["r.csv:2: in ", "turn 1", "number", '"1.000"']),
    ],
)
def test_a_row_or_column_that_cannot_be_used_is_an_error_with_its_place(
    tmp_path: Path, name: str, rows: str | bytes, words: list[str]
) -> None:
    template, table, out = write(tmp_path, rows, name=name)
    with pytest.raises(InputError) as refused:
        expand(template, table, out)
    assert [word for word in words if word not in str(refused.value)] == []
    assert not out.exists()


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    template, table, out = write(tmp_path, ROWS)
    out.write_text("mine")
    with pytest.raises(SetupError, match="exists already"):
        expand(template, table, out)
    assert out.read_text() == "mine"


def test_a_placeholder_that_is_not_filled_is_named(tmp_path: Path) -> None:
    template, table, out = write(tmp_path, "a\n1\n", template={"turns": [{"user": "u"}], "meta": {"k": "{{a}}"}})
    notes = expand(template, table, out).notes
    assert any("in meta is not filled" in note for note in notes)
    assert any("1 equal dialogue" in note for note in notes)


def test_scripted_calls_and_results_are_filled(tmp_path: Path) -> None:
    call = {"name": "f", "arguments": {"city": "{{c}}"}, "result": "{{t}} °C"}
    turns = [{"user": "u", "tool_calls": [call]}]
    results = {"f": [{"match": {"city": "{{c}}"}, "result": "{{t}} °C"}]}
    plain = {"id": "w", "tools": [{"name": "f"}], "tool_results": results, "turns": turns}
    template, table, out = write(tmp_path, "c,t\nLima,21\n", template=plain)
    assert expand(template, table, out).notes == []
    [dialogue] = load_dialogues([out])
    assert dialogue.tool_results == {"f": [{"match": {"city": "Lima"}, "result": "21 °C"}]}
    assert dialogue.turns[0].tool_calls[0][0][:2] == (ToolCall(None, "f", {"city": "Lima"}), "21 °C")


NAMES = st.sampled_from(["a", "b c", "名", "x.y"])
PIECES = st.one_of(
    NAMES.map(lambda name: ("name", name)), st.text("{} x\n", max_size=3).map(lambda text: ("text", text))
)


@settings(max_examples=40)
@given(st.lists(PIECES), st.dictionaries(NAMES, st.text(max_size=4)))
def test_a_text_is_the_same_with_its_placeholders_replaced(
    pieces: list[tuple[str, str]], values: dict[str, str]
) -> None:
    # A separator keeps braces of a text from joining those of a placeholder.
    text = "|".join(f"{{{{{piece}}}}}" if kind == "name" else piece for kind, piece in pieces)
    expected = "|".join(values.get(piece, f"{{{{{piece}}}}}") if kind == "name" else piece for kind, piece in pieces)
    assert fill_text(text, values) == expected


@settings(max_examples=15)
@given(st.lists(st.tuples(st.text("ab,\"' \n;中", min_size=1), st.integers(-9, 9)), min_size=1, max_size=5))
def test_the_cells_of_a_csv_file_are_read_back_as_they_were(cells: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        quoted = "".join(f'"{text.replace(chr(34), chr(34) * 2)}",{number}\n' for text, number in cells)
        template = {"id": "t", "turns": [{"user": "<{{text}}>", "checks": [{"equals": "{{n}}"}]}]}
        source, table, out = write(Path(folder), "text,n\n" + quoted, template=template)
        expand(source, table, out)
        read = [(turn.user_text, turn.checks[0]["equals"]) for d in load_dialogues([out]) for turn in d.turns]
    assert read == [(f"<{text}>", str(number)) for text, number in cells]
