"""Datasets and replies that try to act on files, terminals, spreadsheets and pages are treated as plain text."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from convbatch.cli.main import app
from convbatch.results.run import load
from convbatch.simulator.fault_script import FaultScript
from convbatch.simulator.provider import Provider
from convbatch.simulator.server import serve_in_thread
from tests.conftest import Command, config_for

HOSTILE = (
    '=HYPERLINK("http://evil.example","x")', "+1+cmd|' /C calc'!A0", "-2+3", "@SUM(1)", "\t=1+1", "\r=1+1", "\n=1+1",
    "＝1＋1", "{{7*7}} ${7*7} <%= 7*7 %> {0.__class__.__mro__} %s %n", "$(touch owned) `touch owned` ; touch owned",
    "<script>alert(1)</script><img src=x onerror=alert(1)>", "]]></failure><script/>",
    "[x](javascript:alert(1)) | a | b |\n|---|", "\x1b[2J\x1b]0;title\x07\x1b]8;;http://evil.example\x07x\x1b]8;;\x07",
    "\x9b31m\x9d0;t\x9c", "a\x00b\x7f\x08\x08", "\u202egnp.exe\u2066x", "\u2028\u2029\ufeff\u200b",
    "../../../etc/passwd", "😀 ok", "9" * 5000, "1e999999999", "[" * 5000, "<!DOCTYPE x [<!ENTITY y 'z'>]>",
)  # fmt: skip
IDS = (
    "../../x",
    "/etc/passwd",
    "a/b",
    "-o",
    "..",
    "\x1b[31m",
    "=1+1",
    "x\u202ey",
    "con|<b>",
    "new\nline",
    "~root",
    "%2e%2e",
    "x:y",
)
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def is_printable(text: str) -> bool:
    """Return whether the text has no characters that move a cursor or change the text direction."""
    return not [
        char
        for char in text.replace("\n", "")
        if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")
        or unicodedata.bidirectional(char) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    ]


def reply_body(text: str) -> str:
    parts = [{"text": text}]
    body = {
        "candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": text[:40]}],
        "modelVersion": text,
    }
    return json.dumps(body)


def error_body(text: str) -> str:
    return json.dumps({"error": {"code": 400, "message": text, "status": text}})


@pytest.fixture(scope="module")
def hostile_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield a folder with two runs of hostile dialogues, answered by hostile replies and errors."""
    here = tmp_path_factory.mktemp("hostile") / "inner" / "here"
    here.mkdir(parents=True)
    lines = [
        {
            "id": name if number < len(IDS) else f"d{number}",
            "system": text,
            "tags": [text],
            "turns": [{"user": text, "assistant": text, "checks": [{"contains": text, "name": text}]}],
            "meta": {text: text},
        }
        for number, (name, text) in enumerate(zip((*IDS, *HOSTILE), HOSTILE, strict=False))
    ]  # fmt: skip
    (here / "d.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    before = Path.cwd()
    os.chdir(here)
    try:
        for out in ("a", "b"):
            faults: list[dict[str, Any]] = []
            for number, text in enumerate(HOSTILE, 1):
                is_reply = out == "a" or number % 2 == 1
                body = (
                    {"status": 200, "text": reply_body(text)} if is_reply else {"status": 400, "text": error_body(text)}
                )
                faults.append({"match": {"nth": number}, "action": "body", **body})
            with serve_in_thread(Provider(faults=FaultScript.of(faults))) as server:
                (here / "convbatch.toml").write_text(config_for(server.url))
                done = CliRunner().invoke(app, ["run", "d.jsonl", "-m", "sim-good@at-gemini", "-o", out, "-j", "1"])
            assert done.exit_code in (0, 3), done.output
            assert is_printable(done.output)
        yield here
    finally:
        os.chdir(before)


def output_of(*args: str, codes: tuple[int, ...] = (0, 1, 3)) -> str:
    done = CliRunner().invoke(app, list(args), env={"COLUMNS": "100"})
    assert done.exit_code in codes, done.output
    assert "Traceback" not in done.output
    return done.output


SHOWING_COMMANDS = (
    *(("show", "a", *more) for more in ((), ("../../x",), ("--failed",), ("=1+1",))), ("show", "b", "--failed"),
    *(("report", run, *more) for run in ("a", "b") for more in ((), ("--by", "tag"), ("--by", "dialogue"))),
    ("compare", "a", "b"), ("check", "a"), ("runs",), ("doctor",), ("run", "d.jsonl", "--dry-run", "-m", "x@at-gemini"),
)  # fmt: skip


@pytest.mark.parametrize("command", SHOWING_COMMANDS, ids=" ".join)
def test_a_terminal_receives_only_printable_text(hostile_runs: Path, command: tuple[str, ...]) -> None:
    assert hostile_runs.is_dir()
    assert is_printable(output_of(*command))


@pytest.mark.parametrize("command", [("table", "a"), ("table", "b"), ("table", "a", "--wide", "reply")], ids=" ".join)
def test_no_cell_of_a_spreadsheet_is_a_formula(hostile_runs: Path, command: tuple[str, ...]) -> None:
    out = hostile_runs / "cells.csv"
    output_of(*command, "-o", str(out))
    for text in (out.read_text(encoding="utf-8-sig"), output_of(*command)):
        csv.field_size_limit(10**7)
        cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
        assert len(cells) > 20
        assert not [cell for cell in cells if cell.startswith(FORMULA) and not re.fullmatch(r"-?[0-9.e+-]+", cell)]


def test_json_and_parquet_tables_keep_every_text_unchanged(hostile_runs: Path) -> None:
    output_of("table", "a", "-o", str(hostile_runs / "t.json"))
    output_of("table", "a", "-o", str(hostile_runs / "t.parquet"))
    rows = json.loads((hostile_runs / "t.json").read_bytes())
    assert [row["user"] for row in rows] == [
        text.encode("utf-16", "surrogatepass").decode("utf-16") for text in HOSTILE
    ]
    assert [row["reply"] for row in rows] == [row["user"] for row in rows]
    assert load("a").turns["reply"].tolist() == [row["reply"] for row in rows]


def test_markdown_reports_contain_no_foreign_markup(hostile_runs: Path) -> None:
    for command in (("report", "a", "--by", "tag"), ("report", "b", "--by", "dialogue"), ("compare", "a", "b")):
        page = hostile_runs / "page.md"
        output_of(*command, "-o", str(page))
        text = page.read_text()
        outside = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        assert not re.search(r"(?<!\\)<(?:script|img|b>|!)|(?<!\\)\[x\]", outside)
        assert is_printable(text)


def test_junit_xml_contains_only_known_elements(hostile_runs: Path) -> None:
    output_of("compare", "a", "b", "-o", str(hostile_runs / "j.xml"))
    tags = {element.tag for element in ElementTree.fromstring((hostile_runs / "j.xml").read_bytes()).iter()}
    assert tags <= {
        "testsuites",
        "testsuite",
        "properties",
        "property",
        "testcase",
        "failure",
        "error",
        "skipped",
        "system-out",
    }


def test_json_on_a_terminal_has_no_control_characters(hostile_runs: Path) -> None:
    assert hostile_runs.is_dir()
    for command in (
        ("report", "a", "--by", "tag", "--json"),
        ("compare", "a", "b", "--json"),
        ("validate", "d.jsonl", "--json"),
    ):
        text = output_of(*command)
        assert is_printable(text), command
        json.loads(text)


def test_no_file_is_created_outside_of_the_named_folders(hostile_runs: Path) -> None:
    assert sorted(path.name for path in hostile_runs.parent.parent.iterdir()) == ["inner"]
    assert sorted(path.name for path in hostile_runs.parent.iterdir()) == ["here"]
    inside = {path.name for path in (hostile_runs / "a").rglob("*")}
    known = {"run.json", "dataset.jsonl.gz", "journal", "000001.jsonl", "lock", "turns.parquet", "verdicts.parquet"}
    assert inside == known
    assert not (hostile_runs / "owned").exists()


def test_convert_keeps_hostile_texts_unchanged(hostile_runs: Path) -> None:
    output_of("convert", "d.jsonl", "n.jsonl", codes=(0,))
    again = [json.loads(line) for line in (hostile_runs / "n.jsonl").read_text().split("\n")[:-1]]
    assert [line["turns"][0]["user"] for line in again] == list(HOSTILE)
    (hostile_runs / "n.jsonl").unlink()


# --- paths that are not datasets --------------------------------------------------------------------------------------


@pytest.fixture
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_text("do not show\n")
    return tmp_path


@pytest.mark.parametrize("command", [("validate",), ("run", "-o", "out"), ("convert", "new.jsonl")], ids=" ".join)
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "link to a device", "link to itself"])
def test_a_path_that_is_not_a_file_is_refused_without_waiting(cwd: Path, command: tuple[str, ...], kind: str) -> None:
    path = cwd / "d.jsonl"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device":
            path = Path("/dev/zero")
        case "folder":
            path.mkdir()
        case "link to a device":
            path.symlink_to("/dev/zero")
        case _:
            path.symlink_to(path)
    name, *rest = command
    assert "error: " in output_of(name, str(path), *rest, codes=(1, 2))
    assert not (cwd / "out").exists()


