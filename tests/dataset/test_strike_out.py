"""`convert --redact`: what is struck out, what stays, and that placeholders keep references together."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convbatch.dataset.selection import load_dialogues
from convbatch.dataset.strike_out import StrikeOut
from tests.conftest import Command
from tests.dataset.test_log_hostile import lines, span

STRUCK = {
    "mail": ("Write to ann.b+c@mail.example.co.uk.", "Write to <email-1>."),
    "mail in Chinese": ("请发到ann@example.com谢谢", "请发到<email-1>谢谢"),
    "two spellings of one mail": ("Ann@Example.com, ann@example.com, bob@x.org", "<email-1>, <email-1>, <email-2>"),
    "mail in a link": ("mailto:ann%40example.com?x", "mailto:<email-1>?x"),
    "mail in JSON in a text": ('{"to": "ann\\u0040example.com"}', '{"to": "<email-1>"}'),
    "mail with letters beyond ASCII": ("an jörg@bücher.example geschickt", "an <email-1> geschickt"),
    "OpenAI key": ("key sk-proj-abcDEF123456789 ok", "key <key-1> ok"),
    "Google key": ("AIzaSyA1234567890abcdefghijklmnop", "<key-1>"),
    "GitHub token": ("ghp_0123456789abcdefghijABCDEFGHIJ", "<key-1>"),
    "AWS": ("AKIAIOSFODNN7EXAMPLE", "<key-1>"),
    "Slack": ("xoxb-123456789012-abcdef", "<key-1>"),
    "bearer": ("Authorization: Bearer abc.def-123456789", "Authorization: Bearer <key-1>"),
    "JWT": ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "<key-1>"),
    "private key": ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----", "<key-1>"),
    "password in a URL": ("postgres://root:hunter2@db.local/x", "postgres://<password-1>@db.local/x"),
    "assigned": ("DB_PASSWORD=correct-horse api_key: 'zzzzzz99'", "DB_PASSWORD=<secret-1> api_key: '<secret-2>'"),
    "said": ("my password is hunter22 and", "my password is <secret-1> and"),
    "in Chinese": ("密码：abc12345", "密码：<secret-1>"),
    "card": ("4111 1111 1111 1111, 4111111111111111", "<card-1>, <card-1>"),
    "IBAN": ("DE89 3704 0044 0532 0130 00", "<iban-1>"),
    "phone": ("+49 (0)30 1234-5678 or 13812345678 or (212) 555-0147", "<phone-1> or <phone-2> or <phone-3>"),
    "Chinese id": ("11010519491231002X", "<id-1>"),
    "SSN": ("123-45-6789", "<id-1>"),
}
KEPT = (
    "2026-11-28T02:46:48Z",
    "1795000000000",
    "4111 1111 1111 1112",
    "max_tokens: 4096000",
    "Basic understanding of tokens",
    "a@b",
    "@ann said 3 @ 5",
    "version 1.2.3.4",
    "3da19ddb0a3d5e5343e42a91e7d068bf",
    "the secret: no",
    "call_sim13cf7dbd8cfe6f40_0",
    "127.0.0.1",
    "Ann Smith, 5 High Street",
    "password: <secret-1>",
)


@pytest.mark.parametrize(("text", "expected"), STRUCK.values(), ids=STRUCK)
def test_struck_out(text: str, expected: str) -> None:
    assert StrikeOut().text(text) == expected


@pytest.mark.parametrize("text", KEPT)
def test_kept(text: str) -> None:
    assert StrikeOut().text(text) == text


@given(st.text(max_size=200))
def test_striking_twice_changes_nothing(text: str) -> None:
    once = StrikeOut().text(text)
    assert StrikeOut().text(once) == once


@pytest.mark.parametrize(
    "text",
    [
        "a" * 300_000,
        "a." * 150_000,
        "a@" * 100_000,
        "a@" + "a." * 150_000,
        "1" * 300_000,
        "1-" * 150_000,
        "+1 " * 100_000,
        "://" * 100_000,
        "password" * 40_000,
        "sk-" * 100_000,
        "eyJ" * 100_000,
        "AB12" * 75_000,
        "-----BEGIN PRIVATE KEY-----" * 3_000,
        "password is " * 30_000,
        "Bearer " * 50_000,
        "%40" * 100_000,
        "密码" * 100_000,
        "x@y." * 75_000,
        "ü@" * 100_000,
    ],
    ids=lambda text: text[:12],
)
def test_no_text_takes_long(text: str) -> None:
    start = time.process_time()
    StrikeOut().text(text)
    assert time.process_time() - start < 5


def test_one_person_has_one_placeholder_in_ids_tags_texts_calls_and_meta(convbatch: Command, tmp_path: Path) -> None:
    mail = "ann@example.com"
    row = span(1, f"I am {mail}", reply=f"Hello {mail}, not bob@example.com", session=f"user/{mail}")
    row["attributes"] |= {"langfuse.trace.tags": json.dumps([f"user:{mail}"]), "user.id": mail}
    (tmp_path / "log.jsonl").write_text(lines(row, span(2, "My mail is eve@example.com", reply="ok")))
    done = convbatch("convert", "log.jsonl", "out.jsonl", "--redact")
    assert done.code == 0
    assert "struck out: 3 emails; names and addresses are not looked for" in done.err
    first, second = load_dialogues([tmp_path / "out.jsonl"])
    assert first.id == "user/<email-1>"
    assert "user:<email-1>" in first.tags
    assert first.meta["log"]["user_id"] == "<email-1>"
    assert first.turns[0].assistant == "Hello <email-1>, not <email-2>"
    assert second.turns[0].user_text == "My mail is <email-1>"
    assert "example.com" not in (tmp_path / "out.jsonl").read_text()


def test_ids_that_become_equal_stay_apart(convbatch: Command, tmp_path: Path) -> None:
    rows = [span(n, f"Q{n}", reply="A", session=f"{name}@example.com") for n, name in enumerate(("a", "b", "c"))]
    (tmp_path / "log.jsonl").write_text(lines(*rows))
    convbatch("convert", "log.jsonl", "out.jsonl", "--redact")
    assert [one.id for one in load_dialogues([tmp_path / "out.jsonl"])] == ["<email-1>", "<email-1>/2", "<email-1>/3"]


def test_messages_about_a_log_are_struck_too(convbatch: Command, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(lines(span(1, "Hi", reply="A"), '{"mail": ann@example.com}'))
    done = convbatch("convert", "log.jsonl", "out.jsonl", "--redact")
    assert done.code == 2
    assert "<email-1>" in done.err
    assert "ann@" not in done.err


def test_datasets_are_struck_as_well_and_media_stay(convbatch: Command, tmp_path: Path) -> None:
    png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
    parts: list[dict[str, Any]] = [{"text": "from ann@example.com"}, {"data": png, "mime_type": "image/png"}]
    tool: dict[str, Any] = {
        "id": "1",
        "name": "pay",
        "arguments": {"card": 4111111111111111, "ann@example.com": True},
        "result": "ok ann@example.com",
    }
    line = {
        "id": "a",
        "tools": [{"name": "pay"}],
        "turns": [{"user": parts, "assistant": "ok", "tool_calls": [[tool]]}],
    }
    (tmp_path / "d.jsonl").write_text(lines(line))
    assert convbatch("convert", "d.jsonl", "out.jsonl", "--redact").code == 0
    [turn] = json.loads((tmp_path / "out.jsonl").read_text())["turns"]
    assert turn["user"] == [{"text": "from <email-1>"}, {"data": png, "mime_type": "image/png"}]
    [[call]] = turn["tool_calls"]
    assert call["arguments"] == {"card": "<card-1>", "<email-1>": True}
    assert call["result"] == "ok <email-1>"
