from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from convbatch.dataset.formats.registry import FORMATS, detect, to_canonical, unknown_format
from convbatch.dataset.schema import issues_of
from convbatch.dataset.selection import convert, load_dialogues
from convbatch.errors import InputError
from tests.conftest import QUICKSTART, Command
from tests.dataset.test_formats import DMXAPI_SEED, GEMINI_FULL, GOOGLE_SEED, OPENAI_FULL, spoken
from tests.dataset.test_formats import FORMS as FIRST_FORMS
from tests.support.tables import each

PAGE = (QUICKSTART.parent.parent / "docs" / "dataset.md").read_text(encoding="utf-8")
SHOWN: dict[str, list[str]] = {
    name: lines.splitlines()
    for name, lines in re.findall(r"^`(\w+)`[^\n]*\n\n```jsonl\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
}


def canonical(line: dict[str, Any], *, reference: bool = False) -> dict[str, Any]:
    form = detect(line)
    assert form is not None, line
    imported = to_canonical(line, form, reference=reference)
    assert imported.issues == []
    assert issues_of(imported.plain) == []
    return imported.plain


def flaws(line: dict[str, Any]) -> str:
    form = detect(line)
    assert form is not None
    return "\n".join(f"{issue.what} {issue.hint}" for issue in to_canonical(line, form).issues)


def test_the_page_shows_three_lines_of_each_format() -> None:
    assert set(SHOWN) == set(FORMATS) - {"canonical", "csv"}
    assert {name: len(lines) for name, lines in SHOWN.items() if len(lines) != 3} == {}


@each(("name", "line"), [(name, line) for name, lines in SHOWN.items() for line in lines])
def test_a_line_of_the_page_is_a_dialogue_of_its_format(name: str, line: str) -> None:
    found = detect(json.loads(line))
    assert found is not None
    assert found.name == name
    canonical(json.loads(line))


EARLIER = [DMXAPI_SEED, GEMINI_FULL, GOOGLE_SEED, OPENAI_FULL, *(line for line, _ in FIRST_FORMS.values())]
EARLIER_NAMES = ("canonical", "gemini", "mtbench", "openai", "sharegpt")
OTHER_KEYS = {
    "instruction": "x",
    "input": "x",
    "output": "x",
    "target": "x",
    "prompt": "x",
    "completion": "x",
    "history": [["a", "b"]],
    "dialogue": [{"role": "user", "content": "x"}],
    "params": {"messages": []},
    "conversation_a": [],
    "model": "m",
}


@each("line", [*EARLIER, {"id": "c", "turns": [{"user": "x", "assistant": "y"}]}])
def test_a_line_with_the_keys_of_an_earlier_format_keeps_it_whatever_else_it_has(line: dict[str, Any]) -> None:
    own = detect(line)
    assert own is not None
    assert own.name in EARLIER_NAMES
    for key, value in OTHER_KEYS.items():
        if key not in line:
            assert detect({**line, key: value}) == own
            assert detect({key: value, **line}) == own


USER = {"role": "user", "content": "u"}
LINES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "alpaca input without instruction": (
        {"instruction": "", "input": "i", "output": "o"},
        {"turns": [{"user": "i", "assistant": "o"}]},
    ),
    "alpaca history of messages": (
        {"instruction": "i", "history": [USER, {"role": "assistant", "content": "a"}]},
        {"turns": [{"user": "u", "assistant": "a"}, {"user": "i"}]},
    ),
    "one target is a reply, several are kept": (
        {"input": "q", "target": ["a", "b"]},
        {"turns": [{"user": "q"}], "meta": {"target": ["a", "b"]}},
    ),
    "a number as target": ({"input": "q", "target": 4}, {"turns": [{"user": "q", "assistant": "4"}]}),
    "a target after a reply": (
        {"input": [USER, {"role": "assistant", "content": "a"}], "target": "t"},
        {"turns": [{"user": "u", "assistant": "a"}], "meta": {"target": "t"}},
    ),
    "the user and the sys": (
        {"history": [{"user": "1", "sys": "2"}, {"user": "3"}]},
        {"turns": [{"user": "1", "assistant": "2"}, {"user": "3"}]},
    ),
    "chosen repeats the prompt": (
        {"prompt": "u", "chosen": [USER, {"role": "assistant", "content": "a"}], "rejected": []},
        {"turns": [{"user": "u", "assistant": "a"}], "meta": {"rejected": []}},
    ),
    "anthropic text": (
        {"chosen": "\n\nHuman: hi\n\nthere\n\nAssistant: yo\n\nHuman: x\n\nAssistant:"},
        {"turns": [{"user": "hi\n\nthere", "assistant": "yo"}, {"user": "x"}]},
    ),
    "anthropic body": (
        {
            "custom_id": "c",
            "params": {
                "model": "m",
                "max_tokens": 5,
                "system": [{"type": "text", "text": "s"}],
                "stop_sequences": ["E"],
                "thinking": {"type": "enabled", "budget_tokens": 9},
                "tools": [{"name": "f", "input_schema": {"type": "object"}}],
                "tool_choice": {"type": "auto"},
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "u", "cache_control": {"type": "ephemeral"}},
                            {
                                "type": "image",
                                "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="},
                            },
                        ],
                    },
                    {
                        "role": "assistant",
                        "content": [{"type": "thinking", "thinking": "h"}, {"type": "text", "text": "a"}],
                    },
                ],
            },
        },
        {
            "id": "c",
            "system": "s",
            "turns": [{"user": [{"text": "u"}, {"data": "iVBORw0KGgo=", "mime_type": "image/png"}], "assistant": "a"}],
            "tools": [{"name": "f", "parameters": {"type": "object"}}],
            "settings": {
                "max_output_tokens": 5,
                "stop": ["E"],
                "thinking_budget": 9,
            },
            "meta": {"model": "m"},
        },
    ),
    "responses body": (
        {
            "custom_id": "c",
            "url": "/v1/responses",
            "body": {
                "input": [
                    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "u"}]},
                    {"role": "assistant", "content": [{"type": "output_text", "text": "a"}]},
                ],
                "instructions": "s",
                "reasoning": {"effort": "low", "summary": "auto"},
                "truncation": "auto",
                "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}},
            },
        },
        {
            "id": "c",
            "system": "s",
            "turns": [{"user": "u", "assistant": "a"}],
            "settings": {
                "reasoning_effort": "low",
                "response_schema": {"type": "object", "strict": False},
                "extra": {"reasoning": {"summary": "auto"}, "truncation": "auto"},
            },
        },
    ),
}


