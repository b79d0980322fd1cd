"""A command that prints a key: what it may print, when it runs again, and how its failures are shown."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from convbatch.config.key_command import KeyCommand
from convbatch.errors import SetupError
from convbatch.redaction import Secret
from tests.support.tables import each


def command(
    script: str, *, timeout_s: float = 10.0, wall: Callable[[], float] = lambda: 1000.0, **env: str
) -> KeyCommand:
    """Return a command that runs a shell script."""
    return KeyCommand(
        ("/bin/sh", "-c", script),
        {"PATH": "/usr/bin:/bin", **env},
        origin="x.toml:4",
        on_token=lambda _: None,
        timeout_s=timeout_s,
        wall=wall,
    )


def problem_of(script: str, *, timeout_s: float = 10.0, **env: str) -> str:
    failing = command(script, timeout_s=timeout_s, wall=time.time, **env)
    with pytest.raises(SetupError) as caught:
        _ = failing.token
    return str(caught.value)


def jwt(claims: object) -> str:
    encoded = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"e30.{encoded}.c2ln"


def test_the_output_is_the_key_and_is_registered_before_it_is_used() -> None:
    secrets: list[Secret] = []
    made = KeyCommand(("/bin/echo", "tok-1234567890"), {}, on_token=secrets.append)
    assert made.token.value == "tok-1234567890"
    assert [secret.value for secret in secrets] == ["tok-1234567890"]


@each(
    ("script", "problem"),
    [
        ("exit 3", "failed with exit code 3"),
        ("true", "printed nothing"),
        ("echo two words", "contains blanks"),
        ("echo Bearer abcdefgh", "starts with the word Bearer"),
        ("head -c 100000000 /dev/zero", "printed more than 16384 bytes"),
        ("seq 10000000 10009999; echo no >&2; exit 1", "failed with exit code 1"),
        ("printf 'sch\\303\\274ssel'", "cannot be in a header"),
        ("kill -9 $$", "failed with exit code -9"),
        ('read line; echo tok-$line-$?; test -n "$line"', "failed with exit code 1"),
    ],
)
def test_a_command_that_prints_no_key_is_explained(script: str, problem: str) -> None:
    text = problem_of(script)
    assert text.startswith("the key_command of x.toml:4 ")
    assert problem in text
    assert "hint: " in text


def test_a_program_that_does_not_exist_is_named() -> None:
    with pytest.raises(SetupError, match=r"cannot be started: No such file.*no-such-program print"):
        _ = KeyCommand(("no-such-program", "print"), {}, on_token=lambda _: None).token


def test_stderr_is_shown_without_secrets() -> None:
    lines = "; ".join(f"echo line-{number} >&2" for number in range(9))
    jwt_like = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln"
    words = f"$MY_SECRET printed-77777777 {jwt_like} Zq8x7Yw8x7Yw8x7Yw8x7Yw8x7Yw https://me:pa55@proxy.example"
    text = problem_of(f"echo printed-77777777; echo {words} >&2; {lines}; exit 1", MY_SECRET="hunter2-hunter2")
    assert "[redacted:MY_SECRET] [redacted:key_command] (hidden)" in text
    assert "https://(hidden)@proxy.example" in text
    for secret in ("hunter2", "77777777", jwt_like, "Zq8x7Yw8", "pa55"):
        assert secret not in text.partition(": /bin/sh")[2].partition("found:")[2]
    assert "line-3" in text
    assert "line-8" not in text


@pytest.mark.slow
def test_a_command_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    started = time.monotonic()
    text = problem_of(f"echo wait >&2; (sleep 0.5; touch {alive}) & sleep 30", timeout_s=0.1)
    assert "did not end within 0.1 s" in text
    assert "wait" in text
    assert time.monotonic() - started < 5
    time.sleep(0.5)
    assert not alive.exists()


@pytest.mark.slow
def test_a_process_that_a_command_leaves_behind_does_not_hold_it_up() -> None:
    made = command("sleep 6 & echo tok-1234567890")
    started = time.monotonic()
    assert made.token.value == "tok-1234567890"
    assert time.monotonic() - started < 4


def renew(made: KeyCommand, times: int = 1) -> None:
    async def together() -> None:
        await asyncio.gather(*(made.renew_if_due() for _ in range(times)))

    asyncio.run(together())


def counting(tmp_path: Path) -> KeyCommand:
    """Return a command that prints `tok-N` at its N-th run."""
    return command(f"echo run >> {tmp_path}/runs; echo tok-$(wc -l < {tmp_path}/runs | tr -d ' ')")


def test_concurrent_callers_share_one_run(tmp_path: Path) -> None:
    made = counting(tmp_path)
    first = made.token
    assert made.refused(first.number)
    renew(made, times=20)
    assert made.token.value == "tok-2"
    assert made.refused(first.number), "a late refusal of the old token: send again with the new one"
    assert not made.is_due


def test_a_replacement_that_is_refused_before_any_answer_is_not_replaced(tmp_path: Path) -> None:
    made = counting(tmp_path)
    assert made.refused(made.token.number)
    renew(made)
    assert not made.refused(made.token.number)
    assert not made.is_due
    made.accepted(made.token.number)
    assert made.refused(made.token.number)
    renew(made)
    assert made.token.value == "tok-3"


@each(("valid_s", "renewed_after_s"), [(3600, 3540), (130, 70), (90, 45), (2, 1), (0, None), (-500, None)])
def test_a_token_that_says_when_it_expires_is_replaced_before(valid_s: int, renewed_after_s: float | None) -> None:
    now = [1000.0]
    made = command(f"echo {jwt({'exp': 1000 + valid_s})}", wall=lambda: now[0])
    _ = made.token
    for passed in (0, 1, 45, 70, 3539, 3540, 9999):
        now[0] = 1000.0 + passed
        assert made.is_due == (renewed_after_s is not None and passed >= renewed_after_s)


@each("claims", [{}, {"exp": "soon"}, {"exp": True}, [], 7])
def test_a_token_without_a_readable_expiry_is_kept(claims: object) -> None:
    made = command(f"echo {jwt(claims)}")
    _ = made.token
    assert not made.is_due
