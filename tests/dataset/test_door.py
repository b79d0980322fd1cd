"""Errors of dataset files: what is wrong, in the character where it is wrong, and the way out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convbatch.checks.builtin import CHECKS
from convbatch.dataset.foreign_checks import translated
from convbatch.dataset.json_faults import fault_of, pieces
from convbatch.dataset.schema import ARGUMENT_EXAMPLES
from convbatch.dataset.selection import convert, load_dialogues, scan
from convbatch.errors import InputError, Place, Problem, one_cause_once
from tests.conftest import Command
from tests.support.tables import each


def problems_of(path: Path, content: str | bytes) -> list[str]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    found = [str(item) for item in scan([path]) if isinstance(item, Problem)]
    return [text.replace(f"{path.parent}/", "") for text in found]


GOOD = '{"turns": [{"user": "Hello"}]}'
CHECKED = '{"turns": [{"user": "Hi", "assistant": "Hello", "checks": [%s]}]}'


@each(
    ("line", "what", "hint"),
    [
        ("{'user': 'hi'}", "JSON needs double quotes: ' at character 2", "json.dumps"),
        ("{\"user\": 'hi'}", "JSON needs double quotes: ' at character 10", 'write "'),
        (f"{GOOD},", "a comma after the end of the object at character 31", "drop the comma at the end of the line"),
        (f"{GOOD}, {GOOD}", "a comma after the end of the object at character 31", "a line of its own"),
        (f"{GOOD} {GOOD}", "a second object on the line at character 32", "a line of its own"),
        (f"{GOOD}]", "a ] too many at character 31", "drop it"),
        ('{"user": "hi",}', "trailing comma at character 14", "drop the comma before }"),
        ('{"turns": ["hi" , ]}', "trailing comma at character 17", "drop the comma before ]"),
        ('{"a": 1,, "b": 2}', "a comma where a value or a key should be at character 9", "drop the comma"),
        (f"{GOOD} // mine", "JSON has no comments: one starts at character 32", "remove"),
        ('{"a": /* x */ 1}', "JSON has no comments: one starts at character 7", "remove"),
        ('{# x\n"a": 1}'.replace("\n", " "), "JSON has no comments: one starts at character 2", "remove"),
        ("{“user”: “hi”}", "U+201C (left double quotation mark) is not '\"': found at character 2", "plain double"),
        ('{"user": "hi”}', "U+201D (right double quotation mark) is not '\"': found at character 13", "plain double"),
        ('{"user"："hi"}', "full-width colon U+FF1A at character 8", "write :"),
        ('{"a": "b"，"c": 1}', "full-width comma U+FF0C at character 10", "write ,"),
        ('{"a": "b"、"c": 1}', "ideographic comma U+3001 at character 10", "write ,"),
        ('{"user":\u00a0"hi"}', "U+00A0 (no-break space) outside of a text at character 9", "use a plain space"),
        ('{\u200b"user": "hi"}', "U+200B (zero width space) outside of a text at character 2", "remove it"),
        ('{"user": "C:\\Users"}', "a backslash that starts no escape of JSON (\\U) at character 13", "double each"),
        ('{"user": "C:\\users"}', "a backslash that starts no escape of JSON (\\u) at character 13", "use /"),
        ('{"user": "a\tb"}', "a tab (U+0009) inside a text at character 12", "write it as \\t"),
        ('{"a": None}', "None is not JSON at character 7", "write null"),
        ('{"a": True}', "True is not JSON at character 7", "write true"),
        ('{user: "hi"}', "a key without quotes at character 2", 'write "user"'),
        (
            '{"user": "say "hi" now"}',
            "text after a closing quote (is it a quote inside a text, without its backslash?) at character 16",
            'write \\"',
        ),
        ('{"a": 1 "b": 2}', "a comma is missing at character 9", "between two values"),
        ('{"a" 1}', "a colon is missing after the key at character 6", '"key": value'),
        (f"{GOOD};", "; after the end of the JSON at character 31", "drop what follows"),
        ('{"a": 01}', "a number with a leading zero at character 7", "write 1, or"),
        ('{"a": 0x10}', "a number that JSON does not have (0x10) at character 7", "write 16"),
        ('{"a": .5}', "a number that JSON does not have (.5) at character 7", "write 0.5"),
        ('{"a": +1_000}', "a number that JSON does not have (+1_000) at character 7", "write 1000"),
        ('{"a": 10%}', "a number that JSON does not have (10%) at character 7", "in quotes"),
        ('{"a": 0,5}', "a decimal comma at character 8", "write 0.5"),
        ('{"a": \u2212\uff11}', "minus sign U+2212 at character 7", "write -"),
        ('{"a": b}', "a text without quotes at character 7", 'write "b"'),
        ('{"a": f"b"}', "a prefix before a quote (f) at character 7", "remove it"),
        ('{"a": "b" + "c"}', "JSON cannot join texts with + at character 11", "one text"),
        ('{"a": """b"""}', "three quotes in a row at character 7", "write one"),
        ('{"a": 1; "b": 2}', "; where a comma should be at character 8", "write ,"),
        ('{"a" => 1}', "=> where a colon should be at character 6", "write :"),
        ('{"a": [1, ...]}', "… is not JSON at character 11", "remove it"),
        ("{\u300ca\u300d: 1}", "U+300C (left corner bracket) is not '\"': found at character 2", "double quote"),
        (r'{"a": "don\'t"}', r"a backslash that starts no escape of JSON (\') at character 11", "drop it"),
        ('data: {"a": 1}', "text before the object at character 1", "remove what is before it"),
        ("-- a comment", "JSON has no comments: one starts at character 1", "remove the comment"),
        ('{"a": [1}', "} where a comma or the end should be at character 9", "a ] or a comma is missing"),
    ],
)
def test_a_line_that_is_no_json_is_told_by_its_fault(
    tmp_path_factory: pytest.TempPathFactory, line: str, what: str, hint: str
) -> None:
    [problem] = problems_of(tmp_path_factory.getbasetemp() / "door.jsonl", f"{GOOD}\n{line}\n")
    first, _, said = problem.partition("\n")
    assert first == f"door.jsonl:2: not JSON: {what}"
    assert hint in said.split("hint: ")[1]


@given(st.text(max_size=40))
def test_the_fault_of_a_text_is_inside_it(text: str) -> None:
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        fault = fault_of(text, error)
        assert fault is None or 0 <= fault.position < len(text)


values = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5)


@given(st.lists(values, max_size=5), st.sampled_from([None, 2]))
def test_the_pieces_of_an_array_are_its_items(items: list[object], indent: int | None) -> None:
    text = json.dumps(items, indent=indent)
    assert [json.loads(text[piece.start : piece.end]) for piece in pieces(text)] == items


ITEM = '{"turns": [{"user": "x"}]}'


# Each row: a document, and the first line of each problem of `convert`.
@each(
    ("content", "firsts"),
    [
        (f"[\n{ITEM},\n{ITEM},\n]", ["a.json:3: item 3: not JSON: trailing comma at column 27"]),
        (f"[\n{ITEM}\n{ITEM}]", ["a.json:3: item 2: not JSON: a comma is missing at column 1"]),
        (f"[\n{ITEM},\n{{'turns': []}}]", ["a.json:3: item 2: not JSON: JSON needs double quotes: ' at column 2"]),
        (
            f'[{ITEM},\n {{"turns": [], "turns": []}},\n {{"turns": [}}]',
            [
                'a.json:2: item 2: key "turns" appears twice in one object',
                "a.json:3: item 3: not JSON: } where a value should be at column 13",
            ],
        ),
        (
            f"[{ITEM},\n{ITEM}",
            ["a.json:2: item 3: not JSON: the file ends in the middle of its JSON at column 27"],
        ),
        (f"[{ITEM}]\n{ITEM}", ["a.json:2: item 2: not JSON: a second object on the line at column 1"]),
        ('{\n "turns": [\n  {"user": "x",}\n ]\n}', ["a.json:3: item 1: not JSON: trailing comma at column 15"]),
        (b'[\n {"turns": ["\xe9t\xe9"]}]', ["a.json:2: not UTF-8 at byte 14 of the line"]),
    ],
)
def test_convert_names_line_column_and_item_of_a_fault_in_a_document(
    tmp_path_factory: pytest.TempPathFactory, content: str | bytes, firsts: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("documents")
    source = folder / "a.json"
    source.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InputError) as caught:
        convert(source, folder / "a.jsonl")
    shown = [str(problem).split("\n")[0].removeprefix(f"{folder}/") for problem in caught.value.problems]
    assert shown == firsts
    assert "convbatch convert" not in str(caught.value)


@pytest.mark.parametrize("between", ["\n", "\n\n", " "])
def test_convert_reads_several_indented_objects_of_one_file(tmp_path: Path, between: str) -> None:
    one = json.dumps({"id": "a", "turns": [{"user": "x"}]}, indent=2)
    source = tmp_path / "a.json"
    source.write_text(one + between + one.replace('"a"', '"b"'))
    assert convert(source, tmp_path / "a.jsonl") == 2


@each(
    ("content", "pieces"),
    [
        (f"[\n{ITEM},\n{{'turns': []}}]", ["d.jsonl:3: not JSON: JSON needs double quotes: ' at column 2"]),
        ('{"id": "a",\n "turns": [\n  {"user": "x",}\n]}', ["d.jsonl:3: not JSON: trailing comma at column 15"]),
        (
            '{"id": "a",\n "turns": [{"user": "x"}]}',
            ["d.jsonl:1: not one JSON object on this line", "convbatch convert"],
        ),
    ],
)
def test_validate_names_the_fault_inside_a_document_before_it_recommends_to_convert(
    tmp_path_factory: pytest.TempPathFactory, content: str, pieces: list[str]
) -> None:
    [problem] = problems_of(tmp_path_factory.getbasetemp() / "d.jsonl", content)
    assert [piece for piece in pieces if piece not in problem] == []


# Each row: a name, the content, parts of the only problem.
@each(
    ("name", "content", "said"),
    [
        ("k1.txt", "user,assistant\nHello,Hi\n", ["looks like CSV", "convbatch convert k1.csv k1.jsonl"]),
        ("k2.jsonl", '"id","user"\n"a","Hello, you"\n', ["looks like CSV"]),
        ("k3.jsonl", "id;user\na;Hello\n", ["looks like CSV"]),
        ("k4.jsonl", "id\tuser\na\tHello\n", ["tabs (TSV)"]),
        ("k5.yaml", "- id: a\n  turns:\n  - user: x\n", ["looks like YAML", "yq -o=json"]),
        ("k6.jsonl", "# mine\nturns:\n  - user: x\n", ["looks like YAML"]),
        ("k18.jsonl", "turns:\n  - user: x\n", ["yq -o=json -I=0 '.[]'", "k18.jsonl > k18.new.jsonl"]),
        ("k7.txt", "Hello there\nHow are you\n", ["looks like plain text", '{"turns"']),
        ("k8.md", "# Questions\n\n* One?\n", ["looks like plain text"]),
        ("k9.jsonl", "<!DOCTYPE html>\n<html>", ["looks like HTML or XML"]),
        ("k10.jsonl", b"PAR1\x15\x04", ["is a Parquet table", "read_parquet"]),
        ("k11.jsonl", b"version https://git-lfs.github.com/spec/v1\n", ["Git LFS pointer", "git lfs pull"]),
        ("k12.jsonl", GOOD.encode("utf-16-le"), ["UTF-16 text without a byte order mark", "iconv -f UTF-16LE"]),
        ("k13.jsonl", GOOD.encode("utf-16"), ["is UTF-16 text", "iconv -f UTF-16 "]),
        ("k14.jsonl", GOOD.encode("utf-32"), ["is UTF-32 text", "iconv -f UTF-32 "]),
        ("k15.jsonl", GOOD.replace("Hello", "Où est l'été ?").encode("cp1252"), ["iconv -f CP1252", "Western: Où est"]),
        (
            "k16.jsonl",
            GOOD.replace("Hello", "今天是几号").encode("gbk"),
            ["iconv -f GB18030", "simplified: 今天是几号"],
        ),
        ("k17.zip", b"PK\x03\x04rest", ["a zip archive (or a spreadsheet)", "NAME.xlsx"]),
    ],
)
def test_a_file_of_another_kind_is_named_once_with_the_command_that_helps(
    tmp_path_factory: pytest.TempPathFactory, name: str, content: str | bytes, said: list[str]
) -> None:
    path = tmp_path_factory.getbasetemp() / name
    [problem] = problems_of(path, content)
    assert [words for words in said if words not in problem] == []


def test_the_likelier_encoding_stands_first(tmp_path: Path) -> None:
    western = problems_of(tmp_path / "w.jsonl", GOOD.replace("Hello", "déjà vu, très").encode("cp1252"))[0]
    chinese = problems_of(tmp_path / "c.jsonl", GOOD.replace("Hello", "你好").encode("gbk"))[0]
    assert western.index("CP1252") < western.find("GB18030") % len(western)
    assert chinese.index("GB18030") < chinese.find("CP1252") % len(chinese)


@each(
    ("line", "what", "hint"),
    [
        ('{"turns": [{"usr": "Hi"}]}', 'turn 1: unknown key "usr"', "did you mean 'user'?"),
        (
            CHECKED % '{"type": "latency", "threshold": 5000}',
            "the kind of a check is its key",
            '{"latency": 5.0} (seconds',
        ),
        (
            CHECKED % '{"type": "similar", "value": "a", "threshold": 0.8}',
            "the kind of a check is its key",
            'write {"similar": {"to": "a", "threshold": 0.8}}',
        ),
        (CHECKED % '{"kind": "not-contains", "arg": "a"}', 'not "kind": "not-contains"', 'write {"not_contains": "a"}'),
        (
            CHECKED % '{"contains": "a", "case": true}',
            'unknown key "case"',
            "beside its kind a check may have weight, name",
        ),
        ('{"system": 5, "turns": [{"user": "Hi"}]}', '"system" must be text', 'e.g. "system": "Answer briefly."'),
        ('{"turns": [{"user": "Hi\nthere"}]}', "the line ends in the middle of its JSON", r"is written \n"),
    ],
)
def test_a_line_with_one_cause_has_one_problem_with_a_way_out(
    tmp_path_factory: pytest.TempPathFactory, line: str, what: str, hint: str
) -> None:
    [problem] = problems_of(tmp_path_factory.getbasetemp() / "one.jsonl", f"{line}\n{GOOD}\n")
    assert what in problem.split("\n")[0]
    assert hint in problem.split("hint: ")[1]


@each(
    ("word", "what", "hint"),
    [
        ("https://x.org/a.jsonl?v=1", "is an address", "curl -fL -o a.jsonl 'https://x.org/a.jsonl?v=1'"),
        ("s3://x/a.jsonl", "is an address", "aws s3 cp s3://x/a.jsonl a.jsonl"),
        ("file:///x/a.jsonl", "is an address", "write /x/a.jsonl"),
        ("~/a.jsonl", "`~` is not expanded", f"write {Path.home()}/a.jsonl"),
        ("gpt-4o@openai", "no such file", "-m gpt-4o@openai"),
        ("true", "no such file", "leave true out"),
        (f"{__file__},b.jsonl", "no such file", f"separate files by a space: {__file__} b.jsonl"),
        (f"“{__file__}”", "quotes or blanks", f"write {__file__}"),
    ],
)
def test_a_word_that_is_no_path_is_told_as_what_it_is(word: str, what: str, hint: str) -> None:
    (problem,) = scan([Path(word)])
    assert isinstance(problem, Problem)
    assert what in problem.what
    assert hint in (problem.hint or "")


@each("system", ['"Be brief."', '[{"text": "Be"}, {"text": "brief."}]', '{"type": "text", "text": "Be brief."}'])
def test_a_system_text_may_be_a_list_of_text_parts(tmp_path_factory: pytest.TempPathFactory, system: str) -> None:
    path = tmp_path_factory.getbasetemp() / "system.jsonl"
    path.write_text(f'{{"system": {system}, "turns": [{{"user": "Hi"}}]}}\n')
    (read,) = load_dialogues([path])
    assert " ".join((read.system or "").split()) == "Be brief."


def test_a_csv_file_in_another_encoding_names_the_likely_ones(tmp_path: Path) -> None:
    for text, encoding in (("déjà vu, très", "cp1252"), ("你好", "gb18030"), ("Привет, мир", "cp1251")):
        problem = problems_of(tmp_path / "d.csv", f"user\n{text}\n".encode(encoding))[0]
        assert problem.startswith(
            "d.csv:2: not UTF-8 at byte 2" if encoding == "cp1252" else "d.csv:2: not UTF-8 at byte 1"
        )
        assert f"UTF-8: iconv -f {encoding.upper()} -t" in problem


def test_one_cause_in_many_lines_is_shown_three_times_and_counted(tmp_path: Path, convbatch: Command) -> None:
    lines = [json.dumps({"text": number}) for number in range(40)] + [json.dumps({"turns": [{"user": ""}]})]
    (tmp_path / "d.jsonl").write_text("\n".join(lines))
    for arguments in (("validate", "d.jsonl"), ("convert", "d.jsonl", "o.jsonl"), ("run", "d.jsonl")):
        err = convbatch(*arguments).err
        assert err.count(": no dialogue on this line") == 4
        assert "d.jsonl: the same 37 more times (40 in all): no dialogue on this line\n" in err
        assert "found: lines 4, 5, 6, 7, 8, 9, 10, 11, …\n" in err
        assert 'd.jsonl:41: turn 1: "user" must not be blank' in err
    assert len(json.loads(convbatch("validate", "d.jsonl", "--json").out)["listed"]) == 41


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 99)), max_size=60))
def test_every_problem_is_shown_or_counted(found: list[tuple[str, int]]) -> None:
    problems = [Problem(what=f"turn {number} is {what}", place=Place(path="f", line=number)) for what, number in found]
    shown = list(one_cause_once(problems))
    counted = sum(int(problem.what.split()[2]) for problem in shown if problem.what.startswith("the same"))
    alone = [problem for problem in shown if not problem.what.startswith("the same")]
    assert len(alone) + counted == len(problems)
    assert all(problem in problems for problem in alone)


@each(
    ("check", "what", "hint"),
    [
        (
            {"type": "contains", "value": "a"},
            'the kind of a check is its key, not "type": "contains"',
            'write {"contains": "a"}',
        ),
        (
            {"type": "not-icontains", "value": "a", "weight": 2},
            'the kind of a check is its key, not "type": "not-icontains"',
            'write {"not_icontains": "a", "weight": 2}',
        ),
        (
            {"type": "contains-any", "value": "a"},
            'the kind of a check is its key, not "type": "contains-any"',
            'write {"contains_any": ["a"]}',
        ),
        (
            {"type": "levenshtein", "value": "ten letter", "threshold": 2},
            'the kind of a check is its key, not "type": "levenshtein"',
            'write {"similar": {"to": "ten letter", "threshold": 0.8}} (a share of the text that is alike, where',
        ),
        (
            {"type": "not-is-json", "value": {"type": "object"}},
            'the kind of a check is its key, not "type": "not-is-json"',
            'write {"not_json_schema": {"type": "object"}}',
        ),
        (
            {"type": "llm-rubric", "value": "Is it kind?", "threshold": 0.8, "provider": "x", "metric": "tone"},
            'the kind of a check is its key, not "type": "llm-rubric"',
            'write {"llm_rubric": "Is it kind?", "name": "tone"}; it has no place for "threshold" (it passes or '
            'fails), "provider" (a judge is named by --judge MODEL@GATEWAY)',
        ),
        (
            {"type": "cost", "threshold": 0.00002},
            'the kind of a check is its key, not "type": "cost"',
            'write {"cost": "0.00002USD"}',
        ),
        (
            {"type": "icontains-any", "value": ["a.b", "c"]},
            'the kind of a check is its key, not "type": "icontains-any"',
            r'write {"regex": "(?i)a\\.b|c"}',
        ),
        (
            {"type": "similar:cosine", "value": "a"},
            'the kind of a check is its key, not "type": "similar:cosine"',
            'write {"similar": "a"}',
        ),
        (
            {"type": "equals", "value": 27},
            'the kind of a check is its key, not "type": "equals"',
            'write {"equals": "27"}',
        ),
        ({"type": "assert-set", "assert": []}, 'unknown check "assert-set"', "write its checks one by one"),
        ({"type": "is-json"}, 'the kind of a check is its key, not "type": "is-json"', 'write {"is_json": true}'),
        ({"type": "javascript", "value": "x"}, 'unknown check "javascript"', "code is never taken from a dataset"),
        ({"notContains": "a"}, 'unknown check "notContains"', "did you mean 'not_contains'?"),
        ({"exact_match": "a"}, 'unknown check "exact_match"', "did you mean 'equals'?"),
        ({"contains": "a", "wieght": 2}, 'unknown key "wieght"', "did you mean 'weight'?"),
        ({"contains": "a", "nmae": "x"}, 'unknown key "nmae"', "did you mean 'name'?"),
        ({"latency": "fast"}, '"latency" takes', 'e.g. {"latency": 2.5} (seconds)'),
        ({"not_contains": 5}, '"not_contains" takes text', 'e.g. {"not_contains": "27"}'),
    ],
)
def test_a_wrong_check_is_answered_with_the_right_one(
    tmp_path_factory: pytest.TempPathFactory, check: dict[str, object], what: str, hint: str
) -> None:
    line = json.dumps({"turns": [{"user": "u", "checks": [check]}]})
    [problem] = problems_of(tmp_path_factory.getbasetemp() / "c.jsonl", line)
    assert problem.startswith(f"c.jsonl:1: turn 1: check 1: {what}")
    assert hint in problem.split("hint: ")[1]


def test_every_kind_of_check_has_an_example_that_it_takes() -> None:
    assert [kind.name for kind in CHECKS.values() if kind.argument(ARGUMENT_EXAMPLES[kind.name][0]) is not None] == []


@each(
    ("typed", "there", "hint"),
    [
        ("mi.jsonl", "my.jsonl", "did you mean {}/my.jsonl?"),
        ("support", "support.jsonl", "did you mean {}/support.jsonl?"),
        ("support.json", "support.jsonl.gz", "did you mean {}/support.jsonl.gz?"),
        ("SUPPORT.jsonl", "support.jsonl", "did you mean {}/support.jsonl?"),
        ("zz.jsonl", "support.jsonl", "in {}: support.jsonl"),
        ("quick.jsonl", "datasets/quick.jsonl", "did you mean {}/datasets/quick.jsonl?"),
        ("datsets/quick.jsonl", "datasets/quick.jsonl", "did you mean {}/datasets/quick.jsonl?"),
    ],
)
def test_a_mistyped_file_is_answered_with_the_nearest_one(
    tmp_path_factory: pytest.TempPathFactory, typed: str, there: str, hint: str
) -> None:
    folder = tmp_path_factory.mktemp("typed")
    (folder / there).parent.mkdir(exist_ok=True)
    (folder / there).write_text(GOOD)
    [problem] = [item for item in scan([folder / typed]) if isinstance(item, Problem)]
    assert problem.what == "no such file"
    assert problem.hint is not None
    assert hint.format(folder) in problem.hint


KINDS = [
    ("equals", "a"),
    ("contains", "a"),
    ("not-contains-all", ["a", "b"]),
    ("contains-any", "a,b"),
    ("icontains-any", ["a"]),
    ("icontains-all", ["a", "b"]),
    ("starts-with", "a"),
    ("regex", "a+"),
    ("is-json", {"type": "object"}),
    ("contains-json", None),
    ("latency", None),
    ("cost", None),
    ("levenshtein", "a text"),
    ("similar", "a text"),
    ("llm-rubric", "kind"),
    ("factuality", "a fact"),
    ("finish-reason", "stop"),
]
EXTRA = {
    "weight": 77,
    "metric": "my name",
    "threshold": 3,
    "provider": "p",
    "transform": "t",
    "rubricPrompt": "r",
    "x": "odd",
}


@given(st.sampled_from(KINDS), st.sets(st.sampled_from(sorted(EXTRA))))
def test_nothing_of_another_tools_check_is_dropped_in_silence(kind: tuple[str, object], keys: set[str]) -> None:
    name, value = kind
    extra = {key: EXTRA[key] for key in sorted(keys)}
    check = {"type": name, **({} if value is None else {"value": value}), **extra}
    told = translated(check, "type")
    assert told is not None
    assert told.startswith("write {")
    written, _, left = told.partition("; it has no place for ")
    for key in keys:
        is_share = name in ("latency", "cost", "levenshtein", "similar") and key == "threshold"
        carried = is_share or json.dumps(EXTRA[key]) in written
        assert carried != (json.dumps(key) in left), (key, told)