@each(("line", "expected"), list(LINES.values()))
def test_a_line_is_converted_to_a_canonical_dialogue(line: dict[str, Any], expected: dict[str, Any]) -> None:
    assert canonical(line) == expected


@each(
    ("line", "key", "expected"),
    [
        (
            {"instruction": "i", "context": "A text.", "response": "a"},
            "turns",
            [{"user": "i\nA text.", "assistant": "a"}],
        ),
        ({"messages": [{"role": "user", "content": [{"text": "u"}]}], "system": [{"text": "s"}]}, "system", "s"),
        ({"messages": [{"role": "user", "parts": [{"type": "text", "text": "u"}]}]}, "turns", [{"user": "u"}]),
        ({"prompt": "u", "completion": 42}, "turns", [{"user": "u", "assistant": "42"}]),
        ({"turns": [{"content": "u"}], "cluster": "c"}, "turns", [{"user": "u"}]),
        ({"turns": [{"question": "u", "answer": "a"}]}, "turns", [{"user": "u", "assistant": "a"}]),
        ({"messages": [USER, {"role": "Chatbot", "content": "a"}]}, "turns", [{"user": "u", "assistant": "a"}]),
        ({"messages": [USER], "meta_instruction": "s"}, "system", "s"),
        ({"messages": [USER], "response_schema": {"a": 1}}, "settings", {"response_schema": {"a": 1}}),
        ({"messages": [USER], "web_search_options": {}}, "settings", {"extra": {"web_search_options": {}}}),
        ({"messages": [USER], "mcp_servers": [{"url": "x"}]}, "settings", {"extra": {"mcp_servers": [{"url": "x"}]}}),
        ({"messages": [USER], "background": True, "num_examples": 3}, "meta", {"background": True, "num_examples": 3}),
    ],
)
def test_what_changes_the_question_is_carried_where_it_has_a_place(
    line: dict[str, Any], key: str, expected: Any
) -> None:
    assert canonical(line)[key] == expected


def test_a_list_of_prompts_takes_its_references_only_on_request() -> None:
    line = {"prompt_id": 1, "prompt": ["a", "b"], "reference": ["x", ""]}
    assert canonical(line)["turns"] == [{"user": "a"}, {"user": "b"}]
    assert canonical(line, reference=True)["turns"] == [{"user": "a", "assistant": "x"}, {"user": "b"}]


