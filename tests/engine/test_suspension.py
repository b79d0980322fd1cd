from __future__ import annotations

from typing import Any

from convbatch.dialogue import SETTING_NAMES
from convbatch.engine.suspension import Address, suspension
from convbatch.reply import ErrorKind, Failure
from tests.support.tables import each

ADDRESS = Address(base_url="https://gw.example/v1", path="/v1/chat/completions")


def reason(kind: ErrorKind, message: str, status: int | None = 400, **more: Any) -> str:
    return suspension(Failure(kind=kind, message=message, **more), status, ADDRESS)


@each(
    ("kind", "message", "status", "no_model"),
    [
        ("not_found", "404 page not found", 404, True),
        ("not_found", "404 page not found", 404, False),
        ("not_found", "Not Found", 404, False),
        ("not_found", "no Route matched with those values", 404, False),
        ("not_found", "Invalid URL (POST /v1/v1/chat/completions)", 404, False),
        ("not_found", "The requested URL /models/x was not found on this server", 404, True),
        ("bad_response", "a web page instead of JSON ('New API')", 200, True),
        ("bad_response", "the gateway answered 307 with a redirect to host/x, which is never followed", 307, True),
        ("server_error", "Unexpected endpoint or method. (POST /v1/v1/chat/completions)", 200, True),
    ],
)
def test_a_wrong_address_names_base_url_and_the_path_that_was_asked(
    kind: ErrorKind, message: str, status: int, no_model: bool
):
    text = reason(kind, message, status, no_model=no_model)
    assert "base_url (https://gw.example/v1; /v1/chat/completions was asked)" in text
    assert message in text
    assert "new run with --reuse" in text


@each(
    ("base_url", "path", "advice"),
    [
        ("http://gw.example", "/chat/completions", "base_url usually ends in /v1"),
        ("http://gw.example/api", "/api/chat/completions", "base_url usually ends in /v1"),
        ("http://gw.example/v1/v1", "/v1/v1/chat/completions", "has /v1 twice: end base_url before it"),
        (
            "http://gw.example/v1/chat/completions",
            "/v1/chat/completions/chat/completions",
            "has /chat/completions twice: end base_url before it",
        ),
        ("http://gw.example/v1beta", "/v1beta/v1beta/models/m:generateContent", "has /v1beta twice"),
        ("http://gw.example/v4", "/v4/chat/completions", ""),
        ("http://gw.example", "/v1beta/models/m:generateContent", ""),
        ("http://gw.example", "/v1beta/models/projects/p/models/m:generateContent", ""),
        (
            "http://gw.example",
            "/v1/messages",
            'chat completions only: protocol = "openai" and a base_url that ends in /v1',
        ),
    ],
)
def test_a_base_url_that_ends_in_an_unusual_way_is_named(base_url: str, path: str, advice: str):
    failure = Failure(kind="not_found", message="404 page not found", no_model=True)
    text = suspension(failure, 404, Address(base_url=base_url, path=path))
    assert advice in text
    assert bool(advice) == any(words in text for words in ("usually ends", "twice", "completions only"))


@each(
    ("message", "status"),
    [
        ("The model `x` does not exist", 404),
        ('model "x" not found, try pulling it first', 404),
        ("No endpoints found for this model", 404),
        ("The API deployment for this resource does not exist", 404),
        ("Model does not exist. Please check it carefully.", 400),
        ("分组 default 下模型 x 无可用渠道", 503),
    ],
)
def test_a_wrong_model_names_the_model_and_not_base_url(message: str, status: int):
    text = reason("not_found", message, status)
    assert "no such model" in text
    assert "base_url" not in text


@each(
    ("message", "remedy"),
    [
        ("Unsupported value: 'temperature' does not support 0 with this model.", 'unset = ["temperature"]'),
        ("`top_p` is deprecated for this model.", 'unset = ["top_p"]'),
        ("Unknown name topK: Cannot find field.", 'unset = ["top_k"]'),
        ("Unsupported parameter: 'stop' is not supported with this model.", 'unset = ["stop"]'),
        ("max_tokens must be at most 4096", 'unset = ["max_output_tokens"]'),
        ("This model does not support response_format", 'unset = ["response_schema"]'),
        ("Unsupported value: 'reasoning_effort' does not support 'none'", 'unset = ["reasoning_effort"]'),
        (
            "Unsupported parameter: 'max_tokens' is not supported here. Use 'max_completion_tokens' instead.",
            'max_output_tokens_field = "max_completion_tokens"',
        ),
        ("Conversation roles must alternate user/assistant/user/assistant/...", 'system_role = "user"'),
        ("System role not supported", 'system_role = "user"'),
        ("Developer instruction is not enabled for models/gemma-3-27b-it", 'system_role = "user"'),
        ("Only user and assistant roles are supported!", 'system_role = "user"'),
        ("messages[0].role: unknown variant `system`", 'system_role = "user"'),
        ("This model only support stream mode, please enable the stream parameter", "use --stream"),
        ("Model m is only supported with streaming enabled.", "use --stream"),
        ("This model does not support non-streaming calls", "use --stream"),
        ("Streaming is not supported for this model", "leave out --stream"),
        ("Unrecognized request argument supplied: stream_options", "leave out --stream"),
        ("reasoning_content is not permitted in input messages", 'replay = "content"'),
        ("Corrupted thought signature.", 'replay = "content"'),
        ("parameter.enable_thinking must be set to false for non-streaming calls", "enable_thinking = false"),
        ("Tenant is not on the list", "change what it names"),
    ],
)
def test_a_refused_setting_is_named_with_the_way_out(message: str, remedy: str):
    text = reason("invalid_request", message)
    assert remedy in text
    assert "new run" in text
    assert "the gateway refuses every request in the same way" in text


def test_what_may_be_unset_is_a_setting():
    from convbatch.engine import suspension as module

    assert set(module._SETTINGS.groupindex) <= set(SETTING_NAMES)  # pyright: ignore[reportPrivateUsage]  # the names in the advice


def test_a_refusal_of_the_proxy_names_the_proxy():
    text = reason("auth", "HTTP 407 without a body", 407)
    assert "the proxy refuses its user" in text
    assert "HTTP_PROXY" in text
