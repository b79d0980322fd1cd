from __future__ import annotations

import dataclasses
import gc
import gzip
import json
import os
import re
import string
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convbatch.checks.builtin import CHECKS
from convbatch.dataset.selection import EVERYTHING, Selection, convert, load_dialogues, scan
from convbatch.dataset.snapshot import fingerprint_source, read_copy, write_copy
from convbatch.dialogue import SETTING_NAMES, Dialogue, HistoryMode, Part, Settings, Turn, text_part
from convbatch.errors import InputError, Problem, SetupError
from convbatch.system import Disk
from tests.conftest import examples
from tests.support.tables import each

PNG = b"\x89PNG\r\n\x1a\n"
QUICKSTART = Path(__file__).parents[2] / "datasets" / "quickstart.jsonl"
GOOD = '{"id": "a", "turns": [{"user": "Hello", "assistant": "Hi"}]}'


def written(folder: Path, content: str | bytes, name: str = "d.jsonl") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def problems_of(*paths: Path) -> list[str]:
    return [str(item) for item in scan(paths) if isinstance(item, Problem)]


def problems_in(folder: Path, *lines: str) -> list[str]:
    return [text.replace(f"{folder}/", "") for text in problems_of(written(folder, "\n".join(lines) + "\n"))]


def turn(**keys: Any) -> str:
    return json.dumps({"turns": [{"user": "u", "assistant": "a", **keys}]})


def dialogue(**keys: Any) -> str:
    return json.dumps({"turns": [{"user": "u"}], **keys})


def check(value: Any) -> str:
    return turn(checks=[value])