@pytest.mark.parametrize(
    "where", ["../secret", "/etc/passwd", "link", "~/x", "file:///etc/passwd", "http://h/x", "pipe", "a/../../x"]
)
def test_media_paths_cannot_leave_the_folder_of_the_dataset(cwd: Path, where: str) -> None:
    inner = cwd / "data"
    inner.mkdir()
    (inner / "link").symlink_to("../secret")
    os.mkfifo(inner / "pipe")
    line = {"id": "a", "turns": [{"user": [{"text": "x"}, {"image": where}]}]}
    (inner / "d.jsonl").write_text(json.dumps(line) + "\n")
    text = output_of("validate", "data/d.jsonl", codes=(1, 2))
    assert "data/d.jsonl:1: turn 1: image" in text
    assert "do not show" not in text


BOMBS: dict[str, str] = {
    "deep": '{"id":"a","turns":[{"user":"x"}],"meta":' + "[" * 100_000 + "]" * 100_000 + "}",
    "deeper than allowed": '{"id":"a","turns":[{"user":"x"}],"meta":' + '{"a":' * 300 + "1" + "}" * 300 + "}",
    "the same key twice": '{"id":"a","turns":[{"user":"x"}],"id":"b"}',
    "a number of a million digits": '{"id":"a","turns":[{"user":"x"}],"meta":{"n":' + "9" * 1_000_000 + "}}",
    "not a number": '{"id":"a","turns":[{"user":"x"}],"meta":{"n":NaN}}',
    "half a character": '{"id":"a","turns":[{"user":"\\ud800"}]}',
    "a schema from elsewhere": '{"id":"a","turns":[{"user":"x","checks":[{"json_schema":{"$ref":"file:///etc/passwd"}}]}]}',
    "code": '{"id":"a","turns":[{"user":"x","checks":[{"python":"os:system"}]}],"__class__":"x"}',
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_resource_bomb_in_a_line_is_reported_as_a_problem(cwd: Path, bomb: str) -> None:
    (cwd / "d.jsonl").write_text(BOMBS[bomb] + "\n")
    assert "d.jsonl:1: " in output_of("validate", "d.jsonl", codes=(1, 2))


@pytest.mark.slow
def test_a_dialogue_of_ten_thousand_turns_and_a_turn_of_ten_megabytes_work(command: Command, tmp_path: Path) -> None:
    turns = [{"user": f"{number}", "assistant": "x"} for number in range(10_000)]
    lines = [
        {"id": "long", "turns": turns},
        {"id": "large", "turns": [{"user": "x" * 10_000_000}]},
    ]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = command(
        "run", "d.jsonl", "-m", "sim-echo@simulator", "--history", "last", "-o", "out", "--no-progress", timeout=120
    )
    assert done.code == 0, done.err
    for args in (
        ("show", "out", "long"),
        ("table", "out", "-o", "t.csv"),
        ("report", "out"),
        ("validate", "d.jsonl"),
    ):
        assert command(*args, timeout=60).code == 0
