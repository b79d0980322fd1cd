"""A gateway that echoes the key in many forms, and commands that crash while they hold a key.

`conftest.py` checks that no other test leaks a key; the tests here provoke a leak.
"""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
import shutil
import subprocess
import sys
import textwrap
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from convbatch.cli.main import app
from convbatch.config.credentials import read_env_file
from convbatch.errors import InputError
from convbatch.redaction import Redactor, Secret
from tests.conftest import Command, environment, write_dataset
from tests.support.canary import CANARY, CANARY_ENV, FORMS, find_key, find_leaks, layers

MARK = f"[redacted:{CANARY_ENV}]"


@dataclass(frozen=True)
class Echo:
    """One answer that contains the key."""

    body: str | bytes
    status: int = 400
    headers: tuple[tuple[str, str], ...] = ()
    reason: str = "Bad Request"
    length: int | None = None
    """Declared Content-Length, when larger than the body: the connection ends early."""


def error(message: str, **more: object) -> str:
    return json.dumps({"error": {"code": 400, "message": message, "status": "INVALID_ARGUMENT", **more}})


def reply(*texts: str, **more: object) -> str:
    parts = [{"text": text} for text in texts]
    body = {"candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": "STOP"}], **more}
    return json.dumps(body, ensure_ascii=False)


def encoded(prefix: str) -> str:
    return base64.b64encode((prefix + CANARY).encode()).decode()


ECHOES: dict[str, Echo] = {
    "in a message": Echo(error(f"no such key: {CANARY}")),
    "every form in one message": Echo(error(" | ".join(form(CANARY) for form in FORMS.values()))),
    "as a name in JSON": Echo(json.dumps({"error": {"message": "no", CANARY: {CANARY: [CANARY]}}})),
    "as code and status": Echo(
        json.dumps({"error": {"message": "no", "code": CANARY, "status": CANARY, "type": CANARY}})
    ),
    "base64": Echo(error(f"Authorization: Basic {encoded('')} {encoded('u:')} {encoded('me:')} {encoded('Bearer ')}")),
    "HTML": Echo(f"<p title='{html.escape(CANARY)}'>{html.escape(CANARY)}"),
    "no UTF-8": Echo(b"\xff\xfe" + CANARY.encode() + b"\xff"),
    "in headers": Echo(error("no"), headers=(("x-request-id", CANARY), ("www-authenticate", f"Bearer {CANARY}"))),
    "in the reason": Echo(error("no"), reason=f"Key {CANARY} is bad"),
    "in a redirect": Echo("", 302, (("Location", f"http://127.0.0.1:9/?key={urllib.parse.quote(CANARY, safe='')}"),)),
    "packed": Echo(gzip.compress(error(CANARY).encode()), headers=(("Content-Encoding", "gzip"),)),
    "cut off inside the key": Echo(error(CANARY)[: error(CANARY).index("/9f+x&=%") + 6], length=400),
    "in a reply": Echo(reply(f"your key is {CANARY}"), 200),
    "in two parts of a reply": Echo(reply(CANARY[:13], CANARY[13:]), 200),
    "in the metadata of a reply": Echo(reply("ok", modelVersion=CANARY, responseId=CANARY), 200),
    "as a finish reason": Echo(reply("ok").replace("STOP", json.dumps(CANARY)[1:-1]), 200),
    "in a malformed reply": Echo(json.dumps({"candidates": CANARY, CANARY: []}), 200),
    "as an unknown encoding": Echo(CANARY, 200, (("Content-Encoding", CANARY),)),
}


@pytest.fixture
def gateway() -> Iterator[tuple[str, list[str]]]:
    """Start a server that sends the echoes one after the other; yield its URL and the keys it receives."""
    sent: list[str] = []
    remaining = list(ECHOES.values())

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent.append(self.headers.get("authorization", "") or urllib.parse.unquote(self.path.partition("key=")[2]))
            self.rfile.read(int(self.headers["content-length"]))
            echo = remaining.pop(0) if remaining else Echo(error(CANARY))
            body = echo.body.encode() if isinstance(echo.body, str) else echo.body
            self.send_response(echo.status, echo.reason)
            for name, value in (("Content-Type", "application/json"), *echo.headers):
                self.send_header(name, value)
            self.send_header("Content-Length", str(echo.length or len(body)))
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = True

        def do_GET(self) -> None:
            self.do_POST() if "content-length" in self.headers else self.send_error(400, CANARY)

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", sent
        server.shutdown()