# Each row: a line, and the expected parts of its only problem: what, found, hint.
BAD_LINES: dict[str, tuple[str, list[str]]] = {
    "unknown key": (dialogue(sistem="x"), ['d.jsonl:1: unknown key "sistem"', 'found: {"sistem": "x"}', "'system'"]),
    "unknown turn key": (turn(asistant="x"), ['turn 1: unknown key "asistant"', "did you mean 'assistant'?"]),
    "unknown setting": (
        turn(settings={"temprature": 1}),
        ['turn 1: unknown key "temprature" in settings', 'found: {"temprature": 1}', "did you mean 'temperature'?"],
    ),
    "no user": ('{"turns": [{"assistant": "Hello"}]}', ['d.jsonl:1: turn 1: no "user" text', '{"assistant": "Hello"}']),
    "no turns": ('{"id": "x", "turns": []}', ['"turns" must not be empty', "found: []"]),
    "turns no list": ('{"turns": {"user": "x"}}', ['"turns" must be a list']),
    "turn no object": ('{"turns": [{"user": "x"}, 5]}', ["turn 2: turn 2 must be an object", "found: 5"]),
    "blank user": ('{"turns": [{"user": " \\n"}]}', ['turn 1: "user" must not be blank', "text or a list"]),
    "user number": ('{"turns": [{"user": 5}]}', ['turn 1: "user" must be text or a list of parts', "found: 5"]),
    "null": (dialogue(system=None), ['"system" must be text', "found: null", "leave the key out instead of null"]),
    "id number": (dialogue(id=5), ['"id" must be text', "found: 5", '"id": "5"']),
    "blank id": (dialogue(id=" "), ['"id" must not be blank']),
    "tags text": (dialogue(tags="x"), ['"tags" must be a list', 'found: "x"']),
    "tag number": (dialogue(tags=["x", 5]), ['"tags[1]" must be text', "found: 5"]),
    "blank reply": (turn(assistant=""), ['turn 1: "assistant" must not be blank', "leave"]),
    "ask text": (turn(ask="no"), ['turn 1: "ask" must be true or false', 'found: "no"']),
    "ask false checks": (
        json.dumps(
            {"turns": [{"user": "u", "assistant": "a", "ask": False, "checks": [{"contains": "x"}]}, {"user": "v"}]}
        ),
        ['turn 1: "checks" on a turn with "ask": false', "remove"],
    ),
    "ask false without reply": (
        '{"turns": [{"user": "u", "ask": false}, {"user": "v"}]}',
        ['turn 1: "ask": false without "assistant"', 'add "assistant"'],
    ),
    "nothing asked": (turn(ask=False), ["no turn is asked", 'leave "ask" out']),
    "no parts": ('{"turns": [{"user": []}]}', ['turn 1: "user" must not be empty']),
    "unknown part": (turn(user=[{"picture": "x.png"}]), ['unknown key "picture" in user[0]', "known: audio, data"]),
    "two kinds": (turn(user=[{"text": "x", "image": "y"}]), ["a part of 2 kinds at once", "a part is"]),
    "no kind": (turn(user=[{"mime_type": "image/png"}]), ["a part of no kind"]),
    "blank parts": (turn(user=[{"text": " "}]), ['turn 1: "user" must not be blank']),
    "data without type": (turn(user=[{"data": "aGk="}]), ['"data" without "mime_type"', "image/png"]),
    "bad base64": (turn(user=[{"data": "a b", "mime_type": "image/png"}]), ['"data" is not base64']),
    "bad type": (turn(user=[{"data": "aGk=", "mime_type": "png"}]), ['"mime_type" is not a MIME type']),
    "type beside path": (turn(user=[{"image": "x", "mime_type": "image/png"}]), ['"mime_type" beside "image"']),
    "media missing": (
        turn(user=[{"image": "x.png"}]),
        ["turn 1: image file does not exist", 'found: {"image": "x.png"}'],
    ),
    "media absolute": (turn(user=[{"audio": "/etc/passwd"}]), ["turn 1: audio path leaves the dataset's folder"]),
    "media above": (turn(user=[{"video": "a/../../x"}]), ["video path leaves the dataset's folder"]),
    "media url": (turn(user=[{"document": "https://a.b/c"}]), ["document is a URL", "never fetched"]),
    "temperature": (
        turn(settings={"temperature": -1}),
        ['turn 1: "settings.temperature" must be at least 0', "found: -1"],
    ),
    "temperature text": (dialogue(settings={"temperature": "0"}), ['"settings.temperature" must be a number']),
    "temperature bool": (dialogue(settings={"temperature": True}), ['"settings.temperature" must be a number']),
    "top_p": (dialogue(settings={"top_p": 1.5}), ['"settings.top_p" must be at most 1']),
    "max tokens": (dialogue(settings={"max_output_tokens": 0}), ['"settings.max_output_tokens" must be at least 1']),
    "max tokens half": (dialogue(settings={"max_output_tokens": 1.5}), ["must be a whole number", "found: 1.5"]),
    "stop text": (dialogue(settings={"stop": "END"}), ['"settings.stop" must be a list', '"stop": ["END"]']),
    "stop empty": (dialogue(settings={"stop": [""]}), ['"settings.stop[0]" must not be empty']),
    "seed": (dialogue(settings={"seed": 2**63}), ['"settings.seed" must be less than 9223372036854775808']),
    "level": (dialogue(settings={"thinking_level": 3}), ['"settings.thinking_level" must be text']),
    "schema": (dialogue(settings={"response_schema": "x"}), ['"settings.response_schema" must be an object']),
    "safety": (dialogue(settings={"safety": {"H": 1}}), ['"settings.safety.H" must be text']),
    "extra": (dialogue(settings={"extra": []}), ['"settings.extra" must be an object']),
    "tool": (dialogue(tools=[{"description": "x"}]), ['no "name" in tools[0]']),
    "tool twice": (dialogue(tools=[{"name": "f"}, {"name": "f"}]), ['tool "f" is declared twice']),
    "tool result": (
        dialogue(tools=[{"name": "weather"}], tool_results={"wether": 1}),
        ['tool_results for "wether"', "did you mean 'weather'?"],
    ),
    "unknown check": (
        check({"contain": "x"}),
        ['turn 1: check 1: unknown check "contain"', "did you mean 'contains'?"],
    ),
    "no check kind": (check({"weight": 2}), ["check 1: no kind", "one kind a check"]),
    "two check kinds": (check({"contains": "x", "not_regex": "y"}), ["more than one kind: contains, not_regex"]),
    "check weight": (check({"contains": "x", "weight": -1}), ['"weight" must be a number from 0 to 1,000,000']),
    "check name": (check({"contains": "x", "name": 1}), ['"name" must be text']),
    "contains": (check({"contains": 27}), ['"contains" takes text', "27"]),
    "contains_any": (check({"not_contains_any": []}), ['"not_contains_any" takes a list of texts']),
    "regex": (check({"regex": "("}), ["takes a regular expression that compiles", "unterminated"]),
    "is_json": (check({"is_json": False}), ['"is_json" takes true', "not_"]),
    "json_schema": (check({"json_schema": "x"}), ["takes a JSON Schema object"]),
    "number": (check({"number": {"value": 1, "tolerence": 1}}), ['takes a number or {"value"']),
    "similar": (check({"similar": 1.5}), ["takes true, a text, a threshold"]),
    "similar to nothing": (
        '{"turns": [{"user": "u", "checks": [{"similar": true}]}]}',
        ['"similar" has nothing to compare with', 'add "assistant"'],
    ),
    "finish_reason": (check({"finish_reason": "STOP"}), ["takes one of stop, length"]),
    "max_length": (check({"max_length": 1.5}), ["takes a whole number"]),
    "latency": (check({"latency": 0}), ["takes seconds"]),
    "cost": (check({"cost": "cheap"}), ["takes an amount"]),
    "tool_call": (check({"tool_call": "f"}), ['tools does not declare "f"']),
    **{
        f"tool_call {number}": (check({"tool_call": argument}), ['"tool_call" takes', expected])
        for number, (argument, expected) in enumerate(
            [
                ({"name": "f", "exact": True}, '"exact" as true or false beside "arguments"'),
                ({"name": "f", "schema": {}, "arguments": {}}, '"arguments" or "schema", not both'),
                ({"name": "f", "schema": {"type": "float"}}, '"schema" as a JSON Schema'),
                ({"name": "f", "arguments": []}, '"arguments" as an object'),
                ({"order": []}, '"order" as a list of function names'),
                ({"order": ["f"], "name": "f"}, "(no call)"),
                ("", "(no call)"),
            ]
        )
    },
    "tool_call order": (check({"tool_call": {"order": ["f"]}}), ['tools does not declare "f"', 'add "tools"']),
    "tool_calls_valid": (check({"tool_calls_valid": True}), ["in a dialogue that declares no tools"]),
    "promptfoo": (check({"type": "is-valid-openai-tools-call"}), ['write {"tool_calls_valid": true}']),
    **{
        f"promptfoo {kind}": (check({"type": kind, "value": value}), [f"write {json.dumps({'tool_call': ours})}"])
        for kind, value, ours in (
            ("trajectory:tool-used", "f", "f"),
            ("trajectory:tool-sequence", {"steps": ["f", "g"]}, {"order": ["f", "g"]}),
            (
                "trajectory:tool-args-match",
                {"name": "f", "args": {"a": 1}, "mode": "exact"},
                {"name": "f", "arguments": {"a": 1}, "exact": True},
            ),
            ("tool-call-f1", "f, g", {"order": ["f", "g"]}),
            ("function-call", None, True),
        )
    },
    "dialogue check": (dialogue(checks=[{"contans": "x"}]), ['d.jsonl:1: check 1: unknown check "contans"']),
    "mime text": (check("x"), ['"checks[0]" must be an object']),
    "key twice": (
        '{"turns": [{"user": "a", "user": "b"}]}',
        ['key "user" appears twice', 'found: ["a", "b"]', "keep one"],
    ),
    "key twice escaped": ('{"turns": [{"user": "a:", "us\\u0065r": "b"}]}', ['key "user" appears twice']),
    "nan": ('{"turns": [{"user": "a"}], "meta": {"x": NaN}}', ["NaN is not a JSON number"]),
    "infinity": ('{"turns": [{"user": "a"}], "meta": {"x": -Infinity}}', ["-Infinity is not a JSON number"]),
    "huge number": ('{"turns": [{"user": "a"}], "meta": {"x": 1e999}}', ["a number too large", "found: 1e999"]),
    "huge integer": (
        '{"turns": [{"user": "a"}], "meta": {"x": 1' + "0" * 5000 + "}}",
        ["a whole number beyond 64 bits"],
    ),
    "surrogate": ('{"turns": [{"user": "\\ud83d"}]}', ["half of a surrogate pair", "emoji"]),
    "too deep": ('{"turns": [{"user": "a"}], "meta": ' + '{"x":' * 256 + "1" + "}" * 257, ["nested deeper than 256"]),
    "absurdly deep": ("[" * 100_000 + "]" * 100_000, ["nested deeper than 256"]),
    "not json": ("hello", ["d.jsonl:1: not JSON: Expecting value at character 1", "found: hello"]),
    "array line": ('[{"turns": []}]', ["not a JSON object", "convbatch convert"]),
    "number line": ("5", ["not a JSON object", "found: 5"]),
    "no dialogue": (
        '{"turn": [{"user": "a"}]}',
        ["no dialogue on this line", "found: keys turn", "did you mean 'turns'?"],
    ),
}


