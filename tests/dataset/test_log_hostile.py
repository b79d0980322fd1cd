"""Broken, huge and hostile logs: every problem has its place, memory stays bounded, nothing is run or reached."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from convbatch.dataset.logs import archive
from convbatch.dataset.logs.convert import convert_logs, log_form
from convbatch.dataset.logs.promptfoo_template import TemplateRefused, render
from convbatch.dataset.logs.registry import LOG_FORMS
from convbatch.dataset.logs.yaml_file import parse_yaml
from convbatch.dataset.selection import load_dialogues
from convbatch.errors import InputError, Issue
from tests.conftest import Command, environment
from tests.dataset.test_logs import SAMPLES


def span(n: int, *texts: str, reply: str | None = None, session: str | None = None, **keys: Any) -> dict[str, Any]:
    messages = [
        {"role": ("user", "assistant")[at % 2], "parts": [{"type": "text", "content": text}]}
        for at, text in enumerate(texts)
    ]
    attributes: dict[str, Any] = {"gen_ai.operation.name": "chat", "gen_ai.input.messages": json.dumps(messages)}
    if reply is not None:
        said = [{"role": "assistant", "parts": [{"type": "text", "content": reply}]}]
        attributes["gen_ai.output.messages"] = json.dumps(said)
    if session is not None:
        attributes["gen_ai.conversation.id"] = session
    return {
        "traceId": f"t{n}",
        "spanId": f"s{n}",
        "startTimeUnixNano": str(10**18 + n),
        "attributes": attributes,
        **keys,
    }


def lines(*rows: Any) -> str:
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


def problems_of(path: Path, kind: str, out: Path) -> list[str]:
    with pytest.raises(InputError) as caught:
        convert_logs([path], out, LOG_FORMS[kind])
    assert not out.exists()
    return [str(problem).replace(f"{path.parent}/", "") for problem in caught.value.problems]


def test_every_broken_line_is_listed_and_nothing_is_written(convbatch: Command, tmp_path: Path) -> None:
    good = span(1, "Hi", reply="Hello")
    rows = (good, "{broken", {"messages": []}, span(2, "a", "b", "c", "d"), lines(good)[:-40].strip())
    (tmp_path / "log.jsonl").write_text(lines(*rows))
    done = convbatch("convert", "log.jsonl", "out.jsonl")
    assert done.code == 2
    for line in (2, 3, 5):
        assert f"log.jsonl:{line}: " in done.err
    assert "the line ends in the middle of its JSON" in done.err
    assert "2 conversations without a problem\n  hint: --partial" in done.err
    assert not (tmp_path / "out.jsonl").exists()
    done = convbatch("convert", "log.jsonl", "out.jsonl", "--partial")
    assert done.code == 3
    assert "left out: log.jsonl:2: " in done.err
    assert len(load_dialogues([tmp_path / "out.jsonl"])) == 2


@pytest.mark.parametrize("kind", [None, *(pytest.param(kind, marks=pytest.mark.slow) for kind in LOG_FORMS)])
def test_what_is_no_regular_file_is_refused_before_it_is_opened(
    kind: str | None, command: Command, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe.eval")
    (tmp_path / "zero.jsonl").symlink_to("/dev/zero")
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    chosen = [] if kind is None else ["--from", kind]
    names = ("pipe.eval", "zero.jsonl", "loop.csv", ".") if kind in (None, "otel") else ("pipe.eval",)
    for name in names:
        done = command("convert", *chosen, name, "out.jsonl", timeout=30)
        assert done.code == 2
        assert f"error: {name}" in done.err


def eval_file(path: Path, members: dict[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return path


SAMPLE = {
    "id": "a",
    "epoch": 1,
    "input": "Hi",
    "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
}


def test_paths_in_an_archive_lead_nowhere(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    members = {"../../evil.json": b"{}", "/etc/evil": b"x", "samples/../../evil2.json": json.dumps(SAMPLE).encode()}
    path = eval_file(inside / "log.eval", members)
    convert_logs([path], inside / "out.jsonl", LOG_FORMS["inspect-log"])
    assert [one.id for one in load_dialogues([inside / "out.jsonl"])] == ["a"]
    assert sorted(one.name for one in tmp_path.rglob("*")) == ["inside", "log.eval", "out.jsonl"]


def test_bombs_in_an_archive_are_refused_by_what_they_declare_and_by_what_they_unpack_to(tmp_path: Path) -> None:
    huge = b'{"x": "' + b"0" * (archive.MAX_LINE_BYTES + 10) + b'"}'
    path = eval_file(tmp_path / "bomb.eval", {"samples/a.json": huge, "samples/b.json": json.dumps(SAMPLE).encode()})
    [problem] = problems_of(path, "inspect-log", tmp_path / "out.jsonl")[:1]
    assert "samples/a.json: a member of 67108883 bytes" in problem
    lying = bytearray(path.read_bytes())
    for at in range(len(lying) - 4):
        if bytes(lying[at : at + 4]) == len(huge).to_bytes(4, "little"):
            lying[at : at + 4] = (500).to_bytes(4, "little")
    path.write_bytes(lying)
    assert any("samples/a.json" in one for one in problems_of(path, "inspect-log", tmp_path / "out.jsonl"))


@pytest.mark.parametrize("cut", [100, 3_000, 9_000])
def test_an_archive_that_is_cut_off_is_refused(cut: int, tmp_path: Path) -> None:
    (tmp_path / "log.eval").write_bytes((SAMPLES / "inspect_talk.eval").read_bytes()[:cut])
    assert "damaged or cut off" in problems_of(tmp_path / "log.eval", "inspect-log", tmp_path / "out.jsonl")[0]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_log(tmp_path: Path) -> None:
    with (tmp_path / "log.jsonl").open("w") as file:
        for n in range(4_000):
            file.write(lines(span(n, f"{n} " + "x" * 20_000, reply="y", session=None if n % 3 else f"s{n // 30}")))
    assert (tmp_path / "log.jsonl").stat().st_size > 80_000_000
    # The peak of its own memory: what `resource` counts includes that of the process which started it.
    code = (
        "import atexit, pathlib; from convbatch.__main__ import main;"
        "atexit.register(lambda: print(pathlib.Path('/proc/self/status').read_text()));"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "convert", "--from", "otel", "log.jsonl", "out.jsonl"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    used = int(done.stdout.partition(b"VmHWM:")[2].split()[0])
    assert used < 220_000, f"{used} KiB for a log of 80 MB"


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
HOSTILE_YAML = {
    "laughs": (LAUGHS, "too many values"),
    "itself": ("a: &a [*a]", "contains itself"),
    "python": ("x: !!python/object/apply:os.system ['touch owned']", "not YAML"),
    "tag": ("x: !Custom 1", "not YAML"),
    "twice": ("a: 1\na: 2", "not YAML"),
    "deep": ("[" * 5_000, "nested too deeply"),
    "open": ("a: [1, 2", "not YAML"),
    "deep maps": ("{" * 200 + "}" * 200, "nested too deeply"),
}


@pytest.mark.parametrize(("text", "told"), HOSTILE_YAML.values(), ids=HOSTILE_YAML)
def test_hostile_yaml_is_refused(text: str, told: str) -> None:
    value = parse_yaml(text)
    assert isinstance(value, Issue)
    assert told in value.what
    assert not Path("owned").exists()


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ q.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{% for a in range(99999999) %}{{ a }}{% endfor %}",
        "{{ 'a' * 999999999 }}",
        "{{ 10 ** 10 ** 10 }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{{ env.HOME }}",
        "{{ q | attr('__class__') }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% for a in l %}{% for b in l %}{% for c in l %}{{ a }}{% endfor %}{% endfor %}{% endfor %}",
        "{{ " + "(" * 500 + "q" + ")" * 500 + " }}",
        "{{ q",
        "{{ absent }}",
        "{{ process.mainModule.require('child_process') }}",
    ],
)
def test_a_template_reaches_nothing_and_ends(text: str) -> None:
    with pytest.raises(TemplateRefused):
        render(text, {"q": "text", "l": ["x"] * 1_000})


def test_templates_fill_variables_loops_and_conditions() -> None:
    loop = "{% for m in list %}{% if not loop.first %}, {% endif %}{{ m.name | upper }}{% else %}-{% endfor %}"
    text = loop + " {{ x or 'y' }} {{ d | dump }}"
    assert render(text, {"list": [{"name": "a"}, {"name": "b"}], "x": "", "d": {"k": "é"}}) == 'A, B y {"k": "é"}'
    assert render('{"q": "{{ q }}"}', {"q": 'a "b"\n'}, in_json=True) == '{"q": "a \\"b\\"\\n"}'
    assert render("{{ hostile }}", {"hostile": "{{ 7 * 7 }}"}) == "{{ 7 * 7 }}", "values are not templates"


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("prompts: ['file:///etc/passwd']", "not below the folder"),
        ("prompts: ['file://../secret.txt']", "not below the folder"),
        ("prompts: ['file://link.txt']", "not below the folder"),
        ("prompts: ['file://pipe.txt']", "not a regular file"),
        ("prompts: ['file://make.py']", "code, which is never run"),
        ("prompts: ['file://make.js:fn']", "code, which is never run"),
        ("prompts: ['{{ q }}']\ndefaultTest: {vars: {q: 'file:///etc/hostname'}}", "not below the folder"),
        ("prompts: [1]", "no text and no file"),
        ("prompts: []", "without prompts"),
    ],
)
def test_a_config_of_promptfoo_names_files_below_its_folder_only(config: str, told: str, tmp_path: Path) -> None:
    inner = tmp_path / "in"
    inner.mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    (inner / "link.txt").symlink_to(tmp_path / "secret.txt")
    os.mkfifo(inner / "pipe.txt")
    (inner / "c.yaml").write_text(config + "\ntests: [{vars: {a: b}}]\n")
    told_ones = problems_of(inner / "c.yaml", "promptfoo", inner / "out.jsonl")
    assert told in told_ones[0]
    assert "secret" not in told_ones[0].replace("secret.txt", "")


def test_csv_in_another_encoding_is_refused_with_the_command_that_helps(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("id,input,output,sessionId,userId\nx,今天是几号,26,s,u\n".encode("gb18030"))
    assert "iconv -f GB18030" in problems_of(tmp_path / "t.csv", "langfuse", tmp_path / "out.jsonl")[0]
    (tmp_path / "u.csv").write_text("id,input,output,sessionId,userId\nx,今天是几号,26,s,u\n", encoding="utf-8-sig")
    convert_logs([tmp_path / "u.csv"], tmp_path / "out.jsonl", LOG_FORMS["langfuse"])
    assert load_dialogues([tmp_path / "out.jsonl"])[0].turns[0].user_text == "今天是几号"


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    whole = (SAMPLES / "phoenix.parquet").read_bytes()
    for cut in (8, 4_000, len(whole) - 20):
        (tmp_path / "p.parquet").write_bytes(whole[:cut])
        assert "damaged" in problems_of(tmp_path / "p.parquet", "phoenix", tmp_path / "out.jsonl")[0]


def test_texts_of_a_log_stay_texts(tmp_path: Path) -> None:
    hostile = "\x1b[2J{{7*7}} $(touch owned) <script> \u202e =1+1"
    (tmp_path / "log.jsonl").write_text(lines(span(1, hostile, reply=hostile, session=f"../../{hostile}")))
    convert_logs([tmp_path / "log.jsonl"], tmp_path / "out.jsonl", LOG_FORMS["otel"])
    [dialogue] = load_dialogues([tmp_path / "out.jsonl"])
    assert dialogue.turns[0].user_text == hostile == dialogue.turns[0].assistant
    assert dialogue.id == f"../../{hostile}"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["log.jsonl", "out.jsonl"]


def test_a_zip_that_is_no_log_is_refused(tmp_path: Path) -> None:
    path = eval_file(tmp_path / "x.zip", {"a.txt": b"x"})
    assert log_form([path], None) is LOG_FORMS["inspect-log"]
    assert "without samples/" in problems_of(path, "inspect-log", tmp_path / "out.jsonl")[0]


def test_members_without_end_markers_and_with_a_password(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        packed.writestr("samples/a.json", json.dumps(SAMPLE))
    content = bytearray(buffer.getvalue())
    central = content.rfind(b"PK\x01\x02")
    content[central + 8] |= 1  # encrypted
    (tmp_path / "log.eval").write_bytes(content)
    assert "an encrypted member" in problems_of(tmp_path / "log.eval", "inspect-log", tmp_path / "out.jsonl")[0]


@pytest.mark.parametrize("depth", [200, *range(249, 257), 5_000])
def test_a_deep_value_in_a_log_is_kept_or_refused(convbatch: Command, tmp_path: Path, depth: int) -> None:
    """Lines are read to 256 levels, and orjson writes 254, of which some are around the value."""
    deep = "[" * depth + "]" * depth
    plain = json.dumps(span(1, "Hi", reply="Hello"))
    phoenix = {"name": "ChatCompletion", "span_kind": "LLM", "context.trace_id": "t", "context.span_id": "s"}
    rows = [
        plain.replace('"attributes": {', f'"attributes": {{"gen_ai.deep": {deep}, '),
        plain.replace('"attributes": {', f'"attributes": {{"gen_ai.request.model": {deep}, '),
        json.dumps({**phoenix, "attributes.llm.input_messages": deep, "attributes.llm.model_name": "m"}),
        json.dumps(span(1, "Hi", reply="Hello", resource=None)).replace('"resource": null', f'"resource": {deep}'),
    ]
    for row in rows:
        (tmp_path / "log.jsonl").write_text(row + "\n")
        kind = "phoenix" if "span_kind" in row else "otel"
        done = convbatch("convert", "log.jsonl", "out.jsonl", "--partial", "--from", kind)
        assert done.code in (0, 2, 3), done.err
        assert done.code == 0 or "error: log.jsonl" in done.err
        (tmp_path / "out.jsonl").unlink(missing_ok=True)