def configure(path: Path, url: str, auth: str) -> None:
    lines = [
        "[gateways.echo]",
        'protocol = "gemini"',
        f'base_url = "{url}"',
        f'auth = "{auth}"',
        f'key_env = "{CANARY_ENV}"',
    ]
    (path / "convbatch.toml").write_text("\n".join([*lines, "[run]", 'models = ["m@echo"]', ""]))


READING_COMMANDS = (
    *(
        ("table", "out", *more)
        for more in ((), ("--wide", "reply"), ("-o", "t.csv"), ("-o", "t.json"), ("-o", "t.parquet"))
    ),
    *(("show", "out", *more) for more in ((), ("d00000",), ("--failed",))),
    *(("report", "out", *more) for more in ((), ("--json",), ("-o", "r.md"), ("-o", "r.html", "-o", "r.csv"))),
    (
        "compare",
        "out",
        "out",
        "--metric",
        "output_tokens",
        "-o",
        "c.md",
        "-o",
        "c.json",
        "-o",
        "c.xml",
        "-o",
        "c.html",
        "--json",
    ),
    *(("audit", "out", "copy", *more) for more in ((), ("--json", "-o", "a.md", "-o", "a.json", "-o", "a.html"))),
    ("check", "out", "--dataset", "checked.jsonl"),
    ("runs",),
    ("resume", "out", "--max-attempts", "1", "--deadline", "2s"),  # it is refused again, and would wait for minutes
    ("doctor",),
    ("doctor", "-g", "echo"),
    ("doctor", "-g", "echo", "-m", "m"),
)


@pytest.mark.slow
@pytest.mark.parametrize("auth", ["raw", "query:key"])
def test_a_key_echoed_by_the_gateway_appears_in_no_output_or_file(
    gateway: tuple[str, list[str]], convbatch: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, auth: str
) -> None:
    url, sent = gateway
    configure(tmp_path, url, auth)
    write_dataset(tmp_path / "d.jsonl", len(ECHOES), 1)
    lines = [
        {**json.loads(line), "checks": [{"contains": "x"}]} for line in (tmp_path / "d.jsonl").read_text().splitlines()
    ]
    (tmp_path / "checked.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    done = convbatch("run", "d.jsonl", "-o", "out", "-j", "1", "--max-attempts", "1")
    assert done.code == 3, done.err
    assert set(sent[: len(ECHOES)]) == {CANARY}, "the gateway received the key that it echoes"
    monkeypatch.chdir(tmp_path)
    shutil.copytree("out", "copy")
    for command in READING_COMMANDS:
        read = CliRunner().invoke(app, command)
        assert read.exit_code in (0, 1, 2, 3), read.output
        assert find_key(read.output.encode()) is None, command
    table = (tmp_path / "t.csv").read_text()
    assert table.count(MARK) >= 8, "the echoes were received and redacted"
    assert not list(find_leaks(tmp_path))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("pack", [str.encode, lambda text: gzip.compress(text.encode())], ids=["plain", "packed"])
def test_the_search_finds_every_form(tmp_path: Path, form: str, pack: Callable[[str], bytes]) -> None:
    path = tmp_path / "file"
    path.write_bytes(pack(f"before {FORMS[form](CANARY)} after"))
    assert any(find_key(content) for _, content in layers(path))
    path.unlink()


@settings(deadline=None)  # timing depends on the machine
@given(
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=12, max_size=60), st.sampled_from(list(FORMS))
)
def test_keys_of_any_characters_are_redacted_in_every_form(key: str, form: str) -> None:
    redactor = Redactor([Secret("K", key)])
    text = f"( {FORMS[form](key)} )"
    assert "[redacted:K]" in redactor.text(text)
    assert find_key(redactor.body(text.encode())[0], {FORMS[form](key).encode(): form}) is None