@each(
    ("line", "words"),
    [
        ({"input": "q", "target": "a", "choices": ["a", "b"]}, ['"choices"', "text of the question"]),
        ({"input": "q", "target": "a", "files": {"a.txt": "x"}}, ['"files"']),
        ({"model": "m", "input": "q", "previous_response_id": "r"}, ['"previous_response_id"']),
        ({"model": "m", "input": [USER, {"type": "function_call", "name": 5}]}, ["a recorded call of an unknown form"]),
        ({"history": [["a", "b"], ["c"]]}, ["a pair of another form"]),
        ({"history": [["a", {"x": 1}]], "prompt": "p"}, ["a reply without text"]),
        ({"instruction": "i", "input": {"a": 1}}, ['"input" must be text']),
        ({"prompt": ["a"], "completion": ["x", "y"]}, ["more replies than prompts"]),
        ({"params": {"messages": [USER], "tools": [{"type": "web_search"}]}}, ["tools other than functions"]),
        ({"messages": [{"author": "user", "content": "u"}], "examples": [{"input": "x"}]}, ['"examples"']),
        ({"conv": [USER, USER]}, ["two user turns in a row"]),
        ({"prompt": "u", "completion": "a", "context": "A text."}, ['"context"', "remove the key"]),
        ({"messages": [USER], "retrieved_passages": ["A text."]}, ['"retrieved_passages"']),
        ({"messages": [USER], "few_shot_examples": [{"q": "a"}]}, ['"few_shot_examples"']),
        ({"conversations": [{"question": "q", "answer": "a"}], "instruction": "i"}, ['"instruction"']),
        ({"prompt": "u", "A": "1", "B": "2"}, ['"A", "B"', "into the text of the question"]),
        ({"prompt": "u", "options": {"A": "1", "B": "2"}}, ['"options"']),
        ({"messages": [USER, {"role": "assistant", "content": "So", "prefix": True}]}, ['"prefix" inside a message']),
        ({"messages": [{**USER, "experimental_attachments": [{"url": "x"}]}]}, ['"experimental_attachments"']),
        (
            {"messages": [USER, {"role": "assistant", "content": [{"type": "tool_use"}]}]},
            ["a recorded call of an unknown form"],
        ),
        ({"messages": [{"role": "user", "content": [{"toolResult": {}}]}]}, ["a tool result without its call"]),
        ({"url": "/v1/embeddings", "body": {"model": "m", "input": "u"}}, ["no request for a reply"]),
        ({"messages": [USER], "optional_params": {"temperature": 0, "tools": [{}]}}, ["tools other than functions"]),
    ],
)
def test_what_changes_the_question_and_has_no_place_is_an_issue(line: dict[str, Any], words: list[str]) -> None:
    found = flaws(line)
    assert [word for word in words if word not in found] == []


@each(
    ("line", "words"),
    [
        (
            {"question": "q", "answer": "a"},
            "jq -c '{prompt: .question, completion: .answer} + del(.question, .answer)'",
        ),
        ({"question": "q", "choices": ["a", "b"]}, "jq -c '{prompt: .question} + del(.question)'"),
        ({"dialog": ["u", "a", "v"]}, "jq -c '.history = [.dialog | range(0; length; 2) as $i | {user: .[$i], bot: "),
        ({"row": {"messages": []}, "truncated_cells": ["messages"]}, "jq -c '.row'"),
        ({"version": 1, "data": [{"messages": []}]}, "jq -c '.data[]'"),
        ({"instances": [{"prompt": "u"}]}, "jq -c '.instances[]'"),
        ({"question_id": 1, "choices": [{"turns": ["a"]}]}, 'write {"id"'),
        ({"inputs": {"a": 1}, "outputs": {"b": 2}}, 'write {"id"'),
        ({"log": [{"role": "user", "text": "u"}]}, "jq -c '.messages = .log | del(.log)'"),
        ({"my chat": [["a", "b"]]}, 'jq -c \'.history = .["my chat"] | del(.["my chat"])\''),
        ({"queries": ["a", "b"]}, "jq -c '.turns = .queries | del(.queries)'"),
        ({"2303": {"messages": []}, "2304": {"messages": []}}, "`convbatch convert IN OUT.jsonl`"),
        ({"x": 1}, 'write {"id": "…", "turns": [{"user": "…", "assistant": "…"}]}'),
        ({"mesages": 1}, "did you mean 'messages'?"),
    ],
)
def test_an_unknown_line_is_refused_with_the_way_to_the_nearest_format(line: dict[str, Any], words: str) -> None:
    assert detect(line) is None
    assert words in (unknown_format(line).hint or "")


