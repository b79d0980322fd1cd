"""`convbatch doctor -g`: what a gateway answers to the list of models and to a short request, and the exit code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from convbatch.simulator.http import Request
from convbatch.simulator.provider import Arrival, Provider
from convbatch.simulator.server import Server
from tests.conftest import CANARY, CANARY_ENV, Command, config_for
from tests.support.gateway_server import Answer, Received, completion, serve_gateway

MODELS: Answer = 200, {"data": [{"id": "m"}]}
REPLY: Answer = 200, completion("OK")
NO_LIST: Answer = 404, {"error": {"message": "Not Found"}}
WRONG_KEY: Answer = 401, {"error": {"message": "Invalid API key provided", "code": "invalid_api_key"}}


def refused(message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, **more}}


def doctor(convbatch: Command, folder: Path, models: Answer, reply: Answer, *args: str) -> tuple[int, str, list[str]]:
    """Return the exit code, the output, and the paths that were asked."""

    def answer(request: Received) -> Answer:
        return models if request.method == "GET" else reply

    with serve_gateway(answer) as gateway:
        (folder / "convbatch.toml").write_text(
            f'[gateways.g]\nprotocol = "openai"\nbase_url = "{gateway.url}/v1"\nkey_env = "G_KEY"\n'
        )
        done = convbatch("doctor", "-g", "g", *args, G_KEY="secret-of-g-1234")
        return done.code, done.out, [request.path for request in gateway.requests]


@pytest.mark.parametrize(
    ("models", "reply", "code"),
    [
        (MODELS, REPLY, 0),
        (NO_LIST, REPLY, 0),
        ((405, refused("Method Not Allowed")), REPLY, 0),
        ((200, "<!doctype html><html>a page</html>"), REPLY, 0),
        ((403, refused("Missing scopes: api.model.read")), REPLY, 0),
        ((500, "oops"), REPLY, 0),
        (MODELS, WRONG_KEY, 2),
        (NO_LIST, WRONG_KEY, 2),
        (MODELS, (403, refused("You do not have access")), 2),
        (MODELS, (400, refused("API key not valid.", status="INVALID_ARGUMENT")), 2),
        (MODELS, (200, {"base_resp": {"status_code": 1004, "status_msg": "login fail"}}), 2),
        (MODELS, (401, "Unauthorized"), 2),
        (MODELS, (404, refused("The model `m` does not exist", code="model_not_found")), 3),
        (MODELS, (402, refused("Insufficient Balance")), 3),
        (MODELS, (503, refused("overloaded")), 3),
    ],
)
def test_the_short_request_decides_where_a_model_is_named(
    convbatch: Command, tmp_path: Path, models: Answer, reply: Answer, code: int
) -> None:
    found, output, asked = doctor(convbatch, tmp_path, models, reply, "-m", "m")
    assert found == code, output
    assert asked == ["/v1/chat/completions", "/v1/models"]
    assert ("the key of G_KEY is refused" in output) == (code == 2)


@pytest.mark.parametrize(
    ("models", "code"),
    [
        (MODELS, 0),
        (NO_LIST, 0),
        ((200, "<html>a page</html>"), 0),
        ((200, {"data": "none"}), 0),
        (WRONG_KEY, 2),
        ((200, {"base_resp": {"status_code": 1004, "status_msg": "login fail"}}), 2),
        ((403, refused("no permission")), 2),
        ((500, refused("oops")), 3),
        ((429, refused("slow down")), 3),
    ],
)
def test_without_a_model_the_list_decides_unless_there_is_none(
    convbatch: Command, tmp_path: Path, models: Answer, code: int
) -> None:
    found, output, asked = doctor(convbatch, tmp_path, models, REPLY)
    assert found == code, output
    assert asked == ["/v1/models"]
    assert ("-m MODEL tests the key" in output) == (code == 0 and models is not MODELS)


def test_a_gateway_that_cannot_be_reached_is_a_failed_probe(convbatch: Command, tmp_path: Path) -> None:
    (tmp_path / "convbatch.toml").write_text(
        '[gateways.g]\nprotocol = "openai"\nbase_url = "http://127.0.0.1:9/v1"\nauth = "none"\n'
    )
    for more in ((), ("-m", "m")):
        done = convbatch("doctor", "-g", "g", *more)
        assert done.code == 3
        assert "could not connect: connection refused 127.0.0.1:9" in done.out
        assert "hint: start the server, or correct base_url" in done.out


def test_the_short_request_omits_long_thinking_and_names_a_setting_that_cannot_be_sent(
    convbatch: Command, tmp_path: Path, simulator: Callable[[Provider], Server]
) -> None:
    server = simulator(Provider())
    gateway = f'[gateways.g]\nprotocol = "anthropic"\nbase_url = "{server.url}"\nauth = "none"\n'
    settings = '[gateways.g.models."sim-*".settings]\ninclude_thoughts = true\nthinking_budget = 2000\n'
    (tmp_path / "convbatch.toml").write_text(gateway + settings)
    answered = convbatch("doctor", "-m", "sim-think@g")
    assert answered.code == 0, answered.out
    assert "max_tokens, input 6, output" in answered.out
    (tmp_path / "convbatch.toml").write_text(f"{gateway}{settings}seed = 7\n")
    named = convbatch("doctor", "-m", "sim-think@g")
    assert named.code == 2
    assert "sim-think@g: the anthropic protocol cannot carry seed" in named.out


CONFIG = """
[gateways.a]
protocol = "openai"
base_url = "http://127.0.0.1:9/v1"
key_env = "A_KEY"
[gateways.b]
protocol = "openai"
base_url = "http://127.0.0.1:9/v1"
key_env = "B_KEY"
[run]
models = ["m@a", "n@a"]
"""


def test_without_options_only_what_the_models_of_the_config_need_decides(convbatch: Command, tmp_path: Path) -> None:
    (tmp_path / "convbatch.toml").write_text(CONFIG)
    missing = convbatch("doctor")
    assert missing.code == 2
    assert "no key for the gateway 'a': the environment variable A_KEY is not set" in missing.out
    assert "OPENAI_API_KEY" not in missing.out
    found = convbatch("doctor", A_KEY="secret-of-a-1234")
    assert found.code == 0, found.out
    lines = found.out.splitlines()
    assert lines[1] == "a: A_KEY is set (needed by m@a, n@a)"
    assert lines[2] == "b: B_KEY is not set; no model of [run] needs it"
    assert lines[-1].endswith(f"convbatch doctor -m m@a -c {tmp_path}/convbatch.toml")


def test_the_env_file_of_the_config_is_read_and_a_dot_env_is_only_named(convbatch: Command, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("A_KEY=secret-of-a-1234\n")
    (tmp_path / "convbatch.toml").write_text(CONFIG)
    unread = convbatch("doctor")
    assert unread.code == 2
    assert "the file .env here is read only with --env-file .env" in unread.out
    (tmp_path / "convbatch.toml").write_text(f'env_file = "keys.env"\n{CONFIG}')
    absent = convbatch("doctor")
    assert absent.code == 2
    assert "the env_file of the config, keys.env, does not exist" in absent.out
    (tmp_path / ".env").rename(tmp_path / "keys.env")
    read = convbatch("doctor")
    assert (read.code, read.out.splitlines()[1]) == (0, "keys: from the environment and keys.env")
    misplaced = CONFIG.replace("[run]", '[run]\nenv_file = "keys.env"')
    (tmp_path / "convbatch.toml").write_text(misplaced)
    assert "write it at the top of the file, above the first [table]" in convbatch("doctor").err


def test_a_run_and_its_resume_take_keys_from_the_env_file(convbatch: Command, tmp_path: Path) -> None:
    """The printed command carries the file; in the folder of the config `resume` finds it alone."""
    (tmp_path / "d.jsonl").write_text('{"turns": [{"user": "hi"}]}\n')
    (tmp_path / "my keys.env").write_text("G_KEY=secret-of-g-1234\n")
    answers: list[Answer] = [(400, refused("bad")), (200, completion("OK")), (200, completion("OK"))]
    with serve_gateway(lambda _: answers.pop(0)) as gateway:
        (tmp_path / "convbatch.toml").write_text(
            f'env_file = "my keys.env"\n[gateways.g]\nprotocol = "openai"\nbase_url = "{gateway.url}/v1"\n'
            'key_env = "G_KEY"\n'
        )
        failed = convbatch("run", "d.jsonl", "-m", "m@g", "-o", "out")
        assert failed.code == 3, failed.err
        assert failed.err.endswith(f"convbatch resume {tmp_path}/out --env-file '{tmp_path}/my keys.env'\n")
        assert convbatch("resume", "out").code == 0
        assert {request.headers["Authorization"] for request in gateway.requests} == {"Bearer secret-of-g-1234"}


def test_the_whole_list_is_printed_with_what_the_gateway_says_of_each_model(convbatch: Command, tmp_path: Path) -> None:
    models: Answer = 200, {"data": [{"id": f"m{n}", "context_length": 1000 * n} for n in range(1, 61)]}
    _, short, _ = doctor(convbatch, tmp_path, models, REPLY)
    code, whole, asked = doctor(convbatch, tmp_path, models, REPLY, "--models")
    assert "and 20 more: --models prints all" in short
    assert (code, asked) == (0, ["/v1/models"])
    assert "m60@g  input 60,000" in whole
    refused = convbatch("doctor", "--models")
    assert (refused.code, "--models needs a gateway" in refused.err) == (2, True)


class SmallPages(Provider):
    """A provider that lists three models a page, whatever is asked for."""

    def arrive(self, head: Request, now: float) -> Arrival:
        return super().arrive(replace(head, query={**head.query, "limit": "3", "pageSize": "3"}), now)


@pytest.mark.parametrize(
    ("wire", "takes"),
    [
        (
            "anthropic",
            "image_input, pdf_input, structured_outputs, effort (low, medium, high, xhigh, max), thinking (ada",
        ),
        ("gemini", "output 65,536 · generateContent, thinking"),
    ],
)
def test_all_pages_of_a_list_are_read_with_what_each_model_takes(
    tmp_path: Path, simulator: Callable[[Provider], Server], convbatch: Command, wire: str, takes: str
) -> None:
    server = simulator(SmallPages())
    (tmp_path / "convbatch.toml").write_text(config_for(server.url, wires=(wire,)))
    done = convbatch("doctor", "--models", "-g", f"at-{wire}", **{CANARY_ENV: CANARY})
    assert (done.code, f"at-{wire}: {len(SmallPages().actor.models)} models" in done.out) == (0, True)
    assert takes in " ".join(done.out.split())