@given(st.integers(6, len(CANARY) - 1))
def test_a_body_that_ends_inside_a_key_does_not_show_its_beginning(size: int) -> None:
    body = b'{"error": "' + CANARY[:size].encode()
    assert Redactor([Secret("K", CANARY)]).body(body) == (b'{"error": "[redacted:K]', False)


# --- crashes ---------------------------------------------------------------------------------------------------------

CRASHES = {
    "a bug in a thread": "import threading; t = threading.Thread(target=lambda: {}[key]); t.start(); t.join()",
    "a bug in a finalizer": "type('X', (), {'__del__': lambda self: {}[key]})()",
    "a task that is never awaited": (
        "import asyncio, gc\nasync def fail(): raise RuntimeError(key)\n"
        "async def main(): asyncio.ensure_future(fail()); await asyncio.sleep(0)\nasyncio.run(main()); gc.collect()"
    ),
    "a log": "import logging; logging.getLogger('x').error('sent %s', key)",
    "a warning": "import warnings; warnings.warn(f'odd: {key}')",
    "a bug in a command": "raise RuntimeError(f'cannot send {key}') from ValueError({key: key})",
}
END = "--- next: "


def test_python_tracebacks_and_warnings_contain_no_key(tmp_path: Path) -> None:
    """Run the real entry point with a command that fails in every way while it holds a key."""
    lines = "\n".join(f"print({END + crash!r}, file=sys.stderr)\n{code}" for crash, code in CRASHES.items())
    script = f"""
import os, sys
from convbatch.cli import main as cli
from convbatch.redaction import Secret, watch

@cli.app.command()
@cli.guarded
def break_down():
    key = os.environ[{CANARY_ENV!r}]
    watch([Secret({CANARY_ENV!r}, key)])
{textwrap.indent(lines, " " * 4)}

sys.argv = ["convbatch", "break-down"]
cli.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, cwd=tmp_path, check=False
    )
    shown = dict(part.split("\n", 1) for part in done.stderr.decode().split(END)[1:])
    assert shown.keys() == CRASHES.keys()
    assert [crash for crash, text in shown.items() if MARK not in text] == []
    assert find_key(done.stderr + done.stdout) is None
    assert done.returncode == 70


@pytest.mark.parametrize(
    "line", ["KEY {}", "KEY='{}", 'KEY="{}"x', "{}", "export {}", "A={}\nA={}", "={}", 'KEY="{}\\'], ids=repr
)
def test_a_bad_line_of_an_env_file_is_reported_without_its_content(tmp_path: Path, line: str) -> None:
    path = tmp_path / ".env"
    path.write_text(line.replace("{}", "sk-envfile-9f3a77"))
    with pytest.raises(InputError) as caught:
        read_env_file(path)
    assert "9f3a77" not in str(caught.value)
    assert re.search(r"\.env:[12]: ", str(caught.value))


PROXIED = "http://user:{}@127.0.0.1:9"


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "in the config"])
def test_a_proxy_password_is_redacted_like_a_key(convbatch: Command, tmp_path: Path, variable: str) -> None:
    proxy = PROXIED.format(urllib.parse.quote(CANARY, safe=""))
    configure(tmp_path, "https://gateway.invalid", "bearer")
    write_dataset(tmp_path / "d.jsonl", 1, 1)
    env = {variable: proxy}
    if variable == "in the config":
        config = tmp_path / "convbatch.toml"
        config.write_text(config.read_text().replace("auth =", f"proxy = {json.dumps(proxy)}\nauth ="))
        env = {}
    for command in (
        ("run", "d.jsonl", "-o", "out", "--max-attempts", "1", "--deadline", "500ms"),
        ("doctor", "-g", "echo"),
    ):
        assert convbatch(*command, CANARY_KEY="sk-some-other-key-77", **env).code in (2, 3)
    if (tmp_path / "convbatch.toml").exists():
        (tmp_path / "convbatch.toml").unlink()
    assert not list(find_leaks(tmp_path))