def test_a_forced_format_reads_a_line_that_detection_gives_to_another(tmp_path: Path) -> None:
    source = tmp_path / "d.jsonl"
    source.write_text(json.dumps({"id": 1, "input": "q", "target": "a", "prompt": "p", "completion": "c"}) + "\n")
    for name, turns in (("inspect", [("q", "a")]), ("prompt", [("p", "c")])):
        convert(source, tmp_path / f"{name}.jsonl", from_format=name)
        assert spoken(load_dialogues([tmp_path / f"{name}.jsonl"])[0]) == turns
    with pytest.raises(InputError, match=r"not Gemini .* as requested"):
        convert(source, tmp_path / "no.jsonl", from_format="gemini")


def blocks(start: str) -> str:
    return PAGE.split(start, 1)[1].split("```", 1)[0]


def read(path: Path) -> list[dict[str, Any]]:
    return [dialogue.to_plain() for dialogue in load_dialogues([path])]


def test_each_line_may_be_the_array_of_messages(tmp_path: Path) -> None:
    source = tmp_path / "d.jsonl"
    source.write_text("\n" + blocks("An array of messages a line (`openai`)\n\n```jsonl\n"), encoding="utf-8-sig")
    first, second, third = read(source)
    assert (first, third["system"]) == ({"id": "d:2", "turns": [{"user": "Hi"}]}, "Be brief.")
    assert second["turns"] == [{"user": "Hi", "assistant": "Hello"}, {"user": "Bye"}]
    assert convert(source, tmp_path / "out.jsonl") == 3


def test_convert_reads_an_object_with_each_dialogue_under_its_id(tmp_path: Path) -> None:
    messages = [{"role": "usr", "content": "u"}, {"role": "sys", "content": "a"}]
    keyed = {"391": {"messages": messages, "type": "x"}, "7": {"messages": messages}}
    (tmp_path / "d.json").write_text(json.dumps(keyed, indent=1))
    (tmp_path / "d.jsonl").write_text(json.dumps({"9": keyed["391"]}) + "\n" + json.dumps(keyed) + "\n")
    convert(tmp_path / "d.json", tmp_path / "one.jsonl")
    convert(tmp_path / "d.jsonl", tmp_path / "two.jsonl")
    assert [line["id"] for line in read(tmp_path / "one.jsonl")] == ["391", "7"]
    assert [line["id"] for line in read(tmp_path / "two.jsonl")] == ["9", "391", "7"]


def test_an_array_of_dialogues_is_no_array_of_messages(tmp_path: Path) -> None:
    source = tmp_path / "d.json"
    source.write_text(json.dumps([{"messages": [USER]}, {"messages": [USER]}]))
    assert convert(source, tmp_path / "out.jsonl") == 2


def test_a_broken_line_among_arrays_has_its_place(tmp_path: Path) -> None:
    source = tmp_path / "d.jsonl"
    source.write_text(json.dumps([USER]) + "\n[1]\n5\n[{}\n" + json.dumps({"messages": [USER]}) + "\n")
    with pytest.raises(InputError) as refused:
        load_dialogues([source])
    assert [problem.place.line for problem in refused.value.problems if problem.place] == [2, 3, 4]


def test_the_rows_of_a_csv_file_are_the_turns_of_its_dialogues(tmp_path: Path) -> None:
    source = tmp_path / "d.csv"
    source.write_text(blocks("```csv\n"), encoding="utf-8-sig")
    assert read(source) == [
        {
            "id": "d1",
            "tags": ["date", "en"],
            "turns": [{"user": "What day is today?", "assistant": "Saturday"}, {"user": "And tomorrow, then?"}],
        },
        {"id": "d2", "tags": ["date", "zh"], "turns": [{"user": "今天是几号"}]},
    ]


@each(
    ("rows", "expected"),
    [
        ("id;user, text;user\n1;x, y;z\n", [{"id": "1", "turns": [{"user": "z"}], "meta": {"user, text": "x, y"}}]),
        ("sep=;\r\nid;user\r\n1;x, y\r\n", [{"id": "1", "turns": [{"user": "x, y"}]}]),
        ("id|user\n1|x\n", [{"id": "1", "turns": [{"user": "x"}]}]),
        ('user\n"x; y"\n', [{"id": "d:2", "turns": [{"user": "x; y"}]}]),
        ("id,turn,user,\n1,1.0,x,\n1,2.0,y,\n", [{"id": "1", "turns": [{"user": "x"}, {"user": "y"}]}]),
        (
            "id;user;temperature;max_tokens\n1;x;0,5;50\n",
            [{"id": "1", "turns": [{"user": "x"}], "settings": {"temperature": 0.5, "max_output_tokens": 50}}],
        ),
        ("User\nx\ny\n", [{"id": "d:2", "turns": [{"user": "x"}]}, {"id": "d:3", "turns": [{"user": "y"}]}]),
        ("id\trole\tcontent\n1\tuser\tu\n1\tassistant\ta\n", [{"id": "1", "turns": [{"user": "u", "assistant": "a"}]}]),
        (
            "id;question;system;level\n1;a;s;x\n1;b;;y\n",
            [{"id": "1", "system": "s", "turns": [{"user": "a"}, {"user": "b"}], "meta": {"level": ["x", "y"]}}],
        ),
    ],
)
def test_a_csv_file_may_have_other_columns(tmp_path: Path, rows: str, expected: list[dict[str, Any]]) -> None:
    source = tmp_path / "d.csv"
    source.write_text(rows)
    assert read(source) == expected