@each(("line", "pieces"), BAD_LINES.values())
def test_a_bad_line_is_reported_with_problem_place_and_hint(tmp_path: Path, line: str, pieces: list[str]) -> None:
    problems = problems_in(tmp_path, line)
    assert len(problems) == 1, problems
    assert problems[0].startswith("d.jsonl:1: ")
    assert "  hint: " in problems[0]
    for piece in pieces:
        assert piece in problems[0]


# Each row: a file's bytes, its place as printed, expected parts of its only problem.
BAD_FILES: dict[str, tuple[bytes, str, list[str]]] = {
    "empty": (b"", "d.jsonl: ", ["the file is empty", "one JSON dialogue a line"]),
    "blank": (b"\n \r\n\n", "d.jsonl: ", ["every line is blank"]),
    "binary": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "d.jsonl: ", ["is a binary file, not a dataset"]),
    "zip": (b"PK\x03\x04rest", "d.jsonl: ", ["is a zip archive"]),
    "utf-16": (GOOD.encode("utf-16"), "d.jsonl: ", ["is UTF-16 text", "iconv -f UTF-16"]),
    "gbk": ('{"turns": [{"user": "今天"}]}'.encode("gbk"), "d.jsonl:1: ", ["not UTF-8 at byte 22", "GB18030"]),
    "cut line": (f'{GOOD}\n{{"turns": [{{"user": "Hel'.encode(), "d.jsonl:2: ", ["the file looks truncated", '"Hel']),
    "cut inside": (
        f'{{"turns": [\n{GOOD}'.encode(),
        "d.jsonl:1: ",
        ["ends in the middle of its JSON", "whole JSON object"],
    ),
    "cut gzip": (gzip.compress(GOOD.encode() * 99)[:-12], "d.jsonl:1: ", ["the gzip file is truncated", "again"]),
    "damaged gzip": (gzip.compress(GOOD.encode())[:10] + b"\x07" * 40, "d.jsonl:1: ", ["the gzip file is damaged"]),
    "binary in gzip": (gzip.compress(b"\0\0\0"), "d.jsonl: ", ["is a binary file"]),
    "array": (f"[\n{GOOD}\n]".encode(), "d.jsonl:1: ", ["not one JSON object on this line", "convbatch convert"]),
    "indented": (json.dumps(json.loads(GOOD), indent=1).encode(), "d.jsonl:1: ", ["an indented file", "convert"]),
}


@each(("content", "place", "pieces"), BAD_FILES.values())
def test_a_bad_file_is_reported_once_with_a_hint(tmp_path: Path, content: bytes, place: str, pieces: list[str]) -> None:
    path = written(tmp_path, content)
    problems = problems_of(path)
    assert len(problems) == 1, problems
    assert problems[0].removeprefix(f"{tmp_path}/").startswith(place)
    assert "  hint: " in problems[0]
    for piece in pieces:
        assert piece in problems[0]


def test_the_error_for_a_missing_file_names_similar_files(tmp_path: Path) -> None:
    written(tmp_path, GOOD, "real.jsonl")
    assert problems_of(tmp_path / "rael.jsonl") == [
        f"{tmp_path}/rael.jsonl: no such file\n  hint: did you mean {tmp_path}/real.jsonl?"
    ]


def test_a_folder_is_not_a_dataset(tmp_path: Path) -> None:
    written(tmp_path, GOOD)
    [problem] = problems_of(tmp_path)
    assert "is a folder" in problem
    assert f"{tmp_path}/d.jsonl" in problem


def test_a_pipe_is_refused_without_waiting_for_its_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    [problem] = problems_of(tmp_path / "pipe")
    assert "is not a regular file" in problem


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_reported(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    path.chmod(0)
    assert "permission denied" in problems_of(path)[0]


@pytest.mark.slow
def test_a_huge_line_is_refused_in_bounded_memory_and_the_next_is_read(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(65):
            file.write(b" " * 2**20)
        file.write(b"1\n" + GOOD.encode() + b"\n")
    items = list(scan([path]))
    assert "d.jsonl.gz:1: line longer than 64 MiB" in str(items[0])
    assert isinstance(items[1], Dialogue)


def test_nesting_up_to_the_limit_is_read_and_copied(tmp_path: Path) -> None:
    line = '{"turns": [{"user": "a"}], "meta": ' + '{"x":' * 254 + "1" + "}" * 255
    [read] = copy_of([written(tmp_path, line)], tmp_path / "c.gz")
    assert json.dumps(read.meta).count("{") == 254


def test_every_bad_line_is_reported_and_good_ones_are_read(tmp_path: Path) -> None:
    path = written(tmp_path, f'{GOOD}\nx\n{turn(ask=1, foo=2)}\n{{"turns": [{{"usr": "x"}}, {{"user": ""}}]}}\n')
    items = list(scan([path]))
    places = [str(item).split(": ")[0].removeprefix(f"{tmp_path}/") for item in items if isinstance(item, Problem)]
    assert places == ["d.jsonl:2", "d.jsonl:3", "d.jsonl:3", "d.jsonl:4", "d.jsonl:4"]
    assert sum(isinstance(item, Dialogue) for item in items) == 1


def test_problems_of_valid_turns_are_reported_beside_a_broken_turn(tmp_path: Path) -> None:
    problems = problems_in(tmp_path, '{"turns": [{"user": 5}, {"user": "u", "ask": false}, {"user": "v"}]}')
    assert [problem.split("\n")[0] for problem in problems] == [
        'd.jsonl:1: turn 1: "user" must be text or a list of parts',
        'd.jsonl:1: turn 2: "ask": false without "assistant"',
    ]


@each(
    "content",
    [
        pytest.param(f"{GOOD}\n{GOOD.replace('a', 'b', 1)}\n".encode(), id="lf"),
        pytest.param(f"{GOOD}\r\n\r\n{GOOD.replace('a', 'b', 1)}".encode(), id="crlf, no newline at the end"),
        pytest.param(b"\xef\xbb\xbf" + f"{GOOD}\n\n{GOOD.replace('a', 'b', 1)}\n".encode(), id="bom"),
        pytest.param(gzip.compress(f"\n{GOOD}\n{GOOD.replace('a', 'b', 1)}\n".encode()), id="gzip"),
        pytest.param(
            gzip.compress(b"\xef\xbb\xbf" + GOOD.encode() + b"\r\n")
            + gzip.compress(GOOD.replace("a", "b", 1).encode()),
            id="two gzip members",
        ),
    ],
)
def test_line_endings_byte_order_mark_and_compression_make_no_difference(tmp_path: Path, content: bytes) -> None:
    dialogues = load_dialogues([written(tmp_path, content)])
    assert [d.id for d in dialogues] == ["a", "b"]
    assert dialogues[0].turns == (Turn(user=(text_part("Hello"),), assistant="Hi"),)


def test_blank_lines_are_skipped_and_counted_but_keep_their_number(tmp_path: Path) -> None:
    seen = scan([written(tmp_path, '\n{"turns": [{"user": "a"}]}\n\t\n{"turns": [{"user": "b"}, {"user": "c"}]}\n')])
    assert [item.id for item in seen if isinstance(item, Dialogue)] == ["d:2", "d:4"]
    assert (seen.dialogues, seen.turns, seen.problems, seen.blank_lines) == (2, 3, 0, 2)


def test_a_dialogue_without_id_is_named_after_its_file_and_line(tmp_path: Path) -> None:
    path = written(tmp_path, gzip.compress(b'{"turns": [{"user": "a"}]}\n'), "support.jsonl.gz")
    assert load_dialogues([path])[0].id == "support:1"


def test_ids_used_twice_are_errors_with_both_places_over_all_files(tmp_path: Path) -> None:
    one = written(tmp_path, f"{GOOD}\n{dialogue(id='b')}\n{GOOD}\n", "one.jsonl")
    two = written(tmp_path, f"{dialogue(id='c')}\n{dialogue(id='b')}\n", "two.jsonl")
    assert problems_of(one, two) == [
        f'{one}:3: id "a" is used twice\n  found: first used at {one}:1\n'
        "  hint: ids are unique over all files of a run: rename one of them",
        f'{two}:2: id "b" is used twice\n  found: first used at {one}:2\n'
        "  hint: ids are unique over all files of a run: rename one of them",
    ]


def test_files_with_one_name_conflict_if_their_lines_have_no_ids(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    paths = [written(tmp_path, dialogue()), written(tmp_path / "x", dialogue())]
    [problem] = problems_of(*paths)
    assert f'{paths[1]}:1: id "d:1" is used twice' in problem
    assert "rename one of the files" in problem


def test_the_same_file_given_twice_is_one_problem(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    (tmp_path / "link.jsonl").symlink_to(path)
    [problem] = problems_of(path, tmp_path / "link.jsonl")
    assert "the same file is given twice" in problem


def test_a_file_mixing_formats_names_the_format_of_its_first_line(tmp_path: Path) -> None:
    problems = problems_in(tmp_path, GOOD, '{"contents": [{"parts": [{"text": "x"}]}]}', '{"turns": ["x"]}')
    assert [p.split("\n")[0] for p in problems] == [
        'd.jsonl:2: this line is Gemini ("contents"), the file canonical ("turns" of objects)',
        'd.jsonl:3: this line is MT-Bench ("turns" of strings), the file canonical ("turns" of objects)',
    ]
    assert all("line 1 of this file is canonical" in problem for problem in problems)


def test_media_beside_the_dataset_is_accepted_and_links_outside_are_refused(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "media").mkdir(parents=True)
    (home / "media" / "cat.png").write_bytes(PNG)
    (tmp_path / "secret.png").write_bytes(PNG)
    (home / "link.png").symlink_to(tmp_path / "secret.png")
    path = written(
        home, turn(user=[{"text": "What?"}, {"image": "media/cat.png"}]) + "\n" + turn(user=[{"image": "link.png"}])
    )
    items = list(scan([path]))
    assert isinstance(items[0], Dialogue)
    assert items[0].turns[0].user[1] == Part(kind="image", path="media/cat.png")
    assert "image path is a link out of the dataset's folder" in str(items[1])
    [folder] = problems_in(home, turn(user=[{"image": "media"}]))
    assert "image path is not a regular file" in folder


def test_every_check_kind_is_accepted_plain_and_negated(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {
        "equals": "x", "contains": "x", "icontains": "x", "contains_any": ["x"], "contains_all": ["x", "y"],
        "starts_with": "x", "regex": "x+", "is_json": True, "json_schema": {"type": "object"},
        "number": {"value": 8, "tolerance": 0.5}, "similar": True, "finish_reason": ["stop", "length"],
        "max_length": 0, "latency": 1.5, "output_tokens": 10, "cost": "0.01USD", "tool_call": {"name": "f"},
        "tool_calls_valid": True, "image": {"exactly": 1, "min_width": 8}, "llm_rubric": "polite", "python": "mine",
    }  # fmt: skip
    checks = [{prefix + kind: value} for kind, value in arguments.items() for prefix in ("", "not_")]
    line = {"turns": [{"user": "u", "assistant": "a", "checks": checks}], "tools": [{"name": "f"}]}
    [read] = load_dialogues([written(tmp_path, json.dumps(line))])
    assert list(read.turns[0].checks) == checks


def test_load_raises_all_problems_at_once_and_at_most_a_thousand(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_dialogues([written(tmp_path, "x\n" * 1_500)])
    assert len(caught.value.problems) == 1_001
    assert caught.value.problems[-1].what == "and 500 more problems"
    assert caught.value.exit_code == 2


def test_progress_ends_at_the_total(tmp_path: Path) -> None:
    path = written(tmp_path, "".join(dialogue(id=str(n)) + "\n" for n in range(2_000)))
    calls: list[tuple[int, int, int]] = []
    for _ in scan([path], on_progress=lambda *call: calls.append(call)):
        pass
    size = path.stat().st_size
    assert len(calls) > 5
    assert calls == sorted(calls)
    assert calls[-1] == (size, size, 2_000)


# Properties

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: bool(text.strip()))
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
some_settings = st.builds(
    Settings,
    temperature=st.none() | st.floats(0, 2),
    top_k=st.none() | st.integers(1, 99),
    max_output_tokens=st.none() | st.integers(1, 10**9),
    stop=st.none() | st.lists(texts, min_size=1, max_size=2).map(tuple),
    seed=st.none() | st.integers(-(2**63), 2**63 - 1),
    thinking_level=st.none() | texts,
    extra=st.none() | st.dictionaries(texts, json_values, min_size=1, max_size=2),
)
some_checks = st.lists(st.builds(dict, contains=texts, name=texts), max_size=2).map(tuple)
inline_media = st.just(Part(kind="image", data="iVBORw0KGgo=", mime_type="image/png"))
asked_turns = st.builds(
    Turn,
    user=texts.map(lambda text: (text_part(text),)) | st.tuples(texts.map(text_part), inline_media),
    assistant=st.none() | texts,
    checks=some_checks,
    settings=some_settings,
)
given_turns = st.builds(Turn, user=texts.map(lambda text: (text_part(text),)), assistant=texts, ask=st.just(False))
dialogues = st.builds(
    Dialogue,
    id=texts,
    turns=st.tuples(given_turns, asked_turns) | st.lists(asked_turns, min_size=1, max_size=3).map(tuple),
    system=st.none() | texts,
    tags=st.lists(texts, max_size=2).map(tuple),
    meta=st.dictionaries(texts, json_values, max_size=2),
    settings=some_settings,
    checks=some_checks,
    tools=st.just(()) | st.just(({"name": "f", "parameters": {"type": "object"}},)),
)


@settings(max_examples=examples(80), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(script=dialogues, ascii_only=st.booleans())
def test_any_dialogue_written_in_canonical_form_is_read_back_equal(
    tmp_path: Path, script: Dialogue, ascii_only: bool
) -> None:
    path = written(tmp_path, json.dumps(script.to_plain(), ensure_ascii=ascii_only))
    assert load_dialogues([path]) == [script]


@settings(max_examples=examples(80), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200) | st.text(string.printable, max_size=80).map(str.encode))
def test_arbitrary_bytes_give_problems_and_never_an_exception(tmp_path: Path, content: bytes) -> None:
    assert all(isinstance(item, Dialogue | Problem) for item in scan([written(tmp_path, content)]))


@pytest.mark.slow
@pytest.mark.parametrize("many", [16_000, 64_000])
def test_validation_memory_grows_by_at_most_sixteen_bytes_per_dialogue(tmp_path: Path, many: int) -> None:
    def lines(count: int) -> Iterator[str]:
        return (f'{{"id":"d-{n}","turns":[{{"user":"Hello {n}"}}]}}\n' for n in range(count))

    few = 8_000  # more than a buffer, of which a copy is made while the first line is read
    peaks: list[int] = []
    # The first run includes imports and caches; the smaller of the others counts, because garbage collection varies.
    for count in (few, few, few, many, many):
        path = written(tmp_path, "".join(lines(count)))
        gc.collect()
        tracemalloc.start()
        try:
            assert sum(isinstance(item, Dialogue) for item in scan([path])) == count
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert (min(peaks[3:]) - min(peaks[1:3])) / (many - few) <= 16


# The run's own copy


def copy_of(
    paths: list[Path], out: Path, selection: Selection = EVERYTHING, history: HistoryMode = "live"
) -> list[Dialogue]:
    write_copy(paths, selection, out, history)
    return [dialogue for _, dialogue in read_copy(out)]


def test_the_copy_holds_the_selected_dialogues_in_order_with_their_index(tmp_path: Path) -> None:
    out = tmp_path / "copy.gz"
    report = write_copy([QUICKSTART], EVERYTHING, out, "live")
    assert [(n, d) for n, d in read_copy(out)] == list(enumerate(load_dialogues([QUICKSTART])))
    assert report.dialogues == report.dialogues_read == len(load_dialogues([QUICKSTART]))
    assert report.asked_turns == sum(len(d.asked("live")) for d in load_dialogues([QUICKSTART]))
    assert report.sources == (fingerprint_source(QUICKSTART),)
    assert out.stat().st_mode & 0o777 == 0o600


def test_the_copy_of_the_same_dialogues_is_independent_of_the_source_form(tmp_path: Path) -> None:
    other = written(tmp_path, b"\xef\xbb\xbf" + QUICKSTART.read_bytes().replace(b"\n", b"\r\n\r\n"))
    one = write_copy([QUICKSTART], EVERYTHING, tmp_path / "1.gz", "live")
    two = write_copy([other], EVERYTHING, tmp_path / "2.gz", "live")
    assert one.sha256 == two.sha256
    assert (tmp_path / "1.gz").read_bytes() == (tmp_path / "2.gz").read_bytes()


@pytest.mark.parametrize(
    ("selection", "taken"),
    [
        pytest.param(Selection(limit=2), ["x-1", "x-2"], id="limit"),
        pytest.param(Selection(ids=("y-1",)), ["y-1"], id="exact id"),
        pytest.param(Selection(ids=("x-*", "y[1]")), ["x-1", "x-2", "y[1]"], id="glob, and an id that looks like one"),
        pytest.param(Selection(tags=("zh", "en")), ["x-1", "x-2"], id="any of the tags"),
        pytest.param(Selection(ids=("*-1",), tags=("zh",)), ["x-1"], id="id and tag"),
        pytest.param(Selection(ids=("*-1",), limit=1), ["x-1"], id="limit after id"),
    ],
)
def test_a_selection_filters_by_id_and_tag_and_then_limits(
    tmp_path: Path, selection: Selection, taken: list[str]
) -> None:
    tags = {"x-1": ["zh"], "x-2": ["en"], "y-1": ["fr"], "y[1]": ["fr"]}
    path = written(tmp_path, "\n".join(dialogue(id=name, tags=tag) for name, tag in tags.items()))
    assert [d.id for d in copy_of([path], tmp_path / "c.gz", selection)] == taken


@each(
    ("selection", "pieces"),
    [
        pytest.param(
            Selection(ids=("date-zh",)), ['no dialogue has the id "date-zh"', "did you mean 'dates-zh'"], id="id"
        ),
        pytest.param(Selection(ids=("q*",)), ['no dialogue has the id "q*"', "ids are like 'dates-zh'"], id="glob"),
        pytest.param(Selection(tags=("dat",)), ['no dialogue has the tag "dat"', "did you mean 'date'?"], id="tag"),
        pytest.param(
            Selection(ids=("dates-*",), tags=("en",)), ["no dialogue is left to run", "widen"], id="nothing left"
        ),
    ],
)
def test_an_empty_selection_is_reported_with_the_available_values(
    tmp_path: Path, selection: Selection, pieces: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        write_copy([QUICKSTART], selection, tmp_path / "c.gz", "live")
    assert all(piece in str(caught.value) for piece in pieces)
    assert not (tmp_path / "c.gz").exists()


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(SetupError, match="selects no dialogue"):
        Selection(limit=0)


@pytest.mark.parametrize(("history", "asked"), [("live", 4), ("last", 2), ("script", 4)])
def test_requested_turns_depend_on_the_history_mode(tmp_path: Path, history: HistoryMode, asked: int) -> None:
    turns = [
        {"user": "a", "assistant": "x", "checks": [{"contains": "x"}]},
        {"user": "b", "checks": [{"contains": "x"}]},
    ]
    path = written(tmp_path, dialogue(id="1", turns=turns) + "\n" + dialogue(id="2", turns=turns))
    report = write_copy([path], EVERYTHING, tmp_path / "c.gz", history)
    assert (report.asked_turns, report.checks) == (asked, asked)


@pytest.mark.parametrize("history", ["script", "last"])
def test_scripted_history_without_replies_is_refused_with_a_count_and_places(
    tmp_path: Path, history: HistoryMode
) -> None:
    gap = dialogue(turns=[{"user": "a"}, {"user": "b"}, {"user": "c"}])
    path = written(tmp_path, f"{GOOD}\n" + f"{gap}\n" * 15)
    with pytest.raises(InputError) as caught:
        write_copy([path], EVERYTHING, tmp_path / "c.gz", history)
    [problem] = caught.value.problems
    assert f"--history {history} needs a scripted reply" in problem.what
    assert '30 turns in 15 dialogues without "assistant"' in problem.what
    assert problem.found is not None
    assert f"{path}:2: turn 2" in problem.found
    assert problem.found.endswith("and 10 more")
    assert not (tmp_path / "c.gz").exists()


def test_the_last_requested_turn_needs_no_scripted_reply(tmp_path: Path) -> None:
    turns = [{"user": "a", "assistant": "x", "ask": False}, {"user": "b"}]
    assert len(copy_of([written(tmp_path, dialogue(turns=turns))], tmp_path / "c.gz", EVERYTHING, "script")) == 1


def test_a_bad_line_outside_the_selection_still_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"d\.jsonl:2: not JSON"):
        write_copy([written(tmp_path, f"{GOOD}\nx\n")], Selection(limit=1), tmp_path / "c.gz", "live")
    assert not (tmp_path / "c.gz").exists()


class FullDisk(Disk):
    def write(self, fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")


def test_a_full_disk_stops_the_copy_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="No space left"):
        write_copy([QUICKSTART], EVERYTHING, tmp_path / "c.gz", "live", disk=FullDisk())
    assert not (tmp_path / "c.gz").exists()


def test_an_existing_copy_is_never_overwritten_nor_removed(tmp_path: Path) -> None:
    out = written(tmp_path, "precious")
    with pytest.raises(SetupError, match="File exists"):
        write_copy([QUICKSTART], EVERYTHING, out, "live")
    assert out.read_text() == "precious"


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: gzip.compress(b"{}\n")])
def test_a_damaged_copy_is_an_input_error(tmp_path: Path, damage: Any) -> None:
    out = tmp_path / "c.gz"
    write_copy([QUICKSTART], EVERYTHING, out, "live")
    out.write_bytes(damage(out.read_bytes()))
    with pytest.raises(InputError, match="own copy of its dataset"):
        list(read_copy(out))


# convert


def test_convert_writes_canonical_lines_that_read_the_same(tmp_path: Path) -> None:
    assert convert(QUICKSTART, tmp_path / "out.jsonl.gz") == len(load_dialogues([QUICKSTART]))
    assert load_dialogues([tmp_path / "out.jsonl.gz"]) == load_dialogues([QUICKSTART])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.jsonl.gz"]


@pytest.mark.parametrize("indent", [None, 2])
def test_convert_reads_json_arrays_and_single_objects(tmp_path: Path, indent: int | None) -> None:
    line = {"contents": [{"parts": [{"text": "x"}]}]}
    array = written(tmp_path, json.dumps([line, line], indent=indent), "a.json")
    single = written(tmp_path, json.dumps(line, indent=indent), "s.json")
    assert convert(array, tmp_path / "a.jsonl") == 2
    assert convert(single, tmp_path / "s.jsonl") == 1
    assert [d.id for d in load_dialogues([tmp_path / "a.jsonl"])] == ["a:1", "a:2"]


def test_convert_names_the_wrong_item_of_an_array(tmp_path: Path) -> None:
    source = written(tmp_path, '[{"turns": ["x"]},\n {"turns": ["", "y"]}, 5]', "a.json")
    with pytest.raises(InputError) as caught:
        convert(source, tmp_path / "a.jsonl")
    assert [str(p).split("\n")[0].removeprefix(f"{tmp_path}/") for p in caught.value.problems] == [
        'a.json: item 2: turn 1: "user" must not be blank',
        "a.json: item 3: not a JSON object",
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_convert_overwrites_nothing(tmp_path: Path) -> None:
    out = written(tmp_path, "precious")
    with pytest.raises(SetupError, match="exists already"):
        convert(QUICKSTART, out)
    assert out.read_text() == "precious"


@pytest.mark.parametrize(
    ("target", "form", "message"),
    [
        ("out.txt", None, "not a name for JSON lines"),
        ("missing/out.jsonl", None, "is not a folder"),
        ("out.jsonl", "gemni", "unknown dataset format 'gemni'.*\n.*did you mean 'gemini'"),
    ],
)
def test_convert_reports_unsupported_targets(tmp_path: Path, target: str, form: str | None, message: str) -> None:
    with pytest.raises(SetupError, match=message):
        convert(QUICKSTART, tmp_path / target, from_format=form)


def test_convert_with_a_given_format_refuses_other_lines(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not Gemini \(\"contents\"\) as requested"):
        convert(written(tmp_path, GOOD), tmp_path / "o.jsonl", from_format="gemini")


def test_convert_into_another_folder_refuses_media_that_would_be_lost(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(PNG)
    (tmp_path / "other").mkdir()
    path = written(tmp_path, turn(user=[{"image": "cat.png"}]))
    with pytest.raises(InputError, match="write the new file into the same folder"):
        convert(path, tmp_path / "other" / "o.jsonl")
    assert convert(path, tmp_path / "o.jsonl") == 1


# Shipped datasets


def test_quickstart_matches_its_readme() -> None:
    dialogues = load_dialogues([QUICKSTART])
    assert 24 <= len(dialogues) <= 30
    assert all(2 <= len(d.turns) <= 8 for d in dialogues)
    assert all(turn.assistant for d in dialogues for turn in d.turns)
    assert {"en", "zh"} <= {tag for d in dialogues for tag in d.tags}
    assert all(turn.checks for d in dialogues for turn in d.turns if turn.ask)


def test_quickstart_runs_under_every_history_mode(tmp_path: Path) -> None:
    for history in ("live", "script", "last"):
        assert write_copy([QUICKSTART], EVERYTHING, tmp_path / f"{history}.gz", history).dialogues > 0


def test_quickstart_has_both_dialogues_of_the_seed_documents() -> None:
    by_id = {d.id: d for d in load_dialogues([QUICKSTART])}
    assert [t.user_text for t in by_id["dates-zh"].turns] == ["今天是几号", "明天是几号"]
    assert by_id["dates-zh"].turns[0].assistant == "今天是2025年12月26日"
    assert [t.user_text for t in by_id["paws-en"].turns] == [
        "Hello",
        "I have two dogs in my house. How many paws are in my house?",
    ]
    assert by_id["paws-en"].turns[0].assistant == "Great to meet you. What would you like to know?"


def test_the_format_page_shows_a_dialogue_that_loads_and_names_every_key_and_check(tmp_path: Path) -> None:
    page = (QUICKSTART.parent.parent / "docs" / "dataset.md").read_text(encoding="utf-8")
    example = page.split("```json\n")[1].split("```")[0]
    assert load_dialogues([written(tmp_path, json.dumps(json.loads(example)))])[0].id == "dates-zh"
    names = [*SETTING_NAMES, *(field.name for field in dataclasses.fields(Dialogue))]
    assert [name for name in names if f"`{name}`" not in page] == []
    table = page.split("\n| kind | argument |\n", 1)[1].split("\n\n", 1)[0]
    kinds = [kind for row in table.splitlines()[1:] for kind in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(kinds) == sorted(CHECKS)