@each(
    ("rows", "words"),
    [
        ("id,text\n1,x\n", ['no column "user"', "convbatch expand"]),
        ("id,user\n", ["the file has no row"]),
        ("id,turn,user\n1,2,x\n", ['d.csv:2: turn 1: "turn" is not 1']),
        ("id,user\n1,\n", ['d.csv:2: turn 1: "user" must not be blank']),
        ("id,user,ask\n1,x,false\n", ['d.csv:2: a column "ask"']),
        ("id,user,system\n1,x,a\n1,y,b\n", ["two system texts"]),
        ("id,user\n1,x\n1\n1,y\n", ["d.csv:3: 1 cell in a file of 2 columns"]),
        ("id,user\n1,#NAME?\n", ["d.csv:2: an error value of a spreadsheet"]),
        (",user\n0,x\n", ["d.csv:2: text in a column without a name", "index=False"]),
        ("id,user\n1.23457E+11,x\n1.23457E+11,y\n", ["d.csv:2: an id that a spreadsheet has rounded"]),
        ("id,prompt,question\n1,Translate:,x\n", ['two columns of questions, "question" and "prompt"']),
        ("question,A,B\nx,1,2\n", ['d.csv:2: "a", "b" beside the question']),
        ("id,user\n1,x\n2,x\n1,y\n", ['d.csv:4: id "1" is used twice']),
    ],
)
def test_a_csv_file_with_a_mistake_is_refused_once_with_its_place(tmp_path: Path, rows: str, words: list[str]) -> None:
    source = tmp_path / "d.csv"
    source.write_text(rows)
    with pytest.raises(InputError) as refused:
        load_dialogues([source])
    assert len(refused.value.problems) == 1
    assert [word for word in words if word not in str(refused.value)] == []


QUESTIONS = [{"question_id": 1, "turns": ["a", "b"]}, {"question_id": 2, "turns": ["c"]}]


def written(path: Path, *lines: Any) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def answer(named: int, *turns: str) -> dict[str, Any]:
    return {"question_id": named, "model_id": "m", "choices": [{"index": 0, "turns": list(turns)}]}


def test_reference_answers_of_a_file_of_their_own_become_scripted_replies(convbatch: Command, tmp_path: Path) -> None:
    written(tmp_path / "q.jsonl", *QUESTIONS)
    written(tmp_path / "answers.jsonl", answer(1, "x", ""))
    done = convbatch("convert", "q.jsonl", "out.jsonl", "--reference-answers", "answers.jsonl")
    assert done.code == 0, done.err
    assert [spoken(dialogue) for dialogue in load_dialogues([tmp_path / "out.jsonl"])] == [
        [("a", "x"), ("b", None)],
        [("c", None)],
    ]


@each(
    ("lines", "words"),
    [
        ([answer(1, "x"), answer(3, "y")], ['answers.jsonl:2: no dialogue has the id "3"']),
        ([answer(1, "x"), answer(1, "y")], ["answers.jsonl:2: two answers to question 1", "first on line 1"]),
        ([answer(2, "x", "y")], ["answers.jsonl:1: 2 answers to the 1 turn of question 2"]),
        ([{"question_id": 1, "turns": ["x"]}], ["answers.jsonl:1: no reference answer", '"choices"']),
        ([], ["answers.jsonl: the file is empty"]),
    ],
)
def test_reference_answers_that_do_not_fit_are_refused(tmp_path: Path, lines: list[Any], words: list[str]) -> None:
    source = written(tmp_path / "q.jsonl", *QUESTIONS)
    answers = written(tmp_path / "answers.jsonl", *lines)
    with pytest.raises(InputError) as refused:
        convert(source, tmp_path / "out.jsonl", reference_answers=answers)
    assert [word for word in words if word not in str(refused.value)] == []
    assert not (tmp_path / "out.jsonl").exists()


def test_a_role_that_is_no_text_takes_no_format_by_surprise() -> None:
    assert FORMATS["speakers"].detect({"messages": [{"role": {"x": 1}, "content": "s"}]}) is False
